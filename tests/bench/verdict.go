// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/cilium/ebpf"

	"github.com/wfpebpf/wfpebpf/bpf"
	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
	"github.com/wfpebpf/wfpebpf/loader"
)

const (
	cases  = 65536 // that a run of the classifier judges: those of bench.c
	sample = 4096  // cases that the evaluator judges, too
	// scanSteps bounds a run of the linear scan, which does so many comparisons
	// with a rule at most: it judges fewer cases where there are more rules.
	scanSteps = 20_000_000
)

// result is what one size of policy costs at one layer.
type result struct {
	layer          *layermap.Layer
	filters        int
	classify, scan []float64 // ns a verdict, one for each run
	kept           []float64 // the same where it is kept
	amended        []float64 // the same as classify, after changes
	commit         time.Duration
	change         []float64 // ms, of one filter
	memory         uint64
}

// measure commits a policy of n filters and runs both classifiers over it.
func measure(ctx context.Context, at loader.Target, layer *layermap.Layer, n, runs int) (r result, err error) {
	r = result{layer: layer, filters: n}
	v6 := layer.Family == layermap.V6
	list := rules(n, v6, 1)
	p, err := policyOf(layer.ID, list)
	if err != nil {
		return r, err
	}
	before, err := policyOf(layer.ID, rules(n, v6, 2))
	if err != nil {
		return r, err
	}
	e, err := loader.Open(loader.Options{Target: at})
	if err != nil {
		return r, err
	}
	defer e.Close()
	defer func() { err = errors.Join(err, e.Down()) }()
	// The first commit also loads and attaches programs, which is done once.
	if err := e.Commit(ctx, before); err != nil {
		return r, err
	}
	start := time.Now()
	if err := e.Commit(ctx, p); err != nil {
		return r, err
	}
	r.commit = time.Since(start)
	state, err := e.State()
	if err != nil {
		return r, err
	}
	r.memory = state.Memory

	traffic := headers(layer.ID, list, cases, 5)
	b, err := newBench(e, layer, list, traffic)
	if err != nil {
		return r, err
	}
	defer b.Close()
	keeps := !strings.HasPrefix(layer.Name, "ALE_")
	if keeps {
		if err := b.settle(e, layer, list, traffic); err != nil {
			return r, err
		}
	}
	scanned := min(cases, scanSteps/n)
	want, err := oracle(e, p.Store.Plan(layer.ID), layer.ID, traffic[:sample])
	if err != nil {
		return r, err
	}
	programs := []timed{
		{name: "classify", empty: "empty", judged: cases, into: &r.classify},
		{name: "scan", empty: "empty", judged: scanned, into: &r.scan},
	}
	if keeps {
		programs = append(programs, timed{name: "kept", empty: "packet", judged: cases, warm: true, into: &r.kept})
	}
	if err := b.byTurns(ctx, programs, want, n, runs); err != nil {
		return r, fmt.Errorf("%s, %d filters: %w", layer.Name, n, err)
	}
	if r.change, err = changes(ctx, e, p, layer, runs); err != nil {
		return r, err
	}
	if want, err = oracle(e, p.Store.Plan(layer.ID), layer.ID, traffic[:sample]); err != nil {
		return r, err
	}
	amended := []timed{{name: "classify", empty: "empty", judged: cases, into: &r.amended}}
	return r, b.byTurns(ctx, amended, want, n, runs)
}

// byTurns times programs, so that what else the machine does meets all alike, after
// each has blocked as many of the first cases as it should.
func (b *bench) byTurns(ctx context.Context, programs []timed, want []uint64, rules, runs int) error {
	for _, p := range programs {
		judged := min(sample, p.judged)
		run, err := b.run(p.name, judged, rules)
		if err != nil {
			return err
		}
		if run.Blocked != want[judged] {
			return fmt.Errorf("%s blocks %d of %d, the evaluator %d", p.name, run.Blocked, judged, want[judged])
		}
	}
	for range runs {
		for _, p := range programs {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := b.time(p, rules); err != nil {
				return err
			}
		}
	}
	return nil
}

// oracle holds the judge to the evaluator, case by case, and returns how many of
// the first i cases are blocked.
func oracle(e *loader.Engine, plan *filter.Plan, layer layermap.LayerID, traffic []filter.Values) ([]uint64, error) {
	verdicts, err := e.Judge(layer, traffic)
	if err != nil {
		return nil, err
	}
	blocked := make([]uint64, len(traffic)+1)
	var res filter.Result
	for i, v := range traffic {
		plan.Arbitrate(v, nil, &res)
		want := loader.Verdict{Action: res.Action, Soft: res.Soft}
		if res.Filter != nil {
			want.Filter = res.Filter.ID
		}
		if verdicts[i] != want {
			return nil, fmt.Errorf("case %d: the kernel says %+v, the evaluator %+v", i, verdicts[i], want)
		}
		blocked[i+1] = blocked[i]
		if res.Blocked() {
			blocked[i+1]++
		}
	}
	return blocked, nil
}

