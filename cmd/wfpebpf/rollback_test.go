// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/wfpebpf/wfpebpf/loader"
)

// fakeCommit stands in for an instance with a commit that may wait.
type fakeCommit struct {
	waits      func(look int) bool
	generation uint64
	failures   int // of the next attempts to take it back

	looks, takenBack, open int
}

func (f *fakeCommit) Unconfirmed() bool           { f.looks++; return f.waits == nil || f.waits(f.looks) }
func (f *fakeCommit) Generation() (uint64, error) { return f.generation, nil }
func (f *fakeCommit) Close() error                { f.open--; return nil }
func (f *fakeCommit) RollbackUnconfirmed(uint64) error {
	if f.failures > 0 {
		f.failures--
		return loader.ErrBusy
	}
	f.takenBack++
	return nil
}

// over is the state of a pipe whose other end is closed.
func over() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

func TestRollback(t *testing.T) {
	const generation = 5
	for _, tc := range []struct {
		name      string
		commit    fakeCommit
		takenBack bool
	}{
		{"nobody confirms", fakeCommit{generation: generation}, true},
		{"confirmed at once", fakeCommit{generation: generation, waits: func(int) bool { return false }}, false},
		{"confirmed later", fakeCommit{generation: generation, waits: func(look int) bool { return look < 2 }}, false},
		{"another process was faster", fakeCommit{generation: generation + 1}, true},
		{"the commit was never made", fakeCommit{generation: generation - 1}, false},
		{"busy at first", fakeCommit{generation: generation, failures: 2}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := &tc.commit
			opened := 0
			find := func() (unconfirmed, error) {
				if opened++; opened == 1 {
					return nil, loader.ErrBusy
				}
				f.open++
				return f, nil
			}
			r := rollback{find: find, committing: over(), first: generation, after: 2 * pollInterval, patience: time.Minute}
			back, err := r.run()
			if err != nil || back != tc.takenBack || (f.takenBack == 1) != tc.takenBack || f.takenBack > 1 {
				t.Errorf("taken back %t (%d times), error %v; want %t", back, f.takenBack, err, tc.takenBack)
			}
			if f.open != 0 {
				t.Errorf("%d handles left open", f.open)
			}
		})
	}
}

// While apply is about to commit there is nothing to take back, and no time runs.
func TestRollbackWaitsForTheCommit(t *testing.T) {
	const after = pollInterval
	f := &fakeCommit{generation: 4}
	committing := make(chan struct{})
	var inForce time.Time
	opened := 0
	find := func() (unconfirmed, error) {
		if opened++; opened == 4 {
			f.generation, inForce = 5, time.Now()
			close(committing)
		}
		return f, nil
	}
	r := rollback{find: find, committing: committing, first: 5, after: after, patience: time.Minute}
	back, err := r.run()
	if !back || err != nil {
		t.Fatalf("taken back %t, error %v", back, err)
	}
	if counted := time.Since(inForce); counted < after {
		t.Errorf("taken back after %s in force, want %s", counted, after)
	}
}

func TestARemovedCommitIsNotTakenBack(t *testing.T) {
	r := rollback{find: func() (unconfirmed, error) { return nil, loader.ErrNotApplied }, committing: over(), first: 1, patience: time.Minute}
	if back, err := r.run(); back || err != nil {
		t.Errorf("taken back %t, error %v", back, err)
	}
}

func TestRollbackGivesUp(t *testing.T) {
	failed := errors.New("gone")
	r := rollback{find: func() (unconfirmed, error) { return nil, failed }, committing: over(), first: 1}
	if back, err := r.run(); back || !errors.Is(err, failed) {
		t.Errorf("taken back %t, error %v", back, err)
	}
}

func TestOutcomeOfTheWait(t *testing.T) {
	exit := func(code string) error { return exec.Command("sh", "-c", "exit "+code).Run() }
	for _, tc := range []struct {
		name string
		err  error
		want string
	}{
		{"kept", nil, ""},
		{"taken back", exit("3"), "not confirmed within 30s"},
		{"the process failed", exit("1"), "stays in force, unconfirmed"},
	} {
		var progress bytes.Buffer
		err := outcome(tc.err, 30*time.Second, &progress)
		if tc.want == "" && (err != nil || progress.String() != "kept\n") || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: %v, %q", tc.name, err, progress.String())
		}
	}
}

func TestRollbackArgs(t *testing.T) {
	got, err := rollbackArgs(loader.Target{Netns: "/run/../run/netns/lab", Cgroup: "/a"}, 7, 30*time.Second)
	want := []string{"rollback-after", "30s", "--generation", "7", "--netns", "/run/netns/lab", "--cgroup", "/a"}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	root, _ := newRoot()
	if cmd, _, err := root.Find(got); err != nil || cmd.Name() != "rollback-after" || !cmd.Hidden {
		t.Errorf("the arguments lead to %v, %v", cmd, err)
	}
}
