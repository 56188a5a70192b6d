// SPDX-License-Identifier: Apache-2.0

// Package live tests every layer that runs on its hook, with real sockets
// between two network namespaces: what a policy permits arrives, what it blocks
// does not, the event names the filter and its counter counts.
package live

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/wfpebpf/wfpebpf/loader"
	"github.com/wfpebpf/wfpebpf/policy"
	"github.com/wfpebpf/wfpebpf/tests/testbed"
)

func TestMain(m *testing.M) {
	testbed.RunChild()
	flag.Parse()
	flag.Set("test.parallel", "8") // they sleep, whatever the number of processors
	testbed.Main(m)
}

// bed is a filtered host and a peer that is not, joined by a veth pair. Both
// run in one cgroup: hooks that do not look at namespaces would filter both.
type bed struct {
	t                *testing.T
	host, peer       *testbed.Netns
	hostEnd, peerEnd testbed.End
	cgroup           *testbed.Cgroup
	engine           *loader.Engine
}

func newBed(t *testing.T) *bed {
	testbed.RequireRoot(t)
	t.Parallel() // most tests wait for what does not come
	return newBedAlone(t)
}

// newBedAlone is newBed for a test that wants the machine: it runs before the
// others.
func newBedAlone(t *testing.T) *bed {
	testbed.RequireRoot(t)
	b := &bed{t: t, host: testbed.NewNetns(t, "host"), peer: testbed.NewNetns(t, "peer"), cgroup: testbed.NewCgroup(t, "live")}
	b.hostEnd, b.peerEnd = testbed.Veth(t, b.host, b.peer, "h0", "p0", testbed.VethOptions{SecondAddresses: true})
	for _, e := range []testbed.End{b.hostEnd, b.peerEnd} {
		// the kernel takes the newest IPv6 address unless it is deprecated
		link, h := &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: e.Index}}, e.Netns.Netlink()
		second := func(bits int) *netlink.Addr {
			return &netlink.Addr{
				IPNet: &net.IPNet{IP: e.SecondV6.AsSlice(), Mask: net.CIDRMask(bits, 128)}, ValidLft: 3600, Flags: unix.IFA_F_NODAD,
			}
		}
		if err := errors.Join(h.AddrDel(link, second(64)), h.AddrAdd(link, second(128))); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

// secondLink joins the two by another veth pair, h1 and p1.
func (b *bed) secondLink() (host, peer testbed.End) {
	b.t.Helper()
	return testbed.Veth(b.t, b.host, b.peer, "h1", "p1", testbed.VethOptions{Subnet: 1})
}

func (b *bed) target() loader.Target {
	return loader.Target{Netns: b.host.Name, Cgroup: b.cgroup.Rel}
}

// apply commits a YAML policy.
func (b *bed) apply(yaml string) {
	b.t.Helper()
	b.commit(b.load(yaml, nil))
}

func (b *bed) load(yaml string, m *policy.Map) *policy.Policy {
	b.t.Helper()
	p, err := policy.LoadReader("policy.yaml", strings.NewReader("wfpebpf: 1\n"+yaml), policy.Options{Map: m})
	if err != nil {
		b.t.Fatal(err)
	}
	for _, e := range p.Entries {
		if e.State == policy.StateRefused {
			b.t.Fatalf("filter %q is refused: %s", e.Filter.Name, e.Reason)
		}
	}
	return p
}

// openEngine opens the bed's instance; it goes when the test ends.
func (b *bed) openEngine(opts loader.Options) {
	b.t.Helper()
	if b.engine == nil {
		e, err := loader.Open(opts)
		if err != nil {
			b.t.Fatal(err)
		}
		b.engine = e
		b.t.Cleanup(func() {
			if err := e.Down(); err != nil {
				b.t.Errorf("down: %v", err)
			}
			e.Close()
		})
	}
}

func (b *bed) commit(p *policy.Policy) {
	b.t.Helper()
	b.openEngine(loader.Options{Target: b.target()})
	if err := b.engine.Commit(context.Background(), p); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bed) on(n *testbed.Netns, opt testbed.ProcOptions) *testbed.Proc {
	opt.Netns = n
	if opt.Cgroup == nil {
		opt.Cgroup = b.cgroup
	}
	return testbed.Start(b.t, opt)
}

