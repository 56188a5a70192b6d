// SPDX-License-Identifier: Apache-2.0

package live

import (
	"encoding/binary"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/wfpebpf/wfpebpf/loader"
	"github.com/wfpebpf/wfpebpf/policy"
	"github.com/wfpebpf/wfpebpf/tests/testbed"
)

var (
	atTransportIn  = both("INBOUND_TRANSPORT")
	atTransportOut = both("OUTBOUND_TRANSPORT")
)

// Every packet is judged, also of a connection that is under way; what goes out
// is not.
func TestTransport(t *testing.T) {
	b := newBed(t)
	host, peer := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	b.listen(host, 8080, 8081)
	b.listen(peer, 8080)
	for _, f := range b.families() {
		t.Run(f.name, func(t *testing.T) {
			layer := "INBOUND_TRANSPORT_" + f.layer
			b.apply(blocks(layer, "{IP_LOCAL_PORT: 8081}"))
			each(t, peer, f, []call{tcp(8080), mptcp(8080), udp(8080)}, passes)
			b.wantHits(layer, "Permit the rest")
			for _, c := range []call{tcp(8081), mptcp(8081), udp(8081)} {
				t.Run(c.String(), func(t *testing.T) {
					b.events()
					before := b.hits(layer, "Block it")
					c.fromPort(5000).want(t, peer, f, dropped)
					e := b.wantBlock(layer, "Block it")
					want := loader.Event{
						Time: e.Time, Layer: layer, Action: "block", FilterID: e.FilterID, FilterName: "Block it", SubLayer: "UNIVERSAL",
						Direction: "in", Protocol: 17, Src: at(f.peer, 5000), Dst: at(f.host, 8081), Interface: "h0",
					}
					if c.tcp {
						want.Protocol = 6
					}
					if e != want {
						t.Errorf("event %+v,\nwant  %+v", e, want)
					}
					if n := b.hits(layer, "Block it"); n == before {
						t.Error("the counter stands still")
					}
				})
			}

			opened := b.dial(peer, f.tcp, at(f.host, 8080))
			arrives := b.open(peer, f.udp, at(f.peer, 8085))
			b.apply("filters:\n" + rule("BLOCK", "Block UDP and TCP", layer, 0, "{IP_PROTOCOL: [tcp, udp]}"))
			dropped.want(t, peer.Exchange(opened, "hello", testbed.Options{Timeout: soon}))
			passes.want(t, host.UDPSend(f.udp, at(f.peer, 8085), "hello"))
			_, _, err := peer.Receive(arrives)
			passes.want(t, err)
			// the SYN goes out, its answer does not come in
			dropped.want(t, host.Connect(f.tcp, at(f.peer, 8080), testbed.Options{Timeout: soon}))
			if e := b.wantBlock(layer, "Block UDP and TCP"); e.Protocol != 6 {
				t.Errorf("event %+v", e)
			}
		})
	}
}

// The other way: what goes out is judged, answers included, and nothing that
// comes in. A datagram's sender is told; a connection waits.
func TestTransportOutbound(t *testing.T) {
	b := newBed(t)
	host, peer := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	b.listen(host, 8080, 8081)
	b.listen(peer, 8080, 8081)
	for _, f := range b.families() {
		t.Run(f.name, func(t *testing.T) {
			layer := "OUTBOUND_TRANSPORT_" + f.layer
			b.apply(blocks(layer, "{IP_REMOTE_PORT: 8081}"))
			passes.want(t, host.Connect(f.tcp, at(f.peer, 8080)))
			passes.want(t, host.UDPExchange(f.udp, at(f.peer, 8080), "hello"))
			b.wantHits(layer, "Permit the rest")
			each(t, peer, f, []call{tcp(8081), mptcp(8081), udp(8081)}, passes)
			for _, row := range []struct {
				name     string
				protocol uint8
				try      func() error
				out      outcome
			}{
				{"TCP", 6, func() error {
					return host.Connect(f.tcp, at(f.peer, 8081), testbed.Options{Local: at(f.host, 5000), Timeout: soon})
				}, dropped},
				{"UDP", 17, func() error {
					return host.UDPSend(f.udp, at(f.peer, 8081), "hello", testbed.Options{Local: at(f.host, 5000)})
				}, refused},
			} {
				t.Run(row.name, func(t *testing.T) {
					b.events()
					row.out.want(t, row.try())
					e := b.wantBlock(layer, "Block it")
					want := loader.Event{
						Time: e.Time, Layer: layer, Action: "block", FilterID: e.FilterID, FilterName: "Block it", SubLayer: "UNIVERSAL",
						Direction: "out", Protocol: row.protocol, Src: at(f.host, 5000), Dst: at(f.peer, 8081), Interface: "h0",
					}
					if e != want {
						t.Errorf("event %+v,\nwant  %+v", e, want)
					}
				})
			}

			b.apply(blocks(layer, "{IP_LOCAL_PORT: 8081}"))
			arrives := b.open(host, f.udp, at(f.host, 8085))
			each(t, peer, f, []call{tcp(8080), udp(8080)}, passes)
			each(t, peer, f, []call{tcp(8081), udp(8081)}, dropped) // it is the answer that does not come
			passes.want(t, peer.UDPSend(f.udp, at(f.host, 8085), "hello"))
			_, _, err := host.Receive(arrives)
			passes.want(t, err)
			opened := b.dial(peer, f.tcp, at(f.host, 8080))
			b.apply("filters:\n" + rule("BLOCK", "Block TCP", layer, 0, "{IP_PROTOCOL: tcp}"))
			dropped.want(t, peer.Exchange(opened, "hello", testbed.Options{Timeout: soon}))
		})
	}
}

