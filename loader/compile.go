// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/wfpebpf/wfpebpf/bpf"
	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
	"github.com/wfpebpf/wfpebpf/policy"
)

// Limits of a policy. Exceeding one is ErrLimit and changes nothing.
const (
	// MaxFiltersPerLayer counts positions of rows: a sublayer's filters start at
	// a multiple of 64.
	MaxFiltersPerLayer   = bpf.MaxPages * bpf.PageBits // 131,072
	MaxSubLayersPerLayer = bpf.MaxSubLayers            // 64
	MaxTokens            = 1 << 20                     // uids x gids x services that a policy names
	// MaxNodesPerField bounds what flag conditions of one layer on one field may
	// distinguish: many different masks can need a power of two of nodes.
	MaxNodesPerField = 1 << 14
	// MaxNodes bounds the tables of a policy; a node takes 1 KiB.
	MaxNodes = 1 << 20
)

// tables is a compiled policy: what the maps of one generation hold.
type tables struct {
	layers     map[layermap.LayerID]*bpf.Layer
	nodes      []bpf.Node
	buckets    []bpf.Bucket
	heads      []bpf.Head
	pages      []bpf.Page
	directory  []uint32
	filters    []bpf.Filter
	records    []*filter.Filter // behind each of filters; nil for a position not used
	counts     map[layermap.LayerID]int
	generation bpf.Generation
	numbers    *numbers

	pageIDs map[bpf.Page]uint32
	headIDs map[string]uint32
}

// portRange is net.ipv4.ip_local_port_range.
type portRange struct{ low, high uint16 }

