// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"cmp"
	"slices"

	"github.com/wfpebpf/wfpebpf/bpf"
)

// classMask is a bit a class.
type classMask [bpf.ClassWords]uint64

func (m *classMask) or(other *classMask) {
	for w := range m {
		m[w] |= other[w]
	}
}

// classing is a field's leaves, brought together in classes, and what groups are
// tested by them: a filter denies the classes in which its group does not hold.
// All tests of classes together are one AND; a group that is not tested by
// classes is compared, leaf with range.
type classing struct {
	classOf  []uint8              // by leaf; nil: the field has no classes
	denied   map[int32]*classMask // by group that is tested by classes
	compared bool                 // some filter compares the leaf
	tables   map[int32]uint32     // by group that is looked up: first cell
}

// fewSpans is how many candidates a filter may become because its groups have
// several spans of leaves.
const fewSpans = 4

// assignClasses shares the classes out: small fields get those of the first word
// while it has room, since there one AND tests them all; what has many spans,
// flags or a set of addresses, gets others. It reports whether all sets that stand
// apart got classes, which they need: they have no leaves.
func assignClasses(fields []*tested) bool {
	const word, all = 64, 64 * bpf.ClassWords
	bySize := slices.Clone(fields)
	slices.SortStableFunc(bySize, func(a, b *tested) int { return cmp.Compare(a.leaves, b.leaves) })
	used := 0
	for _, f := range bySize {
		if !f.sets {
			continue
		}
		every := allGroups(f)
		classOf, n, ok := f.cut(every, all-used)
		if !ok {
			return false
		}
		f.assign(every, classOf, used)
		used += n
	}
	for _, f := range bySize {
		if f.leaves > word || used > word {
			break
		}
		if f.sets {
			continue
		}
		every := allGroups(f)
		if classOf, n, ok := f.cut(every, word-used); ok {
			f.assign(every, classOf, used)
			used += n
		}
	}
	for _, f := range bySize {
		var many []int32
		for g, spans := range f.spans {
			if len(spans) > fewSpans {
				many = append(many, int32(g))
			}
		}
		if f.classOf != nil || many == nil {
			continue
		}
		if classOf, n, ok := f.cut(many, all-used); ok {
			f.assign(many, classOf, used)
			used += n
		}
	}
	return true
}

func allGroups(f *tested) []int32 {
	groups := make([]int32, len(f.groups))
	for g := range groups {
		groups[g] = int32(g)
	}
	return groups
}

// cut brings the leaves together in which the same of some groups hold, if that
// gives no more classes than there is room for.
func (f *tested) cut(groups []int32, room int) (classOf []uint8, n int, ok bool) {
	type event struct {
		at    uint32
		group int32
	}
	var events []event
	for _, g := range groups {
		for _, s := range f.spans[g] {
			events = append(events, event{s.low, g}, event{s.high + 1, g})
		}
	}
	slices.SortFunc(events, func(a, b event) int { return cmp.Compare(a.at, b.at) })
	var known classes
	var held []int32
	classOf = make([]uint8, f.leaves)
	for leaf, i := uint32(0), 0; leaf < f.leaves; {
		for ; i < len(events) && events[i].at == leaf; i++ {
			// a group's spans are apart: it begins where it is not held, and ends where it is
			at, found := slices.BinarySearch(held, events[i].group)
			if found {
				held = slices.Delete(held, at, at+1)
			} else {
				held = slices.Insert(held, at, events[i].group)
			}
		}
		class := known.class(held)
		if int(class) >= room {
			return nil, 0, false
		}
		next := f.leaves
		if i < len(events) {
			next = min(next, events[i].at)
		}
		for ; leaf < next; leaf++ {
			classOf[leaf] = uint8(class)
		}
	}
	return classOf, len(known.holds), true
}

// assign numbers a field's classes from first on.
func (f *tested) assign(groups []int32, classOf []uint8, first int) {
	f.classOf, f.denied = classOf, map[int32]*classMask{}
	last := 0
	for leaf := range classOf {
		classOf[leaf] += uint8(first)
		last = max(last, int(classOf[leaf]))
	}
	for _, g := range groups {
		m := &classMask{}
		for c := first; c <= last; c++ {
			m[c/64] |= 1 << (c % 64)
		}
		for _, s := range f.spans[g] {
			for leaf := s.low; leaf <= s.high; leaf++ {
				m[classOf[leaf]/64] &^= 1 << (classOf[leaf] % 64)
			}
		}
		f.denied[g] = m
	}
}
