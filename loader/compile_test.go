// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"testing"

	"github.com/wfpebpf/wfpebpf/bpf"
	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
	"github.com/wfpebpf/wfpebpf/tests/random"
)

// judge is wfp_arbitrate (bpf/classify.h) in Go, position by position.
func (t *tables) judge(c *bpf.Case) Verdict {
	v := Verdict{Action: filter.ActionNoneNoMatch, Soft: true}
	l := t.layers[layermap.LayerID(c.Values.Layer)]
	if l == nil {
		return v
	}
	rows := make([]uint32, l.Rows)
	for _, f := range l.Field[:l.Fields] {
		leaf := f.Empty
		if c.Values.Present&(1<<f.Slot) != 0 {
			var k key
			word := c.Values.Word[f.Word] << f.Shift
			binary.BigEndian.PutUint64(k[:], word)
			if int(f.Word)+1 < len(c.Values.Word) {
				binary.BigEndian.PutUint64(k[8:], c.Values.Word[f.Word+1])
			}
			if f.Flags&bpf.FieldDirect != 0 {
				leaf = t.directory[f.Root+uint32(word>>32)]
			} else {
				leaf = t.walk(f.Root, k)
			}
		}
		rows[f.Row] += leaf
	}
	for r := range rows {
		if l.Row[r].Shared != 0 {
			rows[r] = t.directory[l.Row[r].Base+rows[r]]
		}
	}
	match := func(i uint32) bool {
		for _, page := range rows {
			if l.Pages > 1 {
				page = t.directory[t.heads[page].Directory+i/uint32(bpf.PageBits)]
			}
			in := i % uint32(bpf.PageBits)
			if t.pages[page].Word[in/64]&(1<<(in%64)) == 0 {
				return false
			}
		}
		return true
	}
	var best *bpf.Filter
	end := func() bool {
		if best != nil {
			v = Verdict{Action: filter.Action(best.Action), Soft: best.Hard == 0, Filter: filter.ID(best.Id)}
		}
		best = nil
		return !v.Soft
	}
	sub := uint16(0xffff)
	for i := uint32(0); int(l.Filters+i) < len(t.filters) && i < l.Pages*uint32(bpf.PageBits); {
		f := &t.filters[l.Filters+i]
		if t.records[l.Filters+i] == nil || t.records[l.Filters+i].Layer != layermap.LayerID(c.Values.Layer) || !match(i) {
			i++
			continue
		}
		if f.Sublayer != sub {
			if end() {
				return v
			}
			sub = f.Sublayer
		}
		if best == nil || f.Rank < best.Rank {
			best = f
		}
		i = f.Next
	}
	end()
	return v
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

// The compiled tables give the evaluator's verdict, without a kernel.
func TestTablesAgreeWithTheEvaluator(t *testing.T) {
	for seed := range uint64(10) {
		g := random.New(seed)
		size := random.Size{SubLayers: 6, Filters: 80}
		if seed == 7 {
			size.Filters = 4500 // rows of two pages
		}
		p := g.Policy(size, liveLayers()...)
		tab, err := compile(p, portRange{32768, 60999})
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range liveLayers() {
			l := layermap.ByID(id)
			if fields := tab.layers[id]; fields != nil {
				for i := 0; i+1 < int(fields.Fields); i++ {
					if fields.Field[i].Row/2 >= fields.Field[i+1].Word {
						t.Fatalf("%v: row %d would be written over word %d before it is read", id, fields.Field[i].Row, fields.Field[i+1].Word)
					}
				}
			}
			for range 100 {
				values := g.Values(l)
				want := filter.Arbitrate(p.Store, id, values, nil)
				got := tab.judge(tab.numbers.caseOf(l, values))
				if got.Action != want.Action || want.Filter != nil && got.Filter != want.Filter.ID || got.Soft != want.Soft {
					t.Fatalf("seed %d, %v: tables say %v by %d, the evaluator %v by %v\nvalues %v",
						seed, id, got.Action, got.Filter, want.Action, want.Filter, values)
				}
			}
		}
	}
}
