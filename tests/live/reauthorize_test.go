// SPDX-License-Identifier: Apache-2.0

package live

import (
	"slices"
	"strings"
	"testing"

	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
	"github.com/wfpebpf/wfpebpf/loader"
	"github.com/wfpebpf/wfpebpf/tests/testbed"
)

const again = "{FLAGS: [IS_REAUTHORIZE]}"

// authorises is a policy that permits all at both layers of authorisation, after what
// else it has.
func authorises(rules ...string) string {
	return "filters:\n" + strings.Join(rules, "") +
		rule("PERMIT", "Permit connects", atConnect, 0) + rule("PERMIT", "Permit accepts", atAccept, 0)
}

// seenAgain are filters that count what is judged again.
var seenAgain = rule("PERMIT", "Connects again", atConnect, 9, again) + rule("PERMIT", "Accepts again", atAccept, 9, again)

// live is a flow that is open: who opened it, and where it was authorised.
type live struct {
	name     string
	p        *testbed.Proc
	s        testbed.Sock
	layer    string // with the family
	again    string // the filter that counts it there
	protocol uint8
	src, dst string
	blocked  outcome // of an exchange
}

// flows opens one of each kind in each direction. Those that are not used have no
// packet after what authorised them.
func (b *bed) flows(host, peer *testbed.Proc, used bool) (list []live) {
	b.t.Helper()
	open := func(p *testbed.Proc, network, to string, o testbed.Options) testbed.Sock {
		b.t.Helper()
		s, err := p.Dial(network, to, o)
		if err == nil && used {
			err = p.Exchange(s, "hello")
		}
		if err != nil {
			b.t.Fatal(err)
		}
		return s
	}
	add := func(name string, p *testbed.Proc, network, to, suffix string, o testbed.Options) {
		l := live{name: name, p: p, s: open(p, network, to, o), layer: "ALE_AUTH_CONNECT_" + suffix, again: "Connects again", protocol: 6, blocked: dropped}
		if p == peer {
			l.layer, l.again = "ALE_AUTH_RECV_ACCEPT_"+suffix, "Accepts again"
		}
		if strings.HasPrefix(network, "udp") {
			l.protocol = 17
			if p == host {
				l.blocked = refused
			}
		}
		l.src, l.dst = unmap(l.s.Local.String()), unmap(to)
		list = append(list, l)
	}
	for _, f := range b.families() {
		for _, mode := range []testbed.MPTCP{testbed.MPTCPOff, testbed.MPTCPOn} {
			name, port := map[testbed.MPTCP]string{testbed.MPTCPOff: "TCP", testbed.MPTCPOn: "MPTCP"}[mode], 8080
			add(name+" out "+f.name, host, f.tcp, at(f.peer, port), f.layer, testbed.Options{MPTCP: mode})
			add(name+" in "+f.name, peer, f.tcp, at(f.host, port), f.layer, testbed.Options{MPTCP: mode, Local: at(f.peer, 0)})
		}
		add("TCP in, plain listener "+f.name, peer, f.tcp, at(f.host, 7080), f.layer, testbed.Options{Local: at(f.peer, 0)})
		add("UDP out "+f.name, host, f.udp, at(f.peer, 8080), f.layer, testbed.Options{})
		if used {
			add("UDP in "+f.name, peer, f.udp, at(f.host, 8080), f.layer, testbed.Options{Local: at(f.peer, 0)})
		}
	}
	add("TCP out, mapped", host, "tcp6", at("[::ffff:10.77.0.2]", 8080), "V4", testbed.Options{})
	add("UDP out, mapped", host, "udp6", at("[::ffff:10.77.0.2]", 8080), "V4", testbed.Options{})
	return list
}

// unmap writes a mapped address as what it stands for.
func unmap(endpoint string) string {
	if v4, ok := strings.CutPrefix(endpoint, "[::ffff:"); ok {
		return strings.Replace(v4, "]", "", 1)
	}
	return endpoint
}

