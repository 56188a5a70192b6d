/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * netfilter LOCAL_IN: INBOUND_TRANSPORT, after reassembly and before the socket
 * is looked up, so before ALE_AUTH_RECV_ACCEPT (packetflows.md 1, 2). LOCAL_OUT:
 * OUTBOUND_TRANSPORT, before the packet is fragmented. Every packet of every
 * protocol is judged, also what the kernel answers by itself. A blocked packet is
 * dropped; of its sender, a UDP socket is told so (EPERM). ICMP_ERROR and
 * STREAM_PACKET lie above both (hook_above.h), and DATAGRAM_DATA (hook_datagram.h).
 *
 * The kernel reassembles IPv6 behind LOCAL_IN, unless connections are tracked.
 * There the first fragment stands for the datagram: it holds all headers (RFC
 * 7112) and no other may overlap it (RFC 5722), or the kernel drops them all;
 * without it the others come to nothing, so they pass.
 */
#pragma once

#include "ale.h"
#include "kernel_socket.h"
#include "packet.h"
#include "parts.h"
#include "verdicts.h"

#define NF_DROP 0
#define NF_ACCEPT 1
#define NFPROTO_IPV6 10

#define IPPROTO_ICMP 1
#define IPPROTO_DCCP 33
#define IPPROTO_ICMPV6 58
#define IPPROTO_SCTP 132
#define IPPROTO_UDPLITE 136

#define SOCK_RAW 3

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct nf_hook_state {
	__u8 pf;
	struct net_device *in;
	struct net_device *out;
	struct sock *sk; /* that the packet goes out by */
};
struct sk_buff {
	struct sock *sk;
	unsigned int len;
	unsigned int data_len; /* of it, not in line */
	unsigned char *data;
};
struct bpf_nf_ctx {
	const struct nf_hook_state *state;
	struct sk_buff *skb;
};
#pragma clang attribute pop

extern void *bpf_rdonly_cast(const void *object, __u32 type) __ksym;
extern int bpf_dynptr_from_skb(struct __sk_buff *skb, __u64 flags,
			       struct bpf_dynptr *dynptr) __ksym;

/* Reads what stands in the port fields: the ports of a protocol that has them,
 * source first; of ICMP the type and the code. Of other protocols the fields stay
 * empty. Returns how many ports were read, or -1 where they are cut off. */
static __always_inline int read_transport(struct wfp_bytes p, int offset,
					  const struct wfp_headers *h, __u16 port[2])
{
	__u8 b[4];

	switch (h->protocol) {
	case IPPROTO_TCP:
	case IPPROTO_UDP:
	case IPPROTO_DCCP:
	case IPPROTO_SCTP:
	case IPPROTO_UDPLITE:
		if (load_next(p, offset, h, b))
			return -1;
		port[0] = b[0] << 8 | b[1];
		port[1] = b[2] << 8 | b[3];
		return 2;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		if (h->protocol != (h->v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP))
			return 0;
		if (load(p, offset, b, 2))
			return -1;
		port[0] = b[0];
		port[1] = b[1];
		return 1;
	}
	return 0;
}

/* The endpoints of a packet, whose layer is set. Returns where what follows the IP
 * headers begins, or 0 where it is a fragment that another one stands for, or -1 where
 * it cannot be read. */
