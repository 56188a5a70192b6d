// SPDX-License-Identifier: Apache-2.0

package loader

import "github.com/wfpebpf/wfpebpf/bpf"

// stamp tells apart all states that the tables in force have had: a verdict that the
// programs have kept counts under the stamp alone under which it was made. It says
// where the tables are, too. 0: nothing is in force.
type stamp uint64

// stampChange is added for each change that was made to the tables in force.
const stampChange stamp = 1 << 32

// place is where the tables of a commit are.
type place struct {
	Generation uint32 `json:"generation"` // which of the large tables
	Edition    uint32 `json:"edition"`    // which of what is said of them
}

func (s stamp) commit() uint64 { return uint64(s%stampChange) >> bpf.StampCommit }

func (s stamp) place() place {
	return place{
		Generation: uint32(s) % uint32(bpf.Generations),
		Edition:    uint32(s) >> bpf.StampEdition % uint32(bpf.Editions),
	}
}

// number is what the programs take for the generation.
func (p place) number() uint32 { return p.Generation | p.Edition<<bpf.StampEdition }

func (p place) valid() bool {
	return p.Generation < uint32(bpf.Generations) && p.Edition < uint32(bpf.Editions)
}

func newStamp(commit uint64, at place) stamp {
	return stamp(commit<<bpf.StampCommit) | stamp(at.number())
}

// next is where the next commit's tables go: those of another generation, or an
// edition of the same. The edition before stays for a roll-back, and those before
// that while programs may still go by them.
func (p place) next(generation bool) place {
	n := place{p.Generation, (p.Edition + 1) % uint32(bpf.Editions)}
	if generation {
		n.Generation = (p.Generation + 1) % uint32(bpf.Generations)
	}
	return n
}

// stamp is the one in force.
func (e *Engine) stamp() (s stamp, err error) {
	if e.foreign != nil {
		return 0, e.foreign
	}
	if m := e.maps[bpf.WFPMapActive]; m != nil {
		err = m.Lookup(uint32(0), &s)
	}
	return s, err
}

func (e *Engine) putStamp(s stamp) error { return e.maps[bpf.WFPMapActive].Put(uint32(0), s) }

// active is the number of the commit in force, 0 before the first.
func (e *Engine) active() (commit uint64, err error) {
	s, err := e.stamp()
	return s.commit(), err
}

// changing is for who is about to change tables that are in force; changed must
// follow. A process that dies in between leaves the programs without verdicts
// that they kept, until somebody looks around or commits.
func (e *Engine) changing() error {
	s, err := e.stamp()
	if err != nil || s == 0 {
		return err // nothing is in force
	}
	return e.putStamp(s | stamp(bpf.StampUnsettled))
}

// changed lets verdicts be kept again, if they were not, under a stamp that no
// packet finds which may have met the tables as they were.
func (e *Engine) changed() error {
	s, err := e.stamp()
	if err != nil || s&stamp(bpf.StampUnsettled) == 0 {
		return err
	}
	if err := e.grace.now(); err != nil {
		return err
	}
	return e.putStamp(s&^stamp(bpf.StampUnsettled) + stampChange)
}
