// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"errors"
	"math"
	"math/bits"
	"testing"

	"github.com/wfpebpf/wfpebpf/layermap"
)

func weight(t *testing.T, class Value, conds ...Condition) uint64 {
	t.Helper()
	w, err := EffectiveWeight(&Filter{Name: "f", Layer: connectV4.ID, Weight: class, Conditions: conds})
	must(t, err)
	return w
}

func TestWeightTypes(t *testing.T) {
	port := Condition{"IP_REMOTE_PORT", MatchEqual, U16(80)}
	auto := weight(t, Value{}, port)
	for _, c := range []struct {
		name string
		got  uint64
		want uint64
	}{
		{"EMPTY without conditions", weight(t, Value{}), 0},
		{"UINT8 0 is EMPTY", weight(t, U8(0), port), auto},
		{"UINT8 9 without conditions", weight(t, U8(9)), 9 << 60},
		{"UINT8 15", weight(t, U8(15), port), 15<<60 | auto},
		{"UINT64 is exact", weight(t, U64(7), port), 7},
		{"UINT64 may be the greatest", weight(t, U64(math.MaxUint64)), math.MaxUint64},
	} {
		if c.got != c.want {
			t.Errorf("%s: %#x, want %#x", c.name, c.got, c.want)
		}
	}
	if auto == 0 || auto >= 1<<60 {
		t.Errorf("generated weight %#x is not in (0, 1<<60)", auto)
	}
	for _, w := range []Value{U8(16), U32(1), Str("1")} {
		if _, err := EffectiveWeight(&Filter{Layer: connectV4.ID, Weight: w}); !errors.Is(err, ErrInvalidWeight) {
			t.Errorf("%s %s: %v", w.Type, w, err)
		}
	}
}

// Each row is heavier than the next.
func TestWeightOrder(t *testing.T) {
	c := func(f string, m MatchType, v Value) []Condition { return []Condition{{f, m, v}} }
	rows := []struct {
		name  string
		conds []Condition
	}{
		{"remote address and port", append(c("IP_REMOTE_ADDRESS", MatchEqual, v4("10.0.0.1")), c("IP_REMOTE_PORT", MatchEqual, U16(80))...)},
		{"remote address", c("IP_REMOTE_ADDRESS", MatchEqual, v4("10.0.0.1"))},
		{"/31", c("IP_REMOTE_ADDRESS", MatchEqual, m4("10.0.0.0/31"))},
		{"/24", c("IP_REMOTE_ADDRESS", MatchEqual, m4("10.0.0.0/24"))},
		{"/8 as a range", c("IP_REMOTE_ADDRESS", MatchRange, RangeOf(v4("10.0.0.0"), v4("10.255.255.255")))},
		{"local address", c("IP_LOCAL_ADDRESS", MatchEqual, v4("10.0.0.1"))},
		{"interface", c("IP_LOCAL_INTERFACE", MatchEqual, U64(1))},
		{"protocol", c("IP_PROTOCOL", MatchEqual, U8(6))},
		{"local port", c("IP_LOCAL_PORT", MatchEqual, U16(80))},
		{"local ports", c("IP_LOCAL_PORT", MatchRange, RangeOf(U16(80), U16(90)))},
		{"remote port", c("IP_REMOTE_PORT", MatchEqual, U16(80))},
		{"remote ports above 1023", c("IP_REMOTE_PORT", MatchGreater, U16(1023))},
		{"app", c("ALE_APP_ID", MatchEqual, blob("a"))},
		{"user", c("ALE_USER_ID", MatchEqual, sddl("D:(A;;CC;;;WD)"))},
		{"flags", c("FLAGS", MatchFlagsAllSet, U32(1))},
		{"all remote ports", c("IP_REMOTE_PORT", MatchRange, RangeOf(U16(0), U16(65535)))},
	}
	for i := 1; i < len(rows); i++ {
		a, b := weight(t, Value{}, rows[i-1].conds...), weight(t, Value{}, rows[i].conds...)
		if a <= b {
			t.Errorf("%s %#x is not heavier than %s %#x", rows[i-1].name, a, rows[i].name, b)
		}
	}
	if w := weight(t, Value{}, rows[len(rows)-1].conds...); w != 0 {
		t.Errorf("a full range adds %#x", w)
	}
}

