/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The maps. Tables of the policy exist twice, once a generation; a commit that
 * changes few filters is another edition of the same ones. A program reads `active`
 * once and then uses the generation and the edition that it names only, so that a
 * commit is one store. The loader fills them through its own memory, which
 * is far faster than a call an element. Only the loader writes those; the programs write
 * sockets, flows, hits, counters and events.
 */
#pragma once

#include "wfp.h"

/* key 0 -> the stamp. Written by the loader: the commit. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, 1);
} active SEC(".maps");

/* key 0 -> the instance's configuration. Written by the loader. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct wfp_config);
	__uint(max_entries, 1);
} config SEC(".maps");

/* key generation -> whole-generation facts. Written by the loader. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct wfp_generation);
	__uint(max_entries, WFP_GENERATIONS);
} generations SEC(".maps");

/* key edition * WFP_LAYERS + layer -> that layer. Written by the loader. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct wfp_layer);
	__uint(max_entries, WFP_EDITIONS * WFP_LAYERS);
} layers SEC(".maps");

/* key edition * WFP_LAYERS + layer -> how its tables are amended, where they are.
 * Written by the loader. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct wfp_amendment);
	__uint(max_entries, WFP_EDITIONS * WFP_LAYERS);
} amendments SEC(".maps");

/*
 * Tables are cut into pages of one size: the kernel's look-up of those is inlined
 * into the program, a table of any other size costs a call for each. `tables` is a
 * generation, or amended_tables of an edition, whose pages lie behind all others.
 */
#define WFP_PAGED(name, value_type)                                     \
	struct name##_page {                                            \
		value_type entry[WFP_PAGE_##name];                      \
	};                                                              \
	struct name##_inner {                                           \
		__uint(type, BPF_MAP_TYPE_ARRAY);                       \
		__uint(map_flags, BPF_F_MMAPABLE);                      \
		__type(key, __u32);                                     \
		__type(value, struct name##_page);                      \
		__uint(max_entries, 1);                                 \
	};                                                              \
	struct {                                                        \
		__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);               \
		__type(key, __u32);                                     \
		__uint(max_entries, WFP_GENERATIONS * (WFP_PAGES_AMENDED + WFP_EDITIONS)); \
		__array(values, struct name##_inner);                   \
	} name SEC(".maps");                                            \
	static __always_inline struct name##_page *name##_page_of(__u32 tables, __u32 at) \
	{                                                               \
		__u32 key = at / WFP_PAGE_##name * WFP_GENERATIONS + tables; \
		void *page = bpf_map_lookup_elem(&name, &key);          \
                                                                        \
		key = 0;                                                \
		return page ? bpf_map_lookup_elem(page, &key) : NULL;   \
	}                                                               \
	/* An entry, or NULL: the tables are inconsistent. */           \
	static __always_inline value_type *find_##name(__u32 tables, __u32 at) \
	{                                                               \
		struct name##_page *page = name##_page_of(tables, at);  \
                                                                        \
		at &= WFP_PAGE_##name - 1;                              \
		asm volatile("" : "+r"(at)); /* keeps the bound */      \
		at &= WFP_PAGE_##name - 1;                              \
		return page ? &page->entry[at] : NULL;                  \
	}                                                               \
	/* clang keeps a type whole only where something but a map names it */ \
	const struct name##_page *layout_##name##_page __attribute__((unused))

/* page * 2 + generation -> cells: leaf, cell of the next table, class, or branch. Loader. */
WFP_PAGED(cells, __u32);
/* page * 2 + generation -> buckets: where a few ranges lead. Loader. */
WFP_PAGED(buckets, struct wfp_bucket);
/* page * 2 + generation -> branches: filters to look at, and where to go on. Loader. */
WFP_PAGED(branches, struct wfp_branch);
/* page * 2 + generation -> cuts: branch from a leaf on. Loader. */
WFP_PAGED(cuts, struct wfp_cut);
/* page * 2 + generation -> filters: layer after layer, in evaluation order. Loader. */
WFP_PAGED(filters, struct wfp_filter);
/* page * 2 + generation -> decisions of each of filters. Programs. */
WFP_PAGED(hits, __u64);