// bench is the programs of bench.c, over the tables of an engine.
type bench struct {
	*ebpf.Collection
	v6 uint32
}

func newBench(e *loader.Engine, layer *layermap.Layer, list []rule, traffic []filter.Values) (*bench, error) {
	spec, err := loadBench()
	if err != nil {
		return nil, err
	}
	replace := map[string]*ebpf.Map{}
	for name, m := range e.Maps() {
		// the kept verdicts are the benchmark's own: it has more room for them
		if spec.Maps[name] != nil && name != benchMapVerdicts4 && name != benchMapVerdicts6 {
			replace[name] = m
		}
	}
	spec.Maps[benchMapBenchRules].MaxEntries = uint32(len(list))
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: replace})
	if err != nil {
		return nil, err
	}
	b := &bench{Collection: coll}
	if layer.Family == layermap.V6 {
		b.v6 = 1
	}
	encoded, err := e.Encode(layer.ID, traffic)
	if err == nil {
		err = fill(coll.Maps[benchMapBenchCases], encoded)
	}
	if err == nil {
		rows := make([]benchBenchRule, len(list))
		for i := range list {
			rows[i] = list[i].scanned(layer.Family == layermap.V6)
		}
		err = fill(coll.Maps[benchMapBenchRules], rows)
	}
	if err != nil {
		coll.Close()
		return nil, err
	}
	return b, nil
}

// timed is a program whose runs are timed.
type timed struct {
	name   string
	empty  string // the same loop without what is measured
	judged int
	warm   bool // what others leave in the processor's caches is no part of it
	into   *[]float64
}

func (b *bench) time(p timed, rules int) error {
	names := []string{p.empty, p.name}
	if p.warm {
		names = []string{p.name, p.empty, p.name}
	}
	var last, before benchBenchRun
	for _, name := range names {
		run, err := b.run(name, p.judged, rules)
		if err != nil {
			return err
		}
		if run.Classified != 0 {
			return fmt.Errorf("%s: %d verdicts are not kept", p.name, run.Classified)
		}
		before, last = last, run
	}
	*p.into = append(*p.into, (float64(last.Ns)-float64(before.Ns))/float64(p.judged))
	return nil
}

// settle keeps the verdict of every case. Cases that displace each other's are
// replaced by others of the same kind; a host has fewer flows at a time.
func (b *bench) settle(e *loader.Engine, layer *layermap.Layer, list []rule, traffic []filter.Values) error {
	const rounds = 100
	for seed := range uint64(rounds) {
		encoded, err := e.Encode(layer.ID, traffic)
		if err != nil {
			return err
		}
		// twice: what is not kept the second time others have displaced
		for _, name := range []string{"pack", "kept", "kept"} {
			if err := fill(b.Maps[benchMapBenchCases], encoded); err != nil {
				return err
			}
			if _, err := b.run(name, cases, len(list)); err != nil {
				return err
			}
		}
		var cursor ebpf.MapBatchCursor
		keys, judged := make([]uint32, cases), make([]bpf.Values, cases)
		if n, err := b.Maps[benchMapBenchCases].BatchLookup(&cursor, keys, judged, nil); n < cases {
			return fmt.Errorf("reading the cases: %w", err)
		}
		var displaced []int
		for i, v := range judged {
			if v.Found != 0 {
				displaced = append(displaced, int(keys[i]))
			}
		}
		if len(displaced) == 0 {
			return nil
		}
		for i, v := range headers(layer.ID, list, len(displaced), 100+seed) {
			traffic[displaced[i]] = v
		}
	}
	return errors.New("verdicts displace each other, whatever the cases")
}

func fill[V benchBenchRule | bpf.Values](m *ebpf.Map, values []V) error {
	keys := make([]uint32, len(values))
	for i := range keys {
		keys[i] = uint32(i)
	}
	_, err := m.BatchUpdate(keys, values, nil)
	return err
}

// run judges the first n cases.
func (b *bench) run(name string, n, rules int) (benchBenchRun, error) {
	r := benchBenchRun{Cases: uint32(n), Rules: uint32(rules), V6: b.v6}
	ret, err := b.Programs["bench_"+name].Run(&ebpf.RunOptions{Context: &r, ContextOut: &r})
	if err == nil && ret != 0 {
		err = fmt.Errorf("it returns %d", ret)
	}
	if err != nil {
		return r, fmt.Errorf("running %s: %w", name, err)
	}
	return r, nil
}