// reauthorisations is a bed with servers on both ends.
func reauthorisations(t *testing.T) (b *bed, host, peer *testbed.Proc) {
	b = newBed(t)
	b.openEngine(loader.Options{Target: b.target(), Permits: true})
	host, peer = b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	b.listen(host, 8080) // these listeners are older than the engine
	b.apply(authorises())
	b.listenTCP(host, 7080)
	b.listen(peer, 8080)
	return b, host, peer
}

// exchange makes the program that opened the flow send, and be answered or not.
func (l *live) exchange(o outcome) error {
	return l.p.Exchange(l.s, "hello", testbed.Options{Timeout: o.limit})
}

// judged are the events of flows that were judged again since the last call, by flow: what
// a connection sends by itself may do it as well as a program.
func (b *bed) judged() map[string][]loader.Event {
	b.t.Helper()
	list := map[string][]loader.Event{}
	for _, e := range b.events() {
		if e.ReauthReason != "" {
			key := flowKey(e.Layer, e.Src, e.Dst)
			list[key] = append(list[key], e)
		}
	}
	return list
}

func flowKey(layer, src, dst string) string { return layer + " " + src + " " + dst }

func (l *live) key() string { return flowKey(l.layer, l.src, l.dst) }

// When filters are added at its layer, a flow that goes on is judged there once more,
// whoever opened it and however many packets follow; and when they are taken away.
func TestReauthorize(t *testing.T) {
	b, host, peer := reauthorisations(t)
	established := rule("PERMIT", "Established", atEstablished, 0)
	for _, used := range []bool{true, false} {
		b.apply(authorises() + established)
		flows := b.flows(host, peer, used)
		b.events()
		b.apply(authorises(seenAgain) + established)
		for _, l := range flows {
			for range 3 {
				passes.want(t, l.exchange(passes))
			}
		}
		list := b.events()
		wantOnce(t, flows, list, host, "permit", func(l live) string { return l.again })
		for _, e := range list {
			if strings.HasPrefix(e.Layer, "ALE_FLOW_ESTABLISHED") && (used || e.Protocol == 6) {
				t.Errorf("established again: %+v", e)
			}
		}
		b.apply(authorises() + established)
		for _, l := range flows {
			passes.want(t, l.exchange(passes))
		}
		wantOnce(t, flows, b.events(), host, "permit", func(l live) string {
			return map[bool]string{true: "Permit accepts", false: "Permit connects"}[l.p == peer]
		})
	}
	if n := b.state().NoIdentity; n != 0 {
		t.Errorf("%d packets for sockets without an identity", n)
	}
}

// wantOnce asserts that each flow was judged again once, and what the event says.
func wantOnce(t *testing.T, flows []live, list []loader.Event, host *testbed.Proc, action string, filter func(live) string) {
	t.Helper()
	for _, l := range flows {
		t.Run(l.name, func(t *testing.T) {
			t.Helper()
			var own []loader.Event
			for _, e := range list {
				if e.ReauthReason != "" && flowKey(e.Layer, e.Src, e.Dst) == l.key() {
					own = append(own, e)
				}
			}
			if len(own) != 1 {
				t.Fatalf("judged again %d times, want once: %+v", len(own), own)
			}
			e := own[0]
			want := loader.Event{
				Layer: l.layer, Action: action, FilterName: filter(l), SubLayer: "UNIVERSAL", ReauthReason: "POLICY_CHANGE",
				Direction: map[bool]string{true: "out", false: "in"}[l.p == host], Protocol: l.protocol, Src: l.src, Dst: l.dst,
				Interface: "h0", PID: uint32(host.PID), Program: host.Exe, User: "root",
			}
			want.Time, want.FilterID = e.Time, e.FilterID
			if e != want {
				t.Errorf("event %+v,\nwant  %+v", e, want)
			}
		})
	}
}

