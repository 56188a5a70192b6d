/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * netfilter FORWARD: IPFORWARD, behind INBOUND_IPPACKET and before
 * OUTBOUND_IPPACKET (packetflows.md 5). Every packet that the host passes on is
 * judged, each fragment by itself, unless connections are tracked: then packets
 * are made whole before. What is for the host, and what it sends itself, is not
 * seen here. A blocked packet is dropped in silence.
 */
#pragma once

#include "hook_netfilter.h"

/* A packet that is passed on. */
struct wfp_forwarded {
	__u64 source[2];
	__u64 destination[2];
	__u32 layer;
	__u32 generation;
	__u32 in;    /* interface that it came in by */
	__u32 out;   /* and that it goes on by */
	__u32 flags; /* enum wfp_flag */
	__u32 pad;
};

/* Reads a packet, whose layer is set. Whether it is a fragment is looked for only
 * where that is tested. Returns 0, or -1 where it cannot be read. */
__noinline int wfp_forward_read(struct bpf_nf_ctx *ctx, struct wfp_forwarded *f, __u32 flags_tested)
{
	struct wfp_headers h = {};
	struct bpf_dynptr dynptr;
	struct wfp_bytes p = { .dynptr = &dynptr };
	int v6, end;

	if (!f || bpf_dynptr_from_skb((struct __sk_buff *)ctx->skb, 0, &dynptr))
		return -1;
	v6 = is_v6(f->layer);
	end = read_ip(p, v6, 0, &h);
	if (end > 0 && v6 && flags_tested)
		end = skip_extensions(p, end, &h, 0);
	if (end < 0)
		return -1;
	__builtin_memcpy(f->source, h.source, sizeof(f->source));
	__builtin_memcpy(f->destination, h.destination, sizeof(f->destination));
	f->in = ctx->state->in->ifindex;
	f->out = ctx->state->out->ifindex;
	if (h.fragment)
		f->flags = WFP_FLAG_IS_FRAGMENT;
	return 0;
}

static __always_inline int is_local(const struct wfp_route *route)
{
	return route && route->local;
}

/* Puts the interface of one side; one that is not known has its index only. */
static __always_inline void put_side(struct wfp_values *v, __u32 generation, __u32 used,
				     __u32 slot, __u32 profile, __u32 ifindex)
{
	struct wfp_link *link;

	put(v, slot + 1, ifindex);
	if (!(used & (1U << slot | 1U << profile)))
		return;
	link = find_link(generation, ifindex);
	if (!link)
		return;
	put(v, slot, link->luid);
	put(v, profile, link->profile);
}

/* Classifies a packet. Returns a verdict. */
__noinline __u64 wfp_forward_verdict(struct wfp_forwarded *f)
{
	struct wfp_route *to = NULL;
	struct wfp_values v = {};
	struct wfp_layer *l;
	__u32 flags;
	int v6;

	if (!f)
		return WFP_VERDICT_BLOCK | WFP_VERDICT_ERROR;
	l = find_layer(f->generation, f->layer);
	if (!l)
		return 0;
	v6 = is_v6(f->layer);
	v.layer = f->layer;
	v.generation = f->generation;
	put_address(&v, WFP_SLOT_FORWARD_SOURCE, f->source);
	put_address(&v, WFP_SLOT_FORWARD_DESTINATION, f->destination);
	if (WFP_USES(l, DESTINATION_ADDRESS_TYPE) || WFP_USES(l, FLAGS))
		to = find_route(f->destination, v6);
	put(&v, WFP_SLOT_DESTINATION_ADDRESS_TYPE, routed_type(f->destination, v6, to));
	flags = f->flags;
	if (WFP_USES(l, FLAGS)) {
		/* rules can lead a packet past the table of local addresses, and another
		 * host can send one from an address of this one */
		if (is_local(to))
			flags |= WFP_FLAG_IS_INBOUND_PASS_THRU;
		if (is_local(find_route(f->source, v6)))
			flags |= WFP_FLAG_IS_OUTBOUND_PASS_THRU;
	}
	put(&v, WFP_SLOT_FLAGS, flags);
	put_side(&v, f->generation, l->used, WFP_SLOT_FORWARD_IN, WFP_SLOT_FORWARD_IN_PROFILE, f->in);
	put_side(&v, f->generation, l->used, WFP_SLOT_FORWARD_OUT, WFP_SLOT_FORWARD_OUT_PROFILE,
		 f->out);
	return wfp_arbitrate(&v);
}

/* Counts a verdict and reports it; of a discard layer with the verdict that blocked,
 * else with 0. */
__noinline int wfp_forward_report(struct wfp_forwarded *f, __u64 verdict, __u64 blocked)
{
	struct wfp_event *e;

	if (!f)
		return 0;
	e = report(f->generation, verdict);
	if (!e)
		return 0;
	e->layer = f->layer;
	__builtin_memcpy(e->local, f->destination, sizeof(e->local));
	__builtin_memcpy(e->remote, f->source, sizeof(e->remote));
	e->ifindex = f->in;
	e->dev = f->out;
	if (blocked)
		put_blocker(e, f->generation, blocked);
	bpf_ringbuf_submit(e, 0);
	return 0;
}

/* Judges a packet and reports. Returns what the hook does. */
__noinline int wfp_forward_judge(struct bpf_nf_ctx *ctx, __u32 layer, __u32 generation,
				 __u32 flags_tested)
{
	struct wfp_forwarded f = { .layer = layer, .generation = generation };
	__u64 verdict;

	if (wfp_forward_read(ctx, &f, flags_tested)) {
		count(WFP_COUNTER_UNREADABLE);
		return NF_DROP;
	}
	verdict = wfp_forward_verdict(&f);
	wfp_forward_report(&f, verdict, 0);
	if (!(verdict & WFP_VERDICT_BLOCK))
		return NF_ACCEPT;
	f.layer |= WFP_DISCARD;
	/* the discard layer may test flags where the other does not */
	if (find_layer(generation, f.layer) && !wfp_forward_read(ctx, &f, 1))
		wfp_forward_report(&f, wfp_forward_verdict(&f), verdict);
	return NF_DROP;
}

SEC("netfilter")
int wfp_forward(struct bpf_nf_ctx *ctx)
{
	__u32 layer = WFP_IPFORWARD_V4 | (ctx->state->pf == NFPROTO_IPV6 ? 2 : 0);
	__u32 generation = active_generation();
	struct wfp_layer *l = find_layer(generation, layer);
	int action;

	if (!l)
		return NF_ACCEPT;
	action = wfp_forward_judge(ctx, layer, generation, WFP_USES(l, FLAGS));
	/* the verifier must see that it is one of these two */
	asm volatile("" : "+r"(action));
	return action == NF_ACCEPT ? NF_ACCEPT : NF_DROP;
}
