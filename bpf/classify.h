/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The classifier: WFP's filter arbitration over the tables that the loader
 * compiled. Every field value leads to a leaf. The leaves of the fields that
 * tell filters apart best lead to branches, each with a few filters that may
 * match, and those compare the other leaves. So the cost follows the filters
 * that nearly match, not how many there are. The functions are global, so that
 * the verifier checks each once and not again at every hook.
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
 * What the values lead to, in their memory: the leaf of each field, then the
 * best candidate of each sublayer. Fields come in the order of their words, so
 * that a leaf is never written over a value that is still to be read; the
 * loader holds to that.
 */
static __always_inline __u32 *leaves(struct wfp_values *v)
{
	return (__u32 *)v->word;
}

static __always_inline __u32 *best(struct wfp_values *v)
{
	return leaves(v) + WFP_MAX_FIELDS;
}

#define WFP_MATCHED (WFP_WORDS - 1) /* word: a bit for each added filter that matches */

_Static_assert((WFP_MAX_FIELDS + WFP_SPAN) * sizeof(__u32) == WFP_MATCHED * sizeof(__u64),
	       "leaves and best candidates take all other words");
_Static_assert(WFP_WORDS == 16, "masks of five bits bound what is read");

/* What no table can hold. */
#define WFP_INCONSISTENT (~0U)

/*
 * The top bit where a >= b is false, without a branch: the verifier would follow
 * both ways at each step, and the processor would guess half of them wrong.
 */
static __always_inline __u64 less(__u64 a, __u64 b)
{
	__u64 bit = ((~a & b) | ((~a | b) & (a - b))) >> 63;

	asm volatile("" : "+r"(bit)); /* or clang makes a branch of it */
	return bit;
}

/* All ones where a < b; of numbers below 2^63. */
static __always_inline __u64 below(__u64 a, __u64 b)
{
	__u64 all = (__u64)((__s64)(a - b) >> 63);

	asm volatile("" : "+r"(all));
	return all;
}

/* The leaf that a value leads to by nodes and buckets, or ~0: the tables are
 * inconsistent. The value's bytes stand left-justified in high, then low. */
__noinline __u64 wfp_walk(__u32 tables, __u64 high, __u64 low, __u32 at)
{
	for (int i = 0; i < WFP_MAX_DEPTH; i++) {
		__u64 second = -(__u64)(at / WFP_SECOND & 1);
		__u32 entry = at & WFP_ENTRY;

		if (at & WFP_LEAF)
			return at & ~WFP_LEAF;
		/* without a branch, which would double what the verifier follows */
		high = (high & ~second) | (low & second);
		if (at & WFP_BUCKET) {
			struct wfp_bucket *b = find_buckets(tables, entry);
			__u32 n;

			if (!b)
				break;
			n = (less(high, b->bound[3]) ^ 1) * 4;
			n += (less(high, b->bound[(n + 1) & 7]) ^ 1) * 2;
			n += less(high, b->bound[n & 6]) ^ 1;
			at = b->next[n & 7];
			high <<= b->shift & 63;
		} else {
			__u32 *cell = find_cells(tables, entry + (high >> 56));

			if (!cell)
				break;
			at = *cell;
			high <<= 8;
		}
	}
	return ~0ULL;
}

/* The first of some cells, a power of two that a page is a multiple of, or NULL: the
 * tables are inconsistent. */
static __always_inline __u32 *find_line(__u32 generation, __u32 line, const __u32 size)
{
	__u32 at = line * size;
	struct cells_page *page = cells_page_of(generation, at);

	at &= WFP_PAGE_cells - size;
	asm volatile("" : "+r"(at)); /* keeps the bound */
	at &= WFP_PAGE_cells - size;
	return page ? &page->entry[at] : NULL;
}

/* 1 where a < b; of numbers below 2^63. */
static __always_inline __u64 before(__u64 a, __u64 b)
{
	return below(a, b) & 1;
}

