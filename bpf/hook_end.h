/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * What ends: ALE_ENDPOINT_CLOSURE of each TCP connection and listener when its socket
 * comes to CLOSE (tp_btf/inet_sock_set_state), and of each UDP and raw socket when it is
 * closed (cgroup/sock_release); then ALE_RESOURCE_RELEASE of what had been bound. Both
 * layers look on: a verdict is counted and reported, and the endpoint ends. close()
 * comes before a connection's end, so its release waits for that.
 */
#pragma once

#include <bpf/bpf_tracing.h>

#include "ale.h"
#include "kernel_socket.h"
#include "packet.h"

#define SOCK_RAW 3
#define SOCK_BINDPORT_LOCK 8 /* sk_userlocks: bound to a port by a call */

/* The endpoints of a socket, for either layer; the families have the numbers of
 * ALE_RESOURCE_ASSIGNMENT's layers first. */
static __always_inline void socket_tuple(struct sock *sk, struct wfp_tuple *t)
{
	struct inet_sock *inet = (struct inet_sock *)sk;
	__u8 b[16];

	t->generation = active_generation();
	t->layer = WFP_ALE_RESOURCE_ASSIGNMENT_V4;
	t->local_port = bpf_ntohs(BPF_CORE_READ(inet, inet_sport));
	t->remote_port = bpf_ntohs(BPF_CORE_READ(sk, __sk_common.skc_dport));
	if (BPF_CORE_READ(sk, __sk_common.skc_family) == AF_INET6) {
		BPF_CORE_READ_INTO(&b, sk, __sk_common.skc_v6_rcv_saddr);
		ip6_halves(b, t->local);
		BPF_CORE_READ_INTO(&b, sk, __sk_common.skc_v6_daddr);
		ip6_halves(b, t->remote);
		t->layer = WFP_ALE_RESOURCE_ASSIGNMENT_V6;
		if (is_mapped(t->remote)) {
			t->layer = WFP_ALE_RESOURCE_ASSIGNMENT_V4;
			t->remote[0] = (__u32)t->remote[1];
			t->local[0] = (__u32)t->local[1];
			t->remote[1] = t->local[1] = 0;
		}
	} else {
		t->local[0] = bpf_ntohl(BPF_CORE_READ(sk, __sk_common.skc_rcv_saddr));
		t->remote[0] = bpf_ntohl(BPF_CORE_READ(sk, __sk_common.skc_daddr));
	}
	if (t->local_port)
		t->known |= WFP_KNOWN_LOCAL_PORT;
	if (t->remote[0] | t->remote[1])
		t->known |= WFP_KNOWN_REMOTE;
	wfp_put_local(t);
}

/* Classifies at one of the two layers, whose V6 twin is the next. */
static __always_inline void end(struct wfp_tuple *t, struct wfp_socket *s, __u32 layer)
{
	__u32 assignment = t->layer;

	t->layer = layer + !!is_v6(assignment);
	wfp_ale(t, s);
	t->layer = assignment;
}

/* Whether the socket was accepted: it has what its listener was identified by. Of one
 * that is older only a bind by a call tells. */
static __always_inline int was_accepted(struct sock *sk, const struct wfp_socket *s)
{
	if (s->state & WFP_SOCKET_OLD && BPF_CORE_READ(sk, sk_protocol) != IPPROTO_UDP)
		return !(BPF_CORE_READ(sk, sk_userlocks) & SOCK_BINDPORT_LOCK);
	return s->self != (__u64)sk;
}

/* ALE_RESOURCE_RELEASE, where there was an ALE_RESOURCE_ASSIGNMENT that passed. */
static __always_inline void release(struct sock *sk, struct wfp_tuple *t, struct wfp_socket *s)
{
	if (s->state & (WFP_SOCKET_RA_BLOCKED | WFP_SOCKET_RA_PENDING) || was_accepted(sk, s))
		return;
	t->ifindex = 0;
	wfp_put_local(t);
	end(t, s, WFP_ALE_RESOURCE_RELEASE_V4);
}

/* Whether a socket is in the cgroup that is filtered: a tracepoint sees all. */
static __always_inline int in_cgroup(struct sock *sk, const struct wfp_config *c)
{
	struct cgroup *cgroup = BPF_CORE_READ(sk, sk_cgrp_data.cgroup), *ancestor = NULL;
	__u32 level = c->cgroup_level;

	if (!cgroup || BPF_CORE_READ(cgroup, level) < (int)level)
		return 0;
	bpf_probe_read_kernel(&ancestor, sizeof(ancestor),
			      __builtin_preserve_access_index(&cgroup->ancestors[0]) + level);
	return BPF_CORE_READ(ancestor, kn, id) == c->cgroup;
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(wfp_sock_state, struct sock *sk, int before, int now)
{
	struct wfp_config *c = ale_config();
	struct wfp_tuple t = { .protocol = IPPROTO_TCP };
	struct wfp_socket *s;
	__u32 ifindex;

	if (now != BPF_TCP_CLOSE || before == BPF_TCP_CLOSE || !sk || !c)
		return 0;
	if (BPF_CORE_READ(sk, sk_protocol) != IPPROTO_TCP ||
	    BPF_CORE_READ(sk, __sk_common.skc_net.net, net_cookie) != c->netns_cookie ||
	    !in_cgroup(sk, c))
		return 0;
	s = bpf_sk_storage_get(&sockets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!s)
		return 0;
	if (!s->netns_cookie)
		count(WFP_COUNTER_NO_IDENTITY); /* the system's */
	s->flow = bpf_get_socket_cookie(sk);
	socket_tuple(sk, &t);
	ifindex = BPF_CORE_READ(sk, sk_rx_dst_ifindex);
	if (before != BPF_TCP_LISTEN && ifindex)
		t.ifindex = ifindex;
	end(&t, s, WFP_ALE_ENDPOINT_CLOSURE_V4);
	if (s->state & WFP_SOCKET_RELEASED)
		release(sk, &t, s);
	return 0;
}

SEC("cgroup/sock_release")
int wfp_sock_release(struct bpf_sock *ctx)
{
	struct sock *sk = (struct sock *)ctx; /* which it is */
	struct wfp_config *c = ale_config();
	struct wfp_tuple t = {};
	struct wfp_socket *s;
	__u32 raw;

	if (!c || bpf_get_netns_cookie(ctx) != c->netns_cookie)
		return 1;
	s = bpf_sk_storage_get(&sockets, ctx, 0, 0);
	if (!s) {
		count(WFP_COUNTER_NO_IDENTITY);
		return 1;
	}
	raw = ctx->type == SOCK_RAW;
	t.protocol = raw ? ctx->protocol : ale_protocol(ctx->protocol);
	if (!raw && !t.protocol)
		return 1;
	if (!raw && t.protocol == IPPROTO_TCP && ctx->protocol != IPPROTO_MPTCP &&
	    BPF_CORE_READ(sk, __sk_common.skc_state) != BPF_TCP_CLOSE) {
		s->state |= WFP_SOCKET_RELEASED;
		return 1;
	}
	socket_tuple(sk, &t);
	if (raw) {
		t.known &= ~WFP_KNOWN_LOCAL_PORT; /* it holds the protocol */
		t.local_port = 0;
	} else if (!t.local_port) {
		return 1;
	}
	s->flow = bpf_get_socket_cookie(ctx);
	if (raw || t.protocol == IPPROTO_UDP)
		end(&t, s, WFP_ALE_ENDPOINT_CLOSURE_V4);
	release(sk, &t, s);
	return 1;
}
