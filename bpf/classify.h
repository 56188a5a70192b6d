/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The classifier: WFP's filter arbitration over the tables that the loader
 * compiled. Every field value leads to a leaf; leaves choose rows of bits, one
 * bit a filter of the layer; the AND of the rows are the matching filters.
 * Nothing here is per filter. The functions are global, so that the verifier
 * checks each once and not again at every hook.
 */
#pragma once

#include "maps.h"

/* Where the slots stand. Constant slots fold to constants. */
static __always_inline __u32 slot_word(__u32 slot)
{
	switch (slot) {
	case WFP_SLOT_LOCAL_ADDRESS:
		return 0;
	case WFP_SLOT_REMOTE_ADDRESS:
		return 2;
	case WFP_SLOT_LOCAL_ADDRESS_TYPE:
	case WFP_SLOT_DESTINATION_ADDRESS_TYPE:
	case WFP_SLOT_PROTOCOL:
	case WFP_SLOT_LOCAL_PORT:
	case WFP_SLOT_REMOTE_PORT:
		return 4;
	case WFP_SLOT_FLAGS:
	case WFP_SLOT_PACKAGE:
		return 5;
	case WFP_SLOT_LOCAL_INTERFACE:
		return 6;
	case WFP_SLOT_INTERFACE_INDEX:
	case WFP_SLOT_INTERFACE_TYPE:
		return 7;
	case WFP_SLOT_PACKET_INTERFACE:
		return 8;
	case WFP_SLOT_PACKET_INTERFACE_INDEX:
	case WFP_SLOT_PACKET_INTERFACE_TYPE:
		return 9;
	case WFP_SLOT_ORIGINAL_PROFILE:
	case WFP_SLOT_CURRENT_PROFILE:
		return 10;
	case WFP_SLOT_QUARANTINE_EPOCH:
		return 11;
	default:
		return 12;
	}
}

static __always_inline __u32 slot_shift(__u32 slot)
{
	switch (slot) {
	case WFP_SLOT_DESTINATION_ADDRESS_TYPE:
		return 8;
	case WFP_SLOT_PROTOCOL:
		return 16;
	case WFP_SLOT_LOCAL_PORT:
		return 32;
	case WFP_SLOT_REMOTE_PORT:
		return 48;
	case WFP_SLOT_PACKAGE:
	case WFP_SLOT_INTERFACE_TYPE:
	case WFP_SLOT_PACKET_INTERFACE_TYPE:
	case WFP_SLOT_CURRENT_PROFILE:
	case WFP_SLOT_USER:
		return 32;
	default:
		return 0;
	}
}

/* Puts a field's value; each slot is put once at most, into zeroed values. */
static __always_inline void put(struct wfp_values *v, __u32 slot, __u64 value)
{
	v->word[slot_word(slot)] |= value << slot_shift(slot);
	v->present |= 1U << slot;
}

static __always_inline void put_address(struct wfp_values *v, __u32 slot, const __u64 address[2])
{
	v->word[slot_word(slot)] = address[0];
	v->word[slot_word(slot) + 1] = address[1];
	v->present |= 1U << slot;
}

/*
 * The rows of a classification, in the memory of its values. Fields come in the
 * order of their words, and a row has no higher number than its first field, so
 * that a row is never written over a value that is still to be read; the loader
 * holds to that.
 */
static __always_inline __u32 *rows(struct wfp_values *v)
{
	return (__u32 *)v->word;
}

_Static_assert(WFP_MAX_PAGES <= 32, "a bit a page fits into present");
_Static_assert(WFP_MAX_FIELDS * sizeof(__u32) <= WFP_WORDS * sizeof(__u64),
	       "the rows fit into the values");

/*
 * a >= b as a number, without a branch: the verifier would follow both ways at
 * each step of each field, and the processor would guess half of them wrong.
 */
static __always_inline __u32 at_least(__u64 a, __u64 b)
{
	__u64 less = ((~a & b) | ((~a | b) & (a - b))) >> 63;

	asm volatile("" : "+r"(less)); /* or clang makes a branch of it */
	return less ^ 1;
}

/* The leaf that a value leads to, or ~0: the tables are inconsistent. The
 * value's bytes stand left-justified in high, then low. */