func TestMaskWeighsAsItsRange(t *testing.T) {
	mask := weight(t, Value{}, Condition{"IP_REMOTE_ADDRESS", MatchEqual, m4("10.0.0.0/8")})
	rng := weight(t, Value{}, Condition{"IP_REMOTE_ADDRESS", MatchRange, RangeOf(v4("10.0.0.0"), v4("10.255.255.255"))})
	if mask != rng {
		t.Errorf("mask %#x, range %#x", mask, rng)
	}
}

// The contribution formula against weights of real filters. M is what EQUAL on
// the field adds there.
func TestContributionAgainstRealWeights(t *testing.T) {
	r := func(lo, hi uint16) Condition { return Condition{"", MatchRange, RangeOf(U16(lo), U16(hi))} }
	rA := func(lo, hi string) Condition { return Condition{"", MatchRange, RangeOf(v4(lo), v4(hi))} }
	r6 := func(lo, hi string) Condition { return Condition{"", MatchRange, RangeOf(v6(lo), v6(hi))} }
	for _, c := range []struct {
		name  string
		max   uint64
		typ   layermap.DataType
		conds []Condition
		want  uint64
	}{
		{"67-68 at RESOURCE_ASSIGNMENT_V4", 0xfff, layermap.Uint16, []Condition{r(67, 68)}, 0xeff},
		{"5000-5020", 0xfff, layermap.Uint16, []Condition{r(5000, 5020)}, 0xb9b},
		{"8554-8558 at LISTEN_V4", 0x3fffff, layermap.Uint16, []Condition{r(8554, 8558)}, 0x36b658},
		{"67-68 at RECV_ACCEPT_V4", 32, layermap.Uint16, []Condition{r(67, 68)}, 30},
		{"8554-8558", 32, layermap.Uint16, []Condition{r(8554, 8558)}, 27},
		{"5000-5020", 32, layermap.Uint16, []Condition{r(5000, 5020)}, 23},
		{"1025-5000 at CONNECT_V4", 7, layermap.Uint16, []Condition{r(1025, 5000)}, 2},
		{"1-65535: one unit", 7, layermap.Uint16, []Condition{r(1, 65535)}, 1},
		{"local subnet and multicast", 1000, layermap.Uint32, []Condition{rA("192.168.1.0", "192.168.1.255"), rA("224.0.0.0", "239.255.255.255")}, 875},
		{"fe80::/64", 1000, layermap.ByteArray16, []Condition{r6("fe80::", "fe80::ffff:ffff:ffff:ffff")}, 500},
		{"full range", 1000, layermap.ByteArray16, []Condition{r6("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")}, 0},
		{"one IPv6 address", 1000, layermap.ByteArray16, []Condition{r6("fe80::1", "fe80::1")}, 1000},
	} {
		share := 0.0
		for i := range c.conds {
			share += specificity(&c.conds[i], c.typ)
		}
		if got := contribution(share, c.max); got != c.want {
			t.Errorf("%s: %#x, want %#x", c.name, got, c.want)
		}
	}
}

// Whatever a layer's fields, their runs are disjoint and stay below the class.
func TestLayoutsFit(t *testing.T) {
	for _, l := range layermap.Layers() {
		if len(l.Fields) > 64 {
			t.Errorf("%s has %d fields; MatchesAll counts 64", l.Name, len(l.Fields))
		}
		taken, seen := uint64(0), map[int]bool{}
		for i, s := range layouts[l.ID] {
			if s.shift+bits.Len64(s.max) > AutoWeightBits || s.max == 0 {
				t.Errorf("%s %s: %+v", l.Name, l.Fields[i].Key, s)
			}
			if !seen[s.run] && taken&(s.max<<s.shift) != 0 {
				t.Errorf("%s %s overlaps another field", l.Name, l.Fields[i].Key)
			}
			seen[s.run] = true
			taken |= s.max << s.shift
		}
		conds := make([]Condition, 0, 2*len(l.Fields))
		for _, f := range l.Fields {
			conds = append(conds, Condition{f.Key, MatchEqual, Value{}}, Condition{f.Key, MatchEqual, Value{}})
		}
		if w, p := autoWeight(&l, conds); p != nil || w >= 1<<60 {
			t.Errorf("%s: all fields give %#x, %v", l.Name, w, p)
		}
	}
}
