// SPDX-License-Identifier: Apache-2.0

package live

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"golang.org/x/sys/unix"

	"github.com/wfpebpf/wfpebpf/layermap"
	"github.com/wfpebpf/wfpebpf/loader"
	"github.com/wfpebpf/wfpebpf/tests/testbed"
)

// anatomy is a packet whose parts a test has made itself: each is bytes that stand nowhere
// else in it.
type anatomy struct {
	mac, ip, transport, data []byte
}

// bytes are those of the packet as a layer counts them.
func (a anatomy) bytes(framed bool) []byte {
	packet := slices.Concat(a.ip, a.transport, a.data)
	if framed {
		return slices.Concat(a.mac, packet)
	}
	return packet
}

// offsetCase is a packet from the peer to the host.
type offsetCase struct {
	name string
	make func(o *offsetBed, f family) anatomy // nil: it is sent otherwise
	// icmp: the data of the layers below is the ICMP header; an error quotes a packet
	icmp, quotes bool
	tcp          bool
	layers       string // short names of the layers that must see it, as in packet flows
}

// offsetBed sends packets of its own making, and real ones.
type offsetBed struct {
	*road
	host, peer *testbed.Proc
	guests     [2]*testbed.Proc
	out        *tap
	checked    map[layermap.LayerID]bool
}

const (
	offsetPort  = 8080
	offsetText  = "here the data begin"
	offsetAsked = 9000 // the peer's port
)

// v4Options are eight bytes of an IPv4 header; hosts pass over them.
var v4Options = []layers.IPv4Option{
	{OptionType: 1}, {OptionType: 1}, {OptionType: 1}, {OptionType: 1}, {OptionType: 1}, {OptionType: 1}, {OptionType: 1}, {OptionType: 0},
}

// network is the IP headers of a packet before a transport header of some size; bare has
// neither options nor extension headers.
func (o *offsetBed) network(f family, protocol layers.IPProtocol, payload int, bare bool) []byte {
	from, to := o.peerEnd, o.hostEnd
	if f.name == "v4" {
		ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: protocol, SrcIP: from.V4.AsSlice(), DstIP: to.V4.AsSlice()}
		if !bare {
			ip.Options = v4Options
		}
		whole := serialize(o.t, ip, gopacket.Payload(make([]byte, payload)))
		return whole[:len(whole)-payload]
	}
	ip := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: protocol, SrcIP: from.V6.AsSlice(), DstIP: to.V6.AsSlice()}
	var more []byte
	if !bare {
		ip.NextHeader = layers.IPProtocolIPv6HopByHop
		more = []byte{byte(layers.IPProtocolIPv6Destination), 0, 1, 4, 0, 0, 0, 0}
		// an option that hosts pass over
		more = append(more, byte(protocol), 1, 0x1e, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	}
	whole := serialize(o.t, ip, gopacket.Payload(append(more, make([]byte, payload)...)))
	return whole[:len(whole)-payload]
}

// addressed sets what a transport header's checksum needs.
func (o *offsetBed) addressed(f family) gopacket.NetworkLayer {
	if f.name == "v4" {
		return &layers.IPv4{SrcIP: o.peerEnd.V4.AsSlice(), DstIP: o.hostEnd.V4.AsSlice(), Protocol: layers.IPProtocolUDP}
	}
	return &layers.IPv6{SrcIP: o.peerEnd.V6.AsSlice(), DstIP: o.hostEnd.V6.AsSlice()}
}

func (o *offsetBed) packet(f family, protocol layers.IPProtocol, bare bool, text string, transport gopacket.SerializableLayer) anatomy {
	whole := serialize(o.t, transport, gopacket.Payload(text))
	at := len(whole) - len(text)
	return anatomy{o.mac(f), o.network(f, protocol, len(whole), bare), whole[:at], whole[at:]}
}

func (o *offsetBed) mac(f family) []byte {
	kind := layers.EthernetTypeIPv4
	if f.name == "v6" {
		kind = layers.EthernetTypeIPv6
	}
	const header = 14 // gopacket fills the frame up
	return serialize(o.t, &layers.Ethernet{SrcMAC: o.peerEnd.MAC, DstMAC: o.hostEnd.MAC, EthernetType: kind})[:header]
}

