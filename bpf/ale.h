/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * ALE: from the endpoints of a bind, a connect or a first packet to the fields
 * of the layer, the verdict, its hit counter and its event. The hooks in
 * hook_*.h find the endpoints; what the fields are is decided here once.
 */
#pragma once

#include "discard.h"
#include "identity.h"
#include "interface.h"

#define AF_INET 2
#define AF_INET6 10
#define IPPROTO_TCP 6
#define IPPROTO_UDP 17
#define IPPROTO_MPTCP 262
#define EACCES 13

#define WFP_UDP_IDLE (60ULL * 1000000000) /* an idle UDP flow is forgotten (ale.md 1) */
#define WFP_UDP_TOUCH 1000000000ULL       /* its time is not written more often */

#define WFP_USES(l, s) ((l)->used & (1U << WFP_SLOT_##s))
#define WFP_USES_INTERFACE(l)                                                          \
	((l)->used & (1U << WFP_SLOT_LOCAL_INTERFACE | 1U << WFP_SLOT_INTERFACE_INDEX | \
		      1U << WFP_SLOT_INTERFACE_TYPE | 1U << WFP_SLOT_PACKET_INTERFACE | \
		      1U << WFP_SLOT_PACKET_INTERFACE_INDEX |                          \
		      1U << WFP_SLOT_PACKET_INTERFACE_TYPE |                           \
		      1U << WFP_SLOT_ORIGINAL_PROFILE | 1U << WFP_SLOT_CURRENT_PROFILE | \
		      1U << WFP_SLOT_QUARANTINE_EPOCH))

static __always_inline int is_assignment(__u32 layer)
{
	return (layer & ~WFP_FAMILY_OR_DISCARD) == WFP_ALE_RESOURCE_ASSIGNMENT_V4;
}

/* RESOURCE_ASSIGNMENT, AUTH_LISTEN, and their discard layers: of a socket without a peer */
static __always_inline int is_of_address(__u32 layer)
{
	return layer - WFP_ALE_RESOURCE_ASSIGNMENT_V4 <=
	       WFP_ALE_AUTH_LISTEN_V6_DISCARD - WFP_ALE_RESOURCE_ASSIGNMENT_V4;
}

static __always_inline int is_connect(__u32 layer)
{
	return (layer & ~WFP_FAMILY_OR_DISCARD) == WFP_ALE_AUTH_CONNECT_V4;
}

static __always_inline int is_established(__u32 layer)
{
	return (layer & ~WFP_FAMILY_OR_DISCARD) == WFP_ALE_FLOW_ESTABLISHED_V4;
}

/* AUTH_RECV_ACCEPT, AUTH_CONNECT, and their discard layers */
static __always_inline int is_authorisation(__u32 layer)
{
	return layer - WFP_ALE_AUTH_RECV_ACCEPT_V4 <=
	       WFP_ALE_AUTH_CONNECT_V6_DISCARD - WFP_ALE_AUTH_RECV_ACCEPT_V4;
}

/* RESOURCE_RELEASE, ENDPOINT_CLOSURE: is_v6 does not hold of these, which have no
 * discard layers between them */
static __always_inline int is_end(__u32 layer)
{
	return layer - WFP_ALE_RESOURCE_RELEASE_V4 <=
	       WFP_ALE_ENDPOINT_CLOSURE_V6 - WFP_ALE_RESOURCE_RELEASE_V4;
}

static __always_inline int is_connect_redirect(__u32 layer)
{
	return layer - WFP_ALE_CONNECT_REDIRECT_V4 < 2;
}

static __always_inline int is_bind_redirect(__u32 layer)
{
	return layer - WFP_ALE_BIND_REDIRECT_V4 < 2;
}

/* Whether the layer has remote fields, and the socket a peer. */
static __always_inline int has_remote(const struct wfp_tuple *t)
{
	if (is_end(t->layer) || is_bind_redirect(t->layer))
		return t->known & WFP_KNOWN_REMOTE;
	return !is_of_address(t->layer);
}

static __always_inline int is_transport_out(__u32 layer)
{
	return (layer & ~WFP_FAMILY_OR_DISCARD) == WFP_OUTBOUND_TRANSPORT_V4;
}

