// SPDX-License-Identifier: Apache-2.0

package live

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/wfpebpf/wfpebpf/loader"
	"github.com/wfpebpf/wfpebpf/tests/testbed"
)

var (
	atPacketIn  = both("INBOUND_IPPACKET")
	atPacketOut = both("OUTBOUND_IPPACKET")
)

// Every packet is judged: a block of either direction ends an exchange, also one
// that is under way.
func TestIPPacket(t *testing.T) {
	b := newBed(t)
	p, peer := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	b.listen(p, 8080)
	b.listen(peer, 8080)
	for _, row := range []struct{ layer, direction string }{{"INBOUND_IPPACKET", "in"}, {"OUTBOUND_IPPACKET", "out"}} {
		for _, f := range b.families() {
			t.Run(row.layer+" "+f.name, func(t *testing.T) {
				layer := row.layer + "_" + f.layer
				b.apply(blocks(layer, "{IP_REMOTE_ADDRESS: "+yamlAddress(f.peerSecond)+"}"))
				opened := b.dial(p, f.tcp, at(f.peer, 8080))
				passes.want(t, p.UDPExchange(f.udp, at(f.peer, 8080), "hello"))
				b.wantHits(layer, "Permit the rest")
				each(t, peer, f, []call{tcp(8080), udp(8080)}, passes)
				b.events()
				before := b.hits(layer, "Block it")
				each(t, peer, f, []call{tcp(8080).fromPeerSecond(), udp(8080).fromPeerSecond()}, dropped)
				e := b.wantBlock(layer, "Block it")
				want := loader.Event{
					Time: e.Time, Layer: layer, Action: "block", FilterID: e.FilterID, FilterName: "Block it", SubLayer: "UNIVERSAL",
					Direction: row.direction, Src: bare(f.peerSecond), Dst: bare(f.host), Interface: "h0",
				}
				if row.direction == "out" {
					want.Src, want.Dst = want.Dst, want.Src
				}
				if e != want {
					t.Errorf("event %+v,\nwant  %+v", e, want)
				}
				if b.hits(layer, "Block it") == before {
					t.Error("the counter stands still")
				}
				b.apply("filters:\n" + rule("BLOCK", "Block all", layer, 0))
				dropped.want(t, p.Exchange(opened, "hello", testbed.Options{Timeout: soon}))
			})
		}
	}
}

func yamlAddress(host string) string { return `"` + bare(host) + `"` }
func bare(host string) string        { return strings.Trim(host, "[]") }

func TestIPPacketConditions(t *testing.T) {
	b := newBed(t)
	p, peer := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	b.listen(p, 8080)
	plain := []call{tcp(8080), udp(8080)}
	fromSecond := []call{tcp(8080).fromPeerSecond(), udp(8080).fromPeerSecond()}
	toSecond := []call{tcp(8080).toHostSecond(), udp(8080).toHostSecond()}
	loopback := []call{tcp(8080).onHost(onLoopback), udp(8080).onHost(onLoopback), udp(8080).onHost(hostFirst)}
	in, out := atPacketIn, atPacketOut
	for _, row := range []struct {
		layers, conditions string
		blocked, passed    []call
	}{
		{in, `{IP_REMOTE_ADDRESS: [10.77.0.8/29, "fd77::10/124"]}`, fromSecond, plain},
		{out, `{IP_REMOTE_ADDRESS: [10.77.0.8/29, "fd77::10/124"]}`, fromSecond, plain},
		{in, `{IP_REMOTE_ADDRESS: [10.77.0.10-10.77.0.20, "fd77::11-fd77::20"]}`, fromSecond, plain},
		{out, `{IP_REMOTE_ADDRESS: [10.77.0.10-10.77.0.20, "fd77::11-fd77::20"]}`, fromSecond, plain},
		{in, `{IP_LOCAL_ADDRESS: [10.77.0.11, "fd77::11"]}`, toSecond, plain},
		{out, `{IP_LOCAL_ADDRESS: [10.77.0.11, "fd77::11"]}`, toSecond[:1], plain},
		{in, "{IP_LOCAL_ADDRESS_TYPE: [multicast, broadcast]}", nil, plain},
		{in, "{IP_LOCAL_INTERFACE: h0}", plain, loopback},
		{out, "{IP_LOCAL_INTERFACE: h0}", plain, loopback},
		{in, "{INTERFACE_TYPE: loopback}", loopback, plain},
		{out, "{INTERFACE_TYPE: loopback}", loopback, plain},
		{in, "{FLAGS: [IS_LOOPBACK]}", loopback, plain},
		{out, "{FLAGS: [IS_LOOPBACK]}", loopback, plain},
		{in, "{FLAGS: {match: FLAGS_NONE_SET, value: [IS_LOOPBACK]}}", plain, loopback},
		{in, "{FLAGS: [IS_FRAGMENT]}", nil, append(plain, loopback...)},
	} {
		name := "INBOUND "
		if row.layers == out {
			name = "OUTBOUND "
		}
		t.Run(name+row.conditions, func(t *testing.T) {
			b.apply(blocks(row.layers, row.conditions))
			b.callAll(t, p, peer, row.blocked, row.passed)
		})
	}
}