func TestTransportOutboundConditions(t *testing.T) {
	b := newBed(t)
	host, peer := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	b.listen(host, 8080)
	b.listen(peer, 8080, 8081)
	// datagrams, whose sender is told at once
	from := func(local func(family) string, source int, to func(family) string, port int) attempts {
		return attempts{"UDP": func(p *testbed.Proc, f family) error {
			opt := testbed.Options{}
			if local != nil {
				opt.Local = at(local(f), source)
			}
			return p.UDPSend(f.udp, at(to(f), port), "hello", opt)
		}}
	}
	raw := attempts{"raw ICMP": func(p *testbed.Proc, f family) error { return ping(p, f, f.peer) }}
	plain, other := from(nil, 0, peerFirst, 8080), from(nil, 0, peerFirst, 8081)
	source, fromSecond := from(hostFirst, 5000, peerFirst, 8080), from(hostSecond, 0, peerFirst, 8080)
	toSecond, loopback := from(nil, 0, peerSecond, 8080), from(nil, 0, onLoopback, 8080)
	multicast := attempts{"multicast": func(p *testbed.Proc, f family) error {
		if f.layer == "V6" {
			return p.UDPSend("udp6", "[ff02::fb%h0]:5353", "hello")
		}
		return p.UDPSend("udp4", "224.0.0.251:5353", "hello", testbed.Options{Local: at(f.host, 0)})
	}}
	err := b.host.Netlink().RouteAdd(&netlink.Route{LinkIndex: b.hostEnd.Index, Gw: b.peerEnd.V4.AsSlice()})
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		conditions      string
		blocked, passed []attempts
	}{
		{"{IP_PROTOCOL: udp}", []attempts{plain, other, loopback, multicast}, []attempts{raw}},
		{"{IP_PROTOCOL: [icmp, icmpv6]}, {ICMP_TYPE: [8, 128]}", []attempts{raw}, []attempts{plain}},
		{"{IP_PROTOCOL: [icmp, icmpv6]}, {ICMP_TYPE: [0, 129]}", nil, []attempts{raw}},
		{"{IP_REMOTE_PORT: 8081}", []attempts{other}, []attempts{plain}},
		{"{IP_LOCAL_PORT: 5000}", []attempts{source}, []attempts{plain}},
		{`{IP_LOCAL_ADDRESS: [10.77.0.11, "fd77::11"]}`, []attempts{fromSecond}, []attempts{plain}},
		{`{IP_REMOTE_ADDRESS: [10.77.0.12, "fd77::12"]}`, []attempts{toSecond}, []attempts{plain}},
		{"{IP_DESTINATION_ADDRESS_TYPE: multicast}, {IP_PROTOCOL: udp}", []attempts{multicast}, []attempts{plain, loopback}},
		{"{IP_LOCAL_ADDRESS_TYPE: unicast}, {IP_PROTOCOL: udp}", []attempts{plain, loopback, multicast}, []attempts{raw}},
		{"{IP_LOCAL_INTERFACE: h0}, {IP_PROTOCOL: udp}", []attempts{plain, multicast}, []attempts{loopback}},
		{"{INTERFACE_TYPE: loopback}", []attempts{loopback}, []attempts{plain}},
		{"{FLAGS: [IS_LOOPBACK]}", []attempts{loopback}, []attempts{plain}},
		{"{FLAGS: [IS_RAW_ENDPOINT]}", []attempts{raw}, []attempts{plain, loopback}},
		{"{FLAGS: {match: FLAGS_NONE_SET, value: [IS_LOOPBACK, IS_RAW_ENDPOINT]}}, {IP_PROTOCOL: udp}", []attempts{plain}, []attempts{loopback}},
	} {
		t.Run(row.conditions, func(t *testing.T) {
			b.apply(blocks(atTransportOut, row.conditions))
			for _, f := range b.families() {
				layer := "OUTBOUND_TRANSPORT_" + f.layer
				b.events()
				for _, list := range row.blocked {
					for name, try := range list {
						t.Run("blocks "+name+" "+f.name, func(t *testing.T) {
							refused.want(t, try(host, f))
							b.wantBlock(layer, "Block it")
						})
					}
				}
				for _, list := range row.passed {
					for name, try := range list {
						t.Run("permits "+name+" "+f.name, func(t *testing.T) { passes.want(t, try(host, f)) })
					}
				}
			}
		})
	}
}