/* Puts the interface fields of a layer (ale.md 2: an accept has an arrival
 * interface, a connect a next hop; the other one is empty; no other layer has either).
 * Who reauthorises a flow by a packet of the other direction knows neither. */
static __always_inline void put_ale_interface(struct wfp_values *v, const struct wfp_tuple *t)
{
	struct wfp_link *l;

	if (!t->ifindex)
		return;
	l = find_link(t->generation, t->ifindex);
	put_interface(v, WFP_SLOT_LOCAL_INTERFACE, t->ifindex, l);
	if (is_authorisation(t->layer) && !(t->known & WFP_KNOWN_AGAINST))
		put_interface(v, WFP_SLOT_PACKET_INTERFACE, t->ifindex, l);
	if (!l)
		return;
	put(v, WFP_SLOT_CURRENT_PROFILE, l->profile);
	if (!is_authorisation(t->layer))
		return;
	put(v, WFP_SLOT_ORIGINAL_PROFILE, l->profile);
	put(v, WFP_SLOT_QUARANTINE_EPOCH, is_v6(t->layer) ? l->epoch[1] : l->epoch[0]);
}

/* Loopback is split by who sends it where that is authorised: an AppContainer (a
 * mapped package) or not. */
static __always_inline __u32 ale_flags(const struct wfp_tuple *t, struct wfp_socket *s)
{
	struct wfp_generation *g;
	__u32 tables = tables_of(t->generation), flags = t->flags;
	void *table;

	if (is_of_address(t->layer) || is_end(t->layer) || t->ifindex != WFP_LOOPBACK_IFINDEX)
		return flags;
	flags |= WFP_FLAG_IS_LOOPBACK;
	if (!is_authorisation(t->layer))
		return flags;
	g = bpf_map_lookup_elem(&generations, &tables);
	table = bpf_map_lookup_elem(&principals, &tables);
	if (s && g && g->has_packages && table &&
	    cgroup_number(table, s, WFP_PRINCIPAL_PACKAGE))
		return flags | WFP_FLAG_IS_APPCONTAINER_LOOPBACK;
	return flags | WFP_FLAG_IS_NON_APPCONTAINER_LOOPBACK;
}

static __always_inline int is_reauthorised(const struct wfp_tuple *t)
{
	return t->known & WFP_KNOWN_AGAIN;
}

/* REAUTHORIZE_REASON, which has the last word of all slots. */
static __always_inline void put_reason(struct wfp_values *v, const struct wfp_tuple *t)
{
	if (is_reauthorised(t))
		v->word[14] |= (__u64)WFP_REAUTHORIZE_POLICY_CHANGE << 32;
	v->present |= 1U << WFP_SLOT_REAUTHORIZE_REASON;
}

/* Fills in the fields that the layer has. Returns 0 where it has no filters. */
__noinline int wfp_ale_values(struct wfp_tuple *t, struct wfp_socket *s, struct wfp_values *v)
{
	struct wfp_layer *l;

	if (!t || !v)
		return 0;
	l = find_layer(t->generation, t->layer);
	if (!l)
		return 0;
	v->layer = t->layer;
	v->generation = t->generation;
	v->present = 0;
	if (t->known & WFP_KNOWN_LOCAL_ADDRESS) {
		put_address(v, WFP_SLOT_LOCAL_ADDRESS, t->local);
	}
	put(v, WFP_SLOT_LOCAL_ADDRESS_TYPE, t->local_type);
	if (t->known & WFP_KNOWN_LOCAL_PORT &&
	    !(t->known & WFP_KNOWN_NOT_PICKED && t->layer & WFP_DISCARD))
		put(v, WFP_SLOT_LOCAL_PORT, t->local_port);
	put(v, WFP_SLOT_PROTOCOL, t->protocol);
	put(v, WFP_SLOT_FLAGS, WFP_USES(l, FLAGS) ? ale_flags(t, s) : 0);
	if (has_remote(t)) {
		put_address(v, WFP_SLOT_REMOTE_ADDRESS, t->remote);
		put(v, WFP_SLOT_REMOTE_PORT, t->remote_port);
	}
	if (is_connect(t->layer) || is_established(t->layer) || is_connect_redirect(t->layer))
		put(v, WFP_SLOT_DESTINATION_ADDRESS_TYPE, t->destination_type);
	if (is_authorisation(t->layer))
		put_reason(v, t);
	if (is_established(t->layer))
		put(v, WFP_SLOT_DIRECTION, !(t->known & WFP_KNOWN_OUTBOUND));
	if (is_assignment(t->layer) && WFP_USES(l, PROMISCUOUS_MODE))
		put(v, WFP_SLOT_PROMISCUOUS_MODE,
		    t->known & WFP_KNOWN_PROMISCUOUS ? WFP_SIO_RCVALL | t->remote_port : 0);
	if (WFP_USES_INTERFACE(l))
		put_ale_interface(v, t);
	if (l->used & (1U << WFP_SLOT_APP | 1U << WFP_SLOT_USER | 1U << WFP_SLOT_PACKAGE))
		wfp_put_identity(v, s, l->used);
	return 1;
}

