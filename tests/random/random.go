// SPDX-License-Identifier: Apache-2.0

// Package random makes policies and traffic for differential tests: filters
// over every field that a layer fills, with every match type that the field
// admits, and field values that lie on and beside the borders of their
// conditions. The same seed gives the same policy and the same traffic.
package random

import (
	"fmt"
	"math/rand/v2"
	"net/netip"

	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
	"github.com/wfpebpf/wfpebpf/policy"
)

// Identities that random policies name.
var (
	Apps     = []string{"/opt/a/bin/alpha", "/opt/b/bin/beta", "/usr/bin/gamma", "System"}
	UIDs     = []uint32{0, 1000, 1001}
	GIDs     = []uint32{0, 100}
	Services = map[filter.SID]string{filter.ServiceSID("alpha"): "/alpha.slice", filter.ServiceSID("beta"): "/beta.slice"}
	Packages = map[filter.SID]string{filter.PackageSID("vendor.app_1"): "/app1.scope"}
)

// Generator makes the policy and the traffic of one seed.
type Generator struct {
	r     *rand.Rand
	pools map[string][]filter.Value // values that conditions and traffic share
	// Used counts what the conditions made so far test: field and match type.
	Used map[string]int
}

// New returns the generator of a seed.
func New(seed uint64) *Generator {
	return &Generator{r: rand.New(rand.NewPCG(seed, 0x57f9)), pools: map[string][]filter.Value{}, Used: map[string]int{}}
}

// Size of a random layer.
type Size struct{ SubLayers, Filters int }

// Policy makes a policy with filters at the layers.
func (g *Generator) Policy(size Size, layers ...layermap.LayerID) *policy.Policy {
	s := filter.NewStore()
	var keys []filter.GUID
	for i := range size.SubLayers {
		key := filter.DeriveKey("sublayer", fmt.Sprint("random", i))
		keys = append(keys, key)
		must(s.AddSubLayer(filter.SubLayer{Key: key, Name: fmt.Sprint("random ", i), Weight: uint16(100 + 7*g.r.IntN(9000))}))
	}
	for _, id := range layers {
		l := layermap.ByID(id)
		for i := range size.Filters {
			f := g.filter(l, keys[i%len(keys)])
			f.Name = fmt.Sprintf("%s %d", l.Name, i)
			must(s.AddFilter(f))
		}
	}
	return &policy.Policy{Store: s, Services: Services, Packages: Packages}
}

func must(err error) {
	if err != nil {
		panic(err) // the generator made an invalid object: its own defect
	}
}

func (g *Generator) filter(l *layermap.Layer, sub filter.GUID) *filter.Filter {
	f := &filter.Filter{Layer: l.ID, SubLayer: sub, Action: filter.ActionPermit}
	switch g.r.IntN(4) {
	case 0:
		f.Weight = filter.U64(g.r.Uint64())
	case 1:
		f.Weight = filter.U8(uint8(g.r.IntN(16)))
	}
	if g.r.IntN(2) == 0 {
		f.Action = filter.ActionBlock
	}
	if g.r.IntN(4) == 0 {
		f.Flags |= filter.FlagClearActionRight
	}
	n := 1 + g.r.IntN(3)
	for range n {
		field := l.Fields[g.r.IntN(len(l.Fields))]
		src := l.Source(field.Key)
		if src.Kind == layermap.Refused || src.Kind != layermap.Filled && g.r.IntN(8) != 0 {
			continue
		}
		for range 1 + g.r.IntN(3)*g.r.IntN(2) {
			c := g.condition(l, field)
			g.Used[l.Name+" "+field.Key+" "+c.Match.String()]++
			f.Conditions = append(f.Conditions, c)
		}
	}
	return f
}

