// SPDX-License-Identifier: Apache-2.0

package live

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wfpebpf/wfpebpf/layermap"
	"github.com/wfpebpf/wfpebpf/loader"
	"github.com/wfpebpf/wfpebpf/tests/testbed"
)

var atListen = both("ALE_AUTH_LISTEN")

// byLSM reports whether listeners are judged by LSM, by the hooks in force.
func (b *bed) byLSM(t *testing.T) bool {
	t.Helper()
	rows, err := b.engine.Hooks()
	if err != nil {
		t.Fatal(err)
	}
	by := slices.ContainsFunc(rows, func(r loader.HookRow) bool { return r.Hook == "socket_listen" })
	if toldToUseBPF(t) && !by {
		t.Fatal("the kernel was told to use BPF, and listeners are not judged by LSM")
	}
	return by
}

// The layer's status says what is in use, and what differs.
func TestListenStatus(t *testing.T) {
	b := newBed(t)
	b.apply(blocks(atListen, ""))
	want := ""
	if !b.byLSM(t) {
		want = "by sock_ops: no LSM program here"
	}
	for _, s := range loader.Probe() {
		if s.Layer != layermap.ALEAuthListenV4 && s.Layer != layermap.ALEAuthListenV6 {
			continue
		}
		if !s.Available || !strings.HasPrefix(s.Reason, want) || (want == "") != (s.Reason == "") {
			t.Errorf("%v: available %t, %q", s.Layer, s.Available, s.Reason)
		}
	}
}

// toldToUseBPF reports whether the command line of a machine of tests/vm names BPF among
// the security modules. Of others a test cannot know it: they may forbid the programs.
func toldToUseBPF(t *testing.T) bool {
	t.Helper()
	text, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for word := range strings.FieldsSeq(string(text)) {
		if modules, ok := strings.CutPrefix(word, "lsm="); ok {
			return slices.Contains(strings.Split(modules, ","), "bpf")
		}
	}
	return false
}

// listener is a way to begin to listen.
type listener struct {
	name string
	host func(family) string // nil: listen() binds the socket
	opt  testbed.Options
}

// listeners of both kinds of TCP.
func listeners(hosts ...func(family) string) []listener {
	var list []listener
	for name, mode := range map[string]testbed.MPTCP{"TCP": testbed.MPTCPOff, "MPTCP": testbed.MPTCPOn} {
		for _, host := range hosts {
			list = append(list, listener{name, host, testbed.Options{MPTCP: mode, V6Only: true, NoBind: host == nil}})
		}
	}
	return list
}

func (l listener) listen(p *testbed.Proc, f family, port int) (testbed.Sock, error) {
	if l.host == nil {
		return p.Listen(f.tcp, "", l.opt)
	}
	return p.Listen(f.tcp, at(l.host(f), port), l.opt)
}

func (l listener) text(f family) string {
	if l.host == nil {
		return l.name + " not bound " + f.name
	}
	return l.name + " at " + l.host(f)
}

// connect connects to a listener, on loopback from the host itself.
func (l listener) connect(s testbed.Sock, p, client *testbed.Proc, f family, limit time.Duration) error {
	to := f.host
	if l.host != nil && l.host(f) != f.any {
		to = l.host(f)
	}
	if to == f.loopback {
		client = p
	}
	return client.Connect(f.tcp, at(to, int(s.Local.Port())), testbed.Options{Timeout: limit})
}

// wantDenied has a process listen where that is blocked. By LSM listen() answers EACCES.
// Otherwise, and where the socket was not bound before, it works, and no connection comes
// through.
func (b *bed) wantDenied(t *testing.T, l listener, p, client *testbed.Proc, f family, port int) loader.Event {
	t.Helper()
	b.events()
	s, err := l.listen(p, f, port)
	if b.byLSM(t) && l.host != nil {
		denied.want(t, err)
	} else {
		passes.want(t, err)
		dropped.want(t, l.connect(s, p, client, f, soon))
		passes.want(t, p.CloseSock(s))
	}
	var list []loader.Event
	for _, e := range b.events() {
		if strings.HasPrefix(e.Layer, "ALE_AUTH_LISTEN_") {
			list = append(list, e)
		}
	}
	if len(list) != 1 {
		t.Fatalf("%d events at ALE_AUTH_LISTEN, want one: %+v", len(list), list)
	}
	return list[0]
}

// wantListens has a process listen where that is permitted.
func (b *bed) wantListens(t *testing.T, l listener, p, client *testbed.Proc, f family, port int) {
	t.Helper()
	b.events()
	s, err := l.listen(p, f, port)
	if err != nil {
		t.Fatal(err)
	}
	passes.want(t, l.connect(s, p, client, f, 0))
	passes.want(t, p.CloseSock(s))
	for _, e := range b.events() {
		t.Errorf("event %+v", e)
	}
}

