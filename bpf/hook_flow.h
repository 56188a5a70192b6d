/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * sock_ops: ALE_FLOW_ESTABLISHED of TCP, when the handshake is done: before the
 * client's ACK leaves (ACTIVE_ESTABLISHED_CB), and when it arrives at the server
 * (PASSIVE_ESTABLISHED_CB). That cannot fail a connection any more: what is blocked
 * is cut off here (cgroup_skb), both ways, and soon times out, so that a program
 * need not wait for what cannot come. Connects of MPTCP subflows, which no other hook
 * sees if nothing but flows is judged, get their identity.
 */
#pragma once

#include "hook_skb.h"
#include "hook_sock_ops.h"
#include "kernel_socket.h"

#define SOL_SOCKET 1
#define SO_KEEPALIVE 9
#define SOL_TCP 6
#define TCP_KEEPIDLE 4
#define TCP_KEEPINTVL 5
#define TCP_KEEPCNT 6
#define TCP_USER_TIMEOUT 18

#define WFP_CUT_SECONDS 1      /* until a blocked connection is first probed for life */
#define WFP_CUT_MILLISECONDS 1000 /* what it sends may remain unanswered so long */

static __always_inline void set_option(struct bpf_sock_ops *ctx, int level, int option, int value)
{
	bpf_setsockopt(ctx, level, option, &value, sizeof(value));
}

/* Lets a connection end by time-out: no answer ever comes through. */
static __always_inline void cut(struct bpf_sock_ops *ctx)
{
	set_option(ctx, SOL_TCP, TCP_USER_TIMEOUT, WFP_CUT_MILLISECONDS);
	set_option(ctx, SOL_TCP, TCP_KEEPIDLE, WFP_CUT_SECONDS);
	set_option(ctx, SOL_TCP, TCP_KEEPINTVL, WFP_CUT_SECONDS);
	set_option(ctx, SOL_TCP, TCP_KEEPCNT, 1);
	set_option(ctx, SOL_SOCKET, SO_KEEPALIVE, 1);
}

/* The interface of the first packet: that by which what we sent goes, or by which the
 * peer's ACK came in. */
static __always_inline __u32 flow_interface(struct bpf_sock *sk, int outbound)
{
	struct sock *tcp = (struct sock *)bpf_skc_to_tcp_sock(sk);

	if (!tcp)
		return 0;
	return outbound ? BPF_CORE_READ(tcp, sk_dst_cache, dev, ifindex) :
			  BPF_CORE_READ(tcp, sk_rx_dst_ifindex);
}

static __always_inline void put_ends(struct bpf_sock_ops *ctx, struct wfp_tuple *t)
{
	if (ctx->family == AF_INET6) {
		put_ip6(ctx->local_ip6, t->local);
		put_ip6(ctx->remote_ip6, t->remote);
	} else {
		t->local[0] = bpf_ntohl(ctx->local_ip4);
		t->remote[0] = bpf_ntohl(ctx->remote_ip4);
	}
	t->local_port = ctx->local_port;
	t->remote_port = bpf_ntohl(ctx->remote_port);
}

SEC("sockops")
int wfp_sock_flow(struct bpf_sock_ops *ctx)
{
	struct wfp_config *c = ale_config();
	struct wfp_tuple t = {
		.protocol = IPPROTO_TCP,
		.local_type = WFP_NL_UNICAST,
		.destination_type = WFP_NL_UNICAST,
		.known = WFP_KNOWN_LOCAL_ADDRESS | WFP_KNOWN_LOCAL_PORT,
	};
	struct bpf_sock *sk = ctx->sk;
	struct wfp_socket *s;
	__u32 op = ctx->op, v6;
	__u64 netns, cookie;

	if (op != BPF_SOCK_OPS_TCP_CONNECT_CB && op != BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB &&
	    op != BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB)
		return 1;
	if (!sk || !c)
		return 1;
	netns = bpf_get_netns_cookie(ctx);
	if (netns != c->netns_cookie)
		return 1;
	cookie = bpf_get_socket_cookie(ctx);
	if (op == BPF_SOCK_OPS_TCP_CONNECT_CB) {
		s = bpf_sk_storage_get(&sockets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
		if (s && !s->netns_cookie)
			identify_current(s, netns, sk);
		if (s)
			s->state &= ~WFP_SOCKET_FLOW_BLOCKED; /* of a connection before */
		return 1;
	}
	s = bpf_sk_storage_get(&sockets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!s || !s->netns_cookie)
		count(WFP_COUNTER_NO_IDENTITY); /* the system's */
	put_ends(ctx, &t);
	v6 = ctx->family == AF_INET6 ? 2 : 0;
	if (v6 && is_mapped(t.remote)) {
		v6 = 0;
		t.local[0] = (__u32)t.local[1];
		t.remote[0] = (__u32)t.remote[1];
		t.local[1] = t.remote[1] = 0;
	}
	t.generation = active_generation();
	t.ifindex = flow_interface(sk, op == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB);
	if (op == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB)
		t.known |= WFP_KNOWN_OUTBOUND;
	if (!establish(&t, s, v6, cookie))
		return 1;
	if (s)
		s->state |= WFP_SOCKET_FLOW_BLOCKED;
	cut(ctx);
	return 1;
}

/* Whether a packet is one of a connection that was blocked. */
static __always_inline int is_cut(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;
	struct wfp_socket *s;

	if (!sk)
		return 0;
	sk = bpf_sk_fullsock(sk);
	if (!sk || sk->protocol != IPPROTO_TCP)
		return 0;
	s = bpf_sk_storage_get(&sockets, sk, 0, 0);
	return s && s->state & WFP_SOCKET_FLOW_BLOCKED;
}

SEC("cgroup_skb/egress")
int wfp_flow_egress(struct __sk_buff *skb)
{
	return is_cut(skb) ? WFP_DROP : WFP_PASS;
}

SEC("cgroup_skb/ingress")
int wfp_flow_ingress(struct __sk_buff *skb)
{
	return is_cut(skb) ? WFP_DROP : WFP_PASS;
}
