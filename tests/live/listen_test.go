// SPDX-License-Identifier: Apache-2.0

package live

import (
	"slices"
	"strings"
	"testing"

	"github.com/wfpebpf/wfpebpf/layermap"
	"github.com/wfpebpf/wfpebpf/loader"
	"github.com/wfpebpf/wfpebpf/tests/testbed"
)

var atListen = both("ALE_AUTH_LISTEN")

// byLSM reports whether this kernel calls LSM programs, by what the layer's status says.
func byLSM(t *testing.T) bool {
	t.Helper()
	for _, s := range loader.Probe() {
		if s.Layer == layermap.ALEAuthListenV4 {
			if !s.Available {
				t.Fatalf("not available: %s", s.Reason)
			}
			if s.Reason != "" && !strings.Contains(s.Reason, "by sock_ops: no LSM program here") {
				t.Fatalf("status %q", s.Reason)
			}
			return s.Reason == ""
		}
	}
	t.Fatal("no status")
	return false
}

// listener is a way to begin to listen.
type listener struct {
	name string
	host func(family) string // nil: listen() binds the socket
	opt  testbed.Options
}

// listeners of both kinds of TCP.
func listeners(hosts ...func(family) string) []listener {
	var list []listener
	for name, mode := range map[string]testbed.MPTCP{"TCP": testbed.MPTCPOff, "MPTCP": testbed.MPTCPOn} {
		for _, host := range hosts {
			list = append(list, listener{name, host, testbed.Options{MPTCP: mode, V6Only: true, NoBind: host == nil}})
		}
	}
	return list
}

func (l listener) listen(p *testbed.Proc, f family, port int) (testbed.Sock, error) {
	if l.host == nil {
		return p.Listen(f.tcp, "", l.opt)
	}
	return p.Listen(f.tcp, at(l.host(f), port), l.opt)
}

// wantDenied has a process listen where that is blocked. By LSM listen() answers EACCES.
// Otherwise, and where the socket was not bound before, it works, and no connection comes
// through.
func (b *bed) wantDenied(t *testing.T, l listener, p, client *testbed.Proc, f family, port int) loader.Event {
	t.Helper()
	b.events()
	s, err := l.listen(p, f, port)
	if byLSM(t) && l.host != nil {
		denied.want(t, err)
	} else {
		passes.want(t, err)
		dropped.want(t, client.Connect(f.tcp, at(f.host, int(s.Local.Port())), testbed.Options{Timeout: soon}))
		passes.want(t, p.CloseSock(s))
	}
	var list []loader.Event
	for _, e := range b.events() {
		if strings.HasPrefix(e.Layer, "ALE_AUTH_LISTEN_") {
			list = append(list, e)
		}
	}
	if len(list) != 1 {
		t.Fatalf("%d events at ALE_AUTH_LISTEN, want one: %+v", len(list), list)
	}
	return list[0]
}

// wantListens has a process listen where that is permitted.
func (b *bed) wantListens(t *testing.T, l listener, p, client *testbed.Proc, f family, port int) {
	t.Helper()
	b.events()
	s, err := l.listen(p, f, port)
	if err != nil {
		t.Fatal(err)
	}
	to := f.host
	if l.host != nil && !slices.Contains([]string{f.any, f.host}, l.host(f)) {
		to = l.host(f)
	}
	if to != f.loopback {
		passes.want(t, client.Connect(f.tcp, at(to, int(s.Local.Port()))))
	}
	passes.want(t, p.CloseSock(s))
	for _, e := range b.events() {
		t.Errorf("event %+v", e)
	}
}

func TestListen(t *testing.T) {
	b := newBed(t)
	b.apply(blocks(atListen, "{IP_LOCAL_PORT: 8081}"))
	p, client := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	for _, f := range b.families() {
		layer := "ALE_AUTH_LISTEN_" + f.layer
		for _, l := range listeners(hostFirst, anyAddress) {
			t.Run(l.name+" at "+l.host(f), func(t *testing.T) {
				before := b.hits(layer, "Permit the rest")
				b.wantListens(t, l, p, client, f, 8080)
				if n := b.hits(layer, "Permit the rest") - before; n != 1 {
					t.Errorf("permitted %d times, want once", n)
				}
				before = b.hits(layer, "Block it")
				e := b.wantDenied(t, l, p, client, f, 8081)
				local := at(l.host(f), 8081)
				if l.host(f) == f.any {
					local = at(f.any, 8081)
				}
				if e.Layer != layer || e.FilterName != "Block it" || e.Action != "block" || e.Protocol != 6 || e.Dst != local || e.Src != "" ||
					e.PID != uint32(p.PID) || e.Program != p.Exe || e.User != "root" {
					t.Errorf("event %+v", e)
				}
				if n := b.hits(layer, "Block it") - before; n != 1 {
					t.Errorf("blocked %d times, want once", n)
				}
			})
		}
	}
}
