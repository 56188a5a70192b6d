/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * tp_btf/kfree_skb: what the kernel itself drops, at the *_DISCARD layer that its drop
 * reason belongs to (layermap/drops.go). The tracepoint sees the drops of the whole
 * machine; all but those of the namespace that is filtered are passed over, and so are
 * reasons without a layer, this project's own blocks among them. A verdict is counted
 * and reported: the packet is dropped whatever it says.
 *
 * The kernel runs a program once at a time on a processor. A drop within a drop, as by
 * an interrupt, is not seen; what is put together here stands in one place for each
 * processor.
 */
#pragma once

#include <bpf/bpf_tracing.h>

#include "hook_end.h"
#include "hook_forward.h"
#include "hook_netfilter.h"
#include "hook_tc.h"

#define WFP_DST_PTR (~1UL)          /* of _skb_refdst: the rest says whether it is counted */
#define WFP_DST_METADATA 0x80       /* dst_entry.flags: a tunnel's, no route */
#define WFP_RTCF_LOCAL 0xb0000000U  /* rtable.rt_flags: local, multicast, broadcast */
#define WFP_RTF_LOCAL 0x80000000U   /* rt6_info.rt6i_flags */

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct net_device___drop {
	int ifindex;
	possible_net_t nd_net;
};
struct dst_entry___drop {
	struct net_device___drop *dev;
	unsigned short flags;
	short error;
};
struct rtable___drop {
	unsigned int rt_flags;
};
struct rt6_info___drop {
	__u32 rt6i_flags;
};
struct sk_buff___drop {
	struct sock *sk;
	struct net_device___drop *dev;
	unsigned long _skb_refdst;
	int skb_iif;
	__u16 protocol;
	__u16 network_header;
	unsigned int tail;
	unsigned char *head;
};
/* The tracepoint's record, which tells whether it has the receiving socket (6.11). */
struct trace_event_raw_kfree_skb {
	void *rx_sk;
};
#pragma clang attribute pop

/* enum skb_drop_reason -> what the drop is to WFP. Loader, by the kernel's names. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct wfp_drop);
	__uint(max_entries, WFP_DROP_REASONS);
} drops SEC(".maps");

/* A packet that was dropped. */
struct wfp_dropped {
	struct wfp_tuple tuple;         /* layer, endpoints and interface */
	struct wfp_forwarded forwarded; /* IPFORWARD */
	struct wfp_seen seen;           /* IPPACKET */
	__u64 header; /* where the IP header is */
	__u32 length; /* of what is there from it on */
	__u32 fragment;
	__u32 readable; /* 1: has addresses */
	struct wfp_drop_at at;
};

/* key 0 -> the packet at hand. Programs. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct wfp_dropped);
	__uint(max_entries, 1);
} dropped SEC(".maps");

/* A kernel pointer; the field of a packet in a queue may hold something else. */
static __always_inline int is_kernel(const void *pointer)
{
	return (long)pointer < 0;
}

static __always_inline struct dst_entry___drop *drop_route(struct sk_buff___drop *skb)
{
	struct dst_entry___drop *dst =
		(void *)(BPF_CORE_READ(skb, _skb_refdst) & WFP_DST_PTR);

	return dst && !(BPF_CORE_READ(dst, flags) & WFP_DST_METADATA) ? dst : NULL;
}

/* Whether a packet is of a namespace: by the link that it is at, or, where a protocol
 * has taken it off that, by its route or the socket. One in a queue has no link any
 * more, and its bytes are used for something else. */
static __always_inline int drop_is_of(struct sk_buff___drop *skb, struct sock *receiver,
				      int queued, __u64 cookie)
{
	struct net_device___drop *dev = NULL;
	struct dst_entry___drop *dst;
	struct sock *sk;

	if (!queued)
		dev = BPF_CORE_READ(skb, dev);
	if (!queued && !is_kernel(dev)) {
		dst = drop_route(skb);
		dev = dst ? BPF_CORE_READ(dst, dev) : NULL;
	}
	if (is_kernel(dev))
		return BPF_CORE_READ(dev, nd_net.net, net_cookie) == cookie;
	sk = receiver ? receiver : BPF_CORE_READ(skb, sk);
	return sk && BPF_CORE_READ(sk, __sk_common.skc_net.net, net_cookie) == cookie;
}

