// SPDX-License-Identifier: Apache-2.0

// This file is sets of addresses: what stands in a condition in place of half a
// million single ones. WFP has nothing like it (on Windows each address is a
// condition of its own); everything else about such a condition is WFP's. How
// sets are kept outside of a process is in address_set_store.go.

package filter

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"sort"

	"github.com/wfpebpf/wfpebpf/layermap"
)

// Range4 is a range of IPv4 addresses in host order, both ends in it.
type Range4 struct{ Low, High uint32 }

// Addr6 is an IPv6 address as a number of 128 bits.
type Addr6 struct{ High, Low uint64 }

// Range6 is a range of IPv6 addresses, both ends in it.
type Range6 struct{ Low, High Addr6 }

// AddressSet is a named set of addresses of both families. At a layer of one
// family only the addresses of that family count. It does not change, and any
// number of goroutines, conditions and policies may share it.
//
// IPv4-mapped addresses (::ffff:192.0.2.1) are in it as IPv4: packets of theirs
// are IPv4.
type AddressSet struct {
	name, source string
	entries      int // as given, before ranges were merged
	// Ascending; no two overlap or touch. Nil with loaded unset.
	v4     []Range4
	v6     []Range6
	count  [2]int // of v4 and v6
	digest digest // of what is in it
	loaded bool
}

// Name is the name that conditions refer to the set by.
func (s *AddressSet) Name() string { return s.name }

// Source is the file that the addresses are from; empty where they stand in the
// policy itself.
func (s *AddressSet) Source() string { return s.source }

// Entries is how many addresses, prefixes and ranges the set was made of.
func (s *AddressSet) Entries() int { return s.entries }

// Ranges4 returns how many ranges of IPv4 addresses are left of the entries
// once those that overlap or touch are merged.
func (s *AddressSet) Ranges4() int { return s.count[0] }

// Ranges6 is Ranges4 for IPv6.
func (s *AddressSet) Ranges6() int { return s.count[1] }

// Empty reports whether no address is in the set.
func (s *AddressSet) Empty() bool { return s.count == [2]int{} }

// Loaded reports whether the addresses are here. They are not in a set that was
// read from JSON, which holds only what the set is called and how to find it.
func (s *AddressSet) Loaded() bool { return s != nil && s.loaded }

// Digest names the content: two sets with the same addresses have the same one,
// whatever their names.
func (s *AddressSet) Digest() string { return s.digest.String() }

// V4 returns the IPv4 addresses in ascending order. The slice is shared; do not
// change it.
func (s *AddressSet) V4() []Range4 { return s.v4 }

// V6 is V4 for IPv6.
func (s *AddressSet) V6() []Range6 { return s.v6 }

// String says what the set is, not what is in it.
func (s *AddressSet) String() string {
	if s == nil {
		return "no set"
	}
	return fmt.Sprintf("set %q (%d entries)", s.name, s.entries)
}

// All goes through the ranges in ascending order, those of IPv4 first.
func (s *AddressSet) All() iter.Seq2[netip.Addr, netip.Addr] {
	return func(yield func(low, high netip.Addr) bool) {
		for _, r := range s.v4 {
			if !yield(r.addresses()) {
				return
			}
		}
		for _, r := range s.v6 {
			if !yield(r.addresses()) {
				return
			}
		}
	}
}

// Contains reports whether an address is in the set.
func (s *AddressSet) Contains(a netip.Addr) bool {
	_, _, ok := s.Find(a)
	return ok
}

// Find returns the range that an address is in.
func (s *AddressSet) Find(a netip.Addr) (low, high netip.Addr, ok bool) {
	switch a = a.Unmap(); {
	case !s.Loaded():
	case a.Is4():
		if i := s.find4(number4(a)); i >= 0 {
			low, high = s.v4[i].addresses()
			return low, high, true
		}
	case a.Is6():
		if i := s.find6(number6(a)); i >= 0 {
			low, high = s.v6[i].addresses()
			return low, high, true
		}
	}
	return low, high, false
}

// FindValue is Find for the value of a field, by the addresses of the family
// that the field has.
func (s *AddressSet) FindValue(v Value) (low, high netip.Addr, ok bool) {
	switch {
	case !s.Loaded():
	case v.Type == layermap.Uint32:
		return s.Find(address4(uint32(v.Num)))
	case s.containsValue(&v):
		low, high = s.v6[s.find6(number6(netip.AddrFrom16([16]byte(v.Bytes))))].addresses()
		return low, high, true
	}
	return low, high, false
}

// containsValue is what FindValue reports, by the shortest way.
func (s *AddressSet) containsValue(v *Value) bool {
	if v.Type == layermap.Uint32 {
		return s.find4(uint32(v.Num)) >= 0
	}
	if len(v.Bytes) != 16 {
		return false
	}
	return s.find6(Addr6{binary.BigEndian.Uint64(v.Bytes), binary.BigEndian.Uint64(v.Bytes[8:])}) >= 0
}

// find4 returns the index of the range that an address is in, or -1.
func (s *AddressSet) find4(n uint32) int {
	i := sort.Search(len(s.v4), func(i int) bool { return s.v4[i].High >= n })
	if i < len(s.v4) && s.v4[i].Low <= n {
		return i
	}
	return -1
}

func (s *AddressSet) find6(n Addr6) int {
	i := sort.Search(len(s.v6), func(i int) bool { return s.v6[i].High.Compare(n) >= 0 })
	if i < len(s.v6) && s.v6[i].Low.Compare(n) <= 0 {
		return i
	}
	return -1
}

