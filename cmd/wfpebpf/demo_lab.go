// SPDX-License-Identifier: Apache-2.0

// This file is the laboratory of demo: two network namespaces joined by a veth
// pair, a cgroup, and processes in them that make traffic on command. Nothing
// outside is touched, and all of it is taken away at the end.

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/wfpebpf/wfpebpf/internal/cgroup2"
)

// Addresses of the laboratory.
const (
	labHost4, labHost6 = "10.93.0.1", "fd93::1"
	labPeer4, labPeer6 = "10.93.0.2", "fd93::2"
	labBad4            = "10.93.0.200" // the peer's second address
	labPatience        = 600 * time.Millisecond
)

// stage is the laboratory. close undoes what was made, last first.
type stage struct {
	host, peer string // names of the namespaces
	cgroup     string // relative to the hierarchy's root
	dir        string // for executables
	cgroupFD   *os.File
	undo       []func() error
}

func newStage() (l *stage, err error) {
	l = &stage{host: fmt.Sprintf("wfpebpf-demo-host-%d", os.Getpid()), peer: fmt.Sprintf("wfpebpf-demo-peer-%d", os.Getpid())}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.close())
		}
	}()
	if l.dir, err = os.MkdirTemp("", "wfpebpf-demo-"); err != nil {
		return l, err
	}
	l.undo = append(l.undo, func() error { return os.RemoveAll(l.dir) })
	if err := l.makeCgroup(); err != nil {
		return l, err
	}
	for _, name := range []string{l.host, l.peer} {
		if err := inNewThread(func() error {
			h, err := netns.NewNamed(name)
			if err == nil {
				h.Close()
			}
			return err
		}); err != nil {
			return l, fmt.Errorf("making network namespace %s: %w", name, err)
		}
		l.undo = append(l.undo, func() error { return netns.DeleteNamed(name) })
	}
	return l, l.wire()
}

func (l *stage) close() error {
	var err error
	for i := len(l.undo) - 1; i >= 0; i-- {
		err = errors.Join(err, l.undo[i]())
	}
	l.undo = nil
	return err
}

// inNewThread runs fn on a thread that ends with it, so that a change of
// namespace stays there.
func inNewThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		done <- fn()
	}()
	return <-done
}

func (l *stage) inside(name string, fn func() error) error {
	return inNewThread(func() error {
		h, err := netns.GetFromName(name)
		if err != nil {
			return err
		}
		defer h.Close()
		if err := netns.Set(h); err != nil {
			return err
		}
		return fn()
	})
}

func (l *stage) makeCgroup() error {
	mount, err := cgroup2.Mount("self")
	if err != nil {
		return err
	}
	l.cgroup = fmt.Sprintf("/wfpebpf-demo-%d", os.Getpid())
	path := mount + l.cgroup
	if err := os.Mkdir(path, 0o755); err != nil {
		return fmt.Errorf("making a cgroup: %w", err)
	}
	l.undo = append(l.undo, func() error {
		for range 50 { // the processes in it have ended, or are about to
			if err = os.Remove(path); err == nil || errors.Is(err, os.ErrNotExist) {
				return nil
			}
			time.Sleep(20 * time.Millisecond)
		}
		return err
	})
	l.cgroupFD, err = os.Open(path)
	if err == nil {
		l.undo = append(l.undo, l.cgroupFD.Close)
	}
	return err
}

// wire joins the namespaces by a veth pair and gives both ends addresses.
func (l *stage) wire() error {
	peer, err := netns.GetFromName(l.peer)
	if err != nil {
		return err
	}
	defer peer.Close()
	if err := l.inside(l.host, func() error {
		return netlink.LinkAdd(&netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "eth0", PeerNamespace: netlink.NsFd(peer),
		})
	}); err != nil {
		return fmt.Errorf("making a veth pair: %w", err)
	}
	for _, end := range []struct {
		netns     string
		addresses []string
	}{
		{l.host, []string{labHost4 + "/24", labHost6 + "/64"}},
		{l.peer, []string{labPeer4 + "/24", labPeer6 + "/64", labBad4 + "/24"}},
	} {
		if err := l.inside(end.netns, func() error { return bringUp(end.addresses) }); err != nil {
			return fmt.Errorf("setting up %s: %w", end.netns, err)
		}
	}
	return nil
}

