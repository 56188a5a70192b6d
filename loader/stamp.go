// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"github.com/cilium/ebpf"

	"github.com/wfpebpf/wfpebpf/bpf"
)

// active is the number of the commit in force, 0 before the first.
func (e *Engine) active() (generation uint64, err error) {
	stamp, err := e.stamp()
	return stamp % stampChange, err
}

// The stamp tells apart all states that the tables in force have had: a verdict
// that the programs have kept counts under the stamp alone under which it was
// made. Its lower half is the number of the commit.
const stampChange = 1 << 32 // added for each change that was made to them

func (e *Engine) stamp() (stamp uint64, err error) {
	if e.foreign != nil {
		return 0, e.foreign
	}
	if m := e.maps[bpf.WFPMapActive]; m != nil {
		err = m.Lookup(uint32(0), &stamp)
	}
	return stamp, err
}

// changing is for who is about to change tables that are in force; changed must
// follow. A process that dies in between leaves the programs without verdicts
// that they kept, until somebody looks around or commits.
func (e *Engine) changing() error {
	stamp, err := e.stamp()
	if err != nil || stamp == 0 {
		return err // nothing is in force
	}
	return e.maps[bpf.WFPMapActive].Put(uint32(0), stamp|bpf.StampUnsettled)
}

// changed lets verdicts be kept again, if they were not, under a stamp that no
// packet finds which may have met the tables as they were.
func (e *Engine) changed() error {
	stamp, err := e.stamp()
	if err != nil || stamp&bpf.StampUnsettled == 0 {
		return err
	}
	if err := e.gracePeriod(); err != nil {
		return err
	}
	return e.maps[bpf.WFPMapActive].Put(uint32(0), stamp&^bpf.StampUnsettled+stampChange)
}

// gracePeriod returns when every program that was running has ended: the
// kernel waits for that when an outer map's entry is replaced.
func (e *Engine) gracePeriod() error {
	outer := e.maps[bpf.WFPMapLinks]
	generation, err := e.active()
	if err != nil {
		return err
	}
	slot := uint32(generation & 1)
	var m *ebpf.Map
	if err := outer.Lookup(slot, &m); err != nil {
		return err
	}
	defer m.Close()
	return outer.Put(slot, m)
}
