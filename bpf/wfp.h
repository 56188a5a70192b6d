/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Types and constants that the BPF programs share with Go. bpf2go generates
 * the Go side; nothing here is declared twice. What a value means stands in
 * package layermap (source.go), which names these slots.
 */
#pragma once

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_core_read.h>

/* FWPS layer ids of the layers that run (fwpstypes.h). */
enum wfp_layer_id {
	WFP_INBOUND_IPPACKET_V4 = 0,
	WFP_INBOUND_IPPACKET_V4_DISCARD = 1,
	WFP_INBOUND_IPPACKET_V6 = 2,
	WFP_INBOUND_IPPACKET_V6_DISCARD = 3,
	WFP_OUTBOUND_IPPACKET_V4 = 4,
	WFP_OUTBOUND_IPPACKET_V4_DISCARD = 5,
	WFP_OUTBOUND_IPPACKET_V6 = 6,
	WFP_OUTBOUND_IPPACKET_V6_DISCARD = 7,
	WFP_IPFORWARD_V4 = 8,
	WFP_IPFORWARD_V4_DISCARD = 9,
	WFP_IPFORWARD_V6 = 10,
	WFP_IPFORWARD_V6_DISCARD = 11,
	WFP_INBOUND_TRANSPORT_V4 = 12,
	WFP_INBOUND_TRANSPORT_V4_DISCARD = 13,
	WFP_INBOUND_TRANSPORT_V6 = 14,
	WFP_INBOUND_TRANSPORT_V6_DISCARD = 15,
	WFP_OUTBOUND_TRANSPORT_V4 = 16,
	WFP_OUTBOUND_TRANSPORT_V4_DISCARD = 17,
	WFP_OUTBOUND_TRANSPORT_V6 = 18,
	WFP_OUTBOUND_TRANSPORT_V6_DISCARD = 19,
	WFP_DATAGRAM_DATA_V4 = 24,
	WFP_DATAGRAM_DATA_V4_DISCARD = 25,
	WFP_DATAGRAM_DATA_V6 = 26,
	WFP_DATAGRAM_DATA_V6_DISCARD = 27,
	WFP_INBOUND_ICMP_ERROR_V4 = 28,
	WFP_INBOUND_ICMP_ERROR_V4_DISCARD = 29,
	WFP_INBOUND_ICMP_ERROR_V6 = 30,
	WFP_INBOUND_ICMP_ERROR_V6_DISCARD = 31,
	WFP_OUTBOUND_ICMP_ERROR_V4 = 32,
	WFP_OUTBOUND_ICMP_ERROR_V4_DISCARD = 33,
	WFP_OUTBOUND_ICMP_ERROR_V6 = 34,
	WFP_OUTBOUND_ICMP_ERROR_V6_DISCARD = 35,
	WFP_ALE_RESOURCE_ASSIGNMENT_V4 = 36,
	WFP_ALE_RESOURCE_ASSIGNMENT_V4_DISCARD = 37,
	WFP_ALE_RESOURCE_ASSIGNMENT_V6 = 38,
	WFP_ALE_RESOURCE_ASSIGNMENT_V6_DISCARD = 39,
	WFP_ALE_AUTH_LISTEN_V4 = 40,
	WFP_ALE_AUTH_LISTEN_V4_DISCARD = 41,
	WFP_ALE_AUTH_LISTEN_V6 = 42,
	WFP_ALE_AUTH_LISTEN_V6_DISCARD = 43,
	WFP_ALE_AUTH_RECV_ACCEPT_V4 = 44,
	WFP_ALE_AUTH_RECV_ACCEPT_V4_DISCARD = 45,
	WFP_ALE_AUTH_RECV_ACCEPT_V6 = 46,
	WFP_ALE_AUTH_RECV_ACCEPT_V6_DISCARD = 47,
	WFP_ALE_AUTH_CONNECT_V4 = 48,
	WFP_ALE_AUTH_CONNECT_V4_DISCARD = 49,
	WFP_ALE_AUTH_CONNECT_V6 = 50,
	WFP_ALE_AUTH_CONNECT_V6_DISCARD = 51,
	WFP_ALE_FLOW_ESTABLISHED_V4 = 52,
	WFP_ALE_FLOW_ESTABLISHED_V4_DISCARD = 53,
	WFP_ALE_FLOW_ESTABLISHED_V6 = 54,
	WFP_ALE_FLOW_ESTABLISHED_V6_DISCARD = 55,
	WFP_INBOUND_MAC_FRAME_ETHERNET = 56,
	WFP_OUTBOUND_MAC_FRAME_ETHERNET = 57,
	WFP_INBOUND_MAC_FRAME_NATIVE = 58,
	WFP_OUTBOUND_MAC_FRAME_NATIVE = 59,
	WFP_ALE_RESOURCE_RELEASE_V4 = 62,
	WFP_ALE_RESOURCE_RELEASE_V6 = 63,
	WFP_ALE_ENDPOINT_CLOSURE_V4 = 64,
	WFP_ALE_ENDPOINT_CLOSURE_V6 = 65,
	WFP_ALE_CONNECT_REDIRECT_V4 = 66, /* here V6 is the next one */
	WFP_ALE_CONNECT_REDIRECT_V6 = 67,
	WFP_ALE_BIND_REDIRECT_V4 = 68,
	WFP_ALE_BIND_REDIRECT_V6 = 69,
	WFP_STREAM_PACKET_V4 = 70,
	WFP_STREAM_PACKET_V6 = 71,
	WFP_INGRESS_VSWITCH_ETHERNET = 72,
	WFP_EGRESS_VSWITCH_ETHERNET = 73,
	WFP_INGRESS_VSWITCH_TRANSPORT_V4 = 74, /* here V6 is the next one */
	WFP_INGRESS_VSWITCH_TRANSPORT_V6 = 75,
	WFP_EGRESS_VSWITCH_TRANSPORT_V4 = 76,
	WFP_EGRESS_VSWITCH_TRANSPORT_V6 = 77,
	WFP_LAYERS = 128, /* room for every kernel-mode id */
};

