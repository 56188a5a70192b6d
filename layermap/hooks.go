// SPDX-License-Identifier: Apache-2.0

package layermap

import "strings"

// Fidelity says how a layer's Linux hook compares with its place in Windows.
type Fidelity uint8

const (
	Exact        Fidelity = iota // same point of the path, same view
	Close                        // a difference, named in Hook.Differs
	UserModeOnly                 // classified by a process, as user-mode layers are in Windows
	None                         // no hook: filters at the layer are refused
)

// String returns "exact", "close", "user mode" or "none".
func (f Fidelity) String() string { return [...]string{"exact", "close", "user mode", "none"}[f] }

// Hook is where a layer sits on Linux.
type Hook struct {
	Name      string   // the kernel hook, in the words of Linux
	Program   string   // BPF program types, or "user space"
	Fidelity  Fidelity // how near that is to Windows
	Differs   string   // what a Windows person would see differently; empty for nothing
	MinKernel string   // least kernel on which the layer can be enforced; empty for none
	Live      bool     // enforced by this version
	Reserved  bool     // takes filters, and no traffic comes to it, as in Windows
}

// baseKernel is the oldest kernel that any program of ours is tried on. A hook
// that is newer has a fallback for it, which Differs names.
const baseKernel = "6.1"

// netfilterKernel is the first with BPF links at netfilter's hooks. Its layers
// have no fallback: what an older kernel could do instead sees no packet without
// a socket, and so no ping, which would pass unseen.
const netfilterKernel = "6.4"

// resetKernel is the first whose tcp_send_reset tells of packets without a socket.
const resetKernel = "6.10"

// discardHook makes the row of a discard layer of packets; where names the part of the
// stack it reports on, kernel the first on which that can block.
func discardHook(where, kernel string) Hook {
	return Hook{
		Name: "own blocks", Program: "as the layer's own", Fidelity: Close,
		Differs:   "of " + where + " what a filter blocks is seen; what the kernel itself drops is not seen here",
		MinKernel: kernel, Live: true,
	}
}

// dropHook makes the row of a discard layer at which the kernel's drops are seen, too.
func dropHook(where, kernel, unlike string) Hook {
	h := discardHook(where, kernel)
	h.Name, h.Program = "own blocks; tp_btf/kfree_skb", "as the layer's own, tracing"
	h.Differs = kernelDrops(where, unlike)
	return h
}

// kernelDrops says which drops of the kernel are seen at the discard layer of a part of
// the stack.
func kernelDrops(where, unlike string) string {
	return "of the kernel's drops those are seen whose drop reason belongs to " + where + ": " + unlike + "; " + whatDropsHide
}

// whatDropsHide is what cannot be seen of the kernel's drops at any layer.
const whatDropsHide = "a drop of the kernel is a fact, which a permit does not change; drops that the kernel gives no reason for are not seen, " +
	"nor are those of other programs at netfilter, tc, XDP and the sockets, nor one that interrupts another"

// aleDiscardHook makes the row of an ALE discard layer: what is refused there
// is a request of a socket, and only the engine itself refuses those.
func aleDiscardHook(what string) Hook {
	return Hook{
		Name: "own blocks", Program: "as the layer's own", Fidelity: Close,
		Differs:   what + " that the kernel itself refuses are not seen",
		MinKernel: baseKernel, Live: true,
	}
}

// reauthorisation is what differs when a flow is judged again.
const reauthorisation = "a change of the layer's filters is the one reason to judge a flow again: not another interface, profile or IPsec; " +
	"a TCP connection that is blocked then carries nothing more, and ends by time-out; " +
	"flows older than the engine are not judged again, since where they were authorised is not known"

// How a Linux bridge differs from the virtual switch of Hyper-V. The host's own link is
// the bridge itself, which is no port.
const (
	whatHostSends   = "what the host itself sends into the bridge is seen at egress only"
	whatHostTakes   = "what goes to the host itself is seen at ingress only"
	switchedPackets = "trunk ports are judged, too; only the first fragment has ports; behind two VLAN tags nothing is an IP packet"
)

