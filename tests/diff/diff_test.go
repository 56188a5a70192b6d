// SPDX-License-Identifier: Apache-2.0

// Package diff holds the kernel's classifier to the evaluator: random policies
// go through the engine's own commit into the tables of a throw-away instance,
// and the judge answers, by the code of the hooks, about random traffic.
package diff

import (
	"bufio"
	"context"
	_ "embed"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wfpebpf/wfpebpf/bpf"
	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
	"github.com/wfpebpf/wfpebpf/loader"
	"github.com/wfpebpf/wfpebpf/policy"
	"github.com/wfpebpf/wfpebpf/tests/random"
	"github.com/wfpebpf/wfpebpf/tests/testbed"
)

func TestMain(m *testing.M) { testbed.Main(m) }

const (
	pairsEnv = "DIFF_PAIRS" // pairs of verdicts to compare
	seedEnv  = "DIFF_SEED"  // of the first round; the next round has the next

	defaultPairs = 210_000
	defaultSeed  = 1
	// Below this the coverage is shown but not asked for: such a run looks at
	// single rounds again.
	coveredPairs = 200_000

	// moreRounds are run where something is not covered after all turns.
	moreRounds = 16

	// pairsPerLayer is how much traffic each round has for each layer.
	pairsPerLayer = 400
	// In how many rounds of that kind each layer has its turn to be big (one
	// round in eight has big layers) or large.
	bigCycle, largeCycle = 5, 4
)

// TestDifferential compares the evaluator's verdicts with the kernel's: the
// action, the right that is left, and the filter that decided.
func TestDifferential(t *testing.T) {
	testbed.RequireRoot(t)
	t.Parallel() // commits wait for the kernel half of their time
	asked, seed := number(t, pairsEnv, defaultPairs), uint64(number(t, seedEnv, defaultSeed))
	if asked == 0 {
		t.Fatalf("%s=0 compares nothing", pairsEnv)
	}
	pairs := asked - asked/largeShare
	t.Logf("%s=%d %s=%d: %d pairs", pairsEnv, asked, seedEnv, seed, pairs)

	d := newDiffer(t)
	for _, s := range corpus(t, seeds) {
		d.round(s)
	}
	d.pairs, d.agreed = 0, 0 // what is asked for is random
	start := time.Now()
	// the more layers run, the more pairs it takes until each had its turn to be big, and
	// until each form of each field has decided
	covered := func() bool { return d.coverage.everyTurn() && len(d.coverage.missing()) == 0 }
	for more := moreRounds; d.pairs < pairs || asked >= coveredPairs && more > 0 && !covered(); seed++ {
		if d.round(seed); t.Failed() {
			return
		}
		if d.coverage.everyTurn() {
			more--
		}
	}
	elapsed := time.Since(start)
	t.Logf("%d pairs in %d policies agree; %s, %.0f pairs/s; %s for commits, %s for the judge, %s for the evaluator",
		d.agreed, d.rounds, elapsed.Round(time.Millisecond), float64(d.pairs)/elapsed.Seconds(),
		d.committed.Round(time.Millisecond), d.judged.Round(time.Millisecond), d.evaluated.Round(time.Millisecond))
	t.Log("\n" + d.coverage.table())
	missing := d.coverage.missing()
	if asked < coveredPairs {
		t.Logf("coverage is asked for from %d pairs on; of it this run lacks %d things", coveredPairs, len(missing))
		return
	}
	for _, m := range missing {
		t.Error("not covered: " + m)
	}
}

func number(t *testing.T, env string, otherwise int) int {
	t.Helper()
	text := os.Getenv(env)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		t.Fatalf("%s=%s is no number", env, text)
	}
	return n
}

var (
	//go:embed testdata/seeds
	seeds string
	//go:embed testdata/stories
	stories string
)

// corpus is the seeds that found something once.
func corpus(t *testing.T, file string) []uint64 {
	t.Helper()
	var list []uint64
	for lines := bufio.NewScanner(strings.NewReader(file)); lines.Scan(); {
		text, _, _ := strings.Cut(strings.TrimSpace(lines.Text()), " ")
		if text == "" || text[0] == '#' {
			continue
		}
		seed, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatalf("testdata: %v", err)
		}
		list = append(list, seed)
	}
	return list
}

// deepPlace is a place in the order of a layer that only large policies reach.
const deepPlace = 4096 + 400

// live is the layers that run.
func live() []*layermap.Layer {
	var list []*layermap.Layer
	for _, l := range layermap.Layers() {
		if l.Hook().Live {
			list = append(list, &l)
		}
	}
	return list
}

// size draws how many sublayers and filters a seed's policy has: most rounds
// have small layers, all of them; some have a few larger ones and nothing else,
// and some a few whose rows take two pages of the tables.
func size(seed uint64) (subLayers int, filters map[layermap.LayerID]int) {
	const small, large, big = uint64(64), uint64(1000), uint64(deepPlace + 200)
	filters = map[layermap.LayerID]int{}
	for i, l := range live() {
		i, turn := uint64(i), seed/8
		n := small + (seed*31+i*17)%48
		switch {
		case seed%8 == 1:
			n = 0
			if i%bigCycle == turn%bigCycle {
				n = big + seed*7%300
			}
		case seed%8 == 3:
			n = 0
			if i%largeCycle == turn%largeCycle {
				n = large
			}
		}
		filters[l.ID] = int(n)
	}
	return []int{5, bpf.MaxSubLayers, 6, bpf.MaxSubLayers}[seed%4], filters
}

