// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"strings"
	"testing"
	"time"

	"github.com/wfpebpf/wfpebpf/tests/inputs"
)

// realMap is the map that the real dump is tried with.
func realMap(t testing.TB) *Map {
	t.Helper()
	m, err := LoadMapReader("map.yaml", strings.NewReader(inputs.Windows11Map))
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
		{inputs.Windows11, inputs.Windows11Filters},
		{"netsh-wfp/filters-outbound-only.xml", 286},
	} {
		t.Run(tc.file, func(t *testing.T) {
			start := time.Now()
			p, err := Load([]string{inputs.File(t, tc.file)}, Options{Map: realMap(t)})
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
	p, err := Load([]string{inputs.File(t, inputs.Windows11)}, Options{Map: realMap(t)})
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
	// four filters more call the silent drop, which is provided
	for c, want := range map[class]int{classBootTime: 16, classCallout: 58, classDisabled: 0, classSubLayer: 0, classUnreadable: 0} {
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
