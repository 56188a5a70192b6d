// SPDX-License-Identifier: Apache-2.0

package live

import (
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wfpebpf/wfpebpf/loader"
	"github.com/wfpebpf/wfpebpf/policy"
	"github.com/wfpebpf/wfpebpf/tests/testbed"
)

// refusal is traffic that a filter blocks at a layer.
type refusal struct {
	layer      string // without the family
	conditions func(family) string
	try        func(*failing, family) error
	outcome    outcome
	// a condition of the discard layer that other traffic would meet
	other string
}

func same(conditions string) func(family) string { return func(family) string { return conditions } }

func fromAsker(c call) func(*failing, family) error {
	return func(e *failing, f family) error { return c.make(e.asker, f, soon) }
}

// toPeer is a datagram of the host to a port of the peer.
func toPeer(port int) func(*failing, family) error {
	return func(e *failing, f family) error { return e.host.UDPSend(f.udp, at(f.peer, port), "hello") }
}

func silently(err error) bool { return err == nil }

var (
	goesNowhere = outcome{"success of the call", silently, soon}

	// at links and sockets
	refusals = []refusal{
		{"INBOUND_IPPACKET", func(f family) string { return "{IP_REMOTE_ADDRESS: " + yamlAddress(f.peerSecond) + "}" },
			fromAsker(udp(8080).fromPeerSecond()), dropped, "{INTERFACE_INDEX: 9999}"},
		{"OUTBOUND_IPPACKET", func(f family) string { return "{IP_REMOTE_ADDRESS: " + yamlAddress(f.peerSecond) + "}" },
			fromAsker(udp(8080).fromPeerSecond()), dropped, "{INTERFACE_INDEX: 9999}"},
		{"ALE_RESOURCE_ASSIGNMENT", same("{IP_LOCAL_PORT: 8082}"), func(e *failing, f family) error {
			return bindTCP(hostFirst, 8082)(e.host, f)
		}, denied, "{IP_LOCAL_PORT: 8080}"},
		{"ALE_AUTH_CONNECT", same("{IP_REMOTE_PORT: 8083}"), toPeer(8083), denied, "{IP_REMOTE_PORT: 8084}"},
		{"ALE_AUTH_RECV_ACCEPT", same("{IP_LOCAL_PORT: 8081}"), fromAsker(tcp(8081)), dropped, "{IP_PROTOCOL: udp}"},
		{"ALE_FLOW_ESTABLISHED", same("{IP_LOCAL_PORT: 8081}"), fromAsker(udp(8081)), dropped, "{DIRECTION: 0}"},
	}
	// at netfilter, where the host routes
	refusalsOfHost = []refusal{
		{"INBOUND_TRANSPORT", same("{IP_LOCAL_PORT: 8081}"), fromAsker(tcp(8081)), dropped, "{IP_LOCAL_PORT: 8080}"},
		{"DATAGRAM_DATA", same("{IP_LOCAL_PORT: 8081}"), fromAsker(udp(8081)), dropped, "{IP_LOCAL_PORT: 8080}"},
		{"OUTBOUND_TRANSPORT", same("{IP_REMOTE_PORT: 8083}"), toPeer(8083), refused, "{FLAGS: [IS_RAW_ENDPOINT]}"},
		{"IPFORWARD", same("{IP_FORWARD_INTERFACE: r9}"), func(e *failing, f family) error {
			return e.asker.UDPSend(f.udp, at(beyond(f, 9), closed), "hello")
		}, goesNowhere, "{FLAGS: [IS_FRAGMENT]}"},
		{"OUTBOUND_ICMP_ERROR", same("{IP_LOCAL_INTERFACE: h0}"), noPort.try, goesNowhere, "{ICMP_TYPE: 200}"},
	}
	// where it asks
	refusalsOfAsker = []refusal{
		{"INBOUND_ICMP_ERROR", same("{EMBEDDED_REMOTE_PORT: 9999}"), noPort.try, goesNowhere, "{EMBEDDED_REMOTE_PORT: 9998}"},
	}
)

