// SPDX-License-Identifier: Apache-2.0

// Package cgroup2 finds the cgroup v2 hierarchy.
package cgroup2

import (
	"cmp"
	"errors"
	"os"
	"strings"
)

// ErrNotMounted says that a mount namespace has no cgroup v2 hierarchy.
var ErrNotMounted = errors.New("no cgroup2 is mounted (mount -t cgroup2 none /sys/fs/cgroup)")

// Mount returns where the hierarchy is mounted as a process sees it: "self", or
// its id. It is at /sys/fs/cgroup where there is no other, and somewhere below
// where version 1 is in use as well.
func Mount(process string) (string, error) {
	info, err := os.ReadFile("/proc/" + process + "/mountinfo")
	if err != nil {
		return "", err
	}
	if m := find(string(info)); m != "" {
		return m, nil
	}
	return "", ErrNotMounted
}

// find returns the mount point of the hierarchy in a mountinfo text
// (proc_pid_mountinfo(5)): the last mount of the whole, which is on top, or of a
// part, which is all that a container without a cgroup namespace has.
func find(mountinfo string) string {
	whole, part := "", ""
	for line := range strings.Lines(mountinfo) {
		left, right, ok := strings.Cut(line, " - ")
		fields := strings.Fields(left) // id, parent, device, root, mount point, ...
		if !ok || len(fields) < 5 || !strings.HasPrefix(right, "cgroup2 ") {
			continue
		}
		if fields[3] == "/" {
			whole = fields[4]
		} else {
			part = fields[4]
		}
	}
	return cmp.Or(whole, part)
}
