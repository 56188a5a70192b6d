// SPDX-License-Identifier: Apache-2.0

package live

import (
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wfpebpf/wfpebpf/loader"
	"github.com/wfpebpf/wfpebpf/tests/testbed"
)

var (
	atClosure = both("ALE_ENDPOINT_CLOSURE")
	atRelease = both("ALE_RESOURCE_RELEASE")
)

// lookOn reports whatever is judged at the layers of a flow's begin and end.
var lookOn = "filters:\n" + rule("PERMIT", "Begin", atEstablished, 0) + rule("PERMIT", "End", atClosure, 0) + rule("PERMIT", "Release", atRelease, 0)

// ended waits for the last event and gives it time not to come twice.
func (b *bed) ended(last string) []loader.Event {
	b.t.Helper()
	var list []loader.Event
	b.await(func() bool {
		list = append(list, b.events()...)
		return slices.ContainsFunc(list, func(e loader.Event) bool { return e.Layer == last })
	})
	time.Sleep(soon / 3)
	return append(list, b.events()...)
}

// What is judged when an endpoint ends, and in which order.
func TestEnding(t *testing.T) {
	const begins, closes, releases = "ALE_FLOW_ESTABLISHED_", "ALE_ENDPOINT_CLOSURE_", "ALE_RESOURCE_RELEASE_"
	b := newBed(t)
	b.openEngine(loader.Options{Target: b.target(), Permits: true})
	b.apply(lookOn)
	host, peer := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	b.listen(peer, 8080)
	sock := func(s testbed.Sock, err error) testbed.Sock {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	noMPTCP := testbed.Options{MPTCP: testbed.MPTCPOff}
	for _, f := range b.families() {
		domain, icmp := unix.AF_INET, unix.IPPROTO_ICMP
		if f.name == "v6" {
			domain, icmp = unix.AF_INET6, unix.IPPROTO_ICMPV6
		}
		for _, row := range []struct {
			name   string
			end    func()
			want   []string
			family string
		}{
			{"TCP that connected", func() {
				passes.want(t, host.CloseSock(b.dial(host, f.tcp, at(f.peer, 8080))))
			}, []string{begins, closes, releases}, f.layer},
			{"TCP that connected, bound before", func() {
				passes.want(t, host.CloseSock(b.dial(host, f.tcp, at(f.peer, 8080), testbed.Options{Local: at(f.host, 4001)})))
			}, []string{begins, closes, releases}, f.layer},
			{"TCP that was refused", func() {
				if err := host.Connect(f.tcp, at(f.peer, 9999)); testbed.Errno(err) != unix.ECONNREFUSED {
					t.Errorf("got %v", err)
				}
			}, []string{closes, releases}, f.layer},
			{"a listener", func() {
				passes.want(t, host.CloseSock(sock(host.Listen(f.tcp, at(f.any, 7001), noMPTCP))))
			}, []string{closes, releases}, f.layer},
			{"a listener and what it accepted", func() {
				s := sock(host.Listen(f.tcp, at(f.host, 7002), noMPTCP))
				passes.want(t, peer.CloseSock(b.dial(peer, f.tcp, at(f.host, 7002))))
				b.await(func() bool { return b.connections() == 0 })
				passes.want(t, host.CloseSock(s))
			}, []string{begins, closes, closes, releases}, f.layer},
			{"TCP that was bound only", func() {
				passes.want(t, host.CloseSock(sock(host.Bind(f.tcp, at(f.host, 7003), noMPTCP))))
			}, []string{releases}, f.layer},
			{"UDP that was bound", func() {
				passes.want(t, host.CloseSock(b.open(host, f.udp, at(f.host, 7004))))
			}, []string{closes, releases}, f.layer},
			{"UDP with a flow", func() {
				passes.want(t, host.CloseSock(b.dial(host, f.udp, at(f.peer, 8080))))
			}, []string{begins, closes, releases}, f.layer},
			{"a raw socket", func() {
				passes.want(t, host.CloseSock(sock(host.Socket(domain, unix.SOCK_RAW, icmp))))
			}, []string{closes, releases}, f.layer},
			{"a process that is killed", func() {
				p := b.on(b.host, testbed.ProcOptions{})
				b.dial(p, f.tcp, at(f.peer, 8080))
				p.Kill()
			}, []string{begins, closes, releases}, f.layer},
			{"mapped TCP", func() {
				passes.want(t, host.CloseSock(b.dial(host, "tcp6", at("[::ffff:10.77.0.2]", 8080))))
			}, []string{begins, closes, releases}, "V4"},
			{"mapped UDP", func() {
				passes.want(t, host.CloseSock(b.dial(host, "udp6", at("[::ffff:10.77.0.2]", 8080))))
			}, []string{begins, closes, releases}, "V4"},
		} {
			t.Run(row.name+" "+f.name, func(t *testing.T) {
				b.events()
				row.end()
				var want []string
				for _, layer := range row.want {
					want = append(want, layer+row.family)
				}
				list := b.ended(want[len(want)-1])
				if got := layersOf(list); !slices.Equal(got, want) {
					t.Fatalf("judged at %v, want %v", got, want)
				}
				for _, e := range list {
					if e.Flow == 0 || strings.HasPrefix(row.name, "a listener and") {
						continue
					}
					if e.Flow != list[0].Flow {
						t.Errorf("event of another flow: %+v", e)
					}
				}
				if slices.ContainsFunc(list, func(e loader.Event) bool { return e.Flow == 0 }) {
					t.Errorf("an event without a flow's id among %+v", list)
				}
			})
		}
		t.Run("a UDP socket that was never bound "+f.name, func(t *testing.T) {
			b.events()
			passes.want(t, host.CloseSock(sock(host.UDP(f.udp))))
			time.Sleep(soon / 3)
			if list := b.events(); len(list) > 0 {
				t.Errorf("events %+v", list)
			}
		})
	}
	if n := b.state().NoIdentity; n != 0 {
		t.Errorf("%d sockets without an identity", n)
	}
}

// A listener's connections carry its identity, end once each, and only what was
// bound is released, be it MPTCP or not.
func TestEndingAccepted(t *testing.T) {
	b := newBed(t)
	b.openEngine(loader.Options{Target: b.target(), Permits: true})
	b.apply(lookOn)
	peer := b.on(b.peer, testbed.ProcOptions{})
	for _, f := range b.families() {
		for _, mptcp := range []testbed.MPTCP{testbed.MPTCPOff, testbed.MPTCPOn} {
			t.Run(f.name+" "+map[testbed.MPTCP]string{testbed.MPTCPOff: "TCP", testbed.MPTCPOn: "MPTCP"}[mptcp], func(t *testing.T) {
				host := b.on(b.host, testbed.ProcOptions{})
				if _, err := host.Listen(f.tcp, at(f.host, 7002), testbed.Options{MPTCP: mptcp}); err != nil {
					t.Fatal(err)
				}
				b.events()
				for range 3 {
					passes.want(t, peer.CloseSock(b.dial(peer, f.tcp, at(f.host, 7002), testbed.Options{MPTCP: mptcp})))
				}
				b.await(func() bool { return b.connections() == 0 })
				host.Kill()
				counts := map[string]int{}
				for _, e := range b.ended("ALE_RESOURCE_RELEASE_" + f.layer) {
					counts[e.Layer]++
					if e.PID != uint32(host.PID) {
						t.Errorf("event %+v", e)
					}
				}
				for layer, want := range map[string]int{"ALE_FLOW_ESTABLISHED_": 3, "ALE_ENDPOINT_CLOSURE_": 4, "ALE_RESOURCE_RELEASE_": 1} {
					if got := counts[layer+f.layer]; got != want {
						t.Errorf("judged %d times at %s, want %d", got, layer+f.layer, want)
					}
				}
			})
		}
	}
}

// A block stops nothing that ends; it is counted and reported.
func TestEndingBlocked(t *testing.T) {
	b := newBed(t)
	b.apply("filters:\n" + rule("BLOCK", "No end", atClosure, 0, "{IP_REMOTE_PORT: 8080}") + rule("BLOCK", "No release", atRelease, 0, "{IP_LOCAL_PORT: 4001}"))
	host, peer := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	b.listen(peer, 8080)
	for _, f := range b.families() {
		for _, row := range []struct {
			network  string
			protocol uint8
		}{{f.tcp, 6}, {f.udp, 17}} {
			t.Run(row.network, func(t *testing.T) {
				b.events()
				s := b.dial(host, row.network, at(f.peer, 8080), testbed.Options{Local: at(f.host, 4001)})
				passes.want(t, host.CloseSock(s))
				list := b.ended("ALE_RESOURCE_RELEASE_" + f.layer)
				if len(list) != 2 {
					t.Fatalf("events %+v", list)
				}
				want := loader.Event{
					Layer: "ALE_ENDPOINT_CLOSURE_" + f.layer, Action: "block", FilterName: "No end", SubLayer: "UNIVERSAL", Direction: "in",
					Protocol: row.protocol, Src: at(f.peer, 8080), Dst: at(f.host, 4001), Interface: "h0", PID: uint32(host.PID), Program: host.Exe, User: "root",
				}
				wantCutEvent(t, list[0], want)
				want.Layer, want.FilterName, want.Src = "ALE_RESOURCE_RELEASE_"+f.layer, "No release", ""
				wantCutEvent(t, list[1], want)
				b.wantHits("ALE_ENDPOINT_CLOSURE_"+f.layer, "No end")
				b.wantHits("ALE_RESOURCE_RELEASE_"+f.layer, "No release")
				passes.want(t, host.CloseSock(b.dial(host, row.network, at(f.peer, 8080))))
				b.ended("ALE_ENDPOINT_CLOSURE_" + f.layer)
			})
		}
	}
}

// What is older than the engine ends, too. Of an old connection nothing tells
// whether it was accepted, unless a call bound it.
func TestEndingBefore(t *testing.T) {
	b := newBed(t)
	host, peer := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	b.listen(peer, 8080)
	type old struct {
		name string
		s    testbed.Sock
		want []string
	}
	var olds []old
	for _, f := range b.families() {
		closes, releases := "ALE_ENDPOINT_CLOSURE_"+f.layer, "ALE_RESOURCE_RELEASE_"+f.layer
		listener, err := host.Listen(f.tcp, at(f.host, 7002), testbed.Options{MPTCP: testbed.MPTCPOff})
		if err != nil {
			t.Fatal(err)
		}
		olds = append(olds,
			old{"TCP " + f.name, b.dial(host, f.tcp, at(f.peer, 8080)), []string{closes}},
			old{"TCP that was bound " + f.name, b.dial(host, f.tcp, at(f.peer, 8080), testbed.Options{Local: at(f.host, 4001)}), []string{closes, releases}},
			old{"UDP " + f.name, b.dial(host, f.udp, at(f.peer, 8080)), []string{closes, releases}},
			old{"a listener " + f.name, listener, []string{closes, releases}})
	}
	b.openEngine(loader.Options{Target: b.target(), Permits: true})
	b.apply(lookOn)
	for _, o := range olds {
		t.Run(o.name, func(t *testing.T) {
			b.events()
			passes.want(t, host.CloseSock(o.s))
			if got := layersOf(b.ended(o.want[len(o.want)-1])); !slices.Equal(got, o.want) {
				t.Errorf("judged at %v, want %v", got, o.want)
			}
		})
	}
}

// A tracepoint sees the sockets of every namespace and cgroup: those of others
// are none of ours.
func TestEndingOfOthers(t *testing.T) {
	b := newBed(t)
	b.openEngine(loader.Options{Target: b.target(), Permits: true})
	b.apply(lookOn)
	elsewhere := testbed.NewCgroup(t, "elsewhere")
	inside := b.cgroup.Child(t, "inside")
	peer, outsider := b.on(b.peer, testbed.ProcOptions{}), b.on(b.host, testbed.ProcOptions{Cgroup: elsewhere})
	insider := b.on(b.host, testbed.ProcOptions{Cgroup: inside})
	b.listen(peer, 8080)
	b.events()
	for _, f := range b.families() {
		for _, network := range []string{f.tcp, f.udp} {
			passes.want(t, outsider.CloseSock(b.dial(outsider, network, at(f.peer, 8080))))
			passes.want(t, peer.CloseSock(b.dial(peer, network, at(f.peer, 8080))))
		}
	}
	time.Sleep(soon)
	if list := b.events(); len(list) > 0 {
		t.Errorf("events %+v", list)
	}
	passes.want(t, insider.CloseSock(b.dial(insider, "tcp4", at(b.peerEnd.V4.String(), 8080))))
	if got := layersOf(b.ended("ALE_RESOURCE_RELEASE_V4")); len(got) != 3 {
		t.Errorf("judged at %v", got)
	}
}