// The kernel answers a ping by a socket that is raw and nobody's endpoint.
func TestTransportOutboundKernel(t *testing.T) {
	b := newBed(t)
	peer := b.on(b.peer, testbed.ProcOptions{})
	b.apply(blocks(atTransportOut, "{FLAGS: [IS_RAW_ENDPOINT]}"))
	for _, f := range b.families() {
		t.Run(f.name, func(t *testing.T) {
			passes.want(t, ping(peer, f, f.host))
			b.wantHits("OUTBOUND_TRANSPORT_"+f.layer, "Permit the rest")
		})
	}
}

// A datagram is judged once, before it is cut to fragments.
func TestTransportOutboundFragment(t *testing.T) {
	b := newBed(t)
	host, peer := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	b.listen(peer, 8080, 8081)
	large := strings.Repeat("x", 4000)
	for _, f := range b.families() {
		t.Run(f.name, func(t *testing.T) {
			layer := "OUTBOUND_TRANSPORT_" + f.layer
			b.apply("filters:\n" + rule("BLOCK", "Block it", layer, 8, "{IP_REMOTE_PORT: 8081}") +
				rule("PERMIT", "Permit it", layer, 8, "{IP_REMOTE_PORT: 8080}"))
			passes.want(t, host.UDPExchange(f.udp, at(f.peer, 8080), large))
			refused.want(t, host.UDPExchange(f.udp, at(f.peer, 8081), large))
			for _, name := range []string{"Permit it", "Block it"} {
				if n := b.hits(layer, name); n != 1 {
					t.Errorf("%q decided about %d packets, want the datagram alone", name, n)
				}
			}
		})
	}
}

