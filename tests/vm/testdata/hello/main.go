// SPDX-License-Identifier: Apache-2.0

// Command hello says where it runs, for the tests of package vm.
package main

import (
	"fmt"
	"os"
	"strings"
)

func main() {
	release, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	fmt.Printf("kernel %s", release)
	modules, _ := os.ReadFile("/proc/modules")
	fmt.Println("veth:", strings.Contains(string(modules), "veth "))
	for _, path := range []string{"/sys/fs/cgroup/cgroup.procs", "/sys/fs/bpf", "/sys/kernel/btf/vmlinux", "/tmp", "/bin/ip"} {
		if _, err := os.Stat(path); err != nil {
			fmt.Println(err)
		}
	}
	fmt.Fprintf(os.Stderr, "args %q\n", os.Args[1:])
	os.Exit(7)
}