/* All ones where a number is not zero, without a branch. */
static __always_inline __u64 all_if(__u64 n)
{
	n = (n | -n) >> 63;
	asm volatile("" : "+r"(n)); /* or clang makes a branch of it */
	return -n;
}

/* Not zero where one of a word's four numbers of 16 bits is. */
static __always_inline __u64 has_zero(__u64 word)
{
	return (word - 0x0001000100010001ULL) & ~word & 0x8000800080008000ULL;
}

/*
 * The class of an IPv4 address by lines, or ~0. Without a branch on what stands in a
 * line: the processor goes on with other fields while it fetches it.
 */
static __always_inline __u64 line_class(__u32 generation, const struct wfp_field *f, __u32 address)
{
	__u64 low = address & 0xffff, from = low << 16 | 0xffff, none;
	__u32 *cell = find_cells(generation, f->root + (address >> 16));
	__u32 entry, n, last;

	if (!cell)
		return ~0ULL;
	entry = *cell;
	address <<= 16;
	for (int i = 0; i < WFP_MAX_NODES; i++) {
		__u32 bits = entry >> WFP_ENTRY_NODE;

		if (bits - 1 > 2) /* no node */
			break;
		bits = WFP_NODE_BITS >> 4 * bits & 0xf;
		cell = find_cells(generation, (entry & WFP_ENTRY_LINE) * WFP_LINE + (address >> (32 - bits)));
		if (!cell)
			return ~0ULL;
		entry = *cell;
		address <<= bits;
	}
	if (entry & WFP_ENTRY_POINTS) {
		__u64 all = low * 0x0001000100010001ULL, found = 0;

		cell = find_line(generation, entry & WFP_ENTRY_HALF, WFP_LINE / 2);
		if (!cell)
			return ~0ULL;
		for (int i = 0; i < WFP_LINE / 4; i++)
			found |= has_zero(*(__u64 *)&cell[2 * i] ^ all) & -(__u64)(entry >> (WFP_ENTRY_WORDS + i) & 1);
		found = all_if(found);
		return (f->other & found) | (f->other_head & ~found);
	}
	cell = find_line(generation, entry & WFP_ENTRY_LINE, WFP_LINE);
	if (!cell)
		return ~0ULL;
	cell += 12 - 4 * (before(from, cell[4]) + before(from, cell[8]) + before(from, cell[12]));
	n = cell[3 - (before(from, cell[1]) + before(from, cell[2]) + before(from, cell[3]))];
	last = n >> 8 & 0xff;
	last += (last + 1) >> 8 << 16;
	none = below(last, (__u32)(low - (n >> 16)));
	return (n & 0xff & ~none) | (entry >> WFP_ENTRY_CLASS & 0xff & none);
}

/* The class and 1 of a value that may be in a line, 0 where it is not. Without a
 * branch on whether it is. */
static __always_inline __u64 class_in_line(const __u32 *cell, __u64 high, __u64 low)
{
	__u64 class = 0;

	for (int n = 0; n < WFP_LINE_POINTS; n++) {
		__u64 other = (*(__u64 *)&cell[4 * n] ^ high) | (*(__u64 *)&cell[4 * n + 2] ^ low);

		class |= cell[4 * WFP_LINE_POINTS + n] & ~all_if(other);
	}
	return class;
}

/* The same from a line on, with what does not fit in it. ~0: the tables are inconsistent. */
__noinline __u64 wfp_more_points(__u32 generation, __u64 high, __u64 low, __u32 line)
{
	for (int i = 1; i < WFP_MAX_LINES; i++) {
		__u32 *cell = find_line(generation, line - 1, WFP_LINE);
		__u64 class;

		if (!cell)
			break;
		class = class_in_line(cell, high, low);
		line = cell[WFP_LINE - 1];
		if (class || !line)
			return class;
	}
	return ~0ULL;
}

/*
 * The class and 1 of a value by a hash, 0 where it is not there, or ~0. Most that are
 * not there show by a word of the filter, and no line is fetched.
 */
