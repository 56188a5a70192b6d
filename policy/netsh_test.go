// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
)

func TestDumpShapes(t *testing.T) {
	for _, tc := range []struct {
		file string
		want map[filter.ID]string
	}{
		{"state.xml", map[filter.ID]string{
			101: "enforced", 102: "enforced", 103: "refused: boot-time", 104: "enforced", 105: "enforced", 106: "enforced",
			107: `refused: callout "Example driver" {22222222-2222-3333-4444-555555555555} is not provided here`,
			108: "refused: disabled",
		}},
		{"filters.xml", map[filter.ID]string{
			201: "enforced", 202: "enforced", 203: "enforced",
			204: "enforced", // the silent drop, which is built in
		}},
	} {
		p := loadFixture(t, tc.file)
		if len(p.Entries) != len(tc.want) {
			t.Errorf("%s: %d filters, want %d", tc.file, len(p.Entries), len(tc.want))
		}
		for _, e := range p.Entries {
			if got := outcome(e); got != tc.want[e.Filter.ID] {
				t.Errorf("%s: filter %d is %s, want %s", tc.file, e.Filter.ID, got, tc.want[e.Filter.ID])
			}
			if inStore := p.Store.Filter(e.Filter.ID) != nil; inStore != (e.State != StateRefused) {
				t.Errorf("%s: filter %d is %s and in the store: %t", tc.file, e.Filter.ID, e.State, inStore)
			}
		}
	}
}

func TestDumpValues(t *testing.T) {
	addr := "IP_REMOTE_ADDRESS"
	for _, tc := range []struct {
		name, layer, cond string
		want              filter.Condition
	}{
		{"UINT16", "", condXML("IP_LOCAL_PORT", "EQUAL", "FWP_UINT16 uint16 80"),
			filter.Condition{Field: "IP_LOCAL_PORT", Value: filter.U16(80)}},
		{"an alias of a key", "", condXML("ICMP_TYPE", "EQUAL", "FWP_UINT16 uint16 8"),
			filter.Condition{Field: "IP_LOCAL_PORT", Value: filter.U16(8)}},
		{"UINT32, dotted", "", condXML(addr, "EQUAL", "FWP_UINT32 uint32 192.0.2.1"),
			filter.Condition{Field: addr, Value: filter.U32(0xc0000201)}},
		{"UINT32, decimal", "", condXML(addr, "EQUAL", "FWP_UINT32 uint32 3221225985"),
			filter.Condition{Field: addr, Value: filter.U32(0xc0000201)}},
		{"V4_ADDR_MASK", "", condXML(addr, "EQUAL", "FWP_V4_ADDR_MASK v4AddrMask <addr>10.0.0.0</addr><mask>255.0.0.0</mask>"),
			filter.Condition{Field: addr, Value: filter.Value{Type: layermap.V4AddrMask, Num: 0x0a000000_ff000000}}},
		{"V6_ADDR_MASK", "FWPM_LAYER_ALE_AUTH_RECV_ACCEPT_V6",
			condXML(addr, "EQUAL", "FWP_V6_ADDR_MASK v6AddrMask <addr>fd00::</addr><prefixLength>8</prefixLength>"),
			filter.Condition{Field: addr, Value: filter.Value{Type: layermap.V6AddrMask, Num: 8, Bytes: append([]byte{0xfd}, make([]byte, 15)...)}}},
		{"RANGE", "", condXML("IP_REMOTE_PORT", "RANGE", "FWP_RANGE_TYPE rangeValue <valueLow><type>FWP_UINT16</type><uint16>1</uint16></valueLow><valueHigh><type>FWP_UINT16</type><uint16>9</uint16></valueHigh>"),
			filter.Condition{Field: "IP_REMOTE_PORT", Match: filter.MatchRange, Value: filter.RangeOf(filter.U16(1), filter.U16(9))}},
		{"a MAC address", "FWPM_LAYER_INBOUND_MAC_FRAME_ETHERNET", condXML("MAC_REMOTE_ADDRESS", "EQUAL", "FWP_BYTE_ARRAY6_TYPE byteArray6 02-00-00-00-00-01"),
			filter.Condition{Field: "MAC_REMOTE_ADDRESS", Value: filter.MAC([6]byte{2, 0, 0, 0, 0, 1})}},
		{"the null SID", "", condXML("ALE_PACKAGE_ID", "EQUAL", "FWP_SID sid S-1-0-0"),
			filter.Condition{Field: "ALE_PACKAGE_ID", Value: filter.SIDValue(filter.SIDNull)}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := loadText(t, dumpOf(testFilter{layer: tc.layer, conditions: tc.cond}), nil)
			e := p.Entries[0]
			if e.State != StateEnforced || len(e.Filter.Conditions) != 1 {
				t.Fatalf("%s with %d conditions", outcome(e), len(e.Filter.Conditions))
			}
			got := e.Filter.Conditions[0]
			if got.Field != tc.want.Field || got.Match != tc.want.Match || !got.Value.Equal(tc.want.Value) {
				t.Errorf("%s %s %s, want %s %s %s", got.Field, got.Match, got.Value, tc.want.Field, tc.want.Match, tc.want.Value)
			}
		})
	}
}

