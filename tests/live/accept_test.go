// SPDX-License-Identifier: Apache-2.0

package live

import (
	"fmt"
	"os/user"
	"strings"
	"testing"

	"github.com/wfpebpf/wfpebpf/loader"
	"github.com/wfpebpf/wfpebpf/policy"
	"github.com/wfpebpf/wfpebpf/tests/testbed"
)

var atAccept = both("ALE_AUTH_RECV_ACCEPT")

func TestAccept(t *testing.T) {
	b := newBed(t)
	b.apply(blocks(atAccept, "IP_LOCAL_PORT: 8081"))
	server, client := b.on(b.host, testbed.ProcOptions{UID: 65534}), b.on(b.peer, testbed.ProcOptions{})
	b.listen(server, 8080, 8081)
	nobody := "65534"
	if u, err := user.LookupId(nobody); err == nil {
		nobody = u.Username
	}
	for _, f := range b.families() {
		layer := "ALE_AUTH_RECV_ACCEPT_" + f.layer
		for _, row := range []struct {
			name     string
			protocol uint8
			call     func(int) call
		}{{"TCP", 6, tcp}, {"MPTCP", 6, mptcp}, {"UDP", 17, udp}} {
			t.Run(row.name+" "+f.name, func(t *testing.T) {
				row.call(8080).want(t, client, f, passes)
				b.wantHits(layer, "Permit the rest")
				before := b.hits(layer, "Block it")
				row.call(8081).fromPort(5000).want(t, client, f, dropped)
				e := b.wantBlock(layer, "Block it")
				want := loader.Event{
					Time: e.Time, Layer: layer, Action: "block", FilterID: e.FilterID, FilterName: "Block it", SubLayer: "UNIVERSAL",
					Direction: "in", Protocol: row.protocol, Src: at(f.peer, 5000), Dst: at(f.host, 8081), Interface: "h0",
					PID: uint32(server.PID), Program: server.Exe, User: nobody,
				}
				if e != want {
					t.Errorf("event %+v,\nwant  %+v", e, want)
				}
				if b.hits(layer, "Block it") == before {
					t.Error("the counter stands still")
				}
			})
		}
	}
}

func TestAcceptMapped(t *testing.T) {
	b := newBed(t)
	b.apply("filters:\n" +
		rule("BLOCK", "Block 8081", "ALE_AUTH_RECV_ACCEPT_V4", 0, "{IP_LOCAL_PORT: 8081}") +
		rule("BLOCK", "Block IPv6", "ALE_AUTH_RECV_ACCEPT_V6", 0))
	server, client := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	for _, port := range []int{8080, 8081} {
		for _, network := range []string{"tcp6", "udp6"} {
			if _, err := server.Listen(network, at("[::]", port)); err != nil {
				t.Fatal(err)
			}
		}
	}
	f := b.families()[0]
	each(t, client, f, []call{tcp(8080), mptcp(8080), udp(8080)}, passes)
	for _, c := range []call{tcp(8081), mptcp(8081), udp(8081)} {
		c.want(t, client, f, dropped)
		if e := b.wantBlock("ALE_AUTH_RECV_ACCEPT_V4", "Block 8081"); e.Dst != at(f.host, 8081) {
			t.Errorf("event %+v", e)
		}
	}
}

