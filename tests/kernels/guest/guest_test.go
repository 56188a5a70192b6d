// SPDX-License-Identifier: Apache-2.0

//go:build guest

// Package guest runs in a machine of package vm, never on one that anybody
// else uses: wfpebpf is told neither a namespace nor a cgroup here, and filters
// everything.
package guest

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/wfpebpf/wfpebpf/tests/kernels"
	"github.com/wfpebpf/wfpebpf/tests/testbed"
)

func TestMain(m *testing.M) {
	// the name that package vm gives its machines
	if name, err := os.Hostname(); err != nil || name != "vm" || os.Getpid() != 1 && os.Getppid() != 1 {
		fmt.Fprintln(os.Stderr, "only for machines of tests/vm")
		os.Exit(2)
	}
	if os.Getpid() == 1 {
		err := activate(os.Args[1])
		fmt.Fprintln(os.Stderr, "process 1:", err)
		os.Exit(2)
	}
	testbed.Main(m)
}

func TestPrograms(t *testing.T) {
	counts, err := kernels.Verified()
	if err != nil {
		t.Fatal(err)
	}
	fmt.Print(kernels.Lines(counts))
}

// TestLayers says what the kernel can carry; package kernels compares it.
func TestLayers(t *testing.T) {
	fmt.Print(kernels.LayerLines())
}

const policy = `
wfpebpf: 1
filters:
  - name: Block 8081 out
    layer: [ALE_AUTH_CONNECT_V4, ALE_AUTH_CONNECT_V6]
    action: BLOCK
    conditions: [{IP_REMOTE_PORT: 8081}]
  - name: Block a peer's packets
    layer: [INBOUND_IPPACKET_V4, OUTBOUND_IPPACKET_V4]
    action: BLOCK
    conditions: [{IP_REMOTE_ADDRESS: 10.99.0.2}]
  - name: Block a port's packets
    layer: INBOUND_TRANSPORT_V4
    action: BLOCK
    conditions: [{IP_LOCAL_PORT: 8083}]
  - name: Block strange frames
    layer: INBOUND_MAC_FRAME_ETHERNET
    action: BLOCK
    conditions: [{ETHER_TYPE: 0x88b5}]
`

// TestDefaults runs wfpebpf without --netns, --cgroup and --iface: all links
// and all sockets of the machine.
func TestDefaults(t *testing.T) {
	addVeth(t)
	for _, port := range []string{"8080", "8081"} {
		for _, host := range []string{"127.0.0.1", "::1"} {
			l, err := net.Listen("tcp", net.JoinHostPort(host, port))
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
		}
	}
	before := testbed.Snapshot(t, scope)

	requireConnects(t, nil)
	file := t.TempDir() + "/policy.yaml"
	if err := os.WriteFile(file, []byte(policy), 0o600); err != nil {
		t.Fatal(err)
	}
	report := wfpebpf(t, "apply", file)
	requireConnects(t, unix.EACCES)
	requireHooks(t)
	requireTransport(t, string(report))
	requireHits(t, "Block 8081 out")

	wfpebpf(t, "down")
	requireConnects(t, nil)
	requireNothingNew(t, before)
	if slices.Contains(qdiscs(t), "clsact") {
		t.Error("a clsact qdisc is left")
	}
}

var scope = testbed.Scope{Dirs: []string{"/sys/fs/bpf", "/run/wfpebpf"}}

// requireNothingNew waits until nothing exists that did not before. What goes
// away meanwhile is of tests before: the kernel takes its time to free it.
func requireNothingNew(t *testing.T, before testbed.State) {
	t.Helper()
	var added []string
	for range 50 {
		added = slices.DeleteFunc(testbed.Diff(before, testbed.Snapshot(t, scope)), func(line string) bool {
			return !strings.HasPrefix(line, "+")
		})
		if len(added) == 0 {
			return
		}
		time.Sleep(200 * time.Millisecond)
	}
	t.Errorf("down has left:\n%s", strings.Join(added, "\n"))
}

