// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"cmp"
	"container/heap"
	"encoding/binary"
	"math/bits"
	"slices"

	"github.com/wfpebpf/wfpebpf/bpf"
)

const (
	// fewFilters is up to how many filters are looked at one by one: as fast as to
	// find out which of them to look at.
	fewFilters = 8
	// maxDepth is how many fields choose one after the other. With the fields that
	// lead in, and the root, no more branches wait than the programs have room for.
	maxDepth = 4
	maxHeads = bpf.Pending - maxDepth
	// mostShare is of how many of a field's leaves a filter may be looked at and the
	// field still leads to it; where manyFilters are left, any less than all will do.
	mostShare   = 0.5
	manyFilters = 32
	// manyPieces is how many places a filter may take where it can be tested by a
	// class or a table as well.
	manyPieces = 64
	// maxPieces is how many places all filters together may take of a field before
	// those that take many are tested by a table: 10,000 filters may name a set of
	// 100,000 addresses each.
	maxPieces = 1 << 21
	// tableRoom is how many cells the tables of a layer take that are laid although
	// some more candidates would do.
	tableRoom = 1 << 20
)

// search builds the branches of a layer: what of its filters is looked at for
// which values. Each filter stands where the field leads that tells most values
// apart for it, and is tested for its other conditions there.
type search struct {
	t      *tables
	fields []*tested
	list   []compiled
	heads  [][]uint32  // by field, by leaf: branch; nil: the field does not lead in
	shares [][]float64 // by field and group: how much of the leaves it holds in

	tableCells int // of tables laid by groups that some candidates could have replaced

	tests map[string]int32 // of rest
	id    []byte

	idle idleFilters
}

// idleFilters is, by filter, those that some place of the tables leaves out because
// of it: without it they would matter there.
type idleFilters struct {
	first []int32 // by filter: the last of its list, 1 the first entry; 0: none
	list  []idleFilter
}

type idleFilter struct {
	filter int32
	next   int32
}

func (l *idleFilters) add(because, idle int32) {
	at := l.first[because]
	if at > 0 && l.list[at-1].filter == idle {
		return // as at the place before
	}
	l.list = append(l.list, idleFilter{idle, at})
	l.first[because] = int32(len(l.list))
}

// all calls fn with each filter that is idle because of one, some more than once,
// until it returns false.
func (l *idleFilters) all(because int32, fn func(idle int32) bool) bool {
	for at := l.first[because]; at > 0; at = l.list[at-1].next {
		if !fn(l.list[at-1].filter) {
			return false
		}
	}
	return true
}

// item is a filter at some place of the tree.
type item struct {
	filter int32
	done   uint32 // bit f: what it wants of field f was tested on the way
}

func newSearch(t *tables, fields []*tested, list []compiled) *search {
	s := &search{t: t, fields: fields, list: list, heads: make([][]uint32, len(fields)), tests: map[string]int32{}}
	s.idle.first = make([]int32, len(list))
	s.shares = make([][]float64, len(fields))
	places := make([]int, len(fields))
	for i := range list {
		for _, w := range list[i].wants {
			places[w.field] += len(fields[w.field].spans[w.group])
		}
	}
	for i, f := range fields {
		s.shares[i] = make([]float64, len(f.groups))
		for g, spans := range f.spans {
			covered := uint32(0)
			for _, sp := range spans {
				covered += sp.high - sp.low + 1
			}
			s.shares[i][g] = float64(covered) / float64(f.leaves)
			if f.sets || len(spans) > manyPieces && (f.starts == nil || f.denied[int32(g)] != nil || places[i] > maxPieces) {
				s.shares[i][g] = 1
			}
		}
	}
	return s
}

// build returns the branch that every search visits, and sets heads.
func (s *search) build() uint32 {
	items := make([]item, len(s.list))
	for i := range items {
		items[i].filter = int32(i)
	}
	leads := s.leads(items, maxHeads, mostShare)
	rest := leads[len(s.fields)]
	for f, list := range leads[:len(s.fields)] {
		if list == nil {
			continue
		}
		heads := make([]uint32, s.fields[f].leaves)
		cuts, left := s.choose(list, f, 1, exact)
		for i, c := range cuts {
			end := uint32(len(heads))
			if i+1 < len(cuts) {
				end = cuts[i+1].From
			}
			for leaf := c.From; leaf < end; leaf++ {
				heads[leaf] = c.Branch
			}
		}
		s.heads[f] = heads
		rest = append(rest, left...)
	}
	sortItems(rest)
	return s.tree(rest, 0, 1)
}

