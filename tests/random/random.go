// SPDX-License-Identifier: Apache-2.0

// Package random makes policies and traffic for differential tests: filters
// over every field that a layer fills, with every form of condition that the
// field admits, and field values that lie on and beside the borders of their
// conditions. The same seed gives the same policy and the same traffic.
package random

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"

	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
	"github.com/wfpebpf/wfpebpf/policy"
)

// Identities that random policies name. Service gamma runs inside alpha's
// unit, so that its processes hold both identifiers.
var (
	Apps     = []string{"/opt/a/bin/alpha", "/opt/b/bin/beta", "/usr/bin/gamma", "System"}
	UIDs     = []uint32{0, 1000, 1001}
	GIDs     = []uint32{0, 100}
	Services = map[filter.SID]string{
		filter.ServiceSID("alpha"): "/alpha.slice", filter.ServiceSID("beta"): "/beta.slice",
		filter.ServiceSID("gamma"): "/alpha.slice/gamma.service",
	}
	Packages = map[filter.SID]string{filter.PackageSID("vendor.app_1"): "/app1.scope"}
)

// Use is a place where a condition can stand: a field of a layer, and the form
// of the condition.
type Use struct {
	Layer layermap.LayerID
	Field string
	Form  string
}

// Generator makes the policies and the traffic of one seed.
type Generator struct {
	r       *rand.Rand
	pools   map[string][]filter.Value             // values that conditions and traffic share
	masks   map[string][]uint64                   // operands of FLAGS_*, few a field
	pending map[layermap.LayerID][]Use            // uses that have not had their turn
	filters map[layermap.LayerID][]*filter.Filter // of the last policy: traffic aims at them
	// Of the layer at hand:
	unconditional bool                            // some filters have no conditions
	narrow        int                             // the others have so many more
	groups        map[string][][]filter.Condition // of a large layer, by field, to be used again; else nil

	// Identities of traffic.
	apps       []string
	uids, gids []uint32
	// Of a policy of Large:
	larges map[layermap.LayerID]*large
	asked  map[layermap.LayerID]map[string][]filter.Condition // by field: what filters ask of it
	recent []*filter.Filter                                   // what the last Edit changed

	// Used counts the conditions made so far.
	Used map[Use]int
}

// New returns the generator of a seed.
func New(seed uint64) *Generator {
	return &Generator{
		r: rand.New(rand.NewPCG(seed, 0x57f9)), pools: map[string][]filter.Value{}, masks: map[string][]uint64{},
		pending: map[layermap.LayerID][]Use{}, Used: map[Use]int{},
		apps: Apps, uids: []uint32{0, 1000, 1001, 1002}, gids: []uint32{0, 100, 101},
	}
}

// Size of a random layer.
type Size struct{ SubLayers, Filters int }

// Policy makes a policy with filters at the layers.
func (g *Generator) Policy(size Size, layers ...layermap.LayerID) *policy.Policy {
	filters := map[layermap.LayerID]int{}
	for _, id := range layers {
		filters[id] = size.Filters
	}
	return g.PolicyOf(size.SubLayers, filters)
}

// PolicyOf makes a policy with so many filters at each layer.
func (g *Generator) PolicyOf(subLayers int, filters map[layermap.LayerID]int) *policy.Policy {
	s, keys := g.newStore(subLayers)
	g.filters = map[layermap.LayerID][]*filter.Filter{}
	g.larges, g.asked, g.recent = nil, nil, nil
	for _, l := range layermap.Layers() {
		if filters[l.ID] == 0 {
			continue
		}
		callout := filter.DeriveKey("callout", l.Name)
		must(s.AddCallout(filter.Callout{Key: callout, Name: "not registered, " + l.Name, Layer: l.ID}))
		// in some layers most sublayers leave the decision to the next
		hard := pick(g, []int{2, 3, 3, 24})
		if filters[l.ID] > 4096 {
			hard = 1000 // else nothing but the first filters would ever decide
		}
		g.unconditional, g.narrow, g.groups = g.one(2), 2*g.r.IntN(2), nil
		if filters[l.ID] > 500 {
			// As in real policies, many filters ask the same of a field. What
			// no two share makes tables that take seconds to compile.
			g.groups = map[string][][]filter.Condition{}
		}
		for i := range filters[l.ID] {
			f := g.filter(&l, keys[i%len(keys)], callout, hard)
			f.Name = fmt.Sprintf("%s %d", l.Name, i)
			must(s.AddFilter(f))
			g.filters[l.ID] = append(g.filters[l.ID], f)
		}
	}
	return &policy.Policy{Store: s, Services: Services, Packages: Packages}
}

