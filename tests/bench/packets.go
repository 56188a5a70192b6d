// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wfpebpf/wfpebpf/layermap"
	"github.com/wfpebpf/wfpebpf/loader"
)

const (
	packetSlice = 25 * time.Millisecond // of sending, before it is another's turn
	packetTurns = 2                     // pairs for each run that is asked for
)

// packetBench is one table of packet rates.
type packetBench struct {
	title    string
	at       where
	hook     nftHook
	iptables bool // there is no such hook of iptables at the layers below
	notes    []string
}

// packetSite is a site with its sender and receiver, one firewall in force.
type packetSite struct {
	firewall
	*site
	sender, receiver *worker
	softirqd         int // process to which the sender's CPU leaves softirqs
}

// row is one line of the table: a firewall at a size, beside no firewall.
type row struct {
	filters    int
	name       string
	known, new *pairs
}

// run measures the table at each size.
func (b *packetBench) run(ctx context.Context, sizes []int, n int) (section, error) {
	var rows []row
	var floors []floor
	n *= packetTurns
	rivals := nftables(b.hook, b.at.protocol)
	if v, err := version(ctx, "nft"); err != nil {
		rivals = nil
		b.notes = append(b.notes, "nftables is left out: "+err.Error()+".")
	} else {
		b.notes = append(b.notes, "nft is of "+v+".")
	}
	if b.iptables {
		if v, err := version(ctx, "iptables"); err != nil {
			b.notes = append(b.notes, "iptables is left out: "+err.Error()+".")
		} else {
			rivals = append(rivals, iptables(b.at.protocol, v))
		}
	}
	for _, size := range sizes {
		r, f, err := b.measure(ctx, rivals, size, n)
		if err != nil {
			return section{}, fmt.Errorf("%s, %d filters: %w", b.title, size, err)
		}
		rows, floors = append(rows, r...), append(floors, f...)
	}
	return section{b.title, b.text(rows, floors, n)}, nil
}

func (b *packetBench) measure(ctx context.Context, rivals []firewall, size, n int) (rows []row, floors []floor, err error) {
	l := &lab{}
	defer func() { err = errors.Join(err, l.Close()) }()
	list := endpoints(size)
	known := order{Op: "flood", Flows: flowsOf(list, permitted), For: packetSlice}
	fresh := known
	fresh.New = true
	progress("%s: %d filters", b.title, size)
	sites := map[string]*packetSite{}
	for i, f := range append([]firewall{none(noFirewall), none(again), wfpebpf(b.at)}, rivals...) {
		s, err := newPacketSite(ctx, l, fmt.Sprint(size, "-", i), f, list)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", f.name, err)
		}
		if err := s.check(ctx, list); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", f.name, err)
		}
		sites[f.name] = s
	}
	pair := func(a, b string, o order) (*pairs, error) {
		p, err := interleave(ctx, n, sites[a].slice(ctx, o), sites[b].slice(ctx, o))
		if err != nil {
			return nil, fmt.Errorf("%s beside %s: %w", b, a, err)
		}
		progress("  %s beside %s: %s, by CPU time %s", b, a, p.rates(), p.cpus())
		return &p, nil
	}
	control := row{filters: size, name: again}
	if control.known, err = pair(noFirewall, again, known); err != nil {
		return nil, nil, err
	}
	mine := row{filters: size, name: ours}
	if mine.known, err = pair(noFirewall, ours, known); err != nil {
		return nil, nil, err
	}
	if b.at.protocol != 0 { // else a rule's packets are all alike
		if mine.new, err = pair(noFirewall, ours, fresh); err != nil {
			return nil, nil, err
		}
	}
	rows = append(rows, control, mine)
	if size == largest {
		floors = append(floors, floor{fmt.Sprintf("flows already decided, beside no firewall, %s filters", group(strconv.Itoa(size))), 0.90, *mine.known})
	}
	var best *floor
	for _, f := range rivals {
		r := row{filters: size, name: f.name}
		if r.known, err = pair(noFirewall, f.name, known); err != nil {
			return nil, nil, err
		}
		rows = append(rows, r)
		if !f.best {
			continue
		}
		p, err := pair(f.name, ours, known)
		if err != nil {
			return nil, nil, err
		}
		// the best form is the one that leaves us least ahead
		if best == nil || p.cpus().median < best.pairs.cpus().median {
			best = &floor{fmt.Sprintf("flows already decided, beside %s, %s filters", f.name, group(strconv.Itoa(size))), 1.10, *p}
		}
	}
	if best != nil {
		floors = append(floors, *best)
	}
	return rows, floors, nil
}

func newPacketSite(ctx context.Context, l *lab, name string, f firewall, list []endpoint) (*packetSite, error) {
	s, err := l.newSite(name)
	if err != nil {
		return nil, err
	}
	if err := inside(s.host, func() error { return enableNAPI(hostLink) }); err != nil {
		return nil, err
	}
	p := &packetSite{firewall: f, site: s}
	if p.receiver, err = s.start(s.host, receiverCPU); err != nil {
		return nil, err
	}
	if p.sender, err = s.start(s.peer, senderCPU()); err != nil {
		return nil, err
	}
	if _, err := p.receiver.do(ctx, order{Op: "receive", Ports: servicePorts}); err != nil {
		return nil, err
	}
	if p.softirqd, err = processNamed(fmt.Sprint("ksoftirqd/", senderCPU())); err != nil {
		return nil, err
	}
	return p, f.install(ctx, s, list)
}

