// SPDX-License-Identifier: Apache-2.0

// This file is the base filtering engine's set of objects: what exists, what
// may refer to what, and in which order a layer's filters are evaluated. It
// keeps nothing on disk and knows no transactions; Clone is what those are
// made of.

package filter

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"

	"github.com/wfpebpf/wfpebpf/layermap"
)

// Limits of the engine (wfp-error-codes). The document's figure for sublayers
// is garbled; a weight is a UINT16, which gives the number.
const (
	maxCallouts  = 100000
	maxSubLayers = 1 << 16
)

// Store holds the objects. Any number of goroutines may read it at once; one
// that changes it must be alone.
type Store struct {
	providers map[GUID]*Provider
	contexts  map[GUID]*ProviderContext
	subLayers map[GUID]*SubLayer
	callouts  map[GUID]*Callout

	filters []*Filter // in the order they were added
	byID    map[ID]*Filter
	byKey   map[GUID]*Filter
	lastID  ID // the highest ever used

	mu    sync.Mutex // guards plans, which readers fill
	plans map[layermap.LayerID]*Plan
}

// NewStore returns a store that holds WFP's own sublayers and providers.
func NewStore() *Store {
	s := &Store{
		providers: map[GUID]*Provider{},
		contexts:  map[GUID]*ProviderContext{},
		subLayers: map[GUID]*SubLayer{},
		callouts:  map[GUID]*Callout{},
		byID:      map[ID]*Filter{},
		byKey:     map[GUID]*Filter{},
		plans:     map[layermap.LayerID]*Plan{},
	}
	for _, p := range BuiltinProviders() {
		s.providers[p.Key] = &p
	}
	for _, l := range BuiltinSubLayers() {
		s.subLayers[l.Key] = &l
	}
	return s
}

// Clone returns a store with the same objects. Adding to and deleting from one
// does not change the other; the objects themselves are shared.
func (s *Store) Clone() *Store {
	return &Store{
		providers: maps.Clone(s.providers),
		contexts:  maps.Clone(s.contexts),
		subLayers: maps.Clone(s.subLayers),
		callouts:  maps.Clone(s.callouts),
		filters:   slices.Clone(s.filters),
		byID:      maps.Clone(s.byID),
		byKey:     maps.Clone(s.byKey),
		lastID:    s.lastID,
		plans:     map[layermap.LayerID]*Plan{},
	}
}

// AddProvider adds a provider. Errors: ErrNullDisplayName, ErrInvalidParameter
// (no key), ErrAlreadyExists.
func (s *Store) AddProvider(p Provider) error {
	if err := s.checkNew("provider", p.Name, p.Key, GUID{}, s.providers[p.Key] != nil); err != nil {
		return err
	}
	s.providers[p.Key] = &p
	return nil
}

// AddProviderContext adds a provider context. Errors: those of AddProvider and
// ErrProviderNotFound.
func (s *Store) AddProviderContext(c ProviderContext) error {
	if err := s.checkNew("provider context", c.Name, c.Key, c.Provider, s.contexts[c.Key] != nil); err != nil {
		return err
	}
	s.contexts[c.Key] = &c
	return nil
}

// AddSubLayer adds a sublayer. Errors: those of AddProvider,
// ErrProviderNotFound and ErrTooManySubLayers. Two sublayers may have the same
// weight; the order of their keys then decides.
func (s *Store) AddSubLayer(l SubLayer) error {
	if err := s.checkNew("sublayer", l.Name, l.Key, l.Provider, s.subLayers[l.Key] != nil); err != nil {
		return err
	}
	if len(s.subLayers) >= maxSubLayers {
		return objectError("sublayer", l.Name, ErrTooManySubLayers, "", "delete one that has no filters")
	}
	s.subLayers[l.Key] = &l
	clear(s.plans)
	return nil
}

// AddCallout adds a callout's management object, which says nothing about
// whether the callout is registered (see Callouts). A built-in callout need
// not be added. Errors: those of AddProvider, ErrProviderNotFound,
// ErrLayerNotFound and ErrTooManyCallouts.
func (s *Store) AddCallout(c Callout) error {
	if err := s.checkNew("callout", c.Name, c.Key, c.Provider, s.callouts[c.Key] != nil); err != nil {
		return err
	}
	if l := layermap.ByID(c.Layer); l == nil || l.GUID == (GUID{}) {
		return objectError("callout", c.Name, ErrLayerNotFound, fmt.Sprintf("layer %d", c.Layer), "choose a layer that has a management key")
	}
	if len(s.callouts) >= maxCallouts {
		return objectError("callout", c.Name, ErrTooManyCallouts, "", "delete one that no filter uses")
	}
	s.callouts[c.Key] = &c
	return nil
}

