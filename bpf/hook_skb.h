/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * cgroup_skb: inbound, ALE_AUTH_RECV_ACCEPT on a SYN at a listener and on the
 * first datagram from a peer, with the identity that the socket was made with;
 * outbound, what a socket call could not know: the port and the route of the
 * first packet, and connected UDP sockets whose flow has gone idle. Then
 * ALE_FLOW_ESTABLISHED of datagrams; of TCP it is in hook_flow.h. Both ways, flows
 * that were authorised by other filters than those in force (reauthorize.h). Then,
 * inbound, DATAGRAM_DATA.
 */
#pragma once

#include "flow.h"
#include "hook_datagram.h"
#include "packet.h"
#include "parts.h"
#include "reauthorize.h"
#include "redirect.h"

/* The endpoints of an inbound or outbound packet, and its enum wfp_packet_kind. */
__noinline int wfp_packet_tuple(struct __sk_buff *skb, struct wfp_tuple *t, __u32 outbound)
{
	struct wfp_headers h = {};

	if (!t || wfp_read_packet(skb, &h))
		return WFP_PACKET_UNREADABLE;
	t->generation = active_generation();
	t->layer = (outbound ? WFP_ALE_AUTH_CONNECT_V4 : WFP_ALE_AUTH_RECV_ACCEPT_V4) |
		   (h.v6 ? 2 : 0);
	t->protocol = h.protocol;
	t->ifindex = skb->ifindex;
	t->known = WFP_KNOWN_LOCAL_ADDRESS | WFP_KNOWN_LOCAL_PORT;
	t->local_type = WFP_NL_UNICAST;
	if (outbound) {
		__builtin_memcpy(t->local, h.source, sizeof(t->local));
		__builtin_memcpy(t->remote, h.destination, sizeof(t->remote));
		t->local_port = h.source_port;
		t->remote_port = h.destination_port;
		return packet_kind(&h);
	}
	__builtin_memcpy(t->local, h.destination, sizeof(t->local));
	__builtin_memcpy(t->remote, h.source, sizeof(t->remote));
	t->local_port = h.destination_port;
	t->remote_port = h.source_port;
	return packet_kind(&h);
}

/* The NL_ADDRESS_TYPE of a packet's destination. It is left until the packet has
 * to be judged: the datagrams of a flow that is authorised need no route. */
static __always_inline __u32 packet_type(const __u64 destination[2], __u32 layer)
{
	return routed_type(destination, is_v6(layer), find_route(destination, is_v6(layer)));
}

/* The same for a packet that goes out, in a frame of its own. */
__noinline int wfp_put_destination_type(struct wfp_tuple *t)
{
	if (t)
		t->destination_type = packet_type(t->remote, t->layer);
	return 0;
}

/* The socket of a packet with its identity; NULL where ALE does not apply. */
static __always_inline struct wfp_socket *skb_socket(struct bpf_sock *sk)
{
	struct wfp_config *c = ale_config();
	struct wfp_socket *s;

	if (!c || (sk->type != 1 && sk->type != 2)) /* SOCK_STREAM, SOCK_DGRAM */
		return NULL;
	s = bpf_sk_storage_get(&sockets, sk, 0, 0);
	if (!s) {
		count(WFP_COUNTER_NO_IDENTITY);
		return NULL;
	}
	return s->netns_cookie == c->netns_cookie ? s : NULL;
}

/* Whether the policy has anything to say to TCP at the V4 layer, at its V6 twin
 * or to its binds. Where it has not, the hooks that identify the subflows of
 * MPTCP are not attached. */
static __always_inline int tcp_judged(struct __sk_buff *skb, __u32 layer)
{
	__u32 generation = active_generation();
	__u32 v6 = skb->protocol == bpf_htons(ETH_P_IPV6) ? 2 : 0;

	return find_layer(generation, layer | v6) ||
	       find_layer(generation, WFP_ALE_RESOURCE_ASSIGNMENT_V4 | v6);
}

/* The same of a listener, whose SYNs may be of the other family than it is. */
static __always_inline int listener_judged(struct __sk_buff *skb)
{
	__u32 generation = active_generation();

	return tcp_judged(skb, WFP_ALE_AUTH_RECV_ACCEPT_V4) ||
	       find_layer(generation, WFP_ALE_RESOURCE_ASSIGNMENT_V6) ||
	       find_layer(generation, WFP_ALE_AUTH_LISTEN_V4) ||
	       find_layer(generation, WFP_ALE_AUTH_LISTEN_V6);
}

