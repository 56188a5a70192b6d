// SPDX-License-Identifier: Apache-2.0

// Package testbed gives integration tests a small network of their own: named
// network namespaces joined by veth pairs, a cgroup v2 subtree, processes that
// open sockets on command inside both, and a list of what the kernel holds, to
// see that nothing is left behind.
//
// Everything is made under names of its own and removed by t.Cleanup. Nothing
// here changes the namespace or the cgroup that the test itself runs in.
//
// A test package calls Main from its TestMain: the processes of Start are
// copies of the test binary.
package testbed

import (
	"fmt"
	"os"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wfpebpf/wfpebpf/internal/cgroup2"
)

// Main runs the tests, or, in a process that Start made, its commands. It does
// not return.
func Main(m *testing.M) {
	RunChild()
	if os.Geteuid() == 0 {
		sweep()
	}
	os.Exit(m.Run())
}

// RunChild serves commands and exits where the process was made by Start, and
// returns at once where it was not. It is for a TestMain that does more than
// Main, and comes first in it.
func RunChild() {
	if os.Getenv(childEnv) != "" {
		os.Exit(childMain(os.Stdin, os.Stdout))
	}
}

// Missing ends a test for want of something, which the message names. The test
// is skipped, but with CI=true it fails: there all is to be had, and what is
// skipped has not been tested.
func Missing(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("CI=true, and nothing may be skipped: "+format, args...)
	}
	t.Skipf(format, args...)
}

// RequireRoot ends the test by Missing unless the process may make namespaces,
// cgroups and BPF programs.
func RequireRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		Missing(t, "needs root: makes network namespaces, cgroups and BPF programs")
	}
	for _, c := range []struct {
		bit  int
		name string
	}{{unix.CAP_NET_ADMIN, "CAP_NET_ADMIN"}, {unix.CAP_SYS_ADMIN, "CAP_SYS_ADMIN"}, {unix.CAP_BPF, "CAP_BPF"}} {
		if !haveCap(c.bit) {
			Missing(t, "needs %s, which root does not have here", c.name)
		}
	}
	if _, err := cgroup2.Mount("self"); err != nil {
		Missing(t, "needs a cgroup v2 hierarchy: %v", err)
	}
}

// haveCap reports whether a capability is in the effective set.
func haveCap(bit int) bool {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return false
	}
	return data[bit/32].Effective&(1<<(bit%32)) != 0
}

var serial atomic.Uint32

// namePrefix begins the name of every namespace and cgroup made here, and of
// nothing else.
const namePrefix = "wfptest"

// uniqueName names a thing after the process that made it, so that test
// packages can run at the same time.
func uniqueName(suffix string) string {
	name := fmt.Sprintf("%s-%d-%d", namePrefix, os.Getpid(), serial.Add(1))
	if suffix != "" {
		name += "-" + suffix
	}
	return name
}
