// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/wfpebpf/wfpebpf/bpf"
	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
	"github.com/wfpebpf/wfpebpf/policy"
)

// made is a policy of a test: filters at one layer, heaviest first.
type made struct {
	l       *layermap.Layer
	p       *policy.Policy
	r       *rand.Rand
	filters []*filter.Filter
	pool    map[string][]filter.Value // by field: values at the borders of its conditions
	subs    int
}

func newMade(id layermap.LayerID, seed uint64) *made {
	return &made{
		l: layermap.ByID(id), p: &policy.Policy{Store: filter.NewStore()},
		r: rand.New(rand.NewPCG(seed, 1)), pool: map[string][]filter.Value{},
	}
}

// add adds a filter to a sublayer, after all that are there.
func (m *made) add(sub int, action filter.Action, conds ...filter.Condition) {
	for ; m.subs <= sub; m.subs++ {
		err := m.p.Store.AddSubLayer(filter.SubLayer{Key: subKey(m.subs), Name: fmt.Sprint(m.subs), Weight: uint16(60000 - m.subs)})
		if err != nil {
			panic(err)
		}
	}
	f := &filter.Filter{Layer: m.l.ID, SubLayer: subKey(sub), Action: action, Conditions: conds,
		Weight: filter.U64(1<<40 - uint64(len(m.filters))), Name: fmt.Sprint(len(m.filters))}
	if err := m.p.Store.AddFilter(f); err != nil {
		panic(err)
	}
	m.filters = append(m.filters, f)
	for _, c := range conds {
		if len(m.pool[c.Field]) < 2000 {
			m.pool[c.Field] = append(m.pool[c.Field], borders(m.l.Fields[m.l.FieldIndex(c.Field)], c)...)
		}
	}
}

func subKey(n int) filter.GUID { return filter.DeriveKey("sublayer", fmt.Sprint("made ", n)) }

// borders is values at a condition's borders.
func borders(f layermap.Field, c filter.Condition) []filter.Value {
	v := c.Value
	switch {
	case v.Type == layermap.RangeType:
		return []filter.Value{v.Range.Low, v.Range.High, beside(v.Range.Low, -1), beside(v.Range.High, 1)}
	case v.Type == layermap.V4AddrMask:
		low := filter.U32(uint32(v.Num >> 32 & v.Num))
		high := filter.U32(uint32(low.Num | ^v.Num&0xffffffff))
		return []filter.Value{low, high, beside(low, -1), beside(high, 1)}
	case v.Type == f.DataType && v.Type != layermap.ByteBlob && v.Type != layermap.SIDType:
		return []filter.Value{v, beside(v, 1), beside(v, -1)}
	case v.Type == layermap.ByteBlob, v.Type == layermap.SIDType:
		return []filter.Value{v}
	}
	return nil
}

var sizes = map[layermap.DataType]uint{layermap.Uint8: 8, layermap.Uint16: 16, layermap.Uint32: 32, layermap.Uint64: 64}

func beside(v filter.Value, by int) filter.Value {
	if bits := sizes[v.Type]; bits > 0 {
		v.Num = (v.Num + uint64(by)) << (64 - bits) >> (64 - bits)
		return v
	}
	if len(v.Bytes) == 0 {
		return v
	}
	b := append([]byte{}, v.Bytes...)
	for i := len(b) - 1; i >= 0; i-- {
		b[i] += byte(by)
		if by > 0 && b[i] != 0 || by < 0 && b[i] != 0xff {
			break
		}
	}
	v.Bytes = b
	return v
}

