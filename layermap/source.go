// SPDX-License-Identifier: Apache-2.0

package layermap

import "maps"

// SourceKind says how a field of a layer that runs gets its value on Linux.
type SourceKind uint8

const (
	// Refused: Linux cannot know the field; a condition on it is refused.
	Refused SourceKind = iota
	// Filled: the kernel fills the field at each classification.
	Filled
	// Constant: the field has one value on Linux.
	Constant
	// Never: the field never has a value on Linux (FWP_EMPTY).
	Never
)

// String returns "refused", "filled", "constant" or "never".
func (k SourceKind) String() string {
	return [...]string{"refused", "filled", "constant", "never"}[k]
}

// Slot is a field's value in the BPF programs' struct wfp_values (bpf/wfp.h,
// enum wfp_slot).
type Slot uint8

// The slots of IP layers, and of MAC frame and IPFORWARD layers, which share some
// of them.
const (
	SlotLocalAddress         Slot = 0
	SlotRemoteAddress        Slot = 1
	SlotLocalAddressType     Slot = 2
	SlotDestinationType      Slot = 3
	SlotProtocol             Slot = 4
	SlotLocalPort            Slot = 5
	SlotRemotePort           Slot = 6
	SlotFlags                Slot = 7
	SlotPackage              Slot = 8
	SlotLocalInterface       Slot = 9
	SlotInterfaceIndex       Slot = 10
	SlotInterfaceType        Slot = 11
	SlotPacketInterface      Slot = 12
	SlotPacketInterfaceIndex Slot = 13
	SlotPacketInterfaceType  Slot = 14
	SlotOriginalProfile      Slot = 15
	SlotCurrentProfile       Slot = 16
	SlotQuarantineEpoch      Slot = 17
	SlotApp                  Slot = 18
	SlotUser                 Slot = 19
	SlotEmbeddedLocalPort    Slot = 24
	SlotEmbeddedRemotePort   Slot = 25
	SlotEmbeddedRemote       Slot = 26

	SlotEmbeddedLocalType = SlotLocalAddressType
	SlotEmbeddedProtocol  = SlotProtocol
	SlotDirection         = SlotOriginalProfile // at layers without profiles
	SlotPromiscuousMode   = SlotOriginalProfile // likewise

	SlotMACLocal      Slot = 0
	SlotMACRemote     Slot = 1
	SlotMACLocalType  Slot = 2
	SlotMACRemoteType Slot = 3
	SlotEtherType     Slot = 5
	SlotVLANID        Slot = 6
	SlotInterfaceMAC  Slot = 17

	SlotForwardSource       Slot = 0
	SlotForwardDestination  Slot = 1
	SlotForwardIn           Slot = 9
	SlotForwardInIndex      Slot = 10
	SlotForwardOut          Slot = 12
	SlotForwardOutIndex     Slot = 13
	SlotForwardInProfile    Slot = 15
	SlotForwardOutProfile   Slot = 16
	SlotSwitch              Slot = 9
	SlotSourcePortID        Slot = 12
	SlotDestinationPortID   Slot = 15
	SlotSwitchVLAN          Slot = 20
	SlotSwitchNetwork       Slot = 21
	SlotSourceInterfaceType Slot = 22
	SlotDestinationIfType   Slot = 23
)

// Place is where a slot stands: a 64-bit word of struct wfp_values, and the
// lowest bit in it. An IPv6 address takes that word and the next.
type Place struct{ Word, Shift uint8 }

