// SPDX-License-Identifier: Apache-2.0

// This file is the one built-in callout of Windows that is provided:
// WFP_TRANSPORT_LAYER_V4_SILENT_DROP and its V6 twin, at INBOUND_TRANSPORT_DISCARD. It
// blocks what it is asked about, so that a packet without an endpoint has no answer.

package filter

func init() {
	for _, c := range ownCallouts {
		switch c.Name {
		case "FWPM_CALLOUT_WFP_TRANSPORT_LAYER_V4_SILENT_DROP", "FWPM_CALLOUT_WFP_TRANSPORT_LAYER_V6_SILENT_DROP":
			Provided[c.Key] = silentDrop
		}
	}
}

// silentDrop is the callout's classifyFn. It does not veto a hard permit: the programs
// know no vetoes.
func silentDrop(_ *Filter, _ Values, right bool) ClassifyOut {
	if !right {
		return ClassifyOut{Action: ActionPermit}
	}
	return ClassifyOut{Action: ActionBlock, ClearRight: true}
}
