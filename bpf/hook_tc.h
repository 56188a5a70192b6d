/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * tcx (clsact below 6.6): INBOUND_MAC_FRAME_ETHERNET, then INBOUND_IPPACKET on
 * the way in; OUTBOUND_IPPACKET, then OUTBOUND_MAC_FRAME_ETHERNET and
 * OUTBOUND_MAC_FRAME_NATIVE on the way out (packetflows.md 11). One program has all
 * layers of a direction, so that their order is that of its lines. A blocked packet is
 * dropped in silence.
 */
#pragma once

#include "classify.h"
#include "discard.h"
#include "interface.h"
#include "packet.h"
#include "verdicts.h"

#define TC_PASS (-1) /* TCX_NEXT, TC_ACT_UNSPEC: other programs go on */
#define TC_DROP 2    /* TC_ACT_SHOT */
#define ETH_HLEN 14

static __always_inline __u64 mac_number(const __u8 *b)
{
	return (__u64)b[0] << 40 | (__u64)b[1] << 32 | (__u64)b[2] << 24 | b[3] << 16 |
	       b[4] << 8 | b[5];
}

/* DL_ADDRESS_TYPE: unicast 0, multicast 1, broadcast 2. */
static __always_inline __u32 mac_type(__u64 mac)
{
	return mac == 0xffffffffffffULL ? 2 : mac >> 40 & 1;
}

/* What an event of these layers shows; the fields that a layer lacks are zero. */
struct wfp_seen {
	__u64 local[2];
	__u64 remote[2];
	__u32 layer;
	__u32 ifindex;
	__u16 ether_type;
	__u16 outbound;
	__u32 generation;
};

/* Counts and reports; of a discard layer with the verdict that blocked, else with 0.
 * Returns 1 for block. */
__noinline int wfp_tc_report(const struct wfp_seen *seen, __u64 verdict, __u64 blocked)
{
	struct wfp_event *e;

	if (!seen)
		return 1;
	e = report(seen->generation, verdict);
	if (e) {
		e->layer = seen->layer;
		e->local[0] = seen->local[0];
		e->local[1] = seen->local[1];
		e->remote[0] = seen->remote[0];
		e->remote[1] = seen->remote[1];
		e->local_port = seen->ether_type;
		e->ifindex = seen->ifindex;
		e->outbound = seen->outbound;
		if (blocked)
			put_blocker(e, seen->generation, blocked);
		bpf_ringbuf_submit(e, 0);
	}
	return !!(verdict & WFP_VERDICT_BLOCK);
}

/* Whether a *_MAC_FRAME_ETHERNET layer blocks the frame. */
__noinline int wfp_tc_frame(struct __sk_buff *skb, __u32 layer, __u32 generation)
{
	struct wfp_values v = { .layer = layer, .generation = generation };
	struct wfp_seen seen = {
		.layer = layer,
		.generation = generation,
		.ifindex = skb->ifindex,
		.ether_type = bpf_ntohs(skb->protocol),
		.outbound = layer == WFP_OUTBOUND_MAC_FRAME_ETHERNET,
	};
	struct wfp_link *link;
	__u8 b[ETH_HLEN];

	if (!find_layer(generation, layer))
		return 0;
	link = find_link(generation, seen.ifindex);
	if (!link || !(link->flags & WFP_LINK_ETHERNET) || link->flags & WFP_LINK_LOOPBACK)
		return 0;
	if (bpf_skb_load_bytes(skb, 0, b, ETH_HLEN))
		return 0;
	seen.local[0] = mac_number(seen.outbound ? b + 6 : b);
	seen.remote[0] = mac_number(seen.outbound ? b : b + 6);
	put(&v, WFP_SLOT_MAC_LOCAL, seen.local[0]);
	put(&v, WFP_SLOT_MAC_REMOTE, seen.remote[0]);
	put(&v, WFP_SLOT_MAC_LOCAL_TYPE, mac_type(seen.local[0]));
	put(&v, WFP_SLOT_MAC_REMOTE_TYPE, mac_type(seen.remote[0]));
	put(&v, WFP_SLOT_ETHER_TYPE, seen.ether_type);
	if (skb->vlan_present)
		put(&v, WFP_SLOT_VLAN_ID, skb->vlan_tci & 0xffff);
	put(&v, WFP_SLOT_INTERFACE_MAC, link->mac);
	put_interface(&v, WFP_SLOT_LOCAL_INTERFACE, seen.ifindex, link);
	return wfp_tc_report(&seen, wfp_arbitrate(&v), 0);
}

