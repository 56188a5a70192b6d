/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * iter/task_file and iter/tcp: sockets that are older than the engine get the
 * identity of a process that holds them; a connected UDP socket's flow counts as
 * authorised, so that the first apply does not cut it.
 */
#pragma once

#include "ale.h"
#include "kernel_socket.h"
#include "packet.h"

#define WFP_INIT 1 /* process 1, which makes sockets for services (activation) */

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct bpf_iter_meta {
	struct seq_file *seq;
};
struct bpf_iter__task_file {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
	__u32 fd;
	struct file *file;
};
struct tcp_ulp_ops {
	char name[16];
};
struct inet_connection_sock {
	const struct tcp_ulp_ops *icsk_ulp_ops;
	void *icsk_ulp_data;
};
struct mptcp_subflow_context {
	struct sock *conn;
};
struct bpf_iter__tcp {
	struct bpf_iter_meta *meta;
	struct sock_common *sk_common;
};
#pragma clang attribute pop

/* Gives a socket the identity of the task that holds it. Returns 1 where it had
 * none. */
static __always_inline int identify_old(struct sock *sk, struct task_struct *task)
{
	struct wfp_socket *s =
		bpf_sk_storage_get(&sockets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	int known;

	/* what was made under the engine is known better, but for sockets that
	 * process 1 made for a service: they are the service's that holds them */
	known = s && s->netns_cookie;
	if (!s || (known && (s->pid != WFP_INIT || BPF_CORE_READ(task, tgid) == WFP_INIT)))
		return 0;
	identify_task(s, task);
	if (known)
		return 0;
	s->netns_cookie = BPF_CORE_READ(sk, __sk_common.skc_net.net, net_cookie);
	s->self = (__u64)sk;
	s->state = WFP_SOCKET_RA_DONE | WFP_SOCKET_OLD;
	return 1;
}

/* cookie of an MPTCP socket older than the engine -> its identity. Written by
 * wfp_old_sockets for wfp_old_subflows. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, __u64);
	__type(value, struct wfp_socket);
	__uint(max_entries, 16384);
} mptcp_owners SEC(".maps");

static __always_inline void keep_mptcp(struct sock *sk)
{
	struct wfp_socket *s = bpf_sk_storage_get(&sockets, sk, 0, 0);
	__u64 cookie = bpf_get_socket_cookie(sk);

	if (s)
		bpf_map_update_elem(&mptcp_owners, &cookie, s, BPF_ANY);
}

static __always_inline int is_subflow(struct inet_connection_sock *icsk)
{
	char name[16] = {};

	BPF_CORE_READ_INTO(&name, icsk, icsk_ulp_ops, name);
	return name[0] == 'm' && name[1] == 'p' && name[2] == 't' && name[3] == 'c' &&
	       name[4] == 'p';
}

/* A connected UDP socket's flow counts as authorised. */
static __always_inline void old_flow(struct sock *sk)
{
	__u16 family = BPF_CORE_READ(sk, __sk_common.skc_family);
	struct wfp_tuple t = {
		.layer = WFP_ALE_AUTH_CONNECT_V4,
		.known = WFP_KNOWN_LOCAL_ADDRESS,
	};
	__u8 b[16];

	if (BPF_CORE_READ(sk, sk_protocol) != IPPROTO_UDP ||
	    BPF_CORE_READ(sk, __sk_common.skc_state) != BPF_TCP_ESTABLISHED)
		return;
	t.remote_port = bpf_ntohs(BPF_CORE_READ(sk, __sk_common.skc_dport));
	if (family == AF_INET6) {
		BPF_CORE_READ_INTO(&b, sk, __sk_common.skc_v6_daddr);
		ip6_halves(b, t.remote);
		BPF_CORE_READ_INTO(&b, sk, __sk_common.skc_v6_rcv_saddr);
		ip6_halves(b, t.local);
		if (is_mapped(t.remote)) {
			t.remote[0] = (__u32)t.remote[1];
			t.local[0] = (__u32)t.local[1];
			t.remote[1] = t.local[1] = 0;
		}
	} else {
		t.local[0] = bpf_ntohl(BPF_CORE_READ(sk, __sk_common.skc_rcv_saddr));
		t.remote[0] = bpf_ntohl(BPF_CORE_READ(sk, __sk_common.skc_daddr));
	}
	wfp_remember_flow(&t, bpf_get_socket_cookie(sk), WFP_FLOW_OLD);
}

SEC("iter/task_file")
int wfp_old_sockets(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	struct socket *socket;
	struct sock *sk;
	__u16 family;

	if (!task || !file)
		return 0;
	socket = (struct socket *)bpf_sock_from_file(file);
	if (!socket)
		return 0;
	sk = socket->sk;
	if (!sk)
		return 0;
	family = BPF_CORE_READ(sk, __sk_common.skc_family);
	if (family != AF_INET && family != AF_INET6)
		return 0;
	if (identify_old(sk, task))
		old_flow(sk);
	if (BPF_CORE_READ(sk, sk_protocol) == IPPROTO_MPTCP)
		keep_mptcp(sk);
	return 0;
}

/* An MPTCP socket's packets arrive at subflows, which no file holds: they get
 * the identity of the socket that they serve. */
SEC("iter/tcp")
int wfp_old_subflows(struct bpf_iter__tcp *ctx)
{
	struct sock_common *skc = ctx->sk_common;
	struct wfp_socket *owner, *s;
	struct inet_connection_sock *icsk;
	struct mptcp_subflow_context *subflow;
	struct sock *msk;
	__u64 cookie;

	if (!skc)
		return 0;
	icsk = (struct inet_connection_sock *)bpf_skc_to_tcp_sock(skc);
	if (!icsk || !bpf_core_type_exists(struct mptcp_subflow_context))
		return 0;
	subflow = BPF_CORE_READ(icsk, icsk_ulp_data);
	if (!subflow || !is_subflow(icsk))
		return 0;
	msk = BPF_CORE_READ(subflow, conn);
	cookie = BPF_CORE_READ(msk, __sk_common.skc_cookie.counter);
	owner = bpf_map_lookup_elem(&mptcp_owners, &cookie);
	if (!owner)
		return 0;
	if (bpf_sk_storage_get(&sockets, icsk, 0, 0))
		return 0;
	s = bpf_sk_storage_get(&sockets, icsk, owner, BPF_SK_STORAGE_GET_F_CREATE);
	if (!s)
		return 0;
	s->self = (__u64)icsk; /* it was not accepted from its owner */
	s->state |= WFP_SOCKET_OLD;
	return 0;
}