func TestTransportConditions(t *testing.T) {
	b := newBed(t)
	host, peer := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	b.listen(host, 8080, 8081)
	plain := []call{tcp(8080), udp(8080)}
	fromSecond := []call{tcp(8080).fromPeerSecond(), udp(8080).fromPeerSecond()}
	toSecond := []call{tcp(8080).toHostSecond(), udp(8080).toHostSecond()}
	loopback := []call{tcp(8080).onHost(onLoopback), udp(8080).onHost(onLoopback), udp(8080).onHost(hostFirst)}
	for _, row := range []struct {
		conditions      string
		blocked, passed []call
	}{
		{"{IP_PROTOCOL: tcp}", []call{tcp(8080), mptcp(8080)}, []call{udp(8080)}},
		{"{IP_PROTOCOL: udp}", []call{udp(8080)}, []call{tcp(8080), mptcp(8080)}},
		{"{IP_LOCAL_PORT: 8081}", []call{tcp(8081), udp(8081)}, plain},
		{"{IP_LOCAL_PORT: 8081-9000}", []call{tcp(8081), udp(8081)}, plain},
		{"{IP_REMOTE_PORT: 5000}", []call{tcp(8080).fromPort(5000), udp(8080).fromPort(5000)}, plain},
		{"{IP_LOCAL_PORT: EMPTY}", nil, plain},
		{`{IP_REMOTE_ADDRESS: [10.77.0.8/29, "fd77::10/124"]}`, fromSecond, plain},
		{`{IP_REMOTE_ADDRESS: [10.77.0.10-10.77.0.20, "fd77::11-fd77::20"]}`, fromSecond, plain},
		{`{IP_LOCAL_ADDRESS: [10.77.0.11, "fd77::11"]}`, toSecond, plain},
		{`{IP_LOCAL_PORT: 8080}, {IP_PROTOCOL: udp}, {IP_REMOTE_ADDRESS: [10.77.0.12, "fd77::12"]}`, fromSecond[1:], append(fromSecond[:1:1], plain...)},
		{"{IP_LOCAL_ADDRESS_TYPE: unicast}, {IP_PROTOCOL: [tcp, udp]}", append(plain, loopback...), nil},
		{"{IP_LOCAL_ADDRESS_TYPE: [multicast, broadcast]}, {IP_PROTOCOL: udp}", nil, plain},
		{"{IP_LOCAL_INTERFACE: h0}, {IP_PROTOCOL: [tcp, udp]}", plain, loopback},
		{fmt.Sprintf("{INTERFACE_INDEX: %d}, {IP_PROTOCOL: [tcp, udp]}", b.hostEnd.Index), plain, loopback},
		{"{INTERFACE_TYPE: loopback}", loopback, plain},
		{"{FLAGS: [IS_LOOPBACK]}", loopback, plain},
		{"{FLAGS: {match: FLAGS_NONE_SET, value: [IS_LOOPBACK]}}, {IP_PROTOCOL: [tcp, udp]}", plain, loopback},
		{"{CURRENT_PROFILE_ID: public}, {IP_PROTOCOL: [tcp, udp]}", plain, nil},
	} {
		t.Run(row.conditions, func(t *testing.T) {
			b.apply(blocks(atTransportIn, row.conditions))
			b.callAll(t, host, peer, row.blocked, row.passed)
		})
	}
}

// Zones give links their profile.
func TestTransportProfile(t *testing.T) {
	b := newBed(t)
	b.secondLink()
	m, err := policy.LoadMapReader("map.yaml", strings.NewReader("zones: {h0: private}\n"))
	if err != nil {
		t.Fatal(err)
	}
	host, peer := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	b.listen(host, 8080)
	b.commit(b.load(blocks(atTransportIn, "{CURRENT_PROFILE_ID: private}, {IP_LOCAL_PORT: 8080}"), m))
	b.overBothLinks(t, peer, func(t *testing.T, c call, f family, first bool) {
		if first {
			c.want(t, peer, f, dropped)
		} else {
			c.want(t, peer, f, passes)
		}
	})
}

// Types of ICMP messages.
const (
	echoV4, echoV6           = 8, 128
	echoReplyV4, echoReplyV6 = 0, 129
	timestamp                = 13
	timestampReply           = 14
)

// icmp sends a message of a type and a code from a raw socket and waits for its
// answer, that has another type and the same identifier.
func icmp(p *testbed.Proc, f family, to string, kind, code, answer uint8, limit time.Duration) error {
	domain, protocol := unix.AF_INET, unix.IPPROTO_ICMP
	if f.layer == "V6" {
		domain, protocol = unix.AF_INET6, unix.IPPROTO_ICMPV6
	}
	s, err := p.Socket(domain, unix.SOCK_RAW, protocol)
	if err != nil {
		return err
	}
	defer p.CloseSock(s)
	id := uint16(s.ID)<<4 | 0x8001
	message := make([]byte, 20)
	message[0], message[1] = kind, code
	binary.BigEndian.PutUint16(message[4:], id)
	if f.layer == "V4" { // of ICMPv6 the kernel makes it
		binary.BigEndian.PutUint16(message[2:], checksum(message))
	}
	if err := p.SendTo(s, at(to, 0), string(message)); err != nil {
		return err
	}
	for deadline := time.Now().Add(limit); ; {
		_, got, err := p.Receive(s, testbed.Options{Timeout: max(time.Until(deadline), time.Millisecond)})
		if err != nil {
			return err
		}
		if f.layer == "V4" {
			got = got[20:]
		}
		if len(got) >= 8 && got[0] == answer && binary.BigEndian.Uint16([]byte(got[4:])) == id {
			return nil
		}
	}
}

// ping asks for an echo and waits for it.
func ping(p *testbed.Proc, f family, to string) error {
	kind, answer := uint8(echoV4), uint8(echoReplyV4)
	if f.layer == "V6" {
		kind, answer = echoV6, echoReplyV6
	}
	return icmp(p, f, to, kind, 0, answer, testbed.DefaultTimeout)
}