/* Whether OUTBOUND_MAC_FRAME_NATIVE blocks the frame. The layer tests the interface
 * only; it has no addresses (l2.md 3). */
__noinline int wfp_tc_native(struct __sk_buff *skb, __u32 generation)
{
	struct wfp_values v = { .layer = WFP_OUTBOUND_MAC_FRAME_NATIVE, .generation = generation };
	struct wfp_seen seen = {
		.layer = WFP_OUTBOUND_MAC_FRAME_NATIVE,
		.generation = generation,
		.ifindex = skb->ifindex,
		.outbound = 1,
	};

	if (!find_layer(generation, v.layer) || seen.ifindex == WFP_LOOPBACK_IFINDEX)
		return 0;
	put_interface(&v, WFP_SLOT_LOCAL_INTERFACE, seen.ifindex,
		      find_link(generation, seen.ifindex));
	return wfp_tc_report(&seen, wfp_arbitrate(&v), 0);
}

/* Puts the addresses of an IP packet and, where it is tested, the type of its
 * local one. */
static __always_inline void put_addresses(struct wfp_values *v, const struct wfp_seen *seen,
					  int v6, __u32 used)
{
	if (used & 1U << WFP_SLOT_LOCAL_ADDRESS_TYPE)
		put(v, WFP_SLOT_LOCAL_ADDRESS_TYPE,
		    seen->outbound ? address_type(seen->local, v6) :
				     routed_type(seen->local, v6, find_route(seen->local, v6)));
	put_address(v, WFP_SLOT_LOCAL_ADDRESS, seen->local);
	put_address(v, WFP_SLOT_REMOTE_ADDRESS, seen->remote);
}

/* Classifies a packet at an *_IPPACKET layer. Returns a verdict. */
__noinline __u64 wfp_tc_verdict(const struct wfp_seen *seen, __u32 flags, __u32 link_known)
{
	struct wfp_values v = {};
	struct wfp_layer *l;

	if (!seen)
		return WFP_VERDICT_BLOCK | WFP_VERDICT_ERROR;
	l = find_layer(seen->generation, seen->layer);
	if (!l)
		return 0;
	v.layer = seen->layer;
	v.generation = seen->generation;
	put_addresses(&v, seen, is_v6(seen->layer), l->used);
	put(&v, WFP_SLOT_FLAGS, flags);
	put_interface(&v, WFP_SLOT_LOCAL_INTERFACE, seen->ifindex,
		      link_known ? find_link(seen->generation, seen->ifindex) : NULL);
	return wfp_arbitrate(&v);
}

static __always_inline int tc_packet(struct wfp_packet *p, const struct wfp_seen *seen,
				     __u32 flags, __u32 has)
{
	__builtin_memcpy(p->local, seen->local, sizeof(p->local));
	__builtin_memcpy(p->remote, seen->remote, sizeof(p->remote));
	return pack(p, seen->layer, seen->ifindex, flags, 0, has, 0, 0);
}

/* These two are functions of their own for the sake of the stack: what they need
 * must not lie under what classifying needs. */
__noinline __u64 wfp_tc_kept(const struct wfp_seen *seen, __u32 flags, __u32 has, __u64 stamp)
{
	struct wfp_packet p;

	if (!seen || !tc_packet(&p, seen, flags, has))
		return WFP_VERDICT_NOT_KEPT;
	return find_verdict(&p, is_v6(seen->layer), stamp);
}

