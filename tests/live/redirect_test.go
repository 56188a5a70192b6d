// SPDX-License-Identifier: Apache-2.0

package live

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/loader"
	"github.com/wfpebpf/wfpebpf/tests/testbed"
)

// redirects is a policy whose filters lead what meets the conditions, at both families
// of a layer, to a port of an address of each; more are other filters.
func redirects(layer, v4, v6, conditions string, more ...string) string {
	return fmt.Sprintf(`callouts:
  - {key: to4, layer: %[1]s_V4, builtin: redirect, to: "%[2]s"}
  - {key: to6, layer: %[1]s_V6, builtin: redirect, to: "%[3]s"}
filters:
  - {name: Redirect, layer: %[1]s_V4, action: CALLOUT_TERMINATING, callout: to4, conditions: [%[4]s]}
  - {name: Redirect, layer: %[1]s_V6, action: CALLOUT_TERMINATING, callout: to6, conditions: [%[4]s]}
`, layer, v4, v6, conditions) + strings.Join(more, "")
}

const (
	connectRedirect = "ALE_CONNECT_REDIRECT"
	bindRedirect    = "ALE_BIND_REDIRECT"
	isRedirected    = "{FLAGS: {match: FLAGS_ALL_SET, value: [IS_CONNECTION_REDIRECTED]}}"
	notRedirected   = "{FLAGS: {match: FLAGS_NONE_SET, value: [IS_CONNECTION_REDIRECTED]}}"
)

// toProxy leads TCP connections to port 8080 to a proxy.
var toProxy = redirects(connectRedirect, "127.0.0.1:3128", "[::1]:3128", "{IP_PROTOCOL: tcp}, {IP_REMOTE_PORT: 8080}",
	rule("PERMIT", "Redirected", atConnect, 8, isRedirected),
	rule("PERMIT", "Direct", atConnect, 8, notRedirected))

// redirectBed collects what was seen.
type redirectBed struct {
	*bed
	seen    []loader.Event
	servers map[int]testbed.Sock // at the peer's IPv4 addresses, by port
}

func newRedirectBed(t *testing.T) *redirectBed {
	return &redirectBed{bed: newBed(t), servers: map[int]testbed.Sock{}}
}

// serve opens echo servers for TCP whose connections are counted.
func (b *redirectBed) serve(p *testbed.Proc, ports ...int) {
	b.t.Helper()
	for _, port := range ports {
		s, err := p.Listen("tcp4", at("0.0.0.0", port), testbed.Options{MPTCP: testbed.MPTCPOff})
		if err != nil {
			b.t.Fatal(err)
		}
		b.servers[port] = s
	}
}

func (b *redirectBed) accepted(p *testbed.Proc, port int) int {
	b.t.Helper()
	stats, err := p.Stats(b.servers[port])
	if err != nil {
		b.t.Fatal(err)
	}
	return stats.Accepted
}

// openProxy runs a transparent proxy on the host.
func (b *redirectBed) openProxy(port int) (*testbed.Proc, map[string]testbed.Sock) {
	b.t.Helper()
	proxy, socks := b.on(b.host, testbed.ProcOptions{}), map[string]testbed.Sock{}
	for _, f := range b.families() {
		s, err := proxy.Proxy(f.tcp, at(f.loopback, port), testbed.Options{V6Only: f.name == "v6"})
		if err != nil {
			b.t.Fatal(err)
		}
		socks[f.name] = s
	}
	return proxy, socks
}

// wantOriginals asserts what a proxy's connections were opened to since it was asked
// before, and how many there were then.
func wantOriginals(t *testing.T, proxy *testbed.Proc, s testbed.Sock, before int, want ...string) int {
	t.Helper()
	got, err := proxy.Originals(s)
	if err != nil || len(got) < before {
		t.Fatalf("%v after %d, %v", got, before, err)
	}
	var text []string
	for _, ap := range got[before:] {
		text = append(text, ap.String())
	}
	if !slices.Equal(text, want) {
		t.Errorf("SO_ORIGINAL_DST gave the proxy %q, want %q", text, want)
	}
	return len(got)
}

