// SPDX-License-Identifier: Apache-2.0

// Package windows enforces the policy of a real Windows 11 machine on a Linux
// host: what sockets see is what the evaluator says of the dump.
package windows

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/wfpebpf/wfpebpf/loader"
	"github.com/wfpebpf/wfpebpf/policy"
	"github.com/wfpebpf/wfpebpf/tests/inputs"
	"github.com/wfpebpf/wfpebpf/tests/testbed"
)

func TestMain(m *testing.M) { testbed.Main(m) }

func TestRealPolicy(t *testing.T) {
	file := inputs.File(t, inputs.Windows11)
	testbed.RequireRoot(t)
	host, peer := testbed.NewNetns(t, "host"), testbed.NewNetns(t, "peer")
	cgroup := testbed.NewCgroup(t, "dump")
	unit := cgroup.Child(t, "dosvc.service")
	mapped, peerEnd := testbed.Veth(t, host, peer, "h0", "p0")
	unmapped, _ := testbed.Veth(t, host, peer, "h1", "p1", testbed.VethOptions{Subnet: 2})

	start := time.Now()
	p, err := policy.Load([]string{file}, policy.Options{Map: &policy.Map{
		Links:    map[string]string{inputs.Windows11LUID: "h0"},
		Services: map[string]string{"DoSvc": unit.Rel},
	}})
	if err != nil {
		t.Fatal(err)
	}
	report := p.Report()
	if report.Total != inputs.Windows11Filters || report.Enforced+report.Unmatchable+report.Refused != inputs.Windows11Filters {
		t.Fatalf("report %d: %d enforced, %d unmatchable, %d refused", report.Total, report.Enforced, report.Unmatchable, report.Refused)
	}
	e, err := loader.Open(loader.Options{Target: loader.Target{Netns: host.Name, Cgroup: cgroup.Rel}})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	defer func() {
		if err := e.Down(); err != nil {
			t.Error(err)
		}
	}()
	if err := e.Commit(context.Background(), p); err != nil {
		t.Fatal(err)
	}
	took := time.Since(start)
	t.Logf("read, compiled, attached and committed in %v", took)
	if took > 2*time.Second {
		t.Errorf("took %v, at most 2 s", took)
	}

	server := testbed.Start(t, testbed.ProcOptions{Netns: host, Cgroup: cgroup})
	service := testbed.Start(t, testbed.ProcOptions{Netns: host, Cgroup: unit})
	remote := testbed.Start(t, testbed.ProcOptions{Netns: peer, Cgroup: cgroup})
	listen := func(p *testbed.Proc, network, addr string) {
		t.Helper()
		if _, err := p.Listen(network, addr, testbed.Options{V6Only: network == "tcp6"}); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []struct{ name, tcp, any, host, other, peer, loopback string }{
		{"v4", "tcp4", "0.0.0.0", mapped.V4.String(), unmapped.V4.String(), peerEnd.V4.String(), "127.0.0.1"},
		{"v6", "tcp6", "[::]", "[" + mapped.V6.String() + "]", "[" + unmapped.V6.String() + "]", "[" + peerEnd.V6.String() + "]", "[::1]"},
	} {
		layer := "ALE_AUTH_RECV_ACCEPT_V4"
		if f.name == "v6" {
			layer = "ALE_AUTH_RECV_ACCEPT_V6"
		}
		listen(server, f.tcp, f.any+":80")
		listen(service, f.tcp, f.any+":7680")
		listen(remote, f.tcp, f.any+":443")
		t.Run("loopback flows "+f.name, func(t *testing.T) {
			if err := server.Connect(f.tcp, f.loopback+":80"); err != nil {
				t.Error(err)
			}
		})
		t.Run("inbound is blocked by default "+f.name, func(t *testing.T) {
			wantTimeout(t, remote.Connect(f.tcp, f.host+":80", quick))
			ev := blocked(t, e, layer)
			if ev.FilterName != "Query User" || ev.Origin != "Query User Default" {
				t.Errorf("blocked by %q, origin %q", ev.FilterName, ev.Origin)
			}
		})
		t.Run("the mapped service is open "+f.name, func(t *testing.T) {
			if err := remote.Connect(f.tcp, f.host+":7680"); err != nil {
				t.Error(err)
			}
			if n := hits(t, e, layer, "Delivery Optimization (TCP-In)"); n == 0 {
				t.Error("Delivery Optimization (TCP-In) decided nothing by its counter")
			}
		})
		t.Run("outbound is permitted "+f.name, func(t *testing.T) {
			if err := server.Connect(f.tcp, f.peer+":443"); err != nil {
				t.Error(err)
			}
		})
		t.Run("an unmapped link is in quarantine "+f.name, func(t *testing.T) {
			wantTimeout(t, remote.Connect(f.tcp, f.other+":80", quick))
			if ev := blocked(t, e, layer); ev.FilterName != "Quarantine Default Inbound Block" {
				t.Errorf("blocked by %q", ev.FilterName)
			}
		})
	}
}

var quick = testbed.Options{Timeout: 700 * time.Millisecond}

func wantTimeout(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, testbed.ErrTimeout) {
		t.Errorf("got %v, want no answer", err)
	}
}

// blocked returns the last event of a block at a layer.
func blocked(t *testing.T, e *loader.Engine, layer string) loader.Event {
	t.Helper()
	var list []loader.Event
	if err := e.Events(context.Background(), false, false, func(ev loader.Event) error {
		list = append(list, ev)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for _, ev := range slices.Backward(list) {
		if ev.Layer == layer && ev.Action == "block" {
			return ev
		}
	}
	t.Fatalf("no block at %s among %v", layer, fmt.Sprint(list))
	return loader.Event{}
}

func hits(t *testing.T, e *loader.Engine, layer, name string) (n uint64) {
	t.Helper()
	rows, err := e.Filters()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rows {
		if r.Layer == layer && r.Name == name {
			n += r.Hits
		}
	}
	return n
}