static __always_inline __u64 point_class(__u32 generation, const struct wfp_field *f, __u64 high, __u64 low)
{
	__u64 hash;
	__u32 *cell, bits;

	high >>= f->bits[0] & 63;
	low &= -(__u64)f->bits[1];
	hash = low * f->factor;
	hash = ((hash ^ hash >> 32) + high) * f->factor;
	cell = find_cells(generation, f->other + ((hash >> 32) * f->other_head >> 32));
	if (!cell)
		return ~0ULL;
	bits = 1U << (hash >> 17 & 31) | 1U << (hash >> 22 & 31) | 1U << (hash >> 27 & 31);
	if (bits & ~*cell)
		return 0;
	cell = find_line(generation, f->classes + ((hash >> 32) * f->heads >> 32), WFP_LINE);
	if (!cell)
		return ~0ULL;
	hash = class_in_line(cell, high, low);
	bits = cell[WFP_LINE - 1];
	if (bits && !hash)
		return wfp_more_points(generation, high, low, bits);
	return hash;
}

/* The layer of values that are judged. */
static __always_inline struct wfp_layer *layer_of(const struct wfp_values *v)
{
	__u32 key = v->layer;

	return bpf_map_lookup_elem(&layers, &key);
}

static __always_inline struct wfp_amendment *amendment_of(const struct wfp_values *v)
{
	__u32 key = v->layer;

	return bpf_map_lookup_elem(&amendments, &key);
}

static __always_inline void put_class(struct wfp_values *v, __u64 class)
{
	v->is[class / 64 & (WFP_CLASS_WORDS - 1)] |= 1ULL << (class & 63);
}

/*
 * Puts the leaves of wide fields into the place of their values; each has its
 * words to itself. Where a leaf is a class, the value stays for another field that
 * reads it, too. Returns 0 where the tables are inconsistent.
 */
__noinline __u32 wfp_wide(struct wfp_values *v)
{
	struct wfp_layer *l;

	if (!v)
		return 0;
	l = layer_of(v);
	if (!l)
		return 1;
	for (int i = 0; i < WFP_MAX_WIDE; i++) {
		__u32 n = l->wide[i], word;
		__u64 high, low, leaf;
		struct wfp_field *f;

		asm volatile("" : "+r"(v), "+r"(l)); /* or the stack holds what is derived from them */
		if (i >= l->wides)
			break;
		if (n >= WFP_MAX_FIELDS)
			return 0;
		f = &l->field[n];
		if (!(v->present & (1U << (f->slot & 31))))
			continue;
		word = f->word;
		if (word >= WFP_WORDS - 1)
			return 0;
		high = v->word[word];
		low = v->word[word + 1];
		if (f->flags & WFP_FIELD_LINES) {
			__u64 found = point_class(v->generation, f, high, low);
			__u64 none = below(found, 1);

			if (found == ~0ULL)
				return 0;
			if (f->root & WFP_LEAF || found) {
				put_class(v, ((found - 1) & ~none) | (f->root & ~WFP_LEAF & none));
				continue;
			}
		}
		leaf = wfp_walk(v->generation, high << (f->shift & 63), low, f->root);
		if (leaf == ~0ULL)
			return 0;
		if (f->flags & WFP_FIELD_CLASS)
			put_class(v, leaf);
		else
			v->word[word] = leaf;
	}
	return 1;
}

static __always_inline __u64 pair(__u32 leaf, __u32 head)
{
	return leaf | (__u64)head << 32;
}

#define WFP_DONE (~1ULL) /* no leaf: what there was to do is done */

