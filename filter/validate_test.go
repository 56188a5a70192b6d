// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"errors"
	"strings"
	"testing"

	"github.com/wfpebpf/wfpebpf/layermap"
)

func TestValidate(t *testing.T) {
	cond := func(field string, m MatchType, v Value) func(*Filter) {
		return func(f *Filter) { f.Conditions = []Condition{{field, m, v}} }
	}
	layer := func(name string, also func(*Filter)) func(*Filter) {
		return func(f *Filter) {
			f.Layer = layermap.ByName(name).ID
			if also != nil {
				also(f)
			}
		}
	}
	var reserved, rpc string
	for _, l := range layermap.Layers() {
		if l.GUID == (GUID{}) {
			reserved = l.Name
		}
		if l.Mode == layermap.UserMode && l.GUID != (GUID{}) {
			rpc = l.Name
		}
	}
	for _, c := range []struct {
		name   string
		change func(*Filter)
		want   string // FWP_E_ name, empty: valid
	}{
		{"no conditions", nil, ""},
		{"display name", func(f *Filter) { f.Name = "" }, "NULL_DISPLAY_NAME"},
		{"layer", func(f *Filter) { f.Layer = 60000 }, "LAYER_NOT_FOUND"},
		{"RESERVED1", layer(reserved, nil), "LAYER_NOT_FOUND"},
		{"action CONTINUE", func(f *Filter) { f.Action = ActionContinue }, "INVALID_ACTION_TYPE"},
		{"no action", func(f *Filter) { f.Action = 0 }, "INVALID_ACTION_TYPE"},

		{"unknown flag", func(f *Filter) { f.Flags = 0x4000 }, "INVALID_FLAGS"},
		{"PERSISTENT and BOOTTIME", func(f *Filter) { f.Flags = FlagPersistent | FlagBootTime }, "INVALID_PARAMETER"},
		{"BOOTTIME at a user-mode layer", layer(rpc, func(f *Filter) { f.Flags = FlagBootTime }), "INCOMPATIBLE_LAYER"},
		{"PERMIT_IF_CALLOUT_UNREGISTERED without a callout", func(f *Filter) { f.Flags = FlagPermitIfCalloutUnregistered }, "INVALID_FLAGS"},
		{"PERMIT_IF_CALLOUT_UNREGISTERED with INSPECTION", func(f *Filter) {
			f.Flags, f.Action = FlagPermitIfCalloutUnregistered, ActionCalloutInspection
		}, "INVALID_FLAGS"},
		{"PERMIT_IF_CALLOUT_UNREGISTERED with UNKNOWN", func(f *Filter) {
			f.Flags, f.Action = FlagPermitIfCalloutUnregistered, ActionCalloutUnknown
		}, ""},

		{"a set on an address", cond("IP_REMOTE_ADDRESS", MatchEqual, SetValue(setOf("192.0.2.0/24"))), ""},
		{"not in a set", cond("IP_LOCAL_ADDRESS", MatchNotEqual, SetValue(setOf("192.0.2.0/24"))), ""},
		{"an empty set", cond("IP_LOCAL_ADDRESS", MatchEqual, SetValue(setOf())), ""},
		{"a set on a V6 address", layer("ALE_AUTH_CONNECT_V6", cond("IP_REMOTE_ADDRESS", MatchEqual, SetValue(setOf("2001:db8::/32")))), ""},
		{"a set on a port", cond("IP_REMOTE_PORT", MatchEqual, SetValue(setOf("192.0.2.0/24"))), "TYPE_MISMATCH"},
		{"a set on a number that is no address", cond("FLAGS", MatchEqual, SetValue(setOf("192.0.2.0/24"))), "TYPE_MISMATCH"},
		{"a set with another match type", cond("IP_REMOTE_ADDRESS", MatchRange, SetValue(setOf("192.0.2.0/24"))), "MATCH_TYPE_MISMATCH"},
		{"greater than a set", cond("IP_REMOTE_ADDRESS", MatchGreater, SetValue(setOf("192.0.2.0/24"))), "MATCH_TYPE_MISMATCH"},
		{"no set", cond("IP_REMOTE_ADDRESS", MatchEqual, SetValue(nil)), "NULL_POINTER"},
		{"a set whose addresses are elsewhere", cond("IP_REMOTE_ADDRESS", MatchEqual, SetValue(described(setOf("192.0.2.0/24")))), "NULL_POINTER"},

		{"weight class 15", func(f *Filter) { f.Weight = U8(15) }, ""},
		{"weight class 16", func(f *Filter) { f.Weight = U8(16) }, "INVALID_WEIGHT"},
		{"weight of another type", func(f *Filter) { f.Weight = U32(1) }, "INVALID_WEIGHT"},

		{"field of another layer", cond("VLAN_ID", MatchEqual, U16(1)), "CONDITION_NOT_FOUND"},
		{"alias", cond("ICMP_TYPE", MatchEqual, U16(8)), ""},
		{"unknown match type", cond("IP_PROTOCOL", 13, U8(1)), "INVALID_ENUMERATOR"},
		{"port as UINT32", cond("IP_REMOTE_PORT", MatchEqual, U32(80)), "TYPE_MISMATCH"},
		{"EMPTY with EQUAL", cond("IP_REMOTE_PORT", MatchEqual, Value{}), ""},
		{"EMPTY with NOT_EQUAL", cond("IP_REMOTE_PORT", MatchNotEqual, Value{}), "MATCH_TYPE_MISMATCH"},
		{"V4 mask on an address", cond("IP_REMOTE_ADDRESS", MatchEqual, m4("10.0.0.0/8")), ""},
		{"V4 mask that is not contiguous", cond("IP_REMOTE_ADDRESS", MatchEqual, V4AddrAndMask(0, 0xff0000ff)), ""},
		{"V4 mask with GREATER", cond("IP_REMOTE_ADDRESS", MatchGreater, m4("10.0.0.0/8")), "MATCH_TYPE_MISMATCH"},
		{"V4 mask on flags", cond("FLAGS", MatchEqual, m4("10.0.0.0/8")), "TYPE_MISMATCH"},
		{"V6 mask on a V4 layer", cond("IP_REMOTE_ADDRESS", MatchEqual, m6("fe80::/10")), "TYPE_MISMATCH"},
		{"V6 mask", layer("ALE_AUTH_CONNECT_V6", cond("IP_REMOTE_ADDRESS", MatchEqual, m6("fe80::/10"))), ""},
		{"V6 prefix of 129", layer("ALE_AUTH_CONNECT_V6", cond("IP_REMOTE_ADDRESS", MatchEqual,
			Value{Type: layermap.V6AddrMask, Bytes: make([]byte, 16), Num: 129})), "INVALID_NET_MASK"},
		{"V6 address of 15 bytes", layer("ALE_AUTH_CONNECT_V6", cond("IP_REMOTE_ADDRESS", MatchEqual,
			Value{Type: layermap.ByteArray16, Bytes: make([]byte, 15)})), "INVALID_PARAMETER"},
		{"range", cond("IP_REMOTE_PORT", MatchRange, RangeOf(U16(1), U16(1))), ""},
		{"range upside down", cond("IP_REMOTE_PORT", MatchRange, RangeOf(U16(2), U16(1))), "INVALID_RANGE"},
		{"range of another type", cond("IP_REMOTE_PORT", MatchRange, RangeOf(U32(1), U32(2))), "TYPE_MISMATCH"},
		{"range missing", cond("IP_REMOTE_PORT", MatchRange, Value{Type: layermap.RangeType}), "NULL_POINTER"},
		{"range with EQUAL", cond("IP_REMOTE_PORT", MatchEqual, RangeOf(U16(1), U16(2))), "MATCH_TYPE_MISMATCH"},
		{"RANGE without a range", cond("IP_REMOTE_PORT", MatchRange, U16(1)), "MATCH_TYPE_MISMATCH"},
		{"range of SIDs", cond("ALE_PACKAGE_ID", MatchRange, RangeOf(SIDValue(SIDNull), SIDValue(SIDNull))), "MATCH_TYPE_MISMATCH"},
		{"NOT_EQUAL on a SID", cond("ALE_PACKAGE_ID", MatchNotEqual, SIDValue(SIDNull)), ""},
		{"SID that is none", cond("ALE_PACKAGE_ID", MatchEqual, SIDValue("s-1-0-0")), "INVALID_PARAMETER"},
		{"security descriptor", cond("ALE_USER_ID", MatchEqual, sddl("D:(A;;CC;;;WD)")), ""},
		{"security descriptor missing", cond("ALE_USER_ID", MatchEqual, SDValue(nil)), "NULL_POINTER"},
		{"security descriptor with NOT_EQUAL", cond("ALE_USER_ID", MatchNotEqual, sddl("D:(A;;CC;;;WD)")), "MATCH_TYPE_MISMATCH"},
		{"SID on a token", cond("ALE_USER_ID", MatchEqual, SIDValue(SIDNull)), "TYPE_MISMATCH"},
		{"token on a token", cond("ALE_USER_ID", MatchEqual, TokenValue()), "TYPE_MISMATCH"},
		{"flags on a blob", cond("ALE_APP_ID", MatchFlagsAllSet, blob("a")), "MATCH_TYPE_MISMATCH"},
		{"PREFIX on a blob", cond("ALE_APP_ID", MatchPrefix, blob("a")), ""},
		{"number too large", cond("IP_PROTOCOL", MatchEqual, num(layermap.Uint8, 256)), "OUT_OF_BOUNDS"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := &Filter{Name: "Block SMB", Layer: connectV4.ID, Action: ActionBlock}
			if c.change != nil {
				c.change(f)
			}
			err := f.Validate()
			if c.want == "" {
				must(t, err)
				return
			}
			if want := ErrorByName(c.want); want == nil || !errors.Is(err, want) {
				t.Errorf("got %v, want %v", err, want)
			}
		})
	}
}

