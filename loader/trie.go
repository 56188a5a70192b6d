// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"bytes"
	"encoding/binary"
	"slices"
	"sort"

	"github.com/wfpebpf/wfpebpf/bpf"
)

// group is what one or more filters ask of one field: its conditions, OR'ed.
type group struct {
	members []member
}

// classes is one field's values, cut into classes that no filter tells apart.
// holds lists for each class the groups that hold in it, ascending.
type classes struct {
	holds [][]int32
	known map[string]uint32
	id    []byte
}

// class returns the number of the class in which just these groups hold.
func (c *classes) class(holds []int32) uint32 {
	c.id = c.id[:0]
	for _, g := range holds {
		c.id = binary.LittleEndian.AppendUint32(c.id, uint32(g))
	}
	if n, ok := c.known[string(c.id)]; ok {
		return n
	}
	if c.known == nil {
		c.known = map[string]uint32{}
	}
	n := uint32(len(c.holds))
	c.known[string(c.id)] = n
	c.holds = append(c.holds, slices.Clone(holds))
	return n
}

// trie builds what leads from a value's bytes to its class: nodes, each for one
// byte, and buckets, each for a few ranges of the rest of a word. Leaves hold
// classes.
type trie struct {
	width   int
	groups  []group
	nodes   *[]bpf.Node
	buckets *[]bpf.Bucket
	classes *classes
	list    []stretch         // of buildRanges
	memo    map[string]uint32 // of descend
	full    bool              // the budget of nodes is used up: the result is void
}

// build returns the root, and how many leading bytes matter to nobody and are
// skipped before it.
func (t *trie) build() (root uint32, skip int) {
	ranges := false
	skip = t.width - 1
	for _, g := range t.groups {
		for _, m := range g.members {
			ranges = ranges || !m.bits
			if i := slices.IndexFunc(m.mask[:t.width], func(b byte) bool { return b != 0 }); i >= 0 {
				skip = min(skip, i)
			}
		}
	}
	bits := slices.ContainsFunc(t.groups, func(g group) bool {
		return slices.ContainsFunc(g.members, func(m member) bool { return m.bits })
	})
	if !bits {
		return t.buildRanges(), 0
	}
	if ranges || t.width > 8 {
		skip = 0
	}
	return t.buildBits(skip), skip
}

// stretch is a range of values of one class; it ends where the next begins.
type stretch struct {
	from  key
	class uint32
}

// buildRanges sweeps over the bounds of all ranges, which yields the stretches
// of equal class in order, and lays nodes and buckets over them.
func (t *trie) buildRanges() uint32 {
	type bound struct {
		at    key
		group int32
		delta int32
	}
	bounds := make([]bound, 0, 2*len(t.groups))
	for g := range t.groups {
		for _, m := range t.groups[g].members {
			bounds = append(bounds, bound{m.low, int32(g), 1})
			if after, ok := m.high.next(t.width); ok {
				bounds = append(bounds, bound{after, int32(g), -1})
			}
		}
	}
	slices.SortFunc(bounds, func(a, b bound) int { return bytes.Compare(a.at[:], b.at[:]) })
	covers := make([]int32, len(t.groups)) // ranges of a group over the sweep's place
	var holds []int32
	t.list = t.list[:0]
	var at key
	for i := 0; ; {
		for ; i < len(bounds) && bounds[i].at == at; i++ {
			g := bounds[i].group
			covers[g] += bounds[i].delta
			n, present := slices.BinarySearch(holds, g)
			switch {
			case covers[g] > 0 && !present:
				holds = slices.Insert(holds, n, g)
			case covers[g] == 0 && present:
				holds = slices.Delete(holds, n, n+1)
			}
		}
		class := t.classes.class(holds)
		if n := len(t.list); n == 0 || t.list[n-1].class != class {
			t.list = append(t.list, stretch{at, class})
		}
		if i == len(bounds) {
			break
		}
		at = bounds[i].at
	}
	return t.lay(key{}, maxKey(t.width), 0, 0, len(t.list))
}

// at is the last stretch that begins at or before a value, searched for among
// list[low:high].
func (t *trie) at(k *key, low, high int) int {
	return low + sort.Search(high-low, func(i int) bool { return bytes.Compare(t.list[low+i].from[:], k[:]) > 0 }) - 1
}

