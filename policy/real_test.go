// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// realDump returns the path of a real dump, which the project does not hold.
func realDump(t testing.TB, name string) string {
	t.Helper()
	file := filepath.Join("..", "..", "shared", "inputs", "netsh-wfp", name)
	if _, err := os.Stat(filepath.Dir(file)); err != nil {
		t.Skip("the folder of real dumps is not here")
	}
	return file
}

// realMap is the map that the real dump is tried with.
func realMap(t testing.TB) *Map {
	t.Helper()
	m, err := LoadMapReader("map.yaml", strings.NewReader(
		"links: {'19985273102270464': eth0}\nservices: {DoSvc: dosvc.service}\n"))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestRealDumpsAccountForEveryFilter(t *testing.T) {
	for _, tc := range []struct {
		file  string
		total int
	}{
		{"wfpstate-win11-22621.xml", 1254},
		{"filters-outbound-only.xml", 286},
	} {
		t.Run(tc.file, func(t *testing.T) {
			start := time.Now()
			p, err := Load([]string{realDump(t, tc.file)}, Options{Map: realMap(t)})
			if err != nil {
				t.Fatal(err)
			}
			if took := time.Since(start); took > 2*time.Second {
				t.Errorf("took %s, want under 2 s", took)
			}
			r := p.Report()
			if r.Total != tc.total || r.Enforced+r.Unmatchable+r.Refused != r.Total || len(r.Filters) != r.Total {
				t.Errorf("total %d, enforced %d, unmatchable %d, refused %d, listed %d; want total %d",
					r.Total, r.Enforced, r.Unmatchable, r.Refused, len(r.Filters), tc.total)
			}
			for _, f := range r.Filters {
				if (f.State == StateEnforced) != (f.Reason == "") {
					t.Errorf("filter %d is %s with reason %q", f.ID, f.State, f.Reason)
				}
			}
			var b strings.Builder
			if err := r.WriteText(&b); err != nil {
				t.Fatal(err)
			}
			t.Log(b.String())
		})
	}
}

// What does not depend on which layers run: these counts were taken from the
// dump by other means.
func TestRealDumpRefusals(t *testing.T) {
	p, err := Load([]string{realDump(t, "wfpstate-win11-22621.xml")}, Options{Map: realMap(t)})
	if err != nil {
		t.Fatal(err)
	}
	n := map[class]int{}
	doSvc := 0
	for _, e := range p.Entries {
		n[e.class]++
		if e.class == classCallout && !strings.Contains(e.Reason, "FWPM_CALLOUT_") && !strings.Contains(e.Reason, "{") {
			t.Errorf("filter %d is refused for a callout without a name: %s", e.Filter.ID, e.Reason)
		}
		if e.State != StateEnforced {
			continue
		}
		for _, c := range e.Filter.Conditions {
			if c.Field == "ALE_USER_ID" && c.Value.SD != nil && len(c.Value.SD.Entries) == 1 && p.Services[c.Value.SD.Entries[0].SID] == "dosvc.service" {
				doSvc++
			}
		}
	}
	for c, want := range map[class]int{classBootTime: 16, classCallout: 62, classDisabled: 0, classSubLayer: 0, classUnreadable: 0} {
		if n[c] != want {
			t.Errorf("%d filters are refused as %q, want %d", n[c], c, want)
		}
	}
	if doSvc == 0 {
		t.Error("no filter of the mapped service is enforced")
	}
	if f := p.Links["eth0"]; f.Epoch != 10000228 || f.EpochV6 != 10000227 {
		t.Errorf("eth0 is %+v, want the epochs of its un-quarantine filters", f)
	}
	if len(p.Notes) == 0 || !strings.HasPrefix(p.Notes[0], "quarantine: only mapped links leave quarantine: eth0") {
		t.Errorf("notes %q, want quarantine first", p.Notes)
	}
}
