// SPDX-License-Identifier: Apache-2.0

package layermap

import (
	"fmt"
	"strings"
)

// DropStage is how far a packet had come when the kernel dropped it.
type DropStage uint8

// The order is that of the BPF programs (enum wfp_drop_stage).
const (
	DropArrived   DropStage = iota // it came in, and was not routed yet
	DropDelivered                  // it came in and was for this host
	DropForwarded                  // it came in and was to be passed on
	DropSent                       // this host sent it
	DropStages
)

// String returns "arrived", "delivered", "forwarded" or "sent".
func (s DropStage) String() string {
	return [...]string{"arrived", "delivered", "forwarded", "sent"}[s]
}

// DiscardReason is a reason of WFP's discard metadata: who discarded, and why.
type DiscardReason struct {
	Module DiscardModule
	Number uint32
}

// String returns module and name, such as "network HopLimitExceeded".
func (r DiscardReason) String() string {
	return fmt.Sprintf("%s %s", r.Module, r.Module.Reason(r.Number))
}

// Discard is what WFP says of a drop: the layer, as the table of hooks names it, and the
// reason. One without a layer says that WFP has none for it.
type Discard struct {
	Layer  string
	Reason DiscardReason
}

// V4 and V6 are the ids of the layer of a family.
func (d Discard) V4() LayerID { return d.id("_V4_DISCARD") }
func (d Discard) V6() LayerID { return d.id("_V6_DISCARD") }

func (d Discard) id(suffix string) LayerID {
	return ByName(strings.TrimSuffix(d.Layer, "_DISCARD") + suffix).ID
}

// Drop is what a drop reason of the kernel (enum skb_drop_reason) is to WFP.
type Drop struct {
	At [DropStages]Discard
	// Queued packets lie in a socket's queue and say no more by which link they came.
	Queued bool
	// Why says why it is no discard of WFP's, or what the choice rests on.
	Why string
}

// Discards reports whether WFP has a discard for it.
func (d Drop) Discards() bool { return d.At != [DropStages]Discard{} }

// DropReason finds a drop reason by its name in the kernel, such as
// SKB_DROP_REASON_IP_CSUM. What it is called stays the same, its number does not.
func DropReason(name string) (Drop, bool) {
	d, ok := drops[ShortDropReason(name)]
	return d, ok
}

// ShortDropReason is the name of a drop reason without what the kernel puts before all.
func ShortDropReason(name string) string {
	if short, ok := strings.CutPrefix(name, "SKB_DROP_REASON_"); ok {
		return short
	}
	return strings.TrimPrefix(name, "SKB_")
}

// DropReasons calls fn for each drop reason that is known, by its short name.
func DropReasons(fn func(name string, d Drop)) {
	for name, d := range drops {
		fn(name, d)
	}
}

// Layers of kernel drops, by their rows in the table of hooks.
const (
	inPacket     = "INBOUND_IPPACKET_DISCARD"
	outPacket    = "OUTBOUND_IPPACKET_DISCARD"
	onward       = "IPFORWARD_DISCARD"
	inTransport  = "INBOUND_TRANSPORT_DISCARD"
	outTransport = "OUTBOUND_TRANSPORT_DISCARD"
)

