// SPDX-License-Identifier: Apache-2.0

// This file is demo: the main job, shown. A policy is put in force in a
// namespace of its own, real traffic is made, and what sockets see stands beside
// what the evaluator expects and the filter that the kernel says decided.

package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/wfpebpf/wfpebpf/explain"
	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/loader"
	"github.com/wfpebpf/wfpebpf/policy"
)

//go:embed demo.yaml
var demoPolicy string

func demoCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "demo",
		Short: "Show the main job in namespaces of its own",
		Long: `Makes two network namespaces, a host with a policy in force and a peer, lets real
sockets talk, and prints for each try what WFP's arbitration expects, what the
sockets saw, and the filter that decided. Everything is removed at the end, also
on Ctrl-C. Nothing outside is touched. Needs root.`,
		Example: `  wfpebpf demo`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := loader.CheckCapabilities(); err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
			defer stop()
			return demo(ctx, cmd.OutOrStdout())
		},
	}
}

// try is one piece of traffic. who and the servers name actors.
type try struct {
	what    string
	who     string // host, updater, peer
	order   order
	inbound bool
	assign  bool // the try is a bind
}

var demoTries = []try{
	{"peer opens the web server", "peer", order{"connect", "tcp4", at(labHost4, 80), ""}, true, false},
	{"peer opens it over IPv6", "peer", order{"connect", "tcp6", at(labHost6, 80), ""}, true, false},
	{"peer opens another port", "peer", order{"connect", "tcp4", at(labHost4, 8080), ""}, true, false},
	{"peer opens another port over IPv6", "peer", order{"connect", "tcp6", at(labHost6, 8080), ""}, true, false},
	{"help desk opens port 5985", "peer", order{"connect", "tcp4", at(labHost4, 5985), ""}, true, false},
	{"peer asks the DNS server", "peer", order{"connect", "udp4", at(labHost4, 53), ""}, true, false},
	{"peer sends to another UDP port", "peer", order{"connect", "udp4", at(labHost4, 5353), ""}, true, false},
	{"a listed address opens the web server", "peer", order{"connect", "tcp4", at(labHost4, 80), labBad4}, true, false},
	{"host goes out", "host", order{"connect", "tcp4", at(labPeer4, 443), ""}, false, false},
	{"host goes out over IPv6", "host", order{"connect", "tcp6", at(labPeer6, 443), ""}, false, false},
	{"host goes out by UDP", "host", order{"connect", "udp4", at(labPeer4, 53), ""}, false, false},
	{"host opens SMB", "host", order{"connect", "tcp4", at(labPeer4, 445), ""}, false, false},
	{"updater goes out", "updater", order{"connect", "tcp4", at(labPeer4, 443), ""}, false, false},
	{"host serves on port 23", "host", order{"bind", "tcp4", at(labHost4, 23), ""}, false, true},
	{"host talks to itself", "host", order{"connect", "tcp4", at("127.0.0.1", 8080), ""}, false, false},
}

// demoServers are what the tries talk to.
var demoServers = []struct {
	who, network string
	ports        []int
}{
	{"host", "tcp", []int{80, 8080, 5985}}, {"host", "udp", []int{53, 5353}},
	{"peer", "tcp", []int{443, 445}}, {"peer", "udp", []int{53}},
}

func at(host string, port int) string { return net.JoinHostPort(host, fmt.Sprint(port)) }

func demo(ctx context.Context, out io.Writer) (err error) {
	fmt.Fprintln(out, "Two namespaces: a host (10.93.0.1, fd93::1) with a policy, and a peer (10.93.0.2) without.")
	l, err := newStage()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.close()) }()
	actors := map[string]*actor{}
	for name, where := range map[string]string{"host": l.host, "updater": l.host, "peer": l.peer} {
		if actors[name], err = l.start(where, name); err != nil {
			return err
		}
	}
	for _, s := range demoServers {
		for _, port := range s.ports {
			if seen, err := actors[s.who].do(order{Do: "listen", Network: s.network, Address: at("", port)}); err != nil || seen != seenWorks {
				return fmt.Errorf("a server at %s port %d: %s %w", s.network, port, seen, err)
			}
		}
	}
	text := strings.ReplaceAll(demoPolicy, "/UPDATER", actors["updater"].exe)
	p, err := policy.LoadReader("demo.yaml", strings.NewReader(text), policy.Options{})
	if err != nil {
		return err
	}
	e, err := loader.Open(loader.Options{Target: loader.Target{Netns: l.host, Cgroup: l.cgroup}, Permits: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.Down(), e.Close()) }()
	start := time.Now()
	if err := e.Commit(ctx, p); err != nil {
		return err
	}
	r := p.Report()
	fmt.Fprintf(out, "Policy in force after %d ms: %d filters, %d enforced.\n\n", time.Since(start).Milliseconds(), r.Total, r.Enforced)
	rows, wrong, err := runTries(ctx, e, p, l, actors)
	if err != nil {
		return err
	}
	if err := writeTable(out, "TRAFFIC EXPECTED SEEN DECIDED-BY LAYER RESULT", rows); err != nil {
		return err
	}
	fmt.Fprintf(out, "\n%d of %d as WFP would have it. Everything is removed again.\n", len(rows)-wrong, len(rows))
	if wrong > 0 {
		return fmt.Errorf("%d of %d went otherwise than expected", wrong, len(rows))
	}
	return nil
}

