// SPDX-License-Identifier: Apache-2.0

package live

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf/btf"
	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/wfpebpf/wfpebpf/layermap"
	"github.com/wfpebpf/wfpebpf/loader"
	"github.com/wfpebpf/wfpebpf/tests/testbed"
)

// dropping is a road whose host drops what comes from a stranger: an address that the
// peer does not have, so that nobody but the test answers for it.
type dropping struct {
	*road
	t       *testing.T
	process *testbed.Proc // on the host
	taps    map[string]*tap
	port    uint16 // last source port of the stranger
}

func newDropping(t *testing.T) *dropping {
	d := &dropping{road: newRoad(t), t: t, taps: map[string]*tap{}, port: 20000}
	d.process = d.on(d.host, testbed.ProcOptions{})
	// a closed port is seen by its answer, and there are many here
	set(t, d.host, "ipv4/icmp_ratelimit", "0")
	set(t, d.host, "ipv6/icmp/ratelimit", "0")
	for _, f := range d.families() {
		d.taps[f.layer] = newTap(t, d.peerEnd, etherTypes[f.layer])
		d.knows(d.hostEnd, d.stranger(f), d.peerEnd.MAC)
		d.knows(d.hostFar, addressOf(f, d.farEnd), d.farEnd.MAC)
	}
	return d
}

// knows gives the host a neighbour that it need not ask for.
func (d *dropping) knows(link testbed.End, ip netip.Addr, mac net.HardwareAddr) {
	d.t.Helper()
	err := d.host.Netlink().NeighSet(&netlink.Neigh{
		LinkIndex: link.Index, State: netlink.NUD_PERMANENT, IP: ip.AsSlice(), HardwareAddr: mac,
	})
	if err != nil {
		d.t.Fatal(err)
	}
}

func (d *dropping) stranger(f family) netip.Addr { return d.pick(f, "10.77.0.77", "fd77::77") }

// pick is one of two addresses, by family.
func (d *dropping) pick(f family, v4, v6 string) netip.Addr {
	if f.layer == "V6" {
		return netip.MustParseAddr(v6)
	}
	return netip.MustParseAddr(v4)
}

// way is where a packet comes from and goes to.
type way struct{ from, to netip.Addr }

func (d *dropping) toHost(f family) way { return way{d.stranger(f), addressOf(f, d.hostEnd)} }
func (d *dropping) toFar(f family) way  { return way{d.stranger(f), addressOf(f, d.farEnd)} }

// packet is an IP packet.
func (w way) packet(protocol layers.IPProtocol, payload []byte) []byte {
	if w.from.Is6() {
		p := make([]byte, 40, 40+len(payload))
		p[0], p[6], p[7] = 0x60, byte(protocol), 64
		binary.BigEndian.PutUint16(p[4:], uint16(len(payload)))
		copy(p[8:], w.from.AsSlice())
		copy(p[24:], w.to.AsSlice())
		return append(p, payload...)
	}
	p := make([]byte, 20, 20+len(payload))
	p[0], p[8], p[9] = 0x45, 64, byte(protocol)
	binary.BigEndian.PutUint16(p[2:], uint16(20+len(payload)))
	copy(p[12:], w.from.AsSlice())
	copy(p[16:], w.to.AsSlice())
	return summed(append(p, payload...))
}

// summed puts the checksum of an IPv4 header right.
func summed(p []byte) []byte {
	if p[0]>>4 == 4 {
		p[10], p[11] = 0, 0
		binary.BigEndian.PutUint16(p[10:], checksum(p[:20]))
	}
	return p
}

func (w way) network() gopacket.NetworkLayer {
	if w.from.Is6() {
		return &layers.IPv6{Version: 6, SrcIP: w.from.AsSlice(), DstIP: w.to.AsSlice(), NextHeader: layers.IPProtocolUDP}
	}
	return &layers.IPv4{Version: 4, SrcIP: w.from.AsSlice(), DstIP: w.to.AsSlice(), Protocol: layers.IPProtocolUDP}
}

// udp is a whole packet with a datagram.
func (w way) udp(t *testing.T, text string) []byte {
	u := &layers.UDP{SrcPort: 5000, DstPort: 8080}
	u.SetNetworkLayerForChecksum(w.network())
	return w.packet(layers.IPProtocolUDP, serialize(t, u, gopacket.Payload(text)))
}

// tcp is a whole packet with a segment.
func (w way) tcp(t *testing.T, segment layers.TCP, text string) []byte {
	segment.Window = 64000
	segment.SetNetworkLayerForChecksum(w.network())
	return w.packet(layers.IPProtocolTCP, serialize(t, &segment, gopacket.Payload(text)))
}

// echo is a whole packet with an echo request.
func (w way) echo(t *testing.T) []byte {
	if w.from.Is4() {
		return w.packet(layers.IPProtocolICMPv4, serialize(t, &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(8, 0)}))
	}
	return w.icmp6(t, 128, 0, make([]byte, 4))
}

func (w way) icmp6(t *testing.T, kind, code uint8, rest []byte) []byte {
	i := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(kind, code)}
	i.SetNetworkLayerForChecksum(w.network())
	return w.packet(layers.IPProtocolICMPv6, serialize(t, i, gopacket.Payload(rest)))
}

