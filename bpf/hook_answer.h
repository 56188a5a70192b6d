/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Packets without an endpoint. They are classified when the answer is about to leave,
 * so that a block there silences it: a scan of ports sees nothing.
 *
 * TCP: INBOUND_TRANSPORT_DISCARD, before the RST is made (tp_btf/tcp_send_reset without
 * a socket, since 6.10). The processor keeps until then which RST is silenced, and
 * netfilter LOCAL_OUT drops it. Both happen in one go: nothing comes between.
 * UDP: INBOUND_IPPACKET_DISCARD, when the port unreachable that quotes the datagram
 * comes to LOCAL_OUT. A datagram that the kernel does not answer is not seen here.
 */
#pragma once

#include <bpf/bpf_tracing.h>

#include "hook_above.h"
#include "hook_tc.h"

#define WFP_RST 0x04

/* Reasons of modules, metadata.md 7. */
#define WFP_IP_PORT_UNREACHABLE 4      /* IP_DISCARD_REASON */
#define WFP_INET_ENDPOINT_NOT_FOUND 4 /* INET_DISCARD_REASON */

/* What is read of a packet that has no endpoint; flavours, for the sake of CO-RE. */
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct net_device___answer {
	int ifindex;
	possible_net_t nd_net;
};
struct sk_buff___answer {
	struct net_device___answer *dev;
	unsigned char *head;
	__u16 network_header;
	__u16 transport_header;
};
#pragma clang attribute pop

/* The RST that this processor is about to make and that is silenced: that of a packet. */
struct wfp_silent_reset {
	__u64 local[2];
	__u64 remote[2];
	__u16 local_port;
	__u16 remote_port;
	__u32 silent; /* 0: none is */
};

/* key 0 -> that RST. Programs. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct wfp_silent_reset);
	__uint(max_entries, 1);
} resets SEC(".maps");

static __always_inline struct wfp_silent_reset *next_reset(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&resets, &zero);
}

/* Counts a verdict on a packet without an endpoint and reports it. Returns 1 for block. */
__noinline int wfp_unanswered_report(struct wfp_tuple *t, __u64 verdict)
{
	struct wfp_event *e;

	if (!t)
		return 0;
	e = report(t->generation, verdict);
	if (e) {
		put_ale_event(e, t, NULL);
		if (t->protocol == IPPROTO_TCP) {
			e->discard_module = WFP_DISCARD_TRANSPORT;
			e->discard_reason = WFP_INET_ENDPOINT_NOT_FOUND;
		} else {
			e->discard_module = WFP_DISCARD_NETWORK;
			e->discard_reason = WFP_IP_PORT_UNREACHABLE;
		}
		bpf_ringbuf_submit(e, 0);
	}
	return !!(verdict & WFP_VERDICT_BLOCK);
}

/* The endpoints of the packet that a RST answers. Returns 0, or -1 where it is not
 * one of this namespace. */
static __noinline int read_reset(const struct sk_buff *skb, struct wfp_tuple *t)
{
	const struct sk_buff___answer *b = (const void *)skb;
	struct net_device___answer *dev = BPF_CORE_READ(b, dev);
	unsigned char *head = BPF_CORE_READ(b, head);
	struct wfp_config *c = ale_config();
	__u8 h[40];
	__u16 port[2];

	if (!c || !dev || BPF_CORE_READ(dev, nd_net.net, net_cookie) != c->netns_cookie)
		return -1;
	if (bpf_probe_read_kernel(h, sizeof(h), head + BPF_CORE_READ(b, network_header)) ||
	    bpf_probe_read_kernel(port, sizeof(port), head + BPF_CORE_READ(b, transport_header)))
		return -1;
	if (h[0] >> 4 == 6) {
		ip6_halves(h + 8, t->remote);
		ip6_halves(h + 24, t->local);
		t->layer = WFP_INBOUND_TRANSPORT_V6_DISCARD;
	} else {
		t->remote[0] = (__u32)h[12] << 24 | h[13] << 16 | h[14] << 8 | h[15];
		t->local[0] = (__u32)h[16] << 24 | h[17] << 16 | h[18] << 8 | h[19];
		t->layer = WFP_INBOUND_TRANSPORT_V4_DISCARD;
	}
	t->remote_port = bpf_ntohs(port[0]);
	t->local_port = bpf_ntohs(port[1]);
	t->known = WFP_KNOWN_LOCAL_ADDRESS | WFP_KNOWN_LOCAL_PORT;
	t->ifindex = BPF_CORE_READ(dev, ifindex);
	return 0;
}