__noinline int wfp_tc_keep(const struct wfp_seen *seen, __u32 flags, __u32 has, __u64 stamp,
			   __u64 verdict)
{
	struct wfp_packet p;

	if (seen && tc_packet(&p, seen, flags, has))
		keep_verdict(&p, is_v6(seen->layer), stamp, verdict);
	return 0;
}

static __always_inline int is_ip(struct __sk_buff *skb)
{
	return skb->protocol == bpf_htons(ETH_P_IP) || skb->protocol == bpf_htons(ETH_P_IPV6);
}

/* The *_IPPACKET layer of an IP packet. */
static __always_inline __u32 packet_layer(struct __sk_buff *skb, int outbound)
{
	return (outbound ? WFP_OUTBOUND_IPPACKET_V4 : WFP_INBOUND_IPPACKET_V4) |
	       (skb->protocol == bpf_htons(ETH_P_IPV6) ? 2 : 0);
}

static __always_inline __u32 packet_flags(__u32 ifindex, int outbound, int fragment)
{
	return (ifindex == WFP_LOOPBACK_IFINDEX ? WFP_FLAG_IS_LOOPBACK : 0) |
	       (!outbound && fragment ? WFP_FLAG_IS_FRAGMENT : 0);
}

/* Judges a packet at an *_IPPACKET layer and reports; a verdict that was found to be
 * kept on it stands. Returns 1 for block. */
__noinline int wfp_tc_packet(struct __sk_buff *skb, __u32 outbound, __u64 stamp, __u64 verdict)
{
	__u32 generation = stamp_generation(stamp);
	struct wfp_seen seen = {
		.generation = generation,
		.layer = packet_layer(skb, outbound),
		.ifindex = skb->ifindex,
		.outbound = outbound,
	};
	struct wfp_link *link;
	__u32 header, flags, bare;

	link = find_link(generation, seen.ifindex);
	bare = link && !(link->flags & WFP_LINK_ETHERNET) ? WFP_KEPT_BARE : 0;
	header = wfp_read_addresses(skb, bare ? 0 : ETH_HLEN,
				    (struct wfp_address *)(outbound ? seen.local : seen.remote),
				    (struct wfp_address *)(outbound ? seen.remote : seen.local));
	if (header == WFP_NOT_IP)
		return 0; /* not a whole IP header: the stack drops it */
	if (header == WFP_IP_UNREADABLE && !outbound) {
		count(WFP_COUNTER_UNREADABLE); /* whether it is a fragment is not known */
		return 1;
	}
	flags = packet_flags(seen.ifindex, outbound, header == WFP_IP_FRAGMENT);
	if (verdict == WFP_VERDICT_NOT_SOUGHT || bare) /* that was not sought either */
		verdict = wfp_tc_kept(&seen, flags, bare, stamp);
	if (verdict == WFP_VERDICT_NOT_KEPT) {
		verdict = wfp_tc_verdict(&seen, flags, !!link);
		if (link) /* else each packet counts that anew */
			wfp_tc_keep(&seen, flags, bare, stamp, verdict);
	}
	if (!wfp_tc_report(&seen, verdict, 0))
		return 0;
	seen.layer |= WFP_DISCARD;
	if (find_layer(generation, seen.layer))
		wfp_tc_report(&seen, wfp_tc_verdict(&seen, flags, !!link), verdict);
	return 1;
}

/* The verdict that is kept on a packet, if it is as most are: its IP header in line
 * behind a MAC header, without extension headers. Others are not sought here. That
 * the link has MAC headers need not be known: of one that has none nothing is kept
 * that would be found here. A call takes longer than any step of this: there is none. */
