// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/wfpebpf/wfpebpf/explain"
	"github.com/wfpebpf/wfpebpf/loader"
)

func TestExplainALayer(t *testing.T) {
	file := write(t, "policy.yaml", smallPolicy)
	for _, tc := range []struct {
		name    string
		args    []string
		verdict string
		filter  string
	}{
		{"blocked", []string{file, "--layer", "ALE_AUTH_CONNECT_V4", "IP_REMOTE_PORT=445"}, "block", "Block SMB"},
		{"flags last", []string{"IP_REMOTE_PORT=445", file, "--layer", "ALE_AUTH_CONNECT_V6"}, "block", "Block SMB"},
		{"permitted", []string{file, "--layer", "ALE_AUTH_CONNECT_V4", "IP_REMOTE_PORT=80"}, "permit", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := wfpebpf(t, append([]string{"explain", "--json"}, tc.args...)...)
			if r.code != exitDone {
				t.Fatal(r.err)
			}
			var a explain.Answer
			decode(t, r.out, &a)
			if a.Verdict != tc.verdict || a.FilterName != tc.filter {
				t.Errorf("%s by %q, want %s by %q", a.Verdict, a.FilterName, tc.verdict, tc.filter)
			}
		})
	}
}

func TestExplainATuple(t *testing.T) {
	file := write(t, "policy.yaml", smallPolicy)
	r := wfpebpf(t, "explain", file, "--out", "tcp", "--from", "192.0.2.1:50000", "--to", "192.0.2.2:445", "--json")
	var answers []explain.Answer
	decode(t, r.out, &answers)
	var layers []string
	for _, a := range answers {
		layers = append(layers, a.Layer)
		if want := map[bool]string{true: "block", false: "permit"}[a.Layer == "ALE_AUTH_CONNECT_V4"]; a.Verdict != want {
			t.Errorf("%s at %s, want %s", a.Verdict, a.Layer, want)
		}
	}
	want := []string{"ALE_RESOURCE_ASSIGNMENT_V4", "ALE_CONNECT_REDIRECT_V4", "ALE_AUTH_CONNECT_V4", "STREAM_PACKET_V4", "OUTBOUND_TRANSPORT_V4", "OUTBOUND_IPPACKET_V4", "OUTBOUND_MAC_FRAME_ETHERNET", "OUTBOUND_MAC_FRAME_NATIVE", "ALE_FLOW_ESTABLISHED_V4"}
	if !slices.Equal(layers, want) {
		t.Errorf("layers %q, want %q", layers, want)
	}
	if !json.Valid([]byte(r.out)) || !strings.Contains(r.out, `"sensitive": []`) {
		t.Errorf("JSON %s", r.out)
	}
	text := wfpebpf(t, "explain", file, "--in", "6", "--from", "192.0.2.2", "--to", "192.0.2.1:22", "--user", "root", "--unit", "ssh.service", "--program", "/usr/sbin/sshd").out
	if !strings.Contains(text, `block at ALE_AUTH_RECV_ACCEPT_V4: by "No logins" (3)`) {
		t.Errorf("text %s", text)
	}
}

func TestExplainForwarded(t *testing.T) {
	file := write(t, "policy.yaml", `wfpebpf: 1
filters:
  - {name: No guests, layer: [IPFORWARD_V4, IPFORWARD_V6], action: BLOCK, conditions: [{IP_LOCAL_INTERFACE: wifi0}, {IP_FORWARD_INTERFACE: eth7}]}
`)
	for _, tc := range []struct{ name, from, to, in, out, layer, verdict string }{
		{"there", "192.0.2.1:50000", "198.51.100.1:445", "wifi0", "eth7", "IPFORWARD_V4", "block"},
		{"back", "198.51.100.1:445", "192.0.2.1:50000", "eth7", "wifi0", "IPFORWARD_V4", "permit"},
		{"without ports over IPv6", "2001:db8::1", "2001:db8:1::1", "wifi0", "eth7", "IPFORWARD_V6", "block"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := wfpebpf(t, "explain", file, "--forward", "tcp", "--from", tc.from, "--to", tc.to, "--iface", tc.in, "--out-iface", tc.out, "--json")
			var answers []explain.Answer
			decode(t, r.out, &answers)
			i := slices.IndexFunc(answers, func(a explain.Answer) bool { return a.Layer == tc.layer })
			if i < 0 || answers[i].Verdict != tc.verdict {
				t.Errorf("want %s at %s, got %+v", tc.verdict, tc.layer, answers)
			}
		})
	}
	for _, args := range [][]string{
		{"--in", "tcp", "--out-iface", "eth7"},
		{"--forward", "tcp", "--program", "/usr/bin/x"},
		{"--forward", "tcp", "--in", "tcp"},
	} {
		r := wfpebpf(t, append([]string{"explain", file, "--from", "192.0.2.1", "--to", "198.51.100.1"}, args...)...)
		if r.code != exitUsage {
			t.Errorf("%q: exit code %d, want a usage error: %s", args, r.code, r.err)
		}
	}
}

