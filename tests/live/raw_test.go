// SPDX-License-Identifier: Apache-2.0

package live

import (
	"encoding/binary"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wfpebpf/wfpebpf/loader"
	"github.com/wfpebpf/wfpebpf/tests/testbed"
)

// membership is a struct packet_mreq that asks a link for something.
func membership(link, what int) []byte {
	b := binary.NativeEndian.AppendUint32(nil, uint32(link))
	b = binary.NativeEndian.AppendUint16(b, uint16(what))
	b = binary.NativeEndian.AppendUint16(b, 6)
	return append(b, 1, 0, 0x5e, 1, 2, 3, 0, 0) // a group, of those who ask for one
}

// promiscuity is how many ask a host's link to be promiscuous, and to take all
// multicast frames.
func (b *bed) promiscuity() (promiscuous, multicast int) {
	b.t.Helper()
	l, err := b.host.Netlink().LinkByIndex(b.hostEnd.Index)
	if err != nil {
		b.t.Fatal(err)
	}
	return l.Attrs().Promisc, l.Attrs().Allmulti
}

// packetSocket makes one of a process, which has none of the ALE hooks on its way.
func packetSocket(t *testing.T, p *testbed.Proc, typ int) testbed.Sock {
	t.Helper()
	s, err := p.Socket(unix.AF_PACKET, typ, 0)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// What a packet socket asks of a link is a raw endpoint's ALE_PROMISCUOUS_MODE, of
// either family.
func TestAssignmentPromiscuous(t *testing.T) {
	const promiscuous, multicast = "0x98000001", "0x98000002"
	b := newBed(t)
	host := b.on(b.host, testbed.ProcOptions{})
	user := b.on(b.host, testbed.ProcOptions{CopyTo: "app"})
	outsider := b.on(b.host, testbed.ProcOptions{Cgroup: testbed.NewCgroup(t, "elsewhere")})
	peer := b.on(b.peer, testbed.ProcOptions{})
	for _, row := range []struct {
		name, layers, conditions string
		p                        *testbed.Proc
		link                     int // 0: h0
		what                     int
		blockedAt                string
	}{
		{"promiscuous", atAssignment, "{ALE_PROMISCUOUS_MODE: " + promiscuous + "}", host, 0, unix.PACKET_MR_PROMISC, "V4"},
		{"promiscuous, of IPv6", "ALE_RESOURCE_ASSIGNMENT_V6", "{ALE_PROMISCUOUS_MODE: " + promiscuous + "}", host, 0, unix.PACKET_MR_PROMISC, "V6"},
		{"all multicast", atAssignment, "{ALE_PROMISCUOUS_MODE: " + multicast + "}", host, 0, unix.PACKET_MR_ALLMULTI, "V4"},
		{"the other of the two", atAssignment, "{ALE_PROMISCUOUS_MODE: " + multicast + "}", host, 0, unix.PACKET_MR_PROMISC, ""},
		{"none", atAssignment, "{ALE_PROMISCUOUS_MODE: 0}", host, 0, unix.PACKET_MR_PROMISC, ""},
		{"any", atAssignment, "{ALE_PROMISCUOUS_MODE: {match: NOT_EQUAL, value: 0}}", host, 0, unix.PACKET_MR_ALLMULTI, "V4"},
		{"whatever", atAssignment, "", host, 0, unix.PACKET_MR_PROMISC, "V4"},
		{"a group", atAssignment, "", host, 0, unix.PACKET_MR_MULTICAST, ""},
		{"a raw endpoint", atAssignment, "{FLAGS: [IS_RAW_ENDPOINT]}, {IP_PROTOCOL: 0}", host, 0, unix.PACKET_MR_PROMISC, "V4"},
		{"no address", atAssignment, "{IP_LOCAL_ADDRESS: EMPTY}, {IP_LOCAL_ADDRESS_TYPE: unspecified}, {IP_LOCAL_PORT: EMPTY}", host, 0, unix.PACKET_MR_PROMISC, "V4"},
		{"the link", atAssignment, "{IP_LOCAL_INTERFACE: h0}, {INTERFACE_TYPE: ethernet}", host, 0, unix.PACKET_MR_PROMISC, "V4"},
		{"another link", atAssignment, "{IP_LOCAL_INTERFACE: h0}", host, 1, unix.PACKET_MR_PROMISC, ""},
		{"the program", atAssignment, "{ALE_APP_ID: " + user.Exe + "}", user, 0, unix.PACKET_MR_PROMISC, "V4"},
		{"another program", atAssignment, "{ALE_APP_ID: " + user.Exe + "}", host, 0, unix.PACKET_MR_PROMISC, ""},
		{"another cgroup", atAssignment, "", outsider, 0, unix.PACKET_MR_PROMISC, ""},
		{"another namespace", atAssignment, "", peer, 1, unix.PACKET_MR_PROMISC, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			b.apply(blocks(row.layers, row.conditions))
			link := row.link
			if link == 0 {
				link = b.hostEnd.Index
			}
			for _, long := range []int{0, 16, 5000, 9000} { // bytes beyond the request, which the kernel takes
				for _, typ := range []int{unix.SOCK_RAW, unix.SOCK_DGRAM} {
					b.events()
					s := packetSocket(t, row.p, typ)
					err := row.p.SetOption(s, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, append(membership(link, row.what), make([]byte, long)...))
					p, m := b.promiscuity()
					passes.want(t, row.p.CloseSock(s))
					list := b.events()
					if row.blockedAt == "" {
						passes.want(t, err)
						if len(list) > 0 {
							t.Errorf("events %+v", list)
						}
						if asked := row.link == 0 && row.what != unix.PACKET_MR_MULTICAST; asked != (p+m > 0) {
							t.Errorf("promiscuous %d, all multicast %d", p, m)
						}
						continue
					}
					denied.want(t, err)
					if p+m > 0 {
						t.Errorf("promiscuous %d, all multicast %d", p, m)
					}
					if len(list) != 1 {
						t.Fatalf("events %+v, want one", list)
					}
					e := list[0]
					if e.Layer != "ALE_RESOURCE_ASSIGNMENT_"+row.blockedAt || e.FilterName != "Block it" || e.Interface != "h0" ||
						e.PID != uint32(row.p.PID) || e.Program != row.p.Exe || e.User != "root" || e.Src != "" || e.Protocol != 0 {
						t.Errorf("event %+v", e)
					}
					b.wantHits(e.Layer, "Block it")
				}
			}
		})
	}
}

