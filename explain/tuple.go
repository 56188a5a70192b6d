// SPDX-License-Identifier: Apache-2.0

// This file fills in the fields of each layer that a connection or a datagram
// passes, as the programs at the hooks do.

package explain

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
	"github.com/wfpebpf/wfpebpf/policy"
)

// Tuple is traffic: the first packet of a connection, or a datagram to or from
// a new peer. What is not known is left zero. Of a packet that the host passes on
// Remote is the source and Local the destination; it comes in by Link and goes on by
// OutLink. Of a socket that a call binds, and then listens if it is TCP, only Local is
// known, and Link is the one that has that address.
type Tuple struct {
	Outbound  bool
	Forwarded bool
	Listening bool
	// Reauthorized: a packet of a flow that was open when the filters of the layer where
	// it was authorised have changed. It goes the flow's way.
	Reauthorized bool
	Protocol     uint8
	Local        netip.AddrPort
	Remote       netip.AddrPort
	App          filter.Value // ALE_APP_ID
	User         filter.Value // ALE_USER_ID
	Unit         string       // systemd unit or scope, which may be a package
	Link         Link
	Port         Link // where Link is a bridge: the port that the traffic crosses it by
	// Of a forwarded packet:
	OutLink          Link
	FromHost, ToHost bool // its source, its destination is an address of the host

	redirected bool // ALE_CONNECT_REDIRECT has led it to Remote
}

// Link is the link that the traffic goes over, as this host shows it.
type Link struct {
	Name  string
	Index uint32
	Type  uint32 // IANA ifType
	MAC   net.HardwareAddr

	NIC     uint32 // what the link is to a bridge, NDIS_SWITCH_NIC_TYPE
	Network uint32 // of a bridge, FWP_VSWITCH_NETWORK_TYPE
}

// IANA numbers, and the loopback interface.
const (
	protocolICMP    = 1
	protocolTCP     = 6
	protocolUDP     = 17
	protocolDCCP    = 33
	protocolICMPv6  = 58
	protocolSCTP    = 132
	protocolUDPLite = 136

	loopbackName = "lo"
	ifTypeLoop   = 24
)

// neighborSolicitation is the ICMPv6 message without which no IPv6 packet of a
// neighbour arrives for long.
const neighborSolicitation = 135

// FWP_CONDITION_FLAG_* that the programs set on first packets.
const (
	flagLoopback                = 0x1
	flagReauthorize             = 0x4
	flagWildcardBind            = 0x8
	flagOutboundPassThru        = 0x40000
	flagInboundPassThru         = 0x80000
	flagConnectionRedirected    = 0x100000
	flagAppContainerLoopback    = 0x400000
	flagNonAppContainerLoopback = 0x800000
)

// reasonPolicyChange is FWP_CONDITION_REAUTHORIZE_REASON_POLICY_CHANGE.
const reasonPolicyChange = 0x1

// FWP_DIRECTION
const (
	directionOutbound = 0
	directionInbound  = 1
)

// loopback reports whether the traffic stays on the host.
func (t *Tuple) loopback() bool {
	return !t.Forwarded && t.ofHost()
}

// ofHost reports whether the addresses or the link are those of loopback traffic.
func (t *Tuple) ofHost() bool {
	return t.Link.Name == loopbackName || t.Remote.Addr().Unmap().IsLoopback() ||
		t.Local.Addr().IsValid() && !t.Local.Addr().IsUnspecified() && t.Local.Addr() == t.Remote.Addr()
}

// link is the link that the traffic goes over: loopback traffic has one even
// where none is named.
func (t *Tuple) link() Link {
	if t.Link.Name == "" && (t.loopback() || t.Listening && t.Local.Addr().Unmap().IsLoopback()) {
		return Link{Name: loopbackName, Index: 1, Type: ifTypeLoop}
	}
	return t.Link
}

// v6 is the family of the packets: a mapped address is IPv4.
func (t *Tuple) v6() bool {
	a := t.Remote.Addr()
	if !a.IsValid() {
		a = t.Local.Addr()
	}
	return a.Unmap().Is6()
}

