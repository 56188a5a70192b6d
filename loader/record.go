// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/wfpebpf/wfpebpf/bpf"
	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
	"github.com/wfpebpf/wfpebpf/policy"
)

// record is policy-N.json: what is needed to explain, list and keep current a
// policy without its files.
type record struct {
	Generation  uint64                      `json:"generation"`
	Applied     time.Time                   `json:"applied"`
	Unconfirmed bool                        `json:"unconfirmed"`
	Filters     []*filter.Filter            `json:"filters,omitempty"` // of the store, in file order
	SubLayers   []filter.SubLayer           `json:"subLayers"`
	Callouts    []filter.Callout            `json:"callouts"`
	Contexts    []filter.ProviderContext    `json:"contexts,omitempty"` // that filters redirect by
	Services    map[filter.SID]string       `json:"services"`
	Packages    map[filter.SID]string       `json:"packages"`
	Links       map[string]policy.LinkFacts `json:"links"`
	Profile     uint32                      `json:"profile"`
	Failsafes   []string                    `json:"failsafes"`
	Order       []filter.ID                 `json:"order,omitempty"` // behind each record of the filters table
	Layers      map[layermap.LayerID]int    `json:"layers"`          // filters that can decide, by layer
	Numbers     *numbers                    `json:"numbers"`
	Place       place                       `json:"place"` // of its tables

	change *change // what it is but for that of another commit; nil: it is whole
}

// change is change-N.json: a commit that amends the policy of another one, whose
// record stays as long as this one does. What the two have in common is there.
type change struct {
	Base        uint64                   `json:"base"` // the other commit
	Generation  uint64                   `json:"generation"`
	Applied     time.Time                `json:"applied"`
	Unconfirmed bool                     `json:"unconfirmed"`
	Removed     []filter.ID              `json:"removed,omitempty"`
	Added       []*filter.Filter         `json:"added,omitempty"`
	Order       []filter.ID              `json:"order,omitempty"` // behind each record of the edition
	Failsafes   []string                 `json:"failsafes"`
	Layers      map[layermap.LayerID]int `json:"layers"`
	Place       place                    `json:"place"`
}

func newRecord(p *policy.Policy, t *tables) *record {
	r := &record{
		Applied: time.Now(), Filters: p.Store.Filters(), Services: p.Services, Packages: p.Packages,
		Links: p.Links, Profile: p.DefaultProfile, Failsafes: p.Failsafes, Numbers: t.numbers,
		Layers: t.counts,
	}
	for _, s := range p.Store.SubLayers() {
		r.SubLayers = append(r.SubLayers, *s)
	}
	for _, c := range p.Store.Callouts() {
		r.Callouts = append(r.Callouts, *c)
	}
	r.Contexts = redirectContexts(p.Store)
	for _, f := range t.records {
		id := filter.ID(0) // a position that is not used
		if f != nil {
			id = f.ID
		}
		r.Order = append(r.Order, id)
	}
	return r
}

// apply makes the record of a change from that of its base.
func (c *change) apply(base *record) *record {
	r := c.head(base)
	removed := make(map[filter.ID]bool, len(c.Removed))
	for _, id := range c.Removed {
		removed[id] = true
	}
	r.Filters = slices.DeleteFunc(slices.Clone(base.Filters), func(f *filter.Filter) bool { return removed[f.ID] })
	r.Filters = append(r.Filters, c.Added...)
	return r
}

// head is that record without its filters.
func (c *change) head(base *record) *record {
	r := *base
	r.Generation, r.Applied, r.Unconfirmed = c.Generation, c.Applied, c.Unconfirmed
	r.Failsafes, r.Layers, r.Place, r.Filters, r.change = c.Failsafes, c.Layers, c.Place, nil, c
	return &r
}

// base is the commit whose record holds most of this one, and its sets.
func (r *record) base() uint64 {
	if r.change != nil {
		return r.change.Base
	}
	return r.Generation
}

// again is what a commit that has the policy and the tables of this one records.
func (r *record) again(generation uint64) *record {
	c := change{Base: r.base()}
	if r.change != nil {
		c = *r.change
	}
	c.Failsafes, c.Layers = r.Failsafes, r.Layers
	now := *r
	now.Generation, now.Unconfirmed, now.change = generation, false, &c
	return &now
}

// store makes the policy's objects again.
func (r *record) store() *filter.Store {
	s := filter.NewStore()
	// what is built in is there already; everything was valid when committed
	for _, l := range r.SubLayers {
		s.AddSubLayer(l)
	}
	for _, c := range r.Callouts {
		s.AddCallout(c)
	}
	for _, c := range r.Contexts {
		c.Provider = filter.GUID{}
		s.AddProviderContext(c)
	}
	for _, f := range r.Filters {
		g := *f
		g.Provider = filter.GUID{}
		if s.ProviderContext(g.ProviderContext) == nil {
			g.ProviderContext = filter.GUID{}
			g.Flags &^= filter.FlagHasProviderContext
		}
		s.AddFilter(&g)
	}
	return s
}