func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// ICMP is judged by its type and its code, that stand where ports do.
func TestTransportICMP(t *testing.T) {
	b := newBed(t)
	host, peer := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	b.listen(host, 8080)
	f4, f6 := b.families()[0], b.families()[1]
	type message struct {
		f                  family
		kind, code, answer uint8
	}
	echo4, echo6 := message{f4, echoV4, 0, echoReplyV4}, message{f6, echoV6, 0, echoReplyV6}
	coded4, coded6 := message{f4, echoV4, 5, echoReplyV4}, message{f6, echoV6, 5, echoReplyV6}
	time4 := message{f4, timestamp, 0, timestampReply}
	want := func(t *testing.T, p *testbed.Proc, to func(family) string, list []message, o outcome) {
		t.Helper()
		for _, m := range list {
			t.Run(fmt.Sprintf("%s type %d code %d", m.f.name, m.kind, m.code), func(t *testing.T) {
				o.want(t, icmp(p, m.f, to(m.f), m.kind, m.code, m.answer, o.limit))
			})
		}
	}
	all := []message{echo4, coded4, time4, echo6, coded6}
	want(t, peer, hostFirst, all, passes) // without a policy
	for _, row := range []struct {
		layers, conditions string
		blocked, passed    []message
	}{
		{"INBOUND_TRANSPORT_V4", "{IP_PROTOCOL: icmp}, {ICMP_TYPE: 8}", []message{echo4, coded4}, []message{time4, echo6, coded6}},
		{"INBOUND_TRANSPORT_V4", "{IP_PROTOCOL: icmp}, {ICMP_TYPE: 8}, {ICMP_CODE: 5}", []message{coded4}, []message{echo4, time4, echo6}},
		{"INBOUND_TRANSPORT_V4", "{IP_PROTOCOL: icmp}, {ICMP_CODE: 0}", []message{echo4, time4}, []message{coded4, echo6}},
		{"INBOUND_TRANSPORT_V4", "{IP_PROTOCOL: icmp}", []message{echo4, coded4, time4}, []message{echo6, coded6}},
		{"INBOUND_TRANSPORT_V6", "{IP_PROTOCOL: icmpv6}, {ICMP_TYPE: 128}", []message{echo6, coded6}, []message{echo4, coded4, time4}},
		{"INBOUND_TRANSPORT_V6", "{IP_PROTOCOL: icmpv6}, {ICMP_TYPE: 128}, {ICMP_CODE: 5}", []message{coded6}, []message{echo4, echo6}},
		{"INBOUND_TRANSPORT_V6", "{IP_PROTOCOL: icmp}", nil, []message{echo6, coded6}},
	} {
		t.Run(row.layers+" "+row.conditions, func(t *testing.T) {
			b.apply(blocks(row.layers, row.conditions))
			want(t, peer, hostFirst, row.blocked, dropped)
			want(t, peer, hostFirst, row.passed, passes)
			for _, m := range row.blocked {
				e := b.wantBlock(row.layers, "Block it")
				if e.Protocol != 1 && e.Protocol != 58 || e.Direction != "in" || e.Interface != "h0" {
					t.Errorf("event %+v of %v", e, m)
				}
				break // one look takes them all
			}
			each(t, peer, f4, []call{tcp(8080), udp(8080)}, passes)
			each(t, peer, f6, []call{tcp(8080), udp(8080)}, passes)
		})
	}
	// what the host asks is out; what it is told comes in
	b.apply("filters:\n" +
		rule("BLOCK", "Block answers", "INBOUND_TRANSPORT_V4", 0, "{IP_PROTOCOL: icmp}, {ICMP_TYPE: 0}") +
		rule("BLOCK", "Block answers", "INBOUND_TRANSPORT_V6", 0, "{IP_PROTOCOL: icmpv6}, {ICMP_TYPE: 129}"))
	for _, m := range []message{echo4, echo6} {
		t.Run("answers "+m.f.name, func(t *testing.T) {
			want(t, peer, hostFirst, []message{m}, passes)
			b.events()
			want(t, host, peerFirst, []message{m}, dropped)
			e := b.wantBlock("INBOUND_TRANSPORT_"+m.f.layer, "Block answers")
			if e.Src != at(m.f.peer, 0) || e.Dst != at(m.f.host, int(m.answer)) {
				t.Errorf("event %+v", e)
			}
		})
	}
}

