/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The built-in callout `redirect` at ALE_CONNECT_REDIRECT and ALE_BIND_REDIRECT: a
 * filter that calls it permits, and leads the call to the address and port of its
 * provider context. Of the filters that are evaluated, one a sublayer, the first that
 * redirects does. What a program is told in its place is in hook_redirect.h.
 */
#pragma once

#include "ale.h"

#define WFP_REDIRECT_BLOCKED (~0ULL) /* no filter's id */

static __always_inline __u32 connect_redirect_layer(const struct wfp_tuple *t)
{
	return WFP_ALE_CONNECT_REDIRECT_V4 + !!is_v6(t->layer);
}

/* A mapped address belongs to the V4 layer. */
static __always_inline __u32 bind_redirect_layer(const struct wfp_tuple *t)
{
	return WFP_ALE_BIND_REDIRECT_V4 + (is_v6(t->layer) && !is_mapped(t->local));
}

/* An end in the form that redirection has them in. */
static __always_inline void put_end(struct wfp_end *end, const struct wfp_tuple *t,
				    const __u64 address[2], __u32 port)
{
	end->address[0] = is_v6(t->layer) ? address[0] : 0;
	end->address[1] = is_v6(t->layer) ? address[1] : 0xffff00000000ULL | address[0];
	end->port = port;
}

/* The reverse, in the family of the tuple. */
static __always_inline void put_address_of(const struct wfp_end *end, const struct wfp_tuple *t,
					   __u64 address[2])
{
	address[0] = is_v6(t->layer) ? end->address[0] : (__u32)end->address[1];
	address[1] = is_v6(t->layer) ? end->address[1] : 0;
}

/* Whether an end cannot stand in the tuple's place: the loader lets none be. */
static __always_inline int other_family(const struct wfp_end *end, const struct wfp_tuple *t)
{
	return !!is_v6(t->layer) == is_mapped(end->address);
}

static __always_inline int same_end(const struct wfp_end *a, const struct wfp_end *b)
{
	return a->address[0] == b->address[0] && a->address[1] == b->address[1] &&
	       a->port == b->port;
}

/* Where a filter redirects in an edition; NULL: it does not. */
static __always_inline struct wfp_end *target_of(__u32 generation, __u64 filter)
{
	struct wfp_target_key key = {
		.filter_id = filter,
		.edition = generation >> WFP_STAMP_EDITION,
	};

	return bpf_map_lookup_elem(&targets, &key);
}

/* The id of the filter of a record if it redirects, or 0. */
__noinline __u64 wfp_redirecting(__u32 generation, __u32 record)
{
	struct wfp_filter *f = find_filters(tables_of(generation), record);

	return f && target_of(generation, f->id) ? f->id : 0;
}

/*
 * Classifies at a redirect layer. Returns the id of the filter that redirects, 0 or
 * WFP_REDIRECT_BLOCKED. The search has left the first match of each sublayer behind;
 * the loader holds the layer to as many as one search judges.
 */
__noinline __u64 wfp_redirect_judge(struct wfp_tuple *t, struct wfp_socket *s, __u32 layer)
{
	struct wfp_values v = {};
	__u64 verdict, filter = 0;
	__u32 was;

	if (!t || !s)
		return 0;
	was = t->layer;
	t->layer = layer;
	if (!wfp_ale_values(t, s, &v)) {
		t->layer = was;
		return 0;
	}
	verdict = wfp_arbitrate(&v);
	wfp_ale_report(t, s, verdict);
	t->layer = was;
	if (verdict & WFP_VERDICT_BLOCK)
		return WFP_REDIRECT_BLOCKED;
	if (!(verdict & WFP_VERDICT_PERMIT))
		return 0;
	for (__u32 i = 0; i < WFP_SPAN; i++) {
		__u32 key = best(&v)[i], record;

		if (i >= v.sublayers)
			break;
		if (key == WFP_KEY_NONE)
			continue;
		record = (key & ((1U << WFP_KEY_SUBLAYER) - 1)) >> WFP_KEY_ADDED;
		if (record % WFP_KEY_AT_PLACE == WFP_KEY_LAID)
			record = v.present + record / WFP_KEY_AT_PLACE;
		else
			record = wfp_added_record(&v, record % WFP_KEY_AT_PLACE);
		filter = wfp_redirecting(t->generation, record);
		/* who comes later may not act where the right is gone, and finds the
		 * call redirected already where it is */
		if (filter || key & WFP_KEY_HARD)
			break;
	}
	return filter;
}

/* Whether the process that made a socket is the one that listens where it would be
 * led, or another one that takes redirected connections: what a proxy opens itself is
 * not redirected again. */
