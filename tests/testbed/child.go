// SPDX-License-Identifier: Apache-2.0

package testbed

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// child is the state of a process that Start made.
type child struct {
	outMu sync.Mutex
	out   *json.Encoder

	mu     sync.Mutex
	nextID int
	socks  map[int]*socket
}

// childMain serves requests until its input ends; the result is an exit status.
func childMain(in io.Reader, out io.Writer) int {
	c := &child{out: json.NewEncoder(out), nextID: 1, socks: map[int]*socket{}}
	var ready response
	if err := becomeUser(); err != nil {
		ready.failure(err)
	}
	c.reply(ready)
	dec := json.NewDecoder(bufio.NewReader(in))
	for {
		var req request
		if err := dec.Decode(&req); err != nil {
			if errors.Is(err, io.EOF) {
				return 0
			}
			fmt.Fprintln(os.Stderr, "testbed process:", err)
			return 1
		}
		// Commands wait for peers; one must not keep another waiting.
		go func() {
			r, err := c.serve(req)
			r.ID = req.ID
			if err != nil {
				r.failure(err)
			}
			c.reply(r)
		}()
	}
}

func (c *child) reply(r response) {
	c.outMu.Lock()
	defer c.outMu.Unlock()
	if c.out.Encode(r) != nil {
		os.Exit(1) // the test has gone
	}
}

// becomeUser gives up root if Start says so. It happens here and not at exec,
// because the test binary lies in a directory that only root can enter.
func becomeUser() error {
	uid, _ := strconv.Atoi(os.Getenv(childUIDEnv))
	gid, _ := strconv.Atoi(os.Getenv(childGIDEnv))
	if uid == 0 && gid == 0 {
		return nil
	}
	if err := syscall.Setgroups(nil); err != nil {
		return &callError{"setgroups", err}
	}
	if err := syscall.Setresgid(gid, gid, gid); err != nil {
		return &callError{"setresgid", err}
	}
	if err := syscall.Setresuid(uid, uid, uid); err != nil {
		return &callError{"setresuid", err}
	}
	return nil
}

func (c *child) serve(req request) (response, error) {
	deadline := time.Now().Add(DefaultTimeout)
	if req.Options.Timeout > 0 {
		deadline = time.Now().Add(req.Options.Timeout)
	}
	switch req.Op {
	case "listen", "proxy":
		return c.listen(req)
	case "dial":
		return c.dial(req, deadline)
	case "bind":
		req.Options.Local = req.Addr
		return c.open(req, false)
	case "udp":
		return c.open(req, false)
	case "socket":
		s, err := newSocket(req.Domain, req.Type, req.Protocol)
		if err != nil {
			return response{}, err
		}
		return c.keep(s), nil
	}

	c.mu.Lock()
	s := c.socks[req.Sock]
	if req.Op == "close" {
		delete(c.socks, req.Sock)
	}
	c.mu.Unlock()
	if s == nil {
		return response{}, fmt.Errorf("no socket %d", req.Sock)
	}
	switch req.Op {
	case "close":
		return response{}, s.file.Close()
	case "stats":
		return response{Stats: s.stats()}, nil
	case "originals":
		s.mu.Lock()
		defer s.mu.Unlock()
		return response{Originals: slices.Clone(s.originals)}, nil
	case "original":
		to, err := s.originalDst()
		return response{Remote: to}, err
	case "names":
		return response{Local: s.local(), Remote: s.remote()}, nil
	case "number":
		var r response
		err := s.control("number", func(fd int) error { r.Number = fd; return nil })
		return r, err
	case "setsockopt":
		return response{}, s.control("setsockopt", func(fd int) error {
			return unix.SetsockoptString(fd, req.Level, req.Option, string(req.Data))
		})
	case "bindsock":
		sa, err := sockaddr(s.domain, req.Addr)
		if err != nil {
			return response{}, err
		}
		return response{}, s.control("bind", func(fd int) error { return unix.Bind(fd, sa) })
	case "connectsock":
		return response{}, s.connect(req.Addr, deadline)
	case "exchange":
		return response{}, s.exchange(req.Data, deadline)
	case "sendto":
		return response{}, s.sendTo(req.Data, req.Addr)
	case "receive":
		data, from, err := s.receive(deadline)
		return response{Data: data, Remote: from}, err
	}
	return response{}, fmt.Errorf("unknown command %q", req.Op)
}

// keep gives a socket a number, under which later commands find it.
func (c *child) keep(s *socket) response {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := response{Sock: c.nextID, Local: s.local(), Remote: s.remote(), Protocol: s.protocol()}
	c.socks[c.nextID] = s
	c.nextID++
	return r
}

// open makes a socket and binds it where the options say so.
func (c *child) open(req request, listener bool) (response, error) {
	s, err := openSocket(req, listener)
	if err != nil {
		return response{}, err
	}
	return c.keep(s), nil
}

func openSocket(req request, listener bool) (*socket, error) {
	domain, typ, err := parseNetwork(req.Network)
	if err != nil {
		return nil, err
	}
	s, err := newInetSocket(domain, typ, req.Options.MPTCP, listener)
	if err != nil {
		return nil, err
	}
	if err := s.prepare(req.Options); err != nil {
		s.file.Close()
		return nil, err
	}
	return s, nil
}

func (c *child) listen(req request) (response, error) {
	if !req.Options.NoBind {
		req.Options.Local = req.Addr
	}
	s, err := openSocket(req, true)
	if err != nil {
		return response{}, err
	}
	if s.typ == unix.SOCK_STREAM {
		if err := s.listen(); err != nil {
			s.file.Close()
			return response{}, err
		}
	}
	r := c.keep(s)
	switch {
	case req.Op == "proxy":
		go s.proxy()
	case s.typ == unix.SOCK_STREAM:
		go s.echoStreams(req.Options.Silent)
	default:
		go s.echoDatagrams(req.Options.Silent)
	}
	return r, nil
}

func (c *child) dial(req request, deadline time.Time) (response, error) {
	s, err := openSocket(req, false)
	if err != nil {
		return response{}, err
	}
	if err := s.connect(req.Addr, deadline); err != nil {
		s.file.Close()
		return response{}, err
	}
	return c.keep(s), nil
}

// parseNetwork takes tcp4, tcp6, udp4 and udp6: a test says which family its
// socket has.
func parseNetwork(network string) (domain, typ int, err error) {
	switch network {
	case "tcp4":
		return unix.AF_INET, unix.SOCK_STREAM, nil
	case "tcp6":
		return unix.AF_INET6, unix.SOCK_STREAM, nil
	case "udp4":
		return unix.AF_INET, unix.SOCK_DGRAM, nil
	case "udp6":
		return unix.AF_INET6, unix.SOCK_DGRAM, nil
	}
	return 0, 0, fmt.Errorf("network %q is none of tcp4, tcp6, udp4, udp6", network)
}