// differ runs rounds on one engine: each commits over the one before, so that
// both slots of the tables serve in turn.
type differ struct {
	t         *testing.T
	engine    *loader.Engine
	ns        *testbed.Netns
	layers    []*layermap.Layer
	coverage  *coverage
	pairs     int
	agreed    int
	rounds    int
	committed time.Duration
	judged    time.Duration
	evaluated time.Duration
}

// newDiffer opens an engine where it has nothing to filter.
func newDiffer(t *testing.T) *differ {
	ns, cg := testbed.NewNetns(t, "diff"), testbed.NewCgroup(t, "diff")
	e, err := loader.Open(loader.Options{Target: loader.Target{Netns: ns.Name, Cgroup: cg.Rel}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Down(); err != nil {
			t.Errorf("down: %v", err)
		}
		e.Close()
	})
	return &differ{t: t, engine: e, ns: ns, layers: live(), coverage: newCoverage()}
}

// round commits the policy of a seed and compares verdicts at each layer.
func (d *differ) round(seed uint64) {
	d.t.Helper()
	g := random.New(seed)
	subLayers, filters := size(seed)
	p := g.PolicyOf(subLayers, filters)
	start := time.Now()
	err := d.engine.Commit(context.Background(), p)
	d.committed += time.Since(start)
	if err != nil {
		d.t.Fatalf("%s=%d: commit: %v", seedEnv, seed, err)
	}
	d.rounds++
	d.coverage.policy(g.Used)
	empty := false
	for _, l := range d.layers {
		values := make([]filter.Values, pairsPerLayer)
		if filters[l.ID] == 0 {
			if empty {
				continue
			}
			// one layer may tell that what the slot had before is gone
			empty = true
			values = values[:20]
		}
		for i := range values {
			values[i] = g.Values(l)
		}
		want, ok := d.compare(scene{test: "TestDifferential", seed: seed}, p, l, values)
		if !ok {
			return // the rest of the round would tell the same story
		}
		order := p.Store.Layer(l.ID)
		if len(order) > 0 {
			for _, r := range want {
				d.coverage.verdict(l, r, r.Filter != nil && slices.Index(order, r.Filter) >= deepPlace)
			}
		}
		if len(order) > 0 {
			d.coverage.layer(l, len(want[0].SubLayers), len(order))
		}
	}
}

// scene is where in a run a comparison stands.
type scene struct {
	test string
	seed uint64
	what string // has happened in the round so far
}

// compare asks both sides for verdicts on values at a layer of the policy in
// force, and reports the first on which they disagree.
func (d *differ) compare(at scene, p *policy.Policy, l *layermap.Layer, values []filter.Values) (want []filter.Result, ok bool) {
	d.t.Helper()
	start := time.Now()
	verdicts, err := d.engine.Judge(l.ID, values)
	d.judged += time.Since(start)
	if err != nil {
		d.t.Fatalf("%s=%d, %s: %v: judge: %v", seedEnv, at.seed, at.what, l.ID, err)
	}
	if len(verdicts) != len(values) {
		d.t.Fatalf("%s=%d, %s: %v: %d verdicts on %d cases", seedEnv, at.seed, at.what, l.ID, len(verdicts), len(values))
	}
	start = time.Now()
	want = evaluate(p.Store.Plan(l.ID), values)
	d.evaluated += time.Since(start)
	for i := range values {
		d.pairs++
		if !same(want[i], verdicts[i]) {
			d.disagree(at, p, l, values[i], want[i], verdicts[i])
			return nil, false
		}
		d.agreed++
	}
	return want, true
}

// evaluate asks the evaluator. It goes through all filters of the layer for
// each case, so that with thousands of them it wants all processors.
func evaluate(plan *filter.Plan, values []filter.Values) []filter.Result {
	results := make([]filter.Result, len(values))
	var group sync.WaitGroup
	part := len(values)/runtime.NumCPU() + 1
	for low := 0; low < len(values); low += part {
		group.Go(func() {
			for i := low; i < min(low+part, len(values)); i++ {
				plan.Arbitrate(values[i], nil, &results[i])
			}
		})
	}
	group.Wait()
	return results
}

func same(want filter.Result, got loader.Verdict) bool {
	var id filter.ID
	if want.Filter != nil {
		id = want.Filter.ID
	}
	return got.Action == want.Action && got.Soft == want.Soft && got.Filter == id
}

