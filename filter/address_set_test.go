// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/wfpebpf/wfpebpf/layermap"
)

// setOf makes a set of addresses, prefixes and ranges low-high.
func setOf(entries ...string) *AddressSet {
	var b SetBuilder
	for _, e := range entries {
		low, high, isRange := strings.Cut(e, "-")
		if !isRange {
			high = low
		}
		a, err := netip.ParseAddr(low)
		z, _ := netip.ParseAddr(high)
		if err != nil {
			a, z = PrefixRange(netip.MustParsePrefix(e))
		}
		if err := b.Add(a, z); err != nil {
			panic(err)
		}
	}
	return b.Set("list", "list.txt")
}

// described is a set as it comes out of JSON: without its addresses.
func described(s *AddressSet) *AddressSet {
	data, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	out := &AddressSet{}
	if err := json.Unmarshal(data, out); err != nil {
		panic(err)
	}
	return out
}

func rangesOf(s *AddressSet) string {
	var out []string
	for low, high := range s.All() {
		out = append(out, RangeText(low, high))
	}
	return strings.Join(out, " ")
}

func TestSetOfAddresses(t *testing.T) {
	for _, tc := range []struct{ entries, want string }{
		{"", ""},
		{"192.0.2.1", "192.0.2.1"},
		{"192.0.2.1 192.0.2.1", "192.0.2.1"},
		{"192.0.2.3 192.0.2.1", "192.0.2.1 192.0.2.3"},
		{"192.0.2.2 192.0.2.1 192.0.2.3 192.0.2.0", "192.0.2.0/30"},
		{"192.0.2.77/24", "192.0.2.0/24"},
		{"10.0.0.0/8 10.1.2.3 9.255.255.255", "9.255.255.255-10.255.255.255"},
		{"10.0.0.0-10.0.0.9 10.0.0.5-10.0.0.20", "10.0.0.0-10.0.0.20"},
		{"10.0.0.0-10.0.0.20 10.0.0.5-10.0.0.9", "10.0.0.0-10.0.0.20"},
		{"0.0.0.0/0", "0.0.0.0/0"},
		{"255.255.255.255 0.0.0.0", "0.0.0.0 255.255.255.255"},
		{"128.0.0.0/1 255.255.255.255 10.0.0.1", "10.0.0.1 128.0.0.0/1"},
		{"2001:db8::1 192.0.2.1", "192.0.2.1 2001:db8::1"},
		{"2001:db8::/32 2001:db9::/32", "2001:db8::/31"},
		{"::/0 2001:db8::1", "::/0"},
		{"ffff::/16 ffff:ffff::1 ::", ":: ffff::/16"},
		{"2001:db8::ffff:ffff:ffff:ffff 2001:db8:0:1::", "2001:db8::ffff:ffff:ffff:ffff-2001:db8:0:1::"},
		{"::ffff:192.0.2.1 192.0.2.0", "192.0.2.0/31"},
		{"::ffff:192.0.2.0/120", "192.0.2.0/24"},
		{"::ffff:10.0.0.1-::ffff:10.0.0.4", "10.0.0.1-10.0.0.4"},
	} {
		s := setOf(strings.Fields(tc.entries)...)
		if got := rangesOf(s); got != tc.want {
			t.Errorf("%q is %q, want %q", tc.entries, got, tc.want)
		}
		if n := len(strings.Fields(tc.entries)); s.Entries() != n || s.Ranges4()+s.Ranges6() != len(strings.Fields(tc.want)) || s.Empty() != (n == 0) {
			t.Errorf("%q: %d entries, %d and %d ranges, empty %t", tc.entries, s.Entries(), s.Ranges4(), s.Ranges6(), s.Empty())
		}
	}
}

func TestSetOfWhatIsNoRange(t *testing.T) {
	a := netip.MustParseAddr
	for _, tc := range []struct {
		low, high netip.Addr
		want      error
	}{
		{a("10.0.0.2"), a("10.0.0.1"), ErrInvalidRange},
		{a("::2"), a("::1"), ErrInvalidRange},
		{a("10.0.0.1"), a("::1"), ErrTypeMismatch},
		{a("::1"), a("10.0.0.1"), ErrTypeMismatch},
		{a("fe80::1%eth0"), a("fe80::1%eth0"), ErrTypeMismatch},
		{netip.Addr{}, netip.Addr{}, ErrTypeMismatch},
	} {
		var b SetBuilder
		if err := b.Add(tc.low, tc.high); !errors.Is(err, tc.want) || b.Entries() != 0 {
			t.Errorf("%s-%s: error %v, want %v", tc.low, tc.high, err, tc.want)
		}
	}
}

