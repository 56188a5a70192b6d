// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"slices"

	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
	"github.com/wfpebpf/wfpebpf/policy"
)

// A layer's epoch tells its filters from others that it had, or will have: flows that
// were authorised in another one are judged again. It is made of what the filters say
// alone, so that a commit which changes none of them, the same policy from another
// process, and a roll-back leave flows alone that those filters have let pass. It is a
// sum, so that few filters more or less change it in no time; of filters of equal weight
// it does not say which comes first, since WFP does not either.

// authorisations are the layers whose flows are judged again.
var authorisations = slices.Concat(connect, accept)

// identityKeys are the fields whose values the policy's map gives a meaning to.
var identityKeys = []string{"ALE_USER_ID", "ALE_PACKAGE_ID"}

// decisiveFlags are those that a verdict follows.
const decisiveFlags = filter.FlagClearActionRight | filter.FlagPermitIfCalloutUnregistered

// epochs makes a filter's share of an epoch.
type epochs struct {
	store *filter.Store
	names []byte // what the policy's map says of services and packages
	text  []byte
}

func newEpochs(p *policy.Policy) *epochs {
	h := sha256.New()
	for _, names := range []map[filter.SID]string{p.Services, p.Packages} {
		for _, sid := range slices.Sorted(maps.Keys(names)) {
			h.Write([]byte(sid + "\x00"))
			h.Write([]byte(names[sid] + "\x00"))
		}
		h.Write([]byte{1})
	}
	return &epochs{store: p.Store, names: h.Sum(nil)}
}

func (e *epochs) of(f *filter.Filter) uint64 {
	b := e.text[:0]
	key := subLayerKey(f)
	b = append(b, key[:]...)
	if s := e.store.SubLayer(key); s != nil {
		b = binary.LittleEndian.AppendUint16(b, s.Weight)
	}
	b = binary.LittleEndian.AppendUint64(b, f.EffectiveWeight)
	b = binary.LittleEndian.AppendUint32(b, uint32(f.Action))
	b = binary.LittleEndian.AppendUint32(b, uint32(f.Flags&decisiveFlags))
	for i := range f.Conditions {
		field := f.Conditions[i].Field
		b = append(append(b, field...), 0)
		b = conditionsKey(b, f.Conditions[i:i+1])
		if slices.Contains(identityKeys, field) {
			b = append(b, e.names...)
		}
	}
	e.text = b
	sum := sha256.Sum256(b)
	return binary.LittleEndian.Uint64(sum[:])
}

// putEpochs gives the layers of a whole commit their epochs.
func (t *tables) putEpochs(p *policy.Policy) {
	e := newEpochs(p)
	for _, id := range authorisations {
		if l := t.laid[id]; l != nil {
			for _, f := range l.filters {
				t.layers[id].Epoch += e.of(f)
			}
		}
	}
}

// putEpochs gives those that an edition amends theirs. The layers that it does not
// amend are as they were.
func (a *amended) putEpochs(p *policy.Policy) {
	e := newEpochs(p)
	removed, added, _ := difference(a.base.rec.Filters, p.Store.Filters())
	change := map[layermap.LayerID]uint64{}
	for _, f := range removed {
		if l := a.base.layers[f.Layer]; l != nil && l.has(f) {
			change[f.Layer] -= e.of(f)
		}
	}
	for _, f := range added {
		if slices.Contains(authorisations, f.Layer) && decidesHere(f) {
			change[f.Layer] += e.of(f)
		}
	}
	for _, id := range authorisations {
		if l := a.layers[id]; l != nil && a.amendments[id] != nil {
			l.Epoch += change[id]
		}
	}
}

// has reports whether a filter is in the tables.
func (l *laidLayer) has(f *filter.Filter) bool {
	at, _ := l.find(f)
	return at < len(l.filters) && l.filters[at] == f
}

// decidesHere reports whether a filter can decide something, as effective says of all
// of a layer's.
func decidesHere(f *filter.Filter) bool {
	c, decides := newCompiled(f)
	if !decides || !f.InEffect() {
		return false
	}
	l := layermap.ByID(f.Layer)
	possible, err := c.settle(l, fieldSources(l))
	return err == nil && possible
}
