// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/wfpebpf/wfpebpf/internal/cgroup2"
	"github.com/wfpebpf/wfpebpf/loader"
)

// lab is what a measurement makes outside the process. Close removes it, the
// newest first.
type lab struct {
	undo []func() error
}

func (l *lab) later(undo func() error) { l.undo = append(l.undo, undo) }

func (l *lab) Close() (err error) {
	for _, u := range slices.Backward(l.undo) {
		err = errors.Join(err, u())
	}
	l.undo = nil
	return err
}

// site is a host with a firewall or none, and a peer of it, in a namespace each
// and joined by a veth pair. Sites know nothing of each other, so that each
// keeps its rules while the measurement goes from one to the next.
type site struct {
	lab        *lab
	host, peer netns.NsHandle
	target     loader.Target // the host's namespace and cgroup
	engine     *loader.Engine
}

// The names and addresses are the same in all sites.
const (
	hostLink = "h0"
	peerLink = "p0"
)

var (
	hostMAC     = net.HardwareAddr{2, 0x77, 0, 0, 0, 1}
	peerMAC     = net.HardwareAddr{2, 0x77, 0, 0, 0, 2}
	hostAddress = netip.MustParseAddr("10.77.0.1")
	peerAddress = netip.MustParseAddr("10.77.0.2")
	// remotes are addresses of the peer: those that the rules name.
	remotes = netip.MustParsePrefix("10.64.0.0/14")
)

func (l *lab) newSite(name string) (*site, error) {
	name = fmt.Sprintf("wfpebpf-bench-%d-%s", os.Getpid(), name)
	mount, err := cgroup2.Mount("self")
	if err != nil {
		return nil, err
	}
	s := &site{lab: l, target: loader.Target{Netns: name + "-host", Cgroup: mount + "/" + name}}
	if err := os.Mkdir(s.target.Cgroup, 0o755); err != nil {
		return nil, err
	}
	l.later(func() error { return removeCgroup(s.target.Cgroup) })
	if s.host, err = l.newNetns(s.target.Netns); err != nil {
		return nil, err
	}
	if s.peer, err = l.newNetns(name + "-peer"); err != nil {
		return nil, err
	}
	if err := s.join(); err != nil {
		return nil, fmt.Errorf("joining %s to its peer: %w", name, err)
	}
	return s, nil
}

// removeCgroup waits for the kernel, which keeps a cgroup busy for a moment
// after its last process has ended.
func removeCgroup(path string) error {
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		err := os.Remove(path)
		if err == nil || !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			return err
		}
	}
}

// newNetns makes a namespace without IPv6, whose own packets would be counted.
func (l *lab) newNetns(name string) (netns.NsHandle, error) {
	var h netns.NsHandle
	err := onThread(func() (err error) {
		if h, err = netns.NewNamed(name); err != nil {
			return fmt.Errorf("making network namespace %s: %w", name, err)
		}
		l.later(func() error { return errors.Join(h.Close(), netns.DeleteNamed(name)) })
		for _, sysctl := range []string{"ipv6/conf/all/disable_ipv6=1", "ipv6/conf/default/disable_ipv6=1", "ipv4/conf/all/rp_filter=0", "ipv4/conf/default/rp_filter=0"} {
			path, value, _ := strings.Cut(sysctl, "=")
			if err := os.WriteFile("/proc/sys/net/"+path, []byte(value), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
		return nil
	})
	return h, err
}

// onThread runs f on a thread that ends with it, so that f may move it.
func onThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		done <- f()
	}()
	return <-done
}

// join makes the veth pair. Neighbours and routes are fixed: no packet but those
// of the measurement goes over it.
func (s *site) join() error {
	h, err := netlink.NewHandleAt(s.host, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	p, err := netlink.NewHandleAt(s.peer, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer p.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = hostLink, hostMAC
	err = h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: peerLink, PeerHardwareAddr: peerMAC, PeerNamespace: netlink.NsFd(s.peer)})
	if err != nil {
		return err
	}
	for _, end := range []struct {
		h               *netlink.Handle
		name            string
		address, remote netip.Addr
		mac             net.HardwareAddr // the other end's
	}{{h, hostLink, hostAddress, peerAddress, peerMAC}, {p, peerLink, peerAddress, hostAddress, hostMAC}} {
		for _, name := range []string{"lo", end.name} {
			l, err := end.h.LinkByName(name)
			if err != nil {
				return err
			}
			if err := end.h.LinkSetUp(l); err != nil {
				return err
			}
			if name == "lo" {
				continue
			}
			err = errors.Join(
				end.h.AddrAdd(l, &netlink.Addr{IPNet: &net.IPNet{IP: end.address.AsSlice(), Mask: net.CIDRMask(24, 32)}}),
				end.h.NeighSet(&netlink.Neigh{LinkIndex: l.Attrs().Index, State: netlink.NUD_PERMANENT, IP: end.remote.AsSlice(), HardwareAddr: end.mac}),
			)
			if err != nil {
				return err
			}
		}
	}
	to := &net.IPNet{IP: remotes.Addr().AsSlice(), Mask: net.CIDRMask(remotes.Bits(), 32)}
	lo, err := p.LinkByName("lo")
	if err != nil {
		return err
	}
	return errors.Join(
		h.RouteAdd(&netlink.Route{Dst: to, Gw: peerAddress.AsSlice()}),
		p.RouteAdd(&netlink.Route{Dst: to, LinkIndex: lo.Attrs().Index, Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, Scope: netlink.SCOPE_HOST}),
	)
}

// inside runs f on a thread in a namespace; processes that f starts are there too.
func inside(ns netns.NsHandle, f func() error) error {
	return onThread(func() error {
		if err := netns.Set(ns); err != nil {
			return err
		}
		return f()
	})
}

// feed runs a command in the host's namespace and gives it a text to read.
func (s *site) feed(ctx context.Context, text string, argv ...string) error {
	return inside(s.host, func() error {
		cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
		cmd.Stdin = strings.NewReader(text)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %.300s", strings.Join(argv, " "), err, out)
		}
		return nil
	})
}

// open opens an engine for the host, which goes with the lab.
func (s *site) open() (*loader.Engine, error) {
	e, err := loader.Open(loader.Options{Target: s.target})
	if err != nil {
		return nil, err
	}
	s.engine = e
	s.lab.later(func() error {
		err := e.Down()
		if errors.Is(err, loader.ErrNotApplied) {
			err = nil
		}
		e.Close()
		return err
	})
	return e, nil
}
