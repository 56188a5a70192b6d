/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What a packet's or a destination's interface says: LUID, type, profile, ... */
#pragma once

#include "classify.h"

#define WFP_LOOPBACK_IFINDEX 1 /* lo, in every namespace */

enum wfp_nl_address_type {
	WFP_NL_UNSPECIFIED = 0,
	WFP_NL_UNICAST = 1,
	WFP_NL_MULTICAST = 3,
	WFP_NL_BROADCAST = 4,
};

/* Layer ids go V4, discard, V6, discard: IPPACKET from 0, ALE from 36. */
static __always_inline int is_v6(__u32 layer)
{
	return layer & 2;
}

static __always_inline struct wfp_link *find_link(__u32 generation, __u32 ifindex)
{
	__u32 tables = tables_of(generation);
	void *table = bpf_map_lookup_elem(&links, &tables);
	struct wfp_link *l = table ? bpf_map_lookup_elem(table, &ifindex) : NULL;

	if (!l)
		count(WFP_COUNTER_NO_LINK);
	return l;
}

/* Puts LUID, index and type; an interface that is not known has its index only. */
static __always_inline void put_interface(struct wfp_values *v, __u32 slot, __u32 ifindex,
					  const struct wfp_link *l)
{
	put(v, slot + 1, ifindex);
	if (!l)
		return;
	put(v, slot, l->luid);
	put(v, slot + 2, l->type);
}

/* Where a destination of ours goes; V4 is looked up mapped. */
static __always_inline struct wfp_route *find_route(const __u64 address[2], int v6)
{
	struct wfp_route_key key = { .prefixlen = 128 };
	__u64 high = v6 ? address[0] : 0;
	__u64 low = v6 ? address[1] : 0xffff00000000ULL | address[0];

	high = bpf_cpu_to_be64(high);
	low = bpf_cpu_to_be64(low);
	__builtin_memcpy(key.addr, &high, 8);
	__builtin_memcpy(key.addr + 8, &low, 8);
	return bpf_map_lookup_elem(&routes, &key);
}

/* NL_ADDRESS_TYPE as far as the address alone tells. */
static __always_inline __u32 address_type(const __u64 address[2], int v6)
{
	if (v6)
		return address[0] >> 56 == 0xff ? WFP_NL_MULTICAST :
		       address[0] | address[1] ? WFP_NL_UNICAST : WFP_NL_UNSPECIFIED;
	return !address[0] ? WFP_NL_UNSPECIFIED :
	       address[0] == 0xffffffff ? WFP_NL_BROADCAST :
	       address[0] >> 28 == 0xe ? WFP_NL_MULTICAST : WFP_NL_UNICAST;
}

/* NL_ADDRESS_TYPE: which unicast addresses are broadcast ones the routes tell; a
 * default route says nothing of a multicast address. */
static __always_inline __u32 routed_type(const __u64 address[2], int v6,
					 const struct wfp_route *route)
{
	__u32 type = address_type(address, v6);

	return route && type == WFP_NL_UNICAST ? route->type : type;
}