__noinline int wfp_transport_tuple(struct bpf_nf_ctx *ctx, struct wfp_tuple *t)
{
	struct wfp_headers h = {};
	struct bpf_dynptr dynptr;
	struct wfp_bytes p = { .dynptr = &dynptr };
	int offset, v6, outbound, ports;
	__u16 port[2] = {};

	if (!t || bpf_dynptr_from_skb((struct __sk_buff *)ctx->skb, 0, &dynptr))
		return -1;
	v6 = is_v6(t->layer);
	outbound = is_transport_out(t->layer);
	offset = read_ip(p, v6, 0, &h);
	if (offset > 0 && v6)
		offset = skip_extensions(p, offset, &h, 1);
	if (offset < 0)
		return -1;
	if (h.fragment == WFP_FRAGMENT_NEXT)
		return 0;
	ports = read_transport(p, offset, &h, port);
	if (ports < 0)
		return -1;
	t->protocol = h.protocol;
	t->known = WFP_KNOWN_LOCAL_ADDRESS | (ports ? WFP_KNOWN_LOCAL_PORT : 0);
	if (outbound) {
		__builtin_memcpy(t->local, h.source, sizeof(t->local));
		__builtin_memcpy(t->remote, h.destination, sizeof(t->remote));
		t->ifindex = ctx->state->out->ifindex;
	} else {
		__builtin_memcpy(t->local, h.destination, sizeof(t->local));
		__builtin_memcpy(t->remote, h.source, sizeof(t->remote));
		t->ifindex = ctx->state->in->ifindex;
	}
	/* the type of ICMP is local whichever way it goes */
	if (outbound || ports == 1) {
		t->local_port = port[0];
		t->remote_port = port[1];
	} else {
		t->local_port = port[1];
		t->remote_port = port[0];
	}
	return offset;
}

/* Classifies a packet. Returns a verdict. */
__noinline __u64 wfp_transport_verdict(struct wfp_tuple *t)
{
	struct wfp_values v = {};
	struct wfp_link *link;
	struct wfp_layer *l;
	__u64 once = 0;
	int v6;

	if (!t)
		return WFP_VERDICT_BLOCK | WFP_VERDICT_ERROR;
	l = find_layer(t->generation, t->layer);
	if (!l)
		return 0;
	v6 = is_v6(t->layer);
	v.layer = t->layer;
	v.generation = t->generation;
	put_address(&v, WFP_SLOT_LOCAL_ADDRESS, t->local);
	put_address(&v, WFP_SLOT_REMOTE_ADDRESS, t->remote);
	if (is_transport_out(t->layer)) {
		put(&v, WFP_SLOT_LOCAL_ADDRESS_TYPE, address_type(t->local, v6));
		if (WFP_USES(l, DESTINATION_ADDRESS_TYPE))
			put(&v, WFP_SLOT_DESTINATION_ADDRESS_TYPE,
			    routed_type(t->remote, v6, find_route(t->remote, v6)));
	} else if (WFP_USES(l, LOCAL_ADDRESS_TYPE)) {
		put(&v, WFP_SLOT_LOCAL_ADDRESS_TYPE,
		    routed_type(t->local, v6, find_route(t->local, v6)));
	}
	put(&v, WFP_SLOT_PROTOCOL, t->protocol);
	if (t->known & WFP_KNOWN_LOCAL_PORT) {
		put(&v, WFP_SLOT_LOCAL_PORT, t->local_port);
		put(&v, WFP_SLOT_REMOTE_PORT, t->remote_port);
	}
	put(&v, WFP_SLOT_FLAGS,
	    t->flags | (t->ifindex == WFP_LOOPBACK_IFINDEX ? WFP_FLAG_IS_LOOPBACK : 0));
	if (WFP_USES_INTERFACE(l)) {
		link = find_link(t->generation, t->ifindex);
		if (link || t->ifindex) /* of what the kernel drops it may not be known */
			put_interface(&v, WFP_SLOT_LOCAL_INTERFACE, t->ifindex, link);
		if (link)
			put(&v, WFP_SLOT_CURRENT_PROFILE, link->profile);
		else
			once = WFP_VERDICT_ONCE; /* each packet counts that anew */
	}
	return wfp_arbitrate(&v) | once;
}

static __always_inline int transport_packet(struct wfp_packet *p, const struct wfp_tuple *t)
{
	__builtin_memcpy(p->local, t->local, sizeof(p->local));
	__builtin_memcpy(p->remote, t->remote, sizeof(p->remote));
	return pack(p, t->layer, t->ifindex, t->flags, t->protocol,
		    t->known & WFP_KNOWN_LOCAL_PORT ? WFP_KEPT_PORTS : 0, t->local_port,
		    t->remote_port);
}

/* These two are functions of their own for the sake of the stack: what they need
 * must not lie under what classifying needs. */
__noinline __u64 wfp_transport_kept(struct wfp_tuple *t, __u64 stamp)
{
	struct wfp_packet p;

	if (!t || !transport_packet(&p, t))
		return WFP_VERDICT_NOT_KEPT;
	return find_verdict(&p, is_v6(t->layer), stamp);
}

