// SPDX-License-Identifier: Apache-2.0

package live

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wfpebpf/wfpebpf/loader"
	"github.com/wfpebpf/wfpebpf/tests/testbed"
)

var atEstablished = both("ALE_FLOW_ESTABLISHED")

// timesOut is what a program sees of its TCP connection that was cut off.
var timesOut = failsWith(unix.ETIMEDOUT)

// cutLimit is longer than it takes until a program is told of that.
var cutLimit = testbed.Options{Timeout: 8 * time.Second}

// A TCP connection that is blocked when it is established carries nothing in
// either direction, and the host's end of it ends; a datagram of a flow that is
// blocked does not pass.
func TestEstablished(t *testing.T) {
	b := newBed(t)
	b.apply(blocks(atEstablished, "{IP_LOCAL_PORT: [8081, 7081]}, {DIRECTION: in}") +
		rule("BLOCK", "Block out", atEstablished, 9, "{IP_REMOTE_PORT: [8081, 7081]}, {DIRECTION: out}"))
	host, peer := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	for _, p := range []*testbed.Proc{host, peer} {
		b.listen(p, 8080, 8081)
		b.listenTCP(p, 7080, 7081)
	}
	for _, f := range b.families() {
		layer := "ALE_FLOW_ESTABLISHED_" + f.layer
		t.Run("in "+f.name, func(t *testing.T) {
			passes.want(t, peer.Exchange(b.dial(peer, f.tcp, at(f.host, 8080)), "hello"))
			passes.want(t, peer.Exchange(b.dial(peer, f.tcp, at(f.host, 7080)), "hello"))
			udp(8080).want(t, peer, f, passes)
			b.wantHits(layer, "Permit the rest")
			for _, port := range []int{8081, 7081} {
				s, err := peer.Dial(f.tcp, at(f.host, port), testbed.Options{Local: at(f.peer, port-3000)})
				passes.want(t, err)
				dropped.want(t, peer.Exchange(s, "hello", testbed.Options{Timeout: soon}))
				wantCutEvent(t, b.wantBlock(layer, "Block it"), loader.Event{
					Layer: layer, Action: "block", FilterName: "Block it", SubLayer: "UNIVERSAL", Direction: "in", Protocol: 6,
					Src: at(f.peer, port-3000), Dst: at(f.host, port), Interface: "h0", PID: uint32(host.PID), Program: host.Exe, User: "root",
				})
			}
			udp(8081).fromPort(5000).want(t, peer, f, dropped)
			wantCutEvent(t, b.wantBlock(layer, "Block it"), loader.Event{
				Layer: layer, Action: "block", FilterName: "Block it", SubLayer: "UNIVERSAL", Direction: "in", Protocol: 17,
				Src: at(f.peer, 5000), Dst: at(f.host, 8081), Interface: "h0", PID: uint32(host.PID), Program: host.Exe, User: "root",
			})
		})
		t.Run("out "+f.name, func(t *testing.T) {
			passes.want(t, host.Exchange(b.dial(host, f.tcp, at(f.peer, 8080)), "hello"))
			passes.want(t, host.UDPExchange(f.udp, at(f.peer, 8080), "hello"))
			for _, mode := range []testbed.MPTCP{testbed.MPTCPOff, testbed.MPTCPOn} {
				s, err := host.Dial(f.tcp, at(f.peer, 8081), testbed.Options{MPTCP: mode})
				passes.want(t, err)
				wantCutEvent(t, b.wantBlock(layer, "Block out"), loader.Event{
					Layer: layer, Action: "block", FilterName: "Block out", SubLayer: "UNIVERSAL", Direction: "out", Protocol: 6,
					Src: s.Local.String(), Dst: at(f.peer, 8081), Interface: "h0", PID: uint32(host.PID), Program: host.Exe, User: "root",
				})
				if mode == testbed.MPTCPOff {
					timesOut.want(t, host.Exchange(s, "hello", cutLimit))
				} else {
					dropped.want(t, host.Exchange(s, "hello", testbed.Options{Timeout: soon}))
				}
			}
			refused.want(t, host.UDPExchange(f.udp, at(f.peer, 8081), "hello"))
			refused.want(t, host.UDPExchange(f.udp, at(f.peer, 8081), "hello", testbed.Options{Local: at(f.host, 5001)}))
			s, err := host.Dial(f.udp, at(f.peer, 8081))
			passes.want(t, err)
			for range 2 {
				refused.want(t, host.Exchange(s, "hello"))
			}
			list := b.events()
			if len(list) < 3 {
				t.Errorf("events %+v, want some of each socket", list)
			}
			for _, e := range list {
				if e.Layer != layer || e.FilterName != "Block out" || e.Direction != "out" || e.Dst != at(f.peer, 8081) {
					t.Errorf("event %+v", e)
				}
			}
		})
	}
	if n := b.state().NoIdentity; n != 0 {
		t.Errorf("%d packets for sockets without an identity", n)
	}
}

