// SPDX-License-Identifier: Apache-2.0

package live

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/wfpebpf/wfpebpf/loader"
	"github.com/wfpebpf/wfpebpf/policy"
	"github.com/wfpebpf/wfpebpf/tests/testbed"
)

// guest is a namespace at a port of a bridge.
type guest struct {
	ns  *testbed.Netns
	end testbed.End // e0, inside
	tap *tap        // of frames of the experiment
	p   *testbed.Proc
}

// switchBed is a host with the bridge br0, whose ports q0, q1 and q2 lead to three guests.
type switchBed struct {
	*bed
	guests [3]guest
	tap    *tap // of the host, on br0
}

func newSwitchBed(t *testing.T) *switchBed {
	testbed.RequireRoot(t)
	t.Parallel()
	b := &switchBed{bed: &bed{t: t, host: testbed.NewNetns(t, "switch"), cgroup: testbed.NewCgroup(t, "live")}}
	br0 := b.addBridge()
	for i := range b.guests {
		g := &b.guests[i]
		g.ns = testbed.NewNetns(t, fmt.Sprint("guest", i))
		g.end = b.addPort(fmt.Sprint("q", i), g.ns, net.HardwareAddr{0x02, 0x78, 0, 0, 0, byte(i + 1)})
		addAddresses(t, g.ns, linkOf(t, g.ns, "e0"), i+1)
		b.join(fmt.Sprint("q", i))
		g.tap = newTap(t, g.end, experiment)
		g.p = b.on(g.ns, testbed.ProcOptions{})
	}
	b.tap = newTap(t, testbed.End{Netns: b.host, Index: br0.Attrs().Index}, experiment)
	b.awaitUp("br0", "q0", "q1", "q2")
	// the bridge learns where everybody is
	for i := range b.guests {
		text := fmt.Sprint("here is ", i)
		b.send(b.guests[i].tap, frame(t, mac("ff:ff:ff:ff:ff:ff"), b.guests[i].end.MAC, 0, text))
		passes.want(t, b.guests[(i+1)%3].tap.receive(text, passes.limit))
	}
	return b
}

// addBridge makes br0, which has an address of the host.
func (b *switchBed) addBridge() netlink.Link {
	b.t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = "br0", mac("02:78:00:00:00:64")
	snooping := false
	if err := b.host.Netlink().LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}); err != nil {
		b.t.Fatal(err)
	}
	br0 := b.link("br0")
	addAddresses(b.t, b.host, br0, 100)
	return br0
}

func (b *switchBed) awaitUp(names ...string) {
	b.t.Helper()
	b.await(func() bool {
		return !slices.ContainsFunc(names, func(name string) bool {
			return b.link(name).Attrs().OperState != netlink.OperUp
		})
	})
}

