// SPDX-License-Identifier: Apache-2.0

package live

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wfpebpf/wfpebpf/loader"
	"github.com/wfpebpf/wfpebpf/tests/testbed"
)

var atDatagram = both("DATAGRAM_DATA")

// egp is a protocol without ports that no kernel answers.
const egp = 8

// rawSocket makes a raw socket of a protocol.
func rawSocket(t *testing.T, p *testbed.Proc, f family, protocol int) testbed.Sock {
	t.Helper()
	domain := unix.AF_INET
	if f.layer == "V6" {
		domain = unix.AF_INET6
	}
	s, err := p.Socket(domain, unix.SOCK_RAW, protocol)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// pass sends a message from one raw socket to another.
func pass(from *testbed.Proc, s testbed.Sock, to string, receiver *testbed.Proc, r testbed.Sock, limit time.Duration) error {
	if err := from.SendTo(s, to, "hello"); err != nil {
		return err
	}
	_, _, err := receiver.Receive(r, testbed.Options{Timeout: limit})
	return err
}

// wantPing asks for an echo from a raw socket.
func wantPing(t *testing.T, p *testbed.Proc, f family, to string, o outcome) {
	t.Helper()
	kind, answer := uint8(echoV4), uint8(echoReplyV4)
	if f.layer == "V6" {
		kind, answer = echoV6, echoReplyV6
	}
	o.want(t, icmp(p, f, to, kind, 0, answer, o.limit))
}

// Datagrams of every kind are judged, each way; TCP is not.
func TestDatagramConditions(t *testing.T) {
	b := newBed(t)
	host, peer := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	b.listen(host, 8080, 8081)
	b.listen(peer, 8080, 8081)
	// what a program sees of a try, by the kind of try
	in := func(port int) func(f family, o outcome, t *testing.T) {
		return func(f family, o outcome, t *testing.T) { udp(port).want(t, peer, f, o) }
	}
	fromPort := func(f family, o outcome, t *testing.T) { udp(8080).fromPort(5000).want(t, peer, f, o) }
	fromSecond := func(f family, o outcome, t *testing.T) { udp(8080).fromPeerSecond().want(t, peer, f, o) }
	toSecond := func(f family, o outcome, t *testing.T) { udp(8080).toHostSecond().want(t, peer, f, o) }
	overTCP := func(f family, o outcome, t *testing.T) { tcp(8081).want(t, peer, f, o) }
	pingIn := func(f family, o outcome, t *testing.T) { wantPing(t, peer, f, f.host, o) }
	pingOut := func(f family, o outcome, t *testing.T) { wantPing(t, host, f, f.peer, o) }
	onLo := func(f family, o outcome, t *testing.T) { udp(8080).onHost(onLoopback).want(t, host, f, o) }
	out := func(port int) func(f family, o outcome, t *testing.T) {
		return func(f family, o outcome, t *testing.T) {
			o.want(t, host.UDPExchange(f.udp, at(f.peer, port), "hello", testbed.Options{Timeout: o.limit}))
		}
	}
	other := func(from, to *testbed.Proc, dst func(family) string) func(f family, o outcome, t *testing.T) {
		return func(f family, o outcome, t *testing.T) {
			s, r := rawSocket(t, from, f, egp), rawSocket(t, to, f, egp)
			defer from.CloseSock(s)
			defer to.CloseSock(r)
			o.want(t, pass(from, s, at(dst(f), 0), to, r, o.limit))
		}
	}
	rawIn, rawOut := other(peer, host, hostFirst), other(host, peer, peerFirst)
	type tries []func(f family, o outcome, t *testing.T)
	for _, row := range []struct {
		conditions            string
		lost, denied, through tries // lost in silence; denied to the sender; not blocked
	}{
		{"{IP_PROTOCOL: udp}, {DIRECTION: inbound}, {IP_LOCAL_PORT: 8081}", tries{in(8081)}, nil, tries{in(8080), out(8081), overTCP, pingIn, rawIn}},
		{"{IP_PROTOCOL: udp}, {DIRECTION: inbound}, {IP_REMOTE_PORT: 5000}", tries{fromPort}, nil, tries{in(8080)}},
		{"{IP_PROTOCOL: udp}, {DIRECTION: outbound}, {IP_REMOTE_PORT: 8081}", nil, tries{out(8081)}, tries{in(8081), out(8080), overTCP}},
		// the answer goes out, or comes in
		{"{IP_PROTOCOL: udp}, {DIRECTION: outbound}, {IP_LOCAL_PORT: 8081}", tries{in(8081)}, nil, tries{in(8080), out(8081)}},
		{"{IP_PROTOCOL: udp}, {DIRECTION: inbound}, {IP_REMOTE_PORT: 8081}", tries{out(8081)}, nil, tries{in(8081), out(8080)}},
		{"{IP_PROTOCOL: [icmp, icmpv6]}, {DIRECTION: inbound}, {IP_LOCAL_PORT: [8, 128]}, {IP_REMOTE_PORT: 0}", tries{pingIn}, nil, tries{pingOut, in(8080)}},
		{"{IP_PROTOCOL: [icmp, icmpv6]}, {DIRECTION: inbound}, {IP_LOCAL_PORT: [0, 129]}", tries{pingOut}, nil, tries{pingIn, in(8080)}},
		{"{IP_PROTOCOL: [icmp, icmpv6]}, {DIRECTION: outbound}, {IP_LOCAL_PORT: [8, 128]}", nil, tries{pingOut}, tries{pingIn, in(8080)}},
		{"{IP_PROTOCOL: 8}, {DIRECTION: inbound}, {IP_LOCAL_PORT: EMPTY}", tries{rawIn}, nil, tries{rawOut, pingIn}},
		{"{IP_PROTOCOL: 8}, {DIRECTION: outbound}, {IP_REMOTE_PORT: EMPTY}", nil, tries{rawOut}, tries{rawIn, pingOut}},
		{"{IP_PROTOCOL: 8}, {IP_LOCAL_PORT: 0-65535}", nil, nil, tries{rawIn, rawOut}},
		{"{FLAGS: [IS_RAW_ENDPOINT]}", nil, tries{rawOut, pingOut}, tries{out(8080), in(8080), rawIn, pingIn}},
		{"{FLAGS: {match: FLAGS_NONE_SET, value: [IS_RAW_ENDPOINT]}}, {DIRECTION: outbound}, {IP_PROTOCOL: udp}", nil, tries{out(8080)}, tries{rawOut, pingOut}},
		{`{IP_PROTOCOL: udp}, {IP_REMOTE_ADDRESS: [10.77.0.8/29, "fd77::10/124"]}`, tries{fromSecond}, nil, tries{in(8080), out(8080)}},
		{`{IP_LOCAL_ADDRESS: [10.77.0.11, "fd77::11"]}`, tries{toSecond}, nil, tries{in(8080), out(8080)}},
		{"{IP_PROTOCOL: udp}, {IP_LOCAL_INTERFACE: h0}, {DIRECTION: inbound}", tries{in(8080), out(8080)}, nil, tries{onLo, pingIn}},
		{fmt.Sprintf("{IP_PROTOCOL: udp}, {INTERFACE_INDEX: %d}, {DIRECTION: outbound}", b.hostEnd.Index), tries{in(8080)}, tries{out(8080)}, tries{onLo}},
		{"{IP_PROTOCOL: udp}, {INTERFACE_TYPE: loopback}, {DIRECTION: inbound}", tries{onLo}, nil, tries{in(8080), out(8080)}},
		{"{IP_PROTOCOL: udp}, {IP_LOCAL_ADDRESS_TYPE: unicast}, {DIRECTION: inbound}", tries{in(8080), out(8080)}, nil, tries{pingIn}},
		{"{IP_PROTOCOL: udp}, {IP_LOCAL_ADDRESS_TYPE: multicast}", nil, nil, tries{in(8080), out(8080)}},
	} {
		t.Run(row.conditions, func(t *testing.T) {
			b.apply(blocks(atDatagram, row.conditions))
			for _, f := range b.families() {
				for _, list := range []struct {
					tries
					outcome
				}{{row.lost, dropped}, {row.denied, refused}, {row.through, passes}} {
					for n, try := range list.tries {
						t.Run(fmt.Sprintf("%s %d %s", list.text, n, f.name), func(t *testing.T) { try(f, list.outcome, t) })
					}
				}
			}
		})
	}
}

// Each datagram of a flow is judged and counted, by the policy in force: what was kept
// on those before ends with theirs.
func TestDatagramOpenFlow(t *testing.T) {
	b := newBed(t)
	host, peer := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	b.listen(host, 8080)
	for _, f := range b.families() {
		t.Run(f.name, func(t *testing.T) {
			layer := "DATAGRAM_DATA_" + f.layer
			look := "filters:\n" + rule("PERMIT", "Comes in", layer, 8, "{IP_LOCAL_PORT: 8080}, {DIRECTION: inbound}") +
				rule("PERMIT", "Goes out", layer, 8, "{IP_LOCAL_PORT: 8080}, {DIRECTION: outbound}")
			b.apply(look)
			s := b.dial(peer, f.udp, at(f.host, 8080))
			for range 4 { // after the one that opened it
				passes.want(t, peer.Exchange(s, "hello"))
			}
			for _, name := range []string{"Comes in", "Goes out"} {
				if n := b.hits(layer, name); n != 5 {
					t.Errorf("%q counted %d datagrams of 5", name, n)
				}
			}
			for _, direction := range []string{"inbound", "outbound"} {
				b.apply(blocks(layer, "{IP_LOCAL_PORT: 8080}, {DIRECTION: "+direction+"}"))
				dropped.want(t, peer.Exchange(s, "lost", testbed.Options{Timeout: soon}))
				b.wantBlock(layer, "Block it")
				if n := b.hits(layer, "Block it"); n != 1 {
					t.Errorf("%d datagrams blocked", n)
				}
				b.apply(look)
				s = b.dial(peer, f.udp, at(f.host, 8080))
				passes.want(t, peer.Exchange(s, "hello"))
			}
			dropped.want(t, host.UDPExchange(f.udp, at(f.peer, closed), "hello", testbed.Options{Timeout: soon}))
		})
	}
}

// A block is told, each way.
func TestDatagramEvent(t *testing.T) {
	b := newBed(t)
	host, peer := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	b.listen(host, 8081)
	b.listen(peer, 8081)
	for n, f := range b.families() {
		layer := "DATAGRAM_DATA_" + f.layer
		echo, icmpProtocol := []int{echoV4, echoV6}[n], []uint8{1, 58}[n]
		for _, row := range []struct {
			conditions string
			try        func() error
			o          outcome
			want       loader.Event
		}{
			{"{DIRECTION: inbound}, {IP_LOCAL_PORT: 8081}", func() error { return udp(8081).fromPort(5000).make(peer, f, soon) }, dropped,
				loader.Event{Direction: "in", Protocol: 17, Src: at(f.peer, 5000), Dst: at(f.host, 8081)}},
			{"{DIRECTION: outbound}, {IP_REMOTE_PORT: 8081}", func() error {
				return host.UDPExchange(f.udp, at(f.peer, 8081), "hello", testbed.Options{Local: at(f.host, 5001)})
			}, refused, loader.Event{Direction: "out", Protocol: 17, Src: at(f.host, 5001), Dst: at(f.peer, 8081)}},
			{fmt.Sprintf("{DIRECTION: inbound}, {IP_PROTOCOL: [icmp, icmpv6]}, {IP_LOCAL_PORT: %d}", echo), func() error {
				return icmp(peer, f, f.host, uint8(echo), 0, 0, soon)
			}, dropped, loader.Event{Direction: "in", Protocol: icmpProtocol, Src: at(f.peer, 0), Dst: at(f.host, echo)}},
		} {
			t.Run(row.conditions+" "+f.name, func(t *testing.T) {
				b.apply(blocks(layer, row.conditions))
				b.events()
				row.o.want(t, row.try())
				e := b.wantBlock(layer, "Block it")
				row.want.Time, row.want.FilterID = e.Time, e.FilterID
				row.want.Layer, row.want.Action, row.want.FilterName, row.want.SubLayer = layer, "block", "Block it", "UNIVERSAL"
				row.want.Interface = "h0"
				if e != row.want {
					t.Errorf("event %+v,\nwant  %+v", e, row.want)
				}
				b.wantHits(layer, "Block it")
			})
		}
	}
}

// What comes in passes DATAGRAM_DATA last, what goes out before OUTBOUND_TRANSPORT:
// what one layer blocks the next does not see.
func TestDatagramOrder(t *testing.T) {
	b := newBed(t)
	host, peer := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	b.listen(host, 8080)
	b.listen(peer, 8080)
	for n, f := range b.families() {
		echo := []int{echoV4, echoV6}[n]
		for _, row := range []struct {
			name, conditions string
			layers           []string
			out              bool
			try              func() error
		}{
			{"UDP in", "{IP_PROTOCOL: udp}, {IP_LOCAL_PORT: 8080}", []string{"INBOUND_TRANSPORT", "ALE_AUTH_RECV_ACCEPT", "ALE_FLOW_ESTABLISHED", "DATAGRAM_DATA"}, false,
				func() error { return udp(8080).make(peer, f, soon) }},
			{"UDP out", "{IP_PROTOCOL: udp}, {IP_REMOTE_PORT: 8080}", []string{"ALE_AUTH_CONNECT", "DATAGRAM_DATA", "OUTBOUND_TRANSPORT"}, true,
				func() error { return host.UDPSend(f.udp, at(f.peer, 8080), "hello") }},
			{"ping in", fmt.Sprintf("{IP_PROTOCOL: [icmp, icmpv6]}, {IP_LOCAL_PORT: %d}", echo), []string{"INBOUND_TRANSPORT", "DATAGRAM_DATA"}, false,
				func() error { return icmp(peer, f, f.host, uint8(echo), 0, 0, soon) }},
			{"ping out", fmt.Sprintf("{IP_PROTOCOL: [icmp, icmpv6]}, {IP_LOCAL_PORT: %d}", echo), []string{"DATAGRAM_DATA", "OUTBOUND_TRANSPORT"}, true,
				func() error { return sendICMP(host, f, f.peer, uint8(echo), 0, make([]byte, 4)) }},
		} {
			for blocker := range row.layers {
				t.Run(row.name+" "+row.layers[blocker]+" "+f.name, func(t *testing.T) {
					var yaml strings.Builder
					for i, layer := range row.layers {
						yaml.WriteString(rule(map[bool]string{true: "BLOCK", false: "PERMIT"}[i == blocker], "See it", layer+"_"+f.layer, 8, row.conditions))
					}
					b.apply("filters:\n" + yaml.String())
					err := row.try()
					switch {
					case !row.out:
						dropped.want(t, err)
					case row.layers[blocker] == "ALE_AUTH_CONNECT":
						denied.want(t, err)
					default:
						refused.want(t, err)
					}
					for i, layer := range row.layers {
						want := map[bool]uint64{true: 1, false: 0}[i <= blocker]
						if got := b.hits(layer+"_"+f.layer, "See it"); got != want {
							t.Errorf("%s saw %d packets, want %d", layer, got, want)
						}
					}
				})
			}
		}
	}
}

// ICMP errors are no datagrams, and neither is what another cgroup's programs send.
func TestDatagramAlone(t *testing.T) {
	b := newBed(t)
	b.apply("filters:\n" + rule("BLOCK", "Block all", atDatagram, 0, "{DIRECTION: outbound}, {IP_PROTOCOL: [udp, 8]}") +
		rule("BLOCK", "Block errors", atDatagram, 0, "{IP_PROTOCOL: [icmp, icmpv6]}, {IP_LOCAL_PORT: [1, 3]}"))
	host, peer := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	elsewhere := b.on(b.host, testbed.ProcOptions{Cgroup: testbed.NewCgroup(t, "elsewhere")})
	b.listen(peer, 8080)
	for _, f := range b.families() {
		t.Run(f.name, func(t *testing.T) {
			refused.want(t, host.UDPExchange(f.udp, at(f.peer, 8080), "hello"))
			passes.want(t, elsewhere.UDPExchange(f.udp, at(f.peer, 8080), "hello"))
			r := rawSocket(t, peer, f, egp)
			passes.want(t, pass(elsewhere, rawSocket(t, elsewhere, f, egp), at(f.peer, 0), peer, r, passes.limit))
			refused.want(t, pass(host, rawSocket(t, host, f, egp), at(f.peer, 0), peer, r, soon))
			c, err := peer.Dial(f.udp, at(f.host, closed))
			passes.want(t, err)
			closedPort.want(t, peer.Exchange(c, "hello"))
		})
	}
}

// hookNames are the hooks that are attached, without where.
func (b *bed) hookNames() string {
	var names []string
	for _, h := range b.hooks() {
		name, _, _ := strings.Cut(h, "@")
		names = append(names, name)
	}
	return strings.Join(names, " ")
}

// A family without filters is not hooked at netfilter.
func TestDatagramPayForUse(t *testing.T) {
	b := newBed(t)
	for _, row := range []struct{ policy, want string }{
		{blocks("DATAGRAM_DATA_V4", "{IP_LOCAL_PORT: 1}"), "sock_create skb_ingress local_in4 local_out4"},
		{blocks("DATAGRAM_DATA_V6", "{IP_LOCAL_PORT: 1}"), "sock_create skb_ingress local_in6 local_out6"},
		{"filters: []\n", ""},
	} {
		b.apply(row.policy)
		if got := b.hookNames(); got != row.want {
			t.Errorf("hooks %q, want %q", got, row.want)
		}
	}
}