__noinline __u64 wfp_walk(__u64 high, __u64 low, __u32 at, __u32 generation)
{
	void *node_table = bpf_map_lookup_elem(&nodes, &generation);
	void *bucket_table = bpf_map_lookup_elem(&buckets, &generation);

	if (!node_table || !bucket_table)
		return ~0ULL;
	for (int i = 0; i < WFP_MAX_DEPTH; i++) {
		__u64 second = -(__u64)(at / WFP_SECOND & 1);
		__u32 entry = at & WFP_ENTRY;

		if (at & WFP_LEAF)
			return at & ~WFP_LEAF;
		/* without a branch, which would double what the verifier follows */
		high = (high & ~second) | (low & second);
		if (at & WFP_BUCKET) {
			struct wfp_bucket *b = bpf_map_lookup_elem(bucket_table, &entry);
			__u32 n;

			if (!b)
				break;
			n = at_least(high, b->bound[3]) * 4;
			n += at_least(high, b->bound[(n + 1) & 7]) * 2;
			n += at_least(high, b->bound[n & 6]);
			at = b->next[n & 7];
			high <<= b->shift & 63;
		} else {
			struct wfp_node *node = bpf_map_lookup_elem(node_table, &entry);

			if (!node)
				break;
			at = node->next[high >> 56];
			high <<= 8;
		}
	}
	return ~0ULL;
}

/* The leaf of one field, or ~0. */
static __always_inline __u64 field_leaf(struct wfp_values *v, const struct wfp_field *f, void *index)
{
	__u32 at = f->root, word = f->word;
	__u64 high, low;

	if (!(v->present & (1U << (f->slot & 31))))
		return f->empty;
	if (word >= WFP_WORDS)
		return ~0ULL;
	high = v->word[word] << (f->shift & 63);
	if (f->flags & WFP_FIELD_DIRECT) {
		__u32 *entry;

		high >>= 32;
		if (high >= f->count)
			return ~0ULL;
		at += (__u32)high;
		entry = bpf_map_lookup_elem(index, &at);
		return entry ? *entry : ~0ULL;
	}
	word++;
	asm volatile("" : "+r"(word)); /* the check must stand in this register */
	low = word < WFP_WORDS ? v->word[word] : 0;
	return wfp_walk(high, low, at, v->generation);
}

enum wfp_end {
	WFP_END_NOT = 0,
	WFP_END_ERROR = 1,   /* the tables are inconsistent */
	WFP_END_DECIDED = 2, /* a hard action: nothing can change the verdict */
};

/* Finds the layer and the rows that the values lead to; they take the values'
 * place. Returns the pages that may hold a match, 0: nothing to ask. */
__noinline __u64 wfp_enter(struct wfp_values *v)
{
	void *index, *head_table;
	struct wfp_layer *l;
	__u64 mask = ~0ULL;
	__u32 generation;

	if (!v)
		return 0;
	generation = v->generation;
	l = find_layer(generation, v->layer);
	if (!l)
		return 0;
	index = bpf_map_lookup_elem(&directory, &generation);
	if (!index) {
		v->end = WFP_END_ERROR;
		return 1;
	}
	v->rows = l->rows;
	v->pages = l->pages;
	v->first = l->filters;
	for (__u32 f = 0; f < WFP_MAX_FIELDS; f++) {
		struct wfp_field *field = &l->field[f];
		__u32 row = field->row;
		__u64 leaf;

		if (f >= l->fields)
			break;
		leaf = field_leaf(v, field, index);
		if (leaf == ~0ULL || row >= WFP_MAX_FIELDS) {
			v->end = WFP_END_ERROR;
			return 1;
		}
		if (field->flags & WFP_FIELD_FIRST)
			rows(v)[row] = leaf;
		else
			rows(v)[row] += leaf;
	}
	head_table = v->pages > 1 ? bpf_map_lookup_elem(&heads, &generation) : NULL;
	for (__u32 r = 0; r < WFP_MAX_FIELDS; r++) {
		struct wfp_head *head;
		__u32 at, *entry;

		if (r >= l->rows)
			break;
		if (l->row[r].shared) {
			at = l->row[r].base + rows(v)[r];
			entry = bpf_map_lookup_elem(index, &at);
			if (!entry) {
				v->end = WFP_END_ERROR;
				return 1;
			}
			rows(v)[r] = *entry;
		}
		if (v->pages == 1)
			continue;
		at = rows(v)[r]; /* 6.1 takes no key from the caller's memory */
		head = head_table ? bpf_map_lookup_elem(head_table, &at) : NULL;
		if (!head) {
			v->end = WFP_END_ERROR;
			return 1;
		}
		mask &= head->mask;
		rows(v)[r] = head->directory;
	}
	return v->pages == 1 ? 1 : mask;
}