func sortItems(items []item) {
	slices.SortFunc(items, func(a, b item) int { return cmp.Compare(a.filter, b.filter) })
}

// leads shares filters out to the fields that tell most values apart for each,
// and those that each is looked at for too large a share of, or too few, to the last
// list.
func (s *search) leads(items []item, most int, share float64) [][]item {
	leads := make([][]item, len(s.fields)+1)
	last := len(s.fields)
	if len(items) <= fewFilters {
		leads[last] = items
		return leads
	}
	allowed := ^uint32(0)
	for {
		for f := range leads {
			leads[f] = nil
		}
		for _, it := range items {
			f := s.lead(it, allowed, share)
			leads[f] = append(leads[f], it)
		}
		// drop the weakest field, if it is too weak or one too many
		weakest, leading := -1, 0
		for f, list := range leads[:last] {
			if list == nil {
				continue
			}
			leading++
			if weakest < 0 || len(list) < len(leads[weakest]) {
				weakest = f
			}
		}
		if leading == 0 || leading <= most && len(leads[weakest]) >= fewFilters/2 {
			return leads
		}
		allowed &^= 1 << weakest
	}
}

// lead is the field for whose values a filter is looked at least often, or the
// number of fields.
func (s *search) lead(it item, allowed uint32, share float64) int {
	best := len(s.fields)
	for _, w := range s.list[it.filter].wants {
		if (allowed&^it.done)>>w.field&1 != 0 && s.shares[w.field][w.group] < share {
			best, share = int(w.field), s.shares[w.field][w.group]
		}
	}
	return best
}

func (s *search) spans(it item, field int) []span {
	for _, w := range s.list[it.filter].wants {
		if int(w.field) == field {
			return s.fields[field].spans[w.group]
		}
	}
	return nil
}

// tree lays branches for some filters, in evaluation order; after them the search
// goes on with next.
func (s *search) tree(items []item, next uint32, depth int) uint32 {
	if len(items) == 0 {
		return next
	}
	var choices []bpf.Branch
	lay := func(list []item, field int, how fit) []item {
		cuts, left := s.choose(list, field, depth+1, how)
		s.fields[field].compared = true
		choices = append(choices, bpf.Branch{
			Cuts: uint32(len(s.t.cuts)), Count: uint32(len(cuts)), Field: uint32(field),
		})
		s.t.cuts = append(s.t.cuts, cuts...)
		return left
	}
	share := mostShare
	for depth < maxDepth && len(items) > fewFilters {
		leads := s.leads(items, maxDepth, share)
		items = leads[len(s.fields)]
		for f, list := range leads[:len(s.fields)] {
			if list == nil {
				continue
			}
			left := lay(list, f, exact)
			if len(left) > fewFilters {
				left = lay(left, f, blocks)
			}
			items = append(items, left...)
		}
		if share == 1 || len(items) <= manyFilters {
			break
		}
		share = 1
	}
	sortItems(items)
	for _, b := range choices {
		b.Next = next
		for n := range b.Candidate {
			b.Candidate[n].Key = bpf.KeyNone
		}
		next = s.branch(b)
	}
	return s.look(items, next)
}

func (s *search) branch(b bpf.Branch) uint32 {
	s.t.branches = append(s.t.branches, b)
	return uint32(len(s.t.branches) - 1)
}

