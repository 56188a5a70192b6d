// SPDX-License-Identifier: Apache-2.0

package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

func TestExitCodes(t *testing.T) {
	policy := write(t, "policy.yaml", smallPolicy)
	hostile := write(t, "hostile.yaml", "wfpebpf: 1\nfilters:\n  - {name: \"\x1b[2J\n\", nonsense: 1}\n")
	for _, tc := range []struct {
		name string
		args []string
		code int
	}{
		{"no command", nil, exitUsage},
		{"unknown command", []string{"frobnicate"}, exitUsage},
		{"unknown flag", []string{"apply", policy, "--frobnicate"}, exitUsage},
		{"no file", []string{"apply", "--dry-run"}, exitUsage},
		{"a time that is none", []string{"apply", policy, "--dry-run", "--confirm", "soon"}, exitUsage},
		{"a time that is too short", []string{"apply", policy, "--dry-run", "--confirm", "1ms"}, exitUsage},
		{"a failsafe that is none", []string{"apply", policy, "--dry-run", "--failsafe", "22"}, exitUsage},
		{"a file that is not there", []string{"apply", "--dry-run", policy + ".missing"}, exitNothing},
		{"a folder", []string{"apply", "--dry-run", "/"}, exitNothing},
		{"a hostile file", []string{"apply", "--dry-run", hostile}, exitNothing},
		{"a map that is a policy", []string{"apply", "--dry-run", policy, "--map", policy}, exitNothing},
		{"flags after arguments", []string{"apply", policy, "--dry-run"}, exitDone},
		{"flags before arguments", []string{"apply", "--dry-run", policy}, exitDone},
		{"help", []string{"apply", "--help"}, exitDone},
		{"version", []string{"--version"}, exitDone},
		{"completion", []string{"completion", "bash"}, exitDone},
		{"show nothing", []string{"show"}, exitUsage},
		{"show something else", []string{"show", "weather"}, exitUsage},
		{"attach nothing", []string{"attach"}, exitUsage},
		{"a layer that is not there", []string{"layers", "--fields", "ALE_NONE"}, exitUsage},
		{"explain without a question", []string{"explain", policy}, exitUsage},
		{"explain with two questions", []string{"explain", policy, "--in", "tcp", "--out", "tcp"}, exitUsage},
		{"explain without a file", []string{"explain", "--layer", "ALE_AUTH_CONNECT_V4"}, exitUsage},
		{"explain a layer that is not there", []string{"explain", policy, "--layer", "ALE_NONE"}, exitUsage},
		{"explain a field that is not there", []string{"explain", policy, "--layer", "ALE_AUTH_CONNECT_V4", "NOSUCH=1"}, exitUsage},
		{"explain a value that is none", []string{"explain", policy, "--layer", "ALE_AUTH_CONNECT_V4", "IP_REMOTE_PORT=x"}, exitUsage},
		{"explain without addresses", []string{"explain", policy, "--out", "tcp"}, exitUsage},
		{"explain two families", []string{"explain", policy, "--out", "tcp", "--from", "192.0.2.1:1", "--to", "[2001:db8::1]:1"}, exitUsage},
		{"explain a hostile file", []string{"explain", hostile, "--out", "tcp", "--to", "192.0.2.1:1"}, exitNothing},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := wfpebpf(t, tc.args...)
			if r.code != tc.code {
				t.Errorf("exit code %d, want %d; stderr %q", r.code, tc.code, r.err)
			}
			if tc.code == exitDone {
				if r.err != "" {
					t.Errorf("stderr %q", r.err)
				}
				return
			}
			lines := strings.Split(strings.TrimSuffix(r.err, "\n"), "\n")
			last := lines[len(lines)-1]
			if !strings.HasPrefix(last, "wfpebpf: ") || strings.Contains(r.err, "\x1b") {
				t.Errorf("stderr %q, want a line that begins with wfpebpf:", r.err)
			}
			if tc.args != nil && (len(lines) != 1 || r.out != "") {
				t.Errorf("stderr %q and stdout %q, want one line on stderr", r.err, r.out)
			}
		})
	}
}

func TestMistakesNameTheRemedy(t *testing.T) {
	policy := write(t, "policy.yaml", smallPolicy)
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"aply", policy}, "Did you mean this?; apply (wfpebpf --help)"},
		{[]string{"apply"}, "a policy file is needed (wfpebpf apply --help)"},
		{[]string{"show", "weather"}, "callouts, filters, hooks, sets, state, sublayers"},
		{[]string{"explain", policy, "--layer", "NOWHERE"}, "wfpebpf layers lists them"},
		{[]string{"explain", policy, "--layer", "ALE_AUTH_CONECT_V4"}, "near it are ALE_AUTH_CONNECT_V4, ALE_AUTH_CONNECT_V6; wfpebpf layers lists them"},
		{[]string{"layers", "--fields", "NOWHERE"}, `there is no layer "NOWHERE"; wfpebpf layers lists them`},
		{[]string{"layers", "--fields", "FWPM_LAYER_ALE_AUTH_LISTEN"}, "near it are ALE_AUTH_LISTEN_V4, ALE_AUTH_LISTEN_V6, "},
		{[]string{"layers", "--fields", "INBOUND_IPPACKET_V5"}, "near it are INBOUND_IPPACKET_V4, INBOUND_IPPACKET_V6;"},
		{[]string{"explain", policy, "--layer", "ALE_AUTH_CONNECT_V4", "X=1"}, "wfpebpf layers --fields ALE_AUTH_CONNECT_V4 lists them"},
		{[]string{"explain", policy, "--in", "x", "--to", "192.0.2.1:1"}, "tcp, udp, icmp, icmpv6 or a number"},
	} {
		if r := wfpebpf(t, tc.args...); r.code != exitUsage || !strings.Contains(r.err, tc.want) {
			t.Errorf("%q: exit code %d, %q lacks %q", tc.args, r.code, r.err, tc.want)
		}
	}
}

func TestEveryCommandHasHelpWithExamples(t *testing.T) {
	root, _ := newRoot()
	for _, cmd := range root.Commands() {
		if cmd.Hidden {
			continue
		}
		if cmd.Short == "" || cmd.Long == "" || cmd.Example == "" {
			t.Errorf("%s lacks a description or examples", cmd.Name())
		}
	}
}

func TestCompletion(t *testing.T) {
	policy := write(t, "policy.yaml", smallPolicy)
	for _, tc := range []struct {
		name string
		args []string
		want string
	}{
		{"layers", []string{"layers", "--fields", "ALE_AUTH_CONNECT"}, "ALE_AUTH_CONNECT_V4"},
		{"layers in small letters", []string{"explain", "--layer", "ale_auth_conn"}, "ALE_AUTH_CONNECT_V6"},
		{"fields of the layer", []string{"explain", policy, "--layer", "ALE_AUTH_CONNECT_V4", "IP_REM"}, "IP_REMOTE_PORT="},
		{"links", []string{"attach", "l"}, "lo"},
		{"links of a flag", []string{"apply", policy, "--iface", "l"}, "lo"},
		{"views", []string{"show", "f"}, "filters"},
		{"protocols", []string{"explain", policy, "--in", "t"}, "tcp"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := wfpebpf(t, append([]string{cobra.ShellCompNoDescRequestCmd}, tc.args...)...)
			if !slices.Contains(strings.Split(r.out, "\n"), tc.want) {
				t.Errorf("%q is not among %q", tc.want, r.out)
			}
		})
	}
}
