// SPDX-License-Identifier: Apache-2.0

package diff

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/wfpebpf/wfpebpf/bpf"
	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
	"github.com/wfpebpf/wfpebpf/loader"
	"github.com/wfpebpf/wfpebpf/policy"
	"github.com/wfpebpf/wfpebpf/tests/random"
	"github.com/wfpebpf/wfpebpf/tests/testbed"
)

// Large policies are compared in fewer pairs: the evaluator goes through all
// filters for each.
const (
	largeShare    = 7      // of the pairs asked for, one in so many
	largeFilters  = 10_000 // at one layer
	mediumFilters = 1_000
	// What each shape must have shown, once a run has had it in both sizes.
	leastSpecific = 40 // of 100 verdicts: by filters with conditions
	edits         = 4  // of each large policy
	leastDeep     = 10 // of 100 verdicts: by filters after the first tenth of the order, which are broad in some shapes
)

// TestDiffLarge tells stories: a large policy is committed, edited,
// replaced by another and rolled back to, and the verdicts are compared
// after each step. All that a commit leaves of the one before shows here.
func TestDiffLarge(t *testing.T) {
	testbed.RequireRoot(t)
	t.Parallel()
	asked, seed := number(t, pairsEnv, defaultPairs), uint64(number(t, seedEnv, defaultSeed))
	pairs := asked / largeShare
	t.Logf("%s=%d %s=%d: %d pairs", pairsEnv, asked, seedEnv, seed, pairs)
	d := newDiffer(t)
	c := newLargeCoverage()
	for _, s := range corpus(t, stories) {
		d.story(s, c)
	}
	d.pairs, d.agreed = 0, 0
	start, told := time.Now(), 0
	// each shape has its turn where coverage is asked for
	least := 1
	if asked >= coveredPairs {
		least = len(random.Shapes)
	}
	covered := func() bool { return asked < coveredPairs || len(c.missing(true)) == 0 }
	for told < least || d.pairs < pairs || told < least+moreRounds && !covered() {
		if d.story(seed, c); t.Failed() {
			return
		}
		seed++
		told++
	}
	t.Logf("%d pairs in %d stories of %d commits and roll-backs agree; %s; %s for commits, %s for the judge, %s for the evaluator",
		d.agreed, told, d.rounds, time.Since(start).Round(time.Millisecond),
		d.committed.Round(time.Millisecond), d.judged.Round(time.Millisecond), d.evaluated.Round(time.Millisecond))
	t.Log("\n" + c.table())
	if c.past*4 > told {
		t.Errorf("%d of %d policies are past the limits", c.past, told)
	}
	for _, m := range c.missing(asked >= coveredPairs) {
		t.Error("not covered: " + m)
	}
}

// plot is what a seed's story is about.
type plot struct {
	shape, second random.Shape
	layer         *layermap.Layer
	subLayers     int
	filters       int
}

func plotOf(seed uint64) plot {
	shapes := uint64(len(random.Shapes))
	p := plot{
		shape: random.Shapes[seed%shapes], second: random.Shapes[(seed*7+seed/shapes+3)%shapes],
		subLayers: []int{5, 1, bpf.MaxSubLayers, 5, 17}[seed%5], filters: largeFilters,
	}
	var layers []*layermap.Layer
	for _, l := range live() {
		if p.shape.Suits(l) && p.second.Suits(l) {
			layers = append(layers, l)
		}
	}
	if len(layers) == 0 { // no layer has what both want
		p.second = random.ShapeRandom
		return p.at(seed)
	}
	p.layer = layers[(seed+seed/shapes)%uint64(len(layers))]
	return p
}

// widest is the layer with the most fields that has what both shapes want: there the
// conditions are spread out most.
func (p plot) widest() *layermap.Layer {
	widest := p.layer
	for _, l := range live() {
		if p.shape.Suits(l) && (p.second.Suits(l) || !p.second.Suits(p.layer)) && len(l.Fields) > len(widest.Fields) {
			widest = l
		}
	}
	return widest
}

func (p plot) at(seed uint64) plot {
	for _, l := range live() {
		if p.shape.Suits(l) {
			p.layer = l
		}
	}
	return p
}