/* Authorises a packet. The tuple is filled in where it is one that ALE judges. */
static __always_inline int accept_packet(struct __sk_buff *skb, struct wfp_tuple *t)
{
	struct bpf_sock *sk = skb->sk;
	struct wfp_socket *s;
	__u64 cookie = 0;
	int read, alive;

	if (!sk)
		return WFP_PASS;
	sk = bpf_sk_fullsock(sk);
	if (!sk)
		return WFP_PASS;
	if (sk->protocol == IPPROTO_TCP && sk->state != BPF_TCP_LISTEN)
		return connection(skb, sk, t, 0);
	if (sk->protocol != IPPROTO_UDP && !listener_judged(skb))
		return WFP_PASS;
	s = skb_socket(sk);
	if (!s)
		return WFP_PASS;
	if (s->state & (WFP_SOCKET_RA_BLOCKED | WFP_SOCKET_LISTEN_BLOCKED))
		return WFP_DROP;
	read = wfp_packet_tuple(skb, t, 0);
	if (read == WFP_PACKET_UNREADABLE &&
	    (find_layer(active_generation(), WFP_ALE_AUTH_RECV_ACCEPT_V6) ||
	     find_layer(active_generation(), WFP_ALE_AUTH_CONNECT_V6) ||
	     find_layer(active_generation(), WFP_ALE_FLOW_ESTABLISHED_V6) ||
	     find_layer(active_generation(), WFP_DATAGRAM_DATA_V6))) {
		count(WFP_COUNTER_UNREADABLE);
		return WFP_DROP;
	}
	if (read != WFP_PACKET_FIRST)
		return WFP_PASS;
	if (t->protocol == IPPROTO_UDP) {
		cookie = bpf_get_socket_cookie(skb);
		alive = wfp_flow_alive(t, cookie, WFP_FLOW_LOCAL);
		if (alive != WFP_FLOW_NONE)
			return known_flow(t, s, cookie, alive, 0);
	}
	t->local_type = packet_type(t->local, t->layer);
	/* it is not known yet whether they are told of, but a flow comes here once */
	wfp_note_skb(skb, t->layer, 1, WFP_VERDICT_BLOCK);
	if (wfp_ale(t, s))
		return WFP_DROP;
	if (!cookie)
		wfp_remember_handshake(t);
	if (cookie) {
		t->destination_type = t->local_type;
		wfp_note_skb(skb, WFP_ALE_FLOW_ESTABLISHED_V4 | is_v6(t->layer), 1, WFP_VERDICT_BLOCK);
		if (establish_datagrams(t, s, WFP_ALE_AUTH_RECV_ACCEPT_V4, cookie))
			return WFP_DROP;
		wfp_remember_flow(t, cookie, 0);
	}
	forget_parts();
	return WFP_PASS;
}

SEC("cgroup_skb/ingress")
int wfp_skb_ingress(struct __sk_buff *skb)
{
	struct wfp_tuple t = {};

	if (accept_packet(skb, &t) != WFP_PASS ||
	    (t.protocol == IPPROTO_UDP && datagram_in(skb, &t)))
		return WFP_DROP;
	return WFP_PASS;
}

/* Judges an implicit bind whose port is known by now. Returns 1 for block: that of TCP,
 * which was judged before its SYN (hook_sock_ops.h), holds for each SYN; what is sent
 * without a connection is judged again. */
__noinline int wfp_late_bind(struct wfp_tuple *to, struct wfp_socket *s)
{
	struct wfp_config *c = ale_config();
	struct wfp_tuple t = {
		.flags = WFP_FLAG_IS_WILDCARD_BIND,
		.known = WFP_KNOWN_LOCAL_PORT,
	};

	if (!to || !s || !c)
		return 0;
	if (to->protocol == IPPROTO_TCP && s->state & WFP_SOCKET_RA_BLOCKED)
		return 1;
	if (!bind_pending(s, c, to->local_port)) {
		s->state &= ~WFP_SOCKET_RA_PORT; /* it is one of those that were assumed */
		return 0;
	}
	t.layer = WFP_ALE_RESOURCE_ASSIGNMENT_V4 | is_v6(to->layer);
	t.generation = to->generation;
	t.protocol = to->protocol;
	t.local_port = to->local_port;
	__builtin_memcpy(t.local, to->local, sizeof(t.local));
	wfp_bound_part(&t, s);
	if (!wfp_ale(&t, s))
		return bind_judged(s, 0);
	if (to->protocol == IPPROTO_TCP)
		return bind_judged(s, 1);
	s->state |= WFP_SOCKET_RA_PENDING;
	return 1;
}

