/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * tcx (clsact below 6.6) at the ports of a Linux bridge, which is a virtual switch:
 * INGRESS_VSWITCH_* where a frame comes in by a port, before the bridge chooses where it
 * goes; EGRESS_VSWITCH_* at each port that it leaves by, so that a broadcast is seen once
 * at ingress and once for each port at egress (l2.md 2). Of one side the frame is judged
 * at ETHERNET first, then, if it is an IP packet, at TRANSPORT; WFP's order of these two
 * is not documented. A blocked frame is dropped in silence.
 */
#pragma once

#include "classify.h"
#include "event.h"
#include "hook_netfilter.h"
#include "hook_tc.h"
#include "interface.h"
#include "packet.h"

#define ETH_P_802_3_MIN 0x600 /* below, it is a length */

enum wfp_l2_flag {
	WFP_L2_FLAG_IS_VM2VM = 0x10,
};

/* A frame as a layer has it: addresses are those of MAC or of IP. */
struct wfp_switched {
	__u64 source[2];
	__u64 destination[2];
	__u32 layer;
	__u32 generation;
	__u16 port[2]; /* source, destination; ETHERNET: the ether type in the first */
	__u16 vlan;
	__u8 protocol;
	__u8 has; /* enum wfp_switched_has */
};

enum wfp_switched_has {
	WFP_SWITCHED_VLAN = 0x1,
	WFP_SWITCHED_PORTS = 0x2,
};

enum wfp_switched_read {
	WFP_SWITCHED_OTHER = 0, /* no matter of the layer */
	WFP_SWITCHED_READ = 1,
	WFP_SWITCHED_UNREADABLE = 2,
};

static __always_inline int is_switch_transport(__u32 layer)
{
	return layer >= WFP_INGRESS_VSWITCH_TRANSPORT_V4;
}

static __always_inline int is_switch_egress(__u32 layer)
{
	return layer == WFP_EGRESS_VSWITCH_ETHERNET || layer >= WFP_EGRESS_VSWITCH_TRANSPORT_V4;
}

/*
 * Reads the ether type and the VLAN tag of a frame whose header is given, and returns the
 * offset of what follows, or -1. The kernel takes the tag out of frames that come in; one
 * that was sent here may have it in its bytes still. Of two tags the first is the VLAN and
 * the second the type. What a packet socket says of a frame's type need not be true, so
 * the bytes tell it, but of frames that have a length there.
 */
static __always_inline int read_tag(struct __sk_buff *skb, struct wfp_switched *s,
				    const __u8 header[ETH_HLEN], __u16 *type)
{
	__u8 b[VLAN_HLEN];

	*type = header[12] << 8 | header[13];
	if (*type < ETH_P_802_3_MIN)
		*type = bpf_ntohs(skb->protocol);
	if (skb->vlan_present) {
		s->vlan = skb->vlan_tci;
		s->has |= WFP_SWITCHED_VLAN;
		return ETH_HLEN;
	}
	if (*type != ETH_P_8021Q && *type != ETH_P_8021AD)
		return ETH_HLEN;
	if (bpf_skb_load_bytes(skb, ETH_HLEN, b, VLAN_HLEN))
		return -1;
	s->vlan = b[0] << 8 | b[1];
	s->has |= WFP_SWITCHED_VLAN;
	*type = b[2] << 8 | b[3];
	return ETH_HLEN + VLAN_HLEN;
}

/* Reads an IP packet at an offset of the frame: addresses, protocol and, but for later
 * fragments, ports. */
static __always_inline int read_switched_ip(struct __sk_buff *skb, struct wfp_switched *s,
					    int v6, int offset)
{
	struct wfp_bytes p = { .skb = skb };
	struct wfp_headers h = {};
	int ports;

	offset = read_ip(p, v6, offset, &h);
	if (offset < 0)
		return WFP_SWITCHED_OTHER; /* not a whole IP header: no stack takes it */
	if (v6)
		offset = skip_extensions(p, offset, &h, 1);
	if (offset < 0)
		return WFP_SWITCHED_UNREADABLE;
	if (h.fragment != WFP_FRAGMENT_NEXT) {
		ports = read_transport(p, offset, &h, s->port);
		if (ports < 0)
			return WFP_SWITCHED_UNREADABLE;
		s->has |= ports ? WFP_SWITCHED_PORTS : 0;
	}
	s->protocol = h.protocol;
	__builtin_memcpy(s->source, h.source, sizeof(s->source));
	__builtin_memcpy(s->destination, h.destination, sizeof(s->destination));
	return WFP_SWITCHED_READ;
}

