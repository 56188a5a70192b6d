// SPDX-License-Identifier: Apache-2.0

package live

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"golang.org/x/sys/unix"

	"github.com/wfpebpf/wfpebpf/tests/testbed"
)

// scanner is a tap that sends segments and datagrams to ports and looks what comes back.
type scanner struct {
	*tap
	host, peer testbed.End
}

const scanPort = 40000

// probe sends one packet to a port of the host. Flags are those of TCP; none: UDP.
func (s *scanner) probe(t *testing.T, f family, port int, flags string) {
	t.Helper()
	var network interface {
		gopacket.NetworkLayer
		gopacket.SerializableLayer
	}
	protocol := layers.IPProtocolTCP
	if flags == "" {
		protocol = layers.IPProtocolUDP
	}
	ether := layers.EthernetTypeIPv4
	ends := func(a netip.Addr) net.IP { return net.IP(a.AsSlice()) }
	if f.layer == "V4" {
		network = &layers.IPv4{Version: 4, TTL: 64, Protocol: protocol, SrcIP: ends(s.peer.V4), DstIP: ends(s.host.V4)}
	} else {
		ether = layers.EthernetTypeIPv6
		network = &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: protocol, SrcIP: ends(s.peer.V6), DstIP: ends(s.host.V6)}
	}
	var transport gopacket.SerializableLayer
	if flags == "" {
		udp := &layers.UDP{SrcPort: scanPort, DstPort: layers.UDPPort(port)}
		udp.SetNetworkLayerForChecksum(network)
		transport = udp
	} else {
		tcp := &layers.TCP{
			SrcPort: scanPort, DstPort: layers.TCPPort(port), Seq: 1, Ack: 1, Window: 1000,
			SYN: strings.Contains(flags, "S"), ACK: strings.Contains(flags, "A"), FIN: strings.Contains(flags, "F"),
		}
		tcp.SetNetworkLayerForChecksum(network)
		transport = tcp
	}
	packet := serialize(t, &layers.Ethernet{SrcMAC: s.peer.MAC, DstMAC: s.host.MAC, EthernetType: ether}, network, transport)
	if _, err := unix.Write(s.fd, packet); err != nil {
		t.Fatal(err)
	}
}

// answers names what comes back within a time, by the port that it is of: "SA", "R" and
// "unreachable".
func (s *scanner) answers(t *testing.T, limit time.Duration) map[int]string {
	t.Helper()
	got := map[int]string{}
	buf := make([]byte, 2048)
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); {
		tv := unix.NsecToTimeval(time.Until(deadline).Nanoseconds() + 1000)
		if err := unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
			t.Fatal(err)
		}
		n, from, err := unix.Recvfrom(s.fd, buf, 0)
		if ll, ok := from.(*unix.SockaddrLinklayer); err != nil || !ok || ll.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		p := gopacket.NewPacket(buf[:n], layers.LayerTypeEthernet, gopacket.Default)
		if tcp, ok := p.TransportLayer().(*layers.TCP); ok && tcp.DstPort == scanPort {
			switch {
			case tcp.RST:
				got[int(tcp.SrcPort)] = "R"
			case tcp.SYN && tcp.ACK:
				got[int(tcp.SrcPort)] = "SA"
			}
			continue
		}
		quote, v6 := []byte(nil), 0
		if icmp, ok := p.Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4); ok && icmp.TypeCode.Type() == layers.ICMPv4TypeDestinationUnreachable {
			quote = icmp.Payload
		}
		if icmp, ok := p.Layer(layers.LayerTypeICMPv6).(*layers.ICMPv6); ok && icmp.TypeCode.Type() == layers.ICMPv6TypeDestinationUnreachable {
			quote, v6 = icmp.Payload[4:], 20
		}
		if len(quote) >= 24+v6 {
			got[int(quote[22+v6])<<8|int(quote[23+v6])] = "unreachable"
		}
	}
	return got
}

