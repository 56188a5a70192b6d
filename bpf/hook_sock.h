/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * cgroup/sock_create and cgroup/post_bind4, post_bind6: a socket gets its
 * identity when it is made, and a raw socket is judged then (packetflows.md 10);
 * a bind to port 0 is judged once its port is picked (ALE_RESOURCE_ASSIGNMENT).
 */
#pragma once

#include "ale.h"

#define SOCK_RAW 3

SEC("cgroup/sock_create")
int wfp_sock_create(struct bpf_sock *ctx)
{
	struct wfp_socket *s = bpf_sk_storage_get(&sockets, ctx, 0, BPF_SK_STORAGE_GET_F_CREATE);
	struct wfp_tuple t = {
		.layer = WFP_ALE_RESOURCE_ASSIGNMENT_V4,
		.flags = WFP_FLAG_IS_RAW_ENDPOINT,
		.local_type = WFP_NL_UNSPECIFIED,
	};
	struct wfp_config *c = ale_config();

	if (!s)
		return 1;
	identify_current(s, bpf_get_netns_cookie(ctx), ctx);
	if (ctx->type != SOCK_RAW || !c || c->netns_cookie != s->netns_cookie)
		return 1;
	if (ctx->family == AF_INET6)
		t.layer = WFP_ALE_RESOURCE_ASSIGNMENT_V6;
	t.generation = active_generation();
	t.protocol = ctx->protocol;
	if (wfp_ale(&t, s)) {
		bpf_set_retval(-EACCES);
		return 0;
	}
	return 1;
}

/* A bind to port 0, left over by bind4 or bind6. Returns 1 to let it stand. */
static __always_inline int post_bind(struct bpf_sock *ctx, struct wfp_tuple *t)
{
	struct wfp_socket *s = bpf_sk_storage_get(&sockets, ctx, 0, 0);

	if (!s || !(s->state & WFP_SOCKET_RA_AT_POST_BIND))
		return 1;
	s->state &= ~WFP_SOCKET_RA_AT_POST_BIND;
	t->generation = active_generation();
	t->local_port = ctx->src_port;
	t->protocol = ale_protocol(ctx->protocol);
	t->flags = WFP_FLAG_IS_WILDCARD_BIND;
	t->known = WFP_KNOWN_LOCAL_PORT;
	wfp_put_local(t);
	if (wfp_ale(t, s)) {
		bpf_set_retval(-EACCES);
		return 0;
	}
	bind_judged(s, 0);
	return 1;
}

SEC("cgroup/post_bind4")
int wfp_post_bind4(struct bpf_sock *ctx)
{
	struct wfp_tuple t = {
		.layer = WFP_ALE_RESOURCE_ASSIGNMENT_V4,
		.local = { bpf_ntohl(ctx->src_ip4), 0 },
	};

	return post_bind(ctx, &t);
}

SEC("cgroup/post_bind6")
int wfp_post_bind6(struct bpf_sock *ctx)
{
	struct wfp_tuple t = { .layer = WFP_ALE_RESOURCE_ASSIGNMENT_V6 };

	t.local[0] = (__u64)bpf_ntohl(ctx->src_ip6[0]) << 32 | bpf_ntohl(ctx->src_ip6[1]);
	t.local[1] = (__u64)bpf_ntohl(ctx->src_ip6[2]) << 32 | bpf_ntohl(ctx->src_ip6[3]);
	return post_bind(ctx, &t);
}
