// SPDX-License-Identifier: Apache-2.0

// This file finds what a reader of the report would take for granted and that
// is otherwise on this host.

package policy

import (
	"fmt"
	"slices"

	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
)

// authLayers are the ALE layers that judge every protocol on Windows.
var authLayers = []layermap.LayerID{
	layermap.ALEAuthRecvAcceptV4, layermap.ALEAuthRecvAcceptV6, layermap.ALEAuthConnectV4, layermap.ALEAuthConnectV6,
}

// NoteProtocols notes that the block filters at the ALE layers do not stop what
// is neither TCP nor UDP: who blocks everything expects that to include ping.
// It adds nothing where no enforced block filter means other protocols, too.
func (p *Policy) NoteProtocols() {
	var first *Entry
	n := 0
	for i := range p.Entries {
		e := &p.Entries[i]
		if e.State == StateEnforced && e.Filter.Action == filter.ActionBlock &&
			slices.Contains(authLayers, e.Filter.Layer) && meansOtherProtocols(e.Filter) {
			if n++; first == nil {
				first = e
			}
		}
	}
	if n == 0 {
		return
	}
	which := fmt.Sprintf("the block filter %q (%d, layer %s)", clip(first.Filter.Name), first.Filter.ID, first.layerName())
	if n > 1 {
		which = fmt.Sprintf("%s and %d more do", which, n-1)
	} else {
		which += " does"
	}
	p.Notes = append(p.Notes, fmt.Sprintf(
		"protocols: the ALE layers judge TCP and UDP here; %s not stop ping or other protocols yet (block those at the TRANSPORT layers)", which))
}

// meansOtherProtocols reports whether a filter can match traffic that is neither
// TCP nor UDP. One that asks for a port means the protocols that have ports.
func meansOtherProtocols(f *filter.Filter) bool {
	judged := layermap.ByID(f.Layer).Source("IP_PROTOCOL").Only
	asked, other := false, false
	for i := range f.Conditions {
		c := &f.Conditions[i]
		switch c.Field {
		case "IP_LOCAL_PORT", "IP_REMOTE_PORT":
			return false
		case "IP_PROTOCOL":
			asked = true
			for n := range uint64(256) {
				if !slices.Contains(judged, n) && c.Matches(filter.U8(uint8(n))) {
					other = true
				}
			}
		}
	}
	return !asked || other
}