// step is one row of the way that traffic takes.
type step struct {
	layer    string // without the family
	outbound bool
	family   bool // the layer has one
	ale      bool // judged once a flow; every other layer sees each packet
	// judged again when the filters change
	authorises bool
	flow       bool // judges what ALE has authorised
	datagram   bool // not TCP, nor an ICMP error
	tcp        bool // TCP alone
	errors     bool // ICMP errors alone, which ALE does not see
	frame      bool // MAC frames, which loopback traffic is not
	link       bool // sits on the links that are chosen, forwarded traffic included; the others see every link's traffic
	forward    bool // sees forwarded traffic only
	vswitch    bool // of the ports of bridges
	listen     bool // judges a socket that is bound by a call, or listens
}

// sees reports whether traffic of this kind comes to the layer.
func (s *step) sees(t *Tuple) bool {
	if t.Listening || s.listen {
		return t.Listening && s.listen
	}
	if t.Forwarded || s.forward {
		return t.Forwarded && (s.forward || s.link)
	}
	if t.Reauthorized && s.ale && !s.authorises {
		return false // once a flow
	}
	return s.outbound == t.Outbound
}

// at is the traffic as the layer sees it: what is forwarded goes in, then out.
func (t *Tuple) at(s *step) *Tuple {
	if !t.Forwarded || !s.outbound || t.Outbound {
		return t
	}
	out := *t
	out.Outbound, out.Local, out.Remote, out.Link = true, t.Remote, t.Local, t.OutLink
	return &out
}

// steps are the layers in the order of WFP's packet flows.
var steps = []step{
	{layer: "INGRESS_VSWITCH_ETHERNET", vswitch: true, link: true},
	{layer: "INGRESS_VSWITCH_TRANSPORT", family: true, vswitch: true, link: true},
	{layer: "INBOUND_MAC_FRAME_NATIVE", frame: true, link: true},
	{layer: "INBOUND_MAC_FRAME_ETHERNET", frame: true, link: true},
	{layer: "INBOUND_IPPACKET", family: true, link: true},
	{layer: "INBOUND_TRANSPORT", family: true},
	{layer: "INBOUND_ICMP_ERROR", family: true, errors: true},
	{layer: "STREAM_PACKET", family: true, tcp: true}, // behind ALE_AUTH_RECV_ACCEPT in Windows
	{layer: "ALE_AUTH_RECV_ACCEPT", family: true, ale: true, authorises: true},
	{layer: "ALE_FLOW_ESTABLISHED", family: true, ale: true, flow: true},
	{layer: "DATAGRAM_DATA", family: true, datagram: true},

	{layer: "IPFORWARD", family: true, forward: true},

	{layer: "ALE_RESOURCE_ASSIGNMENT", outbound: true, family: true, ale: true},
	{layer: "ALE_CONNECT_REDIRECT", outbound: true, family: true, ale: true},
	{layer: "ALE_AUTH_CONNECT", outbound: true, family: true, ale: true, authorises: true},
	{layer: "ALE_FLOW_ESTABLISHED", outbound: true, family: true, ale: true, flow: true, datagram: true},
	{layer: "DATAGRAM_DATA", outbound: true, family: true, datagram: true},
	{layer: "OUTBOUND_ICMP_ERROR", outbound: true, family: true, errors: true},
	{layer: "STREAM_PACKET", outbound: true, family: true, tcp: true},
	{layer: "OUTBOUND_TRANSPORT", outbound: true, family: true},
	{layer: "OUTBOUND_IPPACKET", outbound: true, family: true, link: true},
	{layer: "OUTBOUND_MAC_FRAME_ETHERNET", outbound: true, frame: true, link: true},
	{layer: "OUTBOUND_MAC_FRAME_NATIVE", outbound: true, frame: true, link: true},
	{layer: "EGRESS_VSWITCH_ETHERNET", outbound: true, vswitch: true, link: true},
	{layer: "EGRESS_VSWITCH_TRANSPORT", outbound: true, family: true, vswitch: true, link: true},

	{layer: "ALE_RESOURCE_ASSIGNMENT", family: true, ale: true, listen: true},
	{layer: "ALE_AUTH_LISTEN", family: true, ale: true, listen: true, tcp: true},

	// when the SYN has been answered
	{layer: "ALE_FLOW_ESTABLISHED", outbound: true, family: true, ale: true, flow: true, tcp: true},
}