// values draws what a classification may be about.
func (m *made) values() filter.Values {
	vs := make(filter.Values, len(m.l.Fields))
	for i, f := range m.l.Fields {
		src := m.l.Source(f.Key)
		switch {
		case src.Kind == layermap.Constant:
			vs[i] = filter.Value{Type: f.DataType, Num: src.Value}
		case src.Kind != layermap.Filled || m.r.IntN(20) == 0:
		case len(m.pool[f.Key]) > 0 && m.r.IntN(8) > 0:
			vs[i] = m.pool[f.Key][m.r.IntN(len(m.pool[f.Key]))]
		case sizes[f.DataType] > 0:
			vs[i] = filter.Value{Type: f.DataType, Num: m.r.Uint64() >> (64 - sizes[f.DataType])}
		}
	}
	if m.r.IntN(4) > 0 {
		f := m.filters[m.r.IntN(len(m.filters))]
		done := map[string]bool{}
		for _, at := range m.r.Perm(len(f.Conditions)) {
			c := f.Conditions[at]
			i := m.l.FieldIndex(c.Field)
			if b := borders(m.l.Fields[i], c); len(b) > 0 && !done[c.Field] {
				vs[i] = b[m.r.IntN(min(len(b), 3))]
				done[c.Field] = true
			}
		}
	}
	return vs
}

// check compares the tables with the evaluator. It returns them, and how many
// branches were visited for one verdict at most.
func (m *made) check(t *testing.T, n int) (tab *tables, most int) {
	t.Helper()
	tab, err := compile(m.p, portRange{32768, 60999})
	if err != nil {
		t.Fatal(err)
	}
	plan := m.p.Store.Plan(m.l.ID)
	var want filter.Result
	for range n {
		values := m.values()
		plan.Arbitrate(values, nil, &want)
		got, visits := tab.judge(tab.numbers.caseOf(m.l, values))
		most = max(most, visits)
		if got.Action != want.Action || want.Filter != nil && got.Filter != want.Filter.ID || got.Soft != want.Soft {
			t.Fatalf("tables say %v by %d, the evaluator %v by %v\nvalues %v", got.Action, got.Filter, want.Action, want.Filter, values)
		}
	}
	return tab, most
}

func cond(field string, match filter.MatchType, v filter.Value) filter.Condition {
	return filter.Condition{Field: field, Match: match, Value: v}
}

// Conditions on bits of a field of eight bytes look at its last bytes alone.
func TestBitsOfAWideField(t *testing.T) {
	m := newMade(layermap.ALEAuthConnectV4, 1)
	m.add(0, filter.ActionBlock, cond("IP_LOCAL_INTERFACE", filter.MatchFlagsAllSet, filter.U64(0x5)))
	m.add(0, filter.ActionPermit, cond("IP_LOCAL_INTERFACE", filter.MatchFlagsAnySet, filter.U64(0x100)))
	m.add(1, filter.ActionPermit, cond("IP_LOCAL_INTERFACE", filter.MatchFlagsNoneSet, filter.U64(0x8000)))
	m.check(t, 2000)
}

// A layer can have ranges of every field of more than four bytes, and sets of
// addresses besides.
func TestEveryWideField(t *testing.T) {
	address := netip.MustParseAddr("2001:db8::1")
	var b filter.SetBuilder
	if err := b.Add(address, address); err != nil {
		t.Fatal(err)
	}
	set := filter.SetValue(b.Set("one", ""))
	for _, id := range []layermap.LayerID{layermap.ALEAuthConnectV6, layermap.ALEAuthRecvAcceptV6} {
		m := newMade(id, 1)
		for i := range m.l.Fields {
			f := &m.l.Fields[i]
			switch {
			case m.l.Source(f.Key).Kind != layermap.Filled:
			case f.DataType == layermap.ByteArray16:
				m.add(0, filter.ActionBlock, cond(f.Key, filter.MatchEqual, set))
				m.add(1, filter.ActionPermit, cond(f.Key, filter.MatchGreater, filter.Addr16(address)))
			case f.DataType == layermap.Uint64:
				m.add(1, filter.ActionPermit, cond(f.Key, filter.MatchGreater, filter.U64(5)))
			}
		}
		tab, _ := m.check(t, 2000)
		if wides := tab.layers[id].Wides; int(wides) != bpf.MaxWide {
			t.Errorf("%v: %d wide fields are tested, want %d", m.l.ID, wides, bpf.MaxWide)
		}
	}
}

