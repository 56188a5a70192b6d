// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"cmp"
	"encoding/binary"
	"slices"

	"github.com/wfpebpf/wfpebpf/bpf"
)

// MaxShared bounds the directory entries of a row that several fields share.
const MaxShared = 1024

// layRows chooses the rows of a layer and turns the fields' classes into them.
// Fields with few classes share a row, whose number is the sum of what their
// leaves hold: one page is read in place of several.
func (t *tables) layRows(layer *bpf.Layer, fields []*tested, list []compiled) {
	shares := share(fields)
	layer.Rows = uint32(len(shares))
	for r, members := range shares {
		row := &layer.Row[r]
		if len(members) == 1 {
			f := members[0]
			leaves := make([]uint32, len(f.classes.holds))
			base := t.base(f, list, int(layer.Pages))
			for c, groups := range f.classes.holds {
				leaves[c] = base.row(f, groups)
			}
			t.relabel(f, leaves)
			continue
		}
		row.Shared = 1
		row.Base = t.shared(members, list, int(layer.Pages))
		stride := uint32(1)
		for _, f := range members {
			leaves := make([]uint32, len(f.classes.holds))
			for c := range leaves {
				leaves[c] = uint32(c) * stride
			}
			stride *= uint32(len(leaves))
			t.relabel(f, leaves)
		}
	}
	for i, f := range fields {
		r := slices.IndexFunc(shares, func(members []*tested) bool { return slices.Contains(members, f) })
		layer.Field[i] = t.fieldOf(f, r, shares[r][0] == f)
	}
}

// share groups the fields into rows, in the order of their first fields.
func share(fields []*tested) [][]*tested {
	bySize := slices.Clone(fields)
	slices.SortStableFunc(bySize, func(a, b *tested) int {
		return cmp.Compare(len(a.classes.holds), len(b.classes.holds))
	})
	var rows [][]*tested
	product := MaxShared + 1
	for _, f := range bySize {
		n := len(f.classes.holds)
		if product*n <= MaxShared {
			rows[len(rows)-1] = append(rows[len(rows)-1], f)
			product *= n
			continue
		}
		rows = append(rows, []*tested{f})
		product = n
	}
	at := func(f *tested) int { return slices.Index(fields, f) }
	for _, r := range rows {
		slices.SortFunc(r, func(a, b *tested) int { return cmp.Compare(at(a), at(b)) })
	}
	slices.SortFunc(rows, func(a, b []*tested) int { return cmp.Compare(at(a[0]), at(b[0])) })
	return rows
}

// fieldOf is the field's entry in the layer's table.
func (t *tables) fieldOf(f *tested, row int, first bool) bpf.Field {
	place := f.src.Slot.Place()
	field := bpf.Field{Slot: uint8(f.src.Slot), Word: place.Word, Row: uint8(row), Empty: f.empty, Root: f.root}
	if first {
		field.Flags |= bpf.FieldFirst
	}
	if f.direct != nil {
		field.Flags |= bpf.FieldDirect
		field.Shift = 32 - place.Shift
		field.Count = uint32(len(f.direct))
		field.Root = uint32(len(t.directory))
		t.directory = append(t.directory, f.direct...)
		return field
	}
	if width := widths[f.field.DataType]; width < 8 {
		field.Shift = uint8(64 - 8*width + 8*f.skip)
		field.Shift -= place.Shift
	} else if f.skip > 0 {
		field.Shift = uint8(8 * f.skip)
	}
	return field
}

// relabel puts what the classes lead to into all leaves of a field.
func (t *tables) relabel(f *tested, leaves []uint32) {
	label := func(at *uint32) {
		if *at&bpf.Leaf != 0 {
			*at = leaves[*at&^bpf.Leaf] | bpf.Leaf
		}
	}
	for i := f.nodes[0]; i < f.nodes[1]; i++ {
		for b := range t.nodes[i].Next {
			label(&t.nodes[i].Next[b])
		}
	}
	for i := f.buckets[0]; i < f.buckets[1]; i++ {
		for b := range t.buckets[i].Next {
			label(&t.buckets[i].Next[b])
		}
	}
	label(&f.root)
	f.empty = leaves[f.empty]
	for i := range f.direct {
		f.direct[i] = leaves[f.direct[i]]
	}
}

