// SPDX-License-Identifier: Apache-2.0

package live

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/wfpebpf/wfpebpf/bpf"
	"github.com/wfpebpf/wfpebpf/policy"
	"github.com/wfpebpf/wfpebpf/tests/testbed"
)

// The verdict that is kept on a flow counts as long as its policy: the next packet
// meets what is in force. Each packet is counted and each block told.
func TestKeptPolicy(t *testing.T) {
	b := newBed(t)
	host, peer := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	b.listen(host, 8080)
	for _, layers := range []string{"INBOUND_TRANSPORT", "OUTBOUND_TRANSPORT", "INBOUND_IPPACKET", "OUTBOUND_IPPACKET"} {
		for _, f := range b.families() {
			t.Run(layers+" "+f.name, func(t *testing.T) {
				layer, exact := layers+"_"+f.layer, strings.HasSuffix(layers, "TRANSPORT")
				conditions := "{IP_REMOTE_ADDRESS: " + yamlAddress(f.peerSecond) + "}"
				if exact {
					conditions += ", {IP_PROTOCOL: udp}" // neighbours ask for each other, too
				}
				open := "filters:\n" + rule("PERMIT", "Permit it", layer, 8, conditions) + rule("PERMIT", "Permit the rest", layer, 0)
				shut := blocks(layer, conditions)
				for _, step := range []struct {
					name   string
					do     func() error
					filter string
					out    outcome
				}{
					{"permitted", func() error { b.apply(open); return nil }, "Permit it", passes},
					{"blocked", func() error { b.apply(shut); return nil }, "Block it", dropped},
					{"permitted again", func() error { b.apply(open); return nil }, "Permit it", passes},
					{"rolled back", func() error { return b.engine.Rollback() }, "Block it", dropped},
				} {
					t.Run(step.name, func(t *testing.T) {
						if err := step.do(); err != nil {
							t.Fatal(err)
						}
						b.events()
						const packets = 3
						before := b.hits(layer, step.filter)
						for range packets {
							udp(8080).fromPeerSecond().fromPort(5000).want(t, peer, f, step.out)
						}
						told := 0
						for _, e := range b.events() {
							if e.Action == "block" && e.FilterName == step.filter && e.Layer == layer {
								told++
							}
						}
						want := map[bool]int{true: packets, false: 0}[step.filter == "Block it"]
						if n := int(b.hits(layer, step.filter) - before); n < packets || exact && n > packets {
							t.Errorf("%q decided about %d packets, want %d", step.filter, n, packets)
						}
						if told < want || exact && told > want {
							t.Errorf("%d blocks were told, want %d", told, want)
						}
					})
				}
			})
		}
	}
}

// datagram sends the same datagram to the host by one of its links.
func (b *bed) datagram(t *testing.T, f family, out *tap, from, to testbed.End) {
	t.Helper()
	eth := &layers.Ethernet{SrcMAC: from.MAC, DstMAC: to.MAC, EthernetType: layers.EthernetTypeIPv4}
	udp := &layers.UDP{SrcPort: 5000, DstPort: 8080}
	var ip gopacket.SerializableLayer
	if f.layer == "V4" {
		v4 := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: net.IP(b.peerEnd.V4.AsSlice()), DstIP: net.IP(b.hostEnd.V4.AsSlice())}
		udp.SetNetworkLayerForChecksum(v4)
		ip = v4
	} else {
		v6 := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolUDP, SrcIP: net.IP(b.peerEnd.V6.AsSlice()), DstIP: net.IP(b.hostEnd.V6.AsSlice())}
		udp.SetNetworkLayerForChecksum(v6)
		eth.EthernetType, ip = layers.EthernetTypeIPv6, v6
	}
	if _, err := unix.Write(out.fd, serialize(t, eth, ip, udp, gopacket.Payload("hello"))); err != nil {
		t.Fatal(err)
	}
}