func TestRedirectTCP(t *testing.T) {
	b := newRedirectBed(t)
	b.openEngine(loader.Options{Target: b.target(), Permits: true})
	b.apply(toProxy)
	server, client := b.on(b.peer, testbed.ProcOptions{}), b.on(b.host, testbed.ProcOptions{})
	b.listenTCP(server, 8080, 8081)
	proxy, proxies := b.openProxy(3128)
	seen := map[string]int{}
	for _, f := range b.families() {
		for _, kind := range []struct {
			name  string
			mptcp testbed.MPTCP
		}{{"TCP", testbed.MPTCPOff}, {"MPTCP", testbed.MPTCPOn}} {
			t.Run(kind.name+" "+f.name, func(t *testing.T) {
				b.events()
				b.seen = nil // of the other kind
				before := b.hits(connectRedirect+"_"+f.layer, "Redirect")
				to := at(f.peer, 8080)
				s, err := client.Dial(f.tcp, to, testbed.Options{MPTCP: kind.mptcp})
				if err != nil {
					t.Fatal(err)
				}
				passes.want(t, client.Exchange(s, "through the proxy"))
				if s.Remote.String() != to {
					t.Errorf("getpeername gives the client %s, want %s", s.Remote, to)
				}
				seen[f.name] = wantOriginals(t, proxy, proxies[f.name], seen[f.name], to)
				b.wantRedirected(t, f, client.PID, at(f.loopback, 3128), to)
				// the proxy's own connection goes where it says, or it would loop
				b.wantDirect(t, f, proxy.PID, to)
				if n := b.hits(connectRedirect+"_"+f.layer, "Redirect") - before; n == 0 {
					t.Error("the redirect decided nothing")
				}
				if err := client.CloseSock(s); err != nil {
					t.Fatal(err)
				}
			})
		}
		t.Run("bound "+f.name, func(t *testing.T) {
			to := at(f.peer, 8080)
			s, err := client.Dial(f.tcp, to, testbed.Options{Local: at(f.host, 0)})
			if err != nil {
				t.Fatal(err)
			}
			passes.want(t, client.Exchange(s, "hello"))
			if s.Remote.String() != to || s.Local.Addr() != netip.MustParseAddrPort(at(f.host, 0)).Addr() {
				t.Errorf("getsockname gives %s, getpeername %s", s.Local, s.Remote)
			}
			seen[f.name] = wantOriginals(t, proxy, proxies[f.name], seen[f.name], to)
		})
		t.Run("another port "+f.name, func(t *testing.T) {
			s, err := client.Dial(f.tcp, at(f.peer, 8081))
			if err != nil {
				t.Fatal(err)
			}
			passes.want(t, client.Exchange(s, "hello"))
			wantOriginals(t, proxy, proxies[f.name], seen[f.name])
			if s.Remote.String() != at(f.peer, 8081) {
				t.Errorf("getpeername gives %s", s.Remote)
			}
			if to, err := client.OriginalDst(s); err == nil {
				t.Errorf("SO_ORIGINAL_DST of a client's own socket is %s", to)
			}
		})
		t.Run("straight to the proxy "+f.name, func(t *testing.T) {
			// nobody asked for another destination, and the proxy is not told of one
			failsAtEnd := outcome{"closed", func(err error) bool { return err != nil }, soon}
			failsAtEnd.want(t, client.Connect(f.tcp, at(f.loopback, 3128)))
			wantOriginals(t, proxy, proxies[f.name], seen[f.name])
		})
	}
	t.Run("mapped", func(t *testing.T) {
		f := b.families()[0]
		to := "[::ffff:" + f.peer + "]:8080"
		s, err := client.Dial("tcp6", to)
		if err != nil {
			t.Fatal(err)
		}
		passes.want(t, client.Exchange(s, "hello"))
		if s.Remote != netip.MustParseAddrPort(to) {
			t.Errorf("getpeername gives %s, want %s", s.Remote, to)
		}
		wantOriginals(t, proxy, proxies["v4"], seen["v4"], at(f.peer, 8080))
	})
	t.Run("hooks", func(t *testing.T) {
		b.apply(blocks(both("ALE_AUTH_CONNECT"), "{IP_REMOTE_PORT: 9}"))
		rows, err := b.engine.Hooks()
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rows {
			if slices.Contains([]string{"getpeername4", "recvmsg6", "getsockopt", "sock_redirect"}, r.Hook) {
				t.Errorf("%s stays attached and nothing redirects", r.Hook)
			}
		}
		f := b.families()[0]
		passes.want(t, client.Connect(f.tcp, at(f.peer, 8080)))
		wantOriginals(t, proxy, proxies["v4"], seen["v4"]+1)
	})
}

