// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
	"github.com/wfpebpf/wfpebpf/loader"
	"github.com/wfpebpf/wfpebpf/policy"
)

const (
	setEntries = 500_000
	setFilters = 1000 // beside the one with the set
	// what the project holds a set to
	setFloorLoad = 2 * time.Second
	setFloorCost = 60 // ns
)

// setResult is what a set costs at one layer.
type setResult struct {
	layer   *layermap.Layer
	load    time.Duration // from the file to a policy in force
	memory  uint64
	without []float64 // ns a verdict, one for each run
	added   []float64 // by the filter with the set, in the same run
}

// sets measures one filter with a large set of addresses, on top of others.
func sets(ctx context.Context, set setting) (sections []section, err error) {
	at, remove, err := newLab()
	defer func() { err = errors.Join(err, remove()) }()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "wfpebpf-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	var list []setResult
	for _, id := range []layermap.LayerID{layermap.ALEAuthRecvAcceptV4, layermap.ALEAuthRecvAcceptV6} {
		l := layermap.ByID(id)
		r, err := measureSet(ctx, at, l, dir, set.runs)
		if err != nil {
			return nil, fmt.Errorf("%s, a set: %w", l.Name, err)
		}
		list = append(list, r)
	}
	return []section{setSection(list, set.runs)}, nil
}

func measureSet(ctx context.Context, at loader.Target, layer *layermap.Layer, dir string, runs int) (r setResult, err error) {
	r.layer = layer
	v6 := layer.Family == layermap.V6
	addresses, file, err := writeSetPolicy(dir, layer)
	if err != nil {
		return r, err
	}
	list := rules(setFilters, v6, 1)
	without, err := policyOf(layer.ID, list)
	if err != nil {
		return r, err
	}
	e, err := loader.Open(loader.Options{Target: at})
	if err != nil {
		return r, err
	}
	defer e.Close()
	defer func() { err = errors.Join(err, e.Down()) }()
	if err := e.Commit(ctx, without); err != nil {
		return r, err
	}
	start := time.Now()
	alone, err := policy.Load([]string{file}, policy.Options{})
	if err != nil {
		return r, err
	}
	if err := e.Commit(ctx, alone); err != nil {
		return r, err
	}
	r.load = time.Since(start)
	with, err := policyOf(layer.ID, list)
	if err != nil {
		return r, err
	}
	if err := addSet(with, alone); err != nil {
		return r, err
	}
	// Half of the traffic is of addresses in the set.
	traffic := headers(layer.ID, list, cases, 5)
	for i := 0; i < len(traffic); i += 2 {
		a := addresses[i%len(addresses)]
		v := filter.Addr16(a)
		if !v6 {
			v = filter.Addr4(a)
		}
		traffic[i][layer.FieldIndex("IP_REMOTE_ADDRESS")] = v
	}
	if err := e.Commit(ctx, with); err != nil {
		return r, err
	}
	state, err := e.State()
	if err != nil {
		return r, err
	}
	r.memory = state.Memory
	if _, err := oracle(e, with.Store.Plan(layer.ID), layer.ID, traffic[:sample]); err != nil {
		return r, err
	}
	b, err := newBench(e, layer, list, traffic)
	if err != nil {
		return r, err
	}
	defer b.Close()
	for range runs {
		var ns [2]float64
		for i, p := range []*policy.Policy{without, with} {
			if err := e.Commit(ctx, p); err != nil {
				return r, err
			}
			empty, err := b.run("empty", cases, setFilters)
			if err != nil {
				return r, err
			}
			classify, err := b.run("classify", cases, setFilters)
			if err != nil {
				return r, err
			}
			ns[i] = (float64(classify.Ns) - float64(empty.Ns)) / cases
		}
		r.without, r.added = append(r.without, ns[0]), append(r.added, ns[1]-ns[0])
	}
	return r, nil
}

// writeSetPolicy writes a file of addresses far apart, and a policy whose one filter
// tests it.
func writeSetPolicy(dir string, layer *layermap.Layer) (addresses []netip.Addr, file string, err error) {
	v6 := layer.Family == layermap.V6
	f, err := os.Create(filepath.Join(dir, layer.Name+".txt"))
	if err != nil {
		return nil, "", err
	}
	w := bufio.NewWriter(f)
	r := rand.New(rand.NewPCG(3, 4))
	for range setEntries {
		a := prefix(r, v6, 0, 32).Addr()
		if v6 {
			b := a.As16()
			for i := 8; i < len(b); i++ {
				b[i] = byte(r.Uint32())
			}
			a = netip.AddrFrom16(b)
		} else {
			b := a.As4()
			b[0] = byte(1 + r.IntN(223))
			a = netip.AddrFrom4(b)
		}
		addresses = append(addresses, a)
		fmt.Fprintln(w, a)
	}
	file = filepath.Join(dir, layer.Name+".yaml")
	text := fmt.Sprintf(`wfpebpf: 1
sets:
  large: {file: %s}
filters:
  - name: Block the set
    layer: %s
    action: BLOCK
    conditions: [{IP_REMOTE_ADDRESS: {set: large}}]
`, filepath.Base(f.Name()), layer.Name)
	return addresses, file, errors.Join(w.Flush(), f.Close(), os.WriteFile(file, []byte(text), 0o600))
}

// addSet adds the filters of one policy to another.
func addSet(to, from *policy.Policy) error {
	for _, f := range from.Store.Filters() {
		g := *f
		g.ID, g.Key, g.EffectiveWeight = 0, filter.GUID{}, 0 // its own there
		if err := to.Store.AddFilter(&g); err != nil {
			return err
		}
	}
	return nil
}

func setSection(list []setResult, runs int) section {
	var b strings.Builder
	fmt.Fprintf(&b, "What one filter with a set of %s addresses costs, beside %s others.\n\n", group(strconv.Itoa(setEntries)), group(strconv.Itoa(setFilters)))
	b.WriteString("| layer | load | verdict without, ns | added, ns | memory |  |\n| --- | ---: | ---: | ---: | ---: | --- |\n")
	for _, r := range list {
		fmt.Fprintf(&b, "| %s | %s ms | %s | %s | %.1f MB | %s |\n", r.layer.Name, group(fmt.Sprintf("%.0f", r.load.Seconds()*1000)),
			spread(r.without), spread(r.added), float64(r.memory)/1e6, verdictOf(r))
	}
	fmt.Fprintf(&b, `
- Load: from reading the file to the policy in force, on an engine that runs (at most
  %s). Added: the difference that the filter makes to a verdict (at most %d ns),
  medians of %d runs by turns, the least and the most in brackets.
- Half of the %s cases are of addresses in the set. The kernel's verdicts on %s cases
  are the evaluator's.
- Memory: all maps, with the tables of the policy before, which has the set, too.
`, setFloorLoad, setFloorCost, runs, group(strconv.Itoa(cases)), group(strconv.Itoa(sample)))
	return section{"Sets", b.String()}
}

func median(list []float64) float64 {
	s := slices.Sorted(slices.Values(list))
	return s[len(s)/2]
}

func verdictOf(r setResult) string {
	if r.load <= setFloorLoad && median(r.added) <= setFloorCost {
		return "PASS"
	}
	return "short"
}