// places mirrors slot_word and slot_shift (bpf/classify.h), and what hook_vswitch.h and
// put_quote (bpf/hook_above.h) say of theirs. The names of links, which those of the
// virtual switch have, take two words, as IPv6 addresses do.
var places = [...]Place{
	SlotLocalAddress: {0, 0}, SlotRemoteAddress: {2, 0},
	SlotLocalAddressType: {4, 0}, SlotDestinationType: {4, 8}, SlotProtocol: {4, 16},
	SlotLocalPort: {4, 32}, SlotRemotePort: {4, 48},
	SlotFlags: {5, 0}, SlotPackage: {5, 32}, SlotLocalInterface: {6, 0},
	SlotInterfaceIndex: {7, 0}, SlotInterfaceType: {7, 32}, SlotPacketInterface: {8, 0},
	SlotPacketInterfaceIndex: {9, 0}, SlotPacketInterfaceType: {9, 32},
	SlotOriginalProfile: {10, 0}, SlotCurrentProfile: {10, 32}, SlotQuarantineEpoch: {11, 0},
	SlotApp: {12, 0}, SlotUser: {12, 32},
	SlotSwitchVLAN: {12, 0}, SlotSwitchNetwork: {12, 16}, SlotSourceInterfaceType: {12, 24}, SlotDestinationIfType: {12, 32},
	SlotEmbeddedLocalPort: {12, 0}, SlotEmbeddedRemotePort: {12, 16}, SlotEmbeddedRemote: {13, 0},
}

// Place returns where the slot stands.
func (s Slot) Place() Place { return places[s] }

// Source is where a field's value comes from.
type Source struct {
	Kind  SourceKind
	Slot  Slot   // Filled
	Value uint64 // Constant
	From  string // in words: the source of the value, or why there is none

	// Only are the values that traffic can have here, where a Filled field has
	// but few of those of its type.
	Only []uint64
}

func filled(s Slot, from string) Source { return Source{Kind: Filled, Slot: s, From: from} }

// flags is a FLAGS field of which these bits can be set.
func flags(bits uint64, from string) Source {
	s := filled(SlotFlags, from)
	for set := bits; ; set = (set - 1) & bits {
		s.Only = append(s.Only, set)
		if set == 0 {
			return s
		}
	}
}

func constant(v uint64, from string) Source { return Source{Kind: Constant, Value: v, From: from} }
func never(why string) Source               { return Source{Kind: Never, From: why} }
func refused(why string) Source             { return Source{Kind: Refused, From: why} }

const (
	fromLink   = "the link table, by the interface of the traffic"
	fromPacket = "the packet"
	fromQuote  = "the packet that the error quotes"
	whyTunnel  = "Linux has no Teredo, ISATAP or IP-HTTPS tunnel types"
	whyIPsec   = "needs IPsec authentication"
	whyStacked = "of links that lie on others (VLANs, bridges, bonds, VRFs) Linux does not say which one below carries a forwarded packet"
)

