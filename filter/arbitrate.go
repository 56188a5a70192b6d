// SPDX-License-Identifier: Apache-2.0

// This file is the arbitration between filters: what a layer decides about one
// set of incoming values. It is the reference for every other evaluator, so it
// follows the documented steps one by one.

package filter

import (
	"slices"

	"github.com/wfpebpf/wfpebpf/layermap"
)

// ClassifyOut is what a callout returns: FWPS_CLASSIFY_OUT0 as far as
// arbitration reads it. ClearRight says that the callout took
// FWPS_RIGHT_ACTION_WRITE away, which makes its PERMIT or BLOCK hard.
type ClassifyOut struct {
	Action     Action
	ClearRight bool
}

// CalloutFunc is a callout's classifyFn. f is the filter that names it; right
// says whether FWPS_RIGHT_ACTION_WRITE is set. Without the right a callout may
// only veto: it returns BLOCK to do so and PERMIT to leave the running PERMIT
// alone. It must be a function of its arguments, because an evaluation may be
// repeated, and must not change or keep values.
type CalloutFunc func(f *Filter, values Values, right bool) ClassifyOut

// Callouts are the registered callouts by their keys.
type Callouts map[GUID]CalloutFunc

// Provided are the callouts that the BPF programs stand in for: they are registered
// wherever a policy is enforced.
var Provided = Callouts{}

// SubLayerResult is what one sublayer came to.
type SubLayerResult struct {
	SubLayer *SubLayer
	Filter   *Filter // the last filter that matched, nil if none did
	Action   Action  // PERMIT, BLOCK, CONTINUE (only continuing filters matched) or NONE_NO_MATCH
	Soft     bool    // PERMIT or BLOCK that a lower sublayer may override
	Callout  bool    // a callout returned the action
}

// Result is what a layer came to.
type Result struct {
	Action Action // PERMIT, BLOCK, or NONE_NO_MATCH, which lets the traffic pass
	// Soft says that FWPS_RIGHT_ACTION_WRITE is still set after the last
	// sublayer, as it is where nothing matched.
	Soft   bool
	Filter *Filter // the one that decided, nil if none did
	Veto   bool    // a callout blocked what a hard permit had let pass
	// SubLayers has an entry for each sublayer with filters in effect at the
	// layer, in the order of evaluation.
	SubLayers []SubLayerResult
}

// Blocked reports whether the layer stops the traffic. Where no filter decides
// it passes.
func (r Result) Blocked() bool { return r.Action == ActionBlock }

// Plan is a layer made ready for arbitration: its sublayers and filters in
// order, with each condition at the index of its field. It does not change,
// and any number of goroutines may use it.
type Plan struct {
	layer     *layermap.Layer
	filters   []*Filter
	subLayers []plannedSubLayer
}

type plannedSubLayer struct {
	subLayer *SubLayer
	filters  []plannedFilter
}

type plannedFilter struct {
	*Filter
	groups []conditionGroup
}

// conditionGroup is the conditions on one field, which are OR'ed.
type conditionGroup struct {
	field int // FWPS index, -1 where the layer lacks the field
	conds []Condition
}

func (p *Plan) add(sub *SubLayer, filters []*Filter) {
	s := plannedSubLayer{subLayer: sub, filters: make([]plannedFilter, len(filters))}
	for i, f := range filters {
		s.filters[i] = plannedFilter{f, groupConditions(p.layer, f.Conditions)}
	}
	p.subLayers = append(p.subLayers, s)
	p.filters = append(p.filters, filters...)
}

// groupConditions brings conditions on one field together, wherever in the
// filter they stand.
func groupConditions(layer *layermap.Layer, conds []Condition) []conditionGroup {
	var groups []conditionGroup
	for _, c := range conds {
		at := layer.FieldIndex(c.Field)
		i := slices.IndexFunc(groups, func(g conditionGroup) bool { return g.field == at })
		if i < 0 || at < 0 {
			i = len(groups)
			groups = append(groups, conditionGroup{field: at})
		}
		groups[i].conds = append(groups[i].conds, c)
	}
	return groups
}

// PlanOf makes a plan of filters outside a store. They must all belong to one
// layer; subLayers holds the sublayers they name. A filter whose sublayer is
// missing is left out.
func PlanOf(layer layermap.LayerID, filters []*Filter, subLayers []*SubLayer) *Plan {
	s := &Store{subLayers: map[GUID]*SubLayer{}}
	for _, l := range subLayers {
		s.subLayers[l.Key] = l
	}
	for _, f := range filters {
		if s.subLayers[f.SubLayer] != nil {
			s.filters = append(s.filters, f)
		}
	}
	return s.newPlan(layer)
}