func (o *offsetBed) udp(f family, bare bool) anatomy {
	udp := &layers.UDP{SrcPort: offsetAsked, DstPort: offsetPort}
	udp.SetNetworkLayerForChecksum(o.addressed(f))
	return o.packet(f, layers.IPProtocolUDP, bare, offsetText, udp)
}

func (o *offsetBed) syn(f family, bare bool) anatomy {
	tcp := &layers.TCP{SrcPort: offsetAsked, DstPort: offsetPort, Seq: 1, SYN: true, Window: 1000}
	if !bare {
		tcp.Options = []layers.TCPOption{
			{OptionType: layers.TCPOptionKindMSS, OptionLength: 4, OptionData: []byte{4, 0}},
			{OptionType: layers.TCPOptionKindNop}, {OptionType: layers.TCPOptionKindNop},
			{OptionType: layers.TCPOptionKindSACKPermitted, OptionLength: 2},
		}
	}
	tcp.SetNetworkLayerForChecksum(o.addressed(f))
	return o.packet(f, layers.IPProtocolTCP, bare, offsetText, tcp)
}

// icmp is a message of a type; text is what follows the ICMP header.
func (o *offsetBed) icmp(f family, kinds [2]uint8, bare bool, text string) anatomy {
	if f.name == "v4" {
		return o.packet(f, layers.IPProtocolICMPv4, bare, text, &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(kinds[0], map[uint8]uint8{3: 3}[kinds[0]])})
	}
	// gopacket's header ends before the four bytes that belong to the message
	icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(kinds[1], map[uint8]uint8{1: 4}[kinds[1]])}
	icmp.SetNetworkLayerForChecksum(o.addressed(f))
	a := o.packet(f, layers.IPProtocolICMPv6, bare, "\x00\x00\x00\x00"+text, icmp)
	a.transport, a.data = append(a.transport, a.data[:4]...), a.data[4:]
	return a
}

// quoted is a datagram of the host that an error tells of.
func (o *offsetBed) quoted(f family) string {
	turned := *o
	turned.road = &road{bed: o.theOther()}
	return string(turned.udp(f, true).bytes(false))
}

// tagged puts a VLAN tag that names no VLAN into a frame: the kernel takes it out again.
func tagged(a anatomy) []byte {
	return slices.Concat(a.mac[:12], []byte{0x81, 0, 0x60, 0}, a.mac[12:], a.bytes(false))
}

// everywhereIn are the layers of any packet that comes in.
const everywhereIn = "N-in E-in IP-in IT "

var offsetCases = []offsetCase{
	{name: "datagram", layers: everywhereIn + "AR FE DG ", make: func(o *offsetBed, f family) anatomy { return o.udp(f, true) }},
	{name: "datagram behind options", layers: everywhereIn + "AR FE DG ", make: func(o *offsetBed, f family) anatomy { return o.udp(f, false) }},
	{name: "SYN", tcp: true, layers: everywhereIn + "SP AR ", make: func(o *offsetBed, f family) anatomy { return o.syn(f, true) }},
	{name: "SYN with options behind options", tcp: true, layers: everywhereIn + "SP AR ", make: func(o *offsetBed, f family) anatomy { return o.syn(f, false) }},
	{name: "echo", icmp: true, layers: everywhereIn, make: func(o *offsetBed, f family) anatomy {
		return o.icmp(f, [2]uint8{echoV4, echoV6}, true, offsetText)
	}},
	{name: "echo behind options", icmp: true, layers: everywhereIn, make: func(o *offsetBed, f family) anatomy {
		return o.icmp(f, [2]uint8{echoV4, echoV6}, false, offsetText)
	}},
	{name: "error", icmp: true, quotes: true, layers: everywhereIn + "IE ", make: func(o *offsetBed, f family) anatomy {
		return o.icmp(f, [2]uint8{3, 1}, true, o.quoted(f))
	}},
	{name: "error behind options", icmp: true, quotes: true, layers: everywhereIn + "IE ", make: func(o *offsetBed, f family) anatomy {
		return o.icmp(f, [2]uint8{3, 1}, false, o.quoted(f))
	}},
}