// A flow that is blocked when it is judged again carries nothing more, either way, and
// is reported once; a new one is none of it.
func TestReauthorizeBlock(t *testing.T) {
	b, host, peer := reauthorisations(t)
	for _, used := range []bool{true, false} {
		b.apply(authorises())
		flows := b.flows(host, peer, used)
		b.events()
		b.apply(authorises(rule("BLOCK", "No connects again", atConnect, 9, again), rule("BLOCK", "No accepts again", atAccept, 9, again)))
		for range 2 {
			for _, l := range flows {
				l.blocked.want(t, l.exchange(l.blocked))
			}
		}
		wantOnce(t, flows, b.events(), host, "block", func(l live) string { return "No " + strings.ToLower(l.again) })
		for _, f := range b.families() {
			passes.want(t, host.Connect(f.tcp, at(f.peer, 8080)))
			passes.want(t, host.UDPExchange(f.udp, at(f.peer, 8080), "hello"))
			each(t, peer, f, []call{tcp(8080), mptcp(8080), tcp(7080), udp(8080)}, passes)
		}
		// what was blocked does not come to life again
		b.apply(authorises())
		for _, l := range flows {
			if l.protocol == 6 {
				dropped.want(t, l.exchange(dropped))
			}
		}
	}
}

// Both ends of a blocked flow of datagrams are cut off, and it ends with the filters
// that have blocked it: its next datagram is the first of another.
func TestReauthorizeBlockDatagrams(t *testing.T) {
	b, host, peer := reauthorisations(t)
	for _, f := range b.families() {
		for _, row := range []struct {
			name, at string
			first    func(t *testing.T, s, r testbed.Sock, hostAt, peerAt string)
		}{
			{"out", atConnect, func(t *testing.T, s, r testbed.Sock, _, peerAt string) { send(t, host, s, peerAt, peer, r, passes) }},
			{"in", atAccept, func(t *testing.T, s, r testbed.Sock, hostAt, _ string) { send(t, peer, r, hostAt, host, s, passes) }},
		} {
			for _, trigger := range []string{"out", "in"} {
				t.Run(row.name+", a datagram that goes "+trigger+" "+f.name, func(t *testing.T) {
					b.apply(authorises())
					s, r := b.open(host, f.udp, at(f.host, 0)), b.open(peer, f.udp, at(f.peer, 0))
					hostAt, peerAt := s.Local.String(), r.Local.String()
					out := func(o outcome) { t.Helper(); o.want(t, host.SendTo(s, peerAt, "hello")) }
					in := func() { t.Helper(); send(t, peer, r, hostAt, host, s, dropped) }
					row.first(t, s, r, hostAt, peerAt)
					b.apply(authorises(rule("BLOCK", "Not again", row.at, 9, again)))
					b.events()
					if trigger == "in" {
						in()
					}
					out(refused)
					in()
					out(refused)
					list := b.events()
					if len(list) != 1 || list[0].FilterName != "Not again" || list[0].Direction != row.name {
						t.Errorf("events %+v, want one block of a flow that goes %s", list, row.name)
					}
					b.apply(authorises())
					row.first(t, s, r, hostAt, peerAt)
					if list := b.events(); len(list) != 1 || list[0].Action != "permit" || list[0].ReauthReason != "" {
						t.Errorf("events %+v, want a new flow", list)
					}
				})
			}
		}
	}
}

