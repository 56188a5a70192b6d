/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * ALE_FLOW_ESTABLISHED, as far as it is the same for every protocol: the layer that
 * follows when a flow has been authorised, or TCP's handshake is done.
 */
#pragma once

#include "ale.h"

/* Judges a flow whose endpoints are known in full. The tuple's layer becomes this
 * one. Returns 1 where it is blocked. */
static __always_inline int establish(struct wfp_tuple *t, struct wfp_socket *s, __u32 v6,
				     __u64 cookie)
{
	if (s)
		s->flow = cookie;
	t->layer = WFP_ALE_FLOW_ESTABLISHED_V4 | v6;
	return wfp_ale(t, s);
}

/* The same for a datagram's flow, which then is forgotten: its next datagram is
 * authorised anew. The layer of the tuple stays. */
static __always_inline int establish_datagrams(struct wfp_tuple *t, struct wfp_socket *s,
					       __u32 authorised_at, __u64 cookie)
{
	__u32 v6 = is_v6(t->layer);
	int blocked;

	if (!find_layer(t->generation, WFP_ALE_FLOW_ESTABLISHED_V4 | v6))
		return 0;
	blocked = establish(t, s, v6, cookie);
	if (blocked)
		wfp_forget_flow(t, cookie);
	t->layer = authorised_at | v6;
	return blocked;
}
