// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"

	"github.com/wfpebpf/wfpebpf/bpf"
	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
)

// layerName is a layer's name without FWPS_LAYER_, as in all JSON.
func layerName(id layermap.LayerID) string { return strings.TrimPrefix(id.String(), "FWPS_LAYER_") }

func (r *record) subLayerNames() map[filter.GUID]string {
	names := map[filter.GUID]string{}
	for _, s := range append(filter.BuiltinSubLayers(), r.SubLayers...) {
		names[s.Key] = strings.TrimPrefix(s.Name, "FWPM_SUBLAYER_")
	}
	names[filter.GUID{}] = names[filter.SubLayerUniversal]
	return names
}

// Filters lists the filters in force in file order, with the decisions of each since
// the tables were made that it stands in: a commit that only amends them leaves the
// counts as they are.
func (e *Engine) Filters() ([]FilterRow, error) {
	rec, err := e.record()
	if err != nil {
		return nil, err
	}
	hits, err := e.hits(rec)
	if err != nil {
		return nil, err
	}
	names := rec.subLayerNames()
	rows := make([]FilterRow, 0, len(rec.Filters))
	for _, f := range rec.Filters {
		rows = append(rows, FilterRow{
			ID: f.ID, Name: f.Name, Layer: layerName(f.Layer), SubLayer: names[f.SubLayer],
			Weight: f.EffectiveWeight, Action: f.Action.Short(), Hits: hits[f.ID],
			Sets: setRefs(f),
		})
	}
	return rows, nil
}

func (e *Engine) hits(rec *record) (map[filter.ID]uint64, error) {
	counts := make(map[filter.ID]uint64, len(rec.Order))
	read := func(n int, order []filter.ID) error {
		m, err := e.page(bpf.WFPMapHits, rec.Place.Generation, n)
		if err != nil {
			return err
		}
		defer m.Close()
		page := make([]uint64, bpf.HitsPage)
		if err := m.Lookup(uint32(0), &page); err != nil {
			return err
		}
		for i, id := range order {
			counts[id] = page[i]
		}
		return nil
	}
	for from := 0; from < len(rec.Order); from += bpf.HitsPage {
		if err := read(from/bpf.HitsPage, rec.Order[from:min(from+bpf.HitsPage, len(rec.Order))]); err != nil {
			return nil, err
		}
	}
	if rec.change == nil || len(rec.change.Order) == 0 {
		return counts, nil
	}
	return counts, read(bpf.PagesAmended+int(rec.Place.Edition), rec.change.Order)
}

// SubLayers lists the sublayers that have filters in force, in evaluation order.
func (e *Engine) SubLayers() ([]SubLayerRow, error) {
	rec, err := e.record()
	if err != nil {
		return nil, err
	}
	count := map[filter.GUID]int{}
	for _, f := range rec.Filters {
		count[subLayerKey(f)]++
	}
	var rows []SubLayerRow
	for _, s := range rec.store().SubLayers() {
		if n := count[s.Key]; n > 0 {
			rows = append(rows, SubLayerRow{Key: s.Key.String(), Name: strings.TrimPrefix(s.Name, "FWPM_SUBLAYER_"), Weight: s.Weight, Filters: n})
		}
	}
	slices.SortStableFunc(rows, func(a, b SubLayerRow) int { return int(b.Weight) - int(a.Weight) })
	return rows, nil
}

// Callouts lists the callouts that the policy declares. Those that the programs
// provide are registered; any other follows the rule for unregistered callouts.
func (e *Engine) Callouts() ([]CalloutRow, error) {
	rec, err := e.record()
	if err != nil {
		return nil, err
	}
	rows := []CalloutRow{}
	for _, c := range rec.Callouts {
		rows = append(rows, CalloutRow{Key: c.Key.String(), Name: c.Name, Layer: layerName(c.Layer), Registered: filter.Provided[c.Key] != nil})
	}
	return rows, nil
}

// Hooks lists the attachments.
func (e *Engine) Hooks() ([]HookRow, error) {
	rec, err := e.record()
	if err != nil {
		return nil, err
	}
	names, err := e.in.attached()
	if err != nil {
		return nil, err
	}
	rows := []HookRow{}
	for i := range hooks {
		h := &hooks[i]
		for _, name := range names {
			kind, ifname, _ := strings.Cut(name, "@")
			if kind != h.name {
				continue
			}
			row := HookRow{Hook: h.name, Target: ifname, Link: strings.TrimPrefix(filepath.Join(e.in.pins, "links", name), hostRoot())}
			switch {
			case h.kind == onCgroup, h.kind == onTracing, h.kind == onLSM: // which looks at the sockets of the cgroup
				row.Target = e.in.info.Cgroup
			case !h.kind.onLink():
				// as the kernel writes a namespace that has no name
				row.Target = cmp.Or(e.in.info.Netns, fmt.Sprintf("net:[%d]", e.in.info.NetnsInode))
			}
			for _, id := range h.layers {
				if rec.Layers[id] > 0 {
					row.Layers = append(row.Layers, layerName(id))
				}
			}
			rows = append(rows, row)
		}
	}
	return rows, nil
}