/* The leaf of one field and, above 32 bits, the branch that it leads to; or ~0. */
static __always_inline __u64 field_leaf(const struct wfp_values *v, __u32 tables,
						 const struct wfp_field *f)
{
	__u32 word = f->word, levels = f->levels, at = f->root, *cell;
	struct cells_page *page;
	__u64 high;

	if (!(v->present & (1U << (f->slot & 31))))
		return pair(f->empty, f->empty_head);
	if (word >= WFP_WORDS)
		return ~0ULL;
	high = v->word[word];
	if (f->flags & WFP_FIELD_POINTS) {
		high <<= f->shift & 63;
		at += (high * f->factor >> (64 - f->bits[0] & 63)) * 4;
		page = cells_page_of(tables, at);
		if (!page)
			return ~0ULL;
		at &= WFP_PAGE_cells - 4;
		asm volatile("" : "+r"(at)); /* keeps the bound */
		at &= WFP_PAGE_cells - 4;
		if (pair(page->entry[at], page->entry[at + 1]) != high)
			return pair(f->other, f->other_head);
		return pair(page->entry[at + 2], page->entry[at + 3]);
	}
	if (!levels) { /* wfp_wide has put the leaf there, or the class */
		if (f->flags & WFP_FIELD_CLASS)
			return WFP_DONE;
		if (!(f->flags & WFP_FIELD_HEADS))
			return high;
		cell = find_cells(tables, f->heads + high);
		return cell ? pair(high, *cell) : ~0ULL;
	}
	high <<= f->shift & 63;
	at = 2 * at + 1;
	for (int i = 0; i < WFP_LEVELS; i++) {
		__u32 bits = f->bits[i];

		/* without a branch on the cell, as above */
		at = at / 2 + ((high >> (64 - bits & 63)) & -(__u64)(at & 1));
		if (--levels == 0)
			break;
		cell = find_cells(tables, at);
		if (!cell)
			return ~0ULL;
		at = *cell;
		high <<= bits & 63;
	}
	if (!(f->flags & WFP_FIELD_HEADS)) {
		cell = find_cells(tables, at);
		return cell ? *cell : ~0ULL;
	}
	at *= 2;
	page = cells_page_of(tables, at);
	if (!page)
		return ~0ULL;
	at &= WFP_PAGE_cells - 2;
	asm volatile("" : "+r"(at)); /* keeps the bound */
	at &= WFP_PAGE_cells - 2;
	return pair(page->entry[at], page->entry[at + 1]);
}

/* Makes a branch wait, if it is one. The programs have room for all that wait at
 * a time; the loader holds to that. */
static __always_inline void wait_for(struct wfp_values *v, __u32 branch)
{
	v->pending[v->waiting & (WFP_PENDING - 1)] = branch;
	v->waiting += !!branch;
}

/*
 * Reads all branches that wait, so that the processor has the memory fetch them at a
 * time: what a visit reads decides what it does next, and whatever would be read
 * after that waits for it.
 */
static __always_inline void fetch(struct wfp_values *v)
{
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < WFP_PENDING; i++) {
		struct wfp_branch *br;

		if (i >= v->waiting)
			break;
		br = find_branches(v->generation, v->pending[i]);
		if (br)
			*(volatile __u32 *)&br->next;
	}
}

/*
 * Finds the leaves that the values lead to, the classes that they are of and the
 * branches to search; they take the values' place. Returns 0 where the tables are
 * inconsistent.
 */
__noinline __u32 wfp_enter(struct wfp_values *v)
{
	struct wfp_layer *l;

	if (!v)
		return 0;
	l = layer_of(v);
	if (!l)
		return 0;
	v->waiting = 0;
	wait_for(v, l->root);
	for (__u32 i = 0; i < WFP_MAX_FIELDS; i++) {
		struct wfp_field *f = &l->field[i];
		__u64 leaf;
		__u32 *cell;

		asm volatile("" : "+r"(v), "+r"(l)); /* or the stack holds what is derived from them */
		if (i >= l->fields)
			break;
		if (f->flags & WFP_FIELD_LINES && f->levels && v->present & (1U << (f->slot & 31))) {
			__u32 word = f->word;

			if (word >= WFP_WORDS)
				return 0;
			leaf = line_class(v->generation, f, v->word[word]);
		} else {
			leaf = field_leaf(v, v->generation, f);
		}
		if (leaf == ~0ULL)
			return 0;
		if (f->flags & WFP_FIELD_CLASS) {
			if (leaf != WFP_DONE)
				put_class(v, (__u32)leaf);
			continue;
		}
		leaves(v)[i] = leaf;
		if (f->flags & WFP_FIELD_HEADS)
			wait_for(v, leaf >> 32);
		if (f->flags & WFP_FIELD_CLASSES) {
			cell = find_cells(v->generation, f->classes + (__u32)leaf);
			if (!cell)
				return 0;
			put_class(v, *cell);
		}
	}
	v->present = l->filters; /* all input is used: the first record takes its place */
	v->sublayers = l->sublayers;
	v->amended = l->flags;
	v->base = 0;
	fetch(v);
	return 1;
}

