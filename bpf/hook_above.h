/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * What lies above the transport layers, at the same hooks: INBOUND_ICMP_ERROR and
 * inbound STREAM_PACKET after INBOUND_TRANSPORT, OUTBOUND_ICMP_ERROR and outbound
 * STREAM_PACKET before OUTBOUND_TRANSPORT (packetflows.md 1.1, 3). A tuple's layer is
 * the transport layer here, which tells family and direction.
 *
 * ICMP errors are the messages that RFC 1122, 3.2.2 and RFC 4443, 2.1 call so. One
 * that comes in quotes a packet that is taken for one of ours: its source is local.
 * What of the quote is cut off cannot be tested: where a filter asks for it, the
 * packet is dropped and counted, as one whose ports cannot be read.
 */
#pragma once

#include "hook_netfilter.h"

/* Behind its type and code, an error has 4 bytes of its own and then the quote. */
#define WFP_ICMP_QUOTE 8

/* ICMP_DEST_UNREACH, ICMP_SOURCE_QUENCH, ICMP_REDIRECT, ICMP_TIME_EXCEEDED and
 * ICMP_PARAMETERPROB */
#define WFP_ICMP_ERRORS (1U << 3 | 1U << 4 | 1U << 5 | 1U << 11 | 1U << 12)
#define WFP_ICMPV6_INFORMATION 128 /* types from here on are no errors */

enum wfp_direction { /* FWP_DIRECTION */
	WFP_DIRECTION_OUTBOUND = 0,
	WFP_DIRECTION_INBOUND = 1,
};

/* What a quote gives values to. */
#define WFP_QUOTE_PORTS                                                                    \
	(1U << WFP_SLOT_EMBEDDED_LOCAL_PORT | 1U << WFP_SLOT_EMBEDDED_REMOTE_PORT)
#define WFP_QUOTE_PROTOCOL (1U << WFP_SLOT_EMBEDDED_PROTOCOL)
#define WFP_QUOTE_ADDRESSES                                                                \
	(1U << WFP_SLOT_EMBEDDED_REMOTE_ADDRESS | 1U << WFP_SLOT_EMBEDDED_LOCAL_ADDRESS_TYPE)

static __always_inline int is_icmp_error(const struct wfp_tuple *t)
{
	__u32 type = t->local_port;

	if (is_v6(t->layer))
		return t->protocol == IPPROTO_ICMPV6 && type < WFP_ICMPV6_INFORMATION;
	return t->protocol == IPPROTO_ICMP && type < 32 && WFP_ICMP_ERRORS & 1U << type;
}

/* Puts the fields of a quote, most where classify.h knows no place: no other layer has
 * them. Returns which slots have no value since it is cut off. Of a fragment that is not
 * the first the ports are taken for cut off: the kernel looks for the socket by what
 * stands in their place. */
__noinline __u32 wfp_icmp_quote(struct bpf_nf_ctx *ctx, struct wfp_values *v, __u32 offset,
				__u32 v6)
{
	struct wfp_headers h = {};
	struct bpf_dynptr dynptr;
	struct wfp_bytes p = { .dynptr = &dynptr };
	__u16 port[2] = {};
	int at, ports;

	if (!v || bpf_dynptr_from_skb((struct __sk_buff *)ctx->skb, 0, &dynptr))
		return WFP_QUOTE_ADDRESSES | WFP_QUOTE_PROTOCOL | WFP_QUOTE_PORTS;
	at = read_ip(p, v6, offset, &h);
	if (at < 0)
		return WFP_QUOTE_ADDRESSES | WFP_QUOTE_PROTOCOL | WFP_QUOTE_PORTS;
	v->word[13] = h.destination[0];
	v->word[14] = h.destination[1];
	v->present |= 1U << WFP_SLOT_EMBEDDED_REMOTE_ADDRESS;
	put(v, WFP_SLOT_EMBEDDED_LOCAL_ADDRESS_TYPE,
	    routed_type(h.source, v6, find_route(h.source, v6)));
	if (v6)
		at = skip_extensions(p, at, &h, 1);
	if (at < 0 || (v6 && is_extension(h.protocol)))
		return WFP_QUOTE_PROTOCOL | WFP_QUOTE_PORTS;
	put(v, WFP_SLOT_EMBEDDED_PROTOCOL, h.protocol);
	if (h.fragment == WFP_FRAGMENT_NEXT)
		return WFP_QUOTE_PORTS;
	/* the fields of ports are not named for the type and code of ICMP, as elsewhere */
	if (h.protocol == IPPROTO_ICMP || h.protocol == IPPROTO_ICMPV6)
		return 0;
	ports = read_transport(p, at, &h, port);
	if (ports < 0)
		return WFP_QUOTE_PORTS;
	if (ports) {
		v->word[12] = (__u64)port[1] << 16 | port[0];
		v->present |= WFP_QUOTE_PORTS;
	}
	return 0;
}