// look lays branches that look at filters one by one. Of several that are tested
// alike only the first of a sublayer can matter.
func (s *search) look(items []item, next uint32) uint32 {
	var cs []bpf.Candidate
	seen := map[[2]int32]int32{}
	for _, it := range items {
		if len(items) > 1 {
			id := [2]int32{int32(s.list[it.filter].subLayer), s.rest(it)}
			if because, ok := seen[id]; ok {
				s.idle.add(because, it.filter)
				continue
			}
			seen[id] = it.filter
		}
		cs = s.candidates(cs, it)
	}
	// room that is left takes what comes next, which saves a visit
	for next != 0 {
		b := &s.t.branches[next]
		free := (bpf.Candidates - len(cs)%bpf.Candidates) % bpf.Candidates
		n := 0
		for n < len(b.Candidate) && b.Candidate[n].Key != bpf.KeyNone {
			n++
		}
		if len(cs) == 0 || b.Count > 0 || n > free {
			break
		}
		cs, next = append(cs, b.Candidate[:n]...), b.Next
	}
	first := next
	for len(cs) > 0 {
		n := (len(cs) - 1) / bpf.Candidates * bpf.Candidates
		b := bpf.Branch{Next: first}
		for i := range b.Candidate {
			b.Candidate[i].Key = bpf.KeyNone
		}
		copy(b.Candidate[:], cs[n:])
		cs = cs[:n]
		first = s.branch(b)
	}
	return first
}

// rest numbers what is left to test of a filter: equal numbers, equal tests.
func (s *search) rest(it item) int32 {
	s.id = s.id[:0]
	for _, w := range s.list[it.filter].wants {
		if it.done>>w.field&1 == 0 {
			s.id = binary.LittleEndian.AppendUint32(append(s.id, byte(w.field)), uint32(w.group))
		}
	}
	n, ok := s.tests[string(s.id)]
	if !ok {
		n = int32(len(s.tests))
		s.tests[string(s.id)] = n
	}
	return n
}

// compare is a test of a leaf: it lies in a span, or a table says that it will do.
type compare struct {
	field uint8
	span
	table uint32 // its first cell; 0: none
}

// candidates appends what a filter becomes at a place: one candidate, more where
// one has no room for its tests, and each of that for every span of the groups
// that are compared with spans.
func (s *search) candidates(cs []bpf.Candidate, it item) []bpf.Candidate {
	c := &s.list[it.filter]
	key := c.key(uint32(it.filter), bpf.KeyLaid)
	var deny classMask
	var compares []compare
	var spans [][]span
	combinations := 1
	for _, w := range c.wants {
		if it.done>>w.field&1 != 0 {
			continue
		}
		f := s.fields[w.field]
		if m := f.denied[w.group]; m != nil {
			deny.or(m)
			continue
		}
		f.compared = true
		n := len(f.spans[w.group])
		if n != 1 && combinations*n > fewSpans && s.tabled(f, w.group, combinations*n) {
			table := compare{field: uint8(w.field), span: span{0, ^uint32(0)}, table: s.t.leafTable(f, w.group)}
			compares, spans = append(compares, table), append(spans, nil)
			continue
		}
		combinations *= n
		compares, spans = append(compares, compare{field: uint8(w.field)}), append(spans, f.spans[w.group])
	}
	for n := range combinations {
		for i := range compares {
			if spans[i] != nil {
				compares[i].span = spans[i][n%len(spans[i])]
				n /= len(spans[i])
			}
		}
		cs = appendTests(cs, key, &deny, compares)
	}
	return cs
}

// tabled reports whether a group is looked up in a table, rather than compared in so
// many candidates. Tables of fields with many leaves are large.
func (s *search) tabled(f *tested, group int32, candidates int) bool {
	if _, laid := f.tables[group]; laid || candidates > manyPieces {
		return true
	}
	size := int(f.leaves+31) / 32
	if s.tableCells+size > tableRoom {
		return false
	}
	s.tableCells += size
	return true
}

// leafTable is the first cell of a bit a leaf: whether a group holds.
func (t *tables) leafTable(f *tested, group int32) uint32 {
	if at, ok := f.tables[group]; ok {
		return at
	}
	at := uint32(len(t.cells))
	t.cells = append(t.cells, make([]uint32, (f.leaves+31)/32)...)
	for _, s := range f.spans[group] {
		for leaf := s.low; leaf <= s.high; leaf++ {
			t.cells[at+leaf/32] |= 1 << (leaf % 32)
		}
	}
	if f.tables == nil {
		f.tables = map[int32]uint32{}
	}
	f.tables[group] = at
	return at
}