// A packet against the flow's direction brings no interface to its layer.
func TestReauthorizeAgainst(t *testing.T) {
	b, host, peer := reauthorisations(t)
	var ending *testbed.Proc
	for _, f := range b.families() {
		for _, row := range []struct {
			name, layer, empty string
			open               func() (s, r testbed.Sock)
			send               func(t *testing.T, s, r testbed.Sock)
		}{
			{
				"in, judged by one that goes out", "ALE_AUTH_RECV_ACCEPT", "IP_ARRIVAL_INTERFACE",
				func() (s, r testbed.Sock) {
					s, r = b.open(host, f.udp, at(f.host, 0)), b.open(peer, f.udp, at(f.peer, 0))
					send(t, peer, r, s.Local.String(), host, s, passes)
					return s, r
				},
				func(t *testing.T, s, r testbed.Sock) { send(t, host, s, r.Local.String(), peer, r, passes) },
			},
			{
				"out, judged by one that comes in", "ALE_AUTH_CONNECT", "IP_NEXTHOP_INTERFACE",
				func() (s, r testbed.Sock) {
					s, r = b.open(host, f.udp, at(f.host, 0)), b.open(peer, f.udp, at(f.peer, 0))
					send(t, host, s, r.Local.String(), peer, r, passes)
					return s, r
				},
				func(t *testing.T, s, r testbed.Sock) { send(t, peer, r, s.Local.String(), host, s, passes) },
			},
			{
				"a connection that came in and that the host ends", "ALE_AUTH_RECV_ACCEPT", "ARRIVAL_INTERFACE_INDEX",
				func() (s, r testbed.Sock) {
					p := b.on(b.host, testbed.ProcOptions{})
					if _, err := p.Listen(f.tcp, at(f.host, 9090), testbed.Options{MPTCP: testbed.MPTCPOff}); err != nil {
						t.Fatal(err)
					}
					b.dial(peer, f.tcp, at(f.host, 9090))
					ending = p
					return s, r
				},
				func(t *testing.T, _, _ testbed.Sock) { ending.Close() },
			},
			{
				"a connection that went out and that the peer ends", "ALE_AUTH_CONNECT", "NEXTHOP_INTERFACE_TYPE",
				func() (s, r testbed.Sock) {
					p := b.on(b.peer, testbed.ProcOptions{})
					if _, err := p.Listen(f.tcp, at(f.peer, 9090), testbed.Options{MPTCP: testbed.MPTCPOff}); err != nil {
						t.Fatal(err)
					}
					b.dial(host, f.tcp, at(f.peer, 9090))
					ending = p
					return s, r
				},
				func(t *testing.T, _, _ testbed.Sock) { ending.Close() },
			},
		} {
			t.Run(row.name+" "+f.name, func(t *testing.T) {
				b.apply(authorises())
				s, r := row.open()
				layers := both(row.layer)
				b.apply(authorises(rule("PERMIT", "No interface", layers, 9, again, "{"+row.empty+": EMPTY}"), rule("PERMIT", "An interface", layers, 8, again)))
				row.send(t, s, r)
				b.await(func() bool { return b.hits(row.layer+"_"+f.layer, "No interface") == 1 })
				if n := b.hits(row.layer+"_"+f.layer, "An interface"); n != 0 {
					t.Errorf("%d have an interface", n)
				}
			})
		}
	}
}

// New connections alone: a common condition of Windows policies.
func TestReauthorizeNewOnly(t *testing.T) {
	b, host, peer := reauthorisations(t)
	b.apply(authorises())
	flows := b.flows(host, peer, true)
	isNew := "{FLAGS: {match: FLAGS_NONE_SET, value: [IS_REAUTHORIZE]}}"
	b.apply(authorises(rule("BLOCK", "No new ones out", atConnect, 9, isNew), rule("BLOCK", "No new ones in", atAccept, 9, isNew)))
	for _, l := range flows {
		t.Run(l.name, func(t *testing.T) { passes.want(t, l.exchange(passes)) })
	}
	for _, f := range b.families() {
		denied.want(t, host.Connect(f.tcp, at(f.peer, 8080)))
		denied.want(t, host.UDPExchange(f.udp, at(f.peer, 8080), "hello"))
		each(t, peer, f, []call{tcp(8080), mptcp(8080), udp(8080)}, dropped)
	}
}