/* No verdict: a filter asks for what is cut off. */
#define WFP_VERDICT_CUT_OFF WFP_VERDICT_NOT_KEPT

/* Classifies an ICMP error; where it goes out its quote does not count. Returns a verdict
 * or WFP_VERDICT_CUT_OFF. */
__noinline __u64 wfp_icmp_verdict(struct bpf_nf_ctx *ctx, struct wfp_tuple *t, __u32 offset)
{
	struct wfp_values v = {};
	struct wfp_link *link;
	struct wfp_layer *l;
	int v6, outbound;

	if (!t)
		return WFP_VERDICT_BLOCK | WFP_VERDICT_ERROR;
	v6 = is_v6(t->layer);
	outbound = is_transport_out(t->layer);
	v.layer = icmp_error_layer(t->layer);
	v.generation = t->generation;
	l = find_layer(v.generation, v.layer);
	if (!l)
		return 0;
	put_address(&v, WFP_SLOT_LOCAL_ADDRESS, t->local);
	put_address(&v, WFP_SLOT_REMOTE_ADDRESS, t->remote);
	put(&v, WFP_SLOT_LOCAL_PORT, t->local_port);
	put(&v, WFP_SLOT_REMOTE_PORT, t->remote_port);
	put(&v, WFP_SLOT_FLAGS, t->ifindex == WFP_LOOPBACK_IFINDEX ? WFP_FLAG_IS_LOOPBACK : 0);
	if (outbound)
		put(&v, WFP_SLOT_LOCAL_ADDRESS_TYPE, address_type(t->local, v6));
	else if (l->used & wfp_icmp_quote(ctx, &v, offset + WFP_ICMP_QUOTE, v6))
		return WFP_VERDICT_CUT_OFF;
	if (WFP_USES_INTERFACE(l)) {
		link = find_link(t->generation, t->ifindex);
		put_interface(&v, WFP_SLOT_LOCAL_INTERFACE, t->ifindex, link);
		if (!outbound)
			put_interface(&v, WFP_SLOT_PACKET_INTERFACE, t->ifindex, link);
		if (link) {
			put(&v, WFP_SLOT_CURRENT_PROFILE, link->profile);
			put(&v, WFP_SLOT_QUARANTINE_EPOCH, v6 ? link->epoch[1] : link->epoch[0]);
		}
	}
	return wfp_arbitrate(&v);
}

/* Counts a verdict of one of these layers and reports it; of a discard layer with the
 * verdict that blocked, else with 0. */
__noinline int wfp_above_report(struct wfp_tuple *t, __u32 layer, __u64 verdict, __u64 blocked)
{
	struct wfp_event *e;

	if (!t)
		return 0;
	e = report(t->generation, verdict);
	if (!e)
		return 0;
	__builtin_memcpy(e->local, t->local, sizeof(e->local));
	__builtin_memcpy(e->remote, t->remote, sizeof(e->remote));
	e->layer = layer;
	e->local_port = t->local_port;
	e->remote_port = t->remote_port;
	e->protocol = t->protocol;
	e->outbound = is_transport_out(t->layer);
	e->ifindex = t->ifindex;
	if (blocked)
		put_blocker(e, t->generation, blocked);
	bpf_ringbuf_submit(e, 0);
	return 0;
}

/* Judges a packet, if it is an ICMP error. Returns what the hook does. */
__noinline int wfp_icmp_error(struct bpf_nf_ctx *ctx, __u32 transport, __u64 stamp)
{
	struct wfp_tuple t = {
		.generation = stamp_generation(stamp),
		.layer = transport,
	};
	__u64 verdict = WFP_VERDICT_CUT_OFF, discarded;
	int offset = wfp_transport_tuple(ctx, &t);

	if (!offset || (offset > 0 && !is_icmp_error(&t)))
		return NF_ACCEPT;
	if (offset > 0)
		verdict = wfp_icmp_verdict(ctx, &t, offset);
	if (verdict == WFP_VERDICT_CUT_OFF) {
		count(WFP_COUNTER_UNREADABLE);
		return NF_DROP;
	}
	wfp_note_nf(ctx, icmp_error_layer(transport), verdict);
	wfp_above_report(&t, icmp_error_layer(transport), verdict, 0);
	if (!(verdict & WFP_VERDICT_BLOCK))
		return NF_ACCEPT;
	t.layer |= WFP_DISCARD;
	if (!find_layer(t.generation, icmp_error_layer(t.layer)))
		return NF_DROP;
	discarded = wfp_icmp_verdict(ctx, &t, offset);
	/* what is cut off decides nothing there: the packet is dropped already */
	if (discarded != WFP_VERDICT_CUT_OFF)
		wfp_above_report(&t, icmp_error_layer(t.layer), discarded, verdict);
	else
		count(WFP_COUNTER_UNREADABLE);
	return NF_DROP;
}

