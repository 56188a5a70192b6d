// SPDX-License-Identifier: Apache-2.0

// Package layermap is the table of WFP's run-time filtering layers and of the
// Linux hook each of them sits on: identifiers, fields in FWPS order, data
// offsets, fidelity, and where each field's value comes from. It holds data
// and look-ups only and does no I/O; every other part of the project, the
// command line and the documentation print this table and repeat none of it.
package layermap

import (
	"fmt"
	"strings"

	"github.com/google/uuid"
)

// GUID identifies a WFP object. Windows writes it in braces; String does not.
type GUID = uuid.UUID

func guid(s string) GUID { return uuid.MustParse(s) }

// LayerID is the run-time identifier of a layer, FWPS_LAYER_*.
type LayerID uint16

// String returns WFP's own spelling, such as FWPS_LAYER_ALE_AUTH_CONNECT_V4.
func (id LayerID) String() string {
	if l := ByID(id); l != nil {
		return "FWPS_LAYER_" + l.Name
	}
	return fmt.Sprintf("FWPS_LAYER_%d", uint16(id))
}

// Mode says whether a layer is classified in the Windows kernel or by a
// user-mode component.
type Mode uint8

const (
	KernelMode Mode = iota
	UserMode
)

// String returns "kernel" or "user".
func (m Mode) String() string { return [...]string{"kernel", "user"}[m] }

// Family is the address family a layer's name ends in.
type Family uint8

const (
	AnyFamily Family = iota // a layer with no family: MAC frames, RPC
	V4
	V6
)

// DataType is FWP_DATA_TYPE; the numbers are Windows's.
type DataType uint16

const (
	Empty                  DataType = 0
	Uint8                  DataType = 1
	Uint16                 DataType = 2
	Uint32                 DataType = 3
	Uint64                 DataType = 4
	Int8                   DataType = 5
	Int16                  DataType = 6
	Int32                  DataType = 7
	Int64                  DataType = 8
	Float                  DataType = 9
	Double                 DataType = 10
	ByteArray16            DataType = 11
	ByteBlob               DataType = 12
	SIDType                DataType = 13
	SecurityDescriptorType DataType = 14
	TokenInformation       DataType = 15
	TokenAccessInformation DataType = 16
	UnicodeString          DataType = 17
	ByteArray6             DataType = 18
	BitmapIndex            DataType = 19
	BitmapArray64          DataType = 20
	V4AddrMask             DataType = 0x100
	V6AddrMask             DataType = 0x101
	RangeType              DataType = 0x102

	// AddressSetType is this project's own: WFP has no type for a list of
	// addresses, and no dump holds one. Its number is far from Windows's.
	AddressSetType DataType = 0x8000
)

// addressSetName is how the type of a set appears in messages. It is not among
// the names that ParseDataType knows.
const addressSetName = "WFPEBPF_ADDRESS_SET"

var dataTypeNames = map[DataType]string{
	Empty: "FWP_EMPTY", Uint8: "FWP_UINT8", Uint16: "FWP_UINT16", Uint32: "FWP_UINT32", Uint64: "FWP_UINT64",
	Int8: "FWP_INT8", Int16: "FWP_INT16", Int32: "FWP_INT32", Int64: "FWP_INT64",
	Float: "FWP_FLOAT", Double: "FWP_DOUBLE",
	ByteArray16: "FWP_BYTE_ARRAY16_TYPE", ByteBlob: "FWP_BYTE_BLOB_TYPE", SIDType: "FWP_SID",
	SecurityDescriptorType: "FWP_SECURITY_DESCRIPTOR_TYPE",
	TokenInformation:       "FWP_TOKEN_INFORMATION_TYPE", TokenAccessInformation: "FWP_TOKEN_ACCESS_INFORMATION_TYPE",
	UnicodeString: "FWP_UNICODE_STRING_TYPE", ByteArray6: "FWP_BYTE_ARRAY6_TYPE",
	BitmapIndex: "FWP_BITMAP_INDEX_TYPE", BitmapArray64: "FWP_BITMAP_ARRAY64_TYPE",
	V4AddrMask: "FWP_V4_ADDR_MASK", V6AddrMask: "FWP_V6_ADDR_MASK", RangeType: "FWP_RANGE_TYPE",
}

// String returns WFP's spelling, such as FWP_UINT32, and WFPEBPF_ADDRESS_SET for
// the type that WFP does not have.
func (t DataType) String() string {
	if s, ok := dataTypeNames[t]; ok {
		return s
	}
	if t == AddressSetType {
		return addressSetName
	}
	return fmt.Sprintf("FWP_DATA_TYPE(%d)", uint16(t))
}