// Fields of what is judged again.
func TestReauthorizeFields(t *testing.T) {
	b, host, peer := reauthorisations(t)
	for _, conditions := range []string{
		"{REAUTHORIZE_REASON: [POLICY_CHANGE]}",
		again + ", {REAUTHORIZE_REASON: {match: EQUAL, value: 1}}",
		"{FLAGS: {match: EQUAL, value: 4}}",
		again + ", {ALE_APP_ID: " + host.Exe + "}, {ALE_USER_ID: uid:0}",
		again + ", {INTERFACE_TYPE: ethernet}, {IP_LOCAL_INTERFACE: h0}",
		again + `, {IP_LOCAL_ADDRESS: [10.77.0.1, "fd77::1"]}, {IP_REMOTE_ADDRESS: [10.77.0.2, "fd77::2"]}, {IP_LOCAL_ADDRESS_TYPE: unicast}`,
	} {
		t.Run(conditions, func(t *testing.T) {
			b.apply(authorises())
			flows := b.flows(host, peer, true)
			b.apply(authorises(rule("PERMIT", "Connects again", atConnect, 9, conditions), rule("PERMIT", "Accepts again", atAccept, 9, conditions)))
			for _, l := range flows {
				passes.want(t, l.exchange(passes))
			}
			list := b.judged()
			for _, l := range flows {
				if own := list[l.key()]; len(own) != 1 || own[0].FilterName != l.again {
					t.Errorf("%s: events %+v, want one, by %q", l.name, own, l.again)
				}
			}
			// a new one has none of it
			fresh := b.flows(host, peer, true)
			events := b.events()
			for _, l := range fresh {
				for _, e := range events {
					if e.Src == l.src && e.Dst == l.dst && (e.FilterName == l.again || e.ReauthReason != "") {
						t.Errorf("%s: event %+v", l.name, e)
					}
				}
			}
		})
	}
}

// A commit that leaves the filters of a flow's layer as they are leaves the flow alone,
// also where it brings new tables, where it amends them, and where it is a roll-back.
func TestReauthorizeOtherLayer(t *testing.T) {
	b, host, peer := reauthorisations(t)
	connects, accepts := rule("PERMIT", "Connects again", atConnect, 9, again), rule("PERMIT", "Accepts again", atAccept, 9, again)
	base := authorises(seenAgain)
	b.apply(base)
	flows := b.flows(host, peer, true)
	// use uses all flows and wants those judged again whose layer begins so
	use := func(t *testing.T, layers ...string) {
		t.Helper()
		for _, l := range flows {
			passes.want(t, l.exchange(passes))
		}
		list := b.judged()
		for _, l := range flows {
			want := 0
			if slices.ContainsFunc(layers, func(layer string) bool { return strings.HasPrefix(l.layer, layer) }) {
				want = 1
			}
			if own := list[l.key()]; len(own) != want {
				t.Errorf("%s is judged again %d times, want %d: %+v", l.name, len(own), want, own)
			}
		}
	}
	t.Run("the same policy", func(t *testing.T) {
		b.apply(base)
		use(t)
	})
	t.Run("before all others, at other layers", func(t *testing.T) {
		b.apply("filters:\n" + rule("PERMIT", "Another", both("ALE_RESOURCE_ASSIGNMENT"), 3) + rule("PERMIT", "Established", atEstablished, 3) +
			connects + accepts + rule("PERMIT", "Permit connects", atConnect, 0) + rule("PERMIT", "Permit accepts", atAccept, 0))
		use(t)
	})
	t.Run("at the accept layers", func(t *testing.T) {
		b.apply(base + rule("BLOCK", "Another", atAccept, 8, "{IP_LOCAL_PORT: 1}"))
		use(t, "ALE_AUTH_RECV_ACCEPT")
	})
	t.Run("a roll-back of what no flow has met", func(t *testing.T) {
		b.apply(base + rule("BLOCK", "Another", atAccept, 8, "{IP_LOCAL_PORT: 1}") + rule("BLOCK", "All", atConnect, 10))
		if err := b.engine.Rollback(); err != nil {
			t.Fatal(err)
		}
		use(t)
	})
	t.Run("amended", func(t *testing.T) {
		p := b.load(base+strings.Repeat(rule("BLOCK", "Many", atConnect, 8, "{IP_REMOTE_PORT: 1}"), 100), nil)
		b.commit(p)
		use(t, "ALE_AUTH_CONNECT", "ALE_AUTH_RECV_ACCEPT")
		add := func(id layermap.LayerID) *filter.Filter {
			f := &filter.Filter{Name: "Late", Layer: id, Action: filter.ActionPermit, Weight: filter.U8(1)}
			if err := p.Store.AddFilter(f); err != nil {
				t.Fatal(err)
			}
			b.commit(p)
			if b.state().Amends == nil {
				t.Fatal("the tables are not amended")
			}
			return f
		}
		add(layermap.ALEResourceAssignmentV4)
		use(t)
		f := add(layermap.ALEAuthConnectV4)
		use(t, "ALE_AUTH_CONNECT_V4")
		add(layermap.ALEResourceAssignmentV6)
		use(t)
		if err := p.Store.DeleteFilter(f.ID); err != nil {
			t.Fatal(err)
		}
		b.commit(p)
		use(t, "ALE_AUTH_CONNECT_V4")
	})
}

