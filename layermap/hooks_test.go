// SPDX-License-Identifier: Apache-2.0

package layermap

import (
	"slices"
	"strings"
	"testing"
)

func TestEveryLayerHasAHook(t *testing.T) {
	used := map[string]bool{}
	for i := range layers {
		l := &layers[i]
		key := hookKey(l.Name)
		used[key] = true
		h, ok := hooks[key]
		if !ok {
			t.Errorf("%s: the table of hooks has no row %s", l.FWPS(), key)
			continue
		}
		if got := l.Hook(); got != h {
			t.Errorf("%s: Hook() = %+v, want %+v", l.FWPS(), got, h)
		}
	}
	for key := range hooks {
		if !used[key] {
			t.Errorf("row %s of the table of hooks belongs to no layer", key)
		}
	}
}

func TestHookRows(t *testing.T) {
	for key, h := range hooks {
		if h.Name == "" {
			t.Errorf("%s: no hook is named", key)
		}
		if h.Fidelity == None {
			if h.Live || h.Program != "" || h.MinKernel != "" || h.Differs == "" {
				t.Errorf("%s: no hook, and yet %+v", key, h)
			}
			continue
		}
		if h.Program == "" || h.MinKernel == "" {
			t.Errorf("%s: no program or no kernel: %+v", key, h)
		}
		if h.Fidelity == Close && h.Differs == "" {
			t.Errorf("%s: close, and no difference is named", key)
		}
	}
	for i := range layers {
		l := &layers[i]
		if (l.Mode == UserMode) != (l.Hook().Fidelity == UserModeOnly) {
			t.Errorf("%s: a %s mode layer has fidelity %q", l.FWPS(), l.Mode, l.Hook().Fidelity)
		}
	}
}

// TestLiveLayers names what this version enforces: a change here is a change
// of what users are promised.
func TestLiveLayers(t *testing.T) {
	want := []LayerID{
		InboundIPPacketV4, InboundIPPacketV6, OutboundIPPacketV4, OutboundIPPacketV6,
		IPForwardV4, IPForwardV6,
		InboundTransportV4, InboundTransportV6, OutboundTransportV4, OutboundTransportV6,
		InboundICMPErrorV4, InboundICMPErrorV6, OutboundICMPErrorV4, OutboundICMPErrorV6,
		StreamPacketV4, StreamPacketV6,
		DatagramDataV4, DatagramDataV6,
		ALEResourceAssignmentV4, ALEResourceAssignmentV6,
		ALEAuthRecvAcceptV4, ALEAuthRecvAcceptV6, ALEAuthConnectV4, ALEAuthConnectV6,
		InboundMACFrameEthernet, OutboundMACFrameEthernet, InboundMACFrameNative, OutboundMACFrameNative,
		IngressVSwitchEthernet, EgressVSwitchEthernet, IngressVSwitchTransportV4, IngressVSwitchTransportV6,
		EgressVSwitchTransportV4, EgressVSwitchTransportV6,
		ALEFlowEstablishedV4, ALEFlowEstablishedV6,
		ALEEndpointClosureV4, ALEEndpointClosureV6, ALEResourceReleaseV4, ALEResourceReleaseV6,
	}
	for i := range layers {
		l := &layers[i]
		if got, want := l.Hook().Live, slices.Contains(want, l.ID); got != want {
			t.Errorf("%s: Live is %v, want %v", l.FWPS(), got, want)
		}
	}
}

func TestReserved1IsRefused(t *testing.T) {
	for _, id := range []LayerID{Reserved1V4, Reserved1V6} {
		h := ByID(id).Hook()
		if h.Fidelity != None || !strings.Contains(h.Differs, "refused") {
			t.Errorf("%s: %+v", id, h)
		}
	}
}

func TestLayerWithoutRow(t *testing.T) {
	l := &Layer{Name: "NO_SUCH_V4"}
	if h := l.Hook(); h.Fidelity != None || h.Live {
		t.Errorf("a layer without a row: %+v", h)
	}
}

func TestHookKey(t *testing.T) {
	for name, want := range map[string]string{
		"INBOUND_IPPACKET_V4":         "INBOUND_IPPACKET",
		"INBOUND_IPPACKET_V6_DISCARD": "INBOUND_IPPACKET_DISCARD",
		"INBOUND_MAC_FRAME_NATIVE":    "INBOUND_MAC_FRAME_NATIVE",
		"RPC_UM":                      "RPC_UM",
	} {
		if got := hookKey(name); got != want {
			t.Errorf("hookKey(%s) = %s, want %s", name, got, want)
		}
	}
}

func TestFidelityNames(t *testing.T) {
	for f, want := range map[Fidelity]string{Exact: "exact", Close: "close", UserModeOnly: "user mode", None: "none"} {
		if got := f.String(); got != want {
			t.Errorf("Fidelity(%d) = %q, want %q", f, got, want)
		}
	}
}