// newStore makes a store with sublayers, and returns their keys.
func (g *Generator) newStore(subLayers int) (s *filter.Store, keys []filter.GUID) {
	s = filter.NewStore()
	keys = []filter.GUID{{}} // FWPM_SUBLAYER_UNIVERSAL
	for i := 1; i < subLayers; i++ {
		key := filter.DeriveKey("sublayer", fmt.Sprint("random", i))
		keys = append(keys, key)
		// some weights are equal: the keys then decide
		must(s.AddSubLayer(filter.SubLayer{Key: key, Name: fmt.Sprint("random ", i), Weight: uint16(100 + 700*g.r.IntN(90))}))
	}
	return s, keys
}

func must(err error) {
	if err != nil {
		panic(err) // the generator made an invalid object: its own defect
	}
}

func (g *Generator) one(n int) bool { return g.r.IntN(n) == 0 }

func pick[T any](g *Generator, of []T) T { return of[g.r.IntN(len(of))] }

// filter makes a filter; one in hard of them is a BLOCK, and of the others one
// in hard clears the right.
func (g *Generator) filter(l *layermap.Layer, sub, callout filter.GUID, hard int) *filter.Filter {
	f := &filter.Filter{Layer: l.ID, SubLayer: sub, Action: filter.ActionPermit}
	switch g.r.IntN(4) {
	case 0:
		f.Weight = filter.U64(g.r.Uint64())
	case 1:
		f.Weight = filter.U8(uint8(g.r.IntN(16)))
	}
	if g.one(hard) {
		f.Flags |= filter.FlagClearActionRight
	}
	if g.one(hard) {
		f.Action = filter.ActionBlock
	}
	switch g.r.IntN(32) {
	case 0:
		f.Action, f.Callout = filter.ActionCalloutInspection, callout
	case 1:
		f.Action, f.Callout = pick(g, []filter.Action{filter.ActionCalloutTerminating, filter.ActionCalloutUnknown}), callout
		if hard > 24 || g.one(2) {
			f.Flags |= filter.FlagPermitIfCalloutUnregistered
		}
	}
	if g.unconditional && g.one(40) {
		// what stands at the end of a sublayer: for everything else
		f.Weight = filter.U8(0)
		return f
	}
	first := g.next(l)
	g.ask(l, f, first.Field, first.Form)
	for range 1 + g.narrow + g.r.IntN(4) {
		field := g.field(l)
		g.ask(l, f, field.Key, g.form(field))
	}
	return f
}

// field draws a field, mostly one that traffic fills.
func (g *Generator) field(l *layermap.Layer) layermap.Field {
	filled := !g.one(16)
	for {
		f := pick(g, l.Fields)
		kind := l.Source(f.Key).Kind
		if kind == layermap.Filled || !filled && kind != layermap.Refused {
			return f
		}
	}
}

// next is the use whose turn it is: each gets one before any gets another.
func (g *Generator) next(l *layermap.Layer) Use {
	if len(g.pending[l.ID]) == 0 {
		uses := Uses(l)
		g.r.Shuffle(len(uses), func(i, j int) { uses[i], uses[j] = uses[j], uses[i] })
		g.pending[l.ID] = uses
	}
	u := g.pending[l.ID][0]
	g.pending[l.ID] = g.pending[l.ID][1:]
	return u
}

// distinct is how many groups of conditions on one field a large layer has.
const distinct = 40

