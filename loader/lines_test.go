// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"sort"
	"testing"

	"github.com/wfpebpf/wfpebpf/bpf"
	"github.com/wfpebpf/wfpebpf/layermap"
)

// setField is a field of sets: from each key on, values are of a class. Keys need no
// order; of equal ones the last counts.
func setField(width int, from map[key]uint8) *tested {
	f := &tested{sets: true, field: layermap.Field{DataType: layermap.Uint32}}
	if width == 16 {
		f.field.DataType = layermap.ByteArray16
	}
	for k := range from {
		f.starts = append(f.starts, k)
	}
	slices.SortFunc(f.starts, func(a, b key) int { return bytes.Compare(a[:], b[:]) })
	f.leaves = uint32(len(f.starts)) + 1
	f.classOf = make([]uint8, 1, f.leaves)
	for _, k := range f.starts {
		f.classOf = append(f.classOf, from[k])
	}
	return f
}

// class is found by a plain search.
func (f *tested) class(k key) uint8 {
	return f.classOf[sort.Search(len(f.starts), func(i int) bool { return bytes.Compare(f.starts[i][:], k[:]) > 0 })]
}

// some collects what is of a class, on top of another.
type some struct {
	width int
	from  map[key]uint8
}

func newSome(width int, class uint8) *some {
	return &some{width, map[key]uint8{{}: class}}
}

// add gives a range, which is apart from those before, a class.
func (s *some) add(low, high key, class, around uint8) {
	s.from[low] = class
	if after, ok := high.next(s.width); ok {
		if _, known := s.from[after]; !known {
			s.from[after] = around
		}
	}
}

func (s *some) add4(low, high uint32, class uint8) {
	s.add(numberKey(uint64(low), 4), numberKey(uint64(high), 4), class, 0)
}

// checkField compares what the tables of a field lead to with a plain search, at and
// beside each bound, and elsewhere.
func checkField(t *testing.T, tab *tables, f *tested, field *bpf.Field, r *rand.Rand) {
	t.Helper()
	width := widths[f.field.DataType]
	check := func(k key) {
		t.Helper()
		v := bpf.Values{Present: 1}
		high, low := k.words()
		if width == 4 {
			high, low = high>>32, 0
		}
		v.Word[0], v.Word[1] = high, low
		if got, _ := tab.leafOf(field, &v); got != uint32(f.class(k)) {
			t.Fatalf("% x is of class %d, want %d", k[:width], got, f.class(k))
		}
	}
	for _, k := range f.starts {
		check(k)
		if p, ok := k.previous(width); ok {
			check(p)
		}
		if n, ok := k.next(width); ok {
			check(n)
		}
		for i := range width { // the same but for one byte
			other := k
			other[i] ^= 1 << r.IntN(8)
			check(other)
		}
	}
	check(maxKey(width))
	for range 10_000 {
		var k key
		for i := range width {
			k[i] = byte(r.Uint32())
		}
		check(k)
	}
}

func layField(f *tested, field *bpf.Field, t *tables) bool {
	field.Flags = bpf.FieldClass
	if widths[f.field.DataType] == 4 {
		field.Shift = 32
	}
	return t.layLines(f, field)
}

