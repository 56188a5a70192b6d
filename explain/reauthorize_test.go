// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"net/netip"
	"testing"

	"github.com/wfpebpf/wfpebpf/layermap"
)

// What becomes of a flow that is open: it is judged again where it was authorised, and
// at no other ALE layer.
func TestReauthorized(t *testing.T) {
	p, _ := load(t, `
wfpebpf: 1
filters:
  - {name: Not again, layer: [ALE_AUTH_RECV_ACCEPT_V4, ALE_AUTH_CONNECT_V4], action: BLOCK, weight: 9, conditions: [{FLAGS: [IS_REAUTHORIZE]}, {IP_LOCAL_PORT: 22}]}
  - {name: By its reason, layer: [ALE_AUTH_RECV_ACCEPT_V4, ALE_AUTH_CONNECT_V4], action: BLOCK, weight: 8, conditions: [{REAUTHORIZE_REASON: [POLICY_CHANGE]}, {IP_LOCAL_PORT: 23}]}
  - {name: New ones, layer: [ALE_AUTH_RECV_ACCEPT_V4, ALE_AUTH_CONNECT_V4], action: BLOCK, weight: 7, conditions: [{FLAGS: {match: FLAGS_NONE_SET, value: [IS_REAUTHORIZE]}}, {IP_LOCAL_PORT: 80}]}
  - {name: Never bound, layer: ALE_RESOURCE_ASSIGNMENT_V4, action: BLOCK}
  - {name: Never established, layer: ALE_FLOW_ESTABLISHED_V4, action: BLOCK}
`)
	for _, row := range []struct {
		port     uint16
		outbound bool
		again    string // who blocks it when it is judged again; empty: nobody
	}{
		{22, false, "Not again"}, {22, true, "Not again"},
		{23, false, "By its reason"}, {23, true, "By its reason"},
		{80, false, ""}, {80, true, ""}, {443, false, ""}, {443, true, ""},
	} {
		flow := Tuple{
			Outbound: row.outbound, Protocol: protocolTCP, Reauthorized: true,
			Local: netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), row.port), Remote: netip.MustParseAddrPort("192.0.2.9:4000"),
		}
		got := ""
		for _, a := range flow.Explain(p, p.Store, false) {
			if a.Verdict == "block" {
				got = a.FilterName
			}
		}
		if got != row.again {
			t.Errorf("port %d, outbound %t: blocked by %q, want %q", row.port, row.outbound, got, row.again)
		}
	}
}

// Who applies a policy over a connection is asked about its next packet, too.
func TestWouldBlockAgain(t *testing.T) {
	p, _ := load(t, `
wfpebpf: 1
filters:
  - {name: Not again, layer: ALE_AUTH_RECV_ACCEPT_V4, action: BLOCK, conditions: [{FLAGS: [IS_REAUTHORIZE]}]}
`)
	ssh := Tuple{Protocol: protocolTCP, Local: netip.MustParseAddrPort("192.0.2.1:22"), Remote: netip.MustParseAddrPort("192.0.2.9:4000")}
	if f, layer := WouldBlock(p, ssh, func(string) bool { return true }); f == nil || f.Name != "Not again" || layer != layermap.ALEAuthRecvAcceptV4 {
		t.Errorf("blocked by %v at %v", f, layer)
	}
}
