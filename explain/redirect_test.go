// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/wfpebpf/wfpebpf/policy"
)

// What a redirect does is said where it does it, and the layers behind it judge where
// the traffic goes then.
func TestRedirect(t *testing.T) {
	p, err := policy.LoadReader("p.yaml", strings.NewReader(`wfpebpf: 1
callouts: [{key: to-proxy, layer: ALE_CONNECT_REDIRECT_V4, builtin: redirect, to: "127.0.0.1:3128"}]
filters:
  - {name: Through the proxy, layer: ALE_CONNECT_REDIRECT_V4, action: CALLOUT_TERMINATING, callout: to-proxy, conditions: [{IP_REMOTE_PORT: 80}]}
  - {name: Not there, layer: ALE_CONNECT_REDIRECT_V4, action: BLOCK, conditions: [{IP_REMOTE_PORT: 81}]}
  - name: The proxy
    layer: ALE_AUTH_CONNECT_V4
    action: PERMIT
    conditions: [{IP_REMOTE_PORT: 3128}, {FLAGS: {match: FLAGS_ALL_SET, value: [IS_CONNECTION_REDIRECTED, IS_LOOPBACK]}}]
  - {name: The rest, layer: ALE_AUTH_CONNECT_V4, action: BLOCK, weight: 0}
`), policy.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		to             string
		redirect, ends string // where to; the verdicts of the two layers and who decided
	}{
		{"192.0.2.1:80", "127.0.0.1:3128", "permit Through the proxy, permit The proxy"},
		{"192.0.2.1:81", "", "block Not there, block The rest"},
		{"127.0.0.1:3128", "", "permit , block The rest"},
	} {
		way := Tuple{Outbound: true, Protocol: protocolTCP, Remote: netip.MustParseAddrPort(c.to)}
		var got []string
		frames := false
		for _, a := range way.Explain(p, p.Store, false) {
			switch a.Layer {
			case "ALE_CONNECT_REDIRECT_V4":
				if a.RedirectTo != c.redirect {
					t.Errorf("%s is redirected to %q, want %q", c.to, a.RedirectTo, c.redirect)
				}
				var b strings.Builder
				if err := WriteText(&b, []Answer{a}); err != nil || strings.Contains(b.String(), "redirected to 127.0.0.1:3128") != (c.redirect != "") {
					t.Errorf("%v, %s", err, b.String())
				}
				got = append(got, a.Verdict+" "+a.FilterName)
			case "ALE_AUTH_CONNECT_V4":
				got = append(got, a.Verdict+" "+a.FilterName)
			case "OUTBOUND_MAC_FRAME_NATIVE":
				frames = true
			}
		}
		if g := strings.Join(got, ", "); g != c.ends {
			t.Errorf("%s: %s, want %s", c.to, g, c.ends)
		}
		if loopback := c.redirect != "" || strings.HasPrefix(c.to, "127."); frames == loopback {
			t.Errorf("%s: frames %v", c.to, frames)
		}
		if way.Remote.String() != c.to {
			t.Errorf("the question is %s by now", way.Remote)
		}
	}
}
