// SPDX-License-Identifier: Apache-2.0

package layermap

// The run-time layer identifiers, FWPS_BUILTIN_LAYERS. Ids 0 to 55 go in groups of
// four (V4, V4 discard, V6, V6 discard) and never change; user-mode ids
// shift with the Windows release, so look those up by GUID.
const (
	InboundIPPacketV4                 LayerID = 0
	InboundIPPacketV4Discard          LayerID = 1
	InboundIPPacketV6                 LayerID = 2
	InboundIPPacketV6Discard          LayerID = 3
	OutboundIPPacketV4                LayerID = 4
	OutboundIPPacketV4Discard         LayerID = 5
	OutboundIPPacketV6                LayerID = 6
	OutboundIPPacketV6Discard         LayerID = 7
	IPForwardV4                       LayerID = 8
	IPForwardV4Discard                LayerID = 9
	IPForwardV6                       LayerID = 10
	IPForwardV6Discard                LayerID = 11
	InboundTransportV4                LayerID = 12
	InboundTransportV4Discard         LayerID = 13
	InboundTransportV6                LayerID = 14
	InboundTransportV6Discard         LayerID = 15
	OutboundTransportV4               LayerID = 16
	OutboundTransportV4Discard        LayerID = 17
	OutboundTransportV6               LayerID = 18
	OutboundTransportV6Discard        LayerID = 19
	StreamV4                          LayerID = 20
	StreamV4Discard                   LayerID = 21
	StreamV6                          LayerID = 22
	StreamV6Discard                   LayerID = 23
	DatagramDataV4                    LayerID = 24
	DatagramDataV4Discard             LayerID = 25
	DatagramDataV6                    LayerID = 26
	DatagramDataV6Discard             LayerID = 27
	InboundICMPErrorV4                LayerID = 28
	InboundICMPErrorV4Discard         LayerID = 29
	InboundICMPErrorV6                LayerID = 30
	InboundICMPErrorV6Discard         LayerID = 31
	OutboundICMPErrorV4               LayerID = 32
	OutboundICMPErrorV4Discard        LayerID = 33
	OutboundICMPErrorV6               LayerID = 34
	OutboundICMPErrorV6Discard        LayerID = 35
	ALEResourceAssignmentV4           LayerID = 36
	ALEResourceAssignmentV4Discard    LayerID = 37
	ALEResourceAssignmentV6           LayerID = 38
	ALEResourceAssignmentV6Discard    LayerID = 39
	ALEAuthListenV4                   LayerID = 40
	ALEAuthListenV4Discard            LayerID = 41
	ALEAuthListenV6                   LayerID = 42
	ALEAuthListenV6Discard            LayerID = 43
	ALEAuthRecvAcceptV4               LayerID = 44
	ALEAuthRecvAcceptV4Discard        LayerID = 45
	ALEAuthRecvAcceptV6               LayerID = 46
	ALEAuthRecvAcceptV6Discard        LayerID = 47
	ALEAuthConnectV4                  LayerID = 48
	ALEAuthConnectV4Discard           LayerID = 49
	ALEAuthConnectV6                  LayerID = 50
	ALEAuthConnectV6Discard           LayerID = 51
	ALEFlowEstablishedV4              LayerID = 52
	ALEFlowEstablishedV4Discard       LayerID = 53
	ALEFlowEstablishedV6              LayerID = 54
	ALEFlowEstablishedV6Discard       LayerID = 55
	InboundMACFrameEthernet           LayerID = 56
	OutboundMACFrameEthernet          LayerID = 57
	InboundMACFrameNative             LayerID = 58
	OutboundMACFrameNative            LayerID = 59
	NameResolutionCacheV4             LayerID = 60
	NameResolutionCacheV6             LayerID = 61
	ALEResourceReleaseV4              LayerID = 62
	ALEResourceReleaseV6              LayerID = 63
	ALEEndpointClosureV4              LayerID = 64
	ALEEndpointClosureV6              LayerID = 65
	ALEConnectRedirectV4              LayerID = 66
	ALEConnectRedirectV6              LayerID = 67
	ALEBindRedirectV4                 LayerID = 68
	ALEBindRedirectV6                 LayerID = 69
	StreamPacketV4                    LayerID = 70
	StreamPacketV6                    LayerID = 71
	IngressVSwitchEthernet            LayerID = 72
	EgressVSwitchEthernet             LayerID = 73
	IngressVSwitchTransportV4         LayerID = 74
	IngressVSwitchTransportV6         LayerID = 75
	EgressVSwitchTransportV4          LayerID = 76
	EgressVSwitchTransportV6          LayerID = 77
	InboundTransportFast              LayerID = 78
	OutboundTransportFast             LayerID = 79
	InboundMACFrameNativeFast         LayerID = 80
	OutboundMACFrameNativeFast        LayerID = 81
	InboundReserved2                  LayerID = 82
	ReservedLayer9                    LayerID = 83
	ReservedLayer10                   LayerID = 84
	OutboundNetworkConnectionPolicyV4 LayerID = 85
	OutboundNetworkConnectionPolicyV6 LayerID = 86
	IPsecKMDemuxV4                    LayerID = 87
	IPsecKMDemuxV6                    LayerID = 88
	IPsecV4                           LayerID = 89
	IPsecV6                           LayerID = 90
	IKEExtV4                          LayerID = 91
	IKEExtV6                          LayerID = 92
	RPCUM                             LayerID = 93
	RPCEPMap                          LayerID = 94
	RPCEPAdd                          LayerID = 95
	RPCProxyConn                      LayerID = 96
	RPCProxyIF                        LayerID = 97
	KMAuthorization                   LayerID = 98

	// RESERVED1 is named by the documents but has no published id; these two
	// stand outside the range of FWPS ids so that the names still resolve.
	Reserved1V4 LayerID = 0xFF00
	Reserved1V6 LayerID = 0xFF01
)
