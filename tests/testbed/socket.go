// SPDX-License-Identifier: Apache-2.0

package testbed

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// socket is a socket by its system calls: package net would bind, connect and
// choose protocols by its own lights. The file gives deadlines, and wakes
// those who wait when it is closed.
type socket struct {
	file     *os.File
	raw      syscall.RawConn
	domain   int
	typ      int
	accepted atomic.Int64
	bytes    atomic.Int64

	mu        sync.Mutex
	originals []netip.AddrPort // of a proxy
}

const maxDatagram = 65536

func newSocket(domain, typ, protocol int) (*socket, error) {
	fd, err := unix.Socket(domain, typ|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return nil, &callError{"socket", err}
	}
	return wrapSocket(fd, domain, typ)
}

func wrapSocket(fd, domain, typ int) (*socket, error) {
	f := os.NewFile(uintptr(fd), "socket")
	raw, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return nil, err
	}
	return &socket{file: f, raw: raw, domain: domain, typ: typ}, nil
}

// newInetSocket makes a TCP or UDP socket. Where the kernel has no MPTCP the
// default is TCP for listeners too, as in package net.
func newInetSocket(domain, typ int, mode MPTCP, listener bool) (*socket, error) {
	if typ != unix.SOCK_STREAM {
		return newSocket(domain, typ, unix.IPPROTO_UDP)
	}
	if mode == MPTCPOn || mode == MPTCPDefault && listener {
		s, err := newSocket(domain, typ, unix.IPPROTO_MPTCP)
		absent := Errno(err) == unix.EPROTONOSUPPORT || Errno(err) == unix.ENOPROTOOPT || Errno(err) == unix.EINVAL
		if mode == MPTCPOn || !absent {
			return s, err
		}
	}
	return newSocket(domain, typ, unix.IPPROTO_TCP)
}

// control runs one system call that does not wait.
func (s *socket) control(call string, f func(fd int) error) error {
	var err error
	if cerr := s.raw.Control(func(fd uintptr) { err = f(int(fd)) }); cerr != nil {
		return cerr
	}
	if err != nil {
		return &callError{call, err}
	}
	return nil
}

// waitIO runs a system call until it no longer says EAGAIN, or until the
// deadline. wait is RawConn.Read or RawConn.Write.
func waitIO(call string, wait func(func(uintptr) bool) error, f func(fd int) error) error {
	var err error
	werr := wait(func(fd uintptr) bool {
		for {
			err = f(int(fd))
			if !errors.Is(err, unix.EINTR) {
				return !errors.Is(err, unix.EAGAIN)
			}
		}
	})
	if errors.Is(werr, os.ErrDeadlineExceeded) {
		return &callError{call, ErrTimeout}
	}
	if werr != nil {
		return werr
	}
	if err != nil {
		return &callError{call, err}
	}
	return nil
}

// prepare sets the options that come before connect or listen, and binds.
func (s *socket) prepare(opt Options) error {
	if s.domain == unix.AF_INET6 {
		v6only := 0
		if opt.V6Only {
			v6only = 1
		}
		err := s.control("setsockopt", func(fd int) error {
			return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, v6only)
		})
		if err != nil {
			return err
		}
	}
	if opt.Local == "" {
		return nil
	}
	sa, err := sockaddr(s.domain, opt.Local)
	if err != nil {
		return err
	}
	if s.typ == unix.SOCK_STREAM {
		err := s.control("setsockopt", func(fd int) error {
			return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
		})
		if err != nil {
			return err
		}
	}
	return s.control("bind", func(fd int) error { return unix.Bind(fd, sa) })
}

func (s *socket) listen() error {
	const backlog = 128
	return s.control("listen", func(fd int) error { return unix.Listen(fd, backlog) })
}

func (s *socket) connect(addr string, deadline time.Time) error {
	sa, err := sockaddr(s.domain, addr)
	if err != nil {
		return err
	}
	err = s.control("connect", func(fd int) error { return unix.Connect(fd, sa) })
	if Errno(err) != unix.EINPROGRESS {
		return err
	}
	if err := s.file.SetWriteDeadline(deadline); err != nil {
		return err
	}
	return waitIO("connect", s.raw.Write, func(fd int) error {
		if soErr, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR); err != nil || soErr != 0 {
			if err == nil {
				err = unix.Errno(soErr)
			}
			return err
		}
		// Being writable without an error and without a peer means that
		// it was woken too early.
		if _, err := unix.Getpeername(fd); err != nil {
			return unix.EAGAIN
		}
		return nil
	})
}

