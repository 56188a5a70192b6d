// SPDX-License-Identifier: Apache-2.0

package live

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/wfpebpf/wfpebpf/loader"
	"github.com/wfpebpf/wfpebpf/policy"
	"github.com/wfpebpf/wfpebpf/tests/testbed"
)

var atForward = both("IPFORWARD")

// road is a bed whose host is a router: the peer is on h0, and far on h1.
type road struct {
	*bed
	far             *testbed.Netns
	hostFar, farEnd testbed.End
}

func newRoad(t *testing.T) *road {
	b := newBed(t)
	r := &road{bed: b, far: testbed.NewNetns(t, "far")}
	r.hostFar, r.farEnd = testbed.Veth(t, b.host, r.far, "h1", "f0", testbed.VethOptions{Subnet: 1, SecondAddresses: true})
	set(t, b.host, "ipv4/ip_forward", "1")
	set(t, b.host, "ipv6/conf/all/forwarding", "1")
	// a router that knows better would take itself out of the way
	set(t, b.host, "ipv4/conf/all/send_redirects", "0")
	set(t, b.host, "ipv4/conf/h0/send_redirects", "0")
	for _, conf := range []string{"all", "h0", "h1"} {
		set(t, b.host, "ipv4/conf/"+conf+"/rp_filter", "0")
	}
	through(t, b.peerEnd, b.hostEnd, everywhereV4, everywhereV6)
	through(t, r.farEnd, r.hostFar, everywhereV4, everywhereV6)
	return r
}

// set writes a setting of a namespace's network.
func set(t *testing.T, n *testbed.Netns, name, value string) {
	t.Helper()
	if err := n.Do(func() error { return os.WriteFile("/proc/sys/net/"+name, []byte(value), 0) }); err != nil {
		t.Fatal(err)
	}
}

var everywhereV4, everywhereV6 = netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")