__noinline int wfp_transport_keep(struct wfp_tuple *t, __u64 stamp, __u64 verdict)
{
	struct wfp_packet p;

	if (t && transport_packet(&p, t))
		keep_verdict(&p, is_v6(t->layer), stamp, verdict);
	return 0;
}

/* Whether a packet is of a raw socket of a program: the kernel answers by raw
 * sockets, too, which have no file. What is left of a TCP connection, or to
 * become one, is no whole socket. */
static __always_inline int from_raw_socket(struct sk_buff *skb)
{
	struct sock *sk = BPF_CORE_READ(skb, sk);
	__u32 state;

	if (!sk)
		return 0;
	state = BPF_CORE_READ(sk, __sk_common.skc_state);
	return state != BPF_TCP_TIME_WAIT && state != BPF_TCP_NEW_SYN_RECV &&
	       BPF_CORE_READ(sk, sk_type) == SOCK_RAW && BPF_CORE_READ(sk, sk_socket, file);
}

/* 16 bytes of a packet, which are in line, as words in the order of the network. To
 * the verifier they are of a type of that size: so no call is needed to read them. */
static __always_inline const void *words_at(const unsigned char *data)
{
	return bpf_rdonly_cast(data, bpf_core_type_id_kernel(struct in6_addr));
}

static __always_inline void address_at(const unsigned char *data, __u64 address[2])
{
	const __u64 *half = words_at(data);

	address[0] = bpf_be64_to_cpu(half[0]);
	address[1] = bpf_be64_to_cpu(half[1]);
}

/* The verdict that is kept on a packet, if it is as most are: TCP or UDP right behind
 * an IP header without options, no fragment, and all that in line. Others are not
 * sought here. A call takes longer than any step of this: there is none. */
static __always_inline __u64 find_transport(struct bpf_nf_ctx *ctx, __u32 layer, __u32 flags,
					    __u64 stamp)
{
	int v6 = is_v6(layer), outbound = is_transport_out(layer);
	const unsigned char *data = ctx->skb->data;
	const __u8 *header = words_at(data);
	__u64 source[2] = {}, destination[2] = {};
	struct wfp_packet p;
	__u32 ports, ifindex;
	__u8 protocol;

	if (ctx->skb->len - ctx->skb->data_len < (v6 ? 40 : 20) + 4)
		return WFP_VERDICT_NOT_SOUGHT;
	if (v6) {
		if (header[0] >> 4 != 6)
			return WFP_VERDICT_NOT_SOUGHT;
		protocol = header[6];
		address_at(data + 8, source);
		address_at(data + 24, destination);
		ports = *(const __u32 *)words_at(data + 40);
	} else {
		const __u32 *word = words_at(data + 12);
		__u64 both = bpf_be64_to_cpu(*(const __u64 *)word);

		if (header[0] != 0x45 || *(const __u16 *)(header + 6) & bpf_htons(0x3fff))
			return WFP_VERDICT_NOT_SOUGHT;
		protocol = header[9];
		source[0] = both >> 32;
		destination[0] = (__u32)both;
		ports = word[2];
	}
	if (protocol != IPPROTO_UDP && protocol != IPPROTO_TCP)
		return WFP_VERDICT_NOT_SOUGHT;
	ports = bpf_ntohl(ports);
	ifindex = outbound ? ctx->state->out->ifindex : ctx->state->in->ifindex;
	__builtin_memcpy(p.local, outbound ? source : destination, sizeof(p.local));
	__builtin_memcpy(p.remote, outbound ? destination : source, sizeof(p.remote));
	pack(&p, layer, ifindex, flags, protocol, WFP_KEPT_PORTS, outbound ? ports >> 16 : ports,
	     outbound ? ports : ports >> 16);
	return find_verdict(&p, v6, stamp);
}

/* That is of its own for the sake of the stack, too: one call costs nothing that could
 * be measured. */
