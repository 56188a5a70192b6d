// SPDX-License-Identifier: Apache-2.0

package live

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/wfpebpf/wfpebpf/loader"
	"github.com/wfpebpf/wfpebpf/tests/testbed"
)

// everyLayer blocks port 8081, datagrams from the peer's second address and one
// EtherType, so that every hook is needed.
var everyLayer = "filters:\n" +
	rule("BLOCK", "Block 8081 out", atConnect, 0, "{IP_REMOTE_PORT: 8081}") +
	rule("BLOCK", "Block 8081 in", atAccept, 0, "{IP_LOCAL_PORT: 8081}") +
	rule("BLOCK", "Block bind", atAssignment, 0, "{IP_LOCAL_PORT: 8082}") +
	rule("BLOCK", "Block listeners", atListen, 0, "{IP_LOCAL_PORT: 8086}") +
	rule("BLOCK", "Block redirects", "[ALE_CONNECT_REDIRECT_V4, ALE_CONNECT_REDIRECT_V6, ALE_BIND_REDIRECT_V4, ALE_BIND_REDIRECT_V6]", 0, "{IP_LOCAL_PORT: 8086}") +
	rule("BLOCK", "Block packets", "[INBOUND_IPPACKET_V4, OUTBOUND_IPPACKET_V4]", 0, "{IP_REMOTE_ADDRESS: 10.77.0.12}") +
	rule("BLOCK", "Block transport", "[INBOUND_TRANSPORT_V4, INBOUND_TRANSPORT_V6, OUTBOUND_TRANSPORT_V4, OUTBOUND_TRANSPORT_V6]", 0, "{IP_LOCAL_PORT: 8083}") +
	rule("BLOCK", "Block forwarded", "[IPFORWARD_V4, IPFORWARD_V6]", 0, "{SOURCE_INTERFACE_INDEX: 9999}") +
	rule("BLOCK", "Block flows", "[ALE_FLOW_ESTABLISHED_V4, ALE_ENDPOINT_CLOSURE_V4, ALE_RESOURCE_RELEASE_V6]", 0, "{IP_LOCAL_PORT: 8084}") +
	rule("BLOCK", "Block errors", "[INBOUND_ICMP_ERROR_V4, OUTBOUND_ICMP_ERROR_V6]", 0, "{IP_LOCAL_PORT: 200}") +
	rule("BLOCK", "Silence ports", "[INBOUND_TRANSPORT_V4_DISCARD, INBOUND_IPPACKET_V6_DISCARD]", 0, "{INTERFACE_INDEX: 9999}") +
	rule("BLOCK", "Block segments", "[STREAM_PACKET_V4, STREAM_PACKET_V6]", 0, "{IP_LOCAL_PORT: 8085}") +
	rule("BLOCK", "Block frames", "[INBOUND_MAC_FRAME_ETHERNET, OUTBOUND_MAC_FRAME_ETHERNET]", 0, "{ETHER_TYPE: 0x88b5}") +
	rule("BLOCK", "Block native", "[INBOUND_MAC_FRAME_NATIVE, OUTBOUND_MAC_FRAME_NATIVE]", 0, "{INTERFACE_INDEX: 9999}")

// pins is the directory of the instance's pins, found by its hooks.
func (b *bed) pins() string {
	b.t.Helper()
	rows, err := b.engine.Hooks()
	if err != nil || len(rows) == 0 {
		b.t.Fatalf("hooks %v, %v", rows, err)
	}
	return filepath.Dir(filepath.Dir(rows[0].Link))
}

