// SPDX-License-Identifier: Apache-2.0

package live

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wfpebpf/wfpebpf/loader"
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

// reserve keeps ports from the kernel, which it may pick from by the host's range.
func (b *bed) reserve(ports string) {
	b.t.Helper()
	err := b.host.Do(func() error {
		return os.WriteFile("/proc/sys/net/ipv4/ip_local_reserved_ports", []byte(ports), 0)
	})
	if err != nil {
		b.t.Fatal(err)
	}
}

// assignments are the events at the layer since the last look.
func (b *bed) assignments() (list []loader.Event) {
	b.t.Helper()
	for _, e := range b.events() {
		if strings.HasPrefix(e.Layer, "ALE_RESOURCE_ASSIGNMENT_") {
			list = append(list, e)
		}
	}
	return list
}

// Where the policy tests the port, a socket that the kernel binds by itself is judged by
// the port that the kernel picks. Where the policy does not tell apart those that it picks
// from, that is known before, and the call fails; else a connect is judged before its SYN, which is
// then dropped, a connected UDP socket by its first datagram.
func TestAssignmentImplicitPort(t *testing.T) {
	const retransmitted = 1300 * time.Millisecond
	b := newBed(t)
	b.ephemeral(40000, 40999)
	b.reserve("40500-40999")
	p, server := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	b.listen(server, 8080)
	connectFor := func(mode testbed.MPTCP) attempt {
		return func(p *testbed.Proc, f family) error {
			return p.Connect(f.tcp, at(f.peer, 8080), testbed.Options{MPTCP: mode, Timeout: retransmitted})
		}
	}
	for _, row := range []struct {
		conditions string
		tcp, udp   outcome
		known      bool // the port
	}{
		{"{IP_LOCAL_PORT: 40000-40999}", denied, denied, false},
		{"{IP_LOCAL_PORT: {match: NOT_EQUAL, value: 80}}", denied, denied, false},
		{"{IP_LOCAL_PORT: 40000-40499}", dropped, refused, true},
		{"{IP_LOCAL_PORT: 40500-40999}", passes, passes, true},
		{"{IP_LOCAL_PORT: 8080}", passes, passes, false},
	} {
		b.apply(blocks(atAssignment, row.conditions))
		for _, f := range b.families() {
			layer := "ALE_RESOURCE_ASSIGNMENT_" + f.layer
			for _, call := range []struct {
				name string
				try  attempt
				out  outcome
			}{
				{"TCP connect", connectFor(testbed.MPTCPOff), row.tcp},
				{"MPTCP connect", connectFor(testbed.MPTCPOn), row.tcp},
				{"UDP connect", connectUDP, row.udp},
				// bound before the hook
				{"UDP sendto", sendUDP, map[bool]outcome{true: passes, false: denied}[row.udp.text == passes.text]},
			} {
				t.Run(row.conditions+" "+call.name+" "+f.name, func(t *testing.T) {
					b.events()
					blocked, permitted := b.hits(layer, "Block it"), b.hits(layer, "Permit the rest")
					call.out.want(t, call.try(p, f))
					blocked, permitted = b.hits(layer, "Block it")-blocked, b.hits(layer, "Permit the rest")-permitted
					list := b.assignments()
					if call.out.text == passes.text {
						if blocked != 0 || permitted != 1 || len(list) > 0 {
							t.Errorf("blocked %d times, permitted %d, events %+v", blocked, permitted, list)
						}
						return
					}
					if blocked != 1 || permitted != 0 || len(list) != 1 {
						t.Fatalf("blocked %d times, permitted %d, events %+v", blocked, permitted, list)
					}
					e := list[0]
					port := netip.MustParseAddrPort(e.Dst).Port()
					if picked := port >= 40000 && port < 40500; e.Layer != layer || !picked && port != 0 || picked != (row.known || call.name == "UDP sendto") {
						t.Errorf("event %+v", e)
					}
				})
			}
			t.Run(row.conditions+" an explicit port "+f.name, func(t *testing.T) {
				out := passes
				if strings.Contains(row.conditions, "NOT_EQUAL") {
					out = denied
				}
				out.want(t, p.Connect(f.tcp, at(f.peer, 8080), testbed.Options{Local: at(f.host, 5000)}))
				out.want(t, p.UDPExchange(f.udp, at(f.peer, 8080), "hello", testbed.Options{Local: at(f.host, 5000)}))
			})
		}
	}
}

