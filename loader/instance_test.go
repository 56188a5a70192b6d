// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/wfpebpf/wfpebpf/bpf"
	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
	"github.com/wfpebpf/wfpebpf/policy"
	"github.com/wfpebpf/wfpebpf/tests/testbed"
)

func TestMain(m *testing.M) { testbed.Main(m) }

// engineFor opens an engine on a target; what it made goes when the test ends.
func engineFor(t *testing.T, target Target) *Engine {
	t.Helper()
	e, err := Open(Options{Target: target})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Down(); err != nil {
			t.Errorf("down: %v", err)
		}
		e.Close()
	})
	return e
}

func newTarget(t *testing.T) Target {
	testbed.RequireRoot(t)
	return Target{Netns: testbed.NewNetns(t, "host").Path, Cgroup: testbed.NewCgroup(t, "loader").Rel}
}

// blockPort is a policy with one filter.
func blockPort(t *testing.T, name string) *policy.Policy {
	t.Helper()
	s := filter.NewStore()
	if err := s.AddFilter(&filter.Filter{
		Name: name, Layer: layermap.ALEAuthConnectV4, Action: filter.ActionBlock,
		Conditions: []filter.Condition{{Field: "IP_REMOTE_PORT", Value: filter.U16(8081)}},
	}); err != nil {
		t.Fatal(err)
	}
	return &policy.Policy{Store: s}
}

func wantInForce(t *testing.T, target Target, name string, generation uint64) {
	t.Helper()
	e, err := Find(target)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	rows, err := e.Filters()
	if err != nil || len(rows) != 1 || rows[0].Name != name {
		t.Errorf("in force: %+v, %v; want the filter %q", rows, err, name)
	}
	hooks, err := e.Hooks()
	if err != nil || len(hooks) == 0 {
		t.Errorf("hooks %v, %v", hooks, err)
	}
	if g, err := e.Generation(); err != nil || g != generation {
		t.Errorf("generation %d, %v; want %d", g, err, generation)
	}
}

// Who opened a target before another process made its instance, or took it down
// and made it anew, changes the instance that there is.
func TestEngineFollowsOtherProcesses(t *testing.T) {
	target := newTarget(t)
	a, b := engineFor(t, target), engineFor(t, target)
	commit := func(e *Engine, name string) {
		t.Helper()
		if err := e.Commit(context.Background(), blockPort(t, name)); err != nil {
			t.Fatal(err)
		}
	}
	commit(a, "first")
	commit(b, "second")
	wantInForce(t, target, "second", 2)
	if err := a.Down(); err != nil {
		t.Fatal(err)
	}
	commit(a, "third")
	if waited, err := b.Confirm(); waited || err != nil {
		t.Errorf("confirm: %t, %v", waited, err)
	}
	commit(b, "fourth")
	wantInForce(t, target, "fourth", 2)
}

// endsLater is a context that is over once it was asked some times: the second
// time a commit asks, all is attached.
type endsLater struct {
	context.Context
	times int
}

func (c *endsLater) Err() error {
	c.times--
	if c.times < 0 {
		return context.Canceled
	}
	return nil
}

// A failed commit changes nothing, of another process neither.
func TestEngineFailedCommit(t *testing.T) {
	target := newTarget(t)
	a, b := engineFor(t, target), engineFor(t, target)
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	for times := range 2 {
		if err := a.Commit(&endsLater{ended, times}, blockPort(t, "never")); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if exists(a.in.run) || exists(a.in.pins) {
			t.Error("a first commit that failed left something behind")
		}
	}
	if err := a.Commit(context.Background(), blockPort(t, "first")); err != nil {
		t.Fatal(err)
	}
	b.in.info.Interfaces = []string{"lo"}
	for times := range 2 {
		if err := b.Commit(&endsLater{ended, times}, blockPort(t, "never")); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		wantInForce(t, target, "first", 1)
		if err := a.in.load(); err != nil || len(a.in.info.Interfaces) != 0 {
			t.Errorf("links after a commit that failed: %q, %v", a.in.info.Interfaces, err)
		}
	}
	// nor where somebody cleaned up under /run
	if err := os.Remove(a.in.recordPath(1)); err != nil {
		t.Fatal(err)
	}
	if err := b.Commit(ended, blockPort(t, "never")); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if err := b.Commit(context.Background(), blockPort(t, "second")); err != nil {
		t.Fatal(err)
	}
	wantInForce(t, target, "second", 2)
}

// What comes after down does nothing, and leaves nothing behind.
func TestEngineAfterDown(t *testing.T) {
	target := newTarget(t)
	a, b := engineFor(t, target), engineFor(t, target)
	if err := a.Commit(context.Background(), blockPort(t, "first")); err != nil {
		t.Fatal(err)
	}
	if err := b.Commit(context.Background(), blockPort(t, "second")); err != nil {
		t.Fatal(err)
	}
	if err := a.Down(); err != nil {
		t.Fatal(err)
	}
	for name, call := range map[string]func() error{
		"Watch":               func() error { return b.Watch(context.Background(), func(string) {}) },
		"Confirm":             func() error { _, err := b.Confirm(); return err },
		"RollbackUnconfirmed": func() error { return b.RollbackUnconfirmed(2) },
		"AttachLink":          func() error { return b.AttachLink("lo") },
		"Events":              func() error { return b.Events(context.Background(), false, false, nil) },
	} {
		if err := call(); !errors.Is(err, ErrNotApplied) {
			t.Errorf("%s: %v", name, err)
		}
		if exists(b.in.run) || exists(b.in.pins) {
			t.Fatalf("%s left something behind", name)
		}
	}
}

