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
