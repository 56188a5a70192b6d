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
	MaxFiltersPerLayer   = 1 << 17
	MaxSubLayersPerLayer = bpf.MaxSubLayers // 64
	MaxTokens            = 1 << 20          // uids x gids x services that a policy names
	// MaxAdded is how many filters of a layer are looked at beside tables in force
	// before these are made anew.
	MaxAdded = bpf.Added
	// MaxNodesPerField bounds what flag conditions of one layer on one field may
	// distinguish: many different masks can need a power of two of nodes.
	MaxNodesPerField = 1 << 14
	// These bound the tables of a policy. A cell takes 4 bytes, a bucket 96, a branch
	// 128 and a cut 8.
	MaxCells    = bpf.CellPages * bpf.CellPage
	MaxBuckets  = bpf.BucketPages * bpf.BucketPage
	MaxBranches = bpf.BranchPages * bpf.BranchPage
	MaxCuts     = bpf.CutPages * bpf.CutPage
)

// tables is a compiled policy: what the maps of one generation hold.
type tables struct {
	layers     map[layermap.LayerID]*bpf.Layer
	cells      []uint32
	buckets    []bpf.Bucket
	branches   []bpf.Branch // the first is none
	cuts       []bpf.Cut
	filters    []bpf.Filter
	records    []*filter.Filter // behind each of filters
	counts     map[layermap.LayerID]int
	generation bpf.Generation
	numbers    *numbers
	laid       map[layermap.LayerID]*laidLayer
}

// portRange is net.ipv4.ip_local_port_range.
type portRange struct{ low, high uint16 }

// Check is the error that Commit would give for what a policy holds: ErrLimit, or a
// condition that has no form in tables. It needs neither rights nor an instance.
func Check(p *policy.Policy) error {
	_, err := compile(p, portRange{}) // the range makes a flag, and no error
	if err == nil {
		_, err = redirectTargets(p.Store)
	}
	return err
}

