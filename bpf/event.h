/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What follows a verdict: the filter's hit counter and the net event, which
 * every block makes, and a permit where permits were asked for. */
#pragma once

#include "classify.h"

/* Counts a filter's decision. */
static __always_inline void count_hit(__u32 generation, __u64 verdict)
{
	__u64 *n = filter_decided(verdict) ? find_hits(tables_of(generation), verdict) : NULL;

	if (n)
		__sync_fetch_and_add(n, 1);
}

/* Whether a verdict that was kept passes and nobody asked to be told of it; then
 * it is counted and all is done. */
static __always_inline int passes_untold(__u32 generation, __u64 verdict)
{
	struct wfp_config *c;
	__u32 zero = 0;

	if (verdict & WFP_VERDICT_BLOCK)
		return 0;
	c = bpf_map_lookup_elem(&config, &zero);
	if (!c || c->permits)
		return 0;
	count_hit(generation, verdict);
	return 1;
}

/* Whether a verdict makes an event. */
static __always_inline int is_told(__u64 verdict)
{
	struct wfp_config *c;
	__u32 zero = 0;

	if (verdict & WFP_VERDICT_BLOCK)
		return 1;
	c = bpf_map_lookup_elem(&config, &zero);
	return c && c->permits && filter_decided(verdict);
}

/* Counts a verdict and reserves its event; NULL where none is wanted or there
 * is no room. The caller fills in the traffic and submits. */
static __always_inline struct wfp_event *report(__u32 generation, __u64 verdict)
{
	struct wfp_parts *parts;
	struct wfp_event *e;
	__u32 zero = 0;

	if (verdict & WFP_VERDICT_ERROR)
		count(WFP_COUNTER_ERROR);
	count_hit(generation, verdict);
	if (!is_told(verdict))
		return NULL;
	e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);
	if (!e) {
		count(WFP_COUNTER_LOST);
		return NULL;
	}
	__builtin_memset(e, 0, sizeof(*e));
	e->time = bpf_ktime_get_boot_ns();
	e->filter_id = deciding_filter(generation, verdict);
	e->action = verdict & WFP_VERDICT_BLOCK ? WFP_ACTION_BLOCK : WFP_ACTION_PERMIT;
	parts = bpf_map_lookup_elem(&noted, &zero);
	if (parts) {
		e->parts = *parts;
		parts->has = 0;
	}
	return e;
}
