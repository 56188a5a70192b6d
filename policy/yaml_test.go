// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
)

func TestPolicyFile(t *testing.T) {
	p := loadFixture(t, "policy.yaml")
	want := []string{
		"enforced",
		"refused: IP_REMOTE_ADDRESS has only addresses of the other family than layer ALE_AUTH_CONNECT_V6",
		"enforced", // its callout is declared and not registered
	}
	if len(p.Entries) != len(want) {
		t.Fatalf("%d filters, want %d", len(p.Entries), len(want))
	}
	for i, e := range p.Entries {
		if got := outcome(e); got != want[i] || e.Filter.ID != filter.ID(i+1) {
			t.Errorf("filter %d is %s, want number %d, %s", e.Filter.ID, got, i+1, want[i])
		}
	}
	f := p.Store.Filter(1)
	if f.Layer != layermap.ALEAuthConnectV4 || f.Action != filter.ActionBlock || f.Flags != filter.FlagClearActionRight ||
		f.SubLayer != filter.DeriveKey("sublayer", "corp") || f.EffectiveWeight>>60 != 8 || len(f.Conditions) != 6 {
		t.Errorf("filter 1 is %+v", f)
	}
	if got := p.Store.SubLayer(f.SubLayer); got.Weight != 60000 || got.Name != "Corporate" {
		t.Errorf("its sublayer is %+v", got)
	}
	if p.Store.Filter(3).SubLayer != filter.SubLayerUniversal {
		t.Error("a filter without a sublayer is not in UNIVERSAL")
	}
	r := filter.Arbitrate(p.Store, layermap.ALEAuthConnectV4, make(filter.Values, len(layermap.ByID(layermap.ALEAuthConnectV4).Fields)), nil)
	if !r.Blocked() {
		t.Error("a terminating filter whose callout is not registered does not block")
	}
}

