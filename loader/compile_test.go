// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"testing"

	"github.com/wfpebpf/wfpebpf/bpf"
	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
	"github.com/wfpebpf/wfpebpf/tests/random"
)

// judge is wfp_arbitrate (bpf/classify.h) in Go, filter by filter.
func (t *tables) judge(c *bpf.Case) Verdict {
	v := Verdict{Action: filter.ActionNoneNoMatch, Soft: true}
	l := t.layers[layermap.LayerID(c.Values.Layer)]
	if l == nil {
		return v
	}
	match := func(i uint32) bool {
		for _, f := range l.Field[:l.Fields] {
			leaf := f.Empty
			if c.Values.Present&(1<<f.Slot) != 0 {
				n := c.Values.Slot[f.Slot]
				if f.Kind == bpf.KindDirect {
					leaf = t.directory[uint64(f.Root)+n]
				} else if f.Width == 16 {
					k := numberKey(n, 8)
					low := numberKey(c.Values.Slot[f.Slot+1], 8)
					copy(k[8:], low[:8])
					leaf = t.walk(f, k)
				} else {
					leaf = t.walk(f, numberKey(n, int(f.Width)))
				}
			}
			page := leaf
			if l.Pages > 1 {
				page = t.directory[leaf+i/uint32(bpf.PageBits)]
			}
			in := i % uint32(bpf.PageBits)
			if t.pages[page].Word[in/64]&(1<<(in%64)) == 0 {
				return false
			}
		}
		return true
	}
	total := uint32(0)
	for i := l.Filters; int(i) < len(t.filters) && t.records[i].Layer == layermap.LayerID(c.Values.Layer); i++ {
		total++
	}
	for i := uint32(0); i < total; {
		if !match(i) {
			i++
			continue
		}
		f := t.filters[l.Filters+i]
		v = Verdict{Action: filter.Action(f.Action), Soft: f.Hard == 0, Filter: filter.ID(f.Id)}
		if f.Hard != 0 {
			break
		}
		i = f.Next
	}
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