// What was judged by the range of ports that the host had is judged again by a port from
// elsewhere: before the SYN of TCP, and by the first datagram of UDP.
func TestAssignmentOtherRange(t *testing.T) {
	b := newBed(t)
	p, server := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	b.listen(server, 8080)
	b.ephemeral(40000, 40999)
	b.apply(blocks(atAssignment, "{IP_LOCAL_PORT: 30000-30999}"))
	for _, row := range []struct {
		low      int
		tcp, udp outcome
	}{{30000, dropped, refused}, {31000, passes, passes}, {40000, passes, passes}} {
		b.ephemeral(row.low, row.low+999)
		for _, f := range b.families() {
			t.Run(fmt.Sprint(f.name, " ", row.low), func(t *testing.T) {
				for network, out := range map[string]outcome{f.tcp: row.tcp, f.udp: row.udp} {
					b.events()
					out.want(t, p.Connect(network, at(f.peer, 8080), testbed.Options{Timeout: out.limit}))
					list := b.assignments()
					if out.text == passes.text {
						if len(list) > 0 {
							t.Errorf("%s: events %+v", network, list)
						}
					} else if len(list) != 1 || netip.MustParseAddrPort(list[0].Dst).Port()/1000 != 30 {
						t.Errorf("%s: events %+v", network, list)
					}
				}
			})
		}
	}
}

// A bind to an address may leave the port to connect(): it is judged there, and of that
// address.
func TestAssignmentNoPort(t *testing.T) {
	b := newBed(t)
	b.ephemeral(40000, 40999)
	b.reserve("40500-40999")
	p, server := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	b.listen(server, 8080)
	for _, row := range []struct {
		conditions string
		out        outcome
	}{
		{`{IP_LOCAL_ADDRESS: [10.77.0.11, "fd77::11"]}`, denied},
		{`{IP_LOCAL_ADDRESS: [10.77.0.1, "fd77::1"]}`, passes},
		{"{IP_LOCAL_ADDRESS: EMPTY}", passes},
		{"{IP_LOCAL_INTERFACE: h0}", denied},
		{`{IP_LOCAL_ADDRESS: [10.77.0.11, "fd77::11"]}, {IP_LOCAL_PORT: 40000-40499}`, dropped},
		{"{IP_LOCAL_ADDRESS: EMPTY}, {IP_LOCAL_PORT: 40000-40499}", passes},
	} {
		b.apply(blocks(atAssignment, row.conditions))
		for _, f := range b.families() {
			for typ, protocol := range map[int]int{unix.SOCK_STREAM: unix.IPPROTO_TCP, unix.SOCK_DGRAM: unix.IPPROTO_UDP} {
				t.Run(fmt.Sprint(row.conditions, " ", protocol, " ", f.name), func(t *testing.T) {
					s, err := p.Socket(map[string]int{"v4": unix.AF_INET, "v6": unix.AF_INET6}[f.name], typ, protocol)
					if err != nil {
						t.Fatal(err)
					}
					defer p.CloseSock(s)
					passes.want(t, p.SetOption(s, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, binary.NativeEndian.AppendUint32(nil, 1)))
					passes.want(t, p.BindSock(s, at(f.hostSecond, 0)))
					b.events()
					out := row.out
					if out.text == dropped.text && typ == unix.SOCK_DGRAM {
						out = refused
					}
					err = p.ConnectSock(s, at(f.peer, 8080), testbed.Options{Timeout: soon})
					if err == nil {
						err = p.Exchange(s, "hello")
					}
					out.want(t, err)
					if list := b.assignments(); (len(list) == 1) != (out.text != passes.text) {
						t.Errorf("events %+v", list)
					}
				})
			}
		}
	}
}