func TestNumbersGoOnFromFileToFile(t *testing.T) {
	a := filepath.Join(t.TempDir(), "a.yaml")
	if err := os.WriteFile(a, []byte(yamlOf("ALE_AUTH_CONNECT_V4", "")), 0o644); err != nil {
		t.Fatal(err)
	}
	p, err := Load([]string{a, a}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got := p.Entries[1].Filter.ID; got != 2 {
		t.Errorf("the second file's filter has number %d, want 2", got)
	}
}

// yamlOf is a policy of one BLOCK filter with one condition.
func yamlOf(layer, cond string) string {
	s := "wfpebpf: 1\nfilters:\n  - name: One\n    layer: " + layer + "\n    action: BLOCK\n"
	if cond != "" {
		s += "    conditions:\n      - " + cond + "\n"
	}
	return s
}

func TestConditionValues(t *testing.T) {
	const (
		in4 = "ALE_AUTH_RECV_ACCEPT_V4"
		in6 = "ALE_AUTH_RECV_ACCEPT_V6"
		mac = "INBOUND_MAC_FRAME_ETHERNET"
	)
	u16range := func(a, b uint16) filter.Value { return filter.RangeOf(filter.U16(a), filter.U16(b)) }
	a4 := func(s string) filter.Value { return filter.Addr4(netip.MustParseAddr(s)) }
	sd := func(sids ...filter.SID) filter.Value {
		d := &filter.SecurityDescriptor{Text: "D:"}
		for _, s := range sids {
			d.Entries = append(d.Entries, filter.ACE{Allow: true, Mask: 1, SID: s})
			d.Text += fmt.Sprintf("(A;;CC;;;%s)", s)
		}
		return filter.SDValue(d)
	}
	for _, tc := range []struct {
		layer, cond string
		match       filter.MatchType
		want        []filter.Value
	}{
		{in4, "IP_REMOTE_PORT: 445", filter.MatchEqual, []filter.Value{filter.U16(445)}},
		{in4, "IP_REMOTE_PORT: [80, 443]", filter.MatchEqual, []filter.Value{filter.U16(80), filter.U16(443)}},
		{in4, "IP_REMOTE_PORT: 1000-1999", filter.MatchRange, []filter.Value{u16range(1000, 1999)}},
		{in4, "IP_REMOTE_PORT: {match: GREATER, value: 1023}", filter.MatchGreater, []filter.Value{filter.U16(1023)}},
		{in4, "FWPM_CONDITION_IP_REMOTE_PORT: 1", filter.MatchEqual, []filter.Value{filter.U16(1)}},
		{in4, "ICMP_TYPE: 8", filter.MatchEqual, []filter.Value{filter.U16(8)}},
		{in4, "IP_PROTOCOL: UDP", filter.MatchEqual, []filter.Value{filter.U8(17)}},
		{in4, "IP_REMOTE_ADDRESS: 192.0.2.1", filter.MatchEqual, []filter.Value{a4("192.0.2.1")}},
		{in4, "IP_REMOTE_ADDRESS: 10.1.2.3/8", filter.MatchEqual, []filter.Value{filter.V4Mask(netip.MustParsePrefix("10.0.0.0/8"))}},
		{in4, "IP_REMOTE_ADDRESS: 10.0.0.1-10.0.0.9", filter.MatchRange, []filter.Value{filter.RangeOf(a4("10.0.0.1"), a4("10.0.0.9"))}},
		{in6, "IP_REMOTE_ADDRESS: fd00::/8", filter.MatchEqual, []filter.Value{filter.V6Mask(netip.MustParsePrefix("fd00::/8"))}},
		{in6, `IP_REMOTE_ADDRESS: "2001:db8::1"`, filter.MatchEqual, []filter.Value{filter.Addr16(netip.MustParseAddr("2001:db8::1"))}},
		{in4, "IP_LOCAL_ADDRESS_TYPE: multicast", filter.MatchEqual, []filter.Value{filter.U8(3)}},
		{in4, "FLAGS: IS_LOOPBACK", filter.MatchFlagsAllSet, []filter.Value{filter.U32(1)}},
		{in4, "FLAGS: [IS_LOOPBACK, FWP_CONDITION_FLAG_IS_NON_APPCONTAINER_LOOPBACK]", filter.MatchFlagsAllSet, []filter.Value{filter.U32(0x800001)}},
		{in4, "FLAGS: {match: FLAGS_NONE_SET, value: 0x9}", filter.MatchFlagsNoneSet, []filter.Value{filter.U32(9)}},
		{in4, "CURRENT_PROFILE_ID: public", filter.MatchEqual, []filter.Value{filter.U32(1)}},
		{in4, "IP_ARRIVAL_INTERFACE: eth7", filter.MatchEqual, []filter.Value{filter.U64((*Map)(nil).LUID("eth7"))}},
		{in4, "ALE_APP_ID: /bin/a", filter.MatchEqual, []filter.Value{filter.Blob([]byte("/bin/a"))}},
		{in4, "ALE_APP_ID: System", filter.MatchEqual, []filter.Value{filter.Blob([]byte("System"))}},
		{in4, "ALE_USER_ID: uid:1000", filter.MatchEqual, []filter.Value{sd(filter.UnixUser(1000))}},
		{in4, "ALE_USER_ID: [user:root, gid:7]", filter.MatchEqual, []filter.Value{sd(filter.UnixUser(0), filter.UnixGroup(7))}},
		{in4, "ALE_USER_ID: unit:foo.service", filter.MatchEqual, []filter.Value{sd(filter.ServiceSID("foo.service"))}},
		{in4, "ALE_PACKAGE_ID: none", filter.MatchEqual, []filter.Value{filter.SIDValue(filter.SIDNull)}},
		{in4, "ALE_REMOTE_USER_ID: EMPTY", filter.MatchEqual, []filter.Value{{}}},
		{mac, `MAC_REMOTE_ADDRESS: "02:00:00:00:00:01"`, filter.MatchEqual, []filter.Value{filter.MAC([6]byte{2, 0, 0, 0, 0, 1})}},
		{mac, "ETHER_TYPE: [arp, 0x86dd]", filter.MatchEqual, []filter.Value{filter.U16(0x806), filter.U16(0x86dd)}},
	} {
		t.Run(tc.cond, func(t *testing.T) {
			p := loadText(t, yamlOf(tc.layer, tc.cond), nil)
			e := p.Entries[0]
			if e.State != StateEnforced {
				t.Fatal(outcome(e))
			}
			conds := e.Filter.Conditions
			if len(conds) != len(tc.want) {
				t.Fatalf("%d conditions, want %d", len(conds), len(tc.want))
			}
			for i, c := range conds {
				if c.Match != tc.match || !c.Value.Equal(tc.want[i]) {
					t.Errorf("%s %s, want %s %s", c.Match, c.Value, tc.match, tc.want[i])
				}
			}
		})
	}
}

func TestUnitNamedAsUser(t *testing.T) {
	p := loadText(t, yamlOf("ALE_AUTH_CONNECT_V4", "ALE_USER_ID: unit:foo.service"), nil)
	if got := p.Services[filter.ServiceSID("foo.service")]; got != "foo.service" {
		t.Errorf("the unit is %q", got)
	}
}

func TestWeights(t *testing.T) {
	for weight, want := range map[string]func(uint64) bool{
		"weight: 8":             func(w uint64) bool { return w>>60 == 8 },
		"weight: {uint64: 17}":  func(w uint64) bool { return w == 17 },
		"weight: {uint64: 0x9}": func(w uint64) bool { return w == 9 },
		"description: none":     func(w uint64) bool { return w>>60 == 0 },
	} {
		p := loadText(t, yamlOf("ALE_AUTH_CONNECT_V4", "")+"    "+weight+"\n", nil)
		if w := p.Store.Filter(1).EffectiveWeight; !want(w) {
			t.Errorf("%s gives %#x", weight, w)
		}
	}
}

func TestPolicyFileErrors(t *testing.T) {
	const c4 = "ALE_AUTH_CONNECT_V4"
	one := yamlOf(c4, "")
	for _, tc := range []struct{ name, text, want string }{
		{"no version", "filters: []\n", `policy:1:1: not a policy`},
		{"later version", "wfpebpf: 2\n", `not a policy`},
		{"unknown key", "wfpebpf: 1\nfilter: []\n", `policy:2:1: unknown key "filter"`},
		{"doubled key", "wfpebpf: 1\nfilters: []\nfilters: []\n", `policy:3:1: key "filters" is there twice, first in line 2`},
		{"unknown key of a filter", one + "    wait: 1\n", `policy:6:5: unknown key "wait"`},
		{"anchor", "wfpebpf: &a 1\n", "policy:1:10: anchors, aliases and tags are not accepted"},
		{"two documents", "wfpebpf: 1\n---\nwfpebpf: 1\n", "more than one document"},
		{"list where a mapping belongs", "- 1\n", "policy:1:1: the policy must be a mapping, not a list"},
		{"unknown layer", yamlOf("ALE_OTHER", ""), "policy:4:12: layer \"ALE_OTHER\": FWP_E_LAYER_NOT_FOUND"},
		{"same layer twice", yamlOf("["+c4+", "+c4+"]", ""), "policy:4:34: layer ALE_AUTH_CONNECT_V4 is there twice"},
		{"unknown action", strings.Replace(one, "BLOCK", "STOP", 1), "policy:5:13: action \"STOP\": FWP_E_INVALID_ACTION_TYPE"},
		{"weight class 16", one + "    weight: 16\n", "policy:6:13: a weight is a class of 0 to 15 or {uint64: N}, not \"16\": FWP_E_INVALID_WEIGHT"},
		{"unknown sublayer", one + "    sublayer: other\n", "policy:6:15: sublayer \"other\": FWP_E_SUBLAYER_NOT_FOUND"},
		{"unknown flag", one + "    flags: [LOUD]\n", "policy:6:13: flag \"LOUD\": FWP_E_INVALID_FLAGS"},
		{"callout not declared", strings.Replace(one, "BLOCK", "CALLOUT_UNKNOWN", 1) + "    callout: other\n",
			"policy:6:14: callout \"other\": FWP_E_CALLOUT_NOT_FOUND"},
		{"callout with a static action", "callouts: [{key: c, layer: " + c4 + "}]\n" + one + "    callout: c\n", "a callout goes only with a callout action"},
		{"no name", strings.Replace(one, "name: One", "description: One", 1), "FWP_E_NULL_DISPLAY_NAME"},
		{"sublayer twice", "sublayers: [{key: a, weight: 1}, {key: a, weight: 2}]\n" + one, "FWP_E_ALREADY_EXISTS"},
		{"sublayer weight", "sublayers: [{key: a, weight: 65536}]\n" + one, "policy:1:30: the weight of a sublayer is 0 to 65535"},
		{"unknown provider", "sublayers: [{key: a, weight: 1, provider: b}]\n" + one, "FWP_E_PROVIDER_NOT_FOUND"},
		{"unknown field", yamlOf(c4, "IP_PORT: 1"), "policy:7:9: layer ALE_AUTH_CONNECT_V4 has no field IP_PORT: FWP_E_CONDITION_NOT_FOUND"},
		{"field of another layer", yamlOf(c4, "ETHER_TYPE: arp"), "FWP_E_CONDITION_NOT_FOUND"},
		{"two fields in one condition", yamlOf(c4, "{IP_PROTOCOL: 6, IP_REMOTE_PORT: 1}"), "a condition is one field"},
		{"port too big", yamlOf(c4, "IP_REMOTE_PORT: 65536"), "policy:7:25: IP_REMOTE_PORT: \"65536\" is not a value of 16 bits: FWP_E_TYPE_MISMATCH"},
		{"port that could be octal", yamlOf(c4, "IP_REMOTE_PORT: 0443"), "policy:7:25: IP_REMOTE_PORT: \"0443\" is not a value of 16 bits"},
		{"flags that could be octal", yamlOf(c4, "FLAGS: 010"), "FLAGS: flag \"010\" is not known"},
		{"number with an underscore", yamlOf(c4, "IP_REMOTE_PORT: 4_43"), "is not a value of 16 bits"},
		{"weight that could be octal", one + "    weight: {uint64: 010}\n", "FWP_E_INVALID_WEIGHT"},
		{"port range upside down", yamlOf(c4, "IP_REMOTE_PORT: 9-1"), "FWP_E_INVALID_RANGE"},
		{"RANGE of one value", yamlOf(c4, "IP_REMOTE_PORT: {match: RANGE, value: 9}"), "FWP_E_INVALID_RANGE"},
		{"EQUAL of a range", yamlOf(c4, "IP_REMOTE_PORT: {match: EQUAL, value: 1-9}"), "FWP_E_MATCH_TYPE_MISMATCH"},
		{"address of the other family", yamlOf(c4, "IP_REMOTE_ADDRESS: fd00::/8"), "FWP_E_TYPE_MISMATCH"},
		{"no address", yamlOf(c4, "IP_REMOTE_ADDRESS: example.org"), "FWP_E_TYPE_MISMATCH"},
		{"unknown match type", yamlOf(c4, "IP_REMOTE_PORT: {match: ALMOST, value: 9}"), `match type "ALMOST" is not known`},
		{"flags on a port", yamlOf(c4, "ALE_USER_ID: {match: FLAGS_ALL_SET, value: uid:1}"), "FWP_E_MATCH_TYPE_MISMATCH"},
		{"relative path", yamlOf(c4, "ALE_APP_ID: curl"), "is not an absolute path or System"},
		{"unknown flag of FLAGS", yamlOf(c4, "FLAGS: IS_FAST"), `policy:7:16: FLAGS: flag "IS_FAST" is not known`},
		{"unknown user", yamlOf(c4, "ALE_USER_ID: user:no-such-user-here"), "ALE_USER_ID: user: unknown user"},
		{"no user", yamlOf(c4, "ALE_USER_ID: root"), `ALE_USER_ID: "root" is none of uid:N`},
		{"empty list", yamlOf(c4, "IP_REMOTE_PORT: []"), "a condition needs a value"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, err := LoadReader("policy", strings.NewReader(tc.text), Options{})
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v\nwant %s", err, tc.want)
			}
			if p != nil {
				t.Error("something was loaded")
			}
		})
	}
}

// Addresses of one family apply where the layer is of that family.
func TestFamilies(t *testing.T) {
	for _, cond := range []string{
		"IP_REMOTE_ADDRESS: [10.0.0.0/8, fd00::/8]",
		"IP_REMOTE_ADDRESS: 10.0.0.0/8\n      - IP_REMOTE_ADDRESS: fd00::/8",
	} {
		p := loadText(t, yamlOf("[ALE_AUTH_CONNECT_V4, ALE_AUTH_CONNECT_V6]", cond), nil)
		for _, e := range p.Entries {
			if e.State != StateEnforced || len(e.Filter.Conditions) != 1 {
				t.Errorf("%s: %s: %s with %d conditions, want enforced with 1", cond, e.Filter.Layer, outcome(e), len(e.Filter.Conditions))
			}
		}
	}
}

func TestLayerThatDoesNotRun(t *testing.T) {
	p := loadText(t, yamlOf("RPC_UM", ""), nil)
	if got, want := outcome(p.Entries[0]), "refused: layer FWPS_LAYER_RPC_UM does not run yet"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