func (r *record) linkPolicy() *linkPolicy { return &linkPolicy{Links: r.Links, Default: r.Profile} }

func (in *instance) recordPath(generation uint64) string {
	return filepath.Join(in.run, fmt.Sprintf("policy-%d.json", generation))
}

func (in *instance) changePath(generation uint64) string {
	return filepath.Join(in.run, fmt.Sprintf("change-%d.json", generation))
}

func (in *instance) lostPath(generation uint64) string {
	return filepath.Join(in.run, fmt.Sprintf("lost-%d", generation))
}

func (in *instance) hasRecord(generation uint64) bool {
	return exists(in.changePath(generation)) || exists(in.recordPath(generation))
}

// loseTables notes that the tables of a commit are about to be overwritten by those
// of one that may fail: a roll-back must make them again.
func (in *instance) loseTables(generation uint64) error {
	if !in.hasRecord(generation) {
		return nil
	}
	return os.WriteFile(in.lostPath(generation), nil, 0o600)
}

func (in *instance) lostTables(generation uint64) bool { return exists(in.lostPath(generation)) }

func (in *instance) readRecord(generation uint64) (*record, error) {
	c, err := in.readChange(generation)
	if errors.Is(err, os.ErrNotExist) {
		return in.readWhole(generation)
	}
	if err != nil {
		return nil, err
	}
	base, err := in.readWhole(c.Base)
	if errors.Is(err, os.ErrNotExist) {
		return nil, damaged(in.changePath(generation)) // nobody removes what it amends
	}
	if err != nil {
		return nil, err
	}
	return c.apply(base), nil
}

func (in *instance) readWhole(generation uint64) (*record, error) {
	r := &record{}
	path := in.recordPath(generation)
	if err := readJSON(path, r); err != nil {
		return nil, err
	}
	if !r.whole() {
		return nil, damaged(path)
	}
	return r, nil
}

func (in *instance) readChange(generation uint64) (*change, error) {
	c := &change{}
	path := in.changePath(generation)
	if err := readJSON(path, c); err != nil {
		return nil, err
	}
	if slices.Contains(c.Added, nil) || len(c.Order) > bpf.FilterPage || !c.Place.valid() {
		return nil, damaged(path)
	}
	return c, nil
}

func damaged(path string) error {
	return fmt.Errorf("%s is damaged: run wfpebpf down and apply again", path)
}

// whole reports whether what the rest of the package relies on is there.
func (r *record) whole() bool {
	n := r.Numbers
	return n != nil && !slices.Contains(r.Filters, nil) && r.Place.valid() &&
		len(n.Apps) > 0 && len(n.UIDs) > 0 && len(n.GIDs) > 0 &&
		len(n.Services) > 0 && len(n.Services) == len(n.ServiceSIDs) &&
		len(n.Packages) > 0 && len(n.Packages) == len(n.PackageSIDs)
}

// writeRecord writes a record, in which the filters are written by themselves: they
// are nearly all of the file, and a commit waits for it.
func (in *instance) writeRecord(r *record) error {
	if c := r.change; c != nil {
		c.Generation, c.Applied, c.Unconfirmed, c.Place = r.Generation, r.Applied, r.Unconfirmed, r.Place
		return writeJSON(in.changePath(r.Generation), c)
	}
	rest := *r
	rest.Filters, rest.Order = nil, nil
	b, err := json.Marshal(rest)
	if err != nil {
		return err
	}
	b = append(b[:len(b)-1], `,"filters":[`...)
	for i, f := range r.Filters {
		if i > 0 {
			b = append(b, ',')
		}
		b = f.AppendJSON(b)
	}
	b = append(b, `],"order":[`...)
	for i, id := range r.Order {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendUint(b, uint64(id), 10)
	}
	return writeFile(in.recordPath(r.Generation), append(b, "]}"...))
}

// keep writes a record and the sets that it names.
func (in *instance) keep(r *record) error {
	if err := in.writeSets(r); err != nil {
		return err
	}
	return in.writeRecord(r)
}

// drop removes what was kept of a commit that did not come about.
func (in *instance) drop(generation uint64) error {
	return in.remove(func(of uint64) bool { return of == generation })
}

// baseOf is the commit that one amends, or itself.
func (in *instance) baseOf(generation uint64) uint64 {
	if c, err := in.readChange(generation); err == nil {
		return c.Base
	}
	return generation
}

// forget removes what is kept of all commits but some.
func (in *instance) forget(keep ...uint64) error {
	return in.remove(func(of uint64) bool { return !slices.Contains(keep, of) })
}

// remove removes the files of some commits.
func (in *instance) remove(obsolete func(generation uint64) bool) error {
	entries, err := os.ReadDir(in.run)
	for _, e := range entries {
		var generation uint64
		for _, form := range []string{"policy-%d.json", "change-%d.json", "lost-%d", "set-%d-"} {
			if n, _ := fmt.Sscanf(e.Name(), form, &generation); n == 1 && obsolete(generation) && !e.IsDir() {
				err = errors.Join(err, os.Remove(filepath.Join(in.run, e.Name())))
			}
		}
	}
	return err
}
