/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * sock_ops: ALE_RESOURCE_ASSIGNMENT of binds whose port connect() or listen() picks. A
 * connect that could not be judged without the port is judged before its SYN
 * (TCP_CONNECT_CB); a listener that was never bound is assigned its port by listen()
 * (TCP_LISTEN_CB), and an MPTCP listener's subflow gets its identity here. Neither call
 * can be made to fail; what is blocked is denied its SYNs by hook_skb.h. The subflow of
 * an MPTCP connect gets its identity here as well, since its hooks need not be attached:
 * when the policy comes to have a say, the connection is judged.
 */
#pragma once

#include "ale.h"

/* Word by word: the verifier takes no wider reads here. */
static __always_inline void put_ip6(const volatile __u32 *word, __u64 address[2])
{
	__u64 high = bpf_ntohl(word[0]), low = bpf_ntohl(word[2]);

	address[0] = high << 32 | bpf_ntohl(word[1]);
	address[1] = low << 32 | bpf_ntohl(word[3]);
}

SEC("sockops")
int wfp_sock_ops(struct bpf_sock_ops *ctx)
{
	struct wfp_config *c = ale_config();
	struct wfp_tuple t = {
		.layer = WFP_ALE_RESOURCE_ASSIGNMENT_V4,
		.protocol = IPPROTO_TCP,
		.known = WFP_KNOWN_LOCAL_PORT,
		.flags = WFP_FLAG_IS_WILDCARD_BIND,
	};
	struct bpf_sock *sk = ctx->sk;
	__u32 op = ctx->op, v6 = 0;
	struct wfp_socket *s;
	__u64 cookie;

	if ((op != BPF_SOCK_OPS_TCP_LISTEN_CB && op != BPF_SOCK_OPS_TCP_CONNECT_CB) || !sk || !c)
		return 1;
	cookie = bpf_get_netns_cookie(ctx);
	s = bpf_sk_storage_get(&sockets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!s)
		return 1;
	if (!s->netns_cookie)
		identify_current(s, cookie, sk);
	if (op == BPF_SOCK_OPS_TCP_LISTEN_CB) {
		s->state &= ~WFP_SOCKET_FLOW_BLOCKED; /* of a connection before */
	} else {
		if (ctx->family == AF_INET6) {
			put_ip6(ctx->remote_ip6, t.remote);
			v6 = is_mapped(t.remote) ? 0 : 2;
		}
		if (!layer_epoch(active_generation(), WFP_ALE_AUTH_CONNECT_V4 | v6))
			s->of = 0; /* nobody has judged it */
	}
	t.local_port = ctx->local_port;
	if (cookie != c->netns_cookie ||
	    (op == BPF_SOCK_OPS_TCP_LISTEN_CB ? s->state & WFP_SOCKET_RA_DONE :
						!bind_pending(s, c, t.local_port)))
		return 1;
	t.generation = active_generation();
	if (ctx->family == AF_INET6) {
		t.layer = WFP_ALE_RESOURCE_ASSIGNMENT_V6;
		put_ip6(ctx->local_ip6, t.local);
	} else {
		t.local[0] = bpf_ntohl(ctx->local_ip4);
	}
	if (op == BPF_SOCK_OPS_TCP_CONNECT_CB)
		wfp_bound_part(&t, s);
	bind_judged(s, wfp_ale(&t, s));
	return 1;
}
