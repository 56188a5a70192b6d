//go:build ignore

// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/*
 * Programs that the benchmarks run over the tables of an instance: the
 * classifier of bpf/classify.h, an empty one to take off, and the peers'
 * algorithm, a scan of all rules.
 */
#include "../../bpf/classify.h"

#define BENCH_CASES 65536

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
	__u64 blocked; /* out: what was blocked, so that no work is optimised away */
	__u64 ns;      /* out */
};

struct bench_context {
	__u32 generation;
	__u32 rules;
	__u64 blocked;
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

struct scan {
	struct wfp_values *v;
	__u32 decided; /* sublayer that is decided */
	__u32 block;
};

static __always_inline __u64 get(struct wfp_values *v, __u32 slot, __u64 mask)
{
	return v->word[slot_word(slot)] >> slot_shift(slot) & mask;
}

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
		struct bench_context c = {                                     \
			.generation = active_generation(),                     \
			.rules = ctx->rules,                                   \
		};                                                             \
		__u64 start = bpf_ktime_get_ns();                              \
                                                                               \
		bpf_loop(ctx->cases, name##_case, &c, 0);                      \
		ctx->ns = bpf_ktime_get_ns() - start;                          \
		ctx->blocked = c.blocked;                                      \
		return 0;                                                      \
	}

BENCH(empty)
BENCH(classify)
BENCH(scan)

char _license[] SEC("license") = "Dual BSD/GPL";
