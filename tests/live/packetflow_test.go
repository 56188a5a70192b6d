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
	flowBehindPacket   = difference{"ALE_FLOW_ESTABLISHED", "what a program sends first is judged behind OUTBOUND_TRANSPORT"}
	fragmentOnce       = difference{"INBOUND_IPPACKET", "each fragment is seen once"}
	fragmentFirst      = difference{"INBOUND_TRANSPORT", "the first fragment stands for an IPv6 datagram"}
	fragmentsOut       = difference{"OUTBOUND_IPPACKET", "sees the fragments; WFP sees the packet just before it is fragmented"}
)

// sequence is what is classified at one host, in the order of time: names of layers, each
// followed by a blank, in parentheses with + what may come once or more often.
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

var flowToken = regexp.MustCompile(`[A-Za-z-]+ `)

// judgedOnly leaves out what the table of layers says is not judged yet: layers that do
// not run, and protocols that a layer does not have.
func judgedOnly(s string, f family, protocol uint64) string {
	if protocol == protocolICMP && f.name == "v6" {
		protocol = unix.IPPROTO_ICMPV6
	}
	s = flowToken.ReplaceAllStringFunc(s, func(token string) string {
		l := flowLayer(strings.TrimSuffix(token, " "), f)
		if only := l.Source("IP_PROTOCOL").Only; !l.Hook().Live || len(only) > 0 && !slices.Contains(only, protocol) {
			return ""
		}
		return token
	})
	return strings.ReplaceAll(s, "()+", "")
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
	other      *bed // the peer's instance
	host, peer *testbed.Proc
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
	r := &flowBed{bed: b, other: &bed{t: t, host: b.peer, peer: b.host, hostEnd: b.peerEnd, peerEnd: b.hostEnd, cgroup: b.cgroup}}
	for _, i := range r.ends() {
		i.silence(i.hostEnd.Name, i.peerEnd)
		i.openEngine(loader.Options{Target: i.target(), Permits: true})
	}
	r.host, r.peer = b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	return r
}

func (r *flowBed) ends() []*bed { return []*bed{r.bed, r.other} }

// silence keeps a link of the bed's host from sending what no test asked for: it knows
// its neighbour and asks for no router.
func (b *bed) silence(link string, neighbour testbed.End) {
	b.t.Helper()
	set(b.t, b.host, "ipv6/conf/"+link+"/router_solicitations", "0")
	set(b.t, b.host, "ipv6/conf/"+link+"/accept_ra", "0")
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
func (r *flowRun) listen(network string) testbed.Sock {
	r.t.Helper()
	s, err := r.host.Listen(network, at(r.f.host, r.port), testbed.Options{Silent: true, MPTCP: testbed.MPTCPOff})
	return r.has(r.host, s, err)
}

// dial connects the peer to it.
func (r *flowRun) dial(network string) testbed.Sock {
	r.t.Helper()
	s, err := r.peer.Dial(network, at(r.f.host, r.port), testbed.Options{MPTCP: testbed.MPTCPOff})
	return r.has(r.peer, s, err)
}

// server opens a datagram socket of the host at its port.
func (r *flowRun) server() testbed.Sock {
	r.t.Helper()
	s, err := r.host.UDP(r.f.udp, testbed.Options{Local: at(r.f.host, r.port)})
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
			l := flowLayer(shortName(d.layer), f)
			if !strings.Contains(l.Hook().Differs, d.says) {
				t.Errorf("the table of hooks does not say of %s that %q", d.layer, d.says)
			}
		}
	}
	r := &flowRun{flowBed: b, t: t, f: f, port: port}
	event := row.begin(r)
	settle(quietTraffic, b.ends()...)
	event()
	for i, s := range []sequence{row.host, row.peer} {
		want := s.want(f, row.protocol)
		got := b.ends()[i].record(want)
		t.Logf("%s: %s", [...]string{"host", "peer"}[i], got)
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
		"bind", protocolTCP,
		func(r *flowRun) func() {
			return func() {
				s, err := r.host.Bind(r.f.tcp, at(r.f.host, r.port), testbed.Options{MPTCP: testbed.MPTCPOff})
				r.has(r.host, s, err)
			}
		},
		as(bound), as(""),
	},
	{
		"bind and listen", protocolTCP,
		func(r *flowRun) func() { return func() { r.listen(r.f.tcp) } },
		as(bound + "LI "), as(""),
	},
	{
		// the SYN, the SYN-ACK and the ACK, each at both ends
		"connect", protocolTCP,
		func(r *flowRun) func() {
			r.listen(r.f.tcp)
			return func() { r.dial(r.f.tcp) }
		},
		as(in+"AR SP "+segmentOut+segmentIn+"FE ").
			but(segmentIn+"AR "+segmentOut+segmentIn+"FE ", packetBeforeAccept),
		as(bound + "CR AC " + segmentOut + segmentIn + "FE " + segmentOut),
	},
	{
		"data", protocolTCP,
		func(r *flowRun) func() {
			r.listen(r.f.tcp)
			s := r.dial(r.f.tcp)
			return func() { r.send(s, hello) }
		},
		as(segmentIn + "ST " + segmentOut), as("ST " + segmentOut + segmentIn),
	},
	{
		// FIN each way, with or without an ACK between
		"close", protocolTCP,
		func(r *flowRun) func() {
			r.listen(r.f.tcp)
			s := r.dial(r.f.tcp)
			return func() { r.close(s) }
		},
		as(segmentIn + "(" + segmentOut + ")+" + segmentIn + "EC "),
		as(segmentOut + "(" + segmentIn + ")+" + segmentOut + "EC RR "),
	},
	{
		"a listener closes", protocolTCP,
		func(r *flowRun) func() {
			s := r.listen(r.f.tcp)
			return func() { r.close(s) }
		},
		as("EC RR "), as(""),
	},
	{
		"closed port", protocolTCP,
		func(r *flowRun) func() {
			return func() {
				closedPort.want(r.t, r.peer.Connect(r.f.tcp, at(r.f.host, r.port), testbed.Options{MPTCP: testbed.MPTCPOff}))
			}
		},
		as("N-in E-in IP-in IT-DISCARD "+out).
			but(segmentIn+"IT-DISCARD "+segmentOut, closedPortsSeen, packetsOfNone),
		as(bound + "CR AC " + segmentOut + segmentIn + "EC RR "),
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
	for _, f := range b.families() {
		for _, row := range rows {
			port++
			t.Run(row.name+" "+f.name, func(t *testing.T) { row.run(t, b, f, port) })
		}
	}
}

