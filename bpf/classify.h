/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The classifier: WFP's filter arbitration over the tables that the loader
 * compiled. Every field value leads to a row of bits, one bit a filter of the
 * layer in evaluation order; the AND of the rows of all tested fields are the
 * matching filters. Nothing here is per filter. The functions are global, so
 * that the verifier checks each once and not again at every hook.
 */
#pragma once

#include "maps.h"

/*
 * The leaf that a value leads to. The value's bytes stand left-justified in
 * high, then low. Returns a leaf, or ~0 where the tables are inconsistent.
 */
__noinline __u64 wfp_walk(__u32 generation, __u32 root, __u64 high, __u64 low)
{
	void *table = bpf_map_lookup_elem(&nodes, &generation);
	__u32 at = root;

	if (!table)
		return ~0ULL;
	for (int i = 0; i < WFP_MAX_WIDTH; i++) {
		struct wfp_node *node;

		if (at & WFP_LEAF)
			break;
		node = bpf_map_lookup_elem(table, &at);
		if (!node)
			return ~0ULL;
		if (i == 8)
			high = low;
		at = node->next[high >> 56];
		high <<= 8;
	}
	return at & WFP_LEAF ? at & ~WFP_LEAF : ~0ULL;
}

/*
 * The rows of a classification, in the memory of its values: first where each
 * field's row starts, and behind that, where rows have several pages, the pages
 * at hand. The loader sorts a layer's fields by slot; so a row is never written
 * over a value that is still to be read.
 */
static __always_inline __u32 *rows(struct wfp_values *v)
{
	return (__u32 *)v->slot;
}

_Static_assert(2 * WFP_MAX_FIELDS * sizeof(__u32) <= WFP_SLOTS * sizeof(__u64),
	       "the rows fit into the values");

/* Looks up which pages hold a stretch of all rows. */
__noinline int wfp_turn(struct wfp_values *v, __u32 page)
{
	__u32 generation, at;
	void *index;

	if (!v)
		return -1;
	generation = v->generation;
	index = bpf_map_lookup_elem(&directory, &generation);
	for (__u32 f = 0; f < WFP_MAX_FIELDS; f++) {
		__u32 *entry;

		if (f >= v->fields)
			break;
		at = rows(v)[f] + page;
		entry = index ? bpf_map_lookup_elem(index, &at) : NULL;
		if (!entry) {
			v->error = 1;
			break;
		}
		rows(v)[WFP_MAX_FIELDS + f] = *entry;
	}
	return 0;
}

/* The AND of one word of all rows; word WFP_PAGE_WORDS is the summary. With one
 * page a row, where the row starts is its page. */
__noinline __u64 wfp_word(struct wfp_values *v, __u32 word)
{
	void *table;
	__u64 bits = ~0ULL;
	__u32 generation, *page;

	if (!v)
		return 0;
	generation = v->generation;
	table = bpf_map_lookup_elem(&pages, &generation);
	if (!table) {
		v->error = 1;
		return 0;
	}
	asm volatile("" : "+r"(word)); /* the check must stand in this register */
	if (word > WFP_PAGE_WORDS)
		return 0;
	page = rows(v);
	if (v->pages > 1)
		page += WFP_MAX_FIELDS;
	for (__u32 f = 0; f < WFP_MAX_FIELDS; f++) {
		struct wfp_page *p;

		if (f >= v->fields)
			break;
		p = bpf_map_lookup_elem(table, &page[f]);
		if (!p) {
			v->error = 1;
			return 0;
		}
		bits &= p->word[word];
	}
	return bits;
}

/* The leaf of one field's value. */
static __always_inline __u64 field_leaf(struct wfp_values *v, const struct wfp_field *f)
{
	__u32 slot = f->slot, width = f->width;
	__u64 high, low = 0;

	if (slot >= WFP_SLOTS)
		return ~0ULL;
	if (!(v->present & (1U << slot)))
		return f->empty;
	high = v->slot[slot];
	if (f->kind == WFP_KIND_DIRECT) {
		__u32 generation = v->generation, at, *entry;
		void *index = bpf_map_lookup_elem(&directory, &generation);

		if (!index || high >= f->count)
			return ~0ULL;
		at = f->root + (__u32)high;
		entry = bpf_map_lookup_elem(index, &at);
		return entry ? *entry : ~0ULL;
	}
	if (width == WFP_MAX_WIDTH) {
		if (slot + 1 >= WFP_SLOTS)
			return ~0ULL;
		low = v->slot[slot + 1];
	} else if (width < 8) {
		high <<= 64 - 8 * width;
	}
	return wfp_walk(v->generation, f->root, high, low);
}

