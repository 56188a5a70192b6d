/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Kept verdicts: what a packet layer said of a packet is said again of the next
 * one that is alike, without classifying it, as long as no table has changed. The
 * ALE layers need none of it: there a flow is classified once.
 *
 * With many flows, what that costs is memory that is in no cache of the processor.
 * So a look-up touches one line of it (IPv6: sometimes two), where a hash map of the
 * kernel would touch three or more, and branches on little that it waits for. Nobody
 * waits for anybody: each entry bears a seal over all of it, so that one which is
 * written while it is read is not believed.
 */
#pragma once

#include "maps.h"

/* No verdict has all these bits. */
#define WFP_VERDICT_NOT_KEPT (~0ULL)
#define WFP_VERDICT_NOT_SOUGHT (~1ULL) /* it may be kept */

/* Sets of two verdicts, of which a new one displaces the older. */
#ifndef WFP_VERDICT_SETS_V4 /* the benchmark has more flows at a time */
#define WFP_VERDICT_SETS_V4 32768
#define WFP_VERDICT_SETS_V6 16384
#endif

/* All that the fields of a packet layer are made of, beside the tables. What a
 * filter can test must be here, or two packets would be taken for one. */
struct wfp_packet {
	__u64 local[2]; /* as in struct wfp_tuple */
	__u64 remote[2];
	__u64 ends; /* ports and interface */
	__u64 what; /* what is left, above the bits of a verdict */
};

#define WFP_KEPT_BITS 40 /* of a verdict; what follows tells of the packet */
#define WFP_KEPT_VERDICT ((1ULL << WFP_KEPT_BITS) - 1)
#define WFP_KEPT_FLAGS 0x3f /* a packet with others is classified each time */
#define WFP_KEPT_BARE 0x40  /* of a link without MAC headers */
#define WFP_KEPT_PORTS 0x80

struct wfp_kept_v4 {
	__u64 addresses;
	__u64 ends;
	__u64 verdict; /* and what it is about */
	__u64 seal;
};

struct wfp_kept_v6 {
	__u64 local[2];
	__u64 remote[2];
	__u64 ends;
	__u64 verdict;
	__u64 seal;
	__u64 pad;
};

/* The newer verdict first. */
struct wfp_kept_set_v4 {
	struct wfp_kept_v4 way[2];
};

struct wfp_kept_set_v6 {
	struct wfp_kept_v6 way[2];
};

_Static_assert(sizeof(struct wfp_kept_set_v4) == 64 && sizeof(struct wfp_kept_v6) == 64,
	       "lines of the processor's cache");
_Static_assert(WFP_LAYERS <= 256 && WFP_VERDICT_ONCE <= WFP_KEPT_VERDICT,
	       "a layer takes a byte, and a verdict leaves room for it");

/* hash of a packet -> verdicts. Programs. Memory that can be mapped starts at a
 * page, so that sets do not straddle lines. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct wfp_kept_set_v4);
	__uint(max_entries, WFP_VERDICT_SETS_V4);
} verdicts4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct wfp_kept_set_v6);
	__uint(max_entries, WFP_VERDICT_SETS_V6);
} verdicts6 SEC(".maps");

/* Sets ends and what; has is WFP_KEPT_PORTS, WFP_KEPT_BARE or 0. Returns 0 where the
 * packet has something that does not go into them. */
static __always_inline int pack(struct wfp_packet *p, __u32 layer, __u32 ifindex, __u32 flags,
				__u8 protocol, __u32 has, __u16 local_port, __u16 remote_port)
{
	__u64 marks = flags | has;

	p->ends = (__u64)ifindex << 32 | (__u32)remote_port << 16 | local_port;
	p->what = (marks << 16 | layer << 8 | protocol) << WFP_KEPT_BITS;
	return !(flags & ~WFP_KEPT_FLAGS);
}

static __always_inline __u64 addresses_v4(const struct wfp_packet *p)
{
	return p->remote[0] << 32 | p->local[0];
}

/* Odd numbers without a pattern, and products that do not wait for each other. */
static __always_inline __u64 packet_hash(const struct wfp_packet *p, int v6)
{
	__u64 h = p->ends * 0x9e3779b97f4a7c15ULL + p->what * 0xd6e8feb86659fd93ULL;

	if (v6)
		h += p->local[0] * 0xa0761d6478bd642fULL + p->local[1] * 0xe7037ed1a0b428dbULL +
		     p->remote[0] * 0x8ebc6af09c88c6e3ULL + p->remote[1] * 0x589965cc75374cc3ULL;
	else
		h += addresses_v4(p) * 0x8ebc6af09c88c6e3ULL;
	h ^= h >> 32;
	return h * 0xff51afd7ed558ccdULL;
}