// ask adds a condition, and with it sometimes others on the same field, which
// are OR'ed.
func (g *Generator) ask(l *layermap.Layer, f *filter.Filter, key, form string) {
	var group []filter.Condition
	if known := g.groups[key]; len(known) >= distinct {
		group = pick(g, known)
	} else {
		field := l.Fields[l.FieldIndex(key)]
		for range 1 + g.r.IntN(5)*g.r.IntN(2) {
			group = append(group, g.condition(l, field, form))
			form = g.form(field)
		}
		if g.groups != nil {
			g.groups[key] = append(known, group)
		}
	}
	for _, c := range group {
		g.Used[Use{l.ID, key, FormOf(c)}]++
	}
	f.Conditions = append(f.Conditions, group...)
}

// Forms of conditions besides a match type with a value of the field's type.
const (
	formEmpty        = "EQUAL EMPTY"
	formMask         = "EQUAL mask"
	formNotMask      = "NOT_EQUAL mask"
	formGrants       = "EQUAL access list"
	formSet          = "EQUAL set"
	formNotSet       = "NOT_EQUAL set"
	formEqual        = "EQUAL"
	formNotEqual     = "NOT_EQUAL"
	formRange        = "RANGE"
	formFlagsAllSet  = "FLAGS_ALL_SET"
	formFlagsAnySet  = "FLAGS_ANY_SET"
	formFlagsNoneSet = "FLAGS_NONE_SET"
)

var matches = map[string]filter.MatchType{
	formEmpty: filter.MatchEqual, formMask: filter.MatchEqual, formNotMask: filter.MatchNotEqual,
	formSet: filter.MatchEqual, formNotSet: filter.MatchNotEqual,
	formGrants: filter.MatchEqual, formEqual: filter.MatchEqual, formNotEqual: filter.MatchNotEqual,
	"GREATER": filter.MatchGreater, "LESS": filter.MatchLess,
	"GREATER_OR_EQUAL": filter.MatchGreaterOrEqual, "LESS_OR_EQUAL": filter.MatchLessOrEqual,
	formRange:       filter.MatchRange,
	formFlagsAllSet: filter.MatchFlagsAllSet, formFlagsAnySet: filter.MatchFlagsAnySet, formFlagsNoneSet: filter.MatchFlagsNoneSet,
}

// Forms is the forms of condition that a field admits and that can be enforced
// here: all that validation admits, less orders and prefixes of names.
func Forms(f layermap.Field) []string {
	ordered := []string{formEqual, formNotEqual, "GREATER", "LESS", "GREATER_OR_EQUAL", "LESS_OR_EQUAL", formRange}
	var forms []string
	switch f.DataType {
	case layermap.Uint8, layermap.Uint16, layermap.Uint32, layermap.Uint64:
		forms = append(ordered, formFlagsAllSet, formFlagsAnySet, formFlagsNoneSet)
	case layermap.ByteArray16:
		forms = ordered
	case layermap.SIDType, layermap.ByteBlob:
		forms = []string{formEqual, formNotEqual}
	case layermap.TokenAccessInformation, layermap.TokenInformation:
		forms = []string{formGrants}
	default:
		forms = []string{formEqual}
	}
	if f.Type == layermap.IPAddress {
		forms = append(forms, formMask, formNotMask, formSet, formNotSet)
	}
	return append(forms, formEmpty)
}

// Uses is every use at a layer: the fields that the kernel fills, in every form.
func Uses(l *layermap.Layer) []Use {
	var uses []Use
	for _, f := range l.Fields {
		if l.Source(f.Key).Kind != layermap.Filled {
			continue
		}
		for _, form := range Forms(f) {
			uses = append(uses, Use{l.ID, f.Key, form})
		}
	}
	return uses
}

// FormOf names the form of a condition on a field.
func FormOf(c filter.Condition) string {
	if c.Value.IsEmpty() {
		return formEmpty
	}
	not := c.Match == filter.MatchNotEqual
	switch c.Value.Type {
	case layermap.V4AddrMask, layermap.V6AddrMask:
		if not {
			return formNotMask
		}
		return formMask
	case layermap.AddressSetType:
		if not {
			return formNotSet
		}
		return formSet
	case layermap.SecurityDescriptorType:
		return formGrants
	}
	return plainForms[c.Match]
}