// callAll makes calls that a policy blocks, then such as it permits: those without a
// source from the host, the others from the peer.
func (b *bed) callAll(t *testing.T, host, peer *testbed.Proc, blocked, passed []call) {
	t.Helper()
	ofHost := func(c call) bool { return c.from == nil }
	for _, f := range b.families() {
		for _, o := range []struct {
			name  string
			calls []call
			want  outcome
		}{{"blocks " + f.name, blocked, dropped}, {"permits " + f.name, passed, passes}} {
			t.Run(o.name, func(t *testing.T) {
				each(t, peer, f, slices.DeleteFunc(slices.Clone(o.calls), ofHost), o.want)
				each(t, host, f, slices.DeleteFunc(slices.Clone(o.calls), func(c call) bool { return !ofHost(c) }), o.want)
			})
		}
	}
}

// What comes in as multicast and broadcast.
func TestIPPacketAddressType(t *testing.T) {
	b := newBed(t)
	p, peer := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	s := b.open(p, "udp4", "0.0.0.0:8080")
	sender := b.open(peer, "udp4", "")
	b.setBroadcast(peer)
	for _, row := range []struct {
		conditions string
		out        outcome
	}{
		{"{IP_LOCAL_ADDRESS_TYPE: broadcast}", dropped},
		{"{IP_LOCAL_ADDRESS_TYPE: [unicast, multicast]}", passes},
	} {
		t.Run(row.conditions, func(t *testing.T) {
			b.apply(blocks("INBOUND_IPPACKET_V4", row.conditions))
			send(t, peer, sender, "10.77.0.255:8080", p, s, row.out)
		})
	}
	// neighbours find each other by multicast
	t.Run("multicast v6", func(t *testing.T) {
		b.apply(blocks("INBOUND_IPPACKET_V6", "{IP_LOCAL_ADDRESS_TYPE: multicast}"))
		b.listen(p, 8081)
		if err := peer.UDPSend("udp6", "[ff02::1%p0]:8081", "hello"); err != nil {
			t.Fatal(err)
		}
		b.await(func() bool { return b.hits("INBOUND_IPPACKET_V6", "Block it") > 0 })
	})
}

// await waits for what the kernel does a moment later.
func (b *bed) await(done func() bool) {
	b.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			b.t.Error("waited in vain")
			return
		}
	}
}

// A datagram that is larger than a frame arrives in fragments.
func TestIPPacketFragment(t *testing.T) {
	b := newBed(t)
	p, peer := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	b.listen(p, 8080)
	b.apply(blocks(atPacketIn, "{FLAGS: [IS_FRAGMENT]}"))
	large := strings.Repeat("x", 4000)
	for _, f := range b.families() {
		t.Run(f.name, func(t *testing.T) {
			layer := "INBOUND_IPPACKET_" + f.layer
			passes.want(t, peer.UDPExchange(f.udp, at(f.host, 8080), "small"))
			dropped.want(t, peer.UDPExchange(f.udp, at(f.host, 8080), large, testbed.Options{Timeout: soon}))
			b.wantBlock(layer, "Block it")
			if n := b.hits(layer, "Block it"); n != 3 {
				t.Errorf("%d fragments were blocked, want each of 3", n)
			}
		})
	}
	b.apply(blocks(atPacketIn, "{FLAGS: [IS_LOOPBACK]}"))
	for _, f := range b.families() {
		t.Run("permitted "+f.name, func(t *testing.T) {
			passes.want(t, peer.UDPExchange(f.udp, at(f.host, 8080), large))
		})
	}
}
