//go:build ignore

// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/*
 * Programs that the benchmarks run over the tables of an instance: the
 * classifier of bpf/classify.h, the look-up of kept verdicts in bpf/verdicts.h,
 * empty ones to take off, and the peers' algorithm, a scan of all rules.
 */
#define BENCH_CASES 65536
/* More than on a host, or the cases would displace each other. */
#define WFP_VERDICT_SETS_V4 65536
#define WFP_VERDICT_SETS_V6 65536

#include "../../bpf/classify.h"
#include "../../bpf/verdicts.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct wfp_values);
	__uint(max_entries, BENCH_CASES);
} bench_cases SEC(".maps");

/* A rule of the linear scan: ranges over the seven fields of the benchmark. */
struct bench_rule {
	__u64 local_low[2], local_high[2];
	__u64 remote_low[2], remote_high[2];
	__u64 interface;     /* 0: any */
	__u32 flags_none;    /* none of these bits */
	__u16 local_port_low, local_port_high;
	__u16 remote_port_low, remote_port_high;
	__u8 protocol; /* 0: any */
	__u8 block;
	__u16 sublayer;
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct bench_rule);
	__uint(max_entries, 1);
} bench_rules SEC(".maps");

struct bench_run {
	__u32 cases;
	__u32 rules;
	__u32 v6;
	__u32 pad;
	__u64 blocked; /* out: what was blocked, so that no work is optimised away */
	__u64 classified; /* out: cases whose verdict was not kept */
	__u64 ns;      /* out */
};

struct bench_context {
	__u64 stamp;
	__u32 generation;
	__u32 rules;
	__u32 v6;
	__u64 blocked;
	__u64 classified;
};

static long empty_case(__u32 i, struct bench_context *c)
{
	struct wfp_values *from = bpf_map_lookup_elem(&bench_cases, &i);
	struct wfp_values v;

	if (!from)
		return 1;
	__builtin_memcpy(&v, from, sizeof(v));
	v.generation = c->generation;
	asm volatile("" : : "r"(&v) : "memory");
	c->blocked += v.present & 1;
	return 0;
}

static long classify_case(__u32 i, struct bench_context *c)
{
	struct wfp_values *from = bpf_map_lookup_elem(&bench_cases, &i);
	struct wfp_values v;

	if (!from)
		return 1;
	__builtin_memcpy(&v, from, sizeof(v));
	v.generation = c->generation;
	c->blocked += !!(wfp_arbitrate(&v) & WFP_VERDICT_BLOCK);
	return 0;
}

static __always_inline __u64 get(struct wfp_values *v, __u32 slot, __u64 mask)
{
	return v->word[slot_word(slot)] >> slot_shift(slot) & mask;
}

/* The packets of the cases, for what needs no values. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct wfp_packet);
	__uint(max_entries, BENCH_CASES);
} bench_packets SEC(".maps");

/* Makes the packet of a case. A LUID stands for its index. */
static long pack_case(__u32 i, struct bench_context *c)
{
	struct wfp_values *v = bpf_map_lookup_elem(&bench_cases, &i);
	struct wfp_packet *p = bpf_map_lookup_elem(&bench_packets, &i);

	if (!v || !p)
		return 1;
	__builtin_memcpy(p->local, &v->word[slot_word(WFP_SLOT_LOCAL_ADDRESS)], 16);
	__builtin_memcpy(p->remote, &v->word[slot_word(WFP_SLOT_REMOTE_ADDRESS)], 16);
	pack(p, v->layer, get(v, WFP_SLOT_LOCAL_INTERFACE, 0xffffffff),
	     get(v, WFP_SLOT_FLAGS, 0xffffffff), get(v, WFP_SLOT_PROTOCOL, 0xff), WFP_KEPT_PORTS,
	     get(v, WFP_SLOT_LOCAL_PORT, 0xffff), get(v, WFP_SLOT_REMOTE_PORT, 0xffff));
	return 0;
}

static long packet_case(__u32 i, struct bench_context *c)
{
	struct wfp_packet *p = bpf_map_lookup_elem(&bench_packets, &i);

	if (!p)
		return 1;
	c->blocked += p->ends & 1;
	return 0;
}