/* The interface that a packet was to go out by: that of its route, or, where it has none
 * any more, the one that it is at. */
static __always_inline __u32 drop_out(struct sk_buff___drop *skb)
{
	struct dst_entry___drop *dst = drop_route(skb);
	struct net_device___drop *dev = dst ? BPF_CORE_READ(dst, dev) : BPF_CORE_READ(skb, dev);

	return is_kernel(dev) ? BPF_CORE_READ(dev, ifindex) : 0;
}

/* How far a packet had come. Only what came in has an interface that it came in by. */
static __always_inline __u32 drop_stage(struct sk_buff___drop *skb, int v6, __u64 header)
{
	struct dst_entry___drop *dst;
	__u8 first = 0;

	if (!BPF_CORE_READ(skb, skb_iif))
		return WFP_DROP_SENT;
	dst = drop_route(skb);
	if (!dst || BPF_CORE_READ(dst, error))
		return WFP_DROP_ARRIVED; /* no route leads anywhere */
	if (!v6)
		return BPF_CORE_READ((struct rtable___drop *)dst, rt_flags) & WFP_RTCF_LOCAL ?
			       WFP_DROP_DELIVERED :
			       WFP_DROP_FORWARDED;
	if (BPF_CORE_READ((struct rt6_info___drop *)dst, rt6i_flags) & WFP_RTF_LOCAL)
		return WFP_DROP_DELIVERED;
	bpf_probe_read_kernel(&first, 1, (void *)(header + 24)); /* of the destination */
	return first == 0xff ? WFP_DROP_DELIVERED : WFP_DROP_FORWARDED;
}

/* Which of the layers of kernel drops a layer is, of either family. */
static __always_inline int is_drop_at(__u32 layer, __u32 v4)
{
	return (layer & ~2U) == v4;
}

/* Whether a layer is of what goes out; there the source is the host's side. */
static __always_inline int is_drop_out(__u32 layer)
{
	return is_drop_at(layer, WFP_OUTBOUND_IPPACKET_V4_DISCARD) ||
	       is_drop_at(layer, WFP_OUTBOUND_TRANSPORT_V4_DISCARD);
}

/* Reads what the packet has of headers. */
__noinline int wfp_drop_read(struct wfp_dropped *d)
{
	struct wfp_headers h = {};
	struct wfp_bytes p = { .in_memory = 1 };
	__u16 port[2] = {};
	struct wfp_tuple *t;
	int offset, v6, ports = 0, out;

	if (!d)
		return 0;
	t = &d->tuple;
	p.memory = d->header;
	p.length = d->length;
	v6 = is_v6(t->layer);
	out = is_drop_out(t->layer);
	offset = read_ip(p, v6, 0, &h);
	if (offset < 0)
		return 0;
	d->readable = 1;
	__builtin_memcpy(out ? t->local : t->remote, h.source, sizeof(h.source));
	__builtin_memcpy(out ? t->remote : t->local, h.destination, sizeof(h.destination));
	t->known = WFP_KNOWN_LOCAL_ADDRESS;
	if (v6)
		offset = skip_extensions(p, offset, &h, 1);
	d->fragment = h.fragment;
	t->protocol = h.protocol;
	if (offset > 0 && h.fragment != WFP_FRAGMENT_NEXT)
		ports = read_transport(p, offset, &h, port);
	if (ports <= 0)
		return 0;
	t->known |= WFP_KNOWN_LOCAL_PORT;
	/* the type of ICMP is local whichever way it goes */
	if (out || ports == 1) {
		t->local_port = port[0];
		t->remote_port = port[1];
	} else {
		t->local_port = port[1];
		t->remote_port = port[0];
	}
	return 0;
}