SEC("tp_btf/tcp_send_reset")
int BPF_PROG(wfp_send_reset, const struct sock *sk, const struct sk_buff *skb, int reason)
{
	struct wfp_tuple t = { .protocol = IPPROTO_TCP };
	struct wfp_silent_reset *r = next_reset();

	/* only kernels that give a reason come here without a socket: others refuse this */
	asm volatile("" : : "r"(reason));
	if (!r)
		return 0;
	r->silent = 0; /* of one that never left */
	if (sk || !skb || read_reset(skb, &t))
		return 0;
	t.generation = active_generation();
	if (!find_layer(t.generation, t.layer) ||
	    !wfp_unanswered_report(&t, wfp_transport_verdict(&t)))
		return 0;
	__builtin_memcpy(r->local, t.local, sizeof(r->local));
	__builtin_memcpy(r->remote, t.remote, sizeof(r->remote));
	r->local_port = t.local_port;
	r->remote_port = t.remote_port;
	r->silent = 1;
	return 0;
}

/* Whether the kernel itself sends a packet: by no socket, or by one that has no file
 * and is no connection's. */
static __always_inline int from_kernel(struct sk_buff *skb)
{
	struct sock *sk = BPF_CORE_READ(skb, sk);
	__u32 state;

	if (!sk)
		return 1;
	state = BPF_CORE_READ(sk, __sk_common.skc_state);
	return state != BPF_TCP_TIME_WAIT && state != BPF_TCP_NEW_SYN_RECV &&
	       BPF_CORE_READ(sk, sk_type) == SOCK_RAW && !BPF_CORE_READ(sk, sk_socket, file);
}

/* Whether a packet is the RST that is silenced, which then is no more. */
__noinline int wfp_silenced(struct bpf_nf_ctx *ctx, __u32 v6)
{
	struct wfp_silent_reset *r = next_reset();
	struct wfp_headers h = {};
	struct bpf_dynptr dynptr;
	struct wfp_bytes p = { .dynptr = &dynptr };
	__u8 b[14];
	int at;

	if (!r || !r->silent || !from_kernel(ctx->skb) ||
	    bpf_dynptr_from_skb((struct __sk_buff *)ctx->skb, 0, &dynptr))
		return 0;
	at = read_ip(p, v6, 0, &h);
	if (at < 0 || h.protocol != IPPROTO_TCP || load(p, at, b, sizeof(b)) || !(b[13] & WFP_RST))
		return 0;
	if (r->local_port != (b[0] << 8 | b[1]) || r->remote_port != (b[2] << 8 | b[3]) ||
	    r->local[0] != h.source[0] || r->local[1] != h.source[1] ||
	    r->remote[0] != h.destination[0] || r->remote[1] != h.destination[1])
		return 0;
	r->silent = 0;
	return 1;
}

/* The endpoints of the datagram for which a packet says that its port is unreachable.
 * Returns 0, or -1 where it says nothing of the kind, or not of the host's own port. */