// appendTests makes candidates of one filter's tests: each has room for a word of
// classes, one leaf to look up or to compare, and one to compare.
func appendTests(cs []bpf.Candidate, key uint32, deny *classMask, compares []compare) []bpf.Candidate {
	for w := 0; ; {
		for w < len(deny) && deny[w] == 0 {
			w++
		}
		c := bpf.Candidate{Key: key, Span: [2]uint32{^uint32(0), ^uint32(0)}}
		if w < len(deny) {
			c.Word, c.Deny = uint8(w), deny[w]
			w++
		}
		for i := 0; i < len(c.Field) && len(compares) > 0; i++ {
			p := &compares[0]
			if p.table != 0 && i > 0 {
				break
			}
			c.Field[i], c.Low[i], c.Span[i] = p.field, p.low, p.high-p.low
			if p.table != 0 {
				c.Low[i] = p.table
				c.Flags |= bpf.CandidateTable
			}
			compares = compares[1:]
		}
		for w < len(deny) && deny[w] == 0 {
			w++
		}
		if w == len(deny) && len(compares) == 0 {
			return append(cs, c)
		}
		c.Flags |= bpf.CandidateMore
		cs = append(cs, c)
	}
}

// piece is leaves for which a filter is looked at.
type piece struct {
	span
	item item
}

// pieces are ordered by where they begin, the widest first.
type pieces []piece

func (p pieces) Len() int           { return len(p) }
func (p pieces) Less(i, j int) bool { return before(p[i], p[j]) < 0 }
func (p pieces) Swap(i, j int)      { p[i], p[j] = p[j], p[i] }
func (p *pieces) Push(x any)        { *p = append(*p, x.(piece)) }
func (p *pieces) Pop() any {
	x := (*p)[len(*p)-1]
	*p = (*p)[:len(*p)-1]
	return x
}

func before(a, b piece) int {
	return cmp.Or(cmp.Compare(a.low, b.low), cmp.Compare(b.high, a.high), cmp.Compare(a.item.filter, b.item.filter))
}

// nest is leaves that the same filters are looked at for, within those of the
// nest around it.
type nest struct {
	span
	items  []item
	around int32 // -1: none
	branch uint32
}

// fit is how closely the leaves for which a filter is looked at fit those it wants.
type fit int

const (
	exact  fit = iota // it is not compared any more
	blocks            // two blocks around each span, which always nest: it is compared
)

