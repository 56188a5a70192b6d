// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"slices"
	"unsafe"

	"github.com/wfpebpf/wfpebpf/bpf"
)

// Leaves up to which a field of two bytes has two tables of 256 cells and one of
// four bytes has four: a larger first table saves a look-up, but takes 256 KiB. Many
// addresses lie far apart: small tables last save room.
const (
	fewPorts      = 64
	fewAddresses  = 64
	manyAddresses = 2048
	// manyCells is from how many cells on a field of four bytes begins with a table
	// of 4 MiB, where that saves room: addresses from everywhere would take tables
	// of 256 cells for each network of 16 bits.
	manyCells = 1 << 21
)

// shape is how many bits of a value choose in each of the tables that lead to a
// field's leaves. Those of an edition have few leaves and little room.
func (f *tested) shape(width int, end ends) []uint8 {
	switch {
	case f.amends && f.bits == nil && width == 2:
		return []uint8{8, 4, 4}
	case f.amends && f.bits == nil && width == 4:
		return []uint8{11, 7, 7, 7}
	case f.bits == nil && width == 2 && f.leaves > fewPorts:
		return []uint8{16}
	case f.bits == nil && width == 4 && f.sets && f.leaves > manyAddresses:
		return []uint8{16, 6, 5, 5} // equal tables are shared: the last two are few
	case f.bits == nil && width == 4 && f.leaves > manyAddresses:
		shape := []uint8{16, 8, 4, 4}
		if scattered := []uint8{20, 4, 4, 4}; f.room(shape, end) > max(manyCells, f.room(scattered, end)) {
			return scattered
		}
		return shape
	case f.bits == nil && width == 4 && f.leaves > fewAddresses:
		return []uint8{16, 8, 8}
	}
	return []uint8{8, 8, 8, 8}[:width]
}

// room is about how many cells tables of a shape take for a field of four bytes.
func (f *tested) room(shape []uint8, end ends) int {
	cells, left := 1<<shape[0], 32
	for level, bits := range shape[:len(shape)-1] {
		left -= int(bits)
		size := 1 << shape[level+1]
		if level+2 == len(shape) && end.heads != nil {
			size *= 2
		}
		last := uint64(1) << 32 // no value
		for i := range f.starts {
			start := uint64(binary.BigEndian.Uint32(f.starts[i][:4]))
			// a table for values that a stretch begins among
			if at := start >> left; at<<left != start && at != last {
				cells, last = cells+size, at
			}
		}
	}
	return cells
}

// ends is what the last look-up of a field finds: the leaf, or what stands for it,
// and the branch that it leads to, where the field leads to some.
type ends struct {
	label func(leaf uint32) uint32
	heads []uint32 // by leaf; nil: none
}

// layEnds lays n ends in a row. It returns the first cell, or pair of cells.
func (t *tables) layEnds(end ends, n int, leaf func(i int) uint32) uint32 {
	if end.heads == nil {
		at := len(t.cells)
		for i := range n {
			t.cells = append(t.cells, end.label(leaf(i)))
		}
		return uint32(at)
	}
	t.align(2)
	at := len(t.cells) / 2
	for i := range n {
		t.cells = append(t.cells, end.label(leaf(i)), end.heads[leaf(i)])
	}
	return uint32(at)
}

// align makes the next cell's number a multiple.
func (t *tables) align(cells int) {
	for len(t.cells)%cells != 0 {
		t.cells = append(t.cells, 0)
	}
}

// levelled lays the tables of a field of up to four bytes, each chosen from by the
// next bits of the value. A cell holds twice the first cell of the next table,
// and 1 where that has more than one cell; in the last table it holds the leaf.
type levelled struct {
	t      *tables
	f      *tested
	shape  []uint8 // bits of each table
	end    ends
	starts []uint64          // of leaf 1, 2, ...
	same   [][]uint32        // by levels that are left: cell before leaf n, 0: not laid
	nodes  map[uint32]uint32 // bits: first cell of a node's table
	shared map[string]uint32 // of sets: first cell of a table by its level and content
	first  [256]uint32       // of sets: the first leaf of a class
}