// switchHook makes the row of a layer of the virtual switch, a Linux bridge.
func switchHook(side, differs string) Hook {
	return Hook{
		Name: "tcx " + side + " of a bridge's ports (below 6.6 clsact)", Program: "sched_cls", Fidelity: Close,
		Differs: differs, MinKernel: baseKernel, Live: true,
	}
}

// noHook makes the row of a layer that cannot be had, with the reason.
func noHook(why string) Hook { return Hook{Name: "none", Fidelity: None, Differs: why} }

// hooks has one row a layer, keyed by hookKey: V4 and V6 share a row.
var hooks = map[string]Hook{
	// MAC frames
	"INBOUND_MAC_FRAME_NATIVE": {
		Name: "XDP, driver mode where the NIC has it", Program: "xdp", Fidelity: Exact, MinKernel: baseKernel, Live: true,
	},
	"INBOUND_MAC_FRAME_ETHERNET": {
		Name: "tcx ingress, first in the chain (below 6.6 clsact)", Program: "sched_cls", Fidelity: Exact, MinKernel: baseKernel, Live: true,
	},
	"OUTBOUND_MAC_FRAME_ETHERNET": {
		Name: "tcx egress (below 6.6 clsact)", Program: "sched_cls", Fidelity: Exact, MinKernel: baseKernel, Live: true,
	},
	"OUTBOUND_MAC_FRAME_NATIVE": {
		Name: "tcx egress, last in the chain (below 6.6 clsact)", Program: "sched_cls", Fidelity: Close,
		Differs: "before the qdisc, not at the driver", MinKernel: baseKernel, Live: true,
	},
	"INBOUND_MAC_FRAME_NATIVE_FAST":  noHook("no fields and no static filters in Windows either"),
	"OUTBOUND_MAC_FRAME_NATIVE_FAST": noHook("no fields and no static filters in Windows either"),

	// Virtual switch
	"INGRESS_VSWITCH_ETHERNET":  switchHook("ingress", whatHostSends),
	"EGRESS_VSWITCH_ETHERNET":   switchHook("egress", whatHostTakes),
	"INGRESS_VSWITCH_TRANSPORT": switchHook("ingress", whatHostSends+"; "+switchedPackets),
	"EGRESS_VSWITCH_TRANSPORT":  switchHook("egress", whatHostTakes+"; "+switchedPackets),

	// Network
	"INBOUND_IPPACKET": {
		Name: "tcx ingress, after the frame layers (below 6.6 clsact)", Program: "sched_cls", Fidelity: Close,
		Differs:   "each fragment is seen once; WFP shows fragments again, and the whole once reassembled",
		MinKernel: baseKernel, Live: true,
	},
	"INBOUND_IPPACKET_DISCARD": {
		Name:    "own blocks; tp_btf/kfree_skb; UDP without an endpoint at netfilter LOCAL_OUT (6.4), when its port unreachable is about to leave",
		Program: "sched_cls, netfilter, tracing", Fidelity: Close,
		Differs: "of datagrams to closed ports those are seen that the kernel answers (it limits how many); " +
			"their interface is the one by which the answer leaves; what other firewalls reject as port unreachable is taken for one; " +
			kernelDrops("the network layer's receive path",
				"all fragments that cannot be put together have one reason; on 6.12 and before bad addresses have none"),
		MinKernel: baseKernel, Live: true,
	},
	"OUTBOUND_IPPACKET": {
		Name: "tcx egress, before the frame layers (below 6.6 clsact)", Program: "sched_cls", Fidelity: Close,
		Differs:   "sees the fragments; WFP sees the packet just before it is fragmented",
		MinKernel: baseKernel, Live: true,
	},
	"OUTBOUND_IPPACKET_DISCARD": dropHook("the network layer's send path", baseKernel,
		"full queues of links, too; of an IPv6 neighbour that does not answer there is none"),
	"IPFORWARD": {
		Name: "netfilter FORWARD", Program: "netfilter", Fidelity: Close,
		Differs: "a packet to or from an address of the host is forwarded, and seen, only where routes or rules lead it on; " +
			"fragments have IS_FRAGMENT and form no groups; where connections are tracked, packets are whole again; " +
			"with br_netfilter what a bridge passes on is seen, too",
		MinKernel: netfilterKernel, Live: true,
	},
	"IPFORWARD_DISCARD": dropHook("forwarding", netfilterKernel,
		"of an IPv6 neighbour that does not answer there is none; what a host that does not forward gets for others is seen at INBOUND_IPPACKET"),

	// Transport
	"INBOUND_TRANSPORT": {
		Name: "netfilter LOCAL_IN", Program: "netfilter", Fidelity: Exact,
		Differs:   "the first fragment stands for an IPv6 datagram; packets to closed ports are seen, too",
		MinKernel: netfilterKernel, Live: true,
	},
	"INBOUND_TRANSPORT_DISCARD": {
		Name:    "own blocks; tp_btf/kfree_skb; TCP without an endpoint at tp_btf/tcp_send_reset, and its RST at netfilter LOCAL_OUT",
		Program: "netfilter, tracing", Fidelity: Close,
		Differs: "of TCP packets to closed ports those are seen that a RST would answer; they have been to INBOUND_TRANSPORT, too; " +
			kernelDrops("the transport layer's receive path",
				"want of room and security modules are the network's reasons; of a TCP segment's flags it is not told whether they were a listener's; "+
					"a reset that is obeyed is seen, too; below 6.11 TCP's drops of data are not seen; ICMP errors are seen here"),
		MinKernel: resetKernel, Live: true,
	},
	"OUTBOUND_TRANSPORT": {
		Name: "netfilter LOCAL_OUT", Program: "netfilter", Fidelity: Exact, MinKernel: netfilterKernel, Live: true,
	},
	"OUTBOUND_TRANSPORT_DISCARD": dropHook("the transport layer's send path", netfilterKernel,
		"an IPv4 connection whose route is gone; of IPv6 there is none"),
	"INBOUND_TRANSPORT_FAST":  noHook("no fields and no static filters in Windows either"),
	"OUTBOUND_TRANSPORT_FAST": noHook("no fields and no static filters in Windows either"),
	"INBOUND_ICMP_ERROR": {
		Name: "netfilter LOCAL_IN", Program: "netfilter", Fidelity: Exact,
		Differs:   "after INBOUND_TRANSPORT, as all else that arrives; Windows does not say whether errors pass it",
		MinKernel: netfilterKernel, Live: true,
	},
	"INBOUND_ICMP_ERROR_DISCARD": discardHook("received ICMP errors", netfilterKernel),
	"OUTBOUND_ICMP_ERROR": {
		Name: "netfilter LOCAL_OUT", Program: "netfilter", Fidelity: Exact,
		Differs:   "sees errors that a raw socket sends, too",
		MinKernel: netfilterKernel, Live: true,
	},
	"OUTBOUND_ICMP_ERROR_DISCARD": discardHook("sent ICMP errors", netfilterKernel),
	"STREAM_PACKET": {
		Name: "netfilter LOCAL_IN and LOCAL_OUT", Program: "netfilter", Fidelity: Close,
		Differs:   "a packet that comes in is seen before ALE_AUTH_RECV_ACCEPT, not behind it; packets of no connection are seen, too: to closed ports, and the answers",
		MinKernel: netfilterKernel, Live: true,
	},

	// Data
	"STREAM": {
		Name: "sockmap", Program: "sk_msg, sk_skb, sock_ops", Fidelity: Exact,
		Differs: "exact for the bytes; segment borders can move", MinKernel: baseKernel,
	},
	"STREAM_DISCARD": {
		Name: "none", Program: "none", Fidelity: Exact,
		Differs: "reserved, as in Windows: takes filters and is never classified", MinKernel: baseKernel, Reserved: true,
	},
	"DATAGRAM_DATA": {
		Name: "netfilter LOCAL_OUT; inbound UDP at cgroup ingress, other protocols at netfilter LOCAL_IN", Program: "cgroup_skb, netfilter", Fidelity: Exact,
		Differs: "datagrams to the kernel's own UDP sockets, such as those of tunnels, are not seen; each socket that gets a copy of a UDP datagram is judged; " +
			"of other protocols the first fragment stands for an IPv6 datagram, and what no socket takes is seen, too",
		MinKernel: netfilterKernel, Live: true,
	},
	"DATAGRAM_DATA_DISCARD": discardHook("datagrams", netfilterKernel),

	// Application layer enforcement
	"ALE_RESOURCE_ASSIGNMENT": {
		Name: "cgroup bind, post_bind, sock_create; implicit binds at connect, sendmsg and listen", Program: "cgroup_sock_addr, cgroup_sock, sock_ops, cgroup_sockopt", Fidelity: Exact,
		Differs: "raw sockets are judged when made, not when bound; ping sockets are not judged; " +
			"where conditions tell ephemeral ports apart, a connect that binds is judged once the port is picked, behind ALE_AUTH_CONNECT, and a block drops its packets; " +
			"listen() that binds cannot be made to fail, and a blocked listener gets no connections; " +
			"promiscuous mode is asked for by packet sockets, which see their host's frames without it and are not judged as such; " +
			"a packet socket is of both families and has neither address nor protocol; what 32-bit programs ask for on a 64-bit kernel is not seen, nor a link made promiscuous by its administrator",
		MinKernel: baseKernel, Live: true,
	},
	"ALE_RESOURCE_ASSIGNMENT_DISCARD": aleDiscardHook("assignments"),
	"ALE_RESOURCE_RELEASE": {
		Name: "cgroup sock_release; TCP when its connection has ended, at tp_btf/inet_sock_set_state", Program: "cgroup_sock, tracing", Fidelity: Close,
		Differs: "a block is counted and reported, and the address is released; an MPTCP socket's comes before the closures of its subflows; " +
			"a TCP socket that is older than the engine has none unless a call bound it to a port, an MPTCP one has none at all",
		MinKernel: baseKernel, Live: true,
	},
	"ALE_BIND_REDIRECT": {
		Name: "cgroup bind, getsockname", Program: "cgroup_sock_addr", Fidelity: Close,
		Differs: "implicit binds are not redirected; of redirecting filters in several sublayers the first stands; " +
			"what a listener accepts has the local end that it is given",
		MinKernel: baseKernel, Live: true,
	},
	"ALE_AUTH_LISTEN": {
		Name: "LSM socket_listen; sock_ops TCP_LISTEN_CB where LSM programs are refused, and for what listen() binds", Program: "lsm, sock_ops, cgroup_skb", Fidelity: Exact,
		Differs: "a socket that listen() itself binds is judged once its port is picked, and without LSM programs every one is: " +
			"close then, listen() succeeds, and a blocked listener gets no connections; sockets that listen on both families are IPv6",
		MinKernel: baseKernel, Live: true,
	},
	"ALE_AUTH_LISTEN_DISCARD": aleDiscardHook("listens"),
	"ALE_CONNECT_REDIRECT": {
		Name: "cgroup connect, sendmsg, recvmsg, getpeername, getsockopt; sock_ops", Program: "cgroup_sock_addr, cgroup_sockopt, sock_ops", Fidelity: Close,
		Differs: "TCP and UDP alone; a port that an implicit bind has yet to choose is empty; a mapped address is judged at V4; " +
			"of redirecting filters in several sublayers the first stands; ALE_AUTH_CONNECT sees the new destination only; " +
			"of one UDP socket's datagrams to several destinations that lead to one, answers come from the last",
		MinKernel: baseKernel, Live: true,
	},
	"ALE_AUTH_CONNECT": {
		Name: "cgroup connect, sendmsg; reauthorisation at cgroup egress and ingress", Program: "cgroup_sock_addr, cgroup_skb", Fidelity: Close,
		Differs: "only TCP and UDP are judged; a UDP socket that is connected is judged when it connects, not when it first sends; a call has no packet yet, so that its event has no data offset; " +
			reauthorisation,
		MinKernel: baseKernel, Live: true,
	},
	"ALE_AUTH_CONNECT_DISCARD": aleDiscardHook("connects"),
	"ALE_AUTH_RECV_ACCEPT": {
		Name: "cgroup ingress, on the first packet", Program: "cgroup_skb", Fidelity: Close,
		Differs:   "only TCP and UDP are judged; the identity is the listening socket's; " + reauthorisation,
		MinKernel: baseKernel, Live: true,
	},
	"ALE_AUTH_RECV_ACCEPT_DISCARD": aleDiscardHook("arrivals"),
	"ALE_FLOW_ESTABLISHED": {
		Name: "sock_ops ACTIVE_ESTABLISHED_CB, PASSIVE_ESTABLISHED_CB; UDP at cgroup egress and ingress, on the first packet", Program: "sock_ops, cgroup_skb", Fidelity: Close,
		Differs: "what a program sends first is judged behind OUTBOUND_TRANSPORT; " +
			"a TCP connection that is blocked is cut off: nothing more comes through but data in the last packet of the handshake, " +
			"the program's end times out within some seconds, the peer is not told; the identity of an inbound flow is the listening socket's; " +
			"flows older than the engine are not judged",
		MinKernel: baseKernel, Live: true,
	},
	"ALE_FLOW_ESTABLISHED_DISCARD": aleDiscardHook("flows"),
	"ALE_ENDPOINT_CLOSURE": {
		Name: "tp_btf/inet_sock_set_state; UDP and raw at cgroup sock_release", Program: "tracing, cgroup_sock", Fidelity: Close,
		Differs:   "a block is counted and reported, and the endpoint closes; ping sockets are not judged",
		MinKernel: baseKernel, Live: true,
	},

	// Names, and what Windows keeps to itself
	"NAME_RESOLUTION_CACHE": {
		Name: "cgroup ingress, DNS answers", Program: "cgroup_skb, user space", Fidelity: Close,
		Differs: "what was resolved on the wire, for its TTL; there is no system cache", MinKernel: baseKernel,
	},
	"INBOUND_RESERVED2":                  noHook("reserved in Windows (its HTTP server's)"),
	"RESERVED_LAYER_9":                   noHook("reserved in Windows"),
	"RESERVED_LAYER_10":                  noHook("reserved in Windows"),
	"RESERVED1":                          noHook("not supported in Windows either: refused with WFP's error"),
	"OUTBOUND_NETWORK_CONNECTION_POLICY": noHook("chooses the interface of a connection, which Linux leaves to routing"),

	// User mode
	"IPSEC_KM_DEMUX": {
		Name: "XFRM netlink acquire, IKE daemon (vici)", Program: "user space", Fidelity: UserModeOnly,
		Differs: "the IKE daemon chooses among its own connections", MinKernel: baseKernel,
	},
	"IPSEC": {
		Name: "XFRM netlink, IKE daemon (vici)", Program: "user space", Fidelity: UserModeOnly,
		Differs: "quick mode policy is the daemon's child configuration", MinKernel: baseKernel,
	},
	"IKEEXT": {
		Name: "IKE daemon (vici)", Program: "user space", Fidelity: UserModeOnly,
		Differs: "main mode policy is the daemon's connection", MinKernel: baseKernel,
	},
	"KM_AUTHORIZATION": {
		Name: "IKE daemon (vici), XFRM netlink", Program: "user space", Fidelity: UserModeOnly,
		Differs: "an association is taken down when refused, not held back", MinKernel: baseKernel,
	},
	"RPC_UM":         rpcHook("interfaces and calls"),
	"RPC_EPMAP":      rpcHook("endpoint mapper calls"),
	"RPC_EP_ADD":     rpcHook("endpoint registrations"),
	"RPC_PROXY_CONN": rpcHook("proxy connections"),
	"RPC_PROXY_IF":   rpcHook("proxied interfaces"),
}

// rpcHook makes the row of an RPC layer: DCE/RPC is read off the stream,
// since no RPC runtime of Linux can be asked.
func rpcHook(what string) Hook {
	return Hook{
		Name: "DCE/RPC on the stream", Program: "user space", Fidelity: UserModeOnly,
		Differs: what + " as read from the wire: nothing of encrypted calls", MinKernel: baseKernel,
	}
}

// hookKey is a layer's name without its family.
func hookKey(name string) string {
	base, discard := strings.CutSuffix(name, "_DISCARD")
	if b, ok := strings.CutSuffix(base, "_V4"); ok {
		base = b
	} else if b, ok := strings.CutSuffix(base, "_V6"); ok {
		base = b
	}
	if discard {
		base += "_DISCARD"
	}
	return base
}

// Hook returns where the layer sits on Linux. A layer without a hook answers
// Fidelity None and says why in Differs.
func (l *Layer) Hook() Hook {
	h, ok := hooks[hookKey(l.Name)]
	if !ok {
		return noHook("no row in the table of hooks")
	}
	return h
}
