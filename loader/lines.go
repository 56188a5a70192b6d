// SPDX-License-Identifier: Apache-2.0

// This file lays the tables of large sets of addresses. A verdict on an address finds
// little of a large table in the processor's caches, so what counts is how many places
// it looks at: two for IPv4, one for IPv6 where the set is of addresses or of networks
// of one size. wfp.h says how they are laid.

package loader

import (
	"encoding/binary"
	"slices"

	"github.com/wfpebpf/wfpebpf/bpf"
)

// stretch is values of one class, up to where the next begins.
type stretch struct {
	from  key
	class uint8
}

// stretches brings neighbouring leaves of one class together.
func (f *tested) stretches() []stretch {
	list := make([]stretch, 0, len(f.starts))
	for i := range f.starts {
		if class := f.classOf[i+1]; len(list) == 0 || list[len(list)-1].class != class {
			list = append(list, stretch{f.starts[i], class})
		}
	}
	return list
}

// layLines lays lines where they pay. It reports whether it did.
func (t *tables) layLines(f *tested, field *bpf.Field) bool {
	if !f.sets || field.Flags != bpf.FieldClass || f.bits != nil || f.leaves <= fewAddresses {
		return false
	}
	if widths[f.field.DataType] == 4 {
		t.layRanges(f, field)
		return true
	}
	return t.layHash(f, field)
}

// layRanges lays a table of all upper halves of IPv4 addresses, and what it leads to.
func (t *tables) layRanges(f *tested, field *bpf.Field) {
	l := &lines{t: t}
	for _, s := range f.stretches() {
		l.list = append(l.list, stretch4{binary.BigEndian.Uint32(s.from[:4]), s.class})
	}
	l.point, l.around = l.usual()
	t.align(bpf.Line)
	field.Flags |= bpf.FieldLines
	field.Levels, field.Root = 1, uint32(len(t.cells))
	field.Other, field.OtherHead = uint32(l.point), uint32(l.around)
	const entries = 1 << 16
	t.cells = append(t.cells, make([]uint32, entries)...)
	i := 0
	for n := range uint32(entries) {
		b := block{n << 16, 16}
		i = l.enter(b, i)
		t.cells[field.Root+n] = l.lay(b, i, 0)
	}
}

// lines lays what leads from IPv4 addresses to classes.
type lines struct {
	t             *tables
	list          []stretch4
	point, around uint8       // classes of points and of what is around them, see usual
	gaps          [4][]uint32 // by free words: first free word of half lines
	same          [256]uint32 // by class: entry that leads to it alone, 0: not laid
	room          [256]uint32 // of ranges
	saved         [256]int    // by class: how many ranges it saves to leave it out
}

type stretch4 struct {
	from  uint32
	class uint8
}

// block is the addresses that agree in all but the last bits.
type block struct {
	from uint32
	bits int
}

func (b block) last() uint32 { return b.from + (1<<b.bits - 1) }

// part is one of the blocks that the next bits divide a block into.
func (b block) part(n uint32, bits int) block {
	return block{b.from + n<<(b.bits-bits), b.bits - bits}
}

const (
	pointsOfWord = 4
	// mostPoints is what half a line holds.
	mostPoints = pointsOfWord * bpf.Line / 4
	// shortRange is up to how many addresses a range ends without another.
	shortRange = 255
)

// usual returns the class that most short stretches are of, and the one that most
// others are of, which is not the same.
func (l *lines) usual() (point, around uint8) {
	var short, long [256]int
	for i, s := range l.list {
		if i+1 < len(l.list) && l.list[i+1].from-s.from <= uint32(mostPoints) {
			short[s.class]++
		} else {
			long[s.class]++
		}
	}
	for class := range short {
		if short[class] > short[point] {
			point = uint8(class)
		}
	}
	long[point], around = -1, point
	for class := range long {
		if long[class] > long[around] {
			around = uint8(class)
		}
	}
	return point, around
}

// enter returns the stretch that a block begins within; it is the i-th or later.
func (l *lines) enter(b block, i int) int {
	for i+1 < len(l.list) && l.list[i+1].from <= b.from {
		i++
	}
	return i
}

// within calls a function with each part of a stretch that is within a block, which
// begins within the i-th, until it returns false.
func (l *lines) within(b block, i int, yield func(from, size uint32, class uint8) bool) {
	for more := true; more; i++ {
		from, last := max(l.list[i].from, b.from), b.last()
		if more = i+1 < len(l.list) && l.list[i+1].from <= last; more {
			last = l.list[i+1].from - 1
		}
		if !yield(from, last-from+1, l.list[i].class) {
			return
		}
	}
}

