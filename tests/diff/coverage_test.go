// SPDX-License-Identifier: Apache-2.0

package diff

import (
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
	"github.com/wfpebpf/wfpebpf/tests/random"
)

// What the policies must have at each layer.
const (
	leastSubLayers = 5
	leastFilters   = 64
)

// coverage counts what a run put to the test: where conditions stood, and which
// of them belonged to a filter that decided something.
type coverage struct {
	conditions map[random.Use]int
	deciding   map[random.Use]int
	layers     map[layermap.LayerID]*layerCoverage
}

type layerCoverage struct {
	verdicts    int
	specific    int // by a filter with a condition on a field that traffic fills
	soft        int
	hardPermits int
	blocks      int
	none        int
	deepPlace   int // by a filter that only large policies have
	subLayers   []int
	filters     []int
}

func newCoverage() *coverage {
	c := &coverage{conditions: map[random.Use]int{}, deciding: map[random.Use]int{}, layers: map[layermap.LayerID]*layerCoverage{}}
	for _, l := range live() {
		c.layers[l.ID] = &layerCoverage{}
	}
	return c
}

// policy counts what a policy asks.
func (c *coverage) policy(used map[random.Use]int) {
	for u, n := range used {
		c.conditions[u] += n
	}
}

// layer notes the size of one layer's policy.
func (c *coverage) layer(l *layermap.Layer, subLayers, filters int) {
	at := c.layers[l.ID]
	at.subLayers = append(at.subLayers, subLayers)
	at.filters = append(at.filters, filters)
}

// everyTurn reports whether each layer has had a policy with a deep place.
func (c *coverage) everyTurn() bool {
	for _, at := range c.layers {
		if len(at.filters) == 0 || slices.Max(at.filters) <= deepPlace {
			return false
		}
	}
	return true
}

// verdict counts a verdict that both sides agree on.
func (c *coverage) verdict(l *layermap.Layer, r filter.Result, deepPlace bool) {
	at := c.layers[l.ID]
	at.verdicts++
	switch {
	case r.Filter == nil:
		at.none++
		return
	case r.Action == filter.ActionBlock:
		at.blocks++
	case r.Soft:
		at.soft++
	default:
		at.hardPermits++
	}
	if deepPlace {
		at.deepPlace++
	}
	specific := false
	for _, cond := range r.Filter.Conditions {
		if l.Source(cond.Field).Kind == layermap.Filled {
			specific = true
			c.deciding[random.Use{Layer: l.ID, Field: cond.Field, Form: random.FormOf(cond)}]++
		}
	}
	if specific {
		at.specific++
	}
}

// table shows the coverage: a line a layer, and a line a form of condition.
func (c *coverage) table() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "layer\tsublayers\tfilters\tverdicts\tby conditions\tsoft permit\thard permit\tblock\tnone\tpage 2\tfields\tuses\tdeciding\t")
	for _, l := range live() {
		at, uses := c.layers[l.ID], random.Uses(l)
		fields, used, deciding := map[string]bool{}, 0, 0
		for _, u := range uses {
			if c.conditions[u] > 0 {
				fields[u.Field] = true
				used++
			}
			if c.deciding[u] > 0 {
				deciding++
			}
		}
		n := float64(max(at.verdicts, 1)) / 100
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%.0f %%\t%.0f %%\t%.0f %%\t%.0f %%\t%d\t%d\t%d\t%d of %d\t%d\t\n", l.Name,
			span(at.subLayers), span(at.filters), at.verdicts, float64(at.specific)/n, float64(at.soft)/n,
			float64(at.hardPermits)/n, float64(at.blocks)/n, at.none, at.deepPlace, len(fields), used, len(uses), deciding)
	}
	w.Flush()
	b.WriteString("\n")
	types := c.byType()
	w = tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "data type\tform of condition\tconditions\tof filters that decided\t")
	for _, t := range types {
		fmt.Fprintf(w, "%v\t%s\t%d\t%d\t\n", t.dataType, t.form, t.conditions, t.deciding)
	}
	w.Flush()
	return b.String()
}

func span(list []int) string {
	if len(list) == 0 {
		return "none"
	}
	return fmt.Sprintf("%d-%d", slices.Min(list), slices.Max(list))
}

type typeCoverage struct {
	dataType             layermap.DataType
	form                 string
	conditions, deciding int
}

// byType adds the uses up by data type and form.
func (c *coverage) byType() []typeCoverage {
	var list []typeCoverage
	for _, l := range live() {
		for _, u := range random.Uses(l) {
			t := l.Fields[l.FieldIndex(u.Field)].DataType
			i := slices.IndexFunc(list, func(e typeCoverage) bool { return e.dataType == t && e.form == u.Form })
			if i < 0 {
				i = len(list)
				list = append(list, typeCoverage{dataType: t, form: u.Form})
			}
			list[i].conditions += c.conditions[u]
			list[i].deciding += c.deciding[u]
		}
	}
	slices.SortStableFunc(list, func(a, b typeCoverage) int { return int(a.dataType) - int(b.dataType) })
	return list
}

// missing lists what the run should have covered and has not.
func (c *coverage) missing() []string {
	var list []string
	lacks := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	for _, l := range live() {
		at := c.layers[l.ID]
		if len(at.filters) == 0 || slices.Min(at.filters) < leastFilters || slices.Min(at.subLayers) < leastSubLayers {
			lacks("%s: %d filters in %d sublayers in every policy", l.Name, leastFilters, leastSubLayers)
		}
		if 2*at.specific < at.verdicts || at.verdicts == 0 {
			lacks("%s: %d of %d verdicts by filters with conditions, half are asked for", l.Name, at.specific, at.verdicts)
		}
		for what, n := range map[string]int{
			"soft permit": at.soft, "hard permit": at.hardPermits, "block": at.blocks, "case that nothing matches": at.none,
			"decision by a filter that only large policies have": at.deepPlace,
		} {
			if n == 0 {
				lacks("%s: a %s", l.Name, what)
			}
		}
		for _, u := range random.Uses(l) {
			if c.conditions[u] == 0 {
				lacks("%s: %s with %s", l.Name, u.Field, u.Form)
			} else if c.deciding[u] == 0 {
				lacks("%s: a decision by a filter with %s on %s", l.Name, u.Form, u.Field)
			}
		}
	}
	slices.Sort(list)
	return list
}
