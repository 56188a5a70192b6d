// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/wfpebpf/wfpebpf/layermap"
)

// hookKind is how a program is attached.
type hookKind uint8

const (
	onCgroup hookKind = iota
	onTCX
	onPort // tcx, of the links that are ports of a bridge
	onXDP
	onLocalIn // netfilter, of the namespace
	onForward
	onLocalOut
	onAnswer  // LOCAL_OUT, before what judges there
	onTracing // a tracepoint of sockets, which sees every namespace and cgroup
	onDrop    // a tracepoint of packets, which have no cgroup
	onLSM     // likewise; where the kernel calls no program of ours the layer does without
)

// onLink reports whether there is an attachment of the hook at each link.
func (k hookKind) onLink() bool { return k.onTC() || k == onXDP }

// here reports whether the kernel has the hook at all, of those that a layer can do
// without.
func (k hookKind) here() bool {
	switch k {
	case onLSM:
		return refusedLSM() == nil
	case onAnswer:
		return haveNetfilterLinks()
	}
	return true
}

// onTC reports whether that is by tcx, below 6.6 by clsact.
func (k hookKind) onTC() bool { return k == onTCX || k == onPort }

// hook is one row of the attachment table: a program, where it goes, and the
// layers for which it is needed. A hook without filters at its layers is not
// attached.
type hook struct {
	name    string // of the pin
	program string
	kind    hookKind
	attach  ebpf.AttachType
	layers  []layermap.LayerID
}

var (
	assignment = []layermap.LayerID{layermap.ALEResourceAssignmentV4, layermap.ALEResourceAssignmentV6}
	connect    = []layermap.LayerID{layermap.ALEAuthConnectV4, layermap.ALEAuthConnectV6}
	listen     = []layermap.LayerID{layermap.ALEAuthListenV4, layermap.ALEAuthListenV6}
	accept     = []layermap.LayerID{layermap.ALEAuthRecvAcceptV4, layermap.ALEAuthRecvAcceptV6}
	flow       = []layermap.LayerID{layermap.ALEFlowEstablishedV4, layermap.ALEFlowEstablishedV6}
	closure    = []layermap.LayerID{layermap.ALEEndpointClosureV4, layermap.ALEEndpointClosureV6}
	endings    = slices.Concat(closure, []layermap.LayerID{layermap.ALEResourceReleaseV4, layermap.ALEResourceReleaseV6})
	redirect   = []layermap.LayerID{layermap.ALEConnectRedirectV4, layermap.ALEConnectRedirectV6}
	rebind     = []layermap.LayerID{layermap.ALEBindRedirectV4, layermap.ALEBindRedirectV6}
	outgoing   = slices.Concat(assignment, redirect, connect)
	packets    = slices.Concat(outgoing, accept, flow)
	listeners  = slices.Concat(assignment, accept, listen)
	ale        = slices.Concat(rebind, packets, listen, endings)
	drops      = dropLayers()
	datagrams  = []layermap.LayerID{layermap.DatagramDataV4, layermap.DatagramDataV6}
)