__noinline int wfp_unreachable(struct bpf_nf_ctx *ctx, struct wfp_tuple *t, __u32 v6)
{
	struct wfp_headers h = {};
	struct bpf_dynptr dynptr;
	struct wfp_bytes p = { .dynptr = &dynptr };
	__u64 from[2];
	__u8 b[4];
	int at;

	if (!t || !from_kernel(ctx->skb) ||
	    bpf_dynptr_from_skb((struct __sk_buff *)ctx->skb, 0, &dynptr))
		return -1;
	at = read_ip(p, v6, 0, &h);
	if (at < 0 || h.protocol != (v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP) || load(p, at, b, 2) ||
	    b[0] != (v6 ? 1 : 3) || b[1] != (v6 ? 4 : 3))
		return -1;
	from[0] = h.source[0];
	from[1] = h.source[1];
	at = read_ip(p, v6, at + WFP_ICMP_QUOTE, &h);
	if (at > 0 && v6)
		at = skip_extensions(p, at, &h, 1);
	if (at < 0 || h.destination[0] != from[0] || h.destination[1] != from[1] ||
	    (h.protocol != IPPROTO_UDP && h.protocol != IPPROTO_UDPLITE) || load(p, at, b, 4))
		return -1;
	__builtin_memcpy(t->local, h.destination, sizeof(t->local));
	__builtin_memcpy(t->remote, h.source, sizeof(t->remote));
	t->remote_port = b[0] << 8 | b[1];
	t->local_port = b[2] << 8 | b[3];
	t->protocol = h.protocol;
	t->known = WFP_KNOWN_LOCAL_ADDRESS | WFP_KNOWN_LOCAL_PORT;
	t->ifindex = ctx->state->out->ifindex;
	return 0;
}

/* Classifies it at INBOUND_IPPACKET_DISCARD, as hook_tc.h does packets. Returns a verdict. */
__noinline __u64 wfp_unreachable_verdict(struct wfp_tuple *t)
{
	struct wfp_values v = {};
	struct wfp_layer *l;

	if (!t)
		return WFP_VERDICT_BLOCK | WFP_VERDICT_ERROR;
	l = find_layer(t->generation, t->layer);
	if (!l)
		return 0;
	v.layer = t->layer;
	v.generation = t->generation;
	put_address(&v, WFP_SLOT_LOCAL_ADDRESS, t->local);
	put_address(&v, WFP_SLOT_REMOTE_ADDRESS, t->remote);
	if (WFP_USES(l, LOCAL_ADDRESS_TYPE))
		put(&v, WFP_SLOT_LOCAL_ADDRESS_TYPE,
		    routed_type(t->local, is_v6(t->layer), find_route(t->local, is_v6(t->layer))));
	put(&v, WFP_SLOT_FLAGS, packet_flags(t->ifindex, 0, 0));
	put_interface(&v, WFP_SLOT_LOCAL_INTERFACE, t->ifindex,
		      WFP_USES_INTERFACE(l) ? find_link(t->generation, t->ifindex) : NULL);
	return wfp_arbitrate(&v);
}

/* Judges what quotes a datagram without an endpoint. Returns 1 for block. */
__noinline int wfp_unreachable_judge(struct bpf_nf_ctx *ctx, __u32 layer, __u32 generation)
{
	struct wfp_tuple t = { .generation = generation, .layer = layer };

	if (wfp_unreachable(ctx, &t, is_v6(layer)))
		return 0;
	return wfp_unanswered_report(&t, wfp_unreachable_verdict(&t));
}

/* Before what judges the answers at their own layers (packetflows.md 1, 2). */
SEC("netfilter")
int wfp_answer(struct bpf_nf_ctx *ctx)
{
	__u32 v6 = ctx->state->pf == NFPROTO_IPV6 ? 2 : 0, generation = active_generation();
	int tcp = may_be(ctx, v6, IPPROTO_TCP), icmp = may_be(ctx, v6, v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP);
	int drop = 0;

	if (tcp)
		drop = wfp_silenced(ctx, v6);
	if (!drop && icmp && find_layer(generation, WFP_INBOUND_IPPACKET_V4_DISCARD | v6))
		drop = wfp_unreachable_judge(ctx, WFP_INBOUND_IPPACKET_V4_DISCARD | v6, generation);
	/* the verifier must see that it is one of these two */
	asm volatile("" : "+r"(drop));
	return drop ? NF_DROP : NF_ACCEPT;
}