// headerSize is that of a packet without options.
func headerSize(p []byte) int { return map[byte]int{4: 20, 6: 40}[p[0]>>4] }

// put sends a packet from the stranger's link to a MAC address.
func (d *dropping) put(f family, to net.HardwareAddr, packet []byte) {
	d.t.Helper()
	kind := binary.BigEndian.AppendUint16(nil, etherTypes[f.layer])
	if _, err := unix.Write(d.taps[f.layer].fd, slices.Concat(to, d.peerEnd.MAC, kind, packet)); err != nil {
		d.t.Fatal(err)
	}
}

func (d *dropping) send(f family, packet []byte) {
	d.t.Helper()
	d.put(f, d.hostEnd.MAC, packet)
}

// setting sets what has a value for each family, and puts it back.
func (d *dropping) setting(t *testing.T, name, value, back string) {
	t.Helper()
	set(t, d.host, name, value)
	t.Cleanup(func() { set(t, d.host, name, back) })
}

// connection is one of the stranger with a port of the host.
type connection struct {
	way
	port     layers.TCPPort
	seq, ack uint32 // what the host expects, and the next byte of its own
}

func (d *dropping) connect(t *testing.T, f family, to uint16) *connection {
	t.Helper()
	d.port++
	c := &connection{way: d.toHost(f), port: layers.TCPPort(d.port), seq: 1000}
	d.send(f, c.segment(t, layers.TCP{SYN: true, DstPort: layers.TCPPort(to)}, ""))
	deadline := time.Now().Add(testbed.DefaultTimeout)
	buf := make([]byte, 2048)
	for time.Now().Before(deadline) {
		tv := unix.NsecToTimeval(int64(100 * time.Millisecond))
		if err := unix.SetsockoptTimeval(d.taps[f.layer].fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
			t.Fatal(err)
		}
		n, _, err := unix.Recvfrom(d.taps[f.layer].fd, buf, 0)
		if err != nil {
			continue
		}
		p := gopacket.NewPacket(buf[:n], layers.LayerTypeEthernet, gopacket.Default)
		answer, ok := p.Layer(layers.LayerTypeTCP).(*layers.TCP)
		if !ok || !answer.SYN || !answer.ACK || answer.DstPort != c.port {
			continue
		}
		c.seq, c.ack = c.seq+1, answer.Seq+1
		d.send(f, c.segment(t, layers.TCP{ACK: true, DstPort: layers.TCPPort(to)}, ""))
		return c
	}
	t.Fatalf("no answer to a SYN from %s", c.from)
	return nil
}

// segment is a packet of the connection; sequence numbers of 0 are those that are due.
func (c *connection) segment(t *testing.T, s layers.TCP, text string) []byte {
	s.SrcPort = c.port
	if s.DstPort == 0 {
		s.DstPort = 8080
	}
	if s.Seq == 0 {
		s.Seq = c.seq
	}
	if s.Ack == 0 && s.ACK {
		s.Ack = c.ack
	}
	return c.tcp(t, s, text)
}

// cause is why the kernel drops a packet.
type cause struct {
	name     string
	families string // v4, v6
	reason   string // of the kernel; one that has none such does not tell this drop
	layer    string // without the family
	discard  string // module and reason of the metadata
	make     func(t *testing.T, d *dropping, f family) way
}

// broken makes a cause of a packet to the host that is changed before it is sent.
func broken(whole func(t *testing.T, w way) []byte, change func(p []byte) []byte) func(*testing.T, *dropping, family) way {
	return func(t *testing.T, d *dropping, f family) way {
		w := d.toHost(f)
		d.send(f, change(whole(t, w)))
		return w
	}
}

func datagram(t *testing.T, w way) []byte { return w.udp(t, "hello") }
func echo(t *testing.T, w way) []byte     { return w.echo(t) }
func syn(t *testing.T, w way) []byte {
	return w.tcp(t, layers.TCP{SYN: true, SrcPort: 5000, DstPort: 8080}, "")
}
func strange(t *testing.T, w way) []byte { return w.packet(253, []byte("hello, nobody")) }

// between sends a datagram from one address to another, to the router.
func between(v4, v6 way) func(*testing.T, *dropping, family) way {
	return func(t *testing.T, d *dropping, f family) way {
		w := v4
		if f.layer == "V6" {
			w = v6
		}
		d.send(f, datagram(t, w))
		return w
	}
}

func ways(from, to string) way { return way{netip.MustParseAddr(from), netip.MustParseAddr(to)} }

// inConnection makes a cause of what a connection takes amiss.
func inConnection(make func(t *testing.T, c *connection) []byte) func(*testing.T, *dropping, family) way {
	return func(t *testing.T, d *dropping, f family) way {
		c := d.connect(t, f, 8080)
		d.send(f, c.segment(t, layers.TCP{ACK: true, PSH: true}, strings.Repeat("x", 100)))
		c.seq += 100
		d.send(f, make(t, c))
		return c.way
	}
}

