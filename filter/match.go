// SPDX-License-Identifier: Apache-2.0

// This file decides whether a condition holds for a field's value. It assumes
// nothing about the condition: what validation would refuse never matches.

package filter

import (
	"bytes"
	"strings"

	"github.com/wfpebpf/wfpebpf/layermap"
)

// kind groups the data types that the match types treat alike.
type kind uint16

const (
	kindUnsigned kind = 1 << iota
	kindSigned
	kindFloat
	kindArray16
	kindArray6
	kindBlob
	kindText
	kindSID
	kindSD
	kindToken
	kindBitmap
	kindMask
	kindRange
	kindSet
	kindEmpty

	kindSortable = kindUnsigned | kindSigned | kindFloat | kindArray16 | kindBlob | kindText
	kindAny      = kindEmpty<<1 - 1
)

var kinds = map[layermap.DataType]kind{
	layermap.Empty: kindEmpty,
	layermap.Uint8: kindUnsigned, layermap.Uint16: kindUnsigned, layermap.Uint32: kindUnsigned, layermap.Uint64: kindUnsigned,
	layermap.Int8: kindSigned, layermap.Int16: kindSigned, layermap.Int32: kindSigned, layermap.Int64: kindSigned,
	layermap.Float: kindFloat, layermap.Double: kindFloat,
	layermap.ByteArray16: kindArray16, layermap.ByteArray6: kindArray6,
	layermap.ByteBlob: kindBlob, layermap.UnicodeString: kindText,
	layermap.SIDType: kindSID, layermap.SecurityDescriptorType: kindSD,
	layermap.TokenInformation: kindToken, layermap.TokenAccessInformation: kindToken,
	layermap.BitmapIndex: kindBitmap, layermap.BitmapArray64: kindBitmap,
	layermap.V4AddrMask: kindMask, layermap.V6AddrMask: kindMask,
	layermap.RangeType: kindRange,
}

// kindOf is kinds as an array, because it is asked for every condition of
// every filter. Of the data types above the last only one is known, that of a
// set.
var kindOf = func() (k [layermap.RangeType + 1]kind) {
	for t, v := range kinds {
		k[t] = v
	}
	return k
}()

func (v Value) kind() kind {
	if int(v.Type) < len(kindOf) {
		return kindOf[v.Type]
	}
	if v.Type == layermap.AddressSetType {
		return kindSet
	}
	return 0
}

// A match type's row: which operands it goes with, and how it decides. The
// field's value has the operand's type when holds is called, except with EQUAL
// and NOT_EQUAL, whose operand may be a mask, a security descriptor or a set of
// addresses (EQUAL is being in it), and with RANGE.
//
// NOT_EQUAL goes beyond the sortable types: real filters have it on SIDs, and
// on an address with a mask its meaning is plain.
//
// PREFIX compares the beginning. The document describes it as comparing the
// end, which its name denies; the name is followed here.
type matchRule struct {
	operands kind
	holds    func(operand, value *Value) bool
}

var matchRules = [...]matchRule{
	MatchEqual:                {kindAny &^ kindRange, equal},
	MatchGreater:              {kindSortable, func(o, v *Value) bool { c, ok := Compare(*v, *o); return ok && c > 0 }},
	MatchLess:                 {kindSortable, func(o, v *Value) bool { c, ok := Compare(*v, *o); return ok && c < 0 }},
	MatchGreaterOrEqual:       {kindSortable, func(o, v *Value) bool { c, ok := Compare(*v, *o); return ok && c >= 0 }},
	MatchLessOrEqual:          {kindSortable, func(o, v *Value) bool { c, ok := Compare(*v, *o); return ok && c <= 0 }},
	MatchRange:                {kindRange, inRange},
	MatchFlagsAllSet:          {kindUnsigned, func(o, v *Value) bool { return v.Num&o.Num == o.Num }},
	MatchFlagsAnySet:          {kindUnsigned, func(o, v *Value) bool { return v.Num&o.Num != 0 }},
	MatchFlagsNoneSet:         {kindUnsigned, func(o, v *Value) bool { return v.Num&o.Num == 0 }},
	MatchEqualCaseInsensitive: {kindText, func(o, v *Value) bool { return strings.EqualFold(o.Text, v.Text) }},
	MatchNotEqual:             {kindSortable | kindSID | kindMask | kindSet, func(o, v *Value) bool { return !equal(o, v) }},
	MatchPrefix:               {kindBlob | kindText, prefix},
	MatchNotPrefix:            {kindBlob | kindText, func(o, v *Value) bool { return !prefix(o, v) }},
}

