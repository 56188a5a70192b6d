// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"
	"time"

	"github.com/wfpebpf/wfpebpf/tests/testbed"
)

func TestDemo(t *testing.T) {
	testbed.RequireRoot(t)
	scope := testbed.Scope{}
	before := testbed.Snapshot(t, scope)
	start := time.Now()
	r := wfpebpf(t, "demo")
	if r.code != exitDone {
		t.Fatalf("exit code %d: %s\n%s", r.code, r.err, r.out)
	}
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("took %v, at most 20 s", took)
	}
	for _, try := range demoTries {
		if !strings.Contains(r.out, try.what) {
			t.Errorf("no row for %q", try.what)
		}
	}
	for _, seen := range []string{seenWorks, seenDenied, seenNoAnswer} {
		if !strings.Contains(r.out, seen) {
			t.Errorf("no try was seen to end with %q:\n%s", seen, r.out)
		}
	}
	testbed.RequireUnchanged(t, before, scope)
}