var causes = []cause{
	{"bad checksum of the IP header", "v4", "IP_CSUM", "INBOUND_IPPACKET", "network BadChecksum",
		broken(datagram, func(p []byte) []byte { p[10] ^= 0xff; return p })},
	{"IP header shorter than it can be", "v4", "IP_INHDR", "INBOUND_IPPACKET", "network MalformedHeader",
		broken(datagram, func(p []byte) []byte { p[0] = 0x44; return summed(p) })},
	{"loopback address from a link", "v6", "IP_INHDR", "INBOUND_IPPACKET", "network MalformedHeader",
		between(way{}, ways("::1", "fd77::1"))},
	{"shorter than it says", "v4 v6", "PKT_TOO_SMALL", "INBOUND_IPPACKET", "network BadLength",
		broken(datagram, func(p []byte) []byte { return p[:len(p)-3] })},
	{"source of another link (rp_filter)", "v4", "IP_RPFILTER", "INBOUND_IPPACKET", "network BadSourceAddress",
		func(t *testing.T, d *dropping, f family) way {
			d.setting(t, "ipv4/conf/h0/rp_filter", "1", "0")
			w := way{d.farEnd.V4, d.hostEnd.V4}
			d.send(f, datagram(t, w))
			return w
		}},
	{"the host's own address as source", "v4", "IP_LOCAL_SOURCE", "INBOUND_IPPACKET", "network BadSourceAddress",
		between(ways("10.77.1.1", "10.77.0.1"), way{})},
	{"multicast address as source", "v4", "IP_INVALID_SOURCE", "INBOUND_IPPACKET", "network BadSourceAddress",
		between(ways("224.0.0.9", "10.77.0.1"), way{})},
	{"loopback destination", "v4", "IP_LOCALNET", "INBOUND_IPPACKET", "network BeyondScope",
		between(ways("10.77.0.77", "127.0.0.1"), way{})},
	{"nobody's address as destination", "v4", "IP_INVALID_DEST", "INBOUND_IPPACKET", "network NotLocallyDestined",
		between(ways("10.77.0.77", "0.0.0.0"), way{})},
	{"unicast in a broadcast frame", "v4 v6", "UNICAST_IN_L2_MULTICAST", "INBOUND_IPPACKET", "network AdministrativelyConfigured",
		func(t *testing.T, d *dropping, f family) way {
			d.setting(t, map[string]string{"V4": "ipv4", "V6": "ipv6"}[f.layer]+"/conf/h0/drop_unicast_in_l2_multicast", "1", "0")
			w := d.toHost(f)
			d.put(f, net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, datagram(t, w))
			return w
		}},
	{"protocol that nobody handles", "v4 v6", "IP_NOPROTO", "INBOUND_IPPACKET", "network ProtocolUnreachable",
		broken(strange, func(p []byte) []byte { return p })},
	{"no route", "v4 v6", "IP_INNOROUTES", "INBOUND_IPPACKET", "network NoRoute",
		between(ways("10.77.0.77", "203.0.113.9"), ways("fd77::77", "2001:db8::9"))},
	{"not for a host that does not forward", "v4 v6", "IP_INADDRERRORS", "INBOUND_IPPACKET", "network NotLocallyDestined",
		func(t *testing.T, d *dropping, f family) way {
			d.setting(t, map[string]string{"V4": "ipv4/ip_forward", "V6": "ipv6/conf/all/forwarding"}[f.layer], "0", "1")
			w := d.toFar(f)
			d.send(f, datagram(t, w))
			return w
		}},
	{"frame for another host", "v4 v6", "OTHERHOST", "INBOUND_IPPACKET", "network NotLocallyDestined",
		func(t *testing.T, d *dropping, f family) way {
			w := d.toHost(f)
			d.put(f, net.HardwareAddr{2, 0x77, 9, 9, 9, 9}, datagram(t, w))
			return w
		}},
	{"the rest of a packet does not come", "v4 v6", "FRAG_REASM_TIMEOUT", "INBOUND_IPPACKET", "network SessionStateFailure",
		func(t *testing.T, d *dropping, f family) way {
			d.setting(t, map[string]string{"V4": "ipv4/ipfrag_time", "V6": "ipv6/ip6frag_time"}[f.layer], "1", "30")
			w := d.toHost(f)
			if f.layer == "V6" {
				d.send(f, w.packet(layers.IPProtocolIPv6Fragment, append([]byte{17, 0, 0, 1, 0, 0, 0, 9}, make([]byte, 16)...)))
				return w
			}
			p := w.udp(t, "hello, the rest")
			p[3], p[6] = 20+16, p[6]|0x20
			d.send(f, summed(p[:20+16]))
			return w
		}},

	{"TTL at a router", "v4 v6", "IP_INHDR", "IPFORWARD", "network HopLimitExceeded",
		func(t *testing.T, d *dropping, f family) way {
			w := d.toFar(f)
			p := datagram(t, w)
			p[map[int]int{20: 8, 40: 7}[headerSize(p)]] = 1
			d.send(f, summed(p))
			return w
		}},
	{"too large for the next link", "v4 v6", "PKT_TOO_BIG", "IPFORWARD", "network DontFragmentMtuExceeded",
		func(t *testing.T, d *dropping, f family) way {
			link, h := &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: d.hostFar.Index}}, d.host.Netlink()
			if err := h.LinkSetMTU(link, 1280); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { h.LinkSetMTU(link, 1500) })
			w := d.toFar(f)
			p := w.udp(t, strings.Repeat("x", 1400))
			if f.layer == "V4" {
				p[6] |= 0x40 // may not be fragmented
			}
			d.send(f, summed(p))
			return w
		}},
	// of an IPv6 neighbour the kernel gives no reason
	{"no neighbour behind a router", "v4", "NEIGH_FAILED", "IPFORWARD", "network AddressResolutionFailure",
		func(t *testing.T, d *dropping, f family) way {
			d.quickNeighbours(t, f, "h1")
			w := way{d.stranger(f), d.pick(f, "10.77.1.99", "fd77:1::99")}
			d.send(f, datagram(t, w))
			return w
		}},
	{"no neighbour", "v4", "NEIGH_FAILED", "OUTBOUND_IPPACKET", "network AddressResolutionFailure",
		func(t *testing.T, d *dropping, f family) way {
			d.quickNeighbours(t, f, "h0")
			return d.sends(t, f, d.pick(f, "10.77.0.98", "fd77::98"), 1)
		}},
	{"too many wait for a neighbour", "v4 v6", "NEIGH_QUEUEFULL", "OUTBOUND_IPPACKET", "network QueueFull",
		func(t *testing.T, d *dropping, f family) way {
			d.setting(t, map[string]string{"V4": "ipv4", "V6": "ipv6"}[f.layer]+"/neigh/h0/unres_qlen_bytes", "4000", "212992")
			return d.sends(t, f, d.pick(f, "10.77.0.97", "fd77::97"), 10)
		}},
	{"queue of a link that is full", "v4 v6", "QDISC_DROP", "OUTBOUND_IPPACKET", "network QueueFull",
		func(t *testing.T, d *dropping, f family) way {
			d.slow(t, d.hostEnd)
			return d.sends(t, f, d.stranger(f), 20)
		}},
	// IPv6 gives no reason
	{"queue of the next link that is full", "v4 v6", "QDISC_DROP", "OUTBOUND_IPPACKET", "network QueueFull",
		func(t *testing.T, d *dropping, f family) way {
			d.slow(t, d.hostFar)
			for range 20 {
				d.send(f, d.toFar(f).udp(t, strings.Repeat("x", 1400)))
			}
			return d.toFar(f)
		}},
	{"no route any more", "v4", "IP_OUTNOROUTES", "OUTBOUND_TRANSPORT", "network NoRoute",
		func(t *testing.T, d *dropping, f family) way {
			s := d.dial(d.process, f.tcp, at(v6OrV4(addressOf(f, d.farEnd)), 8080))
			d.withoutRoute(t, f, func() {
				dropped.want(t, d.process.Exchange(s, "hello", testbed.Options{Timeout: soon}))
			})
			d.process.CloseSock(s)
			return way{addressOf(f, d.hostFar), addressOf(f, d.farEnd)}
		}},

	{"closed port of UDP", "v4 v6", "NO_SOCKET", "INBOUND_IPPACKET", "network PortUnreachable",
		broken(datagram, func(p []byte) []byte { return p })}, // nobody has the port
	{"closed port of TCP", "v4 v6", "NO_SOCKET", "INBOUND_TRANSPORT", "transport EndpointNotFound",
		func(t *testing.T, d *dropping, f family) way {
			w := d.toHost(f)
			d.send(f, w.tcp(t, layers.TCP{SYN: true, SrcPort: 5000, DstPort: 8081}, ""))
			return w
		}},
	{"bad checksum of UDP", "v4 v6", "UDP_CSUM", "INBOUND_TRANSPORT", "transport ChecksumInvalid",
		broken(datagram, func(p []byte) []byte { p[headerSize(p)+6] ^= 0xff; return p })},
	{"bad checksum of TCP", "v4 v6", "TCP_CSUM", "INBOUND_TRANSPORT", "transport ChecksumInvalid",
		broken(syn, func(p []byte) []byte { p[headerSize(p)+16] ^= 0xff; return p })},
	{"bad checksum of ICMP", "v4 v6", "ICMP_CSUM", "INBOUND_TRANSPORT", "transport ChecksumInvalid",
		broken(echo, func(p []byte) []byte { p[headerSize(p)+2] ^= 0xff; return p })},
	{"datagram shorter than it says", "v4 v6", "PKT_TOO_SMALL", "INBOUND_TRANSPORT", "transport HeaderInvalid",
		broken(datagram, func(p []byte) []byte { p[headerSize(p)+4] = 9; return p })},
	{"TCP header shorter than it can be", "v4 v6", "PKT_TOO_SMALL", "INBOUND_TRANSPORT", "transport HeaderInvalid",
		broken(syn, func(p []byte) []byte { p[headerSize(p)+12] = 0x40; return p })},
	{"solicitation from beyond a router", "v6", "IPV6_NDISC_HOP_LIMIT", "INBOUND_TRANSPORT", "transport HeaderInvalid",
		func(t *testing.T, d *dropping, f family) way {
			w := d.toHost(f)
			d.send(f, w.icmp6(t, 135, 0, append(make([]byte, 4), w.to.AsSlice()...)))
			return w
		}},
	{"socket that is full", "v4 v6", "SOCKET_RCVBUFF", "INBOUND_TRANSPORT", "network QueueFull",
		func(t *testing.T, d *dropping, f family) way {
			w := d.toHost(f)
			s := d.open(d.process, f.udp, at(f.host, 8080))
			defer d.process.CloseSock(s)
			for range 400 {
				d.send(f, w.udp(t, strings.Repeat("x", 1400)))
			}
			time.Sleep(50 * time.Millisecond) // they are on their way
			return w
		}},
	{"FIN to a listener", "v4 v6", "TCP_FLAGS", "INBOUND_TRANSPORT", "transport SessionState",
		func(t *testing.T, d *dropping, f family) way {
			w := d.toHost(f)
			d.send(f, w.tcp(t, layers.TCP{SYN: true, FIN: true, SrcPort: 5000, DstPort: 8080}, ""))
			return w
		}},
	{"SYN in a connection", "v4 v6", "TCP_INVALID_SYN", "INBOUND_TRANSPORT", "transport SessionState",
		inConnection(func(t *testing.T, c *connection) []byte { return c.segment(t, layers.TCP{SYN: true}, "") })},
	{"outside the window", "v4 v6", "TCP_INVALID_SEQUENCE", "INBOUND_TRANSPORT", "transport OutsideWindow",
		inConnection(func(t *testing.T, c *connection) []byte {
			return c.segment(t, layers.TCP{ACK: true, Seq: c.seq + 1<<30}, "far ahead")
		})},
	{"acknowledges what was not sent", "v4 v6", "TCP_ACK_UNSENT_DATA", "INBOUND_TRANSPORT", "transport AckInvalid",
		inConnection(func(t *testing.T, c *connection) []byte {
			return c.segment(t, layers.TCP{ACK: true, Ack: c.ack + 100000}, "x")
		})},
	{"data that has come already", "v4 v6", "TCP_OLD_DATA", "INBOUND_TRANSPORT", "transport DuplicateSegment",
		inConnection(func(t *testing.T, c *connection) []byte {
			return c.segment(t, layers.TCP{ACK: true, Seq: c.seq - 50}, strings.Repeat("x", 50))
		})},
}

