// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"slices"

	"github.com/wfpebpf/wfpebpf/bpf"
)

// group is what one or more filters ask of one field: its conditions, OR'ed.
type group struct {
	members []member
}

// classes is one field's values, cut into classes that no filter tells apart.
// holds lists for each class the groups that hold in it, ascending.
type classes struct {
	holds [][]int32
	held  int // groups in all of holds, and 16 for the room that each takes besides
	known map[string]uint32
	id    []byte
}

// class returns the number of the class in which just these groups hold.
func (c *classes) class(holds []int32) uint32 {
	c.id = c.id[:0]
	for _, g := range holds {
		c.id = binary.LittleEndian.AppendUint32(c.id, uint32(g))
	}
	if n, ok := c.known[string(c.id)]; ok {
		return n
	}
	if c.known == nil {
		c.known = map[string]uint32{}
	}
	n := uint32(len(c.holds))
	c.known[string(c.id)] = n
	c.holds = append(c.holds, slices.Clone(holds))
	c.held += 16 + len(holds)
	return n
}

// bitTable leads from a value's bytes to its class where conditions on bits cut
// the values into no ranges: nodes, each for one byte.
type bitTable struct {
	width   int
	skip    int // leading bytes that matter to nobody
	groups  []group
	classes classes
	nodes   [][256]uint32 // of a byte: node, or class with bpf.Leaf
	root    uint32
	memo    map[string]uint32
	full    bool // the budget of nodes is used up: the result is void
}

// maxHeld bounds the memory that classes take before there are too many nodes: some
// 200 MB.
const maxHeld = 1 << 24

func newBitTable(groups []group, width int) *bitTable {
	t := &bitTable{width: width, groups: groups, skip: width - 1, memo: map[string]uint32{}}
	for _, g := range groups {
		for _, m := range g.members {
			if !m.bits || width > 8 {
				t.skip = 0
			}
			if i := slices.IndexFunc(m.mask[:width], func(b byte) bool { return b != 0 }); i >= 0 {
				t.skip = min(t.skip, i)
			}
		}
	}
	t.build()
	return t
}

// class is the class of a value.
func (t *bitTable) class(k key) uint32 {
	at := t.root
	for depth := t.skip; at&bpf.Leaf == 0; depth++ {
		at = t.nodes[at][k[depth]]
	}
	return at &^ bpf.Leaf
}

// residual is a member that the bytes so far neither met nor failed.
type residual struct {
	group, member int32
	low, high     bool // range: the bytes so far equal the bound's
}

func (t *bitTable) build() {
	var holds []int32
	var open []residual
	for g := range t.groups {
		for m := range t.groups[g].members {
			mem := &t.groups[g].members[m]
			switch {
			case mem.bits && mem.maskEnd == 0:
				if !mem.negated {
					holds = append(holds, int32(g))
				}
			case !mem.bits && mem.lowEnd == 0 && mem.highEnd == 0:
				holds = append(holds, int32(g))
			default:
				open = append(open, residual{int32(g), int32(m), true, true})
			}
		}
	}
	t.root = t.descend(t.skip, holds, open)
}

// step says what a byte does to a residual: it holds now, it stays open, or
// neither: it has failed.
func (t *bitTable) step(r residual, depth int, b byte) (holds, open bool, next residual) {
	m := &t.groups[r.group].members[r.member]
	if m.bits {
		if b&m.mask[depth] != m.want[depth] {
			return m.negated, false, r
		}
		if depth+1 >= m.maskEnd {
			return !m.negated, false, r
		}
		return false, true, r
	}
	if r.low && b < m.low[depth] || r.high && b > m.high[depth] {
		return false, false, r
	}
	r.low = r.low && b == m.low[depth] && depth+1 < m.lowEnd
	r.high = r.high && b == m.high[depth] && depth+1 < m.highEnd
	if !r.low && !r.high {
		return true, false, r
	}
	return false, true, r
}

func (t *bitTable) descend(depth int, holds []int32, open []residual) uint32 {
	slices.Sort(holds)
	holds = slices.Compact(holds)
	open = slices.DeleteFunc(open, func(r residual) bool {
		_, met := slices.BinarySearch(holds, r.group)
		return met
	})
	if len(open) == 0 || depth == t.width {
		return t.classes.class(holds) | bpf.Leaf
	}
	id := stateKey(depth, holds, open)
	if at, ok := t.memo[id]; ok {
		return at
	}
	at := uint32(len(t.nodes))
	if t.full = t.full || at >= MaxNodesPerField || t.classes.held > maxHeld; t.full {
		return bpf.Leaf
	}
	t.nodes = append(t.nodes, [256]uint32{})
	t.memo[id] = at
	var node [256]uint32
	var met, metBefore []int32
	var left, leftBefore []residual
	for b := range 256 {
		met, left = nil, nil
		for _, r := range open {
			holdsNow, stays, next := t.step(r, depth, byte(b))
			if holdsNow {
				met = append(met, r.group)
			} else if stays {
				left = append(left, next)
			}
		}
		// neighbours mostly lead to the same place
		if b > 0 && slices.Equal(met, metBefore) && slices.Equal(left, leftBefore) {
			node[b] = node[b-1]
			continue
		}
		metBefore, leftBefore = met, slices.Clone(left)
		node[b] = t.descend(depth+1, append(slices.Clone(holds), met...), left)
	}
	t.nodes[at] = node
	return at
}

func stateKey(depth int, holds []int32, open []residual) string {
	b := make([]byte, 0, 8+4*len(holds)+10*len(open))
	b = append(b, byte(depth))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(holds)))
	for _, g := range holds {
		b = binary.LittleEndian.AppendUint32(b, uint32(g))
	}
	for _, r := range open {
		b = binary.LittleEndian.AppendUint32(b, uint32(r.group))
		b = binary.LittleEndian.AppendUint32(b, uint32(r.member))
		tight := byte(0)
		if r.low {
			tight |= 1
		}
		if r.high {
			tight |= 2
		}
		b = append(b, tight)
	}
	return string(b)
}

// depths is by node how many bytes lead to it.
func (t *bitTable) depths() []int {
	depths := make([]int, len(t.nodes))
	for n := range t.nodes { // a node comes before those that it leads to first
		for _, at := range t.nodes[n] {
			if at&bpf.Leaf == 0 {
				depths[at] = depths[n] + 1
			}
		}
	}
	return depths
}
