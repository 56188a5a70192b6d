// SPDX-License-Identifier: Apache-2.0

package live

import (
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wfpebpf/wfpebpf/loader"
	"github.com/wfpebpf/wfpebpf/tests/testbed"
)

var (
	atStreamPacket = both("STREAM_PACKET")
	closedPort     = failsWith(unix.ECONNREFUSED)
)

// fromHost makes a call one of the host to the peer.
func (c call) fromHost() call {
	c.from, c.to = nil, peerFirst
	c.name += " from the host"
	return c
}

// TCP is judged both ways, packet by packet, and nothing else is.
func TestStreamPacketConditions(t *testing.T) {
	b := newBed(t)
	host, peer := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	b.listen(host, 8080, 8081)
	b.listen(peer, 8080, 8081)
	in, out := tcp(8080), tcp(8080).fromHost()
	in1, out1 := tcp(8081), tcp(8081).fromHost()
	loopback := []call{tcp(8080).onHost(onLoopback), tcp(8080).onHost(hostFirst)}
	others := []call{udp(8080), udp(8081), udp(8080).fromHost()}
	also := func(calls ...call) []call { return append(calls, others...) }
	for _, row := range []struct {
		conditions      string
		blocked, passed []call
	}{
		{"{IP_LOCAL_PORT: 0-65535}", []call{in, mptcp(8080), out, loopback[0]}, others},
		// what comes in, or the answer that goes out
		{"{IP_LOCAL_PORT: 8081}", []call{in1, mptcp(8081)}, also(in, out, out1)},
		{"{IP_LOCAL_PORT: 8081}, {DIRECTION: inbound}", []call{in1}, also(in, out1)},
		{"{IP_LOCAL_PORT: 8081}, {DIRECTION: outbound}", []call{in1}, also(in, out1)},
		{"{IP_REMOTE_PORT: 8081}", []call{out1}, also(in, out, in1)},
		{"{IP_REMOTE_PORT: 8081}, {DIRECTION: outbound}", []call{out1}, also(out, in1)},
		{"{IP_REMOTE_PORT: 8081}, {DIRECTION: inbound}", []call{out1}, also(out, in1)},
		{"{IP_REMOTE_PORT: 5000}, {DIRECTION: inbound}", []call{in.fromPort(5000)}, also(in)},
		{`{IP_REMOTE_ADDRESS: [10.77.0.8/29, "fd77::10/124"]}`, []call{in.fromPeerSecond()}, also(in, out)},
		{`{IP_LOCAL_ADDRESS: [10.77.0.11, "fd77::11"]}`, []call{in.toHostSecond()}, also(in, out)},
		{"{IP_LOCAL_INTERFACE: h0}", []call{in, out}, append(loopback, others...)},
		{fmt.Sprintf("{INTERFACE_INDEX: %d}", b.hostEnd.Index), []call{in, out}, append(loopback, others...)},
		{"{INTERFACE_TYPE: loopback}", loopback, also(in, out)},
		{"{FLAGS: [IS_LOOPBACK]}", loopback, also(in, out)},
		{"{FLAGS: {match: FLAGS_NONE_SET, value: [IS_LOOPBACK]}}", []call{in, out}, append(loopback, others...)},
	} {
		t.Run(row.conditions, func(t *testing.T) {
			b.apply(blocks(atStreamPacket, row.conditions))
			b.callAll(t, host, peer, row.blocked, row.passed)
		})
	}
}

// A block is told and counted, each way.
func TestStreamPacketEvent(t *testing.T) {
	b := newBed(t)
	peer := b.on(b.peer, testbed.ProcOptions{})
	b.listen(b.on(b.host, testbed.ProcOptions{}), 8081)
	for _, f := range b.families() {
		layer := "STREAM_PACKET_" + f.layer
		for _, row := range []struct{ conditions, direction, src, dst string }{
			{"{DIRECTION: inbound}, {IP_LOCAL_PORT: 8081}", "in", at(f.peer, 5000), at(f.host, 8081)},
			{"{DIRECTION: outbound}, {IP_LOCAL_PORT: 8081}", "out", at(f.host, 8081), at(f.peer, 5000)},
		} {
			t.Run(row.direction+" "+f.name, func(t *testing.T) {
				b.apply(blocks(layer, row.conditions))
				b.events()
				tcp(8081).fromPort(5000).want(t, peer, f, dropped)
				e := b.wantBlock(layer, "Block it")
				want := loader.Event{
					Time: e.Time, Layer: layer, Action: "block", FilterID: e.FilterID, FilterName: "Block it", SubLayer: "UNIVERSAL",
					Direction: row.direction, Protocol: 6, Src: row.src, Dst: row.dst, Interface: "h0",
				}
				if e != want {
					t.Errorf("event %+v,\nwant  %+v", e, want)
				}
				b.wantHits(layer, "Block it")
			})
		}
	}
}

