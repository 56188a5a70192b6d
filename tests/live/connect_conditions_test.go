// SPDX-License-Identifier: Apache-2.0

package live

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/wfpebpf/wfpebpf/tests/testbed"
)

// outbound is a TCP connect (and MPTCP, and UDP both ways) from a local address,
// where one is given, to a port of the peer. Each takes the next source port: a
// closed connection keeps its own for a while.
func outbound(port int, local func(family) string, source int) attempts {
	used := 0
	opt := func(f family) testbed.Options {
		if local == nil {
			return testbed.Options{}
		}
		if source == 0 {
			return testbed.Options{Local: at(local(f), 0)}
		}
		used++
		return testbed.Options{Local: at(local(f), source+used)}
	}
	return attempts{
		"TCP connect": func(p *testbed.Proc, f family) error { return p.Connect(f.tcp, at(f.peer, port), opt(f)) },
		"MPTCP connect": func(p *testbed.Proc, f family) error {
			o := opt(f)
			o.MPTCP = testbed.MPTCPOn
			return p.Connect(f.tcp, at(f.peer, port), o)
		},
		"UDP connect": func(p *testbed.Proc, f family) error { return p.Connect(f.udp, at(f.peer, port), opt(f)) },
		"UDP sendto": func(p *testbed.Proc, f family) error {
			return p.UDPExchange(f.udp, at(f.peer, port), "hello", opt(f))
		},
	}
}

func TestConnectConditions(t *testing.T) {
	b := newBed(t)
	b.ephemeral(40000, 40999)
	p, server := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	app := b.on(b.host, testbed.ProcOptions{CopyTo: "app"})
	user := b.on(b.host, testbed.ProcOptions{UID: 1000, GID: 1000})
	unit := b.cgroup.Child(t, "svc")
	service := b.on(b.host, testbed.ProcOptions{Cgroup: unit})
	b.listen(server, 8080, 8081)
	b.listen(p, 8082)
	plain := outbound(8080, nil, 0)
	other := outbound(8081, nil, 0)
	fromSecond := outbound(8080, hostSecond, 0)
	fromPort := outbound(8080, hostFirst, 5000)
	toSelf := attempts{ // the unspecified address is oneself
		"TCP to oneself": func(p *testbed.Proc, f family) error { return p.Connect(f.tcp, at(f.any, 8082)) },
		"UDP to oneself": func(p *testbed.Proc, f family) error { return p.UDPExchange(f.udp, at(f.any, 8082), "hello") },
		"TCP to ::1":     func(p *testbed.Proc, f family) error { return p.Connect(f.tcp, at(f.loopback, 8082)) },
		"TCP to an own address": func(p *testbed.Proc, f family) error {
			return p.Connect(f.tcp, at(f.host, 8082))
		},
	}
	type lists = []attempts
	for _, row := range []struct {
		conditions     string
		p              *testbed.Proc
		denied, passed lists
	}{
		{"{IP_REMOTE_PORT: 8081}", p, lists{other}, lists{plain, fromSecond}},
		{"{IP_REMOTE_PORT: [1-8079, 8081-65535]}", p, lists{other}, lists{plain}},
		{`{IP_REMOTE_ADDRESS: [10.77.0.0/24, "fd77::/64"]}`, p, lists{plain, fromSecond}, lists{{"loopback": toSelf["TCP to ::1"]}}},
		{`{IP_REMOTE_ADDRESS: [10.77.0.3-10.77.0.9, "fd77::3-fd77::9"]}`, p, nil, lists{plain}},
		{`{IP_REMOTE_ADDRESS: [127.0.0.1, "::1"]}`, p, lists{{"TCP": toSelf["TCP to oneself"], "UDP": toSelf["UDP to oneself"]}}, lists{plain}},
		{"{IP_PROTOCOL: 6}", p, lists{{"TCP": plain["TCP connect"], "MPTCP": plain["MPTCP connect"]}}, lists{{"UDP": plain["UDP sendto"]}}},
		{`{IP_LOCAL_ADDRESS: [10.77.0.11, "fd77::11"]}`, p, lists{fromSecond}, lists{plain, fromPort}},
		{`{IP_LOCAL_ADDRESS: [10.77.0.1, "fd77::1"]}`, p, lists{plain, fromPort}, lists{fromSecond}},
		{"{IP_LOCAL_PORT: 5000-5999}", p, lists{fromPort}, lists{plain, fromSecond}},
		{"{IP_LOCAL_PORT: 40000-40999}", p, lists{plain}, lists{fromPort}},
		// Bound ports above the ephemeral ones, or they could be in use.
		{"{IP_LOCAL_PORT: 40900-41099}", p, lists{outbound(8080, hostFirst, 41000)}, lists{outbound(8080, hostFirst, 41100)}},
		{"{IP_LOCAL_ADDRESS_TYPE: unicast}", p, lists{plain}, nil},
		{"{IP_DESTINATION_ADDRESS_TYPE: unicast}", p, lists{plain, toSelf}, nil},
		{"{IP_NEXTHOP_INTERFACE: h0}", p, lists{plain, fromSecond}, lists{toSelf}},
		{"{IP_LOCAL_INTERFACE: h0}", p, lists{plain}, lists{toSelf}},
		{fmt.Sprintf("{NEXTHOP_INTERFACE_INDEX: %d}", b.hostEnd.Index), p, lists{plain}, lists{toSelf}},
		{fmt.Sprintf("{INTERFACE_INDEX: %d}", b.hostEnd.Index), p, lists{plain}, lists{toSelf}},
		{"{NEXTHOP_INTERFACE_TYPE: ethernet}", p, lists{plain}, lists{toSelf}},
		{"{INTERFACE_TYPE: loopback}", p, lists{toSelf}, lists{plain}},
		{"{ARRIVAL_INTERFACE_INDEX: EMPTY}", p, lists{plain}, nil},
		{"{FLAGS: [IS_LOOPBACK]}", p, lists{toSelf}, lists{plain}},
		{"{FLAGS: {match: FLAGS_NONE_SET, value: [IS_LOOPBACK]}}", p, lists{plain}, lists{toSelf}},
		{"{FLAGS: [IS_NON_APPCONTAINER_LOOPBACK]}", p, lists{toSelf}, lists{plain}},
		{"{ALE_APP_ID: " + app.Exe + "}", app, lists{plain, toSelf}, nil},
		{"{ALE_APP_ID: " + app.Exe + "}", p, nil, lists{plain, toSelf}},
		{`{ALE_USER_ID: "uid:1000"}`, user, lists{plain}, nil},
		{`{ALE_USER_ID: "uid:1000"}`, p, nil, lists{plain}},
		{`{ALE_USER_ID: "unit:` + unit.Rel + `"}`, service, lists{plain}, nil},
		{`{ALE_USER_ID: "unit:` + unit.Rel + `"}`, p, nil, lists{plain}},
	} {
		t.Run(row.conditions, func(t *testing.T) {
			b.apply(blocks(atConnect, row.conditions))
			for _, f := range b.families() {
				b.tryAll(t, "ALE_AUTH_CONNECT_"+f.layer, row.p, f, row.denied, row.passed)
			}
		})
	}
}