// ParseDataType accepts WFP's spelling; the tools also write FWP_SID_TYPE-like
// variants with or without the _TYPE ending, so both are taken.
func ParseDataType(s string) (DataType, bool) {
	trim := func(s string) string { return strings.TrimSuffix(s, "_TYPE") }
	for t, name := range dataTypeNames {
		if trim(name) == trim(s) {
			return t, true
		}
	}
	return Empty, false
}

// FieldType is FWPM_FIELD_TYPE: what besides its data type a field admits.
type FieldType uint8

const (
	RawData    FieldType = iota
	IPAddress            // address masks are admitted
	FlagsField           // meant for the FLAGS_* match types
)

// Field is one field of a layer, at its FWPS index.
type Field struct {
	Key      string // condition key without FWPM_CONDITION_
	Type     FieldType
	DataType DataType
}

// GUID returns the key that a filter condition on this field carries.
func (f Field) GUID() GUID { return conditionGUIDs[f.Key] }

// Offset says where in the packet the layer's data starts (WDK, "Data offset
// positions").
type Offset uint8

const (
	OffsetNone            Offset = iota // the layer has no packet
	OffsetMACHeader                     // beginning of the MAC or Ethernet header
	OffsetIPHeader                      // beginning of the IP header
	OffsetTransportHeader               // beginning of the transport header
	OffsetInnerIPHeader                 // beginning of the IP header quoted in an ICMP error
	OffsetICMPHeader                    // beginning of the ICMP header
	OffsetData                          // beginning of the data; ICMP header for ICMP
	OffsetDataOrTransport               // inbound the data, outbound the transport header
	OffsetTransportNonTCP               // transport header; TCP has no packet here
	OffsetStopped                       // where the stack stopped processing
	OffsetUndocumented                  // newer than the document
)

// String describes the position in words.
func (o Offset) String() string {
	return [...]string{
		"not applicable", "MAC header", "IP header", "transport header", "inner IP header", "ICMP header",
		"data", "inbound data, outbound transport header", "transport header, TCP not applicable",
		"where the stack stopped processing", "not documented",
	}[o]
}

// Layer is one row of the table.
type Layer struct {
	ID      LayerID
	Name    string // without FWPS_LAYER_
	GUID    GUID   // FWPM_LAYER_*; zero for RESERVED1, which has none
	Mode    Mode
	Family  Family
	Discard bool
	Offset  Offset
	Fields  []Field // in FWPS order
}

// FWPS returns the run-time name, FWPS_LAYER_*.
func (l *Layer) FWPS() string { return "FWPS_LAYER_" + l.Name }

// FWPM returns the management name, FWPM_LAYER_*.
func (l *Layer) FWPM() string { return "FWPM_LAYER_" + l.Name }

// FieldIndex returns the FWPS index of a condition key, or -1 where the layer
// has no such field. Aliases (ICMP_TYPE for IP_LOCAL_PORT, ...) resolve.
func (l *Layer) FieldIndex(key string) int {
	key = CanonicalKey(key)
	for i := range l.Fields {
		if l.Fields[i].Key == key {
			return i
		}
	}
	return -1
}

var (
	byID   = map[LayerID]*Layer{}
	byGUID = map[GUID]*Layer{}
	byName = map[string]*Layer{}

	keyByGUID = map[GUID]string{}
)

func init() {
	for i := range layers {
		l := &layers[i]
		byID[l.ID], byName[l.Name] = l, l
		if l.GUID != (GUID{}) {
			byGUID[l.GUID] = l
		}
	}
	for key, g := range conditionGUIDs {
		keyByGUID[g] = key
	}
}

// Layers returns all layers in the order of their ids. The caller must not
// change them.
func Layers() []Layer { return layers }

// ByID returns the layer with a run-time id, or nil.
func ByID(id LayerID) *Layer { return byID[id] }

// ByGUID returns the layer with a management key, or nil.
func ByGUID(g GUID) *Layer { return byGUID[g] }

// ByName returns the layer with a name: FWPS_LAYER_X, FWPM_LAYER_X or X, in
// any letter case; nil where there is none.
func ByName(name string) *Layer {
	name = strings.ToUpper(name)
	name = strings.TrimPrefix(name, "FWPS_LAYER_")
	name = strings.TrimPrefix(name, "FWPM_LAYER_")
	return byName[name]
}

// CanonicalKey strips FWPM_CONDITION_ and resolves aliases; an unknown key
// comes back stripped and in upper case.
func CanonicalKey(key string) string {
	key = strings.TrimPrefix(strings.ToUpper(key), "FWPM_CONDITION_")
	if k, ok := conditionAliases[key]; ok {
		return k
	}
	return key
}

// KnownKey reports whether a canonical key names a condition of any layer.
func KnownKey(key string) bool { _, ok := conditionGUIDs[key]; return ok }

// KeyByGUID returns the condition key with a GUID.
func KeyByGUID(g GUID) (string, bool) { k, ok := keyByGUID[g]; return k, ok }
