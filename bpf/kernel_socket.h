/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What is read of the kernel's sockets, found by CO-RE wherever a kernel has it. */
#pragma once

#include "wfp.h"

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct cgroup;
struct net_device {
	int ifindex;
};
struct dst_entry {
	struct net_device *dev;
};
struct sock_cgroup_data {
	struct cgroup *cgroup;
};
struct socket {
	struct sock *sk;
	struct file *file;
};
struct net {
	__u64 net_cookie;
};
typedef struct {
	struct net *net;
} possible_net_t;
struct in6_addr {
	__u8 bytes[16];
};
struct sock_common {
	__u32 skc_daddr;
	__u32 skc_rcv_saddr;
	__u16 skc_dport;
	__u16 skc_family;
	volatile unsigned char skc_state;
	possible_net_t skc_net;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
	struct {
		__s64 counter;
	} skc_cookie;
};
struct sock {
	struct sock_common __sk_common;
	__u16 sk_type;
	__u16 sk_protocol;
	struct socket *sk_socket;
	struct sock_cgroup_data sk_cgrp_data;
	struct dst_entry *sk_dst_cache;
	int sk_rx_dst_ifindex; /* where the last packet of a TCP connection came in */
	unsigned char sk_userlocks;
};
struct inet_sock {
	struct sock sk;
	__u16 inet_sport; /* stays when the port is given back */
};
#pragma clang attribute pop