// echoStreams sends back what connections send, until the socket is closed.
func (s *socket) echoStreams(silent bool) {
	for {
		var fd int
		err := waitIO("accept", s.raw.Read, func(l int) error {
			var err error
			fd, _, err = unix.Accept4(l, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
			return err
		})
		if Errno(err) == unix.ECONNABORTED {
			continue
		}
		if err != nil {
			return
		}
		s.accepted.Add(1)
		conn, err := wrapSocket(fd, s.domain, s.typ)
		if err != nil {
			return
		}
		go func() {
			defer conn.file.Close()
			buf := make([]byte, maxDatagram)
			for {
				n, err := conn.read(buf)
				if err != nil || n == 0 {
					return
				}
				s.bytes.Add(int64(n))
				if !silent && conn.write(buf[:n]) != nil {
					return
				}
			}
		}()
	}
}

// echoDatagrams sends each datagram back, until the socket is closed. Errors
// that ICMP brought belong to an earlier answer.
func (s *socket) echoDatagrams(silent bool) {
	buf := make([]byte, maxDatagram)
	for {
		var n int
		var from unix.Sockaddr
		err := waitIO("recvfrom", s.raw.Read, func(fd int) error {
			var err error
			n, from, err = unix.Recvfrom(fd, buf, 0)
			return err
		})
		if Errno(err) != 0 {
			continue
		}
		if err != nil {
			return
		}
		s.accepted.Add(1)
		s.bytes.Add(int64(n))
		if !silent {
			s.control("sendto", func(fd int) error { return unix.Sendto(fd, buf[:n], 0, from) })
		}
	}
}

func (s *socket) read(buf []byte) (n int, err error) {
	err = waitIO("read", s.raw.Read, func(fd int) error {
		var err error
		n, err = unix.Read(fd, buf)
		return err
	})
	return n, err
}

func (s *socket) write(data []byte) error {
	for len(data) > 0 {
		var n int
		err := waitIO("write", s.raw.Write, func(fd int) error {
			var err error
			// No SIGPIPE for a connection that the peer has reset.
			n, err = unix.SendmsgN(fd, data, nil, nil, unix.MSG_NOSIGNAL)
			return err
		})
		if err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}

// exchange sends a message and reads as many bytes back.
func (s *socket) exchange(message []byte, deadline time.Time) error {
	if err := s.file.SetDeadline(deadline); err != nil {
		return err
	}
	if err := s.write(message); err != nil {
		return err
	}
	got := make([]byte, len(message))
	for have := 0; have < len(got); {
		n, err := s.read(got[have:])
		if err != nil {
			return err
		}
		if n == 0 {
			return &callError{"read", ErrClosed}
		}
		have += n
	}
	if !bytes.Equal(got, message) {
		return &callError{"read", fmt.Errorf("echo of %q is %q", message, got)}
	}
	return nil
}

func (s *socket) sendTo(data []byte, addr string) error {
	sa, err := sockaddr(s.domain, addr)
	if err != nil {
		return err
	}
	return s.control("sendto", func(fd int) error { return unix.Sendto(fd, data, unix.MSG_NOSIGNAL, sa) })
}

func (s *socket) receive(deadline time.Time) (data []byte, from netip.AddrPort, err error) {
	if err := s.file.SetReadDeadline(deadline); err != nil {
		return nil, from, err
	}
	buf := make([]byte, maxDatagram)
	err = waitIO("recvfrom", s.raw.Read, func(fd int) error {
		n, sa, err := unix.Recvfrom(fd, buf, 0)
		if err != nil {
			return err
		}
		data, from = buf[:n], addrPort(sa)
		return nil
	})
	return data, from, err
}

func (s *socket) local() netip.AddrPort  { return s.name(unix.Getsockname) }
func (s *socket) remote() netip.AddrPort { return s.name(unix.Getpeername) }

func (s *socket) name(get func(int) (unix.Sockaddr, error)) (ap netip.AddrPort) {
	s.control("", func(fd int) error {
		if sa, err := get(fd); err == nil {
			ap = addrPort(sa)
		}
		return nil
	})
	return ap
}

func (s *socket) protocol() (protocol int) {
	s.control("getsockopt", func(fd int) (err error) {
		protocol, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
		return err
	})
	return protocol
}

func (s *socket) stats() Stats {
	return Stats{Accepted: int(s.accepted.Load()), Bytes: int(s.bytes.Load())}
}

// sockaddr makes the address that a socket of a family takes: for AF_INET6 an
// IPv4 address in its mapped form.
func sockaddr(domain int, addr string) (unix.Sockaddr, error) {
	ap, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, err
	}
	if domain == unix.AF_INET {
		if !ap.Addr().Is4() {
			return nil, fmt.Errorf("%s is no address of an IPv4 socket", addr)
		}
		return &unix.SockaddrInet4{Port: int(ap.Port()), Addr: ap.Addr().As4()}, nil
	}
	sa := &unix.SockaddrInet6{Port: int(ap.Port()), Addr: ap.Addr().As16()}
	if zone := ap.Addr().Zone(); zone != "" {
		iface, err := net.InterfaceByName(zone)
		if err != nil {
			return nil, err
		}
		sa.ZoneId = uint32(iface.Index)
	}
	return sa, nil
}

// addrPort is the reverse; a mapped address stays one, and what is not IP
// becomes the zero value.
func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port))
	}
	return netip.AddrPort{}
}
