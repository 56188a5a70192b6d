// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// seed adds a file of testdata.
func seed(f *testing.F, names ...string) {
	for _, n := range names {
		data, err := os.ReadFile(filepath.Join("testdata", n))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
}

// load checks what holds for every input: it is loaded whole or not at all,
// soon, and every filter is accounted for.
func load(t *testing.T, data []byte) {
	start := time.Now()
	p, err := LoadReader("fuzz", bytes.NewReader(data), Options{})
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("took %s", took)
	}
	if (p == nil) == (err == nil) {
		t.Fatalf("policy %v and error %v", p, err)
	}
	if err != nil {
		return
	}
	r := p.Report()
	if r.Enforced+r.Unmatchable+r.Refused != r.Total || len(p.Store.Filters()) != r.Enforced+r.Unmatchable {
		t.Errorf("report %+v for %d filters in the store", r, len(p.Store.Filters()))
	}
	if err := r.WriteText(&bytes.Buffer{}); err != nil {
		t.Error(err)
	}
	p.WindowsStore()
}

func FuzzNetsh(f *testing.F) {
	seed(f, "state.xml", "filters.xml")
	f.Add([]byte(dumpOf(testFilter{conditions: userXML("D:(A;;CC;;;WD)") + appXML("EQUAL", `\device\x`)})))
	f.Fuzz(func(t *testing.T, data []byte) { load(t, append([]byte("<"), bytes.TrimLeft(data, "\ufeff<")...)) })
}

func FuzzYAML(f *testing.F) {
	seed(f, "policy.yaml")
	f.Add([]byte(yamlOf("ALE_AUTH_CONNECT_V4", "IP_REMOTE_ADDRESS: {match: RANGE, value: 10.0.0.1-10.0.0.9}")))
	f.Add([]byte("wfpebpf: 1\nsets: {a: [10.0.0.1, \"::/0\"], b: []}\n" + setFilters))
	f.Fuzz(func(t *testing.T, data []byte) { load(t, data) })
}

func FuzzMap(f *testing.F) {
	seed(f, "map.yaml")
	dump := []byte(dumpOf(testFilter{conditions: appXML("EQUAL", `\device\harddiskvolume3\a\b.exe`)}))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := LoadMapReader("fuzz", bytes.NewReader(data))
		if (m == nil) == (err == nil) {
			t.Fatalf("map %v and error %v", m, err)
		}
		if err != nil {
			return
		}
		if m.Volumes = nil; len(data) > 0 { // volumes are looked up on disk, which is no matter of the parser
			if _, err := LoadReader("dump", bytes.NewReader(dump), Options{Map: m}); err != nil {
				t.Error(err)
			}
		}
	})
}
