/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * cgroup/setsockopt: ALE_RESOURCE_ASSIGNMENT for a packet socket that asks a link to
 * be promiscuous, or to take all multicast frames, as SIO_RCVALL and SIO_RCVALL_MCAST
 * do. A packet socket has no family: it is judged as of both.
 */
#pragma once

#include "ale.h"

#define AF_PACKET 17
#define SOL_PACKET 263
#define PACKET_ADD_MEMBERSHIP 1
#define PACKET_MR_PROMISC 1
#define PACKET_MR_ALLMULTI 2

#define WFP_SOCKOPT_SEEN 4096 /* of a longer value the kernel shows a page, at least so much */

struct packet_mreq {
	int mr_ifindex;
	__u16 mr_type;
	__u16 mr_alen;
	__u8 mr_address[8];
};

/* What is not judged goes to the kernel as the program has it: without that it would
 * refuse what is longer than it shows. */
static __always_inline int pass_option(struct bpf_sockopt *ctx)
{
	if (ctx->optlen > WFP_SOCKOPT_SEEN)
		ctx->optlen = 0;
	return 1;
}

/* ALE_RESOURCE_ASSIGNMENT of either family; returns 1 for block. */
static __always_inline int assign_promiscuous(struct wfp_tuple *t, struct wfp_socket *s)
{
	t->layer = WFP_ALE_RESOURCE_ASSIGNMENT_V4;
	if (wfp_ale(t, s))
		return 1;
	t->layer = WFP_ALE_RESOURCE_ASSIGNMENT_V6;
	return wfp_ale(t, s);
}

SEC("cgroup/setsockopt")
int wfp_setsockopt(struct bpf_sockopt *ctx)
{
	struct packet_mreq *request = ctx->optval;
	struct wfp_config *c = ale_config();
	struct wfp_tuple t = {
		.flags = WFP_FLAG_IS_RAW_ENDPOINT,
		.known = WFP_KNOWN_PROMISCUOUS,
		.local_type = WFP_NL_UNSPECIFIED,
	};
	struct bpf_sock *sk = ctx->sk;
	struct wfp_socket *s;
	__u64 netns;

	if (ctx->level != SOL_PACKET || ctx->optname != PACKET_ADD_MEMBERSHIP || !sk || !c ||
	    sk->family != AF_PACKET || ctx->optlen < (int)sizeof(*request) ||
	    (void *)(request + 1) > ctx->optval_end)
		return pass_option(ctx);
	netns = bpf_get_netns_cookie(ctx);
	if (netns != c->netns_cookie || (request->mr_type != PACKET_MR_PROMISC &&
					 request->mr_type != PACKET_MR_ALLMULTI))
		return pass_option(ctx);
	s = bpf_sk_storage_get(&sockets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (s && !s->netns_cookie)
		identify_current(s, netns, sk);
	t.generation = active_generation();
	t.ifindex = request->mr_ifindex;
	t.remote_port = request->mr_type;
	if (assign_promiscuous(&t, s)) {
		bpf_set_retval(-EACCES);
		return 0;
	}
	/* what was judged is what the kernel gets, whatever stands in the program by now */
	if (ctx->optlen > WFP_SOCKOPT_SEEN)
		ctx->optlen = WFP_SOCKOPT_SEEN;
	return 1;
}
