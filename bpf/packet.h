/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Reads IP and transport headers of a packet. */
#pragma once

#include "wfp.h"

#define ETH_P_IP 0x0800
#define ETH_P_IPV6 0x86dd
#define WFP_MAX_EXTENSIONS 8

struct wfp_headers {
	__u64 source[2];
	__u64 destination[2];
	__u16 source_port;
	__u16 destination_port;
	__u8 protocol;
	__u8 v6;
	__u8 syn; /* TCP: SYN without ACK */
	__u8 fragment; /* enum wfp_fragment */
	__u8 ahead; /* 1: what follows the fixed header was read with it, and is next */
	__u8 next[4];
};

enum wfp_fragment {
	WFP_FRAGMENT_NOT = 0,
	WFP_FRAGMENT_FIRST = 1,
	WFP_FRAGMENT_NEXT = 2, /* what follows may be the middle of anything */
};

/* Where a packet is read from: hooks with a struct __sk_buff have a helper for
 * it, others a dynptr, and tracepoints the kernel's memory. What a hook does not have is
 * NULL or 0, which folds to a constant. */
struct wfp_bytes {
	struct __sk_buff *skb;
	const struct bpf_dynptr *dynptr;
	int in_memory; /* 1: it is read from there */
	__u32 length;  /* of what is there */
	__u64 memory;
};

static __always_inline long load_memory(struct wfp_bytes p, __u32 offset, void *to, __u32 length)
{
	if (offset > p.length || length > p.length - offset)
		return -1;
	return bpf_probe_read_kernel(to, length, (void *)(p.memory + offset));
}

static __always_inline long load(struct wfp_bytes p, __u32 offset, void *to, __u32 length)
{
	return p.in_memory ? load_memory(p, offset, to, length) :
	       p.dynptr	   ? bpf_dynptr_read(to, length, p.dynptr, offset, 0) :
			     bpf_skb_load_bytes(p.skb, offset, to, length);
}

static __always_inline void ip6_halves(const __u8 *bytes, __u64 out[2])
{
	__u64 half;

	__builtin_memcpy(&half, bytes, 8);
	out[0] = bpf_be64_to_cpu(half);
	__builtin_memcpy(&half, bytes + 8, 8);
	out[1] = bpf_be64_to_cpu(half);
}

/* Reads the IP header at an offset of the packet. Returns the offset of what
 * follows it, or -1 for what is not a whole IP header. */
static __always_inline int read_ip(struct wfp_bytes p, int v6, int offset, struct wfp_headers *h)
{
	int fixed = v6 ? 40 : 20;
	__u8 b[44];

	/* mostly ports follow: one call reads both */
	h->ahead = !load(p, offset, b, fixed + 4);
	if (!h->ahead && load(p, offset, b, fixed))
		return -1;
	if (h->ahead)
		__builtin_memcpy(h->next, b + fixed, 4);
	if (v6) {
		if (b[0] >> 4 != 6)
			return -1;
		h->v6 = 1;
		h->protocol = b[6];
		ip6_halves(b + 8, h->source);
		ip6_halves(b + 24, h->destination);
		return offset + 40;
	}
	if (b[0] >> 4 != 4)
		return -1;
	if ((b[0] & 15) != 5)
		h->ahead = 0;
	h->protocol = b[9];
	h->fragment = (b[6] & 0x1f) | b[7] ? WFP_FRAGMENT_NEXT :
		      b[6] & 0x20	   ? WFP_FRAGMENT_FIRST :
					     WFP_FRAGMENT_NOT;
	h->source[0] = (__u32)b[12] << 24 | b[13] << 16 | b[14] << 8 | b[15];
	h->destination[0] = (__u32)b[16] << 24 | b[17] << 16 | b[18] << 8 | b[19];
	return offset + (b[0] & 15) * 4;
}

/* Whether skip_extensions passes a header of this protocol. */
static __always_inline int is_extension(__u8 protocol)
{
	return protocol == 0 || protocol == 43 || protocol == 44 || protocol == 51 ||
	       protocol == 60;
}

/* Passes IPv6 extension headers. Returns the transport header's offset, or -1
 * where they are cut off or are more than eight: RFC 8504, 5.3 lets a host stop
 * there, and hosts that do not would be asked about a port that nobody has read.
 * At a fragment it ends, or, if asked to, at one that is not the first. */