// State gives an overview.
func (e *Engine) State() (State, error) {
	rec, err := e.record()
	if err != nil {
		return State{}, err
	}
	s := State{
		Netns: e.in.info.Netns, Cgroup: e.in.info.Cgroup, Generation: rec.Generation, Applied: rec.Applied,
		Filters: map[string]int{}, Failsafes: rec.Failsafes, Unconfirmed: rec.Unconfirmed,
	}
	for id, n := range rec.Layers {
		s.Filters[layerName(id)] = n
	}
	for _, c := range []struct {
		counter uint32
		into    *uint64
	}{
		{bpf.CounterLost, &s.LostEvents}, {bpf.CounterError, &s.Errors},
		{bpf.CounterNoIdentity, &s.NoIdentity}, {bpf.CounterUnreadable, &s.Unreadable},
	} {
		if *c.into, err = e.counter(c.counter); err != nil {
			return s, err
		}
	}
	if s.Memory, err = e.memory(); err != nil {
		return s, err
	}
	if c := rec.change; c != nil && len(c.Added)+len(c.Removed) > 0 {
		s.Amends = &Amends{Generation: c.Base, Added: len(c.Added), Removed: len(c.Removed)}
	}
	s.Stale, err = e.stale(rec)
	return s, err
}

func (e *Engine) counter(c uint32) (sum uint64, err error) {
	var perCPU []uint64
	if err := e.maps[bpf.WFPMapCounters].Lookup(c, &perCPU); err != nil {
		return 0, err
	}
	for _, n := range perCPU {
		sum += n
	}
	return sum, nil
}

// memory adds up what the maps and the tables in them take.
func (e *Engine) memory() (uint64, error) {
	var sum uint64
	seen := map[ebpf.MapID]bool{} // both generations have the editions' pages
	add := func(m *ebpf.Map) error {
		info, err := m.Info()
		if err != nil {
			return err
		}
		id, _ := info.ID()
		if n, ok := info.Memlock(); ok && !seen[id] {
			sum += n
			seen[id] = true
		}
		return nil
	}
	for _, m := range e.maps {
		if err := add(m); err != nil {
			return 0, err
		}
		if m.Type() != ebpf.ArrayOfMaps {
			continue
		}
		for slot := range m.MaxEntries() {
			var in *ebpf.Map
			if m.Lookup(slot, &in) != nil {
				continue // not filled yet
			}
			err := add(in)
			in.Close()
			if err != nil {
				return 0, err
			}
		}
	}
	return sum, nil
}

// stale names what the tables say and the host says otherwise.
func (e *Engine) stale(rec *record) ([]string, error) {
	stale := []string{}
	principals, gone := rec.Numbers.principals()
	stale = append(stale, gone...)
	have, err := readTable[bpf.Principal, uint32](e, bpf.WFPMapPrincipals, rec)
	if err != nil {
		return nil, err
	}
	for p, n := range principals {
		if have[p] != n && p.Kind == bpf.PrincipalApp {
			stale = append(stale, fmt.Sprintf("app %s was replaced", rec.Numbers.Apps[n]))
		}
	}
	if e.ns.inode != e.in.info.NetnsInode {
		return append(stale, fmt.Sprintf("network namespace %q is gone", e.in.info.Netns)), nil
	}
	h, devs, err := e.links()
	if err != nil {
		return nil, err
	}
	defer h.Close()
	known, err := readTable[uint32, bpf.Link](e, bpf.WFPMapLinks, rec)
	if err != nil {
		return nil, err
	}
	missing, err := e.missing(spots(rec.Layers, e.selected(devs)))
	if err != nil {
		return nil, err
	}
	for _, d := range devs {
		if known[uint32(d.Index)] != d.fact(rec.linkPolicy()) {
			stale = append(stale, fmt.Sprintf("link %s is new or changed", d.Name))
		}
	}
	if err := e.absent(devs); err != nil {
		stale = append(stale, err.Error())
	}
	for _, s := range missing {
		stale = append(stale, s.pin()+" is not attached")
	}
	table, err := routes(h)
	if err == nil {
		err = table.fillSources(h)
	}
	if err != nil {
		return nil, err
	}
	haveRoutes := routeTable{}
	if err := readAll(e.maps[bpf.WFPMapRoutes], haveRoutes); err != nil {
		return nil, err
	}
	for k, r := range table {
		if haveRoutes[k] != r {
			stale = append(stale, "routes or addresses changed")
			break
		}
	}
	slices.Sort(stale)
	return stale, nil
}

// readTable reads a table of the generation in force.
func readTable[K, V comparable](e *Engine, name string, rec *record) (map[K]V, error) {
	var m *ebpf.Map
	if err := e.maps[name].Lookup(rec.Place.Generation, &m); err != nil {
		return nil, err
	}
	defer m.Close()
	table := map[K]V{}
	return table, readAll(m, table)
}

func readAll[M ~map[K]V, K, V comparable](m *ebpf.Map, into M) error {
	var (
		k K
		v V
	)
	it := m.Iterate()
	for it.Next(&k, &v) {
		into[k] = v
	}
	return it.Err()
}

// exists reports whether a path is there.
func exists(path string) bool { _, err := os.Stat(path); return err == nil }