// The sender and the softirqs that it makes have a CPU of their own where there
// are two.
const receiverCPU = 0

func senderCPU() int { return min(1, runtime.NumCPU()-1) }

// check holds the firewall to the rules: what they permit arrives, and nothing
// of what they block or do not name.
func (p *packetSite) check(ctx context.Context, list []endpoint) error {
	unnamed := flowsOf(endpoints(2 * flowCount)[flowCount:], permitted)
	unnamed = slices.DeleteFunc(unnamed, func(f flow) bool {
		return slices.ContainsFunc(list, func(e endpoint) bool { return e.remote == f.Remote })
	})
	for _, c := range []struct {
		what  string
		flows []flow
		pass  bool
	}{{"permitted", flowsOf(list, permitted), true}, {"blocked", flowsOf(list, blocked), false}, {"unnamed", unnamed, false}} {
		want := uint64(0)
		if c.pass || p.permissive {
			want = uint64(len(c.flows))
		}
		before, err := p.passed()
		if err != nil {
			return err
		}
		if _, err := p.sender.do(ctx, order{Op: "flood", Flows: c.flows, Once: true}); err != nil {
			return err
		}
		got, err := p.settle(before, want)
		if err != nil {
			return err
		}
		if got != want {
			return fmt.Errorf("of %d %s datagrams %d pass, not %d", len(c.flows), c.what, got, want)
		}
	}
	return nil
}

// passed counts the datagrams that the firewall let to a socket so far, also
// those for which the socket had no room.
func (p *packetSite) passed() (uint64, error) {
	path := fmt.Sprintf("/proc/%d/net/snmp", p.receiver.cmd.Process.Pid)
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	var names []string
	for line := range strings.Lines(string(b)) {
		fields := strings.Fields(line)
		if fields[0] != "Udp:" {
			continue
		}
		if names == nil {
			names = fields
			continue
		}
		sum := uint64(0)
		for i, name := range names {
			if name == "InDatagrams" || name == "RcvbufErrors" {
				n, err := strconv.ParseUint(fields[i], 10, 64)
				if err != nil {
					return 0, fmt.Errorf("%s: %w", path, err)
				}
				sum += n
			}
		}
		return sum, nil
	}
	return 0, fmt.Errorf("%s: no counters of UDP", path)
}

// settle waits until the receiver has read what is wanted, or no more comes,
// and returns how many passed since a count.
func (p *packetSite) settle(before, want uint64) (uint64, error) {
	last, quiet := before, time.Now()
	for {
		n, err := p.passed()
		if err != nil || n-before == want && want > 0 {
			return n - before, err
		}
		if n != last {
			last, quiet = n, time.Now()
		}
		limit := 10 * idleSleep
		if want > 0 {
			limit *= 10 // the receiver may have to wait for its CPU
		}
		if time.Since(quiet) > limit {
			return n - before, nil
		}
		time.Sleep(busySleep)
	}
}

// slice measures one turn of traffic that is permitted. A turn in which much is
// lost on the way is taken again: the machine was busy with something else.
func (p *packetSite) slice(ctx context.Context, o order) func() (slice, error) {
	return func() (slice, error) {
		for tries := 0; ; tries++ {
			s, sent, passed, err := p.turn(ctx, o)
			switch {
			case err != nil:
				return s, err
			case passed > sent:
				return s, fmt.Errorf("of %d permitted datagrams %d pass", sent, passed)
			case passed >= sent*9/10:
				return s, nil
			case tries == 5:
				return s, fmt.Errorf("of %d permitted datagrams %d pass, and no more before", sent, passed)
			}
		}
	}
}

func (p *packetSite) turn(ctx context.Context, o order) (s slice, sent, passed uint64, err error) {
	before, err := p.passed()
	if err != nil {
		return s, 0, 0, err
	}
	soft, err := processRan(p.softirqd)
	if err != nil {
		return s, 0, 0, err
	}
	r, err := p.sender.do(ctx, o)
	if err != nil {
		return s, 0, 0, err
	}
	softEnd, err := processRan(p.softirqd)
	if err != nil {
		return s, 0, 0, err
	}
	passed, err = p.settle(before, r.Count)
	return sliceOf(passed, r.Elapsed, r.CPU+softEnd-soft), r.Count, passed, err
}

// processNamed finds a process by its name; one of the kernel has one thread.
func processNamed(name string) (int, error) {
	paths, _ := filepath.Glob("/proc/[0-9]*/comm")
	for _, path := range paths {
		if b, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(b)) == name {
			return strconv.Atoi(strings.Split(path, "/")[2])
		}
	}
	return 0, fmt.Errorf("no process %q: its CPU time cannot be counted", name)
}