// objects lists the programs, maps and links of the instance as Snapshot does.
func (b *bed) objects() map[string]bool {
	b.t.Helper()
	list := map[string]bool{}
	addMap := func(m *ebpf.Map) {
		info, err := m.Info()
		if err != nil {
			b.t.Fatal(err)
		}
		id, _ := info.ID()
		list[fmt.Sprintf("map %d ", id)] = true
	}
	err := filepath.WalkDir(b.pins(), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if l, err := link.LoadPinnedLink(path, nil); err == nil {
			defer l.Close()
			info, err := l.Info()
			if err != nil {
				return err
			}
			list[fmt.Sprintf("link %d ", info.ID)], list[fmt.Sprintf("program %d ", info.Program)] = true, true
			return nil
		}
		m, err := ebpf.LoadPinnedMap(path, nil)
		if err != nil {
			return err
		}
		defer m.Close()
		addMap(m)
		if m.Type() != ebpf.ArrayOfMaps {
			return nil
		}
		for slot := range uint32(2) {
			var inner *ebpf.Map
			if m.Lookup(slot, &inner) == nil {
				addMap(inner)
				inner.Close()
			}
		}
		return nil
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return list
}

// Down leaves nothing of the instance, and what others had put beside it.
func TestInstanceDownLeavesNothing(t *testing.T) {
	b := newBed(t)
	// somebody else's program and qdisc on the same link
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "theirs", Type: ebpf.SchedCLS, License: "Apache-2.0",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer prog.Close()
	var theirs link.Link
	err = b.host.Do(func() (err error) {
		theirs, err = link.AttachTCX(link.TCXOptions{Interface: b.hostEnd.Index, Program: prog, Attach: ebpf.AttachTCXIngress})
		return err
	})
	switch {
	case err == nil:
		defer theirs.Close()
	case !errors.Is(err, ebpf.ErrNotSupported): // tcx came with 6.6
		t.Fatal(err)
	}
	qdisc := &netlink.GenericQdisc{QdiscType: "clsact", QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: b.hostEnd.Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}
	if err := b.host.Netlink().QdiscAdd(qdisc); err != nil {
		t.Fatal(err)
	}
	// of the machine's programs, maps and links only the instance's are looked at
	ours := map[string]bool{}
	scope := testbed.Scope{Netns: []*testbed.Netns{b.host}, Cgroups: []*testbed.Cgroup{b.cgroup}, Ignore: func(line string) bool {
		kind, rest, _ := strings.Cut(line, " ")
		if !slices.Contains([]string{"program", "map", "link"}, kind) {
			return false
		}
		id, _, _ := strings.Cut(rest, " ")
		return !ours[kind+" "+id+" "]
	}}
	before := testbed.Snapshot(t, scope)
	b.apply(everyLayer)
	first := b.objects()
	b.apply(everyLayer)
	for _, list := range []map[string]bool{first, b.objects()} {
		for o := range list {
			ours[o] = true
		}
	}
	if diff := testbed.Diff(before, testbed.Snapshot(t, scope)); len(diff) < 30 {
		t.Errorf("a policy in force is but %q", diff)
	}
	pins := b.pins()
	run := filepath.Join("/run/wfpebpf", filepath.Base(pins))
	for _, dir := range []string{pins, run} {
		if _, err := os.Stat(dir); err != nil {
			t.Error(err)
		}
	}
	if err := b.engine.Down(); err != nil {
		t.Fatal(err)
	}
	b.engine.Close()
	testbed.RequireUnchanged(t, before, scope)
	for _, dir := range []string{pins, run} {
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%s is still there", dir)
		}
	}
	if theirs != nil {
		if _, err := theirs.Info(); err != nil {
			t.Errorf("their program: %v", err)
		}
	}
	b.engine = nil
	if _, err := loader.Find(b.target()); err == nil {
		t.Error("the instance is still found")
	}
}

// Applying again replaces the policy at once and keeps the hooks: a connection
// that both policies permit never fails meanwhile, nor gets through one that
// both block.
func TestInstanceReplace(t *testing.T) {
	b := newBed(t)
	b.apply(everyLayer)
	p, peer := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	b.listen(peer, 8080, 8081)
	hooks, links := b.hooks(), b.linkIDs()
	f := b.families()[0]
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var calls int
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			calls++
			passes.want(t, p.Connect(f.tcp, at(f.peer, 8080)))
			denied.want(t, p.Connect(f.tcp, at(f.peer, 8081)))
			passes.want(t, p.UDPExchange(f.udp, at(f.peer, 8080), "hello"))
			denied.want(t, p.UDPSend(f.udp, at(f.peer, 8081), "hello"))
		}
	})
	generation := b.state().Generation
	for range 10 {
		b.apply(everyLayer)
	}
	close(stop)
	wg.Wait()
	if calls < 10 {
		t.Errorf("only %d rounds of calls were made", calls)
	}
	if now := b.state().Generation; now != generation+10 {
		t.Errorf("generation %d, want %d", now, generation+10)
	}
	if now := b.hooks(); !slices.Equal(now, hooks) {
		t.Errorf("hooks %q, were %q", now, hooks)
	}
	if now := b.linkIDs(); !slices.Equal(now, links) {
		t.Errorf("links %v, were %v", now, links)
	}
}