/* Says in an event what was judged. */
static __always_inline void put_ale_event(struct wfp_event *e, const struct wfp_tuple *t,
					  const struct wfp_socket *s)
{
	e->layer = t->layer;
	if (t->known & WFP_KNOWN_LOCAL_ADDRESS) {
		e->local[0] = t->local[0];
		e->local[1] = t->local[1];
	}
	if (has_remote(t)) {
		e->remote[0] = t->remote[0];
		e->remote[1] = t->remote[1];
		e->remote_port = t->remote_port;
	}
	e->local_port = t->known & WFP_KNOWN_NOT_PICKED ? 0 : t->local_port;
	e->protocol = t->protocol;
	e->outbound = is_connect(t->layer) || is_connect_redirect(t->layer) ||
		      is_transport_out(t->layer) ||
		      t->known & WFP_KNOWN_OUTBOUND;
	e->ifindex = t->ifindex;
	if (is_authorisation(t->layer) && is_reauthorised(t))
		e->reauthorize = WFP_REAUTHORIZE_POLICY_CHANGE;
	if (s) {
		e->inode = s->inode;
		e->dev = s->dev;
		e->pid = s->pid;
		e->uid = s->uid;
		if (is_established(t->layer) || is_end(t->layer))
			e->flow = s->flow;
		/* the flags of a discard layer are lent */
		if (is_connect(t->layer) && !(t->layer & WFP_DISCARD) &&
		    t->flags & WFP_FLAG_IS_CONNECTION_REDIRECTED) {
			e->original[0] = s->asked[0];
			e->original[1] = s->asked[1];
			e->original_port = s->asked_port;
		}
	}
}

/* Counts a verdict and reports it. */
__noinline int wfp_ale_report(struct wfp_tuple *t, struct wfp_socket *s, __u64 verdict)
{
	struct wfp_event *e;

	if (!t)
		return 0;
	e = report(t->generation, verdict);
	if (!e)
		return 0;
	put_ale_event(e, t, s);
	bpf_ringbuf_submit(e, 0);
	return 0;
}

/*
 * A tuple that was blocked holds what blocked it in place of its flags, which nobody
 * asks for any more once the discard layer's values are there: there is no stack left
 * to keep it elsewhere meanwhile.
 */
static __always_inline void lend_flags(struct wfp_tuple *t, __u64 blocked)
{
	t->flags = filter_decided(blocked) ? (__u32)blocked : ~0U;
}

/* Counts and reports the verdict of a discard layer; the tuple's flags are lent. */
__noinline int wfp_ale_discarded(struct wfp_tuple *t, struct wfp_socket *s, __u64 verdict)
{
	struct wfp_event *e;

	if (!t)
		return 0;
	e = report(t->generation, verdict);
	if (e) {
		put_ale_event(e, t, s);
		put_blocker(e, t->generation,
			    t->flags != ~0U ? WFP_VERDICT_BLOCK | t->flags : 0);
		bpf_ringbuf_submit(e, 0);
	}
	return 0;
}

/* Classifies at an ALE layer and, where that blocks, at its discard layer. Returns 1
 * where the verdict is block; then the tuple has no flags any more. */
