// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/wfpebpf/wfpebpf/internal/cgroup2"
)

// bpffs is where the BPF file system is, in the mount namespace of process 1.
const bpffs = "/sys/fs/bpf"

// hostRoot is the root directory of the mount namespace of process 1, as a
// prefix of paths. State lives there: a shell under `ip netns exec` has a
// private /sys, and what is pinned in it goes away with it. Process 1 itself
// may be out of reach (it can hold capabilities that we lack); then this
// process, or any other in the same mount namespace, stands in.
var hostRoot = sync.OnceValue(func() string {
	if exists("/proc/1/root/") {
		return "/proc/1/root"
	}
	first := rootMount("1")
	if first == "" || first == rootMount("self") {
		return ""
	}
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		root := "/proc/" + e.Name() + "/root"
		if rootMount(e.Name()) == first && exists(root+"/") {
			return root
		}
	}
	return ""
})

// rootMount identifies the mount namespace of a process: mount ids are unique.
func rootMount(pid string) string {
	b, _ := os.ReadFile("/proc/" + pid + "/mountinfo")
	line, _, _ := strings.Cut(string(b), "\n")
	return line
}

func pinRoot() string { return hostRoot() + bpffs + "/wfpebpf" }
func runRoot() string { return hostRoot() + "/run/wfpebpf" }

// ensureBPFFS mounts a bpffs in the mount namespace of process 1 where it has
// none.
func ensureBPFFS() error {
	var fs unix.Statfs_t
	if err := unix.Statfs(hostRoot()+bpffs, &fs); err != nil {
		return fmt.Errorf("%s: %w (is CONFIG_BPF_SYSCALL on?)", bpffs, err)
	}
	if uint32(fs.Type) == unix.BPF_FS_MAGIC {
		return nil
	}
	mount := func() error {
		return unix.Mount("bpf", bpffs, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=700")
	}
	if hostRoot() == "" {
		return wrapMount(mount())
	}
	// A thread of its own that is thrown away: it changes its mount namespace.
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		result <- func() error {
			if err := unix.Unshare(unix.CLONE_FS); err != nil {
				return err
			}
			ns, err := unix.Open(filepath.Dir(hostRoot())+"/ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(ns)
			if err := unix.Setns(ns, unix.CLONE_NEWNS); err != nil {
				return err
			}
			return mount()
		}()
	}()
	return wrapMount(<-result)
}

func wrapMount(err error) error {
	if err != nil {
		return fmt.Errorf("mounting bpffs at %s: %w", bpffs, err)
	}
	return nil
}

// cgroupRoot finds where cgroup2 is mounted; it is not always /sys/fs/cgroup.
func cgroupRoot() (string, error) {
	mount, err := cgroup2.Mount("1")
	if err != nil {
		return "", fmt.Errorf("ALE layers need cgroups: %w", err)
	}
	return hostRoot() + mount, nil
}

// cgroup is a directory of the cgroup2 hierarchy.
type cgroup struct {
	path  string // through hostRoot
	name  string // from the hierarchy's root, "/" for the root
	id    uint64
	level int
}

// findCgroup resolves a path in the hierarchy, a full path, or the name of a
// systemd unit or scope.
func findCgroup(name string) (cgroup, error) {
	root, err := cgroupRoot()
	if err != nil {
		return cgroup{}, err
	}
	mount := strings.TrimPrefix(root, hostRoot())
	rel := name
	if rest, ok := strings.CutPrefix(name, mount); ok && mount != "/" {
		rel = rest
	}
	if !strings.HasPrefix(rel, "/") && rel != "" {
		if rel, err = findUnit(root, name); err != nil {
			return cgroup{}, err
		}
	}
	rel = filepath.Clean("/" + rel)
	c := cgroup{path: filepath.Join(root, rel), name: rel}
	var st unix.Stat_t
	if err := unix.Stat(c.path, &st); err != nil {
		return cgroup{}, fmt.Errorf("cgroup %s: %w", name, err)
	}
	c.id = st.Ino // kernfs: the inode number is the cgroup id
	if rel != "/" {
		c.level = strings.Count(rel, "/")
	}
	return c, nil
}

// findUnit looks a unit's directory up by name, nearest to the root first.
func findUnit(root, unit string) (string, error) {
	level := []string{""}
	for depth := 0; depth < 8 && len(level) > 0; depth++ {
		var next []string
		for _, dir := range level {
			entries, err := os.ReadDir(root + dir)
			if err != nil {
				continue
			}
			for _, e := range entries {
				if !e.IsDir() {
					continue
				}
				if e.Name() == unit {
					return dir + "/" + unit, nil
				}
				next = append(next, dir+"/"+e.Name())
			}
		}
		level = next
	}
	return "", fmt.Errorf("unit %s has no cgroup: %w (is it running?)", unit, os.ErrNotExist)
}