// sources is the general rule for a field, by condition key; sourcesAt holds
// the exceptions of single layers. A field in neither is refused.
var sources = map[string]Source{
	"IP_LOCAL_ADDRESS":            filled(SlotLocalAddress, "the socket or packet"),
	"IP_REMOTE_ADDRESS":           filled(SlotRemoteAddress, "the socket call or packet"),
	"IP_LOCAL_ADDRESS_TYPE":       filled(SlotLocalAddressType, "the address and the routes (NL_ADDRESS_TYPE)"),
	"IP_DESTINATION_ADDRESS_TYPE": filled(SlotDestinationType, "the address and the routes (NL_ADDRESS_TYPE)"),
	"IP_LOCAL_PORT":               filled(SlotLocalPort, "the socket or packet"),
	"IP_REMOTE_PORT":              filled(SlotRemotePort, "the socket call or packet"),
	"IP_PROTOCOL":                 filled(SlotProtocol, "the socket"),

	"IP_LOCAL_INTERFACE":         filled(SlotLocalInterface, fromLink+" (LUID)"),
	"INTERFACE_INDEX":            filled(SlotInterfaceIndex, "ifindex"),
	"INTERFACE_TYPE":             filled(SlotInterfaceType, fromLink+" (IANA ifType)"),
	"LOCAL_INTERFACE_PROFILE_ID": filled(SlotCurrentProfile, fromLink+" (zone)"),
	"ORIGINAL_PROFILE_ID":        filled(SlotOriginalProfile, fromLink+" (zone)"),
	"CURRENT_PROFILE_ID":         filled(SlotCurrentProfile, fromLink+" (zone)"),
	"INTERFACE_QUARANTINE_EPOCH": filled(SlotQuarantineEpoch, fromLink+" (map file)"),

	"ALE_APP_ID":     filled(SlotApp, "device and inode of the executable that made the socket"),
	"ALE_USER_ID":    filled(SlotUser, "uid, gid and unit of the process that made the socket"),
	"ALE_PACKAGE_ID": filled(SlotPackage, "cgroup of the process that made the socket (map file)"),

	"INTERFACE_MAC_ADDRESS":   filled(SlotInterfaceMAC, fromLink),
	"MAC_LOCAL_ADDRESS":       filled(SlotMACLocal, "the frame"),
	"MAC_REMOTE_ADDRESS":      filled(SlotMACRemote, "the frame"),
	"MAC_LOCAL_ADDRESS_TYPE":  filled(SlotMACLocalType, "the frame (DL_ADDRESS_TYPE)"),
	"MAC_REMOTE_ADDRESS_TYPE": filled(SlotMACRemoteType, "the frame (DL_ADDRESS_TYPE)"),
	"ETHER_TYPE":              filled(SlotEtherType, "the frame"),
	"VLAN_ID":                 filled(SlotVLANID, "the frame's 802.1Q tag, whole; empty without one"),

	"SUB_INTERFACE_INDEX":          constant(0, "Linux links have no sub-interfaces"),
	"NEXTHOP_SUB_INTERFACE_INDEX":  constant(0, "Linux links have no sub-interfaces"),
	"TUNNEL_TYPE":                  constant(0, whyTunnel),
	"ARRIVAL_TUNNEL_TYPE":          constant(0, whyTunnel),
	"NEXTHOP_TUNNEL_TYPE":          constant(0, whyTunnel),
	"COMPARTMENT_ID":               constant(1, "the network namespace that is filtered"),
	"ALE_SIO_FIREWALL_SYSTEM_PORT": constant(0, "Linux has no firewall system ports"),
	"REAUTHORIZE_REASON":           constant(0, "no reauthorisation runs yet"),
	"NDIS_PORT":                    constant(0, "Linux links have one port"),
	"NDIS_MEDIA_TYPE":              constant(0, "NdisMedium802_3"),
	"NDIS_PHYSICAL_MEDIA_TYPE":     constant(0, "NdisPhysicalMediumUnspecified"),
	"L2_FLAGS":                     constant(1, "IS_NATIVE_ETHERNET"),
	"ALE_NAP_CONTEXT":              constant(0, "network access protection is gone from Windows, too"),

	"ALE_REMOTE_USER_ID":                never(whyIPsec),
	"ALE_REMOTE_MACHINE_ID":             never(whyIPsec),
	"PEER_NAME":                         never("a socket call names an address"),
	"ALE_EFFECTIVE_NAME":                never("a socket call names an address"),
	"ALE_ORIGINAL_APP_ID":               never("a proxy's connection is not tied to the one that it serves"),
	"ORIGINAL_ICMP_TYPE":                never("ICMP is not judged at ALE yet"),
	"ALE_SECURITY_ATTRIBUTE_FQBN_VALUE": never("Linux has no AppLocker identities"),

	"ALE_PACKAGE_FAMILY_NAME": refused("conditional access entries cannot be evaluated here"),
}

