// SPDX-License-Identifier: Apache-2.0

package live

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/wfpebpf/wfpebpf/loader"
	"github.com/wfpebpf/wfpebpf/tests/testbed"
)

// An EtherType for experiments: no stack answers to it.
const experiment = 0x88b5

// tap is a packet socket in a namespace that receives one EtherType.
type tap struct{ fd int }

func newTap(t *testing.T, end testbed.End, etherType uint16) *tap {
	t.Helper()
	var s tap
	err := end.Netns.Do(func() (err error) {
		s.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		return unix.Bind(s.fd, &unix.SockaddrLinklayer{Protocol: swap(etherType), Ifindex: end.Index})
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(s.fd) })
	return &s
}

func swap(n uint16) uint16 { return n<<8 | n>>8 }

// receive reads until a frame holds the text.
func (s *tap) receive(text string, limit time.Duration) error {
	deadline := time.Now().Add(limit)
	buf := make([]byte, 2048)
	for time.Now().Before(deadline) {
		tv := unix.NsecToTimeval(time.Until(deadline).Nanoseconds() + 1000)
		if err := unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
			return err
		}
		n, from, err := unix.Recvfrom(s.fd, buf, 0)
		if err != nil {
			continue
		}
		if ll, ok := from.(*unix.SockaddrLinklayer); ok && ll.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		if bytes.Contains(buf[:n], []byte(text)) {
			return nil
		}
	}
	return testbed.ErrTimeout
}

// frame makes an Ethernet frame of the experiment; vlan is the whole tag, 0 none.
func frame(t *testing.T, to, from net.HardwareAddr, vlan uint16, text string) []byte {
	t.Helper()
	eth := &layers.Ethernet{DstMAC: to, SrcMAC: from, EthernetType: experiment}
	if vlan == 0 {
		return serialize(t, eth, gopacket.Payload(text))
	}
	eth.EthernetType = layers.EthernetTypeDot1Q
	tag := &layers.Dot1Q{
		Priority: uint8(vlan >> 13), DropEligible: vlan&0x1000 != 0, VLANIdentifier: vlan & 0xfff, Type: experiment,
	}
	return serialize(t, eth, tag, gopacket.Payload(text))
}

func mac(s string) net.HardwareAddr {
	m, err := net.ParseMAC(s)
	if err != nil {
		panic(err)
	}
	return m
}

