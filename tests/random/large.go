// SPDX-License-Identifier: Apache-2.0

package random

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
	"github.com/wfpebpf/wfpebpf/policy"
)

// Shape is what the filters of a large layer have in common. What is harmless
// in one shape is the worst case in another: a table of classes grows with what
// filters tell apart, a list of candidates with what they share.
type Shape string

// The shapes.
const (
	ShapeNarrow  Shape = "narrow"  // as in tests/bench/rules.go: a prefix or a port for one protocol
	ShapeHost    Shape = "host"    // as on a Windows host: programs, users, lists of ports and networks
	ShapeNested  Shape = "nested"  // prefixes of all lengths around a few addresses
	ShapeHoles   Shape = "holes"   // masks that are no prefixes, among prefixes
	ShapeAlike   Shape = "alike"   // all ask the same, but of one field
	ShapeStairs  Shape = "stairs"  // ranges, each of which overlaps the next ones
	ShapeMesh    Shape = "mesh"    // each source with each destination
	ShapeSmall   Shape = "small"   // only fields of few values: protocol, types, flags, profile
	ShapeTuples  Shape = "tuples"  // one value of every field that has many
	ShapeRandom  Shape = "random"  // any form of condition on any field
	ShapeMixture Shape = "mixture" // of all of these
)

// Shapes is all of them.
var Shapes = []Shape{
	ShapeNarrow, ShapeHost, ShapeNested, ShapeHoles, ShapeAlike, ShapeStairs, ShapeMesh, ShapeSmall, ShapeTuples, ShapeRandom, ShapeMixture,
}

// Suits reports whether a layer has the fields that make a shape what it is.
func (s Shape) Suits(l *layermap.Layer) bool {
	k := kindsOf(l)
	switch s {
	case ShapeHost:
		return l.FieldIndex("ALE_APP_ID") >= 0
	case ShapeNarrow, ShapeNested, ShapeMixture:
		return len(k.addresses) > 0
	case ShapeHoles:
		return len(k.addresses) > 0 && l.Family == layermap.V4
	case ShapeStairs:
		return len(k.ordered) > 0
	case ShapeMesh, ShapeTuples:
		return len(k.wide) > 1
	}
	return true
}

// fieldKinds sorts the fields that traffic fills.
type fieldKinds struct {
	addresses []layermap.Field // IP
	ordered   []layermap.Field // addresses and ports
	wide      []layermap.Field // of many values: these and MAC addresses
	small     []layermap.Field // of few, flags among them
}

func kindsOf(l *layermap.Layer) fieldKinds {
	var k fieldKinds
	for _, f := range l.Fields {
		if l.Source(f.Key).Kind != layermap.Filled {
			continue
		}
		switch {
		case f.Type == layermap.IPAddress:
			k.addresses = append(k.addresses, f)
			k.ordered = append(k.ordered, f)
			k.wide = append(k.wide, f)
		case f.DataType == layermap.Uint16:
			k.ordered = append(k.ordered, f)
			k.wide = append(k.wide, f)
		case f.DataType == layermap.ByteArray6:
			k.wide = append(k.wide, f)
		default:
			k.small = append(k.small, f)
		}
	}
	if len(k.wide) == 0 {
		for _, f := range k.small {
			if bits(f.DataType) >= 32 && f.Type != layermap.FlagsField {
				k.wide = append(k.wide, f)
				k.ordered = append(k.ordered, f)
			}
		}
	}
	return k
}

// Names in large policies.
const largeApps, largeUsers, largeGroups = 300, 12, 3

// largeNames makes identities for policies with thousands of filters.
func (g *Generator) largeNames() {
	g.apps = slices.Clone(Apps)
	for i := range largeApps {
		g.apps = append(g.apps, fmt.Sprintf("/opt/app%d/bin/program", i))
	}
	g.uids, g.gids = nil, nil
	for i := range uint32(largeUsers) {
		g.uids = append(g.uids, 1000+i)
	}
	for i := range uint32(largeGroups) {
		g.gids = append(g.gids, 100+i)
	}
}