/* Finds the layer and the rows that the values lead to; they take the values'
 * place. Returns the layer's first filter record, or -1: nothing to ask. */
__noinline __s64 wfp_enter(struct wfp_values *v)
{
	struct wfp_layer *l;

	if (!v)
		return -1;
	v->error = 0;
	l = find_layer(v->generation, v->layer);
	if (!l)
		return -1;
	v->fields = l->fields;
	v->pages = l->pages;
	for (__u32 f = 0; f < WFP_MAX_FIELDS; f++) {
		__u64 leaf;

		if (f >= l->fields)
			break;
		leaf = field_leaf(v, &l->field[f]);
		if (leaf == ~0ULL)
			v->error = 1;
		rows(v)[f] = leaf;
	}
	return l->filters;
}

/* The walk over the matching filters of a layer. */
struct wfp_arbitration {
	__u64 verdict;
	__u64 summary; /* words of this page that may hold a match */
	__u32 page;
	__u32 from;  /* first filter of interest, from the layer's first */
	__u32 first; /* the layer's first filter record */
	__u32 pad;
};

enum wfp_step {
	WFP_STEP_ON = 0,
	WFP_STEP_DONE = 1,
	WFP_STEP_ERROR = 2,
};

/* Turns to a page; done where there is none any more. */
static __always_inline int turn_to(struct wfp_values *v, struct wfp_arbitration *a, __u32 page)
{
	if (page >= v->pages)
		return WFP_STEP_DONE;
	if (v->pages > 1)
		wfp_turn(v, page);
	a->page = page;
	a->summary = wfp_word(v, WFP_PAGE_WORDS);
	if (page == a->from / WFP_PAGE_BITS)
		a->summary &= ~0ULL << (a->from / 64 % WFP_PAGE_WORDS);
	return WFP_STEP_ON;
}

/* One step: a page turned, a word without a match passed, or a sublayer
 * decided, after which its other filters are of no interest. */
__noinline int wfp_step(struct wfp_values *v, struct wfp_arbitration *a)
{
	struct wfp_filter *filter;
	__u32 generation, at, word;
	void *table;
	__u64 bits;

	if (!v || !a || v->error)
		return WFP_STEP_ERROR;
	if (!a->summary)
		return turn_to(v, a, a->page + 1);
	word = __builtin_ctzll(a->summary);
	bits = wfp_word(v, word);
	word += a->page * WFP_PAGE_WORDS;
	if (word == a->from / 64)
		bits &= ~0ULL << (a->from % 64);
	if (!bits) {
		a->summary &= a->summary - 1;
		return WFP_STEP_ON;
	}
	generation = v->generation;
	at = a->first + word * 64 + __builtin_ctzll(bits);
	table = bpf_map_lookup_elem(&filters, &generation);
	filter = table ? bpf_map_lookup_elem(table, &at) : NULL;
	if (!filter)
		return WFP_STEP_ERROR;
	a->verdict = at | (filter->action == WFP_ACTION_BLOCK ? WFP_VERDICT_BLOCK :
								WFP_VERDICT_PERMIT);
	if (filter->hard)
		return WFP_STEP_DONE;
	a->verdict |= WFP_VERDICT_SOFT;
	a->from = filter->next;
	if (a->from / WFP_PAGE_BITS != a->page)
		return turn_to(v, a, a->from / WFP_PAGE_BITS);
	a->summary &= ~0ULL << (a->from / 64 % WFP_PAGE_WORDS);
	return WFP_STEP_ON;
}

/*
 * Arbitration (arbitration.md 2): the first match of each sublayer, sublayers
 * in weight order; while the write right is set the next result replaces the
 * current one. No static filter can veto, so a hard action stands. A layer
 * without filters is not asked; where none matches the traffic passes. The
 * values are used up.
 */
__noinline __u64 wfp_arbitrate(struct wfp_values *v)
{
	struct wfp_arbitration a = {};
	__s64 first;
	int step;

	if (!v)
		return WFP_VERDICT_BLOCK | WFP_VERDICT_ERROR;
	first = wfp_enter(v);
	if (first < 0)
		return 0;
	a.first = first;
	a.page = ~0U; /* the first step turns to page 0 */
	for (int i = 0; i < WFP_MAX_STEPS; i++) {
		step = wfp_step(v, &a);
		if (step == WFP_STEP_ON)
			continue;
		if (step == WFP_STEP_DONE && !v->error)
			return a.verdict;
		break;
	}
	/* never guessed: what cannot be judged is blocked, counted and shown */
	return WFP_VERDICT_BLOCK | WFP_VERDICT_ERROR;
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