// through gives a namespace routes by its end of a link to a router.
func through(t *testing.T, end, router testbed.End, to ...netip.Prefix) {
	t.Helper()
	for _, p := range to {
		gateway := router.V4
		if p.Addr().Is6() {
			gateway = router.V6
		}
		err := end.Netns.Netlink().RouteAdd(&netlink.Route{LinkIndex: end.Index, Dst: ipNet(p), Gw: gateway.AsSlice()})
		if err != nil {
			t.Fatalf("route to %s: %v", p, err)
		}
	}
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// ways are the families where "host" is the far end: calls go from the peer
// through the router.
func (r *road) ways() []family {
	list := r.families()
	for i, a := range [][2]string{
		{r.farEnd.V4.String(), r.farEnd.SecondV4.String()}, {v6(r.farEnd.V6), v6(r.farEnd.SecondV6)},
	} {
		list[i].host, list[i].hostSecond = a[0], a[1]
	}
	return list
}

// What the host passes on is judged, packet by packet, also of a connection that is
// under way. A block is silent. What is for the host or from it is not judged.
func TestForward(t *testing.T) {
	r := newRoad(t)
	host, peer, far := r.on(r.host, testbed.ProcOptions{}), r.on(r.peer, testbed.ProcOptions{}), r.on(r.far, testbed.ProcOptions{})
	for _, p := range []*testbed.Proc{host, peer, far} {
		r.listen(p, 8080)
	}
	near := r.families()
	for i, f := range r.ways() {
		t.Run(f.name, func(t *testing.T) {
			layer := "IPFORWARD_" + f.layer
			r.apply(blocks(layer, "{IP_SOURCE_ADDRESS: "+yamlAddress(f.peerSecond)+"}"))
			each(t, peer, f, []call{tcp(8080), mptcp(8080), udp(8080)}, passes)
			passes.want(t, ping(peer, f, f.host))
			r.wantHits(layer, "Permit the rest")
			for _, c := range []call{tcp(8080), mptcp(8080), udp(8080)} {
				t.Run(c.String(), func(t *testing.T) {
					r.events()
					before := r.hits(layer, "Block it")
					c.fromPeerSecond().want(t, peer, f, dropped)
					e := r.wantBlock(layer, "Block it")
					want := loader.Event{
						Time: e.Time, Layer: layer, Action: "block", FilterID: e.FilterID, FilterName: "Block it", SubLayer: "UNIVERSAL",
						Direction: "forward", Src: bare(f.peerSecond), Dst: bare(f.host), Interface: "h0", OutInterface: "h1",
					}
					if e != want {
						t.Errorf("event %+v,\nwant  %+v", e, want)
					}
					if r.hits(layer, "Block it") == before {
						t.Error("the counter stands still")
					}
				})
			}

			opened := r.dial(peer, f.tcp, at(f.host, 8080))
			r.apply("filters:\n" + rule("BLOCK", "Block all", layer, 0))
			dropped.want(t, peer.Exchange(opened, "hello", testbed.Options{Timeout: soon}))
			kind, answer := uint8(echoV4), uint8(echoReplyV4)
			if f.layer == "V6" {
				kind, answer = echoV6, echoReplyV6
			}
			dropped.want(t, icmp(peer, f, f.host, kind, 0, answer, soon))
			r.events()
			before := r.hits(layer, "Block all")
			each(t, peer, near[i], []call{tcp(8080), udp(8080)}, passes) // the host's own address
			for _, to := range []string{f.peer, f.host, f.loopback} {
				passes.want(t, host.Connect(f.tcp, at(to, 8080)))
				passes.want(t, host.UDPExchange(f.udp, at(to, 8080), "hello"))
				passes.want(t, ping(host, f, to))
			}
			for _, e := range r.events() {
				if e.Src == bare(near[i].host) || e.Dst == bare(near[i].host) || e.Src == e.Dst {
					t.Errorf("the host's own traffic is judged: %+v", e)
				}
			}
			// the blocked connection sends again, nothing else
			if n := r.hits(layer, "Block all") - before; n > 10 {
				t.Errorf("%d packets were blocked meanwhile", n)
			}
		})
	}
}

// One datagram, one way: which side is which.
func TestForwardConditions(t *testing.T) {
	r := newRoad(t)
	m, err := policy.LoadMapReader("map.yaml", strings.NewReader("zones: {h0: private, h1: domain}\n"))
	if err != nil {
		t.Fatal(err)
	}
	peer, far := r.on(r.peer, testbed.ProcOptions{}), r.on(r.far, testbed.ProcOptions{})
	index := func(field string, e testbed.End) string { return fmt.Sprintf("{%s: %d}", field, e.Index) }
	addresses := func(e testbed.End) string { return fmt.Sprintf("[%s, %q]", e.V4, e.V6) }
	for _, row := range []struct {
		conditions string
		out        outcome
	}{
		{"{IP_SOURCE_ADDRESS: " + addresses(r.peerEnd) + "}", dropped},
		{"{IP_SOURCE_ADDRESS: " + addresses(r.farEnd) + "}", passes},
		{`{IP_SOURCE_ADDRESS: [10.77.0.0/30, "fd77::/64"]}`, dropped},
		{"{IP_DESTINATION_ADDRESS: " + addresses(r.farEnd) + "}", dropped},
		{"{IP_DESTINATION_ADDRESS: " + addresses(r.peerEnd) + "}", passes},
		{`{IP_DESTINATION_ADDRESS: [10.77.1.2-10.77.1.9, "fd77:1::2-fd77:1::9"]}`, dropped},
		{"{IP_DESTINATION_ADDRESS: {set: far}}", dropped},
		{"{IP_SOURCE_ADDRESS: {set: far}}", passes},
		{"{IP_DESTINATION_ADDRESS_TYPE: unicast}", dropped},
		{"{IP_DESTINATION_ADDRESS_TYPE: [unspecified, multicast, broadcast]}", passes},
		{"{IP_LOCAL_INTERFACE: h0}", dropped},
		{"{IP_LOCAL_INTERFACE: [h1, lo]}", passes},
		{"{IP_FORWARD_INTERFACE: h1}", dropped},
		{"{IP_FORWARD_INTERFACE: [h0, lo]}", passes},
		{"{IP_LOCAL_INTERFACE: h0}, {IP_FORWARD_INTERFACE: h1}, " + index("SOURCE_INTERFACE_INDEX", r.hostEnd), dropped},
		{index("SOURCE_INTERFACE_INDEX", r.hostEnd), dropped},
		{index("SOURCE_INTERFACE_INDEX", r.hostFar), passes},
		{index("DESTINATION_INTERFACE_INDEX", r.hostFar), dropped},
		{index("DESTINATION_INTERFACE_INDEX", r.hostEnd), passes},
		{"{ARRIVAL_INTERFACE_PROFILE_ID: private}", dropped},
		{"{ARRIVAL_INTERFACE_PROFILE_ID: [public, domain]}", passes},
		{"{NEXTHOP_INTERFACE_PROFILE_ID: domain}", dropped},
		{"{NEXTHOP_INTERFACE_PROFILE_ID: [public, private]}", passes},
		{"{SOURCE_SUB_INTERFACE_INDEX: 0}, {DESTINATION_SUB_INTERFACE_INDEX: 0}, {COMPARTMENT_ID: 1}", dropped},
		{"{COMPARTMENT_ID: 2}", passes},
		{"{FLAGS: {match: FLAGS_NONE_SET, value: [IS_FRAGMENT, IS_OUTBOUND_PASS_THRU, IS_INBOUND_PASS_THRU]}}", dropped},
		{"{FLAGS: {match: FLAGS_ANY_SET, value: [IS_FRAGMENT, IS_OUTBOUND_PASS_THRU, IS_INBOUND_PASS_THRU]}}", passes},
	} {
		t.Run(row.conditions, func(t *testing.T) {
			sets := "sets: {far: " + addresses(r.farEnd) + "}\n"
			r.commit(r.load(sets+blocks(atForward, row.conditions), m))
			for _, f := range r.ways() {
				t.Run(f.name, func(t *testing.T) {
					sender, s := r.open(peer, f.udp, at(f.peer, 0)), r.open(far, f.udp, at(f.host, 8080))
					send(t, peer, sender, at(f.host, 8080), far, s, row.out)
					name := map[bool]string{true: "Block it", false: "Permit the rest"}[row.out.text == dropped.text]
					if n := r.hits("IPFORWARD_"+f.layer, name); n != 1 {
						t.Errorf("%q decided about %d packets, want the datagram", name, n)
					}
					peer.CloseSock(sender)
					far.CloseSock(s)
				})
			}
		})
	}
}

// A link that lies on others carries packets by one of them that is not known.
func TestForwardRefusedFields(t *testing.T) {
	for _, field := range []string{"IP_PHYSICAL_ARRIVAL_INTERFACE", "IP_PHYSICAL_NEXTHOP_INTERFACE"} {
		p, err := policy.LoadReader("policy.yaml", strings.NewReader("wfpebpf: 1\n"+blocks("IPFORWARD_V4", "{"+field+": h0}")), policy.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if e := p.Entries[0]; e.State != policy.StateRefused || !strings.Contains(e.Reason, field) || !strings.Contains(e.Reason, "lie on others") {
			t.Errorf("%s: %v, %q", field, e.State, e.Reason)
		}
	}
}

// The layers come in the order of WFP's packet flows, each with its own interface.
func TestForwardOrder(t *testing.T) {
	r := newRoad(t)
	peer, far := r.on(r.peer, testbed.ProcOptions{}), r.on(r.far, testbed.ProcOptions{})
	r.openEngine(loader.Options{Target: r.target(), Permits: true})
	list := []string{"INBOUND_IPPACKET", "IPFORWARD", "OUTBOUND_IPPACKET", "INBOUND_TRANSPORT", "OUTBOUND_TRANSPORT", "ALE_AUTH_CONNECT", "ALE_AUTH_RECV_ACCEPT"}
	var text strings.Builder
	for _, layer := range list {
		text.WriteString(rule("PERMIT", "See it", both(layer), 0))
	}
	r.apply("filters:\n" + text.String())
	for _, f := range r.ways() {
		t.Run(f.name, func(t *testing.T) {
			sender, s := r.open(peer, f.udp, at(f.peer, 0)), r.open(far, f.udp, at(f.host, 8080))
			r.events()
			send(t, peer, sender, at(f.host, 8080), far, s, passes)
			var got []string
			for _, e := range r.events() {
				if e.Src == bare(f.peer) && e.Dst == bare(f.host) {
					got = append(got, fmt.Sprintf("%s %s %s %s %s", e.Layer, e.Action, e.Direction, e.Interface, e.OutInterface))
				}
			}
			want := []string{
				"INBOUND_IPPACKET_" + f.layer + " permit in h0 ",
				"IPFORWARD_" + f.layer + " permit forward h0 h1",
				"OUTBOUND_IPPACKET_" + f.layer + " permit out h1 ",
			}
			if !slices.Equal(got, want) {
				t.Errorf("got  %q\nwant %q", got, want)
			}
		})
	}
}

// A datagram that is larger than a frame is passed on in fragments, each of which is
// judged.
func TestForwardFragment(t *testing.T) {
	r := newRoad(t)
	peer, far := r.on(r.peer, testbed.ProcOptions{}), r.on(r.far, testbed.ProcOptions{})
	r.listen(far, 8080)
	large := strings.Repeat("x", 4000)
	r.apply(blocks(atForward, "{FLAGS: [IS_FRAGMENT]}"))
	for _, f := range r.ways() {
		t.Run(f.name, func(t *testing.T) {
			layer := "IPFORWARD_" + f.layer
			passes.want(t, peer.UDPExchange(f.udp, at(f.host, 8080), "small"))
			dropped.want(t, peer.UDPExchange(f.udp, at(f.host, 8080), large, testbed.Options{Timeout: soon}))
			r.wantBlock(layer, "Block it")
			if n := r.hits(layer, "Block it"); n != 3 {
				t.Errorf("%d fragments were blocked, want each of 3", n)
			}
		})
	}
	r.apply(permits(atForward, "{FLAGS: [IS_FRAGMENT]}"))
	for _, f := range r.ways() {
		t.Run("permitted "+f.name, func(t *testing.T) {
			dropped.want(t, peer.UDPExchange(f.udp, at(f.host, 8080), "small", testbed.Options{Timeout: soon}))
			passes.want(t, peer.UDPExchange(f.udp, at(f.host, 8080), large))
			// there and back
			if n := r.hits("IPFORWARD_"+f.layer, "Permit it"); n != 6 {
				t.Errorf("%d fragments were permitted, want each of 6", n)
			}
		})
	}
}

// craft is a datagram in a frame of the peer to the router.
func (r *road) craft(t *testing.T, from, to netip.Addr, text string) []byte {
	t.Helper()
	eth := &layers.Ethernet{SrcMAC: r.peerEnd.MAC, DstMAC: r.hostEnd.MAC, EthernetType: layers.EthernetTypeIPv4}
	udp := &layers.UDP{SrcPort: 5000, DstPort: 8080}
	if from.Is4() {
		ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: from.AsSlice(), DstIP: to.AsSlice()}
		udp.SetNetworkLayerForChecksum(ip)
		return serialize(t, eth, ip, udp, gopacket.Payload(text))
	}
	eth.EthernetType = layers.EthernetTypeIPv6
	ip := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolUDP, SrcIP: from.AsSlice(), DstIP: to.AsSlice()}
	udp.SetNetworkLayerForChecksum(ip)
	return serialize(t, eth, ip, udp, gopacket.Payload(text))
}

