// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"sync"
	"unsafe"

	"github.com/cilium/ebpf"

	"github.com/wfpebpf/wfpebpf/bpf"
	"github.com/wfpebpf/wfpebpf/layermap"
)

// generations is how many policies have tables at a time.
const generations = 2

// upload fills the tables of a generation that is not in force. Each inner map
// is made with the size that its content needs.
func (e *Engine) upload(slot uint32, t *tables, links map[uint32]bpf.Link, principals map[bpf.Principal]uint32) error {
	// To replace an outer map's entry takes the kernel some ten milliseconds, in which
	// it waits for programs that may read the entry before: it waits for all at once.
	var (
		group sync.WaitGroup
		mu    sync.Mutex
		errs  []error
	)
	for name, fill := range map[string]func(name string) error{
		bpf.WFPMapCells:      paged(e, slot, t.cells, bpf.CellPage),
		bpf.WFPMapBuckets:    paged(e, slot, t.buckets, bpf.BucketPage),
		bpf.WFPMapBranches:   paged(e, slot, t.branches, bpf.BranchPage),
		bpf.WFPMapCuts:       paged(e, slot, t.cuts, bpf.CutPage),
		bpf.WFPMapFilters:    paged(e, slot, t.filters, bpf.FilterPage),
		bpf.WFPMapHits:       paged(e, slot, make([]uint64, len(t.filters)), bpf.HitsPage),
		bpf.WFPMapPrincipals: innerHash(e, slot, principals),
		bpf.WFPMapLinks:      innerHash(e, slot, links),
	} {
		group.Go(func() {
			if err := fill(name); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, fmt.Errorf("filling table %s: %w", name, err))
			}
		})
	}
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := e.maps[bpf.WFPMapGenerations].Put(slot, t.generation); err != nil {
		return fmt.Errorf("filling table generations: %w", err)
	}
	for id := range bpf.LayerSlots {
		l := t.layers[layermap.LayerID(id)]
		if l == nil {
			l = &bpf.Layer{}
		}
		if err := e.maps[bpf.WFPMapLayers].Put(slot*uint32(bpf.LayerSlots)+uint32(id), l); err != nil {
			return fmt.Errorf("filling table layers: %w", err)
		}
	}
	return nil
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
			keys = append(keys, uint32(from/size*generations)+slot)
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
		for key := uint32(len(keys)*generations) + slot; key < e.maps[name].MaxEntries(); key += generations {
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
