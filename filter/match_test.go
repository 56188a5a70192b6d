// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"math"
	"net/netip"
	"testing"

	"github.com/wfpebpf/wfpebpf/layermap"
)

func num(t layermap.DataType, n uint64) Value { return Value{Type: t, Num: n} }
func i8(n int8) Value                         { return num(layermap.Int8, uint64(n)) }
func f64(f float64) Value                     { return num(layermap.Double, math.Float64bits(f)) }
func f32(f float32) Value                     { return num(layermap.Float, uint64(math.Float32bits(f))) }
func v4(s string) Value                       { return Addr4(netip.MustParseAddr(s)) }
func v6(s string) Value                       { return Addr16(netip.MustParseAddr(s)) }
func m4(s string) Value                       { return V4Mask(netip.MustParsePrefix(s)) }
func m6(s string) Value                       { return V6Mask(netip.MustParsePrefix(s)) }
func blob(s string) Value                     { return Blob([]byte(s)) }
func sddl(s string) Value {
	sd, err := ParseSDDL(s)
	if err != nil {
		panic(err)
	}
	return SDValue(sd)
}

func TestMatchTypes(t *testing.T) {
	for _, c := range []struct {
		name    string
		match   MatchType
		operand Value
		value   Value
		want    bool
	}{
		{"UINT8", MatchEqual, U8(6), U8(6), true},
		{"UINT8", MatchEqual, U8(6), U8(17), false},
		{"UINT64", MatchEqual, U64(1 << 60), U64(1 << 60), true},
		{"of another width", MatchEqual, U8(6), U16(6), false},
		{"INT8, sign extended or not", MatchEqual, num(layermap.Int8, 0xff), i8(-1), true},
		{"DOUBLE", MatchEqual, f64(1.5), f64(1.5), true},
		{"BYTE_ARRAY16", MatchEqual, v6("fe80::1"), v6("fe80::1"), true},
		{"BYTE_ARRAY6", MatchEqual, MAC([6]byte{1}), MAC([6]byte{1}), true},
		{"BYTE_BLOB", MatchEqual, blob("ab"), blob("ab"), true},
		{"BYTE_BLOB, letter case", MatchEqual, blob("ab"), blob("aB"), false},
		{"BYTE_BLOB, closing NUL", MatchEqual, blob("ab"), blob("ab\x00"), false},
		{"UNICODE_STRING", MatchEqual, Str("a"), Str("a"), true},
		{"UNICODE_STRING, letter case", MatchEqual, Str("a"), Str("A"), false},
		{"SID", MatchEqual, SIDValue(SIDNull), SIDValue(SIDNull), true},
		{"SID", MatchEqual, SIDValue(SIDNull), SIDValue(SIDEveryone), false},

		{"V4_ADDR_MASK", MatchEqual, m4("10.0.0.0/8"), v4("10.1.2.3"), true},
		{"V4_ADDR_MASK", MatchEqual, m4("10.0.0.0/8"), v4("11.0.0.0"), false},
		{"V4_ADDR_MASK, host bits set", MatchEqual, m4("10.9.9.9/8"), v4("10.1.2.3"), true},
		{"V4_ADDR_MASK, /0", MatchEqual, m4("0.0.0.0/0"), v4("255.255.255.255"), true},
		{"V4_ADDR_MASK, not contiguous", MatchEqual, V4AddrAndMask(0x01000001, 0xff0000ff), v4("1.77.88.1"), true},
		{"V4_ADDR_MASK, not contiguous", MatchEqual, V4AddrAndMask(0x01000001, 0xff0000ff), v4("1.77.88.2"), false},
		{"V4_ADDR_MASK", MatchNotEqual, m4("10.0.0.0/8"), v4("11.0.0.0"), true},
		{"V4_ADDR_MASK", MatchNotEqual, m4("10.0.0.0/8"), v4("10.0.0.0"), false},
		{"V6_ADDR_MASK", MatchEqual, m6("fe80::/10"), v6("febf::1"), true},
		{"V6_ADDR_MASK", MatchEqual, m6("fe80::/10"), v6("fec0::1"), false},
		{"V6_ADDR_MASK, /0", MatchEqual, m6("::/0"), v6("1::"), true},
		{"V6_ADDR_MASK, /128", MatchEqual, m6("1::1/128"), v6("1::1"), true},
		{"V6_ADDR_MASK, /128", MatchEqual, m6("1::1/128"), v6("1::"), false},
		{"V6_ADDR_MASK", MatchNotEqual, m6("fe80::/64"), v6("fe80::1"), false},
		{"mask on another type", MatchEqual, m4("10.0.0.0/8"), v6("::1"), false},
		{"mask on another type", MatchNotEqual, m4("10.0.0.0/8"), v6("::1"), false},

		{"SECURITY_DESCRIPTOR", MatchEqual, sddl("D:(A;;CC;;;SY)"), TokenValue(SIDLocalSystem), true},
		{"SECURITY_DESCRIPTOR", MatchEqual, sddl("D:(A;;CC;;;SY)"), TokenValue("S-1-22-1-0"), false},
		{"SECURITY_DESCRIPTOR on TOKEN_INFORMATION", MatchEqual, sddl("D:(A;;CC;;;WD)"), Value{Type: layermap.TokenInformation}, true},
		{"SECURITY_DESCRIPTOR on a SID", MatchEqual, sddl("D:(A;;CC;;;WD)"), SIDValue(SIDEveryone), false},
		{"SECURITY_DESCRIPTOR is not sortable", MatchNotEqual, sddl("D:(A;;CC;;;SY)"), TokenValue(), false},

		{"UINT16", MatchGreater, U16(80), U16(81), true},
		{"UINT16", MatchGreater, U16(80), U16(80), false},
		{"UINT16", MatchLess, U16(80), U16(79), true},
		{"UINT16", MatchLess, U16(80), U16(80), false},
		{"UINT16", MatchGreaterOrEqual, U16(80), U16(80), true},
		{"UINT16", MatchGreaterOrEqual, U16(80), U16(79), false},
		{"UINT16", MatchLessOrEqual, U16(80), U16(80), true},
		{"UINT16", MatchLessOrEqual, U16(80), U16(81), false},
		{"INT8 is signed", MatchLess, i8(0), i8(-1), true},
		{"FLOAT", MatchLess, f32(0), f32(-1), true},
		{"DOUBLE", MatchGreater, f64(-2), f64(-1), true},
		{"not a number", MatchGreaterOrEqual, f64(math.NaN()), f64(1), false},
		{"BYTE_ARRAY16 by byte", MatchGreater, v6("1::"), v6("1::1"), true},
		{"BYTE_BLOB by byte", MatchLess, blob("b"), blob("abc"), true},
		{"UNICODE_STRING", MatchGreater, Str("a"), Str("b"), true},
		{"SID has no order", MatchGreater, SIDValue("S-1-1-0"), SIDValue("S-1-2-0"), false},
		{"BYTE_ARRAY6 is not sortable", MatchGreater, MAC([6]byte{}), MAC([6]byte{1}), false},

		{"both ends are in", MatchRange, RangeOf(U16(10), U16(20)), U16(10), true},
		{"both ends are in", MatchRange, RangeOf(U16(10), U16(20)), U16(20), true},
		{"below", MatchRange, RangeOf(U16(10), U16(20)), U16(9), false},
		{"above", MatchRange, RangeOf(U16(10), U16(20)), U16(21), false},
		{"IPv4", MatchRange, RangeOf(v4("10.0.0.0"), v4("10.255.255.255")), v4("10.7.7.7"), true},
		{"IPv6", MatchRange, RangeOf(v6("fe80::"), v6("fe80::ffff")), v6("fe80::1"), true},
		{"of another type", MatchRange, RangeOf(U16(10), U16(20)), U32(15), false},
		{"without a range", MatchRange, Value{Type: layermap.RangeType}, U32(15), false},
		{"operand that is no range", MatchRange, U16(15), U16(15), false},
		{"EQUAL with a range", MatchEqual, RangeOf(U16(10), U16(20)), U16(15), false},

		{"all", MatchFlagsAllSet, U32(5), U32(7), true},
		{"not all", MatchFlagsAllSet, U32(5), U32(4), false},
		{"all of none", MatchFlagsAllSet, U32(0), U32(0), true},
		{"any", MatchFlagsAnySet, U32(5), U32(4), true},
		{"not any", MatchFlagsAnySet, U32(5), U32(2), false},
		{"any of none", MatchFlagsAnySet, U32(0), U32(7), false},
		{"none", MatchFlagsNoneSet, U32(5), U32(2), true},
		{"not none", MatchFlagsNoneSet, U32(5), U32(1), false},
		{"EQUAL compares the whole word", MatchEqual, U32(1), U32(3), false},
		{"flags of a signed type", MatchFlagsAllSet, i8(1), i8(1), false},

		{"letter case", MatchEqualCaseInsensitive, Str("abc"), Str("ABC"), true},
		{"letter case", MatchEqualCaseInsensitive, Str("abc"), Str("abd"), false},
		{"letter case of a blob", MatchEqualCaseInsensitive, blob("a"), blob("A"), false},

		{"UINT16", MatchNotEqual, U16(80), U16(81), true},
		{"UINT16", MatchNotEqual, U16(80), U16(80), false},
		{"SID: is an AppContainer", MatchNotEqual, SIDValue(SIDNull), SIDValue("S-1-15-2-1"), true},
		{"SID: is none", MatchNotEqual, SIDValue(SIDNull), SIDValue(SIDNull), false},
		{"of another type", MatchNotEqual, U16(80), U32(81), false},

		{"beginning", MatchPrefix, Str("abc"), Str("abcd"), true},
		{"end", MatchPrefix, Str("bcd"), Str("abcd"), false},
		{"BYTE_BLOB", MatchPrefix, blob("ab"), blob("abc"), true},
		{"beginning", MatchNotPrefix, Str("abc"), Str("abcd"), false},
		{"end", MatchNotPrefix, Str("bcd"), Str("abcd"), true},
		{"number", MatchPrefix, U8(1), U8(1), false},

		{"EMPTY", MatchEqual, Value{}, Value{}, true},
		{"EMPTY against a value", MatchEqual, Value{}, U8(0), false},
		{"value against EMPTY", MatchEqual, U8(0), Value{}, false},
		{"no value", MatchNotEqual, U8(0), Value{}, false},
		{"no value", MatchFlagsNoneSet, U32(1), Value{}, false},
		{"no value", MatchNotPrefix, Str("a"), Value{}, false},
		{"no value", MatchEqual, sddl("D:(A;;CC;;;WD)"), Value{}, false},
		{"EMPTY with NOT_EQUAL", MatchNotEqual, Value{}, U8(1), false},
		{"unknown match type", MatchNotPrefix + 1, U8(1), U8(1), false},
	} {
		if got := (Condition{Match: c.match, Value: c.operand}).Matches(c.value); got != c.want {
			t.Errorf("%s %s: %s against %s = %v", c.match, c.name, c.operand, c.value, got)
		}
	}
}