// The accept layers have an arrival interface and no next hop, the connect
// layers a next hop and no arrival interface (ALE rules, section 2).
//
// FLAGS holds FWP_CONDITION_FLAG_* bits (fwpmtypes.h); which of them there are
// depends on the layer.
var (
	aleFlags = flags(0x1|0x400000|0x800000,
		"the call or packet: IS_LOOPBACK, IS_APPCONTAINER_LOOPBACK, IS_NON_APPCONTAINER_LOOPBACK")
	aleProtocols = Source{
		Kind: Filled, Slot: SlotProtocol, From: "the socket: TCP or UDP; others are not judged yet", Only: []uint64{6, 17},
	}
	sourcesAtAssignment = map[string]Source{
		"FLAGS": flags(0x8|0x10, "the call: IS_WILDCARD_BIND, IS_RAW_ENDPOINT"),
		"ALE_PROMISCUOUS_MODE": {
			Kind: Filled, Slot: SlotPromiscuousMode, Only: []uint64{0, sioRcvAll, sioRcvAllMcast},
			From: "the option of a packet socket: SIO_RCVALL for PACKET_MR_PROMISC, SIO_RCVALL_MCAST for PACKET_MR_ALLMULTI; else 0",
		},
	}
	sourcesAtPacketIn = map[string]Source{
		"FLAGS": flags(0x1|0x20, "the packet: IS_LOOPBACK, IS_FRAGMENT"),
	}
	sourcesAtPacketOut = map[string]Source{
		"FLAGS": flags(0x1, "the packet: IS_LOOPBACK"),
	}
	// IS_FRAGMENT_GROUP is for groups of fragments, which Linux does not make.
	sourcesAtForward = map[string]Source{
		"FLAGS": flags(0x20|0x40000|0x80000,
			"the packet: IS_FRAGMENT; the routes: IS_OUTBOUND_PASS_THRU, IS_INBOUND_PASS_THRU (from, to an address of this host)"),
		"IP_SOURCE_ADDRESS":            filled(SlotForwardSource, fromPacket),
		"IP_DESTINATION_ADDRESS":       filled(SlotForwardDestination, fromPacket),
		"IP_LOCAL_INTERFACE":           filled(SlotForwardIn, "the interface that the packet came in by (LUID)"),
		"SOURCE_INTERFACE_INDEX":       filled(SlotForwardInIndex, "the interface that the packet came in by"),
		"ARRIVAL_INTERFACE_PROFILE_ID": filled(SlotForwardInProfile, "the interface that the packet came in by (zone)"),
		"IP_FORWARD_INTERFACE":         filled(SlotForwardOut, "the interface that the packet goes on by (LUID)"),
		"DESTINATION_INTERFACE_INDEX":  filled(SlotForwardOutIndex, "the interface that the packet goes on by"),
		"NEXTHOP_INTERFACE_PROFILE_ID": filled(SlotForwardOutProfile, "the interface that the packet goes on by (zone)"),

		"SOURCE_SUB_INTERFACE_INDEX":      constant(0, "Linux links have no sub-interfaces"),
		"DESTINATION_SUB_INTERFACE_INDEX": constant(0, "Linux links have no sub-interfaces"),

		"IP_PHYSICAL_ARRIVAL_INTERFACE": refused(whyStacked + "; IP_LOCAL_INTERFACE is the one above"),
		"IP_PHYSICAL_NEXTHOP_INTERFACE": refused(whyStacked + "; IP_FORWARD_INTERFACE is the one above"),
	}
	sourcesAtTransportIn  = transportSources(flags(0x1, "the packet: IS_LOOPBACK; no socket is known yet"))
	sourcesAtTransportOut = transportSources(flags(0x1|0x10, "the packet: IS_LOOPBACK, IS_RAW_ENDPOINT"))
	sourcesAtAccept       = map[string]Source{
		"FLAGS":       aleFlags,
		"IP_PROTOCOL": aleProtocols,

		"IP_ARRIVAL_INTERFACE":    filled(SlotPacketInterface, "the interface that the first packet came in by (LUID)"),
		"ARRIVAL_INTERFACE_INDEX": filled(SlotPacketInterfaceIndex, "the interface that the first packet came in by"),
		"ARRIVAL_INTERFACE_TYPE":  filled(SlotPacketInterfaceType, "the interface that the first packet came in by (IANA ifType)"),
		"IP_NEXTHOP_INTERFACE":    never("filled on reauthorisation only, which does not run yet"),
		"NEXTHOP_INTERFACE_INDEX": never("filled on reauthorisation only, which does not run yet"),
		"NEXTHOP_INTERFACE_TYPE":  never("filled on reauthorisation only, which does not run yet"),
		"NEXTHOP_TUNNEL_TYPE":     never("filled on reauthorisation only, which does not run yet"),
	}
	sourcesAtConnect = map[string]Source{
		"FLAGS": flags(0x1|0x100000|0x400000|0x800000,
			"the call: IS_LOOPBACK, IS_CONNECTION_REDIRECTED, IS_APPCONTAINER_LOOPBACK, IS_NON_APPCONTAINER_LOOPBACK"),
		"IP_PROTOCOL": aleProtocols,

		"IP_NEXTHOP_INTERFACE":    filled(SlotPacketInterface, "the route, checked on the first packet (LUID)"),
		"NEXTHOP_INTERFACE_INDEX": filled(SlotPacketInterfaceIndex, "the route, checked on the first packet"),
		"NEXTHOP_INTERFACE_TYPE":  filled(SlotPacketInterfaceType, "the route, checked on the first packet (IANA ifType)"),
		"IP_ARRIVAL_INTERFACE":    never("filled on reauthorisation only, which does not run yet"),
		"ARRIVAL_INTERFACE_INDEX": never("filled on reauthorisation only, which does not run yet"),
		"ARRIVAL_INTERFACE_TYPE":  never("filled on reauthorisation only, which does not run yet"),
		"ARRIVAL_TUNNEL_TYPE":     never("filled on reauthorisation only, which does not run yet"),
	}
	redirectProtocols = Source{
		Kind: Filled, Slot: SlotProtocol, From: "the socket: TCP or UDP; others are not redirected", Only: []uint64{6, 17},
	}
	sourcesAtConnectRedirect = map[string]Source{
		"FLAGS":                 constant(0, "the layer sets none in Windows either"),
		"IP_PROTOCOL":           redirectProtocols,
		"IP_LOCAL_ADDRESS":      filled(SlotLocalAddress, "the socket; empty unless it is bound to one: the route is not chosen yet"),
		"IP_LOCAL_ADDRESS_TYPE": filled(SlotLocalAddressType, "the socket (NL_ADDRESS_TYPE)"),
		"IP_LOCAL_PORT":         filled(SlotLocalPort, "the socket; empty where connect has yet to choose one"),
		"IP_REMOTE_ADDRESS":     filled(SlotRemoteAddress, "the socket call"),
		"IP_REMOTE_PORT":        filled(SlotRemotePort, "the socket call"),
	}
	sourcesAtBindRedirect = map[string]Source{
		"FLAGS":            constant(0, "the layer sets none in Windows either"),
		"IP_PROTOCOL":      redirectProtocols,
		"IP_LOCAL_ADDRESS": filled(SlotLocalAddress, "the socket call; empty where it is any"),
		"IP_LOCAL_PORT":    filled(SlotLocalPort, "the socket call; 0 where the kernel shall choose one"),
	}
	sourcesAtFlow = map[string]Source{
		"FLAGS":                       flags(0x1, "the interface: IS_LOOPBACK"),
		"IP_PROTOCOL":                 aleProtocols,
		"DIRECTION":                   direction,
		"IP_DESTINATION_ADDRESS_TYPE": filled(SlotDestinationType, "where the flow's first packet went, and the routes (NL_ADDRESS_TYPE)"),
		"IP_LOCAL_INTERFACE":          filled(SlotLocalInterface, "the interface that the flow's first packets go by (LUID)"),
		"INTERFACE_TYPE":              filled(SlotInterfaceType, "the interface that the flow's first packets go by (IANA ifType)"),
	}
	direction = Source{
		Kind: Filled, Slot: SlotDirection, From: "who sent the first packet (FWP_DIRECTION)", Only: []uint64{0, 1},
	}
	sourcesAtListen = map[string]Source{
		"FLAGS":              constant(0, "the layer sets none but on reclassification, which Linux has no use for"),
		"IP_LOCAL_ADDRESS":   filled(SlotLocalAddress, "the socket; empty where it is any"),
		"IP_LOCAL_PORT":      filled(SlotLocalPort, "the socket"),
		"IP_LOCAL_INTERFACE": filled(SlotLocalInterface, "the interface that has the local address (LUID)"),
		"INTERFACE_TYPE":     filled(SlotInterfaceType, "the interface that has the local address (IANA ifType)"),
	}
	sourcesAtClosure = map[string]Source{
		"FLAGS":             constant(0, "the layer sets none in Windows either"),
		"IP_REMOTE_ADDRESS": filled(SlotRemoteAddress, "the socket's peer; empty without one"),
		"IP_REMOTE_PORT":    filled(SlotRemotePort, "the socket's peer; empty without one"),
		"IP_LOCAL_INTERFACE": filled(SlotLocalInterface,
			"the interface that the connection's last packet came in by, or that has the local address (LUID)"),
	}
	sourcesAtRelease = map[string]Source{
		"FLAGS":              constant(0, "the layer sets none in Windows either"),
		"IP_LOCAL_ADDRESS":   filled(SlotLocalAddress, "the socket when it is released; empty where it is any"),
		"IP_LOCAL_INTERFACE": filled(SlotLocalInterface, "the interface that has the local address (LUID)"),
	}
	sourcesAtErrorIn = errorSources(map[string]Source{
		"EMBEDDED_PROTOCOL":           filled(SlotEmbeddedProtocol, fromQuote),
		"EMBEDDED_REMOTE_ADDRESS":     filled(SlotEmbeddedRemote, fromQuote+": its destination"),
		"EMBEDDED_LOCAL_ADDRESS_TYPE": filled(SlotEmbeddedLocalType, fromQuote+": its source, and the routes (NL_ADDRESS_TYPE)"),
		"EMBEDDED_LOCAL_PORT":         filled(SlotEmbeddedLocalPort, fromQuote+": its source port; empty for protocols without ports, ICMP among them"),
		"EMBEDDED_REMOTE_PORT":        filled(SlotEmbeddedRemotePort, fromQuote+": its destination port; empty for protocols without ports, ICMP among them"),

		"IP_ARRIVAL_INTERFACE":         filled(SlotPacketInterface, "the interface that the error came in by (LUID)"),
		"ARRIVAL_INTERFACE_INDEX":      filled(SlotPacketInterfaceIndex, "the interface that the error came in by"),
		"ARRIVAL_INTERFACE_TYPE":       filled(SlotPacketInterfaceType, "the interface that the error came in by (IANA ifType)"),
		"ARRIVAL_INTERFACE_PROFILE_ID": filled(SlotCurrentProfile, fromLink+" (zone)"),
	})
	sourcesAtErrorOut = errorSources(map[string]Source{
		"NEXTHOP_INTERFACE_PROFILE_ID": filled(SlotCurrentProfile, fromLink+" (zone)"),
	})
	sourcesAtStreamPacket = map[string]Source{
		"FLAGS":     flags(0x1, "the packet: IS_LOOPBACK"),
		"DIRECTION": {Kind: Filled, Slot: SlotDirection, From: "the hook: that of the packet", Only: []uint64{0, 1}},
	}
	sourcesAt = map[LayerID]map[string]Source{
		InboundIPPacketV4: sourcesAtPacketIn, InboundIPPacketV6: sourcesAtPacketIn,
		OutboundIPPacketV4: sourcesAtPacketOut, OutboundIPPacketV6: sourcesAtPacketOut,
		IPForwardV4: sourcesAtForward, IPForwardV6: sourcesAtForward,
		InboundTransportV4: sourcesAtTransportIn, InboundTransportV6: sourcesAtTransportIn,
		OutboundTransportV4: sourcesAtTransportOut, OutboundTransportV6: sourcesAtTransportOut,
		InboundICMPErrorV4: sourcesAtErrorIn, InboundICMPErrorV6: sourcesAtErrorIn,
		OutboundICMPErrorV4: sourcesAtErrorOut, OutboundICMPErrorV6: sourcesAtErrorOut,
		StreamPacketV4: sourcesAtStreamPacket, StreamPacketV6: sourcesAtStreamPacket,
		ALEResourceAssignmentV4: sourcesAtAssignment, ALEResourceAssignmentV6: sourcesAtAssignment,
		ALEAuthListenV4: sourcesAtListen, ALEAuthListenV6: sourcesAtListen,
		ALEAuthRecvAcceptV4: sourcesAtAccept, ALEAuthRecvAcceptV6: sourcesAtAccept,
		ALEAuthConnectV4: sourcesAtConnect, ALEAuthConnectV6: sourcesAtConnect,
		ALEFlowEstablishedV4: sourcesAtFlow, ALEFlowEstablishedV6: sourcesAtFlow,
		ALEConnectRedirectV4: sourcesAtConnectRedirect, ALEConnectRedirectV6: sourcesAtConnectRedirect,
		ALEBindRedirectV4: sourcesAtBindRedirect, ALEBindRedirectV6: sourcesAtBindRedirect,
		ALEEndpointClosureV4: sourcesAtClosure, ALEEndpointClosureV6: sourcesAtClosure,
		ALEResourceReleaseV4: sourcesAtRelease, ALEResourceReleaseV6: sourcesAtRelease,
		IngressVSwitchEthernet: sourcesAtSwitchIn, EgressVSwitchEthernet: sourcesAtSwitchOut,
		IngressVSwitchTransportV4: sourcesAtSwitchIn, IngressVSwitchTransportV6: sourcesAtSwitchIn,
		EgressVSwitchTransportV4: sourcesAtSwitchOut, EgressVSwitchTransportV6: sourcesAtSwitchOut,
	}
)