// What one filter is refused for does not keep the rest from loading.
func TestDumpRefusals(t *testing.T) {
	port := "FWP_UINT16 uint16 80"
	for _, tc := range []struct {
		f    testFilter
		want string
	}{
		{testFilter{flags: "BOOTTIME", action: "FWP_ACTION_BLOCK"}, "boot-time"},
		{testFilter{flags: "DISABLED"}, "disabled"},
		{testFilter{flags: "FROM_THE_FUTURE"}, "flag FWPM_FILTER_FLAG_FROM_THE_FUTURE is not known"},
		{testFilter{layer: "FWPM_LAYER_OF_THE_FUTURE"}, "layer FWPM_LAYER_OF_THE_FUTURE is not known"},
		{testFilter{layer: "FWPM_LAYER_RPC_UM"}, "layer FWPS_LAYER_RPC_UM does not run yet"},
		{testFilter{action: "FWP_ACTION_LATER"}, `action "FWP_ACTION_LATER" is not known`},
		{testFilter{action: "FWP_ACTION_CALLOUT_INSPECTION", callout: "{22222222-2222-3333-4444-555555555555}"},
			"callout {22222222-2222-3333-4444-555555555555} is not provided here"},
		{testFilter{action: "FWP_ACTION_CALLOUT_INSPECTION", callout: "FWPM_CALLOUT_OF_THE_FUTURE"},
			"callout FWPM_CALLOUT_OF_THE_FUTURE is not provided here"},
		{testFilter{subLayer: "{33333333-2222-3333-4444-555555555555}"},
			"sublayer weight unknown: {33333333-2222-3333-4444-555555555555}"},
		{testFilter{conditions: condXML("OF_THE_FUTURE", "EQUAL", port)}, "condition key FWPM_CONDITION_OF_THE_FUTURE is not known"},
		{testFilter{conditions: condXML("IP_LOCAL_PORT", "ALMOST", port)}, `IP_LOCAL_PORT: match type "FWP_MATCH_ALMOST" is not known`},
		{testFilter{conditions: condXML("IP_LOCAL_PORT", "EQUAL", "FWP_UINT17 uint17 80")}, "IP_LOCAL_PORT: data type FWP_UINT17 is not known"},
		{testFilter{conditions: condXML("IP_LOCAL_PORT", "EQUAL", "FWP_UINT8 uint8 80")}, "FWP_E_TYPE_MISMATCH"},
		{testFilter{conditions: condXML("ETHER_TYPE", "EQUAL", port)}, "FWP_E_CONDITION_NOT_FOUND"},
		{testFilter{conditions: userXML(`O:SYD:(XA;;CC;;;WD;(WIN://SYSAPPID Contains "a"))`)}, "ALE_USER_ID: conditional entry in O:SYD:(XA"},
		{testFilter{conditions: appXML("PREFIX", `\device`)}, "ALE_APP_ID: a program is compared with EQUAL or NOT_EQUAL"},
	} {
		t.Run(tc.want, func(t *testing.T) {
			p := loadText(t, dumpOf(testFilter{}, tc.f, testFilter{}), nil)
			for i, want := range []State{StateEnforced, StateRefused, StateEnforced} {
				if p.Entries[i].State != want {
					t.Errorf("filter %d is %s, want %s", i+1, outcome(p.Entries[i]), want)
				}
			}
			if got := p.Entries[1].Reason; !strings.HasPrefix(got, tc.want) {
				t.Errorf("refused for %q, want %q", got, tc.want)
			}
		})
	}
}

