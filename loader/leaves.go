// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"bytes"
	"fmt"
	"slices"
	"sort"

	"github.com/wfpebpf/wfpebpf/bpf"
	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
)

// leafing is a field's values, cut into leaves that no filter tells apart. Leaf
// 0 is FWP_EMPTY; the others are numbered in the order of the values where those
// have one that conditions follow.
type leafing struct {
	leaves uint32   // how many
	spans  [][]span // by group: the leaves in which it holds, ascending, apart

	// one of these leads to the leaves
	starts []key     // the first value of leaf 1, 2, ...
	bits   *bitTable // for conditions that follow no order
	direct bool      // value n is leaf n+1
}

// span is leaves from low to high.
type span struct{ low, high uint32 }

// addLeaf extends a group's spans by a leaf that is higher than all it has.
func addLeaf(spans []span, leaf uint32) []span {
	if n := len(spans); n > 0 && spans[n-1].high+1 == leaf {
		spans[n-1].high = leaf
		return spans
	}
	return append(spans, span{leaf, leaf})
}

// number cuts a field's values into leaves.
func (t *tables) number(l *layermap.Layer, f *tested) error {
	f.spans = make([][]span, len(f.groups))
	for g, conds := range f.groups {
		if holds(conds, filter.Value{}) {
			f.spans[g] = addLeaf(f.spans[g], 0)
		}
	}
	if values := t.numbers.values(f.src.Slot); values != nil && l.Family != layermap.AnyFamily {
		f.numberValues(values, t.numbers)
		return nil
	}
	width, ok := widths[f.field.DataType]
	if !ok {
		return fmt.Errorf("%v: %s of type %v cannot be compiled: %w", l.ID, f.field.Key, f.field.DataType, filter.ErrTypeMismatch)
	}
	groups := make([]group, len(f.groups))
	ordered := true
	for g, conds := range f.groups {
		for _, c := range conds {
			ms, err := members(c, width)
			if err != nil {
				return err
			}
			for i := range ms {
				ordered = ordered && !ms[i].bits
			}
			groups[g].members = append(groups[g].members, ms...)
		}
	}
	if ordered {
		f.numberRanges(groups, width)
		return nil
	}
	f.bits = newBitTable(groups, width)
	if f.bits.full {
		return fmt.Errorf("%w: the conditions on %s at %v need more than %d table nodes; use fewer different masks of flags or of addresses",
			ErrLimit, f.field.Key, l.ID, MaxNodesPerField)
	}
	f.leaves = uint32(len(f.bits.classes.holds)) + 1
	for class, held := range f.bits.classes.holds {
		for _, g := range held {
			f.spans[g] = addLeaf(f.spans[g], uint32(class)+1)
		}
	}
	return nil
}

// numberValues asks the evaluator about each of the values that a number can
// stand for, but for conditions that name one value.
func (f *tested) numberValues(values []filter.Value, n *numbers) {
	f.direct = true
	f.leaves = uint32(len(values)) + 1
	known := map[string]uint32{}
	for i, v := range values {
		if v.Type == layermap.ByteBlob {
			known[string(v.Bytes)] = uint32(i) + 1
		}
	}
	for g, conds := range f.groups {
		var leaves []uint32
		var others []filter.Condition
		for _, c := range conds {
			if c.Match != filter.MatchEqual || c.Value.Type != layermap.ByteBlob {
				others = append(others, c)
			} else if leaf := known[string(c.Value.Bytes)]; leaf != 0 {
				leaves = append(leaves, leaf)
			}
		}
		if others != nil {
			alike := func(i int) int { return i }
			if f.src.Slot == layermap.SlotUser {
				alike = n.alike(others)
			}
			held := make([]bool, len(values))
			for i, v := range values {
				// what a value is like comes before it
				if like := alike(i); like < i {
					held[i] = held[like]
				} else {
					held[i] = holds(others, v)
				}
				if held[i] {
					leaves = append(leaves, uint32(i)+1)
				}
			}
		}
		slices.Sort(leaves)
		for _, leaf := range slices.Compact(leaves) {
			f.spans[g] = addLeaf(f.spans[g], leaf)
		}
	}
}

