/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The data offset and the header sizes of FWPS_INCOMING_METADATA_VALUES0, as far as
 * events have them: where the parts of a packet begin (seed: data offset positions;
 * metadata.md 5). They are looked for only where an event will tell of the packet, and
 * left for report() in memory of the processor, since no chain of calls has stack for
 * them. Another program may come between: what it leaves names its layer, so that
 * parts are missing then, and never those of another layer. The event of a discard layer
 * has none: that of the block before it took them.
 */
#pragma once

#include "event.h"
#include "packet.h"

#define ETH_HLEN 14
#define ETH_P_8021Q 0x8100
#define ETH_P_8021AD 0x88a8
#define VLAN_HLEN 4

#define WFP_TRANSPORT_TCP 6
#define WFP_TRANSPORT_UDP 17
#define WFP_TRANSPORT_UDPLITE 136
#define WFP_TRANSPORT_ICMP 1
#define WFP_TRANSPORT_ICMPV6 58
#define WFP_SHORT_HEADER 8 /* of UDP, and of ICMP with what belongs to each message */

/* The size of a transport header at an offset; of protocols that have none here it is 0,
 * and their data begin behind the IP headers. -1 where it is cut off. */
static __always_inline int transport_size(struct wfp_bytes p, int offset, __u8 protocol)
{
	__u8 b[1];

	switch (protocol) {
	case WFP_TRANSPORT_TCP:
		if (load(p, offset + 12, b, 1))
			return -1;
		return (b[0] >> 4) * 4;
	case WFP_TRANSPORT_UDP:
	case WFP_TRANSPORT_UDPLITE:
	case WFP_TRANSPORT_ICMP:
	case WFP_TRANSPORT_ICMPV6:
		return WFP_SHORT_HEADER;
	}
	return 0;
}

/* Notes the parts of a packet whose IP header, or what is in place of one, is at ip. */
static __always_inline void note(struct wfp_bytes p, __u32 layer, int ip, int is_ip, int v6)
{
	struct wfp_headers h = {};
	struct wfp_parts *parts;
	__u32 zero = 0;
	int at, size;

	parts = bpf_map_lookup_elem(&noted, &zero);
	if (!parts)
		return;
	parts->layer = layer;
	parts->ip = ip;
	parts->has = WFP_PART_IP;
	if (!is_ip)
		return;
	at = read_ip(p, v6, ip, &h);
	if (at > 0 && v6)
		at = skip_extensions(p, at, &h, 1);
	if (at < 0)
		return;
	parts->transport = at;
	parts->has |= WFP_PART_TRANSPORT;
	if (h.fragment == WFP_FRAGMENT_NEXT)
		return; /* its data are of the middle of a datagram */
	size = transport_size(p, at, h.protocol);
	if (size < 0)
		return;
	parts->data = at + size;
	parts->has |= WFP_PART_DATA;
}

/* Forgets what was noted and has not been reported. */
static __always_inline void forget_parts(void)
{
	struct wfp_parts *parts;
	__u32 zero = 0;

	parts = bpf_map_lookup_elem(&noted, &zero);
	if (parts)
		parts->has = 0;
}

/* Notes the parts of what a hook with an __sk_buff is about to report. bare: it has no MAC
 * header. A VLAN tag can be in a frame whose first one the kernel has taken out. */
__noinline int wfp_note_skb(struct __sk_buff *skb, __u32 layer, __u32 bare, __u64 verdict)
{
	struct wfp_bytes p = { .skb = skb };
	int ip = bare ? 0 : ETH_HLEN;
	__u16 type;
	__u8 b[2];

	if (!is_told(verdict))
		return 0;
	type = bpf_ntohs(skb->protocol);
	if (ip && (type == ETH_P_8021Q || type == ETH_P_8021AD)) {
		if (bpf_skb_load_bytes(skb, ip + 2, b, 2))
			return 0;
		type = b[0] << 8 | b[1];
		ip += VLAN_HLEN;
	}
	note(p, layer, ip, type == ETH_P_IP || type == ETH_P_IPV6, type == ETH_P_IPV6);
	return 0;
}
