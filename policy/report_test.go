// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/wfpebpf/wfpebpf/filter"
)

// The JSON is a contract: these names and no others.
func TestReportJSON(t *testing.T) {
	out, err := json.Marshal(loadFixture(t, "state.xml").Report())
	if err != nil {
		t.Fatal(err)
	}
	var top map[string]json.RawMessage
	if err := json.Unmarshal(out, &top); err != nil {
		t.Fatal(err)
	}
	keys := func(m map[string]json.RawMessage) string {
		var k []string
		for name := range m {
			k = append(k, name)
		}
		slices.Sort(k)
		return strings.Join(k, " ")
	}
	if got, want := keys(top), "enforced filters refused total unmatchable"; got != want {
		t.Errorf("keys %s, want %s", got, want)
	}
	var filters []map[string]json.RawMessage
	if err := json.Unmarshal(top["filters"], &filters); err != nil {
		t.Fatal(err)
	}
	if got, want := keys(filters[0]), "action id layer name reason state subLayer"; got != want {
		t.Errorf("keys of a filter %s, want %s", got, want)
	}
	if got, want := string(out[:60]), `{"total":8,"enforced":5,"unmatchable":0,"refused":3,"filters`; got != want {
		t.Errorf("report begins %s, want %s", got, want)
	}
	want := `{"id":103,"name":"Before the service","layer":"ALE_AUTH_RECV_ACCEPT_V4","subLayer":"MPSSVC_WF","action":"BLOCK","state":"refused","reason":"boot-time"}`
	if !strings.Contains(string(out), want) {
		t.Errorf("report %s\nlacks %s", out, want)
	}
}