// quickNeighbours has the host look for absent neighbours for a moment only.
func (d *dropping) quickNeighbours(t *testing.T, f family, link string) {
	t.Helper()
	neigh := map[string]string{"V4": "ipv4", "V6": "ipv6"}[f.layer] + "/neigh/" + link + "/"
	d.setting(t, neigh+"retrans_time_ms", "20", "1000")
	d.setting(t, neigh+"mcast_solicit", "1", "3")
}

// slow gives a link of the host a queue that has no room.
func (d *dropping) slow(t *testing.T, link testbed.End) {
	t.Helper()
	h := d.host.Netlink()
	q := &netlink.Tbf{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: link.Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
		Rate:       1000, Limit: 2000, Buffer: 100000,
	}
	if err := h.QdiscAdd(q); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.QdiscDel(q) })
}

// withoutRoute runs f while the host has no route to the far end.
func (d *dropping) withoutRoute(t *testing.T, fam family, f func()) {
	t.Helper()
	h := d.host.Netlink()
	to := addressOf(fam, d.farEnd)
	bits := 24
	if to.Is6() {
		bits = 64
	}
	route := &netlink.Route{LinkIndex: d.hostFar.Index, Dst: ipNet(netip.PrefixFrom(to, bits).Masked())}
	if to.Is4() {
		route.Scope = unix.RT_SCOPE_LINK
	}
	if err := h.RouteDel(route); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := h.RouteAdd(route); err != nil {
			t.Error(err)
		}
	}()
	f()
}

