// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"fmt"
	"net"
	"runtime"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// The sender of the packet tables is the kernel's own, by flood.c: it hands
// frames to the driver without a stack, a queue or a system call of the
// sender's, so that most of what a packet costs is what the receiver's stack does
// with it. A veth delivers in a softirq on the sender's CPU, and the rate is the
// cost of that path.

//go:generate go tool bpf2go -tags linux -target bpfel -cc clang-19 -strip llvm-strip-19 -cflags "-O2 -g -Wall -Werror -mcpu=v3 -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu" -type flood_state -type flood_remote -no-global-types flood flood.c

const (
	frameSize = 60 // the least of Ethernet
	// frames between softirqs: those of one poll, which is all that a softirq is
	// sure to do while another process waits for the CPU
	floodBatch = 64
	firstFlood = 4096 // frames, as long as it is not known how long one takes
	newPortLow = 8192 // source ports of new flows; those of known ones lie below
)

// generator is the program, once it is loaded, and how long a frame last took.
var generator struct {
	floodObjects
	on       link.Link // keeps it attached
	ifindex  uint32    // of the link to send by
	perFrame time.Duration
}

// flood sends the flows over and over for a time, or each of them once.
func flood(o order) (report, error) {
	if err := loadGenerator(o.Flows); err != nil {
		return report{}, err
	}
	g := &generator
	var control floodFloodState
	if err := g.FloodControl.Lookup(uint32(0), &control); err != nil {
		return report{}, err
	}
	control.Count, control.Next, control.Fresh = uint32(len(o.Flows)), 0, 0
	control.Port = max(control.Port, newPortLow) // and on from where the last ended
	if o.New {
		control.Fresh = 1
	}
	if err := g.FloodControl.Put(uint32(0), control); err != nil {
		return report{}, err
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	frame := datagram(o.Flows[0])
	context := xdpContext{DataEnd: frameSize, Ingress: g.ifindex}
	var r report
	start, cpu := time.Now(), threadCPU()
	// Each run has a beginning that takes its time: no run for a small rest.
	for r.Elapsed < o.For*9/10 || o.Once && r.Count == 0 {
		n := uint64(len(o.Flows))
		if !o.Once {
			n = firstFlood
			if g.perFrame > 0 {
				n = max(64, uint64((o.For-r.Elapsed)/g.perFrame))
			}
		}
		before := time.Now()
		_, err := g.BenchFlood.Run(&ebpf.RunOptions{
			Data: frame[:], Context: context, Repeat: uint32(n), BatchSize: floodBatch,
			Flags: unix.BPF_F_TEST_XDP_LIVE_FRAMES,
		})
		if err != nil {
			return r, fmt.Errorf("sending live frames: %w", err)
		}
		r.Count += n
		r.Elapsed = time.Since(start)
		g.perFrame = max(1, time.Since(before)/time.Duration(n))
	}
	r.CPU = threadCPU() - cpu
	return r, nil
}

// xdpContext is struct xdp_md as BPF_PROG_TEST_RUN takes it.
type xdpContext struct {
	Data, DataEnd, DataMeta, Ingress, Queue, Egress uint32
}

// loadGenerator puts the flows into the program's table.
func loadGenerator(flows []flow) error {
	g := &generator
	if g.BenchFlood == nil {
		ifi, err := net.InterfaceByName(peerLink)
		if err != nil {
			return err
		}
		g.ifindex = uint32(ifi.Index)
		if err := loadFloodObjects(&g.floodObjects, nil); err != nil {
			return fmt.Errorf("loading the packet generator: %w", err)
		}
		// A program that is attached nowhere is put in the dispatcher's code for
		// each test run, which waits for all CPUs. Nothing comes in at lo.
		g.on, err = link.AttachXDP(link.XDPOptions{Program: g.BenchFlood, Interface: 1, Flags: link.XDPGenericMode})
		if err != nil {
			return fmt.Errorf("attaching the packet generator to lo: %w", err)
		}
	}
	if len(flows) == 0 || len(flows) > int(g.FloodFlows.MaxEntries()) {
		return fmt.Errorf("%d flows, not 1 to %d", len(flows), g.FloodFlows.MaxEntries())
	}
	for i, f := range flows {
		b := datagram(f)
		at := func(offset int) uint16 { return binary.NativeEndian.Uint16(b[offset:]) }
		x := floodFloodRemote{Remote: binary.NativeEndian.Uint32(b[26:]), Source: at(34), Port: at(36), Check: at(24)}
		if err := g.FloodFlows.Put(uint32(i), x); err != nil {
			return err
		}
	}
	return nil
}

// enableNAPI makes a veth deliver as the driver of a network card does, by
// polling and with GRO. Without, it takes no frames from a program.
func enableNAPI(link string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	value := struct{ cmd, on uint32 }{unix.ETHTOOL_SGRO, 1}
	var request struct { // struct ifreq
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}
	copy(request.name[:], link)
	request.data = unsafe.Pointer(&value)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); errno != 0 {
		return fmt.Errorf("switching GRO on for %s: %w", link, errno)
	}
	return nil
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

// mmsghdr is struct mmsghdr, for recvmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
	_   uint32
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
