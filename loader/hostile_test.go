// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strconv"
	"testing"

	"github.com/wfpebpf/wfpebpf/bpf"
	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
	"github.com/wfpebpf/wfpebpf/policy"
	"github.com/wfpebpf/wfpebpf/tests/random"
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

// hostile makes a policy of ranges and flags that lie across each other, in a few
// fields, many of them tested alike.
func hostile(seed uint64, most int) *made {
	ids := []layermap.LayerID{layermap.ALEAuthConnectV4, layermap.ALEAuthRecvAcceptV6, layermap.InboundTransportV4, layermap.InboundMACFrameEthernet}
	m := newMade(ids[seed%4], seed)
	r := m.r
	var fields []layermap.Field
	for _, f := range m.l.Fields {
		if m.l.Source(f.Key).Kind == layermap.Filled && (sizes[f.DataType] > 0 || f.DataType == layermap.ByteArray16 || f.DataType == layermap.ByteArray6) {
			fields = append(fields, f)
		}
	}
	r.Shuffle(len(fields), func(i, j int) { fields[i], fields[j] = fields[j], fields[i] })
	fields = fields[:1+r.IntN(min(len(fields), 5))]
	domain := []uint64{16, 60, 300, 5000}[r.IntN(4)]
	value := func(f layermap.Field, n uint64) filter.Value {
		switch f.DataType {
		case layermap.ByteArray16, layermap.ByteArray6:
			b := make([]byte, map[layermap.DataType]int{layermap.ByteArray16: 16, layermap.ByteArray6: 6}[f.DataType])
			at := []int{len(b) - 3, len(b) - 1, 7, 3}[domain%7%4]
			at = min(at, len(b)-1)
			b[0], b[at], b[at-1] = byte(n>>14), byte(n), byte(n>>8)
			return filter.Value{Type: f.DataType, Bytes: b}
		}
		bits := sizes[f.DataType]
		return filter.Value{Type: f.DataType, Num: n * (domain%3 + 1) << (64 - bits) >> (64 - bits)}
	}
	style := r.IntN(6)
	ask := func(f layermap.Field) filter.Condition {
		a, b := r.Uint64N(domain), r.Uint64N(domain)
		switch style {
		case 1: // around one middle
			a = domain/2 - r.Uint64N(domain/2)
			b = domain/2 + r.Uint64N(domain/2)
		case 2: // steps
			b = a + 1 + r.Uint64N(domain/8)
		case 3:
			b = a
		case 4: // blocks
			k := r.UintN(8)
			a = a >> k << k
			b = a | (1<<k - 1)
		}
		if a > b {
			a, b = b, a
		}
		v, w := value(f, a), value(f, b)
		if order, _ := filter.Compare(v, w); order > 0 {
			v, w = w, v
		}
		if f.DataType == layermap.ByteArray6 {
			return cond(f.Key, filter.MatchEqual, v)
		}
		if r.IntN(12) == 0 && f.DataType != layermap.ByteArray16 {
			match := []filter.MatchType{filter.MatchFlagsAllSet, filter.MatchFlagsAnySet, filter.MatchFlagsNoneSet}[r.IntN(3)]
			return cond(f.Key, match, filter.Value{Type: f.DataType, Num: 1 << r.UintN(3)})
		}
		switch r.IntN(30) {
		case 0:
			return cond(f.Key, filter.MatchEqual, filter.Value{})
		case 1:
			return cond(f.Key, filter.MatchNotEqual, v)
		case 2:
			return cond(f.Key, filter.MatchGreater, v)
		case 3:
			return cond(f.Key, filter.MatchLess, v)
		}
		return cond(f.Key, filter.MatchRange, filter.RangeOf(v, w))
	}
	common := map[int][]filter.Condition{}
	for i := range fields {
		for range 1 + r.IntN(3) {
			common[i] = append(common[i], ask(fields[i]))
		}
	}
	alike := r.IntN(4)
	subs := []int{1, 2, 5, 30, 64}[r.IntN(5)]
	block := []int{2, 20, 300}[r.IntN(3)]
	n := 10 + r.IntN(most)
	several := r.IntN(3) == 0
	for range n {
		var cs []filter.Condition
		for i, f := range fields {
			switch {
			case i > 0 && r.IntN(3) == 0:
			case i > 0 && r.IntN(4) < alike:
				cs = append(cs, common[i][r.IntN(len(common[i]))])
			default:
				cs = append(cs, ask(f))
				for several && r.IntN(2) == 0 {
					cs = append(cs, ask(f))
				}
			}
		}
		action := filter.ActionPermit
		if r.IntN(block) == 0 {
			action = filter.ActionBlock
		}
		m.add(r.IntN(subs), action, cs...)
	}
	return m
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
// addresses besides; of three addresses the sets stand with the ranges.
func TestEveryWideField(t *testing.T) {
	address := netip.MustParseAddr("2001:db8::1")
	var b filter.SetBuilder
	if err := b.Add(address, address); err != nil {
		t.Fatal(err)
	}
	set := filter.SetValue(b.Set("one", ""))
	for id, want := range map[layermap.LayerID]int{
		layermap.ALEAuthConnectV6: bpf.MaxWide, layermap.ALEAuthRecvAcceptV6: bpf.MaxWide, layermap.InboundICMPErrorV6: 6,
	} {
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
		if wides := tab.layers[id].Wides; int(wides) != want {
			t.Errorf("%v: %d wide fields are tested, want %d", m.l.ID, wides, want)
		}
	}
}

// Ranges that lie across each other in every way, many tested alike, over several
// sublayers: small policies of many forms.
func TestTablesAgreeOnOverlaps(t *testing.T) {
	for seed := range uint64(30) {
		m := hostile(seed, 300)
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) { m.check(t, 200) })
	}
}