func TestListen(t *testing.T) {
	b := newBed(t)
	b.apply(blocks(atListen, "{IP_LOCAL_PORT: 8081}"))
	p, client := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	for _, f := range b.families() {
		layer := "ALE_AUTH_LISTEN_" + f.layer
		for _, l := range listeners(hostFirst, anyAddress) {
			t.Run(l.text(f), func(t *testing.T) {
				before := b.hits(layer, "Permit the rest")
				b.wantListens(t, l, p, client, f, 8080)
				if n := b.hits(layer, "Permit the rest") - before; n != 1 {
					t.Errorf("permitted %d times, want once", n)
				}
				before = b.hits(layer, "Block it")
				e := b.wantDenied(t, l, p, client, f, 8081)
				if e.Layer != layer || e.FilterName != "Block it" || e.Action != "block" || e.Protocol != 6 || e.Dst != at(l.host(f), 8081) || e.Src != "" ||
					e.PID != uint32(p.PID) || e.Program != p.Exe || e.User != "root" {
					t.Errorf("event %+v", e)
				}
				if n := b.hits(layer, "Block it") - before; n != 1 {
					t.Errorf("blocked %d times, want once", n)
				}
			})
		}
	}
}

// Which listeners a condition means.
func TestListenConditions(t *testing.T) {
	b := newBed(t)
	b.ephemeral(40000, 40999)
	p, client := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	app := b.on(b.host, testbed.ProcOptions{CopyTo: "app"})
	user := b.on(b.host, testbed.ProcOptions{UID: 1000, GID: 1000})
	first, second, wildcard, loopback := listeners(hostFirst), listeners(hostSecond), listeners(anyAddress), listeners(onLoopback)
	unbound := listeners(nil)
	every := slices.Concat(first, second, wildcard, loopback, unbound)
	for _, row := range []struct {
		conditions      string
		p               *testbed.Proc
		blocked, passed []listener
	}{
		{"", p, every, nil},
		{"{IP_LOCAL_PORT: 7990-8010}", p, slices.Concat(first, second, wildcard, loopback), unbound},
		{"{IP_LOCAL_PORT: 40000-40999}", p, unbound, slices.Concat(first, wildcard)},
		{`{IP_LOCAL_ADDRESS: [10.77.0.11, "fd77::11"]}`, p, second, slices.Concat(first, wildcard, unbound)},
		{"{IP_LOCAL_ADDRESS: EMPTY}", p, slices.Concat(wildcard, unbound), first},
		{"{IP_LOCAL_ADDRESS_TYPE: unspecified}", p, slices.Concat(wildcard, unbound), slices.Concat(first, loopback)},
		{"{IP_LOCAL_ADDRESS_TYPE: unicast}", p, slices.Concat(first, second, loopback), slices.Concat(wildcard, unbound)},
		{"{IP_LOCAL_INTERFACE: h0}", p, slices.Concat(first, second), slices.Concat(wildcard, loopback)},
		{"{INTERFACE_TYPE: loopback}", p, loopback, slices.Concat(first, wildcard)},
		{"{LOCAL_INTERFACE_PROFILE_ID: public}", p, slices.Concat(first, loopback), wildcard},
		{"{FLAGS: [IS_WILDCARD_BIND]}", p, nil, slices.Concat(wildcard, unbound)},
		{"{COMPARTMENT_ID: 1}", p, slices.Concat(first, unbound), nil},
		{"{ALE_APP_ID: " + app.Exe + "}", app, every, nil},
		{"{ALE_APP_ID: " + app.Exe + "}", p, nil, every},
		{`{ALE_USER_ID: "uid:1000"}`, user, every, nil},
		{`{ALE_USER_ID: "uid:1000"}`, p, nil, slices.Concat(first, unbound)},
	} {
		t.Run(row.conditions, func(t *testing.T) {
			b.apply(blocks(atListen, row.conditions))
			for _, f := range b.families() {
				for _, l := range row.blocked {
					t.Run("blocks "+l.text(f), func(t *testing.T) {
						if e := b.wantDenied(t, l, row.p, client, f, 8000); e.Layer != "ALE_AUTH_LISTEN_"+f.layer || e.FilterName != "Block it" {
							t.Errorf("event %+v", e)
						}
					})
				}
				for _, l := range row.passed {
					t.Run("permits "+l.text(f), func(t *testing.T) { b.wantListens(t, l, row.p, client, f, 8000) })
				}
			}
		})
	}
}

// A socket that listens is not judged again, neither when listen() is called once more
// nor when the policy changes.
func TestListenOnce(t *testing.T) {
	b := newBed(t)
	b.apply(blocks(atListen, "{IP_LOCAL_PORT: 8081}"))
	p, client := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	for _, f := range b.families() {
		for i, l := range listeners(anyAddress) {
			t.Run(l.text(f), func(t *testing.T) {
				s, err := l.listen(p, f, 8080+2*i)
				if err != nil {
					t.Fatal(err)
				}
				b.apply(blocks(atListen, ""))
				b.events()
				fd, err := p.Duplicate(s)
				if err != nil {
					t.Fatal(err)
				}
				defer unix.Close(fd)
				passes.want(t, unix.Listen(fd, 5))
				passes.want(t, client.Connect(f.tcp, at(f.host, 8080+2*i)))
				if list := b.events(); len(list) > 0 {
					t.Errorf("events %+v", list)
				}
				b.apply(blocks(atListen, "{IP_LOCAL_PORT: 8081}"))
			})
		}
	}
}