// Sets of IPv4 addresses, laid as lines, lead to the classes of a plain search, and
// take no more room than tables of cells or 16 bytes a bound.
func TestLinesOfIPv4Sets(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	const net = 0x0a010000
	for _, c := range []struct {
		name  string
		fill  func(s *some)
		class uint8
	}{
		{name: "far apart", fill: func(s *some) {
			for range 100_000 {
				a := r.Uint32()
				s.add4(a, a, 1)
			}
		}},
		{name: "the first and the last", fill: func(s *some) {
			s.add4(0, 0, 1)
			s.add4(^uint32(0), ^uint32(0), 1)
			for i := range uint32(100) {
				s.add4(i*0x01010101+5, i*0x01010101+5, 1)
			}
		}},
		{name: "all but some", class: 1, fill: func(s *some) {
			for range 10_000 {
				a := r.Uint32()
				s.add(numberKey(uint64(a), 4), numberKey(uint64(a), 4), 0, 1)
			}
		}},
		{name: "every other of a network", fill: func(s *some) {
			for i := range uint32(1 << 15) {
				s.add4(net+2*i, net+2*i, 1)
			}
		}},
		{name: "every other, three classes", fill: func(s *some) {
			for i := range uint32(1 << 16) {
				s.add4(net+i, net+i, uint8(i%3))
			}
		}},
		{name: "crowds", fill: func(s *some) { // as many in some 256 as no line holds
			for i := range uint32(2000) {
				from := i<<16 | r.Uint32()&0xff00
				for range 17 {
					a := from | r.Uint32()&0xff
					s.add4(a, a, 1)
				}
			}
		}},
		{name: "crowds of ranges", fill: func(s *some) {
			for i := range uint32(2000) {
				from := i<<16 | r.Uint32()&0xf000
				for n := range uint32(40) {
					s.add4(from+100*n, from+100*n+r.Uint32()%99, 1+uint8(i%2))
				}
			}
		}},
		{name: "ranges across networks", fill: func(s *some) {
			for i := range uint32(1000) {
				s.add4(i<<17-i-1, i<<17+i, 1)
			}
		}},
		{name: "sizes", fill: func(s *some) {
			for i := range uint32(300) { // 1 to 300, with gaps of 1 to 300
				s.add4(net+i*601, net+i*601+i, 1)
			}
		}},
		{name: "networks", fill: func(s *some) {
			for range 20_000 {
				size := uint32(1) << r.IntN(14)
				a := r.Uint32() &^ (size - 1)
				s.add4(a, a+size-1, 1+uint8(r.IntN(2)))
			}
		}},
		{name: "many classes", fill: func(s *some) {
			for range 50_000 {
				a := r.Uint32() & 0xffffff
				s.add4(a, a, uint8(r.IntN(256)))
			}
		}},
		{name: "classes in turn", class: 7, fill: func(s *some) {
			for i := range uint32(1 << 12) { // no range is of the class around it
				s.from[numberKey(uint64(i<<20|i), 4)] = uint8(i)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSome(4, c.class)
			c.fill(s)
			f := setField(4, s.from)
			var field bpf.Field
			tab := &tables{cells: make([]uint32, 1)}
			if !layField(f, &field, tab) {
				t.Fatal("no lines")
			}
			checkField(t, tab, f, &field, r)
			before := &tables{}
			end := ends{label: func(leaf uint32) uint32 { return uint32(f.classOf[leaf]) }}
			before.layLevels(f, 4, f.shape(4, end), end)
			t.Logf("%d bounds: %d cells, by levels %d", len(f.starts), len(tab.cells), len(before.cells))
			// equal tables of levels are shared: of what is regular there are few
			if most := max(len(before.cells), 1<<16+4*len(f.starts)); len(tab.cells) > most {
				t.Errorf("%d cells, more than %d", len(tab.cells), most)
			}
		})
	}
}

// crash makes values of one hash.
func crash(n int, factor uint64, r *rand.Rand) (list []key) {
	for range n {
		v := hashedValue{low: r.Uint64()}
		mixed := v.low * factor
		list = append(list, wordsKey(0x20010db8<<32-(mixed^mixed>>32), v.low))
	}
	return list
}

// Likewise those of IPv6 addresses, where a hash pays.
func TestLinesOfIPv6Sets(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	address := func(s *some, k key, class uint8) { s.add(k, k, class, 0) }
	random := func() key { return wordsKey(0x20010db8<<32|uint64(r.Uint32()), r.Uint64()) }
	for _, c := range []struct {
		name   string
		fill   func(s *some)
		hashed bool
		factor int // which
		chain  int // lines on the way to some value, at least
	}{
		{name: "far apart", hashed: true, chain: 3, fill: func(s *some) {
			for range 100_000 {
				address(s, random(), 1)
			}
		}},
		{name: "the first and the last", hashed: true, fill: func(s *some) {
			address(s, key{}, 1)
			address(s, maxKey(16), 1)
			for range 100 {
				address(s, random(), 1)
			}
		}},
		{name: "every other of a network", hashed: true, fill: func(s *some) {
			for i := range uint64(10_000) {
				address(s, wordsKey(0x20010db8<<32, ^uint64(0)-9_000+2*i), 1)
			}
		}},
		{name: "neighbours", hashed: true, fill: func(s *some) {
			for i := range uint64(5000) { // across the words, too
				from := wordsKey(i, ^uint64(0)-i%4)
				to := from
				for range i % 3 {
					to, _ = to.next(16)
				}
				s.add(from, to, 1, 0)
			}
		}},
		{name: "classes", hashed: true, fill: func(s *some) {
			for range 20_000 {
				address(s, random(), uint8(r.IntN(256)))
			}
		}},
		{name: "networks of 64 bits", hashed: true, fill: func(s *some) {
			for range 10_000 {
				k := random()
				h, _ := k.words()
				s.add(wordsKey(h, 0), wordsKey(h, ^uint64(0)), 1, 0)
			}
		}},
		{name: "networks of 48 bits and others", hashed: true, fill: func(s *some) {
			for i := range uint64(10_000) {
				h := 0x2a00<<48 | (i*7919)<<16
				s.add(wordsKey(h, 0), wordsKey(h|0xffff, ^uint64(0)), 1, 0)
			}
			for i := range uint64(100) {
				address(s, wordsKey(0x20010db8<<32|i, i), 2)
				s.add(wordsKey((0x3000+i)<<48, 0), wordsKey((0x3000+i)<<48|0xffff<<31, 5), 3, 0)
			}
		}},
		{name: "ranges", fill: func(s *some) {
			for i := range uint64(10_000) {
				s.add(wordsKey(0x20010db8<<32|i, 5), wordsKey(0x20010db8<<32|i, 50), 1, 0)
			}
		}},
		{name: "as many of one hash as there is room for", hashed: true, chain: bpf.MaxLines, fill: func(s *some) {
			for _, k := range crash((bpf.MaxLines-1)*bpf.LinePoints+1, factors(0), r) {
				address(s, k, 1)
			}
			for range 60 { // of which few are of the same line
				address(s, wordsKey(1, r.Uint64()), 1)
			}
		}},
		{name: "more of one hash", hashed: true, factor: 1, fill: func(s *some) {
			for _, k := range crash(1000, factors(0), r) {
				address(s, k, 1)
			}
		}},
		{name: "more of each hash", fill: func(s *some) {
			for i := range mostFactors {
				for _, k := range crash(100, factors(i), r) {
					address(s, k, 1)
				}
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSome(16, 0)
			c.fill(s)
			f := setField(16, s.from)
			field := bpf.Field{Flags: bpf.FieldClass}
			tab := &tables{cells: make([]uint32, 1)}
			if laid := tab.layLines(f, &field); laid != c.hashed {
				t.Fatalf("hashed: %v, want %v", laid, c.hashed)
			}
			before := &tables{cells: make([]uint32, 1)}
			root := before.layNodes(f, 16, func(leaf uint32) uint32 { return uint32(f.classOf[leaf]) })
			if !c.hashed {
				tab, field = before, bpf.Field{Root: root, Flags: bpf.FieldClass}
			} else if field.Factor != factors(c.factor) {
				t.Errorf("factor %x, want %x", field.Factor, factors(c.factor))
			}
			checkField(t, tab, f, &field, r)
			if n := tab.longest(&field); n < c.chain {
				t.Errorf("%d lines on the way to a value, want %d", n, c.chain)
			}
			room := func(t *tables) int { return 4*len(t.cells) + 96*len(t.buckets) }
			t.Logf("%d bounds: %d bytes, by buckets %d", len(f.starts), room(tab), room(before))
			// where there are many in a network, nodes take less
			if most := max(room(before), 4096+56*len(f.starts)); room(tab) > most {
				t.Errorf("%d bytes, more than %d", room(tab), most)
			}
		})
	}
}

// longest is how many lines are on the way to a value of a hash.
func (t *tables) longest(f *bpf.Field) (most int) {
	for line := f.Classes; line < f.Classes+f.Heads; line++ {
		n := 1
		for next := line; ; n++ {
			if next = t.cells[int(next+1)*bpf.Line-1]; next == 0 {
				break
			}
			next--
		}
		most = max(most, n)
	}
	return most
}
