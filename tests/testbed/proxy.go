// SPDX-License-Identifier: Apache-2.0

package testbed

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Proxy opens a transparent TCP proxy on tcp4 or tcp6: of each connection that it
// accepts it asks SO_ORIGINAL_DST, connects there and copies both ways. One that has no
// original destination is closed.
func (p *Proc) Proxy(network, addr string, opts ...Options) (Sock, error) {
	return p.sock(request{Op: "proxy", Network: network, Addr: addr}, opts)
}

// Originals returns what SO_ORIGINAL_DST has said of the connections that a proxy
// accepted, in their order.
func (p *Proc) Originals(s Sock) ([]netip.AddrPort, error) {
	r, err := p.do(request{Op: "originals", Sock: s.ID}, "originals")
	return r.Originals, err
}

// OriginalDst asks a connected socket of a process for SO_ORIGINAL_DST.
func (p *Proc) OriginalDst(s Sock) (netip.AddrPort, error) {
	r, err := p.do(request{Op: "original", Sock: s.ID}, "original")
	return r.Remote, err
}

// Names asks a socket for its names once more: Local and Remote.
func (p *Proc) Names(s Sock) (Sock, error) {
	r, err := p.do(request{Op: "names", Sock: s.ID}, "names")
	s.Local, s.Remote = r.Local, r.Remote
	return s, err
}

// originalDst is IP6T_SO_ORIGINAL_DST, too.
const originalDst = 80

func (s *socket) originalDst() (ap netip.AddrPort, err error) {
	err = s.control("getsockopt", func(fd int) error {
		level, size := unix.SOL_IP, uint32(unix.SizeofSockaddrInet4)
		if s.domain == unix.AF_INET6 {
			level, size = unix.SOL_IPV6, unix.SizeofSockaddrInet6
		}
		var buf [unix.SizeofSockaddrInet6]byte
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), originalDst,
			uintptr(unsafe.Pointer(&buf)), uintptr(unsafe.Pointer(&size)), 0)
		if errno != 0 {
			return errno
		}
		port := binary.BigEndian.Uint16(buf[2:])
		switch family := binary.NativeEndian.Uint16(buf[:]); {
		case family == unix.AF_INET && size == unix.SizeofSockaddrInet4:
			ap = netip.AddrPortFrom(netip.AddrFrom4([4]byte(buf[4:8])), port)
		case family == unix.AF_INET6 && size == unix.SizeofSockaddrInet6:
			ap = netip.AddrPortFrom(netip.AddrFrom16([16]byte(buf[8:24])), port)
		default:
			return fmt.Errorf("family %d in %d bytes", family, size)
		}
		return nil
	})
	return ap, err
}

// proxy serves connections until the socket is closed.
func (s *socket) proxy() {
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
		client, err := wrapSocket(fd, s.domain, s.typ)
		if err != nil {
			return
		}
		go s.forward(client)
	}
}

func (s *socket) forward(client *socket) {
	defer client.file.Close()
	to, err := client.originalDst()
	if err != nil {
		return
	}
	s.mu.Lock()
	s.originals = append(s.originals, to)
	s.mu.Unlock()
	server, err := newInetSocket(s.domain, s.typ, MPTCPOff, false)
	if err != nil {
		return
	}
	defer server.file.Close()
	if server.connect(to.String(), time.Now().Add(DefaultTimeout)) != nil {
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		server.copyTo(client)
	}()
	client.copyTo(server)
	<-done
}

// copyTo sends on what comes in, and then its end.
func (s *socket) copyTo(to *socket) {
	buf := make([]byte, maxDatagram)
	for {
		n, err := s.read(buf)
		if err != nil || n == 0 || to.write(buf[:n]) != nil {
			break
		}
	}
	to.control("shutdown", func(fd int) error { return unix.Shutdown(fd, unix.SHUT_WR) })
}