// story commits, edits, replaces and rolls back.
func (d *differ) story(seed uint64, c *largeCoverage) {
	d.t.Helper()
	p, g := plotOf(seed), random.New(seed^0x1a59e)
	at := scene{test: "TestDiffLarge", seed: seed}
	step := func(format string, args ...any) {
		if at.what != "" {
			at.what += "; "
		}
		at.what += fmt.Sprintf(format, args...)
	}
	start := func() func() {
		begun := time.Now()
		return func() { d.committed += time.Since(begun); d.rounds++ }
	}
	try := func(q *policy.Policy) error {
		defer start()()
		return d.engine.Commit(context.Background(), q)
	}
	done := func(err error) {
		d.t.Helper()
		if err != nil {
			d.t.Fatalf("%s=%d, %s: commit: %v\n  again: %s=%d %s=1 go test -count=1 -v -run '^TestDiffLarge$' ./tests/diff",
				seedEnv, seed, at.what, err, seedEnv, seed, pairsEnv)
		}
	}
	commit := func(q *policy.Policy) {
		d.t.Helper()
		done(try(q))
	}
	traffic := func(l *layermap.Layer, n int) []filter.Values {
		values := make([]filter.Values, n)
		for i := range values {
			values[i] = g.Values(l)
		}
		return values
	}
	// judge compares, and what it compared is traffic of the later steps, too
	judge := func(q *policy.Policy, shape random.Shape, l *layermap.Layer, values []filter.Values) bool {
		d.t.Helper()
		want, ok := d.compare(at, q, l, values)
		if ok {
			c.verdicts(shape, q, l, want)
		}
		return ok
	}

	// a small layer beside the large one: neither takes the other's filters
	neighbour := live()[int(seed*5+1)%len(live())]
	small := func(filters int) map[layermap.LayerID]int {
		sizes := map[layermap.LayerID]int{neighbour.ID: 40}
		sizes[p.layer.ID] = filters
		return sizes
	}
	first := g.Large(p.shape, p.subLayers, small(p.filters))
	step("%d filters, %s, in %d sublayers at %s", p.filters, p.shape, p.subLayers, p.layer.Name)
	err := try(first)
	if errors.Is(err, loader.ErrLimit) { // a documented one: such a policy is refused
		c.past++
		p.layer = p.widest()
		first = g.Large(p.shape, p.subLayers, small(p.filters))
		step("past a limit, so at %s", p.layer.Name)
		err = try(first)
	}
	done(err)
	asked := traffic(p.layer, 1000)
	if !judge(first, p.shape, p.layer, asked) || neighbour.ID != p.layer.ID && !judge(first, p.shape, neighbour, traffic(neighbour, 100)) {
		return
	}
	// a commit of few changes amends the tables, one of many makes them anew
	for edit := range uint64(edits) {
		changes := 1 + int((seed+edit)%3*seed%40) // one, often
		first = g.Edit(first, p.layer, changes)
		step("%d changed", changes)
		commit(first)
		if s, err := d.engine.State(); err != nil {
			d.t.Fatal(err)
		} else if s.Amends != nil {
			c.amended++
		}
		c.edited++
		asked = append(traffic(p.layer, 400), asked[:100]...)
		if !judge(first, p.shape, p.layer, asked) {
			return
		}
	}

	c.conditions(g)
	h := random.New(seed ^ 0x5ec0d)
	second := h.Large(p.second, 1+int(seed%5), small(mediumFilters))
	step("replaced by %d, %s", mediumFilters, p.second)
	commit(second)
	values := make([]filter.Values, 600)
	for i := range values {
		values[i] = h.Values(p.layer)
	}
	if !judge(second, p.second, p.layer, values) || !judge(second, p.second, p.layer, asked[:200]) {
		return
	}
	c.conditions(h)

	step("rolled back")
	end := start()
	if err := d.engine.Rollback(); err != nil {
		d.t.Fatalf("%s=%d, %s: %v", seedEnv, seed, at.what, err)
	}
	end()
	judge(first, p.shape, p.layer, append(asked, values[:200]...))
}

// largeCoverage counts by shape, and by forms of condition, what the stories
// put to the test. That each form has its turn is for TestDifferential.
type largeCoverage struct {
	shapes  map[random.Shape]*shapeCoverage
	forms   *coverage
	edited  int // commits of few changes
	amended int // those of them that amended the tables
	past    int // policies that were past a limit
}

type shapeCoverage struct {
	filters, subLayers []int
	layers             map[layermap.LayerID]bool
	verdicts           int
	specific, deep     int
	soft, hard, blocks int
	none               int
	deciders           int // different ones, summed over policies
}

func newLargeCoverage() *largeCoverage {
	c := &largeCoverage{shapes: map[random.Shape]*shapeCoverage{}, forms: newCoverage()}
	for _, s := range random.Shapes {
		c.shapes[s] = &shapeCoverage{layers: map[layermap.LayerID]bool{}}
	}
	return c
}

