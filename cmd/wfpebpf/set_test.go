// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/wfpebpf/wfpebpf/explain"
	"github.com/wfpebpf/wfpebpf/loader"
	"github.com/wfpebpf/wfpebpf/policy"
)

// listPolicy blocks connections to what a list of 4,000 addresses and networks
// holds, 10.77.0.2 among them, and returns the files of both.
func listPolicy(t testing.TB) (file, list string) {
	t.Helper()
	var b strings.Builder
	b.WriteString("# bad addresses\r\n10.77.0.2\r\n")
	for i := range 1999 {
		fmt.Fprintf(&b, "198.18.%d.%d ; even\n2001:db8:0:%x::/64\n", i>>7, i<<1&255, i<<1)
	}
	b.WriteString("2001:db8:ffff::1-2001:db8:ffff::9\n")
	file = write(t, "policy.yaml", `
wfpebpf: 1
sets: {listed: {file: bad.txt}}
filters:
  - {name: Block listed, layer: [ALE_AUTH_CONNECT_V4, ALE_AUTH_CONNECT_V6], action: BLOCK, conditions: [{IP_REMOTE_ADDRESS: {set: listed}}]}
`)
	list = filepath.Join(filepath.Dir(file), "bad.txt")
	if err := os.WriteFile(list, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return file, list
}

func TestDryRunNamesSets(t *testing.T) {
	file, list := listPolicy(t)
	r := wfpebpf(t, "apply", "--dry-run", file)
	want := fmt.Sprintf("set \"listed\": 4000 entries in 2000 IPv4 and 2000 IPv6 ranges, 2 filters, from %s\n2 filters: 2 enforced", list)
	if got := strings.ReplaceAll(r.out, "\n  from", " from"); r.code != exitDone || !strings.Contains(got, want) || len(r.out) > 1000 {
		t.Errorf("exit code %d, %s%.2000s\nwant %s", r.code, r.err, r.out, want)
	}
	var report policy.Report
	decode(t, wfpebpf(t, "apply", "--dry-run", "--json", file).out, &report)
	if s := (policy.ReportSet{Name: "listed", File: list, Entries: 4000, V4: 2000, V6: 2000, Filters: 2}); len(report.Sets) != 1 || report.Sets[0] != s {
		t.Errorf("sets %+v, want %+v", report.Sets, s)
	}
	if err := os.WriteFile(list, []byte("10.77.0.2\n10.77.0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r = wfpebpf(t, "apply", "--dry-run", file)
	if r.code != exitNothing || !strings.Contains(r.err, list+`:2:1: "10.77.0" is not an address`) {
		t.Errorf("exit code %d: %s", r.code, r.err)
	}
}

func TestExplainNamesTheEntryOfASet(t *testing.T) {
	file, _ := listPolicy(t)
	r := wfpebpf(t, "explain", file, "--out", "tcp", "--from", "[2001:db8::1]:50000", "--to", "[2001:db8:ffff::7]:443")
	if want := `  "Block listed" (2) matches by set "listed": IP_REMOTE_ADDRESS 2001:db8:ffff::7 is in it (2001:db8:ffff::1-2001:db8:ffff::9)` + "\n"; !strings.Contains(r.out, want) {
		t.Errorf("%s%s\nlacks %s", r.err, r.out, want)
	}
	var a explain.Answer
	decode(t, wfpebpf(t, "explain", file, "--layer", "ALE_AUTH_CONNECT_V4", "IP_REMOTE_ADDRESS=198.18.0.4", "--json").out, &a)
	if len(a.Sets) != 1 || a.Sets[0].Set != "listed" || a.Sets[0].Range != "198.18.0.4" {
		t.Errorf("sets %+v", a.Sets)
	}
}

// What the commands show of a set in force is its name and size; the addresses
// are kept for explain, also across a roll-back.
func TestLiveSets(t *testing.T) {
	l := newLab(t)
	file, list := listPolicy(t)
	l.must("apply", file)
	l.requireConnect(true)

	var filters []loader.FilterRow
	decode(t, l.must("show", "filters", "--json"), &filters)
	if want := (loader.SetRef{Name: "listed", Entries: 4000}); len(filters) != 2 || len(filters[0].Sets) != 1 || filters[0].Sets[0] != want || filters[0].Hits == 0 {
		t.Errorf("filters %+v", filters)
	}
	if text := l.must("show", "filters"); !strings.Contains(text, "listed (4000 entries)") || strings.Contains(text, "198.18") {
		t.Errorf("filters %s", text)
	}
	var sets []loader.SetRow
	decode(t, l.must("show", "sets", "--json"), &sets)
	if want := (loader.SetRow{Name: "listed", File: list, Entries: 4000, V4: 2000, V6: 2000, Filters: 2}); len(sets) != 1 || sets[0] != want {
		t.Errorf("sets %+v, want %+v", sets, want)
	}
	explains := func(verdict string) {
		t.Helper()
		var a []explain.Answer
		decode(t, l.must("explain", "--live", "--json", "--out", "tcp", "--from", "10.77.0.1:50000", "--to", "10.77.0.2:4450"), &a)
		for _, a := range a {
			if a.Layer == "ALE_AUTH_CONNECT_V4" && (a.Verdict != verdict || (verdict == "block") != (len(a.Sets) == 1 && a.Sets[0].Range == "10.77.0.2")) {
				t.Errorf("%s by %+v, want %s", a.Verdict, a.Sets, verdict)
			}
		}
	}
	// The file may change or go; what is in force stays.
	if err := os.WriteFile(list, []byte("192.0.2.1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	explains("block")

	if r := l.run("apply", file, "--confirm", "1s"); r.code != exitNothing || !strings.Contains(r.err, "not confirmed") {
		t.Errorf("exit code %d: %s", r.code, r.err)
	}
	l.requireConnect(true)
	explains("block")
	decode(t, l.must("show", "sets", "--json"), &sets)
	if len(sets) != 1 || sets[0].Entries != 4000 {
		t.Errorf("sets %+v after the roll-back", sets)
	}
	l.must("apply", file)
	l.requireConnect(false)
	explains("permit")
}