func network(m *made, low, size uint32) filter.Condition {
	return cond("IP_REMOTE_ADDRESS", filter.MatchRange, filter.RangeOf(filter.U32(low), filter.U32(low+size-1)))
}

// Policies that could make a classifier large or slow: all are compiled, and of none
// more branches are visited than the filters that match, or nearly do, call for.
func TestHostilePolicies(t *testing.T) {
	laterPort := func(n int) filter.Condition {
		return cond("IP_LOCAL_PORT", filter.MatchGreater, filter.U16(uint16(n)))
	}
	for _, c := range []struct {
		name    string
		filters int
		visits  int // branches, at most, of one verdict
		add     func(m *made, i int)
	}{
		{"hosts from everywhere", 100_000, 2, func(m *made, i int) {
			m.add(0, filter.ActionBlock, cond("IP_REMOTE_ADDRESS", filter.MatchEqual, filter.U32(m.r.Uint32())))
		}},
		{"ranges around one address, tested alike", 10_000, 4, func(m *made, i int) {
			m.add(0, filter.ActionBlock, network(m, 1<<31-uint32(i), 2*uint32(i)+1))
		}},
		// 64 match
		{"ranges, each across the next 64", 20_000, 100, func(m *made, i int) {
			m.add(0, filter.ActionBlock, network(m, uint32(i)<<10, 1<<16), laterPort(m.r.IntN(1<<15)),
				cond("IP_LOCAL_ADDRESS", filter.MatchGreater, filter.U32(uint32(i))))
		}},
		{"an address and five ports", 20_000, 8, func(m *made, i int) {
			conds := []filter.Condition{cond("IP_REMOTE_ADDRESS", filter.MatchEqual, filter.U32(m.r.Uint32()))}
			for range 5 {
				conds = append(conds, cond("IP_REMOTE_PORT", filter.MatchEqual, filter.U16(uint16(m.r.IntN(1<<16)))))
			}
			m.add(0, filter.ActionBlock, conds...)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMade(layermap.ALEAuthConnectV4, 1)
			for i := range c.filters {
				c.add(m, i)
			}
			if _, visits := m.check(t, 50); visits > c.visits {
				t.Errorf("%d branches visited for one verdict, want at most %d", visits, c.visits)
			}
		})
	}
}

