// SPDX-License-Identifier: Apache-2.0

// This file says what an event tells of the packet's parts.

package loader

import (
	"strings"

	"github.com/wfpebpf/wfpebpf/bpf"
	"github.com/wfpebpf/wfpebpf/layermap"
)

// metadataOf is the metadata of an event; nil where the layer has no packet, or where it
// is not known.
func metadataOf(l *layermap.Layer, raw *bpf.Event) *Metadata {
	if l == nil {
		return nil
	}
	p, outbound := partsOf(l, raw), raw.Outbound != 0
	m := &Metadata{DataOffset: l.DataOffset(p, outbound, raw.Protocol)}
	if m.DataOffset < 0 {
		return nil
	}
	for _, size := range []struct {
		field    layermap.MetadataField
		to       *int
		from, up int
	}{
		{layermap.EthernetMACHeaderSize, &m.EthernetMACHeaderSize, 0, p.IP},
		{layermap.IPHeaderSize, &m.IPHeaderSize, p.IP, p.Transport},
		{layermap.TransportHeaderSize, &m.TransportHeaderSize, p.Transport, p.Data},
	} {
		if l.HasMetadata(size.field) && size.from >= 0 && size.up >= 0 {
			*size.to = size.up - size.from
		}
	}
	switch {
	case l.Offset == layermap.OffsetInnerIPHeader:
		// of an ICMP error it is the whole way back to the outer IP header
		m.IPHeaderSize = p.Data - p.IP
	case l.Offset == layermap.OffsetDataOrTransport && outbound:
		m.IPHeaderSize = 0 // the IP header is not there yet
	}
	return m
}

// partsOf are the parts that an event has of its packet. What the program left may be of
// another one; then its layer is another.
func partsOf(l *layermap.Layer, raw *bpf.Event) layermap.Parts {
	p, framed := layermap.NoParts, l.Family == layermap.AnyFamily || strings.Contains(l.Name, "VSWITCH")
	if !framed && l.Offset == layermap.OffsetIPHeader {
		p.IP = 0 // whatever else is known
	}
	has := raw.Parts.Has
	if uint32(raw.Parts.Layer) != raw.Layer || has&bpf.PartIP == 0 {
		return p
	}
	origin := int(raw.Parts.Ip)
	if framed {
		origin = 0
	}
	p.IP = int(raw.Parts.Ip) - origin
	if has&bpf.PartTransport != 0 {
		p.Transport = int(raw.Parts.Transport) - origin
	}
	if has&bpf.PartData != 0 {
		p.Data = int(raw.Parts.Data) - origin
	}
	return p
}