__noinline int wfp_is_proxy(struct bpf_sock_addr *ctx, struct wfp_socket *s, struct wfp_end *to)
{
	struct bpf_sock_tuple at = {};
	struct wfp_socket *there;
	struct bpf_sock *sk;
	__u32 size = sizeof(at.ipv4);
	int same = 0;

	if (!s || !to || !s->pid)
		return 0;
	if (is_mapped(to->address)) {
		at.ipv4.daddr = bpf_htonl((__u32)to->address[1]);
		at.ipv4.dport = bpf_htons(to->port);
	} else {
		at.ipv6.daddr[0] = bpf_htonl(to->address[0] >> 32);
		at.ipv6.daddr[1] = bpf_htonl((__u32)to->address[0]);
		at.ipv6.daddr[2] = bpf_htonl(to->address[1] >> 32);
		at.ipv6.daddr[3] = bpf_htonl((__u32)to->address[1]);
		at.ipv6.dport = bpf_htons(to->port);
		size = sizeof(at.ipv6);
	}
	if (ctx->protocol == IPPROTO_UDP)
		sk = bpf_sk_lookup_udp(ctx, &at, size, BPF_F_CURRENT_NETNS, 0);
	else
		sk = bpf_sk_lookup_tcp(ctx, &at, size, BPF_F_CURRENT_NETNS, 0);
	if (!sk)
		return 0;
	there = bpf_sk_storage_get(&sockets, sk, 0, 0);
	if (there)
		same = there->pid == s->pid && there->started == s->started;
	bpf_sk_release(sk);
	return same;
}

/* The same of a process that has asked for a redirect record, wherever it listens. */
__noinline int wfp_asked_for_record(struct wfp_socket *s)
{
	struct wfp_process p = {};

	if (!s)
		return 0;
	p.started = s->started;
	p.pid = s->pid;
	return !!bpf_map_lookup_elem(&proxies, &p);
}

/* Makes a tuple the traffic that it is led to become; s keeps what it was. */
static __always_inline void lead(struct wfp_tuple *t, struct wfp_socket *s,
				 const struct wfp_end *to)
{
	s->asked[0] = t->remote[0];
	s->asked[1] = t->remote[1];
	s->asked_port = t->remote_port;
	put_address_of(to, t, t->remote);
	t->remote_port = to->port;
	t->flags |= WFP_FLAG_IS_CONNECTION_REDIRECTED;
}

/* Remembers for what a socket's datagrams go to an end; a later peer takes the place
 * of the one before. */
__noinline int wfp_remember_answer(struct wfp_end *to, struct wfp_end *asked, __u64 cookie)
{
	struct wfp_redirect_key key = { .cookie = cookie, .of = WFP_REDIRECT_ANSWER };
	struct wfp_redirect value = {}, *known;

	if (!to || !asked)
		return 0;
	key.end = *to;
	known = bpf_map_lookup_elem(&redirects, &key);
	if (known && same_end(&known->end, asked))
		return 1;
	value.end = *asked;
	return !bpf_map_update_elem(&redirects, &key, &value, BPF_ANY);
}

__noinline int wfp_remember_redirect(struct wfp_end *to, struct wfp_end *asked, __u64 cookie)
{
	struct wfp_redirect_key key = { .cookie = cookie };
	struct wfp_redirect value = { .last = bpf_ktime_get_boot_ns() };

	if (!to || !asked)
		return 0;
	key.end = *asked;
	value.end = *to;
	return !bpf_map_update_elem(&redirects, &key, &value, BPF_ANY);
}

/* Where the datagrams to an end go by now; 0: nowhere else, or they have been idle. */
__noinline int wfp_find_redirect(struct wfp_end *end, __u64 cookie)
{
	struct wfp_redirect_key key = { .cookie = cookie };
	struct wfp_redirect *known;
	__u64 now;

	if (!end)
		return 0;
	key.end = *end;
	known = bpf_map_lookup_elem(&redirects, &key);
	if (!known)
		return 0;
	now = bpf_ktime_get_boot_ns();
	if (now - known->last > WFP_UDP_IDLE)
		return 0;
	if (now - known->last > WFP_UDP_TOUCH)
		known->last = now;
	*end = known->end;
	return 1;
}

/* Leads the datagrams of a flow where its first went. Returns 1 where that is elsewhere. */
__noinline int wfp_redirect_again(struct wfp_tuple *t, struct wfp_socket *s, __u64 cookie)
{
	struct wfp_end asked = {}, to;

	if (!t || !s)
		return 0;
	put_end(&asked, t, t->remote, t->remote_port);
	to = asked;
	if (!wfp_find_redirect(&to, cookie) || other_family(&to, t))
		return 0;
	wfp_remember_answer(&to, &asked, cookie);
	lead(t, s, &to);
	return 1;
}

/*
 * Leads a connect, or with a cookie a datagram, to where a filter redirects it.
 * Returns 1 where it did, 0 where the call stays as it is, and -1 where what the
 * program must be told later cannot be kept: then it is denied.
 */