// Protocols without ports have none, and are judged for all that.
func TestTransportOtherProtocol(t *testing.T) {
	const egp = 8
	b := newBed(t)
	host, peer := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	for _, f := range b.families() {
		t.Run(f.name, func(t *testing.T) {
			domain := map[string]int{"V4": unix.AF_INET, "V6": unix.AF_INET6}[f.layer]
			socket := func(p *testbed.Proc, protocol int) testbed.Sock {
				s, err := p.Socket(domain, unix.SOCK_RAW, protocol)
				if err != nil {
					t.Fatal(err)
				}
				return s
			}
			out, in := socket(peer, egp), socket(host, egp)
			for _, row := range []struct {
				conditions string
				out        outcome
			}{
				{"{IP_PROTOCOL: 8}", dropped},
				{"{IP_PROTOCOL: 9}", passes},
				{"{IP_LOCAL_PORT: 0-65535}, {IP_PROTOCOL: 8}", passes},
				{"{IP_LOCAL_PORT: EMPTY}, {IP_PROTOCOL: 8}", dropped},
			} {
				t.Run(row.conditions, func(t *testing.T) {
					b.apply(blocks("INBOUND_TRANSPORT_"+f.layer, row.conditions))
					send(t, peer, out, at(f.host, 0), host, in, row.out)
				})
			}
		})
	}
}

// A datagram that is larger than a frame arrives in fragments and is judged
// once, by its ports.
func TestTransportFragment(t *testing.T) {
	b := newBed(t)
	host, peer := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	b.listen(host, 8080, 8081)
	large := strings.Repeat("x", 4000)
	for _, f := range b.families() {
		t.Run(f.name, func(t *testing.T) {
			layer := "INBOUND_TRANSPORT_" + f.layer
			b.apply("filters:\n" + rule("BLOCK", "Block it", layer, 8, "{IP_LOCAL_PORT: 8081}") +
				rule("PERMIT", "Permit it", layer, 8, "{IP_LOCAL_PORT: 8080}"))
			b.events()
			passes.want(t, peer.UDPExchange(f.udp, at(f.host, 8080), large))
			dropped.want(t, peer.UDPExchange(f.udp, at(f.host, 8081), large, testbed.Options{Timeout: soon}))
			if e := b.wantBlock(layer, "Block it"); e.Dst != at(f.host, 8081) || e.Protocol != 17 {
				t.Errorf("event %+v", e)
			}
			for _, name := range []string{"Permit it", "Block it"} {
				if n := b.hits(layer, name); n != 1 {
					t.Errorf("%q decided about %d packets, want the datagram alone", name, n)
				}
			}
			if n := b.state().Unreadable; n != 0 {
				t.Errorf("%d packets counted as unreadable", n)
			}
		})
	}
}