func linkOf(t *testing.T, n *testbed.Netns, name string) netlink.Link {
	t.Helper()
	l, err := n.Netlink().LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func (b *switchBed) link(name string) netlink.Link { return linkOf(b.t, b.host, name) }

// addPort joins the host to a namespace by a veth pair without addresses.
func (b *switchBed) addPort(name string, n *testbed.Netns, address net.HardwareAddr) testbed.End {
	b.t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	var peer int
	err := n.Do(func() error {
		fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return b.host.Netlink().LinkAdd(&netlink.Veth{
			LinkAttrs: attrs, PeerName: "e0", PeerHardwareAddr: address, PeerNamespace: netlink.NsFd(fd),
		})
	})
	if err == nil {
		l := linkOf(b.t, n, "e0")
		peer = l.Attrs().Index
		err = errors.Join(n.Netlink().LinkSetUp(l), b.host.Netlink().LinkSetUp(b.link(name)))
	}
	if err != nil {
		b.t.Fatal(err)
	}
	return testbed.End{Netns: n, Name: "e0", Index: peer, MAC: address}
}

func addAddresses(t *testing.T, n *testbed.Netns, l netlink.Link, host int) {
	t.Helper()
	for _, a := range []net.IPNet{
		{IP: net.IPv4(10, 78, 0, byte(host)).To4(), Mask: net.CIDRMask(24, 32)},
		{IP: net.ParseIP(fmt.Sprintf("fd78::%d", host)), Mask: net.CIDRMask(64, 128)},
	} {
		if err := n.Netlink().AddrAdd(l, &netlink.Addr{IPNet: &a, Flags: unix.IFA_F_NODAD}); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.Netlink().LinkSetUp(l); err != nil {
		t.Fatal(err)
	}
}

// join makes a link a port of the bridge, leave makes it none.
func (b *switchBed) join(name string) {
	b.t.Helper()
	if err := b.host.Netlink().LinkSetMaster(b.link(name), b.link("br0")); err != nil {
		b.t.Fatal(err)
	}
}

func (b *switchBed) leave(name string) {
	b.t.Helper()
	if err := b.host.Netlink().LinkSetNoMaster(b.link(name)); err != nil {
		b.t.Fatal(err)
	}
}

func (b *switchBed) send(from *tap, frame []byte) {
	b.t.Helper()
	if _, err := unix.Write(from.fd, frame); err != nil {
		b.t.Fatal(err)
	}
}

// reached sends a frame from a guest, or from the host (-1), and returns the guests that
// get it of those that could.
func (b *switchBed) reached(t *testing.T, from int, bytes []byte, text string, could []int) (got []int) {
	t.Helper()
	tap := b.tap
	if from >= 0 {
		tap = b.guests[from].tap
	}
	b.send(tap, bytes)
	errs := make([]error, len(could))
	var wg sync.WaitGroup
	for i, g := range could {
		wg.Go(func() { errs[i] = b.guests[g].tap.receive(text, 3*soon) })
	}
	wg.Wait()
	for i, g := range could {
		if errs[i] == nil {
			got = append(got, g)
		} else if !errors.Is(errs[i], testbed.ErrTimeout) {
			t.Fatal(errs[i])
		}
	}
	return got
}

func TestVSwitchEthernet(t *testing.T) {
	b := newSwitchBed(t)
	macs := [3]net.HardwareAddr{b.guests[0].end.MAC, b.guests[1].end.MAC, b.guests[2].end.MAC}
	all, group, own := mac("ff:ff:ff:ff:ff:ff"), mac("01:00:5e:00:00:01"), mac("02:78:00:00:00:64")
	type sent struct {
		name     string
		from     int // guest; -1: the host
		to, mac  net.HardwareAddr
		vlan     uint16
		arrivals []int // without a policy
	}
	unicast := sent{"unicast", 0, macs[1], macs[0], 0, []int{1}}
	back := sent{"unicast back", 1, macs[0], macs[1], 0, []int{0}}
	broadcast := sent{"broadcast", 0, all, macs[0], 0, []int{1, 2}}
	multicast := sent{"multicast", 0, group, macs[0], 0, []int{1, 2}}
	tagged := sent{"tagged", 0, macs[1], macs[0], 5, []int{1}}
	priority := sent{"tagged with priority", 0, macs[1], macs[0], 0x2005, []int{1}}
	hosts := sent{"the host's", -1, all, own, 0, []int{0, 1, 2}}
	hostsTagged := sent{"the host's tagged", -1, macs[1], own, 5, []int{1}}
	const in, out = "INGRESS_VSWITCH_ETHERNET", "EGRESS_VSWITCH_ETHERNET"
	for _, row := range []struct {
		layer, conditions string
		frame             sent
		arrivals          []int    // with the policy
		at                []string // ports at which it is blocked, each once
	}{
		{in, "", unicast, nil, []string{"q0"}},
		{in, "", broadcast, nil, []string{"q0"}}, // seen once
		{in, "", hosts, []int{0, 1, 2}, nil},     // the host's own link is no port
		{in, fmt.Sprintf("{MAC_SOURCE_ADDRESS: %q}", macs[0]), unicast, nil, []string{"q0"}},
		{in, fmt.Sprintf("{MAC_SOURCE_ADDRESS: %q}", macs[0]), back, []int{0}, nil},
		{in, fmt.Sprintf("{MAC_DESTINATION_ADDRESS: %q}", macs[1]), unicast, nil, []string{"q0"}},
		{in, fmt.Sprintf("{MAC_DESTINATION_ADDRESS: %q}", macs[1]), broadcast, []int{1, 2}, nil},
		{in, "{MAC_SOURCE_ADDRESS_TYPE: unicast}", unicast, nil, []string{"q0"}},
		{in, "{MAC_DESTINATION_ADDRESS_TYPE: broadcast}", broadcast, nil, []string{"q0"}},
		{in, "{MAC_DESTINATION_ADDRESS_TYPE: broadcast}", multicast, []int{1, 2}, nil},
		{in, "{MAC_DESTINATION_ADDRESS_TYPE: multicast}", multicast, nil, []string{"q0"}},
		{in, "{VLAN_ID: 5}", tagged, nil, []string{"q0"}},
		{in, "{VLAN_ID: 5}", unicast, []int{1}, nil},
		{in, "{VLAN_ID: 5}", priority, []int{1}, nil}, // the whole tag
		{in, "{VLAN_ID: 0x2005}", priority, nil, []string{"q0"}},
		{in, "{VLAN_ID: EMPTY}", unicast, nil, []string{"q0"}},
		{in, "{VLAN_ID: EMPTY}", tagged, []int{1}, nil},
		{in, "{VSWITCH_ID: br0}", unicast, nil, []string{"q0"}},
		{in, "{VSWITCH_ID: br1}", unicast, []int{1}, nil},
		{in, "{VSWITCH_ID: {match: NOT_EQUAL, value: br0}}", unicast, []int{1}, nil},
		{in, "{VSWITCH_NETWORK_TYPE: internal}", unicast, nil, []string{"q0"}},
		{in, "{VSWITCH_NETWORK_TYPE: external}", unicast, []int{1}, nil},
		{in, "{VSWITCH_SOURCE_INTERFACE_ID: q0}", unicast, nil, []string{"q0"}},
		{in, "{VSWITCH_SOURCE_INTERFACE_ID: [q1, q2]}", unicast, []int{1}, nil},
		{in, "{VSWITCH_SOURCE_INTERFACE_TYPE: synthetic}", unicast, nil, []string{"q0"}},
		{in, "{VSWITCH_SOURCE_INTERFACE_TYPE: external}", unicast, []int{1}, nil},

		{out, "", unicast, nil, []string{"q1"}},
		{out, "", broadcast, nil, []string{"q1", "q2"}}, // seen once for each port
		{out, "", hosts, nil, []string{"q0", "q1", "q2"}},
		{out, fmt.Sprintf("{MAC_SOURCE_ADDRESS: %q}", macs[0]), unicast, nil, []string{"q1"}},
		{out, fmt.Sprintf("{MAC_DESTINATION_ADDRESS: %q}", macs[1]), unicast, nil, []string{"q1"}},
		{out, "{MAC_DESTINATION_ADDRESS_TYPE: broadcast}", broadcast, nil, []string{"q1", "q2"}},
		{out, "{VLAN_ID: 5}", tagged, nil, []string{"q1"}},
		{out, "{VLAN_ID: 5}", unicast, []int{1}, nil},
		{out, "{VLAN_ID: 5}", hostsTagged, nil, []string{"q1"}}, // the tag is in the bytes
		{out, "{VLAN_ID: EMPTY}", hostsTagged, []int{1}, nil},
		{out, "{VSWITCH_ID: br0}", unicast, nil, []string{"q1"}},
		{out, "{VSWITCH_DESTINATION_INTERFACE_ID: q1}", broadcast, []int{2}, []string{"q1"}},
		{out, "{VSWITCH_DESTINATION_INTERFACE_TYPE: synthetic}", broadcast, nil, []string{"q1", "q2"}},
		{out, "{VSWITCH_SOURCE_INTERFACE_ID: q0}", broadcast, nil, []string{"q1", "q2"}},
		{out, "{VSWITCH_SOURCE_INTERFACE_ID: q0}", back, []int{0}, nil},
		{out, "{VSWITCH_SOURCE_INTERFACE_ID: br0}", hosts, nil, []string{"q0", "q1", "q2"}},
		{out, "{VSWITCH_SOURCE_INTERFACE_ID: br0}", unicast, []int{1}, nil},
		{out, "{VSWITCH_SOURCE_INTERFACE_TYPE: internal}", hosts, nil, []string{"q0", "q1", "q2"}},
		{out, "{VSWITCH_SOURCE_INTERFACE_TYPE: internal}", unicast, []int{1}, nil},
		{out, "{L2_FLAGS: [IS_VM2VM]}", unicast, nil, []string{"q1"}},
		{out, "{L2_FLAGS: [IS_VM2VM]}", hosts, []int{0, 1, 2}, nil},
	} {
		t.Run(row.layer+" "+row.conditions+" "+row.frame.name, func(t *testing.T) {
			// of this type there are no frames but those of the test
			conditions := []string{fmt.Sprintf("{ETHER_TYPE: %d}", experiment)}
			if row.conditions != "" {
				conditions = append(conditions, row.conditions)
			}
			b.apply(blocks(row.layer, conditions...))
			s := row.frame
			if got := b.reached(t, s.from, frame(t, s.to, s.mac, s.vlan, s.name), s.name, s.arrivals); !slices.Equal(got, row.arrivals) {
				t.Errorf("arrives at %v, want %v", got, row.arrivals)
			}
			if n := b.hits(row.layer, "Block it"); n != uint64(len(row.at)) {
				t.Errorf("blocked %d times, want %d", n, len(row.at))
			}
			var at []string
			for _, e := range b.events() {
				if e.FilterName != "Block it" || e.Layer != row.layer {
					continue
				}
				at = append(at, e.Interface)
				direction := map[string]string{in: "in", out: "out"}[row.layer]
				if e.Src != s.mac.String() || e.Dst != s.to.String() || e.Direction != direction || e.Action != "block" {
					t.Errorf("event %+v", e)
				}
			}
			slices.Sort(at)
			if !slices.Equal(at, row.at) {
				t.Errorf("blocked at %q, want %q", at, row.at)
			}
		})
	}
}

// guestFamilies are the two families as the guests have them: host is the first guest, peer
// the second.
func guestFamilies() []family {
	return []family{
		{name: "v4", layer: "V4", tcp: "tcp4", udp: "udp4", host: "10.78.0.1", peer: "10.78.0.2", any: "0.0.0.0"},
		{name: "v6", layer: "V6", tcp: "tcp6", udp: "udp6", host: "[fd78::1]", peer: "[fd78::2]", any: "[::]"},
	}
}

func TestVSwitchTransport(t *testing.T) {
	b := newSwitchBed(t)
	b.listen(b.guests[1].p, 8080, 8081)
	const in, out = "INGRESS_VSWITCH_TRANSPORT_", "EGRESS_VSWITCH_TRANSPORT_"
	toPeer := func(c call) call {
		c.from, c.to = nil, func(f family) string { return f.peer }
		return c
	}
	tcp8080, udp8080, udp8081 := toPeer(tcp(8080)), toPeer(udp(8080)), toPeer(udp(8081))
	for _, f := range guestFamilies() {
		of := func(key, host string) string { return fmt.Sprintf("{%s: %q}", key, bare(host)) }
		echo, reply := uint8(echoV4), uint8(echoReplyV4)
		if f.layer == "V6" {
			echo, reply = echoV6, echoReplyV6
		}
		for _, row := range []struct {
			layer, conditions string
			at                string // port
			blocked, passed   []call
			ping              outcome
		}{
			{in, "{IP_PROTOCOL: udp}", "q0", []call{udp8080, udp8081}, []call{tcp8080}, passes},
			{in, "{IP_DESTINATION_PORT: 8080}", "q0", []call{udp8080, tcp8080}, []call{udp8081}, passes},
			{in, "{IP_SOURCE_PORT: 8080}, " + of("IP_DESTINATION_ADDRESS", f.host), "q1", []call{udp8080, tcp8080}, []call{udp8081}, passes},
			{in, of("IP_SOURCE_ADDRESS", f.host) + ", {IP_PROTOCOL: udp}", "q0", []call{udp8080}, []call{tcp8080}, passes},
			{in, of("IP_SOURCE_ADDRESS", f.peer) + ", {IP_DESTINATION_PORT: 8080}", "", nil, []call{udp8080, tcp8080}, passes},
			{in, "{VLAN_ID: EMPTY}, {IP_PROTOCOL: udp}", "q0", []call{udp8080}, []call{tcp8080}, passes},
			{in, "{VSWITCH_ID: br0}, {VSWITCH_SOURCE_INTERFACE_ID: q0}, {IP_PROTOCOL: udp}", "q0", []call{udp8080}, []call{tcp8080}, passes},
			{in, "{VSWITCH_SOURCE_INTERFACE_ID: q2}", "", nil, []call{udp8080, tcp8080}, passes},
			{in, "{VSWITCH_SOURCE_INTERFACE_TYPE: synthetic}, {VSWITCH_NETWORK_TYPE: internal}, {IP_PROTOCOL: udp}", "q0", []call{udp8080}, []call{tcp8080}, passes},
			{in, fmt.Sprintf("{VSWITCH_ICMP_TYPE: %d}, {VSWITCH_ICMP_CODE: 0}", echo), "q0", nil, []call{udp8080, tcp8080}, dropped},
			{out, "{IP_PROTOCOL: udp}", "q1", []call{udp8080, udp8081}, []call{tcp8080}, passes},
			{out, of("IP_DESTINATION_ADDRESS", f.peer) + ", {IP_DESTINATION_PORT: 8080}", "q1", []call{udp8080, tcp8080}, []call{udp8081}, passes},
			{out, "{IP_SOURCE_PORT: 8080}", "q0", []call{udp8080, tcp8080}, []call{udp8081}, passes},
			{out, "{VSWITCH_DESTINATION_INTERFACE_ID: q1}, {VSWITCH_SOURCE_INTERFACE_ID: q0}, {IP_PROTOCOL: udp}", "q1", []call{udp8080}, []call{tcp8080}, passes},
			{out, "{VSWITCH_DESTINATION_INTERFACE_ID: q2}", "", nil, []call{udp8080, tcp8080}, passes},
			{out, "{L2_FLAGS: [IS_VM2VM]}, {IP_PROTOCOL: udp}", "q1", []call{udp8080}, []call{tcp8080}, passes},
			{out, fmt.Sprintf("{VSWITCH_ICMP_TYPE: %d}", reply), "q0", nil, []call{udp8080}, dropped},
		} {
			layer := row.layer + f.layer
			t.Run(layer+" "+row.conditions, func(t *testing.T) {
				b.apply(blocks(layer, row.conditions))
				p := b.guests[0].p
				each(t, p, f, row.passed, passes)
				b.wantHits(layer, "Permit the rest")
				b.events()
				each(t, p, f, row.blocked, dropped)
				row.ping.want(t, icmp(p, f, f.peer, echo, 0, reply, row.ping.limit))
				if row.at == "" {
					if n := b.hits(layer, "Block it"); n != 0 {
						t.Errorf("blocked %d packets, want none", n)
					}
					return
				}
				if e := b.wantBlock(layer, "Block it"); e.Interface != row.at {
					t.Errorf("event %+v, want it at %s", e, row.at)
				}
			})
		}
		// the twin of the other family sees none of it
		t.Run("the other family "+f.name, func(t *testing.T) {
			other := map[string]string{"V4": "V6", "V6": "V4"}[f.layer]
			b.apply("filters:\n" + rule("BLOCK", "Block all", fmt.Sprintf("[%s%s, %s%s]", in, other, out, other), 0))
			each(t, b.guests[0].p, f, []call{udp8080, tcp8080}, passes)
		})
		t.Run("event "+f.name, func(t *testing.T) {
			layer := in + f.layer
			b.apply(blocks(layer, "{IP_DESTINATION_PORT: 8080}"))
			b.events()
			c := udp8080.fromPort(9000)
			c.from = func(f family) string { return f.host }
			c.want(t, b.guests[0].p, f, dropped)
			e := b.wantBlock(layer, "Block it")
			want := loader.Event{
				Time: e.Time, Layer: layer, Action: "block", FilterID: e.FilterID, FilterName: "Block it", SubLayer: "UNIVERSAL",
				Direction: "in", Protocol: 17, Src: at(f.host, 9000), Dst: at(f.peer, 8080), Interface: "q0",
			}
			if e != want {
				t.Errorf("event %+v,\nwant  %+v", e, want)
			}
		})
	}
}

// An IP packet is one behind a VLAN tag, too, whether the tag is in the bytes or not.
func TestVSwitchTransportTagged(t *testing.T) {
	b := newSwitchBed(t)
	end := b.guests[1].end
	taps := map[string]*tap{"V4": newTap(t, end, uint16(layers.EthernetTypeIPv4)), "V6": newTap(t, end, uint16(layers.EthernetTypeIPv6))}
	datagram := func(family string, from, to net.HardwareAddr, port layers.UDPPort, text string) []byte {
		tag := &layers.Dot1Q{VLANIdentifier: 5, Type: layers.EthernetTypeIPv4}
		udp := &layers.UDP{SrcPort: 9000, DstPort: port}
		v4 := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: net.IPv4(10, 78, 5, 1), DstIP: net.IPv4(10, 78, 5, 2)}
		v6 := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolUDP, SrcIP: net.ParseIP("fd78:5::1"), DstIP: net.ParseIP("fd78:5::2")}
		eth := &layers.Ethernet{SrcMAC: from, DstMAC: to, EthernetType: layers.EthernetTypeDot1Q}
		var ip interface {
			gopacket.SerializableLayer
			gopacket.NetworkLayer
		} = v4
		if family == "V6" {
			ip, tag.Type = v6, layers.EthernetTypeIPv6
		}
		if err := udp.SetNetworkLayerForChecksum(ip); err != nil {
			t.Fatal(err)
		}
		return serialize(t, eth, tag, ip, udp, gopacket.Payload(text))
	}
	for _, family := range []string{"V4", "V6"} {
		for _, row := range []struct {
			layer string
			from  *tap
			mac   net.HardwareAddr
		}{
			{"INGRESS_VSWITCH_TRANSPORT_", b.guests[0].tap, b.guests[0].end.MAC},
			{"EGRESS_VSWITCH_TRANSPORT_", b.guests[0].tap, b.guests[0].end.MAC},
			{"EGRESS_VSWITCH_TRANSPORT_", b.tap, mac("02:78:00:00:00:64")}, // the host's
		} {
			layer := row.layer + family
			t.Run(fmt.Sprint(layer, " from ", row.mac), func(t *testing.T) {
				b.apply(blocks(layer, "{VLAN_ID: 5}, {IP_DESTINATION_PORT: 8080}"))
				b.send(row.from, datagram(family, row.mac, end.MAC, 8080, "blocked"))
				dropped.want(t, taps[family].receive("blocked", dropped.limit))
				e := b.wantBlock(layer, "Block it")
				if !strings.HasSuffix(e.Dst, ":8080") {
					t.Errorf("event %+v", e)
				}
				b.send(row.from, datagram(family, row.mac, end.MAC, 8081, "passed"))
				passes.want(t, taps[family].receive("passed", passes.limit))
				b.wantHits(layer, "Permit the rest")
			})
		}
	}
}