// points are the addresses of a block of which the rest is of the class around points,
// if half a line holds them.
func (l *lines) points(b block, i int) (points []uint16, ok bool) {
	ok = true
	l.within(b, i, func(from, size uint32, class uint8) bool {
		if class == l.around {
			return true
		}
		if ok = class == l.point && len(points)+int(size) <= mostPoints; ok {
			for n := range size {
				points = append(points, uint16(from+n))
			}
		}
		return ok
	})
	return points, ok
}

// ranges are the cells of a line for a block, more than a line has if it does not hold
// them, and the class of addresses in none.
func (l *lines) ranges(b block, i int) (ranges []uint32, base uint8) {
	// What follows a short range needs none if it is of the class of those in none:
	// the one of which most do.
	l.saved = [256]int{}
	base, after := l.list[i].class, true
	l.within(b, i, func(_, size uint32, class uint8) bool {
		if after {
			if l.saved[class]++; l.saved[class] > l.saved[base] {
				base = class
			}
		}
		after = size <= shortRange
		return true
	})
	after, ranges = true, l.room[:0]
	l.within(b, i, func(from, size uint32, class uint8) bool {
		if class != base || !after {
			ranges = append(ranges, from<<16|min(size-1, shortRange)<<8|uint32(class))
		}
		after = size <= shortRange
		return true
	})
	return ranges, base
}

// lay lays what leads from the addresses of a block, which begins within the i-th
// stretch, to their classes. It returns its entry.
func (l *lines) lay(b block, i, depth int) uint32 {
	if points, ok := l.points(b, i); ok {
		return l.layPoints(points)
	}
	ranges, base := l.ranges(b, i)
	switch {
	case len(ranges) > bpf.Line:
		node, _ := l.plan(b, i, depth)
		return l.node(b, i, depth, node)
	case len(ranges) > 0:
		return l.line(ranges) | uint32(base)<<bpf.EntryClass
	case l.same[base] == 0:
		l.same[base] = l.line([]uint32{shortRange<<8 | uint32(base)})
	}
	return l.same[base]
}

// layPoints lays the lower halves of addresses in words of half a line.
func (l *lines) layPoints(points []uint16) uint32 {
	if len(points) == 0 {
		return bpf.EntryPoints // no word of line 0
	}
	const words = mostPoints / pointsOfWord
	n := (len(points) + pointsOfWord - 1) / pointsOfWord
	free, at := words, uint32(0)
	for left := n; left < words; left++ {
		if gaps := l.gaps[left]; len(gaps) > 0 {
			free, at, l.gaps[left] = left, gaps[len(gaps)-1], gaps[:len(gaps)-1]
			break
		}
	}
	if free == words {
		l.t.align(bpf.Line / 2)
		at = uint32(len(l.t.cells) / 2)
		l.t.cells = append(l.t.cells, make([]uint32, bpf.Line/2)...)
	}
	if free > n {
		l.gaps[free-n] = append(l.gaps[free-n], at+uint32(n))
	}
	for i := range n * pointsOfWord {
		l.t.cells[2*at+uint32(i/2)] |= uint32(points[min(i, len(points)-1)]) << (i % 2 * 16)
	}
	return bpf.EntryPoints | (1<<n-1)<<(bpf.EntryWords+at%uint32(words)) | at/uint32(words)
}

// line lays a line of ranges and returns its number.
func (l *lines) line(ranges []uint32) uint32 {
	l.t.align(bpf.Line)
	at := len(l.t.cells) / bpf.Line
	l.t.cells = append(l.t.cells, ranges...)
	for range bpf.Line - len(ranges) {
		l.t.cells = append(l.t.cells, ranges[len(ranges)-1])
	}
	return uint32(at)
}

func nodeBits(node int) int { return int(bpf.NodeBits >> (4 * node) & 0xf) }

func (l *lines) node(b block, i, depth, node int) uint32 {
	l.t.align(bpf.Line)
	at, bits := len(l.t.cells), nodeBits(node)
	l.t.cells = append(l.t.cells, make([]uint32, 1<<bits)...)
	for n := range uint32(1) << bits {
		part := b.part(n, bits)
		i = l.enter(part, i)
		entry := l.lay(part, i, depth+1)
		l.t.cells[at+int(n)] = entry
	}
	return uint32(at/bpf.Line) | uint32(node)<<bpf.EntryNode
}

