// SPDX-License-Identifier: Apache-2.0

package layermap

import "fmt"

// DiscardOf returns the layer whose blocks a discard layer is classified after, nil
// for a layer that is none. It has the same fields, which are filled alike.
func (l *Layer) DiscardOf() *Layer {
	if !l.Discard {
		return nil
	}
	return ByID(l.ID - 1) // ids go V4, discard, V6, discard
}

// DiscardModule is FWPS_DISCARD_MODULE0: who discarded.
type DiscardModule uint8

const (
	DiscardNetwork   DiscardModule = 0
	DiscardTransport DiscardModule = 1
	DiscardGeneral   DiscardModule = 2
)

// String returns "network", "transport" or "general".
func (m DiscardModule) String() string {
	if int(m) < len(discardModules) {
		return discardModules[m].name
	}
	return fmt.Sprint(uint8(m))
}

// Reason names one of the module's reasons, as Windows does: IP_DISCARD_REASON,
// INET_DISCARD_REASON, FWPS_GENERAL_DISCARD_REASON. One without a name is a number.
func (m DiscardModule) Reason(reason uint32) string {
	if int(m) < len(discardModules) {
		if name, ok := discardModules[m].reasons[reason]; ok {
			return name
		}
	}
	return fmt.Sprint(reason)
}

var discardModules = [...]struct {
	name    string
	reasons map[uint32]string
}{
	DiscardNetwork:   {"network", networkReasons},
	DiscardTransport: {"transport", transportReasons},
	DiscardGeneral:   {"general", map[uint32]string{0: "FirewallPolicy", 1: "IPsec"}},
}

// IP_DISCARD_REASON
var networkReasons = map[uint32]string{
	1: "BadSourceAddress", 2: "NotLocallyDestined", 3: "ProtocolUnreachable", 4: "PortUnreachable",
	5: "BadLength", 6: "MalformedHeader", 7: "NoRoute", 8: "BeyondScope", 9: "InspectionDrop",
	10: "TooManyDecapsulations", 11: "AdministrativelyProhibited", 12: "BadChecksum", 127: "ReceivePathMax",
	128: "HopLimitExceeded", 129: "AddressUnreachable", 130: "RscPacket", 255: "ForwardPathMax",
	256: "ArbitrationUnhandled", 257: "InspectionAbsorb", 258: "DontFragmentMtuExceeded",
	259: "BufferLengthExceeded", 260: "AddressResolutionTimeout", 261: "AddressResolutionFailure",
	262: "IpsecFailure", 263: "ExtensionHeadersFailure", 264: "AllocationFailure", 265: "IpsnpiClientDrop",
	266: "UnsupportedOffload", 267: "RoutingFailure", 268: "AncillaryDataFailure", 269: "RawDataFailure",
	270: "SessionStateFailure", 271: "IpsnpiAllocationFailure", 272: "IpsnpiModifiedButNotForwarded",
	273: "IpsnpiNoNextHop", 274: "IpsnpiNoCompartment", 275: "IpsnpiNoInterface", 276: "IpsnpiNoSubInterface",
	277: "IpsnpiInterfaceDisabled", 278: "IpsnpiSegmentationFailed", 279: "IpsnpiNoEthernetHeader",
	280: "IpsnpiUnexpectedFragment", 281: "IpsnpiUnsupportedInterfaceType", 282: "IpsnpiInvalidLsoInfo",
	283: "IpsnpiInvalidUsoInfo", 284: "InternalError", 285: "AdministrativelyConfigured", 286: "BadOption",
	287: "LoopbackDisallowed", 288: "SmallerScope", 289: "QueueFull", 290: "InterfaceDisabled",
	291: "NlClientDiscard", 292: "IpsnpiUroSegmentSizeExceedsMtu",
}

// INET_DISCARD_REASON
var transportReasons = map[uint32]string{
	0: "SourceUnspecified", 1: "DestinationMulticast", 2: "HeaderInvalid", 3: "ChecksumInvalid",
	4: "EndpointNotFound", 5: "ConnectedPath", 6: "SessionState", 7: "ReceiveInspection", 8: "AckInvalid",
	9: "ExpectedSyn", 10: "Rst", 11: "SynRcvdSyn", 12: "SimultaneousConnect", 13: "PawsFailed", 14: "LandAttack",
	15: "MissedReset", 16: "OutsideWindow", 17: "DuplicateSegment", 18: "ClosedWindow", 19: "TcbRemoved",
	20: "FinWait2", 21: "ReassemblyConflict", 22: "FinReceived", 23: "ListenerInvalidFlags",
	24: "UrgentDeliveryAllocationFailure", 25: "TcbNotInTcbTable", 26: "TimeWaitTcbReceivedRstOutsideWindow",
	27: "TimeWaitTcbSynAndOtherFlags", 28: "TimeWaitTcb", 29: "SynAckWithFastopenCookieRequest",
	30: "PauseAccept", 31: "SynAttack", 32: "AcceptInspection", 33: "AcceptRedirection",
}