// events reads the events there are, without their metadata.
func (b *bed) events() []loader.Event {
	b.t.Helper()
	list := b.wholeEvents()
	for i := range list {
		list[i].Metadata = nil
	}
	return list
}

func (b *bed) wholeEvents() []loader.Event {
	b.t.Helper()
	var list []loader.Event
	err := b.engine.Events(context.Background(), false, false, func(e loader.Event) error {
		list = append(list, e)
		return nil
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return list
}

// wantBlock asserts that an event tells of a block by a filter.
func (b *bed) wantBlock(layer, filter string) loader.Event {
	b.t.Helper()
	list := b.events()
	i := slices.IndexFunc(list, func(e loader.Event) bool {
		return e.Layer == layer && e.FilterName == filter && e.Action == "block"
	})
	if i < 0 {
		b.t.Fatalf("no event of a block by %q at %s among %+v", filter, layer, list)
	}
	return list[i]
}

// hits is the decisions that a filter made at a layer.
func (b *bed) hits(layer, filter string) uint64 {
	b.t.Helper()
	rows, err := b.engine.Filters()
	if err != nil {
		b.t.Fatal(err)
	}
	for _, r := range rows {
		if r.Name == filter && r.Layer == layer {
			return r.Hits
		}
	}
	b.t.Fatalf("no filter %q at %s", filter, layer)
	return 0
}

func (b *bed) wantHits(layer, filter string) {
	b.t.Helper()
	if b.hits(layer, filter) == 0 {
		b.t.Errorf("filter %q at %s decided nothing by its counter", filter, layer)
	}
}

func (b *bed) state() loader.State {
	b.t.Helper()
	s, err := b.engine.State()
	if err != nil {
		b.t.Fatal(err)
	}
	return s
}

// outcome is what a program sees of an attempt.
type outcome struct {
	text  string
	check func(error) bool
	limit time.Duration // to wait for an answer
}

// soon is how long a test waits for what must not come.
const soon = 300 * time.Millisecond

var (
	passes  = outcome{"success", func(err error) bool { return err == nil }, testbed.DefaultTimeout}
	dropped = outcome{"no answer", func(err error) bool { return errors.Is(err, testbed.ErrTimeout) }, soon}
	denied  = failsWith(unix.EACCES)
	// what a socket call says of its datagram that was dropped on the way out
	refused = failsWith(unix.EPERM)
)

func failsWith(errno unix.Errno) outcome {
	return outcome{errno.Error(), func(err error) bool { return testbed.Errno(err) == errno }, testbed.DefaultTimeout}
}

func (o outcome) want(t *testing.T, err error) {
	t.Helper()
	if !o.check(err) {
		t.Errorf("got %v, want %s", err, o.text)
	}
}

// family is one address family's view of the bed.
type family struct {
	name       string // v4, v6
	layer      string // suffix
	tcp, udp   string
	host, peer string
	// the second addresses of the two ends
	hostSecond, peerSecond string
	loopback, any          string
}

func (b *bed) families() []family {
	h, p := b.hostEnd, b.peerEnd
	return []family{
		{"v4", "V4", "tcp4", "udp4", h.V4.String(), p.V4.String(), h.SecondV4.String(), p.SecondV4.String(), "127.0.0.1", "0.0.0.0"},
		{"v6", "V6", "tcp6", "udp6", v6(h.V6), v6(p.V6), v6(h.SecondV6), v6(p.SecondV6), "[::1]", "[::]"},
	}
}

func v6(a netip.Addr) string { return "[" + a.String() + "]" }

func at(host string, port int) string { return fmt.Sprintf("%s:%d", host, port) }

// both names the V4 and the V6 layer.
func both(layer string) string { return "[" + layer + "_V4, " + layer + "_V6]" }

// rule is one filter in YAML.
func rule(action, name, layers string, weight int, conditions ...string) string {
	return fmt.Sprintf("  - {name: %s, layer: %s, action: %s, weight: %d, conditions: [%s]}\n",
		name, layers, action, weight, strings.Join(conditions, ", "))
}

// blocks is a policy that blocks what meets the conditions and permits the
// rest; permits is the reverse.
func blocks(layers string, conditions ...string) string {
	return "filters:\n" + rule("BLOCK", "Block it", layers, 8, conditions...) + rule("PERMIT", "Permit the rest", layers, 0)
}

func permits(layers string, conditions ...string) string {
	return "filters:\n" + rule("PERMIT", "Permit it", layers, 8, conditions...) + rule("BLOCK", "Block the rest", layers, 0)
}

// call is one attempt of a client to reach a server.
type call struct {
	name     string
	tcp      bool
	mptcp    testbed.MPTCP
	port     int
	from, to func(family) string // addresses; from is nil where the kernel chooses
	source   int                 // port; 0: any
}

func hostFirst(f family) string  { return f.host }
func hostSecond(f family) string { return f.hostSecond }
func peerFirst(f family) string  { return f.peer }
func peerSecond(f family) string { return f.peerSecond }
func onLoopback(f family) string { return f.loopback }

// Calls go from the peer's first address to the host's first.
func tcp(port int) call   { return call{"TCP", true, testbed.MPTCPOff, port, peerFirst, hostFirst, 0} }
func mptcp(port int) call { return call{"MPTCP", true, testbed.MPTCPOn, port, peerFirst, hostFirst, 0} }
func udp(port int) call   { return call{"UDP", false, 0, port, peerFirst, hostFirst, 0} }

func (c call) fromPeerSecond() call {
	c.from = peerSecond
	c.name += " from the second address"
	return c
}

func (c call) toHostSecond() call {
	c.to = hostSecond
	c.name += " to the second address"
	return c
}

// onHost makes it a call of the host to itself.
func (c call) onHost(to func(family) string) call {
	c.from, c.to = nil, to
	return c
}

func (c call) fromPort(port int) call {
	c.source = port
	c.name += fmt.Sprintf(" from port %d", port)
	return c
}

// want makes the call; the server echoes.
func (c call) want(t *testing.T, client *testbed.Proc, f family, o outcome) {
	t.Helper()
	o.want(t, c.make(client, f, o.limit))
}

func (c call) make(client *testbed.Proc, f family, limit time.Duration) error {
	opt := testbed.Options{Timeout: limit, MPTCP: c.mptcp}
	if c.from != nil {
		opt.Local = at(c.from(f), c.source)
	}
	if c.tcp {
		return client.Connect(f.tcp, at(c.to(f), c.port), opt)
	}
	return client.UDPExchange(f.udp, at(c.to(f), c.port), "hello", opt)
}

func (c call) String() string { return fmt.Sprintf("%s to port %d", c.name, c.port) }

// each makes calls at once, as most wait for what must not come, and asserts
// the same of each.
func each(t *testing.T, client *testbed.Proc, f family, calls []call, o outcome) {
	t.Helper()
	errs := make([]error, len(calls))
	var wg sync.WaitGroup
	for i, c := range calls {
		wg.Go(func() { errs[i] = c.make(client, f, o.limit) })
	}
	wg.Wait()
	for i, c := range calls {
		t.Run(c.String(), func(t *testing.T) { t.Helper(); o.want(t, errs[i]) })
	}
}

// listen opens echo servers for TCP (MPTCP, as Go does) and UDP at a port of
// all addresses of both families.
func (b *bed) listen(p *testbed.Proc, ports ...int) {
	b.t.Helper()
	for _, f := range b.families() {
		for _, port := range ports {
			for _, network := range []string{f.tcp, f.udp} {
				if _, err := p.Listen(network, at(f.any, port), testbed.Options{V6Only: f.name == "v6"}); err != nil {
					b.t.Fatal(err)
				}
			}
		}
	}
}

// listenTCP is listen for TCP that is not MPTCP.
func (b *bed) listenTCP(p *testbed.Proc, ports ...int) {
	b.t.Helper()
	for _, f := range b.families() {
		for _, port := range ports {
			if _, err := p.Listen(f.tcp, at(f.any, port), testbed.Options{V6Only: f.name == "v6", MPTCP: testbed.MPTCPOff}); err != nil {
				b.t.Fatal(err)
			}
		}
	}
}
