/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Reauthorisation (packetflows.md 7): when the filters of ALE_AUTH_CONNECT or
 * ALE_AUTH_RECV_ACCEPT change, the next packet of each flow that was authorised there,
 * whichever way it goes, is judged there again. What is blocked then carries nothing
 * more. The epoch of a layer tells its filters from others; a flow keeps that by which
 * it was authorised last.
 */
#pragma once

#include "ale.h"
#include "packet.h"
#include "redirect.h"

#define WFP_PASS 1
#define WFP_DROP 0

enum wfp_packet_kind {
	WFP_PACKET_UNREADABLE = -1,
	WFP_PACKET_LATER = 0, /* of a TCP connection */
	WFP_PACKET_FIRST = 1, /* a SYN without ACK, and each datagram */
};

static __always_inline int packet_kind(const struct wfp_headers *h)
{
	return h->protocol == IPPROTO_TCP && !h->syn ? WFP_PACKET_LATER : WFP_PACKET_FIRST;
}

static __always_inline int passes(int blocked)
{
	asm volatile("" : "+r"(blocked)); /* or clang counts on 0 and 1, the verifier does not */
	return blocked ? WFP_DROP : WFP_PASS;
}

int wfp_packet_tuple(struct __sk_buff *skb, struct wfp_tuple *t, __u32 outbound);

/* Judges a packet's flow at the layer of the tuple, where it was authorised. Returns
 * 1 where it is blocked. */
static __always_inline int reauthorise(struct wfp_tuple *t, struct wfp_socket *s, __u64 cookie,
				       __u32 outbound)
{
	__u32 v6 = is_v6(t->layer);

	t->flags = WFP_FLAG_IS_REAUTHORIZE;
	if (is_connect(t->layer))
		t->flags |= wfp_was_redirected(t, s, cookie);
	t->known |= WFP_KNOWN_AGAIN;
	t->local_type = WFP_NL_UNICAST;
	if (!is_connect(t->layer))
		t->local_type = routed_type(t->local, v6, find_route(t->local, v6));
	else
		t->destination_type = routed_type(t->remote, v6, find_route(t->remote, v6));
	if (!!outbound != is_connect(t->layer))
		t->known |= WFP_KNOWN_AGAINST;
	return wfp_ale(t, s);
}

/* The same of a flow of datagrams, which then is as the verdict says. */
__noinline int wfp_reauthorise_datagrams(struct wfp_tuple *t, struct wfp_socket *s, __u64 cookie,
					 __u32 outbound)
{
	int blocked;

	if (!t || !s)
		return 0;
	blocked = reauthorise(t, s, cookie, outbound);
	wfp_remember_flow(t, cookie, blocked ? WFP_FLOW_BLOCKED : 0);
	return blocked;
}

/* A datagram of a flow that was authorised before. */
static __always_inline int known_flow(struct wfp_tuple *t, struct wfp_socket *s, __u64 cookie,
				      int alive, __u32 outbound)
{
	if (alive == WFP_FLOW_ALIVE)
		return WFP_PASS;
	if (alive == WFP_FLOW_DEAD)
		return WFP_DROP;
	return passes(wfp_reauthorise_datagrams(t, s, cookie, outbound));
}

/* Notes by which filters a connection was authorised. */
__noinline int wfp_put_epoch(struct wfp_tuple *t, struct wfp_socket *s)
{
	if (t && s)
		s->epoch = layer_epoch(t->generation, t->layer);
	return 0;
}

static __always_inline void handshake_key(const struct wfp_tuple *t, struct wfp_handshake *key)
{
	key->local[0] = t->local[0];
	key->local[1] = t->local[1];
	key->remote[0] = t->remote[0];
	key->remote[1] = t->remote[1];
	key->local_port = t->local_port;
	key->remote_port = t->remote_port;
}

/* Remembers by which filters a SYN has passed: the socket that it is for is the
 * listener, and the connection's is not made before the handshake ends. */
__noinline int wfp_remember_handshake(struct wfp_tuple *t)
{
	struct wfp_handshake key = {};
	__u64 epoch;

	if (!t)
		return 0;
	handshake_key(t, &key);
	epoch = layer_epoch(t->generation, t->layer);
	if (epoch)
		bpf_map_update_elem(&handshakes, &key, &epoch, BPF_ANY);
	else /* filters that were there before may come back */
		bpf_map_delete_elem(&handshakes, &key);
	return 0;
}

