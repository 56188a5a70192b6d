// SPDX-License-Identifier: Apache-2.0

// This file is the callout that is provided here and not in Windows: redirect, at
// ALE_CONNECT_REDIRECT and ALE_BIND_REDIRECT. It permits what it is asked about and
// leads it to the address and port that the filter's provider context names.

package filter

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/wfpebpf/wfpebpf/layermap"
)

// redirectLayers are those that have the callout. V4 goes to IPv4 addresses.
var redirectLayers = []layermap.LayerID{
	layermap.ALEConnectRedirectV4, layermap.ALEConnectRedirectV6, layermap.ALEBindRedirectV4, layermap.ALEBindRedirectV6,
}

// redirectCallouts are the callouts by their layers: a callout belongs to one.
var redirectCallouts = map[layermap.LayerID]Callout{}

func init() {
	for _, id := range redirectLayers {
		c := Callout{
			Key: DeriveKey("builtin callout", "redirect at "+layermap.ByID(id).Name), Name: "redirect", Layer: id, UsesProviderContext: true,
		}
		redirectCallouts[id], Provided[c.Key] = c, redirect
	}
}

// redirect is the callout's classifyFn as far as arbitration goes.
func redirect(f *Filter, _ Values, _ bool) ClassifyOut {
	return ClassifyOut{Action: ActionPermit, ClearRight: f.Flags&FlagClearActionRight != 0}
}

// RedirectCallout returns the callout redirect of a layer. ok is false where the layer
// has none.
func RedirectCallout(layer layermap.LayerID) (c Callout, ok bool) {
	c, ok = redirectCallouts[layer]
	return c, ok
}

// Redirects reports whether a filter calls redirect.
func (f *Filter) Redirects() bool {
	c, ok := redirectCallouts[f.Layer]
	return ok && f.Action.IsCallout() && f.Callout == c.Key
}

// CheckRedirect is an error where a layer's traffic cannot be led to an end: the layer
// has no redirection, the address is of the other family or belongs to a link, or a
// connect would go to no address or port.
func CheckRedirect(layer layermap.LayerID, to netip.AddrPort) error {
	l := layermap.ByID(layer)
	if _, ok := redirectCallouts[layer]; !ok {
		return objectError("callout", "redirect", ErrIncompatibleLayer, "it redirects nothing at "+layer.String(),
			"use ALE_CONNECT_REDIRECT or ALE_BIND_REDIRECT")
	}
	connects := layer == layermap.ALEConnectRedirectV4 || layer == layermap.ALEConnectRedirectV6
	a := to.Addr()
	detail := ""
	switch {
	case !a.IsValid():
		detail = "no address to redirect to"
	case a.Is4() != (l.Family == layermap.V4) || a.Is4In6():
		detail = fmt.Sprintf("%s is not of the family of %s", a, l.Name)
	case a.Zone() != "" || a.IsLinkLocalUnicast() && a.Is6():
		detail = fmt.Sprintf("%s belongs to one link, and no link can be named", a)
	case connects && (a.IsUnspecified() || a.IsMulticast()):
		detail = fmt.Sprintf("%s is the address of no one host", a)
	case connects && to.Port() == 0:
		detail = "a connect needs a port to go to"
	default:
		return nil
	}
	return objectError("callout", "redirect", ErrInvalidParameter, detail, "name an address and a port of the layer's family")
}

// RedirectContext makes the provider context that leads to an end: its data is that
// end's sockaddr in network order, as in FWPS_CONNECT_REQUEST0.
func RedirectContext(key GUID, name string, to netip.AddrPort) ProviderContext {
	data := binary.BigEndian.AppendUint16(nil, to.Port())
	return ProviderContext{Key: key, Name: name, Data: append(data, to.Addr().AsSlice()...), Origin: RedirectText(to)}
}

// RedirectText says where a redirection leads, in the words of Origin.
func RedirectText(to netip.AddrPort) string { return "redirect to " + to.String() }

// RedirectTarget returns where a filter's callout leads, by its provider context. ok is
// false for a filter that does not redirect.
func (s *Store) RedirectTarget(f *Filter) (to netip.AddrPort, ok bool) {
	if !f.Redirects() {
		return to, false
	}
	return RedirectEnd(s.ProviderContext(f.ProviderContext))
}

// RedirectEnd returns the end that a provider context of RedirectContext leads to.
func RedirectEnd(c *ProviderContext) (to netip.AddrPort, ok bool) {
	if c == nil || len(c.Data) < 2 {
		return to, false
	}
	a, ok := netip.AddrFromSlice(c.Data[2:])
	return netip.AddrPortFrom(a, binary.BigEndian.Uint16(c.Data)), ok
}

// Redirect returns where a layer leads the traffic, and the filter that does; nil
// where it leads nowhere. Of the filters that were evaluated, one a sublayer, it is the
// first that redirects: those behind find the traffic redirected, and one that is
// called without the write right may not act.
func (s *Store) Redirect(r *Result) (to netip.AddrPort, by *Filter) {
	if r.Blocked() {
		return to, nil
	}
	for i := range r.SubLayers {
		sub := &r.SubLayers[i]
		if sub.Action != ActionPermit && sub.Action != ActionBlock {
			continue
		}
		if to, ok := s.RedirectTarget(sub.Filter); ok {
			return to, sub.Filter
		}
		if !sub.Soft {
			break
		}
	}
	return to, nil
}
