/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * XDP: INBOUND_MAC_FRAME_NATIVE, the first point after the driver. The layer
 * tests the interface only; it has no addresses (l2.md 3).
 */
#pragma once

#include "classify.h"
#include "event.h"
#include "interface.h"

SEC("xdp")
int wfp_xdp(struct xdp_md *ctx)
{
	__u32 generation = active_generation();
	struct wfp_values v = {
		.layer = WFP_INBOUND_MAC_FRAME_NATIVE,
		.generation = generation,
	};
	__u32 ifindex = ctx->ingress_ifindex;
	struct wfp_event *e;
	__u64 verdict;

	if (!find_layer(generation, v.layer))
		return XDP_PASS;
	put_interface(&v, WFP_SLOT_LOCAL_INTERFACE, ifindex, find_link(generation, ifindex));
	verdict = wfp_arbitrate(&v);
	e = report(generation, verdict);
	if (e) {
		e->layer = WFP_INBOUND_MAC_FRAME_NATIVE;
		e->ifindex = ifindex;
		bpf_ringbuf_submit(e, 0);
	}
	return verdict & WFP_VERDICT_BLOCK ? XDP_DROP : XDP_PASS;
}