// wantCutEvent compares an event but for what no test can know.
func wantCutEvent(t *testing.T, e, want loader.Event) {
	t.Helper()
	if e.Flow == 0 {
		t.Error("the flow has no id")
	}
	want.Time, want.FilterID, want.Flow = e.Time, e.FilterID, e.Flow
	if e != want {
		t.Errorf("event %+v,\nwant  %+v", e, want)
	}
}

// A program that only waits learns that its connection was cut off, too: as the
// one who connected, and as the server.
func TestEstablishedWaiting(t *testing.T) {
	b := newBed(t)
	b.apply(blocks(atEstablished, "{IP_PROTOCOL: tcp}"))
	host, peer := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	b.listenTCP(host, 8080)
	b.listenTCP(peer, 8080)
	for _, f := range b.families() {
		t.Run(f.name, func(t *testing.T) {
			if _, err := host.Dial(f.tcp, at(f.peer, 8080)); err != nil {
				t.Fatal(err)
			}
			if _, err := peer.Dial(f.tcp, at(f.host, 8080)); err != nil {
				t.Fatal(err)
			}
			b.await(func() bool { return b.connections() == 0 })
		})
	}
}

// A flow is judged once, whichever way its packets go, and after what authorised
// it; an idle one that comes to life again is another one.
func TestEstablishedOnce(t *testing.T) {
	b := newBed(t)
	b.openEngine(loader.Options{Target: b.target(), Permits: true})
	layers := "[ALE_AUTH_RECV_ACCEPT_V4, ALE_AUTH_RECV_ACCEPT_V6, ALE_AUTH_CONNECT_V4, ALE_AUTH_CONNECT_V6, ALE_FLOW_ESTABLISHED_V4, ALE_FLOW_ESTABLISHED_V6]"
	b.apply("filters:\n" + rule("PERMIT", "Look on", layers, 0))
	host, peer := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	b.listen(host, 8080)
	b.listen(peer, 8080)
	for _, f := range b.families() {
		for _, row := range []struct {
			name, first, network, to string
			from                     *testbed.Proc
			options                  testbed.Options
		}{
			{"TCP in", "ALE_AUTH_RECV_ACCEPT_", f.tcp, f.host, peer, testbed.Options{}},
			{"TCP out", "ALE_AUTH_CONNECT_", f.tcp, f.peer, host, testbed.Options{}},
			{"MPTCP in", "ALE_AUTH_RECV_ACCEPT_", f.tcp, f.host, peer, testbed.Options{MPTCP: testbed.MPTCPOn}},
			{"MPTCP out", "ALE_AUTH_CONNECT_", f.tcp, f.peer, host, testbed.Options{MPTCP: testbed.MPTCPOn}},
			{"UDP in", "ALE_AUTH_RECV_ACCEPT_", f.udp, f.host, peer, testbed.Options{}},
			{"UDP out", "ALE_AUTH_CONNECT_", f.udp, f.peer, host, testbed.Options{}},
			{"UDP out, bound", "ALE_AUTH_CONNECT_", f.udp, f.peer, host, testbed.Options{Local: at(f.host, 5002)}},
			{"UDP out, bound to any address", "ALE_AUTH_CONNECT_", f.udp, f.peer, host, testbed.Options{Local: at(f.any, 5003), V6Only: f.name == "v6"}},
		} {
			t.Run(row.name+" "+f.name, func(t *testing.T) {
				b.events()
				s := b.dial(row.from, row.network, at(row.to, 8080), row.options)
				for range 3 {
					passes.want(t, row.from.Exchange(s, "hello"))
				}
				want := []string{row.first + f.layer, "ALE_FLOW_ESTABLISHED_" + f.layer}
				if got := layersOf(b.events()); !slices.Equal(got, want) {
					t.Errorf("judged at %v, want %v", got, want)
				}
			})
		}
		t.Run("UDP out, not connected "+f.name, func(t *testing.T) {
			s, server := b.open(host, f.udp, at(f.any, 0)), b.open(peer, f.udp, at(f.peer, 9090))
			b.events()
			for range 3 {
				send(t, host, s, at(f.peer, 9090), peer, server, passes)
			}
			want := []string{"ALE_AUTH_CONNECT_" + f.layer, "ALE_FLOW_ESTABLISHED_" + f.layer}
			if got := layersOf(b.events()); !slices.Equal(got, want) {
				t.Errorf("judged at %v, want %v", got, want)
			}
		})
	}
	t.Run("mapped", func(t *testing.T) {
		for _, network := range []string{"tcp6", "udp6"} {
			b.events()
			b.dial(host, network, at("[::ffff:10.77.0.2]", 8080))
			want := []string{"ALE_AUTH_CONNECT_V4", "ALE_FLOW_ESTABLISHED_V4"}
			list := b.events()
			if got := layersOf(list); !slices.Equal(got, want) {
				t.Fatalf("%s judged at %v, want %v", network, got, want)
			}
			if e := list[1]; e.Dst != "10.77.0.2:8080" {
				t.Errorf("event %+v", e)
			}
		}
	})
}