// A process is of the innermost of its units that the policy names.
func TestConnectNestedUnits(t *testing.T) {
	b := newBed(t)
	outer := b.cgroup.Child(t, "outer")
	inner := outer.Child(t, "inner")
	server := b.on(b.peer, testbed.ProcOptions{})
	b.listen(server, 8080)
	procs := map[*testbed.Cgroup]*testbed.Proc{}
	for _, c := range []*testbed.Cgroup{b.cgroup, outer, inner, inner.Child(t, "below")} {
		procs[c] = b.on(b.host, testbed.ProcOptions{Cgroup: c})
	}
	unit := func(c *testbed.Cgroup) string { return `{ALE_USER_ID: "unit:` + c.Rel + `"}` }
	b.apply("filters:\n" +
		rule("BLOCK", "Block the inner", atConnect, 8, unit(inner)) +
		rule("PERMIT", "Permit the outer", atConnect, 4, unit(outer)) +
		rule("BLOCK", "Block the rest", atConnect, 0))
	for c, p := range procs {
		for _, f := range b.families() {
			t.Run(c.Rel+" "+f.name, func(t *testing.T) {
				b.events()
				want, by := denied, "Block the inner"
				switch c {
				case outer:
					want, by = passes, ""
				case b.cgroup:
					by = "Block the rest"
				}
				want.want(t, connectTCP(p, f))
				if by != "" {
					b.wantBlock("ALE_AUTH_CONNECT_"+f.layer, by)
				}
				want.want(t, sendUDP(p, f))
			})
		}
	}
}

// The range of ephemeral ports is another one than at the apply: the first
// packet shows the true port.
func TestConnectStaleEphemeralRange(t *testing.T) {
	b := newBed(t)
	b.ephemeral(40000, 40999)
	b.apply(blocks(atConnect, "{IP_LOCAL_PORT: 50000-50999}"))
	p, server := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	b.listen(server, 8080)
	for _, f := range b.families() {
		passes.want(t, connectTCP(p, f))
		passes.want(t, connectUDP(p, f))
	}
	b.ephemeral(50000, 50999)
	for _, f := range b.families() {
		t.Run(f.name, func(t *testing.T) {
			b.events()
			dropped.want(t, p.Connect(f.tcp, at(f.peer, 8080), testbed.Options{Timeout: soon}))
			b.wantBlock("ALE_AUTH_CONNECT_"+f.layer, "Block it")
			refused.want(t, connectUDP(p, f))
		})
	}
}