// plainForms are the forms that are a match type with a value of the field's.
var plainForms = func() map[filter.MatchType]string {
	forms := map[filter.MatchType]string{}
	for form, m := range matches {
		switch form {
		case formEmpty, formMask, formNotMask, formGrants, formSet, formNotSet:
		default:
			forms[m] = form
		}
	}
	return forms
}()

// form draws one, mostly a specific one: else the same few broad filters would
// decide everything. No value is asked for rarely, too.
func (g *Generator) form(f layermap.Field) string {
	forms := Forms(f)
	if !g.one(4) {
		if f.Type == layermap.IPAddress && g.one(2) {
			return formMask
		}
		return forms[0]
	}
	if !g.one(12) {
		forms = forms[:len(forms)-1]
	}
	return pick(g, forms)
}

func (g *Generator) condition(l *layermap.Layer, f layermap.Field, form string) filter.Condition {
	c := filter.Condition{Field: f.Key, Match: matches[form]}
	switch form {
	case formEmpty:
	case formFlagsAllSet, formFlagsAnySet, formFlagsNoneSet:
		c.Value = filter.Value{Type: f.DataType, Num: g.flags(l, f)}
	case formGrants:
		c.Value = filter.SDValue(g.descriptor())
	case formMask, formNotMask:
		c.Value = g.mask(g.value(l, f))
	case formSet, formNotSet:
		c.Value = g.set(l, f)
	case formRange:
		v, w := g.value(l, f), g.value(l, f)
		if order, _ := filter.Compare(v, w); order > 0 {
			v, w = w, v
		}
		c.Value = filter.RangeOf(v, w)
	default:
		c.Value = g.value(l, f)
	}
	return c
}

// set draws a set of a few addresses and networks of both families, which lie
// apart, touch or overlap.
func (g *Generator) set(l *layermap.Layer, f layermap.Field) filter.Value {
	var b filter.SetBuilder
	for range g.r.IntN(12) {
		low := g.value(l, f)
		high := low
		if v := g.value(l, f); g.one(3) {
			if order, _ := filter.Compare(low, v); order <= 0 {
				high = v
			}
		}
		must(b.Add(address(low), address(high)))
		other := netip.MustParseAddr("2001:db8::1")
		if f.DataType == layermap.ByteArray16 {
			other = netip.MustParseAddr("192.0.2.1")
		}
		must(b.Add(other, other))
	}
	return filter.SetValue(b.Set("random", ""))
}

// address is the address that a value of a field is.
func address(v filter.Value) netip.Addr {
	if v.Type == layermap.Uint32 {
		return netip.AddrFrom4([4]byte{byte(v.Num >> 24), byte(v.Num >> 16), byte(v.Num >> 8), byte(v.Num)})
	}
	return netip.AddrFrom16([16]byte(v.Bytes))
}

// flagBits are the FWP_CONDITION_FLAG_* bits that policies test.
var flagBits = []uint64{0x1, 0x2, 0x4, 0x8, 0x10, 0x20, 0x400000, 0x800000}

// flags draws the operand of a FLAGS_* condition: one of a few masks, as
// policies have it.
func (g *Generator) flags(l *layermap.Layer, f layermap.Field) uint64 {
	id := fmt.Sprint(l.Family, f.Key)
	if g.masks[id] == nil {
		for range 6 {
			g.masks[id] = append(g.masks[id], g.bits(f))
		}
	}
	return pick(g, g.masks[id])
}

// bits draws some bits of a field.
func (g *Generator) bits(f layermap.Field) uint64 {
	width := bits(f.DataType)
	var m uint64
	for range 1 + g.r.IntN(3) {
		switch {
		case f.Type == layermap.FlagsField:
			m |= pick(g, flagBits)
		case g.one(4):
			m |= 1 << (width - 1)
		default:
			m |= 1 << g.r.UintN(4)
		}
	}
	return m & (1<<(width-1)<<1 - 1)
}