/*
 * Slots: a field's value in struct wfp_values. Small fields share a word;
 * slot_word and slot_shift say where each stands. A slot means the same at
 * every layer of its family of layers; the MAC layers have no IP fields and
 * share their slots, and so do the IPFORWARD layers and those of the virtual
 * switch, which have no sockets. The order is that of the words.
 */
enum wfp_slot {
	WFP_SLOT_LOCAL_ADDRESS = 0, /* V4: host order in one word; V6: two words */
	WFP_SLOT_REMOTE_ADDRESS = 1,
	WFP_SLOT_LOCAL_ADDRESS_TYPE = 2,
	WFP_SLOT_DESTINATION_ADDRESS_TYPE = 3,
	WFP_SLOT_PROTOCOL = 4,
	WFP_SLOT_LOCAL_PORT = 5,
	WFP_SLOT_REMOTE_PORT = 6,
	WFP_SLOT_FLAGS = 7,
	WFP_SLOT_PACKAGE = 8, /* number of the package in this generation */
	WFP_SLOT_LOCAL_INTERFACE = 9, /* LUID */
	WFP_SLOT_INTERFACE_INDEX = 10,
	WFP_SLOT_INTERFACE_TYPE = 11, /* IANA ifType */
	/* the interface of the first packet: at an accept where it arrived, at a
	 * connect the next hop; the layer's other one is always empty */
	WFP_SLOT_PACKET_INTERFACE = 12,
	WFP_SLOT_PACKET_INTERFACE_INDEX = 13,
	WFP_SLOT_PACKET_INTERFACE_TYPE = 14,
	WFP_SLOT_ORIGINAL_PROFILE = 15,
	WFP_SLOT_CURRENT_PROFILE = 16,
	WFP_SLOT_QUARANTINE_EPOCH = 17,
	WFP_SLOT_APP = 18,  /* number of the executable in this generation */
	WFP_SLOT_USER = 19, /* number of the token in this generation */
	WFP_SLOT_SWITCH_VLAN = 20,
	WFP_SLOT_SWITCH_NETWORK = 21, /* FWP_VSWITCH_NETWORK_TYPE */
	WFP_SLOT_SOURCE_NIC = 22,     /* enum wfp_nic */
	WFP_SLOT_DESTINATION_NIC = 23,
	/* of the packet that an ICMP error quotes; where others have who they are of */
	WFP_SLOT_EMBEDDED_LOCAL_PORT = 24,
	WFP_SLOT_EMBEDDED_REMOTE_PORT = 25,
	WFP_SLOT_EMBEDDED_REMOTE_ADDRESS = 26,
	WFP_SLOT_REAUTHORIZE_REASON = 30, /* enum wfp_reauthorize_reason */
	WFP_SLOTS = 31,

	/* at layers without such a field of their own, or without profiles */
	WFP_SLOT_EMBEDDED_LOCAL_ADDRESS_TYPE = WFP_SLOT_LOCAL_ADDRESS_TYPE,
	WFP_SLOT_EMBEDDED_PROTOCOL = WFP_SLOT_PROTOCOL,
	WFP_SLOT_DIRECTION = WFP_SLOT_ORIGINAL_PROFILE,
	WFP_SLOT_PROMISCUOUS_MODE = WFP_SLOT_ORIGINAL_PROFILE,

	WFP_SLOT_MAC_LOCAL = 0,
	WFP_SLOT_MAC_REMOTE = 1,
	WFP_SLOT_MAC_LOCAL_TYPE = 2,
	WFP_SLOT_MAC_REMOTE_TYPE = 3,
	WFP_SLOT_ETHER_TYPE = 5,
	WFP_SLOT_VLAN_ID = 6,
	WFP_SLOT_INTERFACE_MAC = 17,

	/* IPFORWARD has two interfaces, and no side that is the host's */
	WFP_SLOT_FORWARD_SOURCE = 0,
	WFP_SLOT_FORWARD_DESTINATION = 1,
	WFP_SLOT_FORWARD_IN = 9, /* LUID */
	WFP_SLOT_FORWARD_IN_INDEX = 10,
	WFP_SLOT_FORWARD_OUT = 12, /* LUID */
	WFP_SLOT_FORWARD_OUT_INDEX = 13,
	WFP_SLOT_FORWARD_IN_PROFILE = 15,
	WFP_SLOT_FORWARD_OUT_PROFILE = 16,
	/* names of links, two words each; addresses, ports and types of addresses of the
	 * source stand where the local ones do, of the destination where the remote ones do */
	WFP_SLOT_SWITCH = 9,
	WFP_SLOT_SOURCE_PORT_ID = 12,
	WFP_SLOT_DESTINATION_PORT_ID = 15,
};

