// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The layout of an instance's files, which every version must keep to:
//
//	PINS/maps/NAME        the maps of bpf/maps.h and verdicts.h, but for the judge's cases
//	PINS/links/HOOK[@IF]  the attachments; those without IF to the cgroup or, of
//	                      netfilter, to the namespace
//	RUN/instance.json     what is filtered
//	RUN/policy-N.json     the policy of commit N; `active` says which N is in force
//	RUN/change-N.json     commit N, which amends the policy of another one
//	RUN/set-N-DIGEST      a set of addresses of commit N (sets.go)
//	RUN/lock              held by the process that changes the instance
//	RUN/events.lock       held by the process that reads events
type instance struct {
	pins, run string
	info      instanceInfo
}

// instanceInfo is instance.json.
type instanceInfo struct {
	Netns       string   `json:"netns"`
	NetnsInode  uint64   `json:"netnsInode"`
	NetnsCookie uint64   `json:"netnsCookie"`
	Cgroup      string   `json:"cgroup"`
	CgroupID    uint64   `json:"cgroupId"`
	Interfaces  []string `json:"interfaces"` // empty: all that are up
	Permits     bool     `json:"permits"`
	Detached    []string `json:"detached"` // links that detach took out
	BootID      string   `json:"bootId"`
	Version     string   `json:"version"` // of the programs, bpf.Version
}

// nameFormat is an instance's name: the inode of its namespace and the id of its
// cgroup.
const nameFormat = "net%d-cg%d"

func instanceAt(name string) *instance {
	return &instance{pins: filepath.Join(pinRoot(), name), run: filepath.Join(runRoot(), name)}
}

func instanceName(ns *netns, c cgroup) string { return fmt.Sprintf(nameFormat, ns.inode, c.id) }

// parseName takes from an instance's name what the name says of it.
func (in *instance) parseName() bool {
	n, err := fmt.Sscanf(filepath.Base(in.run), nameFormat, &in.info.NetnsInode, &in.info.CgroupID)
	return n == 2 && err == nil
}

func bootID() string {
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b))
}

// instances lists what exists, by name.
func instances() ([]*instance, error) {
	entries, err := os.ReadDir(runRoot())
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list []*instance
	for _, e := range entries {
		in := instanceAt(e.Name())
		if in.load() == nil {
			list = append(list, in)
		}
	}
	return list, nil
}

// load reads instance.json. An instance of another boot is gone with its pins.
func (in *instance) load() error {
	if err := readJSON(filepath.Join(in.run, "instance.json"), &in.info); err != nil {
		return err
	}
	if in.info.BootID != bootID() {
		return os.ErrNotExist
	}
	return nil
}

func (in *instance) save() error { return writeJSON(filepath.Join(in.run, "instance.json"), in.info) }

func readJSON(path string, v any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// writeJSON replaces a file in one step, so that no reader sees half of it.
func writeJSON(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return writeFile(path, b)
}

func writeFile(path string, data []byte) error {
	tmp := fmt.Sprintf("%s.%d", path, os.Getpid())
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// lock takes one of the instance's locks; ErrBusy where somebody has it, and
// ErrNotApplied where the instance is gone.
func (in *instance) lock(name string) (*os.File, error) {
	path := filepath.Join(in.run, name)
	for range 50 { // another commit takes a moment, not more
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
		if errors.Is(err, os.ErrNotExist) {
			return nil, ErrNotApplied
		}
		if err != nil {
			return nil, err
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil && stillThere(f, path) {
			return f, nil
		}
		f.Close()
		time.Sleep(100 * time.Millisecond)
	}
	return nil, fmt.Errorf("%w (%s)", ErrBusy, filepath.Base(in.run))
}

// makeLock takes the lock of who changes the instance, which need not exist yet.
func (in *instance) makeLock() (*os.File, error) {
	if err := makeDir(in.run); err != nil {
		return nil, err
	}
	return in.lock("lock")
}

// stillThere reports whether a path leads to the file that was opened by it. Who
// takes an instance down removes its locks while others wait for them.
func stillThere(f *os.File, path string) bool {
	opened, err := f.Stat()
	if err != nil {
		return false
	}
	now, err := os.Stat(path)
	return err == nil && os.SameFile(opened, now)
}
