// SPDX-License-Identifier: Apache-2.0

package diff

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
	"github.com/wfpebpf/wfpebpf/policy"
)

// What looking for a smaller policy may take, and how many filters of it are
// shown.
const (
	shrinkTime = 20 * time.Second
	shrinkShow = 12
)

// shrink looks for fewer filters on which the two sides still disagree, and
// describes those that it is left with. It commits, so the run must end after.
func (d *differ) shrink(p *policy.Policy, l *layermap.Layer, values filter.Values) string {
	deadline := time.Now().Add(shrinkTime)
	disagree := func(list []*filter.Filter) bool {
		q, err := only(p, list)
		if err != nil || d.engine.Commit(context.Background(), q) != nil {
			return false
		}
		got, err := d.engine.Judge(l.ID, []filter.Values{values})
		return err == nil && len(got) == 1 && !same(evaluate(q.Store.Plan(l.ID), []filter.Values{values})[0], got[0])
	}
	list := slices.Clone(p.Store.Layer(l.ID))
	if !disagree(list) {
		return "  committed anew, this layer alone agrees: it is a matter of what was in force before, or of the other layers\n"
	}
	// Delta debugging: leave out ever smaller parts.
	for part := len(list) / 2; part > 0 && time.Now().Before(deadline); {
		smaller := false
		for low := 0; low < len(list) && time.Now().Before(deadline); {
			without := slices.Delete(slices.Clone(list), low, min(low+part, len(list)))
			if disagree(without) {
				list, smaller = without, true
			} else {
				low += part
			}
		}
		if !smaller || part > len(list) {
			part = min(part, len(list)) / 2
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "  they still disagree with these %d filters of the layer:\n", len(list))
	// those that match first: the others are the crowd that it takes
	slices.SortStableFunc(list, func(f, g *filter.Filter) int {
		return matching(g, l, values) - matching(f, l, values)
	})
	for _, f := range list[:min(len(list), shrinkShow)] {
		b.WriteString(describe(f, l, values))
	}
	return b.String()
}

func matching(f *filter.Filter, l *layermap.Layer, values filter.Values) int {
	if filter.MatchesAll(f.Conditions, l, values) {
		return 1
	}
	return 0
}

// only is a policy with some of the filters, which keep their ids and weights.
func only(p *policy.Policy, list []*filter.Filter) (*policy.Policy, error) {
	s := filter.NewStore()
	for _, sub := range p.Store.SubLayers() {
		if err := s.AddSubLayer(*sub); err != nil && !errors.Is(err, filter.ErrAlreadyExists) {
			return nil, err
		}
	}
	for _, c := range p.Store.Callouts() {
		if err := s.AddCallout(*c); err != nil && !errors.Is(err, filter.ErrAlreadyExists) {
			return nil, err
		}
	}
	for _, f := range list {
		g := *f
		g.KeepWeight = true
		if err := s.AddFilter(&g); err != nil {
			return nil, err
		}
	}
	return &policy.Policy{Store: s, Services: p.Services, Packages: p.Packages}, nil
}