func runTries(ctx context.Context, e *loader.Engine, p *policy.Policy, l *stage, actors map[string]*actor) (rows [][]any, wrong int, err error) {
	events := collect(e)
	defer events.stop()
	links, err := loader.HostLinks(l.host)
	if err != nil {
		return nil, 0, err
	}
	for _, t := range demoTries {
		if err := ctx.Err(); err != nil {
			return rows, wrong, errors.New("interrupted")
		}
		want, layer := t.expect(p, actors, links)
		events.drain()
		seen, err := actors[t.who].do(t.order)
		if err != nil {
			return rows, wrong, err
		}
		decided := events.by(layer)
		expected, result := "permit", "as expected"
		if want.Blocked() {
			expected = "block"
		}
		name := "(no filter)"
		if want.Filter != nil {
			name = want.Filter.Name
		}
		if (seen == seenWorks) == want.Blocked() || decided != name {
			result = fmt.Sprintf("WRONG, expected %q", name)
			wrong++
		}
		rows = append(rows, []any{t.what, expected, seen, decided, layer, result})
	}
	return rows, wrong, nil
}

// expect asks the evaluator: the layer that decides, and its verdict.
func (t *try) expect(p *policy.Policy, actors map[string]*actor, links []loader.HostLink) (filter.Result, string) {
	to := netip.MustParseAddrPort(t.order.Address)
	tuple := explain.Tuple{Outbound: !t.inbound, Protocol: 6, Remote: to, App: filter.Blob([]byte(actors[t.who].exe)), User: filter.TokenValue(filter.UnixUser(0), filter.UnixGroup(0))}
	if strings.HasPrefix(t.order.Network, "udp") {
		tuple.Protocol = 17
	}
	from := labHost4
	if to.Addr().Is6() {
		from = labHost6
	}
	if t.inbound {
		from = strings.NewReplacer(labHost4, labPeer4, labHost6, labPeer6).Replace(from)
		if t.order.From != "" {
			from = t.order.From
		}
		tuple.Local, tuple.Remote = to, netip.AddrPortFrom(netip.MustParseAddr(from), 40000)
		tuple.App = filter.Blob([]byte(actors["host"].exe))
	} else if to.Addr().IsLoopback() {
		tuple.Local = netip.AddrPortFrom(to.Addr(), 40000)
	} else {
		tuple.Local = netip.AddrPortFrom(netip.MustParseAddr(from), 40000)
	}
	for _, link := range links {
		if link.Name == "eth0" && !to.Addr().IsLoopback() {
			tuple.Link = explain.Link{Name: link.Name, Index: link.Index, Type: link.Type, MAC: link.MAC}
		}
	}
	if t.assign {
		tuple.Local, tuple.Remote = to, netip.AddrPort{}
	}
	var last filter.Result
	var at string
	for _, l := range tuple.Layers(false) {
		if t.assign != strings.HasPrefix(l.Name, "ALE_RESOURCE_ASSIGNMENT") && t.assign {
			continue
		}
		r := filter.Arbitrate(p.Store, l.ID, tuple.Values(p, l), filter.Provided)
		if r.Blocked() {
			return r, l.Name
		}
		if strings.HasPrefix(l.Name, "ALE_AUTH") || t.assign {
			last, at = r, l.Name
		}
	}
	return last, at
}

// collector keeps the events that came in since it was last drained.
type collector struct {
	mu     sync.Mutex
	list   []loader.Event
	cancel context.CancelFunc
	ended  chan struct{}
}

func collect(e *loader.Engine) *collector {
	ctx, cancel := context.WithCancel(context.Background())
	c := &collector{cancel: cancel, ended: make(chan struct{})}
	go func() {
		defer close(c.ended)
		e.Events(ctx, true, false, func(ev loader.Event) error {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.list = append(c.list, ev)
			return nil
		})
	}()
	return c
}

func (c *collector) stop() {
	c.cancel()
	<-c.ended
}

func (c *collector) drain() {
	time.Sleep(20 * time.Millisecond) // what the try before left behind
	c.mu.Lock()
	defer c.mu.Unlock()
	c.list = nil
}

// by names the filter that the kernel says decided at a layer.
func (c *collector) by(layer string) string {
	for range 20 {
		c.mu.Lock()
		for _, ev := range c.list {
			if ev.Layer == layer {
				c.mu.Unlock()
				return ev.FilterName
			}
		}
		c.mu.Unlock()
		time.Sleep(10 * time.Millisecond)
	}
	return "(no filter)"
}
