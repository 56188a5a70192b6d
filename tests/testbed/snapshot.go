// SPDX-License-Identifier: Apache-2.0

package testbed

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
)

// State is the set of things that existed at one moment, a line of text each,
// such as "program 12 SchedCLS wfp_ingress".
type State map[string]bool

// Scope says what Snapshot lists besides the BPF programs, maps and links of
// the whole machine.
type Scope struct {
	Netns   []*Netns // their network links, XDP programs, qdiscs and classifiers
	Dirs    []string // whatever lies below, as pins and state files
	Cgroups []*Cgroup
	// Ignore leaves out what belongs to others who are at work on the same
	// machine; nil ignores nothing.
	Ignore func(line string) bool
}

// Snapshot lists what exists.
func Snapshot(t testing.TB, scope Scope) State {
	t.Helper()
	s := State{}
	add := func(format string, args ...any) {
		if line := fmt.Sprintf(format, args...); scope.Ignore == nil || !scope.Ignore(line) {
			s[line] = true
		}
	}
	if err := listBPF(add); err != nil {
		t.Fatal(err)
	}
	for _, n := range scope.Netns {
		if err := listNetns(n, add); err != nil {
			t.Fatalf("namespace %s: %v", n.Name, err)
		}
	}
	dirs := slices.Clone(scope.Dirs)
	for _, c := range scope.Cgroups {
		dirs = append(dirs, c.Path)
	}
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			if err == nil {
				add("file %s", path)
			}
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// Diff says what came and went between two states: a line "+ ..." or "- ..."
// each, in order.
func Diff(before, after State) []string {
	var lines []string
	for line := range after {
		if !before[line] {
			lines = append(lines, "+ "+line)
		}
	}
	for line := range before {
		if !after[line] {
			lines = append(lines, "- "+line)
		}
	}
	slices.SortFunc(lines, func(a, b string) int {
		return strings.Compare(a[2:]+a[:1], b[2:]+b[:1])
	})
	return lines
}

// RequireUnchanged fails the test unless all is as it was before. The kernel
// frees programs and maps a moment after their last user has gone, so it looks
// again for a while.
func RequireUnchanged(t testing.TB, before State, scope Scope) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for {
		diff := Diff(before, Snapshot(t, scope))
		if len(diff) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not as it was before:\n%s", strings.Join(diff, "\n"))
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// gone says that an object went away between being listed and being opened.
func gone(err error) bool { return errors.Is(err, os.ErrNotExist) }

func listBPF(add func(string, ...any)) error {
	for id := ebpf.ProgramID(0); ; {
		var err error
		if id, err = ebpf.ProgramGetNextID(id); gone(err) {
			break
		} else if err != nil {
			return fmt.Errorf("list programs: %w", err)
		}
		p, err := ebpf.NewProgramFromID(id)
		if gone(err) {
			continue
		} else if err != nil {
			return fmt.Errorf("program %d: %w", id, err)
		}
		info, err := p.Info()
		p.Close()
		if err != nil {
			return fmt.Errorf("program %d: %w", id, err)
		}
		add("program %d %s %s", id, info.Type, info.Name)
	}
	for id := ebpf.MapID(0); ; {
		var err error
		if id, err = ebpf.MapGetNextID(id); gone(err) {
			break
		} else if err != nil {
			return fmt.Errorf("list maps: %w", err)
		}
		m, err := ebpf.NewMapFromID(id)
		if gone(err) {
			continue
		} else if err != nil {
			return fmt.Errorf("map %d: %w", id, err)
		}
		info, err := m.Info()
		m.Close()
		if err != nil {
			return fmt.Errorf("map %d: %w", id, err)
		}
		add("map %d %s %s", id, info.Type, info.Name)
	}
	var it link.Iterator
	defer it.Close()
	for it.Next() {
		info, err := it.Link.Info()
		if err != nil {
			return fmt.Errorf("link %d: %w", it.ID, err)
		}
		add("link %d %s of program %d", it.ID, linkTypeName(info.Type), info.Program)
	}
	if err := it.Err(); err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	return nil
}

// linkTypeName names the kinds of BPF links that wfpebpf makes.
func linkTypeName(t link.Type) string {
	switch t {
	case link.XDPType:
		return "xdp"
	case link.TCXType:
		return "tcx"
	case link.CgroupType:
		return "cgroup"
	case link.NetfilterType:
		return "netfilter"
	case link.TracingType:
		return "tracing"
	case link.NetNsType:
		return "netns"
	case link.IterType:
		return "iter"
	}
	return fmt.Sprintf("type %d", t)
}

func listNetns(n *Netns, add func(string, ...any)) error {
	links, err := n.nl.LinkList()
	if err != nil {
		return err
	}
	for _, l := range links {
		a := l.Attrs()
		add("netns %s: link %d %s %s", n.Name, a.Index, a.Name, l.Type())
		if a.Xdp != nil && a.Xdp.Attached {
			add("netns %s: %s: xdp program %d", n.Name, a.Name, a.Xdp.ProgId)
		}
		qdiscs, err := n.nl.QdiscList(l)
		if err != nil {
			return err
		}
		for _, q := range qdiscs {
			add("netns %s: %s: qdisc %s %s", n.Name, a.Name, q.Type(), netlink.HandleStr(q.Attrs().Handle))
			if q.Type() != "clsact" {
				continue
			}
			for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
				filters, err := n.nl.FilterList(l, parent)
				if err != nil {
					return err
				}
				for _, f := range filters {
					add("netns %s: %s: classifier %s %s %s prio %d", n.Name, a.Name,
						netlink.HandleStr(parent), f.Type(), netlink.HandleStr(f.Attrs().Handle), f.Attrs().Priority)
				}
			}
		}
	}
	return nil
}
