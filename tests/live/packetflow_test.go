// SPDX-License-Identifier: Apache-2.0

package live

import (
	"cmp"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/wfpebpf/wfpebpf/layermap"
	"github.com/wfpebpf/wfpebpf/loader"
	"github.com/wfpebpf/wfpebpf/tests/testbed"
)

// The layers as the documents of packet flows shorten them. V4 and V6 are one.
var flowLayers = map[string]string{
	"BR": "ALE_BIND_REDIRECT", "RA": "ALE_RESOURCE_ASSIGNMENT", "LI": "ALE_AUTH_LISTEN",
	"CR": "ALE_CONNECT_REDIRECT", "AC": "ALE_AUTH_CONNECT", "AR": "ALE_AUTH_RECV_ACCEPT",
	"FE": "ALE_FLOW_ESTABLISHED", "EC": "ALE_ENDPOINT_CLOSURE", "RR": "ALE_RESOURCE_RELEASE",
	"ST": "STREAM", "SP": "STREAM_PACKET", "DG": "DATAGRAM_DATA",
	"IT": "INBOUND_TRANSPORT", "OT": "OUTBOUND_TRANSPORT",
	"IE": "INBOUND_ICMP_ERROR", "OE": "OUTBOUND_ICMP_ERROR",
	"IP-in": "INBOUND_IPPACKET", "IP-out": "OUTBOUND_IPPACKET", "FWD": "IPFORWARD",
	"N-in": "INBOUND_MAC_FRAME_NATIVE", "E-in": "INBOUND_MAC_FRAME_ETHERNET",
	"VE-in": "INGRESS_VSWITCH_ETHERNET", "VE-out": "EGRESS_VSWITCH_ETHERNET",
	"VT-in": "INGRESS_VSWITCH_TRANSPORT", "VT-out": "EGRESS_VSWITCH_TRANSPORT",
	"E-out": "OUTBOUND_MAC_FRAME_ETHERNET", "N-out": "OUTBOUND_MAC_FRAME_NATIVE",
	"RA-DISCARD": "ALE_RESOURCE_ASSIGNMENT_DISCARD", "LI-DISCARD": "ALE_AUTH_LISTEN_DISCARD",
	"AC-DISCARD": "ALE_AUTH_CONNECT_DISCARD", "AR-DISCARD": "ALE_AUTH_RECV_ACCEPT_DISCARD",
	"FE-DISCARD": "ALE_FLOW_ESTABLISHED_DISCARD", "DG-DISCARD": "DATAGRAM_DATA_DISCARD",
	"IT-DISCARD": "INBOUND_TRANSPORT_DISCARD", "OT-DISCARD": "OUTBOUND_TRANSPORT_DISCARD",
	"IE-DISCARD": "INBOUND_ICMP_ERROR_DISCARD", "OE-DISCARD": "OUTBOUND_ICMP_ERROR_DISCARD",
	"IP-in-DISCARD": "INBOUND_IPPACKET_DISCARD", "IP-out-DISCARD": "OUTBOUND_IPPACKET_DISCARD",
	"FWD-DISCARD": "IPFORWARD_DISCARD",
}

// The common parts of sequences: a packet that comes in or goes out, as far as it is the
// same for every protocol (packetflows.md 4, 11).
const (
	in  = "N-in E-in IP-in IT "
	out = "OT IP-out E-out N-out "
	// a segment of TCP; STREAM_PACKET lies between transport and stream
	segmentIn, segmentOut = in + "SP ", "SP " + out
	bound                 = "BR RA " // a bind, by a call or implicit
)

// difference is what a sequence differs by here, as the table of hooks says it.
type difference struct{ layer, says string }

