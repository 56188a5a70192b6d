// SPDX-License-Identifier: Apache-2.0

// This file writes values for people. Nothing parses what it writes.

package filter

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/bits"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"

	"github.com/wfpebpf/wfpebpf/layermap"
)

// String returns the value in words that need no knowledge of the field: an
// IPv4 address is a number here, because only the field says that it is one.
// See FormatValue.
func (v Value) String() string { return FormatValue(layermap.Field{}, v) }

// FormatValue returns the value as a person reads it in a condition on f:
// IPv4 addresses dotted, flags in hexadecimal, an app id as its path.
func FormatValue(f layermap.Field, v Value) string {
	switch v.Type {
	case layermap.Empty:
		return "EMPTY"
	case layermap.Uint8, layermap.Uint16, layermap.Uint32, layermap.Uint64:
		switch {
		case f.Type == layermap.IPAddress && v.Type == layermap.Uint32:
			return dotted(uint32(v.Num))
		case f.Type == layermap.FlagsField:
			return fmt.Sprintf("%#x", v.Num)
		}
		return strconv.FormatUint(v.Num, 10)
	case layermap.Int8, layermap.Int16, layermap.Int32, layermap.Int64:
		return strconv.FormatInt(signed(v.Num, signedBits[v.Type]), 10)
	case layermap.Float, layermap.Double:
		return strconv.FormatFloat(float(v), 'g', -1, 64)
	case layermap.ByteArray16:
		// Not every 16-byte field is an address: interface UUIDs of RPC are not.
		if f.Type == layermap.IPAddress || f.Key == "" {
			return address16(v.Bytes)
		}
		return hex.EncodeToString(v.Bytes)
	case layermap.ByteArray6:
		return net.HardwareAddr(v.Bytes).String()
	case layermap.ByteBlob:
		if s, ok := utf16Text(v.Bytes); ok {
			return s
		}
		if strings.HasPrefix(f.Key, "VSWITCH_") && strconv.CanBackquote(string(v.Bytes)) {
			return string(v.Bytes) // the name of a link
		}
		return "0x" + hex.EncodeToString(v.Bytes)
	case layermap.SIDType:
		return string(v.SID)
	case layermap.SecurityDescriptorType:
		return sdText(v.SD)
	case layermap.TokenInformation, layermap.TokenAccessInformation:
		return tokenText(v.Token)
	case layermap.UnicodeString:
		return strconv.Quote(v.Text)
	case layermap.V4AddrMask:
		return v4MaskText(uint32(v.Num>>32), uint32(v.Num))
	case layermap.V6AddrMask:
		return address16(v.Bytes) + "/" + strconv.FormatUint(v.Num, 10)
	case layermap.RangeType:
		if v.Range == nil {
			return "no range"
		}
		return FormatValue(f, v.Range.Low) + "-" + FormatValue(f, v.Range.High)
	case layermap.AddressSetType:
		return v.Set.String()
	}
	return v.Type.String()
}

func dotted(n uint32) string {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], n)
	return netip.AddrFrom4(b).String()
}

func address16(b []byte) string {
	if len(b) != 16 {
		return "0x" + hex.EncodeToString(b)
	}
	return netip.AddrFrom16([16]byte(b)).String()
}

// v4MaskText writes a length where the mask is contiguous and the mask itself
// where it is not.
func v4MaskText(addr, mask uint32) string {
	ones := bits.LeadingZeros32(^mask)
	if bits.OnesCount32(mask) == ones {
		return dotted(addr) + "/" + strconv.Itoa(ones)
	}
	return dotted(addr) + "&" + dotted(mask)
}

// utf16Text reads a blob as little-endian UTF-16 that ends in NUL, which is
// how an app id is stored; ok is false where it holds anything unprintable.
func utf16Text(b []byte) (s string, ok bool) {
	if len(b) < 4 || len(b)%2 != 0 || b[len(b)-1] != 0 || b[len(b)-2] != 0 {
		return "", false
	}
	units := make([]uint16, 0, len(b)/2-1)
	for i := 0; i+2 < len(b); i += 2 {
		units = append(units, binary.LittleEndian.Uint16(b[i:]))
	}
	s = string(utf16.Decode(units))
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return "", false
		}
	}
	return s, true
}

func sdText(sd *SecurityDescriptor) string {
	switch {
	case sd == nil:
		return "no security descriptor"
	case sd.Text != "":
		return sd.Text
	case sd.NoDACL:
		return "D:NO_ACCESS_CONTROL"
	}
	var b strings.Builder
	b.WriteString("D:")
	for _, e := range sd.Entries {
		kind := "D"
		if e.Allow {
			kind = "A"
		}
		fmt.Fprintf(&b, "(%s;;%#x;;;%s)", kind, e.Mask, e.SID)
	}
	return b.String()
}

func tokenText(t *Token) string {
	if t == nil || len(t.SIDs) == 0 {
		return "token without SIDs"
	}
	s := make([]string, len(t.SIDs))
	for i, sid := range t.SIDs {
		s[i] = string(sid)
	}
	return "token " + strings.Join(s, ",")
}