#define WFP_WORDS 16 /* of 64 bits; 15 hold all slots, the rest is for the search */

/* FWP_CONDITION_FLAG_* (fwpmtypes.h), those that Linux traffic can carry. */
enum wfp_flag {
	WFP_FLAG_IS_LOOPBACK = 0x1,
	WFP_FLAG_IS_REAUTHORIZE = 0x4,
	WFP_FLAG_IS_WILDCARD_BIND = 0x8,
	WFP_FLAG_IS_RAW_ENDPOINT = 0x10,
	WFP_FLAG_IS_FRAGMENT = 0x20,
	WFP_FLAG_IS_OUTBOUND_PASS_THRU = 0x40000,
	WFP_FLAG_IS_INBOUND_PASS_THRU = 0x80000,
	WFP_FLAG_IS_CONNECTION_REDIRECTED = 0x100000,
	WFP_FLAG_IS_APPCONTAINER_LOOPBACK = 0x400000,
	WFP_FLAG_IS_NON_APPCONTAINER_LOOPBACK = 0x800000,
};

/* What is common to SIO_RCVALL (1) and SIO_RCVALL_MCAST (2); mstcpip.h. */
#define WFP_SIO_RCVALL 0x98000000U

/* FWP_CONDITION_REAUTHORIZE_REASON_* (fwpmtypes.h), those that there are here. */
enum wfp_reauthorize_reason {
	WFP_REAUTHORIZE_POLICY_CHANGE = 0x1,
};

/* FWP_ACTION_TYPE values that a verdict can hold. */
enum wfp_action {
	WFP_ACTION_BLOCK = 0x1001,
	WFP_ACTION_PERMIT = 0x1002,
	WFP_ACTION_NONE_NO_MATCH = 0x8,
};

enum wfp_limit {
	WFP_MAX_FIELDS = 22,     /* fields of one layer that filters test */
	WFP_MAX_SUBLAYERS = 64,  /* sublayers with filters at one layer */
	WFP_BUCKET_BOUNDS = 7,
	WFP_MAX_DEPTH = 20,      /* nodes on the way to a leaf */
	WFP_MAX_WIDE = 7,        /* of those, of more than four bytes: two addresses, each with
				  * sets apart, and two LUIDs and an epoch or three names of links */
	WFP_LEVELS = 4,          /* tables on the way to a leaf, at most */
	WFP_CLASS_WORDS = 4,     /* of 64 classes, over all fields of a layer */
	WFP_CANDIDATES = 3,      /* of a branch: two lines of the processor's cache */
	WFP_PENDING = 8,         /* branches that wait while others are searched */
	WFP_SPAN = 8,            /* sublayers that one search judges */
	WFP_MAX_CUTS_LOG = 20,   /* steps of the search for a cut */
	WFP_MAX_BRANCHES = 1048576, /* that one search may visit */
	WFP_LINE = 16,           /* cells of a line: of the processor's cache, too */
	WFP_LINE_POINTS = 3,     /* values of a line of a hash */
	WFP_MAX_LINES = 4,       /* of a hash, that one value may be in */
	WFP_MAX_NODES = 2,       /* on the way to a line */
	/* pages of the tables of a generation, and entries of a page, a power of two */
	WFP_PAGES_cells = 512,
	WFP_PAGE_cells = 65536,
	WFP_PAGES_buckets = 1024,
	WFP_PAGE_buckets = 1024,
	WFP_PAGES_branches = 1024,
	WFP_PAGE_branches = 1024,
	WFP_PAGES_cuts = 128,
	WFP_PAGE_cuts = 8192,
	WFP_PAGES_filters = 1024,
	WFP_PAGE_filters = 8192,
	WFP_PAGES_hits = 1024,
	WFP_PAGE_hits = 8192,
	WFP_GENERATIONS = 2,     /* policies that have tables at a time */
	WFP_EDITIONS = 8,        /* of what commits say of those tables, at a time */
	WFP_PAGES_AMENDED = 1024, /* from here on each table has one page for each edition */
	WFP_ADDED = 64,          /* filters of a layer that an edition adds to its tables */
	WFP_CGROUP_LEVELS = 8,   /* ancestors kept of a task's cgroup */
	WFP_JUDGE_CASES = 1024,  /* cases of one run of the judge */
	WFP_REDIRECTS = 4096,    /* filters of a policy that redirect */
};

_Static_assert(WFP_PAGES_branches * WFP_PAGE_branches <= WFP_MAX_BRANCHES,
	       "a search comes to its end: it visits no branch twice");
_Static_assert((__u32)WFP_PAGES_cells * WFP_PAGE_cells / WFP_LINE == 0x1fffff + 1, "entries hold all lines");
_Static_assert(WFP_PAGES_cuts * WFP_PAGE_cuts <= 1 << WFP_MAX_CUTS_LOG,
	       "all cuts of a branch can be told apart");

#define WFP_LEAF 0x80000000U   /* a node's entry is a leaf */
#define WFP_BUCKET 0x40000000U /* a node's entry is a bucket, not a node */
#define WFP_SECOND 0x20000000U /* from here on the value's second word counts */
#define WFP_ENTRY 0x1fffffffU  /* which node (its first cell) or bucket */

