// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"testing"
)

func TestSSHTuple(t *testing.T) {
	for _, tc := range []struct {
		text          string
		ok            bool
		remote, local string
		link          string
	}{
		{"192.0.2.9 50000 192.0.2.1 22", true, "192.0.2.9:50000", "192.0.2.1:22", ""},
		{"fe80::9%eth0 50000 fe80::1%eth0 22", true, "[fe80::9]:50000", "[fe80::1]:22", "eth0"},
		{"::ffff:192.0.2.9 50000 ::ffff:192.0.2.1 22", true, "192.0.2.9:50000", "192.0.2.1:22", ""},
		{"", false, "", "", ""},
		{"192.0.2.9 50000 192.0.2.1", false, "", "", ""},
		{"192.0.2.9 50000 host 22", false, "", "", ""},
		{"192.0.2.9 70000 192.0.2.1 22", false, "", "", ""},
	} {
		tuple, ok := sshTuple(tc.text)
		if ok != tc.ok {
			t.Errorf("%q: %t", tc.text, ok)
			continue
		}
		if ok && (tuple.Remote.String() != tc.remote || tuple.Local.String() != tc.local || tuple.Link.Name != tc.link || tuple.Outbound) {
			t.Errorf("%q: %+v", tc.text, tuple)
		}
	}
}

func TestProcess(t *testing.T) {
	if _, parent, ok := process(os.Getpid()); !ok || parent != os.Getppid() {
		t.Errorf("parent %d, want %d", parent, os.Getppid())
	}
	if _, _, ok := process(1 << 30); ok {
		t.Error("a process that does not exist was read")
	}
}