// answerAll has a namespace's kernel answer each datagram to a closed port, not only some.
func answerAll(t *testing.T, n *testbed.Netns) {
	t.Helper()
	set(t, n, "ipv4/icmp_ratelimit", "0")
	set(t, n, "ipv4/icmp_msgs_per_sec", "100000")
	set(t, n, "ipv6/icmp/ratelimit", "0")
}

// A stealth host: whoever scans its ports sees the open one, and nothing of the others,
// by whatever segments and datagrams. What has an endpoint is answered as ever.
func TestPortScan(t *testing.T) {
	b := newBed(t)
	host := b.on(b.host, testbed.ProcOptions{})
	b.listen(host, 8080)
	answerAll(t, b.host)
	first, last := 8070, 8090 // and one that is open
	for _, f := range b.families() {
		scan := func(t *testing.T) map[int]string {
			t.Helper()
			ether := uint16(layers.EthernetTypeIPv4)
			if f.layer == "V6" {
				ether = uint16(layers.EthernetTypeIPv6)
			}
			s := &scanner{newTap(t, b.peerEnd, ether), b.hostEnd, b.peerEnd}
			all := map[int]string{}
			for _, flags := range []string{"S", "A", "F", "SA", ""} {
				for port := first; port <= last; port++ {
					s.probe(t, f, port, flags)
				}
				for port, answer := range s.answers(t, soon) {
					if !strings.Contains(all[port], answer) {
						all[port] += answer + " "
					}
				}
			}
			return all
		}
		t.Run(f.name, func(t *testing.T) {
			open := "SA R "
			got := scan(t)
			for port := first; port <= last; port++ {
				want := "R unreachable "
				if port == 8080 {
					want = open
				}
				if got[port] != want {
					t.Errorf("without a policy port %d answers %q, want %q", port, got[port], want)
				}
			}
			b.commit(b.load("filters:\n"+
				fmt.Sprintf("  - {name: Port Scanning Prevention Filter, layer: INBOUND_TRANSPORT_%s_DISCARD, action: CALLOUT_TERMINATING, "+
					"callout: FWPM_CALLOUT_WFP_TRANSPORT_LAYER_%s_SILENT_DROP, conditions: [{FLAGS: {match: FLAGS_NONE_SET, value: [IS_LOOPBACK]}}]}\n", f.layer, f.layer)+
				rule("BLOCK", "Silence datagrams", "INBOUND_IPPACKET_"+f.layer+"_DISCARD", 0), nil))
			got = scan(t)
			if len(got) != 1 || got[8080] != open {
				t.Errorf("a stealth host answers %v, want %q of port 8080", got, open)
			}
			n := uint64(4 * (last - first)) // TCP probes of closed ports
			// the kernel drops some of what comes to the open port, which is seen there as well
			var closed, others uint64
			for _, e := range b.events() {
				switch {
				case e.Layer != "INBOUND_TRANSPORT_"+f.layer+"_DISCARD":
				case e.DiscardReason == "EndpointNotFound" && e.FilterName == "Port Scanning Prevention Filter" && e.DiscardFilterID == 0:
					closed++
				case e.Dst == at(f.host, 8080):
					others++
				default:
					t.Errorf("event %+v", e)
				}
			}
			if closed != n {
				t.Errorf("%d segments to closed ports, want %d", closed, n)
			}
			if hits := b.hits("INBOUND_TRANSPORT_"+f.layer+"_DISCARD", "Port Scanning Prevention Filter"); hits != n+others {
				t.Errorf("the filter has decided on %d segments, want %d", hits, n+others)
			}
			if hits := b.hits("INBOUND_IPPACKET_"+f.layer+"_DISCARD", "Silence datagrams"); hits != n/4 {
				t.Errorf("%d datagrams to closed ports, want %d", hits, n/4)
			}
			callouts, err := b.engine.Callouts()
			if err != nil || len(callouts) != 0 && !callouts[0].Registered {
				t.Errorf("callouts %+v, %v", callouts, err)
			}
		})
	}
}
