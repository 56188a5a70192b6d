// SPDX-License-Identifier: Apache-2.0

package cgroup2

import "testing"

func TestFind(t *testing.T) {
	const (
		v1     = "30 23 0:25 / /sys/fs/cgroup/cpu rw,nosuid shared:9 - cgroup cgroup rw,cpu\n"
		hybrid = "31 23 0:26 / /sys/fs/cgroup/unified rw,nosuid shared:10 - cgroup2 cgroup2 rw\n"
		part   = "32 23 0:26 /system.slice /mnt/part rw - cgroup2 cgroup2 rw\n"
		second = "33 23 0:26 / /mnt/cgroup rw,relatime - cgroup2 none rw\n"
	)
	for _, tc := range []struct{ name, text, want string }{
		{"nothing", "", ""},
		{"version 1 only", v1, ""},
		{"beside version 1", v1 + hybrid, "/sys/fs/cgroup/unified"},
		{"a part is not the whole", hybrid + part, "/sys/fs/cgroup/unified"},
		{"a part alone", part, "/mnt/part"},
		{"the last is on top", hybrid + second, "/mnt/cgroup"},
		{"cut off", "31 23 0:26 / /sys - ", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := find(tc.text); got != tc.want {
				t.Errorf("found %q, want %q", got, tc.want)
			}
		})
	}
}