func layersOf(list []loader.Event) (layers []string) {
	for _, e := range list {
		layers = append(layers, e.Layer)
	}
	return layers
}

// What each flow looks like to a policy: the filter counts what meets its
// conditions.
func TestEstablishedConditions(t *testing.T) {
	b := newBed(t)
	host, peer := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{UID: 65534})
	b.listen(host, 8080)
	b.listen(peer, 8080)
	type flow struct {
		name string
		open func(f family) error
	}
	in := func(network func(family) string) func(f family) error {
		return func(f family) error {
			s, err := peer.Dial(network(f), at(f.host, 8080), testbed.Options{Local: at(f.peer, 0)})
			if err == nil {
				err = peer.Exchange(s, "hello")
			}
			return err
		}
	}
	out := func(network, to func(family) string) func(f family) error {
		return func(f family) error {
			s, err := host.Dial(network(f), at(to(f), 8080))
			if err == nil {
				err = host.Exchange(s, "hello")
			}
			return err
		}
	}
	ofTCP, ofUDP := func(f family) string { return f.tcp }, func(f family) string { return f.udp }
	flows := []flow{
		{"TCP in", in(ofTCP)}, {"UDP in", in(ofUDP)}, {"TCP out", out(ofTCP, peerFirst)}, {"UDP out", out(ofUDP, peerFirst)},
		{"TCP to itself", out(ofTCP, onLoopback)}, {"UDP to itself", out(ofUDP, onLoopback)},
	}
	all := []int{1, 1, 1, 1, 2, 2}
	for _, row := range []struct {
		conditions string
		hits       []int
	}{
		{"{IP_LOCAL_PORT: 8080}", []int{1, 1, 0, 0, 1, 1}},
		{"{IP_REMOTE_PORT: 8080}", []int{0, 0, 1, 1, 1, 1}},
		{"{DIRECTION: in}", []int{1, 1, 0, 0, 1, 1}},
		{"{DIRECTION: out}", []int{0, 0, 1, 1, 1, 1}},
		{"{IP_PROTOCOL: tcp}", []int{1, 0, 1, 0, 2, 0}},
		{"{FLAGS: [IS_LOOPBACK]}", []int{0, 0, 0, 0, 2, 2}},
		{"{FLAGS: {match: EQUAL, value: 1}}", []int{0, 0, 0, 0, 2, 2}},
		{"{FLAGS: {match: FLAGS_NONE_SET, value: [IS_LOOPBACK]}}", []int{1, 1, 1, 1, 0, 0}},
		{"{INTERFACE_TYPE: ethernet}", []int{1, 1, 1, 1, 0, 0}},
		{"{IP_LOCAL_INTERFACE: lo}", []int{0, 0, 0, 0, 2, 2}},
		{"{IP_LOCAL_INTERFACE: h0}, {DIRECTION: out}", []int{0, 0, 1, 1, 0, 0}},
		{"{IP_LOCAL_ADDRESS_TYPE: unicast}", all},
		{"{IP_DESTINATION_ADDRESS_TYPE: unicast}", all},
		{`{IP_LOCAL_ADDRESS: [10.77.0.1, "fd77::1"]}`, []int{1, 1, 1, 1, 0, 0}},
		{`{IP_REMOTE_ADDRESS: [10.77.0.2, "fd77::2"]}`, []int{1, 1, 1, 1, 0, 0}},
		{fmt.Sprintf("{ALE_APP_ID: %s}", host.Exe), all},
		{"{ALE_USER_ID: uid:0}", all},
		{"{ALE_USER_ID: uid:65534}", []int{0, 0, 0, 0, 0, 0}},
		{"{ALE_ORIGINAL_APP_ID: EMPTY}", all},
	} {
		t.Run(row.conditions, func(t *testing.T) {
			b.apply("filters:\n" + rule("PERMIT", "Count it", atEstablished, 8, row.conditions) + rule("PERMIT", "The rest", atEstablished, 0))
			for _, f := range b.families() {
				layer := "ALE_FLOW_ESTABLISHED_" + f.layer
				for i, flow := range flows {
					before, rest := b.hits(layer, "Count it"), b.hits(layer, "The rest")
					passes.want(t, flow.open(f))
					met := int(b.hits(layer, "Count it") - before)
					if sum := met + int(b.hits(layer, "The rest")-rest); sum != all[i] || met != row.hits[i] {
						t.Errorf("%s %s: judged %d times and %d met, want %d and %d", flow.name, f.name, sum, met, all[i], row.hits[i])
					}
				}
			}
		})
	}
}

