// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/wfpebpf/wfpebpf/layermap"
	"github.com/wfpebpf/wfpebpf/policy"
	"github.com/wfpebpf/wfpebpf/tests/inputs"
)

func TestDryRunReport(t *testing.T) {
	file := write(t, "policy.yaml", smallPolicy+`
  - {name: Other program, layer: ALE_AUTH_CONNECT_V4, action: BLOCK, conditions: [{ALE_APP_ID: '\device\harddiskvolume1\x.exe'}]}
  - {name: Not yet, layer: STREAM_V4, action: BLOCK}
`)
	r := wfpebpf(t, "apply", file, "--dry-run", "--json")
	if r.code != exitDone {
		t.Fatal(r.err)
	}
	var keys map[string]json.RawMessage
	if err := json.Unmarshal([]byte(r.out), &keys); err != nil {
		t.Fatal(err)
	}
	var got []string
	for k := range keys {
		got = append(got, k)
	}
	slices.Sort(got)
	if want := []string{"enforced", "filters", "refused", "total", "unmatchable"}; !slices.Equal(got, want) {
		t.Errorf("keys %q, want %q", got, want)
	}
	var report policy.Report
	decode(t, r.out, &report)
	if report.Total != 5 || report.Enforced != 3 || report.Unmatchable != 1 || report.Refused != 1 || len(report.Filters) != 5 {
		t.Errorf("report %+v", report)
	}
	text := wfpebpf(t, "apply", file, "--dry-run").out
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if last := lines[len(lines)-1]; last != "1 block filters cannot be enforced" {
		t.Errorf("last line %q", last)
	}
}

func TestStrict(t *testing.T) {
	for _, tc := range []struct {
		name, filter string
		code         int
	}{
		{"all enforced", "", exitDone},
		{"a block that is refused", "  - {name: X, layer: STREAM_V4, action: BLOCK}\n", exitNothing},
		{"a block that matches nothing", "  - {name: X, layer: ALE_AUTH_CONNECT_V4, action: BLOCK, conditions: [{TUNNEL_TYPE: 1}]}\n", exitNothing},
		{"a permit that is refused", "  - {name: X, layer: STREAM_V4, action: PERMIT}\n", exitDone},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := wfpebpf(t, "apply", "--strict", "--dry-run", write(t, "policy.yaml", smallPolicy+tc.filter))
			if r.code != tc.code {
				t.Errorf("exit code %d, want %d: %s", r.code, tc.code, r.err)
			}
			if tc.code != exitDone && !strings.Contains(r.err, `"X"`) {
				t.Errorf("%q does not name the filter", r.err)
			}
		})
	}
}

func TestDryRunWarnsAboutTheSSHConnection(t *testing.T) {
	file := write(t, "policy.yaml", smallPolicy)
	for _, tc := range []struct {
		name, connection string
		args             []string
		warns            bool
	}{
		{"not by SSH", "", nil, false},
		{"to a port that is blocked", "192.0.2.9 50000 192.0.2.1 22", nil, true},
		{"to another port", "192.0.2.9 50000 192.0.2.1 2222", nil, false},
		{"over IPv6, where nothing is blocked", "2001:db8::9 50000 2001:db8::1 22", nil, false},
		{"over a mapped address", "::ffff:192.0.2.9 50000 ::ffff:192.0.2.1 22", nil, true},
		{"let in by a failsafe", "192.0.2.9 50000 192.0.2.1 22", []string{"--failsafe", "tcp/22"}, false},
		{"let in by a failsafe for the peer", "192.0.2.9 50000 192.0.2.1 22", []string{"--failsafe", "tcp/22@192.0.2.0/24"}, false},
		{"a failsafe for others", "192.0.2.9 50000 192.0.2.1 22", []string{"--failsafe", "tcp/22@198.51.100.0/24"}, true},
		{"to be confirmed", "192.0.2.9 50000 192.0.2.1 22", []string{"--confirm", "30s"}, false},
		{"forced", "192.0.2.9 50000 192.0.2.1 22", []string{"--force"}, false},
		{"a variable that says nothing", "nonsense", nil, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Setenv(sshConnection, tc.connection)
			r := wfpebpf(t, append([]string{"apply", file, "--dry-run"}, tc.args...)...)
			if warns := strings.Contains(r.err, `blocked by filter "No logins"`); r.code != exitDone || warns != tc.warns {
				t.Errorf("exit code %d, stderr %q, want a warning: %t", r.code, r.err, tc.warns)
			}
		})
	}
}

