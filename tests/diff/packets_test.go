// SPDX-License-Identifier: Apache-2.0

package diff

import (
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/wfpebpf/wfpebpf/bpf"
	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
	"github.com/wfpebpf/wfpebpf/loader"
	"github.com/wfpebpf/wfpebpf/policy"
	"github.com/wfpebpf/wfpebpf/tests/random"
	"github.com/wfpebpf/wfpebpf/tests/testbed"
)

// hook is a hook program that BPF_PROG_TEST_RUN gives packets.
type hook struct {
	layer    layermap.LayerID
	pin      string // of its link, less the target
	outbound bool
	dropped  uint32 // what it returns for a block
	netlayer uint8  // NF_INET_*; 0: tc
}

// seesFragments reports whether fragments are judged one by one, and nothing behind
// the IP headers is.
func (h hook) seesFragments() bool { return h.netlayer == 0 || h.netlayer == nfForward }

// comesByNoLink reports whether test runs give packets no link to come in by.
func (h hook) comesByNoLink() bool { return h.netlayer == nfLocalIn || h.netlayer == nfForward }

var packetHooks = []hook{
	{layermap.InboundIPPacketV4, "tc_ingress", false, 2, 0},
	{layermap.InboundIPPacketV6, "tc_ingress", false, 2, 0},
	{layermap.OutboundIPPacketV4, "tc_egress", true, 2, 0},
	{layermap.OutboundIPPacketV6, "tc_egress", true, 2, 0},
	{layermap.IPForwardV4, "forward4", false, 0, nfForward},
	{layermap.IPForwardV6, "forward6", false, 0, nfForward},
	{layermap.InboundTransportV4, "local_in4", false, 0, nfLocalIn},
	{layermap.InboundTransportV6, "local_in6", false, 0, nfLocalIn},
	{layermap.OutboundTransportV4, "local_out4", true, 0, nfLocalOut},
	{layermap.OutboundTransportV6, "local_out6", true, 0, nfLocalOut},
}

// streamHooks judge TCP at STREAM_PACKET, where the transport layers have no filters.
var streamHooks = []hook{
	{layermap.StreamPacketV4, "local_in4", false, 0, nfLocalIn},
	{layermap.StreamPacketV6, "local_in6", false, 0, nfLocalIn},
	{layermap.StreamPacketV4, "local_out4", true, 0, nfLocalOut},
	{layermap.StreamPacketV6, "local_out6", true, 0, nfLocalOut},
}

func (h hook) stream() bool {
	return h.layer == layermap.StreamPacketV4 || h.layer == layermap.StreamPacketV6
}

const (
	nfLocalIn  = 1
	nfForward  = 2
	nfLocalOut = 3
)

// packet is what a test has a hook judge. Of one that is forwarded remote is the source
// and local the destination.
type packet struct {
	local, remote netip.Addr
	protocol      uint8
	port          [2]uint16 // local, remote; ICMP: type, code
	fragment      bool
	link          string
}

var portProtocols = []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_DCCP, unix.IPPROTO_SCTP, unix.IPPROTO_UDPLITE}

func (p packet) icmp() bool {
	return p.protocol == unix.IPPROTO_ICMP && p.local.Is4() || p.protocol == unix.IPPROTO_ICMPV6 && p.local.Is6()
}

// bytes is the packet as it comes to the hook.
func (p packet) bytes(t *testing.T, h hook) []byte {
	t.Helper()
	src, dst := p.remote, p.local
	port := [2]uint16{p.port[1], p.port[0]}
	if h.outbound {
		src, dst, port = dst, src, p.port
	}
	payload := make([]byte, 24)
	if p.icmp() {
		payload[0], payload[1] = byte(p.port[0]), byte(p.port[1])
	} else {
		binary.BigEndian.PutUint16(payload, port[0])
		binary.BigEndian.PutUint16(payload[2:], port[1])
	}
	var list []gopacket.SerializableLayer
	if h.netlayer != nfLocalOut { // there packets start at the IP header
		kind := layers.EthernetTypeIPv4
		if src.Is6() {
			kind = layers.EthernetTypeIPv6
		}
		list = append(list, &layers.Ethernet{SrcMAC: make([]byte, 6), DstMAC: make([]byte, 6), EthernetType: kind})
	}
	if src.Is4() {
		ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocol(p.protocol), SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}
		if p.fragment {
			ip.Flags = layers.IPv4MoreFragments
		}
		list = append(list, ip)
	} else {
		ip := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocol(p.protocol), SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}
		if p.fragment {
			ip.NextHeader = layers.IPProtocolIPv6Fragment
			payload = append([]byte{p.protocol, 0, 0, 1, 0, 0, 0, 0}, payload...)
		}
		list = append(list, ip)
	}
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, append(list, gopacket.Payload(payload))...); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