/*
 * One classification's input, FWPS_INCOMING_VALUES0, and its working memory:
 * BPF has 512 bytes of stack for the whole call chain, so what the values lead
 * to takes their place as they are read (classify.h).
 */
struct wfp_values {
	__u16 layer; /* wfp_arbitrate: its number in the map of layers */
	__u8 sublayers; /* working memory: of the layer, with filters */
	__u8 amended;   /* working memory: enum wfp_layer_flag */
	__u32 generation; /* and edition, as in a stamp; wfp_arbitrate: of the tables */
	__u32 present; /* bit s: slot s has a value; clear: FWP_EMPTY */
	/* working memory, not input; here the verifier does not follow what it holds */
	__u8 waiting; /* how many branches wait */
	__u8 found;   /* every branch was visited */
	__u8 base;    /* first sublayer that is judged */
	__s8 failed;  /* -1: a test of the filter at hand has failed before */
	__u32 pending[WFP_PENDING]; /* branches that wait */
	__u64 is[WFP_CLASS_WORDS];  /* a bit a class that the values are of */
	__u64 word[WFP_WORDS];
};

/*
 * A verdict in one word, the return value of wfp_arbitrate: the record of the
 * filter whose action became final, and these bits. No bit: no filter matched.
 */
#define WFP_VERDICT_BLOCK (1ULL << 32)
#define WFP_VERDICT_PERMIT (1ULL << 33)
#define WFP_VERDICT_SOFT (1ULL << 34)  /* FWPS_RIGHT_ACTION_WRITE is still set */
#define WFP_VERDICT_ERROR (1ULL << 35) /* the tables are inconsistent */
#define WFP_VERDICT_ONCE (1ULL << 36) /* not to be kept for the next packet */

/*
 * A stamp: which tables are in force, and which state of them. From its lowest bit:
 * the generation of the tables, the edition, the number of the commit; in the upper
 * half how often what the tables say of the host has changed since.
 */
#define WFP_STAMP_EDITION 1
#define WFP_STAMP_COMMIT 4
#define WFP_STAMP_UNSETTLED (1ULL << 63) /* the tables in force are being changed */

_Static_assert(WFP_GENERATIONS == 1 << WFP_STAMP_EDITION, "a generation has its bit");
_Static_assert(WFP_EDITIONS == 1 << (WFP_STAMP_COMMIT - WFP_STAMP_EDITION), "an edition has its bits");

/* A verdict as the judge gives it to Go. */
struct wfp_verdict {
	__u32 action;    /* enum wfp_action */
	__u32 soft;      /* FWPS_RIGHT_ACTION_WRITE is still set */
	__u64 filter_id; /* the filter whose action became final; 0: none matched */
	__u32 error;     /* tables inconsistent: the action is BLOCK */
	__u32 pad;
};

enum wfp_field_flag {
	WFP_FIELD_CLASS = 1,   /* the leaf is a class, and nothing compares it */
	WFP_FIELD_CLASSES = 2, /* cells say of which class a leaf is */
	WFP_FIELD_HEADS = 4,   /* a leaf leads to a branch */
	WFP_FIELD_POINTS = 8,  /* a hash leads to the leaves of single values */
	WFP_FIELD_LINES = 16,  /* a large set of addresses: lines lead to classes */
};

/*
 * How one tested field of a layer finds its leaf: the number of the stretch of
 * values, between which no filter tells a difference. Leaf 0 is no value.
 *
 * By levels: tables of cells, each chosen from by some bits of the value. A cell
 * holds twice the first cell of the next table, and 1 where that has more than
 * one; in the last table the leaf. With HEADS that table has pairs of cells, and
 * is counted in pairs: leaf and branch.
 * By POINTS: a table of four cells an entry: value, leaf, branch.
 * By LINES: see below.
 * Else by nodes and buckets, for wide fields.
 */
struct wfp_field {
	__u8 slot;
	__u8 word;
	__u8 shift;  /* left, so that the value's bytes that matter come first */
	__u8 levels; /* 0: POINTS, or nodes and buckets */
	__u8 bits[WFP_LEVELS]; /* that choose in each table; LINES of wide fields: how
				* far down the first word is shifted, and 1 where the second counts */
	__u32 flags; /* enum wfp_field_flag */
	__u32 root;  /* first cell; of a wide field node, bucket or leaf */
	__u32 empty; /* leaf of a field without a value */
	__u32 empty_head; /* HEADS: its branch */
	__u32 classes; /* CLASSES: cell of leaf 0; LINES of wide fields: the first line */
	__u32 heads;   /* HEADS: cell of leaf 0; LINES of wide fields: how many to choose from */
	__u32 other;   /* POINTS: leaf of all values that are not in the table; LINES: see there */
	__u32 other_head;
	__u64 factor;  /* POINTS: the top bits of the product with a value choose; LINES: mixes */
};

