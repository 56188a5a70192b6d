// SPDX-License-Identifier: Apache-2.0

package live

import (
	"slices"
	"testing"

	"github.com/wfpebpf/wfpebpf/loader"
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

	refusalsOfHost = []refusal{
		{"INBOUND_IPPACKET", func(f family) string { return "{IP_REMOTE_ADDRESS: " + yamlAddress(f.peerSecond) + "}" },
			fromAsker(udp(8080).fromPeerSecond()), dropped, "{INTERFACE_INDEX: 9999}"},
		{"OUTBOUND_IPPACKET", func(f family) string { return "{IP_REMOTE_ADDRESS: " + yamlAddress(f.peerSecond) + "}" },
			fromAsker(udp(8080).fromPeerSecond()), dropped, "{INTERFACE_INDEX: 9999}"},
		{"INBOUND_TRANSPORT", same("{IP_LOCAL_PORT: 8081}"), fromAsker(tcp(8081)), dropped, "{IP_LOCAL_PORT: 8080}"},
		{"OUTBOUND_TRANSPORT", same("{IP_REMOTE_PORT: 8083}"), toPeer(8083), refused, "{FLAGS: [IS_RAW_ENDPOINT]}"},
		{"IPFORWARD", same("{IP_FORWARD_INTERFACE: r9}"), func(e *failing, f family) error {
			return e.asker.UDPSend(f.udp, at(beyond(f, 9), closed), "hello")
		}, goesNowhere, "{FLAGS: [IS_FRAGMENT]}"},
		{"OUTBOUND_ICMP_ERROR", same("{IP_LOCAL_INTERFACE: h0}"), noPort.try, goesNowhere, "{ICMP_TYPE: 200}"},
		{"ALE_RESOURCE_ASSIGNMENT", same("{IP_LOCAL_PORT: 8082}"), func(e *failing, f family) error {
			return bindTCP(hostFirst, 8082)(e.host, f)
		}, denied, "{IP_LOCAL_PORT: 8080}"},
		{"ALE_AUTH_CONNECT", same("{IP_REMOTE_PORT: 8083}"), toPeer(8083), denied, "{IP_REMOTE_PORT: 8084}"},
		{"ALE_AUTH_RECV_ACCEPT", same("{IP_LOCAL_PORT: 8081}"), fromAsker(tcp(8081)), dropped, "{IP_PROTOCOL: udp}"},
		{"ALE_FLOW_ESTABLISHED", same("{IP_LOCAL_PORT: 8081}"), fromAsker(udp(8081)), dropped, "{DIRECTION: 0}"},
	}
	refusalsOfAsker = []refusal{
		{"INBOUND_ICMP_ERROR", same("{EMBEDDED_REMOTE_PORT: 9999}"), noPort.try, goesNowhere, "{EMBEDDED_REMOTE_PORT: 9998}"},
	}
)

// What a filter blocks is classified at the discard layer next, with the same fields.
// Its event names what blocked; whatever it says, the traffic stays blocked.
func TestDiscardOfOwnBlocks(t *testing.T) {
	for name, rows := range map[string][]refusal{"host routes": refusalsOfHost, "host asks": refusalsOfAsker} {
		t.Run(name, func(t *testing.T) {
			e := newFailing(t, name == "host routes")
			e.listen(e.host, 8080, 8081)
			for _, row := range rows {
				for _, f := range e.families() {
					t.Run(row.layer+" "+f.name, func(t *testing.T) { row.run(t, e, f) })
				}
			}
		})
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
	e.waitEvents(t, layer)
	e.wantHits(discard, "Let it pass")
	if list := e.events(); slices.ContainsFunc(list, func(ev loader.Event) bool { return ev.Layer == discard }) {
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
