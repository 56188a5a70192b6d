// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"slices"
	"sort"
	"testing"

	"github.com/wfpebpf/wfpebpf/bpf"
	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
	"github.com/wfpebpf/wfpebpf/tests/random"
)

// judge is wfp_arbitrate (bpf/classify.h) in Go. It also returns how many branches
// were visited.
func (t *tables) judge(c *bpf.Case) (v Verdict, visits int) {
	v = Verdict{Action: filter.ActionNoneNoMatch, Soft: true}
	l := t.layers[layermap.LayerID(c.Values.Layer)]
	if l == nil {
		return v, 0
	}
	var classes classMask
	leaves := make([]uint32, l.Fields)
	waiting := []uint32{l.Root}
	for i := range leaves {
		f := &l.Field[i]
		leaf, head := t.leafOf(f, &c.Values)
		leaves[i] = leaf
		if f.Flags&bpf.FieldHeads != 0 {
			waiting = append(waiting, head)
			if head != t.cells[f.Heads+leaf] {
				panic("a leaf leads to two branches")
			}
		}
		if f.Flags&bpf.FieldClasses != 0 {
			leaf = t.cells[f.Classes+leaf]
		}
		if f.Flags&(bpf.FieldClass|bpf.FieldClasses) != 0 {
			classes[leaf/64] |= 1 << (leaf % 64)
		}
	}
	best := make([]uint32, bpf.MaxSubLayers)
	for i := range best {
		best[i] = bpf.KeyNone
	}
	failed := false
	for len(waiting) > 0 {
		at := waiting[len(waiting)-1]
		waiting = waiting[:len(waiting)-1]
		if at == 0 {
			continue
		}
		visits++
		b := &t.branches[at]
		for _, c := range b.Candidate {
			if c.Key == bpf.KeyNone {
				break
			}
			failed = failed || c.Deny&classes[c.Word] != 0
			for i, f := range c.Field {
				failed = failed || leaves[f]-c.Low[i] > c.Span[i]
			}
			if leaf := leaves[c.Field[0]]; c.Flags&bpf.CandidateTable != 0 && t.cells[c.Low[0]+leaf/32]>>(leaf%32)&1 == 0 {
				failed = true
			}
			if c.Flags&bpf.CandidateMore != 0 {
				continue
			}
			if sub := c.Key >> bpf.KeySubLayer; !failed {
				best[sub] = min(best[sub], c.Key)
			}
			failed = false
		}
		waiting = append(waiting, b.Next)
		if b.Count > 0 {
			if int(b.Count) > MaxCuts {
				panic("more cuts than the programs can search")
			}
			cuts := t.cuts[b.Cuts : b.Cuts+b.Count]
			n := sort.Search(len(cuts), func(i int) bool { return cuts[i].From > leaves[b.Field] })
			waiting = append(waiting, cuts[n-1].Branch)
		}
		if len(waiting) > bpf.Pending {
			panic("more branches wait than the programs have room for")
		}
	}
	for _, key := range best {
		if key == bpf.KeyNone {
			continue
		}
		place := key & (1<<bpf.KeySubLayer - 1) >> bpf.KeyPlace
		v = Verdict{Action: filter.ActionPermit, Soft: key&bpf.KeyHard == 0, Filter: filter.ID(t.filters[l.Filters+place].Id)}
		if key&bpf.KeyBlock != 0 {
			v.Action = filter.ActionBlock
		}
		if !v.Soft {
			break
		}
	}
	return v, visits
}

// leafOf is field_leaf (bpf/classify.h) in Go.
func (t *tables) leafOf(f *bpf.Field, v *bpf.Values) (leaf, head uint32) {
	if v.Present&(1<<f.Slot) == 0 {
		return f.Empty, f.EmptyHead
	}
	word, at := v.Word[f.Word]<<f.Shift, f.Root
	if f.Flags&bpf.FieldPoints != 0 {
		p := t.cells[uint64(at)+word*f.Factor>>(64-f.Bits[0])*4:]
		if uint64(p[0])|uint64(p[1])<<32 != word {
			return f.Other, f.OtherHead
		}
		return p[2], p[3]
	}
	if f.Flags&bpf.FieldLines != 0 && f.Levels > 0 {
		return t.lineClass(f, uint32(word>>32)), 0
	}
	if f.Flags&bpf.FieldLines != 0 {
		if class, ok := t.pointClass(f, v.Word[f.Word], v.Word[f.Word+1]); ok {
			return class, 0
		}
	}
	if f.Levels > 0 {
		at = 2*at + 1
		for i, bits := range f.Bits[:f.Levels] {
			entry := at / 2
			if at&1 != 0 {
				entry += uint32(word >> (64 - bits))
			}
			if i+1 == int(f.Levels) && f.Flags&bpf.FieldHeads != 0 {
				return t.cells[2*entry], t.cells[2*entry+1]
			}
			at = t.cells[entry]
			word <<= bits
		}
		return at, 0
	}
	for at&bpf.Leaf == 0 {
		if at&bpf.SecondFlag != 0 {
			word = v.Word[f.Word+1]
		}
		entry := at &^ (bpf.SecondFlag | bpf.BucketFlag)
		if at&bpf.BucketFlag == 0 {
			at = t.cells[entry+uint32(word>>56)]
			word <<= 8
			continue
		}
		b, n := &t.buckets[entry], 0
		for n < len(b.Bound) && word >= b.Bound[n] {
			n++
		}
		at = b.Next[n]
		word <<= b.Shift
	}
	leaf = at &^ bpf.Leaf
	if f.Flags&bpf.FieldHeads != 0 {
		head = t.cells[f.Heads+leaf]
	}
	return leaf, head
}