// A later IPv6 fragment cannot rewrite the ports of the first, by which the
// datagram is judged.
func TestTransportFragmentOverlap(t *testing.T) {
	b := newBed(t)
	host := b.on(b.host, testbed.ProcOptions{})
	out := newTap(t, b.peerEnd, uint16(layers.EthernetTypeIPv6))
	shut := b.open(host, "udp6", fmt.Sprintf("[%s]:8081", b.hostEnd.V6))
	open := b.open(host, "udp6", fmt.Sprintf("[%s]:8080", b.hostEnd.V6))
	b.apply(blocks("INBOUND_TRANSPORT_V6", "{IP_LOCAL_PORT: 8081}"))
	datagram := func(port layers.UDPPort) []byte {
		ip := &layers.IPv6{Version: 6, SrcIP: net.IP(b.peerEnd.V6.AsSlice()), DstIP: net.IP(b.hostEnd.V6.AsSlice()), NextHeader: layers.IPProtocolUDP}
		udp := &layers.UDP{SrcPort: 9000, DstPort: port}
		if err := udp.SetNetworkLayerForChecksum(ip); err != nil {
			t.Fatal(err)
		}
		return serialize(t, udp, gopacket.Payload(strings.Repeat("x", 24)))
	}
	fragment := func(id uint32, next layers.IPProtocol, offset uint16, more bool, data []byte) {
		header := make([]byte, 8)
		header[0] = byte(next)
		binary.BigEndian.PutUint16(header[2:], offset)
		if more {
			header[3] |= 1
		}
		binary.BigEndian.PutUint32(header[4:], id)
		frame := serialize(t,
			&layers.Ethernet{SrcMAC: b.peerEnd.MAC, DstMAC: b.hostEnd.MAC, EthernetType: layers.EthernetTypeIPv6},
			&layers.IPv6{
				Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolIPv6Fragment,
				SrcIP: net.IP(b.peerEnd.V6.AsSlice()), DstIP: net.IP(b.hostEnd.V6.AsSlice()),
			}, gopacket.Payload(append(header, data...)))
		if _, err := unix.Write(out.fd, frame); err != nil {
			t.Fatal(err)
		}
	}
	wants := func(t *testing.T, s testbed.Sock, o outcome) {
		t.Helper()
		_, _, err := host.Receive(s, testbed.Options{Timeout: o.limit})
		o.want(t, err)
	}
	const udp, options = layers.IPProtocolUDP, layers.IPProtocolIPv6Destination
	to8080, to8081 := datagram(8080), datagram(8081)
	behind := func(datagram []byte) []byte {
		return append([]byte{byte(udp), 0, 1, 4, 0, 0, 0, 0}, datagram...)
	}
	for i, row := range []struct {
		name       string
		send       func(id uint32)
		open, shut outcome
	}{
		{"to the open port", func(id uint32) { fragment(id, udp, 0, true, to8080[:16]); fragment(id, udp, 16, false, to8080[16:]) }, passes, dropped},
		{"to the open port, the first last", func(id uint32) { fragment(id, udp, 16, false, to8080[16:]); fragment(id, udp, 0, true, to8080[:16]) }, passes, dropped},
		{"to the blocked port", func(id uint32) { fragment(id, udp, 0, true, to8081[:16]); fragment(id, udp, 16, false, to8081[16:]) }, dropped, dropped},
		{"to the blocked port, the first last", func(id uint32) { fragment(id, udp, 16, false, to8081[16:]); fragment(id, udp, 0, true, to8081[:16]) }, dropped, dropped},
		{"to the open port, behind options", func(id uint32) {
			fragment(id, options, 0, true, behind(to8080)[:16])
			fragment(id, options, 16, false, behind(to8080)[16:])
		}, passes, dropped},
		{"to the blocked port, behind options", func(id uint32) {
			fragment(id, options, 0, true, behind(to8081)[:16])
			fragment(id, options, 16, false, behind(to8081)[16:])
		}, dropped, dropped},
		{"two firsts", func(id uint32) {
			fragment(id, udp, 0, true, to8080[:16])
			fragment(id, udp, 0, true, to8081[:16])
			fragment(id, udp, 16, false, to8081[16:])
		}, passes, dropped},
		{"ports cut off", func(id uint32) { fragment(id, udp, 0, true, nil); fragment(id, udp, 0, false, to8081) }, dropped, dropped},
	} {
		t.Run(row.name, func(t *testing.T) {
			row.send(uint32(i + 1))
			wants(t, open, row.open)
			wants(t, shut, row.shut)
		})
	}
}

// What stands before the ports does not hide them; who hides them is dropped
// and counted.
func TestTransportExtensionHeaders(t *testing.T) {
	b := newBed(t)
	host := b.on(b.host, testbed.ProcOptions{})
	out := newTap(t, b.peerEnd, uint16(layers.EthernetTypeIPv6))
	open := b.open(host, "udp6", fmt.Sprintf("[%s]:8080", b.hostEnd.V6))
	shut := b.open(host, "udp6", fmt.Sprintf("[%s]:8081", b.hostEnd.V6))
	b.apply(blocks("INBOUND_TRANSPORT_V6", "{IP_LOCAL_PORT: 8081}"))
	for _, row := range extensionHeaders {
		t.Run(row.name, func(t *testing.T) {
			b.events()
			before, lost, o := b.state().Unreadable, uint64(0), passes
			if !row.readable {
				lost, o = 2, dropped
			}
			for _, to := range []struct {
				port layers.UDPPort
				s    testbed.Sock
				out  outcome
			}{{8081, shut, dropped}, {8080, open, o}} {
				b.sendBehind(t, out, to.port, row.kinds)
				_, _, err := host.Receive(to.s, testbed.Options{Timeout: to.out.limit})
				to.out.want(t, err)
			}
			if row.readable {
				b.wantBlock("INBOUND_TRANSPORT_V6", "Block it")
			}
			if n := b.state().Unreadable - before; n != lost {
				t.Errorf("%d packets counted as unreadable, want %d", n, lost)
			}
		})
	}
}