// What a filter blocks is classified at the discard layer next, with the same fields.
// Its event names what blocked; whatever it says, the traffic stays blocked.
func TestDiscard(t *testing.T) { discards(t, true, refusals) }

func TestDiscardAtNetfilter(t *testing.T) {
	t.Run("the host routes", func(t *testing.T) { discards(t, true, refusalsOfHost) })
	t.Run("the host asks", func(t *testing.T) { discards(t, false, refusalsOfAsker) })
}

func discards(t *testing.T, hostRoutes bool, rows []refusal) {
	e := newFailing(t, hostRoutes)
	e.listen(e.host, 8080, 8081)
	for _, row := range rows {
		for _, f := range e.families() {
			t.Run(row.layer+" "+f.name, func(t *testing.T) { row.run(t, e, f) })
		}
	}
}

func (row refusal) run(t *testing.T, e *failing, f family) {
	layer := row.layer + "_" + f.layer
	discard := layer + "_DISCARD"
	block := rule("BLOCK", "Block it", layer, 8, row.conditions(f))
	e.apply("filters:\n" + block +
		rule("BLOCK", "See another", discard, 9, row.other) + rule("BLOCK", "See it", discard, 8, row.conditions(f)))
	e.events()
	row.outcome.want(t, row.try(e, f))
	list := e.waitEvents(t, discard)
	blocked := list[slices.IndexFunc(list, func(ev loader.Event) bool { return ev.Layer == layer })]
	if blocked.DiscardModule != "" || blocked.FilterName != "Block it" {
		t.Errorf("the block's event %+v", blocked)
	}
	seen := list[slices.IndexFunc(list, func(ev loader.Event) bool { return ev.Layer == discard })]
	want := blocked
	want.Time, want.Layer, want.FilterID, want.FilterName = seen.Time, discard, seen.FilterID, "See it"
	want.DiscardModule, want.DiscardReason = "general", "FirewallPolicy"
	want.DiscardFilterID, want.DiscardFilterName = blocked.FilterID, "Block it"
	if seen != want {
		t.Errorf("event %+v,\nwant  %+v", seen, want)
	}
	if n, m := e.hits(discard, "See it"), e.hits(layer, "Block it"); n != m {
		t.Errorf("%d blocks, and %d of them seen", m, n)
	}
	if n := e.hits(discard, "See another"); n != 0 {
		t.Errorf("%d others seen", n)
	}

	e.apply("filters:\n" + block + rule("PERMIT", "Let it pass", discard, 8))
	e.events()
	row.outcome.want(t, row.try(e, f))
	list = e.waitEvents(t, layer)
	e.wantHits(discard, "Let it pass")
	if list = append(list, e.events()...); slices.ContainsFunc(list, func(ev loader.Event) bool { return ev.Layer == discard }) {
		t.Errorf("events of permits %+v", list)
	}
}

// waitEvents reads events until there is one of the layer.
func (b *bed) waitEvents(t *testing.T, layer string) (list []loader.Event) {
	t.Helper()
	b.await(func() bool {
		list = append(list, b.events()...)
		return slices.ContainsFunc(list, func(ev loader.Event) bool { return ev.Layer == layer })
	})
	return list
}