const (
	flagLoopback         = 0x1
	flagFragment         = 0x20
	flagOutboundPassThru = 0x40000
	flagInboundPassThru  = 0x80000
)

// NL_ADDRESS_TYPE, in a namespace whose only routes are those of lo.
func addressType(a netip.Addr) uint8 {
	switch {
	case a.IsUnspecified():
		return 0
	case a.IsMulticast():
		return 3
	case a == netip.AddrFrom4([4]byte{255, 255, 255, 255}), a == netip.AddrFrom4([4]byte{127, 255, 255, 255}):
		return 4
	}
	return 1
}

// ofHost reports whether an address is local in such a namespace.
func ofHost(a netip.Addr) bool { return a.IsLoopback() && addressType(a) == 1 }

// values is the packet as the layer's fields.
func (p packet) values(h hook, host map[string]loader.HostLink) filter.Values {
	l := layermap.ByID(h.layer)
	vs := make(filter.Values, len(l.Fields))
	set := func(field string, v filter.Value) {
		if i := l.FieldIndex(field); i >= 0 {
			vs[i] = v
		}
	}
	for i, f := range l.Fields {
		if src := l.Source(f.Key); src.Kind == layermap.Constant {
			vs[i] = filter.Value{Type: f.DataType, Num: src.Value}
		}
	}
	address := func(a netip.Addr) filter.Value {
		if a.Is4() {
			return filter.Addr4(a)
		}
		return filter.Addr16(a)
	}
	set("IP_LOCAL_ADDRESS", address(p.local))
	set("IP_REMOTE_ADDRESS", address(p.remote))
	set("IP_SOURCE_ADDRESS", address(p.remote))
	set("IP_DESTINATION_ADDRESS", address(p.local))
	set("IP_LOCAL_ADDRESS_TYPE", filter.U8(addressType(p.local)))
	set("IP_DESTINATION_ADDRESS_TYPE", filter.U8(addressType(p.remote)))
	if h.netlayer == nfForward {
		set("IP_DESTINATION_ADDRESS_TYPE", filter.U8(addressType(p.local)))
	}
	set("IP_PROTOCOL", filter.U8(p.protocol))
	set("DIRECTION", filter.U32(map[bool]uint32{true: 0, false: 1}[h.outbound]))
	if p.icmp() || slices.Contains(portProtocols, p.protocol) {
		set("IP_LOCAL_PORT", filter.U16(p.port[0]))
		set("IP_REMOTE_PORT", filter.U16(p.port[1]))
	}
	on, known := host[p.link]
	if known || on.Index != 0 || h.stream() {
		set("INTERFACE_INDEX", filter.U32(on.Index))
	}
	set("SOURCE_INTERFACE_INDEX", filter.U32(on.Index))
	if h.netlayer == nfForward {
		var none *policy.Map
		set("DESTINATION_INTERFACE_INDEX", filter.U32(host["lo"].Index))
		set("IP_FORWARD_INTERFACE", filter.U64(none.LUID("lo")))
		set("NEXTHOP_INTERFACE_PROFILE_ID", filter.U32(policy.ProfilePublic))
	}
	if known {
		var none *policy.Map
		set("ARRIVAL_INTERFACE_PROFILE_ID", filter.U32(policy.ProfilePublic))
		set("IP_LOCAL_INTERFACE", filter.U64(none.LUID(on.Name)))
		set("INTERFACE_TYPE", filter.U32(on.Type))
		set("CURRENT_PROFILE_ID", filter.U32(policy.ProfilePublic))
	}
	flags := uint32(0)
	if on.Name == "lo" && h.netlayer != nfForward {
		flags |= flagLoopback
	}
	if p.fragment && !h.outbound && h.seesFragments() {
		flags |= flagFragment
	}
	if h.netlayer == nfForward {
		if ofHost(p.remote) {
			flags |= flagOutboundPassThru
		}
		if ofHost(p.local) {
			flags |= flagInboundPassThru
		}
	}
	set("FLAGS", filter.U32(flags))
	return vs
}

// hookRunner runs the hooks of an engine.
type hookRunner struct {
	ns       *testbed.Netns
	programs map[string]*ebpf.Program // by pin
	host     map[string]loader.HostLink
}