// hooks is in the order of attachment: what gives sockets their identity comes
// first.
var hooks = []hook{
	{"sock_create", "wfp_sock_create", onCgroup, ebpf.AttachCGroupInetSockCreate, slices.Concat(ale, datagrams)},
	{"sock_ops", "wfp_sock_ops", onCgroup, ebpf.AttachCGroupSockOps, slices.Concat(listeners, redirect, flow, endings)},
	// behind the bind, which sock_ops judges
	{"sock_listen", "wfp_sock_listen", onCgroup, ebpf.AttachCGroupSockOps, listen},
	{"socket_listen", "wfp_socket_listen", onLSM, ebpf.AttachLSMMac, listen},
	{"sock_flow", "wfp_sock_flow", onCgroup, ebpf.AttachCGroupSockOps, slices.Concat(flow, endings)},
	{"sock_release", "wfp_sock_release", onCgroup, ebpf.AttachCgroupInetSockRelease, endings},
	{"sock_state", "wfp_sock_state", onTracing, ebpf.AttachTraceRawTp, endings},
	{"bind4", "wfp_bind4", onCgroup, ebpf.AttachCGroupInet4Bind, slices.Concat(rebind, assignment)},
	{"bind6", "wfp_bind6", onCgroup, ebpf.AttachCGroupInet6Bind, slices.Concat(rebind, assignment)},
	{"getsockname4", "wfp_getsockname4", onCgroup, ebpf.AttachCgroupInet4GetSockname, rebind},
	{"getsockname6", "wfp_getsockname6", onCgroup, ebpf.AttachCgroupInet6GetSockname, rebind},
	{"post_bind4", "wfp_post_bind4", onCgroup, ebpf.AttachCGroupInet4PostBind, assignment},
	{"post_bind6", "wfp_post_bind6", onCgroup, ebpf.AttachCGroupInet6PostBind, assignment},
	{"setsockopt", "wfp_setsockopt", onCgroup, ebpf.AttachCGroupSetsockopt, assignment},
	// what a program and its proxy are told is in place before anything is redirected
	{"sock_redirect", "wfp_sock_redirect", onCgroup, ebpf.AttachCGroupSockOps, redirect},
	{"getsockopt", "wfp_getsockopt", onCgroup, ebpf.AttachCGroupGetsockopt, redirect},
	{"getpeername4", "wfp_getpeername4", onCgroup, ebpf.AttachCgroupInet4GetPeername, redirect},
	{"getpeername6", "wfp_getpeername6", onCgroup, ebpf.AttachCgroupInet6GetPeername, redirect},
	{"recvmsg4", "wfp_recvmsg4", onCgroup, ebpf.AttachCGroupUDP4Recvmsg, redirect},
	{"recvmsg6", "wfp_recvmsg6", onCgroup, ebpf.AttachCGroupUDP6Recvmsg, redirect},
	{"connect4", "wfp_connect4", onCgroup, ebpf.AttachCGroupInet4Connect, outgoing},
	{"connect6", "wfp_connect6", onCgroup, ebpf.AttachCGroupInet6Connect, outgoing},
	{"sendmsg4", "wfp_sendmsg4", onCgroup, ebpf.AttachCGroupUDP4Sendmsg, outgoing},
	{"sendmsg6", "wfp_sendmsg6", onCgroup, ebpf.AttachCGroupUDP6Sendmsg, outgoing},
	// a datagram opens a flow that answers pass on, whichever way it goes
	{"skb_egress", "wfp_skb_egress", onCgroup, ebpf.AttachCGroupInetEgress, packets},
	{"skb_ingress", "wfp_skb_ingress", onCgroup, ebpf.AttachCGroupInetIngress, slices.Concat(packets, listen, datagrams)},
	{"flow_egress", "wfp_flow_egress", onCgroup, ebpf.AttachCGroupInetEgress, flow},
	{"flow_ingress", "wfp_flow_ingress", onCgroup, ebpf.AttachCGroupInetIngress, flow},
	{"tc_ingress", "wfp_tc_ingress", onTCX, ebpf.AttachTCXIngress, []layermap.LayerID{
		layermap.InboundMACFrameEthernet, layermap.InboundIPPacketV4, layermap.InboundIPPacketV6}},
	{"tc_egress", "wfp_tc_egress", onTCX, ebpf.AttachTCXEgress, []layermap.LayerID{
		layermap.OutboundIPPacketV4, layermap.OutboundIPPacketV6, layermap.OutboundMACFrameEthernet, layermap.OutboundMACFrameNative}},
	{"vswitch_ingress", "wfp_vswitch_ingress", onPort, ebpf.AttachTCXIngress, []layermap.LayerID{
		layermap.IngressVSwitchEthernet, layermap.IngressVSwitchTransportV4, layermap.IngressVSwitchTransportV6}},
	{"vswitch_egress", "wfp_vswitch_egress", onPort, ebpf.AttachTCXEgress, []layermap.LayerID{
		layermap.EgressVSwitchEthernet, layermap.EgressVSwitchTransportV4, layermap.EgressVSwitchTransportV6}},
	{"xdp", "wfp_xdp", onXDP, ebpf.AttachXDP, []layermap.LayerID{layermap.InboundMACFrameNative}},
	{"local_in4", "wfp_local_in", onLocalIn, ebpf.AttachNetfilter, []layermap.LayerID{
		layermap.InboundTransportV4, layermap.InboundICMPErrorV4, layermap.StreamPacketV4, layermap.DatagramDataV4}},
	{"local_in6", "wfp_local_in", onLocalIn, ebpf.AttachNetfilter, []layermap.LayerID{
		layermap.InboundTransportV6, layermap.InboundICMPErrorV6, layermap.StreamPacketV6, layermap.DatagramDataV6}},
	{"forward4", "wfp_forward", onForward, ebpf.AttachNetfilter, []layermap.LayerID{layermap.IPForwardV4}},
	{"forward6", "wfp_forward", onForward, ebpf.AttachNetfilter, []layermap.LayerID{layermap.IPForwardV6}},
	{"send_reset", resetProgram, onDrop, ebpf.AttachTraceRawTp, []layermap.LayerID{
		layermap.InboundTransportV4Discard, layermap.InboundTransportV6Discard}},
	{"answer4", "wfp_answer", onAnswer, ebpf.AttachNetfilter, []layermap.LayerID{
		layermap.InboundTransportV4Discard, layermap.InboundIPPacketV4Discard}},
	{"answer6", "wfp_answer", onAnswer, ebpf.AttachNetfilter, []layermap.LayerID{
		layermap.InboundTransportV6Discard, layermap.InboundIPPacketV6Discard}},
	{"local_out4", "wfp_local_out", onLocalOut, ebpf.AttachNetfilter, []layermap.LayerID{
		layermap.OutboundTransportV4, layermap.OutboundICMPErrorV4, layermap.StreamPacketV4, layermap.DatagramDataV4}},
	{"local_out6", "wfp_local_out", onLocalOut, ebpf.AttachNetfilter, []layermap.LayerID{
		layermap.OutboundTransportV6, layermap.OutboundICMPErrorV6, layermap.StreamPacketV6, layermap.DatagramDataV6}},
	{"kfree_skb", "wfp_kfree_skb", onDrop, ebpf.AttachTraceRawTp, drops},
}