// Matches is the match types that a condition on a field can have here.
func Matches(f layermap.Field) []filter.MatchType {
	ordered := []filter.MatchType{filter.MatchEqual, filter.MatchNotEqual, filter.MatchGreater, filter.MatchLess,
		filter.MatchGreaterOrEqual, filter.MatchLessOrEqual, filter.MatchRange}
	switch f.DataType {
	case layermap.Uint8, layermap.Uint16, layermap.Uint32, layermap.Uint64:
		return append(ordered, filter.MatchFlagsAllSet, filter.MatchFlagsAnySet, filter.MatchFlagsNoneSet)
	case layermap.ByteArray16:
		return ordered
	case layermap.SIDType, layermap.ByteBlob:
		return []filter.MatchType{filter.MatchEqual, filter.MatchNotEqual}
	}
	return []filter.MatchType{filter.MatchEqual}
}

func (g *Generator) condition(l *layermap.Layer, f layermap.Field) filter.Condition {
	c := filter.Condition{Field: f.Key}
	ms := Matches(f)
	c.Match = ms[g.r.IntN(len(ms))]
	if isFlags(c.Match) {
		c.Value = filter.Value{Type: f.DataType, Num: g.flags(f)}
		return c
	}
	if c.Match == filter.MatchEqual && g.r.IntN(12) == 0 {
		return c // EQUAL EMPTY
	}
	v := g.value(l, f)
	if f.DataType == layermap.TokenAccessInformation || f.DataType == layermap.TokenInformation {
		c.Value = filter.SDValue(g.descriptor())
		return c
	}
	equality := c.Match == filter.MatchEqual || c.Match == filter.MatchNotEqual
	if f.Type == layermap.IPAddress && equality && g.r.IntN(2) == 0 {
		c.Value = g.mask(v)
		return c
	}
	c.Value = v
	if c.Match == filter.MatchRange {
		w := g.value(l, f)
		if order, _ := filter.Compare(v, w); order > 0 {
			v, w = w, v
		}
		c.Value = filter.RangeOf(v, w)
	}
	return c
}

func isFlags(m filter.MatchType) bool {
	return m == filter.MatchFlagsAllSet || m == filter.MatchFlagsAnySet || m == filter.MatchFlagsNoneSet
}

// flagBits are the FWP_CONDITION_FLAG_* bits that policies test.
var flagBits = []uint64{0x1, 0x2, 0x4, 0x8, 0x10, 0x20, 0x400000, 0x800000}

// flags draws a mask: some of a few bits, as policies have it.
func (g *Generator) flags(f layermap.Field) uint64 {
	var m uint64
	for range 1 + g.r.IntN(3) {
		b := flagBits[g.r.IntN(len(flagBits))]
		if f.Type != layermap.FlagsField {
			b = 1 << g.r.UintN(min(4, bits(f.DataType)))
		}
		m |= b
	}
	return m & (1<<(bits(f.DataType)-1)<<1 - 1)
}