func TestExplainListening(t *testing.T) {
	file := write(t, "policy.yaml", `wfpebpf: 1
filters:
  - {name: No telnet, layer: [ALE_AUTH_LISTEN_V4, ALE_AUTH_LISTEN_V6], action: BLOCK, conditions: [{IP_LOCAL_PORT: 23}, {ALE_USER_ID: "uid:0"}]}
`)
	for _, tc := range []struct{ protocol, to, layers, verdict string }{
		{"tcp", "0.0.0.0:23", "ALE_RESOURCE_ASSIGNMENT_V4 ALE_AUTH_LISTEN_V4", "block"},
		{"tcp", "[::]:23", "ALE_RESOURCE_ASSIGNMENT_V6 ALE_AUTH_LISTEN_V6", "block"},
		{"tcp", "[::]:22", "ALE_RESOURCE_ASSIGNMENT_V6 ALE_AUTH_LISTEN_V6", "permit"},
		{"udp", "127.0.0.1:23", "ALE_RESOURCE_ASSIGNMENT_V4", "permit"},
	} {
		r := wfpebpf(t, "explain", file, "--listen", tc.protocol, "--to", tc.to, "--user", "root", "--json")
		var answers []explain.Answer
		decode(t, r.out, &answers)
		var layers []string
		for _, a := range answers {
			layers = append(layers, a.Layer)
		}
		if got := strings.Join(layers, " "); got != tc.layers || answers[len(answers)-1].Verdict != tc.verdict {
			t.Errorf("%s %s: want %s at the last of %s, got %+v", tc.protocol, tc.to, tc.verdict, tc.layers, answers)
		}
	}
	for _, args := range [][]string{
		{"--listen", "tcp"},
		{"--listen", "icmp", "--to", "0.0.0.0"},
		{"--listen", "tcp", "--to", "0.0.0.0:23", "--from", "192.0.2.1"},
		{"--listen", "tcp", "--to", "0.0.0.0:23", "--in", "tcp"},
	} {
		r := wfpebpf(t, append([]string{"explain", file}, args...)...)
		if r.code != exitUsage {
			t.Errorf("%q: exit code %d, want a usage error: %s", args, r.code, r.err)
		}
	}
}

func TestSplitFilesFromValues(t *testing.T) {
	odd := write(t, "a=b.yaml", "")
	files, values := split([]string{"policy.yaml", "IP_REMOTE_PORT=1", "fwpm_condition_flags=0", odd, "./FLAGS=x", "NOSUCH=1"})
	if want := []string{"policy.yaml", odd, "./FLAGS=x"}; !slices.Equal(files, want) {
		t.Errorf("files %q, want %q", files, want)
	}
	if want := []string{"IP_REMOTE_PORT=1", "fwpm_condition_flags=0", "NOSUCH=1"}; !slices.Equal(values, want) {
		t.Errorf("values %q, want %q", values, want)
	}
}

func TestLinkOfTraffic(t *testing.T) {
	addr := netip.MustParseAddr
	links := []loader.HostLink{
		{Name: "lo", Index: 1, Addresses: []netip.Addr{addr("127.0.0.1")}},
		{Name: "eth0", Index: 2, Addresses: []netip.Addr{addr("192.0.2.1")}},
		{Name: "eth1", Index: 3, Addresses: []netip.Addr{addr("198.51.100.1")}},
	}
	for _, tc := range []struct {
		name  string
		got   explain.Link
		want  string
		index uint32
	}{
		{"named", named("eth1", links), "eth1", 3},
		{"named and not here", named("eth9", links), "eth9", 0},
		{"by the local address", owning(addr("192.0.2.1"), addr("192.0.2.2"), links), "eth0", 2},
		{"by a mapped address", owning(addr("::ffff:192.0.2.1"), addr("::ffff:192.0.2.2"), links), "eth0", 2},
		{"an address that is not here", owning(addr("203.0.113.1"), addr("192.0.2.2"), links), "", 0},
		{"between two addresses of the host", owning(addr("192.0.2.1"), addr("198.51.100.1"), links), "lo", 1},
	} {
		if tc.got.Name != tc.want || tc.got.Index != tc.index {
			t.Errorf("%s: %s (%d), want %s (%d)", tc.name, tc.got.Name, tc.got.Index, tc.want, tc.index)
		}
	}
}