func TestSetContains(t *testing.T) {
	s := setOf("10.0.0.0/8", "192.0.2.1", "255.255.255.255", "2001:db8::/32", "::1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")
	for addr, want := range map[string]string{
		"9.255.255.255": "", "10.0.0.0": "10.0.0.0/8", "10.255.255.255": "10.0.0.0/8", "11.0.0.0": "",
		"192.0.2.0": "", "192.0.2.1": "192.0.2.1", "192.0.2.2": "", "0.0.0.0": "", "255.255.255.255": "255.255.255.255", "255.255.255.254": "",
		"::ffff:10.1.2.3": "10.0.0.0/8", "::": "", "::1": "::1", "::2": "", "2001:db7:ffff::": "", "2001:db8::": "2001:db8::/32",
		"2001:db8:ffff:ffff:ffff:ffff:ffff:ffff": "2001:db8::/32", "2001:db9::": "",
		"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff": "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
	} {
		got := ""
		if low, high, ok := s.Find(netip.MustParseAddr(addr)); ok {
			got = RangeText(low, high)
		}
		if got != want || s.Contains(netip.MustParseAddr(addr)) != (want != "") {
			t.Errorf("%s is in %q, want %q", addr, got, want)
		}
	}
}

// What a condition says is the same as one condition for each entry.
func TestSetsMatchAsTheirEntriesDo(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		var entries []string
		var conds []Condition
		for range r.IntN(20) {
			p := netip.PrefixFrom(address4(r.Uint32()&0x0f), 26+r.IntN(7))
			q := netip.PrefixFrom(netip.AddrFrom16(Addr6{0xfd << 56, r.Uint64() & 0x0f}.Bytes()), 122+r.IntN(7))
			entries = append(entries, p.String(), q.String())
			conds = append(conds, Condition{"IP_REMOTE_ADDRESS", MatchEqual, V4Mask(p)}, Condition{"IP_REMOTE_ADDRESS", MatchEqual, V6Mask(q)})
		}
		set := SetValue(setOf(entries...))
		in, out := Condition{"IP_REMOTE_ADDRESS", MatchEqual, set}, Condition{"IP_REMOTE_ADDRESS", MatchNotEqual, set}
		for i := range uint64(64) {
			for _, v := range []Value{U32(uint32(i)), Addr16(netip.AddrFrom16(Addr6{0xfd << 56, i}.Bytes()))} {
				want := slices.ContainsFunc(conds, func(c Condition) bool { return c.Matches(v) })
				if in.Matches(v) != want || out.Matches(v) == want {
					t.Fatalf("%v of %q: in %t, not in %t, want %t", v, entries, in.Matches(v), out.Matches(v), want)
				}
				if _, _, ok := set.Set.FindValue(v); ok != want {
					t.Fatalf("%v of %q: found %t, want %t", v, entries, ok, want)
				}
			}
		}
	}
}

func TestSetsNeedAnAddress(t *testing.T) {
	set, mapped := setOf("0.0.0.0/0"), Addr16(netip.MustParseAddr("::ffff:10.0.0.1"))
	for _, tc := range []struct {
		name    string
		match   MatchType
		set     *AddressSet
		value   Value
		matches bool
	}{
		{"in it", MatchEqual, set, v4("10.0.0.1"), true},
		{"no value", MatchEqual, set, Value{}, false},
		{"no value, not in it", MatchNotEqual, set, Value{}, false},
		{"a number of another type", MatchNotEqual, set, U16(1), false},
		{"an empty set", MatchEqual, setOf(), v4("10.0.0.1"), false},
		{"not in an empty set", MatchNotEqual, setOf(), v4("10.0.0.1"), true},
		{"an IPv6 address of a set without any", MatchNotEqual, set, v6("2001:db8::1"), true},
		{"a mapped address at a V6 layer", MatchEqual, set, mapped, false},
		{"no set", MatchNotEqual, nil, v4("10.0.0.1"), false},
		{"a set whose addresses are elsewhere", MatchNotEqual, described(set), v4("10.0.0.1"), false},
		{"a match type that sets do not have", MatchGreater, set, v4("10.0.0.1"), false},
	} {
		if got := (Condition{"IP_REMOTE_ADDRESS", tc.match, SetValue(tc.set)}).Matches(tc.value); got != tc.matches {
			t.Errorf("%s: %t, want %t", tc.name, got, tc.matches)
		}
	}
}