// baseRow is the bits that all rows of a field have: the filters that ask
// nothing of it. Rows differ from it in few pages.
type baseRow struct {
	t     *tables
	list  []compiled
	pages []bpf.Page
	ids   []uint32
	own   map[int][]int32 // of row: positions to set, by page
}

func (t *tables) base(f *tested, list []compiled, pages int) *baseRow {
	b := &baseRow{t: t, list: list, pages: make([]bpf.Page, pages), ids: make([]uint32, pages), own: map[int][]int32{}}
	for _, i := range f.free {
		setBit(b.pages, list[i].position)
	}
	for p := range b.pages {
		b.ids[p] = t.page(&b.pages[p])
	}
	return b
}

func setBit(pages []bpf.Page, position int32) {
	setPageBit(&pages[position/int32(bpf.PageBits)], position)
}

// setPageBit sets a position in the page that holds it, and in its summary.
func setPageBit(page *bpf.Page, position int32) {
	in := position % int32(bpf.PageBits)
	page.Word[in/64] |= 1 << (in % 64)
	page.Word[bpf.PageWords] |= 1 << (in / 64)
}

// row makes the row in which the groups' filters are set, too.
func (b *baseRow) row(f *tested, groups []int32) uint32 {
	clear(b.own)
	for _, g := range groups {
		for _, i := range f.by[g] {
			at := b.list[i].position
			b.own[int(at)/bpf.PageBits] = append(b.own[int(at)/bpf.PageBits], at)
		}
	}
	ids := slices.Clone(b.ids)
	for p, positions := range b.own {
		page := b.pages[p]
		for _, at := range positions {
			setPageBit(&page, at)
		}
		ids[p] = b.t.page(&page)
	}
	return b.t.rowOf(ids)
}

// page stores a page once and returns its number.
func (t *tables) page(p *bpf.Page) uint32 {
	id, ok := t.pageIDs[*p]
	if !ok {
		id = uint32(len(t.pages))
		t.pages = append(t.pages, *p)
		t.pageIDs[*p] = id
	}
	return id
}

// rowOf stores a row: with one page it is the page, with several a head.
func (t *tables) rowOf(ids []uint32) uint32 {
	if len(ids) == 1 {
		return ids[0]
	}
	b := make([]byte, 0, 4*len(ids))
	for _, id := range ids {
		b = binary.LittleEndian.AppendUint32(b, id)
	}
	at, ok := t.headIDs[string(b)]
	if ok {
		return at
	}
	at = uint32(len(t.heads))
	head := bpf.Head{Directory: uint32(len(t.directory))}
	for p, id := range ids {
		if t.pages[id].Word[bpf.PageWords] != 0 {
			head.Mask |= 1 << p
		}
	}
	t.directory = append(t.directory, ids...)
	t.heads = append(t.heads, head)
	t.headIDs[string(b)] = at
	return at
}

// shared makes the rows of all combinations of the members' classes, the first
// member's class counting fastest, and returns their first directory entry.
func (t *tables) shared(members []*tested, list []compiled, pages int) uint32 {
	rows := make([][][]bpf.Page, len(members)) // by member and class
	total := 1
	for m, f := range members {
		for _, groups := range f.classes.holds {
			row := make([]bpf.Page, pages)
			for _, i := range f.free {
				setBit(row, list[i].position)
			}
			for _, g := range groups {
				for _, i := range f.by[g] {
					setBit(row, list[i].position)
				}
			}
			rows[m] = append(rows[m], row)
		}
		total *= len(f.classes.holds)
	}
	entries := make([]uint32, total)
	ids := make([]uint32, pages)
	for n := range entries {
		rest := n
		combined := slices.Clone(rows[0][rest%len(rows[0])])
		rest /= len(rows[0])
		for m := 1; m < len(members); m++ {
			and(combined, rows[m][rest%len(rows[m])])
			rest /= len(rows[m])
		}
		for p := range combined {
			ids[p] = t.page(&combined[p])
		}
		entries[n] = t.rowOf(ids)
	}
	base := uint32(len(t.directory))
	t.directory = append(t.directory, entries...)
	return base
}

func and(into, row []bpf.Page) {
	for p := range into {
		page := &into[p]
		page.Word[bpf.PageWords] = 0
		for w := range bpf.PageWords {
			page.Word[w] &= row[p].Word[w]
			if page.Word[w] != 0 {
				page.Word[bpf.PageWords] |= 1 << w
			}
		}
	}
}