func v6OrV4(a netip.Addr) string {
	if a.Is6() {
		return v6(a)
	}
	return a.String()
}

// sends has the host send datagrams.
func (d *dropping) sends(t *testing.T, f family, to netip.Addr, n int) way {
	t.Helper()
	w := way{addressOf(f, d.hostEnd), to}
	s := d.open(d.process, f.udp, at(f.host, 0))
	defer d.process.CloseSock(s)
	for range n {
		err := d.process.SendTo(s, netip.AddrPortFrom(to, 9).String(), strings.Repeat("x", 1400))
		if err != nil && testbed.Errno(err) != unix.EAGAIN {
			passes.want(t, err)
		}
	}
	return w
}

// bySocket are reasons of packets that nothing but the receiving socket says the
// namespace of, which the kernel names from 6.11 on.
var bySocket = []string{"TCP_OLD_DATA"}

// kernelTells reports whether the running kernel has a drop reason, and says whose such a
// packet was.
func kernelTells(t *testing.T, reason string) bool {
	t.Helper()
	spec, err := btf.LoadKernelSpec()
	if err != nil {
		t.Fatal(err)
	}
	var e *btf.Enum
	if err := spec.TypeByName("skb_drop_reason", &e); err != nil {
		t.Fatal(err)
	}
	if reason == "NO_SOCKET" && lacks("OUTBOUND_TRANSPORT_V4") != "" {
		return false // its answer is not heard
	}
	if slices.Contains(bySocket, reason) {
		var record *btf.Struct
		if err := spec.TypeByName("trace_event_raw_kfree_skb", &record); err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(record.Members, func(m btf.Member) bool { return m.Name == "rx_sk" }) {
			return false
		}
	}
	return slices.ContainsFunc(e.Values, func(v btf.EnumValue) bool { return v.Name == "SKB_DROP_REASON_"+reason })
}