// etherTypes are the kinds of frame by family.
var etherTypes = map[string]uint16{"V4": uint16(layers.EthernetTypeIPv4), "V6": uint16(layers.EthernetTypeIPv6)}

// addressOf is an end's address of a family.
func addressOf(f family, e testbed.End) netip.Addr {
	if f.layer == "V6" {
		return e.V6
	}
	return e.V4
}

// A packet from an address of the host that another host sent, and one to an address
// of the host that a rule leads past it, pass through.
func TestForwardPassThrough(t *testing.T) {
	r := newRoad(t)
	set(t, r.host, "ipv4/conf/all/accept_local", "1")
	h := r.host.Netlink()
	for _, f := range r.ways() {
		// to h1's address: local only after a rule that sends what comes in by h0 on
		const table, early, late = 77, 50, 100
		local := netlink.NewRule()
		local.Family, local.Table, local.Priority = unix.AF_INET, unix.RT_TABLE_LOCAL, late
		if f.layer == "V6" {
			local.Family = unix.AF_INET6
		}
		on, first := *local, *local
		on.Table, on.Priority, on.IifName = table, early, "h0"
		to := addressOf(f, r.hostFar)
		on.Dst = ipNet(netip.PrefixFrom(to, to.BitLen()))
		first.Priority = 0
		err := errors.Join(h.RuleAdd(local), h.RuleAdd(&on), h.RuleDel(&first), h.RouteAdd(&netlink.Route{
			LinkIndex: r.hostFar.Index, Table: table, Dst: on.Dst, Gw: addressOf(f, r.farEnd).AsSlice(),
		}))
		if err != nil {
			t.Fatal(err)
		}
	}
	const out, in = "IS_OUTBOUND_PASS_THRU", "IS_INBOUND_PASS_THRU"
	for _, f := range r.ways() {
		peerTap, farTap := newTap(t, r.peerEnd, etherTypes[f.layer]), newTap(t, r.farEnd, etherTypes[f.layer])
		far, self, other := addressOf(f, r.farEnd), addressOf(f, r.hostEnd), addressOf(f, r.hostFar)
		peer := addressOf(f, r.peerEnd)
		for _, row := range []struct {
			name, condition string
			from, to        netip.Addr
			out             outcome
		}{
			{"plain", "[" + out + "]", peer, far, passes},
			{"plain", "[" + in + "]", peer, far, passes},
			{"from the host's address", "[" + out + "]", self, far, dropped},
			{"from the host's other address", "[" + out + "]", other, far, dropped},
			{"from the host's address", "[" + in + "]", self, far, passes},
			{"to the host's address", "[" + in + "]", peer, other, dropped},
			{"to the host's address", "[" + out + "]", peer, other, passes},
			{"between the host's addresses", "[" + in + ", " + out + "]", self, other, dropped},
			{"to the host's address", "[" + in + ", " + out + "]", peer, other, passes},
		} {
			t.Run(f.name+" "+row.name+" "+row.condition, func(t *testing.T) {
				r.apply(blocks(atForward, "{FLAGS: "+row.condition+"}"))
				if _, err := unix.Write(peerTap.fd, r.craft(t, row.from, row.to, t.Name())); err != nil {
					t.Fatal(err)
				}
				row.out.want(t, farTap.receive(t.Name(), row.out.limit))
				name := map[bool]string{true: "Block it", false: "Permit the rest"}[row.out.text == dropped.text]
				r.wantHits("IPFORWARD_"+f.layer, name)
			})
		}
	}
}

