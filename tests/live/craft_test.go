// SPDX-License-Identifier: Apache-2.0

package live

import (
	"fmt"
	"net"
	"slices"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"golang.org/x/sys/unix"

	"github.com/wfpebpf/wfpebpf/tests/testbed"
)

// serialize is the bytes of a packet.
func serialize(t *testing.T, parts ...gopacket.SerializableLayer) []byte {
	t.Helper()
	buf := gopacket.NewSerializeBuffer()
	options := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if err := gopacket.SerializeLayers(buf, options, parts...); err != nil {
		t.Fatal(err)
	}
	return slices.Clone(buf.Bytes())
}

// extensions is a chain of IPv6 extension headers of eight bytes each, before
// a UDP datagram.
func extensions(kinds []layers.IPProtocol) (list []byte) {
	for i := range kinds {
		next := layers.IPProtocolUDP
		if i+1 < len(kinds) {
			next = kinds[i+1]
		}
		switch kinds[i] {
		case layers.IPProtocolIPv6Fragment:
			list = append(list, byte(next), 0, 0, 0, 0, 0, 0, 1) // the only one
		case layers.IPProtocolIPv6Routing:
			list = append(list, byte(next), 0, 0, 0, 0, 0, 0, 0) // no segments left
		default:
			list = append(list, byte(next), 0, 1, 4, 0, 0, 0, 0) // padding
		}
	}
	return list
}

// sendBehind sends a datagram from the peer to a port of the host, behind
// extension headers.
func (b *bed) sendBehind(t *testing.T, out *tap, port layers.UDPPort, kinds []layers.IPProtocol) {
	t.Helper()
	first := layers.IPProtocolUDP
	if len(kinds) > 0 {
		first = kinds[0]
	}
	ip := &layers.IPv6{
		Version: 6, HopLimit: 64, NextHeader: first,
		SrcIP: net.IP(b.peerEnd.V6.AsSlice()), DstIP: net.IP(b.hostEnd.V6.AsSlice()),
	}
	udp := &layers.UDP{SrcPort: 9000, DstPort: port}
	if err := udp.SetNetworkLayerForChecksum(ip); err != nil {
		t.Fatal(err)
	}
	datagram := serialize(t, udp, gopacket.Payload("hello"))
	frame := serialize(t,
		&layers.Ethernet{SrcMAC: b.peerEnd.MAC, DstMAC: b.hostEnd.MAC, EthernetType: layers.EthernetTypeIPv6},
		ip, gopacket.Payload(append(extensions(kinds), datagram...)))
	if _, err := unix.Write(out.fd, frame); err != nil {
		t.Fatal(err)
	}
}

// extensionHeaders are chains before a datagram's ports, and whether they can be read
// to their end.
var extensionHeaders = []struct {
	name     string
	kinds    []layers.IPProtocol
	readable bool
}{
	{"none", nil, true},
	{"hop by hop", []layers.IPProtocol{layers.IPProtocolIPv6HopByHop}, true},
	{"destination options", []layers.IPProtocol{layers.IPProtocolIPv6Destination}, true},
	{"routing", []layers.IPProtocol{layers.IPProtocolIPv6Routing}, true},
	{"the only fragment", []layers.IPProtocol{layers.IPProtocolIPv6Fragment}, true},
	{"three kinds", []layers.IPProtocol{layers.IPProtocolIPv6HopByHop, layers.IPProtocolIPv6Destination, layers.IPProtocolIPv6Fragment}, true},
	{"seven", slices.Repeat([]layers.IPProtocol{layers.IPProtocolIPv6Destination}, 7), true},
	{"nine", slices.Repeat([]layers.IPProtocol{layers.IPProtocolIPv6Destination}, 9), false},
}

// A datagram does not get past the filters by what stands before its ports. A
// packet that nobody can read to its end is dropped and counted.
func TestAcceptExtensionHeaders(t *testing.T) {
	b := newBed(t)
	host := b.on(b.host, testbed.ProcOptions{})
	out := newTap(t, b.peerEnd, uint16(layers.EthernetTypeIPv6))
	open := b.open(host, "udp6", fmt.Sprintf("[%s]:8080", b.hostEnd.V6))
	shut := b.open(host, "udp6", fmt.Sprintf("[%s]:8081", b.hostEnd.V6))

	send := func(t *testing.T, port layers.UDPPort, kinds []layers.IPProtocol) {
		t.Helper()
		b.sendBehind(t, out, port, kinds)
	}
	wants := func(t *testing.T, s testbed.Sock, o outcome) {
		t.Helper()
		_, _, err := host.Receive(s, testbed.Options{Timeout: o.limit})
		o.want(t, err)
	}
	t.Run("without a policy", func(t *testing.T) {
		for _, row := range extensionHeaders {
			t.Run(row.name, func(t *testing.T) {
				send(t, 8081, row.kinds)
				wants(t, shut, passes) // the stack takes them all
			})
		}
	})
	b.apply(blocks("ALE_AUTH_RECV_ACCEPT_V6", "{IP_LOCAL_PORT: 8081}"))
	for _, row := range extensionHeaders {
		t.Run(row.name, func(t *testing.T) {
			b.events()
			before, lost := b.state().Unreadable, uint64(0)
			send(t, 8081, row.kinds)
			wants(t, shut, dropped)
			send(t, 8080, row.kinds)
			if row.readable {
				wants(t, open, passes)
				b.wantBlock("ALE_AUTH_RECV_ACCEPT_V6", "Block it")
			} else {
				wants(t, open, dropped)
				lost = 2
			}
			if n := b.state().Unreadable - before; n != lost {
				t.Errorf("%d packets counted as unreadable, want %d", n, lost)
			}
		})
	}
	b.apply(blocks("INBOUND_IPPACKET_V6", "{FLAGS: [IS_FRAGMENT]}"))
	for _, row := range extensionHeaders {
		t.Run("looking for fragments, "+row.name, func(t *testing.T) {
			send(t, 8080, row.kinds)
			if row.readable {
				wants(t, open, passes)
			} else {
				wants(t, open, dropped)
			}
		})
	}
}
