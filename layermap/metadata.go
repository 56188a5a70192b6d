// SPDX-License-Identifier: Apache-2.0

package layermap

import "slices"

// MetadataField is one of FWPS_INCOMING_METADATA_VALUES0 that says where a packet's
// parts lie.
type MetadataField uint8

const (
	IPHeaderSize          MetadataField = iota // FWPS_METADATA_FIELD_IP_HEADER_SIZE
	TransportHeaderSize                        // FWPS_METADATA_FIELD_TRANSPORT_HEADER_SIZE
	EthernetMACHeaderSize                      // FWPS_L2_METADATA_FIELD_ETHERNET_MAC_HEADER_SIZE
)

// String returns WFP's spelling.
func (m MetadataField) String() string {
	return [...]string{
		"FWPS_METADATA_FIELD_IP_HEADER_SIZE", "FWPS_METADATA_FIELD_TRANSPORT_HEADER_SIZE",
		"FWPS_L2_METADATA_FIELD_ETHERNET_MAC_HEADER_SIZE",
	}[m]
}

// metadata is which of these a layer can have (WDK, "Metadata fields at each filtering
// layer"), keyed by hookKey. A discard layer has those of its layer. Of the frame layers
// the structure's page names the MAC header of inbound Ethernet frames only.
var metadata = map[string][]MetadataField{
	"INBOUND_IPPACKET":           {IPHeaderSize},
	"OUTBOUND_IPPACKET":          {IPHeaderSize, TransportHeaderSize},
	"INBOUND_TRANSPORT":          {IPHeaderSize, TransportHeaderSize},
	"OUTBOUND_TRANSPORT":         {TransportHeaderSize},
	"DATAGRAM_DATA":              {IPHeaderSize, TransportHeaderSize},
	"INBOUND_ICMP_ERROR":         {IPHeaderSize, TransportHeaderSize},
	"OUTBOUND_ICMP_ERROR":        {TransportHeaderSize},
	"ALE_AUTH_RECV_ACCEPT":       {IPHeaderSize, TransportHeaderSize},
	"ALE_AUTH_CONNECT":           {TransportHeaderSize},
	"STREAM_PACKET":              {IPHeaderSize, TransportHeaderSize},
	"INBOUND_MAC_FRAME_ETHERNET": {EthernetMACHeaderSize},
	"INGRESS_VSWITCH_ETHERNET":   {EthernetMACHeaderSize},
	"EGRESS_VSWITCH_ETHERNET":    {EthernetMACHeaderSize},
}

// HasMetadata reports whether the layer can have a field of the metadata.
func (l *Layer) HasMetadata(m MetadataField) bool {
	key := hookKey(l.Name)
	if l.Discard {
		key = key[:len(key)-len("_DISCARD")]
	}
	return slices.Contains(metadata[key], m)
}

// Parts is where the parts of a packet begin, in bytes from its first one; a part that it
// does not have, or that cannot be read, is negative. Of what is no IP packet IP is what
// follows the MAC header.
type Parts struct{ IP, Transport, Data int }

// NoParts is nothing known of a packet.
var NoParts = Parts{-1, -1, -1}

// IP protocols of which the documents say something else (IANA).
const (
	protocolICMP   = 1
	protocolTCP    = 6
	protocolICMPv6 = 58
)

// DataOffset returns where the layer's data begin in a packet of a protocol, or a negative
// number where they begin nowhere.
func (l *Layer) DataOffset(p Parts, outbound bool, protocol uint8) int {
	data := p.Data
	if l.Family == V4 && protocol == protocolICMP || l.Family == V6 && protocol == protocolICMPv6 {
		data = p.Transport
	}
	switch l.Offset {
	case OffsetMACHeader:
		return 0
	case OffsetIPHeader:
		return p.IP
	case OffsetTransportHeader, OffsetICMPHeader:
		return p.Transport
	case OffsetInnerIPHeader:
		return p.Data
	case OffsetData:
		return data
	case OffsetDataOrTransport:
		if outbound {
			return p.Transport
		}
		return data
	case OffsetTransportNonTCP:
		if protocol != protocolTCP {
			return p.Transport
		}
	}
	return -1
}