// compile makes the tables of a policy.
func compile(p *policy.Policy, ephemeral portRange) (*tables, error) {
	t := &tables{
		layers:   map[layermap.LayerID]*bpf.Layer{},
		counts:   map[layermap.LayerID]int{},
		laid:     map[layermap.LayerID]*laidLayer{},
		cells:    make([]uint32, 1), // none is cell 0
		branches: make([]bpf.Branch, 1),
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
	t.putEpochs(p)
	return t, nil
}

// compiled is a filter on its way into the tables.
type compiled struct {
	filter   *filter.Filter
	block    bool
	hard     bool
	subLayer int
	asks     []ask // what it asks of the fields that the kernel fills
	wants    []want
}

// key orders a filter among those of its layer: a place there, and which one at it.
func (c *compiled) key(place, at uint32) uint32 {
	key := uint32(c.subLayer)<<bpf.KeySubLayer | place<<bpf.KeyPlace | at<<bpf.KeyAdded
	if c.block {
		key |= bpf.KeyBlock
	}
	if c.hard {
		key |= bpf.KeyHard
	}
	return key
}

// ask is a filter's conditions on one field of the layer.
type ask struct {
	field int // FWPS index
	conds []filter.Condition
}

// want is an ask in terms of the layer's tested fields.
type want struct{ field, group int32 }

// tested is a field that some filter of the layer tests.
type tested struct {
	index  int // 2 x FWPS index, and 1 for sets
	field  layermap.Field
	src    layermap.Source
	amends bool                 // its tables are those of an edition
	sets   bool                 // of two that share a field, the one with sets of addresses
	groups [][]filter.Condition // the distinct things asked
	leafing
	classing
}

func (t *tables) compileLayer(s *filter.Store, l *layermap.Layer, ephemeral portRange) error {
	list, err := effective(s, l)
	if err != nil || len(list) == 0 {
		return err
	}
	was := *t
	apart, err := t.layLayer(l, list, ephemeral, true)
	if apart {
		return err
	}
	*t = was
	_, err = t.layLayer(l, list, ephemeral, false)
	return err
}

// layLayer lays a layer's tables. Sets of addresses stand apart from the field's
// other conditions if they may: then their leaves are classes, and equal tables are
// shared. It reports whether there were classes for them.
func (t *tables) layLayer(l *layermap.Layer, list []compiled, ephemeral portRange, apart bool) (bool, error) {
	if n := list[len(list)-1].subLayer + 1; n > MaxSubLayersPerLayer {
		return true, fmt.Errorf("%w: %d sublayers with filters at %v, at most %d; bring filters together in fewer sublayers", ErrLimit, n, l.ID, MaxSubLayersPerLayer)
	}
	if len(list) > MaxFiltersPerLayer {
		return true, fmt.Errorf("%w: %d filters at %v, at most %d; put addresses that share an action in a set, or values of a field in one filter", ErrLimit, len(list), l.ID, MaxFiltersPerLayer)
	}
	fields := testedFields(l, list, apart)
	if apart && (len(fields) > bpf.MaxFields || wide(fields) > bpf.MaxWide) {
		return false, nil
	}
	if len(fields) > bpf.MaxFields {
		return true, fmt.Errorf("%w: %d fields are tested at %v, at most %d", ErrLimit, len(fields), l.ID, bpf.MaxFields)
	}
	layer := &bpf.Layer{
		Fields:    uint32(len(fields)),
		Sublayers: uint32(list[len(list)-1].subLayer + 1),
		Filters:   uint32(len(t.filters)),
	}
	for i := range list {
		t.filters = append(t.filters, bpf.Filter{Id: uint64(list[i].filter.ID)})
		t.records = append(t.records, list[i].filter)
	}
	for _, f := range fields {
		layer.Used |= 1 << f.src.Slot
		if err := t.number(l, f); err != nil {
			return true, err
		}
		if f.field.Key == "IP_LOCAL_PORT" && f.uniform(ephemeral) {
			layer.Flags |= bpf.EphemeralUniform
		}
	}
	if !assignClasses(fields) {
		return false, nil
	}
	search := newSearch(t, fields, list)
	layer.Root = search.build()
	for i, f := range fields {
		layer.Field[i] = t.layField(f, search.heads[i])
		if layer.Field[i].Levels == 0 && layer.Field[i].Flags&bpf.FieldPoints == 0 {
			layer.Wide[layer.Wides] = uint8(i) // no layer has more such fields than there is room for
			layer.Wides++
		}
	}
	if err := t.fits(); err != nil {
		return true, fmt.Errorf("%v: %w", l.ID, err)
	}
	t.counts[l.ID] = len(list)
	t.layers[l.ID] = layer
	t.laid[l.ID] = newLaidLayer(layer, list, search.idle)
	return true, nil
}

// wide counts the fields that have no levels, or may have none.
func wide(fields []*tested) int {
	n := 0
	for _, f := range fields {
		if widths[f.field.DataType] > 4 {
			n++
		}
	}
	return n
}

// fits is ErrLimit where a table has outgrown the maps.
func (t *tables) fits() error {
	for _, table := range []struct {
		of      string
		n, most int
	}{
		{"cells", len(t.cells), MaxCells}, {"buckets", len(t.buckets), MaxBuckets},
		{"branches", len(t.branches), MaxBranches}, {"cuts", len(t.cuts), MaxCuts},
	} {
		if table.n > table.most {
			return fmt.Errorf("%w: the filters up to this layer need tables of %d %s, at most %d; put lists of addresses in sets, make large sets smaller, or use fewer ranges that overlap",
				ErrLimit, table.n, table.of, table.most)
		}
	}
	return nil
}

// effective returns the filters of a layer that can decide something here, in
// evaluation order. What depends on no traffic is settled now: callouts that are
// not registered, and conditions on fields that have one value or none on Linux.
func effective(s *filter.Store, l *layermap.Layer) ([]compiled, error) {
	all := s.Layer(l.ID)
	list := make([]compiled, 0, len(all))
	sources := fieldSources(l)
	var last filter.GUID
	subLayer := -1
	for _, f := range all {
		c, decides := newCompiled(f)
		if !decides {
			continue
		}
		possible, err := c.settle(l, sources)
		if err != nil {
			return nil, err
		}
		if !possible {
			continue
		}
		if key := subLayerKey(f); subLayer < 0 || key != last {
			last = key
			subLayer++
		}
		c.subLayer = subLayer
		list = append(list, c)
	}
	return list, nil
}

// newCompiled settles a filter's action. It reports whether it has one that decides.
func newCompiled(f *filter.Filter) (c compiled, decides bool) {
	c.filter = f
	switch f.Action {
	case filter.ActionPermit:
		c.hard = f.Flags&filter.FlagClearActionRight != 0
	case filter.ActionBlock:
		c.block, c.hard = true, true
	case filter.ActionCalloutInspection:
		return c, false // not registered: ignored
	default:
		if classify := filter.Provided[f.Callout]; classify != nil {
			out := classify(f, nil, true) // each of these does the same with all that it is asked about
			c.block, c.hard = out.Action == filter.ActionBlock, out.ClearRight
		} else if f.Flags&filter.FlagPermitIfCalloutUnregistered != 0 {
			c.hard = f.Flags&filter.FlagClearActionRight != 0
		} else {
			c.block, c.hard = true, true
		}
	}
	return c, true
}

// fieldSources says where the values of a layer's fields come from.
func fieldSources(l *layermap.Layer) []layermap.Source {
	sources := make([]layermap.Source, len(l.Fields))
	for i, f := range l.Fields {
		sources[i] = l.Source(f.Key)
	}
	return sources
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
// words that they stand in, which the BPF programs rely on, and says in their
// terms what each filter wants. With apart, what asks for sets of addresses stands
// before the rest of its field.
func testedFields(l *layermap.Layer, list []compiled, apart bool) []*tested {
	known := make([]*tested, 2*len(l.Fields)) // by field, and sets behind
	seen := make([]map[string]int32, len(known))
	var fields []*tested
	var id []byte
	for i := range list {
		c := &list[i]
		c.wants = make([]want, len(c.asks))
		for n, a := range c.asks {
			at := 2 * a.field
			if apart && slices.ContainsFunc(a.conds, func(c filter.Condition) bool { return c.Value.Set != nil }) {
				at++
			}
			f := known[at]
			if f == nil {
				f = &tested{index: at, sets: at%2 == 1, field: l.Fields[a.field], src: l.Source(l.Fields[a.field].Key)}
				known[at], seen[at] = f, map[string]int32{}
				fields = append(fields, f)
			}
			id = conditionsKey(id[:0], a.conds)
			g, ok := seen[at][string(id)]
			if !ok {
				g = int32(len(f.groups))
				seen[at][string(id)] = g
				f.groups = append(f.groups, a.conds)
			}
			c.wants[n] = want{int32(at), g}
		}
	}
	slices.SortFunc(fields, func(a, b *tested) int {
		return cmp.Or(cmp.Compare(a.src.Slot, b.src.Slot), cmp.Compare(b.index, a.index))
	})
	number := make([]int32, len(known))
	for i, f := range fields {
		number[f.index] = int32(i)
	}
	for i := range list {
		for n := range list[i].wants {
			list[i].wants[n].field = number[list[i].wants[n].field]
		}
	}
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