// One flow that comes in by two links is two: what is kept of one says nothing of
// the other.
func TestKeptLink(t *testing.T) {
	b := newBed(t)
	host1, peer1 := b.secondLink()
	m, err := policy.LoadMapReader("map.yaml", strings.NewReader("zones: {h1: private}\n"))
	if err != nil {
		t.Fatal(err)
	}
	host := b.on(b.host, testbed.ProcOptions{})
	for _, f := range b.families() {
		s := b.open(host, f.udp, at(f.host, 8080))
		kind := map[string]uint16{"V4": uint16(layers.EthernetTypeIPv4), "V6": uint16(layers.EthernetTypeIPv6)}[f.layer]
		first, second := newTap(t, b.peerEnd, kind), newTap(t, peer1, kind)
		for _, row := range []struct{ layer, condition string }{
			{"INBOUND_TRANSPORT", "{IP_LOCAL_INTERFACE: h1}"},
			{"INBOUND_TRANSPORT", fmt.Sprintf("{INTERFACE_INDEX: %d}", host1.Index)},
			{"INBOUND_TRANSPORT", "{CURRENT_PROFILE_ID: private}"},
			{"INBOUND_IPPACKET", "{IP_LOCAL_INTERFACE: h1}"},
			{"INBOUND_IPPACKET", fmt.Sprintf("{INTERFACE_INDEX: %d}", host1.Index)},
		} {
			t.Run(f.name+" "+row.layer+" "+row.condition, func(t *testing.T) {
				b.commit(b.load(blocks(row.layer+"_"+f.layer, row.condition), m))
				wants := func(o outcome) {
					t.Helper()
					_, _, err := host.Receive(s, testbed.Options{Timeout: o.limit})
					o.want(t, err)
				}
				for range 2 {
					b.datagram(t, f, first, b.peerEnd, b.hostEnd)
					wants(passes)
					b.datagram(t, f, second, peer1, host1)
					wants(dropped)
				}
			})
		}
	}
}

// A datagram that a raw socket makes is another one than the same of a UDP socket.
func TestKeptRawEndpoint(t *testing.T) {
	b := newBed(t)
	host, peer := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	in := b.open(peer, "udp4", at(b.peerEnd.V4.String(), 8080))
	f := b.families()[0]
	raw, err := host.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_UDP)
	if err != nil {
		t.Fatal(err)
	}
	plain := b.open(host, "udp4", at(f.host, 5000))
	datagram := make([]byte, 8, 13) // without a checksum
	binary.BigEndian.PutUint16(datagram, 5000)
	binary.BigEndian.PutUint16(datagram[2:], 8080)
	binary.BigEndian.PutUint16(datagram[4:], 13)
	datagram = append(datagram, "hello"...)
	b.apply(blocks("OUTBOUND_TRANSPORT_V4", "{FLAGS: [IS_RAW_ENDPOINT]}"))
	for range 2 {
		send(t, host, plain, at(f.peer, 8080), peer, in, passes)
		refused.want(t, host.SendTo(raw, at(f.peer, 0), string(datagram)))
	}
	b.apply(blocks("OUTBOUND_TRANSPORT_V4", "{FLAGS: {match: FLAGS_NONE_SET, value: [IS_RAW_ENDPOINT]}}, {IP_PROTOCOL: udp}"))
	for range 2 {
		refused.want(t, host.SendTo(plain, at(f.peer, 8080), "hello"))
		passes.want(t, host.SendTo(raw, at(f.peer, 0), string(datagram)))
	}
}

// What watch learns of a link counts for flows that are under way.
func TestKeptWatch(t *testing.T) {
	b := newBed(t)
	m, err := policy.LoadMapReader("map.yaml", strings.NewReader("zones: {inside: private}\n"))
	if err != nil {
		t.Fatal(err)
	}
	host, peer := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	b.listen(host, 8080)
	b.commit(b.load(blocks(atTransportIn, "{CURRENT_PROFILE_ID: private}, {IP_PROTOCOL: udp}"), m))
	b.watch()
	h0 := &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: b.hostEnd.Index}}
	flow := udp(8080).fromPort(5000)
	for _, step := range []struct {
		name string
		out  outcome
	}{{"h0", passes}, {"inside", dropped}, {"h0", passes}} {
		if err := b.host.Netlink().LinkSetName(h0, step.name); err != nil {
			t.Fatal(err)
		}
		for _, f := range b.families() {
			b.await(func() bool { return step.out.check(flow.make(peer, f, soon)) })
			for range 3 {
				flow.want(t, peer, f, step.out)
			}
		}
	}
}