/* Whether the connect was judged with other facts than the packet shows. */
static __always_inline int assumption_failed(struct wfp_socket *s, const struct wfp_tuple *t)
{
	struct wfp_config *c = ale_config();

	if (s->state & WFP_SOCKET_AC_PENDING)
		return 1;
	if (!(s->state & WFP_SOCKET_AC_ASSUMED))
		return 0;
	if (s->ac_ifindex != t->ifindex || s->ac_local[0] != t->local[0] ||
	    s->ac_local[1] != t->local[1])
		return 1;
	return s->state & WFP_SOCKET_AC_PORT &&
	       (!c || t->local_port < c->ephemeral_low || t->local_port > c->ephemeral_high);
}

SEC("cgroup_skb/egress")
int wfp_skb_egress(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;
	struct wfp_tuple t = {};
	struct wfp_socket *s;
	__u64 cookie = 0;
	int authorised, alive;

	if (!sk)
		return WFP_PASS;
	sk = bpf_sk_fullsock(sk);
	if (!sk)
		return WFP_PASS;
	if (sk->protocol == IPPROTO_TCP && sk->state != BPF_TCP_SYN_SENT)
		return connection(skb, sk, &t, 1);
	if (sk->protocol != IPPROTO_UDP && !tcp_judged(skb, WFP_ALE_AUTH_CONNECT_V4))
		return WFP_PASS;
	s = skb_socket(sk);
	if (!s || wfp_packet_tuple(skb, &t, 1) != WFP_PACKET_FIRST)
		return WFP_PASS; /* unreadable: the outside of a tunnel, whose inside was judged */
	authorised = 1;
	if (t.protocol == IPPROTO_UDP) {
		cookie = bpf_get_socket_cookie(skb);
		/* one with a bind that is still to be judged does not pass as it is */
		alive = s->state & (WFP_SOCKET_RA_PENDING | WFP_SOCKET_RA_PORT) ?
				WFP_FLOW_NONE :
				wfp_flow_alive(&t, cookie, WFP_FLOW_LOCAL);
		if (alive != WFP_FLOW_NONE)
			return known_flow(&t, s, cookie, alive, 1);
		authorised = wfp_flow_alive(&t, cookie, WFP_FLOW_PENDING) == WFP_FLOW_ALIVE;
	}
	if (assumption_failed(s, &t))
		authorised = 0;
	if (wfp_late_bind(&t, s))
		return WFP_DROP;
	if (!authorised || cookie)
		wfp_put_destination_type(&t);
	if (!authorised) {
		wfp_note_skb(skb, t.layer, 1, WFP_VERDICT_BLOCK);
		t.flags |= wfp_was_redirected(&t, s, cookie);
		if (wfp_ale(&t, s)) {
			if (is_reauthorised(&t)) /* the filters have changed since the socket call */
				wfp_remember_flow(&t, cookie, WFP_FLOW_BLOCKED);
			return WFP_DROP;
		}
	}
	t.flags = 0;
	t.known &= ~WFP_KNOWN_AGAIN;
	if (!cookie && !authorised)
		wfp_put_epoch(&t, s);
	s->state &= ~(WFP_SOCKET_AC_PENDING | WFP_SOCKET_AC_ASSUMED | WFP_SOCKET_AC_PORT);
	if (cookie) {
		t.known |= WFP_KNOWN_OUTBOUND;
		wfp_note_skb(skb, WFP_ALE_FLOW_ESTABLISHED_V4 | is_v6(t.layer), 1, WFP_VERDICT_BLOCK);
		if (establish_datagrams(&t, s, WFP_ALE_AUTH_CONNECT_V4, cookie))
			return WFP_DROP;
		wfp_remember_flow(&t, cookie, 0);
	}
	forget_parts();
	return WFP_PASS;
}