// lay makes the structure for the values from first to last, which agree in the
// bytes before depth. Their stretches are among list[low:high].
func (t *trie) lay(first, last key, depth, low, high int) uint32 {
	low = t.at(&first, low, high)
	high = t.at(&last, low, high) + 1
	if high-low == 1 {
		return t.list[low].class | bpf.Leaf
	}
	// a node is read faster than a bucket is searched, but takes ten times the
	// room and leads one byte on
	at, ok := uint32(0), false
	if t.width-depth > 2 {
		at, ok = t.bucket(first, depth, low, high)
	}
	if !ok {
		at, ok = t.skip(first, depth, low, high)
	}
	if !ok {
		at = t.node(first, depth, low, high)
	}
	if depth == 8 {
		at |= bpf.SecondFlag
	}
	return at
}

// skip makes a bucket that jumps over the bytes in which all stretches of the
// scope but the first begin alike, where that saves nodes.
func (t *trie) skip(first key, depth, low, high int) (uint32, bool) {
	end := min(t.width, 8)
	if depth >= 8 {
		end = t.width
	}
	a, z := t.list[low+1].from, t.list[high-1].from
	to := depth
	for to < end-1 && a[to] == z[to] {
		to++
	}
	if to-depth < 3 {
		return 0, false
	}
	from, last := a, a
	for i := to; i < t.width; i++ {
		from[i], last[i] = 0, 0xff
	}
	at := len(*t.buckets)
	*t.buckets = append(*t.buckets, bpf.Bucket{})
	b := bpf.Bucket{Shift: uint32(8 * (to - depth))}
	for i := range b.Bound {
		b.Bound[i] = ^uint64(0)
	}
	ways := []uint32{}
	bound := func(k key) uint64 {
		var v [8]byte
		copy(v[:], k[depth:end])
		return binary.BigEndian.Uint64(v[:])
	}
	if bound(from) > 0 || !bytes.Equal(from[:depth], first[:depth]) {
		ways = append(ways, t.list[low].class|bpf.Leaf)
		b.Bound[0] = bound(from)
	}
	ways = append(ways, t.node(from, to, low, high))
	if after, ok := last.next(t.width); ok && bytes.Equal(after[:depth], first[:depth]) {
		b.Bound[len(ways)-1] = bound(after)
		ways = append(ways, t.list[high-1].class|bpf.Leaf)
	}
	for i := range b.Next {
		b.Next[i] = ways[min(i, len(ways)-1)]
	}
	(*t.buckets)[at] = b
	return uint32(at) | bpf.BucketFlag, true
}

func (t *trie) node(first key, depth, low, high int) uint32 {
	at := len(*t.nodes)
	if t.full = t.full || at >= MaxNodes; t.full {
		return bpf.Leaf
	}
	*t.nodes = append(*t.nodes, bpf.Node{})
	var node bpf.Node
	for b := range 256 {
		from, to := first, first
		from[depth], to[depth] = byte(b), byte(b)
		for i := depth + 1; i < t.width; i++ {
			to[i] = 0xff
		}
		node.Next[b] = t.lay(from, to, depth+1, low, high)
	}
	(*t.nodes)[at] = node
	return uint32(at)
}

// bucket makes one where there are few enough ranges in terms of the rest of
// the word at hand. One value of it within which stretches begin, told apart by
// the second word, is a range of its own, whose way goes on there.
func (t *trie) bucket(first key, depth, low, high int) (uint32, bool) {
	end := min(t.width, 8)
	if depth >= 8 {
		end = t.width
	}
	rest := func(k *key) uint64 {
		var b [8]byte
		copy(b[:], k[depth:end])
		return binary.BigEndian.Uint64(b[:])
	}
	whole := func(k *key) bool { return end == t.width || *(*[8]byte)(k[8:]) == [8]byte{} }
	type point struct {
		from  uint64
		mixed bool
	}
	points := []point{{from: rest(&first)}}
	step := uint64(1) << (64 - 8*(end-depth)) // between neighbouring values
	for i := low + 1; i < high; i++ {
		k := &t.list[i].from
		v, mixed := rest(k), !whole(k)
		if p := &points[len(points)-1]; p.from != v {
			points = append(points, point{v, mixed})
		} else if mixed && !p.mixed {
			p.mixed = true
		} else {
			continue
		}
		if mixed && v+step > v {
			// the value after the mixed one, up to the next that begins
			points = append(points, point{from: v + step})
		}
		if len(points) > bpf.BucketBounds+1 {
			return 0, false
		}
	}
	at := len(*t.buckets)
	*t.buckets = append(*t.buckets, bpf.Bucket{})
	b := bpf.Bucket{}
	for i := range b.Bound {
		b.Bound[i] = ^uint64(0)
	}
	for i, p := range points {
		from := first
		var bytes [8]byte
		binary.BigEndian.PutUint64(bytes[:], p.from)
		copy(from[depth:end], bytes[:])
		if i > 0 {
			b.Bound[i-1] = p.from
		}
		if p.mixed {
			to := from
			for j := end; j < t.width; j++ {
				to[j] = 0xff
			}
			b.Next[i] = t.lay(from, to, end, low, high)
		} else {
			b.Next[i] = t.list[t.at(&from, low, high)].class | bpf.Leaf
		}
	}
	for i := len(points); i < len(b.Next); i++ {
		b.Next[i] = b.Next[len(points)-1]
	}
	(*t.buckets)[at] = b
	return uint32(at) | bpf.BucketFlag, true
}