// carries reports whether the layer is judged at the hook: a discard layer is where its
// layer blocks. It is no reason to attach that, since only a filter blocks there.
func (h *hook) carries(id layermap.LayerID) bool {
	if of := layermap.ByID(id).DiscardOf(); of != nil && slices.Contains(h.layers, of.ID) {
		return true
	}
	return slices.Contains(h.layers, id)
}

// frameLayers never see loopback.
var frameLayers = []layermap.LayerID{layermap.InboundMACFrameEthernet, layermap.OutboundMACFrameEthernet, layermap.InboundMACFrameNative, layermap.OutboundMACFrameNative}

// needed reports whether some layer of the hook has filters. On lo the frame
// layers do not count.
func (h *hook) needed(layers map[layermap.LayerID]int, loopback bool) bool {
	return slices.ContainsFunc(h.layers, func(id layermap.LayerID) bool {
		return layers[id] > 0 && !(loopback && slices.Contains(frameLayers, id))
	})
}

// spot is one attachment: a hook and, on a link, which.
type spot struct {
	hook *hook
	dev  *device
}

func (s spot) pin() string {
	if s.dev == nil {
		return s.hook.name
	}
	return s.hook.name + "@" + s.dev.Name
}

// spots lists the attachments that the layers of a policy need.
func spots(layers map[layermap.LayerID]int, devs []device) []spot {
	var list []spot
	for i := range hooks {
		h := &hooks[i]
		if !h.kind.onLink() {
			if h.needed(layers, false) && h.kind.here() {
				list = append(list, spot{hook: h})
			}
			continue
		}
		for d := range devs {
			if h.needed(layers, devs[d].Loopback) && (h.kind != onPort || devs[d].Bridge != 0) {
				list = append(list, spot{hook: h, dev: &devs[d]})
			}
		}
	}
	return list
}