// of returns the layer that a row stands for, nil where the traffic does not
// pass it. windows asks for the layers that do not run here, too.
func (s *step) of(t *Tuple, windows bool) *layermap.Layer {
	name := s.layer
	if s.family {
		name += map[bool]string{false: "_V4", true: "_V6"}[t.v6()]
	}
	l := layermap.ByName(name)
	switch {
	case l == nil, s.frame && t.link().Name == loopbackName, s.vswitch && (t.Port.Name == "" || t.Forwarded), s.datagram && t.Protocol == protocolTCP,
		s.tcp && t.Protocol != protocolTCP, s.errors && !t.icmpError(), (s.ale || s.datagram) && t.icmpError():
		return nil
	case windows:
		return l
	case !l.Hook().Live, s.ale && !t.ale():
		return nil
	}
	return l
}

// ale reports whether the protocol is judged at the ALE layers here.
func (t *Tuple) ale() bool {
	judged := layermap.ByID(layermap.ALEAuthConnectV4).Source("IP_PROTOCOL").Only
	return slices.Contains(judged, uint64(t.Protocol))
}

// Layers returns the layers that the traffic passes, in order: those that run
// here or, with windows, all.
func (t *Tuple) Layers(windows bool) []*layermap.Layer {
	var out []*layermap.Layer
	for i := range steps {
		if s := &steps[i]; s.sees(t) {
			if l := s.of(t.at(s), windows); l != nil {
				out = append(out, l)
			}
		}
	}
	return out
}

// Values returns the incoming values of a layer that the traffic passes.
func (t *Tuple) Values(p *policy.Policy, l *layermap.Layer) filter.Values {
	values := constants(l)
	known := t.at(stepOf(l)).known(p, l)
	for i, f := range l.Fields {
		src := l.Source(f.Key)
		if l.Hook().Live && src.Kind != layermap.Filled {
			continue
		}
		if v, ok := known[f.Key]; ok {
			if v.Type != layermap.Empty && v.SID == "" && v.Token == nil && v.Bytes == nil {
				v.Type = f.DataType
			}
			values[i] = v
		}
	}
	return values
}

// known gives the fields that the traffic itself says something about, at this
// layer. Numbers take the type of their field afterwards.
func (t *Tuple) known(p *policy.Policy, l *layermap.Layer) map[string]filter.Value {
	k := map[string]filter.Value{}
	s := stepOf(l)
	t.addresses(k)
	t.interfaces(k, p, l.Family)
	k["FLAGS"] = filter.U32(t.flags(s, p))
	k["REAUTHORIZE_REASON"] = filter.U32(0)
	if t.Reauthorized {
		k["REAUTHORIZE_REASON"] = filter.U32(reasonPolicyChange)
	}
	k["DIRECTION"] = filter.U32(directionInbound)
	if t.Outbound {
		k["DIRECTION"] = filter.U32(directionOutbound)
	}
	if s.forward {
		t.forwarded(k, p)
		return k
	}
	if s.vswitch {
		t.switched(k)
		return k
	}
	if s.frame {
		t.frame(k)
		return k
	}
	if s.flow && !t.Outbound {
		k["IP_DESTINATION_ADDRESS_TYPE"] = k["IP_LOCAL_ADDRESS_TYPE"]
	}
	k["ALE_APP_ID"], k["ALE_USER_ID"], k["ALE_PACKAGE_ID"] = t.App, t.User, t.pkg(p)
	if s.layer == "ALE_CONNECT_REDIRECT" {
		// What an implicit bind and the route will choose is not known yet.
		k["IP_LOCAL_ADDRESS"], k["IP_LOCAL_ADDRESS_TYPE"], k["IP_LOCAL_PORT"] = filter.Value{}, filter.U8(addressUnspecified), filter.Value{}
	}
	if t.Listening && !t.Local.Addr().IsUnspecified() {
		return k
	}
	if s.layer == "ALE_RESOURCE_ASSIGNMENT" || t.Listening {
		// A bind to any address, as an implicit one is, is of no interface.
		k["IP_LOCAL_ADDRESS"], k["IP_LOCAL_ADDRESS_TYPE"] = filter.Value{}, filter.U8(addressUnspecified)
		for _, key := range interfaceKeys {
			delete(k, key)
		}
	}
	return k
}