func TestFrameEthernet(t *testing.T) {
	b := newBed(t)
	hostTap, peerTap := newTap(t, b.hostEnd, experiment), newTap(t, b.peerEnd, experiment)
	host, peer := b.hostEnd.MAC, b.peerEnd.MAC
	stranger, group, all := mac("02:00:00:00:00:99"), mac("01:00:5e:00:00:01"), mac("ff:ff:ff:ff:ff:ff")
	type sent struct {
		name     string
		to, from net.HardwareAddr
		vlan     uint16
	}
	plain := sent{"plain", host, peer, 0}
	for _, row := range []struct {
		layer, conditions string
		blocked, passed   []sent // as the peer sends them; out: as the host does, turned around
	}{
		{"INBOUND", "{MAC_REMOTE_ADDRESS: \"02:00:00:00:00:99\"}", []sent{{"stranger", host, stranger, 0}}, []sent{plain}},
		{"INBOUND", fmt.Sprintf("{MAC_LOCAL_ADDRESS: %q}", host), []sent{plain}, []sent{{"broadcast", all, peer, 0}}},
		{"INBOUND", "{MAC_LOCAL_ADDRESS_TYPE: multicast}", []sent{{"multicast", group, peer, 0}}, []sent{plain, {"broadcast", all, peer, 0}}},
		{"INBOUND", "{MAC_LOCAL_ADDRESS_TYPE: broadcast}", []sent{{"broadcast", all, peer, 0}}, []sent{plain, {"multicast", group, peer, 0}}},
		{"INBOUND", "{MAC_REMOTE_ADDRESS_TYPE: unicast}", []sent{plain}, nil},
		{"INBOUND", "{ETHER_TYPE: 0x88b5}", []sent{plain, {"tagged", host, peer, 5}}, nil},
		{"INBOUND", "{ETHER_TYPE: [arp, ipv4, ipv6]}", nil, []sent{plain}},
		{"INBOUND", "{VLAN_ID: 5}", []sent{{"tagged", host, peer, 5}}, []sent{plain, {"another tag", host, peer, 6}}},
		// the whole tag: priority 1
		{"INBOUND", "{VLAN_ID: 0x2005}", []sent{{"tagged", host, peer, 0x2005}}, []sent{plain, {"no priority", host, peer, 5}}},
		{"INBOUND", "{VLAN_ID: EMPTY}", []sent{plain}, []sent{{"tagged", host, peer, 5}}},
		{"INBOUND", fmt.Sprintf("{INTERFACE_MAC_ADDRESS: %q}", host), []sent{plain}, nil},
		{"INBOUND", "{INTERFACE: h0}", []sent{plain}, nil},
		{"INBOUND", "{INTERFACE: lo}", nil, []sent{plain}},
		{"INBOUND", fmt.Sprintf("{INTERFACE_INDEX: %d}", b.hostEnd.Index), []sent{plain}, nil},
		{"OUTBOUND", "{MAC_REMOTE_ADDRESS: \"02:00:00:00:00:99\"}", []sent{{"stranger", stranger, host, 0}}, []sent{{"plain", peer, host, 0}}},
		{"OUTBOUND", fmt.Sprintf("{MAC_LOCAL_ADDRESS: %q}", host), []sent{{"plain", peer, host, 0}}, []sent{{"another source", peer, stranger, 0}}},
		{"OUTBOUND", "{MAC_REMOTE_ADDRESS_TYPE: [multicast, broadcast]}", []sent{{"multicast", group, host, 0}, {"broadcast", all, host, 0}}, []sent{{"plain", peer, host, 0}}},
		{"OUTBOUND", "{ETHER_TYPE: 0x88b5}", []sent{{"plain", peer, host, 0}}, nil},
		{"OUTBOUND", "{INTERFACE: h0}", []sent{{"plain", peer, host, 0}}, nil},
	} {
		t.Run(row.layer+" "+row.conditions, func(t *testing.T) {
			layer := row.layer + "_MAC_FRAME_ETHERNET"
			b.apply(blocks(layer, row.conditions))
			from, to := peerTap, hostTap
			if row.layer == "OUTBOUND" {
				from, to = hostTap, peerTap
			}
			try := func(s sent, o outcome) {
				t.Run(o.text+" of "+s.name, func(t *testing.T) {
					_, err := unix.Write(from.fd, frame(t, s.to, s.from, s.vlan, s.name))
					if row.layer == "OUTBOUND" && o.text == dropped.text {
						failsWith(unix.ENOBUFS).want(t, err) // the sender is told
					} else {
						passes.want(t, err)
					}
					o.want(t, to.receive(s.name, o.limit))
				})
			}
			b.events()
			for _, s := range row.passed {
				try(s, passes)
				b.wantHits(layer, "Permit the rest")
			}
			for _, s := range row.blocked {
				try(s, dropped)
				e := b.wantBlock(layer, "Block it")
				want := loader.Event{
					Time: e.Time, Layer: layer, Action: "block", FilterID: e.FilterID, FilterName: "Block it", SubLayer: "UNIVERSAL",
					Direction: strings.ToLower(strings.TrimSuffix(row.layer, "BOUND")), Interface: "h0", Src: s.from.String(), Dst: s.to.String(),
				}
				if e != want {
					t.Errorf("event %+v,\nwant  %+v", e, want)
				}
				b.wantHits(layer, "Block it")
			}
		})
	}
}

// Without a protocol's frames the protocol does not work.
func TestFrameEtherType(t *testing.T) {
	b := newBed(t)
	p, peer := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	b.listen(p, 8080)
	for _, layer := range []string{"INBOUND_MAC_FRAME_ETHERNET", "OUTBOUND_MAC_FRAME_ETHERNET"} {
		for _, row := range []struct {
			conditions string
			v4, v6     outcome
		}{
			{"{ETHER_TYPE: ipv4}", dropped, passes},
			{"{ETHER_TYPE: ipv6}", passes, dropped},
			{"{ETHER_TYPE: arp}", dropped, passes},
		} {
			t.Run(layer+" "+row.conditions, func(t *testing.T) {
				b.apply(blocks(layer, row.conditions))
				for _, n := range []*testbed.Netns{b.host, b.peer} {
					forgetNeighbours(t, n)
				}
				f := b.families()
				each(t, peer, f[0], []call{tcp(8080), udp(8080)}, row.v4)
				each(t, peer, f[1], []call{tcp(8080), udp(8080)}, row.v6)
				each(t, p, f[0], []call{udp(8080).onHost(hostFirst)}, passes) // frames are no matter of lo
			})
		}
	}
}

func forgetNeighbours(t *testing.T, n *testbed.Netns) {
	t.Helper()
	list, err := n.Netlink().NeighList(0, unix.AF_UNSPEC)
	if err != nil {
		t.Fatal(err)
	}
	for _, neigh := range list {
		if neigh.State&(unix.NUD_NOARP|unix.NUD_PERMANENT) == 0 {
			n.Netlink().NeighDel(&neigh)
		}
	}
}