// attachAt makes one attachment and pins it.
func (e *Engine) attachAt(s spot) error {
	prog := e.programs[s.hook.program]
	pin := filepath.Join(e.in.pins, "links", s.pin())
	if s.hook.kind.onTC() && !haveTCX() {
		return e.attachClsact(s, prog)
	}
	var l link.Link
	err := e.ns.do(func() (err error) {
		switch s.hook.kind {
		case onCgroup:
			l, err = link.AttachCgroup(link.CgroupOptions{Path: e.cg.path, Attach: s.hook.attach, Program: prog})
		case onTCX, onPort:
			// first in, last out: the frame layers are nearest to the wire
			anchor := link.Head()
			if s.hook.attach == ebpf.AttachTCXEgress {
				anchor = link.Tail()
			}
			l, err = link.AttachTCX(link.TCXOptions{Interface: s.dev.Index, Program: prog, Attach: s.hook.attach, Anchor: anchor})
		case onXDP:
			l, err = attachXDP(s.dev, prog)
		case onLocalIn, onForward, onLocalOut, onAnswer:
			l, err = attachNetfilter(s.hook, prog)
		case onTracing, onDrop:
			l, err = link.AttachTracing(link.TracingOptions{Program: prog, AttachType: s.hook.attach})
		case onLSM:
			l, err = link.AttachLSM(link.LSMOptions{Program: prog})
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("attaching %s: %w", s.pin(), err)
	}
	defer l.Close()
	if err := l.Pin(pin); err != nil {
		return fmt.Errorf("pinning %s: %w", s.pin(), err)
	}
	return nil
}

// attachXDP leaves an occupied hook alone and says who is there. The driver's
// mode is tried first, the generic one where the driver has none.
func attachXDP(d *device, prog *ebpf.Program) (link.Link, error) {
	if who := xdpOccupant(d.Index); who != "" {
		return nil, fmt.Errorf("%w: %s runs the XDP program %s; detach it, or leave %s out with --iface", ErrOccupied, d.Name, who, d.Name)
	}
	l, err := link.AttachXDP(link.XDPOptions{Program: prog, Interface: d.Index, Flags: link.XDPDriverMode})
	if err == nil {
		return l, nil
	}
	if errors.Is(err, unix.EEXIST) { // nobody is here, so it is above
		return nil, fmt.Errorf("%w: a link that lies on %s has an XDP program, so that the kernel takes none below it; detach that one first, or leave %s out with --iface: %w",
			ErrOccupied, d.Name, d.Name, err)
	}
	return link.AttachXDP(link.XDPOptions{Program: prog, Interface: d.Index, Flags: link.XDPGenericMode})
}

// Priorities at a netfilter hook: behind the kernel's own chains and address
// translation, and none of those of the kernel (linux/netfilter_ipv4.h). BPF
// programs cannot share one, so that another instance of the namespace, or
// somebody else's program, has the next. An answer that is silenced must not come to
// the layers that it would pass: that is decided before.
const (
	netfilterPriority   = 110
	answerPriority      = 55
	netfilterPriorities = 64
	answerPriorities    = 40
)

// netfilterPoints are the points of the stack where kinds of hooks sit.
var netfilterPoints = map[hookKind]link.NetfilterInetHook{
	onLocalIn: link.NetfilterInetLocalIn, onForward: link.NetfilterInetForward, onLocalOut: link.NetfilterInetLocalOut,
	onAnswer: link.NetfilterInetLocalOut,
}

// resetProgram sees packets without an endpoint where the kernel tells of them.
const resetProgram = "wfp_send_reset"

// haveResets asks whether tcp_send_reset comes without a socket, too (6.10): since then
// it has a reason.
var haveResets = sync.OnceValue(func() bool {
	spec, err := btf.LoadKernelSpec()
	if err != nil {
		return false
	}
	var tracepoint *btf.Typedef
	if spec.TypeByName("btf_trace_tcp_send_reset", &tracepoint) != nil {
		return false
	}
	p, ok := tracepoint.Type.(*btf.Pointer)
	if !ok {
		return false
	}
	f, ok := p.Target.(*btf.FuncProto)
	return ok && len(f.Params) == 4 // the tracepoint's data, socket, packet, reason
})

// resets reports whether the attachment is that of packets without an endpoint.
func (s spot) resets() bool { return s.hook.program == resetProgram }

// haveNetfilterLinks asks whether the kernel has netfilter's programs (6.4).
var haveNetfilterLinks = sync.OnceValue(func() bool {
	return !errors.Is(features.HaveProgramType(ebpf.Netfilter), ebpf.ErrNotSupported)
})

// protocolFamily is that of the hook's layers: one of netfilter's links serves
// one family.
func (h *hook) protocolFamily() link.NetfilterProtocolFamily {
	if layermap.ByID(h.layers[0]).Family == layermap.V6 {
		return link.NetfilterProtoIPv6
	}
	return link.NetfilterProtoIPv4
}

func attachNetfilter(h *hook, prog *ebpf.Program) (l link.Link, err error) {
	first, priorities := int32(netfilterPriority), int32(netfilterPriorities)
	if h.kind == onAnswer {
		first, priorities = answerPriority, answerPriorities
	}
	for priority := range priorities {
		l, err = link.AttachNetfilter(link.NetfilterOptions{
			Program: prog, ProtocolFamily: h.protocolFamily(), Hook: netfilterPoints[h.kind], Priority: first + priority,
		})
		if !errors.Is(err, unix.EBUSY) {
			return l, err
		}
	}
	return nil, fmt.Errorf("%w: other programs have all priorities from %d on: %w", ErrOccupied, first, err)
}

func xdpOccupant(index int) string {
	l, err := netlink.LinkByIndex(index)
	if err != nil || l.Attrs().Xdp == nil || !l.Attrs().Xdp.Attached {
		return ""
	}
	id := l.Attrs().Xdp.ProgId
	p, err := ebpf.NewProgramFromID(ebpf.ProgramID(id))
	if err != nil {
		return fmt.Sprintf("%d", id)
	}
	defer p.Close()
	if info, err := p.Info(); err == nil {
		return fmt.Sprintf("%q (id %d)", info.Name, id)
	}
	return fmt.Sprintf("%d", id)
}

// The tc filters of kernels without tcx, by which they are found again. Those of one
// priority and handle would take each other's place.
const clsactHandle = 0x1

var clsactPriorities = map[hookKind]uint16{onTCX: 0x5757, onPort: 0x5758}

// attachClsact attaches below 6.6. What it makes is no BPF link: a file beside
// the pins remembers it and the link's index, another that the qdisc is ours.
func (e *Engine) attachClsact(s spot, prog *ebpf.Program) error {
	return e.ns.do(func() error {
		qdisc := &netlink.GenericQdisc{
			QdiscAttrs: netlink.QdiscAttrs{LinkIndex: s.dev.Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT},
			QdiscType:  "clsact",
		}
		switch err := netlink.QdiscAdd(qdisc); {
		case err == nil:
			if err := os.WriteFile(filepath.Join(e.in.run, "qdisc@"+s.dev.Name), nil, 0o600); err != nil {
				return err
			}
		case !errors.Is(err, unix.EEXIST):
			return fmt.Errorf("attaching %s: clsact qdisc: %w", s.pin(), err)
		}
		f := clsactFilter(s)
		f.Fd, f.Name, f.DirectAction = prog.FD(), s.hook.program, true
		if err := netlink.FilterReplace(f); err != nil {
			return fmt.Errorf("attaching %s: %w", s.pin(), err)
		}
		return os.WriteFile(filepath.Join(e.in.run, "tc-"+s.pin()), []byte(strconv.Itoa(s.dev.Index)), 0o600)
	})
}

func clsactFilter(s spot) *netlink.BpfFilter {
	parent := uint32(netlink.HANDLE_MIN_INGRESS)
	if s.hook.attach == ebpf.AttachTCXEgress {
		parent = netlink.HANDLE_MIN_EGRESS
	}
	return &netlink.BpfFilter{FilterAttrs: netlink.FilterAttrs{
		LinkIndex: s.dev.Index, Parent: parent, Handle: clsactHandle, Protocol: unix.ETH_P_ALL, Priority: clsactPriorities[s.hook.kind],
	}}
}

// attached lists the names of the attachments that exist.
func (in *instance) attached() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(in.pins, "links"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	run, _ := os.ReadDir(in.run)
	for _, e := range run {
		if name, ok := strings.CutPrefix(e.Name(), "tc-"); ok {
			names = append(names, name)
		}
	}
	return names, nil
}

// holds reports whether an attachment that has a name is in place: somebody may
// have detached it, and a link can go and another come under its name.
func (e *Engine) holds(s spot) bool {
	if mark, err := os.ReadFile(filepath.Join(e.in.run, "tc-"+s.pin())); err == nil && s.dev != nil {
		return string(mark) == strconv.Itoa(s.dev.Index)
	}
	l, err := link.LoadPinnedLink(filepath.Join(e.in.pins, "links", s.pin()), nil)
	if err != nil {
		return false
	}
	defer l.Close()
	info, err := l.Info()
	if err != nil {
		return false
	}
	switch s.hook.kind {
	case onCgroup:
		x := info.Cgroup()
		return x != nil && x.CgroupId == e.cg.id
	case onXDP:
		x := info.XDP()
		return x != nil && int(x.Ifindex) == s.dev.Index
	case onLocalIn, onForward, onLocalOut, onAnswer:
		// a namespace lives as long as it has such a link
		x := info.Netfilter()
		return x != nil && x.ProtocolFamily == s.hook.protocolFamily() && x.Hook == netfilterPoints[s.hook.kind]
	case onTracing, onDrop, onLSM:
		return info.Type == link.TracingType || info.Type == link.RawTracepointType
	}
	x := info.TCX()
	return x != nil && int(x.Ifindex) == s.dev.Index
}

// detach removes one attachment. It is no error where the link is gone already.
func (e *Engine) detach(name string) error {
	pin := filepath.Join(e.in.pins, "links", name)
	if l, err := link.LoadPinnedLink(pin, nil); err == nil {
		// Unpin alone would leave a link alive that another process holds.
		errDetach := l.Detach()
		errUnpin := l.Unpin()
		l.Close()
		if errors.Is(errDetach, ebpf.ErrNotSupported) || errors.Is(errDetach, unix.ENOLINK) {
			errDetach = nil
		}
		return errors.Join(errDetach, errUnpin)
	} else if !errors.Is(err, os.ErrNotExist) {
		return errors.Join(err, os.Remove(pin))
	}
	return e.detachClsact(name)
}

func (e *Engine) detachClsact(name string) error {
	kind, ifname, ok := strings.Cut(name, "@")
	mark := filepath.Join(e.in.run, "tc-"+name)
	if _, err := os.Stat(mark); err != nil || !ok {
		return nil
	}
	i := slices.IndexFunc(hooks, func(h hook) bool { return h.name == kind })
	if i < 0 {
		return os.Remove(mark)
	}
	err := e.ns.do(func() error {
		l, err := netlink.LinkByName(ifname)
		if err != nil {
			return nil // the link is gone, and what was on it
		}
		d := device{Index: l.Attrs().Index, Name: ifname}
		err = netlink.FilterDel(clsactFilter(spot{&hooks[i], &d}))
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) {
			return err
		}
		return e.dropQdisc(&d, mark)
	})
	if err != nil {
		return err
	}
	return os.Remove(mark)
}

// dropQdisc removes the clsact qdisc that we made, once no filter is on it.
func (e *Engine) dropQdisc(d *device, except string) error {
	own := filepath.Join(e.in.run, "qdisc@"+d.Name)
	if _, err := os.Stat(own); err != nil {
		return nil
	}
	l := &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: d.Index}}
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		if fs, err := netlink.FilterList(l, parent); err == nil && len(fs) > 0 {
			return nil
		}
	}
	q := &netlink.GenericQdisc{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: d.Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT},
		QdiscType:  "clsact",
	}
	if err := netlink.QdiscDel(q); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) {
		return err
	}
	return os.Remove(own)
}

// oldSockets are the iterators of hook_iter.h, in the order in which they run.
var oldSockets = []string{"wfp_old_sockets", "wfp_old_subflows"}

// adoptOldSockets gives sockets that are older than the engine an identity.
func (e *Engine) adoptOldSockets() error {
	for _, name := range oldSockets {
		it, err := link.AttachIter(link.IterOptions{Program: e.programs[name]})
		if err != nil {
			return fmt.Errorf("looking for older sockets: %w", err)
		}
		// TCP sockets are listed by the namespace of the reader
		err = e.ns.do(func() error {
			r, err := it.Open()
			if err != nil {
				return err
			}
			defer r.Close()
			_, err = io.Copy(io.Discard, r)
			return err
		})
		it.Close()
		if err != nil {
			return fmt.Errorf("looking for older sockets: %w", err)
		}
	}
	return nil
}