/*
 * Lines are 16 cells that begin at a multiple of 16: the processor fetches what is
 * found there at once. Sets of addresses have them, of which each look-up meets
 * another part.
 *
 * An IPv4 address's upper half chooses an entry from root on; by the flag and the node
 * that it names:
 * Points: half a line and, a bit each, which of its four words. Those hold the lower
 * halves of addresses of the field's class "other"; the rest is of "other_head".
 * A node of 3, 5 or 8 bits, which choose the next entry from it.
 * A line of ranges, a cell each: the lower half of the first address, how many are
 * behind that one, and the class, from the upper half down. 255 of them: all up to the
 * next range. Addresses in none are of the entry's class. Cells ascend; the last stands
 * again in those that are free.
 *
 * An IPv6 address, or the first bits of it, is hashed. Three bits of a word of the
 * filter, in "other_head" cells from "other" on, are all set where it may be in a
 * line. That has three values of four cells each, then for each its class and 1, or 0:
 * free, and then the line, and 1, with more values of the same hash. What is not there
 * goes through nodes and buckets.
 */
#define WFP_ENTRY_POINTS 0x80000000U
#define WFP_ENTRY_HALF 0x3fffffU /* of points: which half of which line */
#define WFP_ENTRY_WORDS 24       /* of points: the bit of the first word */
#define WFP_ENTRY_LINE 0x1fffffU /* line of ranges, or line that a node begins with */
#define WFP_ENTRY_CLASS 21       /* of ranges: lowest bit of the class */
#define WFP_ENTRY_NODE 29        /* lowest bit of the node; 0: ranges */
#define WFP_NODE_BITS 0x8530U    /* of nodes 1 to 3, four bits each */

/* One layer in one edition. */
struct wfp_layer {
	__u32 fields;    /* tested fields */
	__u32 sublayers; /* with filters; 0: the layer has none */
	__u32 filters;   /* first record in the filters table */
	__u32 root;      /* branch that every search visits; 0: none */
	__u32 used;      /* bit s: some filter tests slot s */
	__u32 flags;     /* enum wfp_layer_flag */
	__u8 wide[WFP_MAX_WIDE]; /* which fields have no levels */
	__u8 wides;      /* how many */
	__u64 epoch;     /* the same as long as the layer has the same filters; 0: none */
	struct wfp_field field[WFP_MAX_FIELDS];
};

enum wfp_layer_flag {
	/* no condition tells two ephemeral local ports apart, so any of them
	 * stands for the one that connect() has not picked yet */
	WFP_LAYER_EPHEMERAL_UNIFORM = 0x1,
	WFP_LAYER_ADDED = 0x2,   /* the edition adds filters */
	WFP_LAYER_REMOVED = 0x4, /* the edition removes filters */
};

/*
 * How an edition amends the tables of a layer. A few filters that were added have
 * small tables of their own: the leaf of each field leads to a mask of those of them
 * that it will do for. Of filters that were removed a bit each says so, where the
 * tables have them still.
 */
struct wfp_amendment {
	__u64 all;     /* a bit for each filter that was added, in evaluation order */
	__u32 fields;  /* that those test */
	__u32 record;  /* of the first of them, in the filters table */
	__u32 removed; /* REMOVED: cell of the bits, by place */
	__u32 pad;
	__u32 key[WFP_ADDED];
	struct wfp_field field[WFP_MAX_FIELDS]; /* classes: cell of the masks, two each */
};

/* A node is 256 cells: where the next byte of the value leads to. */
#define WFP_NODE_CELLS 256

/* A bucket: where a few ranges of the rest of the word lead to. next[i] is for
 * values from bound[i-1] on; unused bounds are all ones and lead to the same
 * as the last. Its nodes go on behind the bytes that shift counts. */
struct wfp_bucket {
	__u64 bound[WFP_BUCKET_BOUNDS];
	__u32 next[WFP_BUCKET_BOUNDS + 1];
	__u32 shift; /* bits */
	__u32 pad;
};

/*
 * A filter as a search meets it: what is left to test where it stands. Key
 * orders filters as they are evaluated: sublayer, place, then two bits of the
 * action. It matches where the values are of no denied class and both leaves lie
 * within their ranges; what has nothing to compare compares leaf 0 of a field
 * with all numbers.
 */
struct wfp_candidate {
	__u32 key;
	__u8 field[2]; /* numbers at this layer */
	__u8 word;     /* of the classes */
	__u8 flags;    /* enum wfp_candidate_flag */
	__u64 deny;    /* classes in which it does not match */
	__u32 low[2];
	__u32 span[2]; /* the last leaf's distance from low */
};

enum wfp_candidate_flag {
	WFP_CANDIDATE_MORE = 1,  /* the next candidate goes on with this filter's tests */
	WFP_CANDIDATE_TABLE = 2, /* from cell low[0] on, a bit says whether the first leaf will do */
};

#define WFP_KEY_SUBLAYER 26 /* its lowest bit in a key; 17 bits of place follow */
#define WFP_KEY_PLACE 9
#define WFP_KEY_ADDED 2     /* 7 bits: which filter that was added before that place, or */
#define WFP_KEY_LAID 126    /* the one that the tables have there */
#define WFP_KEY_AT_PLACE (1U << (WFP_KEY_PLACE - WFP_KEY_ADDED))
#define WFP_KEY_PLACES (1ULL << (WFP_KEY_SUBLAYER - WFP_KEY_ADDED))
#define WFP_KEY_BLOCK 2
#define WFP_KEY_HARD 1
#define WFP_KEY_NONE (~0U)  /* no candidate, and later than all */

/* Candidates to look at, then the branch that the leaf of a field leads to, if
 * the branch has cuts, and the next one. */