/*
 * Finds which of the filters that the edition adds match: those that the leaf of each
 * field will do for. Comes before wfp_enter, which uses up the values. Returns 0 where
 * the tables are inconsistent.
 */
__noinline __u32 wfp_match_added(struct wfp_values *v)
{
	struct wfp_amendment *a;
	__u32 tables;

	if (!v)
		return 0;
	a = amendment_of(v);
	if (!a)
		return 0;
	tables = amended_tables(v->layer);
	v->word[WFP_MATCHED] = a->all;
	for (__u32 i = 0; i < WFP_MAX_FIELDS; i++) {
		struct wfp_field *f = &a->field[i];
		__u32 *mask;
		__u64 leaf;

		if (i >= a->fields)
			break;
		if (f->levels || f->flags & WFP_FIELD_POINTS || !(v->present & (1U << (f->slot & 31)))) {
			leaf = field_leaf(v, tables, f);
		} else {
			if (f->word >= WFP_WORDS - 1)
				return 0;
			leaf = wfp_walk(tables, v->word[f->word] << (f->shift & 63),
					v->word[f->word + 1], f->root);
		}
		if (leaf == ~0ULL)
			return 0;
		mask = find_line(tables, f->classes / 2 + (__u32)leaf, 2);
		if (!mask)
			return 0;
		v->word[WFP_MATCHED] &= pair(mask[0], mask[1]);
	}
	return 1;
}

/* Makes the first of them in each sublayer its best match so far. */
__noinline __u32 wfp_put_added(struct wfp_values *v)
{
	struct wfp_amendment *a;
	__u64 matched;

	if (!v)
		return 0;
	a = amendment_of(v);
	if (!a)
		return 0;
	matched = v->word[WFP_MATCHED];
	for (__u32 i = 0; i < WFP_ADDED && matched; i++, matched >>= 1) {
		__u32 key = a->key[i], sublayer = (key >> WFP_KEY_SUBLAYER) - v->base;

		if (!(matched & 1) || sublayer >= WFP_SPAN)
			continue;
		if (key < best(v)[sublayer])
			best(v)[sublayer] = key;
	}
	return 1;
}

/* All ones where the edition removed the filter of a key, else 0. Where the tables
 * are inconsistent, 1. */
static __always_inline __u64 was_removed(const struct wfp_values *v, __u32 key)
{
	struct wfp_amendment *a = amendment_of(v);
	__u32 place = (key & ((1U << WFP_KEY_SUBLAYER) - 1)) >> WFP_KEY_PLACE, *cell;

	cell = a ? find_cells(amended_tables(v->layer), a->removed + place / 32) : NULL;
	return cell ? -(__u64)(*cell >> (place & 31) & 1) : 1;
}

struct wfp_search {
	struct wfp_values *v;
};

/*
 * Looks at a candidate, without a branch on whether it matches: that depends on
 * the traffic, and each wrong guess of the processor costs more than all tests.
 * Returns 0 where the tables are inconsistent.
 */
