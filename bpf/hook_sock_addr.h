/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * cgroup/bind4, bind6, connect4, connect6, sendmsg4, sendmsg6: ALE_BIND_REDIRECT
 * of explicit binds, ALE_RESOURCE_ASSIGNMENT of those and of implicit ones, then
 * ALE_CONNECT_REDIRECT and, of where that leads, ALE_AUTH_CONNECT for TCP connects,
 * connected UDP and the first datagram to a peer. A block answers EACCES, as
 * WSAEACCES. What is not known before the packet exists (an ephemeral port, the
 * route) is assumed, and hook_skb.h checks the assumption on the first packet out.
 */
#pragma once

#include "redirect.h"

static __always_inline int deny(void)
{
	bpf_set_retval(-EACCES);
	return 0;
}

/* The socket's identity, made anew: an MPTCP socket's create was another
 * socket's. NULL where the socket belongs to another namespace. */
static __always_inline struct wfp_socket *addr_socket(struct bpf_sock_addr *ctx)
{
	struct wfp_config *c = ale_config();
	__u64 cookie = bpf_get_netns_cookie(ctx);
	struct bpf_sock *sk = ctx->sk;
	struct wfp_socket *s;

	if (!c || !sk)
		return NULL;
	s = bpf_sk_storage_get(&sockets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (s && !s->netns_cookie)
		identify_current(s, cookie, sk);
	return c->netns_cookie == cookie ? s : NULL;
}

/* The address of a call of an IPv6 socket, which is a mapped one at a V4 layer. */
static __always_inline void set_user_ip6(struct bpf_sock_addr *ctx, const struct wfp_tuple *t,
					 const __u64 address[2])
{
	int v6 = is_v6(t->layer);

	ctx->user_ip6[0] = v6 ? bpf_htonl(address[0] >> 32) : 0;
	ctx->user_ip6[1] = v6 ? bpf_htonl((__u32)address[0]) : 0;
	ctx->user_ip6[2] = v6 ? bpf_htonl(address[1] >> 32) : bpf_htonl(0xffff);
	ctx->user_ip6[3] = bpf_htonl(v6 ? (__u32)address[1] : (__u32)address[0]);
}

static __always_inline void user_ip6(struct bpf_sock_addr *ctx, __u64 address[2])
{
	address[0] = (__u64)bpf_ntohl(ctx->user_ip6[0]) << 32 | bpf_ntohl(ctx->user_ip6[1]);
	address[1] = (__u64)bpf_ntohl(ctx->user_ip6[2]) << 32 | bpf_ntohl(ctx->user_ip6[3]);
}

/* An explicit bind; t holds the layer of its assignment and the address. Where it is
 * redirected t says so and where to. Returns 1 to go on, 0 to deny. */
static __always_inline int bind(struct bpf_sock_addr *ctx, struct wfp_tuple *t)
{
	struct wfp_socket *s = addr_socket(ctx);

	t->generation = active_generation();
	t->protocol = ale_protocol(ctx->protocol);
	t->local_port = bpf_ntohs(ctx->user_port);
	t->known = WFP_KNOWN_LOCAL_PORT;
	if (!s || !t->protocol)
		return 1;
	if (find_layer(t->generation, bind_redirect_layer(t)) && !redirect_bind(ctx, t, s))
		return deny();
	if (!t->local_port) {
		s->state |= WFP_SOCKET_RA_AT_POST_BIND;
		return 1;
	}
	wfp_put_local(t);
	if (t->local_type == WFP_NL_UNSPECIFIED)
		t->flags = WFP_FLAG_IS_WILDCARD_BIND;
	if (wfp_ale(t, s))
		return deny();
	bind_judged(s, 0);
	return 1;
}

SEC("cgroup/bind4")
int wfp_bind4(struct bpf_sock_addr *ctx)
{
	struct wfp_tuple t = {
		.layer = WFP_ALE_RESOURCE_ASSIGNMENT_V4,
		.local = { bpf_ntohl(ctx->user_ip4), 0 },
	};

	if (!bind(ctx, &t))
		return 0;
	if (t.known & WFP_KNOWN_REDIRECTED) {
		ctx->user_ip4 = bpf_htonl(t.local[0]);
		ctx->user_port = bpf_htons(t.local_port);
	}
	return 1;
}

SEC("cgroup/bind6")
int wfp_bind6(struct bpf_sock_addr *ctx)
{
	struct wfp_tuple t = { .layer = WFP_ALE_RESOURCE_ASSIGNMENT_V6 };

	user_ip6(ctx, t.local);
	if (!bind(ctx, &t))
		return 0;
	if (t.known & WFP_KNOWN_REDIRECTED) {
		set_user_ip6(ctx, &t, t.local);
		ctx->user_port = bpf_htons(t.local_port);
	}
	return 1;
}

/*
 * The implicit bind of a socket that was not bound. Returns 1 where it is
 * blocked. Where the policy tests the port and no port is known, any will do if the
 * policy does not tell those apart that the kernel picks from; else the bind waits until
 * the port is known. The tuple is lent to the other layer and given back, for want of stack.
 */
static __always_inline int implicit_bind(struct wfp_tuple *t, struct wfp_socket *s)
{
	__u32 layer = t->layer, ifindex = t->ifindex, flags = t->flags;
	__u8 known = t->known, type = t->local_type;
	__u16 port = t->local_port;
	struct wfp_layer *l;
	int blocked = 0;

	if (s->state & WFP_SOCKET_RA_DONE)
		return 0;
	s->state &= ~(WFP_SOCKET_RA_BLOCKED | WFP_SOCKET_RA_PENDING); /* of a try before */
	t->layer = WFP_ALE_RESOURCE_ASSIGNMENT_V4 | is_v6(layer);
	l = find_layer(t->generation, t->layer);
	t->known &= WFP_KNOWN_LOCAL_PORT;
	if (l && WFP_USES(l, LOCAL_PORT) && !t->known) {
		struct wfp_config *c = ale_config();

		if (c && l->flags & WFP_LAYER_EPHEMERAL_UNIFORM) {
			t->local_port = c->ephemeral_low;
			t->known = WFP_KNOWN_LOCAL_PORT | WFP_KNOWN_NOT_PICKED;
		} else {
			s->state |= WFP_SOCKET_RA_PENDING;
			l = NULL;
		}
	}
	t->flags = WFP_FLAG_IS_WILDCARD_BIND;
	t->local_type = WFP_NL_UNSPECIFIED;
	t->ifindex = 0;
	if (l) {
		/* bound to an address, and its port left to connect() */
		if (s->state & WFP_SOCKET_RA_AT_POST_BIND)
			wfp_put_local(t);
		blocked = wfp_ale(t, s);
		if (!blocked)
			s->state |= t->known & WFP_KNOWN_NOT_PICKED ?
					    WFP_SOCKET_RA_DONE | WFP_SOCKET_RA_PORT :
					    WFP_SOCKET_RA_DONE;
	}
	t->layer = layer;
	t->flags = flags;
	t->known = known;
	t->local_type = type;
	t->local_port = port;
	t->ifindex = ifindex;
	return blocked;
}

/* Connecting to the unspecified address is connecting to oneself. */
static __always_inline void put_oneself(struct wfp_tuple *t)
{
	if (t->remote[0] | t->remote[1])
		return;
	if (is_v6(t->layer))
		t->remote[1] = 1;
	else
		t->remote[0] = 0x7f000001;
}

/* Finds out where the traffic will go: interface, local address, types. */
__noinline int wfp_put_destination(struct wfp_tuple *t, struct wfp_socket *s, __u32 bound_ifindex)
{
	struct wfp_route *route;
	int v6;

	if (!t || !s)
		return 0;
	v6 = is_v6(t->layer);
	put_oneself(t);
	route = find_route(t->remote, v6);
	t->destination_type = routed_type(t->remote, v6, route);
	if (route) {
		t->ifindex = route->local ? WFP_LOOPBACK_IFINDEX : route->ifindex;
		if (!(t->known & WFP_KNOWN_LOCAL_ADDRESS) && (route->src[0] | route->src[1])) {
			t->local[0] = route->src[0];
			t->local[1] = route->src[1];
			t->known |= WFP_KNOWN_LOCAL_ADDRESS;
		}
	}
	if (bound_ifindex && !(route && route->local))
		t->ifindex = bound_ifindex;
	t->local_type = t->known & WFP_KNOWN_LOCAL_ADDRESS ? WFP_NL_UNICAST : WFP_NL_UNSPECIFIED;
	s->ac_ifindex = t->ifindex;
	s->ac_local[0] = t->local[0];
	s->ac_local[1] = t->local[1];
	return 0;
}

/*
 * What a connect is judged with that its packet may belie. Returns the state
 * to keep, or WFP_SOCKET_AC_PENDING where it must wait for the packet.
 */
static __always_inline __u32 assume(struct wfp_tuple *t, const struct wfp_layer *l)
{
	struct wfp_config *c = ale_config();
	__u32 state = 0;

	if (WFP_USES(l, LOCAL_PORT) && !t->local_port) {
		if (!c || !(l->flags & WFP_LAYER_EPHEMERAL_UNIFORM))
			return WFP_SOCKET_AC_PENDING;
		t->local_port = c->ephemeral_low;
		t->known |= WFP_KNOWN_LOCAL_PORT | WFP_KNOWN_NOT_PICKED;
		state = WFP_SOCKET_AC_ASSUMED | WFP_SOCKET_AC_PORT;
	}
	if (WFP_USES_INTERFACE(l) || WFP_USES(l, LOCAL_ADDRESS) ||
	    WFP_USES(l, LOCAL_ADDRESS_TYPE) || WFP_USES(l, FLAGS))
		state |= WFP_SOCKET_AC_ASSUMED;
	return state;
}

/*
 * ALE_CONNECT_REDIRECT for a socket call. Returns 0 to deny it; where it is led
 * elsewhere, the tuple is. A datagram of a flow that is authorised is of one that was
 * not redirected, or of a peer's.
 */
static __always_inline int redirect(struct bpf_sock_addr *ctx, struct wfp_tuple *t,
				    struct wfp_socket *s, int connects)
{
	__u64 cookie = 0, filter;

	put_oneself(t);
	if (!connects) {
		cookie = bpf_get_socket_cookie(ctx);
		if (wfp_redirect_again(t, s, cookie))
			return 1;
		if (wfp_flow_alive(t, cookie, t->known & WFP_KNOWN_LOCAL_ADDRESS ?
						      WFP_FLOW_PENDING : WFP_FLOW_ANY))
			return 1;
	}
	if (implicit_bind(t, s))
		return 0;
	wfp_put_types(t);
	filter = wfp_redirect_judge(t, s, connect_redirect_layer(t));
	return filter != WFP_REDIRECT_BLOCKED &&
	       (!filter || wfp_redirect_to(ctx, t, s, filter, cookie) >= 0);
}

/* What a connect before was led to. */
static __always_inline void forget_redirect(struct bpf_sock *sk, struct wfp_socket *s)
{
	struct wfp_redirected *r;

	if (!(s->state & WFP_SOCKET_REDIRECTED))
		return;
	s->state &= ~WFP_SOCKET_REDIRECTED;
	r = bpf_sk_storage_get(&redirected, sk, 0, 0);
	if (r)
		r->known &= ~WFP_REDIRECTED_PEER;
}

/* ALE_AUTH_CONNECT for a socket call, of where ALE_CONNECT_REDIRECT has led it.
 * Returns 1 to go on, 0 to deny. */
static __always_inline int authorise(struct bpf_sock_addr *ctx, struct wfp_tuple *t,
				     struct wfp_socket *s, int connects)
{
	struct bpf_sock *sk = ctx->sk;
	struct wfp_layer *l;
	__u64 cookie = 0;
	__u32 state = 0, local_known = t->known & WFP_KNOWN_LOCAL_ADDRESS;

	t->generation = active_generation();
	t->protocol = ale_protocol(ctx->protocol);
	if (!t->protocol || !sk)
		return 1;
	t->remote_port = bpf_ntohs(ctx->user_port);
	t->local_port = sk->src_port;
	if (s && !t->local_port) /* of a bind that failed, or of a connection before */
		s->state &= ~(WFP_SOCKET_RA_DONE | WFP_SOCKET_RA_PORT);
	if (t->local_port)
		t->known |= WFP_KNOWN_LOCAL_PORT;
	if (connects)
		forget_redirect(sk, s);
	if (find_layer(t->generation, connect_redirect_layer(t)) && !redirect(ctx, t, s, connects))
		return deny();
	wfp_put_destination(t, s, sk->bound_dev_if);
	if (t->protocol == IPPROTO_UDP) {
		cookie = bpf_get_socket_cookie(ctx);
		if (wfp_flow_alive(t, cookie, local_known ? WFP_FLOW_PENDING : WFP_FLOW_ANY))
			return 1;
	}
	s->state &= ~(WFP_SOCKET_AC_PENDING | WFP_SOCKET_AC_ASSUMED | WFP_SOCKET_AC_PORT);
	if (implicit_bind(t, s))
		return deny();
	l = find_layer(t->generation, t->layer);
	s->epoch = l ? l->epoch : 0;
	s->of = (__u64)sk;
	if (l) {
		state = assume(t, l);
		if (state == WFP_SOCKET_AC_PENDING) {
			s->state |= state;
			return 1;
		}
		if (wfp_ale(t, s))
			return deny();
		s->state |= state;
	}
	if (cookie) {
		/* the address is known for sure only where the socket has one; without it
		 * the first packet still comes to ALE_FLOW_ESTABLISHED */
		t->known = find_layer(t->generation,
				      WFP_ALE_FLOW_ESTABLISHED_V4 | is_v6(t->layer)) ?
				   0 :
				   local_known;
		wfp_remember_flow(t, cookie, 0);
	}
	return 1;
}

static __always_inline int connect4(struct bpf_sock_addr *ctx, __u32 source, int connects)
{
	struct wfp_tuple t = {
		.layer = WFP_ALE_AUTH_CONNECT_V4,
		.remote = { bpf_ntohl(ctx->user_ip4), 0 },
	};
	struct wfp_socket *s = addr_socket(ctx);
	struct bpf_sock *sk = ctx->sk;

	if (!s || !sk)
		return 1;
	if (!source)
		source = sk->src_ip4;
	if (source) {
		t.local[0] = bpf_ntohl(source);
		t.known = WFP_KNOWN_LOCAL_ADDRESS;
	}
	if (!authorise(ctx, &t, s, connects))
		return 0;
	if (t.flags & WFP_FLAG_IS_CONNECTION_REDIRECTED) {
		ctx->user_ip4 = bpf_htonl(t.remote[0]);
		ctx->user_port = bpf_htons(t.remote_port);
	}
	return 1;
}

/* t holds the source address that the call names, if any. */
static __always_inline int connect6(struct bpf_sock_addr *ctx, struct wfp_tuple *t, int connects)
{
	struct wfp_socket *s = addr_socket(ctx);
	struct bpf_sock *sk = ctx->sk;

	if (!s || !sk)
		return 1;
	user_ip6(ctx, t->remote);
	if (!(t->local[0] | t->local[1])) {
		t->local[0] = (__u64)bpf_ntohl(sk->src_ip6[0]) << 32 | bpf_ntohl(sk->src_ip6[1]);
		t->local[1] = (__u64)bpf_ntohl(sk->src_ip6[2]) << 32 | bpf_ntohl(sk->src_ip6[3]);
	}
	if (is_mapped(t->remote)) {
		t->layer = WFP_ALE_AUTH_CONNECT_V4;
		t->remote[0] = (__u32)t->remote[1];
		t->remote[1] = 0;
		t->local[0] = is_mapped(t->local) ? (__u32)t->local[1] : 0;
		t->local[1] = 0;
	}
	if (t->local[0] | t->local[1])
		t->known = WFP_KNOWN_LOCAL_ADDRESS;
	if (!authorise(ctx, t, s, connects))
		return 0;
	if (t->flags & WFP_FLAG_IS_CONNECTION_REDIRECTED) {
		set_user_ip6(ctx, t, t->remote);
		ctx->user_port = bpf_htons(t->remote_port);
	}
	return 1;
}

SEC("cgroup/connect4")
int wfp_connect4(struct bpf_sock_addr *ctx)
{
	return connect4(ctx, 0, 1);
}

SEC("cgroup/sendmsg4")
int wfp_sendmsg4(struct bpf_sock_addr *ctx)
{
	return connect4(ctx, ctx->msg_src_ip4, 0);
}

SEC("cgroup/connect6")
int wfp_connect6(struct bpf_sock_addr *ctx)
{
	struct wfp_tuple t = { .layer = WFP_ALE_AUTH_CONNECT_V6 };

	return connect6(ctx, &t, 1);
}

SEC("cgroup/sendmsg6")
int wfp_sendmsg6(struct bpf_sock_addr *ctx)
{
	struct wfp_tuple t = { .layer = WFP_ALE_AUTH_CONNECT_V6 };

	t.local[0] = (__u64)bpf_ntohl(ctx->msg_src_ip6[0]) << 32 | bpf_ntohl(ctx->msg_src_ip6[1]);
	t.local[1] = (__u64)bpf_ntohl(ctx->msg_src_ip6[2]) << 32 | bpf_ntohl(ctx->msg_src_ip6[3]);
	return connect6(ctx, &t, 0);
}
