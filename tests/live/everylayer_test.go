// SPDX-License-Identifier: Apache-2.0

package live

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/wfpebpf/wfpebpf/layermap"
	"github.com/wfpebpf/wfpebpf/loader"
	"github.com/wfpebpf/wfpebpf/tests/testbed"
)

// atLayer is a filter of the policy at every layer: the conditions on which it permits,
// in the names of both families' layers. At a discard layer another filter, at the layer
// itself, blocks on the same conditions what the discard layer then sees.
type atLayer struct {
	layer      string // without family
	conditions string
	v6         string // where they are others
}

// everyLiveLayer has a row for each kernel layer that runs or is to run.
var everyLiveLayer = []atLayer{
	{"INBOUND_MAC_FRAME_NATIVE", "{INTERFACE: h0}", ""},
	{"INBOUND_MAC_FRAME_ETHERNET", "{INTERFACE: h0}, {ETHER_TYPE: 0x0800}", ""},
	{"OUTBOUND_MAC_FRAME_ETHERNET", "{INTERFACE: h0}, {ETHER_TYPE: 0x86dd}", ""},
	{"OUTBOUND_MAC_FRAME_NATIVE", "{INTERFACE: h0}", ""},
	{"INGRESS_VSWITCH_ETHERNET", "{ETHER_TYPE: 0x0800}", ""},
	{"EGRESS_VSWITCH_ETHERNET", "{ETHER_TYPE: 0x86dd}", ""},
	{"INGRESS_VSWITCH_TRANSPORT", "{IP_PROTOCOL: udp}, {IP_DESTINATION_PORT: 8080}", ""},
	{"EGRESS_VSWITCH_TRANSPORT", "{IP_PROTOCOL: udp}, {IP_SOURCE_PORT: 8080}", ""},

	{"INBOUND_IPPACKET", "{IP_REMOTE_ADDRESS: 10.77.0.2}", `{IP_REMOTE_ADDRESS: "fd77::2"}`},
	{"OUTBOUND_IPPACKET", "{IP_REMOTE_ADDRESS: 10.77.0.2}", `{IP_REMOTE_ADDRESS: "fd77::2"}`},
	{"IPFORWARD", "{IP_DESTINATION_ADDRESS: 10.77.1.2}", `{IP_DESTINATION_ADDRESS: "fd77:1::2"}`},
	{"INBOUND_TRANSPORT", "{IP_PROTOCOL: tcp}, {IP_LOCAL_PORT: 8080}", ""},
	{"OUTBOUND_TRANSPORT", "{IP_PROTOCOL: udp}, {IP_REMOTE_PORT: 8080}", ""},
	{"INBOUND_ICMP_ERROR", "{ICMP_TYPE: 3}, {EMBEDDED_REMOTE_PORT: 9999}", "{ICMP_TYPE: 1}, {EMBEDDED_REMOTE_PORT: 9999}"},
	{"OUTBOUND_ICMP_ERROR", "{ICMP_TYPE: 3}", "{ICMP_TYPE: 1}"},
	{"STREAM_PACKET", "{IP_LOCAL_PORT: 8080}", ""},
	{"DATAGRAM_DATA", "{IP_LOCAL_PORT: 8080}", ""},

	{"ALE_BIND_REDIRECT", "{IP_LOCAL_PORT: 8080}", ""},
	{"ALE_RESOURCE_ASSIGNMENT", "{IP_LOCAL_PORT: 8080}", ""},
	{"ALE_AUTH_LISTEN", "{IP_LOCAL_PORT: 8080}", ""},
	{"ALE_CONNECT_REDIRECT", "{IP_REMOTE_PORT: 8080}", ""},
	{"ALE_AUTH_CONNECT", "{IP_REMOTE_PORT: 8080}", ""},
	{"ALE_AUTH_RECV_ACCEPT", "{IP_LOCAL_PORT: 8080}", ""},
	{"ALE_FLOW_ESTABLISHED", "{IP_LOCAL_PORT: 8080}", ""},
	{"ALE_ENDPOINT_CLOSURE", "{IP_LOCAL_PORT: 8080}", ""},
	{"ALE_RESOURCE_RELEASE", "{IP_LOCAL_PORT: 8080}", ""},

	{"INBOUND_IPPACKET_DISCARD", "{IP_LOCAL_ADDRESS: 10.77.0.11}, {IP_REMOTE_ADDRESS: 10.77.0.12}",
		`{IP_LOCAL_ADDRESS: "fd77::11"}, {IP_REMOTE_ADDRESS: "fd77::12"}`},
	{"OUTBOUND_IPPACKET_DISCARD", "{IP_LOCAL_ADDRESS: 10.77.0.11}, {IP_REMOTE_ADDRESS: 10.77.0.12}",
		`{IP_LOCAL_ADDRESS: "fd77::11"}, {IP_REMOTE_ADDRESS: "fd77::12"}`},
	{"IPFORWARD_DISCARD", "{IP_DESTINATION_ADDRESS: 10.77.1.12}", `{IP_DESTINATION_ADDRESS: "fd77:1::12"}`},
	{"INBOUND_TRANSPORT_DISCARD", "{IP_LOCAL_PORT: 8101}", ""},
	{"OUTBOUND_TRANSPORT_DISCARD", "{IP_REMOTE_PORT: 8101}", ""},
	{"INBOUND_ICMP_ERROR_DISCARD", "{EMBEDDED_REMOTE_PORT: 9998}", ""},
	{"OUTBOUND_ICMP_ERROR_DISCARD", "{IP_LOCAL_ADDRESS: 10.77.0.11}", `{IP_LOCAL_ADDRESS: "fd77::11"}`},
	{"DATAGRAM_DATA_DISCARD", "{IP_LOCAL_PORT: 8102}", ""},
	{"ALE_RESOURCE_ASSIGNMENT_DISCARD", "{IP_LOCAL_PORT: 8103}", ""},
	{"ALE_AUTH_LISTEN_DISCARD", "{IP_LOCAL_PORT: 8104}", ""},
	{"ALE_AUTH_CONNECT_DISCARD", "{IP_REMOTE_PORT: 8105}", ""},
	{"ALE_AUTH_RECV_ACCEPT_DISCARD", "{IP_LOCAL_PORT: 8106}", ""},
	{"ALE_FLOW_ESTABLISHED_DISCARD", "{IP_LOCAL_PORT: 8107}", ""},
}