// part is what the seed says that a layer's offset points at.
func (c offsetCase) part(t *testing.T, l *layermap.Layer, outbound bool, a anatomy) []byte {
	t.Helper()
	transport := slices.Concat(a.transport, a.data)
	data := a.data
	if c.icmp && l.Offset != layermap.OffsetInnerIPHeader {
		data = transport
	}
	switch l.Offset.String() {
	case "MAC header":
		return a.bytes(true)
	case "IP header":
		return a.bytes(false)
	case "transport header", "ICMP header", "transport header, TCP not applicable":
		return transport
	case "inner IP header", "data":
		return data
	case "inbound data, outbound transport header":
		if outbound {
			return transport
		}
		return data
	}
	t.Fatalf("%s has no place in its packet", l.Name)
	return nil
}

// check holds an event's metadata against the bytes of its packet.
func (o *offsetBed) check(t *testing.T, c offsetCase, e loader.Event, a anatomy) {
	t.Helper()
	l := layermap.ByName(e.Layer)
	if l.Offset == layermap.OffsetNone || l.Offset == layermap.OffsetTransportNonTCP && c.tcp {
		if e.Metadata != nil {
			t.Errorf("%s has no packet, and metadata %+v", e.Layer, *e.Metadata)
		}
		return
	}
	if e.Metadata == nil {
		t.Errorf("no metadata at %s", e.Layer)
		return
	}
	o.checked[l.ID] = true
	framed := l.Family == layermap.AnyFamily || strings.Contains(l.Name, "VSWITCH")
	outbound := e.Direction == "out"
	m, packet, part := *e.Metadata, a.bytes(framed), c.part(t, l, outbound, a)
	if m.DataOffset > len(packet) || !bytes.Equal(packet[m.DataOffset:], part) {
		t.Errorf("%s: offset %d of %x, want that of %x (%s)", e.Layer, m.DataOffset, packet, part, l.Offset)
	}
	// the way back to the headers (metadata.md 5)
	ip, transport, frame := len(a.ip), len(a.transport), len(a.mac)
	if c.quotes && l.Offset == layermap.OffsetInnerIPHeader {
		ip += transport
	}
	if outbound && l.Offset == layermap.OffsetDataOrTransport {
		ip = 0
	}
	for _, size := range []struct {
		field     layermap.MetadataField
		got, want int
	}{
		{layermap.IPHeaderSize, m.IPHeaderSize, ip},
		{layermap.TransportHeaderSize, m.TransportHeaderSize, transport},
		{layermap.EthernetMACHeaderSize, m.EthernetMACHeaderSize, frame},
	} {
		if !l.HasMetadata(size.field) {
			size.want = 0
		}
		if size.got != size.want {
			t.Errorf("%s: %s is %d, want %d", e.Layer, size.field, size.got, size.want)
		}
	}
}

// saw waits until the layers have told of a packet, and checks what each says. The first
// event of each layer is of the packet, and not of an answer.
func (o *offsetBed) saw(t *testing.T, c offsetCase, f family, direction string, a anatomy) {
	t.Helper()
	want := map[string]bool{}
	for token := range strings.FieldsSeq(c.layers) {
		if l := flowLayer(token, f); l.Hook().Live {
			want[l.Name] = true
		}
	}
	told := map[string]bool{}
	missing := func() (list []string) {
		for name := range want {
			if !told[name] {
				list = append(list, name)
			}
		}
		return list
	}
	for deadline := time.Now().Add(3 * time.Second); len(missing()) > 0 && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		for _, e := range o.wholeEvents() {
			if !want[e.Layer] || told[e.Layer] || e.Direction != direction || (c.make != nil && e.Interface != "h0") {
				continue
			}
			told[e.Layer] = true
			o.check(t, c, e, a)
		}
	}
	if list := missing(); len(list) > 0 {
		t.Errorf("no event at %q", list)
	}
}

