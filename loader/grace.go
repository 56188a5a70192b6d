// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"sync"

	"github.com/cilium/ebpf"
)

// grace waits until every program that was running has ended, which takes the kernel
// some ten milliseconds. A commit that leaves the tables before as they are goes on
// meanwhile; one that is about to overwrite tables waits for it.
type grace struct {
	mu           sync.Mutex
	done         sync.Cond // settled, or err, has changed
	outer, inner *ebpf.Map // the kernel waits when the entry is replaced; made when needed
	stored       uint64    // the last commit that was put in force
	settled      uint64    // no program goes by tables of a commit before this one
	running      bool
	err          error
}

func newGrace() *grace {
	g := &grace{}
	g.done.L = &g.mu
	return g
}

// begin takes note that a commit is in force, and waits beside the caller for the
// programs that may not know of it yet.
func (g *grace) begin(commit uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.stored = max(g.stored, commit)
	if !g.running && g.settled < g.stored {
		g.running = true
		go g.run()
	}
}

func (g *grace) run() {
	for {
		g.mu.Lock()
		commit := g.stored
		if g.settled >= commit || g.err != nil {
			g.running = false
			g.done.Broadcast()
			g.mu.Unlock()
			return
		}
		err := g.open()
		g.mu.Unlock()
		if err == nil {
			err = g.outer.Put(uint32(0), g.inner)
		}
		g.mu.Lock()
		g.err = err
		if err == nil {
			g.settled = commit
		}
		g.done.Broadcast()
		g.mu.Unlock()
	}
}

// open makes the maps.
func (g *grace) open() (err error) {
	if g.outer != nil {
		return nil
	}
	spec := &ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1}
	if g.inner, err = ebpf.NewMap(spec); err != nil {
		return err
	}
	g.outer, err = ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.ArrayOfMaps, KeySize: 4, ValueSize: 4, MaxEntries: 1, InnerMap: spec})
	return err
}

// since returns when no program goes by tables of a commit before one that is, or
// was, in force.
func (g *grace) since(commit uint64) error {
	g.begin(commit)
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.settled < commit && g.err == nil {
		g.done.Wait()
	}
	err := g.err
	g.err = nil // who asks again tries again
	return err
}

// now returns when every program has ended that was running when it was called.
func (g *grace) now() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.open(); err != nil {
		return err
	}
	return g.outer.Put(uint32(0), g.inner)
}

// reset forgets what was known of an instance.
func (g *grace) reset() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.running {
		g.done.Wait()
	}
	err := errors.Join(g.outer.Close(), g.inner.Close())
	g.outer, g.inner, g.stored, g.settled, g.err = nil, nil, 0, 0, nil
	return err
}
