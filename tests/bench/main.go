// SPDX-License-Identifier: Apache-2.0

// Command bench measures what a verdict costs, over real tables of real
// policies, in a network namespace and a cgroup of its own. It wants root.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
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
	runs := flag.Int("runs", 15, "runs of each program")
	out := flag.String("o", "", "file to write the results to, as Markdown")
	flag.Parse()
	// A signal ends the measurement, and then what was made is removed.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *sizes, *runs, *out); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, sizes string, runs int, out string) (err error) {
	var ns []int
	for _, s := range strings.Split(sizes, ",") {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || n > scanSteps {
			return fmt.Errorf("-sizes: %q is no number of filters", s)
		}
		ns = append(ns, n)
	}
	if runs < 1 {
		return errors.New("-runs: at least 1")
	}
	if err := loader.CheckCapabilities(); err != nil {
		return err
	}
	at, remove, err := newLab()
	defer func() { err = errors.Join(err, remove()) }()
	if err != nil {
		return err
	}
	var list []result
	for _, layer := range []layermap.LayerID{
		layermap.ALEAuthRecvAcceptV4, layermap.ALEAuthRecvAcceptV6, layermap.InboundTransportV4, layermap.InboundTransportV6,
	} {
		for _, n := range ns {
			l := layermap.ByID(layer)
			r, err := measure(ctx, at, l, n, runs)
			if err != nil {
				return fmt.Errorf("%s, %d filters: %w", l.Name, n, err)
			}
			// A large policy takes minutes: say what is done.
			fmt.Fprintln(os.Stderr, strings.Join(r.cells(), "  "))
			list = append(list, r)
		}
	}
	fmt.Print(text(list))
	if out == "" {
		return nil
	}
	return os.WriteFile(out, []byte(document(list, runs)), 0o644)
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