// Sets that cut each other into too many classes stand among the field's other
// conditions, and thousands of filters may name them.
func TestManyFiltersOfSetsWithoutClasses(t *testing.T) {
	const sets = 9 // each combination of them is a class
	m := newMade(layermap.ALEAuthConnectV4, 1)
	var operands [sets]filter.Value
	for i := range operands {
		var b filter.SetBuilder
		add := func(a netip.Addr) {
			if err := b.Add(a, a); err != nil {
				t.Fatal(err)
			}
		}
		for n := range 1 << sets {
			if n>>i&1 != 0 {
				add(netip.AddrFrom4([4]byte{9, byte(n >> 8), byte(n), 1}))
			}
		}
		for range 5000 {
			add(netip.AddrFrom4([4]byte{byte(1 + m.r.IntN(200)), byte(m.r.Uint32()), byte(m.r.Uint32()), byte(m.r.Uint32())}))
		}
		operands[i] = filter.SetValue(b.Set(fmt.Sprint("set ", i), ""))
	}
	for n := range 1 << sets {
		m.pool["IP_REMOTE_ADDRESS"] = append(m.pool["IP_REMOTE_ADDRESS"], filter.U32(9<<24|uint32(n)<<8|1))
	}
	for i := range 3000 {
		m.add(i%3, filter.ActionPermit, cond("IP_REMOTE_ADDRESS", filter.MatchEqual, operands[m.r.IntN(sets)]),
			cond("INTERFACE_INDEX", filter.MatchGreater, filter.U32(uint32(m.r.IntN(5000)))))
	}
	m.check(t, 300)
}

// Flags that cut a field into millions of values are refused before they take the
// memory of the machine.
func TestTooManyFlagsAreRefused(t *testing.T) {
	m := newMade(layermap.ALEAuthConnectV4, 1)
	for bit := range 32 {
		m.add(0, filter.ActionBlock, cond("INTERFACE_INDEX", filter.MatchFlagsAllSet, filter.U32(1<<bit)))
	}
	if _, err := compile(m.p, portRange{32768, 60999}); !errors.Is(err, ErrLimit) {
		t.Errorf("compiled: %v, want %v", err, ErrLimit)
	}
}

// What stands for a token in the eyes of an access list is granted what the token is.
func TestTokensThatAreAlike(t *testing.T) {
	g := random.New(3)
	p := g.Large(random.ShapeHost, 2, map[layermap.LayerID]int{layermap.ALEAuthConnectV4: 300})
	n, err := numberIdentities(p)
	if err != nil {
		t.Fatal(err)
	}
	tokens := n.values(layermap.SlotUser)
	lists, reduced := 0, 0
	for _, f := range p.Store.Layer(layermap.ALEAuthConnectV4) {
		for i := range f.Conditions {
			if f.Conditions[i].Value.SD == nil {
				continue
			}
			lists++
			conds := f.Conditions[i : i+1]
			alike := n.alike(conds)
			for token, v := range tokens {
				like := alike(token)
				if like > token || alike(like) != like {
					t.Fatalf("token %d is alike %d, which does not come first", token, like)
				}
				if like < token {
					reduced++
				}
				if got, want := holds(conds, tokens[like]), holds(conds, v); got != want {
					t.Fatalf("token %v is granted %t, that stands for it, %v, %t by %v", v, want, tokens[like], got, f.Conditions[i])
				}
			}
		}
	}
	if lists == 0 || reduced == 0 {
		t.Errorf("%d access lists, %d tokens that others stand for", lists, reduced)
	}
}