func stepOf(l *layermap.Layer) *step {
	for i := range steps {
		if s := &steps[i]; s.layer == l.Name || s.layer+"_V4" == l.Name || s.layer+"_V6" == l.Name {
			return s
		}
	}
	return &step{}
}

// NL_ADDRESS_TYPE
const (
	addressUnspecified = 0
	addressUnicast     = 1
	addressMulticast   = 3
	addressBroadcast   = 4
)

// addressType is what the address alone tells; a subnet's broadcast address is
// known by its routes only.
func addressType(a netip.Addr) uint8 {
	a = a.Unmap()
	switch {
	case !a.IsValid() || a.IsUnspecified():
		return addressUnspecified
	case a.IsMulticast():
		return addressMulticast
	case a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return addressBroadcast
	}
	return addressUnicast
}

// address is an address as a field of the packets' family holds it.
func (t *Tuple) address(a netip.Addr) filter.Value {
	if t.v6() {
		return filter.Addr16(a)
	}
	return filter.Addr4(a)
}

func (t *Tuple) addresses(k map[string]filter.Value) {
	if a := t.Local.Addr(); a.IsValid() && !a.IsUnspecified() {
		k["IP_LOCAL_ADDRESS"] = t.address(a)
		k["IP_LOCAL_ADDRESS_TYPE"] = filter.U8(addressUnicast)
		if !t.Outbound {
			k["IP_LOCAL_ADDRESS_TYPE"] = filter.U8(addressType(a))
		}
	}
	if a := t.Remote.Addr(); a.IsValid() {
		k["IP_REMOTE_ADDRESS"] = t.address(a)
		k["IP_DESTINATION_ADDRESS_TYPE"] = filter.U8(addressType(a))
	}
	k["IP_LOCAL_PORT"], k["IP_REMOTE_PORT"] = t.ports()
	k["IP_PROTOCOL"] = filter.U8(t.Protocol)
}

// ports are the values of the port fields. A port of 0 is not known. ICMP has
// its type in place of the local port and its code in place of the remote one;
// where neither is given, neither is known.
func (t *Tuple) ports() (local, remote filter.Value) {
	switch t.Protocol {
	case protocolTCP, protocolUDP, protocolDCCP, protocolSCTP, protocolUDPLite:
		if t.Local.Port() != 0 {
			local = filter.U16(t.Local.Port())
		}
		if t.Remote.Port() != 0 {
			remote = filter.U16(t.Remote.Port())
		}
	default:
		if t.icmp() && (t.Local.Port() != 0 || t.Remote.Port() != 0) {
			return filter.U16(t.Local.Port()), filter.U16(t.Remote.Port())
		}
	}
	return local, remote
}

// icmp reports whether the protocol is the ICMP of the packets' family.
func (t *Tuple) icmp() bool {
	if t.v6() {
		return t.Protocol == protocolICMPv6
	}
	return t.Protocol == protocolICMP
}

// icmpError reports whether the message is an ICMP error: one of those of RFC 1122,
// 3.2.2, or of the lower half of ICMPv6's types. A type that is not given is none.
func (t *Tuple) icmpError() bool {
	local, _ := t.ports()
	switch {
	case !t.icmp() || local.IsEmpty():
		return false
	case t.v6():
		return local.Num < 128
	}
	return slices.Contains([]uint64{3, 4, 5, 11, 12}, local.Num)
}

func (t *Tuple) flags(s *step, p *policy.Policy) uint32 {
	var flags uint32
	switch {
	case s.forward:
		if t.FromHost {
			flags |= flagOutboundPassThru
		}
		if t.ToHost {
			flags |= flagInboundPassThru
		}
		return flags
	case t.Listening && !t.Local.Addr().IsUnspecified() && t.Local.Port() != 0:
		return 0
	case s.layer == "ALE_RESOURCE_ASSIGNMENT":
		return flagWildcardBind
	case s.layer == "DATAGRAM_DATA":
		return 0 // no IS_LOOPBACK there (arbitration.md 7)
	case t.loopback():
		flags = flagLoopback
	}
	if t.Reauthorized && s.authorises {
		flags |= flagReauthorize
	}
	flags |= t.redirectFlag(s)
	if flags&flagLoopback == 0 || !s.ale || s.flow {
		return flags
	}
	if t.pkg(p).SID != filter.SIDNull {
		return flags | flagAppContainerLoopback
	}
	return flags | flagNonAppContainerLoopback
}