// Hooks are at the ports alone, and other links of the host see nothing of the layers.
func TestVSwitchOtherLinks(t *testing.T) {
	b := newSwitchBed(t)
	outside := testbed.NewNetns(t, "outside")
	testbed.Veth(t, b.host, outside, "h0", "p0")
	p, peer := b.on(b.host, testbed.ProcOptions{}), b.on(outside, testbed.ProcOptions{})
	b.listen(peer, 8080)
	b.listen(b.guests[1].p, 8080)
	b.apply("filters:\n" + rule("BLOCK", "Block all", "[INGRESS_VSWITCH_ETHERNET, EGRESS_VSWITCH_ETHERNET, INGRESS_VSWITCH_TRANSPORT_V4, EGRESS_VSWITCH_TRANSPORT_V6]", 0))
	want := []string{
		"vswitch_egress@q0", "vswitch_egress@q1", "vswitch_egress@q2",
		"vswitch_ingress@q0", "vswitch_ingress@q1", "vswitch_ingress@q2",
	}
	if got := b.sortedHooks(); !slices.Equal(got, want) {
		t.Errorf("hooks %q, want %q", got, want)
	}
	passes.want(t, p.UDPExchange("udp4", "10.77.0.2:8080", "hello"))
	passes.want(t, p.UDPExchange("udp6", "[fd77::2]:8080", "hello"))
	dropped.want(t, b.guests[0].p.UDPExchange("udp4", "10.78.0.2:8080", "hello", testbed.Options{Timeout: soon}))
	// a side without filters has no hook
	b.apply("filters:\n" + rule("BLOCK", "Block all", "INGRESS_VSWITCH_ETHERNET", 0, "{VSWITCH_SOURCE_INTERFACE_ID: q2}"))
	if got := b.sortedHooks(); !slices.Equal(got, want[3:]) {
		t.Errorf("hooks %q, want %q", got, want[3:])
	}
	// what waited for a neighbour while all was blocked would be given up
	for i := range b.guests {
		forgetNeighbours(t, b.guests[i].ns)
	}
	passes.want(t, b.guests[0].p.UDPExchange("udp4", "10.78.0.2:8080", "hello"))
}