func TestLimitOfConditions(t *testing.T) {
	f := &Filter{Name: "Block a list", Layer: connectV4.ID, Action: ActionBlock}
	for n := range MaxConditions + 1 {
		f.Conditions = append(f.Conditions, Condition{"IP_REMOTE_ADDRESS", MatchEqual, U32(0x0a000000 + uint32(2*n))})
	}
	over := *f
	f.Conditions = f.Conditions[:MaxConditions]
	s := NewStore()
	must(t, s.AddFilter(f))
	err := s.AddFilter(&over)
	const want = `filter "Block a list", layer FWPS_LAYER_ALE_AUTH_CONNECT_V4: it has 16385 conditions, at most 16384: FWP_E_INVALID_PARAMETER (0x80320035): a parameter is bad; put addresses in a set, or make it several filters that share out the values of one field`
	if !errors.Is(err, ErrInvalidParameter) || err.Error() != want {
		t.Errorf("error %v\nwant %s", err, want)
	}
	if n := len(s.Filters()); n != 1 {
		t.Errorf("%d filters, want the one at the limit", n)
	}
}

func TestErrorsNameTheObject(t *testing.T) {
	f := &Filter{Name: "Block SMB", Layer: connectV4.ID, Action: ActionBlock, Conditions: []Condition{{"VLAN_ID", MatchEqual, U16(1)}}}
	err := f.Validate()
	for _, part := range []string{"Block SMB", "FWPS_LAYER_ALE_AUTH_CONNECT_V4", "VLAN_ID", "FWP_E_CONDITION_NOT_FOUND (0x80320002)", "; "} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q is not in: %v", part, err)
		}
	}
	var o *ObjectError
	if !errors.As(err, &o) || o.Layer != connectV4.ID || o.Remedy == "" {
		t.Errorf("not an ObjectError with layer and remedy: %#v", err)
	}
	if got, want := ErrConditionNotFound.Error(), "FWP_E_CONDITION_NOT_FOUND (0x80320002): the condition key is unknown at the layer"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if ErrorByName("fwp_e_in_use") != ErrInUse || ErrorByName("NO_SUCH") != nil {
		t.Error("ErrorByName does not find by name")
	}
}
