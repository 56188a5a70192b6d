// SPDX-License-Identifier: Apache-2.0

package filter

import "github.com/wfpebpf/wfpebpf/layermap"

// Value is FWP_VALUE0 and FWP_CONDITION_VALUE0: a typed value. The zero Value
// is FWP_EMPTY, a field without a value. Which member holds the value follows
// from Type:
//
//	UINT8..UINT64, INT8..INT64 (two's complement), FLOAT, DOUBLE (IEEE bits)  Num
//	BYTE_ARRAY16, BYTE_ARRAY6, BYTE_BLOB                                      Bytes
//	SID                                                                       SID
//	SECURITY_DESCRIPTOR                                                       SD
//	TOKEN_INFORMATION, TOKEN_ACCESS_INFORMATION                               Token
//	UNICODE_STRING                                                            Text
//	V4_ADDR_MASK                      Num = address<<32 | mask, both host order
//	V6_ADDR_MASK                      Bytes = address (16 bytes), Num = prefix length
//	RANGE                                                                     Range
//	WFPEBPF_ADDRESS_SET (not WFP's)                                           Set
//
// Ports and IPv4 addresses are in host order, IPv6 addresses in network order.
type Value struct {
	Type  layermap.DataType
	Num   uint64
	Bytes []byte
	Text  string
	SID   SID
	SD    *SecurityDescriptor
	Token *Token
	Range *Range
	Set   *AddressSet `json:",omitempty"`
}

// Range is FWP_RANGE0; both ends are inclusive and of the field's type.
type Range struct{ Low, High Value }

// SID is a security identifier in its text form, such as S-1-5-18.
//
// Linux principals are written in the form that Samba uses for Unix owners:
// S-1-22-1-UID for a user and S-1-22-2-GID for a group.
type SID string

// Well-known security identifiers.
const (
	SIDNull      SID = "S-1-0-0"
	SIDEveryone  SID = "S-1-1-0"
	SIDAnonymous SID = "S-1-5-7"
)

// Token is what a process presents to an access check: the SIDs it holds.
// Everyone is held by every token and need not be listed.
type Token struct{ SIDs []SID }

// SecurityDescriptor is the part of a self-relative security descriptor that a
// filter condition is evaluated with: its discretionary access list, in order.
type SecurityDescriptor struct {
	Text    string // SDDL, as given
	NoDACL  bool   // no access list at all: everyone is granted
	Entries []ACE
}

// ACE is one entry of an access list. Only entries that carry
// FWP_ACTRL_MATCH_FILTER (0x1) take part in matching.
type ACE struct {
	Allow bool
	Mask  uint32
	SID   SID
}