var (
	packetBeforeAccept = difference{"STREAM_PACKET", "a packet that comes in is seen before ALE_AUTH_RECV_ACCEPT, not behind it"}
	packetsOfNone      = difference{"STREAM_PACKET", "packets of no connection are seen, too: to closed ports, and the answers"}
	closedPortsSeen    = difference{"INBOUND_TRANSPORT", "packets to closed ports are seen, too"}
	implicitBind       = difference{"ALE_BIND_REDIRECT", "implicit binds are not redirected"}
	flowBehindPacket   = difference{"ALE_FLOW_ESTABLISHED", "what a program sends first is judged behind OUTBOUND_TRANSPORT"}
	fragmentOnce       = difference{"INBOUND_IPPACKET", "each fragment is seen once"}
	fragmentFirst      = difference{"INBOUND_TRANSPORT", "the first fragment stands for an IPv6 datagram"}
	connectedEarly     = difference{"ALE_AUTH_CONNECT", "a UDP socket that is connected is judged when it connects, not when it first sends"}
	fragmentsOut       = difference{"OUTBOUND_IPPACKET", "sees the fragments; WFP sees the packet just before it is fragmented"}
)

// sequence is what is classified at one host, in the order of time: names of layers, each
// followed by a blank; parentheses, + and * are those of regular expressions.
type sequence struct {
	documented string
	here       string // where it differs; V6 has its own where the families do
	hereV6     string
	why        []difference
}

func as(documented string) sequence { return sequence{documented: documented} }

func (s sequence) but(here string, why ...difference) sequence {
	s.here, s.why = here, why
	return s
}

// want is the sequence that this host must give.
func (s sequence) want(f family, protocol uint64) string {
	want := cmp.Or(s.here, s.documented)
	if f.name == "v6" {
		want = cmp.Or(s.hereV6, want)
	}
	return judgedOnly(want, f, protocol)
}

var (
	flowToken = regexp.MustCompile(`[A-Za-z-]+ `)
	flowGroup = regexp.MustCompile(`\(\)[+*]`) // of which nothing is left
)

// judgedOnly leaves out what the table of layers says is not judged yet.
func judgedOnly(s string, f family, protocol uint64) string {
	if protocol == protocolICMP && f.name == "v6" {
		protocol = unix.IPPROTO_ICMPV6
	}
	s = flowToken.ReplaceAllStringFunc(s, func(token string) string {
		if !judged(flowLayer(strings.TrimSpace(token), f), protocol) {
			return ""
		}
		return token
	})
	return flowGroup.ReplaceAllString(s, "")
}

// judged reports whether a layer runs and judges a protocol.
func judged(l *layermap.Layer, protocol uint64) bool {
	only := l.Source("IP_PROTOCOL").Only
	return l.Hook().Live && (len(only) == 0 || slices.Contains(only, protocol))
}

// flowLayer is the layer of a family that a short name stands for.
func flowLayer(short string, f family) *layermap.Layer {
	name, known := flowLayers[short]
	if !known {
		panic("no layer is called " + short)
	}
	base, discard := strings.CutSuffix(name, "_DISCARD")
	full := base + "_" + f.layer
	if discard {
		full += "_DISCARD"
	}
	if l := layermap.ByName(full); l != nil {
		return l
	}
	return layermap.ByName(name) // of no family
}

// shortName is what a layer is called here.
func shortName(layer string) string {
	name := strings.NewReplacer("_V4", "", "_V6", "").Replace(layer)
	for short, l := range flowLayers {
		if l == name {
			return short
		}
	}
	return layer
}

// flowBed is a bed at both of whose ends every layer that runs reports what it
// classifies: a permit by a filter in a sublayer of its own.
type flowBed struct {
	*bed
	other      *bed // the peer's instance; nil: only the host's records
	host, peer *testbed.Proc
	families   []family
}

// flowPolicy reports every classification of the layers that run but some.
func flowPolicy(without ...string) string {
	var b strings.Builder
	b.WriteString("sublayers: [{key: flows, name: Packet flows, weight: 1}]\nfilters:\n")
	for _, l := range layermap.Layers() {
		if l.Mode == layermap.KernelMode && l.Hook().Live && !slices.Contains(without, l.Name) {
			fmt.Fprintf(&b, "  - {name: See it, layer: %s, sublayer: flows, action: PERMIT}\n", l.Name)
		}
	}
	return b.String()
}

