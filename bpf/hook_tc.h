/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * tcx (clsact below 6.6): INBOUND_MAC_FRAME_ETHERNET, then INBOUND_IPPACKET on
 * the way in; OUTBOUND_IPPACKET, then OUTBOUND_MAC_FRAME_ETHERNET on the way
 * out (packetflows.md 11). A blocked packet is dropped in silence.
 */
#pragma once

#include "classify.h"
#include "event.h"
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

/* Counts and reports. Returns 1 for block. */
__noinline int wfp_tc_report(const struct wfp_seen *seen, __u64 verdict)
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
	return wfp_tc_report(&seen, wfp_arbitrate(&v));
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
				     __u32 flags)
{
	__builtin_memcpy(p->local, seen->local, sizeof(p->local));
	__builtin_memcpy(p->remote, seen->remote, sizeof(p->remote));
	return pack(p, seen->layer, seen->ifindex, flags, 0, 0, 0, 0);
}

/* These two are functions of their own for the sake of the stack: what they need
 * must not lie under what classifying needs. */
__noinline __u64 wfp_tc_kept(const struct wfp_seen *seen, __u32 flags, __u64 stamp)
{
	struct wfp_packet p;

	if (!seen || !tc_packet(&p, seen, flags))
		return WFP_VERDICT_NOT_KEPT;
	return find_verdict(&p, is_v6(seen->layer), stamp);
}

__noinline int wfp_tc_keep(const struct wfp_seen *seen, __u32 flags, __u64 stamp, __u64 verdict)
{
	struct wfp_packet p;

	if (seen && tc_packet(&p, seen, flags))
		keep_verdict(&p, is_v6(seen->layer), stamp, verdict);
	return 0;
}

/* Whether an *_IPPACKET layer blocks the packet. */
__noinline int wfp_tc_packet(struct __sk_buff *skb, __u32 outbound, __u64 stamp)
{
	__u32 generation = stamp_generation(stamp);
	struct wfp_seen seen = {
		.generation = generation,
		.ifindex = skb->ifindex,
		.outbound = outbound,
	};
	struct wfp_link *link;
	__u64 verdict;
	__u32 header, flags;

	if (skb->protocol == bpf_htons(ETH_P_IP))
		seen.layer = outbound ? WFP_OUTBOUND_IPPACKET_V4 : WFP_INBOUND_IPPACKET_V4;
	else if (skb->protocol == bpf_htons(ETH_P_IPV6))
		seen.layer = outbound ? WFP_OUTBOUND_IPPACKET_V6 : WFP_INBOUND_IPPACKET_V6;
	else
		return 0;
	if (!find_layer(generation, seen.layer))
		return 0;
	link = find_link(generation, seen.ifindex);
	header = !link || link->flags & WFP_LINK_ETHERNET ? ETH_HLEN : 0;
	header = wfp_read_addresses(skb, header,
				    (struct wfp_address *)(outbound ? seen.local : seen.remote),
				    (struct wfp_address *)(outbound ? seen.remote : seen.local));
	if (header == WFP_NOT_IP)
		return 0; /* not a whole IP header: the stack drops it */
	if (header == WFP_IP_UNREADABLE && !outbound) {
		count(WFP_COUNTER_UNREADABLE); /* whether it is a fragment is not known */
		return 1;
	}
	flags = (seen.ifindex == WFP_LOOPBACK_IFINDEX ? WFP_FLAG_IS_LOOPBACK : 0) |
		(!outbound && header == WFP_IP_FRAGMENT ? WFP_FLAG_IS_FRAGMENT : 0);
	verdict = wfp_tc_kept(&seen, flags, stamp);
	if (verdict == WFP_VERDICT_NOT_KEPT) {
		verdict = wfp_tc_verdict(&seen, flags, !!link);
		wfp_tc_keep(&seen, flags, stamp, verdict);
	}
	return wfp_tc_report(&seen, verdict);
}

SEC("tcx/ingress")
int wfp_tc_ingress(struct __sk_buff *skb)
{
	__u64 stamp = active_stamp();

	if (wfp_tc_frame(skb, WFP_INBOUND_MAC_FRAME_ETHERNET, stamp_generation(stamp)) ||
	    wfp_tc_packet(skb, 0, stamp))
		return TC_DROP;
	return TC_PASS;
}

SEC("tcx/egress")
int wfp_tc_egress(struct __sk_buff *skb)
{
	__u64 stamp = active_stamp();

	if (wfp_tc_packet(skb, 1, stamp) ||
	    wfp_tc_frame(skb, WFP_OUTBOUND_MAC_FRAME_ETHERNET, stamp_generation(stamp)))
		return TC_DROP;
	return TC_PASS;
}