/* A row's page. */
static __always_inline struct wfp_page *row_page(struct wfp_values *v, void *table, void *index,
						 __u32 row, __u32 page)
{
	__u32 at = rows(v)[row];

	if (v->pages > 1) {
		__u32 *entry;

		at += page;
		entry = bpf_map_lookup_elem(index, &at);
		if (!entry)
			return NULL;
		at = *entry;
	}
	return bpf_map_lookup_elem(table, &at);
}

static const __u8 bit_of[64] = {
	0,  1,  2,  53, 3,  7,  54, 27, 4,  38, 41, 8,  34, 55, 48, 28,
	62, 5,  39, 46, 44, 42, 22, 9,  24, 35, 59, 56, 49, 18, 29, 11,
	63, 52, 6,  26, 37, 40, 33, 47, 61, 45, 43, 21, 23, 58, 17, 10,
	51, 25, 36, 32, 60, 20, 57, 16, 50, 31, 19, 15, 30, 14, 13, 12,
};

/* The lowest set bit, by a de Bruijn sequence: BPF has no such instruction. */
static __always_inline __u32 lowest_bit(__u64 bits)
{
	return bit_of[((bits & -bits) * 0x022fdd63cc95386dULL) >> 58];
}

/* The best match of the sublayer at hand becomes its result. Returns 1 where
 * that ends the arbitration: no static filter can change a hard action. */
static __always_inline int end_sublayer(struct wfp_values *v)
{
	if (v->rank == ~0U)
		return 0;
	v->rank = ~0U;
	v->verdict = v->best;
	return !(v->verdict & WFP_VERDICT_SOFT);
}

/*
 * Takes note of the first match in a word, which is the group's first. Returns
 * the words of the page that are of interest after it: groups start at words,
 * so that is where the next one starts.
 */
__noinline __u64 wfp_note(struct wfp_values *v, __u32 position, __u32 page)
{
	struct wfp_filter *filter;
	__u32 generation, at, next;
	void *table;

	if (!v)
		return 0;
	generation = v->generation;
	at = v->first + position;
	table = bpf_map_lookup_elem(&filters, &generation);
	filter = table ? bpf_map_lookup_elem(table, &at) : NULL;
	if (!filter) {
		v->end = WFP_END_ERROR;
		return 0;
	}
	if (filter->sublayer != v->sublayer) {
		if (end_sublayer(v)) {
			v->end = WFP_END_DECIDED;
			return 0;
		}
		v->sublayer = filter->sublayer;
	}
	if (filter->rank < v->rank) {
		v->rank = filter->rank;
		v->best = at | (filter->action == WFP_ACTION_BLOCK ? WFP_VERDICT_BLOCK :
								     WFP_VERDICT_PERMIT);
		if (!filter->hard)
			v->best |= WFP_VERDICT_SOFT;
	}
	v->from = next = filter->next;
	return next / WFP_PAGE_BITS == page ? ~0ULL << (next / 64 % WFP_PAGE_WORDS) : 0;
}

/* The AND of one word over the rows past the bank. */
__noinline __u64 wfp_further_rows(struct wfp_values *v, __u32 page, __u32 word)
{
	void *table, *index;
	__u64 bits = ~0ULL;
	__u32 generation;

	if (!v)
		return 0;
	generation = v->generation;
	table = bpf_map_lookup_elem(&pages, &generation);
	index = bpf_map_lookup_elem(&directory, &generation);
	if (!table || !index) {
		v->end = WFP_END_ERROR;
		return 0;
	}
	for (__u32 r = WFP_BANK; r < WFP_MAX_FIELDS; r++) {
		struct wfp_page *p;

		if (r >= v->rows || !bits)
			break;
		p = row_page(v, table, index, r, page);
		/* checked here, in this register: 6.1 forgets it on the stack */
		asm volatile("" : "+r"(word));
		if (!p || word > WFP_PAGE_WORDS) {
			v->end = WFP_END_ERROR;
			return 0;
		}
		bits &= p->word[word];
	}
	return bits;
}