var errNotSeen = errors.New("no event")

// find waits for an event of a drop.
func (d *dropping) find(layer, discard string, w way, limit time.Duration) (loader.Event, error) {
	d.t.Helper()
	others := map[string]int{}
	for deadline := time.Now().Add(limit); ; time.Sleep(20 * time.Millisecond) {
		for _, e := range d.events() {
			if e.Layer == layer && e.DiscardModule+" "+e.DiscardReason == discard && addressIn(e.Src) == w.from && addressIn(e.Dst) == w.to {
				return e, nil
			}
			others[fmt.Sprintf("%s %s %s, %s to %s", e.Layer, e.DiscardModule, e.DiscardReason, e.Src, e.Dst)]++
		}
		if time.Now().After(deadline) {
			return loader.Event{}, fmt.Errorf("%w of %s at %s, %s to %s; there are %v", errNotSeen, discard, layer, w.from, w.to, others)
		}
	}
}

// addressIn is the address of an address with or without a port.
func addressIn(s string) netip.Addr {
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return ap.Addr()
	}
	a, _ := netip.ParseAddr(s)
	return a
}

// dropLayers are the layers of the causes.
func dropLayers() (list []string) {
	for _, c := range causes {
		if !slices.Contains(list, c.layer) {
			list = append(list, c.layer)
		}
	}
	return list
}

// lacks says why this kernel cannot carry a layer.
func lacks(layer string) string {
	id := layermap.ByName(layer).ID
	for _, s := range loader.Probe() {
		if s.Layer == id && !s.Available {
			return s.Reason
		}
	}
	return ""
}

// What the kernel drops is seen at its layer, with module and reason.
func TestDrops(t *testing.T) {
	d := newDropping(t)
	d.listenTCP(d.process, 8080)
	d.listenTCP(d.on(d.far, testbed.ProcOptions{}), 8080)
	var rules strings.Builder
	lacking := map[string]string{}
	for _, layer := range dropLayers() {
		if why := lacks(layer + "_V4_DISCARD"); why != "" {
			lacking[layer] = why
			continue
		}
		rules.WriteString(rule("BLOCK", "See it", atDiscard(layer), 0))
	}
	d.apply("filters:\n" + rules.String())
	seen := map[string]bool{}
	for _, c := range causes {
		for _, f := range d.families() {
			if !strings.Contains(c.families, f.name) {
				continue
			}
			if why := lacking[c.layer]; why != "" {
				t.Logf("%s %s: %s", c.name, f.name, why)
				continue
			}
			t.Run(c.name+" "+f.name, func(t *testing.T) {
				d.t = t
				d.events()
				w := c.make(t, d, f)
				if !kernelTells(t, c.reason) {
					t.Logf("this kernel does not tell of %s", c.reason)
					return
				}
				layer := c.layer + "_" + f.layer + "_DISCARD"
				e, err := d.find(layer, c.discard, w, 3*time.Second)
				if err != nil {
					t.Fatal(err)
				}
				direction := map[string]string{"IPFORWARD": "forward", "OUTBOUND_IPPACKET": "out", "OUTBOUND_TRANSPORT": "out"}[c.layer]
				if direction == "" {
					direction = "in"
				}
				if e.Direction != direction || e.Action != "block" || e.FilterName != "See it" || e.DiscardFilterID != 0 || (e.Interface == "") != (c.layer == "OUTBOUND_TRANSPORT") {
					t.Errorf("event %+v", e)
				}
				d.wantHits(layer, "See it")
				seen[c.name] = true
			})
		}
	}
	if len(lacking) == 0 && len(seen) < 20 {
		t.Errorf("%d causes were seen", len(seen))
	}
}

// causeOf is a cause of the table by its name.
func causeOf(t *testing.T, name string) cause {
	t.Helper()
	i := slices.IndexFunc(causes, func(c cause) bool { return c.name == name })
	if i < 0 {
		t.Fatalf("no cause %q", name)
	}
	return causes[i]
}

