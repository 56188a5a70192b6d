// SPDX-License-Identifier: Apache-2.0

package live

import (
	"net"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/wfpebpf/wfpebpf/tests/testbed"
)

var atConnect = both("ALE_AUTH_CONNECT")

// inboundOnly and outboundOnly block one direction whole.
var (
	outboundOnly = "filters:\n" + rule("BLOCK", "Block in", atAccept, 0)
	inboundOnly  = "filters:\n" + rule("BLOCK", "Block out", atConnect, 0)
	nothing      = outboundOnly + rule("BLOCK", "Block out", atConnect, 0)
)

// open opens a UDP socket that is not connected.
func (b *bed) open(p *testbed.Proc, network, local string) testbed.Sock {
	b.t.Helper()
	s, err := p.UDP(network, testbed.Options{Local: local, V6Only: true})
	if err != nil {
		b.t.Fatal(err)
	}
	return s
}

// send sends a datagram, which the other socket receives or does not.
func send(t *testing.T, from *testbed.Proc, s testbed.Sock, to string, receiver *testbed.Proc, r testbed.Sock, o outcome) {
	t.Helper()
	passes.want(t, from.SendTo(s, to, "hello"))
	_, _, err := receiver.Receive(r, testbed.Options{Timeout: o.limit})
	o.want(t, err)
}

// A flow is authorised in the direction of its first packet and then passes
// both ways.
func TestFlowBothWays(t *testing.T) {
	b := newBed(t)
	host, peer := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	b.listen(host, 8080)
	b.listen(peer, 8080)
	for _, row := range []struct {
		name, policy string
		in, out      outcome
		tcpOut       outcome
	}{
		{"outbound flows are answered", outboundOnly, dropped, passes, passes},
		{"inbound flows are answered", inboundOnly, passes, denied, denied},
	} {
		b.apply(row.policy)
		for _, f := range b.families() {
			t.Run(row.name+" "+f.name, func(t *testing.T) {
				row.tcpOut.want(t, host.Connect(f.tcp, at(f.peer, 8080)))
				row.out.want(t, host.UDPExchange(f.udp, at(f.peer, 8080), "hello"))
				row.out.want(t, host.Connect(f.udp, at(f.peer, 8080)))
				each(t, peer, f, []call{tcp(8080), mptcp(8080), udp(8080)}, row.in)
			})
		}
	}
}

// What is authorised is one socket's exchange with one peer, at one of its own
// addresses.
func TestFlowInbound(t *testing.T) {
	b := newBed(t)
	b.apply(outboundOnly)
	host, peer := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	for _, f := range b.families() {
		t.Run(f.name, func(t *testing.T) {
			s := b.open(host, f.udp, at(f.any, 6000))
			server, another := b.open(peer, f.udp, at(f.peer, 8080)), b.open(peer, f.udp, at(f.peer, 8081))
			second := b.open(peer, f.udp, at(f.peerSecond, 8080))
			send(t, peer, server, at(f.host, 6000), host, s, dropped)
			from := b.open(host, f.udp, at(f.host, 6001))
			send(t, host, from, at(f.peer, 8080), peer, server, passes)
			for range 2 {
				send(t, peer, server, at(f.host, 6001), host, from, passes)
			}
			send(t, peer, another, at(f.host, 6001), host, from, dropped)
			send(t, peer, second, at(f.host, 6001), host, from, dropped)
			// what another socket opened is not ours
			send(t, peer, server, at(f.host, 6000), host, s, dropped)

			send(t, host, s, at(f.peer, 8080), peer, server, passes)
			send(t, peer, server, at(f.host, 6000), host, s, passes)
			send(t, peer, server, at(f.hostSecond, 6000), host, s, dropped)
			b.wantBlock("ALE_AUTH_RECV_ACCEPT_"+f.layer, "Block in")
		})
	}
}

// An inbound flow lets the answer out, from the address where the datagram came
// in and from no other.
func TestFlowAnswerFromAnotherAddress(t *testing.T) {
	b := newBed(t)
	b.apply(inboundOnly)
	host, peer := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	for _, f := range b.families() {
		t.Run(f.name, func(t *testing.T) {
			s, client := b.open(host, f.udp, at(f.any, 6000)), b.open(peer, f.udp, at(f.peer, 8080))
			denied.want(t, host.SendTo(s, at(f.peer, 8080), "hello"))
			first, other := b.hostEnd.V4, b.hostEnd.SecondV4
			to := b.peerEnd.V4
			if f.name == "v6" {
				first, other, to = b.hostEnd.V6, b.hostEnd.SecondV6, b.peerEnd.V6
			}
			send(t, peer, client, at(f.host, 6000), host, s, passes)
			b.sendFrom(first.AsSlice(), to.AsSlice())
			send(t, host, s, at(f.peer, 8080), peer, client, passes)
			b.sendFrom(other.AsSlice(), to.AsSlice())
			b.events()
			refused.want(t, host.SendTo(s, at(f.peer, 8080), "hello"))
			if e := b.wantBlock("ALE_AUTH_CONNECT_"+f.layer, "Block out"); e.Src != at(f.hostSecond, 6000) {
				t.Errorf("event %+v", e)
			}
		})
	}
}

// sendFrom makes the host use one of its addresses towards a destination.
func (b *bed) sendFrom(source, to net.IP) {
	b.t.Helper()
	err := b.host.Netlink().RouteReplace(&netlink.Route{
		LinkIndex: b.hostEnd.Index, Src: source,
		Dst: &net.IPNet{IP: to, Mask: net.CIDRMask(len(to)*8, len(to)*8)},
	})
	if err != nil {
		b.t.Fatal(err)
	}
}

