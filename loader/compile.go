// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/wfpebpf/wfpebpf/bpf"
	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
	"github.com/wfpebpf/wfpebpf/policy"
)

// Limits of a policy. Exceeding one is ErrLimit and changes nothing.
const (
	MaxFiltersPerLayer   = bpf.MaxPages * bpf.PageBits // 131,072
	MaxSubLayersPerLayer = bpf.MaxSubLayers            // 64
	MaxTokens            = 1 << 20                     // uids x gids x services that a policy names
	// MaxNodesPerField bounds what the conditions of one layer on one field may
	// distinguish. Ranges and prefixes need a few nodes each; flag conditions
	// with many different masks can need a power of two of them.
	MaxNodesPerField = 1 << 17
)

// tables is a compiled policy: what the maps of one generation hold.
type tables struct {
	layers     map[layermap.LayerID]*bpf.Layer
	nodes      []bpf.Node
	pages      []bpf.Page
	directory  []uint32
	filters    []bpf.Filter
	records    []*filter.Filter // behind each of filters
	generation bpf.Generation
	numbers    *numbers

	pageIDs map[bpf.Page]uint32
	rowIDs  map[string]uint32
}

// portRange is net.ipv4.ip_local_port_range.
type portRange struct{ low, high uint16 }

// compile makes the tables of a policy.
func compile(p *policy.Policy, ephemeral portRange) (*tables, error) {
	t := &tables{
		layers:  map[layermap.LayerID]*bpf.Layer{},
		pageIDs: map[bpf.Page]uint32{},
		rowIDs:  map[string]uint32{},
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

// compiled is a filter on its way into the tables: what it asks of each field
// that the kernel fills.
type compiled struct {
	filter *filter.Filter
	block  bool
	hard   bool
	asks   map[string][]filter.Condition // by field key
}

func (t *tables) compileLayer(s *filter.Store, l *layermap.Layer, ephemeral portRange) error {
	list, subLayers, err := effective(s, l)
	if err != nil || len(list) == 0 {
		return err
	}
	if len(list) > MaxFiltersPerLayer {
		return fmt.Errorf("%w: %d filters at %v, at most %d", ErrLimit, len(list), l.ID, MaxFiltersPerLayer)
	}
	if subLayers > MaxSubLayersPerLayer {
		return fmt.Errorf("%w: %d sublayers with filters at %v, at most %d", ErrLimit, subLayers, l.ID, MaxSubLayersPerLayer)
	}
	layer := &bpf.Layer{
		Pages:   uint32((len(list) + bpf.PageBits - 1) / bpf.PageBits),
		Filters: uint32(len(t.filters)),
	}
	t.addFilters(list)
	fields := testedFields(l, list)
	if len(fields) > bpf.MaxFields {
		return fmt.Errorf("%w: %d fields are tested at %v, at most %d", ErrLimit, len(fields), l.ID, bpf.MaxFields)
	}
	if len(fields) == 0 {
		// a layer of unconditional filters still needs one row: any field will do
		fields = l.Fields[:0:0]
		for _, f := range l.Fields {
			if l.Source(f.Key).Kind == layermap.Filled {
				fields = append(fields, f)
				break
			}
		}
	}
	for i, f := range fields {
		field, err := t.compileField(l, f, list, int(layer.Pages))
		if err != nil {
			return err
		}
		layer.Field[i] = field
		layer.Used |= 1 << field.Slot
		if f.Key == "IP_LOCAL_PORT" && t.uniform(field, ephemeral) {
			layer.Flags |= bpf.EphemeralUniform
		}
	}
	layer.Fields = uint32(len(fields))
	t.layers[l.ID] = layer
	return nil
}

// effective returns the filters of a layer that can decide something here, in
// evaluation order, and the number of their sublayers. What depends on no
// traffic is settled now: callouts that are not registered, and conditions on
// fields that have one value or none on Linux.
func effective(s *filter.Store, l *layermap.Layer) (list []compiled, subLayers int, err error) {
	var last filter.GUID
	for _, f := range s.Layer(l.ID) {
		c := compiled{filter: f, asks: map[string][]filter.Condition{}}
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
		possible, err := c.settle(l)
		if err != nil {
			return nil, 0, err
		}
		if !possible {
			continue
		}
		if key := subLayerKey(f); len(list) == 0 || key != last {
			last = key
			subLayers++
		}
		list = append(list, c)
	}
	return list, subLayers, nil
}

func subLayerKey(f *filter.Filter) filter.GUID {
	if f.SubLayer == (filter.GUID{}) {
		return filter.SubLayerUniversal
	}
	return f.SubLayer
}

// settle sorts a filter's conditions by field and decides those on fields that
// the kernel does not fill. possible is false where one of them fails.
func (c *compiled) settle(l *layermap.Layer) (possible bool, err error) {
	byField := map[string][]filter.Condition{}
	for _, cond := range c.filter.Conditions {
		key := layermap.CanonicalKey(cond.Field)
		byField[key] = append(byField[key], cond)
	}
	for key, conds := range byField {
		src := l.Source(key)
		switch src.Kind {
		case layermap.Filled:
			c.asks[key] = conds
			continue
		case layermap.Refused:
			return false, fmt.Errorf("filter %d %q, %v: %s: %s", c.filter.ID, c.filter.Name, l.ID, key, src.From)
		}
		var v filter.Value // Never: empty
		if src.Kind == layermap.Constant {
			v = filter.Value{Type: l.Fields[l.FieldIndex(key)].DataType, Num: src.Value}
		}
		if !slices.ContainsFunc(conds, func(c filter.Condition) bool { return c.Matches(v) }) {
			return false, nil
		}
	}
	return true, nil
}

// addFilters appends the records of a layer.
func (t *tables) addFilters(list []compiled) {
	first := len(t.filters)
	for _, c := range list {
		r := bpf.Filter{Id: uint64(c.filter.ID), Action: uint16(filter.ActionPermit)}
		if c.block {
			r.Action = uint16(filter.ActionBlock)
		}
		if c.hard {
			r.Hard = 1
		}
		t.filters = append(t.filters, r)
		t.records = append(t.records, c.filter)
	}
	next := uint32(len(list))
	for i := len(list) - 1; i >= 0; i-- {
		if i+1 < len(list) && subLayerKey(list[i].filter) != subLayerKey(list[i+1].filter) {
			next = uint32(i + 1)
		}
		t.filters[first+i].Next = next
	}
}

// testedFields returns the fields that some filter tests, by slot, as the BPF
// programs need them.
func testedFields(l *layermap.Layer, list []compiled) []layermap.Field {
	var fields []layermap.Field
	for _, f := range l.Fields {
		tested := func(c compiled) bool { return c.asks[f.Key] != nil }
		if slices.ContainsFunc(list, tested) {
			fields = append(fields, f)
		}
	}
	slices.SortStableFunc(fields, func(a, b layermap.Field) int {
		return cmp.Compare(l.Source(a.Key).Slot, l.Source(b.Key).Slot)
	})
	return fields
}

// asked is the distinct groups of conditions on a field, which filters ask
// each, and which filters ask nothing.
type asked struct {
	groups [][]filter.Condition
	by     [][]int32 // by group: filters
	free   []uint64  // bits of the filters without a condition on the field
}

func ask(key string, list []compiled) asked {
	a := asked{free: make([]uint64, (len(list)+63)/64)}
	seen := map[string]int{}
	for i, c := range list {
		conds := c.asks[key]
		if conds == nil {
			a.free[i/64] |= 1 << (i % 64)
			continue
		}
		id := conditionsKey(conds)
		g, ok := seen[id]
		if !ok {
			g = len(a.groups)
			seen[id] = g
			a.groups = append(a.groups, conds)
			a.by = append(a.by, nil)
		}
		a.by[g] = append(a.by[g], int32(i))
	}
	return a
}

// conditionsKey tells equal groups of conditions by their content.
func conditionsKey(conds []filter.Condition) string {
	var b strings.Builder
	for _, c := range conds {
		fmt.Fprintf(&b, "%d:%d:", c.Match, c.Value.Type)
		writeValue(&b, c.Value)
		b.WriteByte(0)
	}
	return b.String()
}

func writeValue(b *strings.Builder, v filter.Value) {
	var n [8]byte
	binary.LittleEndian.PutUint64(n[:], v.Num)
	b.Write(n[:])
	fmt.Fprintf(b, "%d:", len(v.Bytes))
	b.Write(v.Bytes)
	b.WriteString(string(v.SID))
	b.WriteString(v.Text)
	if v.SD != nil {
		fmt.Fprintf(b, "%v", *v.SD)
	}
	if v.Range != nil {
		writeValue(b, v.Range.Low)
		writeValue(b, v.Range.High)
	}
}

// rows turns the groups that hold into a row of filter bits and its leaf.
type rows struct {
	t     *tables
	asked asked
	pages int
	known map[string]uint32 // by groups
}

func (r *rows) leaf(holds []int32) uint32 {
	id := make([]byte, 0, 4*len(holds))
	for _, g := range holds {
		id = binary.LittleEndian.AppendUint32(id, uint32(g))
	}
	if at, ok := r.known[string(id)]; ok {
		return at
	}
	bits := slices.Clone(r.asked.free)
	for _, g := range holds {
		for _, f := range r.asked.by[g] {
			bits[f/64] |= 1 << (f % 64)
		}
	}
	at := r.t.row(bits, r.pages)
	r.known[string(id)] = at
	return at
}

// row stores a row and returns where it starts: its page, or the first of its
// directory entries where rows have several pages.
func (t *tables) row(bits []uint64, pages int) uint32 {
	ids := make([]uint32, pages)
	for p := range ids {
		var page bpf.Page
		for w := range bpf.PageWords {
			if i := p*bpf.PageWords + w; i < len(bits) && bits[i] != 0 {
				page.Word[w] = bits[i]
				page.Word[bpf.PageWords] |= 1 << w
			}
		}
		id, ok := t.pageIDs[page]
		if !ok {
			id = uint32(len(t.pages))
			t.pages = append(t.pages, page)
			t.pageIDs[page] = id
		}
		ids[p] = id
	}
	if pages == 1 {
		return ids[0]
	}
	var b []byte
	for _, id := range ids {
		b = binary.LittleEndian.AppendUint32(b, id)
	}
	at, ok := t.rowIDs[string(b)]
	if !ok {
		at = uint32(len(t.directory))
		t.directory = append(t.directory, ids...)
		t.rowIDs[string(b)] = at
	}
	return at
}

func (t *tables) compileField(l *layermap.Layer, f layermap.Field, list []compiled, pages int) (bpf.Field, error) {
	src := l.Source(f.Key)
	r := &rows{t: t, asked: ask(f.Key, list), pages: pages, known: map[string]uint32{}}
	field := bpf.Field{Slot: uint8(src.Slot)}
	emptyHolds := r.holds(filter.Value{})
	field.Empty = r.leaf(emptyHolds)
	if values := t.numbers.values(src.Slot, l); values != nil {
		field.Kind = bpf.KindDirect
		field.Count = uint32(len(values))
		leaves := make([]uint32, len(values))
		for n, v := range values {
			leaves[n] = r.leaf(r.holds(v))
		}
		// rows of several pages grow the directory, too: the leaves go last
		field.Root = uint32(len(t.directory))
		t.directory = append(t.directory, leaves...)
		return field, nil
	}
	width, ok := widths[f.DataType]
	if !ok {
		return field, fmt.Errorf("%v: %s of type %v cannot be compiled: %w", l.ID, f.Key, f.DataType, filter.ErrTypeMismatch)
	}
	tr := &trie{width: width, nodes: &t.nodes, leaf: r.leaf}
	for _, conds := range r.asked.groups {
		var g group
		for _, c := range conds {
			ms, err := members(c, width)
			if err != nil {
				return field, err
			}
			g.members = append(g.members, ms...)
		}
		tr.groups = append(tr.groups, g)
	}
	field.Kind = bpf.KindTrie
	field.Width = uint8(width)
	field.Root = tr.build()
	if tr.full {
		return field, fmt.Errorf("%w: the conditions on %s at %v tell too many values apart (more than %d table nodes); use fewer different flag masks",
			ErrLimit, f.Key, l.ID, MaxNodesPerField)
	}
	return field, nil
}

// holds is the groups that hold for one value, as the evaluator says.
func (r *rows) holds(v filter.Value) []int32 {
	var holds []int32
	for g, conds := range r.asked.groups {
		if slices.ContainsFunc(conds, func(c filter.Condition) bool { return c.Matches(v) }) {
			holds = append(holds, int32(g))
		}
	}
	return holds
}

// uniform reports whether all ephemeral ports lead to one leaf.
func (t *tables) uniform(f bpf.Field, ephemeral portRange) bool {
	first := t.walk(f, numberKey(uint64(ephemeral.low), 2))
	for port := int(ephemeral.low) + 1; port <= int(ephemeral.high); port++ {
		if t.walk(f, numberKey(uint64(port), 2)) != first {
			return false
		}
	}
	return true
}

// walk is wfp_walk (bpf/classify.h) in Go.
func (t *tables) walk(f bpf.Field, k key) uint32 {
	at := f.Root
	for i := 0; at&bpf.Leaf == 0; i++ {
		at = t.nodes[at].Next[k[i]]
	}
	return at &^ bpf.Leaf
}