// The same servers under one condition after another.
func TestAcceptConditions(t *testing.T) {
	b := newBed(t)
	server, client := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	b.listen(server, 8080, 8081)
	b.listenTCP(server, 7080)
	everything := []call{tcp(8080), mptcp(8080), tcp(7080), udp(8080)}
	fromSecond := []call{tcp(8080).fromPeerSecond(), udp(8080).fromPeerSecond()}
	toSecond := []call{tcp(8080).toHostSecond(), udp(8080).toHostSecond()}
	for _, row := range []struct {
		conditions    string
		blocked, pass []call
	}{
		{"{IP_LOCAL_PORT: 8081}", []call{tcp(8081), mptcp(8081), udp(8081)}, everything},
		{"{IP_LOCAL_PORT: 8081-9000}", []call{tcp(8081), mptcp(8081), udp(8081)}, everything},
		{"{IP_LOCAL_PORT: {match: LESS, value: 8000}}", []call{tcp(7080)}, []call{tcp(8080), udp(8080)}},
		{"{IP_REMOTE_PORT: 5000}", []call{tcp(8080).fromPort(5000), udp(8080).fromPort(5000)}, everything},
		{`{IP_REMOTE_ADDRESS: [10.77.0.12, "fd77::12"]}`, fromSecond, everything},
		{`{IP_REMOTE_ADDRESS: [10.77.0.8/29, "fd77::10/124"]}`, fromSecond, everything},
		{`{IP_REMOTE_ADDRESS: [10.77.0.10-10.77.0.12, "fd77::11-fd77::12"]}`, fromSecond, everything},
		{`{IP_LOCAL_ADDRESS: [10.77.0.11, "fd77::11"]}`, toSecond, everything},
		{"{IP_LOCAL_ADDRESS_TYPE: unicast}", everything, nil},
		{"{IP_LOCAL_ADDRESS_TYPE: [multicast, broadcast]}", nil, everything},
		{"{IP_PROTOCOL: tcp}", []call{tcp(8080), mptcp(8080), tcp(7080)}, []call{udp(8080)}},
		{"{IP_PROTOCOL: udp}", []call{udp(8080)}, []call{tcp(8080), mptcp(8080), tcp(7080)}},
		{`{IP_REMOTE_ADDRESS: [10.77.0.12, "fd77::12"]}, {IP_PROTOCOL: udp}`, fromSecond[1:], append(everything, fromSecond[0])},

		{"{IP_ARRIVAL_INTERFACE: h0}", everything, nil},
		{"{IP_ARRIVAL_INTERFACE: lo}", nil, everything},
		{"{IP_LOCAL_INTERFACE: h0}", everything, nil},
		{fmt.Sprintf("{ARRIVAL_INTERFACE_INDEX: %d}", b.hostEnd.Index), everything, nil},
		{fmt.Sprintf("{ARRIVAL_INTERFACE_INDEX: %d}", b.hostEnd.Index+1), nil, everything},
		{fmt.Sprintf("{INTERFACE_INDEX: %d}", b.hostEnd.Index), everything, nil},
		{"{INTERFACE_TYPE: ethernet}", everything, nil},
		{"{INTERFACE_TYPE: [loopback, tunnel]}", nil, everything},
		{"{ARRIVAL_INTERFACE_TYPE: ethernet}", everything, nil},
		{"{NEXTHOP_INTERFACE_INDEX: EMPTY}", everything, nil},

		{"{FLAGS: {match: FLAGS_NONE_SET, value: [IS_LOOPBACK]}}", everything, nil},
		{"{FLAGS: [IS_LOOPBACK]}", nil, everything},
		{"{CURRENT_PROFILE_ID: public}", everything, nil},
		{"{IP_PROTOCOL: EMPTY}", nil, everything},
	} {
		t.Run(row.conditions, func(t *testing.T) {
			b.apply(blocks(atAccept, row.conditions))
			for _, f := range b.families() {
				t.Run("blocks "+f.name, func(t *testing.T) { each(t, client, f, row.blocked, dropped) })
				t.Run("permits "+f.name, func(t *testing.T) { each(t, client, f, row.pass, passes) })
			}
		})
	}
}

func TestAcceptLoopback(t *testing.T) {
	b := newBed(t)
	p, peer := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	b.listen(p, 8080)
	for _, row := range []struct {
		conditions              string
		loopback, fromElsewhere outcome
	}{
		{"{FLAGS: [IS_LOOPBACK]}", dropped, passes},
		{"{FLAGS: [IS_NON_APPCONTAINER_LOOPBACK]}", dropped, passes},
		{"{FLAGS: [IS_LOOPBACK, IS_NON_APPCONTAINER_LOOPBACK]}", dropped, passes},
		{"{FLAGS: [IS_APPCONTAINER_LOOPBACK]}", passes, passes},
		{"{FLAGS: {match: FLAGS_NONE_SET, value: [IS_LOOPBACK]}}", passes, dropped},
		{"{INTERFACE_TYPE: loopback}", dropped, passes},
		{"{IP_ARRIVAL_INTERFACE: lo}", dropped, passes},
	} {
		t.Run(row.conditions, func(t *testing.T) {
			b.apply(blocks(atAccept, row.conditions))
			for _, f := range b.families() {
				// at the loopback address, and at an own address of a link
				var local, remote []call
				for _, c := range []call{tcp(8080), mptcp(8080), udp(8080)} {
					local = append(local, c.onHost(onLoopback), c.onHost(hostFirst))
					remote = append(remote, c)
				}
				t.Run("loopback "+f.name, func(t *testing.T) { each(t, p, f, local, row.loopback) })
				t.Run("from the peer "+f.name, func(t *testing.T) { each(t, peer, f, remote, row.fromElsewhere) })
			}
		})
	}
}