// What was denied its port, or has sent nothing by which the bind could be judged, is not
// released.
func TestAssignmentNotReleased(t *testing.T) {
	b := newBed(t)
	b.ephemeral(40000, 40999)
	b.openEngine(loader.Options{Target: b.target(), Permits: true})
	b.apply("filters:\n" + rule("BLOCK", "No port", atAssignment, 0, "{IP_LOCAL_PORT: 40000-40499}") + rule("PERMIT", "Release", atRelease, 0))
	p, server := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	b.listen(server, 8080)
	for _, f := range b.families() {
		for _, row := range []struct {
			name     string
			reserved string
			try      func()
			released int
		}{
			{"TCP, blocked", "40500-40999", func() {
				dropped.want(t, p.Connect(f.tcp, at(f.peer, 8080), testbed.Options{Timeout: soon}))
			}, 0},
			{"TCP, permitted", "40000-40499", func() { passes.want(t, p.Connect(f.tcp, at(f.peer, 8080))) }, 1},
			{"UDP, blocked", "40500-40999", func() { refused.want(t, p.Connect(f.udp, at(f.peer, 8080))) }, 0},
			{"UDP, permitted", "40000-40499", func() { passes.want(t, p.Connect(f.udp, at(f.peer, 8080))) }, 1},
			{"UDP that sends nothing", "40000-40499", func() {
				s, err := p.Dial(f.udp, at(f.peer, 8080))
				passes.want(t, err)
				passes.want(t, p.CloseSock(s))
			}, 0},
		} {
			t.Run(row.name+" "+f.name, func(t *testing.T) {
				b.reserve(row.reserved)
				b.events()
				row.try()
				n := 0
				count := func() bool {
					for _, e := range b.events() {
						if e.Layer == "ALE_RESOURCE_RELEASE_"+f.layer {
							n++
						}
					}
					return n >= row.released
				}
				b.await(count)
				time.Sleep(soon) // and no more come
				count()
				if n != row.released {
					t.Errorf("released %d times, want %d", n, row.released)
				}
			})
		}
	}
}

// A bind comes before the connect, and once, whatever is sent afterwards.
func TestAssignmentOrder(t *testing.T) {
	b := newBed(t)
	b.ephemeral(40000, 40999)
	b.openEngine(loader.Options{Target: b.target(), Permits: true})
	b.apply("filters:\n" + rule("PERMIT", "Binds", atAssignment, 0, "{IP_LOCAL_PORT: {match: NOT_EQUAL, value: 80}}") + rule("PERMIT", "Connects", atConnect, 0))
	p, server := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	b.listen(server, 8080, 8088)
	for _, f := range b.families() {
		want := []string{"ALE_RESOURCE_ASSIGNMENT_" + f.layer, "ALE_AUTH_CONNECT_" + f.layer}
		for name, try := range map[string]attempt{
			"TCP connect": connectTCP, "MPTCP connect": connectMPTCP, "UDP connect": connectUDP, "UDP sendto": sendUDP,
			"TCP bound": func(p *testbed.Proc, f family) error {
				return p.Connect(f.tcp, at(f.peer, 8080), testbed.Options{Local: at(f.host, 0)})
			},
			"UDP bound": func(p *testbed.Proc, f family) error {
				return p.UDPExchange(f.udp, at(f.peer, 8080), "hello", testbed.Options{Local: at(f.host, 0)})
			},
		} {
			t.Run(name+" "+f.name, func(t *testing.T) {
				b.events()
				passes.want(t, try(p, f))
				if list := layersOf(b.events()); !slices.Equal(list, want) {
					t.Errorf("judged at %v, want %v", list, want)
				}
			})
		}
		t.Run("UDP to two peers "+f.name, func(t *testing.T) {
			s, err := p.UDP(f.udp)
			if err != nil {
				t.Fatal(err)
			}
			b.events()
			for _, port := range []int{8080, 8088, 8080} {
				passes.want(t, p.SendTo(s, at(f.peer, port), "hello"))
			}
			if list := layersOf(b.events()); !slices.Equal(list, append(slices.Clone(want), want[1])) {
				t.Errorf("judged at %v", list)
			}
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