// The fields of a drop are those of its packet, as its layer's own blocks have them.
func TestDropsConditions(t *testing.T) {
	d := newDropping(t)
	index := func(e testbed.End) string { return fmt.Sprint(e.Index) }
	for _, row := range []struct {
		cause string
		// on these, S, H and F stand for the addresses of the stranger, the host and the far end
		meets, not []string
	}{
		{"shorter than it says",
			[]string{"{IP_REMOTE_ADDRESS: S}", "{IP_LOCAL_ADDRESS: H}", "{IP_LOCAL_ADDRESS_TYPE: unicast}", "{IP_LOCAL_INTERFACE: h0}",
				"{INTERFACE_INDEX: " + index(d.hostEnd) + "}", "{INTERFACE_TYPE: 6}", "{FLAGS: {match: FLAGS_NONE_SET, value: [IS_LOOPBACK, IS_FRAGMENT]}}"},
			[]string{"{IP_REMOTE_ADDRESS: H}", "{IP_LOCAL_ADDRESS: S}", "{IP_LOCAL_ADDRESS_TYPE: multicast}", "{IP_LOCAL_INTERFACE: [h1, lo]}",
				"{INTERFACE_INDEX: " + index(d.hostFar) + "}", "{FLAGS: [IS_FRAGMENT]}"}},
		{"bad checksum of UDP",
			[]string{"{IP_REMOTE_ADDRESS: S}", "{IP_LOCAL_ADDRESS: H}", "{IP_PROTOCOL: udp}", "{IP_LOCAL_PORT: 8080}", "{IP_REMOTE_PORT: 5000}",
				"{IP_LOCAL_INTERFACE: h0}", "{INTERFACE_INDEX: " + index(d.hostEnd) + "}", "{FLAGS: {match: FLAGS_NONE_SET, value: [IS_LOOPBACK]}}"},
			[]string{"{IP_REMOTE_ADDRESS: H}", "{IP_LOCAL_ADDRESS: S}", "{IP_PROTOCOL: tcp}", "{IP_LOCAL_PORT: 5000}", "{IP_REMOTE_PORT: 8080}",
				"{IP_LOCAL_INTERFACE: h1}", "{FLAGS: [IS_LOOPBACK]}"}},
		{"TTL at a router",
			[]string{"{IP_SOURCE_ADDRESS: S}", "{IP_DESTINATION_ADDRESS: F}", "{IP_LOCAL_INTERFACE: h0}", "{IP_FORWARD_INTERFACE: h1}",
				"{SOURCE_INTERFACE_INDEX: " + index(d.hostEnd) + "}", "{DESTINATION_INTERFACE_INDEX: " + index(d.hostFar) + "}",
				"{FLAGS: {match: FLAGS_NONE_SET, value: [IS_FRAGMENT]}}"},
			[]string{"{IP_SOURCE_ADDRESS: F}", "{IP_DESTINATION_ADDRESS: S}", "{IP_LOCAL_INTERFACE: h1}", "{IP_FORWARD_INTERFACE: h0}",
				"{SOURCE_INTERFACE_INDEX: " + index(d.hostFar) + "}"}},
		{"too many wait for a neighbour",
			[]string{"{IP_LOCAL_ADDRESS: H}", "{IP_LOCAL_INTERFACE: h0}", "{INTERFACE_INDEX: " + index(d.hostEnd) + "}"},
			[]string{"{IP_REMOTE_ADDRESS: H}", "{IP_LOCAL_ADDRESS: S}", "{IP_LOCAL_INTERFACE: h1}"}},
	} {
		c := causeOf(t, row.cause)
		for _, f := range d.families() {
			address := strings.NewReplacer(": S}", `: "`+d.stranger(f).String()+`"}`, ": H}", `: "`+addressOf(f, d.hostEnd).String()+`"}`,
				": F}", `: "`+addressOf(f, d.farEnd).String()+`"}`)
			layer := c.layer + "_" + f.layer + "_DISCARD"
			for decides, list := range map[string][]string{"Block it": row.meets, "Permit the rest": row.not} {
				for _, conditions := range list {
					t.Run(row.cause+" "+f.name+" "+conditions, func(t *testing.T) {
						d.t = t
						d.apply(blocks(layer, address.Replace(conditions)))
						d.events()
						w := c.make(t, d, f)
						deadline := time.Now().Add(3 * time.Second)
						for d.hits(layer, decides) == 0 && time.Now().Before(deadline) {
							time.Sleep(10 * time.Millisecond)
						}
						d.wantHits(layer, decides)
						if _, err := d.find(layer, c.discard, w, 0); (err == nil) != (decides == "Block it") {
							t.Errorf("an event of a block: %v", err)
						}
					})
				}
			}
		}
	}
}

// All that an event says of a drop.
func TestDropsEvent(t *testing.T) {
	d := newDropping(t)
	d.apply(blocks(atDiscard("INBOUND_TRANSPORT")))
	for _, f := range d.families() {
		c := causeOf(t, "bad checksum of UDP")
		layer := c.layer + "_" + f.layer + "_DISCARD"
		e, err := d.find(layer, c.discard, c.make(t, d, f), 3*time.Second)
		if err != nil {
			t.Error(err)
			continue
		}
		want := loader.Event{
			Time: e.Time, Layer: layer, Action: "block", FilterID: e.FilterID, FilterName: "Block it", SubLayer: "UNIVERSAL",
			Direction: "in", Protocol: unix.IPPROTO_UDP, Interface: "h0", DiscardModule: "transport", DiscardReason: "ChecksumInvalid",
			Src: netip.AddrPortFrom(d.stranger(f), 5000).String(), Dst: netip.AddrPortFrom(addressOf(f, d.hostEnd), 8080).String(),
		}
		if e != want {
			t.Errorf("event %+v,\nwant  %+v", e, want)
		}
	}
}