func (b *switchBed) sortedHooks() []string {
	list := b.hooks()
	slices.Sort(list)
	return list
}

// Which links are ports is followed by watch, and by the next commit.
func TestVSwitchPorts(t *testing.T) {
	b := newSwitchBed(t)
	yaml := blocks("INGRESS_VSWITCH_ETHERNET", fmt.Sprintf("{ETHER_TYPE: %d}, {VSWITCH_ID: br0}", experiment))
	all := []string{"vswitch_ingress@q0", "vswitch_ingress@q1", "vswitch_ingress@q2"}
	text := frame(t, mac("ff:ff:ff:ff:ff:ff"), b.guests[2].end.MAC, 0, "of a port")
	wantBlocked := func(t *testing.T) {
		t.Helper()
		before := b.hits("INGRESS_VSWITCH_ETHERNET", "Block it")
		if got := b.reached(t, 2, text, "of a port", []int{0, 1}); got != nil {
			t.Errorf("arrives at %v, want none", got)
		}
		if n := b.hits("INGRESS_VSWITCH_ETHERNET", "Block it") - before; n != 1 {
			t.Errorf("blocked %d times, want once", n)
		}
	}
	wantHooks := func(t *testing.T, want []string) {
		t.Helper()
		if got := b.sortedHooks(); !slices.Equal(got, want) {
			t.Errorf("hooks %q, want %q", got, want)
		}
	}
	b.leave("q2")
	b.apply(yaml)
	wantHooks(t, all[:2])
	b.join("q2")
	b.apply(yaml)
	wantHooks(t, all)
	wantBlocked(t)

	b.watch()
	for range 2 {
		b.leave("q2")
		b.await(func() bool { return slices.Equal(b.sortedHooks(), all[:2]) })
		b.join("q2")
		b.await(func() bool { return slices.Equal(b.sortedHooks(), all) })
		wantBlocked(t)
	}
	// a new bridge is another switch
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "br1"
	if err := b.host.Netlink().LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		t.Fatal(err)
	}
	br1 := b.link("br1")
	if err := errors.Join(b.host.Netlink().LinkSetUp(br1), b.host.Netlink().LinkSetMaster(b.link("q2"), br1)); err != nil {
		t.Fatal(err)
	}
	b.await(func() bool {
		before := b.hits("INGRESS_VSWITCH_ETHERNET", "Permit the rest")
		b.send(b.guests[2].tap, text)
		return b.hits("INGRESS_VSWITCH_ETHERNET", "Permit the rest") > before
	})
}