func (g *Generator) mask(v filter.Value) filter.Value {
	if v.Type == layermap.Uint32 {
		if g.one(4) {
			return filter.V4AddrAndMask(uint32(v.Num), pick(g, []uint32{0xff00ff00, 0x00ffffff, 0xfffe0001}))
		}
		return filter.V4Mask(netip.PrefixFrom(address(v), g.r.IntN(33)))
	}
	return filter.V6Mask(netip.PrefixFrom(netip.AddrFrom16([16]byte(v.Bytes)), g.r.IntN(129)))
}

func (g *Generator) descriptor() *filter.SecurityDescriptor {
	var sids []filter.SID
	for _, u := range UIDs {
		sids = append(sids, filter.UnixUser(u))
	}
	for _, u := range GIDs {
		sids = append(sids, filter.UnixGroup(u))
	}
	sids = append(sids, filter.ServiceSID("alpha"), filter.ServiceSID("beta"), filter.ServiceSID("gamma"),
		filter.SIDEveryone, filter.ServiceSID("unmapped"))
	sd := &filter.SecurityDescriptor{}
	for range 1 + g.r.IntN(3) {
		e := filter.ACE{Allow: !g.one(4), Mask: 1, SID: pick(g, sids)}
		if g.one(8) {
			e.Mask = 2 // another right: takes no part
		}
		sd.Entries = append(sd.Entries, e)
	}
	return sd
}

// packages are those that conditions name; the last has no place here.
var packages = []filter.SID{filter.SIDNull, filter.PackageSID("vendor.app_1"), filter.PackageSID("vendor.app_2")}

// value draws a value of a field: from a small pool, or beside one of it, so
// that conditions and traffic meet.
func (g *Generator) value(l *layermap.Layer, f layermap.Field) filter.Value {
	switch f.Key {
	case "ALE_APP_ID":
		return filter.Blob([]byte(pick(g, g.apps)))
	case "ALE_PACKAGE_ID":
		return filter.SIDValue(pick(g, packages))
	}
	id := fmt.Sprint(l.Family, f.Key)
	if g.pools[id] == nil {
		pool := []filter.Value{g.extreme(f, 0), g.extreme(f, 0xff)}
		for range 8 {
			pool = append(pool, g.fresh(f))
		}
		g.pools[id] = pool
	}
	return g.beside(pick(g, g.pools[id]))
}

// extreme is the least or the greatest value of a field.
func (g *Generator) extreme(f layermap.Field, fill byte) filter.Value {
	v := g.fresh(f)
	for i := range v.Bytes {
		v.Bytes[i] = fill
	}
	if width := bits(f.DataType); width != 0 {
		v.Num = 0
		if fill != 0 {
			v.Num = 1<<(width-1)<<1 - 1
		}
	}
	return v
}

func (g *Generator) fresh(f layermap.Field) filter.Value {
	v := filter.Value{Type: f.DataType}
	if f.Type == layermap.FlagsField {
		v.Num = g.bits(f)
		return v
	}
	switch f.DataType {
	case layermap.Uint8, layermap.Uint16, layermap.Uint32, layermap.Uint64:
		v.Num = g.r.Uint64() >> (64 - bits(f.DataType)) >> (g.r.IntN(4) * int(bits(f.DataType)) / 4)
	case layermap.ByteArray16, layermap.ByteArray6:
		v.Bytes = make([]byte, arrayLen(f.DataType))
		v.Bytes[0], v.Bytes[1] = 0xfd, 0x77
		for i := 2 + g.r.IntN(len(v.Bytes)-2); i < len(v.Bytes); i++ {
			v.Bytes[i] = byte(g.r.Uint32())
		}
	case layermap.ByteBlob:
		v.Bytes = []byte{byte(g.r.IntN(4))}
	case layermap.SIDType:
		v.SID = filter.SIDNull
	}
	return v
}

func bits(t layermap.DataType) uint {
	switch t {
	case layermap.Uint8:
		return 8
	case layermap.Uint16:
		return 16
	case layermap.Uint32:
		return 32
	case layermap.Uint64:
		return 64
	}
	return 0
}

