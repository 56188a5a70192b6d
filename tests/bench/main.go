// SPDX-License-Identifier: Apache-2.0

// Command bench measures what a verdict costs, over real tables of real
// policies, and what packets and connections cost beside other firewalls, in
// network namespaces and cgroups of its own. It wants root.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/vishvananda/netns"

	"github.com/wfpebpf/wfpebpf/internal/cgroup2"
	"github.com/wfpebpf/wfpebpf/layermap"
	"github.com/wfpebpf/wfpebpf/loader"
)

func main() {
	sizes := flag.String("sizes", "10,100,1000,10000", "numbers of filters")
	runs := flag.Int("runs", 15, "runs of each program, and pairs of each ratio")
	out := flag.String("o", "", "file to write the results to, as Markdown; what is not measured stays in it")
	only := flag.String("only", "", "parts to measure, separated by commas ("+partNames()+"); empty: all")
	layer := flag.String("layer", "", "layer to measure beside an input chain: INBOUND_TRANSPORT_V4 or INBOUND_IPPACKET_V4; empty: the first that runs")
	flag.Parse()
	if os.Getenv(workerEnv) != "" {
		os.Exit(workerMain(os.Stdin, os.Stdout))
	}
	// A signal, also that nobody reads the output any more, ends the measurement,
	// and then what was made is removed.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	defer stop()
	if err := run(ctx, *only, setting{runs: *runs, layer: *layer}, *sizes, *out); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// setting is what the parts are measured with.
type setting struct {
	sizes []int // of the policies whose verdicts are measured
	runs  int
	layer string // of transportBench
}

// part is what -only names.
type part struct {
	name    string
	measure func(context.Context, setting) ([]section, error)
}

// parts are in the order of the results.
var parts = []part{{"verdict", verdicts}, {"sets", sets}, {"udp", packets}, {"tcp", streams}}

func partNames() string {
	var names []string
	for _, p := range parts {
		names = append(names, p.name)
	}
	return strings.Join(names, ", ")
}

func run(ctx context.Context, only string, set setting, sizes, out string) error {
	for _, s := range strings.Split(sizes, ",") {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || n > scanSteps {
			return fmt.Errorf("-sizes: %q is no number of filters", s)
		}
		set.sizes = append(set.sizes, n)
	}
	if set.runs < 1 {
		return errors.New("-runs: at least 1")
	}
	chosen := parts
	if only != "" {
		chosen = nil
		for _, name := range strings.Split(only, ",") {
			i := slices.IndexFunc(parts, func(p part) bool { return p.name == name })
			if i < 0 {
				return fmt.Errorf("-only: %q is none of %s", name, partNames())
			}
			chosen = append(chosen, parts[i])
		}
	}
	if err := loader.CheckCapabilities(); err != nil {
		return err
	}
	for _, p := range chosen {
		list, err := p.measure(ctx, set)
		for _, s := range list {
			fmt.Println(s)
			if out != "" {
				err = errors.Join(err, writeSection(out, s))
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func verdicts(ctx context.Context, set setting) (sections []section, err error) {
	at, remove, err := newLab()
	defer func() { err = errors.Join(err, remove()) }()
	if err != nil {
		return nil, err
	}
	var list []result
	for _, layer := range []layermap.LayerID{
		layermap.ALEAuthRecvAcceptV4, layermap.ALEAuthRecvAcceptV6, layermap.InboundTransportV4, layermap.InboundTransportV6,
	} {
		for _, n := range set.sizes {
			l := layermap.ByID(layer)
			r, err := measure(ctx, at, l, n, set.runs)
			if err != nil {
				return nil, fmt.Errorf("%s, %d filters: %w", l.Name, n, err)
			}
			// A large policy takes minutes: say what is done.
			fmt.Fprintln(os.Stderr, strings.Join(r.cells(), "  "))
			list = append(list, r)
		}
	}
	return []section{verdictSection(list, set.runs)}, nil
}

// packets and streams are measured at the sizes for which there are floors.
func packets(ctx context.Context, set setting) (list []section, err error) {
	transport, err := transportBench(set.layer)
	if err != nil {
		return nil, err
	}
	for _, b := range []*packetBench{transport, ingressBench()} {
		s, err := b.run(ctx, []int{10, 1_000, largest}, set.runs)
		if err != nil {
			return list, err
		}
		list = append(list, s)
	}
	return list, nil
}

func streams(ctx context.Context, set setting) ([]section, error) {
	s, err := runStreams(ctx, largest, set.runs)
	if err != nil {
		return nil, err
	}
	return []section{s}, nil
}

// newLab makes a network namespace and a cgroup, and returns how to remove them.
func newLab() (at loader.Target, remove func() error, err error) {
	var undo []func() error
	remove = func() error {
		var err error
		for _, u := range undo {
			err = errors.Join(err, u())
		}
		return err
	}
	name := fmt.Sprintf("wfpebpf-bench-%d", os.Getpid())
	mount, err := cgroup2.Mount("self")
	if err != nil {
		return at, remove, err
	}
	at = loader.Target{Netns: name, Cgroup: mount + "/" + name}
	if err := os.Mkdir(at.Cgroup, 0o755); err != nil {
		return at, remove, err
	}
	undo = append(undo, func() error { return os.Remove(at.Cgroup) })
	// The thread that moves into the namespace ends with the goroutine.
	made := make(chan error)
	go func() {
		runtime.LockOSThread()
		h, err := netns.NewNamed(name)
		if err == nil {
			h.Close()
		}
		made <- err
	}()
	if err := <-made; err != nil {
		return at, remove, fmt.Errorf("making network namespace %s: %w", name, err)
	}
	undo = append(undo, func() error { return netns.DeleteNamed(name) })
	return at, remove, nil
}