// wantRedirected asserts that ALE_AUTH_CONNECT has judged where a process's connection
// goes, and was told where it went before.
func (b *redirectBed) wantRedirected(t *testing.T, f family, pid int, dst, original string) {
	t.Helper()
	b.wantConnect(t, f, "Redirected", pid, dst, original)
}

func (b *redirectBed) wantDirect(t *testing.T, f family, pid int, dst string) {
	t.Helper()
	b.wantConnect(t, f, "Direct", pid, dst, "")
}

func (b *redirectBed) wantConnect(t *testing.T, f family, name string, pid int, dst, original string) {
	t.Helper()
	b.seen = append(b.seen, b.events()...)
	if !slices.ContainsFunc(b.seen, func(e loader.Event) bool {
		return e.Layer == "ALE_AUTH_CONNECT_"+f.layer && e.FilterName == name && e.PID == uint32(pid) && e.Dst == dst && e.OriginalDst == original
	}) {
		t.Errorf("no event of %q for process %d to %s, before %q, among %+v", name, pid, dst, original, b.seen)
	}
}

// TestRedirectBlocked: ALE_AUTH_CONNECT has the last word, about the new destination.
func TestRedirectBlocked(t *testing.T) {
	b := newRedirectBed(t)
	b.apply(redirects(connectRedirect, "127.0.0.1:3128", "[::1]:3128", "{IP_REMOTE_PORT: 8080}",
		rule("BLOCK", "Block the proxy", atConnect, 8, "{IP_REMOTE_PORT: 3128}", isRedirected)))
	client := b.on(b.host, testbed.ProcOptions{})
	b.openProxy(3128)
	for _, f := range b.families() {
		t.Run(f.name, func(t *testing.T) {
			denied.want(t, client.Connect(f.tcp, at(f.peer, 8080)))
			denied.want(t, client.UDPSend(f.udp, at(f.peer, 8080), "hello"))
			e := b.wantBlock("ALE_AUTH_CONNECT_"+f.layer, "Block the proxy")
			if e.Dst != at(f.loopback, 3128) || e.OriginalDst != at(f.peer, 8080) {
				t.Errorf("event %+v", e)
			}
			// no flag, no block
			refusedByNobody := failsWith(unix.ECONNREFUSED)
			refusedByNobody.want(t, client.Connect(f.tcp, at(f.peer, 3128)))
		})
	}
}