func newFlowBed(t *testing.T) *flowBed {
	b := newBed(t)
	b.openEngine(loader.Options{Target: b.target(), Permits: true})
	other := b.theOther()
	other.openEngine(loader.Options{Target: other.target(), Permits: true})
	b.silence("h0", b.peerEnd)
	other.silence("p0", b.hostEnd)
	return &flowBed{
		bed: b, other: other, families: b.families(),
		host: b.on(b.host, testbed.ProcOptions{}), peer: b.on(b.peer, testbed.ProcOptions{}),
	}
}

// theOther is the bed as the peer sees it.
func (b *bed) theOther() *bed {
	return &bed{t: b.t, host: b.peer, peer: b.host, hostEnd: b.peerEnd, peerEnd: b.hostEnd, cgroup: b.cgroup}
}

func (r *flowBed) ends() []*bed {
	if r.other == nil {
		return []*bed{r.bed}
	}
	return []*bed{r.bed, r.other}
}

// silence keeps a link of the bed's host from sending what no test asked for: it knows
// its neighbour and asks for no router.
func (b *bed) silence(link string, neighbour testbed.End) {
	b.t.Helper()
	set(b.t, b.host, "ipv6/conf/"+link+"/router_solicitations", "0")
	set(b.t, b.host, "ipv6/conf/"+link+"/mldv2_unsolicited_report_interval", "10")
	index := linkOf(b.t, b.host, link).Attrs().Index
	for _, a := range []netip.Addr{neighbour.V4, neighbour.V6, neighbour.SecondV4, neighbour.SecondV6} {
		err := b.host.Netlink().NeighSet(&netlink.Neigh{
			LinkIndex: index, IP: a.AsSlice(), HardwareAddr: neighbour.MAC, State: unix.NUD_PERMANENT,
		})
		if err != nil {
			b.t.Fatal(err)
		}
	}
}

// How long nothing must happen until it is quiet: when a link has come up, longer than
// reports of its multicast groups wait; later, longer than a delayed ACK.
const quietLink, quietTraffic = 1200 * time.Millisecond, 250 * time.Millisecond

// settle waits until nothing is classified any more and forgets what was.
func settle(quiet time.Duration, ends ...*bed) {
	ends[0].t.Helper()
	last := time.Now()
	for deadline := last.Add(30 * time.Second); time.Since(last) < quiet; time.Sleep(20 * time.Millisecond) {
		for _, b := range ends {
			if len(b.events()) > 0 {
				last = time.Now()
			}
		}
		if time.Now().After(deadline) {
			ends[0].t.Fatal("it is never quiet")
		}
	}
}

