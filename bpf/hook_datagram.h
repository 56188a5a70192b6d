/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * DATAGRAM_DATA: each datagram of a flow, behind what authorises the flow. What comes
 * in for a UDP socket is judged where ALE judged it (hook_skb.h), each receiver's copy
 * by itself; of any other protocol at LOCAL_IN, since there may be no socket. What goes
 * out is judged at LOCAL_OUT, before OUTBOUND_TRANSPORT (packetflows.md 2 to 4). No
 * packet of a TCP connection comes here, and no ICMP error.
 */
#pragma once

#include "hook_above.h"
#include "hook_end.h"
#include "parts.h"

static __always_inline __u32 datagram_layer(__u32 layer)
{
	return (is_v6(layer) ? WFP_DATAGRAM_DATA_V6 : WFP_DATAGRAM_DATA_V4) | (layer & WFP_DISCARD);
}

/* Finds out the NL_ADDRESS_TYPE of the local address; of its own for the sake of the
 * stack. */
__noinline int wfp_put_local_type(struct wfp_tuple *t)
{
	int v6;

	if (!t)
		return 0;
	v6 = is_v6(t->layer);
	t->local_type = is_transport_out(t->layer) ?
				address_type(t->local, v6) :
				routed_type(t->local, v6, find_route(t->local, v6));
	return 0;
}

/* Classifies a datagram. A tuple's layer tells family and direction, as at the layers
 * above a transport layer. Returns a verdict. */
__noinline __u64 wfp_datagram_verdict(struct wfp_tuple *t)
{
	struct wfp_values v = {};
	struct wfp_layer *l;
	__u64 once;

	if (!t)
		return WFP_VERDICT_BLOCK | WFP_VERDICT_ERROR;
	v.layer = datagram_layer(t->layer);
	v.generation = t->generation;
	l = find_layer(v.generation, v.layer);
	if (!l)
		return 0;
	once = put_exchange(&v, l, t);
	put(&v, WFP_SLOT_PROTOCOL, t->protocol);
	if (t->known & WFP_KNOWN_LOCAL_PORT) {
		put(&v, WFP_SLOT_LOCAL_PORT, t->local_port);
		put(&v, WFP_SLOT_REMOTE_PORT, t->remote_port);
	}
	put(&v, WFP_SLOT_FLAGS, t->flags);
	put(&v, WFP_SLOT_LOCAL_ADDRESS_TYPE, t->local_type);
	return wfp_arbitrate(&v) | once;
}

static __always_inline void datagram(struct wfp_packet *p, const struct wfp_tuple *t)
{
	__u32 has = t->known & WFP_KNOWN_LOCAL_PORT ? WFP_KEPT_PORTS : 0;

	__builtin_memcpy(p->local, t->local, sizeof(p->local));
	__builtin_memcpy(p->remote, t->remote, sizeof(p->remote));
	pack(p, datagram_layer(t->layer), t->ifindex, t->flags, t->protocol,
	     has | (is_transport_out(t->layer) ? WFP_KEPT_OUTBOUND : 0), t->local_port,
	     t->remote_port);
}

/* These two are of their own as wfp_transport_kept and wfp_transport_keep are. */
__noinline __u64 wfp_datagram_kept(struct wfp_tuple *t, __u64 stamp)
{
	struct wfp_packet p;

	if (!t)
		return WFP_VERDICT_NOT_KEPT;
	datagram(&p, t);
	return find_verdict(&p, is_v6(t->layer), stamp);
}

__noinline int wfp_datagram_keep(struct wfp_tuple *t, __u64 stamp, __u64 verdict)
{
	struct wfp_packet p;

	if (!t)
		return 0;
	datagram(&p, t);
	keep_verdict(&p, is_v6(t->layer), stamp, verdict);
	return 0;
}

/* Classifies a blocked datagram at DATAGRAM_DATA_DISCARD. */
__noinline int wfp_datagram_discard(struct wfp_tuple *t, __u64 blocked)
{
	if (!t)
		return 0;
	t->layer |= WFP_DISCARD;
	if (!find_layer(t->generation, datagram_layer(t->layer)))
		return 0;
	wfp_put_local_type(t);
	return wfp_above_report(t, datagram_layer(t->layer), wfp_datagram_verdict(t), blocked);
}

