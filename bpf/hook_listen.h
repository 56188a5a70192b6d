/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * ALE_AUTH_LISTEN: at lsm/socket_listen, where a block answers EACCES. That hook
 * sees the listeners of every namespace and cgroup. What it does not judge is judged
 * by sock_ops when it listens already, and can be denied its SYNs only (hook_skb.h):
 * everything on kernels that refuse LSM programs or do not call them, and sockets that
 * listen() itself binds, whose port is not picked before.
 */
#pragma once

#include "hook_end.h"
#include "hook_sock_ops.h"

/* task -> nothing; it is within a listen() that was judged. Of an MPTCP socket
 * sock_ops sees another one than LSM does. Programs. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, __u64);
	__type(value, __u8);
	__uint(max_entries, 1024);
} listening SEC(".maps");

/* Classifies; the tuple is of a bind, and its family that of the address. */
static __always_inline int authorise_listen(struct wfp_tuple *t, struct wfp_socket *s)
{
	t->layer = WFP_ALE_AUTH_LISTEN_V4 | is_v6(t->layer);
	return wfp_ale(t, s);
}

/* Whether LSM is to judge a socket: one of ours, TCP, and bound. One that listens
 * already is not judged again. */
static __always_inline int begins_to_listen(struct sock *sk, const struct wfp_config *c)
{
	__u16 family = BPF_CORE_READ(sk, __sk_common.skc_family);
	__u16 protocol = BPF_CORE_READ(sk, sk_protocol);

	return (family == AF_INET || family == AF_INET6) &&
	       ale_protocol(protocol) == IPPROTO_TCP &&
	       BPF_CORE_READ(sk, __sk_common.skc_state) == BPF_TCP_CLOSE &&
	       BPF_CORE_READ((struct inet_sock *)sk, inet_sport) &&
	       BPF_CORE_READ(sk, __sk_common.skc_net.net, net_cookie) == c->netns_cookie &&
	       in_cgroup(sk, c);
}

SEC("lsm/socket_listen")
int BPF_PROG(wfp_socket_listen, struct socket *socket, int backlog, int denied)
{
	struct wfp_config *c = ale_config();
	__u64 task = bpf_get_current_task();
	struct wfp_tuple t = { .protocol = IPPROTO_TCP };
	struct wfp_socket *s;
	struct sock *sk = socket->sk;
	__u8 judged = 1;

	if (denied || !c || !sk)
		return denied;
	bpf_map_delete_elem(&listening, &task); /* of a listen() that failed */
	if (!begins_to_listen(sk, c))
		return 0;
	s = bpf_sk_storage_get(&sockets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (s && !s->netns_cookie)
		identify_current(s, c->netns_cookie, sk);
	socket_tuple(sk, &t);
	if (authorise_listen(&t, s))
		return -EACCES;
	bpf_map_update_elem(&listening, &task, &judged, BPF_ANY);
	return 0;
}

SEC("sockops")
int wfp_sock_listen(struct bpf_sock_ops *ctx)
{
	struct wfp_config *c = ale_config();
	__u64 task = bpf_get_current_task();
	struct wfp_tuple t = {
		.layer = WFP_ALE_AUTH_LISTEN_V4,
		.protocol = IPPROTO_TCP,
		.known = WFP_KNOWN_LOCAL_PORT,
	};
	struct bpf_sock *sk = ctx->sk;
	struct wfp_socket *s;

	if (ctx->op != BPF_SOCK_OPS_TCP_LISTEN_CB || !sk || !c ||
	    bpf_get_netns_cookie(ctx) != c->netns_cookie)
		return 1;
	s = bpf_sk_storage_get(&sockets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!s)
		return 1;
	if (!s->netns_cookie)
		identify_current(s, c->netns_cookie, sk);
	s->state &= ~WFP_SOCKET_LISTEN_BLOCKED;
	if (!bpf_map_delete_elem(&listening, &task) || s->state & WFP_SOCKET_RA_BLOCKED)
		return 1;
	t.generation = active_generation();
	t.local_port = ctx->local_port;
	if (ctx->family == AF_INET6) {
		t.layer = WFP_ALE_AUTH_LISTEN_V6;
		put_ip6(ctx->local_ip6, t.local);
	} else {
		t.local[0] = bpf_ntohl(ctx->local_ip4);
	}
	wfp_put_local(&t);
	if (authorise_listen(&t, s))
		s->state |= WFP_SOCKET_LISTEN_BLOCKED;
	return 1;
}