// TestRedirectArbitration: what a heavier sublayer has settled stays as it is, and of
// two redirections the heavier sublayer's stands.
func TestRedirectArbitration(t *testing.T) {
	b := newRedirectBed(t)
	client, server := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	b.serve(server, 8080, 8081, 8082, 8083)
	f := b.families()[0]
	entry := func(name, sublayer, action, more string) string {
		return fmt.Sprintf("  - {name: %s, layer: ALE_CONNECT_REDIRECT_V4, sublayer: %s, action: %s, %s}\n", name, sublayer, action, more)
	}
	b.apply(fmt.Sprintf(`sublayers: [{key: high, weight: 60000}, {key: low, weight: 10}]
callouts:
  - {key: first, layer: ALE_CONNECT_REDIRECT_V4, builtin: redirect, to: "%[1]s:8081"}
  - {key: second, layer: ALE_CONNECT_REDIRECT_V4, builtin: redirect, to: "%[1]s:8082"}
filters:
`, f.peer) +
		entry("Soft", "high", "PERMIT", "conditions: [{IP_REMOTE_PORT: 9001}]") +
		entry("Hard", "high", "PERMIT", "flags: [CLEAR_ACTION_RIGHT], conditions: [{IP_REMOTE_PORT: 8083}]") +
		entry("First", "high", "CALLOUT_UNKNOWN", "callout: first, conditions: [{IP_REMOTE_PORT: 9002}]") +
		entry("First hard", "high", "CALLOUT_TERMINATING", "callout: first, flags: [CLEAR_ACTION_RIGHT], conditions: [{IP_REMOTE_PORT: 9003}]") +
		entry("First blocked", "high", "CALLOUT_TERMINATING", "callout: first, conditions: [{IP_REMOTE_PORT: 9004}]") +
		entry("Block", "low", "BLOCK", "weight: 15, conditions: [{IP_REMOTE_PORT: 9003}, {IP_REMOTE_PORT: 9004}]") +
		entry("Second", "low", "CALLOUT_TERMINATING", "callout: second, weight: 0"))
	counts := func() map[int]int {
		n := map[int]int{}
		for _, port := range []int{8081, 8082, 8083} {
			n[port] = b.accepted(server, port)
		}
		return n
	}
	for _, c := range []struct {
		name     string
		port, at int // 0: denied
	}{
		{"a soft permit above", 9001, 8082},
		{"a hard permit above", 8083, 8083},
		{"two redirections", 9002, 8081},
		{"a hard redirection", 9003, 8081},
		{"a block below", 9004, 0},
		{"one redirection", 9005, 8082},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := counts()
			err := client.Connect(f.tcp, at(f.peer, c.port))
			if c.at == 0 {
				denied.want(t, err)
				b.wantBlock("ALE_CONNECT_REDIRECT_V4", "Block")
				return
			}
			passes.want(t, err)
			for port, n := range counts() {
				want := before[port]
				if port == c.at {
					want++
				}
				if n != want {
					t.Errorf("%d connections arrived at port %d, want %d", n-before[port], port, want-before[port])
				}
			}
		})
	}
}

func TestRedirectUDP(t *testing.T) {
	b := newRedirectBed(t)
	b.openEngine(loader.Options{Target: b.target(), Permits: true})
	// of every port: what answers must not be led anywhere
	b.apply(redirects(connectRedirect, "127.0.0.1:5353", "[::1]:5353", "{IP_PROTOCOL: udp}",
		rule("PERMIT", "Redirected", atConnect, 8, isRedirected),
		rule("PERMIT", "Direct", atConnect, 8, notRedirected)))
	client, proxy := b.on(b.host, testbed.ProcOptions{}), b.on(b.host, testbed.ProcOptions{})
	for _, f := range b.families() {
		echo, err := proxy.Listen(f.udp, at(f.any, 5353), testbed.Options{V6Only: f.name == "v6"})
		if err != nil {
			t.Fatal(err)
		}
		exchange := func(t *testing.T, s testbed.Sock, to string) {
			t.Helper()
			if err := client.SendTo(s, to, "hello "+to); err != nil {
				t.Fatal(err)
			}
			from, message, err := client.Receive(s)
			if err != nil || message != "hello "+to || from != netip.MustParseAddrPort(to) {
				t.Errorf("%q from %s, %v; want the answer of %s", message, from, err, to)
			}
		}
		t.Run("not connected "+f.name, func(t *testing.T) {
			b.events()
			s, err := client.UDP(f.udp)
			if err != nil {
				t.Fatal(err)
			}
			exchange(t, s, at(f.peer, 5300))
			exchange(t, s, at(f.peer, 5300))
			exchange(t, s, at(f.peerSecond, 5301))
			b.seen = b.events()
			b.wantRedirected(t, f, client.PID, at(f.loopback, 5353), at(f.peer, 5300))
			// the other destination is the same flow by now, to ALE_AUTH_CONNECT
			n := 0
			for _, e := range b.seen {
				if e.Layer == connectRedirect+"_"+f.layer {
					n++
				}
				if e.Layer == connectRedirect+"_"+f.layer && e.PID == uint32(proxy.PID) {
					t.Errorf("an answer was judged: %+v", e)
				}
			}
			if n != 2 {
				t.Errorf("%d classifications of two flows", n)
			}
			if stats, err := proxy.Stats(echo); err != nil || stats.Accepted != 3 {
				t.Errorf("%d datagrams arrived, %v", stats.Accepted, err)
			}
		})
		t.Run("connected "+f.name, func(t *testing.T) {
			to := at(f.peer, 5302)
			s, err := client.Dial(f.udp, to)
			if err != nil {
				t.Fatal(err)
			}
			passes.want(t, client.Exchange(s, "hello"))
			if s.Remote.String() != to {
				t.Errorf("getpeername gives %s, want %s", s.Remote, to)
			}
		})
	}
	t.Run("mapped", func(t *testing.T) {
		to := netip.MustParseAddrPort("[::ffff:" + b.peerEnd.V4.String() + "]:5303")
		s, err := client.UDP("udp6")
		if err != nil {
			t.Fatal(err)
		}
		if err := client.SendTo(s, to.String(), "hello"); err != nil {
			t.Fatal(err)
		}
		if from, _, err := client.Receive(s); err != nil || from != to {
			t.Errorf("from %s, %v, want %s", from, err, to)
		}
		s, err = client.Dial("udp6", to.String())
		if err != nil {
			t.Fatal(err)
		}
		passes.want(t, client.Exchange(s, "hello"))
		if s.Remote != to {
			t.Errorf("getpeername gives %s, want %s", s.Remote, to)
		}
	})
}

