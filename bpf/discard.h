/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The discard layers. When a layer blocks, its discard layer is classified next, with
 * the same fields (packetflows.md 4); what blocked stands in the discard metadata
 * (metadata.md 7). The traffic stays blocked, whatever is said there: that is counted
 * and reported. Where a discard layer has no filters a block costs one look-up more.
 */
#pragma once

#include "event.h"

/* Ids go V4, discard, V6, discard up to those of the MAC frames; no layer with a
 * higher one has a discard layer. */
#define WFP_DISCARD 1U

_Static_assert((WFP_INBOUND_IPPACKET_V4 | WFP_DISCARD) == WFP_INBOUND_IPPACKET_V4_DISCARD &&
		       (WFP_ALE_FLOW_ESTABLISHED_V6 | WFP_DISCARD) ==
			       WFP_ALE_FLOW_ESTABLISHED_V6_DISCARD,
	       "a discard layer follows its layer");

/* The layer without its family and whether it is a discard layer. */
#define WFP_FAMILY_OR_DISCARD 3U

static __always_inline int has_discard(__u32 layer)
{
	return layer < WFP_INBOUND_MAC_FRAME_ETHERNET;
}

/* The discard layer of a layer that has one, if it has filters; else NULL. */
static __always_inline struct wfp_layer *find_discard(__u32 generation, __u32 layer)
{
	return find_layer(generation, layer | WFP_DISCARD);
}

/* Says in an event of a discard layer which filter blocked. */
static __always_inline void put_blocker(struct wfp_event *e, __u32 generation, __u64 blocked)
{
	e->discard_module = WFP_DISCARD_GENERAL;
	e->discard_reason = WFP_DISCARD_FIREWALL_POLICY;
	e->discard_filter = deciding_filter(generation, blocked);
}