__noinline int wfp_redirect_to(struct bpf_sock_addr *ctx, struct wfp_tuple *t,
			       struct wfp_socket *s, __u64 filter, __u64 cookie)
{
	struct wfp_redirected *r;
	struct bpf_sock *sk = ctx->sk;
	struct wfp_end asked = {}, *to;

	if (!t || !s || !sk)
		return 0;
	to = target_of(t->generation, filter);
	if (!to || other_family(to, t)) {
		count(WFP_COUNTER_ERROR);
		return -1;
	}
	put_end(&asked, t, t->remote, t->remote_port);
	if (same_end(&asked, to) || wfp_is_proxy(ctx, s, to) || wfp_asked_for_record(s))
		return 0;
	if (!cookie) {
		r = bpf_sk_storage_get(&redirected, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
		if (!r)
			return -1;
		r->asked = asked;
		r->peer = *to;
		r->known |= WFP_REDIRECTED_PEER;
		s->state |= WFP_SOCKET_REDIRECTED;
		if (t->protocol == IPPROTO_UDP)
			cookie = bpf_get_socket_cookie(ctx);
	} else if (!wfp_remember_redirect(to, &asked, cookie)) {
		return -1;
	}
	if (cookie && !wfp_remember_answer(to, &asked, cookie))
		return -1;
	lead(t, s, to);
	return 1;
}

/* Leads a bind, likewise; filter 0: nowhere else. */
__noinline int wfp_rebind(struct bpf_sock_addr *ctx, struct wfp_tuple *t, __u64 filter)
{
	struct wfp_redirect_key key = { .of = WFP_REDIRECT_NAME };
	struct wfp_redirect value = {};
	struct bpf_sock *sk = ctx->sk;
	struct wfp_redirected *r;
	struct wfp_end *to;

	if (!t || !sk)
		return 0;
	put_end(&key.end, t, t->local, t->local_port);
	to = filter ? target_of(t->generation, filter) : NULL;
	if (filter && (!to || other_family(to, t))) {
		count(WFP_COUNTER_ERROR);
		return -1;
	}
	if (to && same_end(to, &key.end))
		to = NULL;
	r = bpf_sk_storage_get(&redirected, sk, 0, to ? BPF_SK_STORAGE_GET_F_CREATE : 0);
	if (r)
		r->known &= ~WFP_REDIRECTED_NAME; /* of a bind that failed */
	if (!to) {
		bpf_map_delete_elem(&redirects, &key);
		return 0;
	}
	if (!r)
		return -1;
	r->name = value.end = key.end;
	r->bound = key.end = *to;
	r->known |= WFP_REDIRECTED_NAME;
	/* an MPTCP socket's bind is another socket's */
	bpf_map_update_elem(&redirects, &key, &value, BPF_ANY);
	put_address_of(to, t, t->local);
	t->local_port = to->port;
	t->known |= WFP_KNOWN_REDIRECTED;
	return 1;
}

/* ALE_BIND_REDIRECT of an explicit bind. Returns 0 to deny it. */
static __always_inline int redirect_bind(struct bpf_sock_addr *ctx, struct wfp_tuple *t,
					 struct wfp_socket *s)
{
	__u64 filter;

	wfp_put_local(t);
	filter = wfp_redirect_judge(t, s, bind_redirect_layer(t));
	/* of the address that was asked for */
	t->known = WFP_KNOWN_LOCAL_PORT;
	t->local_type = 0;
	t->ifindex = 0;
	return filter != WFP_REDIRECT_BLOCKED && wfp_rebind(ctx, t, filter) >= 0;
}

/* The types of the addresses of a connect, before its route is chosen. */
__noinline int wfp_put_types(struct wfp_tuple *t)
{
	int v6;

	if (!t)
		return 0;
	v6 = is_v6(t->layer);
	t->local_type = t->known & WFP_KNOWN_LOCAL_ADDRESS ? WFP_NL_UNICAST : WFP_NL_UNSPECIFIED;
	t->destination_type = routed_type(t->remote, v6, find_route(t->remote, v6));
	return 0;
}

/* What a datagram that was led elsewhere asked for: IS_CONNECTION_REDIRECTED, and s
 * has it, or 0. A TCP connection has it since its connect. */
__noinline __u32 wfp_was_redirected(struct wfp_tuple *t, struct wfp_socket *s, __u64 cookie)
{
	struct wfp_redirect_key key = { .cookie = cookie, .of = WFP_REDIRECT_ANSWER };
	struct wfp_redirect *known;

	if (!t || !s)
		return 0;
	if (!cookie)
		return s->state & WFP_SOCKET_REDIRECTED ? WFP_FLAG_IS_CONNECTION_REDIRECTED : 0;
	put_end(&key.end, t, t->remote, t->remote_port);
	known = bpf_map_lookup_elem(&redirects, &key);
	if (!known)
		return 0;
	put_address_of(&known->end, t, s->asked);
	s->asked_port = known->end.port;
	return WFP_FLAG_IS_CONNECTION_REDIRECTED;
}
