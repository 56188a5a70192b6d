// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"

	"github.com/wfpebpf/wfpebpf/bpf"
)

// Leaves up to which a field of two bytes has two tables of 256 cells and one of
// four bytes has four: a larger first table is read faster, but takes more room.
const (
	smallPorts     = 256
	smallAddresses = 2048
)

// shape is how many bits of a value choose in each of the tables that lead to a
// field's leaves. Where few leaves lie behind many first tables, the last ones are
// small.
func (f *leafing) shape(width int) []uint8 {
	switch {
	case f.bits == nil && width == 2 && f.leaves > smallPorts:
		return []uint8{16}
	case f.bits == nil && width == 4 && f.leaves > smallAddresses:
		return []uint8{16, 8, 4, 4}
	}
	return []uint8{8, 8, 8, 8}[:width]
}

// levelled lays the tables of a field of up to four bytes, each chosen from by the
// next bits of the value. A cell holds twice the first cell of the next table,
// and 1 where that has more than one cell; in the last table it holds the leaf.
type levelled struct {
	t      *tables
	f      *tested
	shape  []uint8 // bits of each table
	label  func(leaf uint32) uint32
	starts []uint64          // of leaf 1, 2, ...
	same   [][]uint32        // by levels that are left: cell before leaf n, 0: not laid
	nodes  map[uint32]uint32 // bits: first cell of a node's table
}

// layLevels returns the first cell.
func (t *tables) layLevels(f *tested, width int, shape []uint8, label func(uint32) uint32) uint32 {
	l := &levelled{
		t: t, f: f, shape: shape, label: label,
		same: make([][]uint32, bpf.Levels), nodes: map[uint32]uint32{},
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
	at := len(l.t.cells)
	l.t.cells = append(l.t.cells, make([]uint32, size)...)
	left := l.left(level)
	for n := range size {
		from := low + uint64(n)<<left
		end := from + 1<<left
		for i+1 < len(l.starts) && l.starts[i+1] <= from {
			i++
		}
		switch {
		case left == 0:
			l.t.cells[at+n] = l.label(uint32(i) + 1)
		case i+1 == len(l.starts) || l.starts[i+1] >= end:
			l.t.cells[at+n] = l.constant(uint32(i)+1, len(l.shape)-level-1)
		default:
			next, last := l.table(from, level+1, i)
			l.t.cells[at+n] = 2*next + 1
			i = last
		}
	}
	return uint32(at), i
}

func (l *levelled) bitTable(node uint32, level int) uint32 {
	if at, ok := l.nodes[node]; ok {
		return at
	}
	at := len(l.t.cells)
	l.t.cells = append(l.t.cells, make([]uint32, bpf.NodeCells)...)
	l.nodes[node] = uint32(at)
	left := l.left(level)
	for b, next := range l.f.bits.nodes[node] {
		var cell uint32
		switch {
		case next&bpf.Leaf == 0:
			cell = 2*l.bitTable(next, level+1) + 1
		case left == 0:
			cell = l.label(next&^bpf.Leaf + 1)
		default:
			cell = l.constant(next&^bpf.Leaf+1, len(l.shape)-level-1)
		}
		l.t.cells[at+b] = cell
	}
	return uint32(at)
}

// constant is a cell that leads through the tables that are left to one leaf
// whatever the value.
func (l *levelled) constant(leaf uint32, left int) uint32 {
	if l.same[left-1] == nil {
		l.same[left-1] = make([]uint32, l.f.leaves)
	}
	if at := l.same[left-1][leaf]; at != 0 {
		return 2 * at
	}
	cell := l.label(leaf)
	if left > 1 {
		cell = l.constant(leaf, left-1)
	}
	at := uint32(len(l.t.cells))
	l.t.cells = append(l.t.cells, cell)
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