// A listener on both families is IPv6, and what it is denied is denied over IPv4, too.
// Nothing is judged at ALE_AUTH_RECV_ACCEPT for a listener that is not there.
func TestListenBothFamilies(t *testing.T) {
	b := newBed(t)
	p, client := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	for _, row := range []struct {
		name, policy string
		blocked      bool
	}{
		{"V6", "filters:\n" + rule("BLOCK", "Block it", "ALE_AUTH_LISTEN_V6", 0), true},
		{"V4", "filters:\n" + rule("BLOCK", "Block it", "ALE_AUTH_LISTEN_V4", 0), false},
		{"V6, with accepts", "filters:\n" + rule("BLOCK", "Block it", "ALE_AUTH_LISTEN_V6", 0) + rule("BLOCK", "No accept", atAccept, 0, "{IP_LOCAL_PORT: 8080}"), true},
	} {
		t.Run(row.name, func(t *testing.T) {
			b.apply(row.policy)
			for name, l := range map[string]listener{
				"bound": listeners(anyAddress)[0], "not bound": listeners(nil)[0],
			} {
				l.opt.V6Only = false
				f := b.families()[1]
				t.Run(name, func(t *testing.T) {
					b.events()
					s, err := l.listen(p, f, 8080)
					if row.blocked && b.byLSM(t) && l.host != nil {
						denied.want(t, err)
						return
					}
					if err != nil {
						t.Fatal(err)
					}
					out := passes
					if row.blocked {
						out = dropped
					}
					for _, f := range b.families() {
						out.want(t, client.Connect(f.tcp, at(f.host, int(s.Local.Port())), testbed.Options{Timeout: soon}))
					}
					if list := layersOf(b.events()); row.blocked && !slices.Equal(list, []string{"ALE_AUTH_LISTEN_V6"}) {
						t.Errorf("events at %v", list)
					}
					passes.want(t, p.CloseSock(s))
				})
			}
		})
	}
}

// A listener is bound first, and what is denied its port does not come to listen.
func TestListenOrder(t *testing.T) {
	b := newBed(t)
	b.openEngine(loader.Options{Target: b.target(), Permits: true})
	p := b.on(b.host, testbed.ProcOptions{})
	for _, action := range []string{"PERMIT", "BLOCK"} {
		b.apply("filters:\n" + rule(action, "Binds", atAssignment, 0) + rule("PERMIT", "Listens", atListen, 0))
		for _, f := range b.families() {
			for _, l := range slices.Concat(listeners(hostFirst), listeners(nil)) {
				t.Run(action+" "+l.text(f), func(t *testing.T) {
					b.events()
					s, err := l.listen(p, f, 8080)
					want := []string{"ALE_RESOURCE_ASSIGNMENT_" + f.layer}
					if action == "PERMIT" {
						want = append(want, "ALE_AUTH_LISTEN_"+f.layer)
					}
					if list := layersOf(b.events()); !slices.Equal(list, want) {
						t.Errorf("judged at %v, want %v", list, want)
					}
					if action == "BLOCK" && l.host != nil {
						denied.want(t, err)
						return
					}
					passes.want(t, err)
					passes.want(t, p.CloseSock(s))
				})
			}
		}
	}
}

// LSM programs and cgroup programs see listeners of others: those are none of ours.
func TestListenOfOthers(t *testing.T) {
	b := newBed(t)
	b.apply(blocks(atListen, ""))
	elsewhere := testbed.NewCgroup(t, "elsewhere")
	inside := b.cgroup.Child(t, "inside")
	insider := b.on(b.host, testbed.ProcOptions{Cgroup: inside})
	others := map[string]*testbed.Proc{
		"another cgroup": b.on(b.host, testbed.ProcOptions{Cgroup: elsewhere}), "another namespace": b.on(b.peer, testbed.ProcOptions{}),
	}
	client := b.on(b.peer, testbed.ProcOptions{})
	for _, f := range b.families() {
		for _, l := range listeners(anyAddress, nil) {
			for name, p := range others {
				t.Run(name+" "+l.text(f), func(t *testing.T) {
					b.events()
					s, err := l.listen(p, f, 8080)
					if err != nil {
						t.Fatal(err)
					}
					passes.want(t, p.Connect(f.tcp, at(f.loopback, int(s.Local.Port()))))
					passes.want(t, p.CloseSock(s))
					if list := b.events(); len(list) > 0 {
						t.Errorf("events %+v", list)
					}
				})
			}
			t.Run("a cgroup inside "+l.text(f), func(t *testing.T) { b.wantDenied(t, l, insider, client, f, 8080) })
		}
	}
}