static __always_inline int consider(struct wfp_values *v, const struct wfp_candidate *c)
{
	__u32 a = leaves(v)[c->field[0] & 31], b = leaves(v)[c->field[1] & 31];
	__u64 failed = c->deny & v->is[c->word & (WFP_CLASS_WORDS - 1)];
	__u32 sublayer = (c->key >> WFP_KEY_SUBLAYER) - v->base;
	__u64 key = c->key, was, sooner;

	failed |= -failed;
	failed |= (__u64)c->span[0] - (__u32)(a - c->low[0]);
	failed |= (__u64)c->span[1] - (__u32)(b - c->low[1]);
	failed = (__u64)((__s64)failed >> 63) | v->failed;
	if (v->amended & WFP_LAYER_REMOVED) {
		__u64 removed = was_removed(v, c->key);

		if (removed == 1)
			return 0;
		failed |= removed;
	}
	if (c->flags & WFP_CANDIDATE_TABLE) {
		__u32 *cell = find_cells(v->generation, c->low[0] + a / 32);

		if (!cell)
			return 0;
		failed |= (__u64)(*cell >> (a & 31) & 1) - 1;
	}
	if (c->flags & WFP_CANDIDATE_MORE) {
		v->failed = failed;
		return 1;
	}
	v->failed = 0;
	if (sublayer >= WFP_SPAN)
		return 1;
	asm volatile("" : "+r"(failed));
	key |= failed & WFP_KEY_NONE;
	was = best(v)[sublayer];
	sooner = below(key, was);
	best(v)[sublayer] = (key & sooner) | (was & ~sooner);
	return 1;
}

/* The branch that a leaf leads to among a branch's cuts. */
static __always_inline __u32 cut_branch(__u32 generation, const struct wfp_branch *br, __u32 leaf)
{
	__u32 at = br->cuts, left = br->count;
	struct wfp_cut *c;

	for (int i = 0; i < WFP_MAX_CUTS_LOG; i++) {
		__u32 half = left / 2;

		if (!half)
			break;
		c = find_cuts(generation, at + half);
		if (!c)
			return WFP_INCONSISTENT;
		at += half & ~below(leaf, c->from);
		left -= half;
	}
	c = find_cuts(generation, at);
	return c ? c->branch : WFP_INCONSISTENT;
}

/* Visits one branch. */
static long visit(__u32 i, struct wfp_search *s)
{
	struct wfp_values *v = s->v;
	__u32 generation = v->generation, at;
	struct wfp_branch *br;

	if (!v->waiting) {
		v->found = 1;
		return 1;
	}
	v->waiting--;
	at = v->pending[v->waiting & (WFP_PENDING - 1)];
	br = find_branches(generation, at);
	if (!br)
		return 1;
	for (int n = 0; n < WFP_CANDIDATES; n++) {
		if (br->candidate[n].key == WFP_KEY_NONE)
			break;
		if (!consider(v, &br->candidate[n]))
			return 1;
	}
	wait_for(v, br->next);
	if (br->count) {
		__u32 to = cut_branch(generation, br, leaves(v)[br->field & 31]);

		if (to == WFP_INCONSISTENT)
			return 1;
		wait_for(v, to);
	}
	return 0;
}

/*
 * Searches for the first match of each sublayer from base on, as many as one
 * search judges, and arbitrates between those. Returns a verdict.
 */
__noinline __u64 wfp_search(struct wfp_values *v)
{
	struct wfp_search s = { .v = v };
	__u64 verdict = 0;

	if (!v)
		return 0;
	v->found = 0;
	v->failed = 0;
	for (int i = 0; i < WFP_SPAN / 2; i++)
		v->word[WFP_MAX_FIELDS / 2 + i] = ~0ULL; /* two times WFP_KEY_NONE */
	if (v->amended & WFP_LAYER_ADDED && !wfp_put_added(v))
		return WFP_VERDICT_ERROR;
	bpf_loop(WFP_MAX_BRANCHES, visit, &s, 0);
	if (!v->found)
		return WFP_VERDICT_ERROR;
	for (__u32 i = 0; i < WFP_SPAN; i++) {
		__u32 key = best(v)[i];

		if (v->base + i >= v->sublayers)
			break;
		if (key == WFP_KEY_NONE)
			continue;
		verdict = (key & ((1U << WFP_KEY_SUBLAYER) - 1)) >> WFP_KEY_ADDED;
		verdict |= key & WFP_KEY_BLOCK ? WFP_VERDICT_BLOCK : WFP_VERDICT_PERMIT;
		if (key & WFP_KEY_HARD)
			break;
		verdict |= WFP_VERDICT_SOFT;
	}
	return verdict;
}