// large is a layer of a large policy in the making.
type large struct {
	*Generator
	l     *layermap.Layer
	k     fieldKinds
	shape Shape
	n     int

	bases           []filter.Value     // of ShapeNested and ShapeHoles
	common          []filter.Condition // of ShapeAlike: what all ask
	differs         layermap.Field     // and where they differ
	step            uint64             // of ShapeStairs
	depth           uint64
	side            int                           // of ShapeMesh
	holes, prefixes []filter.Value                // of ShapeHoles
	forms           map[string][]filter.Condition // of ShapeRandom, by field, to be used again
}

func (g *Generator) newLarge(l *layermap.Layer, shape Shape, n int) *large {
	if !shape.Suits(l) {
		shape = ShapeRandom
	}
	b := &large{Generator: g, l: l, k: kindsOf(l), shape: shape, n: n, step: 2 + g.r.Uint64N(5), depth: 2 + g.r.Uint64N(40)}
	for b.side = 1; b.side*b.side < n; b.side++ {
	}
	if shape == ShapeAlike {
		b.differs = pick(g, b.k.wide)
		for _, f := range append(slices.Clone(b.k.small), b.k.wide...) {
			if f.Key == b.differs.Key || g.one(3) {
				continue
			}
			c := filter.Condition{Field: f.Key, Match: filter.MatchEqual, Value: b.any(f)}
			switch {
			case f.Type == layermap.IPAddress:
				c.Value = prefixOf(c.Value, 8)
			case f.Key == "ALE_USER_ID":
				c.Value = filter.SDValue(&filter.SecurityDescriptor{Entries: []filter.ACE{{Allow: true, Mask: 1, SID: filter.UnixUser(pick(g, g.uids))}}})
			case f.Key == "ALE_PACKAGE_ID":
				c.Value = filter.SIDValue(packages[0])
			}
			b.common = append(b.common, c)
		}
	}
	return b
}

// Large makes a policy of a shape with so many filters at each layer; where a
// layer lacks the fields for it, of ShapeRandom. Traffic of Values then meets
// the conditions of filters from everywhere in the order.
func (g *Generator) Large(shape Shape, subLayers int, filters map[layermap.LayerID]int) *policy.Policy {
	g.largeNames()
	s, keys := g.newStore(subLayers)
	g.filters, g.asked = map[layermap.LayerID][]*filter.Filter{}, map[layermap.LayerID]map[string][]filter.Condition{}
	g.larges, g.recent = map[layermap.LayerID]*large{}, nil
	for _, l := range layermap.Layers() {
		n := filters[l.ID]
		if n == 0 {
			continue
		}
		b := g.newLarge(&l, shape, n)
		g.larges[l.ID] = b
		g.asked[l.ID] = map[string][]filter.Condition{}
		robin := g.one(2)
		for i := range n {
			sub := keys[i*len(keys)/n] // as in the benchmark
			if robin || i < len(keys) {
				sub = keys[i%len(keys)]
			}
			f := b.filter(i, sub)
			must(s.AddFilter(f))
			g.learn(f)
		}
	}
	return &policy.Policy{Store: s, Services: Services, Packages: Packages}
}

// learn makes traffic aim at a filter.
func (g *Generator) learn(f *filter.Filter) {
	g.filters[f.Layer] = append(g.filters[f.Layer], f)
	for _, c := range f.Conditions {
		g.asked[f.Layer][c.Field] = append(g.asked[f.Layer][c.Field], c)
	}
}

// Edit returns a policy of Large with a few filters of a layer removed, added
// or turned into their opposite. Half of the traffic then aims at those.
func (g *Generator) Edit(p *policy.Policy, l *layermap.Layer, changes int) *policy.Policy {
	s := p.Store.Clone()
	b := g.larges[l.ID]
	g.recent = nil
	for range changes {
		at := g.r.IntN(len(g.filters[l.ID]))
		old := g.filters[l.ID][at]
		switch g.r.IntN(3) {
		case 0:
			must(s.DeleteFilter(old.ID))
			g.filters[l.ID] = slices.Delete(g.filters[l.ID], at, at+1)
			g.recent = append(g.recent, old) // what is gone must be gone
		case 1:
			f := b.filter(g.r.IntN(b.n), old.SubLayer)
			must(s.AddFilter(f))
			g.learn(f)
			g.recent = append(g.recent, f)
		case 2:
			must(s.DeleteFilter(old.ID))
			f := &filter.Filter{
				Name: old.Name + ", turned", Layer: old.Layer, SubLayer: old.SubLayer, Action: filter.ActionBlock,
				Weight: old.Weight, Conditions: old.Conditions,
			}
			if old.Action == filter.ActionBlock {
				f.Action = filter.ActionPermit
			}
			must(s.AddFilter(f))
			g.filters[l.ID][at] = f
			g.recent = append(g.recent, f)
		}
	}
	return &policy.Policy{Store: s, Services: p.Services, Packages: p.Packages}
}

