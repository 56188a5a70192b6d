// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"net/netip"
	"testing"

	"github.com/wfpebpf/wfpebpf/layermap"
)

// TestRedirectOfSubLayers: which of the filters that are evaluated redirects.
func TestRedirectOfSubLayers(t *testing.T) {
	callout, ok := RedirectCallout(layermap.ALEConnectRedirectV4)
	if !ok {
		t.Fatal("the layer has no redirect")
	}
	type row struct {
		action Action
		flags  Flags
		to     string
	}
	high, low := "10.0.0.1:1", "10.0.0.2:2"
	redirect := func(to string) row { return row{ActionCalloutTerminating, 0, to} }
	for _, c := range []struct {
		name      string
		high, low row
		want      string // where to; empty: nowhere
		blocked   bool
	}{
		{"the heavier of two", redirect(high), redirect(low), high, false},
		{"soft permit above", row{ActionPermit, 0, ""}, redirect(low), low, false},
		{"hard permit above", row{ActionPermit, FlagClearActionRight, ""}, redirect(low), "", false},
		{"permit below", redirect(high), row{ActionPermit, 0, ""}, high, false},
		{"block below", redirect(high), row{ActionBlock, 0, ""}, "", true},
		{"block below a hard one", row{ActionCalloutUnknown, FlagClearActionRight, high}, row{ActionBlock, 0, ""}, high, false},
		{"block above", row{ActionBlock, 0, ""}, redirect(low), "", true},
		{"an inspection decides nothing", row{ActionCalloutInspection, 0, high}, redirect(low), low, false},
	} {
		s := NewStore()
		for i, r := range []row{c.high, c.low} {
			sub := SubLayer{Key: GUID{byte(i + 1)}, Name: "sublayer", Weight: uint16(10 - i)}
			f := &Filter{Name: "filter", Layer: layermap.ALEConnectRedirectV4, SubLayer: sub.Key, Action: r.action, Flags: r.flags}
			if err := s.AddSubLayer(sub); err != nil {
				t.Fatal(err)
			}
			if r.to != "" {
				s.AddCallout(callout)
				context := RedirectContext(GUID{byte(i + 9)}, "context", netip.MustParseAddrPort(r.to))
				if err := s.AddProviderContext(context); err != nil {
					t.Fatal(err)
				}
				f.Callout, f.ProviderContext = callout.Key, context.Key
				f.Flags |= FlagHasProviderContext
			}
			if err := s.AddFilter(f); err != nil {
				t.Fatal(err)
			}
		}
		r := Arbitrate(s, layermap.ALEConnectRedirectV4, make(Values, 15), Provided)
		to, by := s.Redirect(&r)
		if got := map[bool]string{true: to.String(), false: ""}[by != nil]; got != c.want || r.Blocked() != c.blocked {
			t.Errorf("%s: blocked %v, redirected to %q, want %q", c.name, r.Blocked(), got, c.want)
		}
	}
}