/* Puts what a packet is to STREAM_PACKET and to DATAGRAM_DATA alike. Returns
 * WFP_VERDICT_ONCE where its interface is asked for and not known: each packet counts
 * that anew. */
static __always_inline __u64 put_exchange(struct wfp_values *v, const struct wfp_layer *l,
					  const struct wfp_tuple *t)
{
	const __u32 interface = 1U << WFP_SLOT_LOCAL_INTERFACE | 1U << WFP_SLOT_INTERFACE_INDEX |
				1U << WFP_SLOT_INTERFACE_TYPE;
	struct wfp_link *link;

	put_address(v, WFP_SLOT_LOCAL_ADDRESS, t->local);
	put_address(v, WFP_SLOT_REMOTE_ADDRESS, t->remote);
	put(v, WFP_SLOT_DIRECTION,
	    is_transport_out(t->layer) ? WFP_DIRECTION_OUTBOUND : WFP_DIRECTION_INBOUND);
	if (!(l->used & interface))
		return 0;
	link = find_link(t->generation, t->ifindex);
	put_interface(v, WFP_SLOT_LOCAL_INTERFACE, t->ifindex, link);
	return link ? 0 : WFP_VERDICT_ONCE;
}

/* Classifies a TCP packet. Returns a verdict. */
__noinline __u64 wfp_stream_verdict(struct wfp_tuple *t)
{
	struct wfp_values v = {};
	struct wfp_layer *l;
	__u64 once;

	if (!t)
		return WFP_VERDICT_BLOCK | WFP_VERDICT_ERROR;
	v.layer = stream_packet_layer(t->layer);
	v.generation = t->generation;
	l = find_layer(v.generation, v.layer);
	if (!l)
		return 0;
	once = put_exchange(&v, l, t);
	put(&v, WFP_SLOT_LOCAL_PORT, t->local_port);
	put(&v, WFP_SLOT_REMOTE_PORT, t->remote_port);
	put(&v, WFP_SLOT_FLAGS, t->ifindex == WFP_LOOPBACK_IFINDEX ? WFP_FLAG_IS_LOOPBACK : 0);
	return wfp_arbitrate(&v) | once;
}

/* The layer is that of both directions; no packet of it is told by its link. */
#define WFP_KEPT_OUTBOUND WFP_KEPT_BARE

static __always_inline void stream_packet(struct wfp_packet *p, const struct wfp_tuple *t)
{
	__builtin_memcpy(p->local, t->local, sizeof(p->local));
	__builtin_memcpy(p->remote, t->remote, sizeof(p->remote));
	pack(p, stream_packet_layer(t->layer), t->ifindex, 0, t->protocol,
	     WFP_KEPT_PORTS | (is_transport_out(t->layer) ? WFP_KEPT_OUTBOUND : 0),
	     t->local_port, t->remote_port);
}

/* These two are of their own as wfp_transport_kept and wfp_transport_keep are. */
__noinline __u64 wfp_stream_kept(struct wfp_tuple *t, __u64 stamp)
{
	struct wfp_packet p;

	if (!t)
		return WFP_VERDICT_NOT_KEPT;
	stream_packet(&p, t);
	return find_verdict(&p, is_v6(t->layer), stamp);
}

__noinline int wfp_stream_keep(struct wfp_tuple *t, __u64 stamp, __u64 verdict)
{
	struct wfp_packet p;

	if (!t)
		return 0;
	stream_packet(&p, t);
	keep_verdict(&p, is_v6(t->layer), stamp, verdict);
	return 0;
}

/* Judges a packet, if it is one of TCP. Returns what the hook does. */
__noinline int wfp_stream_packet(struct bpf_nf_ctx *ctx, __u32 transport, __u64 stamp)
{
	struct wfp_tuple t = {
		.generation = stamp_generation(stamp),
		.layer = transport,
	};
	int read = wfp_transport_tuple(ctx, &t);
	__u64 verdict;

	if (read < 0) {
		count(WFP_COUNTER_UNREADABLE);
		return NF_DROP;
	}
	if (!read || t.protocol != IPPROTO_TCP)
		return NF_ACCEPT;
	verdict = wfp_stream_kept(&t, stamp);
	if (verdict == WFP_VERDICT_NOT_KEPT) {
		verdict = wfp_stream_verdict(&t);
		wfp_stream_keep(&t, stamp, verdict);
	}
	wfp_note_nf(ctx, stream_packet_layer(t.layer), verdict);
	wfp_above_report(&t, stream_packet_layer(t.layer), verdict, 0);
	return verdict & WFP_VERDICT_BLOCK ? NF_DROP : NF_ACCEPT;
}