// Without an endpoint, TCP is judged before its RST leaves, UDP before the ICMP error
// that says so. A block silences both; the open port answers as before.
func TestClosedPorts(t *testing.T) {
	b := newBed(t)
	host, peer := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	b.listen(host, 8080)
	b.listen(peer, 8080)
	answerAll(t, b.host)
	answerAll(t, b.peer)
	unheard := failsWith(unix.ECONNREFUSED)
	for _, row := range []struct {
		layer, module, reason string
		protocol              uint8
		network               func(family) string
	}{
		{"INBOUND_TRANSPORT", "transport", "EndpointNotFound", 6, func(f family) string { return f.tcp }},
		{"INBOUND_IPPACKET", "network", "PortUnreachable", 17, func(f family) string { return f.udp }},
	} {
		for _, f := range b.families() {
			t.Run(row.layer+" "+f.name, func(t *testing.T) {
				layer := row.layer + "_" + f.layer + "_DISCARD"
				conditions := "{FLAGS: {match: FLAGS_NONE_SET, value: [IS_LOOPBACK]}}"

				b.apply("filters:\n" + rule("PERMIT", "Look on", layer, 0))
				unheard.want(t, knock(peer, row.network(f), "", at(f.host, closed), unheard))
				b.wantHits(layer, "Look on")

				b.apply("filters:\n" + rule("BLOCK", "Block it", layer, 0, conditions) +
					rule("PERMIT", "See RST", "OUTBOUND_TRANSPORT_"+f.layer, 0, "{IP_LOCAL_PORT: "+strconv.Itoa(closed)+"}") +
					rule("PERMIT", "See error", "OUTBOUND_ICMP_ERROR_"+f.layer, 0))
				b.events()
				dropped.want(t, knock(peer, row.network(f), at(f.peer, 5000), at(f.host, closed), dropped))
				e := b.wantBlock(layer, "Block it")
				want := loader.Event{
					Time: e.Time, Layer: layer, Action: "block", FilterID: e.FilterID, FilterName: "Block it", SubLayer: "UNIVERSAL",
					Direction: "in", Protocol: row.protocol, Src: at(f.peer, 5000), Dst: at(f.host, closed), Interface: "h0",
					DiscardModule: row.module, DiscardReason: row.reason,
				}
				if row.protocol == 17 { // the layer has no ports
					want.Src, want.Dst = bare(f.peer), bare(f.host)
				}
				if e != want {
					t.Errorf("event %+v,\nwant  %+v", e, want)
				}
				if n := b.hits("OUTBOUND_TRANSPORT_"+f.layer, "See RST") + b.hits("OUTBOUND_ICMP_ERROR_"+f.layer, "See error"); n > 0 {
					t.Errorf("%d answers that were silenced came further", n)
				}
				each(t, peer, f, []call{tcp(8080), mptcp(8080), udp(8080)}, passes)
				unheard.want(t, knock(host, row.network(f), "", at(f.loopback, closed), unheard))
				// the peer's ports are none of ours
				unheard.want(t, knock(host, row.network(f), "", at(f.peer, closed), unheard))
			})
		}
	}
}

// knock tries a port by a connected socket, which is told where nobody is.
func knock(p *testbed.Proc, network, local, to string, o outcome) error {
	opt := testbed.Options{Local: local, Timeout: o.limit}
	s, err := p.Dial(network, to, opt)
	if err != nil {
		return err
	}
	defer p.CloseSock(s)
	return p.Exchange(s, "hello", opt)
}

// The discard layers of streams are reserved: they take filters, need no hook and are
// never classified.
func TestStreamDiscard(t *testing.T) {
	b := newBed(t)
	host, peer := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	b.listen(host, 8080)
	p := b.load("filters:\n"+rule("BLOCK", "Block reserved", atDiscard("STREAM"), 0), nil)
	for _, e := range p.Entries {
		if e.State != policy.StateUnmatchable || !strings.Contains(e.Reason, "never classified") {
			t.Errorf("%q is %s: %s", e.Filter.Name, e.State, e.Reason)
		}
	}
	b.commit(p)
	if rows, err := b.engine.Hooks(); err != nil || len(rows) > 0 {
		t.Errorf("hooks %v, %v", rows, err)
	}
	for _, f := range b.families() {
		each(t, peer, f, []call{tcp(8080), mptcp(8080)}, passes)
		if n := b.hits("STREAM_"+f.layer+"_DISCARD", "Block reserved"); n > 0 {
			t.Errorf("%d decisions", n)
		}
	}
}

// atDiscard names the V4 and the V6 discard layer.
func atDiscard(layer string) string { return "[" + layer + "_V4_DISCARD, " + layer + "_V6_DISCARD]" }