// A connection that stands is judged, too, by the policy in force: the verdicts that
// were kept on it end with theirs.
func TestStreamPacketOpenConnection(t *testing.T) {
	b := newBed(t)
	peer := b.on(b.peer, testbed.ProcOptions{})
	b.listen(b.on(b.host, testbed.ProcOptions{}), 8080)
	for _, f := range b.families() {
		t.Run(f.name, func(t *testing.T) {
			layer := "STREAM_PACKET_" + f.layer
			pass := "filters:\n" + rule("PERMIT", "Permit it", layer, 8, "{IP_LOCAL_PORT: 8080}")
			b.apply(pass)
			s := b.dial(peer, f.tcp, at(f.host, 8080))
			before := b.hits(layer, "Permit it")
			passes.want(t, peer.Exchange(s, "again"))
			if n := b.hits(layer, "Permit it") - before; n < 2 {
				t.Errorf("%d packets of an exchange were judged", n)
			}
			for _, direction := range []string{"inbound", "outbound"} {
				b.apply("filters:\n" + rule("BLOCK", "Block it", layer, 8, "{IP_LOCAL_PORT: 8080}, {DIRECTION: "+direction+"}"))
				dropped.want(t, peer.Exchange(s, "lost", testbed.Options{Timeout: soon}))
				b.wantBlock(layer, "Block it")
				b.apply(pass)
				s = b.dial(peer, f.tcp, at(f.host, 8080))
			}
		})
	}
}

// Packets of no connection are seen: to a closed port, and the answer.
func TestStreamPacketClosedPort(t *testing.T) {
	b := newBed(t)
	peer := b.on(b.peer, testbed.ProcOptions{})
	for _, f := range b.families() {
		t.Run(f.name, func(t *testing.T) {
			layer := "STREAM_PACKET_" + f.layer
			b.apply("filters:\n" + rule("PERMIT", "Asked", layer, 8, "{IP_LOCAL_PORT: 9999}, {DIRECTION: inbound}") +
				rule("PERMIT", "Answered", layer, 8, "{IP_LOCAL_PORT: 9999}, {DIRECTION: outbound}"))
			closedPort.want(t, peer.Connect(f.tcp, at(f.host, closed)))
			b.wantHits(layer, "Asked")
			b.wantHits(layer, "Answered")
			b.apply(blocks(layer, "{IP_LOCAL_PORT: 9999}, {DIRECTION: outbound}"))
			dropped.want(t, peer.Connect(f.tcp, at(f.host, closed), testbed.Options{Timeout: soon}))
		})
	}
}

// What comes in passes INBOUND_TRANSPORT first and ALE_AUTH_RECV_ACCEPT last, what goes
// out OUTBOUND_TRANSPORT last: what one blocks the next does not see.
func TestStreamPacketOrder(t *testing.T) {
	b := newBed(t)
	host, peer := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	b.listenTCP(host, 8080)
	b.listenTCP(peer, 8080)
	for _, f := range b.families() {
		for _, row := range []struct {
			layers     []string
			conditions string
			from       *testbed.Proc
			to         string
		}{
			{[]string{"INBOUND_TRANSPORT", "STREAM_PACKET", "ALE_AUTH_RECV_ACCEPT"}, "{IP_LOCAL_PORT: 8080}", peer, f.host},
			{[]string{"STREAM_PACKET", "OUTBOUND_TRANSPORT"}, "{IP_REMOTE_PORT: 8080}", host, f.peer},
		} {
			for blocker := range row.layers {
				t.Run(row.layers[blocker]+" blocks what goes to "+row.to, func(t *testing.T) {
					yaml := "filters:\n"
					for i, layer := range row.layers {
						action := map[bool]string{true: "BLOCK", false: "PERMIT"}[i == blocker]
						yaml += rule(action, "See it", layer+"_"+f.layer, 8, row.conditions)
					}
					b.apply(yaml)
					dropped.want(t, row.from.Connect(f.tcp, at(row.to, 8080), testbed.Options{Timeout: soon, MPTCP: testbed.MPTCPOff}))
					for i, layer := range row.layers {
						if saw := b.hits(layer+"_"+f.layer, "See it") > 0; saw != (i <= blocker) {
							t.Errorf("%s saw the packet: %t", layer, saw)
						}
					}
				})
			}
		}
	}
}