// A port that leads out of the host makes the switch an external one.
func TestVSwitchExternal(t *testing.T) {
	b := newSwitchBed(t)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "d0"
	err := b.host.Netlink().LinkAdd(&netlink.Dummy{LinkAttrs: attrs})
	if errors.Is(err, unix.EOPNOTSUPP) { // not every kernel has those
		err = b.host.Netlink().LinkAdd(&netlink.Vxlan{LinkAttrs: attrs, VxlanId: 5, Port: 4789})
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := b.host.Netlink().LinkSetUp(b.link("d0")); err != nil {
		t.Fatal(err)
	}
	b.join("d0")
	b.apply("filters:\n" +
		rule("PERMIT", "Permit to a wire", "EGRESS_VSWITCH_ETHERNET", 8, fmt.Sprintf("{ETHER_TYPE: %d}, {VSWITCH_DESTINATION_INTERFACE_TYPE: external}", experiment)) +
		rule("BLOCK", "Block the rest", "EGRESS_VSWITCH_ETHERNET", 4, fmt.Sprintf("{ETHER_TYPE: %d}, {VSWITCH_NETWORK_TYPE: external}", experiment)))
	bytes := frame(t, mac("ff:ff:ff:ff:ff:ff"), b.guests[0].end.MAC, 0, "to all")
	if got := b.reached(t, 0, bytes, "to all", []int{1, 2}); got != nil {
		t.Errorf("arrives at %v, want none", got)
	}
	if n := b.hits("EGRESS_VSWITCH_ETHERNET", "Permit to a wire"); n != 1 {
		t.Errorf("permitted %d times, want once", n)
	}
	if n := b.hits("EGRESS_VSWITCH_ETHERNET", "Block the rest"); n != 2 {
		t.Errorf("blocked %d times, want twice", n)
	}
}

// What Linux cannot know of a virtual switch is refused, and what no bridge has matches
// nothing; both are said.
func TestVSwitchRefused(t *testing.T) {
	for _, row := range []struct {
		layer, condition string
		state            policy.State
		reason           string
	}{
		{"INGRESS_VSWITCH_ETHERNET", "{VSWITCH_SOURCE_VM_ID: x}", policy.StateRefused, "whose guest"},
		{"EGRESS_VSWITCH_TRANSPORT_V4", "{VSWITCH_DESTINATION_VM_ID: x}", policy.StateRefused, "whose guest"},
		{"EGRESS_VSWITCH_TRANSPORT_V6", "{VSWITCH_TENANT_NETWORK_ID: 5}", policy.StateRefused, "no tenant networks"},
		{"INGRESS_VSWITCH_ETHERNET", "{L2_FLAGS: [IS_VM2VM]}", policy.StateRefused, "before the bridge has chosen"},
		{"EGRESS_VSWITCH_ETHERNET", "{L2_FLAGS: [IS_MALFORMED_PACKET]}", policy.StateUnmatchable, "L2_FLAGS"},
		{"INGRESS_VSWITCH_ETHERNET", "{VSWITCH_NETWORK_TYPE: private}", policy.StateUnmatchable, "VSWITCH_NETWORK_TYPE"},
		{"INGRESS_VSWITCH_ETHERNET", "{VSWITCH_SOURCE_INTERFACE_TYPE: emulated}", policy.StateUnmatchable, "VSWITCH_SOURCE_INTERFACE_TYPE"},
		{"INGRESS_VSWITCH_TRANSPORT_V4", "{VSWITCH_ID: 7d98577a-9a87-41ec-9718-7cf589c9f32d}", policy.StateUnmatchable, "no link is mapped"},
		{"INGRESS_VSWITCH_TRANSPORT_V4", "{VSWITCH_ID: 86c872b0-76fa-4b79-93a4-0750530ae292}", policy.StateEnforced, ""},
	} {
		t.Run(row.layer+" "+row.condition, func(t *testing.T) {
			m, err := policy.LoadMapReader("map.yaml", strings.NewReader("links: {86c872b0-76fa-4b79-93a4-0750530ae292: br0}\n"))
			if err != nil {
				t.Fatal(err)
			}
			p, err := policy.LoadReader("policy.yaml", strings.NewReader("wfpebpf: 1\n"+blocks(row.layer, row.condition)), policy.Options{Map: m})
			if err != nil {
				t.Fatal(err)
			}
			i := slices.IndexFunc(p.Entries, func(e policy.Entry) bool { return e.Filter.Name == "Block it" })
			if e := p.Entries[i]; e.State != row.state || !strings.Contains(e.Reason, row.reason) {
				t.Errorf("%s, %q; want %s, %q", e.State, e.Reason, row.state, row.reason)
			}
		})
	}
}
