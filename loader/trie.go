// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"bytes"
	"encoding/binary"
	"sort"

	"github.com/wfpebpf/wfpebpf/bpf"
)

// rangeTrie lays what leads from the bytes of a wide value to its leaf: nodes,
// each for one byte, and buckets, each for a few ranges of the rest of a word.
type rangeTrie struct {
	t      *tables
	width  int
	starts []key // of leaf 1, 2, ...
	label  func(leaf uint32) uint32
}

func (r *rangeTrie) leaf(i int) uint32 { return r.label(uint32(i)+1) | bpf.Leaf }

// at is the last stretch that begins at or before a value, searched for among
// starts[low:high].
func (r *rangeTrie) at(k *key, low, high int) int {
	return low + sort.Search(high-low, func(i int) bool { return bytes.Compare(r.starts[low+i][:], k[:]) > 0 }) - 1
}

// lay makes the structure for the values from first to last, which agree in the
// bytes before depth. Their stretches are among starts[low:high].
func (r *rangeTrie) lay(first, last key, depth, low, high int) uint32 {
	low = r.at(&first, low, high)
	high = r.at(&last, low, high) + 1
	if high-low == 1 {
		return r.leaf(low)
	}
	// a node is read faster than a bucket is searched, but takes ten times the
	// room and leads one byte on
	at, ok := uint32(0), false
	if r.width-depth > 2 {
		at, ok = r.bucket(first, depth, low, high)
	}
	if !ok {
		at, ok = r.skip(first, depth, low, high)
	}
	if !ok {
		at = r.node(first, depth, low, high)
	}
	if depth == 8 {
		at |= bpf.SecondFlag
	}
	return at
}

// skip makes a bucket that jumps over the bytes in which all stretches of the
// scope but the first begin alike, where that saves nodes.
func (r *rangeTrie) skip(first key, depth, low, high int) (uint32, bool) {
	end := min(r.width, 8)
	if depth >= 8 {
		end = r.width
	}
	a, z := r.starts[low+1], r.starts[high-1]
	to := depth
	for to < end-1 && a[to] == z[to] {
		to++
	}
	if to-depth < 3 {
		return 0, false
	}
	from, last := a, a
	for i := to; i < r.width; i++ {
		from[i], last[i] = 0, 0xff
	}
	at := len(r.t.buckets)
	r.t.buckets = append(r.t.buckets, bpf.Bucket{})
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
		ways = append(ways, r.leaf(low))
		b.Bound[0] = bound(from)
	}
	ways = append(ways, r.node(from, to, low, high))
	if after, ok := last.next(r.width); ok && bytes.Equal(after[:depth], first[:depth]) {
		b.Bound[len(ways)-1] = bound(after)
		ways = append(ways, r.leaf(high-1))
	}
	for i := range b.Next {
		b.Next[i] = ways[min(i, len(ways)-1)]
	}
	r.t.buckets[at] = b
	return uint32(at) | bpf.BucketFlag, true
}

func (r *rangeTrie) node(first key, depth, low, high int) uint32 {
	at := len(r.t.cells)
	r.t.cells = append(r.t.cells, make([]uint32, bpf.NodeCells)...)
	for b := range bpf.NodeCells {
		from, to := first, first
		from[depth], to[depth] = byte(b), byte(b)
		for i := depth + 1; i < r.width; i++ {
			to[i] = 0xff
		}
		next := r.lay(from, to, depth+1, low, high)
		r.t.cells[at+b] = next
	}
	return uint32(at)
}

// fewPoints is up to how many ranges are told apart by buckets of buckets: that takes
// less room than a node, and as little time.
const fewPoints = 32

// point is where a range of the rest of the word at hand begins. Within the value of
// a mixed one, stretches begin that the second word tells apart.
type point struct {
	from  uint64
	mixed bool
}

// bucket makes one where there are few enough ranges in terms of the rest of
// the word at hand. One value of it within which stretches begin, told apart by
// the second word, is a range of its own, whose way goes on there.
func (r *rangeTrie) bucket(first key, depth, low, high int) (uint32, bool) {
	end := min(r.width, 8)
	if depth >= 8 {
		end = r.width
	}
	rest := func(k *key) uint64 {
		var b [8]byte
		copy(b[:], k[depth:end])
		return binary.BigEndian.Uint64(b[:])
	}
	whole := func(k *key) bool { return end == r.width || *(*[8]byte)(k[8:]) == [8]byte{} }
	points := []point{{from: rest(&first)}}
	step := uint64(1) << (64 - 8*(end-depth)) // between neighbouring values
	for i := low + 1; i < high; i++ {
		k := &r.starts[i]
		v, mixed := rest(k), !whole(k)
		if n := len(points); n > 1 && points[n-2].from == v {
			continue // within the mixed one
		}
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
		if len(points) > fewPoints {
			return 0, false
		}
	}
	return r.tell(points, first, depth, end, low, high), true
}

// tell makes a bucket that tells points apart, or several at once, which others tell
// apart.
func (r *rangeTrie) tell(points []point, first key, depth, end, low, high int) uint32 {
	const ways = bpf.BucketBounds + 1
	at := len(r.t.buckets)
	r.t.buckets = append(r.t.buckets, bpf.Bucket{})
	b := bpf.Bucket{}
	for i := range b.Bound {
		b.Bound[i] = ^uint64(0)
	}
	each := 1
	for each*ways < len(points) {
		each *= ways // full buckets, or there would be many
	}
	n := 0
	for i := 0; i < len(points); i += each {
		if i > 0 {
			b.Bound[n-1] = points[i].from
		}
		if some := points[i:min(i+each, len(points))]; len(some) > 1 {
			b.Next[n] = r.tell(some, first, depth, end, low, high)
		} else {
			b.Next[n] = r.way(some[0], first, depth, end, low, high)
		}
		n++
	}
	for i := n; i < len(b.Next); i++ {
		b.Next[i] = b.Next[n-1]
	}
	r.t.buckets[at] = b
	return uint32(at) | bpf.BucketFlag
}

// way is what a point leads to.
func (r *rangeTrie) way(p point, first key, depth, end, low, high int) uint32 {
	from := first
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], p.from)
	copy(from[depth:end], b[:])
	if !p.mixed {
		return r.leaf(r.at(&from, low, high))
	}
	to := from
	for j := end; j < r.width; j++ {
		to[j] = 0xff
	}
	return r.lay(from, to, end, low, high)
}
