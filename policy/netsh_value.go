// SPDX-License-Identifier: Apache-2.0

// This file reads the single values of a dump: one reader a data type, in the
// spellings that netsh uses.

package policy

import (
	"encoding/hex"
	"errors"
	"math"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"unicode/utf16"

	"github.com/google/uuid"

	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
)

// matchTypes are the names of FWP_MATCH_* without the prefix.
var matchTypes = func() map[string]filter.MatchType {
	m := map[string]filter.MatchType{}
	for t := filter.MatchEqual; t <= filter.MatchNotPrefix; t++ {
		m[strings.TrimPrefix(t.String(), "FWP_MATCH_")] = t
	}
	return m
}()

func dumpCondition(e *element) (filter.Condition, error) {
	var c filter.Condition
	field := e.child("fieldKey").text
	c.Field = layermap.CanonicalKey(field)
	if strings.HasPrefix(field, "{") {
		if g, err := uuid.Parse(field); err == nil {
			if k, ok := layermap.KeyByGUID(g); ok {
				c.Field = k
			}
		}
	}
	if !layermap.KnownKey(c.Field) {
		return c, because(classUnreadable, "condition key %s is not known", clip(field))
	}
	match := e.child("matchType").text
	var ok bool
	if c.Match, ok = matchTypes[strings.TrimPrefix(match, "FWP_MATCH_")]; !ok {
		return c, because(classUnreadable, "%s: match type %q is not known", c.Field, clip(match))
	}
	value := e.child("conditionValue")
	if !value.has("type") {
		return c, value.pos.errorf("%s: the condition has no value", c.Field)
	}
	var err error
	c.Value, err = dumpValue(value)
	if why, ok := asReason(err); ok {
		return c, &reason{why.class, c.Field + ": " + why.text}
	}
	return c, err
}

// dumpReaders reads the member that holds a value, by its type.
var dumpReaders = map[layermap.DataType]func(*element) (filter.Value, error){
	layermap.Uint8:                  numberReader(layermap.Uint8, 8),
	layermap.Uint16:                 numberReader(layermap.Uint16, 16),
	layermap.Uint32:                 readUint32,
	layermap.Uint64:                 numberReader(layermap.Uint64, 64),
	layermap.Int8:                   signedReader(layermap.Int8, 8),
	layermap.Int16:                  signedReader(layermap.Int16, 16),
	layermap.Int32:                  signedReader(layermap.Int32, 32),
	layermap.Int64:                  signedReader(layermap.Int64, 64),
	layermap.Float:                  readFloat,
	layermap.Double:                 readDouble,
	layermap.ByteArray16:            readByteArray16,
	layermap.ByteArray6:             readByteArray6,
	layermap.ByteBlob:               readByteBlob,
	layermap.SIDType:                readSID,
	layermap.SecurityDescriptorType: readSD,
	layermap.UnicodeString:          readUnicode,
	layermap.V4AddrMask:             readV4AddrMask,
	layermap.V6AddrMask:             readV6AddrMask,
}

func init() { dumpReaders[layermap.RangeType] = readRange } // refers to the table itself

// dumpValue reads a typed value: <type> and one member beside it. No type at
// all, or FWP_EMPTY, is the empty value.
func dumpValue(e *element) (filter.Value, error) {
	name := e.child("type").text
	t, ok := layermap.ParseDataType(name)
	if name == "" || ok && t == layermap.Empty {
		return filter.Value{}, nil
	}
	read := dumpReaders[t]
	if !ok || read == nil {
		return filter.Value{}, because(classUnreadable, "data type %s is not known", clip(name))
	}
	var member *element
	for _, k := range e.kids {
		switch {
		case k.name == "type":
		case member != nil:
			return filter.Value{}, k.pos.errorf("<%s> of type %s has two values", e.name, t)
		default:
			member = k
		}
	}
	if member == nil {
		return filter.Value{}, e.pos.errorf("<%s> of type %s has no value", e.name, t)
	}
	return read(member)
}

func numberReader(t layermap.DataType, bits int) func(*element) (filter.Value, error) {
	return func(e *element) (filter.Value, error) {
		n, err := unsigned(e, bits)
		return filter.Value{Type: t, Num: n}, err
	}
}

func signedReader(t layermap.DataType, bits int) func(*element) (filter.Value, error) {
	return func(e *element) (filter.Value, error) {
		n, err := strconv.ParseInt(e.text, 10, bits)
		if err != nil {
			return filter.Value{}, e.pos.errorf("<%s> is %q, not a number of %d bits", e.name, clip(e.text), bits)
		}
		return filter.Value{Type: t, Num: uint64(n)}, nil
	}
}

// readUint32 also takes the dotted form that addresses have.
func readUint32(e *element) (filter.Value, error) {
	n, err := dottedOrNumber(e)
	return filter.U32(n), err
}

func dottedOrNumber(e *element) (uint32, error) {
	if strings.Contains(e.text, ".") {
		a, err := netip.ParseAddr(e.text)
		if err != nil || !a.Is4() {
			return 0, e.pos.errorf("<%s> is %q, not an IPv4 address", e.name, clip(e.text))
		}
		return hostOrder(a), nil
	}
	n, err := unsigned(e, 32)
	return uint32(n), err
}