// choose lays what a field leads to: for each leaf the filters that want it, the
// wider spans around narrower ones once. left is filters whose spans overlap the
// others' too much for that.
func (s *search) choose(items []item, field, depth int, how fit) (cuts []bpf.Cut, left []item) {
	var all pieces
	for _, it := range items {
		if how == exact {
			it.done |= 1 << field
		}
		for _, sp := range s.spans(it, field) {
			if how == exact {
				all = append(all, piece{sp, it})
				continue
			}
			for _, b := range blocksAround(sp) {
				b.high = min(b.high, s.fields[field].leaves-1)
				all = append(all, piece{b, it})
			}
		}
	}
	slices.SortFunc(all, before)
	var (
		nests []nest
		open  []int32 // nests around the place of the sweep, the innermost last
		rest  pieces  // of pieces that were cut off
		// where nests begin and end
		ways   = []bpf.Cut{{}}
		budget = min(8*len(all)+1024, max(0, MaxBranches-len(s.t.branches))/8)
	)
	lead := func(from uint32, to int32) {
		if n := len(ways) - 1; ways[n].From == from {
			ways[n].Branch = uint32(to + 1)
		} else {
			ways = append(ways, bpf.Cut{From: from, Branch: uint32(to + 1)})
		}
	}
	closeOne := func(at uint32) {
		open = open[:len(open)-1]
		top := int32(-1)
		if len(open) > 0 {
			top = open[len(open)-1]
		}
		lead(at, top)
	}
	for i := 0; i < len(all) || len(rest) > 0; {
		var p piece
		if i < len(all) && (len(rest) == 0 || before(all[i], rest[0]) <= 0) {
			p = all[i]
			i++
		} else {
			p = heap.Pop(&rest).(piece)
		}
		for len(open) > 0 && nests[open[len(open)-1]].high < p.low {
			closeOne(nests[open[len(open)-1]].high + 1)
		}
		if end, ok := s.shadowed(nests, open, p.item); ok {
			if p.high > end {
				heap.Push(&rest, piece{span{end + 1, p.high}, p.item})
			}
			continue
		}
		crowded := false
		for len(open) > 0 && p.high > nests[open[len(open)-1]].high {
			top := &nests[open[len(open)-1]]
			if len(top.items) == 1 && s.shadows(p.item, top.items[0]) {
				s.idle.add(p.item.filter, top.items[0].filter)
				closeOne(p.low) // from here on the new one matters alone
				continue
			}
			if budget == 0 {
				crowded = true
				break
			}
			budget--
			heap.Push(&rest, piece{span{top.high + 1, p.high}, p.item})
			p.high = top.high
		}
		if crowded {
			it := p.item
			it.done &^= 1 << field
			left = append(left, it)
			continue
		}
		if len(open) > 0 && nests[open[len(open)-1]].span == p.span {
			top := &nests[open[len(open)-1]]
			top.items = append(top.items, p.item)
			continue
		}
		around := int32(-1)
		if len(open) > 0 {
			around = open[len(open)-1]
		}
		nests = append(nests, nest{span: p.span, items: []item{p.item}, around: around})
		open = append(open, int32(len(nests)-1))
		lead(p.low, int32(len(nests)-1))
	}
	for len(open) > 0 {
		if end := nests[open[len(open)-1]].high + 1; end < s.fields[field].leaves {
			closeOne(end)
		} else {
			open = open[:len(open)-1]
		}
	}
	for i := range nests {
		n := &nests[i]
		next := uint32(0)
		if n.around = s.around(nests, n); n.around >= 0 {
			next = nests[n.around].branch
		}
		sortItems(n.items)
		n.branch = s.tree(n.items, next, depth)
	}
	cuts = ways[:0]
	for _, w := range ways {
		if w.Branch > 0 {
			w.Branch = nests[w.Branch-1].branch
		}
		if n := len(cuts); n == 0 || cuts[n-1].Branch != w.Branch {
			cuts = append(cuts, w)
		}
	}
	sortItems(left)
	return cuts, slices.CompactFunc(left, func(a, b item) bool { return a.filter == b.filter })
}

// blocksAround is the two halves of the least block of leaves around a span, a power
// of two of them, or what blocks within those its parts lie in.
func blocksAround(sp span) []span {
	around := func(low, high uint32) span {
		n := bits.Len32(low ^ high)
		return span{low >> n << n, low | (1<<n - 1)}
	}
	n := bits.Len32(sp.low ^ sp.high)
	if n == 0 {
		return []span{sp}
	}
	middle := sp.high >> (n - 1) << (n - 1)
	return []span{around(sp.low, middle-1), around(middle, sp.high)}
}

// shadows reports whether a filter makes another one idle wherever both are looked
// at: it comes first in their sublayer and is tested alike.
func (s *search) shadows(a, b item) bool {
	return a.filter < b.filter && s.list[a.filter].subLayer == s.list[b.filter].subLayer && s.rest(a) == s.rest(b)
}

// shadowed reports whether a filter of a nest around makes one idle, and up to
// which leaf. It looks at the innermost few, which is where such filters mostly
// are.
func (s *search) shadowed(nests []nest, open []int32, it item) (end uint32, ok bool) {
	looked := 0
	for i := len(open) - 1; i >= 0; i-- {
		for _, other := range nests[open[i]].items {
			if looked++; looked > 2*fewFilters {
				return 0, false
			}
			if s.shadows(other, it) {
				s.idle.add(other.filter, it.filter)
				return nests[open[i]].high, true
			}
		}
	}
	return 0, false
}

// around is the nest to go on with after one: what is idle beside it is left out.
// That goes for what was left out beside those as well.
func (s *search) around(nests []nest, n *nest) int32 {
	at := n.around
	for at >= 0 && len(n.items) <= fewFilters {
		because := make([]int32, 0, fewFilters)
		for _, other := range nests[at].items {
			i := slices.IndexFunc(n.items, func(it item) bool { return s.shadows(it, other) })
			if i < 0 {
				break
			}
			because = append(because, n.items[i].filter)
		}
		if len(because) < len(nests[at].items) {
			break
		}
		for i, other := range nests[at].items {
			s.idle.add(because[i], other.filter)
		}
		at = nests[at].around
	}
	return at
}