// compile makes the tables of a policy.
func compile(p *policy.Policy, ephemeral portRange) (*tables, error) {
	t := &tables{
		layers:  map[layermap.LayerID]*bpf.Layer{},
		counts:  map[layermap.LayerID]int{},
		pageIDs: map[bpf.Page]uint32{},
		headIDs: map[string]uint32{},
	}
	var err error
	if t.numbers, err = numberIdentities(p); err != nil {
		return nil, err
	}
	t.generation = t.numbers.generation()
	for _, l := range layermap.Layers() {
		if !l.Hook().Live {
			continue
		}
		if err := t.compileLayer(p.Store, &l, ephemeral); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// compiled is a filter on its way into the tables.
type compiled struct {
	filter   *filter.Filter
	block    bool
	hard     bool
	subLayer int
	rank     int   // in the sublayer
	position int32 // in the rows
	asks     []ask // what it asks of the fields that the kernel fills
}

// ask is a filter's conditions on one field of the layer.
type ask struct {
	field int // FWPS index
	conds []filter.Condition
}

func (c *compiled) asksOf(field int) []filter.Condition {
	for i := range c.asks {
		if c.asks[i].field == field {
			return c.asks[i].conds
		}
	}
	return nil
}

// tested is a field that some filter of the layer tests.
type tested struct {
	index   int // FWPS index
	field   layermap.Field
	src     layermap.Source
	groups  [][]filter.Condition // the distinct things asked
	by      [][]int32            // by group: the filters that ask it
	free    []int32              // the filters that ask nothing
	classes classes
	empty   uint32   // class of a field without a value
	direct  []uint32 // classes by number, of a field that holds numbers
	root    uint32   // until laid out: leaves hold classes
	skip    int

	nodes, buckets [2]int // what the field has of the tables
}

func (t *tables) compileLayer(s *filter.Store, l *layermap.Layer, ephemeral portRange) error {
	list, err := effective(s, l)
	if err != nil || len(list) == 0 {
		return err
	}
	if n := list[len(list)-1].subLayer + 1; n > MaxSubLayersPerLayer {
		return fmt.Errorf("%w: %d sublayers with filters at %v, at most %d", ErrLimit, n, l.ID, MaxSubLayersPerLayer)
	}
	fields := testedFields(l, list)
	if len(fields) > bpf.MaxFields {
		return fmt.Errorf("%w: %d fields are tested at %v, at most %d", ErrLimit, len(fields), l.ID, bpf.MaxFields)
	}
	positions := t.place(list, fields)
	if positions > MaxFiltersPerLayer {
		return fmt.Errorf("%w: %d filters at %v need %d places, at most %d", ErrLimit, len(list), l.ID, positions, MaxFiltersPerLayer)
	}
	layer := &bpf.Layer{
		Pages:   uint32((positions + bpf.PageBits - 1) / bpf.PageBits),
		Filters: uint32(len(t.filters)),
		Fields:  uint32(len(fields)),
	}
	t.counts[l.ID] = len(list)
	t.addFilters(list, positions)
	for _, f := range fields {
		layer.Used |= 1 << f.src.Slot
		if err := t.classify(l, f); err != nil {
			return err
		}
		if f.field.Key == "IP_LOCAL_PORT" && t.uniform(f, ephemeral) {
			layer.Flags |= bpf.EphemeralUniform
		}
	}
	t.layRows(layer, fields, list)
	t.layers[l.ID] = layer
	return nil
}

// effective returns the filters of a layer that can decide something here, in
// evaluation order. What depends on no traffic is settled now: callouts that are
// not registered, and conditions on fields that have one value or none on Linux.
func effective(s *filter.Store, l *layermap.Layer) ([]compiled, error) {
	all := s.Layer(l.ID)
	list := make([]compiled, 0, len(all))
	sources := make([]layermap.Source, len(l.Fields))
	for i, f := range l.Fields {
		sources[i] = l.Source(f.Key)
	}
	var last filter.GUID
	subLayer, rank := -1, 0
	for _, f := range all {
		c := compiled{filter: f}
		switch f.Action {
		case filter.ActionPermit:
			c.hard = f.Flags&filter.FlagClearActionRight != 0
		case filter.ActionBlock:
			c.block, c.hard = true, true
		case filter.ActionCalloutInspection:
			continue // not registered: ignored
		default:
			if f.Flags&filter.FlagPermitIfCalloutUnregistered != 0 {
				c.hard = f.Flags&filter.FlagClearActionRight != 0
			} else {
				c.block, c.hard = true, true
			}
		}
		possible, err := c.settle(l, sources)
		if err != nil {
			return nil, err
		}
		if !possible {
			continue
		}
		if key := subLayerKey(f); subLayer < 0 || key != last {
			last, rank = key, 0
			subLayer++
		}
		c.subLayer, c.rank = subLayer, rank
		rank++
		list = append(list, c)
	}
	return list, nil
}

func subLayerKey(f *filter.Filter) filter.GUID {
	if f.SubLayer == (filter.GUID{}) {
		return filter.SubLayerUniversal
	}
	return f.SubLayer
}

// settle sorts a filter's conditions by field and decides those on fields that
// the kernel does not fill. possible is false where one of them fails.
func (c *compiled) settle(l *layermap.Layer, sources []layermap.Source) (possible bool, err error) {
	var asks []ask
	for i := range c.filter.Conditions {
		field := l.FieldIndex(c.filter.Conditions[i].Field)
		n := slices.IndexFunc(asks, func(a ask) bool { return a.field == field })
		if n < 0 {
			n = len(asks)
			asks = append(asks, ask{field: field})
		}
		asks[n].conds = append(asks[n].conds, c.filter.Conditions[i])
	}
	for _, a := range asks {
		src := sources[a.field]
		switch src.Kind {
		case layermap.Filled:
			c.asks = append(c.asks, a)
			continue
		case layermap.Refused:
			return false, fmt.Errorf("filter %d %q, %v: %s: %s", c.filter.ID, c.filter.Name, l.ID, l.Fields[a.field].Key, src.From)
		}
		var v filter.Value // Never: empty
		if src.Kind == layermap.Constant {
			v = filter.Value{Type: l.Fields[a.field].DataType, Num: src.Value}
		}
		if !holds(a.conds, v) {
			return false, nil
		}
	}
	return true, nil
}

// holds is whether one of a field's conditions holds, as the evaluator says.
func holds(conds []filter.Condition, v filter.Value) bool {
	return slices.ContainsFunc(conds, func(c filter.Condition) bool { return c.Matches(v) })
}

// testedFields collects the fields that some filter tests, in the order of the
// words that they stand in, which the BPF programs rely on. Where no filter
// tests any, one field stands in, since every layer needs a row.
func testedFields(l *layermap.Layer, list []compiled) []*tested {
	byField := make([]*tested, len(l.Fields))
	seen := make([]map[string]int, len(l.Fields))
	var id []byte
	for i := range list {
		for _, a := range list[i].asks {
			f := byField[a.field]
			if f == nil {
				f = &tested{index: a.field, field: l.Fields[a.field], src: l.Source(l.Fields[a.field].Key)}
				byField[a.field], seen[a.field] = f, map[string]int{}
			}
			id = conditionsKey(id[:0], a.conds)
			g, ok := seen[a.field][string(id)]
			if !ok {
				g = len(f.groups)
				seen[a.field][string(id)] = g
				f.groups = append(f.groups, a.conds)
				f.by = append(f.by, nil)
			}
			f.by[g] = append(f.by[g], int32(i))
		}
	}
	var fields []*tested
	for _, f := range byField {
		if f != nil {
			fields = append(fields, f)
		}
	}
	if len(fields) == 0 {
		i := slices.IndexFunc(l.Fields, func(f layermap.Field) bool { return l.Source(f.Key).Kind == layermap.Filled })
		fields = append(fields, &tested{index: i, field: l.Fields[i], src: l.Source(l.Fields[i].Key)})
	}
	for _, f := range fields {
		for i := range list {
			if list[i].asksOf(f.index) == nil {
				f.free = append(f.free, int32(i))
			}
		}
	}
	slices.SortStableFunc(fields, func(a, b *tested) int { return cmp.Compare(a.src.Slot, b.src.Slot) })
	return fields
}

// conditionsKey tells equal groups of conditions by their content.
func conditionsKey(b []byte, conds []filter.Condition) []byte {
	for i := range conds {
		b = append(b, byte(conds[i].Match))
		b = valueKeyText(b, &conds[i].Value)
	}
	return b
}

func valueKeyText(b []byte, v *filter.Value) []byte {
	text := func(s string) {
		b = binary.LittleEndian.AppendUint32(b, uint32(len(s)))
		b = append(b, s...)
	}
	b = binary.LittleEndian.AppendUint16(b, uint16(v.Type))
	b = binary.LittleEndian.AppendUint64(b, v.Num)
	text(string(v.Bytes))
	text(string(v.SID))
	text(v.Text)
	if v.SD != nil {
		text(fmt.Sprintf("%v", *v.SD))
	}
	if v.Set != nil {
		text(v.Set.Digest())
	}
	if v.Range != nil {
		b = valueKeyText(b, &v.Range.Low)
		b = valueKeyText(b, &v.Range.High)
	}
	return b
}

// smallSubLayer is up to how many filters a sublayer is not cut into groups: the
// words that it takes are read as fast as looked for.
const smallSubLayer = 128

// place gives each filter its position in the rows. A sublayer starts at a
// word. A large one is cut into groups, by which of the layer's most varied
// fields a filter tests: in a group, the rows of that field have few bits, so
// that the AND of the summaries leads to few words. It returns the number of
// positions.
func (t *tables) place(list []compiled, fields []*tested) int {
	varied := slices.Clone(fields)
	slices.SortStableFunc(varied, func(a, b *tested) int { return cmp.Compare(len(b.groups), len(a.groups)) })
	varied = varied[:min(len(varied), bpf.MaxGroups-1)]
	position := int32(0)
	for from := 0; from < len(list); {
		to := from
		for to < len(list) && list[to].subLayer == list[from].subLayer {
			to++
		}
		groups := [bpf.MaxGroups][]*compiled{}
		for i := from; i < to; i++ {
			g := 0
			if to-from > smallSubLayer {
				g = slices.IndexFunc(varied, func(f *tested) bool { return list[i].asksOf(f.index) != nil })
				if g < 0 {
					g = bpf.MaxGroups - 1
				}
			}
			groups[g] = append(groups[g], &list[i])
		}
		for _, g := range groups {
			for _, c := range g {
				c.position = position
				position++
			}
			position = (position + 63) &^ 63
		}
		from = to
	}
	return int(position)
}

// addFilters appends the records of a layer, one for each position.
func (t *tables) addFilters(list []compiled, positions int) {
	first := len(t.filters)
	t.filters = append(t.filters, make([]bpf.Filter, positions)...)
	t.records = append(t.records, make([]*filter.Filter, positions)...)
	for i := range list {
		c := &list[i]
		r := bpf.Filter{Id: uint64(c.filter.ID), Rank: uint32(c.rank), Sublayer: uint16(c.subLayer), Action: uint16(filter.ActionPermit)}
		if c.block {
			r.Action = uint16(filter.ActionBlock)
		}
		if c.hard {
			r.Hard = 1
		}
		t.filters[first+int(c.position)] = r
		t.records[first+int(c.position)] = c.filter
	}
	// a group ends where a gap or another sublayer comes, at a word
	next := uint32(positions)
	for i := positions - 1; i >= 0; i-- {
		if i%64 == 63 && i+1 < positions {
			here, there := t.records[first+i], t.records[first+i+1]
			if here == nil || there == nil || t.filters[first+i].Sublayer != t.filters[first+i+1].Sublayer ||
				t.filters[first+i].Rank > t.filters[first+i+1].Rank {
				next = uint32(i + 1)
			}
		}
		t.filters[first+i].Next = next
	}
}

// classify cuts a field's values into classes and lays what leads to them.
func (t *tables) classify(l *layermap.Layer, f *tested) error {
	f.nodes[0], f.buckets[0] = len(t.nodes), len(t.buckets)
	f.empty = f.classes.class(f.holds(filter.Value{}))
	if values := t.numbers.values(f.src.Slot); values != nil && l.Family != layermap.AnyFamily {
		for _, v := range values {
			f.direct = append(f.direct, f.classes.class(f.holds(v)))
		}
		return nil
	}
	width, ok := widths[f.field.DataType]
	if !ok {
		return fmt.Errorf("%v: %s of type %v cannot be compiled: %w", l.ID, f.field.Key, f.field.DataType, filter.ErrTypeMismatch)
	}
	tr := &trie{width: width, nodes: &t.nodes, buckets: &t.buckets, classes: &f.classes}
	for _, conds := range f.groups {
		var g group
		for _, c := range conds {
			ms, err := members(c, width)
			if err != nil {
				return err
			}
			g.members = append(g.members, ms...)
		}
		tr.groups = append(tr.groups, g)
	}
	f.root, f.skip = tr.build()
	f.nodes[1], f.buckets[1] = len(t.nodes), len(t.buckets)
	if tr.full {
		return fmt.Errorf("%w: the conditions on %s at %v tell too many values apart; use fewer different flag masks",
			ErrLimit, f.field.Key, l.ID)
	}
	return nil
}

// holds is the groups that hold for one value, as the evaluator says.
func (f *tested) holds(v filter.Value) []int32 {
	var list []int32
	for g, conds := range f.groups {
		if holds(conds, v) {
			list = append(list, int32(g))
		}
	}
	return list
}

// uniform reports whether all ephemeral ports are of one class.
func (t *tables) uniform(f *tested, ephemeral portRange) bool {
	first := t.walk(f.root, numberKey(uint64(ephemeral.low), 2))
	for port := int(ephemeral.low) + 1; port <= int(ephemeral.high); port++ {
		if t.walk(f.root, numberKey(uint64(port), 2)) != first {
			return false
		}
	}
	return true
}

// walk is wfp_walk (bpf/classify.h) in Go: the leaf of a value whose bytes stand
// left-justified in each of two words.
func (t *tables) walk(at uint32, k key) uint32 {
	word := binary.BigEndian.Uint64(k[:8])
	for at&bpf.Leaf == 0 {
		if at&bpf.SecondFlag != 0 {
			word = binary.BigEndian.Uint64(k[8:])
		}
		entry := at &^ (bpf.SecondFlag | bpf.BucketFlag)
		if at&bpf.BucketFlag == 0 {
			at = t.nodes[entry].Next[word>>56]
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
	return at &^ bpf.Leaf
}
