// SPDX-License-Identifier: Apache-2.0

package live

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/wfpebpf/wfpebpf/loader"
	"github.com/wfpebpf/wfpebpf/policy"
	"github.com/wfpebpf/wfpebpf/tests/testbed"
)

var (
	atErrorIn  = both("INBOUND_ICMP_ERROR")
	atErrorOut = both("OUTBOUND_ICMP_ERROR")
)

// failing is a bed where things fail: an asker sends what a router cannot deliver, and
// gets the router's ICMP errors. Behind the router is a link with a small MTU.
type failing struct {
	*bed
	host, asker *testbed.Proc
	router      func(family) string
	far         int // last address behind the router that was tried
}

// short is an address behind the router that is one hop too far.
const short = 200

// beyond is an address behind the router.
func beyond(f family, n int) string {
	if f.layer == "V6" {
		return fmt.Sprintf("[fd77:9::%d]", n)
	}
	return fmt.Sprintf("10.77.9.%d", n)
}

func newFailing(t *testing.T, hostRoutes bool) *failing {
	b := newBed(t)
	e := &failing{bed: b, host: b.on(b.host, testbed.ProcOptions{}), far: 10}
	asker, router := b.hostEnd, b.peerEnd
	e.asker, e.router = e.host, peerFirst
	if hostRoutes {
		asker, router = router, asker
		e.asker, e.router = b.on(b.peer, testbed.ProcOptions{}), hostFirst
	}
	onward, _ := testbed.Veth(t, router.Netns, testbed.NewNetns(t, "beyond"), "r9", "t9", testbed.VethOptions{Subnet: 9})
	set := func(n *testbed.Netns, settings ...string) {
		t.Helper()
		err := n.Do(func() (err error) {
			for _, s := range settings {
				path, value, _ := strings.Cut(s, "=")
				err = errors.Join(err, os.WriteFile("/proc/sys/net/"+path, []byte(value), 0))
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range []*testbed.Netns{b.host, b.peer} {
		set(n, "ipv4/icmp_ratelimit=0", "ipv6/icmp/ratelimit=0")
	}
	set(router.Netns, "ipv4/ip_forward=1", "ipv6/conf/all/forwarding=1")
	err := router.Netns.Netlink().LinkSetMTU(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: onward.Index}}, 1280)
	via := func(dst string, gw netip.Addr, hops int) {
		_, to, perr := net.ParseCIDR(dst)
		err = errors.Join(err, perr, asker.Netns.Netlink().RouteAdd(&netlink.Route{
			LinkIndex: asker.Index, Dst: to, Gw: gw.AsSlice(), Hoplimit: hops,
		}))
	}
	via("10.77.9.0/24", router.V4, 0)
	via("fd77:9::/64", router.V6, 0)
	via(fmt.Sprintf("10.77.9.%d/32", short), router.V4, 1)
	via(fmt.Sprintf("fd77:9::%d/128", short), router.V6, 1)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// failure is an attempt that brings its sender an ICMP error.
type failure struct {
	name string
	kind [2]uint8 // of IPv4, of IPv6
	code [2]uint8
	by   func(*failing) *testbed.Proc
	try  func(e *failing, f family) error
}

func byAsker(e *failing) *testbed.Proc { return e.asker }
func byHost(e *failing) *testbed.Proc  { return e.host }

// closed and source are ports of datagrams that are quoted.
const (
	closed = 9999
	source = 5000
)

func sendFrom(e *failing, f family, to string, size int) error {
	local := f.host
	if e.asker != e.host {
		local = f.peer
	}
	return e.asker.UDPSend(f.udp, to, strings.Repeat("x", size), testbed.Options{Local: at(local, source)})
}

var (
	noPort = failure{"port unreachable", [2]uint8{3, 1}, [2]uint8{3, 4}, byAsker, func(e *failing, f family) error {
		return sendFrom(e, f, at(e.router(f), closed), 5)
	}}
	tooFar = failure{"time exceeded", [2]uint8{11, 3}, [2]uint8{0, 0}, byAsker, func(e *failing, f family) error {
		return sendFrom(e, f, at(beyond(f, short), closed), 5)
	}}
	tooBig = failure{"packet too big", [2]uint8{3, 2}, [2]uint8{4, 0}, byAsker, func(e *failing, f family) error {
		e.far++ // the size that would do for the others is known by now
		return sendFrom(e, f, at(beyond(f, e.far), closed), 1400)
	}}
	pingTooFar = failure{"time exceeded of a ping", [2]uint8{11, 3}, [2]uint8{0, 0}, byAsker, func(e *failing, f family) error {
		kind := uint8(echoV4)
		if f.layer == "V6" {
			kind = echoV6
		}
		return sendICMP(e.asker, f, beyond(f, short), kind, 0, make([]byte, 4))
	}}
	connectTooFar = failure{"time exceeded of a connect", [2]uint8{11, 3}, [2]uint8{0, 0}, byAsker, func(e *failing, f family) error {
		e.asker.Connect(f.tcp, at(beyond(f, short), closed), testbed.Options{Timeout: soon})
		return nil
	}}
	onLo = failure{"port unreachable on loopback", [2]uint8{3, 1}, [2]uint8{3, 4}, byHost, func(e *failing, f family) error {
		return e.host.UDPSend(f.udp, at(f.loopback, closed), "hello")
	}}
	allFailures = []failure{noPort, tooFar, tooBig, pingTooFar, connectTooFar}
)

func icmpSocket(p *testbed.Proc, f family) (testbed.Sock, error) {
	if f.layer == "V6" {
		return p.Socket(unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_ICMPV6)
	}
	return p.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP)
}

// sendICMP sends a message with what stands behind its checksum.
func sendICMP(p *testbed.Proc, f family, to string, kind, code uint8, rest []byte) error {
	s, err := icmpSocket(p, f)
	if err != nil {
		return err
	}
	defer p.CloseSock(s)
	message := append([]byte{kind, code, 0, 0}, rest...)
	if f.layer == "V4" { // of ICMPv6 the kernel makes it
		binary.BigEndian.PutUint16(message[2:], checksum(append(message, make([]byte, len(message)%2)...)))
	}
	return p.SendTo(s, at(to, 0), string(message))
}

// receiveICMP waits for a message of a type and a code.
func receiveICMP(p *testbed.Proc, s testbed.Sock, f family, kind, code uint8, limit time.Duration) error {
	for deadline := time.Now().Add(limit); ; {
		_, got, err := p.Receive(s, testbed.Options{Timeout: max(time.Until(deadline), time.Millisecond)})
		if err != nil {
			return err
		}
		if f.layer == "V4" && len(got) > 20 {
			got = got[int(got[0]&15)*4:]
		}
		if len(got) >= 2 && got[0] == kind && got[1] == code {
			return nil
		}
	}
}

// want makes the attempt and looks for the error at whom it is for.
func (x failure) want(t *testing.T, e *failing, f family, o outcome) {
	t.Helper()
	p, n := x.by(e), 0
	if f.layer == "V6" {
		n = 1
	}
	s, err := icmpSocket(p, f)
	if err != nil {
		t.Fatal(err)
	}
	defer p.CloseSock(s)
	if err := x.try(e, f); err != nil {
		t.Fatal(err)
	}
	o.want(t, receiveICMP(p, s, f, x.kind[n], x.code[n], o.limit))
}

// errorRow is what of errors a policy blocks and what not.
type errorRow struct {
	v4, v6          string // conditions
	blocked, passed []failure
}

func (e *failing) rows(t *testing.T, layers string, rows []errorRow) {
	for _, row := range rows {
		t.Run(row.v4, func(t *testing.T) {
			for _, f := range e.families() {
				conditions := row.v4
				if f.layer == "V6" {
					conditions = row.v6
				}
				layer := layers + "_" + f.layer
				e.apply(blocks(layer, conditions))
				for _, x := range row.blocked {
					t.Run("blocks "+x.name+" "+f.name, func(t *testing.T) {
						e.events()
						x.want(t, e, f, dropped)
						e.wantBlock(layer, "Block it")
					})
				}
				for _, x := range row.passed {
					t.Run("permits "+x.name+" "+f.name, func(t *testing.T) { x.want(t, e, f, passes) })
				}
			}
		})
	}
}

// alike is a row for both families.
func alike(conditions string, blocked, passed []failure) errorRow {
	return errorRow{conditions, conditions, blocked, passed}
}

// Errors that come in are told apart by their type and code and by the packet that
// they quote.
func TestInboundICMPErrorConditions(t *testing.T) {
	e := newFailing(t, false)
	e.rows(t, "INBOUND_ICMP_ERROR", []errorRow{
		{"{ICMP_TYPE: 3}, {ICMP_CODE: 3}", "{ICMP_TYPE: 1}, {ICMP_CODE: 4}", []failure{noPort}, []failure{tooFar, tooBig}},
		{"{ICMP_TYPE: 11}", "{ICMP_TYPE: 3}", []failure{tooFar, pingTooFar, connectTooFar}, []failure{noPort, tooBig}},
		{"{ICMP_TYPE: 3}, {ICMP_CODE: 4}", "{ICMP_TYPE: 2}", []failure{tooBig}, []failure{noPort, tooFar}},
		alike("{EMBEDDED_PROTOCOL: udp}", []failure{noPort, tooFar, tooBig}, []failure{pingTooFar, connectTooFar}),
		alike("{EMBEDDED_PROTOCOL: tcp}", []failure{connectTooFar}, []failure{tooFar}),
		{"{EMBEDDED_PROTOCOL: icmp}", "{EMBEDDED_PROTOCOL: icmpv6}", []failure{pingTooFar}, []failure{tooFar}},
		{"{EMBEDDED_REMOTE_ADDRESS: 10.77.9.200}", `{EMBEDDED_REMOTE_ADDRESS: "fd77:9::200"}`, []failure{tooFar, pingTooFar, connectTooFar}, []failure{noPort}},
		{"{EMBEDDED_REMOTE_ADDRESS: 10.77.9.0/24}", `{EMBEDDED_REMOTE_ADDRESS: "fd77:9::/64"}`, []failure{tooFar, tooBig}, []failure{noPort}},
		alike("{EMBEDDED_LOCAL_PORT: 5000}", []failure{noPort, tooFar}, []failure{connectTooFar, pingTooFar, onLo}),
		alike("{EMBEDDED_REMOTE_PORT: 9999}", []failure{noPort, connectTooFar, onLo}, []failure{pingTooFar}),
		alike("{EMBEDDED_LOCAL_PORT: EMPTY}, {EMBEDDED_REMOTE_PORT: EMPTY}", []failure{pingTooFar}, []failure{noPort, connectTooFar}),
		alike("{EMBEDDED_LOCAL_ADDRESS_TYPE: unicast}", []failure{noPort, onLo}, nil),
		alike("{EMBEDDED_LOCAL_ADDRESS_TYPE: [multicast, broadcast]}", nil, []failure{noPort}),
		{"{IP_REMOTE_ADDRESS: 10.77.0.2}", `{IP_REMOTE_ADDRESS: "fd77::2"}`, []failure{noPort, tooFar}, []failure{onLo}},
		{"{IP_LOCAL_ADDRESS: 10.77.0.1}", `{IP_LOCAL_ADDRESS: "fd77::1"}`, []failure{noPort, tooFar}, []failure{onLo}},
		alike("{IP_LOCAL_INTERFACE: h0}", []failure{noPort}, []failure{onLo}),
		alike("{IP_ARRIVAL_INTERFACE: h0}", []failure{noPort}, []failure{onLo}),
		alike(fmt.Sprintf("{INTERFACE_INDEX: %d}", e.hostEnd.Index), []failure{noPort}, []failure{onLo}),
		alike(fmt.Sprintf("{ARRIVAL_INTERFACE_INDEX: %d}", e.hostEnd.Index), []failure{noPort}, []failure{onLo}),
		alike("{INTERFACE_TYPE: loopback}", []failure{onLo}, []failure{noPort}),
		alike("{ARRIVAL_INTERFACE_TYPE: loopback}", []failure{onLo}, []failure{noPort}),
		alike("{FLAGS: [IS_LOOPBACK]}", []failure{onLo}, []failure{noPort}),
		alike("{FLAGS: {match: FLAGS_NONE_SET, value: [IS_LOOPBACK]}}", []failure{noPort}, []failure{onLo}),
		alike("{ARRIVAL_INTERFACE_PROFILE_ID: public}", []failure{noPort}, nil),
		alike("{ARRIVAL_INTERFACE_PROFILE_ID: private}", nil, []failure{noPort}),
	})
}

// Errors that go out are told apart by their type and code and by whom they are for.
func TestOutboundICMPErrorConditions(t *testing.T) {
	e := newFailing(t, true)
	e.rows(t, "OUTBOUND_ICMP_ERROR", []errorRow{
		{"{ICMP_TYPE: 3}, {ICMP_CODE: 3}", "{ICMP_TYPE: 1}, {ICMP_CODE: 4}", []failure{noPort}, []failure{tooFar, tooBig}},
		{"{ICMP_TYPE: 11}", "{ICMP_TYPE: 3}", []failure{tooFar, pingTooFar, connectTooFar}, []failure{noPort, tooBig}},
		{"{ICMP_TYPE: 3}, {ICMP_CODE: 4}", "{ICMP_TYPE: 2}", []failure{tooBig}, []failure{noPort, tooFar}},
		{"{IP_LOCAL_ADDRESS: 10.77.0.1}", `{IP_LOCAL_ADDRESS: "fd77::1"}`, []failure{noPort}, []failure{onLo}},
		{"{IP_REMOTE_ADDRESS: 10.77.0.2}", `{IP_REMOTE_ADDRESS: "fd77::2"}`, []failure{noPort, tooFar}, []failure{onLo}},
		alike("{IP_LOCAL_ADDRESS_TYPE: unicast}", []failure{noPort, onLo}, nil),
		alike("{IP_LOCAL_INTERFACE: h0}", []failure{noPort, tooFar}, []failure{onLo}),
		alike(fmt.Sprintf("{INTERFACE_INDEX: %d}", e.hostEnd.Index), []failure{noPort}, []failure{onLo}),
		alike("{INTERFACE_TYPE: loopback}", []failure{onLo}, []failure{noPort}),
		alike("{FLAGS: [IS_LOOPBACK]}", []failure{onLo}, []failure{noPort}),
		alike("{FLAGS: {match: FLAGS_NONE_SET, value: [IS_LOOPBACK]}}", []failure{noPort}, []failure{onLo}),
		alike("{NEXTHOP_INTERFACE_PROFILE_ID: public}", []failure{noPort}, nil),
		alike("{NEXTHOP_INTERFACE_PROFILE_ID: private}", nil, []failure{noPort}),
	})
}

// Zones give links their profile; what lets a link out of quarantine names its epoch.
func TestICMPErrorLink(t *testing.T) {
	m, err := policy.LoadMapReader("map.yaml", strings.NewReader(`links: {"19985273102270464": h0}`+"\nzones: {h0: private}\n"))
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		layers, profile string
		hostRoutes      bool
	}{
		{"INBOUND_ICMP_ERROR", "ARRIVAL_INTERFACE_PROFILE_ID", false},
		{"OUTBOUND_ICMP_ERROR", "NEXTHOP_INTERFACE_PROFILE_ID", true},
	} {
		t.Run(row.layers, func(t *testing.T) {
			e := newFailing(t, row.hostRoutes)
			out := "{IP_LOCAL_INTERFACE: 19985273102270464}, {INTERFACE_QUARANTINE_EPOCH: %d}"
			e.commit(e.load("filters:\n"+
				rule("PERMIT", "Out of quarantine", row.layers+"_V4", 8, fmt.Sprintf(out, 8))+
				rule("PERMIT", "Out of quarantine", row.layers+"_V6", 8, fmt.Sprintf(out, 9))+
				rule("BLOCK", "Quarantine", both(row.layers), 0), m))
			for _, f := range e.families() {
				noPort.want(t, e, f, passes)
				e.wantHits(row.layers+"_"+f.layer, "Out of quarantine")
				onLo.want(t, e, f, dropped)
				e.wantBlock(row.layers+"_"+f.layer, "Quarantine")
			}
			e.commit(e.load(blocks(both(row.layers), "{"+row.profile+": private}"), m))
			for _, f := range e.families() {
				noPort.want(t, e, f, dropped)
				onLo.want(t, e, f, passes)
			}
		})
	}
}

// Nothing but an error is judged, and each as itself in events and counters.
func TestICMPErrorAlone(t *testing.T) {
	for _, row := range []struct {
		layers, direction string
		hostRoutes        bool
	}{{"INBOUND_ICMP_ERROR", "in", false}, {"OUTBOUND_ICMP_ERROR", "out", true}} {
		t.Run(row.layers, func(t *testing.T) {
			e := newFailing(t, row.hostRoutes)
			peer := e.on(e.peer, testbed.ProcOptions{})
			e.listen(e.host, 8080)
			e.listen(peer, 8080)
			for i, f := range e.families() {
				layer := row.layers + "_" + f.layer
				e.apply("filters:\n" + rule("BLOCK", "Block all", layer, 0))
				t.Run(f.name, func(t *testing.T) {
					passes.want(t, ping(peer, f, f.host))
					passes.want(t, ping(e.host, f, f.peer))
					each(t, peer, f, []call{tcp(8080), udp(8080)}, passes)
					passes.want(t, e.host.Connect(f.tcp, at(f.peer, 8080)))
					if n := e.hits(layer, "Block all"); n != 0 {
						t.Errorf("%d packets were judged that are no errors", n)
					}
					for _, x := range allFailures {
						t.Run(x.name, func(t *testing.T) {
							e.events()
							before := e.hits(layer, "Block all")
							x.want(t, e, f, dropped)
							ev := e.wantBlock(layer, "Block all")
							want := loader.Event{
								Time: ev.Time, Layer: layer, Action: "block", FilterID: ev.FilterID, FilterName: "Block all", SubLayer: "UNIVERSAL",
								Direction: row.direction, Protocol: []uint8{1, 58}[i], Interface: "h0",
								Src: at(f.peer, int(x.code[i])), Dst: at(f.host, int(x.kind[i])),
							}
							if row.hostRoutes {
								want.Src, want.Dst = at(f.host, int(x.kind[i])), at(f.peer, int(x.code[i]))
							}
							if ev != want {
								t.Errorf("event %+v,\nwant  %+v", ev, want)
							}
							if n := e.hits(layer, "Block all") - before; n == 0 {
								t.Error("the counter stands still")
							}
						})
					}
				})
			}
		})
	}
}

// A program is not told of an error that is blocked.
func TestICMPErrorToProgram(t *testing.T) {
	e := newFailing(t, false)
	for _, f := range e.families() {
		send := func(limit time.Duration) error {
			s, err := e.host.Dial(f.udp, at(f.peer, closed))
			if err != nil {
				return err
			}
			defer e.host.CloseSock(s)
			return e.host.Exchange(s, "hello", testbed.Options{Timeout: limit})
		}
		closedPort.want(t, send(closedPort.limit))
		e.apply(blocks(atErrorIn, "{EMBEDDED_REMOTE_PORT: 9999}"))
		dropped.want(t, send(soon))
		e.apply("filters: []\n")
		closedPort.want(t, send(closedPort.limit))
	}
}

// INBOUND_TRANSPORT comes before INBOUND_ICMP_ERROR and OUTBOUND_TRANSPORT after
// OUTBOUND_ICMP_ERROR: what one blocks the other does not see.
func TestICMPErrorOrder(t *testing.T) {
	for _, row := range []struct {
		first, second string
		hostRoutes    bool
	}{{"INBOUND_TRANSPORT", "INBOUND_ICMP_ERROR", false}, {"OUTBOUND_ICMP_ERROR", "OUTBOUND_TRANSPORT", true}} {
		t.Run(row.first, func(t *testing.T) {
			e := newFailing(t, row.hostRoutes)
			for i, f := range e.families() {
				t.Run(f.name, func(t *testing.T) {
					kind := fmt.Sprintf("{ICMP_TYPE: %d}, {ICMP_CODE: %d}", noPort.kind[i], noPort.code[i])
					sees := func(blocks string, first, second uint64) {
						t.Helper()
						var yaml strings.Builder
						layers := []string{row.first + "_" + f.layer, row.second + "_" + f.layer}
						for _, layer := range layers {
							action := "PERMIT"
							if strings.HasPrefix(layer, blocks) && blocks != "" {
								action = "BLOCK"
							}
							conditions := kind
							if strings.Contains(layer, "TRANSPORT") {
								conditions += ", {IP_PROTOCOL: [icmp, icmpv6]}"
							}
							yaml.WriteString(rule(action, "See it", layer, 8, conditions))
						}
						e.apply("filters:\n" + yaml.String())
						o := passes
						if blocks != "" {
							o = dropped
						}
						noPort.want(t, e, f, o)
						for n, want := range []uint64{first, second} {
							if got := e.hits(layers[n], "See it"); got != want {
								t.Errorf("%s blocks: %s saw %d errors, want %d", blocks, layers[n], got, want)
							}
						}
					}
					sees("", 1, 1)
					sees(row.first, 1, 0)
					sees(row.second, 1, 1)
				})
			}
		})
	}
}

// What of a quote is cut off cannot be tested: an error is dropped and counted where a
// filter asks for it, and only there.
func TestICMPErrorCutOff(t *testing.T) {
	b := newBed(t)
	host, peer := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	v4 := func(flags byte, offset byte) []byte {
		q := []byte{0x45, 0, 0, 33, 0, 1, flags, offset, 64, 17, 0, 0}
		q = append(append(q, b.hostEnd.V4.AsSlice()...), b.peerEnd.V4.AsSlice()...)
		return append(q, 0x13, 0x88, 0x27, 0x0f, 0, 13, 0, 0)
	}
	v6 := func(next byte, behind ...byte) []byte {
		q := []byte{0x60, 0, 0, 0, 0, 13, next, 64}
		q = append(append(q, b.hostEnd.V6.AsSlice()...), b.peerEnd.V6.AsSlice()...)
		return append(append(q, behind...), 0x13, 0x88, 0x27, 0x0f, 0, 13, 0, 0)
	}
	const address, protocol, port = 1, 2, 4
	rows := []struct {
		name  string
		quote []byte
		cut   int
	}{
		{"v4 nothing", nil, address | protocol | port},
		{"v4 half a header", v4(0, 0)[:10], address | protocol | port},
		{"v4 another version", append([]byte{0x65}, v4(0, 0)[1:]...), address | protocol | port},
		{"v4 a header", v4(0, 0)[:20], port},
		{"v4 one port", v4(0, 0)[:22], port},
		{"v4 both ports", v4(0, 0)[:24], 0},
		{"v4 eight bytes", v4(0, 0), 0},
		{"v4 the first fragment", v4(0x20, 0), 0},
		{"v4 a later fragment", v4(0x20, 1), port},
		{"v6 nothing", nil, address | protocol | port},
		{"v6 half a header", v6(17)[:24], address | protocol | port},
		{"v6 a header", v6(17)[:40], port},
		{"v6 one port", v6(17)[:42], port},
		{"v6 both ports", v6(17)[:44], 0},
		{"v6 options", v6(60, 17, 0, 1, 4, 0, 0, 0, 0), 0},
		{"v6 options cut off", v6(60, 17, 0, 1, 4, 0, 0, 0, 0)[:41], protocol | port},
		{"v6 the first fragment", v6(44, 17, 0, 0, 1, 0, 0, 0, 1), 0},
		{"v6 a later fragment", v6(44, 17, 0, 0, 9, 0, 0, 0, 1), port},
		{"v6 a later fragment of options", v6(44, 60, 0, 0, 9, 0, 0, 0, 1), protocol | port},
	}
	for _, asked := range []struct {
		v4, v6 string
		what   int
	}{
		{"{ICMP_TYPE: 99}", "{ICMP_TYPE: 99}", 0},
		{"{EMBEDDED_REMOTE_ADDRESS: 192.0.2.99}", `{EMBEDDED_REMOTE_ADDRESS: "2001:db8::99"}`, address},
		{"{EMBEDDED_LOCAL_ADDRESS_TYPE: multicast}", "{EMBEDDED_LOCAL_ADDRESS_TYPE: multicast}", address},
		{"{EMBEDDED_PROTOCOL: 99}", "{EMBEDDED_PROTOCOL: 99}", protocol},
		{"{EMBEDDED_LOCAL_PORT: 99}", "{EMBEDDED_LOCAL_PORT: 99}", port},
		{"{EMBEDDED_REMOTE_PORT: 99}", "{EMBEDDED_REMOTE_PORT: 99}", port},
	} {
		t.Run(asked.v4, func(t *testing.T) {
			b.apply("filters:\n" + rule("BLOCK", "Block it", "INBOUND_ICMP_ERROR_V4", 8, asked.v4) +
				rule("BLOCK", "Block it", "INBOUND_ICMP_ERROR_V6", 8, asked.v6))
			for _, row := range rows {
				t.Run(row.name, func(t *testing.T) {
					f, kind := b.families()[0], uint8(3)
					if strings.HasPrefix(row.name, "v6") {
						f, kind = b.families()[1], 1
					}
					s, err := icmpSocket(host, f)
					if err != nil {
						t.Fatal(err)
					}
					defer host.CloseSock(s)
					o, lost, before := passes, uint64(0), b.state().Unreadable
					if row.cut&asked.what != 0 {
						o, lost = dropped, 1
					}
					passes.want(t, sendICMP(peer, f, f.host, kind, 3, append(make([]byte, 4), row.quote...)))
					o.want(t, receiveICMP(host, s, f, kind, 3, o.limit))
					if n := b.state().Unreadable - before; n != lost {
						t.Errorf("%d packets counted as unreadable, want %d", n, lost)
					}
				})
			}
		})
	}
}

// A family without filters is not hooked.
func TestICMPErrorPayForUse(t *testing.T) {
	b := newBed(t)
	for _, row := range []struct{ policy, want string }{
		{blocks("INBOUND_ICMP_ERROR_V4", "{ICMP_TYPE: 3}"), "local_in4"},
		{blocks("OUTBOUND_ICMP_ERROR_V6", "{ICMP_TYPE: 1}"), "local_out6"},
		{blocks(atErrorOut, "{ICMP_TYPE: 1}"), "local_out4 local_out6"},
		{blocks("STREAM_PACKET_V4", "{IP_LOCAL_PORT: 1}"), "local_in4 local_out4"},
		{"filters: []\n", ""},
	} {
		b.apply(row.policy)
		if got := strings.ReplaceAll(strings.Join(b.hooks(), " "), "@"+b.host.Name, ""); got != row.want {
			t.Errorf("hooks %q, want %q", got, row.want)
		}
	}
}
