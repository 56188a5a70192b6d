// SPDX-License-Identifier: Apache-2.0

// Package explain answers what a policy does with traffic and why: it fills in
// the fields that a layer's programs would fill, asks the reference evaluator,
// and names the filter that decided. It asks no kernel: what it cannot know
// stays EMPTY, and the answer lists the fields whose value would change it.
package explain

import (
	"fmt"
	"slices"
	"strings"

	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
)

// Answer is what one layer does with the traffic. Its JSON is part of the
// command line's contract.
type Answer struct {
	Verdict    string     `json:"verdict"` // permit, block
	FilterID   filter.ID  `json:"filterId"`
	FilterName string     `json:"filterName"`
	Origin     string     `json:"origin"`
	Layer      string     `json:"layer"`
	SubLayers  []SubLayer `json:"subLayers"`
	// Sensitive are the fields without a value whose value could change the
	// verdict or the filter that decides.
	Sensitive []string `json:"sensitive"`
	// Sets says of each filter named above that matched by a set of addresses
	// where in the set, or outside of it, the address is.
	Sets []SetMatch `json:"sets,omitempty"`
	// RedirectTo is where the layer leads the traffic, and RedirectedBy the filter
	// that does.
	RedirectTo   string    `json:"redirectTo,omitempty"`
	RedirectedBy filter.ID `json:"redirectedBy,omitempty"`

	Notes []string `json:"notes,omitempty"`
	Live  *Live    `json:"live,omitempty"`

	values filter.Values
	layer  layermap.LayerID

	redirectedBy string // name
}

// SubLayer is what one sublayer with filters at the layer came to.
type SubLayer struct {
	Name     string    `json:"name"`
	Weight   uint16    `json:"weight"`
	Action   string    `json:"action"` // PERMIT, BLOCK, CONTINUE or NONE_NO_MATCH
	Right    string    `json:"right"`  // soft: a lower sublayer may override; hard: none may
	FilterID filter.ID `json:"filterId"`

	filterName string
}

// SetMatch is a condition on a set of addresses that holds.
type SetMatch struct {
	FilterID filter.ID `json:"filterId"`
	Field    string    `json:"field"`
	Address  string    `json:"address"`
	Set      string    `json:"set"`
	// Range is the part of the set that the address is in, as an address, a
	// prefix, or low-high; entries of the set that overlap or touch are one. It
	// is empty where the condition is NOT_EQUAL.
	Range string `json:"range"`

	filterName string
}

// Live is what the kernel answered for the same values.
type Live struct {
	Verdict  string    `json:"verdict"`
	FilterID filter.ID `json:"filterId"`
	Agrees   bool      `json:"agrees"`
}

// The two verdicts and the two rights, as they are written.
const (
	permit, block = "permit", "block"
	soft, hard    = "soft", "hard"
)

// Judge asks the reference evaluator about one set of values in FWPS order.
func Judge(s *filter.Store, l *layermap.Layer, values filter.Values, callouts filter.Callouts) Answer {
	r := filter.Arbitrate(s, l.ID, values, callouts)
	a := Answer{
		Verdict: verdict(r.Action), Layer: l.Name, SubLayers: []SubLayer{},
		Sensitive: append([]string{}, filter.Sensitive(s, l.ID, values, callouts)...),
		values:    values, layer: l.ID,
	}
	if f := r.Filter; f != nil {
		a.FilterID, a.FilterName, a.Origin = f.ID, f.Name, f.Origin
	}
	if to, by := s.Redirect(&r); by != nil {
		a.RedirectTo, a.RedirectedBy, a.redirectedBy = to.String(), by.ID, by.Name
	}
	for _, sub := range r.SubLayers {
		out := SubLayer{
			Name: SubLayerName(sub.SubLayer), Weight: sub.SubLayer.Weight, Action: sub.Action.Short(), Right: soft,
		}
		decided := sub.Action == filter.ActionPermit || sub.Action == filter.ActionBlock
		if decided && !sub.Soft {
			out.Right = hard
		}
		if f := sub.Filter; f != nil {
			out.FilterID, out.filterName = f.ID, f.Name
			a.Sets = append(a.Sets, setMatches(l, f, values)...)
		}
		a.SubLayers = append(a.SubLayers, out)
	}
	return a
}