// A broadcast into another network, which a router can be told to pass on.
func TestForwardBroadcast(t *testing.T) {
	r := newRoad(t)
	peer, far := r.on(r.peer, testbed.ProcOptions{}), r.on(r.far, testbed.ProcOptions{})
	for _, conf := range []string{"all", "h0"} {
		set(t, r.host, "ipv4/conf/"+conf+"/bc_forwarding", "1")
	}
	sender, s := r.open(peer, "udp4", ""), r.open(far, "udp4", "0.0.0.0:8080")
	for _, row := range []struct {
		conditions string
		out        outcome
	}{
		{"{IP_DESTINATION_ADDRESS_TYPE: broadcast}", dropped},
		{"{IP_DESTINATION_ADDRESS_TYPE: [unicast, multicast]}", passes},
	} {
		t.Run(row.conditions, func(t *testing.T) {
			r.apply(blocks("IPFORWARD_V4", row.conditions))
			send(t, peer, sender, "10.77.1.255:8080", far, s, row.out)
		})
	}
}

// A packet can go back by the interface that it came in by.
func TestForwardBack(t *testing.T) {
	r := newRoad(t)
	beyond := []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("2001:db8::/64")}
	through(t, r.hostEnd, r.peerEnd, beyond...)
	for i, f := range r.ways() {
		tap := newTap(t, r.peerEnd, etherTypes[f.layer])
		to := beyond[i].Addr().Next()
		for _, row := range []struct {
			conditions string
			out        outcome
		}{
			{"{IP_LOCAL_INTERFACE: h0}, {IP_FORWARD_INTERFACE: h0}", dropped},
			{"{IP_LOCAL_INTERFACE: h0}, {IP_FORWARD_INTERFACE: h1}", passes},
			{fmt.Sprintf("{SOURCE_INTERFACE_INDEX: %d}, {DESTINATION_INTERFACE_INDEX: %d}", r.hostEnd.Index, r.hostEnd.Index), dropped},
			{fmt.Sprintf("{DESTINATION_INTERFACE_INDEX: %d}", r.hostFar.Index), passes},
		} {
			t.Run(f.name+" "+row.conditions, func(t *testing.T) {
				r.apply(blocks(atForward, row.conditions))
				r.events()
				if _, err := unix.Write(tap.fd, r.craft(t, addressOf(f, r.peerEnd), to, t.Name())); err != nil {
					t.Fatal(err)
				}
				row.out.want(t, tap.receive(t.Name(), row.out.limit))
				if row.out.text != dropped.text {
					return
				}
				if e := r.wantBlock("IPFORWARD_"+f.layer, "Block it"); e.Interface != "h0" || e.OutInterface != "h0" || e.Dst != to.String() {
					t.Errorf("event %+v", e)
				}
			})
		}
	}
}