/* Of one packet and verdict, each stamp has another seal. */
static __always_inline __u64 seal(__u64 hash, __u64 stamp, __u64 verdict)
{
	return hash ^ stamp ^ verdict * 0xc4ceb9fe1a85ec53ULL;
}

/* Whether it is what is kept, unharmed, under the stamp that the hash is sealed with. */
static __always_inline int is_kept_v4(const volatile struct wfp_kept_v4 *k,
				      const struct wfp_packet *p, __u64 sealed, __u64 *verdict)
{
	__u64 v = k->verdict;

	*verdict = v & WFP_KEPT_VERDICT;
	return k->addresses == addresses_v4(p) && k->ends == p->ends &&
	       (v ^ p->what) <= WFP_KEPT_VERDICT && k->seal == seal(sealed, 0, v);
}

static __always_inline int is_kept_v6(const volatile struct wfp_kept_v6 *k,
				      const struct wfp_packet *p, __u64 sealed, __u64 *verdict)
{
	__u64 v = k->verdict;

	*verdict = v & WFP_KEPT_VERDICT;
	return k->local[0] == p->local[0] && k->local[1] == p->local[1] &&
	       k->remote[0] == p->remote[0] && k->remote[1] == p->remote[1] &&
	       k->ends == p->ends && (v ^ p->what) <= WFP_KEPT_VERDICT &&
	       k->seal == seal(sealed, 0, v);
}

/* The verdict that is kept on a packet, or WFP_VERDICT_NOT_KEPT. */
static __always_inline __u64 find_verdict(const struct wfp_packet *p, int v6, __u64 stamp)
{
	__u64 hash = packet_hash(p, v6), sealed = hash ^ stamp, verdict;
	__u32 key;

	if (stamp & WFP_STAMP_UNSETTLED)
		return WFP_VERDICT_NOT_KEPT;
	if (v6) {
		struct wfp_kept_set_v6 *set;

		key = hash >> 40 & (WFP_VERDICT_SETS_V6 - 1);
		set = bpf_map_lookup_elem(&verdicts6, &key);
		if (set && (is_kept_v6(&set->way[0], p, sealed, &verdict) ||
			    is_kept_v6(&set->way[1], p, sealed, &verdict)))
			return verdict;
	} else {
		struct wfp_kept_set_v4 *set;

		key = hash >> 40 & (WFP_VERDICT_SETS_V4 - 1);
		set = bpf_map_lookup_elem(&verdicts4, &key);
		if (set && (is_kept_v4(&set->way[0], p, sealed, &verdict) ||
			    is_kept_v4(&set->way[1], p, sealed, &verdict)))
			return verdict;
	}
	return WFP_VERDICT_NOT_KEPT;
}

/* Keeps a verdict. The stamp is that from before the packet was classified: if a
 * table changes meanwhile, nobody asks for the old one any more. */
static __always_inline void keep_verdict(const struct wfp_packet *p, int v6, __u64 stamp,
					 __u64 verdict)
{
	__u64 hash = packet_hash(p, v6);
	__u32 key;

	if (stamp & WFP_STAMP_UNSETTLED || verdict & (WFP_VERDICT_ERROR | WFP_VERDICT_ONCE))
		return;
	verdict |= p->what;
	if (v6) {
		struct wfp_kept_set_v6 *set;

		key = hash >> 40 & (WFP_VERDICT_SETS_V6 - 1);
		set = bpf_map_lookup_elem(&verdicts6, &key);
		if (!set)
			return;
		set->way[1] = set->way[0];
		set->way[0] = (struct wfp_kept_v6){
			.local = { p->local[0], p->local[1] },
			.remote = { p->remote[0], p->remote[1] },
			.ends = p->ends,
			.verdict = verdict,
			.seal = seal(hash, stamp, verdict),
		};
	} else {
		struct wfp_kept_set_v4 *set;

		key = hash >> 40 & (WFP_VERDICT_SETS_V4 - 1);
		set = bpf_map_lookup_elem(&verdicts4, &key);
		if (!set)
			return;
		set->way[1] = set->way[0];
		set->way[0] = (struct wfp_kept_v4){
			.addresses = addresses_v4(p),
			.ends = p->ends,
			.verdict = verdict,
			.seal = seal(hash, stamp, verdict),
		};
	}
}
