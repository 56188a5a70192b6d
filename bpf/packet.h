/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Reads IP and transport headers of a socket buffer. */
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
	__u8 fragment;
};

static __always_inline void ip6_halves(const __u8 *bytes, __u64 out[2])
{
	__u64 half;

	__builtin_memcpy(&half, bytes, 8);
	out[0] = bpf_be64_to_cpu(half);
	__builtin_memcpy(&half, bytes + 8, 8);
	out[1] = bpf_be64_to_cpu(half);
}

/* Reads the IP header at an offset of the buffer. Returns the offset of what
 * follows it, or -1 for what is not a whole IP header. */
static __always_inline int read_ip(struct __sk_buff *skb, int offset, struct wfp_headers *h)
{
	__u8 b[40];

	if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		if (bpf_skb_load_bytes(skb, offset, b, 40) || b[0] >> 4 != 6)
			return -1;
		h->v6 = 1;
		h->protocol = b[6];
		ip6_halves(b + 8, h->source);
		ip6_halves(b + 24, h->destination);
		return offset + 40;
	}
	if (bpf_skb_load_bytes(skb, offset, b, 20) || b[0] >> 4 != 4)
		return -1;
	h->protocol = b[9];
	h->fragment = (b[6] & 0x3f) | b[7] ? 1 : 0; /* more fragments, or an offset */
	h->source[0] = (__u32)b[12] << 24 | b[13] << 16 | b[14] << 8 | b[15];
	h->destination[0] = (__u32)b[16] << 24 | b[17] << 16 | b[18] << 8 | b[19];
	return offset + (b[0] & 15) * 4;
}

/* Passes IPv6 extension headers. Returns the transport header's offset, or -1
 * where they are cut off or are more than eight: RFC 8504, 5.3 lets a host stop
 * there, and hosts that do not would be asked about a port that nobody has read. */
static __always_inline int skip_extensions(struct __sk_buff *skb, int offset,
					   struct wfp_headers *h)
{
	for (int i = 0; i < WFP_MAX_EXTENSIONS; i++) {
		__u8 b[4];

		switch (h->protocol) {
		case 0:   /* hop by hop */
		case 43:  /* routing */
		case 60:  /* destination options */
			if (bpf_skb_load_bytes(skb, offset, b, 2))
				return -1;
			offset += (b[1] + 1) * 8;
			break;
		case 51: /* authentication */
			if (bpf_skb_load_bytes(skb, offset, b, 2))
				return -1;
			offset += (b[1] + 2) * 4;
			break;
		case 44: /* fragment */
			if (bpf_skb_load_bytes(skb, offset, b, 4))
				return -1;
			offset += 8;
			if (b[2] || b[3] & 0xf9) {
				/* what follows may be the middle of anything */
				h->fragment = 1;
				h->protocol = b[0];
				return offset;
			}
			break;
		default:
			return offset;
		}
		h->protocol = b[0];
	}
	return -1;
}

/* Reads ports and, of TCP, whether it opens a connection. */
static __always_inline int read_ports(struct __sk_buff *skb, int offset, struct wfp_headers *h)
{
	__u8 b[14];

	if (h->protocol == 6) {
		if (bpf_skb_load_bytes(skb, offset, b, 14))
			return -1;
		h->syn = (b[13] & 0x12) == 0x02;
	} else if (bpf_skb_load_bytes(skb, offset, b, 4)) {
		return -1;
	}
	h->source_port = b[0] << 8 | b[1];
	h->destination_port = b[2] << 8 | b[3];
	return 0;
}

/* Reads all of a packet whose IP header is at the start of the buffer. */
__noinline int wfp_read_packet(struct __sk_buff *skb, struct wfp_headers *h)
{
	int offset;

	if (!h)
		return -1;
	offset = read_ip(skb, 0, h);
	if (offset > 0 && h->v6)
		offset = skip_extensions(skb, offset, h);
	if (offset < 0 || (h->protocol != 6 && h->protocol != 17))
		return -1;
	return read_ports(skb, offset, h);
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
	struct wfp_headers h = {};
	int end;

	if (!source || !destination)
		return WFP_NOT_IP;
	end = read_ip(skb, offset, &h);
	if (end < 0)
		return WFP_NOT_IP;
	if (h.v6)
		end = skip_extensions(skb, end, &h);
	source->half[0] = h.source[0];
	source->half[1] = h.source[1];
	destination->half[0] = h.destination[0];
	destination->half[1] = h.destination[1];
	if (end < 0)
		return WFP_IP_UNREADABLE;
	return h.fragment ? WFP_IP_FRAGMENT : WFP_IP_WHOLE;
}