/* The epoch of the SYN that a connection comes of; 0: no filter has seen it. */
__noinline __u64 wfp_handshake_epoch(struct wfp_tuple *t)
{
	struct wfp_handshake key = {};
	__u64 *epoch;

	if (!t)
		return 0;
	handshake_key(t, &key);
	epoch = bpf_map_lookup_elem(&handshakes, &key);
	return epoch ? *epoch : 0;
}

enum wfp_connection {
	WFP_CONNECTION_OUTBOUND = 1, /* the packet is */
	WFP_CONNECTION_ACCEPTED = 2,
	WFP_CONNECTION_NEW = 4, /* the socket has no epoch of its own yet */
};

/* Judges a TCP connection again, if need be. Returns 1 where its packet is dropped. */
__noinline int wfp_reauthorise_connection(struct __sk_buff *skb, struct wfp_tuple *t,
					  struct wfp_socket *s, __u32 how)
{
	__u64 epoch, was;

	if (!t || !s)
		return 0;
	if (wfp_packet_tuple(skb, t, how & WFP_CONNECTION_OUTBOUND) == WFP_PACKET_UNREADABLE) {
		if (how & WFP_CONNECTION_OUTBOUND)
			return 0; /* the outside of a tunnel */
		count(WFP_COUNTER_UNREADABLE);
		return 1;
	}
	t->layer = (how & WFP_CONNECTION_ACCEPTED ? WFP_ALE_AUTH_RECV_ACCEPT_V4 :
						    WFP_ALE_AUTH_CONNECT_V4) |
		   is_v6(t->layer);
	/* one that connected before its layer had filters has been judged by none */
	if (how & WFP_CONNECTION_NEW)
		s->epoch = how & WFP_CONNECTION_ACCEPTED ? wfp_handshake_epoch(t) : 0;
	epoch = layer_epoch(t->generation, t->layer);
	was = s->epoch;
	/* of packets at one time, one is judged */
	if (was == epoch || __sync_val_compare_and_swap(&s->epoch, was, epoch) != was)
		return 0;
	if (!reauthorise(t, s, 0, how & WFP_CONNECTION_OUTBOUND))
		return 0;
	s->epoch = WFP_EPOCH_BLOCKED;
	return 1;
}

/*
 * A packet of a TCP connection that is past its SYN. A socket that was accepted has
 * what its listener was identified by. Of one that is older than the engine it is not
 * known where it was authorised.
 */
static __always_inline int connection(struct __sk_buff *skb, struct bpf_sock *sk,
				      struct wfp_tuple *t, __u32 how)
{
	struct wfp_socket *s = bpf_sk_storage_get(&sockets, sk, 0, 0);
	__u32 layer = skb->protocol == bpf_htons(ETH_P_IPV6) ? 2 : 0;
	struct wfp_config *c;
	__u64 epoch;
	int blocked;

	if (!s)
		return WFP_PASS;
	if (s->self != (__u64)sk)
		how |= WFP_CONNECTION_ACCEPTED;
	layer |= how & WFP_CONNECTION_ACCEPTED ? WFP_ALE_AUTH_RECV_ACCEPT_V4 :
						 WFP_ALE_AUTH_CONNECT_V4;
	epoch = layer_epoch(active_generation(), layer);
	if (s->of == (__u64)sk) {
		if (s->epoch == epoch)
			return WFP_PASS;
		if (s->epoch == WFP_EPOCH_BLOCKED)
			return WFP_DROP;
	} else if (!epoch) { /* no filters of the layer: it was judged by none */
		s->epoch = 0;
		s->of = (__u64)sk;
		return WFP_PASS;
	} else {
		how |= WFP_CONNECTION_NEW;
	}
	c = ale_config();
	if (!c || s->netns_cookie != c->netns_cookie || sk->state == BPF_TCP_LISTEN ||
	    (s->state & WFP_SOCKET_OLD && !(how & WFP_CONNECTION_ACCEPTED)))
		return WFP_PASS;
	if (s->state & WFP_SOCKET_FLOW_BLOCKED)
		return WFP_DROP; /* hook_flow.h has cut it off, and may be gone by now */
	blocked = wfp_reauthorise_connection(skb, t, s, how);
	s->of = (__u64)sk;
	return passes(blocked);
}