func (c *largeCoverage) conditions(g *random.Generator) { c.forms.policy(g.Used) }

func (c *largeCoverage) verdicts(shape random.Shape, p *policy.Policy, l *layermap.Layer, results []filter.Result) {
	order := p.Store.Layer(l.ID)
	place := make(map[*filter.Filter]int, len(order))
	for i, f := range order {
		place[f] = i
	}
	at := c.shapes[shape]
	if len(order) < mediumFilters/2 { // the neighbour
		for _, r := range results {
			c.forms.verdict(l, r, false)
		}
		return
	}
	at.filters = append(at.filters, len(order))
	at.subLayers = append(at.subLayers, len(results[0].SubLayers))
	at.layers[l.ID] = true
	deciders := map[*filter.Filter]bool{}
	for _, r := range results {
		c.forms.verdict(l, r, false)
		at.verdicts++
		switch {
		case r.Filter == nil:
			at.none++
			continue
		case r.Action == filter.ActionBlock:
			at.blocks++
		case r.Soft:
			at.soft++
		default:
			at.hard++
		}
		deciders[r.Filter] = true
		if len(r.Filter.Conditions) > 0 {
			at.specific++
		}
		if place[r.Filter] >= len(order)/10 {
			at.deep++
		}
	}
	at.deciders += len(deciders)
}

func (c *largeCoverage) table() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "shape\tlayers\tsublayers\tfilters\tverdicts\tby conditions\tafter the first tenth\tdeciders\tsoft permit\thard permit\tblock\tnone\t")
	for _, s := range random.Shapes {
		at := c.shapes[s]
		n := float64(max(at.verdicts, 1)) / 100
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%d\t%.0f %%\t%.0f %%\t%d\t%.0f %%\t%.0f %%\t%.0f %%\t%d\t\n", s, len(at.layers), span(at.subLayers), span(at.filters),
			at.verdicts, float64(at.specific)/n, float64(at.deep)/n, at.deciders, float64(at.soft)/n, float64(at.hard)/n, float64(at.blocks)/n, at.none)
	}
	w.Flush()
	fmt.Fprintf(&b, "\n%d of %d commits of few changes amended the tables\n\n", c.amended, c.edited)
	w = tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "data type\tform of condition\tconditions\tof filters that decided\t")
	for _, t := range c.forms.byType() {
		fmt.Fprintf(w, "%v\t%s\t%d\t%d\t\n", t.dataType, t.form, t.conditions, t.deciding)
	}
	w.Flush()
	return b.String()
}

// missing lists what the run should have covered and has not; whole says that
// each shape had its turn.
func (c *largeCoverage) missing(whole bool) []string {
	var list []string
	if c.amended < c.edited/2 {
		list = append(list, fmt.Sprintf("%d of %d commits of few changes amend the tables, want half of them", c.amended, c.edited))
	}
	for _, s := range random.Shapes {
		at := c.shapes[s]
		if len(at.filters) == 0 || slices.Max(at.filters) < largeFilters*9/10 {
			if whole {
				list = append(list, fmt.Sprintf("%s: a policy of %d filters", s, largeFilters))
			}
			continue
		}
		for _, row := range []struct {
			what     string
			n, least int
		}{
			{"verdicts by filters with conditions", at.specific, at.verdicts * leastSpecific / 100},
			{"verdicts by filters after the first tenth of the order", at.deep, at.verdicts * leastDeep / 100},
			{"blocks", at.blocks, 1}, {"soft permits", at.soft, 1}, {"hard permits", at.hard, 1},
		} {
			if row.n < row.least {
				list = append(list, fmt.Sprintf("%s: %d of %d are %s, want %d", s, row.n, at.verdicts, row.what, row.least))
			}
		}
	}
	return list
}

// What TestDiffSeedsRepeat asserts of small policies.
func TestDiffStoriesRepeat(t *testing.T) {
	l := layermap.ByID(layermap.ALEAuthRecvAcceptV4)
	tell := func() string {
		g := random.New(7)
		p := g.Large(random.ShapeMixture, 5, map[layermap.LayerID]int{l.ID: mediumFilters})
		p = g.Edit(p, l, 20)
		var b strings.Builder
		for _, f := range p.Store.Layer(l.ID) {
			b.WriteString(describe(f, l, g.Values(l)))
		}
		return b.String()
	}
	if a, b := tell(), tell(); a != b {
		t.Errorf("the same seed made this:\n%s\nand then this:\n%s", a, b)
	}
}