// filter makes the filter with a number.
func (b *large) filter(i int, sub filter.GUID) *filter.Filter {
	shape, broad := b.shape, false
	if shape == ShapeMixture {
		// What is broad comes rarely, or nothing else would ever decide.
		for shape = ShapeMixture; shape == ShapeMixture || !shape.Suits(b.l); {
			shape = pick(b.Generator, []Shape{ShapeNarrow, ShapeHost, ShapeStairs, ShapeMesh, ShapeTuples})
			if b.one(40) {
				broad = true
				shape = pick(b.Generator, []Shape{ShapeNested, ShapeHoles, ShapeSmall, ShapeRandom})
			}
		}
	}
	f := &filter.Filter{Name: fmt.Sprintf("%s %d, %s", b.l.Name, i, shape), Layer: b.l.ID, SubLayer: sub, Action: filter.ActionPermit}
	switch b.r.IntN(8) {
	case 0:
		f.Action = filter.ActionBlock
	case 1:
		if b.one(3) {
			f.Flags |= filter.FlagClearActionRight
		}
	}
	switch b.r.IntN(4) {
	case 0:
		f.Weight = filter.U64(b.r.Uint64N(1 << 20)) // some are equal: the ids decide
	case 1:
		f.Weight = filter.U8(uint8(b.r.IntN(16)))
	default:
		f.Weight = filter.U64(uint64(b.n + 1000 - i%b.n))
	}
	switch shape {
	case ShapeNarrow:
		b.narrow(f)
	case ShapeHost:
		b.host(f)
	case ShapeNested, ShapeHoles:
		b.nested(f, shape == ShapeHoles)
	case ShapeAlike:
		for _, c := range b.common {
			b.add(f, c.Field, c.Match, c.Value)
		}
		b.add(f, b.differs.Key, filter.MatchEqual, b.any(b.differs))
	case ShapeStairs:
		b.stairs(f, i)
	case ShapeMesh:
		b.add(f, b.k.wide[0].Key, filter.MatchEqual, b.nth(b.k.wide[0], i%b.side))
		b.add(f, b.k.wide[1].Key, filter.MatchEqual, b.nth(b.k.wide[1], i/b.side))
	case ShapeSmall:
		b.small(f)
	case ShapeTuples:
		for _, field := range b.k.wide {
			b.add(f, field.Key, filter.MatchEqual, b.any(field))
		}
		if b.l.FieldIndex("IP_PROTOCOL") >= 0 {
			b.add(f, "IP_PROTOCOL", filter.MatchEqual, filter.U8(pick(b.Generator, []uint8{6, 17})))
		}
	case ShapeRandom:
		for range 3 + b.r.IntN(4) {
			field := b.field(b.l)
			b.addRandom(f, field)
		}
	}
	if len(f.Conditions) == 0 {
		b.small(f)
		broad = true
	}
	if broad {
		b.light(f, b.r.IntN(500))
	}
	if b.one(40) && shape != ShapeStairs {
		b.rare(f)
	}
	return f
}

// light gives a filter that matches much a weight below all others, mostly: a
// few that are heavy decide everything, and what is wrong below is never seen.
func (b *large) light(f *filter.Filter, weight int) {
	if !b.one(400) {
		f.Weight = filter.U64(uint64(weight))
	}
}

func (b *large) add(f *filter.Filter, field string, m filter.MatchType, v filter.Value) {
	c := filter.Condition{Field: field, Match: m, Value: v}
	f.Conditions = append(f.Conditions, c)
	b.Used[Use{b.l.ID, field, FormOf(c)}]++
}

