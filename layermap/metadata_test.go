// SPDX-License-Identifier: Apache-2.0

package layermap

import "testing"

// Where the data of a packet begin at each kind of layer: the parts are those of a packet
// with an IP header of 20 bytes and a transport header of 8.
func TestDataOffset(t *testing.T) {
	p := Parts{IP: 0, Transport: 20, Data: 28}
	for _, row := range []struct {
		layer    LayerID
		outbound bool
		protocol uint8
		want     int
	}{
		{InboundMACFrameNative, false, 0, 0},
		{InboundIPPacketV4, false, 17, 20},
		{OutboundIPPacketV4, true, 17, 0},
		{IPForwardV6, false, 17, 0},
		{InboundTransportV4, false, 17, 28},
		{InboundTransportV4, false, protocolICMP, 20},
		{InboundTransportV6, false, protocolICMPv6, 20},
		{InboundTransportV6, false, protocolICMP, 28}, // which is none there
		{OutboundTransportV6, true, 17, 20},
		{InboundICMPErrorV4, false, protocolICMP, 28},
		{OutboundICMPErrorV4, true, protocolICMP, 20},
		{StreamPacketV4, false, protocolTCP, 28},
		{StreamPacketV4, true, protocolTCP, 20},
		{ALEAuthRecvAcceptV4, false, 17, 28},
		{ALEAuthConnectV4, true, 17, 20},
		{ALEAuthConnectV4, true, protocolTCP, -1},
		{ALEResourceAssignmentV4, false, 17, -1},
		{ALEEndpointClosureV6, false, 17, -1},
	} {
		if got := ByID(row.layer).DataOffset(p, row.outbound, row.protocol); got != row.want {
			t.Errorf("%s, outbound %t, protocol %d: %d, want %d", row.layer, row.outbound, row.protocol, got, row.want)
		}
	}
	if got := ByID(InboundTransportV4).DataOffset(NoParts, false, 17); got >= 0 {
		t.Errorf("of an unknown packet: %d", got)
	}
}

// The table of metadata names layers that there are, and a discard layer has what its
// layer has.
func TestMetadata(t *testing.T) {
	known := map[string]bool{}
	for i := range layers {
		l := &layers[i]
		known[hookKey(l.Name)] = true
		if !l.Discard {
			continue
		}
		for m := IPHeaderSize; m <= EthernetMACHeaderSize; m++ {
			if base := ByID(l.ID - 1); base.HasMetadata(m) != l.HasMetadata(m) {
				t.Errorf("%s and %s do not agree about %s", base.Name, l.Name, m)
			}
		}
	}
	for key := range metadata {
		if !known[key] {
			t.Errorf("no layer %s", key)
		}
	}
}