// udpFlows are those of packetflows.md 2, and the ICMP error that answers (3).
var udpFlows = []flowRow{
	{
		"bind", protocolUDP,
		func(r *flowRun) func() {
			return func() { r.server() }
		},
		as(bound), as(""),
	},
	{
		"first datagram", protocolUDP,
		func(r *flowRun) func() {
			r.server()
			s := r.udp(r.peer)
			return func() { r.send(s, hello) }
		},
		as(in + "AR FE DG "),
		as(bound+"CR AC FE DG "+out).
			but(bound+"CR AC DG OT FE IP-out E-out N-out ", flowBehindPacket),
	},
	{
		"next datagram", protocolUDP,
		func(r *flowRun) func() {
			r.server()
			s := r.udp(r.peer)
			r.send(s, hello)
			return func() { r.send(s, hello) }
		},
		as(in + "DG "), as("DG " + out),
	},
	{
		"answer", protocolUDP,
		func(r *flowRun) func() {
			server, s := r.server(), r.udp(r.peer)
			r.send(s, hello)
			from, _, err := r.host.Receive(server)
			passes.want(r.t, err)
			return func() { r.sendTo(server, from.String(), hello) }
		},
		as("DG " + out), as(in + "DG "),
	},
	{
		"close", protocolUDP,
		func(r *flowRun) func() {
			s := r.server()
			return func() { r.close(s) }
		},
		as("EC RR "), as(""),
	},
	{
		"no listener", protocolUDP,
		func(r *flowRun) func() {
			s := r.udp(r.peer)
			return func() { r.send(s, hello) }
		},
		as("N-in E-in IP-in IP-in-DISCARD OE "+out).
			but(in+"IP-in-DISCARD OE "+out, closedPortsSeen),
		as(bound+"CR AC FE DG "+out+in+"IE ").
			but(bound+"CR AC DG OT FE IP-out E-out N-out "+in+"IE ", flowBehindPacket),
	},
}

func TestPacketFlowUDP(t *testing.T) {
	newFlowBed(t).flows(t, udpFlows)
}

// icmpFlows are those of packetflows.md 3 that are no errors. The kernel answers.
var icmpFlows = []flowRow{
	{
		"echo", protocolICMP,
		func(r *flowRun) func() {
			return func() { passes.want(r.t, ping(r.peer, r.f, r.f.host)) }
		},
		as(in + "AR FE DG DG " + out),
		as("RA CR AC FE DG " + out + in + "DG EC RR "),
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
		"datagram in fragments", protocolUDP,
		func(r *flowRun) func() {
			r.server()
			s := r.udp(r.peer)
			r.send(s, hello)
			return func() { r.send(s, large) }
		},
		sequence{
			documented: strings.Repeat("N-in E-in IP-in IP-in ", 3) + "IP-in IT DG ",
			here:       strings.Repeat("N-in E-in IP-in ", 3) + "IT DG ",
			hereV6:     "N-in E-in IP-in IT " + strings.Repeat("N-in E-in IP-in ", 2) + "DG ",
			why:        []difference{fragmentOnce, fragmentFirst},
		},
		as("DG OT IP-out "+strings.Repeat("E-out N-out ", 3)).
			but("DG OT "+strings.Repeat("IP-out E-out N-out ", 3), fragmentsOut),
	},
}

func TestPacketFlowFragments(t *testing.T) {
	newFlowBed(t).flows(t, fragmentFlows)
}