struct wfp_branch {
	__u32 next;  /* branch; 0: none */
	__u32 cuts;  /* first of its cuts */
	__u32 count; /* of cuts; 0: none */
	__u32 field;
	struct wfp_candidate candidate[WFP_CANDIDATES];
	__u64 pad[2];
};

_Static_assert(sizeof(struct wfp_branch) == 128, "branches begin with a line");

/* From a leaf on, up to the next cut, a branch leads to another. */
struct wfp_cut {
	__u32 from;
	__u32 branch; /* 0: none */
};

/* A filter, in evaluation order. */
struct wfp_filter {
	__u64 id;
};

/* Who a number of the identity slots belongs to. */
enum wfp_principal_kind {
	WFP_PRINCIPAL_APP = 1, /* id = inode, dev = device of the executable */
	WFP_PRINCIPAL_UID = 2,
	WFP_PRINCIPAL_GID = 3,
	WFP_PRINCIPAL_SERVICE = 4, /* id = cgroup id of the unit */
	WFP_PRINCIPAL_PACKAGE = 5, /* id = cgroup id of the scope */
};

struct wfp_principal {
	__u32 kind;
	__u32 dev;
	__u64 id;
};

/* Whole-generation facts. */
struct wfp_generation {
	__u32 gids;     /* numbers of groups, 1 for "any other" included */
	__u32 services; /* numbers of services, likewise */
	__u32 users;    /* uids * gids * services */
	__u32 system_app; /* number of the app id "System"; 0: no filter names it */
	__u32 has_services;
	__u32 has_packages;
};

/* Facts of a network interface, by ifindex, in one generation. */
struct wfp_link {
	__u64 luid;
	__u64 epoch[2]; /* INTERFACE_QUARANTINE_EPOCH at V4 and at V6 layers */
	__u32 type;    /* IANA ifType */
	__u32 profile; /* public 1, private 2, domain 3 */
	__u64 mac;     /* BYTE_ARRAY6 as a number; 0: none */
	__u32 flags;   /* enum wfp_link_flag */
	__u32 bridge;  /* ifindex of the bridge that it is a port of; 0: of none */
	__u64 name[2]; /* its id at the layers of the virtual switch */
	__u32 nic;     /* enum wfp_nic */
	__u32 network; /* of a bridge: enum wfp_network */
};

enum wfp_link_flag {
	WFP_LINK_LOOPBACK = 0x1,
	WFP_LINK_ETHERNET = 0x2, /* frames start with a MAC header */
};

/* What a link is to a bridge, NDIS_SWITCH_NIC_TYPE (ntddndis.h). */
enum wfp_nic {
	WFP_NIC_EXTERNAL = 0,
	WFP_NIC_SYNTHETIC = 1, /* of a guest */
	WFP_NIC_INTERNAL = 3,  /* the bridge itself: the host's own */
};

/* FWP_VSWITCH_NETWORK_TYPE, those that a bridge can have: the host takes part. */
enum wfp_network {
	WFP_NETWORK_INTERNAL = 2,
	WFP_NETWORK_EXTERNAL = 3, /* some port is external */
};

/* Where a destination goes: the routes of the target namespace. */
struct wfp_route_key {
	__u32 prefixlen; /* of the 128 bits; IPv4 is mapped (::ffff:0:0/96) */
	__u8 addr[16];
};

struct wfp_route {
	__u32 ifindex;
	__u16 type;  /* NL_ADDRESS_TYPE of the destination: unicast 1, multicast 3, broadcast 4 */
	__u16 local; /* 1: an address of this host, on ifindex; traffic goes through lo */
	__u64 src[2]; /* address the kernel prefers, as in struct wfp_tuple; zero: not known */
};

/* The endpoints of an ALE classification, before they become field values. */
struct wfp_tuple {
	__u32 layer;
	__u32 generation;
	__u64 local[2]; /* V4: host order number in [0]; V6: two halves, host order */
	__u64 remote[2];
	__u32 ifindex; /* interface of the traffic; 0: not known */
	__u32 flags;   /* enum wfp_flag */
	__u16 local_port;
	__u16 remote_port;
	__u8 protocol;
	__u8 local_type; /* NL_ADDRESS_TYPE */
	__u8 destination_type;
	__u8 known; /* enum wfp_known */
};

enum wfp_known {
	WFP_KNOWN_LOCAL_ADDRESS = 0x1,
	WFP_KNOWN_LOCAL_PORT = 0x2,
	WFP_KNOWN_REMOTE = 0x4,   /* asked at ALE_ENDPOINT_CLOSURE only */
	WFP_KNOWN_OUTBOUND = 0x8, /* ALE_FLOW_ESTABLISHED: this host opened the flow */
	WFP_KNOWN_REDIRECTED = 0x10, /* a bind: the local end is not what it asked for */
	WFP_KNOWN_AGAIN = 0x20, /* ALE_AUTH_CONNECT, _RECV_ACCEPT: reauthorised */
	WFP_KNOWN_NOT_PICKED = 0x40, /* the local port stands for one that is not picked yet */
	/* at those two layers: reauthorised by a packet against the flow's direction */
	WFP_KNOWN_AGAINST = 0x80,
	/* ALE_RESOURCE_ASSIGNMENT: remote_port is ALE_PROMISCUOUS_MODE without WFP_SIO_RCVALL;
	 * the same bit, since no tuple is of both kinds of layer */
	WFP_KNOWN_PROMISCUOUS = 0x80,
};

