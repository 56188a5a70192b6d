// SPDX-License-Identifier: Apache-2.0

// This file is the one built-in callout of Windows that the BPF programs stand in for:
// WFP_TRANSPORT_LAYER_V4_SILENT_DROP and its V6 twin, at INBOUND_TRANSPORT_DISCARD. It
// blocks what it is asked about, so that a packet without an endpoint has no answer.

package filter

// silentDrops are the callouts by their keys.
var silentDrops = map[GUID]bool{}

func init() {
	for _, c := range ownCallouts {
		switch c.Name {
		case "FWPM_CALLOUT_WFP_TRANSPORT_LAYER_V4_SILENT_DROP", "FWPM_CALLOUT_WFP_TRANSPORT_LAYER_V6_SILENT_DROP":
			silentDrops[c.Key] = true
		}
	}
}

// IsSilentDrop reports whether a callout is the built-in one that drops in silence.
func IsSilentDrop(callout GUID) bool { return silentDrops[callout] }

// SilentDrops reports whether a filter calls it.
func (f *Filter) SilentDrops() bool { return f.Action.IsCallout() && silentDrops[f.Callout] }