func bringUp(addresses []string) error {
	for _, name := range []string{"lo", "eth0"} {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(link); err != nil {
			return err
		}
		if name == "lo" {
			continue
		}
		for _, text := range addresses {
			a, err := netlink.ParseAddr(text)
			if err != nil {
				return err
			}
			a.Flags = unix.IFA_F_NODAD // usable at once
			if err := netlink.AddrAdd(link, a); err != nil {
				return err
			}
		}
	}
	return nil
}

// actor is a process in a namespace that makes traffic.
type actor struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *json.Decoder
	exe string
}

// order is one command to an actor.
type order struct {
	Do      string // listen, connect, bind
	Network string
	Address string
	From    string // local address
}

// outcomes of an order, as a person would say them.
const (
	seenWorks    = "works"
	seenDenied   = "access denied"
	seenNoAnswer = "no answer"
)

// start runs a copy of this program in a namespace. A copy has an executable of
// its own, which a policy can tell apart.
func (l *stage) start(namespace, name string) (*actor, error) {
	a := &actor{exe: filepath.Join(l.dir, name)}
	if err := copyExecutable(a.exe); err != nil {
		return nil, err
	}
	a.cmd = exec.Command(a.exe, "demo-actor")
	a.cmd.Stderr = os.Stderr
	a.cmd.SysProcAttr = &syscall.SysProcAttr{
		UseCgroupFD: true, CgroupFD: int(l.cgroupFD.Fd()),
		Pdeathsig: 0,    // set by the actor itself: this thread does not last
		Setpgid:   true, // Ctrl-C is for this process, which ends the actors
	}
	in, err := a.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := a.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	a.in, a.out = in, json.NewDecoder(out)
	if err := l.inside(namespace, a.cmd.Start); err != nil {
		return nil, fmt.Errorf("starting %s in %s: %w", name, namespace, err)
	}
	l.undo = append(l.undo, func() error {
		in.Close() // the actor ends with its input
		a.cmd.Wait()
		return nil
	})
	return a, nil
}

func copyExecutable(to string) error {
	from, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer from.Close()
	f, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, from)
	return errors.Join(err, f.Close())
}

func (a *actor) do(o order) (string, error) {
	if err := json.NewEncoder(a.in).Encode(o); err != nil {
		return "", err
	}
	var seen string
	err := a.out.Decode(&seen)
	return seen, err
}

// actorCommand is an actor's side. It is no part of the command line.
func actorCommand() *cobra.Command {
	return &cobra.Command{
		Use: "demo-actor", Hidden: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			in, out := json.NewDecoder(cmd.InOrStdin()), json.NewEncoder(cmd.OutOrStdout())
			for {
				var o order
				if err := in.Decode(&o); err != nil {
					return nil // the demo has ended
				}
				if err := out.Encode(carryOut(o)); err != nil {
					return nil
				}
			}
		},
	}
}

func carryOut(o order) string {
	var err error
	switch o.Do {
	case "listen", "bind":
		err = serve(o)
	case "connect":
		err = exchange(o)
	}
	var timeout net.Error
	switch {
	case err == nil:
		return seenWorks
	case errors.Is(err, unix.EACCES):
		return seenDenied
	case errors.As(err, &timeout) && timeout.Timeout():
		return seenNoAnswer
	}
	return err.Error()
}

// serve opens an echo server that lasts as long as the process.
func serve(o order) error {
	if strings.HasPrefix(o.Network, "udp") {
		c, err := net.ListenPacket(o.Network, o.Address)
		if err != nil {
			return err
		}
		go func() {
			b := make([]byte, 64)
			for {
				n, from, err := c.ReadFrom(b)
				if err != nil {
					return
				}
				c.WriteTo(b[:n], from)
			}
		}()
		return nil
	}
	ln, err := net.Listen(o.Network, o.Address)
	if err != nil {
		return err
	}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				io.Copy(c, c)
			}()
		}
	}()
	return nil
}

// exchange sends a word and waits for its echo.
func exchange(o order) error {
	d := net.Dialer{Timeout: labPatience}
	if o.From != "" {
		ip := net.ParseIP(o.From)
		d.LocalAddr = &net.TCPAddr{IP: ip}
		if strings.HasPrefix(o.Network, "udp") {
			d.LocalAddr = &net.UDPAddr{IP: ip}
		}
	}
	c, err := d.Dial(o.Network, o.Address)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(labPatience))
	if _, err := c.Write([]byte("hello")); err != nil {
		return err
	}
	_, err = io.ReadFull(c, make([]byte, 5))
	return err
}