func TestRegisteredCalloutIsCarriedOver(t *testing.T) {
	key := filter.DeriveKey("callout", "x")
	text := dumpOf(testFilter{action: "FWP_ACTION_CALLOUT_INSPECTION", callout: "{" + key.String() + "}"})
	// The callout's management object comes with the dump.
	text = strings.Replace(text, "<filters>", "<callouts><item><calloutKey>{"+key.String()+"}</calloutKey><displayData><name>X</name></displayData>"+
		"<providerKey>{01000000-0000-0000-0000-000000000000}</providerKey>"+
		"<applicableLayer>FWPM_LAYER_ALE_AUTH_RECV_ACCEPT_V4</applicableLayer></item></callouts><filters>", 1)
	p, err := LoadReader("dump", strings.NewReader(text), Options{Registered: map[filter.GUID]bool{key: true}})
	if err != nil {
		t.Fatal(err)
	}
	if e := p.Entries[0]; e.State != StateEnforced {
		t.Errorf("%s, want enforced", outcome(e))
	}
	if got := p.Store.Callout(key).Provider; got != (filter.GUID{1}) {
		t.Errorf("its provider is %s", got)
	}
}

func TestDumpKeepsWhatItHolds(t *testing.T) {
	p := loadFixture(t, "state.xml", "filters.xml")
	f := p.Store.Filter(104)
	if want := uint64(9<<60 | 5); f.EffectiveWeight != want {
		t.Errorf("effective weight %#x, want the dump's %#x", f.EffectiveWeight, want)
	}
	if got := string(f.Conditions[0].Value.Bytes); got != "/usr/bin/tool" {
		t.Errorf("app %q, want what the map gives for the data of the blob", got)
	}
	if got := p.Store.Filter(102).Origin; got != "Quarantine Default" {
		t.Errorf("origin %q, want the text of the provider context", got)
	}
	if got := p.Store.SubLayer(p.Store.Filter(106).SubLayer).Weight; got != 40000 {
		t.Errorf("sublayer weight %d, want the dump's", got)
	}
	if got := p.Store.SubLayer(p.Store.Filter(202).SubLayer).Weight; got != 32768 {
		t.Errorf("sublayer weight %d, want the map's", got)
	}
	for _, e := range p.Entries {
		if e.Filter.ID == 103 && (e.Line < 100 || filepath.Base(e.File) != "state.xml") {
			t.Errorf("filter 103 is said to stand in %s:%d", e.File, e.Line)
		}
	}
}

func TestDumpInUTF16(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("testdata", "filters.xml"))
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(string(data), `encoding="UTF-8"`, `encoding="UTF-16"`, 1)
	if text == string(data) {
		t.Fatal("the file declares no encoding")
	}
	var b strings.Builder
	for _, u := range utf16.Encode([]rune(text)) { // the file's own mark becomes UTF-16's
		b.Write([]byte{byte(u), byte(u >> 8)})
	}
	if p := loadText(t, b.String(), nil); len(p.Entries) != 4 {
		t.Errorf("%d filters, want 4", len(p.Entries))
	}
}

func TestSameDumpTwiceIsAlreadyThere(t *testing.T) {
	file := filepath.Join("testdata", "filters.xml")
	_, err := Load([]string{file, file}, Options{})
	if err == nil || !strings.Contains(err.Error(), "FWP_E_ALREADY_EXISTS") {
		t.Errorf("error %v, want FWP_E_ALREADY_EXISTS", err)
	}
}

func TestWindowsStoreHoldsWhatIsRefusedHere(t *testing.T) {
	p := loadFixture(t, "state.xml")
	s, left := p.WindowsStore()
	if len(left) > 0 {
		t.Errorf("%d filters are left out, the first is %d", len(left), left[0].ID)
	}
	for id, want := range map[filter.ID]bool{101: true, 103: false, 107: true, 108: false} {
		if got := s.Filter(id) != nil; got != want {
			t.Errorf("filter %d in effect on Windows: %t, want %t", id, got, want)
		}
	}
	if p.Store.Filter(107) != nil {
		t.Error("filter 107 came into the policy's own store")
	}
	p = loadText(t, dumpOf(testFilter{conditions: userXML("D:(XA;;CC;;;WD;(a == 1))")}), nil)
	if _, left := p.WindowsStore(); len(left) != 1 {
		t.Errorf("%d filters are left out, want the one with a conditional entry", len(left))
	}
}