// dial connects a socket and sees it work.
func (b *bed) dial(p *testbed.Proc, network, to string, opts ...testbed.Options) testbed.Sock {
	b.t.Helper()
	s, err := p.Dial(network, to, opts...)
	if err == nil {
		err = p.Exchange(s, "hello")
	}
	if err != nil {
		b.t.Fatal(err)
	}
	return s
}

// Connections and connected UDP sockets that are older than the first policy are not
// cut, be it by that or by another: where they were authorised is not known. Those that
// a policy has let pass are, by the next one.
func TestFlowOpenBefore(t *testing.T) {
	b := newBed(t)
	host, peer := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	b.listen(host, 8080)
	b.listen(peer, 8080)
	b.listenTCP(host, 8081)
	type flow struct {
		name string
		p    *testbed.Proc
		s    testbed.Sock
		want outcome
	}
	open := func(inboundUDP bool) (flows []flow) {
		for _, f := range b.families() {
			flows = append(flows,
				flow{name: "TCP out " + f.name, p: host, s: b.dial(host, f.tcp, at(f.peer, 8080))},
				flow{name: "MPTCP out " + f.name, p: host, s: b.dial(host, f.tcp, at(f.peer, 8080), testbed.Options{MPTCP: testbed.MPTCPOn})},
				flow{name: "TCP in " + f.name, p: peer, s: b.dial(peer, f.tcp, at(f.host, 8081))},
				flow{name: "MPTCP in " + f.name, p: peer, s: b.dial(peer, f.tcp, at(f.host, 8080), testbed.Options{MPTCP: testbed.MPTCPOn})},
				flow{name: "UDP out " + f.name, p: host, s: b.dial(host, f.udp, at(f.peer, 8080))},
			)
			if inboundUDP {
				flows = append(flows, flow{name: "UDP in " + f.name, p: peer, s: b.dial(peer, f.udp, at(f.host, 8080), testbed.Options{Local: at(f.peer, 5000)})})
			}
		}
		flows = append(flows, flow{name: "TCP out mapped", p: host, s: b.dial(host, "tcp6", at("[::ffff:10.77.0.2]", 8080))},
			flow{name: "UDP out mapped", p: host, s: b.dial(host, "udp6", at("[::ffff:10.77.0.2]", 8080))})
		return flows
	}
	var old []flow
	for _, row := range []struct{ name, policy string }{
		{"no policy", ""},
		{"a first policy that blocks all", nothing},
		{"another that permits all", "filters:\n" + rule("PERMIT", "Permit all", "[ALE_AUTH_RECV_ACCEPT_V4, ALE_AUTH_RECV_ACCEPT_V6, ALE_AUTH_CONNECT_V4, ALE_AUTH_CONNECT_V6]", 0)},
		{"again one that blocks all", nothing},
	} {
		t.Run(row.name, func(t *testing.T) {
			if row.policy != "" {
				b.apply(row.policy)
			}
			for _, o := range old {
				t.Run(o.name, func(t *testing.T) { o.want.want(t, o.p.Exchange(o.s, "hello", testbed.Options{Timeout: o.want.limit})) })
			}
			if row.policy != nothing {
				// the kernel does not tell who sent to an unconnected socket before
				opened := open(row.policy != "")
				for i := range opened {
					switch o := &opened[i]; {
					case row.policy == "":
						o.want = passes
					case strings.HasPrefix(o.name, "UDP out"):
						o.want = refused
					default:
						o.want = dropped
					}
				}
				old = append(old, opened...)
				return
			}
			for _, f := range b.families() {
				denied.want(t, host.Connect(f.tcp, at(f.peer, 8080)))
				denied.want(t, host.Connect(f.udp, at(f.peer, 8080)))
				each(t, peer, f, []call{tcp(8080), mptcp(8080), tcp(8081), udp(8080)}, dropped)
			}
		})
	}
}

// A connected UDP socket that is older than the engine takes what its peer
// sends first.
func TestFlowOpenBeforeAnsweredLate(t *testing.T) {
	b := newBed(t)
	host, peer := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	type pair struct {
		f              family
		server, client testbed.Sock
		local          string
	}
	var pairs []pair
	for _, f := range b.families() {
		server := b.open(peer, f.udp, at(f.peer, 8080))
		client, err := host.Dial(f.udp, at(f.peer, 8080))
		if err != nil {
			t.Fatal(err)
		}
		pairs = append(pairs, pair{f, server, client, client.Local.String()})
	}
	b.apply(nothing)
	for _, p := range pairs {
		t.Run(p.f.name, func(t *testing.T) { send(t, peer, p.server, p.local, host, p.client, passes) })
	}
}

// Applying a policy again authorises nothing that it blocks.
func TestFlowBlockedStaysBlocked(t *testing.T) {
	b := newBed(t)
	// the port is not known when the socket connects: its packet is judged
	yaml := blocks(atConnect, "{IP_LOCAL_PORT: {match: NOT_EQUAL, value: 40000}}")
	b.apply(yaml)
	host, peer := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	b.listen(peer, 8080)
	for _, f := range b.families() {
		t.Run(f.name, func(t *testing.T) {
			s, err := host.Dial(f.udp, at(f.peer, 8080))
			if err != nil {
				t.Fatal(err)
			}
			refused.want(t, host.Exchange(s, "hello"))
			b.wantBlock("ALE_AUTH_CONNECT_"+f.layer, "Block it")
			b.apply(yaml)
			refused.want(t, host.Exchange(s, "hello"))
		})
	}
}