// addRandom adds a condition of any form, less what would need a table of its
// own for each filter.
func (b *large) addRandom(f *filter.Filter, field layermap.Field) {
	var c filter.Condition
	if known := b.forms[field.Key]; len(known) >= distinct && !b.one(50) {
		c = pick(b.Generator, known)
	} else {
		c = b.condition(b.l, field, b.form(field))
		if b.forms == nil {
			b.forms = map[string][]filter.Condition{}
		}
		b.forms[field.Key] = append(b.forms[field.Key], c)
	}
	b.add(f, c.Field, c.Match, c.Value)
}

// rare adds what few filters of a real policy have: another value of a field
// that is tested already, a negation, or that a field has no value.
func (b *large) rare(f *filter.Filter) {
	c := pick(b.Generator, f.Conditions)
	field := b.l.Fields[b.l.FieldIndex(c.Field)]
	switch b.r.IntN(4) {
	case 0:
		b.add(f, c.Field, filter.MatchEqual, filter.Value{})
	case 1:
		other := pick(b.Generator, b.k.small)
		if forms := Forms(other); slices.Contains(forms, formNotEqual) {
			c := b.condition(b.l, other, formNotEqual)
			b.add(f, c.Field, c.Match, c.Value)
		}
	default: // nothing where no other value can be told
		if c.Value.Type == field.DataType && c.Match == filter.MatchEqual {
			b.add(f, c.Field, filter.MatchEqual, b.any(field))
		}
	}
}

// narrow is a filter of the benchmark.
func (b *large) narrow(f *filter.Filter) {
	defer b.specific(f)
	for _, field := range b.l.Fields {
		if b.l.Source(field.Key).Kind != layermap.Filled {
			continue
		}
		local := strings.Contains(field.Key, "LOCAL")
		switch {
		case field.Type == layermap.IPAddress && local:
			if b.one(6) {
				b.add(f, field.Key, filter.MatchEqual, prefixOf(b.any(field), pick(b.Generator, []int{24, 32})))
			}
		case field.Type == layermap.IPAddress:
			if !b.one(4) {
				b.add(f, field.Key, filter.MatchEqual, prefixOf(b.any(field), pick(b.Generator, []int{16, 20, 24, 28, 32})))
			}
		case field.DataType == layermap.Uint16 && local:
			if b.one(2) || len(f.Conditions) == 0 {
				low := b.any(field)
				if b.one(5) {
					high := filter.U16(uint16(min(low.Num+b.r.Uint64N(64), 0xffff)))
					b.add(f, field.Key, filter.MatchRange, filter.RangeOf(low, high))
				} else {
					b.add(f, field.Key, filter.MatchEqual, low)
				}
			}
		case field.Type == layermap.FlagsField:
			if b.one(4) {
				m := pick(b.Generator, []filter.MatchType{filter.MatchFlagsNoneSet, filter.MatchFlagsNoneSet, filter.MatchFlagsAllSet, filter.MatchFlagsAnySet})
				b.add(f, field.Key, m, filter.U32(pick(b.Generator, []uint32{0x1, 0x4, 0x5})))
			}
		case field.Key == "IP_PROTOCOL":
			if p := pick(b.Generator, []uint8{6, 6, 6, 17, 17, 0}); p != 0 {
				b.add(f, field.Key, filter.MatchEqual, filter.U8(p))
			}
		case field.DataType == layermap.ByteArray6:
			if b.one(2) {
				b.add(f, field.Key, filter.MatchEqual, b.any(field))
			}
		case field.DataType == layermap.Uint16 || field.Key == "IP_LOCAL_INTERFACE":
			if b.one(8) {
				b.add(f, field.Key, filter.MatchEqual, b.any(field))
			}
		}
	}
}

// specific makes sure that a filter asks something of a field with many values:
// a few that do not would decide everything.
func (b *large) specific(f *filter.Filter) {
	for _, field := range b.k.wide {
		if slices.ContainsFunc(f.Conditions, func(c filter.Condition) bool { return c.Field == field.Key }) {
			return
		}
	}
	if !b.one(200) {
		field := pick(b.Generator, b.k.wide)
		b.add(f, field.Key, filter.MatchEqual, b.any(field))
	}
}