// plan returns which node a block is best divided by, 0: none, and how many cells what
// it leads to takes then.
func (l *lines) plan(b block, i, depth int) (node, size int) {
	if points, ok := l.points(b, i); ok {
		return 0, (len(points) + pointsOfWord - 1) / pointsOfWord * 2
	}
	ranges, _ := l.ranges(b, i)
	switch n := len(ranges); {
	case n == 0:
		return 0, 0
	case n <= bpf.Line:
		return 0, bpf.Line
	case depth == bpf.MaxNodes:
		return 0, tooMany
	default:
		node, size = l.divide(b, i, bpf.MaxNodes)
		if depth+1 == bpf.MaxNodes || size <= 4*n {
			return node, size
		}
	}
	// a second node on the way takes time, and saves room where addresses crowd
	if deep, deepSize := l.divide(b, i, depth+1); 2*deepSize < size {
		return deep, deepSize
	}
	return node, size
}

const tooMany = 1 << 30 // cells

// divide returns by which node to divide a block, whose parts are then at a depth.
func (l *lines) divide(b block, i, depth int) (best, least int) {
	least = tooMany
	for node := 1; node <= 3 && nodeBits(node) <= b.bits; node++ {
		bits, i := nodeBits(node), i
		size := max(1<<bits, bpf.Line)
		for n := uint32(0); n < 1<<bits && size < least; n++ {
			part := b.part(n, bits)
			i = l.enter(part, i)
			_, more := l.plan(part, i, depth)
			size += more
		}
		if size < least {
			best, least = node, size
		}
	}
	return best, least
}

// hashed is what a hash finds of a field of two words: values, in the words' first bits,
// and their classes. The rest of the values is in stretches.
type hashed struct {
	length int // of the values, in bits
	values []hashedValue
	rest   []stretch
}

type hashedValue struct {
	high, low uint64
	class     uint8
}

// words are a key's.
func (k *key) words() (high, low uint64) {
	return binary.BigEndian.Uint64(k[:8]), binary.BigEndian.Uint64(k[8:])
}

// wordsKey is the key of two words.
func wordsKey(high, low uint64) (k key) {
	binary.BigEndian.PutUint64(k[:8], high)
	binary.BigEndian.PutUint64(k[8:], low)
	return k
}

// blocksOf returns how many values of a length in bits make up the stretch between two
// keys, and 0 where they do not or are more than most.
func blocksOf(from, to key, length, most int) int {
	high, low := from.words()
	nextHigh, nextLow := to.words()
	switch {
	case length == 128:
		if n := nextLow - low; n <= uint64(most) && nextHigh-high == borrow(nextLow, low) {
			return int(n)
		}
	case low == 0 && nextLow == 0 && (high|nextHigh)<<length == 0:
		if n := (nextHigh - high) >> (64 - length); n <= uint64(most) {
			return int(n)
		}
	}
	return 0
}

// borrow is 1 where the words behind are the lower ones.
func borrow(low, from uint64) uint64 {
	if low < from {
		return 1
	}
	return 0
}

// mostBlocks is up to how many values of a hash a stretch becomes.
const mostBlocks = 8

// hash takes what is of one length in bits out of stretches.
func hash(list []stretch, length int) hashed {
	h := hashed{length: length}
	count := func(i int) int {
		if i+1 == len(list) {
			return 0
		}
		return blocksOf(list[i].from, list[i+1].from, length, mostBlocks)
	}
	first := 0
	for count(first) > 0 {
		first++
	}
	class := list[first].class // around the values
	h.rest = append(h.rest, stretch{class: class})
	for i, s := range list {
		n := count(i)
		switch {
		case s.class == class:
		case n > 0:
			high, low := s.from.words()
			for b := range uint64(n) {
				if length == 128 {
					h.values = append(h.values, hashedValue{high + borrow(low+b, low), low + b, s.class})
				} else {
					h.values = append(h.values, hashedValue{high>>(64-length) + b, 0, s.class})
				}
			}
		default:
			class = s.class
			h.rest = append(h.rest, s)
		}
	}
	return h
}

// mostFactors is how many factors are tried. A list of addresses may be made to have many
// of one hash.
const mostFactors = 8