// record returns what is classified from now on, in the order of time, once it is what is
// wanted and nothing follows, or after some seconds.
func (b *bed) record(want string) string {
	b.t.Helper()
	whole := regexp.MustCompile("^" + want + "$")
	var list []loader.Event
	text := func() string {
		slices.SortStableFunc(list, func(a, b loader.Event) int { return a.Time.Compare(b.Time) })
		var s strings.Builder
		for _, e := range list {
			s.WriteString(shortName(e.Layer) + " ")
		}
		return s.String()
	}
	deadline := time.Now().Add(3 * time.Second)
	for {
		list = append(list, b.events()...)
		if got := text(); whole.MatchString(got) || time.Now().After(deadline) {
			time.Sleep(quietTraffic)
			if more := b.events(); len(more) > 0 {
				list = append(list, more...)
				if time.Now().Before(deadline) {
					continue
				}
			}
			return text()
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// flowRun is one row of a table, in one family.
type flowRun struct {
	*flowBed
	t       *testing.T
	f       family
	port    int
	sockets []flowSocket
}

type flowSocket struct {
	p *testbed.Proc
	testbed.Sock
}

// has notes a socket that is closed when the row has been recorded.
func (r *flowRun) has(p *testbed.Proc, s testbed.Sock, err error) testbed.Sock {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
	r.sockets = append(r.sockets, flowSocket{p, s})
	return s
}

// listen opens a server of the host that answers nothing.
func (r *flowRun) listen(network string) testbed.Sock { return r.listenAt(network, r.f.host) }

func (r *flowRun) listenAt(network, address string) testbed.Sock {
	r.t.Helper()
	s, err := r.host.Listen(network, at(address, r.port), testbed.Options{Silent: true, MPTCP: testbed.MPTCPOff})
	return r.has(r.host, s, err)
}

// dial connects the peer to it.
func (r *flowRun) dial(network string) testbed.Sock {
	r.t.Helper()
	s, err := r.peer.Dial(network, at(r.f.host, r.port), testbed.Options{MPTCP: testbed.MPTCPOff})
	return r.has(r.peer, s, err)
}

// server opens a datagram socket of the host at its port.
func (r *flowRun) server() testbed.Sock { return r.serverAt(r.f.host) }

func (r *flowRun) serverAt(address string) testbed.Sock {
	r.t.Helper()
	s, err := r.host.UDP(r.f.udp, testbed.Options{Local: at(address, r.port)})
	return r.has(r.host, s, err)
}

// udp opens a datagram socket that is not bound.
func (r *flowRun) udp(p *testbed.Proc) testbed.Sock {
	r.t.Helper()
	s, err := p.UDP(r.f.udp)
	return r.has(p, s, err)
}

const hello = "hello"

// large is more than fits two frames.
var large = strings.Repeat("x", 4000)

// send sends from a socket to the host's port.
func (r *flowRun) send(s testbed.Sock, message string) {
	r.t.Helper()
	r.sendTo(s, at(r.f.host, r.port), message)
}

func (r *flowRun) sendTo(s testbed.Sock, to, message string) {
	r.t.Helper()
	passes.want(r.t, r.of(s).SendTo(s, to, message))
}

func (r *flowRun) close(s testbed.Sock) {
	r.t.Helper()
	passes.want(r.t, r.of(s).CloseSock(s))
	r.sockets = slices.DeleteFunc(r.sockets, func(o flowSocket) bool { return o.Sock == s })
}

// of is the process that has a socket.
func (r *flowRun) of(s testbed.Sock) *testbed.Proc {
	return r.sockets[slices.IndexFunc(r.sockets, func(o flowSocket) bool { return o.Sock == s })].p
}

// flowRow is an event and what each host's layers see of it.
type flowRow struct {
	name     string
	protocol uint64
	// begin is not recorded; what it returns is
	begin      func(r *flowRun) (event func())
	host, peer sequence
}

func (row flowRow) run(t *testing.T, b *flowBed, f family, port int) {
	for _, s := range []sequence{row.host, row.peer} {
		for _, d := range s.why {
			if l := flowLayer(shortName(d.layer), f); !strings.Contains(l.Hook().Differs, d.says) {
				t.Errorf("the table of hooks does not say of %s that %q", d.layer, d.says)
			}
		}
	}
	r := &flowRun{flowBed: b, t: t, f: f, port: port}
	event := row.begin(r)
	settle(quietTraffic, b.ends()...)
	event()
	for i, s := range []sequence{row.host, row.peer}[:len(b.ends())] {
		want := s.want(f, row.protocol)
		got := b.ends()[i].record(want)
		if !regexp.MustCompile("^" + want + "$").MatchString(got) {
			t.Errorf("at the %s\n got %s\nwant %s", [...]string{"host", "peer"}[i], got, want)
		}
	}
	for _, s := range slices.Backward(r.sockets) {
		s.p.CloseSock(s.Sock)
	}
	settle(quietTraffic, b.ends()...)
}

const (
	protocolTCP = unix.IPPROTO_TCP
	protocolUDP = unix.IPPROTO_UDP
	// of IPv6 its own
	protocolICMP = unix.IPPROTO_ICMP
)

// tcpFlows are those of packetflows.md 1.
var tcpFlows = []flowRow{
	{
		name: "bind", protocol: protocolTCP,
		begin: func(r *flowRun) func() {
			return func() {
				s, err := r.host.Bind(r.f.tcp, at(r.f.host, r.port), testbed.Options{MPTCP: testbed.MPTCPOff})
				r.has(r.host, s, err)
			}
		},
		host: as(bound),
	},
	{
		name: "bind and listen", protocol: protocolTCP,
		begin: func(r *flowRun) func() { return func() { r.listen(r.f.tcp) } },
		host:  as(bound + "LI "),
	},
	{
		// the SYN, the SYN-ACK and the ACK, each at both ends
		name: "connect", protocol: protocolTCP,
		begin: func(r *flowRun) func() {
			r.listen(r.f.tcp)
			return func() { r.dial(r.f.tcp) }
		},
		host: as(in+"AR SP "+segmentOut+segmentIn+"FE ").
			but(segmentIn+"AR "+segmentOut+segmentIn+"FE ", packetBeforeAccept),
		peer: as(bound+"CR AC "+segmentOut+segmentIn+"FE "+segmentOut).
			but("RA CR AC "+segmentOut+segmentIn+"FE "+segmentOut, implicitBind),
	},
	{
		name: "data", protocol: protocolTCP,
		begin: func(r *flowRun) func() {
			r.listen(r.f.tcp)
			s := r.dial(r.f.tcp)
			return func() { r.send(s, hello) }
		},
		host: as(segmentIn + "ST " + segmentOut),
		peer: as("ST " + segmentOut + segmentIn),
	},
	{
		// FIN each way, with or without an ACK between
		name: "close", protocol: protocolTCP,
		begin: func(r *flowRun) func() {
			r.listen(r.f.tcp)
			s := r.dial(r.f.tcp)
			return func() { r.close(s) }
		},
		host: as(segmentIn + "(" + segmentOut + ")+" + segmentIn + "EC "),
		peer: as(segmentOut + "(" + segmentIn + ")+" + segmentOut + "EC RR "),
	},
	{
		name: "a listener closes", protocol: protocolTCP,
		begin: func(r *flowRun) func() {
			s := r.listen(r.f.tcp)
			return func() { r.close(s) }
		},
		host: as("EC RR "),
	},
	{
		name: "closed port", protocol: protocolTCP,
		begin: func(r *flowRun) func() {
			return func() {
				closedPort.want(r.t, r.peer.Connect(r.f.tcp, at(r.f.host, r.port), testbed.Options{MPTCP: testbed.MPTCPOff}))
			}
		},
		host: as("N-in E-in IP-in IT-DISCARD "+out).
			but(segmentIn+"IT-DISCARD "+segmentOut, closedPortsSeen, packetsOfNone),
		peer: as(bound+"CR AC "+segmentOut+segmentIn+"EC RR ").
			but("RA CR AC "+segmentOut+segmentIn+"EC RR ", implicitBind),
	},
}

func TestPacketFlowTCP(t *testing.T) {
	newFlowBed(t).flows(t, tcpFlows)
}

// flows runs the rows of a table in both families.
func (b *flowBed) flows(t *testing.T, rows []flowRow) {
	for _, i := range b.ends() {
		i.apply(flowPolicy())
	}
	settle(quietLink, b.ends()...)
	port := 7000
	for _, f := range b.families {
		for _, row := range rows {
			port++
			t.Run(row.name+" "+f.name, func(t *testing.T) { row.run(t, b, f, port) })
		}
	}
}

// udpFlows are those of packetflows.md 2, and the ICMP error that answers (3).
var udpFlows = []flowRow{
	{
		name: "bind", protocol: protocolUDP,
		begin: func(r *flowRun) func() {
			return func() { r.server() }
		},
		host: as(bound),
	},
	{
		name: "first datagram", protocol: protocolUDP,
		begin: func(r *flowRun) func() {
			r.server()
			s := r.udp(r.peer)
			return func() { r.send(s, hello) }
		},
		host: as(in + "AR FE DG "),
		peer: as(bound+"CR AC FE DG "+out).
			but("RA CR AC DG OT FE IP-out E-out N-out ", flowBehindPacket, implicitBind),
	},
	{
		name: "next datagram", protocol: protocolUDP,
		begin: func(r *flowRun) func() {
			r.server()
			s := r.udp(r.peer)
			r.send(s, hello)
			return func() { r.send(s, hello) }
		},
		host: as(in + "DG "),
		peer: as("DG " + out),
	},
	{
		name: "answer", protocol: protocolUDP,
		begin: func(r *flowRun) func() {
			server, s := r.server(), r.udp(r.peer)
			r.send(s, hello)
			from, _, err := r.host.Receive(server)
			passes.want(r.t, err)
			return func() { r.sendTo(server, from.String(), hello) }
		},
		host: as("DG " + out),
		peer: as(in + "DG "),
	},
	{
		name: "connected, then first datagram", protocol: protocolUDP,
		begin: func(r *flowRun) func() {
			r.server()
			return func() { r.send(r.dial(r.f.udp), hello) }
		},
		host: as(in + "AR FE DG "),
		peer: as(bound+"CR CR AC FE DG "+out).
			but("RA CR AC DG OT FE IP-out E-out N-out ", connectedEarly, flowBehindPacket, implicitBind),
	},
	{
		name: "close", protocol: protocolUDP,
		begin: func(r *flowRun) func() {
			s := r.server()
			return func() { r.close(s) }
		},
		host: as("EC RR "),
	},
	{
		name: "no listener", protocol: protocolUDP,
		begin: func(r *flowRun) func() {
			s := r.udp(r.peer)
			return func() { r.send(s, hello) }
		},
		host: as("N-in E-in IP-in IP-in-DISCARD OE "+out).
			but(in+"IP-in-DISCARD OE "+out, closedPortsSeen),
		peer: as(bound+"CR AC FE DG "+out+in+"IE ").
			but("RA CR AC DG OT FE IP-out E-out N-out "+in+"IE ", flowBehindPacket, implicitBind),
	},
}

func TestPacketFlowUDP(t *testing.T) {
	newFlowBed(t).flows(t, udpFlows)
}

// icmpFlows are those of packetflows.md 3 that are no errors. The kernel answers.
var icmpFlows = []flowRow{
	{
		name: "echo", protocol: protocolICMP,
		begin: func(r *flowRun) func() {
			return func() { passes.want(r.t, ping(r.peer, r.f, r.f.host)) }
		},
		host: as(in + "AR FE DG DG " + out),
		peer: as("RA CR AC FE DG " + out + in + "DG EC RR "),
	},
}

func TestPacketFlowICMP(t *testing.T) {
	newFlowBed(t).flows(t, icmpFlows)
}

// fragmentFlows are those of packetflows.md 4: a datagram of three fragments. On its way
// in each is seen as it is and as a fragment, then the whole; on its way out it is cut up
// behind the network layer.
var fragmentFlows = []flowRow{
	{
		name: "datagram in fragments", protocol: protocolUDP,
		begin: func(r *flowRun) func() {
			r.server()
			s := r.udp(r.peer)
			r.send(s, hello)
			return func() { r.send(s, large) }
		},
		host: sequence{
			documented: strings.Repeat("N-in E-in IP-in IP-in ", 3) + "IP-in IT DG ",
			here:       strings.Repeat("N-in E-in IP-in ", 3) + "IT DG ",
			hereV6:     "N-in E-in IP-in IT " + strings.Repeat("N-in E-in IP-in ", 2) + "DG ",
			why:        []difference{fragmentOnce, fragmentFirst},
		},
		peer: as("DG OT IP-out "+strings.Repeat("E-out N-out ", 3)).
			but("DG OT "+strings.Repeat("IP-out E-out N-out ", 3), fragmentsOut),
	},
}

func TestPacketFlowFragments(t *testing.T) {
	newFlowBed(t).flows(t, fragmentFlows)
}

// On loopback no frame layer sees anything.
const loopbackIn, loopbackOut = "IP-in IT ", "OT IP-out "

// dialOneself connects the host to its own port.
func (r *flowRun) dialOneself(network string) testbed.Sock {
	r.t.Helper()
	s, err := r.host.Dial(network, at(r.f.loopback, r.port), testbed.Options{MPTCP: testbed.MPTCPOff})
	return r.has(r.host, s, err)
}

// connectsOneself is a connection of the host to itself: the connect, SYN, SYN-ACK and ACK.
var connectsOneself = as(bound+"CR AC "+
	"SP "+loopbackOut+loopbackIn+"AR SP "+
	"SP "+loopbackOut+loopbackIn+"SP FE "+
	"SP "+loopbackOut+loopbackIn+"SP FE ").
	but("RA CR AC "+
		"SP "+loopbackOut+loopbackIn+"SP AR "+
		"SP "+loopbackOut+loopbackIn+"SP FE "+
		"SP "+loopbackOut+loopbackIn+"SP FE ", packetBeforeAccept, implicitBind)

// loopbackFlows are those of packetflows.md 9: both lists of an event, joined.
var loopbackFlows = []flowRow{
	{
		name: "connect to oneself", protocol: protocolTCP,
		begin: func(r *flowRun) func() {
			r.listenAt(r.f.tcp, r.f.loopback)
			return func() { r.dialOneself(r.f.tcp) }
		},
		host: connectsOneself,
	},
	{
		name: "first datagram to oneself", protocol: protocolUDP,
		begin: func(r *flowRun) func() {
			r.serverAt(r.f.loopback)
			s := r.udp(r.host)
			return func() { r.sendTo(s, at(r.f.loopback, r.port), hello) }
		},
		host: as(bound+"CR AC FE DG "+loopbackOut+loopbackIn+"AR FE DG ").
			but("RA CR AC DG OT FE IP-out "+loopbackIn+"AR FE DG ", flowBehindPacket, implicitBind),
	},
	{
		name: "next datagram to oneself", protocol: protocolUDP,
		begin: func(r *flowRun) func() {
			r.serverAt(r.f.loopback)
			s := r.udp(r.host)
			r.sendTo(s, at(r.f.loopback, r.port), hello)
			return func() { r.sendTo(s, at(r.f.loopback, r.port), hello) }
		},
		host: as("DG " + loopbackOut + loopbackIn + "DG "),
	},
	{
		name: "echo of oneself", protocol: protocolICMP,
		begin: func(r *flowRun) func() {
			return func() { passes.want(r.t, ping(r.host, r.f, r.f.loopback)) }
		},
		host: as("RA CR AC FE DG " + loopbackOut + loopbackIn + "AR FE DG " +
			"DG " + loopbackOut + loopbackIn + "DG EC RR "),
	},
}

func TestPacketFlowLoopback(t *testing.T) {
	newFlowBed(t).flows(t, loopbackFlows)
}

// Between its ends a packet is seen by the network layers and the frame layers only; of
// fragments each by itself (packetflows.md 5).
var forwarded = "N-in E-in IP-in FWD IP-out E-out N-out "

var forwardFlows = []flowRow{
	{
		name: "datagram passed on", protocol: protocolUDP,
		begin: func(r *flowRun) func() {
			r.server()
			s := r.udp(r.peer)
			return func() { r.send(s, hello) }
		},
		host: as(forwarded),
	},
	{
		name: "fragments passed on", protocol: protocolUDP,
		begin: func(r *flowRun) func() {
			r.server()
			s := r.udp(r.peer)
			return func() { r.send(s, large) }
		},
		host: as(strings.Repeat(forwarded, 3)),
	},
}

func TestPacketFlowForward(t *testing.T) {
	r := newRoad(t)
	r.openEngine(loader.Options{Target: r.target(), Permits: true})
	r.silence("h0", r.peerEnd)
	r.silence("h1", r.farEnd)
	r.theOther().silence("p0", r.hostEnd)
	(&bed{t: t, host: r.far}).silence("f0", r.hostFar)
	b := &flowBed{
		bed: r.bed, families: r.ways(),
		host: r.on(r.far, testbed.ProcOptions{}), peer: r.on(r.peer, testbed.ProcOptions{}),
	}
	b.flows(t, forwardFlows)
}

// changed applies the policy of packet flows and more filters, and so makes the host judge
// its open flows again.
func (r *flowRun) changed(filters string) {
	r.t.Helper()
	r.bed.apply(flowPolicy() + filters)
}

// permitElse and blockPort are filters that come while a flow is open.
func (r *flowRun) permitElse() string {
	return rule("PERMIT", "Permit something else", "ALE_AUTH_RECV_ACCEPT_"+r.f.layer, 8, "{IP_LOCAL_PORT: 9}")
}

func (r *flowRun) blockPort() string {
	return rule("BLOCK", "Block it now", "ALE_AUTH_RECV_ACCEPT_"+r.f.layer, 8, fmt.Sprintf("{IP_LOCAL_PORT: %d}", r.port))
}

// reauthorisedFlows are those of packetflows.md 1, 2 and 7 of flows that are open when the
// policy changes. What is blocked is sent again.
var reauthorisedFlows = []flowRow{
	{
		name: "data after a change that permits", protocol: protocolTCP,
		begin: func(r *flowRun) func() {
			r.changed("")
			r.listen(r.f.tcp)
			s := r.dial(r.f.tcp)
			r.changed(r.permitElse())
			return func() { r.send(s, hello) }
		},
		host: as(in+"AR SP ST "+segmentOut).
			but(segmentIn+"AR ST "+segmentOut, packetBeforeAccept),
		peer: as("ST " + segmentOut + segmentIn),
	},
	{
		name: "datagram after a change that permits", protocol: protocolUDP,
		begin: func(r *flowRun) func() {
			r.changed("")
			r.server()
			s := r.udp(r.peer)
			r.send(s, hello)
			r.changed(r.permitElse())
			return func() { r.send(s, hello) }
		},
		host: as(in + "AR DG "),
		peer: as("DG " + out),
	},
	{
		name: "datagram after a change that blocks", protocol: protocolUDP,
		begin: func(r *flowRun) func() {
			r.changed("")
			r.server()
			s := r.udp(r.peer)
			r.send(s, hello)
			r.changed(r.blockPort())
			return func() { r.send(s, hello) }
		},
		host: as(in + "AR AR-DISCARD "),
		peer: as("DG " + out),
	},
}

// reauthorisedAway are those whose peer sends again for long.
var reauthorisedAway = []flowRow{
	{
		name: "data after a change that blocks", protocol: protocolTCP,
		begin: func(r *flowRun) func() {
			r.changed("")
			r.listen(r.f.tcp)
			s := r.dial(r.f.tcp)
			r.changed(r.blockPort())
			return func() { r.send(s, hello) }
		},
		// TCP sends again what was dropped; that the flow is blocked is decided
		host: as(in+"AR AR-DISCARD ("+in+")*").
			but(segmentIn+"AR AR-DISCARD ("+segmentIn+")*", packetBeforeAccept),
		peer: as("ST (" + segmentOut + ")+"),
	},
}

func TestPacketFlowReauthorised(t *testing.T) {
	newFlowBed(t).flows(t, reauthorisedFlows)
}

func TestPacketFlowReauthorisedAway(t *testing.T) {
	newFlowBed(t).flows(t, reauthorisedAway)
}

// redirectFlows are those of packetflows.md 8: a connect to the peer is redirected to a
// proxy of the host, so that it is authorised once, with the new destination.
var redirectFlows = []flowRow{
	{
		name: "redirected connect", protocol: protocolTCP,
		begin: func(r *flowRun) func() {
			proxy := at(r.f.loopback, r.port)
			r.listenAt(r.f.tcp, r.f.loopback)
			policy := fmt.Sprintf("callouts: [{key: to-proxy, layer: ALE_CONNECT_REDIRECT_%s, builtin: redirect, to: %q}]\n", r.f.layer, proxy) +
				flowPolicy("ALE_CONNECT_REDIRECT_"+r.f.layer) + fmt.Sprintf("  - {name: Redirect it, layer: ALE_CONNECT_REDIRECT_%s, weight: 8, action: CALLOUT_TERMINATING,"+
				" callout: to-proxy, conditions: [{IP_REMOTE_PORT: %d}]}\n", r.f.layer, r.port)
			r.bed.apply(policy)
			// what the proxy itself connects to is not redirected
			client := r.on(r.bed.host, testbed.ProcOptions{})
			return func() {
				s, err := client.Dial(r.f.tcp, at(r.f.peer, r.port), testbed.Options{MPTCP: testbed.MPTCPOff})
				r.has(client, s, err)
			}
		},
		host: connectsOneself,
	},
}

func TestPacketFlowRedirect(t *testing.T) {
	newFlowBed(t).flows(t, redirectFlows)
}