/* The configuration of this instance; constant between attach and detach. */
struct wfp_config {
	__u64 netns_cookie; /* sockets of other namespaces pass */
	__u32 ephemeral_low; /* net.ipv4.ip_local_port_range */
	__u32 ephemeral_high;
	__u32 permits; /* 1: events for permits too */
	__u32 cgroup_level; /* of the cgroup that is filtered; the hierarchy's root: 0 */
	__u64 cgroup; /* its id, for the hooks that see the sockets of all */
};

/* The identity of a socket, kept from when it was made. */
struct wfp_socket {
	__u64 netns_cookie;
	__u64 inode; /* of the executable; 0: no task ("System") */
	__u32 dev;
	__u32 uid;
	__u32 gid;
	__u32 pid;
	__u64 cgroup[WFP_CGROUP_LEVELS]; /* ids of levels 1..8; 0: none */
	__u32 state;       /* enum wfp_socket_state */
	__u32 ac_ifindex;  /* interface that AUTH_CONNECT was judged with */
	__u64 ac_local[2]; /* local address that it was judged with */
	__u64 self; /* address of the socket that was identified: another's, if this was accepted */
	__u64 flow;   /* id that events at the layers of a flow's begin and end carry */
	__u64 started; /* when the process was: with its pid, which process it is */
	__u64 asked[2]; /* by the last call that was redirected, as in struct wfp_tuple */
	__u32 asked_port;
	__u32 pad;
	__u64 epoch; /* of the layer where the connection was authorised last, or WFP_EPOCH_BLOCKED */
	__u64 of;    /* address of the socket whose epoch that is */
};

enum wfp_socket_state {
	WFP_SOCKET_RA_PENDING = 0x1, /* implicit bind, port not known yet */
	WFP_SOCKET_RA_BLOCKED = 0x2,
	WFP_SOCKET_AC_PENDING = 0x4, /* connect could not be judged before its packet */
	WFP_SOCKET_AC_ASSUMED = 0x8, /* judged with an assumed port, interface or address */
	WFP_SOCKET_RA_AT_POST_BIND = 0x10, /* bind to port 0: judged when picked */
	WFP_SOCKET_RA_DONE = 0x20,         /* bind was judged */
	WFP_SOCKET_AC_PORT = 0x40,         /* AC_ASSUMED: the port was assumed too */
	WFP_SOCKET_OLD = 0x80,      /* older than the engine: was it accepted? */
	WFP_SOCKET_RELEASED = 0x100, /* closed by its program; TCP has not ended yet */
	WFP_SOCKET_FLOW_BLOCKED = 0x200, /* TCP: blocked when established */
	WFP_SOCKET_REDIRECTED = 0x800, /* its last connect was */
	WFP_SOCKET_LISTEN_BLOCKED = 0x1000, /* listens, and is denied its SYNs */
	WFP_SOCKET_RA_PORT = 0x2000, /* implicit bind, judged with a port that was assumed */
};

#define WFP_EPOCH_BLOCKED (~0ULL) /* no layer has it */

/* The ends of a handshake that ALE_AUTH_RECV_ACCEPT has let begin. */
struct wfp_handshake {
	__u64 local[2];
	__u64 remote[2];
	__u16 local_port;
	__u16 remote_port;
	__u32 pad;
};

/* An authorised flow of a socket without connections (UDP). */
struct wfp_flow_key {
	__u64 cookie;    /* of the socket */
	__u64 local[2];  /* zero in the entry that stands for any local address */
	__u64 remote[2];
	__u32 remote_port;
	__u32 pad;
};

struct wfp_flow {
	__u64 last; /* ns since boot of the last datagram */
	__u64 local[2]; /* zero: a socket call opened it, its packet is to come */
	__u64 epoch; /* of that layer when it was authorised last */
	__u32 layer; /* where it was authorised first */
	__u32 state; /* enum wfp_flow_state */
};

enum wfp_flow_state {
	WFP_FLOW_BLOCKED = 1, /* when it was authorised again: nothing passes for as long as the epoch is the same */
	WFP_FLOW_OLD = 2,     /* older than the engine: where it was authorised is not known */
};

/* Where the parts of a packet begin, in bytes from the first one that the hook has: of a
 * frame its MAC header, else the IP header. */
struct wfp_parts {
	__u16 ip;        /* of any frame what follows the MAC header and tags */
	__u16 transport; /* what follows the IP headers */
	__u16 data;      /* of an ICMP error the quote */
	__u8 has;        /* enum wfp_part */
	__u8 layer;      /* whose packet it is */
};

enum wfp_part {
	WFP_PART_IP = 0x1,
	WFP_PART_TRANSPORT = 0x2,
	WFP_PART_DATA = 0x4,
};

/*
 * Redirection. Addresses are IPv6 ones here, of IPv4 the mapped form; halves and ports
 * are in host order.
 */

/* Where a filter that calls the callout `redirect` leads: its provider context. */
struct wfp_target_key {
	__u64 filter_id;
	__u32 edition;
	__u32 pad;
};

struct wfp_end {
	__u64 address[2];
	__u32 port;
	__u32 pad;
};

