// SPDX-License-Identifier: Apache-2.0

// Package inputs finds the policies of real Windows machines that tests read
// where they stand beside the project. The project does not hold them.
package inputs

import (
	"os"
	"path/filepath"
	"testing"
)

// The dump that the tests know most of, and what maps it to a Linux host.
const (
	Windows11          = "netsh-wfp/wfpstate-win11-22621.xml"
	Windows11Filters   = 1254
	Windows11Endpoints = "netsh-wfp/endpoints-win11-22621.json"
	Windows11LUID      = "19985273102270464" // of its one Ethernet interface
	Windows11Map       = "links: {'" + Windows11LUID + "': eth0}\nservices: {DoSvc: dosvc.service}\n"
)

// File returns the path of an input. It skips the test where the folder of
// inputs is absent; one file that is missing from it is a failure.
func File(t testing.TB, name string) string {
	t.Helper()
	dir := filepath.Join(root(t), "..", "shared", "inputs")
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("needs shared/inputs/%s beside the project, a policy of a real Windows machine", name)
	}
	file := filepath.Join(dir, name)
	if _, err := os.Stat(file); err != nil {
		t.Fatal(err)
	}
	return file
}

// root is the project's directory: tests run in that of their package.
func root(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			t.Fatal("no go.mod above the test's directory")
		}
		dir = parent
	}
}