/*
 * Reads one page of the rows: the AND word by word. The pages of the first rows
 * are held in registers; with fewer rows the first stands in for the others,
 * which changes no AND.
 */
__noinline int wfp_read_page(struct wfp_values *v, __u32 page)
{
	struct wfp_page *p0, *p1, *p2, *p3, *p4, *p5;
	__u32 generation, word, further;
	void *table, *index;
	__u64 words, bits;

	if (!v)
		return 0;
	generation = v->generation;
	table = bpf_map_lookup_elem(&pages, &generation);
	index = bpf_map_lookup_elem(&directory, &generation);
	if (!table || !index)
		goto inconsistent;
#define WFP_ROW(p, n) \
	p = v->rows > n ? row_page(v, table, index, n, page) : p0; \
	if (!p)                                                    \
		goto inconsistent
	p0 = row_page(v, table, index, 0, page);
	if (!p0)
		goto inconsistent;
	WFP_ROW(p1, 1);
	WFP_ROW(p2, 2);
	WFP_ROW(p3, 3);
	WFP_ROW(p4, 4);
	WFP_ROW(p5, 5);
#undef WFP_ROW
#define WFP_AND(n) \
	(p0->word[n] & p1->word[n] & p2->word[n] & p3->word[n] & p4->word[n] & p5->word[n])
	further = v->rows > WFP_BANK;
	words = WFP_AND(WFP_PAGE_WORDS);
	if (v->from > page * WFP_PAGE_BITS)
		words &= v->from / WFP_PAGE_BITS == page ?
			~0ULL << (v->from / 64 % WFP_PAGE_WORDS) : 0;
	if (further)
		words &= wfp_further_rows(v, page, WFP_PAGE_WORDS);
	for (int i = 0; i < WFP_PAGE_WORDS; i++) {
		if (!words)
			break;
		word = lowest_bit(words);
		asm volatile("" : "+r"(word)); /* keeps the bound below in this register */
		word &= WFP_PAGE_WORDS - 1;
		bits = WFP_AND(word);
		if (further && bits)
			bits &= wfp_further_rows(v, page, word);
		words &= words - 1;
		if (bits)
			words &= wfp_note(v, (page * WFP_PAGE_WORDS + word) * 64 + lowest_bit(bits),
					  page);
	}
#undef WFP_AND
	return 0;
inconsistent:
	v->end = WFP_END_ERROR;
	return 0;
}

/*
 * Arbitration (arbitration.md 2): the first match of each sublayer, sublayers
 * in weight order; while the write right is set the next result replaces the
 * current one. No static filter can veto, so a hard action stands. A layer
 * without filters is not asked; where none matches the traffic passes. The
 * values are used up.
 */
static __always_inline __u64 wfp_arbitrate(struct wfp_values *v)
{
	v->end = WFP_END_NOT;
	/* all input is used by then: the pages to read take the place of present */
	v->present = wfp_enter(v);
	v->verdict = 0;
	v->from = 0;
	v->rank = ~0U;
	v->sublayer = ~0U;
	for (int i = 0; i < WFP_MAX_PAGES; i++) {
		if (!v->present || v->end)
			break;
		wfp_read_page(v, lowest_bit(v->present));
		v->present &= v->present - 1;
	}
	if (v->end == WFP_END_ERROR) {
		/* never guessed: what cannot be judged is blocked, counted and shown */
		return WFP_VERDICT_BLOCK | WFP_VERDICT_ERROR;
	}
	if (v->end == WFP_END_NOT)
		end_sublayer(v);
	return v->verdict;
}

static __always_inline struct wfp_filter *deciding_filter(__u32 generation, __u64 verdict)
{
	void *table = bpf_map_lookup_elem(&filters, &generation);
	__u32 at = verdict;

	if (!table || !(verdict & (WFP_VERDICT_BLOCK | WFP_VERDICT_PERMIT)) ||
	    verdict & WFP_VERDICT_ERROR)
		return NULL;
	return bpf_map_lookup_elem(table, &at);
}