// What a packet without an endpoint is told apart by.
func TestClosedPortConditions(t *testing.T) {
	b := newBed(t)
	peer := b.on(b.peer, testbed.ProcOptions{})
	answerAll(t, b.host)
	unheard := failsWith(unix.ECONNREFUSED)
	for _, f := range b.families() {
		for _, row := range []struct {
			network       string
			layer         string
			meets, others []string
		}{
			{f.tcp, "INBOUND_TRANSPORT_" + f.layer + "_DISCARD", []string{
				"{IP_PROTOCOL: tcp}", "{IP_LOCAL_PORT: 9999}", "{IP_REMOTE_PORT: 5000}", "{CURRENT_PROFILE_ID: public}",
			}, []string{
				"{IP_PROTOCOL: udp}", "{IP_LOCAL_PORT: 5000}", "{IP_REMOTE_PORT: 9999}", "{CURRENT_PROFILE_ID: private}",
			}},
			{f.udp, "INBOUND_IPPACKET_" + f.layer + "_DISCARD", nil, nil},
		} {
			address := func(key string, of func(family) string) string { return "{" + key + ": " + yamlAddress(of(f)) + "}" }
			index := func(n int) string { return "{INTERFACE_INDEX: " + strconv.Itoa(n) + "}" }
			for hit, conditions := range map[bool][]string{
				true: append(row.meets, address("IP_LOCAL_ADDRESS", hostFirst), address("IP_REMOTE_ADDRESS", peerFirst),
					"{IP_LOCAL_ADDRESS_TYPE: unicast}", "{IP_LOCAL_INTERFACE: h0}", index(b.hostEnd.Index), "{INTERFACE_TYPE: 6}",
					"{FLAGS: {match: FLAGS_NONE_SET, value: [IS_LOOPBACK]}}", "{SUB_INTERFACE_INDEX: 0}", "{COMPARTMENT_ID: 1}"),
				false: append(row.others, address("IP_LOCAL_ADDRESS", peerFirst), address("IP_REMOTE_ADDRESS", hostFirst),
					"{IP_LOCAL_ADDRESS_TYPE: multicast}", "{IP_LOCAL_INTERFACE: lo}", index(9999), "{INTERFACE_TYPE: 24}", "{FLAGS: [IS_LOOPBACK]}"),
			} {
				for _, c := range conditions {
					t.Run(row.layer+" "+c, func(t *testing.T) {
						b.apply("filters:\n" + rule("PERMIT", "Meet it", row.layer, 0, c))
						unheard.want(t, knock(peer, row.network, at(f.peer, 5000), at(f.host, closed), unheard))
						if n := b.hits(row.layer, "Meet it"); (n > 0) != hit {
							t.Errorf("%d hits, want some: %t", n, hit)
						}
					})
				}
			}
		}
	}
}

// A connect that is blocked has no local port yet: at ALE_AUTH_CONNECT one of the range
// stands for it, at the discard layer it is empty.
func TestDiscardPortNotPicked(t *testing.T) {
	b := newBed(t)
	host := b.on(b.host, testbed.ProcOptions{})
	for _, f := range b.families() {
		layer := "ALE_AUTH_CONNECT_" + f.layer
		b.apply("filters:\n" + rule("BLOCK", "Block it", layer, 0, "{IP_LOCAL_PORT: 1024-65535}") +
			rule("BLOCK", "See a port", layer+"_DISCARD", 9, "{IP_LOCAL_PORT: 1-65535}") +
			rule("BLOCK", "See none", layer+"_DISCARD", 8, "{IP_LOCAL_PORT: EMPTY}"))
		denied.want(t, connectTCP(host, f))
		b.wantBlock(layer+"_DISCARD", "See none")
		denied.want(t, host.Connect(f.tcp, at(f.peer, 8080), testbed.Options{Local: at(f.host, 5000)}))
		b.wantBlock(layer+"_DISCARD", "See a port")
	}
}