// redirectFlag is what tells ALE_AUTH_CONNECT of a redirection.
func (t *Tuple) redirectFlag(s *step) uint32 {
	if t.redirected && s.layer == "ALE_AUTH_CONNECT" {
		return flagConnectionRedirected
	}
	return 0
}

// pkg is the package that the unit is; a process of no mapped unit has none.
func (t *Tuple) pkg(p *policy.Policy) filter.Value {
	best := filter.SIDNull
	for sid, unit := range p.Packages {
		// Several packages may share a unit; the answer must not depend on a map's order.
		if t.Unit != "" && unit == t.Unit && (best == filter.SIDNull || sid < best) {
			best = sid
		}
	}
	return filter.SIDValue(best)
}

// interfaceKeys are the fields that say something about a link.
var interfaceKeys = []string{
	"IP_LOCAL_INTERFACE", "INTERFACE_INDEX", "INTERFACE_TYPE",
	"IP_ARRIVAL_INTERFACE", "ARRIVAL_INTERFACE_INDEX", "ARRIVAL_INTERFACE_TYPE",
	"IP_NEXTHOP_INTERFACE", "NEXTHOP_INTERFACE_INDEX", "NEXTHOP_INTERFACE_TYPE",
	"LOCAL_INTERFACE_PROFILE_ID", "ORIGINAL_PROFILE_ID", "CURRENT_PROFILE_ID",
	"ARRIVAL_INTERFACE_PROFILE_ID", "NEXTHOP_INTERFACE_PROFILE_ID", "INTERFACE_QUARANTINE_EPOCH",
}

// interfaces fills in the link's fields. Arrival and next hop are the same
// link; which of them a layer has is the layer table's matter.
func (t *Tuple) interfaces(k map[string]filter.Value, p *policy.Policy, family layermap.Family) {
	link := t.link()
	if link.Name == "" {
		return
	}
	facts := link.facts(p)
	epoch := facts.Epoch
	if family == layermap.V6 {
		epoch = facts.EpochV6
	}
	luid, index, kind, profile := filter.U64(facts.LUID), unlessZero(link.Index), unlessZero(link.Type), filter.U32(facts.Profile)
	for i, v := range []filter.Value{
		luid, index, kind, luid, index, kind, luid, index, kind,
		profile, profile, profile, profile, profile, filter.U64(epoch),
	} {
		k[interfaceKeys[i]] = v
	}
}

// facts are what the policy says of the link.
func (l *Link) facts(p *policy.Policy) policy.LinkFacts {
	if facts, ok := p.Links[l.Name]; ok {
		return facts
	}
	return policy.LinkFacts{LUID: (*policy.Map)(nil).LUID(l.Name), Profile: p.DefaultProfile}
}

// unlessZero is a number of a link, which this host may not have.
func unlessZero(n uint32) filter.Value {
	if n == 0 {
		return filter.Value{}
	}
	return filter.U32(n)
}

// forwarded fills in what IPFORWARD has in place of a host's side and a peer's.
func (t *Tuple) forwarded(k map[string]filter.Value, p *policy.Policy) {
	if a := t.Remote.Addr(); a.IsValid() {
		k["IP_SOURCE_ADDRESS"] = t.address(a)
	}
	delete(k, "IP_DESTINATION_ADDRESS_TYPE")
	if a := t.Local.Addr(); a.IsValid() {
		k["IP_DESTINATION_ADDRESS"] = t.address(a)
		k["IP_DESTINATION_ADDRESS_TYPE"] = filter.U8(addressType(a))
	}
	for _, side := range []struct {
		link                 Link
		luid, index, profile string
	}{
		{t.Link, "IP_LOCAL_INTERFACE", "SOURCE_INTERFACE_INDEX", "ARRIVAL_INTERFACE_PROFILE_ID"},
		{t.OutLink, "IP_FORWARD_INTERFACE", "DESTINATION_INTERFACE_INDEX", "NEXTHOP_INTERFACE_PROFILE_ID"},
	} {
		if side.link.Name == "" {
			continue
		}
		facts := side.link.facts(p)
		k[side.luid], k[side.index], k[side.profile] = filter.U64(facts.LUID), unlessZero(side.link.Index), filter.U32(facts.Profile)
	}
}