__noinline __u64 wfp_transport_find(struct bpf_nf_ctx *ctx, __u32 layer, __u32 flags, __u64 stamp)
{
	if (is_v6(layer))
		return is_transport_out(layer) ?
			       find_transport(ctx, WFP_OUTBOUND_TRANSPORT_V6, flags, stamp) :
			       find_transport(ctx, WFP_INBOUND_TRANSPORT_V6, flags, stamp);
	return is_transport_out(layer) ?
		       find_transport(ctx, WFP_OUTBOUND_TRANSPORT_V4, flags, stamp) :
		       find_transport(ctx, WFP_INBOUND_TRANSPORT_V4, flags, stamp);
}

/* Notes the parts of what a hook of netfilter is about to report. */
__noinline int wfp_note_nf(struct bpf_nf_ctx *ctx, __u32 layer, __u64 verdict)
{
	struct bpf_dynptr dynptr;
	struct wfp_bytes p = { .dynptr = &dynptr };

	if (!is_told(verdict) || bpf_dynptr_from_skb((struct __sk_buff *)ctx->skb, 0, &dynptr))
		return 0;
	note(p, layer, 0, 1, ctx->state->pf == NFPROTO_IPV6);
	return 0;
}

/* Makes a blocked packet's layer the discard layer, if that has filters: else returns
 * 0. A layer without tests of flags did not look whose the packet is. */
__noinline int wfp_transport_discards(struct bpf_nf_ctx *ctx, struct wfp_tuple *t)
{
	if (!t || !find_discard(t->generation, t->layer))
		return 0;
	if (is_transport_out(t->layer) && from_raw_socket(ctx->skb))
		t->flags = WFP_FLAG_IS_RAW_ENDPOINT;
	t->layer |= WFP_DISCARD;
	return 1;
}

/* Judges a packet and reports; a verdict that was found to be kept on it stands.
 * Returns what the hook does. */
__noinline int wfp_transport_judge(struct bpf_nf_ctx *ctx, __u32 layer, __u32 flags, __u64 stamp,
				   __u64 verdict)
{
	struct wfp_tuple t = {
		.generation = stamp_generation(stamp),
		.layer = layer,
		.flags = flags,
	};
	int read = wfp_transport_tuple(ctx, &t);
	struct wfp_tuple *tuple = &t;
	__u64 discarded;

	if (read < 0) {
		count(WFP_COUNTER_UNREADABLE);
		return NF_DROP;
	}
	if (!read)
		return NF_ACCEPT;
	if (verdict == WFP_VERDICT_NOT_SOUGHT)
		verdict = wfp_transport_kept(&t, stamp);
	if (verdict == WFP_VERDICT_NOT_KEPT) {
		verdict = wfp_transport_verdict(&t);
		/* or clang keeps the tuple's address, for which there is no stack */
		asm volatile("" : "+r"(tuple));
		wfp_transport_keep(tuple, stamp, verdict);
	}
	wfp_note_nf(ctx, t.layer, verdict);
	wfp_ale_report(&t, NULL, verdict);
	if (!(verdict & WFP_VERDICT_BLOCK))
		return NF_ACCEPT;
	if (!wfp_transport_discards(ctx, &t))
		return NF_DROP;
	discarded = wfp_transport_verdict(&t);
	lend_flags(&t, verdict);
	wfp_ale_discarded(&t, NULL, discarded);
	return NF_DROP;
}

/* Judges a packet at a transport layer. */
static __always_inline int judge_transport(struct bpf_nf_ctx *ctx, __u32 layer, __u64 stamp)
{
	struct wfp_layer *l = find_layer(stamp_generation(stamp), layer);
	__u32 flags = 0;
	__u64 verdict;

	if (!l)
		return NF_ACCEPT;
	if (is_transport_out(layer) && WFP_USES(l, FLAGS) && from_raw_socket(ctx->skb))
		flags = WFP_FLAG_IS_RAW_ENDPOINT;
	verdict = wfp_transport_find(ctx, layer, flags, stamp);
	if (verdict < WFP_VERDICT_NOT_SOUGHT && passes_untold(stamp_generation(stamp), verdict))
		return NF_ACCEPT;
	return wfp_transport_judge(ctx, layer, flags, stamp, verdict);
}

/* hook_above.h */
int wfp_icmp_error(struct bpf_nf_ctx *ctx, __u32 transport, __u64 stamp);
int wfp_stream_packet(struct bpf_nf_ctx *ctx, __u32 transport, __u64 stamp);

