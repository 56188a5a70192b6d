// SPDX-License-Identifier: Apache-2.0

package testbed

import (
	"os"
	"path/filepath"
	"regexp"

	"github.com/vishvananda/netns"

	"github.com/wfpebpf/wfpebpf/internal/cgroup2"
)

// madeHere matches the names that uniqueName gives, with the maker's pid.
var madeHere = regexp.MustCompile(`^` + namePrefix + `-(\d+)-\d+(-.*)?$`)

// sweep removes the namespaces and cgroups of test runs that were killed, by a
// time-out for example, before they could. What a living process made stays.
// It does what it can: what it cannot remove, a test is not kept from running
// by.
func sweep() {
	entries, _ := os.ReadDir(netnsDir)
	for _, e := range entries {
		if abandoned(e.Name()) {
			netns.DeleteNamed(e.Name())
		}
	}
	mount, err := cgroup2.Mount("self")
	if err != nil {
		return
	}
	entries, _ = os.ReadDir(mount)
	for _, e := range entries {
		if abandoned(e.Name()) {
			c := Cgroup{Path: filepath.Join(mount, e.Name())}
			c.remove()
		}
	}
}

func abandoned(name string) bool {
	m := madeHere.FindStringSubmatch(name)
	if m == nil {
		return false
	}
	_, err := os.Stat("/proc/" + m[1])
	return os.IsNotExist(err)
}