func newHookRunner(t *testing.T, e *loader.Engine, ns *testbed.Netns) *hookRunner {
	t.Helper()
	r := &hookRunner{ns: ns, programs: map[string]*ebpf.Program{}, host: map[string]loader.HostLink{}}
	rows, err := e.Hooks()
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range rows {
		if r.programs[row.Hook] != nil {
			continue
		}
		l, err := link.LoadPinnedLink(row.Link, nil)
		if err != nil {
			t.Fatal(err)
		}
		info, err := l.Info()
		l.Close()
		if err != nil {
			t.Fatal(err)
		}
		if r.programs[row.Hook], err = ebpf.NewProgramFromID(info.Program); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { r.programs[row.Hook].Close() })
	}
	list, err := loader.HostLinks(ns.Name)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range list {
		r.host[l.Name] = l
	}
	return r
}

// noLink is the link by which packets come to LOCAL_IN and FORWARD: test runs give
// them none, and its index is 0. What is forwarded goes on by lo.
const noLink = ""

// know puts a link with index 0 into the tables in force. Where there is none, no
// verdict that a filter on interfaces has a part in is kept.
func (r *hookRunner) know(t *testing.T, e *loader.Engine) {
	t.Helper()
	generation, err := e.Generation()
	if err != nil {
		t.Fatal(err)
	}
	var m *ebpf.Map
	if err := e.Maps()[bpf.WFPMapLinks].Lookup(uint32(generation&1), &m); err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	var none *policy.Map
	fact := bpf.Link{Luid: none.LUID(noLink), Type: 6, Profile: policy.ProfilePublic}
	if err := m.Put(uint32(0), fact); err != nil {
		t.Fatal(err)
	}
	r.host[noLink] = loader.HostLink{Type: fact.Type}
}

// sk is struct __sk_buff as far as a test sets it.
type sk struct {
	_       [40]byte
	Ifindex uint32
	_       [148]byte
}

// nfState is struct nf_hook_state as far as a test sets it.
type nfState struct {
	Hook, PF uint8
	_        [46]byte
}

// run has the hook judge a packet and returns what it said.
func (r *hookRunner) run(t *testing.T, h hook, p packet) uint32 {
	t.Helper()
	o := &ebpf.RunOptions{Data: p.bytes(t, h)}
	if h.netlayer == 0 {
		o.Context = &sk{Ifindex: r.host[p.link].Index}
	} else {
		s := &nfState{Hook: h.netlayer, PF: unix.NFPROTO_IPV4}
		if p.local.Is6() {
			s.PF = unix.NFPROTO_IPV6
		}
		o.Context = s
	}
	var ret uint32
	err := r.ns.Do(func() (err error) {
		ret, err = r.programs[h.pin].Run(o)
		return err
	})
	if err != nil {
		t.Fatalf("%s: %v", h.pin, err)
	}
	return ret
}

// addLink makes a link h0, which is down: nothing is sent but what a test sends.
func (d *differ) addLink() {
	d.t.Helper()
	end, _ := testbed.Veth(d.t, d.ns, testbed.NewNetns(d.t, "other"), "h0", "p0", testbed.VethOptions{})
	if err := d.ns.Netlink().LinkSetDown(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: end.Index}}); err != nil {
		d.t.Fatal(err)
	}
}