// numberRanges sweeps over the bounds of all ranges: between two of them no
// filter tells a difference.
func (f *tested) numberRanges(groups []group, width int) {
	type bound struct {
		at    key
		group int32
		end   bool
	}
	bounds := make([]bound, 0, 2*len(groups))
	for g := range groups {
		for _, r := range merged(groups[g].members, width) {
			bounds = append(bounds, bound{r.low, int32(g), false})
			if after, ok := r.high.next(width); ok {
				bounds = append(bounds, bound{after, int32(g), true})
			}
		}
	}
	slices.SortFunc(bounds, func(a, b bound) int { return bytes.Compare(a.at[:], b.at[:]) })
	f.starts = append(f.starts, key{})
	open := make([]uint32, len(groups)) // leaf that a group's range began with; 0: none
	for _, b := range bounds {
		if b.at != f.starts[len(f.starts)-1] {
			f.starts = append(f.starts, b.at)
		}
		leaf := uint32(len(f.starts))
		if !b.end {
			open[b.group] = leaf
			continue
		}
		f.addSpan(b.group, open[b.group], leaf-1)
		open[b.group] = 0
	}
	f.leaves = uint32(len(f.starts)) + 1
	for g, from := range open {
		if from != 0 {
			f.addSpan(int32(g), from, f.leaves-1)
		}
	}
}

func (f *tested) addSpan(group int32, low, high uint32) {
	if n := len(f.spans[group]); n > 0 && f.spans[group][n-1].high+1 == low {
		f.spans[group][n-1].high = high // leaf 0, then the first values
		return
	}
	f.spans[group] = append(f.spans[group], span{low, high})
}

// merged is a group's ranges in order, those that touch made one.
func merged(ms []member, width int) []member {
	if len(ms) < 2 {
		return ms
	}
	ms = slices.Clone(ms)
	slices.SortFunc(ms, func(a, b member) int { return bytes.Compare(a.low[:], b.low[:]) })
	out := ms[:1]
	for _, m := range ms[1:] {
		last := &out[len(out)-1]
		after, ok := last.high.next(width)
		if ok && bytes.Compare(m.low[:], after[:]) > 0 {
			out = append(out, m)
		} else if bytes.Compare(m.high[:], last.high[:]) > 0 {
			last.high = m.high
		}
	}
	return out
}

// leaf is the leaf of a value.
func (f *leafing) leaf(k key) uint32 {
	if f.bits != nil {
		return f.bits.class(k) + 1
	}
	return uint32(sort.Search(len(f.starts), func(i int) bool { return bytes.Compare(f.starts[i][:], k[:]) > 0 }))
}

// uniform reports whether all ephemeral ports are one leaf.
func (f *leafing) uniform(ephemeral portRange) bool {
	first := f.leaf(numberKey(uint64(ephemeral.low), 2))
	for port := int(ephemeral.low) + 1; port <= int(ephemeral.high); port++ {
		if f.leaf(numberKey(uint64(port), 2)) != first {
			return false
		}
	}
	return true
}

// layField lays the tables that lead from a field's values to its leaves, and
// from those to classes and to the branches that they lead to, if any.
func (t *tables) layField(f *tested, heads []uint32) bpf.Field {
	place := f.src.Slot.Place()
	field := bpf.Field{Slot: uint8(f.src.Slot), Word: place.Word}
	end := ends{label: func(leaf uint32) uint32 { return leaf }, heads: heads}
	switch {
	case f.classOf == nil:
	case f.compared || heads != nil:
		field.Flags |= bpf.FieldClasses
		field.Classes = uint32(len(t.cells))
		for _, class := range f.classOf {
			t.cells = append(t.cells, uint32(class))
		}
	default:
		field.Flags |= bpf.FieldClass
		end.label = func(leaf uint32) uint32 { return uint32(f.classOf[leaf]) }
	}
	if heads != nil {
		field.Flags |= bpf.FieldHeads
		field.Heads, field.EmptyHead = uint32(len(t.cells)), heads[0]
		t.cells = append(t.cells, heads...)
	}
	field.Empty = end.label(0)
	if f.direct {
		field.Shift, field.Bits[0], field.Levels = 32-place.Shift, 32, 1
		field.Root = t.layEnds(end, int(f.leaves)-1, func(n int) uint32 { return uint32(n) + 1 })
		return field
	}
	width := widths[f.field.DataType]
	if width < 8 {
		field.Shift = uint8(64-8*width) - place.Shift
	}
	if t.layLines(f, &field) {
		return field
	}
	skip := 0
	if f.bits != nil {
		skip = f.bits.skip
		field.Shift += uint8(8 * skip)
	}
	if width > bpf.Levels {
		if width > 8 || !t.layPoints(f, &field, end) {
			field.Root = t.layNodes(f, width, end.label)
		}
		return field
	}
	shape := f.shape(width-skip, end)
	copy(field.Bits[:], shape)
	field.Levels = uint8(len(shape))
	field.Root = t.layLevels(f, width, shape, end)
	return field
}
