// SPDX-License-Identifier: Apache-2.0

package testbed

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// netnsDir is where iproute2 looks for namespaces by name.
const netnsDir = "/run/netns"

// Netns is a named network namespace with lo up.
type Netns struct {
	Name string // as `ip netns` shows it
	Path string // its file

	ns netns.NsHandle
	nl *netlink.Handle
}

// NewNetns makes a namespace, which goes when the test ends. Duplicate address
// detection is off in it, so that IPv6 addresses are usable at once.
func NewNetns(t testing.TB, suffix string) *Netns {
	t.Helper()
	n := &Netns{Name: uniqueName(suffix)}
	n.Path = filepath.Join(netnsDir, n.Name)
	t.Cleanup(func() {
		if n.nl != nil {
			n.nl.Close()
		}
		if n.ns.IsOpen() {
			n.ns.Close()
		}
		if err := netns.DeleteNamed(n.Name); err != nil && !errors.Is(err, unix.ENOENT) {
			t.Errorf("delete namespace %s: %v", n.Name, err)
		}
	})

	n.ns = netns.None()
	err := onOwnThread(func() error {
		h, err := netns.NewNamed(n.Name) // moves this thread into it
		n.ns = h
		return err
	})
	if err != nil {
		t.Fatalf("make namespace %s: %v", n.Name, err)
	}
	if n.nl, err = netlink.NewHandleAt(n.ns, unix.NETLINK_ROUTE); err != nil {
		t.Fatalf("netlink in namespace %s: %v", n.Name, err)
	}
	err = n.Do(func() error {
		// A host that asks for routers makes traffic that no test has sent.
		for _, setting := range []string{"accept_dad", "router_solicitations"} {
			for _, dev := range []string{"all", "default"} {
				path := "/proc/sys/net/ipv6/conf/" + dev + "/" + setting
				if err := os.WriteFile(path, []byte("0"), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatalf("set up namespace %s: %v", n.Name, err)
	}
	if err := n.up("lo"); err != nil {
		t.Fatalf("namespace %s: %v", n.Name, err)
	}
	return n
}

// Do runs f with the calling thread inside the namespace. Goroutines that f
// starts are not inside; processes that it starts are.
func (n *Netns) Do(f func() error) error {
	return onOwnThread(func() error {
		if err := netns.Set(n.ns); err != nil {
			return fmt.Errorf("enter namespace %s: %w", n.Name, err)
		}
		return f()
	})
}

// Netlink is an rtnetlink handle that works inside the namespace.
func (n *Netns) Netlink() *netlink.Handle { return n.nl }

// Cookie returns the kernel's number for the namespace, as
// bpf_get_netns_cookie tells it.
func (n *Netns) Cookie() (uint64, error) {
	var cookie uint64
	err := n.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		cookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
		return err
	})
	return cookie, err
}

// onOwnThread runs f on a thread that f may move to other namespaces. The
// thread is used again only if it could be moved back; else it ends.
func onOwnThread(f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := netns.Get()
		if err != nil {
			runtime.UnlockOSThread()
			result <- err
			return
		}
		// A deferred send is made also when f calls t.Fatal.
		err = errors.New("did not return")
		defer func() {
			if netns.Set(home) == nil {
				runtime.UnlockOSThread()
			}
			home.Close()
			result <- err
		}()
		err = f()
	}()
	return <-result
}

func (n *Netns) up(name string) error {
	link, err := n.nl.LinkByName(name)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if err := n.nl.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	return nil
}

// End is one end of a veth pair.
type End struct {
	Netns  *Netns
	Name   string
	Index  int
	MAC    net.HardwareAddr
	V4, V6 netip.Addr
	// Second addresses, valid only with VethOptions.SecondAddresses.
	SecondV4, SecondV6 netip.Addr
}

// VethOptions changes what Veth makes.
type VethOptions struct {
	// Subnet tells pairs apart that share a namespace: the third byte of
	// 10.77.0.0/24 and the second group of fd77::/64.
	Subnet uint8
	// SecondAddresses gives each end .11 and ::11, or .12 and ::12, too.
	SecondAddresses bool
}

// Veth joins two namespaces. Side a gets 10.77.0.1/24 and fd77::1/64, side b .2
// and ::2. It returns when both can be used.
func Veth(t testing.TB, a, b *Netns, nameA, nameB string, opts ...VethOptions) (End, End) {
	t.Helper()
	var opt VethOptions
	if len(opts) > 0 {
		opt = opts[0]
	}
	ends := [2]End{{Netns: a, Name: nameA}, {Netns: b, Name: nameB}}
	for i := range ends {
		e := &ends[i]
		host := byte(i + 1)
		e.MAC = net.HardwareAddr{0x02, 0x77, 0, 0, opt.Subnet, host}
		address := func(host byte) (v4, v6 netip.Addr) {
			return netip.AddrFrom4([4]byte{10, 77, opt.Subnet, host}),
				netip.MustParseAddr(fmt.Sprintf("fd77:%x::%d", opt.Subnet, host))
		}
		e.V4, e.V6 = address(host)
		if opt.SecondAddresses {
			e.SecondV4, e.SecondV6 = address(host + 10)
		}
	}
	// ::11 reads as the .11 of IPv4 does; the group is hexadecimal.
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = nameA, ends[0].MAC
	err := a.nl.LinkAdd(&netlink.Veth{
		LinkAttrs: attrs, PeerName: nameB, PeerHardwareAddr: ends[1].MAC, PeerNamespace: netlink.NsFd(b.ns),
	})
	if err != nil {
		t.Fatalf("make veth %s in %s and %s in %s: %v", nameA, a.Name, nameB, b.Name, err)
	}
	for i := range ends {
		if err := ends[i].configure(); err != nil {
			t.Fatalf("veth %s in %s: %v", ends[i].Name, ends[i].Netns.Name, err)
		}
	}
	for i := range ends {
		if err := ends[i].awaitCarrier(); err != nil {
			t.Fatal(err)
		}
	}
	return ends[0], ends[1]
}

func (e *End) configure() error {
	if err := e.Netns.up(e.Name); err != nil {
		return err
	}
	link, err := e.Netns.nl.LinkByName(e.Name)
	if err != nil {
		return err
	}
	e.Index = link.Attrs().Index
	for _, addr := range []netip.Addr{e.V4, e.V6, e.SecondV4, e.SecondV6} {
		if !addr.IsValid() {
			continue
		}
		bits := 24
		if addr.Is6() {
			bits = 64
		}
		a := &netlink.Addr{
			IPNet: &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(bits, addr.BitLen())},
			Flags: unix.IFA_F_NODAD,
		}
		if err := e.Netns.nl.AddrAdd(link, a); err != nil {
			return fmt.Errorf("add %s: %w", addr, err)
		}
	}
	return nil
}

// awaitCarrier waits until the kernel has told all its parts that the link
// runs, which it does from a work queue.
func (e *End) awaitCarrier() error {
	const limit = 5 * time.Second
	deadline := time.Now().Add(limit)
	for {
		link, err := e.Netns.nl.LinkByIndex(e.Index)
		if err == nil && link.Attrs().OperState == netlink.OperUp {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s in %s has no carrier after %s (%v)", e.Name, e.Netns.Name, limit, err)
		}
		time.Sleep(2 * time.Millisecond)
	}
}