/* Makes the branches to search wait again, for another search. Returns 0 where
 * the tables are inconsistent. */
__noinline __u32 wfp_seed(struct wfp_values *v)
{
	struct wfp_layer *l;

	if (!v)
		return 0;
	l = layer_of(v);
	if (!l)
		return 0;
	wait_for(v, l->root);
	for (__u32 i = 0; i < WFP_MAX_FIELDS; i++) {
		__u32 *cell;

		if (i >= l->fields)
			break;
		if (!(l->field[i].flags & WFP_FIELD_HEADS))
			continue;
		cell = find_cells(v->generation, l->field[i].heads + leaves(v)[i]);
		if (!cell)
			return 0;
		wait_for(v, *cell);
	}
	return 1;
}

/* The record of a filter that the edition adds. */
__noinline __u32 wfp_added_record(struct wfp_values *v, __u32 nth)
{
	struct wfp_amendment *a = v ? amendment_of(v) : NULL;

	return a ? a->record + nth : 0;
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
	struct wfp_layer *l;
	__u64 verdict = 0;
	__u32 low;

	/* free by now; a key of its own would make the callers' stack too large */
	v->pending[0] = layer_key(v->generation, v->layer);
	l = bpf_map_lookup_elem(&layers, &v->pending[0]);
	if (!l || !l->sublayers)
		return 0;
	v->layer = v->pending[0];
	v->generation = tables_of(v->generation);
	for (int w = 0; w < WFP_CLASS_WORDS; w++)
		v->is[w] = 0;
	if ((l->flags & WFP_LAYER_ADDED && !wfp_match_added(v)) ||
	    (l->wides && !wfp_wide(v)) || !wfp_enter(v))
		return WFP_VERDICT_BLOCK | WFP_VERDICT_ERROR;
	/* one search, but for a layer with more sublayers than it can judge */
	for (int i = 0; i < WFP_MAX_SUBLAYERS / WFP_SPAN + 1; i++) {
		__u64 found = wfp_search(v);

		if (found)
			verdict = found;
		if (!(found & WFP_VERDICT_SOFT) && found)
			break;
		v->base += WFP_SPAN;
		if (v->base >= v->sublayers)
			break;
		if (!wfp_seed(v)) {
			verdict = WFP_VERDICT_ERROR;
			break;
		}
	}
	/* never guessed: what cannot be judged is blocked, counted and shown */
	if (verdict & WFP_VERDICT_ERROR)
		return WFP_VERDICT_BLOCK | WFP_VERDICT_ERROR;
	if (!verdict)
		return 0;
	/* until here its low bits are the place and which filter there */
	low = verdict & (WFP_KEY_PLACES - 1);
	verdict &= ~(WFP_KEY_PLACES - 1);
	if (low % WFP_KEY_AT_PLACE == WFP_KEY_LAID)
		return verdict + v->present + low / WFP_KEY_AT_PLACE;
	return verdict + wfp_added_record(v, low % WFP_KEY_AT_PLACE);
}

/* Whether a filter decided. The verdict's low bits are its record. */
static __always_inline int filter_decided(__u64 verdict)
{
	return verdict & (WFP_VERDICT_BLOCK | WFP_VERDICT_PERMIT) && !(verdict & WFP_VERDICT_ERROR);
}

static __always_inline __u64 deciding_filter(__u32 generation, __u64 verdict)
{
	struct wfp_filter *f = filter_decided(verdict) ? find_filters(tables_of(generation), verdict) : NULL;

	return f ? f->id : 0;
}
