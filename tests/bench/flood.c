//go:build ignore

// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/*
 * The sender of the packet tables. BPF_PROG_TEST_RUN with live frames makes the
 * kernel a packet generator: each frame that the program returns goes out of the
 * link that it is said to have come in by.
 */
#include <linux/types.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define FLOOD_FLOWS 1024

/* Source ports of new flows; those of known ones lie below. */
#define FLOOD_PORT_LOW 8192
#define FLOOD_PORT_HIGH 65535

/* What tells the frames of a flow from others, in the order of the network. */
struct flood_remote {
	__be32 remote;
	__be16 source;
	__be16 port;
	__sum16 check; /* of the IP header */
	__u16 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct flood_remote);
	__uint(max_entries, FLOOD_FLOWS);
} flood_flows SEC(".maps");

struct flood_state {
	__u32 count; /* flows in use */
	__u32 fresh; /* each frame opens a flow */
	__u32 next;  /* flow of the next frame */
	__u32 port;  /* source port of the next new flow */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct flood_state);
	__uint(max_entries, 1);
} flood_control SEC(".maps");

SEC("xdp")
int bench_flood(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct iphdr *ip = data + sizeof(struct ethhdr);
	struct udphdr *udp = (void *)(ip + 1);
	struct flood_state *c;
	struct flood_remote *f;
	__u32 zero = 0;

	if ((void *)(udp + 1) > end)
		return XDP_ABORTED;
	c = bpf_map_lookup_elem(&flood_control, &zero);
	if (!c)
		return XDP_ABORTED;
	f = bpf_map_lookup_elem(&flood_flows, &c->next);
	if (!f)
		return XDP_ABORTED;
	ip->saddr = f->remote;
	ip->check = f->check;
	udp->source = f->source;
	udp->dest = f->port;
	if (c->fresh) {
		/* Ports and flows go round in periods without a common factor: a port
		 * comes back with each other remote end first. */
		udp->source = bpf_htons(c->port);
		if (++c->port >= FLOOD_PORT_HIGH)
			c->port = FLOOD_PORT_LOW;
	}
	if (++c->next >= c->count)
		c->next = 0;
	return XDP_TX;
}

char _license[] SEC("license") = "Dual BSD/GPL";