// sentCase is what the host sends, and the peer sees as it is on the wire.
type sentCase struct {
	offsetCase
	send  func(o *offsetBed, f family)
	shows func(a anatomy) bool
}

const everywhereOut = "OT IP-out E-out N-out "

var sentCases = []sentCase{
	{
		offsetCase{name: "datagram with options", layers: "FE DG " + everywhereOut},
		func(o *offsetBed, f family) {
			s := o.open(o.host, f.udp, at(f.host, 0))
			defer o.host.CloseSock(s)
			o.setOptions(s, f)
			passes.want(o.t, o.host.SendTo(s, at(f.peer, offsetPort), offsetText))
		},
		func(a anatomy) bool { return string(a.data) == offsetText },
	},
	{
		// the kernel gives it options of TCP
		offsetCase{name: "SYN", tcp: true, layers: "SP " + everywhereOut},
		func(o *offsetBed, f family) {
			passes.want(o.t, o.host.Connect(f.tcp, at(f.peer, offsetPort), testbed.Options{MPTCP: testbed.MPTCPOff}))
		},
		func(a anatomy) bool { return len(a.transport) > 20 && a.transport[13] == 2 },
	},
	{
		offsetCase{name: "error", icmp: true, layers: "OE " + everywhereOut},
		func(o *offsetBed, f family) {
			passes.want(o.t, o.peer.UDPSend(f.udp, at(f.host, closed), offsetText))
		},
		func(a anatomy) bool { return bytes.HasSuffix(a.data, []byte(offsetText)) },
	},
}

// setOptions gives what a socket sends options of IPv4, or destination options of IPv6.
func (o *offsetBed) setOptions(s testbed.Sock, f family) {
	o.t.Helper()
	fd, err := o.host.Duplicate(s)
	if err != nil {
		o.t.Fatal(err)
	}
	defer unix.Close(fd)
	if f.name == "v4" {
		err = unix.SetsockoptString(fd, unix.IPPROTO_IP, unix.IP_OPTIONS, "\x01\x01\x01\x01\x01\x01\x01\x00")
	} else {
		err = unix.SetsockoptString(fd, unix.IPPROTO_IPV6, unix.IPV6_DSTOPTS, "\x00\x00\x01\x04\x00\x00\x00\x00")
	}
	if err != nil {
		o.t.Fatal(err)
	}
}

// dissect takes a frame to pieces.
func dissect(frame []byte) (a anatomy, ok bool) {
	const mac, destinationOptions = 14, 60
	if len(frame) < mac+40 {
		return a, false
	}
	packet := frame[mac:]
	at, protocol := int(packet[0]&15)*4, packet[9]
	if packet[0]>>4 == 6 {
		at, protocol = 40, packet[6]
		for protocol == destinationOptions && len(packet) > at+8 {
			protocol, at = packet[at], at+int(packet[at+1]+1)*8
		}
	}
	end := at + 8
	if protocol == unix.IPPROTO_TCP && len(packet) > at+12 {
		end = at + int(packet[at+12]>>4)*4
	}
	if len(packet) < end {
		return a, false
	}
	return anatomy{frame[:mac], packet[:at], packet[at:end], packet[end:]}, true
}

// sees waits for a packet that the peer receives.
func (o *offsetBed) sees(from *tap, shows func(anatomy) bool) (anatomy, bool) {
	buf := make([]byte, 2048)
	for deadline := time.Now().Add(3 * time.Second); time.Now().Before(deadline); {
		n, _, err := unix.Recvfrom(from.fd, buf, unix.MSG_DONTWAIT)
		if err != nil {
			time.Sleep(5 * time.Millisecond)
			continue
		}
		if a, ok := dissect(bytes.Clone(buf[:n])); ok && bytes.Equal(a.mac[6:12], o.hostEnd.MAC) && shows(a) {
			return a, true
		}
	}
	return anatomy{}, false
}

