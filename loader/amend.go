// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"cmp"
	"maps"
	"slices"
	"sort"

	"github.com/wfpebpf/wfpebpf/bpf"
	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
	"github.com/wfpebpf/wfpebpf/policy"
)

// laid is what tables were made of. The engine that made those in force keeps it: a
// commit that changes few filters then leaves them as they are and amends them, in
// milliseconds, however many filters there are.
type laid struct {
	commit     uint64 // whose tables they are, and whose record has the policy
	generation uint32
	last       uint64 // the last commit that goes by them
	edition    []*filter.Filter
	rec        *record // of commit
	ephemeral  portRange
	layers     map[layermap.LayerID]*laidLayer
}

// laidLayer is a layer's part of that.
type laidLayer struct {
	layer     *bpf.Layer
	filters   []*filter.Filter // in evaluation order, behind the places of candidates
	subLayers []filter.GUID    // by number
	from      []int            // where in filters each begins
	idle      idleFilters
}

// amended is what a commit says of tables that are in force.
type amended struct {
	base       *laid
	change     *change
	layers     map[layermap.LayerID]*bpf.Layer     // all that have filters
	amendments map[layermap.LayerID]*bpf.Amendment // of those that differ
	cells      []uint32
	buckets    []bpf.Bucket
	records    []*filter.Filter // that were added, layer by layer
}

// maxChanges bounds how many filters are told from those of the tables before these
// are made anew, and fewChanges is their most among so many that are in the tables:
// what is looked at beside them costs each packet, and small ones are made in no time.
const (
	maxChanges = 4 * MaxAdded
	fewChanges = 16
)

// keep notes what a whole commit has laid.
func keep(rec *record, t *tables, ephemeral portRange) *laid {
	return &laid{
		commit: rec.Generation, generation: rec.Place.Generation, last: rec.Generation,
		rec: rec, ephemeral: ephemeral, layers: t.laid,
	}
}

func newLaidLayer(layer *bpf.Layer, list []compiled, idle idleFilters) *laidLayer {
	l := &laidLayer{layer: layer, filters: make([]*filter.Filter, len(list)), idle: idle}
	for i := range list {
		l.filters[i] = list[i].filter
		if list[i].subLayer == len(l.subLayers) {
			l.subLayers = append(l.subLayers, subLayerKey(list[i].filter))
			l.from = append(l.from, i)
		}
	}
	return l
}

// find is the place of a filter, or the one that it would come before, and its
// sublayer's number: -1, if the layer has no filters of that.
func (l *laidLayer) find(f *filter.Filter) (at, subLayer int) {
	subLayer = slices.Index(l.subLayers, subLayerKey(f))
	if subLayer < 0 {
		return 0, -1
	}
	from, end := l.from[subLayer], len(l.filters)
	if subLayer+1 < len(l.from) {
		end = l.from[subLayer+1]
	}
	return from + sort.Search(end-from, func(i int) bool { return filter.CompareInSubLayer(l.filters[from+i], f) >= 0 }), subLayer
}

// amend says what differs in a policy from that of the tables; nil where they must be
// made anew: too much differs, or something else than filters that need nothing of
// the tables which they do not have.
func (b *laid) amend(p *policy.Policy, ephemeral portRange) *amended {
	if ephemeral != b.ephemeral || !b.alike(p) {
		return nil
	}
	removed, added, ok := difference(b.rec.Filters, p.Store.Filters())
	if !ok || (len(removed)+len(added))*fewChanges > len(b.rec.Filters) || !b.rec.Numbers.cover(p, added) {
		return nil
	}
	a := &amended{
		base: b, layers: map[layermap.LayerID]*bpf.Layer{}, amendments: map[layermap.LayerID]*bpf.Amendment{},
		change: &change{Base: b.commit, Added: added, Failsafes: p.Failsafes, Layers: maps.Clone(b.rec.Layers)},
	}
	changes := map[layermap.LayerID]*layerChange{}
	of := func(f *filter.Filter) *layerChange {
		c := changes[f.Layer]
		if c == nil {
			c = &layerChange{}
			changes[f.Layer] = c
		}
		return c
	}
	for _, f := range removed {
		a.change.Removed = append(a.change.Removed, f.ID)
		of(f).removed = append(of(f).removed, f)
	}
	for _, f := range added {
		of(f).added = append(of(f).added, f)
	}
	for id, l := range b.layers {
		a.layers[id] = l.layer
	}
	t := &tables{cells: make([]uint32, 1), numbers: b.rec.Numbers}
	for _, id := range slices.Sorted(maps.Keys(changes)) {
		l := layermap.ByID(id)
		if !l.Hook().Live {
			continue
		}
		if !a.amendLayer(t, l, changes[id], p.Store) {
			return nil
		}
	}
	a.cells, a.buckets = t.cells, t.buckets
	if len(a.cells) > bpf.CellPage || len(a.buckets) > bpf.BucketPage || len(a.records) > bpf.FilterPage {
		return nil
	}
	for _, f := range a.records {
		a.change.Order = append(a.change.Order, f.ID)
	}
	return a
}

