// SPDX-License-Identifier: Apache-2.0

// This file compares values: whether two are the same and which is greater.
// Masks, ranges and access checks are not comparisons; they are in match.go.

package filter

import (
	"bytes"
	"cmp"
	"math"
	"slices"
	"strings"

	"github.com/wfpebpf/wfpebpf/layermap"
)

// IsEmpty reports whether the value is FWP_EMPTY.
func (v Value) IsEmpty() bool { return v.Type == layermap.Empty }

// Equal reports whether two values have the same type and content. A security
// descriptor's text does not count, its entries do; a token's SIDs count in
// their order; a set's name does not count.
func (v Value) Equal(w Value) bool {
	return v.Type == w.Type &&
		number(v) == number(w) &&
		bytes.Equal(v.Bytes, w.Bytes) &&
		v.Text == w.Text &&
		v.SID == w.SID &&
		equalSD(v.SD, w.SD) &&
		equalToken(v.Token, w.Token) &&
		equalRange(v.Range, w.Range) &&
		equalSet(v.Set, w.Set)
}

func equalSD(a, b *SecurityDescriptor) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.NoDACL == b.NoDACL && slices.Equal(a.Entries, b.Entries)
}

func equalToken(a, b *Token) bool {
	if a == nil || b == nil {
		return a == b
	}
	return slices.Equal(a.SIDs, b.SIDs)
}

func equalSet(a, b *AddressSet) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.digest == b.digest
}

func equalRange(a, b *Range) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Low.Equal(b.Low) && a.High.Equal(b.High)
}

// signedBits is the width of the types whose Num is two's complement. Only
// that many low bits count, so it does not matter whether the writer of the
// value extended the sign.
var signedBits = [...]uint8{layermap.Int8: 8, layermap.Int16: 16, layermap.Int32: 32, layermap.Int64: 64}

// unsignedBits is the width of the types that count as unsigned integers.
var unsignedBits = [...]uint8{layermap.Uint8: 8, layermap.Uint16: 16, layermap.Uint32: 32, layermap.Uint64: 64}

func width(table []uint8, t layermap.DataType) uint8 {
	if int(t) < len(table) {
		return table[t]
	}
	return 0
}

// signed returns Num as a signed integer of w bits.
func signed(num uint64, w uint8) int64 { return int64(num<<(64-w)) >> (64 - w) }

// number is Num in the one form that equal values share.
func number(v Value) uint64 {
	if w := width(signedBits[:], v.Type); w != 0 {
		return uint64(signed(v.Num, w))
	}
	return v.Num
}

// Compare orders two values of one type: integers by number (INT* signed),
// floats by number, arrays and blobs by byte from the first, strings by code
// point. ok is false where the types differ or have no order, and where one is
// not a number; the result is then meaningless.
func Compare(a, b Value) (order int, ok bool) {
	if a.Type != b.Type {
		return 0, false
	}
	switch a.Type {
	case layermap.Uint8, layermap.Uint16, layermap.Uint32, layermap.Uint64:
		return cmp.Compare(a.Num, b.Num), true
	case layermap.Int8, layermap.Int16, layermap.Int32, layermap.Int64:
		w := signedBits[a.Type]
		return cmp.Compare(signed(a.Num, w), signed(b.Num, w)), true
	case layermap.Float, layermap.Double:
		x, y := float(a), float(b)
		if math.IsNaN(x) || math.IsNaN(y) {
			return 0, false
		}
		return cmp.Compare(x, y), true
	case layermap.ByteArray16, layermap.ByteArray6, layermap.ByteBlob:
		return bytes.Compare(a.Bytes, b.Bytes), true
	case layermap.UnicodeString:
		return strings.Compare(a.Text, b.Text), true
	}
	return 0, false
}

// float returns the number whose IEEE bits a FLOAT or DOUBLE holds.
func float(v Value) float64 {
	if v.Type == layermap.Float {
		return float64(math.Float32frombits(uint32(v.Num)))
	}
	return math.Float64frombits(v.Num)
}