// The virtual switch is a Linux bridge, and its ports are the links that have it as their
// master. Ids, which are blobs in WFP, are the names of links.
var (
	sourcesAtSwitchIn = switchSources([]uint64{0, 1}, map[string]Source{
		"L2_FLAGS": refused("whether a frame goes to another guest is not known before the bridge has chosen the port"),
	})
	sourcesAtSwitchOut = switchSources([]uint64{0, 1, 3}, map[string]Source{
		"L2_FLAGS": {
			Kind: Filled, Slot: SlotFlags, Only: []uint64{0, 0x10}, From: "the ports: IS_VM2VM where both are of guests",
		},
		"VSWITCH_DESTINATION_INTERFACE_ID":   filled(SlotDestinationPortID, "the name of the port that the frame leaves by"),
		"VSWITCH_DESTINATION_INTERFACE_TYPE": nicType(SlotDestinationIfType, "the port that the frame leaves by", 0, 1),
		"VSWITCH_DESTINATION_VM_ID":          refused(whyGuest),
	})
)

// What a program on Windows asks for by an ioctl.
const (
	sioRcvAll      = 0x98000001
	sioRcvAllMcast = 0x98000002
)

const whyGuest = "Linux does not know whose guest a link is"

// nicType is an NDIS_SWITCH_NIC_TYPE.
func nicType(s Slot, of string, only ...uint64) Source {
	return Source{Kind: Filled, Slot: s, Only: only, From: of + ": synthetic for veth and tap links, internal for the bridge itself, else external"}
}