// TestDiffPacketsApart has two packets that differ in one thing alone judged by
// turns, by a policy that blocks one of them for it: neither gets the verdict that
// was kept on the other. The link of a packet at a transport layer and the raw
// endpoint, which test runs do not have, are in package live.
func TestDiffPacketsApart(t *testing.T) {
	testbed.RequireRoot(t)
	d := newDiffer(t)
	d.addLink()
	v4 := packet{local: netip.MustParseAddr("192.0.2.1"), remote: netip.MustParseAddr("198.51.100.7"), protocol: unix.IPPROTO_UDP, port: [2]uint16{8080, 5000}}
	v6 := v4
	v6.local, v6.remote = netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8:7::7")
	echo4, echo6 := v4, v6
	echo4.protocol, echo4.port = unix.IPPROTO_ICMP, [2]uint16{8, 0}
	echo6.protocol, echo6.port = unix.IPPROTO_ICMPV6, [2]uint16{128, 0}
	address := func(text string) func(*netip.Addr) { return func(a *netip.Addr) { *a = netip.MustParseAddr(text) } }
	rows := []struct {
		name      string
		of        []packet
		change    func(p *packet)
		transport bool // the network layer does not see it
		packets   bool // the transport layers do not see it, or not in test runs
	}{
		{"local address", []packet{v4}, func(p *packet) { address("192.0.2.2")(&p.local) }, false, false},
		{"type of the local address", []packet{v4}, func(p *packet) { address("224.0.0.1")(&p.local) }, false, false},
		{"remote address", []packet{v4}, func(p *packet) { address("198.51.100.8")(&p.remote) }, false, false},
		{"type of the remote address", []packet{v4}, func(p *packet) { address("224.0.0.1")(&p.remote) }, false, false},
		{"upper half of the local address", []packet{v6}, func(p *packet) { address("2001:db9::1")(&p.local) }, false, false},
		{"lower half of the local address", []packet{v6}, func(p *packet) { address("2001:db8::2")(&p.local) }, false, false},
		{"type of the local address", []packet{v6}, func(p *packet) { address("ff02::1")(&p.local) }, false, false},
		{"upper half of the remote address", []packet{v6}, func(p *packet) { address("2001:db8:8::7")(&p.remote) }, false, false},
		{"lower half of the remote address", []packet{v6}, func(p *packet) { address("2001:db8:7::8")(&p.remote) }, false, false},
		{"type of the remote address", []packet{v6}, func(p *packet) { address("ff02::1")(&p.remote) }, false, false},
		{"local address of the host", []packet{v4}, func(p *packet) { address("127.0.0.1")(&p.local) }, false, false},
		{"local address of the host", []packet{v6}, func(p *packet) { address("::1")(&p.local) }, false, false},
		{"remote address of the host", []packet{v4}, func(p *packet) { address("127.0.0.1")(&p.remote) }, false, false},
		{"remote address of the host", []packet{v6}, func(p *packet) { address("::1")(&p.remote) }, false, false},
		{"local port", []packet{v4, v6}, func(p *packet) { p.port[0]++ }, true, false},
		{"remote port", []packet{v4, v6}, func(p *packet) { p.port[1]++ }, true, false},
		{"ICMP type", []packet{echo4, echo6}, func(p *packet) { p.port[0]++ }, true, false},
		{"ICMP code", []packet{echo4, echo6}, func(p *packet) { p.port[1]++ }, true, false},
		{"protocol", []packet{v4, v6}, func(p *packet) { p.protocol = unix.IPPROTO_UDPLITE }, true, false},
		{"protocol without ports", []packet{v4, v6}, func(p *packet) { p.protocol = 8 }, true, false},
		{"link", []packet{v4, v6}, func(p *packet) { p.link = "h0" }, false, true},
		{"fragment", []packet{v4, v6}, func(p *packet) { p.fragment = true }, false, true},
	}
	covered := map[layermap.LayerID]map[string]bool{}
	for _, row := range rows {
		for _, one := range row.of {
			for _, h := range slices.Concat(packetHooks, streamHooks) {
				l := layermap.ByID(h.layer)
				one := one
				if h.stream() {
					if one.icmp() || strings.HasPrefix(row.name, "protocol") {
						continue
					}
					one.protocol = unix.IPPROTO_TCP
				}
				if row.transport && h.seesFragments() || row.packets && !h.seesFragments() || row.name == "link" && h.netlayer != 0 || (l.Family == layermap.V6) != one.local.Is6() {
					continue
				}
				if row.name == "fragment" && h.outbound {
					continue // fragments go out by what the network layer makes of a whole packet
				}
				one.link = "lo"
				if h.comesByNoLink() {
					one.link = noLink
				}
				other := one
				row.change(&other)
				t.Run(fmt.Sprintf("%s at %s", row.name, l.Name), func(t *testing.T) {
					for _, field := range d.apart(t, h, one, other) {
						if covered[h.layer] == nil {
							covered[h.layer] = map[string]bool{}
						}
						covered[h.layer][field] = true
					}
				})
			}
		}
	}
	for _, h := range streamHooks {
		if h.outbound {
			continue // it is the other's layer
		}
		t.Run("direction at "+layermap.ByID(h.layer).Name, func(t *testing.T) {
			d.directionsApart(t, h, map[bool]packet{false: v4, true: v6}[h.layer == layermap.StreamPacketV6])
			covered[h.layer]["DIRECTION"] = true
		})
	}
	for _, h := range slices.Concat(packetHooks, streamHooks) {
		l := layermap.ByID(h.layer)
		for _, f := range l.Fields {
			onlyLive := h.netlayer != 0 && slices.Contains([]string{
				"IP_LOCAL_INTERFACE", "INTERFACE_INDEX", "INTERFACE_TYPE", "CURRENT_PROFILE_ID",
				"IP_FORWARD_INTERFACE", "SOURCE_INTERFACE_INDEX", "DESTINATION_INTERFACE_INDEX",
				"ARRIVAL_INTERFACE_PROFILE_ID", "NEXTHOP_INTERFACE_PROFILE_ID",
			}, f.Key) || f.Key == "FLAGS" && h.netlayer != 0 && h.netlayer != nfForward
			if l.Source(f.Key).Kind == layermap.Filled && !covered[h.layer][f.Key] && !onlyLive {
				t.Errorf("no two packets at %s differ in %s", l.Name, f.Key)
			}
		}
	}
}