// share gives the table that was laid last, from a cell on, the place of an equal
// one, if there is one: with few classes many are.
func (l *levelled) share(first uint32, level int) uint32 {
	if !l.f.sets || level == 0 {
		return first
	}
	table := l.t.cells[first:]
	id := append([]byte{byte(level)}, unsafe.Slice((*byte)(unsafe.Pointer(&table[0])), 4*len(table))...)
	if known, ok := l.shared[string(id)]; ok {
		l.t.cells = l.t.cells[:first]
		return known
	}
	l.shared[string(id)] = first
	return first
}

// layLevels returns the first cell.
func (t *tables) layLevels(f *tested, width int, shape []uint8, end ends) uint32 {
	l := &levelled{
		t: t, f: f, shape: shape, end: end,
		same: make([][]uint32, bpf.Levels), nodes: map[uint32]uint32{}, shared: map[string]uint32{},
	}
	if f.sets {
		for leaf := len(f.classOf) - 1; leaf >= 0; leaf-- {
			l.first[f.classOf[leaf]] = uint32(leaf)
		}
	}
	if f.bits != nil {
		if root := f.bits.root; root&bpf.Leaf == 0 {
			return l.bitTable(root, 0)
		}
		f.bits.nodes = append(f.bits.nodes, [256]uint32{})
		for b := range bpf.NodeCells {
			f.bits.nodes[len(f.bits.nodes)-1][b] = f.bits.root
		}
		return l.bitTable(uint32(len(f.bits.nodes)-1), 0)
	}
	l.starts = make([]uint64, len(f.starts))
	for i := range f.starts {
		l.starts[i] = binary.BigEndian.Uint64(f.starts[i][:8]) >> (64 - 8*width)
	}
	at, _ := l.table(0, 0, 0)
	return at
}

// left is how many bits choose after a level.
func (l *levelled) left(level int) (bits int) {
	for _, b := range l.shape[level+1:] {
		bits += int(b)
	}
	return bits
}

// table lays the one of a level for the values from low on, which are of the
// leaf of starts[i] at first. It returns its first cell and the leaf at its end.
func (l *levelled) table(low uint64, level, i int) (uint32, int) {
	size := 1 << l.shape[level]
	left := l.left(level)
	if left == 0 {
		first := l.t.layEnds(l.end, size, func(n int) uint32 {
			for i+1 < len(l.starts) && l.starts[i+1] <= low+uint64(n) {
				i++
			}
			return uint32(i) + 1
		})
		return l.share(first, level), i
	}
	cells := make([]uint32, size)
	for n := range size {
		from := low + uint64(n)<<left
		end := from + 1<<left
		for i+1 < len(l.starts) && l.starts[i+1] <= from {
			i++
		}
		if i+1 == len(l.starts) || l.starts[i+1] >= end {
			cells[n] = l.constant(uint32(i)+1, len(l.shape)-level-1)
			continue
		}
		next, last := l.table(from, level+1, i)
		cells[n] = 2*next + 1
		i = last
	}
	at := uint32(len(l.t.cells))
	l.t.cells = append(l.t.cells, cells...)
	return l.share(at, level), i
}

func (l *levelled) bitTable(node uint32, level int) (first uint32) {
	if at, ok := l.nodes[node]; ok {
		return at
	}
	entries := &l.f.bits.nodes[node]
	if l.left(level) == 0 {
		first = l.t.layEnds(l.end, bpf.NodeCells, func(b int) uint32 { return entries[b]&^bpf.Leaf + 1 })
		l.nodes[node] = first
		return first
	}
	at := len(l.t.cells)
	l.t.cells = append(l.t.cells, make([]uint32, bpf.NodeCells)...)
	l.nodes[node] = uint32(at)
	for b, next := range entries {
		if next&bpf.Leaf == 0 {
			l.t.cells[at+b] = 2*l.bitTable(next, level+1) + 1
		} else {
			l.t.cells[at+b] = l.constant(next&^bpf.Leaf+1, len(l.shape)-level-1)
		}
	}
	return uint32(at)
}