// switchSources are those of a layer of the virtual switch, at which a frame's source has
// one of some types, and of its others.
func switchSources(types []uint64, others map[string]Source) map[string]Source {
	all := map[string]Source{
		"MAC_SOURCE_ADDRESS":           filled(SlotMACLocal, "the frame"),
		"MAC_DESTINATION_ADDRESS":      filled(SlotMACRemote, "the frame"),
		"MAC_SOURCE_ADDRESS_TYPE":      filled(SlotMACLocalType, "the frame (DL_ADDRESS_TYPE)"),
		"MAC_DESTINATION_ADDRESS_TYPE": filled(SlotMACRemoteType, "the frame (DL_ADDRESS_TYPE)"),
		"VLAN_ID":                      filled(SlotSwitchVLAN, "the frame's VLAN tag, whole; empty without one, also in a port's own VLAN"),

		"IP_SOURCE_ADDRESS":      filled(SlotLocalAddress, fromPacket),
		"IP_DESTINATION_ADDRESS": filled(SlotRemoteAddress, fromPacket),
		"IP_PROTOCOL":            filled(SlotProtocol, fromPacket),
		"IP_SOURCE_PORT":         filled(SlotLocalPort, fromPacket+": of ICMP the type; empty for protocols without ports and later fragments"),
		"IP_DESTINATION_PORT":    filled(SlotRemotePort, fromPacket+": of ICMP the code; empty for protocols without ports and later fragments"),

		"VSWITCH_ID": filled(SlotSwitch, "the name of the bridge"),
		"VSWITCH_NETWORK_TYPE": {
			Kind: Filled, Slot: SlotSwitchNetwork, Only: []uint64{2, 3},
			From: "the bridge's ports: external where one leads out of the host, else internal",
		},
		"VSWITCH_SOURCE_INTERFACE_ID":   filled(SlotSourcePortID, "the name of the port that the frame came in by; of what the host sends, of the bridge"),
		"VSWITCH_SOURCE_INTERFACE_TYPE": nicType(SlotSourceInterfaceType, "the link that the frame came in by", types...),
		"VSWITCH_SOURCE_VM_ID":          refused(whyGuest),
		"VSWITCH_TENANT_NETWORK_ID":     refused("a Linux bridge has no tenant networks"),
	}
	maps.Copy(all, others)
	return all
}