// host is a firewall rule of Windows.
func (b *large) host(f *filter.Filter) {
	if !b.one(3) {
		b.add(f, "ALE_APP_ID", filter.MatchEqual, filter.Blob([]byte(pick(b.Generator, b.apps))))
	}
	if b.one(5) {
		b.add(f, "ALE_USER_ID", filter.MatchEqual, filter.SDValue(b.descriptorOf()))
	}
	if b.one(12) {
		b.add(f, "ALE_PACKAGE_ID", filter.MatchEqual, filter.SIDValue(pick(b.Generator, packages)))
	}
	if b.one(2) && b.l.FieldIndex("IP_PROTOCOL") >= 0 {
		b.add(f, "IP_PROTOCOL", filter.MatchEqual, filter.U8(pick(b.Generator, []uint8{6, 17, 6, 17, 1, 58, 47})))
	}
	for _, field := range b.k.ordered {
		if !b.one(3) {
			continue
		}
		for range 1 + b.r.IntN(4) {
			v := b.any(field)
			switch {
			case b.one(4):
				w := stepBy(v, b.r.Uint64N(3000))
				if compare(v, w) <= 0 {
					b.add(f, field.Key, filter.MatchRange, filter.RangeOf(v, w))
				}
			case field.Type == layermap.IPAddress:
				b.add(f, field.Key, filter.MatchEqual, prefixOf(v, pick(b.Generator, []int{8, 16, 24, 32})))
			default:
				b.add(f, field.Key, filter.MatchEqual, v)
			}
		}
	}
	if !slices.ContainsFunc(f.Conditions, func(c filter.Condition) bool { return c.Field == "ALE_APP_ID" }) {
		b.specific(f)
	}
	if b.l.FieldIndex("CURRENT_PROFILE_ID") >= 0 && b.one(3) {
		b.add(f, "CURRENT_PROFILE_ID", filter.MatchEqual, filter.U32(uint32(1+b.r.IntN(3))))
	}
}

// nested is a prefix of any length around one of a few addresses. holes makes
// some masks that are no prefixes.
func (b *large) nested(f *filter.Filter, holes bool) {
	for i, field := range b.k.addresses {
		if i > 0 && b.one(2) {
			continue
		}
		if len(b.bases) < 24 {
			b.bases = append(b.bases, b.any(field))
		}
		v := pick(b.Generator, b.bases)
		width := 32
		if v.Type == layermap.ByteArray16 {
			width = 128
		}
		// the longest have the most to tell apart
		length := width - b.r.IntN(width+1)*b.r.IntN(width+1)/width
		if b.one(2) {
			v = b.flip(v)
		}
		m := filter.MatchEqual
		b.light(f, 128*length/width+b.r.IntN(3))
		if b.one(100) {
			m = filter.MatchNotEqual
			b.light(f, 0)
		}
		if holes {
			b.add(f, field.Key, m, b.hole(v, length))
			continue
		}
		b.add(f, field.Key, m, prefixOfLength(v, length))
	}
	if b.one(2) && b.l.FieldIndex("IP_PROTOCOL") >= 0 {
		b.add(f, "IP_PROTOCOL", filter.MatchEqual, filter.U8(pick(b.Generator, []uint8{6, 17})))
	}
}

// What ShapeHoles has of different operands, since masks with holes cut values
// into no ranges and a policy with many of them is refused: real ones have few.
const largeHoles, largePrefixes = 12, 240

// hole is a mask that is no prefix, or a prefix; they are used again and again.
func (b *large) hole(v filter.Value, length int) filter.Value {
	list, most, made := &b.prefixes, largePrefixes, prefixOfLength(v, length)
	if b.one(3) {
		list, most = &b.holes, largeHoles
		made = filter.V4AddrAndMask(uint32(v.Num), pick(b.Generator, []uint32{0xff0000ff, 0xffff00ff, 0xff00ffff, 0x00ffffff, 0xfffffff1}))
	}
	if len(*list) < most {
		*list = append(*list, made)
	}
	return pick(b.Generator, *list)
}

