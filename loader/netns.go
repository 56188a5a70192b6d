// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// netns is a network namespace, held open by a file.
type netns struct {
	file   *os.File
	path   string // how to find it again
	inode  uint64
	cookie uint64 // as sockets carry it
}

// openNetns opens a namespace by its name under /run/netns or by a path; an
// empty name is the caller's own.
func openNetns(name string) (*netns, error) {
	path := name
	switch {
	case name == "":
		path = "/proc/self/ns/net"
	case !strings.Contains(name, "/"):
		path = filepath.Join("/run/netns", name)
	}
	f, err := os.Open(path)
	if err != nil {
		if name != "" && errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("no network namespace %q (ip netns list shows the named ones)", name)
		}
		return nil, err
	}
	n := &netns{file: f, path: path}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		f.Close()
		return nil, err
	}
	n.inode = st.Ino
	if err := n.inside(name != "", func() error {
		s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(s)
		n.cookie, err = unix.GetsockoptUint64(s, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
		return err
	}); err != nil {
		f.Close()
		return nil, fmt.Errorf("network namespace %s: %w", path, err)
	}
	return n, nil
}

// inside runs fn in the namespace, or just here: entering the own namespace
// would need a privilege that reading it does not.
func (n *netns) inside(other bool, fn func() error) error {
	if other {
		return n.do(fn)
	}
	return fn()
}

func (n *netns) close() { n.file.Close() }

// do runs fn on a thread in the namespace. fn must not start goroutines that
// rely on it.
func (n *netns) do(fn func() error) error {
	result := make(chan error, 1)
	go func() {
		// The thread is not unlocked, so it ends with this goroutine: it must
		// not run anything else in another namespace.
		runtime.LockOSThread()
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			result <- fmt.Errorf("entering network namespace %s: %w", n.path, err)
			return
		}
		result <- fn()
	}()
	return <-result
}

// ephemeral reads the namespace's range of ephemeral ports.
func (n *netns) ephemeral() (portRange, error) {
	r := portRange{32768, 60999}
	err := n.do(func() error {
		// /proc/sys/net shows the namespace of the thread that reads it
		b, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
		if err != nil {
			return err
		}
		f := strings.Fields(string(b))
		if len(f) != 2 {
			return fmt.Errorf("ip_local_port_range is %q", b)
		}
		low, err1 := strconv.ParseUint(f[0], 10, 16)
		high, err2 := strconv.ParseUint(f[1], 10, 16)
		r = portRange{uint16(low), uint16(high)}
		return errors.Join(err1, err2)
	})
	return r, err
}