// What fails after the policy is in force takes nothing back.
func TestEngineInForceButUntidy(t *testing.T) {
	target := newTarget(t)
	e := engineFor(t, target)
	links := filepath.Join(e.in.pins, "links")
	if err := errors.Join(ensureBPFFS(), makeDir(links)); err != nil {
		t.Fatal(err)
	}
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := m.Pin(filepath.Join(links, "no_link")); err != nil {
		t.Fatal(err)
	}
	inForce := (*InForceError)(nil)
	if err := e.Commit(context.Background(), blockPort(t, "first")); !errors.As(err, &inForce) {
		t.Errorf("commit beside what is no link: %v", err)
	}
	wantInForce(t, target, "first", 1)
}

// The judge gives numbers to identities as the commit in force does.
func TestJudgeFollowsCommits(t *testing.T) {
	target := newTarget(t)
	e, other := engineFor(t, target), engineFor(t, target)
	l := layermap.ByID(layermap.ALEAuthConnectV4)
	app := func(path string) filter.Values {
		values := make(filter.Values, len(l.Fields))
		values[l.FieldIndex("ALE_APP_ID")] = filter.Blob([]byte(path))
		return values
	}
	policies := [][]string{{"/b"}, {"/a", "/b"}, {"/b"}, {"/a", "/b"}} // /b is number 1, 2, 1, 2
	for _, blocked := range policies {
		s := filter.NewStore()
		for _, path := range blocked {
			if err := s.AddFilter(&filter.Filter{
				Name: path, Layer: l.ID, Action: filter.ActionBlock,
				Conditions: []filter.Condition{{Field: "ALE_APP_ID", Value: filter.Blob([]byte(path))}},
			}); err != nil {
				t.Fatal(err)
			}
		}
		p := &policy.Policy{Store: s}
		if err := other.Commit(context.Background(), p); err != nil {
			t.Fatal(err)
		}
		if err := e.followPins(); err != nil {
			t.Fatal(err)
		}
		values := []filter.Values{app("/b"), app("/a"), app("/c")}
		verdicts, err := e.Judge(l.ID, values)
		if err != nil {
			t.Fatal(err)
		}
		for i, v := range values {
			want := filter.Arbitrate(s, l.ID, v, nil)
			if verdicts[i].Action != want.Action || want.Filter != nil && verdicts[i].Filter != want.Filter.ID {
				t.Errorf("blocked %q, case %d: %+v, want %+v", blocked, i, verdicts[i], want)
			}
		}
	}
}

// What somebody detached is told of, and comes back with the next commit.
func TestEngineAttachesAnew(t *testing.T) {
	target := newTarget(t)
	e := engineFor(t, target)
	if err := e.Commit(context.Background(), blockPort(t, "first")); err != nil {
		t.Fatal(err)
	}
	l, err := link.LoadPinnedLink(filepath.Join(e.in.pins, "links", "connect4"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := l.Detach(); err != nil {
		t.Fatal(err)
	}
	state, err := e.State()
	if err != nil || !slices.Contains(state.Stale, "connect4 is not attached") {
		t.Errorf("stale: %q, %v", state.Stale, err)
	}
	if err := e.Commit(context.Background(), blockPort(t, "second")); err != nil {
		t.Fatal(err)
	}
	if state, err = e.State(); err != nil || len(state.Stale) != 0 {
		t.Errorf("stale: %q, %v", state.Stale, err)
	}
}

// Who asks the judge at the same time gets the verdicts on his own questions.
func TestJudgeAskedTwiceAtOnce(t *testing.T) {
	target := newTarget(t)
	if err := engineFor(t, target).Commit(context.Background(), blockPort(t, "8081")); err != nil {
		t.Fatal(err)
	}
	l := layermap.ByID(layermap.ALEAuthConnectV4)
	var group sync.WaitGroup
	defer group.Wait()
	for port, want := range map[uint16]filter.Action{8081: filter.ActionBlock, 8080: filter.ActionNoneNoMatch} {
		e, err := Find(target)
		if err != nil {
			t.Fatal(err)
		}
		defer e.Close()
		values := make([]filter.Values, bpf.JudgeCases)
		for i := range values {
			values[i] = make(filter.Values, len(l.Fields))
			values[i][l.FieldIndex("IP_REMOTE_PORT")] = filter.U16(port)
		}
		group.Go(func() {
			for range 50 {
				verdicts, err := e.Judge(l.ID, values)
				if err != nil {
					t.Error(err)
					return
				}
				for _, v := range verdicts {
					if v.Action != want {
						t.Errorf("port %d: %v, want %v", port, v.Action, want)
						return
					}
				}
			}
		})
	}
	group.Wait()
}

// An instance whose record nobody can read is in force and goes down as others.
func TestDownWithoutRecord(t *testing.T) {
	for _, damage := range []struct {
		name string
		do   func(run string) error
	}{
		{"damaged", func(run string) error {
			return os.WriteFile(filepath.Join(run, "instance.json"), []byte("{"), 0o600)
		}},
		{"lost", os.RemoveAll},
	} {
		t.Run(damage.name, func(t *testing.T) {
			e := engineFor(t, newTarget(t))
			if err := e.Commit(context.Background(), blockPort(t, "Block")); err != nil {
				t.Fatal(err)
			}
			name := filepath.Base(e.in.run)
			if err := damage.do(e.in.run); err != nil {
				t.Fatal(err)
			}
			if names, err := e.in.attached(); err != nil || len(names) == 0 {
				t.Fatalf("attachments %v, %v", names, err)
			}
			if err := downNamed(name); err != nil {
				t.Fatal(err)
			}
			if exists(e.in.pins) || exists(e.in.run) {
				t.Error("something is left")
			}
		})
	}
	if err := downNamed("strange"); err == nil {
		t.Error("what is no instance went down")
	}
}