// A packet that is alike is not classified again: a table that changes behind the
// stamp's back is news to new flows only. What then looks around makes up for it.
func TestKeptIsUsed(t *testing.T) {
	b := newBed(t)
	host, peer := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	b.listen(host, 8080)
	b.apply(blocks(atTransportIn, "{CURRENT_PROFILE_ID: private}, {IP_PROTOCOL: udp}"))
	known, fresh := udp(8080).fromPort(5000), udp(8080).fromPort(5001)
	for _, f := range b.families() {
		known.want(t, peer, f, passes)
	}
	generation, err := b.engine.Generation()
	if err != nil {
		t.Fatal(err)
	}
	var links *ebpf.Map
	if err := b.engine.Maps()[bpf.WFPMapLinks].Lookup(uint32(generation&1), &links); err != nil {
		t.Fatal(err)
	}
	defer links.Close()
	var fact bpf.Link
	if err := links.Lookup(uint32(b.hostEnd.Index), &fact); err != nil {
		t.Fatal(err)
	}
	fact.Profile = policy.ProfilePrivate
	if err := links.Put(uint32(b.hostEnd.Index), fact); err != nil {
		t.Fatal(err)
	}
	for _, f := range b.families() {
		for range 3 {
			known.want(t, peer, f, passes)
			fresh.want(t, peer, f, dropped)
		}
	}
	if err := b.engine.AttachLink("h0"); err != nil {
		t.Fatal(err)
	}
	for _, f := range b.families() {
		known.want(t, peer, f, passes)
		fresh.want(t, peer, f, passes)
	}
}

// tun makes a link of the host without MAC headers and returns where to write the
// packets that come in by it.
func (b *bed) tun(t *testing.T, name string) (fd int) {
	t.Helper()
	err := b.host.Do(func() (err error) {
		if fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0); err != nil {
			return err
		}
		t.Cleanup(func() { unix.Close(fd) })
		request, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		return unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	})
	if err != nil {
		t.Fatal(err)
	}
	link, err := b.host.Netlink().LinkByName(name)
	if err == nil {
		err = b.host.Netlink().LinkSetUp(link)
	}
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

// On a link without MAC headers a packet that has the header of a known flow where one
// would be behind a MAC header is judged by its own.
func TestKeptBareLink(t *testing.T) {
	b := newBed(t)
	out := b.tun(t, "t0")
	const protocol = 253 // for experiments: no stack answers to it
	v4 := func(from, to, payload []byte) []byte {
		header := []byte{0x45, 0, 0, byte(20 + len(payload)), 0, 0, 0, 0, 64, protocol, 0, 0}
		return slices.Concat(header, from, to, payload)
	}
	v6 := func(from, to, payload []byte) []byte {
		header := []byte{0x60, 0, 0, 0, 0, byte(len(payload)), protocol, 64}
		return slices.Concat(header, from, to, payload)
	}
	known4 := v4([]byte{10, 9, 8, 7}, []byte{10, 78, 0, 1}, make([]byte, 20))
	known6 := v6(net.ParseIP("fd79::7"), net.ParseIP("fd78::1"), make([]byte, 20))
	const etherHeader = 14
	for _, row := range []struct {
		layer            string
		known, disguised []byte
	}{
		{"INBOUND_IPPACKET_V4", known4,
			v4([]byte{10, 78, known4[0], known4[1]}, known4[2:6], known4[6:])},
		{"INBOUND_IPPACKET_V6", known6,
			v6(slices.Concat([]byte{0xfd, 0x7a, 0, 0, 0, 0}, known6[:10]), known6[10:26], known6[26:])},
	} {
		t.Run(row.layer, func(t *testing.T) {
			if !bytes.Equal(row.disguised[etherHeader:][:len(row.known)], row.known) {
				t.Fatalf("% x does not hold % x", row.disguised, row.known)
			}
			var from net.IP = row.disguised[12:16]
			if row.known[0]>>4 == 6 {
				from = row.disguised[8:24]
			}
			b.apply(blocks(row.layer, fmt.Sprintf("{IP_REMOTE_ADDRESS: %q}, {IP_LOCAL_INTERFACE: t0}", from)))
			hits := func() [2]uint64 {
				return [2]uint64{b.hits(row.layer, "Permit the rest"), b.hits(row.layer, "Block it")}
			}
			for range 3 {
				for filter, packet := range [][]byte{row.known, row.disguised} {
					before := hits()
					if _, err := unix.Write(out, packet); err != nil {
						t.Fatal(err)
					}
					b.await(func() bool { return hits() != before })
					before[filter]++
					if got := hits(); got != before {
						t.Errorf("% x: the rest was permitted and it was blocked %d times, want %d", packet, got, before)
					}
				}
			}
		})
	}
}
