// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The sender of the packet tables. It hands whole frames to the driver, past
// the sender's own stack and queue, so that most of what a packet costs is what
// the receiver's stack does with it: a veth delivers in a softirq on the
// sender's CPU, and the rate is the cost of that path.

const (
	batch     = 64 // frames a system call
	frameSize = 60 // the least of Ethernet
	portAt    = 14 + 20
	// Source ports of new flows are these; those of known ones lie below.
	newPortLow, newPortHigh = 8192, 65535
)

// mmsghdr is struct mmsghdr, for sendmmsg(2) and recvmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
	_   uint32
}

// flood sends the flows over and over for a time, or each of them once.
func flood(o order) (report, error) {
	if len(o.Flows)%batch != 0 {
		return report{}, fmt.Errorf("%d flows are no whole batches of %d", len(o.Flows), batch)
	}
	fd, err := packetSocket(peerLink)
	if err != nil {
		return report{}, err
	}
	defer unix.Close(fd)
	frames := make([][frameSize]byte, len(o.Flows))
	vectors := make([]unix.Iovec, len(frames))
	messages := make([]mmsghdr, len(frames))
	for i := range frames {
		frames[i] = datagram(o.Flows[i])
		vectors[i] = unix.Iovec{Base: &frames[i][0], Len: frameSize}
		messages[i].hdr.Iov, messages[i].hdr.Iovlen = &vectors[i], 1
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var r report
	port := newPort
	start, cpu := time.Now(), threadCPU()
	for r.Elapsed < o.For || o.Once {
		for at := 0; at < len(frames); at += batch {
			if o.New {
				// Ports and frames go round in periods without a common factor:
				// a port comes back with each other remote end first.
				for i := at; i < at+batch; i++ {
					binary.BigEndian.PutUint16(frames[i][portAt:], port)
					if port++; port == newPortHigh {
						port = newPortLow
					}
				}
			}
			// RawSyscall: the scheduler would take a call that lasts so long
			// for one that waits. It says how many it sent before an error.
			n, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&messages[at])), batch, 0, 0, 0)
			if errno != 0 && !errors.Is(errno, unix.ENOBUFS) {
				return r, fmt.Errorf("sendmmsg: %w", errno)
			}
			if errno == 0 {
				r.Count += uint64(n)
			}
			if r.Elapsed = time.Since(start); r.Elapsed >= o.For && !o.Once {
				break
			}
		}
		if o.Once {
			break
		}
	}
	r.CPU = threadCPU() - cpu
	newPort = port
	return r, nil
}

// newPort is where the next flood goes on.
var newPort uint16 = newPortLow

func packetSocket(link string) (int, error) {
	ifi, err := net.InterfaceByName(link)
	if err != nil {
		return 0, err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0) // 0: receives nothing
	if err != nil {
		return 0, err
	}
	err = unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: ifi.Index})
	}
	if err != nil {
		unix.Close(fd)
		return 0, err
	}
	return fd, nil
}

// datagram is the frame of a small UDP datagram to the host, without checksum,
// as IPv4 allows.
func datagram(f flow) (b [frameSize]byte) {
	copy(b[0:], hostMAC)
	copy(b[6:], peerMAC)
	binary.BigEndian.PutUint16(b[12:], unix.ETH_P_IP)
	ip := b[14:34]
	ip[0], ip[8], ip[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(ip[2:], frameSize-14)
	copy(ip[12:], f.Remote.AsSlice())
	copy(ip[16:], hostAddress.AsSlice())
	var sum uint32
	for i := 0; i < len(ip); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	sum = sum>>16 + sum&0xffff
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum+sum>>16))
	udp := b[34:]
	binary.BigEndian.PutUint16(udp[0:], f.Source)
	binary.BigEndian.PutUint16(udp[2:], f.Port)
	binary.BigEndian.PutUint16(udp[4:], frameSize-34)
	return b
}

// The receiver takes what there is and sleeps: sockets that no thread waits at
// make no wake-ups, whose cost would differ from run to run. The buffers hold
// what comes meanwhile.
const (
	receiveBuffer = 64 << 20
	busySleep     = 500 * time.Microsecond
	idleSleep     = 5 * time.Millisecond
)

// receive opens a UDP socket at each port and reads them from then on.
func receive(o order) (report, error) {
	var fds []int
	for _, port := range o.Ports {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err == nil {
			err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer)
		}
		if err == nil {
			err = unix.Bind(fd, &unix.SockaddrInet4{Port: int(port)})
		}
		if err != nil {
			return report{}, err
		}
		fds = append(fds, fd)
	}
	go drain(fds)
	return report{}, nil
}

func drain(fds []int) {
	runtime.LockOSThread()
	const most = 256
	var data [most][frameSize]byte
	vectors := make([]unix.Iovec, most)
	messages := make([]mmsghdr, most)
	for i := range messages {
		vectors[i] = unix.Iovec{Base: &data[i][0], Len: frameSize}
		messages[i].hdr.Iov, messages[i].hdr.Iovlen = &vectors[i], 1
	}
	for {
		sleep := idleSleep
		for _, fd := range fds {
			for {
				n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&messages[0])), most, 0, 0, 0)
				if errno != 0 || n == 0 {
					break
				}
				sleep = busySleep
				if n < most {
					break
				}
			}
		}
		time.Sleep(sleep)
	}
}