/* Counts and reports. */
__noinline int wfp_drop_report(struct wfp_dropped *d, __u64 verdict)
{
	struct wfp_event *e;
	struct wfp_tuple *t;

	if (!d)
		return 0;
	t = &d->tuple;
	e = report(t->generation, verdict);
	if (!e)
		return 0;
	e->layer = t->layer;
	__builtin_memcpy(e->local, t->local, sizeof(e->local));
	__builtin_memcpy(e->remote, t->remote, sizeof(e->remote));
	if (is_drop_at(t->layer, WFP_INBOUND_TRANSPORT_V4_DISCARD) ||
	    is_drop_at(t->layer, WFP_OUTBOUND_TRANSPORT_V4_DISCARD)) {
		e->local_port = t->local_port;
		e->remote_port = t->remote_port;
		e->protocol = t->protocol;
	}
	e->outbound = is_drop_out(t->layer);
	e->ifindex = t->ifindex;
	if (is_drop_at(t->layer, WFP_IPFORWARD_V4_DISCARD))
		e->dev = d->forwarded.out;
	e->discard_module = d->at.module;
	e->discard_reason = d->at.reason;
	bpf_ringbuf_submit(e, 0);
	return 0;
}

/* Classifies at *_IPPACKET_DISCARD. What is no whole IP header has no addresses. */
__noinline __u64 wfp_drop_packet(struct wfp_dropped *d)
{
	struct wfp_values v = {};
	struct wfp_layer *l;
	struct wfp_tuple *t;

	if (!d)
		return WFP_VERDICT_BLOCK | WFP_VERDICT_ERROR;
	t = &d->tuple;
	l = find_layer(t->generation, t->layer);
	if (!l)
		return 0;
	v.layer = t->layer;
	v.generation = t->generation;
	if (d->readable) {
		d->seen.outbound = is_drop_out(t->layer);
		__builtin_memcpy(d->seen.local, t->local, sizeof(t->local));
		__builtin_memcpy(d->seen.remote, t->remote, sizeof(t->remote));
		put_addresses(&v, &d->seen, is_v6(t->layer), l->used);
	}
	put(&v, WFP_SLOT_FLAGS,
	    packet_flags(t->ifindex, is_drop_out(t->layer), d->fragment));
	if (t->ifindex)
		put_interface(&v, WFP_SLOT_LOCAL_INTERFACE, t->ifindex,
			      WFP_USES_INTERFACE(l) ? find_link(t->generation, t->ifindex) :
						      NULL);
	return wfp_arbitrate(&v);
}

/* Classifies at IPFORWARD_DISCARD. */
static __always_inline __u64 drop_forward(struct wfp_dropped *d)
{
	struct wfp_forwarded *f = &d->forwarded;

	f->layer = d->tuple.layer;
	f->generation = d->tuple.generation;
	f->in = d->tuple.ifindex;
	f->flags = d->fragment ? WFP_FLAG_IS_FRAGMENT : 0;
	__builtin_memcpy(f->source, d->tuple.remote, sizeof(f->source));
	__builtin_memcpy(f->destination, d->tuple.local, sizeof(f->destination));
	return wfp_forward_verdict(f);
}

/* Whether a socket is one of TCP, and no remains or beginning of one. */
static __always_inline int is_tcp_socket(struct sock *sk)
{
	__u32 state = sk ? BPF_CORE_READ(sk, __sk_common.skc_state) : BPF_TCP_TIME_WAIT;

	return state != BPF_TCP_TIME_WAIT && state != BPF_TCP_NEW_SYN_RECV &&
	       BPF_CORE_READ(sk, sk_protocol) == IPPROTO_TCP;
}

