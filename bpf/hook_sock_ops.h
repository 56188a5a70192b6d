/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * sock_ops: a listener that was never bound is assigned its port by listen()
 * (ALE_RESOURCE_ASSIGNMENT, implicit), and an MPTCP listener's subflow gets its
 * identity here. listen() cannot be made to fail; a blocked listener is denied
 * its SYNs by hook_skb.h. So does the subflow of an MPTCP connect, whose hooks need not
 * be attached: when the policy comes to have a say, the connection is judged.
 */
#pragma once

#include "ale.h"

SEC("sockops")
int wfp_sock_ops(struct bpf_sock_ops *ctx)
{
	struct wfp_config *c = ale_config();
	struct wfp_tuple t = { .protocol = IPPROTO_TCP };
	struct bpf_sock *sk = ctx->sk;
	struct wfp_socket *s;
	__u64 cookie;

	if ((ctx->op != BPF_SOCK_OPS_TCP_LISTEN_CB && ctx->op != BPF_SOCK_OPS_TCP_CONNECT_CB) ||
	    !sk || !c)
		return 1;
	cookie = bpf_get_netns_cookie(ctx);
	s = bpf_sk_storage_get(&sockets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!s)
		return 1;
	if (!s->netns_cookie)
		identify_current(s, cookie, sk);
	if (ctx->op == BPF_SOCK_OPS_TCP_CONNECT_CB) {
		t.layer = WFP_ALE_AUTH_CONNECT_V4 | (ctx->family == AF_INET6 ? 2 : 0);
		if (!layer_epoch(active_generation(), t.layer))
			s->of = 0; /* nobody has judged it */
		return 1;
	}
	if (cookie != c->netns_cookie || s->state & WFP_SOCKET_RA_DONE)
		return 1;
	t.layer = ctx->family == AF_INET6 ? WFP_ALE_RESOURCE_ASSIGNMENT_V6 :
					    WFP_ALE_RESOURCE_ASSIGNMENT_V4;
	t.generation = active_generation();
	t.local_port = ctx->local_port;
	t.known = WFP_KNOWN_LOCAL_PORT;
	t.flags = WFP_FLAG_IS_WILDCARD_BIND;
	if (wfp_ale(&t, s))
		s->state |= WFP_SOCKET_RA_BLOCKED;
	else
		s->state |= WFP_SOCKET_RA_DONE;
	return 1;
}
