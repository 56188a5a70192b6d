// SPDX-License-Identifier: Apache-2.0

// This file translates Windows paths to Linux paths through the map.

package policy

import (
	"os"
	"path"
	"path/filepath"
	"strings"
)

// systemApp is the app id of traffic that no process is behind.
const systemApp = "System"

// app translates a Windows path; false where the map has nothing for it.
func (m *Map) app(windows string) (string, bool) {
	lower := strings.ToLower(windows)
	if p, ok := m.Apps[lower]; ok {
		return p, true
	}
	best := "" // the longest volume wins, as a mount below another would
	for v := range m.Volumes {
		if len(v) > len(best) && strings.HasPrefix(lower, v+`\`) {
			best = v
		}
	}
	if best == "" {
		return "", false
	}
	parts := strings.Split(windows[len(best)+1:], `\`)
	for _, p := range parts {
		if p == "" || p == "." || p == ".." || strings.ContainsAny(p, "/\x00") {
			return "", false
		}
	}
	return m.onDisk(m.Volumes[best], parts), true
}

// onDisk finds the spelling that a path has on disk: Windows names compare
// without letter case, and the file system here usually does not. What does not
// exist keeps its spelling.
func (m *Map) onDisk(dir string, parts []string) string {
	wanted := path.Join(append([]string{dir}, parts...)...)
	if p, ok := m.disk.Load(wanted); ok {
		return p.(string)
	}
	at := path.Clean(dir)
	for i, p := range parts {
		next := spelling(at, p)
		if next == "" {
			at = path.Join(append([]string{at}, parts[i:]...)...)
			break
		}
		at = path.Join(at, next)
	}
	m.disk.Store(wanted, at)
	return at
}

// spelling returns the name of a directory's entry, an exact one first.
func spelling(dir, name string) string {
	if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
		return name
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return ""
	}
	for _, e := range entries {
		if strings.EqualFold(e.Name(), name) {
			return e.Name()
		}
	}
	return ""
}

// windowsBase returns the last component of a Windows path, in lower case.
func windowsBase(p string) string {
	return strings.ToLower(p[strings.LastIndexByte(p, '\\')+1:])
}