// stairs is a range that begins a step after that of the filter before, and
// ends some steps on. Few half-lines lie across them.
func (b *large) stairs(f *filter.Filter, i int) {
	field := b.k.ordered[i%len(b.k.ordered)]
	low := stepBy(b.nth(field, 0), b.step*uint64(i))
	high := stepBy(low, b.step*b.depth)
	if compare(low, high) > 0 {
		low, high = high, low
	}
	if b.one(100) {
		// Half of all values: only with something narrow beside it, or the last
		// sublayers' would decide everything.
		m := pick(b.Generator, []filter.MatchType{filter.MatchGreater, filter.MatchGreaterOrEqual, filter.MatchLess, filter.MatchLessOrEqual})
		b.add(f, field.Key, m, low)
		if other := b.k.ordered[(i+1)%len(b.k.ordered)]; other.Key != field.Key {
			b.add(f, other.Key, filter.MatchEqual, stepBy(b.nth(other, 0), b.step*b.r.Uint64N(uint64(b.n))))
		} else {
			b.light(f, 0)
		}
		return
	}
	b.add(f, field.Key, filter.MatchRange, filter.RangeOf(low, high))
	if len(b.k.ordered) > 1 && b.one(2) {
		other := b.k.ordered[(i+1)%len(b.k.ordered)]
		low := stepBy(b.nth(other, 0), b.step*b.r.Uint64N(uint64(b.n)))
		if high := stepBy(low, b.step*b.r.Uint64N(uint64(b.n))); compare(low, high) <= 0 {
			b.add(f, other.Key, filter.MatchRange, filter.RangeOf(low, high))
		}
	}
}

func compare(a, b filter.Value) int {
	order, _ := filter.Compare(a, b)
	return order
}

// small asks only of fields that have few values.
func (b *large) small(f *filter.Filter) {
	for range 4 + b.r.IntN(4) {
		field := pick(b.Generator, b.k.small)
		if slices.ContainsFunc(f.Conditions, func(c filter.Condition) bool { return c.Field == field.Key }) {
			continue
		}
		switch {
		case field.Type == layermap.FlagsField:
			m := pick(b.Generator, []filter.MatchType{filter.MatchFlagsAllSet, filter.MatchFlagsAnySet, filter.MatchFlagsNoneSet})
			b.add(f, field.Key, m, filter.Value{Type: field.DataType, Num: b.flags(b.l, field)})
		case bits(field.DataType) > 0 && b.one(4):
			low := b.any(field)
			high := low
			high.Num += b.r.Uint64N(4)
			b.add(f, field.Key, filter.MatchRange, filter.RangeOf(low, high))
		case bits(field.DataType) > 0 && b.one(12):
			b.add(f, field.Key, filter.MatchNotEqual, b.any(field))
		default:
			b.add(f, field.Key, filter.MatchEqual, b.any(field))
		}
	}
}

// descriptorOf lets in, or keeps out, one or a few of the users of a large policy.
func (b *large) descriptorOf() *filter.SecurityDescriptor {
	sd := &filter.SecurityDescriptor{}
	for range 1 + b.r.IntN(2) {
		sid := filter.UnixUser(pick(b.Generator, b.uids))
		switch b.r.IntN(4) {
		case 0:
			sid = filter.UnixGroup(pick(b.Generator, b.gids))
		case 1:
			sid = pick(b.Generator, []filter.SID{filter.ServiceSID("alpha"), filter.ServiceSID("beta"), filter.ServiceSID("gamma")})
		}
		sd.Entries = append(sd.Entries, filter.ACE{Allow: !b.one(6), Mask: 1, SID: sid})
	}
	return sd
}

// any draws an operand for a field as large policies have it: one of many networks,
// any port, one of a few links, protocols and types.
func (b *large) any(field layermap.Field) filter.Value {
	switch {
	case field.Key == "ALE_APP_ID":
		return filter.Blob([]byte(pick(b.Generator, b.apps)))
	case field.Key == "ALE_USER_ID":
		return filter.SDValue(b.descriptorOf())
	case field.Key == "ALE_PACKAGE_ID":
		return filter.SIDValue(pick(b.Generator, packages))
	case field.Key == "IP_PROTOCOL":
		return filter.U8(uint8(b.r.IntN(64)))
	case field.DataType == layermap.ByteBlob: // the name of a link
		return filter.Blob(fmt.Appendf(nil, "veth%d", b.r.IntN(64)))
	case field.Type == layermap.FlagsField:
		return filter.Value{Type: field.DataType, Num: b.bits(field)}
	case field.Type == layermap.IPAddress, field.DataType == layermap.ByteArray6, field.DataType == layermap.Uint16:
		return b.nth(field, b.r.IntN(1<<30))
	case len(b.k.small) == len(b.k.wide): // the layer has none but these
		return filter.Value{Type: field.DataType, Num: b.r.Uint64N(1 << min(14, bits(field.DataType)))}
	}
	return filter.Value{Type: field.DataType, Num: b.r.Uint64N(24)}
}