// familyLess is a layer's name as the rows have it.
func familyLess(layer string) string {
	return strings.NewReplacer("_V4", "", "_V6", "").Replace(layer)
}

// everyLayerPolicy is the YAML of the policy, and its filters by layer.
func everyLayerPolicy(t *testing.T) (yaml string, filters map[string]string) {
	t.Helper()
	var b strings.Builder
	b.WriteString("filters:\n")
	filters = map[string]string{}
	for _, l := range layermap.Layers() {
		if l.Mode != layermap.KernelMode || !l.Hook().Live {
			continue
		}
		i := slices.IndexFunc(everyLiveLayer, func(r atLayer) bool { return r.layer == familyLess(l.Name) })
		if i < 0 {
			t.Errorf("%s runs, and the policy at every layer has no filter there", l.Name)
			continue
		}
		conditions := everyLiveLayer[i].conditions
		if v6 := everyLiveLayer[i].v6; v6 != "" && l.Family == layermap.V6 {
			conditions = v6
		}
		filters[l.Name] = "Permit at " + l.Name
		b.WriteString(rule("PERMIT", filters[l.Name], l.Name, 4, conditions))
		if base, ok := strings.CutSuffix(l.Name, "_DISCARD"); ok {
			b.WriteString(rule("BLOCK", "Block at "+base, base, 8, conditions))
		}
	}
	return b.String(), filters
}