__noinline int wfp_ale(struct wfp_tuple *t, struct wfp_socket *s)
{
	struct wfp_values v = {};
	__u64 verdict;

	if (!t || !wfp_ale_values(t, s, &v))
		return 0;
	verdict = wfp_arbitrate(&v);
	wfp_ale_report(t, s, verdict);
	if (!(verdict & WFP_VERDICT_BLOCK))
		return 0;
	if (!has_discard(t->layer))
		return 1;
	__builtin_memset(&v, 0, sizeof(v));
	t->layer |= WFP_DISCARD;
	v.is[0] = verdict; /* where it is not in the way until the next one is sought */
	if (wfp_ale_values(t, s, &v)) {
		lend_flags(t, v.is[0]);
		wfp_ale_discarded(t, s, wfp_arbitrate(&v));
	}
	t->layer &= ~WFP_DISCARD;
	return 1;
}

static __always_inline int is_mapped(const __u64 address[2])
{
	return !address[0] && address[1] >> 32 == 0xffff;
}

/*
 * Completes the local address of a bind: a mapped address belongs to the V4
 * layer, an unspecified one is empty, any other is on the interface that owns it.
 */
__noinline int wfp_put_local(struct wfp_tuple *t)
{
	struct wfp_route *route;
	int v6;

	if (!t)
		return 0;
	if (is_v6(t->layer) && is_mapped(t->local)) {
		t->layer &= ~2U;
		t->local[0] = (__u32)t->local[1];
		t->local[1] = 0;
	}
	v6 = is_v6(t->layer);
	t->local_type = address_type(t->local, v6);
	if (t->local_type == WFP_NL_UNSPECIFIED)
		return 0;
	t->known |= WFP_KNOWN_LOCAL_ADDRESS;
	route = find_route(t->local, v6);
	if (!route)
		return 0;
	t->local_type = routed_type(t->local, v6, route);
	if (route->local)
		t->ifindex = route->ifindex;
	return 0;
}

/* Whether an implicit bind is still to be judged, now that the port is known. */
static __always_inline int bind_pending(const struct wfp_socket *s, const struct wfp_config *c,
					__u16 port)
{
	return s->state & WFP_SOCKET_RA_PENDING ||
	       (s->state & WFP_SOCKET_RA_PORT &&
		(port < c->ephemeral_low || port > c->ephemeral_high));
}

/* Of the local address that a socket has by now, what it was bound to: nothing, unless a
 * call named the address and left the port to connect(). */
__noinline int wfp_bound_part(struct wfp_tuple *t, struct wfp_socket *s)
{
	if (!t || !s)
		return 0;
	if (s->state & WFP_SOCKET_RA_AT_POST_BIND)
		return wfp_put_local(t);
	if (is_v6(t->layer) && is_mapped(t->local))
		t->layer &= ~2U;
	return 0;
}

/* Keeps what became of it. */
static __always_inline int bind_judged(struct wfp_socket *s, int blocked)
{
	s->state &= ~(WFP_SOCKET_RA_PENDING | WFP_SOCKET_RA_PORT | WFP_SOCKET_RA_DONE |
		      WFP_SOCKET_RA_BLOCKED);
	s->state |= blocked ? WFP_SOCKET_RA_BLOCKED : WFP_SOCKET_RA_DONE;
	return blocked;
}

/* Only TCP and UDP are judged at ALE today; MPTCP is TCP to WFP. */
static __always_inline __u8 ale_protocol(__u32 protocol)
{
	if (protocol == IPPROTO_MPTCP)
		return IPPROTO_TCP;
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP ? protocol : 0;
}

static __always_inline struct wfp_config *ale_config(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&config, &zero);
}

/* What tells the filters of a layer from others that it had, or will have. */
static __always_inline __u64 layer_epoch(__u32 generation, __u32 layer)
{
	__u32 key = layer_key(generation, layer);
	struct wfp_layer *l = bpf_map_lookup_elem(&layers, &key);

	return l ? l->epoch : 0;
}

/* Remembers an authorised UDP flow of a socket: once for its local address, and
 * once for any, since a socket call does not know the address it will have. */
