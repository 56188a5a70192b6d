// SPDX-License-Identifier: Apache-2.0

// This file looks at the host's links, which explain and the check of the
// caller's SSH connection need to know. It changes nothing.

package main

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/wfpebpf/wfpebpf/explain"
)

// netnsDir is where names of network namespaces are kept.
const netnsDir = "/run/netns"

// loopbackName is the loopback link of every namespace.
const loopbackName = "lo"

// inNetns calls fn in a network namespace, given by name or path; empty is the
// caller's. The thread that was in another namespace is not used again.
func inNetns(netns string, fn func() error) error {
	if netns == "" {
		return fn()
	}
	if !strings.ContainsRune(netns, '/') {
		netns = filepath.Join(netnsDir, netns)
	}
	f, err := os.Open(netns)
	if err != nil {
		return err
	}
	defer f.Close()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- &os.PathError{Op: "enter", Path: netns, Err: err}
			return
		}
		done <- fn()
	}()
	return <-done
}

// hostLink is a link with its addresses.
type hostLink struct {
	explain.Link
	addresses []netip.Addr
}

// hostLinks lists the links of a namespace.
func hostLinks(netns string) ([]hostLink, error) {
	var out []hostLink
	err := inNetns(netns, func() error {
		links, err := net.Interfaces()
		if err != nil {
			return err
		}
		for _, l := range links {
			h := hostLink{Link: explain.Link{Name: l.Name, Index: uint32(l.Index), Type: ifType(l), MAC: l.HardwareAddr}}
			addresses, err := l.Addrs()
			if err != nil {
				return err
			}
			for _, a := range addresses {
				if p, err := netip.ParsePrefix(a.String()); err == nil {
					h.addresses = append(h.addresses, p.Addr().Unmap().WithZone(""))
				}
			}
			out = append(out, h)
		}
		return nil
	})
	return out, err
}

// IANA ifType
const (
	ifTypeEthernet = 6
	ifTypeLoopback = 24
)

// ifType is zero for kinds of links that cannot be told without asking further.
func ifType(l net.Interface) uint32 {
	switch {
	case l.Flags&net.FlagLoopback != 0:
		return ifTypeLoopback
	case len(l.HardwareAddr) == 6:
		return ifTypeEthernet
	}
	return 0
}

// named completes what is known of a link by its name. A name that is not here
// stays a name.
func named(name string, links []hostLink) explain.Link {
	for _, l := range links {
		if l.Name == name {
			return l.Link
		}
	}
	return explain.Link{Name: name}
}

// owning returns the link that traffic between two addresses goes over, as the
// addresses of the host tell: that of the local address, or loopback where both
// are the host's. Without a name where the local address is not here.
func owning(local, remote netip.Addr, links []hostLink) explain.Link {
	var owner explain.Link
	toSelf := false
	for _, l := range links {
		if slices.Contains(l.addresses, local.Unmap()) {
			owner = l.Link
		}
		toSelf = toSelf || slices.Contains(l.addresses, remote.Unmap())
	}
	if owner.Name != "" && toSelf {
		return named(loopbackName, links)
	}
	return owner
}
