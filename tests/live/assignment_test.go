// SPDX-License-Identifier: Apache-2.0

package live

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wfpebpf/wfpebpf/tests/testbed"
)

var atAssignment = both("ALE_RESOURCE_ASSIGNMENT")

// attempt binds a socket, or makes the kernel bind it.
type attempt func(p *testbed.Proc, f family) error

func bindTCP(host func(family) string, port int, opts ...testbed.Options) attempt {
	return func(p *testbed.Proc, f family) error {
		s, err := p.Bind(f.tcp, at(host(f), port), opts...)
		if err == nil {
			p.CloseSock(s)
		}
		return err
	}
}

func bindUDP(host func(family) string, port int) attempt {
	return func(p *testbed.Proc, f family) error {
		s, err := p.Bind(f.udp, at(host(f), port))
		if err == nil {
			p.CloseSock(s)
		}
		return err
	}
}

// attempts by name.
type attempts map[string]attempt

// tryAll makes attempts of a process that a layer's policy blocks, then such as
// it permits.
func (b *bed) tryAll(t *testing.T, layer string, p *testbed.Proc, f family, blocked, passed []attempts) {
	t.Helper()
	b.events()
	for _, list := range blocked {
		for name, try := range list {
			t.Run("blocks "+name+" "+f.name, func(t *testing.T) {
				denied.want(t, try(p, f))
				b.wantBlock(layer, "Block it")
			})
		}
	}
	for _, list := range passed {
		for name, try := range list {
			t.Run("permits "+name+" "+f.name, func(t *testing.T) { passes.want(t, try(p, f)) })
		}
	}
}

func anyAddress(f family) string { return f.any }

func connectTCP(p *testbed.Proc, f family) error { return p.Connect(f.tcp, at(f.peer, 8080)) }
func connectMPTCP(p *testbed.Proc, f family) error {
	return p.Connect(f.tcp, at(f.peer, 8080), testbed.Options{MPTCP: testbed.MPTCPOn})
}
func connectUDP(p *testbed.Proc, f family) error { return p.Connect(f.udp, at(f.peer, 8080)) }
func sendUDP(p *testbed.Proc, f family) error {
	return p.UDPExchange(f.udp, at(f.peer, 8080), "hello")
}

func TestAssignment(t *testing.T) {
	b := newBed(t)
	b.apply(blocks(atAssignment, "{IP_LOCAL_PORT: 8081}"))
	p := b.on(b.host, testbed.ProcOptions{})
	for _, f := range b.families() {
		layer := "ALE_RESOURCE_ASSIGNMENT_" + f.layer
		for _, row := range []struct {
			name     string
			protocol uint8
			bind     func(port int) attempt
		}{
			{"TCP", 6, func(port int) attempt { return bindTCP(hostFirst, port) }},
			{"MPTCP", 6, func(port int) attempt { return bindTCP(hostFirst, port, testbed.Options{MPTCP: testbed.MPTCPOn}) }},
			{"UDP", 17, func(port int) attempt { return bindUDP(hostFirst, port) }},
		} {
			t.Run(row.name+" "+f.name, func(t *testing.T) {
				passes.want(t, row.bind(8080)(p, f))
				b.wantHits(layer, "Permit the rest")
				denied.want(t, row.bind(8081)(p, f))
				e := b.wantBlock(layer, "Block it")
				if e.Protocol != row.protocol || e.Dst != at(f.host, 8081) || e.Src != "" || e.PID != uint32(p.PID) || e.Program != p.Exe || e.User != "root" {
					t.Errorf("event %+v", e)
				}
				b.wantHits(layer, "Block it")
			})
		}
	}
	t.Run("mapped", func(t *testing.T) {
		mapped := "[::ffff:" + b.hostEnd.V4.String() + "]"
		for _, network := range []string{"tcp6", "udp6"} {
			_, err := p.Bind(network, at(mapped, 8080))
			passes.want(t, err)
			b.events()
			_, err = p.Bind(network, at(mapped, 8081))
			denied.want(t, err)
			b.wantBlock("ALE_RESOURCE_ASSIGNMENT_V4", "Block it")
		}
	})
	t.Run("a listener that is denied its port is not there", func(t *testing.T) {
		_, err := p.Listen("tcp4", "0.0.0.0:8081")
		denied.want(t, err)
	})
}

