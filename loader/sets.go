// SPDX-License-Identifier: Apache-2.0

// This file keeps the sets of addresses that a policy in force names. A record
// is read often (by a watch, for each list, by who reads events) and would be
// half a million addresses long; it holds what a set is called and its digest.
// The addresses lie beside it, once for each generation that has them:
//
//	RUN/set-N-DIGEST      a set of commit N, filter.AddressSet.MarshalBinary
//
// A set that the commit before had, too, is another name of the same file.

package loader

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/wfpebpf/wfpebpf/filter"
)

func (in *instance) setPath(generation uint64, s *filter.AddressSet) string {
	return filepath.Join(in.run, fmt.Sprintf("set-%d-%s", generation, s.Digest()))
}

// sets lists the sets that filters name, each object once.
func sets(filters []*filter.Filter) []*filter.AddressSet {
	var list []*filter.AddressSet
	seen := map[*filter.AddressSet]bool{}
	for _, f := range filters {
		for _, s := range f.Sets() {
			if !seen[s] {
				seen[s] = true
				list = append(list, s)
			}
		}
	}
	return list
}

// writeSets writes the sets of a record that is about to be written. Those of a
// record that was read have no addresses; a generation that is kept has them.
func (in *instance) writeSets(r *record) error {
	if r.change != nil {
		return nil // they lie under its base
	}
	for _, s := range sets(r.Filters) {
		path := in.setPath(r.Generation, s)
		if exists(path) {
			continue
		}
		if in.linkSet(s, path) {
			continue
		}
		data, err := s.MarshalBinary()
		if err != nil {
			return fmt.Errorf("keeping %s: %w", s, err)
		}
		if err := writeFile(path, data); err != nil {
			return fmt.Errorf("keeping %s: %w", s, err)
		}
	}
	return nil
}

// linkSet gives the file of another generation with the same addresses another
// name.
func (in *instance) linkSet(s *filter.AddressSet, path string) bool {
	same, _ := filepath.Glob(filepath.Join(in.run, "set-*-"+s.Digest()))
	for _, other := range same {
		if os.Link(other, path) == nil {
			return true
		}
	}
	return false
}

// loadSets gives the sets of a record that was read their addresses. Sets with
// the same addresses come to share them.
func (in *instance) loadSets(r *record) error {
	loaded := map[string]*filter.AddressSet{} // by name and digest
	for _, f := range r.Filters {
		for i := range f.Conditions {
			v := &f.Conditions[i].Value
			if v.Set == nil || v.Set.Loaded() {
				continue
			}
			id := v.Set.Digest() + v.Set.Name()
			if loaded[id] == nil {
				data, err := os.ReadFile(in.setPath(r.base(), v.Set))
				if err != nil {
					return err
				}
				if loaded[id], err = v.Set.Load(data); err != nil {
					return err
				}
			}
			v.Set = loaded[id]
		}
	}
	return nil
}

// setRefs names the sets of a filter, for lists.
func setRefs(f *filter.Filter) []SetRef {
	var refs []SetRef
	for _, s := range f.Sets() {
		refs = append(refs, SetRef{Name: s.Name(), Entries: s.Entries()})
	}
	return refs
}

// Sets lists the sets of addresses that filters in force name.
func (e *Engine) Sets() ([]SetRow, error) {
	rec, err := e.record()
	if err != nil {
		return nil, err
	}
	rows := []SetRow{}
	at := map[string]int{} // by name, which is unique in a policy
	for _, f := range rec.Filters {
		for _, s := range f.Sets() {
			i, known := at[s.Name()]
			if !known {
				i = len(rows)
				at[s.Name()] = i
				rows = append(rows, SetRow{Name: s.Name(), File: s.Source(), Entries: s.Entries(), V4: s.Ranges4(), V6: s.Ranges6()})
			}
			rows[i].Filters++
		}
	}
	return rows, nil
}