__noinline int wfp_remember_flow(struct wfp_tuple *t, __u64 cookie, __u32 state)
{
	struct wfp_flow flow = {};
	struct wfp_flow_key key = { .cookie = cookie };

	if (!t)
		return 0;
	flow.last = bpf_ktime_get_boot_ns();
	flow.layer = t->layer;
	flow.epoch = layer_epoch(t->generation, t->layer);
	flow.state = state;
	if (t->known & WFP_KNOWN_LOCAL_ADDRESS) {
		flow.local[0] = t->local[0];
		flow.local[1] = t->local[1];
	}
	key.remote[0] = t->remote[0];
	key.remote[1] = t->remote[1];
	key.remote_port = t->remote_port;
	bpf_map_update_elem(&flows, &key, &flow, BPF_ANY);
	if (!(t->known & WFP_KNOWN_LOCAL_ADDRESS))
		return 0;
	key.local[0] = t->local[0];
	key.local[1] = t->local[1];
	bpf_map_update_elem(&flows, &key, &flow, BPF_ANY);
	return 0;
}

/* Takes back that the socket may exchange datagrams with the peer. */
__noinline int wfp_forget_flow(struct wfp_tuple *t, __u64 cookie)
{
	struct wfp_flow_key key = { .cookie = cookie };

	if (!t)
		return 0;
	key.remote[0] = t->remote[0];
	key.remote[1] = t->remote[1];
	key.remote_port = t->remote_port;
	bpf_map_delete_elem(&flows, &key);
	return 0;
}

enum wfp_flow_local {
	WFP_FLOW_LOCAL = 0,   /* the flow of the tuple's local address */
	WFP_FLOW_ANY = 1,     /* the last one with the peer, whatever its local address */
	WFP_FLOW_PENDING = 2, /* the last one, if its local address is this or not known yet */
};

enum wfp_alive {
	WFP_FLOW_NONE = 0, /* its next packet opens another */
	WFP_FLOW_ALIVE = 1,
	WFP_FLOW_STALE = 2, /* the layer that let it pass has other filters now: the packet is for reauthorisation */
	WFP_FLOW_DEAD = 3,  /* it was blocked */
};

/*
 * How a flow is that was authorised, enum wfp_alive; keeps it alive. Of a stale one
 * the tuple becomes that of its reauthorisation, which is for whom this says so: the
 * others take the flow as it is already. A flow that was blocked ends with the filters
 * that did it.
 */
__noinline int wfp_flow_alive(struct wfp_tuple *t, __u64 cookie, __u32 which)
{
	struct wfp_flow_key key = { .cookie = cookie };
	struct wfp_flow *flow;
	__u64 now, epoch, was;

	if (!t)
		return WFP_FLOW_NONE;
	if (which == WFP_FLOW_LOCAL) {
		key.local[0] = t->local[0];
		key.local[1] = t->local[1];
	}
	key.remote[0] = t->remote[0];
	key.remote[1] = t->remote[1];
	key.remote_port = t->remote_port;
	flow = bpf_map_lookup_elem(&flows, &key);
	if (!flow)
		return WFP_FLOW_NONE;
	if (which == WFP_FLOW_PENDING && (flow->local[0] | flow->local[1]) &&
	    (flow->local[0] != t->local[0] || flow->local[1] != t->local[1]))
		return WFP_FLOW_NONE;
	now = bpf_ktime_get_boot_ns();
	if (now - flow->last > WFP_UDP_IDLE)
		return WFP_FLOW_NONE;
	if (now - flow->last > WFP_UDP_TOUCH)
		flow->last = now;
	epoch = layer_epoch(t->generation, flow->layer);
	was = flow->epoch;
	if (was == epoch)
		return flow->state & WFP_FLOW_BLOCKED ? WFP_FLOW_DEAD : WFP_FLOW_ALIVE;
	if (flow->state & WFP_FLOW_OLD)
		return WFP_FLOW_ALIVE;
	if (flow->state & WFP_FLOW_BLOCKED)
		return WFP_FLOW_NONE;
	if (which == WFP_FLOW_LOCAL && __sync_val_compare_and_swap(&flow->epoch, was, epoch) != was)
		return WFP_FLOW_ALIVE;
	t->layer = flow->layer;
	t->flags |= WFP_FLAG_IS_REAUTHORIZE;
	t->known |= WFP_KNOWN_AGAIN;
	return WFP_FLOW_STALE;
}
