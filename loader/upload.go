// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"unsafe"

	"github.com/cilium/ebpf"

	"github.com/wfpebpf/wfpebpf/bpf"
	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
)

// upload fills the tables of a generation that is not in force. Each inner map
// is made with the size that its content needs.
func (e *Engine) upload(at place, t *tables, links map[uint32]bpf.Link, principals map[bpf.Principal]uint32) error {
	slot := at.Generation
	fill := map[string]func(name string) error{
		bpf.WFPMapCells:      paged(e, slot, t.cells, bpf.CellPage),
		bpf.WFPMapBuckets:    paged(e, slot, t.buckets, bpf.BucketPage),
		bpf.WFPMapBranches:   paged(e, slot, t.branches, bpf.BranchPage),
		bpf.WFPMapCuts:       paged(e, slot, t.cuts, bpf.CutPage),
		bpf.WFPMapFilters:    paged(e, slot, t.filters, bpf.FilterPage),
		bpf.WFPMapHits:       paged(e, slot, make([]uint64, len(t.filters)), bpf.HitsPage),
		bpf.WFPMapPrincipals: innerHash(e, slot, principals),
		bpf.WFPMapLinks:      innerHash(e, slot, links),
	}
	if err := inParallel(slices.Collect(maps.Keys(fill)), func(name string) error { return fill[name](name) }); err != nil {
		return err
	}
	if err := e.maps[bpf.WFPMapGenerations].Put(slot, t.generation); err != nil {
		return fmt.Errorf("filling table generations: %w", err)
	}
	return e.putLayers(at, t.layers)
}

// putLayers puts the layers of an edition, all that there are.
func (e *Engine) putLayers(at place, layers map[layermap.LayerID]*bpf.Layer) error {
	keys, values := make([]uint32, bpf.LayerSlots), make([]bpf.Layer, bpf.LayerSlots)
	for id := range bpf.LayerSlots {
		keys[id] = layerSlot(at, layermap.LayerID(id))
		if l := layers[layermap.LayerID(id)]; l != nil {
			values[id] = *l
		}
	}
	if _, err := e.maps[bpf.WFPMapLayers].BatchUpdate(keys, values, nil); err != nil {
		return fmt.Errorf("filling table layers: %w", err)
	}
	return nil
}

// layerSlot is where an edition's facts of a layer are.
func layerSlot(at place, id layermap.LayerID) uint32 {
	return at.Edition*uint32(bpf.LayerSlots) + uint32(id)
}

// uploadAmended fills what an edition says of the tables in force, before it does so.
// was is where the edition before is, whose filters keep their counts of decisions.
func (e *Engine) uploadAmended(at, was place, a *amended) error {
	hits, err := e.carryHits(was, a)
	if err != nil {
		return err
	}
	filters := make([]bpf.Filter, len(a.records))
	for i, f := range a.records {
		filters[i].Id = uint64(f.ID)
	}
	for name, fill := range map[string]func(*ebpf.Map) error{
		bpf.WFPMapCells:   func(m *ebpf.Map) error { return write(m, a.cells) },
		bpf.WFPMapBuckets: func(m *ebpf.Map) error { return write(m, a.buckets) },
		bpf.WFPMapFilters: func(m *ebpf.Map) error { return write(m, filters) },
		bpf.WFPMapHits:    func(m *ebpf.Map) error { return write(m, hits) },
	} {
		m, err := e.page(name, at.Generation, bpf.PagesAmended+int(at.Edition))
		if err == nil {
			err = errors.Join(fill(m), m.Close())
		}
		if err != nil {
			return fmt.Errorf("amending table %s: %w", name, err)
		}
	}
	first := uint32((bpf.PagesAmended + int(at.Edition)) * bpf.FilterPage)
	for id, amendment := range a.amendments {
		amendment.Record += first
		if err := e.maps[bpf.WFPMapAmendments].Put(layerSlot(at, id), amendment); err != nil {
			return fmt.Errorf("filling table amendments: %w", err)
		}
	}
	return e.putLayers(at, a.layers)
}

// carryHits is the decisions of the filters that an edition adds, as far as the one
// before has counted them.
func (e *Engine) carryHits(was place, a *amended) ([]uint64, error) {
	hits := make([]uint64, len(a.records))
	if len(a.base.edition) == 0 || len(hits) == 0 {
		return hits, nil
	}
	page := make([]uint64, bpf.HitsPage)
	m, err := e.page(bpf.WFPMapHits, was.Generation, bpf.PagesAmended+int(was.Edition))
	if err == nil {
		err = errors.Join(m.Lookup(uint32(0), &page), m.Close())
	}
	if err != nil {
		return nil, fmt.Errorf("reading table hits: %w", err)
	}
	counted := map[*filter.Filter]uint64{}
	for i, f := range a.base.edition {
		counted[f] = page[i]
	}
	for i, f := range a.records {
		hits[i] = counted[f]
	}
	return hits, nil
}

// page opens a page of a table. The caller closes it.
func (e *Engine) page(name string, generation uint32, n int) (m *ebpf.Map, err error) {
	err = e.maps[name].Lookup(uint32(n*bpf.Generations)+generation, &m)
	return m, err
}