func TestReportSaysThatOtherProtocolsPass(t *testing.T) {
	const head = "wfpebpf: 1\nfilters:\n  - {name: X, layer: "
	for _, tc := range []struct {
		name, filter string
		noted        bool
	}{
		{"a default block of inbound traffic", "ALE_AUTH_RECV_ACCEPT_V4, action: BLOCK}", true},
		{"a default block of outbound traffic", "ALE_AUTH_CONNECT_V6, action: BLOCK}", true},
		{"a block of a peer", "ALE_AUTH_RECV_ACCEPT_V4, action: BLOCK, conditions: [{IP_REMOTE_ADDRESS: 10.0.0.0/8}]}", true},
		{"a block of all but TCP", "ALE_AUTH_RECV_ACCEPT_V4, action: BLOCK, conditions: [{IP_PROTOCOL: {match: NOT_EQUAL, value: 6}}]}", true},
		{"a block of TCP", "ALE_AUTH_RECV_ACCEPT_V4, action: BLOCK, conditions: [{IP_PROTOCOL: tcp}]}", false},
		{"a block of a port", "ALE_AUTH_RECV_ACCEPT_V4, action: BLOCK, conditions: [{IP_LOCAL_PORT: 22}]}", false},
		{"a permit", "ALE_AUTH_RECV_ACCEPT_V4, action: PERMIT}", false},
		{"a block of packets", "INBOUND_IPPACKET_V4, action: BLOCK}", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := wfpebpf(t, "apply", "--dry-run", write(t, "policy.yaml", head+tc.filter+"\n"))
			if noted := strings.Contains(r.out, "does not stop ping or other protocols yet"); r.code != exitDone || noted != tc.noted {
				t.Errorf("exit code %d, %s%s, want a note: %t", r.code, r.out, r.err, tc.noted)
			}
		})
	}
}

// A block of nothing but such a protocol is no matter of a note: it is not
// enforced, and counted.
func TestReportRefusesOtherProtocols(t *testing.T) {
	file := write(t, "policy.yaml", "wfpebpf: 1\nfilters:\n"+
		"  - {name: No ping, layer: ALE_AUTH_RECV_ACCEPT_V4, action: BLOCK, conditions: [{IP_PROTOCOL: icmp}]}\n")
	r := wfpebpf(t, "apply", "--dry-run", file)
	for _, want := range []string{
		"Block filters that cannot be enforced:\n", "No ping", "others are not judged yet\n",
		"\n1 filters: 0 enforced, 0 unmatchable, 1 refused\n", "\n1 block filters cannot be enforced\n",
	} {
		if r.code != exitDone || !strings.Contains(r.out, want) {
			t.Errorf("exit code %d, the report lacks %q:\n%s%s", r.code, want, r.out, r.err)
		}
	}
	if r := wfpebpf(t, "apply", "--dry-run", "--strict", file); r.code != exitNothing || !strings.Contains(r.err, `"No ping"`) {
		t.Errorf("--strict: exit code %d, %s", r.code, r.err)
	}
}

func TestLayersThatTheKernelCannotCarry(t *testing.T) {
	p, _, err := loadPolicy(io.Discard, []string{write(t, "policy.yaml", smallPolicy)}, "")
	if err != nil {
		t.Fatal(err)
	}
	refuseUnavailable(p, map[layermap.LayerID]string{layermap.ALEAuthConnectV6: "needs Linux 9.9"})
	r := p.Report()
	if r.Refused != 1 || r.Enforced != 2 || r.UnenforceableBlocks() != 1 {
		t.Errorf("report %+v", r)
	}
	var text bytes.Buffer
	if err := r.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"kernel: layer ALE_AUTH_CONNECT_V6 is not available: needs Linux 9.9; its filters are refused: 1\n", "\n1 block filters cannot be enforced\n",
	} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("the report lacks %q:\n%s", want, text.String())
		}
	}
	if f := r.Filters[1]; f.State != policy.StateRefused || f.Reason != "needs Linux 9.9" {
		t.Errorf("filter %+v", f)
	}
}

func TestRealDumpReport(t *testing.T) {
	file := inputs.File(t, inputs.Windows11)
	r := wfpebpf(t, "apply", "--dry-run", "--json", file)
	if r.code != exitDone {
		t.Fatal(r.err)
	}
	var report policy.Report
	decode(t, r.out, &report)
	if report.Total != inputs.Windows11Filters || report.Enforced+report.Unmatchable+report.Refused != report.Total {
		t.Errorf("total %d, enforced %d, unmatchable %d, refused %d", report.Total, report.Enforced, report.Unmatchable, report.Refused)
	}
}