func addVeth(t *testing.T) {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "veth0"
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "veth1"}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"veth0", "veth1"} {
		l, err := netlink.LinkByName(name)
		if err == nil {
			err = netlink.LinkSetUp(l)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func wfpebpf(t *testing.T, args ...string) []byte {
	t.Helper()
	cmd := exec.Command("/wfpebpf", args...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	t.Logf("wfpebpf %s\n%s%s", strings.Join(args, " "), out, stderr.String())
	if err != nil {
		t.Fatalf("wfpebpf %s: %v", strings.Join(args, " "), err)
	}
	return out
}

// requireConnects connects to a port that is never blocked, and to one that
// gives want while the policy is in force.
func requireConnects(t *testing.T, want error) {
	t.Helper()
	for _, host := range []string{"127.0.0.1", "::1"} {
		for _, port := range []string{"8080", "8081"} {
			expect := want
			if port == "8080" {
				expect = nil
			}
			c, err := net.DialTimeout("tcp", net.JoinHostPort(host, port), 10*time.Second)
			if !errors.Is(err, expect) {
				t.Errorf("connect to %s port %s: %v, want %v", host, port, err, expect)
			}
			if err == nil {
				c.Close()
			}
		}
	}
}

// requireHooks sees the programs on a link that nobody named, by the means that
// the kernel has.
func requireHooks(t *testing.T) {
	t.Helper()
	l, err := netlink.LinkByName("veth0")
	if err != nil {
		t.Fatal(err)
	}
	release, err := kernels.Release()
	if err != nil {
		t.Fatal(err)
	}
	clsact := slices.Contains(qdiscs(t), "clsact")
	if release == "6.1" {
		if !clsact {
			t.Error("no clsact qdisc on veth0")
		}
		return
	}
	if clsact {
		t.Error("clsact where the kernel has tcx")
	}
	for _, at := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
		got, err := link.QueryPrograms(link.QueryOptions{Target: l.Attrs().Index, Attach: at})
		if err != nil || len(got.Programs) != 1 {
			t.Errorf("%v on veth0: %+v, %v, want one program", at, got, err)
		}
	}
}

// requireTransport sees filters at a transport layer in force, or, where the
// kernel has no BPF links at netfilter's hooks (6.4), refused by name.
func requireTransport(t *testing.T, report string) {
	t.Helper()
	release, err := kernels.Release()
	if err != nil {
		t.Fatal(err)
	}
	const note = "layer INBOUND_TRANSPORT_V4 is not available: this kernel refuses local_in4"
	text := strings.Join(strings.Fields(report), " ") // the report breaks lines
	if refused := strings.Contains(text, note); refused != (release == "6.1") {
		t.Errorf("refused: %t by the report\n%s", refused, report)
	}
	hooked := strings.Contains(string(wfpebpf(t, "show", "hooks")), "local_in4")
	if hooked != (release != "6.1") {
		t.Errorf("hooked at LOCAL_IN: %t", hooked)
	}
}

// qdiscs is the kinds of qdiscs on veth0.
func qdiscs(t *testing.T) []string {
	t.Helper()
	l, err := netlink.LinkByName("veth0")
	if err != nil {
		t.Fatal(err)
	}
	list, err := netlink.QdiscList(l)
	if err != nil {
		t.Fatal(err)
	}
	var kinds []string
	for _, q := range list {
		kinds = append(kinds, q.Type())
	}
	return kinds
}

func requireHits(t *testing.T, name string) {
	t.Helper()
	var rows []struct {
		Name string
		Hits uint64
	}
	if err := json.Unmarshal(wfpebpf(t, "show", "filters", "--json"), &rows); err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, r := range rows {
		if r.Name == name && r.Hits > 0 {
			found++
		}
	}
	if found != 2 {
		t.Errorf("%d filters %q with hits, want one of each family: %+v", found, name, rows)
	}
}