func TestFrameNative(t *testing.T) {
	b := newBed(t)
	b.secondLink()
	p, peer := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	b.listen(p, 8080)
	// the peer need not ask for the host's address: nothing of it would arrive
	for _, ip := range []netip.Addr{b.hostEnd.V4, b.hostEnd.V6} {
		err := b.peer.Netlink().NeighSet(&netlink.Neigh{
			LinkIndex: b.peerEnd.Index, State: unix.NUD_PERMANENT, IP: ip.AsSlice(), HardwareAddr: b.hostEnd.MAC,
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	const layer = "INBOUND_MAC_FRAME_NATIVE"
	for _, conditions := range []string{
		"{INTERFACE: h0}", fmt.Sprintf("{INTERFACE_INDEX: %d}", b.hostEnd.Index),
		"{INTERFACE_TYPE: ethernet}, {INTERFACE: h0}",
	} {
		t.Run(conditions, func(t *testing.T) {
			b.apply(blocks(layer, conditions))
			b.overBothLinks(t, peer, func(t *testing.T, c call, f family, first bool) {
				b.events()
				if !first {
					c.want(t, peer, f, passes)
					b.wantHits(layer, "Permit the rest")
					return
				}
				c.want(t, peer, f, dropped)
				if e := b.wantBlock(layer, "Block it"); e.Interface != "h0" || e.Direction != "in" || e.Src != "" {
					t.Errorf("event %+v", e)
				}
				b.wantHits(layer, "Block it")
			})
		})
	}
}

// The peer has another link, by which everything passes.
func TestFrameNativeOut(t *testing.T) {
	b := newBed(t)
	second, _ := b.secondLink()
	p, peer := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	b.listen(peer, 8080)
	b.listen(p, 8080)
	links := []struct {
		end      testbed.End
		from, to *tap
		peer     map[string]string // address, by family
	}{
		{b.hostEnd, newTap(t, b.hostEnd, experiment), newTap(t, b.peerEnd, experiment), map[string]string{"v4": "10.77.0.2", "v6": "[fd77::2]"}},
		{second, newTap(t, second, experiment), nil, map[string]string{"v4": "10.77.1.2", "v6": "[fd77:1::2]"}},
	}
	p1, err := b.peer.Netlink().LinkByName("p1")
	if err != nil {
		t.Fatal(err)
	}
	links[1].to = newTap(t, testbed.End{Netns: b.peer, Index: p1.Attrs().Index}, experiment)
	const layer = "OUTBOUND_MAC_FRAME_NATIVE"
	for _, conditions := range []string{
		"{INTERFACE: h0}", fmt.Sprintf("{INTERFACE_INDEX: %d}", b.hostEnd.Index),
		"{INTERFACE_TYPE: ethernet}, {INTERFACE: h0}", "{NDIS_PORT: 0}, {COMPARTMENT_ID: 1}, {INTERFACE: h0}",
	} {
		t.Run(conditions, func(t *testing.T) {
			b.apply(blocks(layer, conditions))
			// lo has no frames
			each(t, p, b.families()[0], []call{tcp(8080).onHost(hostFirst), udp(8080).onHost(onLoopback)}, passes)
			for i, on := range links {
				b.events()
				text := "frame of " + on.end.Name
				_, err := unix.Write(on.from.fd, frame(t, b.peerEnd.MAC, on.end.MAC, 0, text))
				if i == 1 {
					passes.want(t, err)
					passes.want(t, on.to.receive(text, passes.limit))
					b.wantHits(layer, "Permit the rest")
					for _, f := range b.families() {
						passes.want(t, p.UDPExchange(f.udp, at(on.peer[f.name], 8080), "hello"))
						passes.want(t, p.Connect(f.tcp, at(on.peer[f.name], 8080)))
					}
					continue
				}
				failsWith(unix.ENOBUFS).want(t, err) // the sender is told
				dropped.want(t, on.to.receive(text, dropped.limit))
				e := b.wantBlock(layer, "Block it")
				want := loader.Event{
					Time: e.Time, Layer: layer, Action: "block", FilterID: e.FilterID, FilterName: "Block it", SubLayer: "UNIVERSAL",
					Direction: "out", Interface: "h0",
				}
				if e != want {
					t.Errorf("event %+v,\nwant  %+v", e, want)
				}
				b.wantHits(layer, "Block it")
				for _, f := range b.families() {
					dropped.want(t, p.UDPExchange(f.udp, at(on.peer[f.name], 8080), "hello", testbed.Options{Timeout: soon}))
				}
			}
		})
	}
}

// On the way out a frame is first made Ethernet, then handed to the miniport, on the way
// in the other way round; what the first layer blocks the next one does not see.
func TestFrameOrder(t *testing.T) {
	b := newBed(t)
	hostTap, peerTap := newTap(t, b.hostEnd, experiment), newTap(t, b.peerEnd, experiment)
	b.openEngine(loader.Options{Target: b.target(), Permits: true})
	const (
		native, ethernet = "_MAC_FRAME_NATIVE", "_MAC_FRAME_ETHERNET"
		text             = "in order"
	)
	for _, row := range []struct {
		bound    string
		from, to *tap
		end      testbed.End
		order    []string
	}{
		{"OUTBOUND", hostTap, peerTap, b.hostEnd, []string{ethernet, native}},
		{"INBOUND", peerTap, hostTap, b.peerEnd, []string{native, ethernet}},
	} {
		t.Run(row.bound, func(t *testing.T) {
			both := fmt.Sprintf("[%[1]s%[2]s, %[1]s%[3]s]", row.bound, native, ethernet)
			// the native layer cannot tell frames apart: this link has no others for a moment
			send := func(o outcome) (order []string) {
				b.events()
				_, err := unix.Write(row.from.fd, frame(t, mac("02:00:00:00:00:98"), mac("02:00:00:00:00:99"), 0, text))
				if o.text == passes.text {
					passes.want(t, err)
				}
				o.want(t, row.to.receive(text, o.limit))
				for _, e := range b.events() {
					order = append(order, strings.TrimPrefix(e.Layer, row.bound))
				}
				return order
			}
			// neighbours may speak meanwhile: then once more
			var order []string
			for range 5 {
				b.apply("filters:\n" + rule("PERMIT", "Permit all", both, 0))
				if order = send(passes); slices.Equal(order, row.order) {
					break
				}
			}
			if !slices.Equal(order, row.order) {
				t.Errorf("layers %q, want %q", order, row.order)
			}
			first := row.bound + row.order[0]
			b.apply("filters:\n" + rule("BLOCK", "Block all", first, 0) + rule("PERMIT", "Permit all", row.bound+row.order[1], 0))
			if order = send(dropped); slices.Contains(order, row.order[1]) || !slices.Contains(order, row.order[0]) {
				t.Errorf("layers %q, want %q alone", order, row.order[0])
			}
		})
	}
}

// An XDP hook takes one program: where somebody else's is, an apply that needs
// the hook fails, names it and changes nothing.
func TestFrameOccupied(t *testing.T) {
	b := newBed(t)
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "occupant", Type: ebpf.XDP, License: "Apache-2.0",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer prog.Close()
	var theirs link.Link
	err = b.host.Do(func() (err error) {
		theirs, err = link.AttachXDP(link.XDPOptions{Program: prog, Interface: b.hostEnd.Index})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	native := blocks("INBOUND_MAC_FRAME_NATIVE", "{INTERFACE: h0}")
	p, peer := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	b.listen(p, 8080)
	wantOccupied := func(t *testing.T) {
		t.Helper()
		err := b.engine.Commit(context.Background(), b.load(native, nil))
		if !errors.Is(err, loader.ErrOccupied) || !strings.Contains(err.Error(), "occupant") || !strings.Contains(err.Error(), "h0") {
			t.Errorf("got %v, want ErrOccupied with the names of the program and the link", err)
		}
	}
	b.openEngine(loader.Options{Target: b.target()})
	wantOccupied(t)
	if list, err := loader.Instances(); err != nil || slices.Contains(list, b.target()) {
		t.Errorf("instances %v, %v", list, err)
	}
	b.apply(blocks(atAccept, "{IP_PROTOCOL: udp}"))
	before, hooks := b.state().Generation, b.hooks()
	wantOccupied(t)
	if after := b.state().Generation; after != before {
		t.Errorf("generation %d, was %d", after, before)
	}
	if now := b.hooks(); !slices.Equal(now, hooks) {
		t.Errorf("hooks %q, were %q", now, hooks)
	}
	f := b.families()[0]
	tcp(8080).want(t, peer, f, passes)
	udp(8080).want(t, peer, f, dropped)
	theirs.Close()
	b.apply(native)
	tcp(8080).want(t, peer, f, dropped)
}

// hooks lists the attachments.
func (b *bed) hooks() (list []string) {
	b.t.Helper()
	rows, err := b.engine.Hooks()
	if err != nil {
		b.t.Fatal(err)
	}
	for _, r := range rows {
		list = append(list, r.Hook+"@"+r.Target)
	}
	return list
}
