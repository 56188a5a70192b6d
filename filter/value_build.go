// SPDX-License-Identifier: Apache-2.0

// This file builds values. None of the functions fails: where the argument
// cannot be what the function says, the result is EMPTY, which validation
// refuses as a type mismatch.

package filter

import (
	"encoding/binary"
	"net/netip"

	"github.com/wfpebpf/wfpebpf/layermap"
)

// U8 returns a UINT8.
func U8(n uint8) Value { return Value{Type: layermap.Uint8, Num: uint64(n)} }

// U16 returns a UINT16; ports are in host order.
func U16(n uint16) Value { return Value{Type: layermap.Uint16, Num: uint64(n)} }

// U32 returns a UINT32.
func U32(n uint32) Value { return Value{Type: layermap.Uint32, Num: uint64(n)} }

// U64 returns a UINT64.
func U64(n uint64) Value { return Value{Type: layermap.Uint64, Num: n} }

// Blob returns a BYTE_BLOB. It keeps b.
func Blob(b []byte) Value { return Value{Type: layermap.ByteBlob, Bytes: b} }

// Str returns a UNICODE_STRING.
func Str(s string) Value { return Value{Type: layermap.UnicodeString, Text: s} }

// Addr4 returns an IPv4 address as a UINT32 in host order. An IPv4-mapped IPv6
// address is taken as the IPv4 address in it; any other gives EMPTY.
func Addr4(a netip.Addr) Value {
	a = a.Unmap()
	if !a.Is4() {
		return Value{}
	}
	b := a.As4()
	return U32(binary.BigEndian.Uint32(b[:]))
}

// Addr16 returns an IPv6 address as a BYTE_ARRAY16 in network order, without
// its zone. An IPv4 address gives the IPv4-mapped form; the zero Addr gives
// EMPTY.
func Addr16(a netip.Addr) Value {
	if !a.IsValid() {
		return Value{}
	}
	b := a.As16()
	return Value{Type: layermap.ByteArray16, Bytes: b[:]}
}

// V4Mask returns a prefix as a V4_ADDR_MASK. A prefix that is not IPv4 gives
// EMPTY.
func V4Mask(p netip.Prefix) Value {
	if !p.IsValid() || !p.Addr().Is4() {
		return Value{}
	}
	mask := uint32(uint64(0xffffffff) << (32 - p.Bits()))
	return V4AddrAndMask(uint32(Addr4(p.Addr()).Num), mask)
}

// V4AddrAndMask returns a V4_ADDR_MASK with any mask, both in host order. WFP's
// mask is a bit mask and need not be contiguous.
func V4AddrAndMask(addr, mask uint32) Value {
	return Value{Type: layermap.V4AddrMask, Num: uint64(addr)<<32 | uint64(mask)}
}

// V6Mask returns a prefix as a V6_ADDR_MASK. A prefix that is not IPv6 gives
// EMPTY.
func V6Mask(p netip.Prefix) Value {
	if !p.IsValid() || !p.Addr().Is6() {
		return Value{}
	}
	b := p.Addr().As16()
	return Value{Type: layermap.V6AddrMask, Bytes: b[:], Num: uint64(p.Bits())}
}

// RangeOf returns a RANGE; both ends are in it.
func RangeOf(low, high Value) Value {
	return Value{Type: layermap.RangeType, Range: &Range{Low: low, High: high}}
}

// SetValue returns a set of addresses. Its type is this project's: WFP has none.
func SetValue(s *AddressSet) Value { return Value{Type: layermap.AddressSetType, Set: s} }

// SIDValue returns a SID.
func SIDValue(s SID) Value { return Value{Type: layermap.SIDType, SID: s} }

// SDValue returns a SECURITY_DESCRIPTOR.
func SDValue(sd *SecurityDescriptor) Value {
	return Value{Type: layermap.SecurityDescriptorType, SD: sd}
}

// TokenValue returns the TOKEN_ACCESS_INFORMATION of a principal that holds
// the SIDs. Everyone is held without being listed.
func TokenValue(sids ...SID) Value {
	return Value{Type: layermap.TokenAccessInformation, Token: &Token{SIDs: sids}}
}

// MAC returns a BYTE_ARRAY6.
func MAC(m [6]byte) Value { return Value{Type: layermap.ByteArray6, Bytes: m[:]} }