/* The endpoints of a TCP segment that has no IP header yet are those of its socket. */
static __always_inline void drop_socket(struct wfp_tuple *t, struct sock *sk)
{
	__u32 layer = t->layer & ~2U, generation = t->generation;

	socket_tuple(sk, t);
	t->generation = generation;
	t->layer = layer | (is_v6(t->layer) ? 2 : 0);
	t->protocol = IPPROTO_TCP;
	t->known = WFP_KNOWN_LOCAL_ADDRESS | WFP_KNOWN_LOCAL_PORT;
}

/* Classifies a packet of the namespace. */
static __always_inline int judge_drop(struct sk_buff___drop *skb, const struct wfp_drop *row)
{
	__u16 protocol = BPF_CORE_READ(skb, protocol), at = BPF_CORE_READ(skb, network_header);
	struct wfp_dropped *d;
	struct wfp_tuple *t;
	struct sock *sk;
	__u32 zero = 0, tail, stage, generation = active_generation();
	__u64 head, verdict;
	int v6;

	d = bpf_map_lookup_elem(&dropped, &zero);
	if (!d)
		return 0;
	sk = BPF_CORE_READ(skb, sk);
	/* a segment that is sent has no IP header before its route is known */
	v6 = protocol ? protocol == bpf_htons(ETH_P_IPV6) :
			sk && BPF_CORE_READ(sk, __sk_common.skc_family) == AF_INET6;
	if (protocol && !v6 && protocol != bpf_htons(ETH_P_IP))
		return 0;
	head = (__u64)BPF_CORE_READ(skb, head);
	tail = BPF_CORE_READ(skb, tail);
	stage = drop_stage(skb, v6, head + at);
	if (stage >= WFP_DROP_STAGES || !row->at[stage].layer)
		return 0;
	__builtin_memset(d, 0, sizeof(*d));
	t = &d->tuple;
	d->at = row->at[stage];
	d->header = head + at;
	d->length = tail > at ? tail - at : 0;
	t->generation = generation;
	t->layer = d->at.layer | (v6 ? 2 : 0);
	t->protocol = 0;
	if (!protocol && stage == WFP_DROP_SENT && is_tcp_socket(sk))
		drop_socket(t, sk);
	if (!find_layer(generation, t->layer))
		return 0;
	t->ifindex = is_drop_out(t->layer) ? drop_out(skb) : BPF_CORE_READ(skb, skb_iif);
	if (is_drop_at(t->layer, WFP_IPFORWARD_V4_DISCARD))
		d->forwarded.out = drop_out(skb);
	if (protocol)
		wfp_drop_read(d);
	if (is_drop_at(t->layer, WFP_INBOUND_IPPACKET_V4_DISCARD) ||
	    is_drop_at(t->layer, WFP_OUTBOUND_IPPACKET_V4_DISCARD)) {
		verdict = wfp_drop_packet(d);
	} else if (!(t->known & WFP_KNOWN_LOCAL_ADDRESS)) {
		return 0; /* no packet: IP hands on none without a header */
	} else if (is_drop_at(t->layer, WFP_IPFORWARD_V4_DISCARD)) {
		verdict = drop_forward(d);
	} else {
		if (is_transport_out(t->layer) && from_raw_socket((struct sk_buff *)skb))
			t->flags = WFP_FLAG_IS_RAW_ENDPOINT;
		verdict = wfp_transport_verdict(t);
	}
	wfp_drop_report(d, verdict);
	return 0;
}

SEC("tp_btf/kfree_skb")
int BPF_PROG(wfp_kfree_skb, struct sk_buff___drop *skb, void *location, int reason)
{
	struct wfp_config *c = ale_config();
	struct sock *receiver = NULL;
	struct wfp_drop *row;
	__u32 key = reason;

	row = bpf_map_lookup_elem(&drops, &key);
	if (!row || !row->discards || !c)
		return 0;
	if (bpf_core_field_exists(((struct trace_event_raw_kfree_skb *)0)->rx_sk))
		receiver = (struct sock *)ctx[3];
	if (!drop_is_of(skb, receiver, row->queued, c->netns_cookie))
		return 0;
	return judge_drop(skb, row);
}
