/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * What a redirected program and its proxy are told: cgroup/getpeername, recvmsg and
 * getsockname give the end that the program asked for in place of the one that it was
 * given, and SO_ORIGINAL_DST (cgroup/getsockopt) gives a proxy, on the socket that it
 * has accepted, what the client asked for. Between the two the connection's ends lead
 * from one socket to the other (sock_ops).
 */
#pragma once

#include "redirect.h"

#define SOL_IP 0
#define SOL_IPV6 41
#define SO_ORIGINAL_DST 80 /* IP6T_SO_ORIGINAL_DST, too */

#define WFP_RECORD_LIFE (180ULL * 1000000000) /* for longer no SYN is repeated */
#define WFP_OPTION_PAGE 4096 /* getsockopt programs see no more of an option */

/* Word by word: the verifier takes no wider reads of these. */
static __always_inline __u64 ip6_half(const volatile __u32 *word)
{
	__u64 high = bpf_ntohl(word[0]);

	return high << 32 | bpf_ntohl(word[1]);
}

static __always_inline __u64 mapped_half(__u32 ip4)
{
	return 0xffff00000000ULL | bpf_ntohl(ip4);
}

/* The ends of a connection, as this side sees it, or the other one does. */
static __always_inline void connection_key(struct bpf_sock_ops *ctx, struct wfp_record_key *key,
					   int other)
{
	__u64 *local = other ? key->remote : key->local, *remote = other ? key->local : key->remote;

	if (ctx->family == AF_INET6) {
		local[0] = ip6_half(ctx->local_ip6);
		local[1] = ip6_half(ctx->local_ip6 + 2);
		remote[0] = ip6_half(ctx->remote_ip6);
		remote[1] = ip6_half(ctx->remote_ip6 + 2);
	} else {
		local[1] = mapped_half(ctx->local_ip4);
		remote[1] = mapped_half(ctx->remote_ip4);
	}
	if (other) {
		key->remote_port = ctx->local_port;
		key->local_port = bpf_ntohl(ctx->remote_port);
	} else {
		key->local_port = ctx->local_port;
		key->remote_port = bpf_ntohl(ctx->remote_port);
	}
}

/* The client's side, before its SYN leaves: the record goes by the connection's ends. */
static __always_inline void put_record(struct bpf_sock_ops *ctx, struct bpf_sock *sk)
{
	struct wfp_redirected *r = bpf_sk_storage_get(&redirected, sk, 0, 0);
	struct wfp_redirect value = {};
	struct wfp_record_key key = {};

	connection_key(ctx, &key, 0);
	if (!r || !(r->known & WFP_REDIRECTED_PEER)) {
		bpf_map_delete_elem(&records, &key); /* of a connection before */
		return;
	}
	value.end = r->asked;
	value.last = bpf_ktime_get_boot_ns();
	bpf_map_update_elem(&records, &key, &value, BPF_ANY);
}

/* The proxy's side: the socket that it will accept keeps the record. */
static __always_inline void take_record(struct bpf_sock_ops *ctx, struct bpf_sock *sk)
{
	struct wfp_record_key key = {};
	struct wfp_redirect *record;
	struct wfp_redirected *r;

	connection_key(ctx, &key, 1);
	record = bpf_map_lookup_elem(&records, &key);
	if (!record || bpf_ktime_get_boot_ns() - record->last > WFP_RECORD_LIFE)
		return;
	r = bpf_sk_storage_get(&redirected, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!r)
		return;
	r->original = record->end;
	r->known |= WFP_REDIRECTED_ORIGINAL;
}

SEC("sockops")
int wfp_sock_redirect(struct bpf_sock_ops *ctx)
{
	struct wfp_config *c = ale_config();
	struct bpf_sock *sk = ctx->sk;
	__u32 op = ctx->op;

	if (op != BPF_SOCK_OPS_TCP_CONNECT_CB && op != BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB)
		return 1;
	if (!sk || !c || bpf_get_netns_cookie(ctx) != c->netns_cookie)
		return 1;
	if (op == BPF_SOCK_OPS_TCP_CONNECT_CB)
		put_record(ctx, sk);
	else
		take_record(ctx, sk);
	return 1;
}