func (b *bed) linkIDs() (ids []string) {
	for o := range b.objects() {
		if strings.HasPrefix(o, "link ") {
			ids = append(ids, o)
		}
	}
	slices.Sort(ids)
	return ids
}

// wantCurrent asserts that nothing is stale but routes: the kernel gives a new
// link its own a moment later.
func (b *bed) wantCurrent() {
	b.t.Helper()
	for _, s := range b.state().Stale {
		if s != "routes or addresses changed" {
			b.t.Errorf("stale: %q", s)
		}
	}
}

func TestInstanceRollback(t *testing.T) {
	b := newBed(t)
	p, peer := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	b.listen(peer, 8080, 8081)
	f := b.families()[0]
	b.apply(blocks(atConnect, "{IP_REMOTE_PORT: 8081}"))
	hooks := b.hooks()
	b.apply("filters:\n" + rule("BLOCK", "Block 8080", atConnect, 0, "{IP_REMOTE_PORT: 8080}") +
		rule("BLOCK", "Block native", "INBOUND_MAC_FRAME_NATIVE", 0, "{INTERFACE: h0}"))
	denied.want(t, p.Connect(f.tcp, at(f.peer, 8080)))
	// what changes meanwhile is known to the policy that comes back
	app := b.on(b.host, testbed.ProcOptions{CopyTo: "app"})
	if err := b.engine.Rollback(); err != nil {
		t.Fatal(err)
	}
	passes.want(t, p.Connect(f.tcp, at(f.peer, 8080)))
	denied.want(t, p.Connect(f.tcp, at(f.peer, 8081)))
	b.wantBlock("ALE_AUTH_CONNECT_V4", "Block it")
	if now := b.hooks(); !slices.Equal(now, hooks) {
		t.Errorf("hooks %q, were %q", now, hooks)
	}
	passes.want(t, app.Connect(f.tcp, at(f.peer, 8080)))
	if err := b.engine.Rollback(); err != nil {
		t.Fatal(err)
	}
	passes.want(t, p.Connect(f.tcp, at(f.peer, 8081)))
	if _, err := loader.Find(b.target()); err == nil {
		t.Error("there was no policy before, and there is one now")
	}
}