func factors(i int) uint64 {
	return 0x9e3779b97f4a7c15 + uint64(i)*0xbf58476d1ce4e5b8 // odd, bits well mixed
}

// lengths are how many bits the values of a hash may have.
var lengths = []int{128, 64, 56, 48, 44, 40, 36, 32}

// layHash lays a hash, and what leads from the values that are not in it, where that
// pays. It reports whether it did.
func (t *tables) layHash(f *tested, field *bpf.Field) bool {
	list := f.stretches()
	var h hashed
	for _, length := range lengths {
		// What is searched for behind the hash, too, is to be a small part; and a value
		// takes half of what nodes and buckets for it take.
		if h = hash(list, length); 8*len(h.rest) <= len(list) && len(h.values) <= len(list) {
			return t.putHash(&h, field)
		}
	}
	return false
}

// putHash writes the tables, unless too many values are of one hash.
func (t *tables) putHash(h *hashed, field *bpf.Field) bool {
	lines := uint32(len(h.values)*4/5 + 1) // or many would have more behind
	for i := range mostFactors {
		factor := factors(i)
		if cells, ok := h.lines(factor, lines, uint32((len(t.cells)+bpf.Line-1)/bpf.Line)); ok {
			t.align(bpf.Line)
			field.Flags |= bpf.FieldLines
			field.Factor, field.Classes, field.Heads = factor, uint32(len(t.cells)/bpf.Line), lines
			t.cells = append(t.cells, cells...)
			filter := h.filter(factor)
			field.Other, field.OtherHead = uint32(len(t.cells)), uint32(len(filter))
			t.cells = append(t.cells, filter...)
			field.Bits = [bpf.Levels]uint8{uint8(max(64-h.length, 0)), uint8(h.length / 128)}
			r := &rangeTrie{t: t, width: 16, label: func(leaf uint32) uint32 { return uint32(h.rest[leaf-1].class) }}
			for _, s := range h.rest {
				r.starts = append(r.starts, s.from)
			}
			field.Root = r.lay(key{}, maxKey(16), 0, 0, len(r.starts))
			return true
		}
	}
	return false
}

// hash mixes a value (classify.h, point_class).
func (v *hashedValue) hash(factor uint64) uint64 {
	n := v.low * factor
	return ((n ^ n>>32) + v.high) * factor
}

// choose is which of some a hash chooses.
func choose(hash uint64, of uint32) uint32 {
	return uint32(hash >> 32 * uint64(of) >> 32)
}

// filterBits are the bits of a word of the filter that tell of a hash.
func filterBits(hash uint64) uint32 {
	return 1<<(hash>>17&31) | 1<<(hash>>22&31) | 1<<(hash>>27&31)
}

// filter makes the one of a hash: eight bits a value, of which three are set. Of other
// values one in twenty is not told.
func (h *hashed) filter(factor uint64) []uint32 {
	words := make([]uint32, len(h.values)/4+1)
	for i := range h.values {
		n := h.values[i].hash(factor)
		words[choose(n, uint32(len(words)))] |= filterBits(n)
	}
	return words
}

// lines makes the cells of as many lines, of which the first has that number, and of
// those behind them for what does not fit in. It reports whether no value is in a line too
// far behind for the programs.
func (h *hashed) lines(factor uint64, lines, first uint32) ([]uint32, bool) {
	const (
		size    = bpf.Line
		classes = 4 * bpf.LinePoints // from here on, and behind them the next line
		next    = size - 1
	)
	cells := make([]uint32, int(lines)*size, int(lines+lines/16)*size)
	for i := range h.values {
		v := &h.values[i]
		at := int(choose(v.hash(factor), lines)) * size
		count := 1
		for ; cells[at+next] != 0; count++ {
			at = int(cells[at+next]-1-first) * size
		}
		n := slices.Index(cells[at+classes:at+next], 0)
		if n < 0 {
			if count == bpf.MaxLines {
				return nil, false
			}
			cells[at+next] = first + uint32(len(cells)/size) + 1
			at, n = len(cells), 0
			cells = append(cells, make([]uint32, size)...)
		}
		slot := cells[at+4*n:]
		slot[0], slot[1], slot[2], slot[3] = uint32(v.high), uint32(v.high>>32), uint32(v.low), uint32(v.low>>32)
		cells[at+classes+n] = uint32(v.class) + 1
	}
	return cells, true
}