/* What a socket asked for and what it was given. */
struct wfp_redirected {
	struct wfp_end asked;    /* the peer that connect named */
	struct wfp_end peer;     /* the one that it has */
	struct wfp_end name;     /* the local end that bind named */
	struct wfp_end bound;    /* the one that it has; port 0: one that the kernel picked */
	struct wfp_end original; /* accepted: what the client asked for, the redirect record */
	__u32 known; /* enum wfp_redirected_known */
	__u32 pad;
};

enum wfp_redirected_known {
	WFP_REDIRECTED_PEER = 1,
	WFP_REDIRECTED_NAME = 2,
	WFP_REDIRECTED_ORIGINAL = 4,
};

/* An end that stands for another one, of a socket. */
struct wfp_redirect_key {
	__u64 cookie; /* NAME: 0 */
	struct wfp_end end;
	__u32 of; /* enum wfp_redirect_of */
	__u32 pad;
};

enum wfp_redirect_of {
	WFP_REDIRECT_SENT = 0,   /* a destination of datagrams: where they go */
	WFP_REDIRECT_ANSWER = 1, /* where datagrams go: the destination */
	WFP_REDIRECT_NAME = 2,   /* where a TCP socket is bound: the end that bind named */
};

struct wfp_redirect {
	struct wfp_end end;
	__u64 last; /* ns since boot of the last datagram */
};

/* A TCP connection by its ends, as the side sees it that opened it. */
struct wfp_record_key {
	__u64 local[2];
	__u64 remote[2];
	__u16 local_port;
	__u16 remote_port;
	__u32 pad;
};

/* A process. */
struct wfp_process {
	__u64 started;
	__u32 pid;
	__u32 pad;
};

/* A net event, FWPM_NET_EVENT_CLASSIFY_DROP and _ALLOW. */
struct wfp_event {
	__u64 time; /* ns since boot */
	__u64 filter_id;
	__u64 inode;
	__u64 local[2]; /* V4: number in [0]; MAC layers: the address; IPFORWARD: the destination */
	__u64 remote[2];
	__u32 layer;
	__u32 action;
	__u32 dev; /* of the executable; IPFORWARD: ifindex that the packet goes on by */
	__u32 pid;
	__u32 uid;
	__u32 ifindex;
	__u16 local_port; /* MAC layers: ether type */
	__u16 remote_port;
	__u8 protocol;
	__u8 outbound;
	__u8 discard_module; /* discard layers: enum wfp_discard_module */
	__u8 reauthorize; /* enum wfp_reauthorize_reason; 0: a new flow */
	__u64 flow; /* pairs ALE_FLOW_ESTABLISHED, _ENDPOINT_CLOSURE, _RESOURCE_RELEASE; else 0 */
	__u64 discard_filter; /* discard layers: the filter that blocked; else 0 */
	__u32 discard_reason; /* discard layers: as the module numbers its reasons */
	__u32 original_port; /* not 0: it was redirected */
	__u64 original[2]; /* ALE_AUTH_CONNECT, redirected: the destination before */
	struct wfp_parts parts; /* of another layer: those of this packet are not known */
};

/* FWPS_DISCARD_MODULE0: who discarded, and so what the reason's number means. */
enum wfp_discard_module {
	WFP_DISCARD_NETWORK = 0,   /* IP_DISCARD_REASON */
	WFP_DISCARD_TRANSPORT = 1, /* INET_DISCARD_REASON */
	WFP_DISCARD_GENERAL = 2,   /* FWPS_GENERAL_DISCARD_REASON */
};

/* FWPS_GENERAL_DISCARD_REASON0 */
enum wfp_discard_reason {
	WFP_DISCARD_FIREWALL_POLICY = 0, /* a filter blocked */
};

enum wfp_counter {
	WFP_COUNTER_LOST = 0,        /* events that found the ring full */
	WFP_COUNTER_ERROR = 1,       /* classifications that met inconsistent tables */
	WFP_COUNTER_NO_IDENTITY = 2, /* packets for sockets that carry no identity */
	WFP_COUNTER_NO_LINK = 3,     /* packets on an interface the tables do not know */
	WFP_COUNTER_UNREADABLE = 4,  /* packets dropped because their headers cannot be read */
	WFP_COUNTERS = 5,
};

/* How far a packet had come that the kernel dropped. */
enum wfp_drop_stage {
	WFP_DROP_ARRIVED = 0,   /* it came in, and was not routed yet */
	WFP_DROP_DELIVERED = 1, /* it was for this host */
	WFP_DROP_FORWARDED = 2, /* it was to be passed on */
	WFP_DROP_SENT = 3,      /* this host sent it */
	WFP_DROP_STAGES = 4,
};

#define WFP_DROP_REASONS 512 /* room for the kernel's numbers (enum skb_drop_reason) */

/* Where a drop is classified, and what its discard metadata say. */
struct wfp_drop_at {
	__u16 layer; /* the V4 one; 0: WFP has no discard for it */
	__u16 module; /* enum wfp_discard_module */
	__u32 reason;
};

/* What a drop reason of the kernel is to WFP. */
struct wfp_drop {
	struct wfp_drop_at at[WFP_DROP_STAGES];
	__u32 discards; /* 0: nothing, at no stage */
	__u32 queued; /* 1: the packet is in a socket's queue */
};

/* A case for the judge. */
struct wfp_case {
	struct wfp_values values;
	struct wfp_verdict verdict;
};
