// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/wfpebpf/wfpebpf/explain"
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
			for _, g := range f.filters(filter.NewStore()) {
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

// withFailsafe loads a policy and adds a failsafe, if one is named.
func withFailsafe(t *testing.T, yaml, safe string) *policy.Policy {
	t.Helper()
	p, err := policy.LoadReader("policy", strings.NewReader(yaml), policy.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if safe == "" {
		return p
	}
	f, err := parseFailsafe(safe)
	if err != nil {
		t.Fatal(err)
	}
	if err := addFailsafes(p, []failsafe{f}); err != nil {
		t.Fatal(err)
	}
	return p
}

// What a policy asks at besides, the transport layers and those above, must let in, too, and over
// IPv6 let neighbours find each other.
func TestFailsafeWherePoliciesAsk(t *testing.T) {
	const blockAll = "wfpebpf: 1\nfilters: [{name: Block all, layer: [%s], action: BLOCK, weight: 15, flags: [CLEAR_ACTION_RIGHT]}]\n"
	addr := netip.MustParseAddrPort
	const in, out = "INBOUND_TRANSPORT_V4, INBOUND_TRANSPORT_V6", "OUTBOUND_TRANSPORT_V4, OUTBOUND_TRANSPORT_V6"
	const stream, datagram = "STREAM_PACKET_V4, STREAM_PACKET_V6", "DATAGRAM_DATA_V4, DATAGRAM_DATA_V6"
	const flow = "ALE_FLOW_ESTABLISHED_V4, ALE_FLOW_ESTABLISHED_V6"
	for _, tc := range []struct {
		layers, failsafe string
		local, remote    string
		blocked          bool
	}{
		{in, "", "192.0.2.1:22", "192.0.2.2:40000", true},
		{in, "tcp/22", "192.0.2.1:22", "192.0.2.2:40000", false},
		{in, "tcp/22", "192.0.2.1:23", "192.0.2.2:40000", true},
		{in, "tcp/22", "[2001:db8::1]:22", "[2001:db8::2]:40000", false},
		{in, "tcp/22@192.0.2.0/24", "192.0.2.1:22", "192.0.2.2:40000", false},
		{in, "tcp/22@192.0.2.0/24", "192.0.2.1:22", "198.51.100.2:40000", true},
		{in, "tcp/22@2001:db8::/32", "[2001:db8::1]:22", "[2001:db8::2]:40000", false},
		{out, "", "192.0.2.1:22", "192.0.2.2:40000", true},
		{out, "tcp/22", "192.0.2.1:22", "192.0.2.2:40000", false},
		{out, "tcp/22", "[2001:db8::1]:22", "[2001:db8::2]:40000", false},
		{out, "tcp/22@2001:db8::/32", "[2001:db8::1]:22", "[2001:db9::2]:40000", true},
		{flow, "", "192.0.2.1:22", "192.0.2.2:40000", true},
		{flow, "tcp/22", "192.0.2.1:22", "192.0.2.2:40000", false},
		{flow, "tcp/22", "[2001:db8::1]:22", "[2001:db8::2]:40000", false},
		{flow, "tcp/22", "192.0.2.1:23", "192.0.2.2:40000", true},
		{flow, "tcp/22@192.0.2.0/24", "192.0.2.1:22", "198.51.100.2:40000", true},
		{stream, "", "192.0.2.1:22", "192.0.2.2:40000", true},
		{stream, "tcp/22", "192.0.2.1:22", "192.0.2.2:40000", false},
		{stream, "tcp/22", "[2001:db8::1]:22", "[2001:db8::2]:40000", false},
		{stream, "tcp/22", "192.0.2.1:23", "192.0.2.2:40000", true},
		{stream, "udp/22", "192.0.2.1:22", "192.0.2.2:40000", true},
		{stream, "tcp/22@192.0.2.0/24", "192.0.2.1:22", "198.51.100.2:40000", true},
		{datagram, "", "192.0.2.1:22", "192.0.2.2:40000", false}, // no connection passes it, but
		{datagram, "", "[2001:db8::1]:22", "[2001:db8::2]:40000", true},
		{datagram, "tcp/22", "[2001:db8::1]:22", "[2001:db8::2]:40000", false},
	} {
		t.Run(strings.Join([]string{tc.layers, tc.failsafe, tc.local, tc.remote}, " "), func(t *testing.T) {
			p := withFailsafe(t, fmt.Sprintf(blockAll, tc.layers), tc.failsafe)
			f, layer := wouldBlock(p, explain.Tuple{Protocol: 6, Local: addr(tc.local), Remote: addr(tc.remote)}, func(string) bool { return false })
			if (f != nil) != tc.blocked {
				t.Errorf("blocked by %v at %v, want a block: %t", f, layer, tc.blocked)
			}
		})
	}
}

// Where binds may be led elsewhere, the service's own is let through as it is.
func TestFailsafeBinds(t *testing.T) {
	p := withFailsafe(t, "wfpebpf: 1\ncallouts: [{key: away, layer: ALE_BIND_REDIRECT_V4, builtin: redirect, to: \"127.0.0.1:2222\"}]\n"+
		"filters: [{name: Lead away, layer: ALE_BIND_REDIRECT_V4, action: CALLOUT_TERMINATING, callout: away, weight: 15}]\n", "tcp/22")
	l := layermap.ByID(layermap.ALEBindRedirectV4)
	for _, tc := range []struct {
		port uint16
		led  bool
	}{{22, false}, {23, true}} {
		v := make(filter.Values, len(l.Fields))
		v[l.FieldIndex("IP_PROTOCOL")], v[l.FieldIndex("IP_LOCAL_PORT")] = filter.U8(protocolTCP), filter.U16(tc.port)
		r := filter.Arbitrate(p.Store, l.ID, v, filter.Provided)
		if to, by := p.Store.Redirect(&r); (by != nil) != tc.led {
			t.Errorf("port %d is led to %s by %v", tc.port, to, by)
		}
	}
}

// A service that starts again must be able to listen, on either family.
func TestFailsafeListens(t *testing.T) {
	for _, tc := range []struct {
		failsafe, local string
		blocked         bool
	}{
		{"", "0.0.0.0:22", true},
		{"tcp/22", "0.0.0.0:22", false},
		{"tcp/22", "[::]:22", false},
		{"tcp/22@192.0.2.0/24", "[::]:22", false},
		{"tcp/22", "0.0.0.0:23", true},
		{"udp/22", "0.0.0.0:22", true},
	} {
		t.Run(tc.failsafe+" "+tc.local, func(t *testing.T) {
			p := withFailsafe(t, "wfpebpf: 1\nfilters: [{name: Block all, layer: [ALE_AUTH_LISTEN_V4, ALE_AUTH_LISTEN_V6], action: BLOCK, weight: 15, flags: [CLEAR_ACTION_RIGHT]}]\n", tc.failsafe)
			f, layer := wouldBlock(p, explain.Tuple{Listening: true, Protocol: 6, Local: netip.MustParseAddrPort(tc.local)}, func(string) bool { return false })
			if (f != nil) != tc.blocked {
				t.Errorf("blocked by %v at %v, want a block: %t", f, layer, tc.blocked)
			}
		})
	}
}
