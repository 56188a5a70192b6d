// SPDX-License-Identifier: Apache-2.0

// Command bench measures what a verdict costs, over real tables of real
// policies, in namespaces and a cgroup of its own.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/cilium/ebpf"

	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
	"github.com/wfpebpf/wfpebpf/loader"
)

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

const benchCases = 65536

func main() {
	sizes := []int{10, 100, 1000, 10000}
	if s := os.Getenv("BENCH_SIZES"); s != "" {
		sizes = nil
		for _, f := range strings.Split(s, ",") {
			n, _ := strconv.Atoi(f)
			sizes = append(sizes, n)
		}
	}
	ns := fmt.Sprintf("wfpbench-%d", os.Getpid())
	check(exec.Command("ip", "netns", "add", ns).Run())
	defer exec.Command("ip", "netns", "del", ns).Run()
	for _, layer := range []layermap.LayerID{layermap.ALEAuthRecvAcceptV4, layermap.ALEAuthRecvAcceptV6} {
		for _, n := range sizes {
			measure(ns, layer, n)
		}
	}
}

func measure(ns string, layer layermap.LayerID, n int) {
	list := rules(n, layermap.ByID(layer).Family == layermap.V6, 1)
	p := policyOf(layer, list)
	e, err := loader.Open(loader.Options{Target: loader.Target{Netns: ns, Cgroup: "/wfpbench2"}})
	check(err)
	defer e.Close()
	defer func() { check(e.Down()) }()
	start := time.Now()
	check(e.Commit(context.Background(), p))
	commit := time.Since(start)
	hs := headers(layer, list, benchCases, 5)
	cases, err := e.Encode(layer, hs)
	check(err)
	spec, err := loadBench()
	check(err)
	replace := map[string]*ebpf.Map{}
	for name, m := range e.Maps() {
		if spec.Maps[name] != nil {
			replace[name] = m
		}
	}
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: replace})
	check(err)
	defer coll.Close()
	keys := make([]uint32, benchCases)
	for i := range keys {
		keys[i] = uint32(i)
	}
	_, err = coll.Maps["bench_cases"].BatchUpdate(keys, cases, nil)
	check(err)
	run := func(name string) (float64, uint64) {
		best, blocked := 1e12, uint64(0)
		for range 7 {
			r := benchBenchRun{Cases: benchCases}
			_, err := coll.Programs["bench_"+name].Run(&ebpf.RunOptions{Context: &r, ContextOut: &r})
			check(err)
			best = min(best, float64(r.Ns)/benchCases)
			blocked = r.Blocked
		}
		return best, blocked
	}
	empty, _ := run("empty")
	classify, blocked := run("classify")
	want := 0
	matched := 0
	plan := p.Store.Plan(layer)
	var res filter.Result
	for _, h := range hs[:2000] {
		plan.Arbitrate(h, nil, &res)
		if res.Filter != nil {
			matched++
		}
		if res.Blocked() {
			want++
		}
	}
	st, _ := e.State()
	fmt.Printf("%v %d: empty %.0f classify %.0f net %.0f ns; commit %v; memory %.1f MB; matched %d/2000 blocked %.3f oracle %.3f\n", layer, n, empty, classify, classify-empty, commit, float64(st.Memory)/1e6, matched, float64(blocked)/benchCases, float64(want)/2000)
}