func TestEmptyReport(t *testing.T) {
	out, err := json.Marshal(loadText(t, "wfpebpf: 1\n", nil).Report())
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"total":0,"enforced":0,"unmatchable":0,"refused":0,"filters":[]}`; string(out) != want {
		t.Errorf("%s, want %s", out, want)
	}
}

func TestReportText(t *testing.T) {
	p := loadText(t, dumpOf(
		testFilter{action: "FWP_ACTION_BLOCK", flags: "BOOTTIME"},
		testFilter{action: "FWP_ACTION_BLOCK", conditions: appXML("EQUAL", `\device\x\a.exe`)},
		testFilter{action: "FWP_ACTION_BLOCK"},
		testFilter{layer: "FWPM_LAYER_RPC_UM"},
		testFilter{conditions: condXML("INTERFACE_QUARANTINE_EPOCH", "EQUAL", "FWP_UINT64 uint64 1")},
	), nil)
	var b strings.Builder
	if err := p.Report().WriteText(&b); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
	want := []string{
		"quarantine: ",
		"  on every link new inbound traffic meets the block filter ",
		"Block filters that cannot be enforced:",
		"  id  name      layer                    why",
		"  1   Filter 1  ALE_AUTH_RECV_ACCEPT_V4  boot-time",
		"Block filters that nothing on this host can match:",
		"  id  name      layer                    why",
		`  2   Filter 2  ALE_AUTH_RECV_ACCEPT_V4  app \device\x\a.exe is not in the map`,
		"5 filters: 2 enforced, 1 unmatchable, 2 refused",
		"       1 refused: boot-time",
		"       1 refused: layer does not run yet",
		"       1 unmatchable: program not mapped",
		"1 block filters cannot be enforced",
	}
	if len(lines) != len(want) {
		t.Fatalf("%d lines, want %d:\n%s", len(lines), len(want), b.String())
	}
	for i := range want {
		if !strings.HasPrefix(lines[i], want[i]) {
			t.Errorf("line %d is %q, want %q", i+1, lines[i], want[i])
		}
	}
}

// Filters of one rule share a row, and no list is longer than what is read.
func TestReportTextRows(t *testing.T) {
	var fs []testFilter
	for _, layer := range []string{"FWPM_LAYER_STREAM_V4", "FWPM_LAYER_STREAM_V6"} {
		for range 2 {
			fs = append(fs, testFilter{layer: layer, action: "FWP_ACTION_BLOCK"})
		}
	}
	for i := range 14 {
		fs = append(fs, testFilter{action: "FWP_ACTION_BLOCK", conditions: appXML("EQUAL", fmt.Sprintf(`\device\%s\%d.exe`, strings.Repeat("long", 40), i))})
	}
	text := regexp.MustCompile("Filter [1-4]<").ReplaceAllString(dumpOf(fs...), "One rule<")
	var b strings.Builder
	if err := loadText(t, text, nil).Report().WriteText(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"\n  1-4  One rule  STREAM_V4, _V6  layer does not run yet\n",
		"\n  14  Filter 14  ALE_AUTH_RECV_ACCEPT_V4  app \\device\\",
		"\n  and 4 more (--json lists all)\n18 filters: 0 enforced, 14 unmatchable, 4 refused\n",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("text lacks %q:\n%s", want, b.String())
		}
	}
	for line := range strings.Lines(b.String()) {
		if n := len(line) - 1; n > lineWidth {
			t.Errorf("line of %d: %s", n, line)
		}
	}
}

func TestReportTextIsShort(t *testing.T) {
	for why, want := range map[string]string{
		"ALE_USER_ID: not in the map: service Audiosrv (S-1-5-80-1-2), S-1-5-3, service BFE (S-1-5-80-3-4) and 54 more": "ALE_USER_ID: not in the map: service Audiosrv and 56 more",
		"ALE_USER_ID: not in the map: service Dhcp (S-1-5-80-1-2), S-1-5-3":                                             "ALE_USER_ID: not in the map: service Dhcp and 1 more",
		"ALE_USER_ID: not in the map: S-1-5-3":                                                                          "ALE_USER_ID: not in the map: S-1-5-3",
		"app a, b and 3 more is not in the map":                                                                         "app a, b and 3 more is not in the map",
	} {
		if got := whyText(why); got != want {
			t.Errorf("%q becomes %q, want %q", why, got, want)
		}
	}
	if got, want := idText([]filter.ID{9, 1, 2, 3, 5, 6}), "1-3, 5, 6, 9"; got != want {
		t.Errorf("ids %q, want %q", got, want)
	}
	if got, want := layerText([]string{"A_V6", "B", "A_V4", "A_V6"}), "A_V6, _V4, B"; got != want {
		t.Errorf("layers %q, want %q", got, want)
	}
	if got, want := strings.Join(wrap(`ab cd\efgh ijklmnopq`, 6), "|"), `ab cd\|efgh|ijklmn|opq`; got != want {
		t.Errorf("wrapped %q, want %q", got, want)
	}
}

// A name from a file cannot write to the terminal.
func TestReportTextIsPrintable(t *testing.T) {
	text := strings.Replace(dumpOf(testFilter{action: "FWP_ACTION_BLOCK", flags: "BOOTTIME"}), "Filter 1", "a&#10;0 block filters cannot be enforced&#x9b;2J", 1)
	var b strings.Builder
	if err := loadText(t, text, nil).Report().WriteText(&b); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(b.String(), "\u009b") || strings.Contains(b.String(), "a\n0 block") {
		t.Errorf("report %q", b.String())
	}
}

func TestTies(t *testing.T) {
	two := "wfpebpf: 1\nfilters:\n" +
		"  - {name: A, layer: ALE_AUTH_CONNECT_V4, action: %s, weight: {uint64: 5}}\n" +
		"  - {name: B, layer: ALE_AUTH_CONNECT_V4, action: BLOCK, weight: {uint64: 5}}\n"
	for action, want := range map[string]int{"PERMIT": 1, "BLOCK": 0} {
		p := loadText(t, strings.Replace(two, "%s", action, 1), nil)
		if len(p.Notes) != want {
			t.Errorf("%s beside BLOCK: notes %q, want %d", action, p.Notes, want)
		}
		for _, n := range p.Notes {
			if !strings.HasPrefix(n, `tie: layer ALE_AUTH_CONNECT_V4, sublayer UNIVERSAL, weight 0x5: PERMIT 1 "A" / BLOCK 2 "B"`) {
				t.Errorf("note %q", n)
			}
		}
	}
}