// constant is a cell that leads through the tables that are left to one leaf
// whatever the value.
func (l *levelled) constant(leaf uint32, left int) uint32 {
	if l.f.sets { // leaves of one class lead to the same
		leaf = l.first[l.f.classOf[leaf]]
	}
	if l.same[left-1] == nil {
		l.same[left-1] = make([]uint32, l.f.leaves)
	}
	if at := l.same[left-1][leaf]; at != 0 {
		return 2 * at
	}
	var at uint32
	if left == 1 {
		at = l.t.layEnds(l.end, 1, func(int) uint32 { return leaf })
	} else {
		cell := l.constant(leaf, left-1)
		at = uint32(len(l.t.cells))
		l.t.cells = append(l.t.cells, cell)
	}
	l.same[left-1][leaf] = at
	return 2 * at
}

// layNodes lays nodes and buckets for a field of more bytes and returns what
// leads into them.
func (t *tables) layNodes(f *tested, width int, label func(uint32) uint32) uint32 {
	if f.bits == nil {
		r := &rangeTrie{t: t, width: width, starts: f.starts, label: label}
		return r.lay(key{}, maxKey(width), 0, 0, len(f.starts))
	}
	first := uint32(len(t.cells))
	lead := func(at uint32, depth int) uint32 {
		if at&bpf.Leaf != 0 {
			return label(at&^bpf.Leaf+1) | bpf.Leaf
		}
		entry := first + at*bpf.NodeCells
		if depth == 8 {
			entry |= bpf.SecondFlag
		}
		return entry
	}
	depths := f.bits.depths()
	for n := range f.bits.nodes {
		for _, at := range f.bits.nodes[n] {
			t.cells = append(t.cells, lead(at, depths[n]+1))
		}
	}
	return lead(f.bits.root, 0)
}

// maxPoints is up to how many values a field of more than four bytes is hashed.
const maxPoints = 64

// layPoints lays a table of a field's single values, such as LUIDs, if no filter
// tells the others apart. It reports whether it could.
func (t *tables) layPoints(f *tested, field *bpf.Field, end ends) bool {
	var points []uint32 // leaves
	var others []uint32
	width := widths[f.field.DataType]
	for i := range f.starts {
		if next, ok := f.starts[i].next(width); i+1 < len(f.starts) && ok && f.starts[i+1] == next {
			points = append(points, uint32(i)+1)
		} else {
			others = append(others, uint32(i)+1)
		}
	}
	if f.bits != nil || len(points) > maxPoints || len(others) == 0 {
		return false
	}
	for _, spans := range f.spans {
		n := 0
		for _, other := range others {
			if slices.ContainsFunc(spans, func(s span) bool { return s.low <= other && other <= s.high }) {
				n++
			}
		}
		if n > 0 && n < len(others) {
			return false
		}
	}
	value := func(leaf uint32) uint64 { return binary.BigEndian.Uint64(f.starts[leaf-1][:8]) }
	const first, step = 0x9e3779b97f4a7c15, 0xbf58476d1ce4e5b9 // odd, bits well mixed
	for bits := 4; bits < 13; bits++ {
		factor := uint64(first)
		for range 64 {
			at := map[uint64]uint32{}
			for _, leaf := range points {
				at[value(leaf)*factor>>(64-bits)] = leaf
			}
			if len(at) == len(points) {
				t.putPoints(f, field, end, at, 1<<bits, others[0])
				field.Bits[0], field.Factor = uint8(bits), factor
				return true
			}
			factor *= step
		}
	}
	return false
}

// putPoints writes the table. A free entry holds what no value that leads there is.
func (t *tables) putPoints(f *tested, field *bpf.Field, end ends, points map[uint64]uint32, size int, other uint32) {
	head := func(leaf uint32) uint32 {
		if end.heads == nil {
			return 0
		}
		return end.heads[leaf]
	}
	t.align(4)
	field.Flags |= bpf.FieldPoints
	field.Root = uint32(len(t.cells))
	field.Other, field.OtherHead = end.label(other), head(other)
	for n := range size {
		leaf, ok := points[uint64(n)]
		value := uint64(0) // it leads to the first entry
		if !ok {
			leaf = other
			if n == 0 {
				value = ^uint64(0)
			}
		} else {
			value = binary.BigEndian.Uint64(f.starts[leaf-1][:8])
		}
		t.cells = append(t.cells, uint32(value), uint32(value>>32), end.label(leaf), head(leaf))
	}
}