// Reasons that kernel drops have.
var (
	badSourceAddress           = DiscardReason{DiscardNetwork, 1}
	notLocallyDestined         = DiscardReason{DiscardNetwork, 2}
	protocolUnreachable        = DiscardReason{DiscardNetwork, 3}
	badLength                  = DiscardReason{DiscardNetwork, 5}
	malformedHeader            = DiscardReason{DiscardNetwork, 6}
	noRoute                    = DiscardReason{DiscardNetwork, 7}
	beyondScope                = DiscardReason{DiscardNetwork, 8}
	inspectionDrop             = DiscardReason{DiscardNetwork, 9}
	badChecksum                = DiscardReason{DiscardNetwork, 12}
	hopLimitExceeded           = DiscardReason{DiscardNetwork, 128}
	dontFragmentMTUExceeded    = DiscardReason{DiscardNetwork, 258}
	addressResolutionFailure   = DiscardReason{DiscardNetwork, 261}
	ipsecFailure               = DiscardReason{DiscardNetwork, 262}
	extensionHeadersFailure    = DiscardReason{DiscardNetwork, 263}
	allocationFailure          = DiscardReason{DiscardNetwork, 264}
	unsupportedOffload         = DiscardReason{DiscardNetwork, 266}
	sessionStateFailure        = DiscardReason{DiscardNetwork, 270}
	internalError              = DiscardReason{DiscardNetwork, 284}
	administrativelyConfigured = DiscardReason{DiscardNetwork, 285}
	queueFull                  = DiscardReason{DiscardNetwork, 289}
	interfaceDisabled          = DiscardReason{DiscardNetwork, 290}

	destinationMulticast = DiscardReason{DiscardTransport, 1}
	headerInvalid        = DiscardReason{DiscardTransport, 2}
	checksumInvalid      = DiscardReason{DiscardTransport, 3}
	endpointNotFound     = DiscardReason{DiscardTransport, 4}
	sessionState         = DiscardReason{DiscardTransport, 6}
	ackInvalid           = DiscardReason{DiscardTransport, 8}
	rst                  = DiscardReason{DiscardTransport, 10}
	pawsFailed           = DiscardReason{DiscardTransport, 13}
	outsideWindow        = DiscardReason{DiscardTransport, 16}
	duplicateSegment     = DiscardReason{DiscardTransport, 17}
	closedWindow         = DiscardReason{DiscardTransport, 18}
	tcbRemoved           = DiscardReason{DiscardTransport, 19}
	finWait2             = DiscardReason{DiscardTransport, 20}
	pauseAccept          = DiscardReason{DiscardTransport, 30}
)

func at(r DiscardReason, layer string, stages ...DropStage) (d Drop) {
	for _, s := range stages {
		d.At[s] = Discard{layer, r}
	}
	return d
}

func arrived(layer string, r DiscardReason) Drop   { return at(r, layer, DropArrived) }
func delivered(layer string, r DiscardReason) Drop { return at(r, layer, DropDelivered) }
func sent(layer string, r DiscardReason) Drop      { return at(r, layer, DropSent) }
func forward(r DiscardReason) Drop                 { return at(r, onward, DropForwarded) }

// in is a discard of the network layer's receive path. On loopback a packet is routed
// when it arrives.
func in(r DiscardReason) Drop { return at(r, inPacket, DropArrived, DropDelivered) }

// everyIn is one that comes before packets go different ways.
func everyIn(layer string, r DiscardReason) Drop {
	return at(r, layer, DropArrived, DropDelivered, DropForwarded)
}

// up is a discard of the transport layer's receive path; what a connection has taken
// says no more how it was routed.
func up(r DiscardReason) Drop { return at(r, inTransport, DropArrived, DropDelivered) }

// toNeighbour is one on the way to the next hop, before OUTBOUND_IPPACKET: what is
// passed on has got no further than IPFORWARD.
func toNeighbour(r DiscardReason) Drop { return join(forward(r), sent(outPacket, r)) }

// atDevice is one behind OUTBOUND_IPPACKET, which what is passed on has gone through, too,
// and what a bridge passes on. There a packet has its route no more.
func atDevice(r DiscardReason) Drop { return at(r, outPacket, DropArrived, DropForwarded, DropSent) }

func join(list ...Drop) (d Drop) {
	for _, other := range list {
		for s, discard := range other.At {
			if discard != (Discard{}) {
				d.At[s] = discard
			}
		}
	}
	return d
}

func queued(d Drop) Drop {
	d.Queued = true
	return d
}

func because(d Drop, why string) Drop {
	d.Why = why
	return d
}

func none(why string) Drop { return Drop{Why: why} }