func TestRedirectBind(t *testing.T) {
	b := newRedirectBed(t)
	b.openEngine(loader.Options{Target: b.target(), Permits: true})
	host := b.families()
	b.apply(redirects(bindRedirect, at(host[0].host, 9001), at(host[1].host, 9001), "{IP_LOCAL_PORT: 9000}",
		rule("PERMIT", "Assigned", both("ALE_RESOURCE_ASSIGNMENT"), 8)))
	server, client := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	for _, f := range b.families() {
		for _, kind := range []struct {
			name, network string
			mptcp         testbed.MPTCP
		}{{"TCP", f.tcp, testbed.MPTCPOff}, {"MPTCP", f.tcp, testbed.MPTCPDefault}, {"UDP", f.udp, testbed.MPTCPOff}} {
			t.Run(kind.name+" "+f.name, func(t *testing.T) {
				b.events()
				asked := at(f.any, 9000)
				s, err := server.Listen(kind.network, asked, testbed.Options{V6Only: f.name == "v6", MPTCP: kind.mptcp})
				if err != nil {
					t.Fatal(err)
				}
				defer server.CloseSock(s)
				if s.Local.String() != asked {
					t.Errorf("getsockname gives %s, want %s", s.Local, asked)
				}
				// ALE_RESOURCE_ASSIGNMENT has seen the end that it was given
				if !slices.ContainsFunc(b.events(), func(e loader.Event) bool {
					return e.Layer == "ALE_RESOURCE_ASSIGNMENT_"+f.layer && e.PID == uint32(server.PID) && e.Dst == at(f.host, 9001)
				}) {
					t.Error("no assignment of the new address and port")
				}
				b.wantHits(bindRedirect+"_"+f.layer, "Redirect")
				if kind.name == "UDP" {
					passes.want(t, client.UDPExchange(f.udp, at(f.host, 9001), "hello"))
					return
				}
				passes.want(t, client.Connect(f.tcp, at(f.host, 9001)))
				failsWith(unix.ECONNREFUSED).want(t, client.Connect(f.tcp, at(f.host, 9000)))
			})
		}
		t.Run("another port "+f.name, func(t *testing.T) {
			s, err := server.Bind(f.tcp, at(f.any, 9002))
			if err != nil || s.Local.String() != at(f.any, 9002) {
				t.Errorf("%s, %v", s.Local, err)
			}
		})
	}
	t.Run("mapped", func(t *testing.T) {
		f := host[0]
		asked := "[::ffff:" + f.hostSecond + "]:9000"
		s, err := server.Bind("tcp6", asked)
		if err != nil || s.Local != netip.MustParseAddrPort(asked) {
			t.Errorf("getsockname gives %s, %v", s.Local, err)
		}
	})
}

