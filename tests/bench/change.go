// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"time"

	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
	"github.com/wfpebpf/wfpebpf/loader"
	"github.com/wfpebpf/wfpebpf/policy"
)

// changes adds a filter to the policy in force and removes another one, again and
// again, each by a commit of its own. ms is what each of them took, from the object
// to the policy in force.
func changes(ctx context.Context, e *loader.Engine, p *policy.Policy, layer *layermap.Layer, runs int) (ms []float64, err error) {
	old := p.Store.Filters()
	runs = min(runs, len(old))
	fresh, err := policyOf(layer.ID, rules(runs, layer.Family == layermap.V6, 9))
	if err != nil {
		return nil, err
	}
	commit := func(change func() error) error {
		start := time.Now()
		if err := change(); err != nil {
			return err
		}
		if err := e.Commit(ctx, p); err != nil {
			return err
		}
		ms = append(ms, time.Since(start).Seconds()*1000)
		return nil
	}
	for i, f := range fresh.Store.Filters() {
		f.ID, f.Key, f.Name = 0, filter.GUID{}, fmt.Sprint("added ", i)
		// they come to stand all over the order
		f.Weight = filter.U64(uint64(len(old) * (i + 1) / (runs + 1)))
		if err := commit(func() error { return p.Store.AddFilter(f) }); err != nil {
			return ms, err
		}
		victim := old[len(old)*i/runs]
		if err := commit(func() error { return p.Store.DeleteFilter(victim.ID) }); err != nil {
			return ms, err
		}
	}
	return ms, nil
}