const (
	whyHook = "may be a block of this project's own, which is classified already; what other programs at the hook drop is not told from it"
	whyLink = "a link's own: WFP has no discard layer for frames"
	whyUnix = "not of a network"
)

// drops is keyed by the names of Linux 6.1 to 6.18 without SKB_DROP_REASON_ (or SKB_).
// Network reasons below 127 are WFP's for its receive path, from 128 on for forwarding,
// from 256 on for any.
var drops = map[string]Drop{
	// What says nothing of a drop.
	"NOT_DROPPED_YET": none("not a reason: nothing is dropped"),
	"CONSUMED":        none("the packet came to its end as it should"),
	"NOT_SPECIFIED":   none("the kernel does not say why; older kernels say so of many drops"),
	"MAX":             none("not a reason: their number"),
	"SUBSYS_MASK":     none("not a reason: a mask"),

	// No endpoint: classified when the answer is about to leave, so that it can be kept back.
	"NO_SOCKET": none("a closed port is seen by the answer that is about to leave"),

	// Programs at hooks, which may be this project's own.
	"NETFILTER_DROP":    none(whyHook),
	"SOCKET_FILTER":     none(whyHook),
	"BPF_CGROUP_EGRESS": none(whyHook),
	"TC_INGRESS":        none(whyHook),
	"TC_EGRESS":         none(whyHook),
	"XDP":               none(whyHook),

	// The IP header, before the packet is routed.
	"IP_CSUM":                 in(badChecksum),
	"IP_INHDR":                because(join(in(malformedHeader), forward(hopLimitExceeded)), "of a packet that is passed on the kernel says so of its TTL only"),
	"PKT_TOO_SMALL":           because(join(arrived(inPacket, badLength), delivered(inTransport, headerInvalid)), "the IP header's length, then that of the header above"),
	"IP_LOCAL_SOURCE":         in(badSourceAddress),
	"IP_INVALID_SOURCE":       in(badSourceAddress),
	"IP_RPFILTER":             because(in(badSourceAddress), "answers would go out by another link"),
	"IP_LOCALNET":             because(in(beyondScope), "an address of 127.0.0.0/8 does not come from a link"),
	"IP_INVALID_DEST":         because(in(notLocallyDestined), "no address, such as 0.0.0.0"),
	"IP_INADDRERRORS":         because(everyIn(inPacket, notLocallyDestined), "also an IPv6 source that may not be passed on: the kernel says the same of it"),
	"IP_INNOROUTES":           in(noRoute),
	"OTHERHOST":               because(in(notLocallyDestined), "the frame is for another host"),
	"UNICAST_IN_L2_MULTICAST": because(everyIn(inPacket, administrativelyConfigured), "a setting forbids it: drop_unicast_in_l2_multicast"),
	"IPV6DISABLED":            join(in(interfaceDisabled), sent(outPacket, interfaceDisabled)),
	"IPV6_BAD_EXTHDR":         everyIn(inPacket, extensionHeadersFailure),
	"PFMEMALLOC":              in(allocationFailure),

	// Reassembly: WFP has no reason of its own for it.
	"DUP_FRAG":           in(sessionStateFailure),
	"FRAG_REASM_TIMEOUT": in(sessionStateFailure),
	"FRAG_TOO_FAR":       in(sessionStateFailure),

	// What is passed on, and what goes out.
	"PKT_TOO_BIG":        join(forward(dontFragmentMTUExceeded), sent(outPacket, dontFragmentMTUExceeded)),
	"NEIGH_CREATEFAIL":   toNeighbour(addressResolutionFailure),
	"NEIGH_FAILED":       toNeighbour(addressResolutionFailure),
	"NEIGH_DEAD":         toNeighbour(addressResolutionFailure),
	"NEIGH_HH_FILLFAIL":  toNeighbour(addressResolutionFailure),
	"NEIGH_QUEUEFULL":    toNeighbour(queueFull),
	"IP_OUTNOROUTES":     because(join(in(noRoute), sent(outTransport, noRoute)), "the route is looked for before OUTBOUND_IPPACKET"),
	"QDISC_DROP":         atDevice(queueFull),
	"QDISC_OVERLIMIT":    atDevice(queueFull),
	"QDISC_CONGESTED":    atDevice(queueFull),
	"CAKE_FLOOD":         atDevice(queueFull),
	"FQ_BAND_LIMIT":      atDevice(queueFull),
	"FQ_HORIZON_LIMIT":   atDevice(queueFull),
	"FQ_FLOW_LIMIT":      atDevice(queueFull),
	"DUALPI2_STEP_DROP":  atDevice(queueFull),
	"SKB_CSUM":           atDevice(internalError),
	"SKB_GSO_SEG":        atDevice(unsupportedOffload),
	"RECURSION_LIMIT":    because(atDevice(internalError), "links that lie on each other in a circle"),
	"TC_COOKIE_ERROR":    because(sent(outPacket, internalError), "of what came in it is not told on which side of the host it was"),
	"TC_CHAIN_NOTFOUND":  because(sent(outPacket, internalError), "of what came in it is not told on which side of the host it was"),
	"TC_RECLASSIFY_LOOP": because(sent(outPacket, internalError), "of what came in it is not told on which side of the host it was"),

	// IPsec and PSP.
	"XFRM_POLICY": join(in(ipsecFailure), forward(ipsecFailure), sent(outPacket, ipsecFailure)),
	"PSP_INPUT":   because(up(ipsecFailure), "like IPsec, but of one connection"),
	"PSP_OUTPUT":  because(sent(outTransport, ipsecFailure), "like IPsec, but of one connection"),

	// Delivery to a protocol and a socket. WFP's transport module has no reason for want of
	// room: the network's stands for it.
	"IP_NOPROTO":              in(protocolUnreachable),
	"UNHANDLED_PROTO":         because(join(arrived(inPacket, malformedHeader), delivered(inTransport, endpointNotFound)), "an IPv6 packet of another version, and an ICMP type that nobody handles; other frames are no IP packets"),
	"INVALID_PROTO":           because(delivered(inTransport, destinationMulticast), "ICMP that may not be sent to many"),
	"TCP_CSUM":                up(checksumInvalid),
	"UDP_CSUM":                up(checksumInvalid),
	"ICMP_CSUM":               up(checksumInvalid),
	"SOCKET_RCVBUFF":          up(queueFull),
	"SOCKET_BACKLOG":          up(queueFull),
	"PROTO_MEM":               up(allocationFailure),
	"NOMEM":                   join(arrived(inPacket, allocationFailure), delivered(inTransport, allocationFailure), forward(allocationFailure), sent(outPacket, allocationFailure)),
	"SECURITY_HOOK":           because(up(inspectionDrop), "a Linux security module forbids it"),
	"TCP_MINTTL":              because(up(hopLimitExceeded), "fewer hops than the socket asks for (IP_MINTTL)"),
	"IPV6_NDISC_FRAG":         up(headerInvalid),
	"IPV6_NDISC_HOP_LIMIT":    up(headerInvalid),
	"IPV6_NDISC_BAD_CODE":     up(headerInvalid),
	"IPV6_NDISC_BAD_OPTIONS":  up(headerInvalid),
	"IPV6_NDISC_NS_OTHERHOST": none("a solicitation for a neighbour that shares the group of addresses"),

	// TCP.
	"TCP_AUTH_HDR":             up(headerInvalid),
	"TCP_MD5NOTFOUND":          up(headerInvalid),
	"TCP_MD5UNEXPECTED":        up(headerInvalid),
	"TCP_MD5FAILURE":           up(headerInvalid),
	"TCP_AONOTFOUND":           up(headerInvalid),
	"TCP_AOUNEXPECTED":         up(headerInvalid),
	"TCP_AOKEYNOTFOUND":        up(headerInvalid),
	"TCP_AOFAILURE":            up(headerInvalid),
	"TCP_FLAGS":                because(up(sessionState), "flags that do not fit the state; that it is a listener's is not told apart"),
	"TCP_INVALID_SYN":          up(sessionState),
	"TCP_FASTOPEN":             up(sessionState),
	"TCP_CLOSE":                up(tcbRemoved),
	"TCP_ABORT_ON_DATA":        because(up(finWait2), "data for a connection that the program has closed"),
	"TCP_ZEROWINDOW":           up(closedWindow),
	"TCP_OLD_DATA":             up(duplicateSegment),
	"TCP_OLD_SEQUENCE":         up(duplicateSegment),
	"TCP_OVERWINDOW":           up(outsideWindow),
	"TCP_INVALID_SEQUENCE":     up(outsideWindow),
	"TCP_INVALID_END_SEQUENCE": up(outsideWindow),
	"TCP_INVALID_ACK_SEQUENCE": up(ackInvalid),
	"TCP_OLD_ACK":              up(ackInvalid),
	"TCP_TOO_OLD_ACK":          up(ackInvalid),
	"TCP_ACK_UNSENT_DATA":      up(ackInvalid),
	"TCP_RFC7323_PAWS":         up(pawsFailed),
	"TCP_RFC7323_PAWS_ACK":     up(pawsFailed),
	"TCP_RFC7323_TW_PAWS":      up(pawsFailed),
	"TCP_RFC7323_TSECR":        up(pawsFailed),
	"TCP_RESET":                because(up(rst), "of a reset that is obeyed, too"),
	"TCP_LISTEN_OVERFLOW":      up(pauseAccept),
	"TCP_OFO_QUEUE_PRUNE":      because(queued(up(queueFull)), "out of order segments make room"),
	"TCP_OFOMERGE":             none("its bytes are in another segment, too, and nothing is lost"),
	"TCP_OFO_DROP":             none("its bytes have come in another segment, and nothing is lost"),

	// What a program does not read any more.
	"SOCKET_CLOSE":    none("delivered; the socket was closed before it was read"),
	"QUEUE_PURGE":     none("delivered, or a queue that was emptied on purpose"),
	"UNIX_DISCONNECT": none(whyUnix),
	"UNIX_SKIP_OOB":   none(whyUnix),

	// Links, below the network layer.
	"CPU_BACKLOG":              none(whyLink),
	"DEV_HDR":                  none(whyLink),
	"DEV_READY":                none(whyLink),
	"FULL_RING":                none(whyLink),
	"HDR_TRUNC":                none(whyLink),
	"TAP_FILTER":               none(whyLink),
	"TAP_TXFILTER":             none(whyLink),
	"SKB_BAD_GSO":              none(whyLink),
	"SKB_UCOPY_FAULT":          none(whyLink),
	"PACKET_SOCK_ERROR":        none("a packet socket's copy"),
	"VXLAN_INVALID_HDR":        none(whyLink),
	"VXLAN_VNI_NOT_FOUND":      none(whyLink),
	"VXLAN_ENTRY_EXISTS":       none(whyLink),
	"MAC_INVALID_SOURCE":       none(whyLink),
	"NO_TX_TARGET":             none(whyLink),
	"IP_TUNNEL_ECN":            none(whyLink),
	"TUNNEL_TXINFO":            none(whyLink),
	"LOCAL_MAC":                none(whyLink),
	"ARP_PVLAN_DISABLE":        none(whyLink),
	"MAC_IEEE_MAC_CONTROL":     none(whyLink),
	"BRIDGE_INGRESS_STP_STATE": none(whyLink),
	"CAN_RX_INVALID_FRAME":     none(whyLink),
	"CANFD_RX_INVALID_FRAME":   none(whyLink),
	"CANXL_RX_INVALID_FRAME":   none(whyLink),
}