// A header that cannot be read has no addresses to meet a condition, and is seen.
func TestDropsWithoutAddresses(t *testing.T) {
	d := newDropping(t)
	for _, f := range d.families() {
		layer := "INBOUND_IPPACKET_" + f.layer + "_DISCARD"
		d.apply(blocks(layer, `{IP_REMOTE_ADDRESS: "`+d.stranger(f).String()+`"}`))
		p := datagram(t, d.toHost(f))
		p[0] = 0xf0 | p[0]&15 // version 15
		d.send(f, p)
		deadline := time.Now().Add(3 * time.Second)
		for d.hits(layer, "Permit the rest") == 0 && time.Now().Before(deadline) {
			time.Sleep(10 * time.Millisecond)
		}
		d.wantHits(layer, "Permit the rest")
		if n := d.hits(layer, "Block it"); n != 0 {
			t.Errorf("%s: an address that nobody can read was met %d times", layer, n)
		}
	}
}

// What a filter blocks is dropped by the kernel, too, and is one discard all the same.
func TestDropsOfOwnBlocks(t *testing.T) {
	d := newDropping(t)
	d.listenTCP(d.process, 8080)
	for _, f := range d.families() {
		for layer, way := range map[string]way{
			"INBOUND_IPPACKET": d.toHost(f), "INBOUND_TRANSPORT": d.toHost(f), "IPFORWARD": d.toFar(f), "OUTBOUND_TRANSPORT": {addressOf(f, d.hostEnd), d.stranger(f)},
			"OUTBOUND_IPPACKET": {addressOf(f, d.hostEnd), d.stranger(f)},
		} {
			t.Run(layer+" "+f.name, func(t *testing.T) {
				d.t = t
				var all []string
				for _, l := range dropLayers() {
					all = append(all, l+"_"+f.layer+"_DISCARD")
				}
				field := "IP_REMOTE_ADDRESS"
				if layer == "IPFORWARD" {
					field = "IP_SOURCE_ADDRESS"
				}
				name := layer + "_" + f.layer
				d.apply("filters:\n" + rule("BLOCK", "Block it", name, 8, "{"+field+`: "`+d.stranger(f).String()+`"}`) +
					rule("BLOCK", "See it", "["+strings.Join(all, ", ")+"]", 0))
				d.events()
				if strings.HasPrefix(layer, "OUTBOUND") {
					s := d.open(d.process, f.udp, at(f.host, 0))
					d.process.SendTo(s, netip.AddrPortFrom(d.stranger(f), 9).String(), "hello")
					d.process.CloseSock(s)
				} else {
					d.send(f, datagram(t, way))
				}
				var list []loader.Event
				of := func(e loader.Event) bool { return e.DiscardModule != "" && addressIn(e.Src) == way.from }
				d.await(func() bool {
					list = append(list, d.events()...)
					return slices.ContainsFunc(list, of)
				})
				time.Sleep(50 * time.Millisecond) // the kernel's drop follows at once
				list = slices.DeleteFunc(append(list, d.events()...), func(e loader.Event) bool { return !of(e) })
				if len(list) != 1 || list[0].Layer != name+"_DISCARD" || list[0].DiscardReason != "FirewallPolicy" {
					t.Errorf("discards %+v, want the block's alone", list)
				}
			})
		}
	}
}

// What another namespace drops is its own affair.
func TestDropsOfOthers(t *testing.T) {
	d := newDropping(t)
	d.apply(blocks(atDiscard("INBOUND_TRANSPORT")))
	c := causeOf(t, "bad checksum of UDP")
	for _, f := range d.families() {
		out := newTap(t, d.hostEnd, etherTypes[f.layer])
		w := way{addressOf(f, d.hostEnd), addressOf(f, d.peerEnd)}
		p := datagram(t, w)
		p[headerSize(p)+6] ^= 0xff
		kind := binary.BigEndian.AppendUint16(nil, etherTypes[f.layer])
		if _, err := unix.Write(out.fd, slices.Concat(d.peerEnd.MAC, d.hostEnd.MAC, kind, p)); err != nil {
			t.Fatal(err)
		}
		layer := c.layer + "_" + f.layer + "_DISCARD"
		if _, err := d.find(layer, c.discard, c.make(t, d, f), 3*time.Second); err != nil {
			t.Error(err) // its own comes later, and is seen
		}
		if n := d.hits(layer, "Block it"); n != 1 {
			t.Errorf("%s: %d drops, want the host's own", layer, n)
		}
	}
}

// The kernel's drops are looked at only where somebody asks.
func TestDropsPayForUse(t *testing.T) {
	b := newBed(t)
	for _, row := range []struct {
		policy string
		want   bool
	}{
		{blocks(both("INBOUND_IPPACKET"), "{IP_LOCAL_ADDRESS_TYPE: multicast}"), false},
		{blocks(atDiscard("ALE_AUTH_CONNECT")), false},
		{blocks(atDiscard("INBOUND_IPPACKET")), true},
		{blocks("IPFORWARD_V6_DISCARD"), true},
		{"filters: []\n", false},
	} {
		b.apply(row.policy)
		got := slices.ContainsFunc(b.hooks(), func(name string) bool { return strings.HasPrefix(name, "kfree_skb") })
		if got != row.want {
			t.Errorf("%s: hooks %q", row.policy, b.hooks())
		}
	}
}