static __always_inline int skip_extensions(struct wfp_bytes p, int offset, struct wfp_headers *h,
					   int into_first)
{
	for (int i = 0; i < WFP_MAX_EXTENSIONS; i++) {
		__u8 b[4];

		switch (h->protocol) {
		case 0:   /* hop by hop */
		case 43:  /* routing */
		case 60:  /* destination options */
			if (load(p, offset, b, 2))
				return -1;
			offset += (b[1] + 1) * 8;
			break;
		case 51: /* authentication */
			if (load(p, offset, b, 2))
				return -1;
			offset += (b[1] + 2) * 4;
			break;
		case 44: /* fragment */
			if (load(p, offset, b, 4))
				return -1;
			offset += 8;
			h->ahead = 0;
			h->fragment = b[2] || b[3] & 0xf8 ? WFP_FRAGMENT_NEXT :
				      b[3] & 1		  ? WFP_FRAGMENT_FIRST :
							    WFP_FRAGMENT_NOT;
			if (h->fragment > (into_first ? WFP_FRAGMENT_FIRST : WFP_FRAGMENT_NOT)) {
				h->protocol = b[0];
				return offset;
			}
			break;
		default:
			return offset;
		}
		h->protocol = b[0];
		h->ahead = 0;
	}
	return -1;
}

/* Loads the first four bytes of what follows the IP headers. */
static __always_inline long load_next(struct wfp_bytes p, int offset, const struct wfp_headers *h,
				      __u8 b[4])
{
	if (!h->ahead)
		return load(p, offset, b, 4);
	__builtin_memcpy(b, h->next, 4);
	return 0;
}

/* Reads ports and, of TCP, whether it opens a connection. */
static __always_inline int read_ports(struct wfp_bytes p, int offset, struct wfp_headers *h)
{
	__u8 b[14];

	if (h->protocol == 6) {
		if (load(p, offset, b, 14))
			return -1;
		h->syn = (b[13] & 0x12) == 0x02;
	} else if (load_next(p, offset, h, b)) {
		return -1;
	}
	h->source_port = b[0] << 8 | b[1];
	h->destination_port = b[2] << 8 | b[3];
	return 0;
}

/* Reads all of a packet whose IP header is at the start of the buffer. */
__noinline int wfp_read_packet(struct __sk_buff *skb, struct wfp_headers *h)
{
	struct wfp_bytes p = { .skb = skb };
	int offset;

	if (!h)
		return -1;
	offset = read_ip(p, skb->protocol == bpf_htons(ETH_P_IPV6), 0, h);
	if (offset > 0 && h->v6)
		offset = skip_extensions(p, offset, h, 0);
	if (offset < 0 || (h->protocol != 6 && h->protocol != 17))
		return -1;
	return read_ports(p, offset, h);
}

enum wfp_ip {
	WFP_NOT_IP = 1,
	WFP_IP_WHOLE = 2,
	WFP_IP_FRAGMENT = 3,
	WFP_IP_UNREADABLE = 4, /* addresses, but extension headers that have no end */
};

/* An address as a global function takes it. */
struct wfp_address {
	__u64 half[2];
};

/* Reads the addresses of a packet whose IP header is at an offset of the
 * buffer. Returns an enum wfp_ip. */
__noinline int wfp_read_addresses(struct __sk_buff *skb, __u32 offset, struct wfp_address *source,
				  struct wfp_address *destination)
{
	struct wfp_bytes p = { .skb = skb };
	struct wfp_headers h = {};
	int end;

	if (!source || !destination)
		return WFP_NOT_IP;
	end = read_ip(p, skb->protocol == bpf_htons(ETH_P_IPV6), offset, &h);
	if (end < 0)
		return WFP_NOT_IP;
	if (h.v6)
		end = skip_extensions(p, end, &h, 0);
	source->half[0] = h.source[0];
	source->half[1] = h.source[1];
	destination->half[0] = h.destination[0];
	destination->half[1] = h.destination[1];
	if (end < 0)
		return WFP_IP_UNREADABLE;
	return h.fragment ? WFP_IP_FRAGMENT : WFP_IP_WHOLE;
}