// throughCases are packets of others: of a datagram of plain headers, whose parts lie
// where those of any such datagram do.
var throughCases = []struct {
	offsetCase
	direction string
	send      func(o *offsetBed, f, way family)
}{
	{offsetCase{name: "forwarded", layers: "FWD "}, "forward", func(o *offsetBed, f, way family) {
		passes.want(o.t, o.peer.UDPSend(f.udp, at(way.host, offsetPort), offsetText))
	}},
	{offsetCase{name: "into the switch", layers: "VE-in VT-in "}, "in", func(o *offsetBed, f, _ family) { o.switched(f) }},
	{offsetCase{name: "out of the switch", layers: "VE-out VT-out "}, "out", func(o *offsetBed, f, _ family) { o.switched(f) }},
}

func (o *offsetBed) switched(f family) {
	o.t.Helper()
	to := map[string]string{"v4": "10.78.0.2", "v6": "[fd78::2]"}[f.name]
	passes.want(o.t, o.guests[0].UDPSend(f.udp, at(to, offsetPort), offsetText))
}

// The data offset that an event tells points at the byte that the documents name, and the
// sizes of the headers lead back from there.
func TestDataOffset(t *testing.T) {
	o := &offsetBed{road: newRoad(t), checked: map[layermap.LayerID]bool{}}
	set(t, o.bed.host, "ipv4/icmp_ratelimit", "0")
	o.bed.silence("h0", o.peerEnd)
	o.theOther().silence("p0", o.hostEnd)
	o.openEngine(loader.Options{Target: o.target(), Permits: true})
	o.host, o.peer = o.on(o.bed.host, testbed.ProcOptions{}), o.on(o.bed.peer, testbed.ProcOptions{})
	o.guests = o.addGuests()
	o.out = newTap(t, o.peerEnd, 0)
	wire := newTap(t, o.peerEnd, unix.ETH_P_ALL)
	o.listenTCP(o.peer, offsetPort)
	o.apply(flowPolicy())
	settle(quietLink, o.bed)
	ways := o.ways()
	for i, f := range o.families() {
		for _, c := range sentCases {
			t.Run("sent "+c.name+" "+f.name, func(t *testing.T) {
				settle(quietTraffic, o.bed)
				c.send(o, f)
				a, seen := o.sees(wire, func(a anatomy) bool { return c.shows(a) && a.ip[0]>>4 == f.name[1]-'0' })
				if !seen {
					t.Fatal("the peer did not see it")
				}
				o.saw(t, c.offsetCase, f, "out", a)
			})
		}
		for _, c := range throughCases {
			t.Run(c.name+" "+f.name, func(t *testing.T) {
				settle(quietTraffic, o.bed)
				c.send(o, f, ways[i])
				o.saw(t, c.offsetCase, f, c.direction, o.udp(f, true))
			})
		}
	}
	for _, f := range o.families() {
		for _, c := range offsetCases {
			for _, wire := range []struct {
				name string
				of   func(anatomy) []byte
			}{
				{"", func(a anatomy) []byte { return a.bytes(true) }},
				{" in a tagged frame", tagged},
			} {
				t.Run(c.name+wire.name+" "+f.name, func(t *testing.T) {
					// each its own sockets, so that ALE judges anew
					s := o.open(o.host, f.udp, at(f.host, offsetPort))
					defer o.host.CloseSock(s)
					l, err := o.host.Listen(f.tcp, at(f.host, offsetPort), testbed.Options{MPTCP: testbed.MPTCPOff})
					passes.want(t, err)
					defer o.host.CloseSock(l)
					settle(quietTraffic, o.bed)
					a := c.make(o, f)
					if _, err := unix.Write(o.out.fd, wire.of(a)); err != nil {
						t.Fatal(err)
					}
					o.saw(t, c, f, "in", a)
				})
			}
		}
	} // a connect is judged before there is a packet
	for _, l := range layermap.Layers() {
		if l.Mode == layermap.KernelMode && l.Hook().Live && !l.Discard && l.Offset != layermap.OffsetNone &&
			l.Offset != layermap.OffsetTransportNonTCP && !o.checked[l.ID] {
			t.Errorf("no packet has shown where the data begin at %s", l.Name)
		}
	}
}