// No condition, however odd, may match a field of another type or panic.
func TestMatchTypesByDataTypes(t *testing.T) {
	values := []Value{
		{}, U8(1), U16(1), U32(1), U64(1), i8(1), num(layermap.Int16, 1), num(layermap.Int32, 1), num(layermap.Int64, 1),
		f32(1), f64(1), v6("::1"), blob("a"), SIDValue(SIDNull), sddl("D:(A;;CC;;;WD)"),
		{Type: layermap.TokenInformation}, TokenValue(), Str("a"), MAC([6]byte{1}),
		num(layermap.BitmapIndex, 1), num(layermap.BitmapArray64, 1), m4("0.0.0.0/0"), m6("::/0"), RangeOf(U8(0), U8(2)),
		{Type: 0xff}, {Type: 0xffff}, {Type: layermap.V6AddrMask, Num: 9}, {Type: layermap.SecurityDescriptorType},
	}
	alike := map[[2]layermap.DataType]bool{ // operand, field
		{layermap.V4AddrMask, layermap.Uint32}:                             true,
		{layermap.V6AddrMask, layermap.ByteArray16}:                        true,
		{layermap.SecurityDescriptorType, layermap.TokenInformation}:       true,
		{layermap.SecurityDescriptorType, layermap.TokenAccessInformation}: true,
		{layermap.RangeType, layermap.Uint8}:                               true,
	}
	for m := MatchEqual; m <= MatchNotPrefix+1; m++ {
		for _, operand := range values {
			for _, v := range values {
				c := Condition{Match: m, Value: operand}
				if c.Matches(v) && operand.Type != v.Type && !alike[[2]layermap.DataType{operand.Type, v.Type}] {
					t.Errorf("%s %s matches a %s", m, operand.Type, v.Type)
				}
			}
		}
	}
}