// The index of a link that is new is known at once, the rest of it when somebody
// looks.
func TestForwardNewLink(t *testing.T) {
	r := newRoad(t)
	peer := r.on(r.peer, testbed.ProcOptions{})
	r.apply(blocks(atForward, "{IP_FORWARD_INTERFACE: h2}"))
	beyond := testbed.NewNetns(t, "beyond")
	router, end := testbed.Veth(t, r.host, beyond, "h2", "b0", testbed.VethOptions{Subnet: 2})
	through(t, end, router, everywhereV4, everywhereV6)
	far := r.on(beyond, testbed.ProcOptions{})
	try := func(f family, limit outcome) error {
		to := end.V4.String()
		if f.layer == "V6" {
			to = v6(end.V6)
		}
		return peer.UDPExchange(f.udp, at(to, 8080), "hello", testbed.Options{Timeout: limit.limit})
	}
	r.listen(far, 8080)
	for _, f := range r.ways() {
		passes.want(t, try(f, passes))
	}
	if s := r.state(); !slices.Contains(s.Stale, "link h2 is new or changed") {
		t.Errorf("stale names %q", s.Stale)
	}
	r.apply(blocks(atForward, fmt.Sprintf("{DESTINATION_INTERFACE_INDEX: %d}", router.Index)))
	for _, f := range r.ways() {
		dropped.want(t, try(f, dropped))
	}
	h2 := &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: router.Index}}
	if err := r.host.Netlink().LinkSetName(h2, "later"); err != nil {
		t.Fatal(err)
	}
	r.apply(blocks(atForward, "{IP_FORWARD_INTERFACE: h2}"))
	for _, f := range r.ways() {
		passes.want(t, try(f, passes))
	}
	r.watch()
	if err := r.host.Netlink().LinkSetName(h2, "h2"); err != nil {
		t.Fatal(err)
	}
	for _, f := range r.ways() {
		r.await(func() bool { return dropped.check(try(f, dropped)) })
		if e := r.wantBlock("IPFORWARD_"+f.layer, "Block it"); e.OutInterface != "h2" {
			t.Errorf("event %+v", e)
		}
	}
}