// A policy with a filter at each layer that runs: traffic moves the counter of each, and
// an event names each.
func TestEveryLayer(t *testing.T) {
	r := newRoad(t)
	set(t, r.host, "ipv4/icmp_ratelimit", "0")
	set(t, r.host, "ipv6/icmp/ratelimit", "0")
	guests := r.addGuests()
	yaml, filters := everyLayerPolicy(t)
	r.openEngine(loader.Options{Target: r.target(), Permits: true})
	r.apply(yaml)

	host, peer, far := r.on(r.host, testbed.ProcOptions{}), r.on(r.peer, testbed.ProcOptions{}), r.on(r.far, testbed.ProcOptions{})
	for _, p := range []*testbed.Proc{peer, far, guests[1]} {
		r.listen(p, 8080)
	}
	r.listen(host, 8101, 8102, 8106, 8107)
	named := map[string]bool{}
	hear := func() {
		for _, e := range r.events() {
			if e.Lost > 0 {
				t.Errorf("%d events were lost", e.Lost)
			}
			named[e.FilterName] = true
		}
	}
	ways := r.ways()
	for i, f := range r.families() {
		r.atEveryLayer(t, host, peer, f)
		hear()
		r.stoppedAtEveryLayer(host, peer, f, ways[i])
		hear()
		passes.want(t, peer.UDPExchange(f.udp, at(ways[i].host, 8080), "hello"))
		passes.want(t, guests[0].UDPExchange(f.udp, at([]string{"10.78.0.2", "[fd78::2]"}[i], 8080), "hello"))
		hear()
	}
	for layer, name := range filters {
		r.await(func() bool { hear(); return named[name] || t.Failed() })
		if !named[name] {
			t.Errorf("no event names the filter at %s", layer)
		}
		r.wantHits(layer, name)
	}
}

// addGuests makes the host a switch, too, with two guests at its ports.
func (r *road) addGuests() (guests [2]*testbed.Proc) {
	r.t.Helper()
	b := &switchBed{bed: r.bed}
	b.addBridge()
	for i := range guests {
		ns := testbed.NewNetns(r.t, fmt.Sprint("guest", i))
		b.addPort(fmt.Sprint("q", i), ns, mac(fmt.Sprintf("02:78:00:00:00:%02x", i+1)))
		addAddresses(r.t, ns, linkOf(r.t, ns, "e0"), i+1)
		b.join(fmt.Sprint("q", i))
		guests[i] = r.on(ns, testbed.ProcOptions{})
	}
	b.awaitUp("br0", "q0", "q1")
	return guests
}

// atEveryLayer makes what the filters of a family permit.
func (r *road) atEveryLayer(t *testing.T, host, peer *testbed.Proc, f family) {
	t.Helper()
	server, err := host.Listen(f.tcp, at(f.host, 8080), testbed.Options{MPTCP: testbed.MPTCPOff})
	passes.want(t, err)
	datagrams, err := host.Listen(f.udp, at(f.host, 8080))
	passes.want(t, err)
	for _, c := range []call{tcp(8080), udp(8080)} {
		c.want(t, peer, f, passes)
	}
	passes.want(t, host.CloseSock(server))
	passes.want(t, host.CloseSock(datagrams))
	passes.want(t, host.Connect(f.tcp, at(f.peer, 8080)))
	passes.want(t, host.UDPExchange(f.udp, at(f.peer, 8080), "hello"))
	passes.want(t, host.UDPSend(f.udp, at(f.peer, closed), "hello"))
	passes.want(t, peer.UDPSend(f.udp, at(f.host, closed), "hello"))
}

// stoppedAtEveryLayer makes what the filters of discard layers see, where those run:
// what it comes to is not its matter.
func (r *road) stoppedAtEveryLayer(host, peer *testbed.Proc, f, way family) {
	brief := testbed.Options{Timeout: soon}
	from := func(local string) testbed.Options { return testbed.Options{Timeout: soon, Local: at(local, 0)} }
	peer.UDPExchange(f.udp, at(f.hostSecond, 8102), "hello", from(f.peerSecond))
	host.UDPSend(f.udp, at(f.peerSecond, 8080), "hello", from(f.hostSecond))
	peer.UDPSend(f.udp, at(way.hostSecond, 8080), "hello")
	for _, port := range []int{8101, 8102, 8106, 8107} {
		peer.UDPExchange(f.udp, at(f.host, port), "hello", brief)
	}
	for _, port := range []int{8101, 8105, 9998} {
		host.UDPSend(f.udp, at(f.peer, port), "hello")
	}
	for range 3 { // the kernel answers none while it is about another ICMP error
		peer.UDPSend(f.udp, at(f.hostSecond, closed), "hello")
	}
	for _, port := range []int{8103, 8104} {
		if s, err := host.Listen(f.tcp, at(f.host, port)); err == nil {
			host.CloseSock(s)
		}
	}
}
