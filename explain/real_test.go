// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"encoding/json"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/wfpebpf/wfpebpf/layermap"
	"github.com/wfpebpf/wfpebpf/policy"
	"github.com/wfpebpf/wfpebpf/tests/inputs"
)

func realPolicy(t testing.TB) (*policy.Policy, *policy.Map) {
	t.Helper()
	m, err := policy.LoadMapReader("map.yaml", strings.NewReader(inputs.Windows11Map))
	if err != nil {
		t.Fatal(err)
	}
	p, err := policy.Load([]string{inputs.File(t, inputs.Windows11)}, policy.Options{Map: m})
	if err != nil {
		t.Fatal(err)
	}
	return p, m
}

func at(answers []Answer, layer string) *Answer {
	for i := range answers {
		if answers[i].Layer == layer {
			return &answers[i]
		}
	}
	return nil
}

func TestRealPolicy(t *testing.T) {
	p, m := realPolicy(t)
	accept := layermap.ByName("ALE_AUTH_RECV_ACCEPT_V4")
	unit, err := Values(p, m, accept, []string{"ALE_USER_ID=unit:dosvc.service"})
	if err != nil {
		t.Fatal(err)
	}
	dosvc := unit[accept.FieldIndex("ALE_USER_ID")]
	in := func(port uint16, link string) Tuple {
		return Tuple{
			Protocol: 6, Local: netip.AddrPortFrom(netip.MustParseAddr("192.168.1.17"), port),
			Remote: netip.MustParseAddrPort("192.168.1.50:50000"), Link: Link{Name: link},
		}
	}
	service := in(7680, "eth0")
	service.User, service.Unit = dosvc, "dosvc.service"
	loop := in(8080, "")
	loop.Remote, loop.Local = netip.MustParseAddrPort("127.0.0.1:50000"), netip.MustParseAddrPort("127.0.0.1:8080")
	out := in(50001, "eth0")
	out.Outbound, out.Remote = true, netip.MustParseAddrPort("203.0.113.1:443")
	for _, tc := range []struct {
		name, layer             string
		t                       Tuple
		verdict, filter, origin string
	}{
		{"inbound, mapped link", "ALE_AUTH_RECV_ACCEPT_V4", in(8080, "eth0"), "block", "Query User", "Query User Default"},
		{"inbound to a service that a rule lets in", "ALE_AUTH_RECV_ACCEPT_V4", service, "permit", "Delivery Optimization (TCP-In)", ""},
		{"inbound, link that is not mapped", "ALE_AUTH_RECV_ACCEPT_V4", in(8080, "eth7"), "block", "Quarantine Default Inbound Block", ""},
		{"loopback", "ALE_AUTH_RECV_ACCEPT_V4", loop, "permit", "", ""},
		{"outbound", "ALE_AUTH_CONNECT_V4", out, "permit", "", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			answers := tc.t.Explain(p, p.Store, false)
			a := at(answers, tc.layer)
			if a == nil {
				t.Fatalf("no answer for %s", tc.layer)
			}
			if a.Verdict != tc.verdict || tc.filter != "" && a.FilterName != tc.filter || tc.origin != "" && a.Origin != tc.origin {
				t.Errorf("%s by %q (%d), origin %q; want %s by %q, origin %q", a.Verdict, a.FilterName, a.FilterID, a.Origin, tc.verdict, tc.filter, tc.origin)
			}
			for _, other := range answers {
				if other.Layer != tc.layer && other.Verdict != "permit" {
					t.Errorf("%s at %s by %q", other.Verdict, other.Layer, other.FilterName)
				}
			}
		})
	}
}

func TestRealEndpointsAreNotBlocked(t *testing.T) {
	p, m := realPolicy(t)
	data, err := os.ReadFile(inputs.File(t, inputs.Windows11Endpoints))
	if err != nil {
		t.Fatal(err)
	}
	var endpoints []struct {
		EndpointID                     string
		LocalV4Address, LocalV6Address string
		RemoteV4Address                string
		RemoteV6Address                string
		IPProtocol, LocalPort          string
		RemotePort, App                string
	}
	if err := json.Unmarshal(data, &endpoints); err != nil {
		t.Fatal(err)
	}
	if len(endpoints) != 34 {
		t.Errorf("%d endpoints, want 34", len(endpoints))
	}
	for _, e := range endpoints {
		addr := func(v4, v6, port string) netip.AddrPort {
			a, err := netip.ParseAddr(v4 + v6)
			if err != nil {
				a = netip.IPv6Unspecified()
			}
			n, err := strconv.ParseUint(port, 10, 16)
			if err != nil {
				t.Fatal(err)
			}
			return netip.AddrPortFrom(a, uint16(n))
		}
		protocol, err := strconv.ParseUint(e.IPProtocol, 10, 8)
		if err != nil {
			t.Fatal(err)
		}
		tuple := Tuple{
			Outbound: true, Protocol: uint8(protocol), Link: Link{Name: "eth0"},
			Local:  addr(e.LocalV4Address, e.LocalV6Address, e.LocalPort),
			Remote: addr(e.RemoteV4Address, e.RemoteV6Address, e.RemotePort),
		}
		connect := layermap.ByName("ALE_AUTH_CONNECT_V4")
		app, err := Values(p, m, connect, []string{"ALE_APP_ID=" + e.App})
		if err != nil {
			t.Fatal(err)
		}
		tuple.App = app[connect.FieldIndex("ALE_APP_ID")]
		for _, windows := range []bool{false, true} {
			store := p.Store
			if windows {
				store, _ = p.WindowsStore()
			}
			for _, a := range tuple.Explain(p, store, windows) {
				if a.Verdict != "permit" {
					t.Errorf("endpoint %s (%v to %v, as on Windows: %t): %s at %s by %q", e.EndpointID, tuple.Local, tuple.Remote, windows, a.Verdict, a.Layer, a.FilterName)
				}
			}
		}
	}
}
