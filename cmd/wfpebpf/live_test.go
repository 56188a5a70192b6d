// SPDX-License-Identifier: Apache-2.0

// This file runs command lines against the kernel, in a namespace and a cgroup
// of its own. Every command names both: without names `down` would remove what
// others on the machine have in force.

package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vishvananda/netlink"

	"github.com/wfpebpf/wfpebpf/explain"
	"github.com/wfpebpf/wfpebpf/loader"
	"github.com/wfpebpf/wfpebpf/tests/testbed"
)

// lab is a filtered host and a peer, with a process in each.
type lab struct {
	t      *testing.T
	target []string
	hostNS *testbed.Netns
	cgroup *testbed.Cgroup
	client *testbed.Proc
}

func newLab(t *testing.T) *lab {
	testbed.RequireRoot(t)
	l := &lab{t: t, hostNS: testbed.NewNetns(t, "host"), cgroup: testbed.NewCgroup(t, "cli")}
	peerNS := testbed.NewNetns(t, "peer")
	testbed.Veth(t, l.hostNS, peerNS, "h0", "p0")
	l.target = []string{"--netns", l.hostNS.Name, "--cgroup", l.cgroup.Rel}
	peer := testbed.Start(t, testbed.ProcOptions{Netns: peerNS})
	if _, err := peer.Listen("tcp4", "10.77.0.2:4450"); err != nil {
		t.Fatal(err)
	}
	l.client = testbed.Start(t, testbed.ProcOptions{Netns: l.hostNS, Cgroup: l.cgroup})
	t.Cleanup(func() { l.run("down") })
	return l
}

// run runs a command for the lab's instance.
func (l *lab) run(args ...string) result {
	l.t.Helper()
	return wfpebpf(l.t, append(args, l.target...)...)
}

// must runs a command that is to succeed and returns its output.
func (l *lab) must(args ...string) string {
	l.t.Helper()
	r := l.run(args...)
	if r.code != exitDone {
		l.t.Fatalf("%s: exit code %d: %s", strings.Join(args, " "), r.code, r.err)
	}
	return r.out
}

// requireConnect tries a connection.
func (l *lab) requireConnect(blocked bool) {
	l.t.Helper()
	err := l.client.Connect("tcp4", "10.77.0.2:4450")
	if blocked && testbed.Errno(err) != unix.EACCES || !blocked && err != nil {
		l.t.Errorf("connect: %v, want a block: %t", err, blocked)
	}
}

func (l *lab) state() loader.State {
	l.t.Helper()
	var s loader.State
	decode(l.t, l.must("show", "state", "--json"), &s)
	return s
}

const blockServer = `
wfpebpf: 1
filters:
  - {name: Block the server, layer: ALE_AUTH_CONNECT_V4, action: BLOCK, conditions: [{IP_REMOTE_PORT: 4450}]}
`

const blockNothing = `
wfpebpf: 1
filters:
  - {name: Block nothing here, layer: ALE_AUTH_CONNECT_V4, action: BLOCK, conditions: [{IP_REMOTE_PORT: 1}]}
`

const blockLogins = blockServer + `
  - {name: No logins, layer: ALE_AUTH_RECV_ACCEPT_V4, action: BLOCK, conditions: [{IP_LOCAL_PORT: 22}]}
`

func TestLiveCommands(t *testing.T) {
	l := newLab(t)
	l.requireConnect(false)
	if r := l.run("show", "filters"); r.code != exitNothing {
		t.Errorf("show without a policy: exit code %d", r.code)
	}
	l.must("apply", write(t, "policy.yaml", blockServer), "--failsafe", "tcp/22")
	l.requireConnect(true)

	if s := l.state(); s.Generation == 0 || len(s.Failsafes) != 1 || s.Failsafes[0] != "tcp/22" || s.Unconfirmed {
		t.Errorf("state %+v", s)
	}
	var filters []loader.FilterRow
	decode(t, l.must("show", "filters", "--json"), &filters)
	if len(filters) != 5 || filters[0].Name != "Block the server" || filters[0].Hits == 0 {
		t.Errorf("filters %+v", filters)
	}
	var hooks []loader.HookRow
	decode(t, l.must("show", "hooks", "--json"), &hooks)
	if len(hooks) == 0 {
		t.Error("no hooks are shown")
	}
	for _, what := range []string{"filters", "sublayers", "callouts", "sets", "hooks", "state"} {
		if out := l.must("show", what); !strings.Contains(out, "\n") {
			t.Errorf("show %s: %q", what, out)
		}
	}
	out := l.must("explain", "--live", "--json", "--out", "tcp", "--from", "10.77.0.1:50000", "--to", "10.77.0.2:4450", "--iface", "h0")
	var answers []explain.Answer
	decode(t, out, &answers)
	for _, a := range answers {
		if a.Live == nil || !a.Live.Agrees {
			t.Errorf("at %s the kernel says %+v", a.Layer, a.Live)
		}
	}
	events := l.must("events", "--json")
	if !strings.Contains(events, `"filterName":"Block the server"`) || !strings.Contains(events, `"dst":"10.77.0.2:4450"`) {
		t.Errorf("events %s", events)
	}

	l.must("apply", write(t, "policy.yaml", blockNothing))
	l.requireConnect(false)
	l.must("detach", "h0")
	l.must("attach", "h0")
	if r := l.run("confirm"); r.code != exitNothing {
		t.Errorf("confirm without anything that waits: exit code %d", r.code)
	}
	l.must("down")
	if _, err := loader.Find(loader.Target{Netns: l.hostNS.Name, Cgroup: l.cgroup.Rel}); !errors.Is(err, loader.ErrNotApplied) {
		t.Errorf("after down: %v", err)
	}
}