// TestRedirectCommits: where a callout leads is part of the policy that is in force.
func TestRedirectCommits(t *testing.T) {
	b := newRedirectBed(t)
	client, server := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	b.serve(server, 8081, 8082)
	f := b.families()[0]
	to := func(port int) string {
		return redirects(connectRedirect, at(f.peer, port), fmt.Sprintf("[%s]:%d", b.peerEnd.V6, port), "{IP_REMOTE_PORT: 8080}")
	}
	want := func(port int) {
		t.Helper()
		before := b.accepted(server, port)
		passes.want(t, client.Connect(f.tcp, at(f.peer, 8080)))
		if b.accepted(server, port) != before+1 {
			t.Errorf("the connection did not come to port %d", port)
		}
	}
	b.apply(to(8081))
	want(8081)
	b.apply(to(8082))
	want(8082)
	if err := b.engine.Rollback(); err != nil {
		t.Fatal(err)
	}
	want(8081)
	// a process that comes later finds the policy whole
	e, err := loader.Find(b.target())
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	p, err := e.Policy()
	if err != nil {
		t.Fatal(err)
	}
	filters := p.Store.Filters()
	if end, ok := p.Store.RedirectTarget(filters[0]); !ok || end.String() != at(f.peer, 8081) {
		t.Errorf("the policy in force leads to %s, %v", end, ok)
	}
	callouts, err := e.Callouts()
	if err != nil || len(callouts) != 2 || !callouts[0].Registered {
		t.Errorf("callouts %+v, %v", callouts, err)
	}
}

// TestRedirectAmended: a filter that is added to the policy in force redirects, and one
// that is deleted does not.
func TestRedirectAmended(t *testing.T) {
	b := newRedirectBed(t)
	client, server := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	b.serve(server, 8081)
	f := b.families()[0]
	// of so many filters that few more are no reason to make the tables anew
	var others []string
	for port := range 40 {
		others = append(others, rule("PERMIT", "Other", "ALE_AUTH_CONNECT_V4", 8, fmt.Sprintf("{IP_REMOTE_PORT: %d}", port+1)))
	}
	p := b.load(redirects(connectRedirect, at(f.peer, 8081), "[::1]:8081", "{IP_REMOTE_PORT: 8080}", others...), nil)
	b.commit(p)
	more := *p.Store.Filters()[0]
	more.ID, more.Key, more.Name, more.EffectiveWeight = 0, filter.GUID{}, "Redirect more", 0
	more.Conditions = []filter.Condition{{Field: "IP_REMOTE_PORT", Value: filter.U16(8090)}}
	nobody := failsWith(unix.ECONNREFUSED)
	nobody.want(t, client.Connect(f.tcp, at(f.peer, 8090)))
	if err := p.Store.AddFilter(&more); err != nil {
		t.Fatal(err)
	}
	b.commit(p)
	if s := b.state(); s.Amends == nil || s.Amends.Added != 1 {
		t.Fatalf("the tables were made anew: %+v", s.Amends)
	}
	passes.want(t, client.Connect(f.tcp, at(f.peer, 8090)))
	b.wantHits("ALE_CONNECT_REDIRECT_V4", "Redirect more")
	passes.want(t, client.Connect(f.tcp, at(f.peer, 8080)))
	if err := p.Store.DeleteFilter(p.Store.Filters()[0].ID); err != nil {
		t.Fatal(err)
	}
	b.commit(p)
	nobody.want(t, client.Connect(f.tcp, at(f.peer, 8080)))
	passes.want(t, client.Connect(f.tcp, at(f.peer, 8090)))
}

