/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The judge's door: the classifier behind a syscall program, over the same
 * tables. BPF_PROG_TEST_RUN cannot run connect or bind programs; this stands in
 * for every layer in `explain --live`, the differential test and benchmarks.
 */
#pragma once

#include "classify.h"

struct wfp_judge_run {
	__u32 cases; /* how many of the map's cases to judge */
	__u32 generation; /* out: the generation, and edition, that judged */
};

static long judge_case(__u32 i, void *in_force)
{
	struct wfp_case *c = bpf_map_lookup_elem(&cases, &i);
	__u32 generation = *(__u32 *)in_force;
	__u64 verdict;

	if (!c)
		return 1;
	c->values.generation = generation;
	verdict = wfp_arbitrate(&c->values);
	c->verdict.action = verdict & WFP_VERDICT_BLOCK ? WFP_ACTION_BLOCK :
			    verdict & WFP_VERDICT_PERMIT ? WFP_ACTION_PERMIT :
							   WFP_ACTION_NONE_NO_MATCH;
	c->verdict.soft = !!(verdict & WFP_VERDICT_SOFT);
	c->verdict.error = !!(verdict & WFP_VERDICT_ERROR);
	c->verdict.filter_id = deciding_filter(generation, verdict);
	return 0;
}

SEC("syscall")
int wfp_judge(struct wfp_judge_run *ctx)
{
	__u32 generation = active_generation();
	__u32 n = ctx->cases;

	if (n > WFP_JUDGE_CASES)
		n = WFP_JUDGE_CASES;
	bpf_loop(n, judge_case, &generation, 0);
	ctx->generation = generation;
	return 0;
}
