// SPDX-License-Identifier: Apache-2.0

// Package live tests every layer that runs on its hook, with real sockets
// between two network namespaces: what a policy permits arrives, what it blocks
// does not, the event names the filter and its counter counts.
package live

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wfpebpf/wfpebpf/loader"
	"github.com/wfpebpf/wfpebpf/policy"
	"github.com/wfpebpf/wfpebpf/tests/testbed"
)

func TestMain(m *testing.M) { testbed.Main(m) }

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
	b := &bed{t: t, host: testbed.NewNetns(t, "host"), peer: testbed.NewNetns(t, "peer"), cgroup: testbed.NewCgroup(t, "live")}
	b.hostEnd, b.peerEnd = testbed.Veth(t, b.host, b.peer, "h0", "p0")
	return b
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

func (b *bed) commit(p *policy.Policy) {
	b.t.Helper()
	if b.engine == nil {
		e, err := loader.Open(loader.Options{Target: b.target()})
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

// events reads the events there are.
func (b *bed) events() []loader.Event {
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

func wantErrno(t *testing.T, err error, want unix.Errno) {
	t.Helper()
	if testbed.Errno(err) != want {
		t.Errorf("got %v, want %v", err, want)
	}
}

func wantOK(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Errorf("got %v, want success", err)
	}
}

func wantTimeout(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, testbed.ErrTimeout) {
		t.Errorf("got %v, want no answer", err)
	}
}

// soon is how long a test waits for what must not come.
const soon = 700 * time.Millisecond

func quick() testbed.Options { return testbed.Options{Timeout: soon} }

// family is one address family's view of the bed.
type family struct {
	name       string // v4, v6
	layer      string // suffix
	tcp, udp   string
	host, peer string
	loopback   string
}

func (b *bed) families() []family {
	return []family{
		{"v4", "V4", "tcp4", "udp4", b.hostEnd.V4.String(), b.peerEnd.V4.String(), "127.0.0.1"},
		{"v6", "V6", "tcp6", "udp6", "[" + b.hostEnd.V6.String() + "]", "[" + b.peerEnd.V6.String() + "]", "[::1]"},
	}
}

func at(host string, port int) string { return fmt.Sprintf("%s:%d", host, port) }