// residual is a member that the bytes so far neither met nor failed.
type residual struct {
	group, member int32
	low, high     bool // range: the bytes so far equal the bound's
}

// buildBits makes nodes byte by byte: conditions on bits cut the values into no
// ranges.
func (t *trie) buildBits(skip int) uint32 {
	t.memo = map[string]uint32{}
	var holds []int32
	var open []residual
	for g := range t.groups {
		for m := range t.groups[g].members {
			mem := &t.groups[g].members[m]
			switch {
			case mem.bits && mem.maskEnd == 0:
				if !mem.negated {
					holds = append(holds, int32(g))
				}
			case !mem.bits && mem.lowEnd == 0 && mem.highEnd == 0:
				holds = append(holds, int32(g))
			default:
				open = append(open, residual{int32(g), int32(m), true, true})
			}
		}
	}
	return t.descend(skip, holds, open)
}

// step says what a byte does to a residual: it holds now, it stays open, or
// neither: it has failed.
func (t *trie) step(r residual, depth int, b byte) (holds, open bool, next residual) {
	m := &t.groups[r.group].members[r.member]
	if m.bits {
		if b&m.mask[depth] != m.want[depth] {
			return m.negated, false, r
		}
		if depth+1 >= m.maskEnd {
			return !m.negated, false, r
		}
		return false, true, r
	}
	if r.low && b < m.low[depth] || r.high && b > m.high[depth] {
		return false, false, r
	}
	r.low = r.low && b == m.low[depth] && depth+1 < m.lowEnd
	r.high = r.high && b == m.high[depth] && depth+1 < m.highEnd
	if !r.low && !r.high {
		return true, false, r
	}
	return false, true, r
}

func (t *trie) descend(depth int, holds []int32, open []residual) uint32 {
	slices.Sort(holds)
	holds = slices.Compact(holds)
	open = slices.DeleteFunc(open, func(r residual) bool {
		_, met := slices.BinarySearch(holds, r.group)
		return met
	})
	if len(open) == 0 || depth == t.width {
		return t.classes.class(holds) | bpf.Leaf
	}
	id := stateKey(depth, holds, open)
	if at, ok := t.memo[id]; ok {
		return at
	}
	at := len(*t.nodes)
	if t.full = t.full || at >= MaxNodes || len(t.memo) >= MaxNodesPerField; t.full {
		return bpf.Leaf
	}
	*t.nodes = append(*t.nodes, bpf.Node{})
	entry := uint32(at)
	if depth == 8 {
		entry |= bpf.SecondFlag
	}
	t.memo[id] = entry
	var node bpf.Node
	var met, metBefore []int32
	var left, leftBefore []residual
	for b := range 256 {
		met, left = nil, nil
		for _, r := range open {
			holdsNow, stays, next := t.step(r, depth, byte(b))
			if holdsNow {
				met = append(met, r.group)
			} else if stays {
				left = append(left, next)
			}
		}
		// neighbours mostly lead to the same place
		if b > 0 && slices.Equal(met, metBefore) && slices.Equal(left, leftBefore) {
			node.Next[b] = node.Next[b-1]
			continue
		}
		metBefore, leftBefore = met, slices.Clone(left)
		node.Next[b] = t.descend(depth+1, append(slices.Clone(holds), met...), left)
	}
	(*t.nodes)[at] = node
	return entry
}

func stateKey(depth int, holds []int32, open []residual) string {
	b := make([]byte, 0, 8+4*len(holds)+10*len(open))
	b = append(b, byte(depth))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(holds)))
	for _, g := range holds {
		b = binary.LittleEndian.AppendUint32(b, uint32(g))
	}
	for _, r := range open {
		b = binary.LittleEndian.AppendUint32(b, uint32(r.group))
		b = binary.LittleEndian.AppendUint32(b, uint32(r.member))
		tight := byte(0)
		if r.low {
			tight |= 1
		}
		if r.high {
			tight |= 2
		}
		b = append(b, tight)
	}
	return string(b)
}
