// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"strings"
	"testing"

	"github.com/wfpebpf/wfpebpf/filter"
)

// redirecting is a policy with one callout and one filter that calls it.
func redirecting(callout, layer, action string) string {
	return "wfpebpf: 1\ncallouts: [{key: to-proxy, " + callout + "}]\nfilters:\n" +
		"  - {name: Through the proxy, layer: " + layer + ", action: " + action + ", callout: to-proxy}\n"
}

const toProxy = `layer: ALE_CONNECT_REDIRECT_V4, builtin: redirect, to: "127.0.0.1:3128"`

func TestRedirect(t *testing.T) {
	p := mustLoad(t, redirecting(toProxy, "ALE_CONNECT_REDIRECT_V4", "CALLOUT_TERMINATING"))
	if got := outcome(p.Entries[0]); got != "enforced" {
		t.Fatal(got)
	}
	f := p.Store.Filter(1)
	to, ok := p.Store.RedirectTarget(f)
	if !ok || to.String() != "127.0.0.1:3128" || f.Origin != "redirect to 127.0.0.1:3128" || f.Flags&filter.FlagHasProviderContext == 0 {
		t.Errorf("it leads to %s, %v: %+v", to, ok, f)
	}
	if c := p.Store.ProviderContext(f.ProviderContext); c == nil || c.Name != "to-proxy" {
		t.Errorf("its provider context is %+v", c)
	}
}

// What cannot be enforced is an error with the place of what is wrong.
func TestRedirectErrors(t *testing.T) {
	for _, c := range []struct{ callout, layer, action, want string }{
		{`layer: ALE_CONNECT_REDIRECT_V4, builtin: redirect, to: "[::1]:3128"`, "ALE_CONNECT_REDIRECT_V4", "CALLOUT_TERMINATING",
			"p.yaml:2:83: callout \"to-proxy\": callout \"redirect\": ::1 is not of the family of ALE_CONNECT_REDIRECT_V4"},
		{`layer: ALE_CONNECT_REDIRECT_V6, builtin: redirect, to: "127.0.0.1:3128"`, "ALE_CONNECT_REDIRECT_V6", "CALLOUT_TERMINATING", "127.0.0.1 is not of the family"},
		{`layer: ALE_CONNECT_REDIRECT_V6, builtin: redirect, to: "[::ffff:127.0.0.1]:3128"`, "ALE_CONNECT_REDIRECT_V6", "CALLOUT_TERMINATING", "is not of the family"},
		{`layer: ALE_CONNECT_REDIRECT_V6, builtin: redirect, to: "[fe80::1%eth0]:3128"`, "ALE_CONNECT_REDIRECT_V6", "CALLOUT_TERMINATING", "belongs to one link"},
		{`layer: ALE_CONNECT_REDIRECT_V4, builtin: redirect, to: "127.0.0.1:0"`, "ALE_CONNECT_REDIRECT_V4", "CALLOUT_TERMINATING", "needs a port"},
		{`layer: ALE_CONNECT_REDIRECT_V4, builtin: redirect, to: "0.0.0.0:3128"`, "ALE_CONNECT_REDIRECT_V4", "CALLOUT_TERMINATING", "the address of no one host"},
		{`layer: ALE_CONNECT_REDIRECT_V4, builtin: redirect, to: "127.0.0.1"`, "ALE_CONNECT_REDIRECT_V4", "CALLOUT_TERMINATING", "is not an address and a port"},
		{`layer: ALE_CONNECT_REDIRECT_V4, builtin: redirect`, "ALE_CONNECT_REDIRECT_V4", "CALLOUT_TERMINATING", "redirect needs to"},
		{`layer: ALE_CONNECT_REDIRECT_V4, builtin: proxy, to: "127.0.0.1:1"`, "ALE_CONNECT_REDIRECT_V4", "CALLOUT_TERMINATING", `no callout "proxy" is built in`},
		{`layer: ALE_CONNECT_REDIRECT_V4, to: "127.0.0.1:1"`, "ALE_CONNECT_REDIRECT_V4", "CALLOUT_TERMINATING", "to goes only with builtin: redirect"},
		{`layer: ALE_AUTH_CONNECT_V4, builtin: redirect, to: "127.0.0.1:1"`, "ALE_AUTH_CONNECT_V4", "CALLOUT_TERMINATING", "it redirects nothing at FWPS_LAYER_ALE_AUTH_CONNECT_V4"},
		{toProxy, "ALE_CONNECT_REDIRECT_V6", "CALLOUT_TERMINATING", "p.yaml:4:38: filter \"Through the proxy\": callout \"redirect\": 127.0.0.1 is not of the family of ALE_CONNECT_REDIRECT_V6"},
		{toProxy, "ALE_AUTH_CONNECT_V4", "CALLOUT_TERMINATING", "nothing is redirected at ALE_AUTH_CONNECT_V4"},
		{toProxy, "ALE_CONNECT_REDIRECT_V4", "CALLOUT_INSPECTION", "redirect changes what it is asked about"},
	} {
		_, err := LoadReader("p.yaml", strings.NewReader(redirecting(c.callout, c.layer, c.action)), Options{})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s at %s: %v, want %q", c.callout, c.layer, err, c.want)
		}
	}
}

// Another callout is not provided at these layers, and its filter is refused with its
// place: what it would do to the traffic is not known.
func TestOtherCalloutAtARedirectLayer(t *testing.T) {
	p := mustLoad(t, redirecting("layer: ALE_BIND_REDIRECT_V4", "ALE_BIND_REDIRECT_V4", "CALLOUT_TERMINATING"))
	e := p.Entries[0]
	if e.State != StateRefused || e.Line != 4 || !strings.Contains(e.Reason, `callout "to-proxy"`) || !strings.Contains(e.Reason, "not provided") {
		t.Errorf("%s at line %d: %s", e.State, e.Line, e.Reason)
	}
}

func mustLoad(t *testing.T, text string) *Policy {
	t.Helper()
	p, err := LoadReader("p.yaml", strings.NewReader(text), Options{})
	if err != nil {
		t.Fatal(err)
	}
	return p
}