static __always_inline __u64 find_packet(struct __sk_buff *skb, __u32 layer, int outbound,
					 __u64 stamp)
{
	const __u8 *header = (void *)(long)skb->data + ETH_HLEN, *end = (void *)(long)skb->data_end;
	int v6 = is_v6(layer), fragment = 0;
	__u32 ifindex = skb->ifindex;
	struct wfp_packet p = {};

	if (header + (v6 ? 40 : 20) > end || header[0] >> 4 != (v6 ? 6 : 4))
		return WFP_VERDICT_NOT_SOUGHT;
	if (v6) {
		const __u64 *half = (const void *)(header + 8);

		if (is_extension(header[6]))
			return WFP_VERDICT_NOT_SOUGHT;
		for (int i = 0; i < 2; i++) {
			p.local[i] = bpf_be64_to_cpu(half[outbound ? i : i + 2]);
			p.remote[i] = bpf_be64_to_cpu(half[outbound ? i + 2 : i]);
		}
	} else {
		const __u32 *word = (const void *)(header + 12);

		fragment = *(const __u16 *)(header + 6) & bpf_htons(0x3fff);
		p.local[0] = bpf_ntohl(word[outbound ? 0 : 1]);
		p.remote[0] = bpf_ntohl(word[outbound ? 1 : 0]);
	}
	pack(&p, layer, ifindex, packet_flags(ifindex, outbound, fragment), 0, 0, 0, 0);
	return find_verdict(&p, v6, stamp);
}

/* That is of its own for the sake of the stack, too: one call costs nothing that could
 * be measured. */
__noinline __u64 wfp_tc_find(struct __sk_buff *skb, __u32 outbound, __u64 stamp)
{
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return outbound ? find_packet(skb, WFP_OUTBOUND_IPPACKET_V4, 1, stamp) :
				  find_packet(skb, WFP_INBOUND_IPPACKET_V4, 0, stamp);
	return outbound ? find_packet(skb, WFP_OUTBOUND_IPPACKET_V6, 1, stamp) :
			  find_packet(skb, WFP_INBOUND_IPPACKET_V6, 0, stamp);
}

/* Whether an *_IPPACKET layer blocks a packet. */
static __always_inline int judge_packet(struct __sk_buff *skb, int outbound, __u64 stamp)
{
	__u64 verdict;

	if (!is_ip(skb) || !find_layer(stamp_generation(stamp), packet_layer(skb, outbound)))
		return 0;
	verdict = wfp_tc_find(skb, outbound, stamp);
	if (verdict < WFP_VERDICT_NOT_SOUGHT && passes_untold(stamp_generation(stamp), verdict))
		return 0;
	return wfp_tc_packet(skb, outbound, stamp, verdict);
}

/* Whether a *_MAC_FRAME_ETHERNET layer blocks the frame. */
static __always_inline int judge_frame(struct __sk_buff *skb, __u32 layer, __u64 stamp)
{
	return find_layer(stamp_generation(stamp), layer) &&
	       wfp_tc_frame(skb, layer, stamp_generation(stamp));
}

/* Whether OUTBOUND_MAC_FRAME_NATIVE blocks it. */
static __always_inline int judge_native(struct __sk_buff *skb, __u64 stamp)
{
	return find_layer(stamp_generation(stamp), WFP_OUTBOUND_MAC_FRAME_NATIVE) &&
	       wfp_tc_native(skb, stamp_generation(stamp));
}

SEC("tcx/ingress")
int wfp_tc_ingress(struct __sk_buff *skb)
{
	__u64 stamp = active_stamp();

	if (judge_frame(skb, WFP_INBOUND_MAC_FRAME_ETHERNET, stamp) || judge_packet(skb, 0, stamp))
		return TC_DROP;
	return TC_PASS;
}

SEC("tcx/egress")
int wfp_tc_egress(struct __sk_buff *skb)
{
	__u64 stamp = active_stamp();

	if (judge_packet(skb, 1, stamp) ||
	    judge_frame(skb, WFP_OUTBOUND_MAC_FRAME_ETHERNET, stamp) || judge_native(skb, stamp))
		return TC_DROP;
	return TC_PASS;
}