// lineClass is line_class in Go.
func (t *tables) lineClass(f *bpf.Field, address uint32) uint32 {
	entry := t.cells[f.Root+address>>16]
	shift := uint32(16)
	for n := 0; entry&bpf.EntryPoints == 0 && entry>>bpf.EntryNode != 0; n++ {
		if n == bpf.MaxNodes {
			panic("more nodes than the programs follow")
		}
		bits := bpf.NodeBits >> (4 * (entry >> bpf.EntryNode)) & 0xf
		entry = t.cells[entry&bpf.EntryLine*uint32(bpf.Line)+address<<shift>>(32-bits)]
		shift += bits
	}
	low := address & 0xffff
	if entry&bpf.EntryPoints != 0 {
		for i, cell := range t.cells[int(entry&bpf.EntryHalf)*bpf.Line/2:][:bpf.Line/2] {
			if entry>>(bpf.EntryWords+i/2)&1 != 0 && (cell&0xffff == low || cell>>16 == low) {
				return f.Other
			}
		}
		return f.OtherHead
	}
	base, last := entry>>bpf.EntryClass&0xff, uint32(0)
	class := base
	for n, c := range t.cells[entry&bpf.EntryLine*uint32(bpf.Line):][:bpf.Line] {
		from, size, of := c>>16, c>>8&0xff, c&0xff
		if n > 0 && from < last {
			panic("the ranges of a line do not ascend")
		}
		if last = from; low < from {
			break
		}
		if class = of; size < shortRange && low-from > size {
			class = base
		}
	}
	return class
}

// pointClass is point_class in Go.
func (t *tables) pointClass(f *bpf.Field, high, low uint64) (uint32, bool) {
	high >>= f.Bits[0]
	low *= uint64(f.Bits[1])
	v := hashedValue{high: high, low: low}
	hash := v.hash(f.Factor)
	if bits := filterBits(hash); t.cells[f.Other+choose(hash, f.OtherHead)]&bits != bits {
		return 0, false
	}
	at := f.Classes + choose(hash, f.Heads)
	for n := 0; ; n++ {
		line := t.cells[at*uint32(bpf.Line):][:bpf.Line]
		for i := range bpf.LinePoints {
			c := line[4*i:]
			if uint64(c[0])|uint64(c[1])<<32 == high && uint64(c[2])|uint64(c[3])<<32 == low && line[4*bpf.LinePoints+i] != 0 {
				return line[4*bpf.LinePoints+i] - 1, true
			}
		}
		if at = line[bpf.Line-1] - 1; at == ^uint32(0) {
			return 0, false
		}
		if n+1 == bpf.MaxLines {
			panic("more lines than the programs follow")
		}
	}
}

func liveLayers() []layermap.LayerID {
	var ids []layermap.LayerID
	for _, l := range layermap.Layers() {
		if l.Hook().Live {
			ids = append(ids, l.ID)
		}
	}
	return ids
}

// The compiled tables give the evaluator's verdict, without a kernel. Not all layers at
// once can be as large as one seed's.
func TestTablesAgreeWithTheEvaluator(t *testing.T) {
	for seed := range uint64(10) {
		g := random.New(seed)
		size, atOnce := random.Size{SubLayers: 6, Filters: 80}, len(liveLayers())
		if seed == 7 {
			size.Filters, atOnce = 4500, 30
		}
		for part := range slices.Chunk(liveLayers(), atOnce) {
			tablesAgree(t, seed, g, size, part)
		}
	}
}

func tablesAgree(t *testing.T, seed uint64, g *random.Generator, size random.Size, layers []layermap.LayerID) {
	t.Helper()
	p := g.Policy(size, layers...)
	tab, err := compile(p, portRange{32768, 60999})
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range layers {
		l := layermap.ByID(id)
		if fields := tab.layers[id]; fields != nil {
			for i := range fields.Fields {
				for j := i + 1; j < fields.Fields && fields.Field[i].Flags&bpf.FieldClass == 0; j++ {
					if i/2 >= uint32(fields.Field[j].Word) {
						t.Fatalf("%v: leaf %d would be written over word %d before it is read", id, i, fields.Field[j].Word)
					}
				}
			}
		}
		for range 100 {
			values := g.Values(l)
			want := filter.Arbitrate(p.Store, id, values, nil)
			got, _ := tab.judge(tab.numbers.caseOf(l, values))
			if got.Action != want.Action || want.Filter != nil && got.Filter != want.Filter.ID || got.Soft != want.Soft {
				t.Fatalf("seed %d, %v: tables say %v by %d, the evaluator %v by %v\nvalues %v",
					seed, id, got.Action, got.Filter, want.Action, want.Filter, values)
			}
		}
	}
}