// TestRedirectOtherProxy: who has asked for a redirect record takes redirected
// connections, also where another process listens.
func TestRedirectOtherProxy(t *testing.T) {
	b := newRedirectBed(t)
	server, client := b.on(b.peer, testbed.ProcOptions{}), b.on(b.host, testbed.ProcOptions{})
	b.serve(server, 8080)
	f := b.families()[0]
	first, firstSocks := b.openProxy(3128)
	second, secondSocks := b.openProxy(3129)
	b.apply(toProxy)
	passes.want(t, client.Connect(f.tcp, at(f.peer, 8080)))
	wantOriginals(t, first, firstSocks["v4"], 0, at(f.peer, 8080))
	b.apply(strings.ReplaceAll(toProxy, ":3128", ":3129"))
	passes.want(t, first.Connect(f.tcp, at(f.peer, 8080)))
	wantOriginals(t, second, secondSocks["v4"], 0)
	passes.want(t, client.Connect(f.tcp, at(f.peer, 8080)))
	wantOriginals(t, second, secondSocks["v4"], 0, at(f.peer, 8080))
}

// TestRedirectFirstPacket: where ALE_AUTH_CONNECT must wait for the port that the kernel
// chooses, the first packet is known for a redirected one, too.
func TestRedirectFirstPacket(t *testing.T) {
	b := newRedirectBed(t)
	low, high := "{IP_LOCAL_PORT: 1-45000}", "{IP_LOCAL_PORT: 45001-65535}"
	b.apply(redirects(connectRedirect, "127.0.0.1:3128", "[::1]:3128", "{IP_REMOTE_PORT: 8080}",
		rule("BLOCK", "Block low", atConnect, 8, isRedirected, low),
		rule("BLOCK", "Block high", atConnect, 8, isRedirected, high)))
	server, client := b.on(b.peer, testbed.ProcOptions{}), b.on(b.host, testbed.ProcOptions{})
	b.listen(server, 8081)
	b.openProxy(3128)
	for _, f := range b.families() {
		t.Run(f.name, func(t *testing.T) {
			dropped.want(t, client.Connect(f.tcp, at(f.peer, 8080), testbed.Options{Timeout: soon}))
			s, err := client.Dial(f.udp, at(f.peer, 8080))
			if err != nil {
				t.Fatal(err)
			}
			refused.want(t, client.Exchange(s, "hello"))
			blocked := map[uint8]bool{}
			for _, e := range b.events() {
				if e.Layer == "ALE_AUTH_CONNECT_"+f.layer && e.Dst == at(f.loopback, 3128) && e.OriginalDst == at(f.peer, 8080) {
					blocked[e.Protocol] = true
				}
			}
			if !blocked[6] || !blocked[17] {
				t.Errorf("blocks of protocols %v", blocked)
			}
			passes.want(t, client.Connect(f.tcp, at(f.peer, 8081)))
			passes.want(t, client.UDPExchange(f.udp, at(f.peer, 8081), "hello"))
		})
	}
}

// TestRedirectAfterAChange: datagrams of a flow that is judged again go where they went.
func TestRedirectAfterAChange(t *testing.T) {
	b := newRedirectBed(t)
	policy := func(more ...string) string {
		return redirects(connectRedirect, "127.0.0.1:5353", "[::1]:5353", "{IP_REMOTE_PORT: 5300}",
			append(more, rule("PERMIT", "Permit", atConnect, 8))...)
	}
	b.apply(policy())
	client, proxy := b.on(b.host, testbed.ProcOptions{}), b.on(b.host, testbed.ProcOptions{})
	for _, f := range b.families() {
		t.Run(f.name, func(t *testing.T) {
			if _, err := proxy.Listen(f.udp, at(f.any, 5353), testbed.Options{V6Only: f.name == "v6"}); err != nil {
				t.Fatal(err)
			}
			s, err := client.UDP(f.udp)
			if err != nil {
				t.Fatal(err)
			}
			for _, more := range [][]string{nil, {rule("PERMIT", "Another", atConnect, 9, "{IP_REMOTE_PORT: 9}")}, nil} {
				b.apply(policy(more...))
				for range 2 {
					to := at(f.peer, 5300)
					passes.want(t, client.SendTo(s, to, "hello"))
					if from, message, err := client.Receive(s); err != nil || message != "hello" || from != netip.MustParseAddrPort(to) {
						t.Errorf("%q from %s, %v; want the proxy's answer in the name of %s", message, from, err, to)
					}
				}
			}
		})
	}
}