// setMatches finds the conditions on sets by which a filter matches.
func setMatches(l *layermap.Layer, f *filter.Filter, values filter.Values) []SetMatch {
	var out []SetMatch
	for _, c := range f.Conditions {
		i := l.FieldIndex(c.Field)
		if c.Value.Set == nil || i < 0 || i >= len(values) || !c.Matches(values[i]) {
			continue
		}
		m := SetMatch{
			FilterID: f.ID, Field: c.Field, Address: filter.FormatValue(l.Fields[i], values[i]), Set: c.Value.Set.Name(), filterName: f.Name,
		}
		if low, high, in := c.Value.Set.FindValue(values[i]); in {
			m.Range = filter.RangeText(low, high)
		}
		out = append(out, m)
	}
	return out
}

func verdict(a filter.Action) string {
	if a == filter.ActionBlock {
		return block
	}
	return permit
}

// SubLayerName names WFP's own sublayers by their key, others by their name.
func SubLayerName(s *filter.SubLayer) string {
	return strings.TrimPrefix(s.Name, "FWPM_SUBLAYER_")
}

// Question is a layer and values that the kernel can be asked about, too.
func (a *Answer) Question() (layermap.LayerID, filter.Values) { return a.layer, a.values }

// Compare notes what the kernel answered. It must agree in the verdict and in
// the filter; where it does not, the engine is at fault.
func (a *Answer) Compare(action filter.Action, id filter.ID) {
	a.Live = &Live{Verdict: verdict(action), FilterID: id}
	a.Live.Agrees = a.Live.Verdict == a.Verdict && id == a.FilterID
}

// Layer judges values at one layer as it would be enforced here or, with
// windows, as on Windows, with notes about what was assumed.
func Layer(s *filter.Store, l *layermap.Layer, values filter.Values, windows bool) Answer {
	if windows {
		callouts, names := PassingCallouts(s, l)
		a := Judge(s, l, values, callouts)
		for _, name := range names {
			a.Notes = append(a.Notes, "callout "+name+" is taken to let the traffic pass")
		}
		return a
	}
	a := Judge(s, l, values, filter.Provided)
	if l.Hook().Reserved {
		a.Notes = append(a.Notes, "the layer is reserved: no traffic comes to it")
	} else if !l.Hook().Live {
		a.Notes = append(a.Notes, "the layer does not run here: filters at it are refused")
	}
	// A field that is always the same here changes nothing here.
	a.Sensitive = slices.DeleteFunc(a.Sensitive, func(key string) bool {
		return l.Source(key).Kind != layermap.Filled
	})
	return a
}

// PassingCallouts stands in for callouts that exist on Windows and not here: a
// terminating one lets the traffic pass, softly, and any other one continues.
// Without them an unregistered callout would block all that it is asked about.
// It returns the names of the callouts, too, for the reader must know.
func PassingCallouts(s *filter.Store, l *layermap.Layer) (filter.Callouts, []string) {
	stand := filter.Callouts{}
	var names []string
	for _, f := range s.Layer(l.ID) {
		if !f.Action.IsCallout() || stand[f.Callout] != nil {
			continue
		}
		if c := filter.Provided[f.Callout]; c != nil {
			stand[f.Callout] = c
			continue
		}
		stand[f.Callout] = pass
		name := fmt.Sprintf("{%s}", f.Callout)
		if c := s.Callout(f.Callout); c != nil {
			name = c.Name
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return stand, names
}

func pass(f *filter.Filter, _ filter.Values, _ bool) filter.ClassifyOut {
	if f.Action == filter.ActionCalloutTerminating {
		return filter.ClassifyOut{Action: filter.ActionPermit}
	}
	return filter.ClassifyOut{Action: filter.ActionContinue}
}