// transportSources are those of a transport layer, which sees every protocol.
func transportSources(flags Source) map[string]Source {
	return map[string]Source{
		"FLAGS":          flags,
		"IP_PROTOCOL":    filled(SlotProtocol, fromPacket),
		"IP_LOCAL_PORT":  filled(SlotLocalPort, fromPacket+": of ICMP the type; empty for protocols without ports"),
		"IP_REMOTE_PORT": filled(SlotRemotePort, fromPacket+": of ICMP the code; empty for protocols without ports"),

		"IPSEC_SECURITY_REALM_ID": never(whyIPsec),
	}
}

// errorSources are those of a layer of ICMP errors, and what it has besides.
func errorSources(more map[string]Source) map[string]Source {
	s := map[string]Source{
		"FLAGS":          flags(0x1, "the packet: IS_LOOPBACK"),
		"IP_LOCAL_PORT":  filled(SlotLocalPort, "the error's type"),
		"IP_REMOTE_PORT": filled(SlotRemotePort, "the error's code"),
	}
	maps.Copy(s, more)
	return s
}

// Source says where the value of a field comes from at this layer. For a layer
// that does not run the answer is Refused.
func (l *Layer) Source(key string) Source {
	if l.Hook().Reserved {
		return never("the layer is reserved and never classified")
	}
	if !l.Hook().Live {
		return refused("the layer does not run yet")
	}
	key = CanonicalKey(key)
	at := l.ID
	if of := l.DiscardOf(); of != nil {
		at = of.ID
	}
	if s, ok := sourcesAt[at][key]; ok {
		return s
	}
	if s, ok := sources[key]; ok {
		return s
	}
	return refused("its meaning is not published")
}
