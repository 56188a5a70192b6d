// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"unsafe"

	"github.com/cilium/ebpf"

	"github.com/wfpebpf/wfpebpf/bpf"
	"github.com/wfpebpf/wfpebpf/layermap"
)

// upload fills the tables of a generation that is not in force. Each inner map
// is made with the size that its content needs.
func (e *Engine) upload(slot uint32, t *tables, links map[uint32]bpf.Link, principals map[bpf.Principal]uint32) error {
	for _, put := range []struct {
		name string
		fill func(name string) (*ebpf.Map, error)
	}{
		{bpf.WFPMapCells, inner(e, t.lines())},
		{bpf.WFPMapBuckets, inner(e, t.buckets)},
		{bpf.WFPMapBranches, inner(e, t.branches)},
		{bpf.WFPMapCuts, inner(e, t.cuts)},
		{bpf.WFPMapFilters, inner(e, t.filters)},
		{bpf.WFPMapHits, inner(e, make([]uint64, len(t.filters)))},
		{bpf.WFPMapPrincipals, innerHash(e, principals)},
		{bpf.WFPMapLinks, innerHash(e, links)},
	} {
		m, err := put.fill(put.name)
		if err != nil {
			return fmt.Errorf("filling table %s: %w", put.name, err)
		}
		err = e.maps[put.name].Put(slot, m)
		m.Close()
		if err != nil {
			return fmt.Errorf("filling table %s: %w", put.name, err)
		}
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

// lines is the cells as the map holds them.
func (t *tables) lines() []bpf.Line {
	const cells = len(bpf.Line{}.Cell)
	for len(t.cells)%cells != 0 {
		t.cells = append(t.cells, 0)
	}
	return unsafe.Slice((*bpf.Line)(unsafe.Pointer(unsafe.SliceData(t.cells))), len(t.cells)/cells)
}

// inner makes and fills an inner map through its memory, in which elements stand as
// in a slice: their sizes are multiples of 8.
func inner[V any](e *Engine, values []V) func(string) (*ebpf.Map, error) {
	return func(name string) (*ebpf.Map, error) {
		m, err := e.innerMap(name, len(values))
		if err != nil || len(values) == 0 {
			return m, err
		}
		memory, err := m.Memory()
		if err == nil {
			size := len(values) * int(unsafe.Sizeof(values[0]))
			_, err = memory.WriteAt(unsafe.Slice((*byte)(unsafe.Pointer(&values[0])), size), 0)
		}
		if err != nil {
			m.Close()
			return nil, err
		}
		return m, nil
	}
}

// innerHash leaves room for what comes later: new links, moved executables.
func innerHash[K comparable, V any](e *Engine, entries map[K]V) func(string) (*ebpf.Map, error) {
	return func(name string) (*ebpf.Map, error) {
		m, err := e.innerMap(name, 2*len(entries)+1024)
		if err != nil {
			return nil, err
		}
		for k, v := range entries {
			if err := m.Put(k, v); err != nil {
				m.Close()
				return nil, err
			}
		}
		return m, nil
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
