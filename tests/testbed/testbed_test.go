// SPDX-License-Identifier: Apache-2.0

package testbed

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/wfpebpf/wfpebpf/internal/cgroup2"
)

func TestMain(m *testing.M) { Main(m) }

// What cannot run is skipped by name; where nothing may be skipped it fails.
func TestMissing(t *testing.T) {
	for _, row := range []struct {
		ci, want string
	}{{"", "--- SKIP: TestNetnsCookies"}, {"true", "--- FAIL: TestNetnsCookies"}} {
		cmd := exec.Command("/proc/self/exe", "-test.v", "-test.run=^TestNetnsCookies$")
		cmd.Env = append(os.Environ(), "CI="+row.ci)
		if os.Geteuid() == 0 {
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		}
		out, err := cmd.CombinedOutput()
		if (err != nil) != (row.ci == "true") || !strings.Contains(string(out), row.want) || !strings.Contains(string(out), "needs root") {
			t.Errorf("without root, CI=%s: %v\n%s, want %q", row.ci, err, out, row.want)
		}
	}
}

// pair is two namespaces with a veth between them and a process in each.
type pair struct {
	a, b           End
	client, server *Proc
}

func newPair(t *testing.T) pair {
	t.Helper()
	RequireRoot(t)
	na, nb := NewNetns(t, "a"), NewNetns(t, "b")
	a, b := Veth(t, na, nb, "eth-a", "eth-b")
	return pair{a, b, Start(t, ProcOptions{Netns: na}), Start(t, ProcOptions{Netns: nb})}
}

func TestEcho(t *testing.T) {
	p := newPair(t)
	for _, row := range []struct {
		name            string
		server          *Proc
		listen          string // network
		at              string // address to listen at
		dial, to, local string
	}{
		{"TCP v4", p.server, "tcp4", "10.77.0.2:7680", "tcp4", "10.77.0.2:7680", ""},
		{"TCP v6", p.server, "tcp6", "[fd77::2]:7680", "tcp6", "[fd77::2]:7680", ""},
		{"TCP v4 at any address", p.server, "tcp4", "0.0.0.0:7681", "tcp4", "10.77.0.2:7681", "10.77.0.1:0"},
		{"TCP v4 to a v6 listener", p.server, "tcp6", "[::]:7682", "tcp4", "10.77.0.2:7682", ""},
		{"TCP v4-mapped", p.server, "tcp4", "10.77.0.2:7683", "tcp6", "[::ffff:10.77.0.2]:7683", ""},
		{"TCP v4 loopback", p.client, "tcp4", "127.0.0.1:7684", "tcp4", "127.0.0.1:7684", ""},
		{"TCP v6 loopback", p.client, "tcp6", "[::1]:7684", "tcp6", "[::1]:7684", ""},
		{"UDP v4", p.server, "udp4", "10.77.0.2:7680", "udp4", "10.77.0.2:7680", ""},
		{"UDP v6", p.server, "udp6", "[fd77::2]:7680", "udp6", "[fd77::2]:7680", ""},
		{"UDP v4-mapped", p.server, "udp4", "10.77.0.2:7683", "udp6", "[::ffff:10.77.0.2]:7683", ""},
		{"UDP v4 loopback", p.client, "udp4", "127.0.0.1:7684", "udp4", "127.0.0.1:7684", ""},
		{"UDP v6 loopback", p.client, "udp6", "[::1]:7684", "udp6", "[::1]:7684", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			l, err := row.server.Listen(row.listen, row.at)
			if err != nil {
				t.Fatal(err)
			}
			defer row.server.CloseSock(l)
			c, err := p.client.Dial(row.dial, row.to, Options{Local: row.local})
			if err != nil {
				t.Fatal(err)
			}
			for _, msg := range []string{"hello", strings.Repeat("x", 1200)} {
				if err := p.client.Exchange(c, msg); err != nil {
					t.Error(err)
				}
			}
			if c.Remote.String() != row.to {
				t.Errorf("connected to %s, want %s", c.Remote, row.to)
			}
			if err := p.client.CloseSock(c); err != nil {
				t.Error(err)
			}
			if strings.HasPrefix(row.dial, "udp") {
				if err := p.client.UDPExchange(row.dial, row.to, "unconnected"); err != nil {
					t.Error(err)
				}
			}
			stats, err := row.server.Stats(l)
			if err != nil || stats.Accepted == 0 || stats.Bytes < 1205 {
				t.Errorf("stats %+v, %v", stats, err)
			}
		})
	}
}