// Flows that are older than the engine are not judged.
func TestEstablishedBefore(t *testing.T) {
	b := newBed(t)
	host, peer := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	b.listen(host, 8080)
	b.listen(peer, 8080)
	type old struct {
		name string
		p    *testbed.Proc
		s    testbed.Sock
	}
	var olds []old
	for _, f := range b.families() {
		olds = append(olds, old{"TCP out " + f.name, host, b.dial(host, f.tcp, at(f.peer, 8080))},
			old{"TCP in " + f.name, peer, b.dial(peer, f.tcp, at(f.host, 8080))},
			old{"UDP out " + f.name, host, b.dial(host, f.udp, at(f.peer, 8080))})
	}
	b.apply("filters:\n" + rule("BLOCK", "Block all", atEstablished, 0))
	for _, o := range olds {
		t.Run(o.name, func(t *testing.T) { passes.want(t, o.p.Exchange(o.s, "hello")) })
	}
	for _, f := range b.families() {
		t.Run("new ones "+f.name, func(t *testing.T) {
			refused.want(t, host.UDPExchange(f.udp, at(f.peer, 8080), "hello"))
			s, err := peer.Dial(f.tcp, at(f.host, 8080))
			passes.want(t, err)
			dropped.want(t, peer.Exchange(s, "hello", testbed.Options{Timeout: soon}))
		})
	}
}

// connections counts the TCP connections of the host that have not ended: one that its
// programs have closed waits for the peer's last word.
func (b *bed) connections() (n int) {
	b.t.Helper()
	idle := []string{"06", "0A"} // TIME_WAIT, which is no socket's any more, and LISTEN
	for _, name := range []string{"tcp", "tcp6"} {
		var text []byte
		err := b.host.Do(func() (err error) {
			text, err = os.ReadFile("/proc/thread-self/net/" + name)
			return err
		})
		if err != nil {
			b.t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if fields := strings.Fields(line); len(fields) > 3 && fields[3] != "st" && !slices.Contains(idle, fields[3]) {
				n++
			}
		}
	}
	return n
}
