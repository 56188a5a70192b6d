/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What follows a verdict: the filter's hit counter and the net event, which
 * every block makes, and a permit where permits were asked for. */
#pragma once

#include "classify.h"

/* Counts a verdict and reserves its event; NULL where none is wanted or there
 * is no room. The caller fills in the traffic and submits. */
static __always_inline struct wfp_event *report(__u32 generation, __u64 verdict)
{
	int decided = filter_decided(verdict);
	struct wfp_config *c;
	struct wfp_event *e;
	__u32 zero = 0;
	__u64 *n;

	if (verdict & WFP_VERDICT_ERROR)
		count(WFP_COUNTER_ERROR);
	n = decided ? find_hits(tables_of(generation), verdict) : NULL;
	if (n)
		__sync_fetch_and_add(n, 1);
	if (!(verdict & WFP_VERDICT_BLOCK)) {
		c = bpf_map_lookup_elem(&config, &zero);
		if (!c || !c->permits || !decided)
			return NULL;
	}
	e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);
	if (!e) {
		count(WFP_COUNTER_LOST);
		return NULL;
	}
	__builtin_memset(e, 0, sizeof(*e));
	e->time = bpf_ktime_get_boot_ns();
	e->filter_id = deciding_filter(generation, verdict);
	e->action = verdict & WFP_VERDICT_BLOCK ? WFP_ACTION_BLOCK : WFP_ACTION_PERMIT;
	return e;
}