/* Reads what the layer has of a frame. Of the TRANSPORT layers the V4 one is asked for;
 * an IPv6 packet makes it the V6 one. Returns an enum wfp_switched_read. */
__noinline int wfp_switch_read(struct __sk_buff *skb, struct wfp_switched *s)
{
	__u8 b[ETH_HLEN];
	int offset;
	__u16 type;

	if (!s || bpf_skb_load_bytes(skb, 0, b, ETH_HLEN))
		return WFP_SWITCHED_OTHER;
	offset = read_tag(skb, s, b, &type);
	if (is_switch_transport(s->layer)) {
		if (offset < 0 || (type != ETH_P_IP && type != ETH_P_IPV6))
			return WFP_SWITCHED_OTHER;
		if (type == ETH_P_IPV6)
			s->layer++;
		return read_switched_ip(skb, s, type == ETH_P_IPV6, offset);
	}
	s->destination[0] = mac_number(b);
	s->source[0] = mac_number(b + 6);
	s->port[0] = type;
	return WFP_SWITCHED_READ;
}

/* The link that a frame came into the bridge by: one of its ports or, of what the host
 * sends, the bridge itself. */
static __always_inline struct wfp_link *source_link(void *links_of, __u32 from,
						    struct wfp_link *to, struct wfp_link *bridge)
{
	struct wfp_link *port = from ? bpf_map_lookup_elem(links_of, &from) : NULL;

	return port && port->bridge == to->bridge ? port : bridge;
}

/* Puts what slot_word does not know (layermap, places). */
static __always_inline void put_small(struct wfp_values *v, __u32 slot, __u32 shift, __u32 value)
{
	v->word[slot_word(slot)] |= (__u64)value << shift;
	v->present |= 1U << slot;
}

/* Puts the bridge, the ports, and what they are. */
static __always_inline void put_switch(struct wfp_values *v, const struct wfp_switched *s,
				       __u32 from, struct wfp_link *port)
{
	__u32 tables = tables_of(s->generation), key = port->bridge;
	void *links_of = bpf_map_lookup_elem(&links, &tables);
	struct wfp_link *bridge, *source = port;

	if (!links_of)
		return;
	bridge = bpf_map_lookup_elem(links_of, &key);
	if (bridge) {
		put_address(v, WFP_SLOT_SWITCH, bridge->name);
		put_small(v, WFP_SLOT_SWITCH_NETWORK, 16, bridge->network);
	}
	if (is_switch_egress(s->layer)) {
		source = source_link(links_of, from, port, bridge);
		put_address(v, WFP_SLOT_DESTINATION_PORT_ID, port->name);
		put_small(v, WFP_SLOT_DESTINATION_NIC, 32, port->nic);
		put(v, WFP_SLOT_FLAGS,
		    source && source->nic == WFP_NIC_SYNTHETIC && port->nic == WFP_NIC_SYNTHETIC ?
			    WFP_L2_FLAG_IS_VM2VM : 0);
	}
	if (!source)
		return;
	put_address(v, WFP_SLOT_SOURCE_PORT_ID, source->name);
	put_small(v, WFP_SLOT_SOURCE_NIC, 24, source->nic);
}