// checkNew checks what all objects but filters have in common.
func (s *Store) checkNew(object, name string, key, provider GUID, exists bool) error {
	switch {
	case name == "":
		return objectError(object, key.String(), ErrNullDisplayName, "it has no display name", "give it one")
	case key == GUID{}:
		return objectError(object, name, ErrInvalidParameter, "it has no key", "give it one, for example from DeriveKey")
	case exists:
		return objectError(object, name, ErrAlreadyExists, "key "+key.String(), "give it another key")
	case provider != GUID{} && s.providers[provider] == nil:
		return objectError(object, name, ErrProviderNotFound, "provider "+provider.String(), "add the provider first")
	}
	return nil
}

func objectError(object, name string, code error, detail, remedy string) error {
	return &ObjectError{Object: object, Name: name, Err: code, Detail: detail, Remedy: remedy}
}

// AddFilter validates a filter and adds it. The store keeps f, which must not
// be changed afterwards, and fills in what the engine assigns: an id above the
// highest and a key, where they are zero; FWPM_SUBLAYER_UNIVERSAL, where no
// sublayer is named; the effective weight, unless KeepWeight is set. On an
// error f is as before.
//
// Errors: those of Validate, ErrSubLayerNotFound, ErrProviderNotFound,
// ErrCalloutNotFound, ErrIncompatibleLayer (the callout belongs to another
// layer), ErrProviderContextNotFound, ErrActionIncompatibleWithSublayer,
// ErrAlreadyExists.
func (s *Store) AddFilter(f *Filter) error {
	if err := f.Validate(); err != nil {
		return err
	}
	subLayer := f.SubLayer
	if subLayer == (GUID{}) {
		subLayer = SubLayerUniversal
	}
	if p := s.checkReferences(f, subLayer); p != nil {
		return f.refuse(p)
	}
	weight := f.EffectiveWeight
	if !f.KeepWeight {
		var err error
		if weight, err = EffectiveWeight(f); err != nil {
			return err
		}
	}
	id := f.ID
	if id == 0 {
		id = s.lastID + 1
	}
	if id == 0 || s.byID[id] != nil {
		return f.refuse(&problem{ErrAlreadyExists, fmt.Sprintf("filter id %d", id), "leave the id zero to have one assigned"})
	}
	key := f.Key
	if key == (GUID{}) {
		key = DeriveKey("filter id", strconv.FormatUint(uint64(id), 10))
	}
	if s.byKey[key] != nil {
		return f.refuse(&problem{ErrAlreadyExists, "filter key " + key.String(), "give it another key"})
	}
	f.ID, f.Key, f.SubLayer, f.EffectiveWeight = id, key, subLayer, weight
	s.filters = append(s.filters, f)
	s.byID[id], s.byKey[key] = f, f
	s.lastID = max(s.lastID, id)
	delete(s.plans, f.Layer)
	return nil
}

// checkReferences checks the objects that a filter refers to.
func (s *Store) checkReferences(f *Filter, subLayer GUID) *problem {
	if s.subLayers[subLayer] == nil {
		return &problem{ErrSubLayerNotFound, "sublayer " + subLayer.String(), "add the sublayer first"}
	}
	if f.Provider != (GUID{}) && s.providers[f.Provider] == nil {
		return &problem{ErrProviderNotFound, "provider " + f.Provider.String(), "add the provider first"}
	}
	if f.Flags&FlagHasProviderContext != 0 && s.contexts[f.ProviderContext] == nil {
		return &problem{ErrProviderContextNotFound, "provider context " + f.ProviderContext.String(), "add the provider context first"}
	}
	if subLayer == SubLayerInspection && f.Action != ActionCalloutInspection {
		return &problem{ErrActionIncompatibleWithSubLayer, f.Action.String() + " in FWPM_SUBLAYER_INSPECTION",
			"choose another sublayer or CALLOUT_INSPECTION"}
	}
	if !f.Action.IsCallout() {
		return nil
	}
	c := s.Callout(f.Callout)
	switch {
	case c == nil:
		return &problem{ErrCalloutNotFound, "callout " + f.Callout.String(), "add the callout first"}
	case c.Layer != f.Layer:
		return &problem{ErrIncompatibleLayer, fmt.Sprintf("callout %q belongs to %s", c.Name, c.Layer), "use a callout of the filter's layer"}
	case c.UsesProviderContext && f.Flags&FlagHasProviderContext == 0:
		return &problem{ErrContextIncompatibleWithCallout, fmt.Sprintf("callout %q needs a provider context", c.Name),
			"name one and set HAS_PROVIDER_CONTEXT"}
	}
	return nil
}

