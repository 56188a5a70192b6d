// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
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
	commit         time.Duration
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
	scanned := min(cases, scanSteps/n)
	want, err := oracle(e, p.Store.Plan(layer.ID), layer.ID, traffic[:sample])
	if err != nil {
		return r, err
	}
	for name, judged := range map[string]int{"classify": sample, "scan": min(sample, scanned)} {
		_, blocked, err := b.run(name, judged, n)
		if err != nil {
			return r, err
		}
		if blocked != want[judged] {
			return r, fmt.Errorf("%s, %d filters: %s blocks %d of %d, the evaluator %d", layer.Name, n, name, blocked, judged, want[judged])
		}
	}
	// By turns, so that what else the machine does meets all alike.
	for range runs {
		if err := ctx.Err(); err != nil {
			return r, err
		}
		empty, _, err := b.run("empty", cases, n)
		if err != nil {
			return r, err
		}
		classify, _, err := b.run("classify", cases, n)
		if err != nil {
			return r, err
		}
		scan, _, err := b.run("scan", scanned, n)
		if err != nil {
			return r, err
		}
		r.classify = append(r.classify, classify-empty)
		r.scan = append(r.scan, scan-empty)
	}
	return r, nil
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
type bench struct{ *ebpf.Collection }

func newBench(e *loader.Engine, layer *layermap.Layer, list []rule, traffic []filter.Values) (*bench, error) {
	spec, err := loadBench()
	if err != nil {
		return nil, err
	}
	replace := map[string]*ebpf.Map{}
	for name, m := range e.Maps() {
		if spec.Maps[name] != nil {
			replace[name] = m
		}
	}
	spec.Maps[benchMapBenchRules].MaxEntries = uint32(len(list))
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: replace})
	if err != nil {
		return nil, err
	}
	b := &bench{coll}
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

func fill[V benchBenchRule | bpf.Values](m *ebpf.Map, values []V) error {
	keys := make([]uint32, len(values))
	for i := range keys {
		keys[i] = uint32(i)
	}
	_, err := m.BatchUpdate(keys, values, nil)
	return err
}

// run judges the first n cases and returns what one took and how many were
// blocked.
func (b *bench) run(name string, n, rules int) (ns float64, blocked uint64, err error) {
	r := benchBenchRun{Cases: uint32(n), Rules: uint32(rules)}
	ret, err := b.Programs["bench_"+name].Run(&ebpf.RunOptions{Context: &r, ContextOut: &r})
	if err == nil && ret != 0 {
		err = fmt.Errorf("it returns %d", ret)
	}
	if err != nil {
		return 0, 0, fmt.Errorf("running %s: %w", name, err)
	}
	return float64(r.Ns) / float64(n), r.Blocked, nil
}
