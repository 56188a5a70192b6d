// SPDX-License-Identifier: Apache-2.0

package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
	"github.com/wfpebpf/wfpebpf/policy"
)

func TestParseFailsafe(t *testing.T) {
	for _, tc := range []struct {
		text   string
		layers string // without their common names, empty: refused
	}{
		{"tcp/22", "ALE_RESOURCE_ASSIGNMENT_V4 ALE_RESOURCE_ASSIGNMENT_V6 ALE_AUTH_RECV_ACCEPT_V4 ALE_AUTH_RECV_ACCEPT_V6"},
		{"UDP/51820", "ALE_RESOURCE_ASSIGNMENT_V4 ALE_RESOURCE_ASSIGNMENT_V6 ALE_AUTH_RECV_ACCEPT_V4 ALE_AUTH_RECV_ACCEPT_V6"},
		{"tcp/22@10.0.0.0/8", "ALE_RESOURCE_ASSIGNMENT_V4 ALE_RESOURCE_ASSIGNMENT_V6 ALE_AUTH_RECV_ACCEPT_V4 INBOUND_IPPACKET_V4 OUTBOUND_IPPACKET_V4"},
		{"tcp/22@2001:db8::/32", "ALE_RESOURCE_ASSIGNMENT_V4 ALE_RESOURCE_ASSIGNMENT_V6 ALE_AUTH_RECV_ACCEPT_V6 INBOUND_IPPACKET_V6 OUTBOUND_IPPACKET_V6"},
		{"tcp/22@10.0.0.1", "ALE_RESOURCE_ASSIGNMENT_V4 ALE_RESOURCE_ASSIGNMENT_V6 ALE_AUTH_RECV_ACCEPT_V4 INBOUND_IPPACKET_V4 OUTBOUND_IPPACKET_V4"},
		{"", ""}, {"22", ""}, {"tcp/", ""}, {"tcp/0", ""}, {"tcp/65536", ""}, {"icmp/8", ""}, {"tcp/22@", ""},
		{"tcp/22@example.org", ""}, {"tcp/22@10.0.0.0/33", ""}, {"tcp/22@::ffff:10.0.0.0/104", ""},
	} {
		t.Run(tc.text, func(t *testing.T) {
			f, err := parseFailsafe(tc.text)
			if (err != nil) != (tc.layers == "") {
				t.Fatalf("error %v", err)
			}
			if err != nil {
				return
			}
			var layers []string
			for _, g := range f.filters() {
				layers = append(layers, layermap.ByID(g.Layer).Name)
				if err := g.Validate(); err != nil {
					t.Error(err)
				}
			}
			if got := strings.Join(layers, " "); got != tc.layers {
				t.Errorf("got  %s\nwant %s", got, tc.layers)
			}
		})
	}
}

// A failsafe must win against whatever a policy can hold.
func TestFailsafeGoesBeforeEverything(t *testing.T) {
	p, err := policy.LoadReader("policy", strings.NewReader(`
wfpebpf: 1
sublayers: [{key: "00000000-0000-0000-0000-0000000000ff", name: As heavy, weight: 65535}]
filters:
  - {name: Block all, layer: ALE_AUTH_RECV_ACCEPT_V4, sublayer: "00000000-0000-0000-0000-0000000000ff", weight: 15, action: BLOCK}
`), policy.Options{})
	if err != nil {
		t.Fatal(err)
	}
	f, err := parseFailsafe("tcp/22")
	if err != nil {
		t.Fatal(err)
	}
	if err := addFailsafes(p, []failsafe{f}); err != nil {
		t.Fatal(err)
	}
	l := layermap.ByName("ALE_AUTH_RECV_ACCEPT_V4")
	for _, tc := range []struct {
		port    uint16
		blocked bool
	}{{22, false}, {23, true}} {
		v := make(filter.Values, len(l.Fields))
		v[l.FieldIndex("IP_PROTOCOL")], v[l.FieldIndex("IP_LOCAL_PORT")] = filter.U8(6), filter.U16(tc.port)
		r := filter.Arbitrate(p.Store, l.ID, v, nil)
		if r.Blocked() != tc.blocked || !tc.blocked && r.Soft {
			t.Errorf("port %d: blocked %t, soft %t", tc.port, r.Blocked(), r.Soft)
		}
	}
	if report := p.Report(); report.Total != 5 || report.Enforced != 5 {
		t.Errorf("the report accounts for %d filters, %d enforced", report.Total, report.Enforced)
	}
	if !slices.Equal(p.Failsafes, []string{"tcp/22"}) {
		t.Errorf("failsafes %q", p.Failsafes)
	}
	if !slices.Contains(p.Notes, "failsafe: tcp/22 is always let in") {
		t.Errorf("notes %q", p.Notes)
	}
}