// A policy that tells ephemeral ports apart is asked by the first packet, which
// has the port.
func TestConnectEphemeralPort(t *testing.T) {
	for i, name := range []string{"v4", "v6"} {
		// each has its own host: a closed connection of the other keeps the port
		t.Run(name, func(t *testing.T) { testConnectEphemeralPort(t, i) })
	}
}

func testConnectEphemeralPort(t *testing.T, i int) {
	b := newBed(t)
	b.ephemeral(40000, 40001)
	b.apply(blocks(atConnect, "{IP_LOCAL_PORT: 40001}"))
	p, server := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	b.listen(server, 8080)
	f := b.families()[i]
	for _, row := range []struct {
		left     int // the other port is taken
		tcp, udp outcome
	}{
		{40001, dropped, refused},
		{40000, passes, passes},
	} {
		t.Run(fmt.Sprint(row.left), func(t *testing.T) {
			taken := at(f.any, 80001-row.left)
			for _, network := range []string{f.tcp, f.udp} {
				s, err := p.Bind(network, taken, testbed.Options{V6Only: true})
				if err != nil {
					t.Fatal(err)
				}
				defer p.CloseSock(s)
			}
			b.events()
			row.tcp.want(t, p.Connect(f.tcp, at(f.peer, 8080), testbed.Options{Timeout: row.tcp.limit}))
			if row.left == 40001 {
				if e := b.wantBlock("ALE_AUTH_CONNECT_"+f.layer, "Block it"); e.Src != at(f.host, 40001) {
					t.Errorf("event %+v", e)
				}
			}
			row.udp.want(t, p.Connect(f.udp, at(f.peer, 8080)))
		})
	}
}

// A kill switch: out by h0 (the VPN) and to oneself, by no other link.
func TestConnectKillSwitch(t *testing.T) {
	b := newBed(t)
	b.secondLink()
	p, server := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	b.listen(p, 8080)
	b.listen(server, 8080)
	for _, key := range []string{"IP_NEXTHOP_INTERFACE", "IP_LOCAL_INTERFACE"} {
		b.apply(permits(atConnect, "{"+key+": [h0, lo]}"))
		for _, f := range b.families() {
			layer := "ALE_AUTH_CONNECT_" + f.layer
			other := map[string]string{"v4": "10.77.1.2", "v6": "[fd77:1::2]"}[f.name]
			t.Run(key+" "+f.name, func(t *testing.T) {
				passes.want(t, p.Connect(f.tcp, at(f.peer, 8080)))
				passes.want(t, p.UDPExchange(f.udp, at(f.peer, 8080), "hello"))
				passes.want(t, p.Connect(f.tcp, at(f.loopback, 8080)))
				passes.want(t, p.Connect(f.tcp, at(f.host, 8080)))
				b.wantHits(layer, "Permit it")
				b.events()
				denied.want(t, p.Connect(f.tcp, at(other, 8080)))
				if e := b.wantBlock(layer, "Block the rest"); e.Interface != "h1" {
					t.Errorf("event %+v", e)
				}
				denied.want(t, p.UDPExchange(f.udp, at(other, 8080), "hello"))
				denied.want(t, p.Connect(f.udp, at(other, 8080)))
			})
		}
	}
}