struct principals_inner {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct wfp_principal);
	__type(value, __u32);
	__uint(max_entries, 1);
};
/* executable, uid, gid, cgroup -> number in the generation. Loader. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__type(key, __u32);
	__uint(max_entries, WFP_GENERATIONS);
	__array(values, struct principals_inner);
} principals SEC(".maps");

struct links_inner {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u32);
	__type(value, struct wfp_link);
	__uint(max_entries, 1);
};
/* ifindex -> facts of the interface. Loader; `watch` keeps it current. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__type(key, __u32);
	__uint(max_entries, WFP_GENERATIONS);
	__array(values, struct links_inner);
} links SEC(".maps");

/* destination prefix -> interface and source. Loader; `watch` keeps it current. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct wfp_route_key);
	__type(value, struct wfp_route);
	__uint(max_entries, 65536);
} routes SEC(".maps");

/* socket -> its identity; accepted sockets inherit the listener's. Programs. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, struct wfp_socket);
} sockets SEC(".maps");

/* socket and peer -> authorised flow. Programs; the oldest make room. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct wfp_flow_key);
	__type(value, struct wfp_flow);
	__uint(max_entries, 65536);
} flows SEC(".maps");

/* filter and edition -> where it redirects. Loader. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct wfp_target_key);
	__type(value, struct wfp_end);
	__uint(max_entries, WFP_EDITIONS * WFP_REDIRECTS);
} targets SEC(".maps");

/* socket -> how it was redirected. Not for what it accepts. Programs. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct wfp_redirected);
} redirected SEC(".maps");

/* socket and an end -> the end in its place. Programs; the oldest make room. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct wfp_redirect_key);
	__type(value, struct wfp_redirect);
	__uint(max_entries, 4096);
} redirects SEC(".maps");

/* connection -> the destination that it was opened to: redirect records until the
 * other side has them. Programs; the oldest make room. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct wfp_record_key);
	__type(value, struct wfp_redirect);
	__uint(max_entries, 2048);
} records SEC(".maps");

/* process that has asked for a redirect record -> 1. Programs. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct wfp_process);
	__type(value, __u32);
	__uint(max_entries, 256);
} proxies SEC(".maps");

/* ends of a handshake -> epoch of the layer that let it begin, for the connection that
 * comes of it. Programs; the oldest make room. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct wfp_handshake);
	__type(value, __u64);
	__uint(max_entries, 8192);
} handshakes SEC(".maps");

/* enum wfp_counter -> count. Programs. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, WFP_COUNTERS);
} counters SEC(".maps");

/* key 0 -> the parts of the packet that is about to be reported (parts.h). Programs. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct wfp_parts);
	__uint(max_entries, 1);
} noted SEC(".maps");

/* struct wfp_event records. Programs write, `events` reads. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} events SEC(".maps");

/* cases for the judge, in and out. Loader and judge. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct wfp_case);
	__uint(max_entries, WFP_JUDGE_CASES);
} cases SEC(".maps");

/* clang keeps a type whole only where something but a map's definition names
 * it; these are the types that Go reads or writes. */
const struct wfp_event *layout_event __attribute__((unused));
const struct wfp_target_key *layout_target_key __attribute__((unused));
const struct wfp_end *layout_end __attribute__((unused));
const struct wfp_amendment *layout_amendment __attribute__((unused));
const struct wfp_bucket *layout_bucket __attribute__((unused));
const struct wfp_branch *layout_branch __attribute__((unused));
const struct wfp_cut *layout_cut __attribute__((unused));
const struct wfp_filter *layout_filter __attribute__((unused));
const struct wfp_link *layout_link __attribute__((unused));
const struct wfp_principal *layout_principal __attribute__((unused));
const enum wfp_layer_id *layout_layer_id __attribute__((unused));
const enum wfp_slot *layout_slot __attribute__((unused));
const enum wfp_action *layout_action __attribute__((unused));
const enum wfp_limit *layout_limit __attribute__((unused));
const enum wfp_candidate_flag *layout_candidate_flag __attribute__((unused));
const enum wfp_field_flag *layout_field_flag __attribute__((unused));
const enum wfp_layer_flag *layout_layer_flag __attribute__((unused));
const enum wfp_principal_kind *layout_principal_kind __attribute__((unused));
const enum wfp_link_flag *layout_link_flag __attribute__((unused));
const enum wfp_nic *layout_nic __attribute__((unused));
const enum wfp_network *layout_network __attribute__((unused));
const enum wfp_counter *layout_counter __attribute__((unused));
const enum wfp_part *layout_part __attribute__((unused));
const enum wfp_flag *layout_flag __attribute__((unused));
const struct wfp_drop *layout_drop __attribute__((unused));
const enum wfp_drop_stage *layout_drop_stage __attribute__((unused));
const enum wfp_discard_module *layout_discard_module __attribute__((unused));
const enum wfp_discard_reason *layout_discard_reason __attribute__((unused));
const enum wfp_reauthorize_reason *layout_reauthorize_reason __attribute__((unused));

static __always_inline void count(__u32 counter)
{
	__u64 *n = bpf_map_lookup_elem(&counters, &counter);

	if (n)
		(*n)++;
}

/* No two states of the tables ever have the same stamp. */
static __always_inline __u64 active_stamp(void)
{
	__u32 zero = 0;
	__u64 *stamp = bpf_map_lookup_elem(&active, &zero);

	return stamp ? *(volatile __u64 *)stamp : 0;
}

/* The generation and, above its bit, the edition. */
static __always_inline __u32 stamp_generation(__u64 stamp)
{
	return (__u32)stamp & ((1 << WFP_STAMP_COMMIT) - 1);
}

static __always_inline __u32 active_generation(void)
{
	return stamp_generation(active_stamp());
}

/* Which tables the maps have under a generation without its edition. */
static __always_inline __u32 tables_of(__u32 generation)
{
	return generation & (WFP_GENERATIONS - 1);
}

static __always_inline __u32 layer_key(__u32 generation, __u32 layer)
{
	return (generation >> WFP_STAMP_EDITION) * WFP_LAYERS + (layer & (WFP_LAYERS - 1));
}

/* What finds the pages of an edition, from a key of the map of layers. */
static __always_inline __u32 amended_tables(__u32 layer_key)
{
	return WFP_GENERATIONS * (WFP_PAGES_AMENDED + layer_key / WFP_LAYERS % WFP_EDITIONS);
}

static __always_inline struct wfp_layer *find_layer(__u32 generation, __u32 layer)
{
	__u32 key = layer_key(generation, layer);
	struct wfp_layer *l = bpf_map_lookup_elem(&layers, &key);

	return l && l->sublayers ? l : NULL;
}