func arrayLen(t layermap.DataType) int {
	switch t {
	case layermap.ByteArray16:
		return 16
	case layermap.ByteArray6:
		return 6
	}
	return 0
}

// beside moves a value by one, or flips a bit, or leaves it.
func (g *Generator) beside(v filter.Value) filter.Value {
	switch g.r.IntN(8) {
	case 0:
		return step(v, 1)
	case 1:
		return step(v, -1)
	case 2:
		return g.flip(v)
	}
	return v
}

// step is the next value, or the one before, the greatest being before the
// least. What has no order stays.
func step(v filter.Value, by int) filter.Value {
	if width := bits(v.Type); width != 0 {
		v.Num = (v.Num + uint64(by)) & (1<<(width-1)<<1 - 1)
		return v
	}
	if arrayLen(v.Type) == 0 {
		return v
	}
	v.Bytes = slices.Clone(v.Bytes)
	for i := len(v.Bytes) - 1; i >= 0; i-- {
		v.Bytes[i] += byte(by)
		if by > 0 && v.Bytes[i] != 0 || by < 0 && v.Bytes[i] != 0xff {
			break
		}
	}
	return v
}

func (g *Generator) flip(v filter.Value) filter.Value {
	if width := bits(v.Type); width != 0 {
		v.Num ^= 1 << g.r.UintN(width)
	} else if n := arrayLen(v.Type); n != 0 {
		v.Bytes = slices.Clone(v.Bytes)
		v.Bytes[g.r.IntN(n)] ^= 1 << g.r.UintN(8)
	}
	return v
}

// Values draws the fields of one classification. Most aim at a filter of the
// last policy: they meet its conditions, where one can, or miss one narrowly.
func (g *Generator) Values(l *layermap.Layer) filter.Values {
	if g.larges[l.ID] != nil {
		return g.deep(l)
	}
	vs := make(filter.Values, len(l.Fields))
	stranger := g.one(12) // has little that any condition names
	for i, f := range l.Fields {
		src := l.Source(f.Key)
		switch {
		case src.Kind == layermap.Constant:
			vs[i] = filter.Value{Type: f.DataType, Num: src.Value}
		case src.Kind == layermap.Filled && !g.one(16):
			vs[i] = g.traffic(l, f)
			if stranger && arrayLen(f.DataType)+int(bits(f.DataType)) > 0 {
				vs[i] = g.fresh(f)
			}
		}
	}
	if fs := g.filters[l.ID]; len(fs) > 0 && !stranger && !g.one(4) {
		g.aim(l, pick(g, fs), vs)
	}
	return vs
}

// traffic draws a value that traffic here can have.
func (g *Generator) traffic(l *layermap.Layer, f layermap.Field) filter.Value {
	switch {
	case f.Key == "ALE_USER_ID":
		return g.token()
	case f.Key == "ALE_APP_ID" && g.one(4):
		return filter.Blob([]byte("/usr/bin/nobody-names-me"))
	case f.Key == "ALE_PACKAGE_ID":
		return filter.SIDValue(pick(g, packages[:2]))
	}
	return g.value(l, f)
}

func (g *Generator) token() filter.Value {
	sids := []filter.SID{filter.UnixUser(pick(g, g.uids)), filter.UnixGroup(pick(g, g.gids))}
	switch g.r.IntN(4) {
	case 0:
		sids = append(sids, filter.ServiceSID("alpha"))
	case 1:
		sids = append(sids, filter.ServiceSID("beta"))
	case 2:
		sids = append(sids, filter.ServiceSID("alpha"), filter.ServiceSID("gamma"))
	}
	return filter.TokenValue(sids...)
}