// A layer that had no filters has let all flows pass; when it gets some, they are
// judged, and when it loses them, nobody is asked.
func TestReauthorizeFirstFilters(t *testing.T) {
	b, host, peer := reauthorisations(t)
	for _, row := range []struct{ name, at, other, layer string }{
		{"connects", atConnect, atAccept, "ALE_AUTH_CONNECT"},
		{"accepts", atAccept, atConnect, "ALE_AUTH_RECV_ACCEPT"},
	} {
		t.Run(row.name, func(t *testing.T) {
			b.apply("filters:\n" + rule("PERMIT", "Another", row.other, 0))
			flows := slices.DeleteFunc(b.flows(host, peer, true), func(l live) bool { return !strings.HasPrefix(l.layer, row.layer) })
			b.apply("filters:\n" + rule("PERMIT", "Another", row.other, 0) + rule("PERMIT", "Again", row.at, 9, again))
			for range 2 {
				for _, l := range flows {
					passes.want(t, l.exchange(passes))
				}
			}
			wantOnce(t, flows, b.events(), host, "permit", func(live) string { return "Again" })
			b.apply("filters:\n" + rule("PERMIT", "Another", row.other, 0))
			for _, l := range flows {
				passes.want(t, l.exchange(passes))
			}
			b.apply("filters:\n" + rule("PERMIT", "Another", row.other, 0) + rule("BLOCK", "Not again", row.at, 9, again))
			for _, l := range flows {
				l.blocked.want(t, l.exchange(l.blocked))
			}
			wantOnce(t, flows, b.events(), host, "block", func(live) string { return "Not again" })
		})
	}
}

// The flags of a reauthorisation are no datagram's.
func TestReauthorizeDatagramData(t *testing.T) {
	b, host, peer := reauthorisations(t)
	b.apply(authorises())
	flows := b.flows(host, peer, true)
	b.apply(authorises(rule("PERMIT", "Accepts again", atAccept, 9, again),
		rule("BLOCK", "No data", both("DATAGRAM_DATA"), 8, "{FLAGS: {match: EQUAL, value: 0}}, {DIRECTION: inbound}")))
	tried := 0
	for _, l := range flows {
		if strings.HasPrefix(l.name, "UDP in") {
			dropped.want(t, l.exchange(dropped))
			tried++
		}
	}
	if tried < 2 {
		t.Errorf("%d flows were tried", tried)
	}
}