func hostOrder(a netip.Addr) uint32 {
	b := a.As4()
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

func readFloat(e *element) (filter.Value, error) {
	x, err := strconv.ParseFloat(e.text, 32)
	if err != nil {
		return filter.Value{}, e.pos.errorf("<%s> is %q, not a number", e.name, clip(e.text))
	}
	return filter.Value{Type: layermap.Float, Num: uint64(math.Float32bits(float32(x)))}, nil
}

func readDouble(e *element) (filter.Value, error) {
	x, err := strconv.ParseFloat(e.text, 64)
	if err != nil {
		return filter.Value{}, e.pos.errorf("<%s> is %q, not a number", e.name, clip(e.text))
	}
	return filter.Value{Type: layermap.Double, Num: math.Float64bits(x)}, nil
}

// address16 reads an IPv6 address; a dotted one is written for ::ffff:a.b.c.d.
func address16(e *element) ([]byte, error) {
	if a, err := netip.ParseAddr(e.text); err == nil && a.Zone() == "" {
		b := a.As16()
		return b[:], nil
	}
	if b, err := hex.DecodeString(e.text); err == nil && len(b) == 16 {
		return b, nil
	}
	return nil, e.pos.errorf("<%s> is %q, not an IPv6 address", e.name, clip(e.text))
}

func readByteArray16(e *element) (filter.Value, error) {
	b, err := address16(e)
	return filter.Value{Type: layermap.ByteArray16, Bytes: b}, err
}

func readByteArray6(e *element) (filter.Value, error) {
	if b, err := hex.DecodeString(e.text); err == nil && len(b) == 6 {
		return filter.Value{Type: layermap.ByteArray6, Bytes: b}, nil
	}
	b, err := net.ParseMAC(e.text)
	if err != nil || len(b) != 6 {
		return filter.Value{}, e.pos.errorf("<%s> is %q, not a MAC address", e.name, clip(e.text))
	}
	return filter.Value{Type: layermap.ByteArray6, Bytes: b}, nil
}

func readByteBlob(e *element) (filter.Value, error) {
	// asString beside the data is lossy and comes in two spellings; it is not read.
	b, err := hexBytes(e.child("data"))
	return filter.Blob(b), err
}

func hexBytes(e *element) ([]byte, error) {
	b, err := hex.DecodeString(e.text)
	if err != nil {
		return nil, e.pos.errorf("<%s> is %q, not hexadecimal", e.name, clip(e.text))
	}
	return b, nil
}

func readSID(e *element) (filter.Value, error) {
	s, err := filter.ParseSID(e.text)
	if err != nil {
		return filter.Value{}, because(classUnreadable, "%q is not a security identifier", clip(e.text))
	}
	return filter.SIDValue(s), nil
}

func readSD(e *element) (filter.Value, error) {
	sd, err := filter.ParseSDDL(e.text)
	if errors.Is(err, filter.ErrConditionalACE) {
		return filter.Value{}, because(classConditional, "conditional entry in %s", clip(e.text))
	}
	if err != nil {
		return filter.Value{}, because(classUnreadable, "security descriptor %q: %s", clip(e.text), clip(err.Error()))
	}
	return filter.SDValue(sd), nil
}

func readUnicode(e *element) (filter.Value, error) { return filter.Str(e.text), nil }

func readV4AddrMask(e *element) (filter.Value, error) {
	addr, err := dottedOrNumber(e.child("addr"))
	if err != nil {
		return filter.Value{}, err
	}
	mask, err := dottedOrNumber(e.child("mask"))
	if err != nil {
		return filter.Value{}, err
	}
	return filter.Value{Type: layermap.V4AddrMask, Num: uint64(addr)<<32 | uint64(mask)}, nil
}

func readV6AddrMask(e *element) (filter.Value, error) {
	addr, err := address16(e.child("addr"))
	if err != nil {
		return filter.Value{}, err
	}
	n, err := unsigned(e.child("prefixLength"), 8)
	if err != nil {
		return filter.Value{}, err
	}
	return filter.Value{Type: layermap.V6AddrMask, Bytes: addr, Num: n}, nil
}

func readRange(e *element) (filter.Value, error) {
	var ends [2]filter.Value
	for i, name := range []string{"valueLow", "valueHigh"} {
		k := e.child(name)
		if len(k.kids) == 0 {
			return filter.Value{}, k.pos.errorf("<%s> has no <%s>", e.name, name)
		}
		var err error
		if ends[i], err = dumpValue(k); err != nil {
			return filter.Value{}, err
		}
	}
	return filter.RangeOf(ends[0], ends[1]), nil
}

// utf16Text decodes little-endian UTF-16 that may end in NULs; false where the
// bytes are not such text.
func utf16Text(b []byte) (string, bool) {
	if len(b) == 0 || len(b)%2 != 0 {
		return "", false
	}
	units := make([]uint16, 0, len(b)/2)
	for i := 0; i < len(b); i += 2 {
		units = append(units, uint16(b[i])|uint16(b[i+1])<<8)
	}
	for len(units) > 0 && units[len(units)-1] == 0 {
		units = units[:len(units)-1]
	}
	text := string(utf16.Decode(units))
	if strings.ContainsRune(text, 0) || strings.ContainsRune(text, '\uFFFD') {
		return "", false
	}
	return text, true
}