// alike reports whether a policy is, but for its filters, the one that the tables
// were made of.
func (b *laid) alike(p *policy.Policy) bool {
	subLayers, callouts := p.Store.SubLayers(), p.Store.Callouts()
	return len(subLayers) == len(b.rec.SubLayers) && len(callouts) == len(b.rec.Callouts) &&
		slices.EqualFunc(subLayers, b.rec.SubLayers, func(x *filter.SubLayer, y filter.SubLayer) bool { return *x == y }) &&
		slices.EqualFunc(callouts, b.rec.Callouts, func(x *filter.Callout, y filter.Callout) bool { return *x == y }) &&
		maps.Equal(p.Services, b.rec.Services) && maps.Equal(p.Packages, b.rec.Packages) &&
		maps.Equal(p.Links, b.rec.Links) && p.DefaultProfile == b.rec.Profile
}

// difference tells two lists of filters apart, of which the second one is what is left
// of the first and then what was added.
func difference(was, now []*filter.Filter) (removed, added []*filter.Filter, ok bool) {
	kept := 0
	for _, f := range was {
		if kept < len(now) && now[kept] == f {
			kept++
		} else if removed = append(removed, f); len(removed) > maxChanges {
			return nil, nil, false
		}
	}
	return removed, now[kept:], len(now)-kept <= maxChanges
}

// cover reports whether every identity that some filters name has a number.
func (n *numbers) cover(p *policy.Policy, filters []*filter.Filter) bool {
	named, err := numberFilters(p, filters)
	if err != nil {
		return false
	}
	for i, unit := range named.Services {
		at := slices.Index(n.Services, unit)
		if at < 0 || !subset(named.ServiceSIDs[i], n.ServiceSIDs[at]) {
			return false
		}
	}
	return subset(named.Apps, n.Apps) && subset(named.UIDs, n.UIDs) && subset(named.GIDs, n.GIDs) &&
		subset(named.Packages, n.Packages)
}

func subset[T comparable](of, all []T) bool {
	return !slices.ContainsFunc(of, func(v T) bool { return !slices.Contains(all, v) })
}

// layerChange is what differs at a layer.
type layerChange struct{ added, removed []*filter.Filter }

// addition is a filter that an edition looks at beside the tables: one that was added,
// or one that they leave out because of one that was removed.
type addition struct {
	compiled
	place int
	laid  bool // it has that place in the tables
}

// amendLayer amends a layer. It reports whether it could.
func (a *amended) amendLayer(t *tables, l *layermap.Layer, c *layerChange, s *filter.Store) bool {
	was := a.base.layers[l.ID]
	if was == nil {
		was = &laidLayer{layer: &bpf.Layer{Filters: uint32(len(a.base.rec.Order))}}
	}
	removed := map[int32]bool{}
	for _, f := range c.removed {
		if at, _ := was.find(f); at < len(was.filters) && was.filters[at] == f {
			removed[int32(at)] = true
		}
	}
	list, ok := was.additions(l, c.added, removed, s)
	if !ok {
		return false
	}
	count := len(was.filters) - len(removed)
	for i := range list {
		if !list[i].laid {
			count++
		}
	}
	if delete(a.change.Layers, l.ID); count > 0 {
		a.change.Layers[l.ID] = count
	}
	switch {
	case count > MaxFiltersPerLayer:
		return false
	case count == 0:
		delete(a.layers, l.ID)
		return true
	case len(list)+len(removed) == 0:
		return true // none of them decides anything here
	}
	layer := *was.layer
	layer.Sublayers = max(layer.Sublayers, uint32(list.subLayers()))
	amendment := &bpf.Amendment{Record: uint32(len(a.records))}
	for i := range list {
		at, place := bpf.KeyLaid, uint32(list[i].place)
		if !list[i].laid {
			// those before it that are laid have no record of the edition
			at = uint32(len(a.records)) - amendment.Record
			a.records = append(a.records, list[i].filter)
		}
		amendment.All |= 1 << i
		amendment.Key[i] = list[i].key(place, at)
	}
	if len(list) > 0 {
		layer.Flags |= bpf.LayerAdded
		if !t.layAdditions(l, list, amendment, &layer, a.base.ephemeral) {
			return false
		}
	}
	if len(removed) > 0 {
		layer.Flags |= bpf.LayerRemoved
		amendment.Removed = uint32(len(t.cells))
		t.cells = append(t.cells, make([]uint32, (len(was.filters)+31)/32)...)
		for at := range removed {
			t.cells[amendment.Removed+uint32(at)/32] |= 1 << (at % 32)
		}
	}
	a.layers[l.ID], a.amendments[l.ID] = &layer, amendment
	return true
}