func TestLiveSSHCheck(t *testing.T) {
	l := newLab(t)
	l.must("apply", write(t, "policy.yaml", blockNothing))
	before := l.state().Generation
	t.Setenv(sshConnection, "10.77.0.2 50000 10.77.0.1 22")
	r := l.run("apply", write(t, "policy.yaml", blockLogins))
	if r.code != exitNothing || !strings.Contains(r.err, `filter "No logins"`) {
		t.Errorf("exit code %d: %s", r.code, r.err)
	}
	if after := l.state().Generation; after != before {
		t.Errorf("generation %d, want %d", after, before)
	}
	l.requireConnect(false)
	l.must("apply", write(t, "policy.yaml", blockLogins), "--failsafe", "tcp/22@10.77.0.2")
	// A connection to where the caller is, and not to the namespace that is filtered.
	own, err := loader.HostLinks("")
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range own {
		for _, a := range link.Addresses {
			if a.Is4() && !a.IsLoopback() {
				t.Setenv(sshConnection, "192.0.2.9 50000 "+a.String()+" 22")
				l.must("apply", write(t, "policy.yaml", blockLogins))
			}
		}
	}
	t.Setenv(sshConnection, "10.77.0.2 50000 10.77.0.1 22")
	l.must("apply", write(t, "policy.yaml", blockLogins), "--force")
	l.requireConnect(true)
}