/* The layers above a transport layer: that of ICMP errors and that of TCP packets. */
static __always_inline __u32 icmp_error_layer(__u32 transport)
{
	return transport + (WFP_INBOUND_ICMP_ERROR_V4 - WFP_INBOUND_TRANSPORT_V4);
}

static __always_inline __u32 stream_packet_layer(__u32 transport)
{
	return is_v6(transport) ? WFP_STREAM_PACKET_V6 : WFP_STREAM_PACKET_V4;
}

_Static_assert(WFP_INBOUND_ICMP_ERROR_V6 - WFP_INBOUND_TRANSPORT_V6 == 16 &&
		       WFP_OUTBOUND_ICMP_ERROR_V4 - WFP_OUTBOUND_TRANSPORT_V4 == 16 &&
		       WFP_OUTBOUND_ICMP_ERROR_V6 - WFP_OUTBOUND_TRANSPORT_V6 == 16,
	       "icmp_error_layer finds each");

/* Whether a packet can be of a protocol, from what can be had without a call. */
static __always_inline int may_be(struct bpf_nf_ctx *ctx, int v6, __u8 wanted)
{
	const __u8 *header = words_at(ctx->skb->data);
	__u8 protocol;

	if (ctx->skb->len - ctx->skb->data_len < (v6 ? 40 : 20))
		return 1;
	protocol = v6 ? header[6] : header[9];
	return protocol == wanted || (v6 && is_extension(protocol));
}

/* Judges a packet at the layers above a transport layer. */
static __always_inline int judge_above(struct bpf_nf_ctx *ctx, __u32 transport, __u64 stamp)
{
	__u32 generation = stamp_generation(stamp);
	int v6 = is_v6(transport);

	if (find_layer(generation, icmp_error_layer(transport)) &&
	    may_be(ctx, v6, v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP) &&
	    wfp_icmp_error(ctx, transport, stamp) != NF_ACCEPT)
		return NF_DROP;
	if (find_layer(generation, stream_packet_layer(transport)) && may_be(ctx, v6, IPPROTO_TCP))
		return wfp_stream_packet(ctx, transport, stamp);
	return NF_ACCEPT;
}

/* hook_datagram.h */
int wfp_datagram_packet(struct bpf_nf_ctx *ctx, __u32 transport, __u64 stamp);

/* Judges a packet that is not of a connection at the layers of flows and their data. */
static __always_inline int judge_flow(struct bpf_nf_ctx *ctx, __u32 transport, __u64 stamp)
{
	if (find_layer(stamp_generation(stamp), WFP_DATAGRAM_DATA_V4 | is_v6(transport)))
		return wfp_datagram_packet(ctx, transport, stamp);
	return NF_ACCEPT;
}

/* Judges a packet in WFP's order, at the transport layer given or its V6 twin: what
 * comes in goes up, what goes out comes down (packetflows.md 3, 4). */
static __always_inline int judge_local(struct bpf_nf_ctx *ctx, __u32 transport)
{
	int outbound = is_transport_out(transport), action;
	__u64 stamp = active_stamp();

	transport |= ctx->state->pf == NFPROTO_IPV6 ? 2 : 0;
	action = outbound ? judge_flow(ctx, transport, stamp) :
			    judge_transport(ctx, transport, stamp);
	if (action == NF_ACCEPT)
		action = judge_above(ctx, transport, stamp);
	if (action == NF_ACCEPT)
		action = outbound ? judge_transport(ctx, transport, stamp) :
				    judge_flow(ctx, transport, stamp);
	/* the verifier must see that it is one of these two */
	asm volatile("" : "+r"(action));
	return action == NF_ACCEPT ? NF_ACCEPT : NF_DROP;
}

SEC("netfilter")
int wfp_local_in(struct bpf_nf_ctx *ctx)
{
	return judge_local(ctx, WFP_INBOUND_TRANSPORT_V4);
}

SEC("netfilter")
int wfp_local_out(struct bpf_nf_ctx *ctx)
{
	return judge_local(ctx, WFP_OUTBOUND_TRANSPORT_V4);
}