// Whether a packet is a fragment is looked for where that is tested: there one that
// cannot be read to its end is dropped and counted.
func TestForwardExtensionHeaders(t *testing.T) {
	r := newRoad(t)
	far := r.on(r.far, testbed.ProcOptions{})
	out := newTap(t, r.peerEnd, uint16(layers.EthernetTypeIPv6))
	s := r.open(far, "udp6", at(v6(r.farEnd.V6), 8080))
	via := *r.bed
	via.hostEnd.V6 = r.farEnd.V6 // in a frame to the router
	for _, asks := range []struct {
		conditions string
		reads      bool
	}{
		{"{FLAGS: [IS_FRAGMENT]}", true},
		{`{IP_SOURCE_ADDRESS: "2001:db8::1"}`, false},
	} {
		r.apply(blocks("IPFORWARD_V6", asks.conditions))
		for _, row := range extensionHeaders {
			t.Run(asks.conditions+" "+row.name, func(t *testing.T) {
				before, lost, o := r.state().Unreadable, uint64(0), passes
				if asks.reads && !row.readable {
					lost, o = 1, dropped
				}
				via.sendBehind(t, out, 8080, row.kinds)
				_, _, err := far.Receive(s, testbed.Options{Timeout: o.limit})
				o.want(t, err)
				if n := r.state().Unreadable - before; n != lost {
					t.Errorf("%d packets counted as unreadable, want %d", n, lost)
				}
			})
		}
	}
}

// A family without filters is not hooked.
func TestForwardPayForUse(t *testing.T) {
	b := newBed(t)
	for _, row := range []struct {
		policy string
		want   []string
	}{
		{blocks("IPFORWARD_V4", "{IP_LOCAL_INTERFACE: h0}"), []string{"forward4@" + b.host.Name}},
		{blocks(atForward, "{IP_LOCAL_INTERFACE: h0}"), []string{"forward4@" + b.host.Name, "forward6@" + b.host.Name}},
		{blocks("IPFORWARD_V6", "{IP_LOCAL_INTERFACE: h0}"), []string{"forward6@" + b.host.Name}},
		{"filters: []\n", nil},
	} {
		b.apply(row.policy)
		if got := b.hooks(); !slices.Equal(got, row.want) {
			t.Errorf("hooks %q, want %q", got, row.want)
		}
	}
}