/* The ends of a socket; their ports are in host order. */
static __always_inline void socket_key(struct bpf_sock *sk, struct wfp_record_key *key, int other)
{
	__u64 *local = other ? key->remote : key->local, *remote = other ? key->local : key->remote;

	if (sk->family == AF_INET6) {
		local[0] = ip6_half(sk->src_ip6);
		local[1] = ip6_half(sk->src_ip6 + 2);
		remote[0] = ip6_half(sk->dst_ip6);
		remote[1] = ip6_half(sk->dst_ip6 + 2);
	} else {
		local[1] = mapped_half(sk->src_ip4);
		remote[1] = mapped_half(sk->dst_ip4);
	}
	if (other) {
		key->remote_port = sk->src_port;
		key->local_port = bpf_ntohs(sk->dst_port);
	} else {
		key->local_port = sk->src_port;
		key->remote_port = bpf_ntohs(sk->dst_port);
	}
}

/* An MPTCP socket has no record itself: it is that of its first subflow, which has the
 * same ends. */
static __always_inline struct wfp_end *subflow_record(struct bpf_sock *sk, int other)
{
	struct wfp_record_key key = {};
	struct wfp_redirect *record;

	if (sk->protocol != IPPROTO_MPTCP)
		return NULL;
	socket_key(sk, &key, other);
	record = bpf_map_lookup_elem(&records, &key);
	return record ? &record->end : NULL;
}

struct wfp_sockaddr_in {
	__u16 family;
	__u16 port;
	__u32 address;
	__u64 pad;
};

struct wfp_sockaddr_in6 {
	__u16 family;
	__u16 port;
	__u32 flow;
	__u32 address[4];
	__u32 scope;
};

/* Who asks takes redirected connections: what it opens itself goes where it says. */
static __always_inline void note_proxy(void)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct wfp_process p = {};
	__u32 one = 1;

	p.started = BPF_CORE_READ(task, group_leader, start_time);
	p.pid = BPF_CORE_READ(task, tgid);
	bpf_map_update_elem(&proxies, &p, &one, BPF_ANY);
}

SEC("cgroup/getsockopt")
int wfp_getsockopt(struct bpf_sockopt *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct wfp_redirected *r;
	struct wfp_end *end;

	if (ctx->optlen > WFP_OPTION_PAGE)
		ctx->optlen = 0; /* as it is, or some kernels fail the call */
	if (ctx->optname != SO_ORIGINAL_DST || (ctx->level != SOL_IP && ctx->level != SOL_IPV6) ||
	    !sk)
		return 1;
	r = bpf_sk_storage_get(&redirected, sk, 0, 0);
	if (r && r->known & WFP_REDIRECTED_ORIGINAL)
		end = &r->original;
	else
		end = subflow_record(sk, 1);
	if (!end)
		return 1;
	if (ctx->level == SOL_IP) {
		struct wfp_sockaddr_in *a = ctx->optval;

		if (!is_mapped(end->address) || (void *)(a + 1) > ctx->optval_end)
			return 1;
		a->family = AF_INET;
		a->port = bpf_htons(end->port);
		a->address = bpf_htonl((__u32)end->address[1]);
		a->pad = 0;
		ctx->optlen = sizeof(*a);
	} else {
		struct wfp_sockaddr_in6 *a = ctx->optval;

		if (is_mapped(end->address) || (void *)(a + 1) > ctx->optval_end)
			return 1;
		a->family = AF_INET6;
		a->port = bpf_htons(end->port);
		a->flow = 0;
		a->address[0] = bpf_htonl(end->address[0] >> 32);
		a->address[1] = bpf_htonl((__u32)end->address[0]);
		a->address[2] = bpf_htonl(end->address[1] >> 32);
		a->address[3] = bpf_htonl((__u32)end->address[1]);
		a->scope = 0;
		ctx->optlen = sizeof(*a);
	}
	ctx->retval = 0;
	note_proxy();
	return 1;
}

static __always_inline void put_user4(struct bpf_sock_addr *ctx, struct wfp_end *end)
{
	end->address[0] = 0;
	end->address[1] = mapped_half(ctx->user_ip4);
	end->port = bpf_ntohs(ctx->user_port);
}

static __always_inline void put_user6(struct bpf_sock_addr *ctx, struct wfp_end *end)
{
	end->address[0] = ip6_half(ctx->user_ip6);
	end->address[1] = ip6_half(ctx->user_ip6 + 2);
	end->port = bpf_ntohs(ctx->user_port);
}

static __always_inline int set_user4(struct bpf_sock_addr *ctx, const struct wfp_end *end)
{
	if (end) {
		ctx->user_ip4 = bpf_htonl((__u32)end->address[1]);
		ctx->user_port = bpf_htons(end->port);
	}
	return 1;
}