func TestFormatValue(t *testing.T) {
	addr := layermap.Field{Key: "IP_REMOTE_ADDRESS", Type: layermap.IPAddress, DataType: layermap.Uint32}
	flags := layermap.Field{Key: "FLAGS", Type: layermap.FlagsField, DataType: layermap.Uint32}
	for _, c := range []struct {
		field layermap.Field
		value Value
		want  string
	}{
		{layermap.Field{}, Value{}, "EMPTY"},
		{layermap.Field{}, v4("10.0.0.1"), "167772161"},
		{addr, v4("10.0.0.1"), "10.0.0.1"},
		{addr, m4("10.0.0.0/8"), "10.0.0.0/8"},
		{addr, V4AddrAndMask(1<<24, 0xff0000ff), "1.0.0.0&255.0.0.255"},
		{addr, m4("0.0.0.0/0"), "0.0.0.0/0"},
		{addr, RangeOf(v4("10.0.0.1"), v4("10.0.0.9")), "10.0.0.1-10.0.0.9"},
		{addr, v6("fe80::1"), "fe80::1"},
		{addr, m6("fe80::/10"), "fe80::/10"},
		{flags, U32(0x800001), "0x800001"},
		{layermap.Field{}, i8(-1), "-1"},
		{layermap.Field{}, blob("S\x00y\x00s\x00\x00\x00"), "Sys"},
		{layermap.Field{}, blob("\x01\x02"), "0x0102"},
		{layermap.Field{}, SIDValue(SIDNull), "S-1-0-0"},
		{layermap.Field{}, TokenValue("S-1-22-1-0"), "token S-1-22-1-0"},
		{layermap.Field{}, MAC([6]byte{2, 0, 0, 0, 0, 1}), "02:00:00:00:00:01"},
		{layermap.Field{}, Str("a"), `"a"`},
		{layermap.Field{}, SDValue(&SecurityDescriptor{Entries: []ACE{{Allow: true, Mask: 1, SID: SIDEveryone}}}), "D:(A;;0x1;;;S-1-1-0)"},
	} {
		if got := FormatValue(c.field, c.value); got != c.want {
			t.Errorf("%s: got %q, want %q", c.value.Type, got, c.want)
		}
	}
}