// disagree reports one pair in full: how to see it again, what each side says,
// what was asked, and the filters that have a part in it.
func (d *differ) disagree(at scene, p *policy.Policy, l *layermap.Layer, values filter.Values, want filter.Result, got loader.Verdict) {
	d.t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "%s=%d, %v, %d filters: the evaluator and the kernel disagree\n", seedEnv, at.seed, l.ID, len(p.Store.Layer(l.ID)))
	if at.what != "" {
		fmt.Fprintf(&b, "  so far: %s\n", at.what)
	}
	fmt.Fprintf(&b, "  again: %s=%d %s=1 go test -count=1 -v -run '^%s$' ./tests/diff\n", seedEnv, at.seed, pairsEnv, at.test)
	if at.test == "TestDifferential" {
		fmt.Fprintf(&b, "  with the policy before it in the other slot: %s=%d %s=%d\n", seedEnv, at.seed-1, pairsEnv, (2+pairsPerLayer*len(d.layers))*largeShare/(largeShare-1))
		fmt.Fprintf(&b, "  and then a line for tests/diff/testdata/seeds\n")
	} else {
		fmt.Fprintf(&b, "  and then a line for tests/diff/testdata/stories\n")
	}
	fmt.Fprintf(&b, "  evaluator: %v, %s, by filter %d\n", want.Action, right(want.Soft), idOf(want.Filter))
	fmt.Fprintf(&b, "  kernel:    %v, %s, by filter %d\n", got.Action, right(got.Soft), got.Filter)
	for i, f := range l.Fields {
		if l.Source(f.Key).Kind == layermap.Filled {
			value := text(values[i])
			if f.Type == layermap.IPAddress {
				value = filter.FormatValue(f, values[i])
			}
			fmt.Fprintf(&b, "    %s = %s\n", f.Key, value)
		}
	}
	order := p.Store.Layer(l.ID)
	for _, id := range slices.Compact([]filter.ID{idOf(want.Filter), got.Filter}) {
		if f := p.Store.Filter(id); f != nil {
			fmt.Fprintf(&b, "  %d. in the order of evaluation:\n", 1+slices.Index(order, f))
			b.WriteString(describe(f, l, values))
		} else if id != 0 {
			fmt.Fprintf(&b, "  filter %d is not in the policy\n", id)
		}
	}
	fmt.Fprintf(&b, "  the sublayers, says the evaluator:\n")
	for _, s := range want.SubLayers {
		if s.Filter != nil {
			fmt.Fprintf(&b, "    %q, weight %d: %v, %s, by filter %d\n", s.SubLayer.Name, s.SubLayer.Weight, s.Action, right(s.Soft), s.Filter.ID)
		}
	}
	b.WriteString(d.shrink(p, l, values))
	d.t.Error(b.String())
}

func idOf(f *filter.Filter) filter.ID {
	if f == nil {
		return 0
	}
	return f.ID
}

func right(soft bool) string {
	if soft {
		return "soft"
	}
	return "hard"
}

func text(v filter.Value) string {
	if v.Type == layermap.ByteBlob {
		return strconv.Quote(string(v.Bytes))
	}
	return v.String()
}

func describe(f *filter.Filter, l *layermap.Layer, values filter.Values) string {
	var b strings.Builder
	fmt.Fprintf(&b, "  filter %d %q: %v, flags %#x, weight %d, sublayer %s; matches, says the evaluator: %v\n",
		f.ID, f.Name, f.Action, uint32(f.Flags), f.EffectiveWeight, f.SubLayer, filter.MatchesAll(f.Conditions, l, values))
	for _, c := range f.Conditions {
		operand := text(c.Value)
		if c.Value.SD != nil {
			operand = fmt.Sprintf("%+v", c.Value.SD.Entries)
		}
		fmt.Fprintf(&b, "    %s %v %v %s: %v\n", c.Field, c.Match, c.Value.Type, operand, c.Matches(values[l.FieldIndex(c.Field)]))
	}
	return b.String()
}

// The random policies and traffic of a seed are always the same: otherwise no
// disagreement could be looked at again.
func TestDiffSeedsRepeat(t *testing.T) {
	make := func() (*random.Generator, []*filter.Filter, []filter.Values) {
		g := random.New(99)
		subLayers, filters := size(99)
		p := g.PolicyOf(subLayers, filters)
		var values []filter.Values
		for _, l := range live() {
			for range 20 {
				values = append(values, g.Values(l))
			}
		}
		return g, p.Store.Filters(), values
	}
	a, filtersA, valuesA := make()
	b, filtersB, valuesB := make()
	if !maps.Equal(a.Used, b.Used) {
		t.Error("the conditions differ")
	}
	if len(filtersA) != len(filtersB) || len(valuesA) != len(valuesB) {
		t.Fatalf("%d filters and %d values, then %d and %d", len(filtersA), len(valuesA), len(filtersB), len(valuesB))
	}
	for i, f := range filtersA {
		g := filtersB[i]
		if f.EffectiveWeight != g.EffectiveWeight || f.Action != g.Action || fmt.Sprint(f.Conditions) != fmt.Sprint(g.Conditions) {
			t.Fatalf("filter %d differs: %v and %v", i, f, g)
		}
	}
	for i := range valuesA {
		for j := range valuesA[i] {
			if !valuesA[i][j].Equal(valuesB[i][j]) {
				t.Fatalf("traffic %d differs: %v and %v", i, valuesA[i], valuesB[i])
			}
		}
	}
}