// It comes before ALE: what it blocks is not judged there, and what both block
// is its block.
func TestTransportBeforeALE(t *testing.T) {
	b := newBed(t)
	host, peer := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	b.listen(host, 8080, 8081, 8082)
	b.apply("filters:\n" + rule("BLOCK", "Block at transport", atTransportIn, 8, "{IP_LOCAL_PORT: [8080, 8081]}") +
		rule("BLOCK", "Block at accept", atAccept, 8, "{IP_LOCAL_PORT: [8081, 8082]}"))
	for _, f := range b.families() {
		for _, row := range []struct {
			port   int
			filter string
		}{{8080, "Block at transport"}, {8081, "Block at transport"}, {8082, "Block at accept"}} {
			t.Run(fmt.Sprintf("%s port %d", f.name, row.port), func(t *testing.T) {
				b.events()
				each(t, peer, f, []call{tcp(row.port), udp(row.port)}, dropped)
				list := b.events()
				if len(list) == 0 {
					t.Error("no events")
				}
				for _, e := range list {
					if e.FilterName != row.filter {
						t.Errorf("event %+v", e)
					}
				}
			})
		}
	}
}

// Two instances in one namespace, which differ in their cgroups: netfilter
// belongs to the namespace, so that each filters all of its packets.
func TestTransportTwoInstances(t *testing.T) {
	b := newBed(t)
	other := &bed{t: t, host: b.host, peer: b.peer, hostEnd: b.hostEnd, peerEnd: b.peerEnd, cgroup: testbed.NewCgroup(t, "other")}
	host, peer := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	b.listen(host, 8080, 8081, 8082)
	b.apply(blocks(atTransportIn, "{IP_LOCAL_PORT: 8081}"))
	other.apply(blocks(atTransportIn, "{IP_LOCAL_PORT: 8082}"))
	for _, f := range b.families() {
		each(t, peer, f, []call{tcp(8080), udp(8080)}, passes)
		each(t, peer, f, []call{tcp(8081), udp(8081), tcp(8082), udp(8082)}, dropped)
		b.wantBlock("INBOUND_TRANSPORT_"+f.layer, "Block it")
		other.wantBlock("INBOUND_TRANSPORT_"+f.layer, "Block it")
	}
	want := []string{"local_in4@" + b.host.Name, "local_in6@" + b.host.Name}
	if got := b.hooks(); !slices.Equal(got, want) {
		t.Errorf("hooks %q, want %q", got, want)
	}
	if err := b.engine.Down(); err != nil {
		t.Fatal(err)
	}
	for _, f := range b.families() {
		each(t, peer, f, []call{tcp(8080), udp(8080), tcp(8081), udp(8081)}, passes)
		each(t, peer, f, []call{tcp(8082), udp(8082)}, dropped)
	}
	if err := other.engine.Down(); err != nil {
		t.Fatal(err)
	}
	for _, f := range b.families() {
		each(t, peer, f, []call{tcp(8082), udp(8082)}, passes)
	}
}

// A family without filters is not hooked, and a layer whose filters go is
// unhooked.
func TestTransportPayForUse(t *testing.T) {
	b := newBed(t)
	for _, row := range []struct {
		policy string
		want   []string
	}{
		{blocks("INBOUND_TRANSPORT_V4", "{IP_LOCAL_PORT: 8081}"), []string{"local_in4@" + b.host.Name}},
		{blocks(atTransportIn, "{IP_LOCAL_PORT: 8081}"), []string{"local_in4@" + b.host.Name, "local_in6@" + b.host.Name}},
		{blocks("INBOUND_TRANSPORT_V6", "{IP_LOCAL_PORT: 8081}"), []string{"local_in6@" + b.host.Name}},
		{blocks("OUTBOUND_TRANSPORT_V4", "{IP_LOCAL_PORT: 8081}"), []string{"local_out4@" + b.host.Name}},
		{blocks(atTransportOut, "{IP_LOCAL_PORT: 8081}"), []string{"local_out4@" + b.host.Name, "local_out6@" + b.host.Name}},
		{"filters: []\n", nil},
	} {
		b.apply(row.policy)
		if got := b.hooks(); !slices.Equal(got, row.want) {
			t.Errorf("hooks %q, want %q", got, row.want)
		}
	}
}