// addEditionPages gives each edition its pages, which both generations find.
func (e *Engine) addEditionPages() error {
	return inParallel([]string{bpf.WFPMapCells, bpf.WFPMapBuckets, bpf.WFPMapFilters, bpf.WFPMapHits}, func(name string) error {
		var keys, fds []uint32
		for edition := range bpf.Editions {
			m, err := e.innerMap(name, 1)
			if err != nil {
				return err
			}
			defer m.Close()
			for generation := range bpf.Generations {
				keys = append(keys, uint32((bpf.PagesAmended+edition)*bpf.Generations+generation))
				fds = append(fds, uint32(m.FD()))
			}
		}
		_, err := e.maps[name].BatchUpdate(keys, fds, nil)
		return err
	})
}

// inParallel calls fn with each name. To replace entries of an outer map takes the
// kernel some ten milliseconds, in which it waits for programs that may read what was
// there before: this way it waits for all at once.
func inParallel(names []string, fn func(name string) error) error {
	var (
		group sync.WaitGroup
		mu    sync.Mutex
		errs  []error
	)
	for _, name := range names {
		group.Go(func() {
			if err := fn(name); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, fmt.Errorf("filling table %s: %w", name, err))
			}
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

// innerMap makes an inner map as the outer one wants it, with room for n.
func (e *Engine) innerMap(name string, n int) (*ebpf.Map, error) {
	spec := e.spec.Maps[name].InnerMap.Copy()
	spec.Name = name
	spec.MaxEntries = uint32(max(n, 1))
	return ebpf.NewMap(spec)
}

// put puts an inner map into a slot and closes it.
func (e *Engine) put(name string, slot uint32, m *ebpf.Map, err error) error {
	if m == nil {
		return err
	}
	if err == nil {
		err = e.maps[name].Put(slot, m)
	}
	return errors.Join(err, m.Close())
}

// write fills a map through its memory, in which elements stand as in a slice: their
// sizes are multiples of 8, or there is one page of them.
func write[V any](m *ebpf.Map, values []V) error {
	if len(values) == 0 {
		return nil
	}
	memory, err := m.Memory()
	if err != nil {
		return err
	}
	size := len(values) * int(unsafe.Sizeof(values[0]))
	_, err = memory.WriteAt(unsafe.Slice((*byte)(unsafe.Pointer(&values[0])), size), 0)
	return err
}

// paged makes the pages of a table, and removes those that a larger one before has
// left.
func paged[V any](e *Engine, slot uint32, values []V, size int) func(string) error {
	return func(name string) error {
		var (
			keys []uint32
			fds  []uint32
			made []*ebpf.Map
			err  error
		)
		for from := 0; from < len(values) && err == nil; from += size {
			var m *ebpf.Map
			if m, err = e.innerMap(name, 1); err != nil {
				break
			}
			err = write(m, values[from:min(from+size, len(values))])
			keys = append(keys, uint32(from/size*bpf.Generations)+slot)
			fds, made = append(fds, uint32(m.FD())), append(made, m)
		}
		if err == nil && len(keys) > 0 {
			_, err = e.maps[name].BatchUpdate(keys, fds, nil)
		}
		for _, m := range made {
			err = errors.Join(err, m.Close())
		}
		if err != nil {
			return err
		}
		for key := uint32(len(keys)*bpf.Generations) + slot; key < uint32(bpf.PagesAmended*bpf.Generations); key += uint32(bpf.Generations) {
			if err := e.maps[name].Delete(key); errors.Is(err, ebpf.ErrKeyNotExist) {
				break
			} else if err != nil {
				return err
			}
		}
		return nil
	}
}

// innerHash leaves room for what comes later: new links, moved executables.
func innerHash[K comparable, V any](e *Engine, slot uint32, entries map[K]V) func(string) error {
	return func(name string) error {
		m, err := e.innerMap(name, 2*len(entries)+1024)
		for k, v := range entries {
			if err == nil {
				err = m.Put(k, v)
			}
		}
		return e.put(name, slot, m, err)
	}
}

// syncMap makes a map hold exactly the wanted entries. It reports how many it
// changed, and calls first, if there is such a function, before it changes any.
func syncMap[K, V comparable](m *ebpf.Map, want map[K]V, first func() error) (changed int, err error) {
	var (
		k     K
		v     V
		stale []K
		have  = map[K]V{}
		fresh = map[K]V{}
	)
	it := m.Iterate()
	for it.Next(&k, &v) {
		have[k] = v
		if _, ok := want[k]; !ok {
			stale = append(stale, k)
		}
	}
	if err := it.Err(); err != nil {
		return 0, err
	}
	for k, v := range want {
		if old, ok := have[k]; !ok || old != v {
			fresh[k] = v
		}
	}
	if first != nil && len(fresh)+len(stale) > 0 {
		if err := first(); err != nil {
			return 0, err
		}
	}
	for k, v := range fresh {
		changed++
		if err := m.Put(k, v); err != nil {
			return changed, err
		}
	}
	for _, k := range stale {
		changed++
		if err := m.Delete(k); err != nil {
			return changed, err
		}
	}
	return changed, nil
}