func TestSecondAddresses(t *testing.T) {
	RequireRoot(t)
	na, nb := NewNetns(t, "a"), NewNetns(t, "b")
	_, b := Veth(t, na, nb, "eth0", "eth0", VethOptions{Subnet: 9, SecondAddresses: true})
	if want := netip.MustParseAddr("10.77.9.12"); b.SecondV4 != want {
		t.Errorf("second address %s, want %s", b.SecondV4, want)
	}
	client, server := Start(t, ProcOptions{Netns: na}), Start(t, ProcOptions{Netns: nb})
	for _, to := range []netip.Addr{b.V4, b.V6, b.SecondV4, b.SecondV6} {
		network := "tcp4"
		if to.Is6() {
			network = "tcp6"
		}
		addr := netip.AddrPortFrom(to, 80).String()
		l, err := server.Listen(network, addr)
		if err != nil {
			t.Fatal(err)
		}
		if err := client.Connect(network, addr); err != nil {
			t.Error(err)
		}
		server.CloseSock(l)
	}
	link, err := nb.Netlink().LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	if got := link.Attrs().HardwareAddr.String(); got != b.MAC.String() || link.Attrs().Index != b.Index {
		t.Errorf("eth0 is %d %s, want %d %s", link.Attrs().Index, got, b.Index, b.MAC)
	}
}

func TestDuplicate(t *testing.T) {
	p := newPair(t)
	s, err := p.server.UDP("udp4", Options{Local: p.b.V4.String() + ":7000"})
	if err != nil {
		t.Fatal(err)
	}
	fd, err := p.server.Duplicate(s)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := p.client.UDPSend("udp4", p.b.V4.String()+":7000", "hello"); err != nil {
		t.Fatal(err)
	}
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	if n, err := unix.Poll(poll, int(DefaultTimeout.Milliseconds())); n != 1 {
		t.Fatalf("nothing arrived: %v", err)
	}
	buf := make([]byte, 64)
	if n, _, err := unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT); err != nil || string(buf[:n]) != "hello" {
		t.Errorf("got %q, %v", buf[:max(n, 0)], err)
	}
}

func TestErrors(t *testing.T) {
	p := newPair(t)

	_, err := p.client.Dial("tcp4", "10.77.0.2:81")
	if Errno(err) != unix.ECONNREFUSED {
		t.Errorf("connect to a closed port: %v, want ECONNREFUSED", err)
	}
	if want := "dial tcp4 10.77.0.2:81: connect: ECONNREFUSED (connection refused)"; fmt.Sprint(err) != want {
		t.Errorf("reads %q, want %q", err, want)
	}
	_, err = p.client.Dial("tcp4", "10.78.0.1:81")
	if Errno(err) != unix.ENETUNREACH {
		t.Errorf("connect without a route: %v, want ENETUNREACH", err)
	}
	_, err = p.server.Listen("udp4", "10.77.0.2:53", Options{Silent: true})
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	err = p.client.UDPExchange("udp4", "10.77.0.2:53", "hello", Options{Timeout: 100 * time.Millisecond})
	if !errors.Is(err, ErrTimeout) || Errno(err) != 0 {
		t.Errorf("no echo: %v, want ErrTimeout", err)
	}
	if took := time.Since(start); took < 100*time.Millisecond || took > 2*time.Second {
		t.Errorf("timed out after %s", took)
	}
	if err := p.client.UDPSend("udp4", "10.77.0.2:53", "hello"); err != nil {
		t.Errorf("send without waiting: %v", err)
	}
	c, err := p.client.Dial("udp4", "10.77.0.2:54")
	if err != nil {
		t.Fatal(err)
	}
	if err := p.client.Exchange(c, "hello"); Errno(err) != unix.ECONNREFUSED {
		t.Errorf("datagram to a closed port: %v, want ECONNREFUSED", err)
	}
	if _, err := p.client.Dial("tcp", "10.77.0.2:80"); err == nil || Errno(err) != 0 {
		t.Errorf("network tcp: %v, want an error of the command", err)
	}
}

func TestConnectTimesOut(t *testing.T) {
	p := newPair(t)
	// No neighbour has this address and none will say so: the entry is permanent.
	err := p.a.Netns.Netlink().NeighAdd(&netlink.Neigh{
		LinkIndex: p.a.Index, State: unix.NUD_PERMANENT,
		IP: p.a.V4.Next().Next().AsSlice(), HardwareAddr: p.b.MAC,
	})
	if err != nil {
		t.Fatal(err)
	}
	_, err = p.client.Dial("tcp4", "10.77.0.3:80", Options{Timeout: 150 * time.Millisecond})
	if !errors.Is(err, ErrTimeout) || Errno(err) != 0 {
		t.Errorf("connect to nobody: %v, want ErrTimeout", err)
	}
}

