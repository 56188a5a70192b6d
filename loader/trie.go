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
	empty   bool // holds for a field without a value
}

// trie cuts the values of one field into classes, values that no filter tells
// apart, and makes the nodes that lead from a value's bytes to its class. leaf
// is asked once for each class, with the groups that hold there.
type trie struct {
	width  int
	groups []group
	nodes  *[]bpf.Node
	leaf   func(holds []int32) uint32
	memo   map[string]uint32
	full   bool // the budget of nodes is used up: the result is void
}

// residual is a member that the bytes so far neither met nor failed.
type residual struct {
	group, member int32
	low, high     bool // range: the bytes so far equal the bound's
}

// build returns the root: a node, or a leaf where the field's value does not
// matter.
func (t *trie) build() uint32 {
	t.memo = map[string]uint32{}
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
	return t.descend(0, holds, open)
}

// step says what a byte does to a residual: it holds now, it stays open, or
// neither: it has failed.
func (t *trie) step(r residual, depth int, b byte) (holds, open bool, next residual) {
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

// span is the bytes that do not fail a range outright.
func (t *trie) span(r residual, depth int) (from, to int) {
	m := &t.groups[r.group].members[r.member]
	from, to = 0, 255
	if m.bits {
		return from, to
	}
	if r.low {
		from = int(m.low[depth])
	}
	if r.high {
		to = int(m.high[depth])
	}
	return from, to
}

func (t *trie) descend(depth int, holds []int32, open []residual) uint32 {
	slices.Sort(holds)
	holds = slices.Compact(holds)
	open = slices.DeleteFunc(open, func(r residual) bool {
		_, met := slices.BinarySearch(holds, r.group)
		return met
	})
	if len(open) == 0 || depth == t.width {
		return t.leaf(holds) | bpf.Leaf
	}
	id := stateKey(depth, holds, open)
	if at, ok := t.memo[id]; ok {
		return at
	}
	var met [256][]int32
	var left [256][]residual
	for _, r := range open {
		from, to := t.span(r, depth)
		for b := from; b <= to; b++ {
			holdsNow, stays, next := t.step(r, depth, byte(b))
			if holdsNow {
				met[b] = append(met[b], r.group)
			} else if stays {
				left[b] = append(left[b], next)
			}
		}
	}
	if len(t.memo) >= MaxNodesPerField {
		t.full = true
	}
	if t.full {
		return bpf.Leaf
	}
	at := uint32(len(*t.nodes))
	*t.nodes = append(*t.nodes, bpf.Node{})
	t.memo[id] = at
	var node bpf.Node
	rest := uint32(0) // where a byte that no residual cares about leads
	for b := range 256 {
		if met[b] == nil && left[b] == nil {
			if rest == 0 {
				rest = t.leaf(holds) | bpf.Leaf
			}
			node.Next[b] = rest
			continue
		}
		// neighbours mostly lead to the same place
		if b > 0 && slices.Equal(met[b], met[b-1]) && slices.Equal(left[b], left[b-1]) {
			node.Next[b] = node.Next[b-1]
			continue
		}
		node.Next[b] = t.descend(depth+1, append(slices.Clone(holds), met[b]...), left[b])
	}
	(*t.nodes)[at] = node
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