// additions is what an edition looks at beside the tables, in evaluation order. It
// reports whether there is room for all.
func (l *laidLayer) additions(layer *layermap.Layer, added []*filter.Filter, removed map[int32]bool, s *filter.Store) (additions, bool) {
	var list additions
	sources := fieldSources(layer)
	add := func(f *filter.Filter, place, subLayer int, laid bool) bool {
		c, decides := newCompiled(f)
		if !decides || !f.InEffect() {
			return true
		}
		possible, err := c.settle(layer, sources)
		if err != nil {
			return false // whoever makes the tables anew says so
		}
		if possible {
			c.subLayer = subLayer
			list = append(list, addition{c, place, laid})
		}
		return len(list) <= MaxAdded
	}
	ok := true
	fresh := l.filters == nil // the layer had none: its sublayers are those of its first ones
	for _, f := range added {
		place, subLayer := l.find(f)
		if fresh {
			subLayer = slices.IndexFunc(s.SubLayers(), func(sub *filter.SubLayer) bool { return sub.Key == subLayerKey(f) })
		}
		if ok = ok && subLayer >= 0 && place < MaxFiltersPerLayer && add(f, place, subLayer, false); !ok {
			return nil, false
		}
	}
	revived := map[int32]bool{}
	for at := range removed {
		ok = ok && l.idle.all(at, func(idle int32) bool {
			if removed[idle] || revived[idle] {
				return true
			}
			revived[idle] = true
			_, subLayer := l.find(l.filters[idle])
			return add(l.filters[idle], int(idle), subLayer, true)
		})
	}
	slices.SortFunc(list, func(a, b addition) int {
		return cmp.Or(cmp.Compare(a.subLayer, b.subLayer), filter.CompareInSubLayer(a.filter, b.filter))
	})
	if fresh {
		list.numberSubLayers()
		ok = ok && list.subLayers() <= MaxSubLayersPerLayer
	}
	return list, ok
}

type additions []addition

// subLayers is how many there are up to the last one.
func (l additions) subLayers() int {
	if len(l) == 0 {
		return 0
	}
	return l[len(l)-1].subLayer + 1
}

// numberSubLayers leaves no gaps between the numbers.
func (l additions) numberSubLayers() {
	number, last := -1, -1
	for i := range l {
		if l[i].subLayer != last {
			last = l[i].subLayer
			number++
		}
		l[i].subLayer = number
	}
}

// layAdditions lays what leads from the values of fields to the additions that they
// will do for.
func (t *tables) layAdditions(l *layermap.Layer, list additions, a *bpf.Amendment, layer *bpf.Layer, ephemeral portRange) bool {
	filters := make([]compiled, len(list))
	for i := range list {
		filters[i] = list[i].compiled
	}
	fields := testedFields(l, filters, false)
	if len(fields) > bpf.MaxFields {
		return false
	}
	a.Fields = uint32(len(fields))
	for n, f := range fields {
		f.amends = true
		if t.number(l, f) != nil {
			return false
		}
		if f.field.Key == "IP_LOCAL_PORT" && !f.uniform(ephemeral) {
			layer.Flags &^= bpf.EphemeralUniform
		} else if f.field.Key == "IP_LOCAL_PORT" && layer.Used>>f.src.Slot&1 == 0 {
			layer.Flags |= bpf.EphemeralUniform
		}
		layer.Used |= 1 << f.src.Slot
		if uint64(f.leaves) > uint64(bpf.CellPage) {
			return false
		}
		a.Field[n] = t.layField(f, nil)
		t.align(2)
		a.Field[n].Classes = uint32(len(t.cells))
		t.cells = append(t.cells, f.masks(int32(n), filters)...)
		if len(t.cells) > bpf.CellPage || len(t.buckets) > bpf.BucketPage {
			return false
		}
	}
	return true
}

// masks is by leaf, two cells each, for which filters it will do.
func (f *tested) masks(field int32, filters []compiled) []uint32 {
	masks := make([]uint64, f.leaves)
	for i := range filters {
		bit := uint64(1) << i
		asked := slices.IndexFunc(filters[i].wants, func(w want) bool { return w.field == field })
		if asked < 0 {
			for leaf := range masks {
				masks[leaf] |= bit
			}
			continue
		}
		for _, s := range f.spans[filters[i].wants[asked].group] {
			for leaf := s.low; leaf <= s.high; leaf++ {
				masks[leaf] |= bit
			}
		}
	}
	cells := make([]uint32, 0, 2*len(masks))
	for _, m := range masks {
		cells = append(cells, uint32(m), uint32(m>>32))
	}
	return cells
}
