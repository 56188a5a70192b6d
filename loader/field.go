// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"

	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
)

// key is a field value as the tries see it: its bytes in big-endian order, as
// many as the field is wide.
type key [16]byte

// member is one condition over keys: an inclusive range, or bits that must
// have certain values. Every match type of an ordered field comes down to one
// of these or its negation.
type member struct {
	low, high  key // range
	mask, want key // bits: key & mask == want
	bits       bool
	negated    bool
	lowEnd     int // low[lowEnd:] is all zero: there the lower bound no longer binds
	highEnd    int // high[highEnd:] is all ones
	maskEnd    int // mask[maskEnd:] is all zero
}

// widths is how many bytes a field of a data type has in the tries.
var widths = map[layermap.DataType]int{
	layermap.Uint8: 1, layermap.Uint16: 2, layermap.Uint32: 4, layermap.Uint64: 8,
	layermap.ByteArray6: 6, layermap.ByteArray16: 16,
	layermap.ByteBlob: 16, // the name of a link; those of executables are numbers
}

// numberKey is an unsigned integer, width bytes wide.
func numberKey(n uint64, width int) key {
	var b [8]byte
	var k key
	binary.BigEndian.PutUint64(b[:], n)
	copy(k[:], b[8-width:])
	return k
}

func valueKey(v filter.Value, width int) key {
	if v.Type == layermap.ByteArray16 || v.Type == layermap.ByteArray6 {
		var k key
		copy(k[:], v.Bytes)
		return k
	}
	if v.Type == layermap.ByteBlob {
		return nameKey(v.Bytes)
	}
	return numberKey(v.Num, width)
}

func maxKey(width int) key {
	var k key
	for i := range width {
		k[i] = 0xff
	}
	return k
}

// next and previous step a key; ok is false past the end.
func (k key) next(width int) (key, bool) {
	for i := width - 1; i >= 0; i-- {
		k[i]++
		if k[i] != 0 {
			return k, true
		}
	}
	return k, false
}

func (k key) previous(width int) (key, bool) {
	for i := width - 1; i >= 0; i-- {
		k[i]--
		if k[i] != 0xff {
			return k, true
		}
	}
	return k, false
}

func rangeMember(low, high key, width int) member {
	m := member{low: low, high: high}
	for i := range width {
		if low[i] != 0 {
			m.lowEnd = i + 1
		}
		if high[i] != 0xff {
			m.highEnd = i + 1
		}
	}
	return m
}

func bitsMember(mask, want key, width int, negated bool) member {
	m := member{bits: true, mask: mask, want: want, negated: negated}
	for i := range width {
		if mask[i] != 0 {
			m.maskEnd = i + 1
		}
	}
	return m
}

// members compiles a condition. A condition that holds for no key at all
// yields none.
func members(c filter.Condition, width int) ([]member, error) {
	v := c.Value
	one := func(m member) ([]member, error) { return []member{m}, nil }
	switch v.Type {
	case layermap.Empty:
		return nil, nil // a matter of the empty leaf
	case layermap.AddressSetType:
		return setMembers(v.Set, width, c.Match == filter.MatchNotEqual), nil
	case layermap.V4AddrMask:
		mask := numberKey(v.Num&math.MaxUint32, width)
		want := numberKey(v.Num>>32&v.Num&math.MaxUint32, width)
		return one(maskMember(mask, want, width, c.Match == filter.MatchNotEqual))
	case layermap.V6AddrMask:
		var mask, want key
		for i := range 16 {
			bits := min(max(int(v.Num)-8*i, 0), 8)
			mask[i] = byte(uint16(0xff00) >> bits)
			want[i] = v.Bytes[i] & mask[i]
		}
		return one(maskMember(mask, want, width, c.Match == filter.MatchNotEqual))
	case layermap.ByteBlob:
		return nameMembers(c)
	}
	if c.Match == filter.MatchRange && v.Range.Low.Type != layermap.ByteBlob {
		return one(rangeMember(valueKey(v.Range.Low, width), valueKey(v.Range.High, width), width))
	}
	k := valueKey(v, width)
	switch c.Match {
	case filter.MatchEqual:
		return one(rangeMember(k, k, width))
	case filter.MatchNotEqual:
		return othersThan(k, width), nil
	case filter.MatchGreaterOrEqual:
		return one(rangeMember(k, maxKey(width), width))
	case filter.MatchLessOrEqual:
		return one(rangeMember(key{}, k, width))
	case filter.MatchGreater:
		if n, ok := k.next(width); ok {
			return one(rangeMember(n, maxKey(width), width))
		}
		return nil, nil
	case filter.MatchLess:
		if p, ok := k.previous(width); ok {
			return one(rangeMember(key{}, p, width))
		}
		return nil, nil
	case filter.MatchFlagsAllSet:
		return one(bitsMember(k, k, width, false))
	case filter.MatchFlagsNoneSet:
		return one(bitsMember(k, key{}, width, false))
	case filter.MatchFlagsAnySet:
		return one(bitsMember(k, key{}, width, true))
	}
	return nil, fmt.Errorf("%v on %s cannot be compiled: %w", c.Match, c.Field, filter.ErrMatchTypeMismatch)
}

// othersThan is all keys but one.
func othersThan(k key, width int) (ms []member) {
	if p, ok := k.previous(width); ok {
		ms = append(ms, rangeMember(key{}, p, width))
	}
	if n, ok := k.next(width); ok {
		ms = append(ms, rangeMember(n, maxKey(width), width))
	}
	return ms
}

// setMembers is a set of addresses as ranges: its own or, negated, those between
// them.
func setMembers(s *filter.AddressSet, width int, negated bool) []member {
	var ms []member
	next, more := key{}, true // the first value behind the ranges so far
	add := func(low, high key) {
		if !negated {
			ms = append(ms, rangeMember(low, high, width))
			return
		}
		if p, ok := low.previous(width); ok && more && bytes.Compare(next[:], low[:]) < 0 {
			ms = append(ms, rangeMember(next, p, width))
		}
		next, more = high.next(width)
	}
	if width == 4 {
		for _, r := range s.V4() {
			add(numberKey(uint64(r.Low), width), numberKey(uint64(r.High), width))
		}
	} else {
		for _, r := range s.V6() {
			add(r.Low.Bytes(), r.High.Bytes())
		}
	}
	if negated && more {
		ms = append(ms, rangeMember(next, maxKey(width), width))
	}
	return ms
}

// maskMember takes a mask of leading ones as a range, which gives short tries.
func maskMember(mask, want key, width int, negated bool) member {
	high := want
	ended := false
	for i := range width {
		high[i] |= ^mask[i]
		if ended && mask[i] != 0 || mask[i] != 0xff && (^mask[i]&(^mask[i]+1)) != 0 {
			return bitsMember(mask, want, width, negated)
		}
		ended = ended || mask[i] != 0xff
	}
	if negated {
		return bitsMember(mask, want, width, true)
	}
	return rangeMember(want, high, width)
}