// aim sets the fields that a filter tests.
func (g *Generator) aim(l *layermap.Layer, f *filter.Filter, vs filter.Values) {
	var fields []int
	for _, at := range g.r.Perm(len(f.Conditions)) {
		c := f.Conditions[at]
		i := l.FieldIndex(c.Field)
		if slices.Contains(fields, i) || l.Source(c.Field).Kind != layermap.Filled {
			continue
		}
		fields = append(fields, i)
		vs[i] = g.meet(l, l.Fields[i], c)
	}
	if len(fields) > 0 && g.one(3) {
		i := pick(g, fields)
		switch g.r.IntN(4) {
		case 0:
			vs[i] = step(vs[i], 1)
		case 1:
			vs[i] = step(vs[i], -1)
		case 2:
			vs[i] = g.flip(vs[i])
		case 3:
			vs[i] = filter.Value{}
		}
	}
}

// meet draws a value for which a condition holds, mostly at its border. Where
// none turns up (GREATER than the greatest, a package that is not here) it is
// any value.
func (g *Generator) meet(l *layermap.Layer, f layermap.Field, c filter.Condition) filter.Value {
	if c.Value.IsEmpty() {
		return filter.Value{}
	}
	v := g.traffic(l, f)
	for range 8 {
		if w := g.border(f, c, v); c.Matches(w) {
			return w
		}
		v = g.traffic(l, f)
	}
	return v
}

// ofSet is a value at the border of one of a set's ranges, or v.
func (g *Generator) ofSet(s *filter.AddressSet, v filter.Value) filter.Value {
	var low, high filter.Value
	if n := len(s.V4()); v.Type == layermap.Uint32 && n > 0 {
		r := s.V4()[g.r.IntN(n)]
		low, high = filter.U32(r.Low), filter.U32(r.High)
	} else if n := len(s.V6()); v.Type == layermap.ByteArray16 && n > 0 {
		r := s.V6()[g.r.IntN(n)]
		first, last := r.Low.Bytes(), r.High.Bytes()
		low, high = filter.Value{Type: v.Type, Bytes: first[:]}, filter.Value{Type: v.Type, Bytes: last[:]}
	} else {
		return v
	}
	return pick(g, []filter.Value{low, high, step(low, -1), step(high, 1), v})
}

// border is a value at a condition's border, or v.
func (g *Generator) border(f layermap.Field, c filter.Condition, v filter.Value) filter.Value {
	o := c.Value
	switch o.Type {
	case layermap.V4AddrMask:
		address, mask := o.Num>>32, o.Num&0xffffffff
		v.Num = address&mask | pick(g, []uint64{0, 0xffffffff, v.Num})&^mask
	case layermap.V6AddrMask:
		fill := pick(g, [][]byte{make([]byte, 16), slices.Repeat([]byte{0xff}, 16), v.Bytes})
		v.Bytes = slices.Clone(o.Bytes)
		for i := range v.Bytes {
			host := byte(0xff)
			if n := int(o.Num) - 8*i; n >= 8 {
				host = 0
			} else if n > 0 {
				host >>= n
			}
			v.Bytes[i] = v.Bytes[i]&^host | fill[i]&host
		}
	case layermap.AddressSetType:
		return g.ofSet(o.Set, v)
	case layermap.SecurityDescriptorType:
		if g.larges != nil {
			return g.tokenOf(o.SD)
		}
		return v
	case layermap.SIDType:
		return v // only what a process here can be
	case layermap.RangeType:
		return pick(g, []filter.Value{o.Range.Low, o.Range.High, step(o.Range.Low, 1), step(o.Range.High, -1), v})
	}
	if o.Type != f.DataType {
		if c.Match == filter.MatchNotEqual {
			return g.flip(v)
		}
		return v
	}
	switch c.Match {
	case filter.MatchEqual:
		return o
	case filter.MatchGreater, filter.MatchGreaterOrEqual, filter.MatchLess, filter.MatchLessOrEqual, filter.MatchNotEqual:
		return pick(g, []filter.Value{o, step(o, 1), step(o, -1), v})
	case filter.MatchFlagsAllSet:
		v.Num |= o.Num
	case filter.MatchFlagsAnySet:
		v.Num |= o.Num & -o.Num
	case filter.MatchFlagsNoneSet:
		v.Num &^= o.Num
	}
	return v
}
