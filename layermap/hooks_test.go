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
		ALEAuthListenV4, ALEAuthListenV6,
		ALEAuthRecvAcceptV4, ALEAuthRecvAcceptV6, ALEAuthConnectV4, ALEAuthConnectV6,
		InboundMACFrameEthernet, OutboundMACFrameEthernet, InboundMACFrameNative, OutboundMACFrameNative,
		IngressVSwitchEthernet, EgressVSwitchEthernet, IngressVSwitchTransportV4, IngressVSwitchTransportV6,
		EgressVSwitchTransportV4, EgressVSwitchTransportV6,
		ALEFlowEstablishedV4, ALEFlowEstablishedV6,
		ALEEndpointClosureV4, ALEEndpointClosureV6, ALEResourceReleaseV4, ALEResourceReleaseV6,
		ALEConnectRedirectV4, ALEConnectRedirectV6, ALEBindRedirectV4, ALEBindRedirectV6,

		InboundIPPacketV4Discard, InboundIPPacketV6Discard, OutboundIPPacketV4Discard, OutboundIPPacketV6Discard,
		IPForwardV4Discard, IPForwardV6Discard,
		InboundTransportV4Discard, InboundTransportV6Discard, OutboundTransportV4Discard, OutboundTransportV6Discard,
		InboundICMPErrorV4Discard, InboundICMPErrorV6Discard, OutboundICMPErrorV4Discard, OutboundICMPErrorV6Discard,
		ALEResourceAssignmentV4Discard, ALEResourceAssignmentV6Discard,
		DatagramDataV4Discard, DatagramDataV6Discard,
		ALEAuthListenV4Discard, ALEAuthListenV6Discard,
		ALEAuthRecvAcceptV4Discard, ALEAuthRecvAcceptV6Discard, ALEAuthConnectV4Discard, ALEAuthConnectV6Discard,
		ALEFlowEstablishedV4Discard, ALEFlowEstablishedV6Discard,
	}
	for i := range layers {
		l := &layers[i]
		if got, want := l.Hook().Live, slices.Contains(want, l.ID); got != want {
			t.Errorf("%s: Live is %v, want %v", l.FWPS(), got, want)
		}
	}
}

// TestDiscardLayers: a discard layer runs where the layer does whose blocks it follows,
// on the same kernels, and its fields come from where that layer's do.
func TestDiscardLayers(t *testing.T) {
	for i := range layers {
		l := &layers[i]
		of := l.DiscardOf()
		if (of != nil) != l.Discard {
			t.Errorf("%s: discards of %v", l.FWPS(), of)
		}
		if of == nil {
			continue
		}
		if want := of.Name + "_DISCARD"; l.Name != want {
			t.Errorf("%s discards of %s", l.FWPS(), of.FWPS())
		}
		h := l.Hook()
		if h.Live && !of.Hook().Live {
			t.Errorf("%s runs, and %s does not", l.FWPS(), of.FWPS())
		}
		if !h.Live {
			continue
		}
		// packets to closed ports need more than the layer itself
		ofTransport := l.ID == InboundTransportV4Discard || l.ID == InboundTransportV6Discard
		if h.MinKernel != of.Hook().MinKernel && !(ofTransport && h.MinKernel == resetKernel) {
			t.Errorf("%s wants kernel %s, %s %s", l.FWPS(), h.MinKernel, of.FWPS(), of.Hook().MinKernel)
		}
	}
}

func TestDiscardReasons(t *testing.T) {
	for _, row := range []struct {
		module       DiscardModule
		reason       uint32
		name, called string
	}{
		{DiscardGeneral, 0, "general", "FirewallPolicy"},
		{DiscardTransport, 4, "transport", "EndpointNotFound"},
		{DiscardNetwork, 4, "network", "PortUnreachable"},
		{DiscardNetwork, 128, "network", "HopLimitExceeded"},
		{DiscardNetwork, 9999, "network", "9999"},
		{7, 1, "7", "1"},
	} {
		if got := row.module.String(); got != row.name {
			t.Errorf("module %d is %q, want %q", row.module, got, row.name)
		}
		if got := row.module.Reason(row.reason); got != row.called {
			t.Errorf("reason %d of %v is %q, want %q", row.reason, row.module, got, row.called)
		}
	}
}

// TestReservedLayers: the discard layers of streams take filters, and nothing fills
// their fields.
func TestReservedLayers(t *testing.T) {
	for i := range layers {
		l := &layers[i]
		want := l.ID == StreamV4Discard || l.ID == StreamV6Discard
		if h := l.Hook(); h.Reserved != want || want && h.Live {
			t.Errorf("%s: %+v", l.FWPS(), h)
		}
		for _, f := range l.Fields {
			if s := l.Source(f.Key); want && s.Kind != Never {
				t.Errorf("%s: %s is %+v", l.FWPS(), f.Key, s)
			}
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