// Inbound is blocked but for one listener, who is known by what the condition
// says; servers that are older than the policy are known as well.
func TestAcceptIdentity(t *testing.T) {
	b := newBed(t)
	unit := b.cgroup.Child(t, "svc")
	client := b.on(b.peer, testbed.ProcOptions{})
	servers := map[string]*testbed.Proc{
		"the app":  b.on(b.host, testbed.ProcOptions{CopyTo: "app"}),
		"the user": b.on(b.host, testbed.ProcOptions{UID: 1000, GID: 1000}),
		"the unit": b.on(b.host, testbed.ProcOptions{Cgroup: unit}),
		"another":  b.on(b.host, testbed.ProcOptions{}),
	}
	const older, newer = 0, 100 // ports of servers opened before and after
	ports := map[string]int{"the app": 8000, "the user": 8001, "the unit": 8002, "another": 8003}
	open := func(offset int) {
		for who, p := range servers {
			b.listen(p, ports[who]+offset)
			b.listenTCP(p, ports[who]+offset+1000)
		}
	}
	open(older)
	first := true
	for _, row := range []struct{ condition, permitted string }{
		{"{ALE_APP_ID: " + servers["the app"].Exe + "}", "the app"},
		{`{ALE_USER_ID: "uid:1000"}`, "the user"},
		{`{ALE_USER_ID: "gid:1000"}`, "the user"},
		{`{ALE_USER_ID: "unit:` + unit.Rel + `"}`, "the unit"},
		{`{ALE_USER_ID: "D:(A;;CC;;;WD)"}, {ALE_APP_ID: ` + servers["the app"].Exe + `}`, "the app"},
	} {
		t.Run(row.condition, func(t *testing.T) {
			b.apply(permits(atAccept, row.condition))
			if first {
				open(newer)
				first = false
			}
			for who, port := range ports {
				want := dropped
				if who == row.permitted {
					want = passes
				}
				for _, f := range b.families() {
					t.Run(who+" "+f.name, func(t *testing.T) {
						each(t, client, f, []call{
							tcp(port + older), mptcp(port + older), tcp(port + older + 1000), udp(port + older),
							tcp(port + newer), mptcp(port + newer), tcp(port + newer + 1000), udp(port + newer),
						}, want)
					})
				}
			}
		})
	}
	if n := b.state().NoIdentity; n != 0 {
		t.Errorf("%d packets for sockets without an identity", n)
	}
}

// Zones give links their profile.
func TestAcceptProfile(t *testing.T) {
	b := newBed(t)
	b.secondLink()
	m, err := policy.LoadMapReader("map.yaml", strings.NewReader("zones: {h0: private}\n"))
	if err != nil {
		t.Fatal(err)
	}
	server, client := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	b.listen(server, 8080)
	for _, row := range []struct {
		condition             string
		onPrivate, onTheOther outcome
	}{
		{"{ORIGINAL_PROFILE_ID: private}", dropped, passes},
		{"{CURRENT_PROFILE_ID: private}", dropped, passes},
		{"{ORIGINAL_PROFILE_ID: public}", passes, dropped},
		{"{CURRENT_PROFILE_ID: [public, private]}", dropped, dropped},
	} {
		t.Run(row.condition, func(t *testing.T) {
			b.commit(b.load(blocks(atAccept, row.condition), m))
			b.overBothLinks(t, client, func(t *testing.T, c call, f family, first bool) {
				if first {
					c.want(t, client, f, row.onPrivate)
				} else {
					c.want(t, client, f, row.onTheOther)
				}
			})
		})
	}
}

// overBothLinks runs a test with TCP and UDP over h0, then over h1.
func (b *bed) overBothLinks(t *testing.T, client *testbed.Proc, test func(t *testing.T, c call, f family, first bool)) {
	other := map[string]string{"v4": "10.77.1.1", "v6": "[fd77:1::1]"}
	for _, f := range b.families() {
		for _, c := range []call{tcp(8080), udp(8080)} {
			t.Run(c.name+" "+f.name+" on h0", func(t *testing.T) { test(t, c, f, true) })
			c.from, c.to = nil, func(f family) string { return other[f.name] }
			t.Run(c.name+" "+f.name+" on h1", func(t *testing.T) { test(t, c, f, false) })
		}
	}
}

// A Windows dump lets each interface out of quarantine by a filter that names
// its LUID and its epoch; what is not let out meets the block.
func TestAcceptQuarantine(t *testing.T) {
	b := newBed(t)
	b.secondLink()
	m, err := policy.LoadMapReader("map.yaml", strings.NewReader(`links: {"19985273102270464": h0}`+"\n"))
	if err != nil {
		t.Fatal(err)
	}
	server, client := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	b.listen(server, 8080)
	out := "{IP_LOCAL_INTERFACE: 19985273102270464}, {INTERFACE_QUARANTINE_EPOCH: %d}"
	b.commit(b.load("filters:\n"+
		rule("PERMIT", "Out of quarantine", "ALE_AUTH_RECV_ACCEPT_V4", 8, fmt.Sprintf(out, 8))+
		rule("PERMIT", "Out of quarantine", "ALE_AUTH_RECV_ACCEPT_V6", 8, fmt.Sprintf(out, 9))+
		rule("BLOCK", "Quarantine", atAccept, 0), m))
	b.overBothLinks(t, client, func(t *testing.T, c call, f family, first bool) {
		if first {
			c.want(t, client, f, passes)
			b.wantHits("ALE_AUTH_RECV_ACCEPT_"+f.layer, "Out of quarantine")
			return
		}
		c.want(t, client, f, dropped)
		if e := b.wantBlock("ALE_AUTH_RECV_ACCEPT_"+f.layer, "Quarantine"); e.Interface != "h1" {
			t.Errorf("event %+v", e)
		}
	})
}