__noinline __u64 bench_verdict(__u32 i, struct bench_context *c)
{
	struct wfp_values *from = bpf_map_lookup_elem(&bench_cases, &i);
	struct wfp_packet *p = bpf_map_lookup_elem(&bench_packets, &i);
	struct wfp_values v;
	__u64 verdict;

	if (!from || !p || !c)
		return 0;
	__builtin_memcpy(&v, from, sizeof(v));
	v.generation = c->generation;
	verdict = wfp_arbitrate(&v);
	keep_verdict(p, c->v6, c->stamp, verdict);
	from->found = 1; /* tells user space which */
	c->classified++;
	return verdict;
}

/* As the packet layers do it. */
static long kept_case(__u32 i, struct bench_context *c)
{
	struct wfp_packet *p = bpf_map_lookup_elem(&bench_packets, &i);
	__u64 verdict;

	if (!p)
		return 1;
	verdict = find_verdict(p, c->v6, c->stamp);
	if (verdict == WFP_VERDICT_NOT_KEPT)
		verdict = bench_verdict(i, c);
	c->blocked += !!(verdict & WFP_VERDICT_BLOCK);
	return 0;
}

struct scan {
	struct wfp_values *v;
	__u32 decided; /* sublayer that is decided */
	__u32 block;
};

static __always_inline int within(const __u64 *a, const __u64 *low, const __u64 *high)
{
	if (a[0] < low[0] || a[0] > high[0])
		return 0;
	if (a[0] == low[0] && a[1] < low[1])
		return 0;
	return !(a[0] == high[0] && a[1] > high[1]);
}

static long scan_rule(__u32 i, struct scan *s)
{
	struct bench_rule *r = bpf_map_lookup_elem(&bench_rules, &i);
	struct wfp_values *v = s->v;

	if (!r)
		return 1;
	if (r->sublayer == s->decided)
		return 0;
	if (r->protocol && r->protocol != get(v, WFP_SLOT_PROTOCOL, 0xff))
		return 0;
	if (get(v, WFP_SLOT_LOCAL_PORT, 0xffff) < r->local_port_low ||
	    get(v, WFP_SLOT_LOCAL_PORT, 0xffff) > r->local_port_high ||
	    get(v, WFP_SLOT_REMOTE_PORT, 0xffff) < r->remote_port_low ||
	    get(v, WFP_SLOT_REMOTE_PORT, 0xffff) > r->remote_port_high)
		return 0;
	if (get(v, WFP_SLOT_FLAGS, 0xffffffff) & r->flags_none)
		return 0;
	if (r->interface && r->interface != get(v, WFP_SLOT_LOCAL_INTERFACE, ~0ULL))
		return 0;
	if (!within(&v->word[2], r->remote_low, r->remote_high) ||
	    !within(&v->word[0], r->local_low, r->local_high))
		return 0;
	s->decided = r->sublayer;
	s->block |= r->block;
	return 0;
}

static long scan_case(__u32 i, struct bench_context *c)
{
	struct scan s = { .v = bpf_map_lookup_elem(&bench_cases, &i), .decided = ~0U };

	if (!s.v)
		return 1;
	bpf_loop(c->rules, scan_rule, &s, 0);
	c->blocked += s.block;
	return 0;
}

#define BENCH(name)                                                            \
	SEC("syscall")                                                         \
	int bench_##name(struct bench_run *ctx)                                \
	{                                                                      \
		__u64 stamp = active_stamp();                                  \
		struct bench_context c = {                                     \
			.stamp = stamp,                                        \
			.generation = stamp_generation(stamp),                 \
			.rules = ctx->rules,                                   \
			.v6 = ctx->v6,                                         \
		};                                                             \
		__u64 start = bpf_ktime_get_ns();                              \
                                                                               \
		bpf_loop(ctx->cases, name##_case, &c, 0);                      \
		ctx->ns = bpf_ktime_get_ns() - start;                          \
		ctx->blocked = c.blocked;                                      \
		ctx->classified = c.classified;                                \
		return 0;                                                      \
	}

BENCH(empty)
BENCH(classify)
BENCH(pack)
BENCH(packet)
BENCH(kept)
BENCH(scan)

char _license[] SEC("license") = "Dual BSD/GPL";