/* Counts and reports. Returns 1 for block. */
__noinline int wfp_switch_report(struct __sk_buff *skb, const struct wfp_switched *s,
				 __u64 verdict)
{
	struct wfp_event *e;
	int out;

	if (!s)
		return 1;
	e = report(s->generation, verdict);
	if (e) {
		out = is_switch_egress(s->layer);
		e->layer = s->layer;
		e->ifindex = skb->ifindex;
		e->outbound = out;
		e->protocol = s->protocol;
		__builtin_memcpy(out ? e->local : e->remote, s->source, sizeof(e->local));
		__builtin_memcpy(out ? e->remote : e->local, s->destination, sizeof(e->local));
		e->local_port = s->port[!out];
		e->remote_port = s->port[out];
		bpf_ringbuf_submit(e, 0);
	}
	return !!(verdict & WFP_VERDICT_BLOCK);
}

/* Classifies what was read of a frame. Returns a verdict. */
__noinline __u64 wfp_switch_verdict(struct __sk_buff *skb, const struct wfp_switched *s)
{
	struct wfp_values v = {};
	struct wfp_link *port;

	if (!s)
		return WFP_VERDICT_BLOCK | WFP_VERDICT_ERROR;
	v.layer = s->layer;
	v.generation = s->generation;
	port = find_link(s->generation, skb->ifindex);
	if (port && !port->bridge)
		return 0; /* it has left the bridge */
	if (port)
		put_switch(&v, s, skb->ingress_ifindex, port);
	put_address(&v, WFP_SLOT_LOCAL_ADDRESS, s->source);
	put_address(&v, WFP_SLOT_REMOTE_ADDRESS, s->destination);
	if (s->has & WFP_SWITCHED_VLAN)
		put_small(&v, WFP_SLOT_SWITCH_VLAN, 0, s->vlan);
	if (is_switch_transport(s->layer)) {
		put(&v, WFP_SLOT_PROTOCOL, s->protocol);
		if (s->has & WFP_SWITCHED_PORTS) {
			put(&v, WFP_SLOT_LOCAL_PORT, s->port[0]);
			put(&v, WFP_SLOT_REMOTE_PORT, s->port[1]);
		}
	} else {
		put(&v, WFP_SLOT_LOCAL_ADDRESS_TYPE, mac_type(s->source[0]));
		put(&v, WFP_SLOT_DESTINATION_ADDRESS_TYPE, mac_type(s->destination[0]));
		put(&v, WFP_SLOT_LOCAL_PORT, s->port[0]);
	}
	return wfp_arbitrate(&v);
}

/* Whether a layer blocks a frame; of the TRANSPORT layers the V4 one stands for both. */
__noinline int wfp_switch_judge(struct __sk_buff *skb, __u32 layer, __u32 generation)
{
	struct wfp_switched s = { .layer = layer, .generation = generation };
	int read = wfp_switch_read(skb, &s);
	__u64 verdict;

	if (read == WFP_SWITCHED_OTHER || !find_layer(generation, s.layer))
		return 0;
	if (read == WFP_SWITCHED_UNREADABLE) {
		count(WFP_COUNTER_UNREADABLE);
		return 1;
	}
	verdict = wfp_switch_verdict(skb, &s);
	wfp_note_skb(skb, s.layer, 0, verdict);
	return wfp_switch_report(skb, &s, verdict);
}

/* Judges a frame at the layers of one side, the layers that have filters. */
static __always_inline int judge_switched(struct __sk_buff *skb, __u32 ethernet, __u32 transport)
{
	__u32 generation = active_generation();

	if (find_layer(generation, ethernet) && wfp_switch_judge(skb, ethernet, generation))
		return TC_DROP;
	if ((find_layer(generation, transport) || find_layer(generation, transport + 1)) &&
	    wfp_switch_judge(skb, transport, generation))
		return TC_DROP;
	return TC_PASS;
}

SEC("tcx/ingress")
int wfp_vswitch_ingress(struct __sk_buff *skb)
{
	return judge_switched(skb, WFP_INGRESS_VSWITCH_ETHERNET, WFP_INGRESS_VSWITCH_TRANSPORT_V4);
}

SEC("tcx/egress")
int wfp_vswitch_egress(struct __sk_buff *skb)
{
	return judge_switched(skb, WFP_EGRESS_VSWITCH_ETHERNET, WFP_EGRESS_VSWITCH_TRANSPORT_V4);
}