func TestSetsDecideAndAreSensitive(t *testing.T) {
	s := NewStore()
	must(t, s.AddFilter(&Filter{Name: "list", Layer: connectV4.ID, Action: ActionBlock,
		Conditions: []Condition{{"IP_REMOTE_ADDRESS", MatchEqual, SetValue(setOf("192.0.2.0/24", "2001:db8::/32"))}}}))
	for addr, want := range map[string]Action{"192.0.2.9": ActionBlock, "192.0.3.9": ActionNoneNoMatch} {
		values := valuesOf(connectV4, map[string]Value{"IP_REMOTE_ADDRESS": v4(addr)})
		if got := Arbitrate(s, connectV4.ID, values, nil).Action; got != want {
			t.Errorf("%s: %v, want %v", addr, got, want)
		}
	}
	if got := Sensitive(s, connectV4.ID, make(Values, len(connectV4.Fields)), nil); !slices.Equal(got, []string{"IP_REMOTE_ADDRESS"}) {
		t.Errorf("sensitive to %q", got)
	}
}

// A new version of a list must not change the order of filters.
func TestSetsWeighTheSameWhateverIsInThem(t *testing.T) {
	weight := func(v Value, m MatchType) uint64 {
		w, err := EffectiveWeight(&Filter{Name: "f", Layer: connectV4.ID, Action: ActionBlock,
			Conditions: []Condition{{"IP_REMOTE_ADDRESS", m, v}}})
		must(t, err)
		return w
	}
	list := weight(SetValue(setOf("10.0.0.0/8", "192.0.2.1")), MatchEqual)
	for _, s := range []*AddressSet{setOf(), setOf("0.0.0.0/0"), setOf("192.0.2.1")} {
		if w := weight(SetValue(s), MatchEqual); w != list {
			t.Errorf("%s weighs %#x, another %#x", s, w, list)
		}
	}
	if one, wide := weight(v4("192.0.2.1"), MatchEqual), weight(m4("10.0.0.0/8"), MatchEqual); one <= list || wide >= list {
		t.Errorf("a set weighs %#x, one address %#x, a wide network %#x", list, one, wide)
	}
}

func TestSetText(t *testing.T) {
	s := setOf("192.0.2.1", "192.0.2.2")
	if got, want := SetValue(s).String(), `set "list" (2 entries)`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got := SetValue(nil).String(); got != "no set" {
		t.Error(got)
	}
	if got := layermap.AddressSetType.String(); got != "WFPEBPF_ADDRESS_SET" {
		t.Error(got)
	}
	if _, ok := layermap.ParseDataType("WFPEBPF_ADDRESS_SET"); ok {
		t.Error("a dump could hold a set")
	}
	f := Filter{Name: "f", Layer: connectV4.ID, Action: ActionBlock, Conditions: []Condition{{"IP_PROTOCOL", MatchEqual, SetValue(s)}}}
	if err := f.Validate(); err == nil || !strings.Contains(err.Error(), "IP_PROTOCOL FWP_MATCH_EQUAL WFPEBPF_ADDRESS_SET: the field is a FWP_UINT8") {
		t.Errorf("error %v", err)
	}
}