/* The verdict on a datagram by the policy of the stamp, kept or new. */
static __always_inline __u64 judge_datagram(struct wfp_tuple *t, __u64 stamp)
{
	__u64 verdict;

	t->generation = stamp_generation(stamp);
	verdict = wfp_datagram_kept(t, stamp);
	if (verdict == WFP_VERDICT_NOT_KEPT) {
		wfp_put_local_type(t);
		verdict = wfp_datagram_verdict(t);
		wfp_datagram_keep(t, stamp, verdict);
	}
	return verdict;
}

/* Counts and reports it. Returns 1 where the datagram is blocked. */
static __always_inline int end_datagram(struct wfp_tuple *t, __u64 verdict)
{
	wfp_above_report(t, datagram_layer(t->layer), verdict, 0);
	if (!(verdict & WFP_VERDICT_BLOCK))
		return 0;
	wfp_datagram_discard(t, verdict);
	return 1;
}

/* Judges a datagram that comes in for a UDP socket, whose flow is authorised. Returns 1
 * where it is blocked. */
static __always_inline int datagram_in(struct __sk_buff *skb, struct wfp_tuple *t)
{
	__u64 stamp = active_stamp(), verdict;

	if (!find_layer(stamp_generation(stamp), datagram_layer(t->layer)))
		return 0;
	t->flags = 0; /* those of its authorisation */
	verdict = judge_datagram(t, stamp);
	wfp_note_skb(skb, datagram_layer(t->layer), 1, verdict);
	return end_datagram(t, verdict);
}

/* The socket of a program that a packet goes out by; NULL: the kernel's own. Of a packet
 * around another it is none, though that has one. What is left of a TCP connection, or
 * to become one, is no whole socket. */
static __always_inline struct sock *owner(struct bpf_nf_ctx *ctx)
{
	const struct nf_hook_state *state = ctx->state;
	struct sock *sk = BPF_CORE_READ(state, sk);
	__u32 at;

	if (!sk)
		return NULL;
	at = BPF_CORE_READ(sk, __sk_common.skc_state);
	if (at == BPF_TCP_TIME_WAIT || at == BPF_TCP_NEW_SYN_RECV ||
	    !BPF_CORE_READ(sk, sk_socket, file))
		return NULL;
	return sk;
}

enum wfp_sender {
	WFP_SENDER_RAW = 0x1,
	WFP_SENDER_OTHER = 0x2, /* of a cgroup that is not filtered */
};

/* What socket of a program a packet goes out by, if by one; it has a frame of its own
 * for the sake of the stack. */
__noinline int wfp_sender(struct bpf_nf_ctx *ctx)
{
	struct wfp_config *c = ale_config();
	struct sock *sk = owner(ctx);

	if (!sk || !c)
		return 0;
	return (BPF_CORE_READ(sk, sk_type) == SOCK_RAW ? WFP_SENDER_RAW : 0) |
	       (in_cgroup(sk, c) ? 0 : WFP_SENDER_OTHER);
}

/* Judges a packet, if it is a datagram that is judged here. What a program sends by a
 * socket of another cgroup is not. Returns what the hook does. */
__noinline int wfp_datagram_packet(struct bpf_nf_ctx *ctx, __u32 transport, __u64 stamp)
{
	struct wfp_tuple t = { .layer = transport };
	int read = wfp_transport_tuple(ctx, &t), sender;
	__u64 verdict;

	if (read < 0) {
		count(WFP_COUNTER_UNREADABLE);
		return NF_DROP;
	}
	if (!read || is_icmp_error(&t))
		return NF_ACCEPT;
	if (is_transport_out(transport)) {
		sender = wfp_sender(ctx);
		if (sender & WFP_SENDER_OTHER ||
		    (t.protocol == IPPROTO_TCP && !(sender & WFP_SENDER_RAW)))
			return NF_ACCEPT;
		if (sender & WFP_SENDER_RAW)
			t.flags = WFP_FLAG_IS_RAW_ENDPOINT;
	} else if (t.protocol == IPPROTO_TCP || t.protocol == IPPROTO_UDP) {
		return NF_ACCEPT;
	}
	verdict = judge_datagram(&t, stamp);
	wfp_note_nf(ctx, datagram_layer(t.layer), verdict);
	return end_datagram(&t, verdict) ? NF_DROP : NF_ACCEPT;
}