// apart has two packets judged by turns, once for each field in which they
// differ, and returns these fields.
func (d *differ) apart(t *testing.T, h hook, one, other packet) (fields []string) {
	t.Helper()
	host := map[string]loader.HostLink{noLink: {}}
	list, err := loader.HostLinks(d.ns.Name)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range list {
		host[l.Name] = l
	}
	l := layermap.ByID(h.layer)
	a, b := one.values(h, host), other.values(h, host)
	for i, f := range l.Fields {
		if a[i].Equal(b[i]) || b[i].IsEmpty() {
			continue
		}
		fields = append(fields, f.Key)
		d.blockOnly(t, h.layer, filter.Condition{Field: f.Key, Match: filter.MatchEqual, Value: b[i]})
		run := newHookRunner(t, d.engine, d.ns)
		if h.comesByNoLink() {
			run.know(t, d.engine)
		}
		for turn := range 3 {
			if run.run(t, h, one) == h.dropped {
				t.Errorf("turn %d: %+v is blocked for %s of the other", turn, one, f.Key)
			}
			if run.run(t, h, other) != h.dropped {
				t.Errorf("turn %d: %+v is not blocked for its %s", turn, other, f.Key)
			}
		}
	}
	if len(fields) == 0 {
		t.Errorf("%+v and %+v are one to the layer", one, other)
	}
	return fields
}

// directionsApart has one packet come in and go out by turns, where one of both is blocked.
func (d *differ) directionsApart(t *testing.T, in hook, p packet) {
	t.Helper()
	p.protocol, p.link = unix.IPPROTO_TCP, noLink
	out := streamHooks[slices.IndexFunc(streamHooks, func(h hook) bool { return h.outbound && h.layer == in.layer })]
	for _, blocked := range []hook{in, out} {
		direction := p.values(blocked, nil)[layermap.ByID(in.layer).FieldIndex("DIRECTION")]
		d.blockOnly(t, in.layer, filter.Condition{Field: "DIRECTION", Match: filter.MatchEqual, Value: direction})
		run := newHookRunner(t, d.engine, d.ns)
		run.know(t, d.engine)
		for turn := range 3 {
			for _, h := range []hook{in, out} {
				if got := run.run(t, h, p) == h.dropped; got != (h == blocked) {
					t.Errorf("turn %d: outbound %t is blocked: %t, where outbound %t is to be", turn, h.outbound, got, blocked.outbound)
				}
			}
		}
	}
}