// Arbitrate decides about one set of values at a layer. The values are in the
// order of the layer's FWPS fields; callouts holds the registered callouts.
func Arbitrate(s *Store, layer layermap.LayerID, values Values, callouts Callouts) Result {
	var r Result
	s.Plan(layer).Arbitrate(values, callouts, &r)
	return r
}

// Arbitrate decides about one set of values and writes the outcome to r, whose
// SubLayers it reuses: a caller that goes through many sets of values
// allocates nothing for them.
//
// Every sublayer is evaluated, in the order of weight, even after a hard
// block, because callouts in lower sublayers see blocked traffic too.
func (p *Plan) Arbitrate(values Values, callouts Callouts, r *Result) {
	*r = Result{Action: ActionNoneNoMatch, Soft: true, SubLayers: r.SubLayers[:0]}
	for i := range p.subLayers {
		s := p.subLayers[i].evaluate(values, callouts, r.Soft)
		r.SubLayers = append(r.SubLayers, s)
		r.combine(&s)
	}
}

// combine applies the override table to a sublayer's result. r.Soft is the
// write right: while it is set, the lower sublayer's decision replaces the
// running one; once it is clear, only a callout's BLOCK still counts, as a veto
// of a hard permit. A static BLOCK does not override a hard permit.
func (r *Result) combine(s *SubLayerResult) {
	if s.Action != ActionPermit && s.Action != ActionBlock {
		return
	}
	if r.Soft {
		r.Action, r.Soft, r.Filter = s.Action, s.Soft, s.Filter
		return
	}
	if s.Callout && s.Action == ActionBlock && r.Action == ActionPermit {
		r.Action, r.Filter, r.Veto = ActionBlock, s.Filter, true
	}
}

// evaluate goes through a sublayer's filters, heaviest first, until one
// decides.
func (p *plannedSubLayer) evaluate(values Values, callouts Callouts, right bool) SubLayerResult {
	r := SubLayerResult{SubLayer: p.subLayer, Action: ActionNoneNoMatch}
	for i := range p.filters {
		f := &p.filters[i]
		if !f.matches(values) {
			continue
		}
		d, evaluated := f.decide(values, callouts, right)
		if !evaluated {
			continue
		}
		r.Filter, r.Action, r.Soft, r.Callout = f.Filter, d.action, d.soft, d.callout
		if d.action != ActionContinue {
			break
		}
	}
	return r
}

// matches reports whether one condition of each field holds.
func (f *plannedFilter) matches(values Values) bool {
	for i := range f.groups {
		if !f.groups[i].matches(values) {
			return false
		}
	}
	return true
}

func (g *conditionGroup) matches(values Values) bool {
	if g.field < 0 {
		return false
	}
	v := values.at(g.field)
	for i := range g.conds {
		if g.conds[i].matches(v) {
			return true
		}
	}
	return false
}

// decision is what a matching filter comes to: PERMIT, BLOCK or CONTINUE.
type decision struct {
	action  Action
	soft    bool
	callout bool
}

// static is the decision of a filter without a callout: a PERMIT is soft
// unless the filter carries CLEAR_ACTION_RIGHT, a BLOCK is always hard.
func (f *Filter) static(a Action) decision {
	return decision{action: a, soft: a == ActionPermit && f.Flags&FlagClearActionRight == 0}
}

// decide returns what a matching filter comes to. evaluated is false for a
// filter that is passed over as if it did not match.
func (f *Filter) decide(values Values, callouts Callouts, right bool) (d decision, evaluated bool) {
	if !f.Action.IsCallout() {
		return f.static(f.Action), true
	}
	classify := callouts[f.Callout]
	if classify == nil {
		return f.unregistered()
	}
	out := classify(f, values, right)
	// CLEAR_ACTION_RIGHT on a callout filter is advice to the callout, which
	// sees the filter; the engine does not act on it.
	a := coerce(f.Action, out.Action)
	return decision{action: a, soft: a != ActionContinue && !out.ClearRight, callout: true}, true
}

// unregistered is what a filter comes to whose callout is not there: a
// decision like a static filter's, or nothing where the callout could only
// have looked on.
func (f *Filter) unregistered() (d decision, evaluated bool) {
	switch {
	case f.Action == ActionCalloutInspection:
		return decision{}, false
	case f.Flags&FlagPermitIfCalloutUnregistered != 0:
		return f.static(ActionPermit), true
	}
	return f.static(ActionBlock), true
}

// coerce is what a callout's result counts as under the filter's action.
// TERMINATING: whatever is not a decision is BLOCK. INSPECTION: CONTINUE
// always. UNKNOWN: whatever is not a decision is CONTINUE.
func coerce(filterAction, result Action) Action {
	decided := result == ActionPermit || result == ActionBlock
	switch {
	case filterAction == ActionCalloutInspection:
		return ActionContinue
	case decided:
		return result
	case filterAction == ActionCalloutTerminating:
		return ActionBlock
	}
	return ActionContinue
}