func (g *Generator) mask(v filter.Value) filter.Value {
	if v.Type == layermap.Uint32 {
		if g.r.IntN(4) == 0 {
			return filter.V4AddrAndMask(uint32(v.Num), 0xff00ff00)
		}
		a := netip.AddrFrom4([4]byte{byte(v.Num >> 24), byte(v.Num >> 16), byte(v.Num >> 8), byte(v.Num)})
		return filter.V4Mask(netip.PrefixFrom(a, g.r.IntN(33)))
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
	sids = append(sids, filter.ServiceSID("alpha"), filter.ServiceSID("beta"), filter.SIDEveryone, filter.ServiceSID("unmapped"))
	sd := &filter.SecurityDescriptor{}
	for range 1 + g.r.IntN(3) {
		sd.Entries = append(sd.Entries, filter.ACE{Allow: g.r.IntN(4) != 0, Mask: 1, SID: sids[g.r.IntN(len(sids))]})
	}
	return sd
}

// value draws a value of a field: from a small pool, or beside one of it, so
// that conditions and traffic meet.
func (g *Generator) value(l *layermap.Layer, f layermap.Field) filter.Value {
	id := fmt.Sprint(l.Family, f.Key)
	if f.Key == "ALE_APP_ID" {
		return filter.Blob([]byte(Apps[g.r.IntN(len(Apps))]))
	}
	if f.Key == "ALE_PACKAGE_ID" {
		return filter.SIDValue([]filter.SID{filter.SIDNull, filter.PackageSID("vendor.app_1"), filter.PackageSID("vendor.app_2")}[g.r.IntN(3)])
	}
	pool := g.pools[id]
	if pool == nil {
		for range 8 {
			pool = append(pool, g.fresh(f))
		}
		g.pools[id] = pool
	}
	return g.beside(pool[g.r.IntN(len(pool))])
}

func (g *Generator) fresh(f layermap.Field) filter.Value {
	v := filter.Value{Type: f.DataType}
	if f.Type == layermap.FlagsField {
		v.Num = g.flags(f)
		return v
	}
	switch f.DataType {
	case layermap.Uint8, layermap.Uint16, layermap.Uint32, layermap.Uint64:
		v.Num = g.r.Uint64() >> (64 - bits(f.DataType)) >> (g.r.IntN(4) * int(bits(f.DataType)) / 4)
	case layermap.ByteArray16, layermap.ByteArray6:
		n := 16
		if f.DataType == layermap.ByteArray6 {
			n = 6
		}
		v.Bytes = make([]byte, n)
		v.Bytes[0], v.Bytes[1] = 0xfd, 0x77
		for i := 2 + g.r.IntN(n-2); i < n; i++ {
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
	return map[layermap.DataType]uint{layermap.Uint8: 8, layermap.Uint16: 16, layermap.Uint32: 32, layermap.Uint64: 64}[t]
}

// beside moves a value by one, or flips a bit, or leaves it.
func (g *Generator) beside(v filter.Value) filter.Value {
	if width := bits(v.Type); width != 0 {
		switch g.r.IntN(8) {
		case 0:
			v.Num++
		case 1:
			v.Num--
		case 2:
			v.Num ^= 1 << g.r.UintN(width)
		}
		v.Num &= 1<<(width-1)<<1 - 1
		return v
	}
	if len(v.Bytes) > 0 && g.r.IntN(3) == 0 {
		v.Bytes = append([]byte(nil), v.Bytes...)
		v.Bytes[g.r.IntN(len(v.Bytes))] ^= 1 << g.r.UintN(8)
	}
	return v
}

// Values draws the fields of one classification.
func (g *Generator) Values(l *layermap.Layer) filter.Values {
	vs := make(filter.Values, len(l.Fields))
	for i, f := range l.Fields {
		src := l.Source(f.Key)
		switch {
		case src.Kind == layermap.Constant:
			vs[i] = filter.Value{Type: f.DataType, Num: src.Value}
		case src.Kind != layermap.Filled || g.r.IntN(16) == 0 && f.Key != "ALE_USER_ID" && f.Key != "ALE_APP_ID" && f.Key != "ALE_PACKAGE_ID":
		case f.Key == "ALE_USER_ID":
			vs[i] = g.token()
		case f.Key == "ALE_APP_ID" && g.r.IntN(4) == 0:
			vs[i] = filter.Blob([]byte("/usr/bin/nobody-names-me"))
		case f.Key == "ALE_PACKAGE_ID":
			vs[i] = filter.SIDValue([]filter.SID{filter.SIDNull, filter.PackageSID("vendor.app_1")}[g.r.IntN(2)])
		default:
			vs[i] = g.value(l, f)
		}
	}
	return vs
}

func (g *Generator) token() filter.Value {
	sids := []filter.SID{filter.UnixUser([]uint32{0, 1000, 1001, 1002}[g.r.IntN(4)]), filter.UnixGroup([]uint32{0, 100, 101}[g.r.IntN(3)])}
	switch g.r.IntN(3) {
	case 0:
		sids = append(sids, filter.ServiceSID("alpha"))
	case 1:
		sids = append(sids, filter.ServiceSID("beta"))
	}
	return filter.TokenValue(sids...)
}