// DeleteFilter deletes a filter. Its id is not used again. Errors wrap
// ErrFilterNotFound.
func (s *Store) DeleteFilter(id ID) error {
	f := s.byID[id]
	if f == nil {
		return objectError("filter", strconv.FormatUint(uint64(id), 10), ErrFilterNotFound, "", "list the filters for their ids")
	}
	delete(s.byID, id)
	delete(s.byKey, f.Key)
	s.filters = slices.DeleteFunc(s.filters, func(g *Filter) bool { return g == f })
	delete(s.plans, f.Layer)
	return nil
}

// Filter returns the filter with an id, or nil.
func (s *Store) Filter(id ID) *Filter { return s.byID[id] }

// FilterByKey returns the filter with a key, or nil.
func (s *Store) FilterByKey(key GUID) *Filter { return s.byKey[key] }

// Filters returns all filters in the order they were added. The slice is the
// caller's.
func (s *Store) Filters() []*Filter { return slices.Clone(s.filters) }

// SubLayer returns the sublayer with a key, or nil.
func (s *Store) SubLayer(key GUID) *SubLayer { return s.subLayers[key] }

// SubLayers returns all sublayers, highest weight first, those of one weight
// in the order of their keys.
func (s *Store) SubLayers() []*SubLayer {
	return slices.SortedFunc(maps.Values(s.subLayers), compareSubLayers)
}

// Callout returns the callout with a key, a built-in one included, or nil.
func (s *Store) Callout(key GUID) *Callout {
	if c := s.callouts[key]; c != nil {
		return c
	}
	if i, ok := calloutByName[key.String()]; ok {
		return &ownCallouts[i]
	}
	return nil
}

// Callouts returns the callouts that were added, in the order of their keys.
func (s *Store) Callouts() []*Callout {
	return slices.SortedFunc(maps.Values(s.callouts), func(a, b *Callout) int { return bytes.Compare(a.Key[:], b.Key[:]) })
}

// Provider returns the provider with a key, or nil.
func (s *Store) Provider(key GUID) *Provider { return s.providers[key] }

// ProviderContext returns the provider context with a key, or nil.
func (s *Store) ProviderContext(key GUID) *ProviderContext { return s.contexts[key] }

// compareSubLayers puts the sublayer first that is evaluated first.
func compareSubLayers(a, b *SubLayer) int {
	return cmp.Or(cmp.Compare(b.Weight, a.Weight), bytes.Compare(a.Key[:], b.Key[:]))
}

// CompareInSubLayer is negative where a is evaluated before b, which is of the same
// sublayer. Which of two filters of equal weight comes first is not documented;
// the older one does here.
func CompareInSubLayer(a, b *Filter) int {
	return cmp.Or(cmp.Compare(b.EffectiveWeight, a.EffectiveWeight), cmp.Compare(a.ID, b.ID))
}

// InEffect reports whether the filter is evaluated once the engine runs: a
// DISABLED filter never is, and a BOOTTIME filter only until then.
func (f *Filter) InEffect() bool { return f.Flags&(FlagDisabled|FlagBootTime) == 0 }

// Plan returns what a layer's arbitration goes by. It is made once and kept
// until the layer's filters change.
func (s *Store) Plan(id layermap.LayerID) *Plan {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.plans[id]
	if p == nil {
		p = s.newPlan(id)
		s.plans[id] = p
	}
	return p
}

func (s *Store) newPlan(id layermap.LayerID) *Plan {
	bySubLayer := map[*SubLayer][]*Filter{}
	for _, f := range s.filters {
		if f.Layer == id && f.InEffect() {
			sub := s.subLayers[f.SubLayer]
			bySubLayer[sub] = append(bySubLayer[sub], f)
		}
	}
	p := &Plan{layer: layermap.ByID(id)}
	for _, sub := range slices.SortedFunc(maps.Keys(bySubLayer), compareSubLayers) {
		filters := bySubLayer[sub]
		slices.SortFunc(filters, CompareInSubLayer)
		p.add(sub, filters)
	}
	return p
}

// Layer returns the layer's filters that are in effect, in the order of their
// evaluation: by sublayer, then by effective weight, then by id. The slice is
// shared; do not change it.
func (s *Store) Layer(id layermap.LayerID) []*Filter { return s.Plan(id).filters }

// Ties returns the groups of filters at a layer whose order WFP does not
// define, because they have the same effective weight in the same sublayer.
func (s *Store) Ties(id layermap.LayerID) [][]*Filter {
	var ties [][]*Filter
	all := s.Layer(id)
	for len(all) > 0 {
		n := 1
		for n < len(all) && all[n].SubLayer == all[0].SubLayer && all[n].EffectiveWeight == all[0].EffectiveWeight {
			n++
		}
		if n > 1 {
			ties = append(ties, all[:n:n])
		}
		all = all[n:]
	}
	return ties
}