static __always_inline int set_user6(struct bpf_sock_addr *ctx, const struct wfp_end *end)
{
	if (end) {
		ctx->user_ip6[0] = bpf_htonl(end->address[0] >> 32);
		ctx->user_ip6[1] = bpf_htonl((__u32)end->address[0]);
		ctx->user_ip6[2] = bpf_htonl(end->address[1] >> 32);
		ctx->user_ip6[3] = bpf_htonl((__u32)end->address[1]);
		ctx->user_port = bpf_htons(end->port);
	}
	return 1;
}

/* The peer that a socket asked for in place of the one that it has, or NULL. */
static __always_inline struct wfp_end *asked_peer(struct bpf_sock *sk, const struct wfp_end *peer)
{
	struct wfp_redirected *r = sk ? bpf_sk_storage_get(&redirected, sk, 0, 0) : NULL;

	return r && r->known & WFP_REDIRECTED_PEER && same_end(&r->peer, peer) ? &r->asked : NULL;
}

static __always_inline struct wfp_end *peer_name(struct bpf_sock *sk, const struct wfp_end *peer)
{
	struct wfp_end *asked = asked_peer(sk, peer);

	return asked || !sk ? asked : subflow_record(sk, 0);
}

SEC("cgroup/getpeername4")
int wfp_getpeername4(struct bpf_sock_addr *ctx)
{
	struct wfp_end peer = {};

	put_user4(ctx, &peer);
	return set_user4(ctx, peer_name(ctx->sk, &peer));
}

SEC("cgroup/getpeername6")
int wfp_getpeername6(struct bpf_sock_addr *ctx)
{
	struct wfp_end peer = {};

	put_user6(ctx, &peer);
	return set_user6(ctx, peer_name(ctx->sk, &peer));
}

/* Who a datagram is from, as the program knows it. */
static __always_inline struct wfp_end *answer_from(struct bpf_sock_addr *ctx,
						   const struct wfp_end *from)
{
	struct wfp_redirect_key key = { .of = WFP_REDIRECT_ANSWER };
	struct wfp_end *asked = asked_peer(ctx->sk, from);
	struct wfp_redirect *known;

	if (asked)
		return asked;
	key.cookie = bpf_get_socket_cookie(ctx);
	key.end = *from;
	known = bpf_map_lookup_elem(&redirects, &key);
	return known ? &known->end : NULL;
}

SEC("cgroup/recvmsg4")
int wfp_recvmsg4(struct bpf_sock_addr *ctx)
{
	struct wfp_end from = {};

	put_user4(ctx, &from);
	return set_user4(ctx, answer_from(ctx, &from));
}

SEC("cgroup/recvmsg6")
int wfp_recvmsg6(struct bpf_sock_addr *ctx)
{
	struct wfp_end from = {};

	put_user6(ctx, &from);
	return set_user6(ctx, answer_from(ctx, &from));
}

/*
 * The local end that a socket asked for. A port that it left to the kernel is the one
 * that it got; where a filter left it to the kernel, any port is the bind's.
 */
static __always_inline int local_name(struct bpf_sock *sk, struct wfp_end *local)
{
	struct wfp_redirect_key key = { .of = WFP_REDIRECT_NAME };
	struct wfp_redirected *r = sk ? bpf_sk_storage_get(&redirected, sk, 0, 0) : NULL;
	struct wfp_redirect *known;
	struct wfp_end *name;

	if (r && r->known & WFP_REDIRECTED_NAME) {
		if (r->bound.address[0] != local->address[0] ||
		    r->bound.address[1] != local->address[1] ||
		    (r->bound.port && r->bound.port != local->port))
			return 0;
		name = &r->name;
	} else {
		if (!sk || sk->protocol != IPPROTO_MPTCP)
			return 0;
		key.end = *local;
		known = bpf_map_lookup_elem(&redirects, &key);
		if (!known)
			return 0;
		name = &known->end;
	}
	local->address[0] = name->address[0];
	local->address[1] = name->address[1];
	if (name->port)
		local->port = name->port;
	return 1;
}

SEC("cgroup/getsockname4")
int wfp_getsockname4(struct bpf_sock_addr *ctx)
{
	struct wfp_end local = {};

	put_user4(ctx, &local);
	return set_user4(ctx, local_name(ctx->sk, &local) ? &local : NULL);
}

SEC("cgroup/getsockname6")
int wfp_getsockname6(struct bpf_sock_addr *ctx)
{
	struct wfp_end local = {};

	put_user6(ctx, &local);
	return set_user6(ctx, local_name(ctx->sk, &local) ? &local : NULL);
}