// blockOnly commits a policy that blocks at a layer what meets a condition.
func (d *differ) blockOnly(t *testing.T, layer layermap.LayerID, c filter.Condition) {
	t.Helper()
	s := filter.NewStore()
	for _, f := range []*filter.Filter{
		{Name: "Block it", Action: filter.ActionBlock, Weight: filter.U8(8), Conditions: []filter.Condition{c}},
		{Name: "Permit the rest", Action: filter.ActionPermit, Weight: filter.U8(0)},
	} {
		f.Layer = layer
		if err := s.AddFilter(f); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.engine.Commit(context.Background(), &policy.Policy{Store: s}); err != nil {
		t.Fatal(err)
	}
}

// TestDiffPackets runs packets through the hooks themselves, each several times:
// first it is classified, then its verdict is kept, and both are the evaluator's.
// The hits tell which filter decided. After a commit, the same packets are judged
// by the new policy.
func TestDiffPackets(t *testing.T) {
	testbed.RequireRoot(t)
	d := newDiffer(t)
	d.addLink()
	d.packets(t, packetHooks, 48, 15)
}

// TestDiffStreamPackets does that at STREAM_PACKET, which sits at hooks of others.
func TestDiffStreamPackets(t *testing.T) {
	testbed.RequireRoot(t)
	d := newDiffer(t)
	d.packets(t, streamHooks, 200, 5)
}

// packets takes policies of that many filters a layer, and wants that many at least to
// decide.
func (d *differ) packets(t *testing.T, hooks []hook, filters, deciding int) {
	const rounds, packets, times = 6, 300, 3
	g, r := random.New(7), rand.New(rand.NewPCG(7, 7))
	traffic := map[hook][]packet{}
	for round := range rounds {
		sizes := map[layermap.LayerID]int{}
		for _, h := range hooks {
			sizes[h.layer] = filters + round
		}
		p := g.PolicyOf(5, sizes)
		if err := d.engine.Commit(context.Background(), p); err != nil {
			t.Fatal(err)
		}
		run := newHookRunner(t, d.engine, d.ns)
		if round%2 == 0 {
			run.know(t, d.engine)
		}
		want := map[filter.ID]uint64{}
		for _, h := range hooks {
			// half of the packets are those that the policy before has judged
			list := traffic[h]
			list = slices.Clone(list[len(list)/2:])
			for len(list) < packets {
				list = append(list, randomPacket(g, r, h))
			}
			traffic[h] = list
			plan := p.Store.Plan(h.layer)
			var res filter.Result
			for range times {
				for _, pkt := range list {
					plan.Arbitrate(pkt.values(h, run.host), nil, &res)
					if res.Filter != nil {
						want[res.Filter.ID]++
					}
					if ret := run.run(t, h, pkt); (ret == h.dropped) != res.Blocked() {
						t.Fatalf("round %d, %v: %+v is judged %d, the evaluator blocks it: %t", round, h.layer, pkt, int32(ret), res.Blocked())
					}
				}
			}
		}
		rows, err := d.engine.Filters()
		if err != nil {
			t.Fatal(err)
		}
		got := map[filter.ID]uint64{}
		for _, row := range rows {
			if row.Hits > 0 {
				got[row.ID] = row.Hits
			}
		}
		if !maps.Equal(got, want) {
			t.Errorf("round %d: hits %v,\nwant %v", round, got, want)
		}
		if len(want) < deciding {
			t.Errorf("round %d: only %d filters decide", round, len(want))
		}
	}
}

// randomPacket aims at the filters of the policy.
func randomPacket(g *random.Generator, r *rand.Rand, h hook) packet {
	l := layermap.ByID(h.layer)
	vs := g.Values(l)
	number := func(field string) uint64 {
		if i := l.FieldIndex(field); i >= 0 {
			return vs[i].Num
		}
		return 0
	}
	address := func(fields ...string) netip.Addr {
		at := slices.IndexFunc(fields, func(field string) bool { return l.FieldIndex(field) >= 0 })
		v := vs[l.FieldIndex(fields[at])]
		switch {
		case v.Type == layermap.Uint32:
			var b [4]byte
			binary.BigEndian.PutUint32(b[:], uint32(v.Num))
			return netip.AddrFrom4(b)
		case len(v.Bytes) == 16:
			return netip.AddrFrom16([16]byte(v.Bytes))
		case l.Family == layermap.V6:
			return netip.IPv6Unspecified()
		}
		return netip.IPv4Unspecified()
	}
	p := packet{
		local: address("IP_LOCAL_ADDRESS", "IP_DESTINATION_ADDRESS"), remote: address("IP_REMOTE_ADDRESS", "IP_SOURCE_ADDRESS"), protocol: uint8(number("IP_PROTOCOL")),
		port: [2]uint16{uint16(number("IP_LOCAL_PORT")), uint16(number("IP_REMOTE_PORT"))}, link: "lo",
	}
	// extension headers are no protocol
	if p.protocol == 0 || slices.Contains([]uint8{43, 44, 51, 60}, p.protocol) || h.seesFragments() {
		p.protocol = unix.IPPROTO_UDP
	}
	if h.stream() {
		p.protocol = unix.IPPROTO_TCP
	}
	if p.icmp() {
		p.port[0], p.port[1] = p.port[0]&0xff, p.port[1]&0xff
	}
	switch h.netlayer {
	case nfLocalIn:
		p.link = noLink
	case nfForward:
		p.link = noLink
		p.fragment = r.IntN(4) == 0
	case 0:
		p.link = []string{"lo", "h0"}[r.IntN(2)]
		p.fragment = r.IntN(4) == 0
	}
	return p
}
