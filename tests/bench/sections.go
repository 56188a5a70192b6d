// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
)

// section is one part of the results. Each says on which machine it was
// measured, as a run may measure some and leave the others.
type section struct {
	title, body string
}

const resultsHead = "# Benchmark results\n\n`make bench` measures and writes this file.\n"

func (s section) String() string {
	return fmt.Sprintf("## %s\n\n%s\nLinux %s, %s, %d CPUs.\n", s.title, s.body, kernelVersion(), cpuModel(), runtime.NumCPU())
}

// writeSection puts a section into the results file: in the place of the one of
// its title, or at the end.
func writeSection(path string, s section) error {
	old, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	parts := strings.Split(string(old), "\n## ")
	parts[0] = strings.TrimSuffix(resultsHead, "\n")
	text := strings.TrimPrefix(strings.TrimSuffix(s.String(), "\n"), "## ")
	i := slices.IndexFunc(parts, func(p string) bool { return strings.HasPrefix(p, s.title+"\n") })
	if i < 1 {
		parts = append(parts, text)
	} else {
		parts[i] = text
	}
	for i := range parts {
		parts[i] = strings.TrimRight(parts[i], "\n") + "\n"
	}
	return os.WriteFile(path, []byte(strings.Join(parts, "\n## ")), 0o644)
}