// A bind is of no promiscuous mode, and other options of any length are left alone.
func TestAssignmentOptions(t *testing.T) {
	b := newBed(t)
	b.apply(blocks(atAssignment, "{ALE_PROMISCUOUS_MODE: {match: NOT_EQUAL, value: 0}}"))
	p := b.on(b.host, testbed.ProcOptions{})
	for _, f := range b.families() {
		passes.want(t, bindTCP(hostFirst, 8000)(p, f))
		b.wantHits("ALE_RESOURCE_ASSIGNMENT_"+f.layer, "Permit the rest")
	}
	s, err := p.UDP("udp4")
	if err != nil {
		t.Fatal(err)
	}
	passes.want(t, p.SetOption(s, unix.SOL_SOCKET, unix.SO_RCVBUF, binary.NativeEndian.AppendUint32(nil, 20000)))
	passes.want(t, p.SetOption(s, unix.SOL_SOCKET, unix.SO_RCVBUF, append(binary.NativeEndian.AppendUint32(nil, 30000), make([]byte, 9000)...)))
	fd, err := p.Duplicate(s)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if n, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF); err != nil || n != 60000 {
		t.Errorf("SO_RCVBUF is %d, %v", n, err)
	}
	// a request that is cut off is the kernel's to refuse
	packet := packetSocket(t, p, unix.SOCK_RAW)
	failsWith(unix.EINVAL).want(t, p.SetOption(packet, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, membership(b.hostEnd.Index, unix.PACKET_MR_PROMISC)[:15]))
	if list := b.events(); slices.ContainsFunc(list, func(e loader.Event) bool { return e.Action == "block" }) {
		t.Errorf("events %+v", list)
	}
}