// nth is the value of a number; neighbours have neighbours.
func (b *large) nth(field layermap.Field, n int) filter.Value {
	local := byte(0)
	if strings.Contains(field.Key, "LOCAL") {
		local = 1
	}
	switch field.DataType {
	case layermap.ByteArray16:
		v := [16]byte{0x20, 0x01, 0x0d, 0xb8 + local, byte(n >> 16), byte(n >> 8), byte(n), byte(n >> 24)}
		if n&3 == 3 {
			v[15] = byte(n >> 2) // not all differ in their networks
		}
		return filter.Addr16(netip.AddrFrom16(v))
	case layermap.ByteArray6:
		return filter.MAC([6]byte{0x02, local, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
	case layermap.Uint32:
		if field.Type == layermap.IPAddress {
			return filter.U32(uint32(10+local)<<24 | uint32(n)&0xffffff)
		}
	}
	return filter.Value{Type: field.DataType, Num: uint64(n) & (1<<min(bits(field.DataType), 30) - 1)}
}

// prefixOf is the network of an address; IPv6 has them 32 bits longer.
func prefixOf(v filter.Value, length int) filter.Value {
	if v.Type == layermap.ByteArray16 {
		length += 32
		if length == 64 && v.Bytes[15] != 0 {
			length = 128
		}
	}
	return prefixOfLength(v, length)
}

func prefixOfLength(v filter.Value, length int) filter.Value {
	if v.Type == layermap.ByteArray16 {
		return filter.V6Mask(netip.PrefixFrom(netip.AddrFrom16([16]byte(v.Bytes)), length))
	}
	return filter.V4Mask(netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(v.Num >> 24), byte(v.Num >> 16), byte(v.Num >> 8), byte(v.Num)}), length))
}

// stepBy adds to a number or an address; the greatest is followed by the least.
func stepBy(v filter.Value, by uint64) filter.Value {
	if width := bits(v.Type); width != 0 {
		v.Num = (v.Num + by) & (1<<(width-1)<<1 - 1)
		return v
	}
	v.Bytes = slices.Clone(v.Bytes)
	// An address of IPv6 moves by networks of /64: both of its words count.
	for i := min(len(v.Bytes), 8) - 1; i >= 0 && by > 0; i-- {
		by += uint64(v.Bytes[i])
		v.Bytes[i] = byte(by)
		by >>= 8
	}
	return v
}

// deep draws the fields of one classification of a large policy: each as some
// filter asks it, and then all that one filter asks.
func (g *Generator) deep(l *layermap.Layer) filter.Values {
	vs := make(filter.Values, len(l.Fields))
	for i, f := range l.Fields {
		src := l.Source(f.Key)
		switch {
		case src.Kind == layermap.Constant:
			vs[i] = filter.Value{Type: f.DataType, Num: src.Value}
		case src.Kind != layermap.Filled || g.one(24):
		case len(g.asked[l.ID][f.Key]) > 0 && !g.one(4):
			vs[i] = g.meet(l, f, pick(g, g.asked[l.ID][f.Key]))
		default:
			vs[i] = g.traffic(l, f)
		}
	}
	switch {
	case len(g.recent) > 0 && g.one(2):
		g.aim(l, pick(g, g.recent), vs)
	case !g.one(8):
		g.aim(l, pick(g, g.filters[l.ID]), vs)
	}
	return vs
}

// tokenOf is what a process here can be to whom a list says something.
func (g *Generator) tokenOf(sd *filter.SecurityDescriptor) filter.Value {
	v := g.token()
	sid := pick(g, sd.Entries).SID
	kind, _, unix := filter.ParseUnix(sid)
	switch {
	case unix && kind == "user":
		return filter.TokenValue(append([]filter.SID{sid}, v.Token.SIDs[1:]...)...)
	case unix:
		return filter.TokenValue(append([]filter.SID{v.Token.SIDs[0], sid}, v.Token.SIDs[2:]...)...)
	}
	return v
}