// Where the connection comes by a bridge, it crosses one of its ports, which the kernel
// knows.
func TestLiveSSHCheckOverABridge(t *testing.T) {
	l := newLab(t)
	h := l.hostNS.Netlink()
	attrs := func(name string) netlink.LinkAttrs {
		a := netlink.NewLinkAttrs()
		a.Name = name
		return a
	}
	port, err := h.LinkByName("h0")
	if err != nil {
		t.Fatal(err)
	}
	bridge, other := &netlink.Bridge{LinkAttrs: attrs("br0")}, &netlink.Veth{LinkAttrs: attrs("d0"), PeerName: "d1"}
	for _, add := range []netlink.Link{bridge, other} {
		if err := h.LinkAdd(add); err != nil {
			t.Fatal(err)
		}
	}
	addresses, err := h.AddrList(port, unix.AF_INET)
	if err != nil || len(addresses) == 0 {
		t.Fatal(addresses, err)
	}
	for _, a := range addresses {
		moved := netlink.Addr{IPNet: a.IPNet}
		if err := errors.Join(h.AddrDel(port, &a), h.AddrAdd(bridge, &moved)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(h.LinkSetMaster(port, bridge), h.LinkSetMaster(other, bridge), h.LinkSetUp(other), h.LinkSetUp(bridge)); err != nil {
		t.Fatal(err)
	}
	until(t, "the bridge forwards", func() bool {
		b, err := h.LinkByName("br0")
		return err == nil && b.Attrs().OperState == netlink.OperUp
	})
	l.requireConnect(false) // the neighbours know each other now
	t.Setenv(sshConnection, "10.77.0.2 50000 10.77.0.1 22")
	for _, tc := range []struct {
		port string
		code int
	}{{"h0", exitNothing}, {"d0", exitDone}} {
		policy := fmt.Sprintf(`wfpebpf: 1
filters:
  - {name: No logins, layer: INGRESS_VSWITCH_TRANSPORT_V4, action: BLOCK, conditions: [{VSWITCH_SOURCE_INTERFACE_ID: %s}, {IP_DESTINATION_PORT: 22}]}
`, tc.port)
		if r := l.run("apply", write(t, "policy.yaml", policy)); r.code != tc.code || (tc.code != exitDone) != strings.Contains(r.err, `filter "No logins"`) {
			t.Errorf("by %s: exit code %d: %s", tc.port, r.code, r.err)
		}
	}
}

func TestLiveConfirm(t *testing.T) {
	l := newLab(t)
	l.must("apply", write(t, "policy.yaml", blockNothing))

	r := l.run("apply", write(t, "policy.yaml", blockServer), "--confirm", "1s")
	if r.code != exitNothing || !strings.Contains(r.err, "not confirmed within 1s") {
		t.Errorf("exit code %d: %s", r.code, r.err)
	}
	l.requireConnect(false)

	var waiting bytes.Buffer
	ended := make(chan int, 1)
	args := append([]string{"apply", write(t, "policy.yaml", blockServer), "--confirm", "1m"}, l.target...)
	go func() { ended <- run(args, strings.NewReader(""), &bytes.Buffer{}, &waiting) }()
	until(t, "the policy can be confirmed", func() bool { return l.run("confirm").code == exitDone })
	if code := <-ended; code != exitDone || !strings.Contains(waiting.String(), "kept") {
		t.Errorf("exit code %d: %s", code, waiting.String())
	}
	l.requireConnect(true)
	if l.state().Unconfirmed {
		t.Error("still unconfirmed")
	}
}

// until waits for something to become true.
func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !holds(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

// Whatever kills apply, its terminal's end included, the policy is taken back.
func TestLiveDeathOfApply(t *testing.T) {
	// Under nohup a hangup is ignored, also by what we start, unless we handle it.
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	for _, signal := range []syscall.Signal{syscall.SIGHUP, syscall.SIGKILL} {
		t.Run(signal.String(), func(t *testing.T) {
			l := newLab(t)
			l.must("apply", write(t, "policy.yaml", blockNothing))
			args := append([]string{"apply", write(t, "policy.yaml", blockServer), "--confirm", "3s"}, l.target...)
			apply := command(t, args...)
			progress, err := apply.StderrPipe()
			if err != nil {
				t.Fatal(err)
			}
			apply.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			if err := apply.Start(); err != nil {
				t.Fatal(err)
			}
			line, err := bufio.NewReader(progress).ReadString('\n')
			if err != nil || !strings.HasPrefix(line, "in force; taken back after 3s") {
				t.Fatalf("progress %q, %v", line, err)
			}
			l.requireConnect(true)
			if err := syscall.Kill(-apply.Process.Pid, signal); err != nil {
				t.Fatal(err)
			}
			_ = apply.Wait()
			l.requireConnect(true)
			until(t, "the policy is taken back", func() bool { return !l.state().Unconfirmed })
			l.requireConnect(false)
		})
	}
}

// guards counts the processes that take back a policy of the lab's namespace.
func (l *lab) guards() int {
	l.t.Helper()
	processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		l.t.Fatal(err)
	}
	n := 0
	for _, p := range processes {
		// one that has ended meanwhile reads as nothing
		line, _ := os.ReadFile(p)
		if bytes.Contains(line, []byte("rollback-after")) && bytes.Contains(line, []byte(l.hostNS.Name)) {
			n++
		}
	}
	return n
}

// Whenever apply dies around its commit, no policy stays in force that waits
// for its confirmation and that nobody takes back.
func TestLiveApplyKilledAtAnyMoment(t *testing.T) {
	l := newLab(t)
	l.must("apply", write(t, "policy.yaml", blockNothing))
	args := append([]string{"apply", write(t, "policy.yaml", blockServer), "--confirm", "1s"}, l.target...)

	// How long a commit takes here says which moments are around it.
	start := time.Now()
	whole := command(t, args...)
	progress, err := whole.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := whole.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := bufio.NewReader(progress).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	span := time.Since(start)
	_ = whole.Wait()

	const tries = 24
	committed := 0
	for i := range tries {
		before := l.state()
		apply := command(t, args...)
		if err := apply.Start(); err != nil {
			t.Fatal(err)
		}
		// from the middle of the work to a little after its end
		time.Sleep(span/2 + span*time.Duration(i)/tries)
		_ = apply.Process.Kill()
		_ = apply.Wait()
		// What is in force now decides: a process that was killed commits nothing more.
		if now := l.state(); now.Unconfirmed {
			committed++
			if l.guards() == 0 {
				t.Fatalf("killed after %s: a policy waits and nobody takes it back", span/2+span*time.Duration(i)/tries)
			}
		} else if now.Generation != before.Generation {
			t.Fatalf("killed: generation %d became %d, confirmed", before.Generation, now.Generation)
		}
		until(t, "the policy is taken back", func() bool { return !l.state().Unconfirmed && l.guards() == 0 })
		l.requireConnect(false)
	}
	t.Logf("%d of %d were killed after the commit, which takes %s", committed, tries, span)
}

// An apply that dies before the first policy is in force leaves nothing that
// down does not remove.
func TestLiveDownAfterAKilledFirstApply(t *testing.T) {
	l := newLab(t)
	scope := testbed.Scope{
		Netns: []*testbed.Netns{l.hostNS}, Dirs: []string{"/sys/fs/bpf/wfpebpf", "/run/wfpebpf"},
		// programs and maps of the whole machine may be those of others
		Ignore: func(line string) bool {
			return !strings.Contains(line, l.hostNS.Name) && !strings.Contains(line, l.instance(t))
		},
	}
	before := testbed.Snapshot(t, scope)
	for i := range 8 {
		apply := command(t, append([]string{"apply", write(t, "policy.yaml", blockServer), "--confirm", "1h"}, l.target...)...)
		if err := apply.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100*time.Millisecond + time.Duration(i)*40*time.Millisecond)
		_ = apply.Process.Kill()
		_ = apply.Wait()
		l.must("down")
		l.requireConnect(false)
		testbed.RequireUnchanged(t, before, scope)
	}
	l.must("down")
	until(t, "nobody watches any more", func() bool { return l.guards() == 0 })
}

// instance is how the lab's instance is called in the names of files.
func (l *lab) instance(t *testing.T) string {
	var st unix.Stat_t
	if err := unix.Stat("/run/netns/"+l.hostNS.Name, &st); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("net%d-cg%d", st.Ino, l.cgroup.ID(t))
}

// A namespace that has lost its name is still filtered, and the name is how the
// caller knows it.
func TestLiveNamespaceWithoutItsName(t *testing.T) {
	l := newLab(t)
	file := filepath.Join(t.TempDir(), "alias")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("/run/netns/"+l.hostNS.Name, file, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	alias := []string{"--netns", file, "--cgroup", l.cgroup.Rel}
	r := wfpebpf(t, append([]string{"apply", write(t, "policy.yaml", blockServer)}, alias...)...)
	if err := unix.Unmount(file, 0); err != nil {
		t.Fatal(err)
	}
	os.Remove(file)
	if r.code != exitDone {
		t.Fatal(r.err)
	}
	l.requireConnect(true)
	if r := wfpebpf(t, append([]string{"down"}, alias...)...); r.code != exitDone {
		t.Errorf("down: exit code %d: %s", r.code, r.err)
	}
	l.requireConnect(false)
}

// Ctrl-C while apply waits is the wish not to keep the policy.
func TestLiveInterruptTakesBackAtOnce(t *testing.T) {
	l := newLab(t)
	l.must("apply", write(t, "policy.yaml", blockNothing))
	apply := command(t, append([]string{"apply", write(t, "policy.yaml", blockServer), "--confirm", "1h"}, l.target...)...)
	progress, err := apply.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := apply.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(progress)
	if _, err := lines.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	if r := l.run("apply", write(t, "policy.yaml", blockNothing)); r.code != exitNothing || !strings.Contains(r.err, "waits to be confirmed") {
		t.Errorf("apply over a policy that waits: exit code %d: %s", r.code, r.err)
	}
	apply.Process.Signal(syscall.SIGINT)
	last, err := lines.ReadString('\n')
	if err != nil || !strings.Contains(last, restored) {
		t.Errorf("it says %q, %v", last, err)
	}
	if err := apply.Wait(); apply.ProcessState.ExitCode() != exitNothing {
		t.Errorf("apply ended with %v", err)
	}
	if l.state().Unconfirmed {
		t.Error("still unconfirmed")
	}
	l.requireConnect(false)
	until(t, "nobody watches any more", func() bool { return l.guards() == 0 })
}

// A bad file changes nothing, at once and with one line that says where.
func TestLiveBadFilesLeaveThePolicyInForce(t *testing.T) {
	l := newLab(t)
	l.must("apply", write(t, "policy.yaml", blockServer))
	before := l.state().Generation
	deep := strings.Repeat("[", 100_000)
	many := "wfpebpf: 1\nfilters:\n" + strings.Repeat("  - {name: a, layer: ALE_AUTH_CONNECT_V4, action: BLOCK}\n", 10_000)
	for _, tc := range []struct{ name, text, place string }{
		{"malformed", blockServer + "  - {name: X, layer: ALE_AUTH_CONNECT_V4, action: BLOCK, colour: red}\n", ":5:"},
		{"truncated", blockServer + "  - {name: X, layer: ALE_AUTH_CON", ":5:"},
		{"truncated XML", "<wfpdiag><filters><item><name>x", ":1:"},
		{"not text", "wfpebpf: 1\n\xff\xfe\x00", ":2:"},
		{"deep", "wfpebpf: 1\nfilters: " + deep, ":"},
		{"deep XML", strings.Repeat("<a>", 100_000), ":1:"},
		{"aliases that expand", "a: &a [x,x,x]\nb: &b [*a,*a,*a]\nwfpebpf: 1\n", ":"},
		{"an error after many filters", many + "  - {name: a, layer: NOWHERE, action: BLOCK}\n", ":10003:"},
		{"a huge string", "wfpebpf: 1\nfilters:\n  - {name: " + strings.Repeat("x", 2<<20) + ", layer: ALE_AUTH_CONNECT_V4, action: BLOCK}\n", ":"},
		{"empty", "", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			file := write(t, "bad", tc.text)
			start := time.Now()
			r := l.run("apply", file)
			took := time.Since(start)
			if r.code != exitNothing || r.out != "" || strings.Count(r.err, "\n") != 1 || !strings.HasPrefix(r.err, "wfpebpf: "+file+tc.place) {
				t.Errorf("exit code %d, stdout %q, stderr %.300q; want one line with %s%s", r.code, r.out, r.err, file, tc.place)
			}
			if len(r.err) > 1000 {
				t.Errorf("the message has %d bytes", len(r.err))
			}
			if took > time.Second {
				t.Errorf("it took %s", took)
			}
			if now := l.state().Generation; now != before {
				t.Fatalf("generation %d, want %d", now, before)
			}
			l.requireConnect(true)
		})
	}
}

func TestLiveSeveralFilesAreOnePolicy(t *testing.T) {
	l := newLab(t)
	l.must("apply", write(t, "a.yaml", blockNothing), write(t, "b.yaml", blockServer))
	l.requireConnect(true)
	var filters []loader.FilterRow
	decode(t, l.must("show", "filters", "--json"), &filters)
	if len(filters) != 2 || filters[1].ID != 2 {
		t.Errorf("filters %+v", filters)
	}
	out := l.must("explain", write(t, "a.yaml", blockNothing), "--live", "--out", "tcp", "--from", "10.77.0.1:50000", "--to", "10.77.0.2:4450")
	if !strings.Contains(out, "BLOCK at ALE_AUTH_CONNECT_V4") || !strings.Contains(out, "the files given are not in force: they say permit") {
		t.Errorf("explain --live with another file says\n%s", out)
	}
}

func TestLiveForegroundCommandsEndCleanly(t *testing.T) {
	l := newLab(t)
	l.must("apply", write(t, "policy.yaml", blockServer))
	name := filepath.Join(t.TempDir(), "notify")
	ready, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer ready.Close()

	watch := command(t, append([]string{"watch"}, l.target...)...)
	watch.Env = append(watch.Env, "NOTIFY_SOCKET="+name)
	if err := watch.Start(); err != nil {
		t.Fatal(err)
	}
	message := make([]byte, 64)
	ready.SetReadDeadline(time.Now().Add(20 * time.Second))
	if n, err := ready.Read(message); err != nil || string(message[:n]) != "READY=1" {
		t.Errorf("watch told the service manager %q, %v", message[:n], err)
	}
	watch.Process.Signal(syscall.SIGTERM)
	if err := watch.Wait(); err != nil {
		t.Errorf("watch ended with %v", err)
	}

	events := command(t, append([]string{"events", "--follow", "--json"}, l.target...)...)
	out, err := events.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := events.Start(); err != nil {
		t.Fatal(err)
	}
	l.requireConnect(true)
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || !strings.Contains(line, `"filterName":"Block the server"`) {
		t.Errorf("event %q, %v", line, err)
	}
	events.Process.Signal(syscall.SIGINT)
	if err := events.Wait(); err != nil {
		t.Errorf("events ended with %v", err)
	}
}