// A raw socket has no port to be assigned: it is judged when it is made.
func TestAssignmentRaw(t *testing.T) {
	b := newBed(t)
	b.apply(blocks(atAssignment, "{FLAGS: [IS_RAW_ENDPOINT]}, {IP_PROTOCOL: [icmp, icmpv6]}"))
	p, other := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	for _, f := range b.families() {
		t.Run(f.name, func(t *testing.T) {
			layer := "ALE_RESOURCE_ASSIGNMENT_" + f.layer
			domain, icmp := unix.AF_INET, unix.IPPROTO_ICMP
			if f.layer == "V6" {
				domain, icmp = unix.AF_INET6, unix.IPPROTO_ICMPV6
			}
			raw := func(p *testbed.Proc, protocol int) error {
				s, err := p.Socket(domain, unix.SOCK_RAW, protocol)
				if err == nil {
					p.CloseSock(s)
				}
				return err
			}
			passes.want(t, bindTCP(hostFirst, 8000)(p, f))
			passes.want(t, raw(p, unix.IPPROTO_RAW))
			b.wantHits(layer, "Permit the rest")
			passes.want(t, raw(other, icmp)) // another namespace
			b.events()
			denied.want(t, raw(p, icmp))
			e := b.wantBlock(layer, "Block it")
			if e.Protocol != uint8(icmp) || e.PID != uint32(p.PID) || e.Program != p.Exe || e.User != "root" {
				t.Errorf("event %+v", e)
			}
			b.wantHits(layer, "Block it")
		})
	}
}

// What each kind of bind looks like to a policy.
func TestAssignmentConditions(t *testing.T) {
	b := newBed(t)
	b.ephemeral(40000, 40999)
	p, server := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	app := b.on(b.host, testbed.ProcOptions{CopyTo: "app"})
	user := b.on(b.host, testbed.ProcOptions{UID: 1000, GID: 1000})
	b.listen(server, 8080)
	explicit := attempts{
		"TCP": bindTCP(hostFirst, 8000), "UDP": bindUDP(hostFirst, 8000),
		"MPTCP": bindTCP(hostFirst, 8000, testbed.Options{MPTCP: testbed.MPTCPOn}),
	}
	wildcard := attempts{"TCP at any address": bindTCP(anyAddress, 8000), "UDP at any address": bindUDP(anyAddress, 8000)}
	picked := attempts{"TCP at port 0": bindTCP(hostFirst, 0), "UDP at port 0": bindUDP(hostFirst, 0)}
	implicit := attempts{"TCP connect": connectTCP, "MPTCP connect": connectMPTCP, "UDP connect": connectUDP, "UDP sendto": sendUDP}
	second := attempts{"TCP at the second address": bindTCP(hostSecond, 8000), "UDP at the second address": bindUDP(hostSecond, 8000)}
	loopback := attempts{"TCP on loopback": bindTCP(onLoopback, 8000), "UDP on loopback": bindUDP(onLoopback, 8000)}
	type lists = []attempts
	for _, row := range []struct {
		conditions      string
		p               *testbed.Proc
		blocked, passed lists
	}{
		{"{IP_LOCAL_PORT: 7990-8010}", p, lists{explicit, wildcard, second}, lists{picked, implicit}},
		{"{IP_LOCAL_PORT: 40000-40999}", p, lists{picked}, lists{explicit, wildcard}},
		{"{IP_LOCAL_PORT: 50000-51000}", p, nil, lists{explicit, picked, implicit}},
		{"{FLAGS: [IS_WILDCARD_BIND]}", p, lists{wildcard, picked, implicit}, lists{explicit, second}},
		{"{FLAGS: {match: FLAGS_NONE_SET, value: [IS_WILDCARD_BIND]}}", p, lists{explicit, second}, lists{wildcard, picked, implicit}},
		{`{IP_LOCAL_ADDRESS: [10.77.0.11, "fd77::11"]}`, p, lists{second}, lists{explicit, wildcard, picked, implicit}},
		{`{IP_LOCAL_ADDRESS: [10.77.0.0/24, "fd77::/64"]}`, p, lists{second, explicit, picked}, lists{wildcard, implicit, loopback}},
		{"{IP_LOCAL_ADDRESS: EMPTY}", p, lists{wildcard, implicit}, lists{explicit, picked}},
		{"{IP_LOCAL_ADDRESS_TYPE: unspecified}", p, lists{wildcard, implicit}, lists{explicit, picked}},
		{"{IP_LOCAL_ADDRESS_TYPE: unicast}", p, lists{explicit, picked, loopback}, lists{wildcard, implicit}},
		{"{IP_LOCAL_INTERFACE: h0}", p, lists{explicit, second, picked}, lists{wildcard, implicit, loopback}},
		{"{INTERFACE_TYPE: loopback}", p, lists{loopback}, lists{wildcard, implicit, explicit}},
		{"{IP_PROTOCOL: 6}, {IP_LOCAL_PORT: 8000}", p, lists{{"TCP": explicit["TCP"], "MPTCP": explicit["MPTCP"]}}, lists{{"UDP": explicit["UDP"]}, implicit}},
		{"{ALE_APP_ID: " + app.Exe + "}", app, lists{explicit, wildcard, picked, implicit}, nil},
		{"{ALE_APP_ID: " + app.Exe + "}", p, nil, lists{explicit, wildcard, picked, implicit}},
		{`{ALE_USER_ID: "uid:1000"}`, user, lists{explicit, wildcard, picked, implicit}, nil},
		{`{ALE_USER_ID: "uid:1000"}`, p, nil, lists{explicit, wildcard, picked, implicit}},
	} {
		t.Run(row.conditions, func(t *testing.T) {
			b.apply(blocks(atAssignment, row.conditions))
			for _, f := range b.families() {
				b.tryAll(t, "ALE_RESOURCE_ASSIGNMENT_"+f.layer, row.p, f, row.blocked, row.passed)
			}
		})
	}
}