// frame fills in what is known of an Ethernet header: the kind of packet, and
// the link's own address where the packet is to or from the host alone.
func (t *Tuple) frame(k map[string]filter.Value) {
	k["ETHER_TYPE"] = filter.U16(map[bool]uint16{false: 0x0800, true: 0x86dd}[t.v6()])
	link := t.link()
	if len(link.MAC) != 6 {
		return
	}
	own := filter.MAC([6]byte(link.MAC))
	k["INTERFACE_MAC_ADDRESS"] = own
	if t.Outbound || addressType(t.Local.Addr()) == addressUnicast {
		k["MAC_LOCAL_ADDRESS"], k["MAC_LOCAL_ADDRESS_TYPE"] = own, filter.U8(0)
	}
}

// Explain judges the traffic at each layer that it passes. With windows the
// store is one that holds what is refused here, and callouts that are not
// provided let the traffic pass.
func (t *Tuple) Explain(p *policy.Policy, s *filter.Store, windows bool) []Answer {
	out := []Answer{}
	way := *t
	for i := range steps {
		st := &steps[i]
		if !st.sees(&way) {
			continue
		}
		if l := st.of(way.at(st), windows); l != nil {
			a := Layer(s, l, way.Values(p, l), windows)
			out = append(out, a)
			way.lead(a.RedirectTo)
		}
	}
	if t.Forwarded {
		return out // past the ALE layers, and no layer asks for ports
	}
	if !windows && !t.ale() && !t.icmpError() && len(out) > 0 {
		out[0].Notes = append(out[0].Notes, fmt.Sprintf("the ALE layers do not judge protocol %d here yet, only TCP and UDP", t.Protocol))
	}
	if local, _ := t.ports(); t.icmp() && local.IsEmpty() && len(out) > 0 {
		out[0].Notes = append(out[0].Notes, "the type and the code of ICMP are not given: the port of the local address stands for the type, that of the remote one for the code")
	}
	return out
}

// lead makes it the traffic that it is redirected to become: the route, and with it the
// link and an address that the kernel chooses, are others.
func (t *Tuple) lead(to string) {
	end, err := netip.ParseAddrPort(to)
	if err != nil || end == t.Remote {
		return
	}
	t.Remote, t.redirected, t.Link = end, true, Link{}
	t.Local = netip.AddrPortFrom(netip.Addr{}, t.Local.Port())
}

// WouldBlock returns the filter that stops the traffic, its next packet once the policy
// is in force, the packets that answer it or what makes neighbours known to each other,
// and its layer; nil where it passes. filtered tells of the name of a link whether the
// layers that sit on links see what goes over it.
func WouldBlock(p *policy.Policy, t Tuple, filtered func(link string) bool) (*filter.Filter, layermap.LayerID) {
	back := t
	back.Outbound = !t.Outbound
	again := t
	again.Reauthorized = !t.Forwarded
	asked := []Tuple{t, back, again}
	if t.v6() && !t.loopback() {
		for _, way := range asked[:2] {
			way.Protocol = protocolICMPv6
			way.Local, way.Remote = netip.AddrPortFrom(t.Local.Addr(), neighborSolicitation), netip.AddrPortFrom(t.Remote.Addr(), 0)
			asked = append(asked, way)
		}
	}
	for i := range asked {
		way := &asked[i]
		for _, l := range way.Layers(false) {
			s := stepOf(l)
			at := t.Link.Name
			if s.vswitch {
				at = t.Port.Name
			}
			if s.link && !filtered(at) || i > 0 && s.ale && !way.Reauthorized {
				continue // ALE lets both directions of a flow pass
			}
			if r := filter.Arbitrate(p.Store, l.ID, way.Values(p, l), filter.Provided); r.Blocked() {
				return r.Filter, l.ID
			}
		}
	}
	return nil, 0
}
