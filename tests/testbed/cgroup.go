// SPDX-License-Identifier: Apache-2.0

package testbed

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wfpebpf/wfpebpf/internal/cgroup2"
)

// Cgroup is a cgroup v2 directory that a test made.
type Cgroup struct {
	Path string // absolute, in the file system
	Rel  string // below the hierarchy's mount point, with a leading slash
}

// NewCgroup makes a cgroup directly under the root of the v2 hierarchy. When
// the test ends the processes in it are killed, and it and its children are
// removed.
func NewCgroup(t testing.TB, name string) *Cgroup {
	t.Helper()
	mount, err := cgroup2.Mount("self")
	if err != nil {
		t.Fatal(err)
	}
	name = uniqueName(name)
	c := &Cgroup{Path: filepath.Join(mount, name), Rel: "/" + name}
	if err := os.Mkdir(c.Path, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.remove(); err != nil {
			t.Errorf("remove cgroup %s: %v", c.Rel, err)
		}
	})
	return c
}

// Child makes a cgroup below c, which goes with it.
func (c *Cgroup) Child(t testing.TB, name string) *Cgroup {
	t.Helper()
	child := &Cgroup{Path: filepath.Join(c.Path, name), Rel: c.Rel + "/" + name}
	if err := os.Mkdir(child.Path, 0o755); err != nil {
		t.Fatal(err)
	}
	return child
}

// ID is the number by which BPF programs know the cgroup.
func (c *Cgroup) ID(t testing.TB) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(c.Path, &st); err != nil {
		t.Fatalf("stat %s: %v", c.Path, err)
	}
	return st.Ino
}

// remove kills what is left in the subtree and removes it, deepest first. The
// kernel keeps a directory busy for a moment after its last process died.
func (c *Cgroup) remove() error {
	if err := os.WriteFile(filepath.Join(c.Path, "cgroup.kill"), []byte("1"), 0); err != nil {
		return err
	}
	var dirs []string
	err := filepath.WalkDir(c.Path, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return err
	})
	if err != nil {
		return err
	}
	deadline := time.Now().Add(5 * time.Second)
	for _, dir := range slices.Backward(dirs) {
		for {
			err := unix.Rmdir(dir)
			if err == nil || errors.Is(err, unix.ENOENT) {
				break
			}
			if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
				return fmt.Errorf("%s: %w", dir, err)
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	return nil
}