func TestSetsAreKept(t *testing.T) {
	for _, entries := range [][]string{nil, {"192.0.2.1"}, {"2001:db8::/32"}, {"10.0.0.0/8", "192.0.2.1", "::1", "2001:db8::/32"}} {
		s := setOf(entries...)
		text, err := json.Marshal(SetValue(s))
		must(t, err)
		if len(text) > 400 || strings.Contains(string(text), "192.0.2.1") {
			t.Errorf("JSON holds the addresses: %s", text)
		}
		var v Value
		must(t, json.Unmarshal(text, &v))
		if v.Set.Loaded() || v.Set.Name() != "list" || v.Set.Source() != "list.txt" || v.Set.Entries() != len(entries) || v.Set.Ranges4() != s.Ranges4() {
			t.Errorf("it comes back as %+v", v.Set)
		}
		if _, err := v.Set.MarshalBinary(); err == nil {
			t.Error("a set without its addresses gives some")
		}
		data, err := s.MarshalBinary()
		must(t, err)
		back, err := v.Set.Load(data)
		must(t, err)
		if !back.Loaded() || rangesOf(back) != rangesOf(s) || !SetValue(back).Equal(SetValue(s)) || back.Digest() != s.Digest() {
			t.Errorf("%q comes back as %q", rangesOf(s), rangesOf(back))
		}
		for _, bad := range [][]byte{nil, data[:len(data)-1], append(slices.Clone(data), 0), setMagic} {
			if _, err := v.Set.Load(bad); err == nil {
				t.Errorf("%d bytes are taken for %d", len(bad), len(data))
			}
		}
	}
	list, other := described(setOf("192.0.2.1")), setOf("192.0.2.2")
	f := Filter{Conditions: []Condition{
		{"IP_REMOTE_ADDRESS", MatchEqual, SetValue(list)}, {"IP_LOCAL_ADDRESS", MatchEqual, SetValue(described(list))},
		{"IP_PROTOCOL", MatchEqual, U8(6)}, {"IP_LOCAL_ADDRESS", MatchEqual, SetValue(other)},
	}}
	if got := f.Sets(); len(got) != 2 || got[0] != list || got[1] != other {
		t.Errorf("the filter names %v", got)
	}
	if setOf("192.0.2.1").Digest() == setOf("192.0.2.2").Digest() {
		t.Error("sets with other addresses have one digest")
	}
	for _, bad := range []string{`{"digest":"00"}`, `{}`, `[]`, `{"v4":-1,"digest":"` + strings.Repeat("00", 32) + `"}`} {
		if err := json.Unmarshal([]byte(bad), &AddressSet{}); err == nil {
			t.Errorf("%s is taken for a set", bad)
		}
	}
}

// FuzzSetData: no data is taken for a set that does not hold its order.
func FuzzSetData(f *testing.F) {
	for _, s := range []*AddressSet{setOf(), setOf("10.0.0.0/8", "192.0.2.1", "::1")} {
		data, err := s.MarshalBinary()
		must(f, err)
		f.Add(data)
	}
	f.Add(binary.BigEndian.AppendUint64(slices.Clone(setMagic), 1<<61))
	f.Fuzz(func(t *testing.T, data []byte) {
		s := &AddressSet{}
		if !s.read(data) {
			return
		}
		var last netip.Addr
		for low, high := range s.All() {
			if high.Less(low) || last.IsValid() && last.Is4() == low.Is4() && !last.Less(low) {
				t.Fatalf("%s after %s", RangeText(low, high), last)
			}
			last = high
		}
	})
}

func BenchmarkSet(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 2))
	const n = 500_000
	for _, family := range []string{"v4", "v6"} {
		b.Run(fmt.Sprint("make ", n, " ", family), func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				var s SetBuilder
				for range n {
					a := address4(r.Uint32())
					if family == "v6" {
						a = netip.AddrFrom16(Addr6{0xfd<<56 | r.Uint64()>>8, r.Uint64()}.Bytes())
					}
					must(b, s.Add(a, a))
				}
				b.StartTimer()
				if s.Set("s", "").Empty() {
					b.Fatal("empty")
				}
			}
		})
	}
	var s SetBuilder
	for range n {
		a := address4(r.Uint32())
		must(b, s.Add(a, a))
	}
	c := Condition{"IP_REMOTE_ADDRESS", MatchEqual, SetValue(s.Set("s", ""))}
	b.Run("match", func(b *testing.B) {
		for b.Loop() {
			c.Matches(U32(r.Uint32()))
		}
	})
}