// A commit that fails has filled the tables of the policy before the one in force. A
// roll-back still puts that in force, and not what was refused.
func TestInstanceRollbackAfterAFailedCommit(t *testing.T) {
	b := newBed(t)
	p, peer := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	b.listen(peer, 8080, 8081, 8082)
	f := b.families()[0]
	file := filepath.Join(t.TempDir(), "listed")
	if err := os.WriteFile(file, []byte("10.0.0.1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b.apply("sets: {a: {file: " + file + "}}\nfilters:\n" + rule("BLOCK", "Block the set", atConnect, 0, "{IP_REMOTE_ADDRESS: {set: a}}") +
		rule("BLOCK", "Block it", atConnect, 0, "{IP_REMOTE_PORT: 8081}"))
	b.apply(blocks(atConnect, "{IP_REMOTE_PORT: 8080}"))
	// no record can be written where a directory is
	obstacle := filepath.Join("/run/wfpebpf", filepath.Base(b.pins()), "policy-3.json")
	if err := os.Mkdir(obstacle, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := b.engine.Commit(context.Background(), b.load(blocks(atConnect, "{IP_REMOTE_PORT: 8082}"), nil)); err == nil {
		t.Fatal("the commit did not fail")
	}
	if err := os.Remove(obstacle); err != nil {
		t.Fatal(err)
	}
	denied.want(t, p.Connect(f.tcp, at(f.peer, 8080)))
	if err := b.engine.Rollback(); err != nil {
		t.Fatal(err)
	}
	passes.want(t, p.Connect(f.tcp, at(f.peer, 8080)))
	denied.want(t, p.Connect(f.tcp, at(f.peer, 8081)))
	passes.want(t, p.Connect(f.tcp, at(f.peer, 8082)))
	b.wantBlock("ALE_AUTH_CONNECT_V4", "Block it")
}

// A policy that comes back knows the links that are new since it went.
func TestInstanceRollbackIsCurrent(t *testing.T) {
	b := newBed(t)
	p, peer := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	b.listen(peer, 8080)
	b.apply(blocks(atConnect, "{IP_NEXTHOP_INTERFACE: h1}"))
	b.apply(blocks(atConnect, "{IP_REMOTE_PORT: 8080}"))
	b.secondLink()
	if err := b.engine.Rollback(); err != nil {
		t.Fatal(err)
	}
	f := b.families()[0]
	passes.want(t, p.Connect(f.tcp, at(f.peer, 8080)))
	denied.want(t, p.Connect(f.tcp, at("10.77.1.2", 8080)))
	b.wantCurrent()
}

// Links are taken out and put back while the policy is in force.
func TestInstanceAttachDetach(t *testing.T) {
	for _, named := range []bool{false, true} {
		t.Run(fmt.Sprintf("links named by the user: %t", named), func(t *testing.T) {
			b := newBed(t)
			b.secondLink()
			p, peer := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
			b.listen(p, 8080)
			if named {
				b.openEngine(loader.Options{Target: b.target(), Interfaces: []string{"h0"}})
			}
			b.apply("filters:\n" + rule("BLOCK", "Block all", both("INBOUND_IPPACKET"), 0))
			onH1 := dropped
			if named {
				onH1 = passes
			}
			want := func(onH0, onH1 outcome) {
				t.Helper()
				f := b.families()[0]
				udp(8080).want(t, peer, f, onH0)
				over := udp(8080)
				over.from, over.to = nil, func(family) string { return "10.77.1.1" }
				over.want(t, peer, f, onH1)
			}
			want(dropped, onH1)
			for range 2 {
				if err := b.engine.DetachLink("h0"); err != nil {
					t.Fatal(err)
				}
				want(passes, onH1)
				if err := b.engine.AttachLink("h0"); err != nil {
					t.Fatal(err)
				}
				want(dropped, onH1)
			}
			if err := b.engine.AttachLink("h1"); err != nil {
				t.Fatal(err)
			}
			want(dropped, dropped)
			if err := b.engine.DetachLink("h7"); err == nil || !strings.Contains(err.Error(), "h7") {
				t.Errorf("a link that is not there: %v", err)
			}
		})
	}
}

// A link that goes and comes again under its name is another one.
func TestInstanceLinkComesAgain(t *testing.T) {
	b := newBed(t)
	b.secondLink()
	p, peer := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	b.listen(p, 8080)
	yaml := "filters:\n" + rule("BLOCK", "Block all", both("INBOUND_IPPACKET"), 0) + rule("BLOCK", "Block native", "INBOUND_MAC_FRAME_NATIVE", 0)
	b.apply(yaml)
	h1, err := b.host.Netlink().LinkByName("h1")
	if err != nil {
		t.Fatal(err)
	}
	if err := b.host.Netlink().LinkDel(h1); err != nil {
		t.Fatal(err)
	}
	b.secondLink()
	if s := b.state(); len(s.Stale) == 0 {
		t.Error("the state does not say that the link is another one")
	}
	b.apply(yaml)
	f := b.families()[0]
	c := udp(8080)
	c.from, c.to = nil, func(family) string { return "10.77.1.1" }
	c.want(t, peer, f, dropped)
	b.wantCurrent()
}

func TestInstanceWatch(t *testing.T) {
	b := newBed(t)
	p, peer := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	b.listen(peer, 8080)
	exe := filepath.Join(t.TempDir(), "app")
	app := b.on(b.host, testbed.ProcOptions{CopyTo: exe})
	b.apply("filters:\n" +
		rule("BLOCK", "Block the app", atConnect, 0, "{ALE_APP_ID: "+exe+"}") +
		rule("BLOCK", "Block by h1", atConnect, 0, "{IP_NEXTHOP_INTERFACE: h1}") +
		rule("BLOCK", "Block from an address", "ALE_AUTH_CONNECT_V4", 0, "{IP_LOCAL_ADDRESS: 10.77.0.21}") +
		rule("BLOCK", "Block packets", "INBOUND_IPPACKET_V6", 0, "{IP_LOCAL_INTERFACE: h1}"))
	f := b.families()[0]
	denied.want(t, app.Connect(f.tcp, at(f.peer, 8080)))
	b.wantCurrent()
	if s := b.state(); s.Memory == 0 || s.Filters["ALE_AUTH_CONNECT_V4"] != 3 || s.Filters["ALE_AUTH_CONNECT_V6"] != 2 {
		t.Errorf("state %+v", s)
	}
	app.Close()
	if err := os.Remove(exe); err != nil {
		t.Fatal(err)
	}
	b.secondLink()
	// the old file's inode must not be given to the new one
	if err := os.WriteFile(exe+".other", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	app = b.on(b.host, testbed.ProcOptions{CopyTo: exe})
	for _, want := range []string{"app " + exe + " was replaced", "link h1 is new or changed", "tc_ingress@h1 is not attached", "routes or addresses changed"} {
		if s := b.state(); !slices.Contains(s.Stale, want) {
			t.Errorf("stale names %q, without %q", s.Stale, want)
		}
	}
	passes.want(t, app.Connect(f.tcp, at(f.peer, 8080)))

	watcher, err := loader.Find(b.target())
	if err != nil {
		t.Fatal(err)
	}
	defer watcher.Close()
	ctx, stop := context.WithCancel(context.Background())
	var mu sync.Mutex
	var told []string
	ended := make(chan error, 1)
	go func() {
		ended <- watcher.Watch(ctx, func(s string) { mu.Lock(); told = append(told, s); mu.Unlock() })
	}()
	b.await(func() bool { return len(b.state().Stale) == 0 })
	denied.want(t, app.Connect(f.tcp, at(f.peer, 8080)))
	denied.want(t, p.Connect(f.tcp, at("10.77.1.2", 8080)))
	dropped.want(t, peer.UDPExchange("udp6", "[fd77:1::1]:9", "hello", testbed.Options{Timeout: soon}))
	b.wantBlock("INBOUND_IPPACKET_V6", "Block packets")

	// another address becomes the one that is preferred
	h0 := &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: b.hostEnd.Index}}
	addr, err := netlink.ParseAddr("10.77.0.21/24")
	if err != nil {
		t.Fatal(err)
	}
	if err := b.host.Netlink().AddrAdd(h0, addr); err != nil {
		t.Fatal(err)
	}
	b.sendFrom([]byte{10, 77, 0, 21}, []byte{10, 77, 0, 2})
	b.await(func() bool {
		return testbed.Errno(p.Connect(f.tcp, at(f.peer, 8080), testbed.Options{Timeout: soon})) == unix.EACCES
	})
	// and a link goes away
	h1, err := b.host.Netlink().LinkByName("h1")
	if err != nil {
		t.Fatal(err)
	}
	if err := b.host.Netlink().LinkDel(h1); err != nil {
		t.Fatal(err)
	}
	b.await(func() bool { return !slices.Contains(b.hooks(), "tc_ingress@h1") })
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	mu.Lock()
	defer mu.Unlock()
	for _, want := range []string{"links: ", "executables and units: ", "routes and addresses: ", "tc_ingress@h1: attached"} {
		if !slices.ContainsFunc(told, func(s string) bool { return strings.HasPrefix(s, want) }) {
			t.Errorf("told %q, without %q", told, want)
		}
	}
}

// Events come as they happen, permits where they are asked for.
func TestInstanceEventsFollow(t *testing.T) {
	b := newBed(t)
	b.apply(blocks(atConnect, "{IP_REMOTE_PORT: 8081}"))
	p, peer := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	b.listen(peer, 8080)
	reader, err := loader.Find(b.target())
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	ctx, stop := context.WithCancel(context.Background())
	events := make(chan loader.Event, 16)
	ended := make(chan error, 1)
	go func() {
		ended <- reader.Events(ctx, true, true, func(e loader.Event) error { events <- e; return nil })
	}()
	f := b.families()[0]
	next := func(action string) {
		t.Helper()
		select {
		case e := <-events:
			if e.Action != action || time.Since(e.Time).Abs() > 5*time.Second {
				t.Errorf("event %+v, want %s", e, action)
			}
		case <-time.After(5 * time.Second):
			t.Errorf("no event of a %s", action)
		}
	}
	denied.want(t, p.Connect(f.tcp, at(f.peer, 8081)))
	next("block")
	passes.want(t, p.Connect(f.tcp, at(f.peer, 8080)))
	next("permit")
	denied.want(t, p.UDPSend(f.udp, at(f.peer, 8081), "hello"))
	next("block")
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	passes.want(t, p.Connect(f.tcp, at(f.peer, 8080)))
	if list := b.events(); len(list) != 0 {
		t.Errorf("events of permits after they were asked for: %+v", list)
	}
}

// Two namespaces in one cgroup, each with an instance of its own.
func TestInstanceTwo(t *testing.T) {
	b := newBed(t)
	b.apply(blocks(atConnect, "{IP_REMOTE_PORT: 8081}"))
	other := &bed{t: t, host: b.peer, peer: b.host, hostEnd: b.peerEnd, peerEnd: b.hostEnd, cgroup: b.cgroup}
	host, peer := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	b.listen(host, 8080, 8081)
	b.listen(peer, 8080, 8081)
	f := b.families()
	for _, step := range []struct {
		name              string
		do                func()
		hostTo8081, peer8 outcome // 8081 out of the host, 8080 out of the peer
	}{
		{"the host alone", func() {}, denied, passes},
		{"both", func() { other.apply(blocks(atConnect, "{IP_REMOTE_PORT: 8080}")) }, denied, denied},
		{"the peer alone", func() {
			if err := b.engine.Down(); err != nil {
				t.Fatal(err)
			}
		}, passes, denied},
	} {
		t.Run(step.name, func(t *testing.T) {
			step.do()
			for _, f := range f {
				passes.want(t, host.Connect(f.tcp, at(f.peer, 8080)))
				step.hostTo8081.want(t, host.Connect(f.tcp, at(f.peer, 8081)))
				step.hostTo8081.want(t, host.UDPExchange(f.udp, at(f.peer, 8081), "hello"))
				passes.want(t, peer.Connect(f.tcp, at(f.host, 8081)))
				step.peer8.want(t, peer.Connect(f.tcp, at(f.host, 8080)))
				step.peer8.want(t, peer.UDPExchange(f.udp, at(f.host, 8080), "hello"))
			}
		})
	}
}

// Programs that are attached stay attached: those of another version are not
// given tables that may mean something else to them. Down removes them.
func TestInstanceOfAnotherVersion(t *testing.T) {
	b := newBed(t)
	p, peer := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	b.listen(p, 8080)
	b.apply(blocks(atAccept, "{IP_PROTOCOL: udp}"))
	file := filepath.Join("/run/wfpebpf", filepath.Base(b.pins()), "instance.json")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	other := strings.Replace(string(text), `"version":"`, `"version":"x`, 1)
	if other == string(text) {
		t.Fatalf("no version in %s", text)
	}
	if err := os.WriteFile(file, []byte(other), 0o600); err != nil {
		t.Fatal(err)
	}
	e, err := loader.Open(loader.Options{Target: b.target()})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	err = e.Commit(context.Background(), b.load(blocks(atAccept, "{IP_PROTOCOL: tcp}"), nil))
	if err == nil || !strings.Contains(err.Error(), "another version") || !strings.Contains(err.Error(), "wfpebpf down") {
		t.Errorf("error %v, want the remedy named", err)
	}
	f := b.families()[0]
	tcp(8080).want(t, peer, f, passes)
	udp(8080).want(t, peer, f, dropped)
	if err := e.Down(); err != nil {
		t.Fatal(err)
	}
	udp(8080).want(t, peer, f, passes)
	b.apply(blocks(atAccept, "{IP_PROTOCOL: tcp}"))
	tcp(8080).want(t, peer, f, dropped)
}