// Matches reports whether the condition holds for the value of its field.
//
// A field without a value (EMPTY) matches EQUAL with EMPTY and nothing else,
// so that no NOT_* condition holds for what is unknown. A value of a type that
// the operand cannot be compared with does not match either.
func (c Condition) Matches(v Value) bool { return c.matches(&v) }

func (c *Condition) matches(v *Value) bool {
	if v.IsEmpty() || c.Value.IsEmpty() {
		return v.IsEmpty() && c.Value.IsEmpty() && c.Match == MatchEqual
	}
	if int(c.Match) >= len(matchRules) {
		return false
	}
	r := &matchRules[c.Match]
	return c.Value.kind()&r.operands != 0 && comparable(&c.Value, v) && r.holds(&c.Value, v)
}

// comparable reports whether a field of v's type may have a condition with
// this operand: their types are the same, or the operand is one of the four
// kinds that stand for many values.
func comparable(operand, v *Value) bool {
	switch operand.Type {
	case layermap.V4AddrMask:
		return v.Type == layermap.Uint32
	case layermap.V6AddrMask:
		return v.Type == layermap.ByteArray16
	case layermap.SecurityDescriptorType:
		return v.kind() == kindToken
	case layermap.RangeType:
		return operand.Range != nil
	case layermap.AddressSetType:
		return operand.Set.Loaded() && (v.Type == layermap.Uint32 || v.Type == layermap.ByteArray16)
	}
	return operand.Type == v.Type
}

func equal(operand, v *Value) bool {
	switch operand.Type {
	case layermap.Uint8, layermap.Uint16, layermap.Uint32, layermap.Uint64:
		return operand.Num == v.Num // by far the most frequent, so not by way of Equal
	case layermap.V4AddrMask:
		addr, mask := uint32(operand.Num>>32), uint32(operand.Num)
		return uint32(v.Num)&mask == addr&mask
	case layermap.V6AddrMask:
		return samePrefix(operand.Bytes, v.Bytes, operand.Num)
	case layermap.SecurityDescriptorType:
		return operand.SD.Grants(v.Token)
	case layermap.AddressSetType:
		return operand.Set.containsValue(v)
	}
	return operand.Equal(*v)
}

// samePrefix reports whether two arrays agree in their first n bits.
func samePrefix(a, b []byte, n uint64) bool {
	whole := int(min(n, 128) / 8)
	if len(a) != 16 || len(b) != 16 || !bytes.Equal(a[:whole], b[:whole]) {
		return false
	}
	rest := n % 8
	return n >= 128 || rest == 0 || (a[whole]^b[whole])>>(8-rest) == 0
}

func inRange(operand, v *Value) bool {
	low, ok1 := Compare(operand.Range.Low, *v)
	high, ok2 := Compare(operand.Range.High, *v)
	return ok1 && ok2 && low <= 0 && high >= 0 && v.kind()&kindSortable != 0
}

// prefix compares bytes: an app id's closing NUL is part of it, so an operand
// made from a path must not have one.
func prefix(operand, v *Value) bool {
	if operand.Type == layermap.UnicodeString {
		return strings.HasPrefix(v.Text, operand.Text)
	}
	return bytes.HasPrefix(v.Bytes, operand.Bytes)
}

// Values are a layer's incoming values in the order of its FWPS fields. A
// value that is missing at the end counts as EMPTY.
type Values []Value

var emptyValue Value

func (v Values) at(i int) *Value {
	if i < len(v) {
		return &v[i]
	}
	return &emptyValue
}

// MatchesAll reports whether a filter with these conditions matches: one
// condition of each field that has any must hold. Without conditions it does.
// A condition on a field that the layer lacks never holds.
//
// Two NOT_EQUAL conditions on one field are therefore nearly always true.
func MatchesAll(conds []Condition, layer *layermap.Layer, values Values) bool {
	var seen, held uint64 // one bit a field; no layer has more than 64
	for i := range conds {
		at := layer.FieldIndex(conds[i].Field)
		if at < 0 || at >= 64 {
			return false
		}
		bit := uint64(1) << at
		seen |= bit
		if held&bit == 0 && conds[i].matches(values.at(at)) {
			held |= bit
		}
	}
	return seen == held
}