func TestBind(t *testing.T) {
	p := newPair(t)
	for _, network := range []string{"tcp4", "udp4"} {
		s, err := p.client.Bind(network, "0.0.0.0:0")
		if err != nil || s.Local.Port() == 0 {
			t.Errorf("%s: %s, %v", network, s.Local, err)
		}
	}
	s, err := p.client.Bind("udp6", "[fd77::1]:500")
	if err != nil || s.Local.String() != "[fd77::1]:500" {
		t.Errorf("%s, %v", s.Local, err)
	}
	if _, err := p.client.Bind("udp6", "[fd77::1]:500"); Errno(err) != unix.EADDRINUSE {
		t.Errorf("bind twice: %v, want EADDRINUSE", err)
	}
	l, err := p.client.Listen("tcp4", "", Options{NoBind: true})
	if err != nil || l.Local.Port() == 0 {
		t.Errorf("listen without bind: %s, %v", l.Local, err)
	}
}

func TestMPTCP(t *testing.T) {
	p := newPair(t)
	protocols := func() string {
		var out string
		err := p.b.Netns.Do(func() error {
			b, err := os.ReadFile("/proc/thread-self/net/protocols")
			out = string(b)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	if !strings.Contains(protocols(), "MPTCP") {
		if _, err := os.Stat("/proc/sys/net/mptcp"); err == nil {
			t.Fatal("the kernel has MPTCP (/proc/sys/net/mptcp), and its protocols do not list it")
		}
		Missing(t, "needs a kernel with MPTCP (CONFIG_MPTCP)")
	}
	for i, row := range []struct {
		name             string
		listener, dialer MPTCP
		want             int // protocol of the listener
	}{
		{"default", MPTCPDefault, MPTCPDefault, unix.IPPROTO_MPTCP},
		{"off", MPTCPOff, MPTCPOff, unix.IPPROTO_TCP},
		{"on", MPTCPOn, MPTCPOn, unix.IPPROTO_MPTCP},
	} {
		t.Run(row.name, func(t *testing.T) {
			addr := fmt.Sprintf("10.77.0.2:%d", 7680+i)
			l, err := p.server.Listen("tcp4", addr, Options{MPTCP: row.listener})
			if err != nil {
				t.Fatal(err)
			}
			if l.Protocol != row.want {
				t.Errorf("listener has protocol %d, want %d", l.Protocol, row.want)
			}
			if err := p.client.Connect("tcp4", addr, Options{MPTCP: row.dialer}); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestIdentity(t *testing.T) {
	RequireRoot(t)
	n := NewNetns(t, "")
	group := NewCgroup(t, "svc")
	child := group.Child(t, "inner")
	p := Start(t, ProcOptions{Netns: n, Cgroup: child, UID: 65534, GID: 65533, CopyTo: "browser"})

	if got, err := p.CgroupPath(); err != nil || got != child.Rel {
		t.Errorf("process is in cgroup %q, want %q (%v)", got, child.Rel, err)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Uid:\t65534\t65534\t65534\t65534", "Gid:\t65533\t65533\t65533\t65533", "CapEff:\t0000000000000000"} {
		if !strings.Contains(string(status), want) {
			t.Errorf("status has no %q:\n%s", want, status)
		}
	}
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", p.PID))
	if err != nil || exe != p.Exe || !strings.HasSuffix(exe, "/browser") {
		t.Errorf("executable is %q, want %q (%v)", exe, p.Exe, err)
	}
	self, err := os.Stat("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if other, err := os.Stat(p.Exe); err != nil || os.SameFile(self, other) {
		t.Errorf("the copy is the same file (%v)", err)
	}
	inside, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", p.PID))
	if err != nil {
		t.Fatal(err)
	}
	err = n.Do(func() error {
		want, err := os.Readlink("/proc/thread-self/ns/net")
		if err == nil && want != inside {
			err = fmt.Errorf("process is in %s, want %s", inside, want)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	if _, err := p.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP); Errno(err) != unix.EPERM {
		t.Errorf("raw socket without root: %v, want EPERM", err)
	}
	if err := func() error { _, err := p.Bind("tcp4", "127.0.0.1:0"); return err }(); err != nil {
		t.Errorf("bind without root: %v", err)
	}
	if st := group.ID(t); st == 0 || st == child.ID(t) {
		t.Errorf("cgroup ids %d and %d", st, child.ID(t))
	}
}

func TestNetnsCookies(t *testing.T) {
	RequireRoot(t)
	a, err := NewNetns(t, "a").Cookie()
	if err != nil {
		t.Fatal(err)
	}
	b, err := NewNetns(t, "b").Cookie()
	if err != nil || a == 0 || a == b {
		t.Errorf("cookies %d and %d, %v", a, b, err)
	}
}

func TestNothingIsLeft(t *testing.T) {
	RequireRoot(t)
	home, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	var netnsPath, cgroupPath string
	var pids []int
	t.Run("made", func(t *testing.T) {
		p := newPair(t)
		group := NewCgroup(t, "")
		group.Child(t, "child")
		held := Start(t, ProcOptions{Netns: p.a.Netns, Cgroup: group})
		netnsPath, cgroupPath = p.a.Netns.Path, group.Path
		pids = []int{p.client.PID, p.server.PID, held.PID}
		held.Kill()
		if _, err := held.Bind("tcp4", "127.0.0.1:0"); err == nil {
			t.Error("a killed process binds")
		}
	})
	for _, path := range []string{netnsPath, cgroupPath, fmt.Sprintf("/proc/%d", pids[0]), fmt.Sprintf("/proc/%d", pids[1]), fmt.Sprintf("/proc/%d", pids[2])} {
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there (%v)", path, err)
		}
	}
	if now, err := os.Readlink("/proc/thread-self/ns/net"); err != nil || now != home {
		t.Errorf("the test is in %s, was in %s (%v)", now, home, err)
	}
}

func TestSnapshot(t *testing.T) {
	RequireRoot(t)
	n := NewNetns(t, "")
	dir := t.TempDir()
	ours := []string{"tb_snapshot"} // what else BPF lines hold is not this test's
	scope := Scope{Netns: []*Netns{n}, Dirs: []string{dir}, Ignore: func(line string) bool {
		kind, _, _ := strings.Cut(line, " ")
		return slices.Contains([]string{"program", "map", "link"}, kind) &&
			!slices.ContainsFunc(ours, func(s string) bool { return strings.HasSuffix(line, s) })
	}}
	before := Snapshot(t, scope)
	if diff := Diff(before, before); len(diff) != 0 {
		t.Errorf("nothing happened, and yet: %q", diff)
	}

	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "tb_snapshot", Type: ebpf.XDP, License: "Apache-2.0",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer prog.Close()
	info, err := prog.Info()
	if err != nil {
		t.Fatal(err)
	}
	id, _ := info.ID()
	ours = append(ours, fmt.Sprintf("of program %d", id))
	m, err := ebpf.NewMap(&ebpf.MapSpec{Name: "tb_snapshot", Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	dev, err := n.Netlink().LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	var xdp link.Link
	err = n.Do(func() error {
		var err error
		xdp, err = link.AttachXDP(link.XDPOptions{Program: prog, Interface: dev.Attrs().Index, Flags: link.XDPGenericMode})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer xdp.Close()
	qdisc := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: dev.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}
	if err := n.Netlink().QdiscAdd(qdisc); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/pin", nil, 0o600); err != nil {
		t.Fatal(err)
	}

	diff := Diff(before, Snapshot(t, scope))
	for _, want := range []string{
		"XDP tb_snapshot", "Array tb_snapshot", "xdp of program", "lo: xdp program", "lo: qdisc clsact", "file " + dir + "/pin",
	} {
		if !slices.ContainsFunc(diff, func(line string) bool {
			return strings.HasPrefix(line, "+ ") && strings.Contains(line, want)
		}) {
			t.Errorf("no %q in %q", want, diff)
		}
	}

	xdp.Close()
	prog.Close()
	m.Close()
	if err := n.Netlink().QdiscDel(qdisc); err != nil {
		t.Fatal(err)
	}
	os.Remove(dir + "/pin")
	RequireUnchanged(t, before, scope)
}

func TestSweep(t *testing.T) {
	RequireRoot(t)
	ended := exec.Command("/proc/self/exe", "-test.run=^$")
	if err := ended.Run(); err != nil {
		t.Fatal(err)
	}
	mount, err := cgroup2.Mount("self")
	if err != nil {
		t.Fatal(err)
	}
	mine, group := NewNetns(t, "mine"), NewCgroup(t, "mine")
	name := fmt.Sprintf("%s-%d-1-left", namePrefix, ended.Process.Pid)
	if err := onOwnThread(func() error {
		h, err := netns.NewNamed(name)
		if err == nil {
			h.Close()
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(mount, name, "child"), 0o755); err != nil {
		t.Fatal(err)
	}
	sweep()
	for _, path := range []string{filepath.Join(netnsDir, name), filepath.Join(mount, name)} {
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there (%v)", path, err)
		}
	}
	for _, path := range []string{mine.Path, group.Path} {
		if _, err := os.Stat(path); err != nil {
			t.Errorf("swept what is in use: %v", err)
		}
	}
	for _, name := range []string{"wfptest", "wfptest-x-1", "wfp-99999999-1", "docker-99999999-1"} {
		if abandoned(name) {
			t.Errorf("%s counts as ours", name)
		}
	}
}