// processRan is how long a process of one thread has run.
func processRan(pid int) (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/schedstat", pid))
	if err != nil {
		return 0, err
	}
	ns, _, _ := strings.Cut(string(b), " ")
	n, err := strconv.ParseInt(ns, 10, 64)
	return time.Duration(n), err
}

func (b *packetBench) text(rows []row, floors []floor, n int) string {
	// the columns of one kind of traffic
	columns := func(beside, byCPU string, s []slice) []string {
		return []string{
			beside, byCPU, group(strconv.FormatFloat(medianOf(s, rateOf)/1000, 'f', 0, 64)),
			group(strconv.FormatFloat(medianOf(s, cpuOf), 'f', 0, 64)),
		}
	}
	titles := []string{"filters", "firewall", "known flows", "by CPU time", "kpps", "CPU ns"}
	withNew := slices.ContainsFunc(rows, func(r row) bool { return r.new != nil })
	if withNew {
		titles = append(titles, "new flows", "by CPU time", "kpps", "CPU ns")
	}
	var cells [][]string
	for i, r := range rows {
		size := group(strconv.Itoa(r.filters))
		if i == 0 || r.filters != rows[i-1].filters {
			cells = append(cells, append([]string{size, noFirewall}, columns("1", "1", r.known.a)...))
		}
		line := append([]string{size, r.name}, columns(r.known.rates().String(), r.known.cpus().String(), r.known.b)...)
		if r.new != nil {
			line = append(line, columns(r.new.rates().String(), r.new.cpus().String(), r.new.b)...)
		}
		cells = append(cells, line)
	}
	for i := range cells {
		cells[i] = append(cells[i], make([]string, len(titles)-len(cells[i]))...)
	}
	var t strings.Builder
	fmt.Fprintf(&t, "Small UDP datagrams through a veth pair to sockets, wfpebpf at %s.\n\n", b.at.name())
	t.WriteString(grid(titles, cells))
	t.WriteString("\n" + floorTable(floors) + "\n")
	tests, flows := "remote address", "."
	if b.at.protocol != 0 {
		tests += ", protocol and local port"
	}
	if withNew {
		flows = ". New flows: each datagram is of a flow that was not seen for 500,000 datagrams at least, so that it has to be classified, and what it costs to keep a verdict is paid each time. The other firewalls keep none: to them all flows are alike."
	}
	for _, note := range append([]string{
		fmt.Sprintf("Ratios are to no firewall, medians of %d pairs of slices of %s by turns, the middle half in brackets. No firewall beside itself shows how well they can be told.", n, packetSlice),
		fmt.Sprintf("A rule tests %s; one in eight blocks, and what no rule permits is blocked. Before any time is taken, each firewall must let the permitted datagrams through and none else.", tests),
		fmt.Sprintf("Known flows: %s that come again and again and meet permitting rules from all over the list. An engine that keeps no verdicts classifies each of their packets%s", group(strconv.Itoa(flowCount)), flows),
		"Delivered is what reached a socket. The kernel sends by BPF_PROG_TEST_RUN with live frames, past any stack of the sender's, and the veth delivers on the same CPU, as a network card's driver does; so the rate is what a packet costs from the veth to the socket. The receiver has the other CPU. CPU ns is the CPU time of the sending thread with its softirqs, and of ksoftirqd of that CPU, for one datagram.",
		"Where a floor lies inside the spread of the rates, the CPU time decides. wfpebpf is held to the form of nftables that leaves it least ahead.",
	}, b.notes...) {
		t.WriteString("- " + note + "\n")
	}
	return t.String()
}

// largest is the size for which the floors beside no firewall hold.
const largest = 10_000

// transportBench takes the layer that is asked for; empty is INBOUND_TRANSPORT,
// or INBOUND_IPPACKET where the engine has the former not.
func transportBench(layer string) (*packetBench, error) {
	b := &packetBench{title: "Packets beside an input chain", hook: nftInput, iptables: true}
	if layer == "" {
		layer = "INBOUND_TRANSPORT_V4"
		for _, s := range loader.Probe() {
			if s.Layer == layermap.InboundTransportV4 && !s.Available {
				layer = "INBOUND_IPPACKET_V4"
				b.notes = append(b.notes, "INBOUND_TRANSPORT is not measured: "+s.Reason+".")
			}
		}
	}
	switch layer {
	case "INBOUND_TRANSPORT_V4":
		b.at = where{[]layermap.LayerID{layermap.InboundTransportV4}, unix.IPPROTO_UDP}
	case "INBOUND_IPPACKET_V4":
		b.at = where{layers: []layermap.LayerID{layermap.InboundIPPacketV4}}
	default:
		return nil, fmt.Errorf("-layer: %q is neither INBOUND_TRANSPORT_V4 nor INBOUND_IPPACKET_V4", layer)
	}
	return b, nil
}

func ingressBench() *packetBench {
	return &packetBench{
		title: "Packets beside an ingress chain", hook: nftIngress,
		at: where{layers: []layermap.LayerID{layermap.InboundIPPacketV4}},
	}
}