// ephemeral sets the host's range of ports for sockets that name none.
func (b *bed) ephemeral(low, high int) {
	b.t.Helper()
	err := b.host.Do(func() error {
		// ports that tests bind to themselves are not for the kernel to pick
		return errors.Join(
			os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", fmt.Appendf(nil, "%d %d", low, high), 0),
			os.WriteFile("/proc/sys/net/ipv4/ip_local_reserved_ports", fmt.Appendf(nil, "%d,%d", low+800, low+900), 0),
		)
	})
	if err != nil {
		b.t.Fatal(err)
	}
}

// Where the policy tests the port, a socket that the kernel binds by itself is
// judged by its first packet, since no hook knows the port before.
func TestAssignmentImplicitPort(t *testing.T) {
	b := newBed(t)
	b.ephemeral(40000, 40999)
	b.apply(blocks(atAssignment, "{IP_LOCAL_PORT: 40000-40999}"))
	p, server := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	b.listen(server, 8080)
	for _, f := range b.families() {
		layer := "ALE_RESOURCE_ASSIGNMENT_" + f.layer
		for _, row := range []struct {
			name string
			try  attempt
			out  outcome
		}{
			{"TCP connect", func(p *testbed.Proc, f family) error {
				return p.Connect(f.tcp, at(f.peer, 8080), testbed.Options{Timeout: soon})
			}, dropped},
			{"MPTCP connect", func(p *testbed.Proc, f family) error {
				return p.Connect(f.tcp, at(f.peer, 8080), testbed.Options{MPTCP: testbed.MPTCPOn, Timeout: soon})
			}, dropped},
			{"UDP connect", connectUDP, refused},
			// bound before the hook
			{"UDP sendto", sendUDP, denied},
		} {
			t.Run(row.name+" "+f.name, func(t *testing.T) {
				b.events()
				row.out.want(t, row.try(p, f))
				b.wantBlock(layer, "Block it")
			})
		}
		t.Run("an explicit port "+f.name, func(t *testing.T) {
			passes.want(t, p.Connect(f.tcp, at(f.peer, 8080), testbed.Options{Local: at(f.host, 5000)}))
			passes.want(t, p.UDPExchange(f.udp, at(f.peer, 8080), "hello", testbed.Options{Local: at(f.host, 5000)}))
		})
	}
}

// listen() binds a socket that nobody bound. It cannot be made to fail, so a
// listener that is denied its port gets no connections.
func TestAssignmentListen(t *testing.T) {
	b := newBed(t)
	b.ephemeral(40000, 40999)
	p, client := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	for _, row := range []struct {
		conditions string
		out        outcome
	}{
		{"{IP_LOCAL_PORT: 40000-40999}", dropped},
		{"{IP_LOCAL_PORT: 8080}", passes},
		{"{FLAGS: [IS_WILDCARD_BIND]}", dropped},
	} {
		t.Run(row.conditions, func(t *testing.T) {
			b.apply(blocks(atAssignment, row.conditions))
			for _, f := range b.families() {
				for name, mode := range map[string]testbed.MPTCP{"MPTCP": testbed.MPTCPOn, "TCP": testbed.MPTCPOff} {
					t.Run(name+" "+f.name, func(t *testing.T) {
						b.events()
						l, err := p.Listen(f.tcp, "", testbed.Options{NoBind: true, MPTCP: mode, V6Only: true})
						if err != nil {
							t.Fatal(err)
						}
						tcp(int(l.Local.Port())).want(t, client, f, row.out)
						if row.out.text == dropped.text {
							b.wantBlock("ALE_RESOURCE_ASSIGNMENT_"+f.layer, "Block it")
						}
					})
				}
			}
		})
	}
}