// Nobody watches, and the routes change after the apply: the first packet shows
// the true interface.
func TestConnectStaleRoute(t *testing.T) {
	b := newBed(t)
	b.secondLink()
	p, server := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	to := map[string]net.IP{"v4": net.ParseIP("10.99.0.1").To4(), "v6": net.ParseIP("fd99::1")}
	h, lo := b.host.Netlink(), &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: 1}}
	h1, err := h.LinkByName("h1")
	if err != nil {
		t.Fatal(err)
	}
	route := func(f family, link int) *netlink.Route {
		ip := to[f.name]
		via := map[string]string{"v4": "10.77.0.2", "v6": "fd77::2"}
		if link != b.hostEnd.Index {
			via = map[string]string{"v4": "10.77.1.2", "v6": "fd77:1::2"}
		}
		return &netlink.Route{
			LinkIndex: link, Gw: net.ParseIP(via[f.name]),
			Dst: &net.IPNet{IP: ip, Mask: net.CIDRMask(len(ip)*8, len(ip)*8)},
		}
	}
	for _, f := range b.families() {
		ip := to[f.name]
		a := &netlink.Addr{IPNet: &net.IPNet{IP: ip, Mask: net.CIDRMask(len(ip)*8, len(ip)*8)}, Flags: unix.IFA_F_NODAD}
		if err := b.peer.Netlink().AddrAdd(lo, a); err != nil {
			t.Fatal(err)
		}
		if err := h.RouteAdd(route(f, b.hostEnd.Index)); err != nil {
			t.Fatal(err)
		}
	}
	b.listen(server, 8080)
	b.apply(permits(atConnect, "{IP_NEXTHOP_INTERFACE: h0}"))
	for _, f := range b.families() {
		t.Run(f.name, func(t *testing.T) {
			addr := net.JoinHostPort(to[f.name].String(), "8080")
			passes.want(t, p.Connect(f.tcp, addr))
			passes.want(t, p.UDPExchange(f.udp, addr, "hello"))
			// v6 has no replace that moves a route to another gateway's link
			if err := h.RouteDel(route(f, b.hostEnd.Index)); err != nil {
				t.Fatal(err)
			}
			if err := h.RouteAdd(route(f, h1.Attrs().Index)); err != nil {
				t.Fatal(err)
			}
			b.events()
			dropped.want(t, p.Connect(f.tcp, addr, testbed.Options{Timeout: soon}))
			if e := b.wantBlock("ALE_AUTH_CONNECT_"+f.layer, "Block the rest"); e.Interface != "h1" {
				t.Errorf("event %+v", e)
			}
			dropped.want(t, p.Connect(f.tcp, addr, testbed.Options{Timeout: soon, MPTCP: testbed.MPTCPOn}))
			refused.want(t, p.UDPExchange(f.udp, addr, "hello"))
			refused.want(t, p.Connect(f.udp, addr))
		})
	}
	if s := b.state(); len(s.Stale) == 0 {
		t.Error("the state does not say that routes have changed")
	}
}

func TestConnectDestinationType(t *testing.T) {
	b := newBed(t)
	p, server := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	b.listen(server, 8080)
	err := b.host.Netlink().RouteAdd(&netlink.Route{LinkIndex: b.hostEnd.Index, Gw: b.peerEnd.V4.AsSlice()})
	if err != nil {
		t.Fatal(err)
	}
	sendTo := func(network, to string) attempt {
		return func(p *testbed.Proc, f family) error {
			s := b.open(p, network, "")
			b.setBroadcast(p)
			defer p.CloseSock(s)
			return p.SendTo(s, to, "hello")
		}
	}
	multicast4, multicast6 := sendTo("udp4", "224.0.0.251:5353"), sendTo("udp6", "[ff02::fb%h0]:5353")
	subnet, limited := sendTo("udp4", "10.77.0.255:8080"), sendTo("udp4", "255.255.255.255:8080")
	for _, row := range []struct {
		conditions                    string
		multicast, broadcast, unicast outcome
	}{
		{"{IP_DESTINATION_ADDRESS_TYPE: multicast}", denied, passes, passes},
		{"{IP_DESTINATION_ADDRESS_TYPE: broadcast}", passes, denied, passes},
		{"{IP_DESTINATION_ADDRESS_TYPE: unicast}", passes, passes, denied},
		{"{IP_DESTINATION_ADDRESS_TYPE: {match: NOT_EQUAL, value: unicast}}", denied, denied, passes},
	} {
		t.Run(row.conditions, func(t *testing.T) {
			b.apply(blocks(atConnect, row.conditions))
			row.multicast.want(t, multicast4(p, family{}))
			row.multicast.want(t, multicast6(p, family{}))
			row.broadcast.want(t, subnet(p, family{}))
			row.broadcast.want(t, limited(p, family{}))
			for _, f := range b.families() {
				row.unicast.want(t, sendUDP(p, f))
				row.unicast.want(t, connectTCP(p, f))
			}
		})
	}
}

// setBroadcast sets SO_BROADCAST on the datagram sockets of a process.
func (b *bed) setBroadcast(p *testbed.Proc) {
	b.t.Helper()
	process, err := unix.PidfdOpen(p.PID, 0)
	if err != nil {
		b.t.Fatal(err)
	}
	defer unix.Close(process)
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.PID))
	if err != nil {
		b.t.Fatal(err)
	}
	for _, file := range files {
		n, _ := strconv.Atoi(file.Name())
		fd, err := unix.PidfdGetfd(process, n, 0)
		if err != nil {
			continue
		}
		if typ, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE); err == nil && typ == unix.SOCK_DGRAM {
			err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1)
			if err != nil {
				b.t.Fatal(err)
			}
		}
		unix.Close(fd)
	}
}