// borders returns addresses in and beside the first and the last range, for
// Sensitive: all would be too many to try out.
func (s *AddressSet) borders(t layermap.DataType) []Value {
	var vs []Value
	add := func(low, high netip.Addr) {
		for _, a := range [...]netip.Addr{low, high} {
			if t == layermap.Uint32 {
				vs = append(vs, around(Addr4(a))...)
			} else {
				vs = append(vs, around(Addr16(a))...)
			}
		}
	}
	switch {
	case !s.Loaded():
	case t == layermap.Uint32 && len(s.v4) > 0:
		add(s.v4[0].addresses())
		add(s.v4[len(s.v4)-1].addresses())
	case t == layermap.ByteArray16 && len(s.v6) > 0:
		add(s.v6[0].addresses())
		add(s.v6[len(s.v6)-1].addresses())
	}
	return vs
}

// Compare orders addresses.
func (a Addr6) Compare(b Addr6) int {
	return cmp.Or(cmp.Compare(a.High, b.High), cmp.Compare(a.Low, b.Low))
}

// next is the address after, zero after the last.
func (a Addr6) next() Addr6 {
	if a.Low++; a.Low == 0 {
		a.High++
	}
	return a
}

// Bytes returns the address in network order.
func (a Addr6) Bytes() (b [16]byte) {
	binary.BigEndian.PutUint64(b[:], a.High)
	binary.BigEndian.PutUint64(b[8:], a.Low)
	return b
}

func (r Range4) addresses() (low, high netip.Addr) { return address4(r.Low), address4(r.High) }

func (r Range6) addresses() (low, high netip.Addr) {
	return netip.AddrFrom16(r.Low.Bytes()), netip.AddrFrom16(r.High.Bytes())
}

func address4(n uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], n)
	return netip.AddrFrom4(b)
}

func number4(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}

func number6(a netip.Addr) Addr6 {
	b := a.As16()
	return Addr6{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

// SetBuilder collects what a set is made of, in any order. The zero value is
// ready for use.
type SetBuilder struct {
	v4      []uint64 // low<<32 | high, which sorts as ranges do
	v6      []Range6
	entries int
}

// Entries is how many were added.
func (b *SetBuilder) Entries() int { return b.entries }

// Add adds the addresses from low to high; both are in it. The error is
// ErrTypeMismatch where they are not two addresses of one family without a zone,
// and ErrInvalidRange where low is above high.
func (b *SetBuilder) Add(low, high netip.Addr) error {
	if low.Is4In6() && high.Is4In6() {
		low, high = low.Unmap(), high.Unmap() // all between them are mapped, too
	}
	switch {
	case !low.IsValid() || low.BitLen() != high.BitLen() || low.Zone() != "" || high.Zone() != "":
		return ErrTypeMismatch
	case high.Less(low):
		return ErrInvalidRange
	case low.Is4():
		b.v4 = append(b.v4, uint64(number4(low))<<32|uint64(number4(high)))
	default:
		b.v6 = append(b.v6, Range6{number6(low), number6(high)})
	}
	b.entries++
	return nil
}

// Set makes the set. The builder must not be used afterwards.
func (b *SetBuilder) Set(name, source string) *AddressSet {
	s := &AddressSet{name: name, source: source, entries: b.entries, v4: merge4(b.v4), v6: merge6(b.v6), loaded: true}
	s.count = [2]int{len(s.v4), len(s.v6)}
	s.digest = digestOf(s)
	b.v4, b.v6 = nil, nil
	return s
}

// merge4 sorts ranges and joins those that overlap or touch.
func merge4(all []uint64) []Range4 {
	slices.Sort(all)
	var out []Range4
	if len(all) > 0 {
		out = make([]Range4, 0, len(all))
	}
	for _, n := range all {
		r := Range4{uint32(n >> 32), uint32(n)}
		if last := len(out) - 1; last >= 0 && uint64(r.Low) <= uint64(out[last].High)+1 {
			out[last].High = max(out[last].High, r.High)
			continue
		}
		out = append(out, r)
	}
	return out
}

// merge6 is merge4 for IPv6. It works in place.
func merge6(all []Range6) []Range6 {
	slices.SortFunc(all, func(a, b Range6) int { return a.Low.Compare(b.Low) })
	out := all[:0]
	for _, r := range all {
		if last := len(out) - 1; last >= 0 {
			after := out[last].High.next()
			if after == (Addr6{}) || r.Low.Compare(after) <= 0 {
				if r.High.Compare(out[last].High) > 0 {
					out[last].High = r.High
				}
				continue
			}
		}
		out = append(out, r)
	}
	return out
}

// RangeText writes a range as an address, a prefix, or low-high.
func RangeText(low, high netip.Addr) string {
	if low == high {
		return low.String()
	}
	for bits := low.BitLen() - 1; bits >= 0; bits-- {
		p, err := low.Prefix(bits)
		if err != nil || p.Addr() != low {
			break
		}
		if lastOf(p) == high {
			return p.String()
		}
	}
	return low.String() + "-" + high.String()
}

// lastOf is the last address of a prefix.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := range b {
		b[i] |= byte(0xff >> min(max(p.Bits()-8*i, 0), 8))
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// PrefixRange returns the first and the last address of a prefix, whatever host
// bits it has.
func PrefixRange(p netip.Prefix) (low, high netip.Addr) {
	p = p.Masked()
	return p.Addr(), lastOf(p)
}
