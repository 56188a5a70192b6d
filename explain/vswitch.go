// SPDX-License-Identifier: Apache-2.0

// This file fills in the fields of the layers of the virtual switch, for what the host
// itself sends and gets by a bridge.

package explain

import (
	"net/netip"

	"github.com/wfpebpf/wfpebpf/filter"
)

// nicInternal is the NDIS_SWITCH_NIC_TYPE of the host's own link to a switch.
const nicInternal = 3

// nic is what the link is to a bridge, if this host has it.
func (l *Link) nic() filter.Value {
	if l.Index == 0 {
		return filter.Value{}
	}
	return filter.U32(l.NIC)
}

// switched fills in what is known of a frame where it crosses the bridge that the
// traffic's link is: it comes in by the port, or leaves by it. VLAN tags and the peer's
// MAC address are not known.
func (t *Tuple) switched(k map[string]filter.Value) {
	source, destination, own := t.Remote.Addr(), t.Local.Addr(), "DESTINATION"
	from, nic := t.Port, t.Port.nic()
	if t.Outbound {
		source, destination, own = destination, source, "SOURCE"
		from, nic = t.Link, filter.U32(nicInternal)
		k["VSWITCH_DESTINATION_INTERFACE_ID"] = filter.Blob([]byte(t.Port.Name))
		k["VSWITCH_DESTINATION_INTERFACE_TYPE"] = t.Port.nic()
		k["L2_FLAGS"] = filter.U32(0) // the host is no guest
	}
	k["VSWITCH_ID"] = filter.Blob([]byte(t.Link.Name))
	k["VSWITCH_NETWORK_TYPE"] = unlessZero(t.Link.Network)
	k["VSWITCH_SOURCE_INTERFACE_ID"] = filter.Blob([]byte(from.Name))
	k["VSWITCH_SOURCE_INTERFACE_TYPE"] = nic

	t.frame(k)
	delete(k, "MAC_LOCAL_ADDRESS_TYPE")
	if mac, ok := k["MAC_LOCAL_ADDRESS"]; ok {
		k["MAC_"+own+"_ADDRESS"], k["MAC_"+own+"_ADDRESS_TYPE"] = mac, filter.U8(0)
	}
	for key, a := range map[string]netip.Addr{"IP_SOURCE_ADDRESS": source, "IP_DESTINATION_ADDRESS": destination} {
		if a.IsValid() {
			k[key] = t.address(a)
		}
	}
	k["IP_SOURCE_PORT"], k["IP_DESTINATION_PORT"] = t.ports()
	if !t.Outbound && !t.icmp() {
		k["IP_SOURCE_PORT"], k["IP_DESTINATION_PORT"] = k["IP_DESTINATION_PORT"], k["IP_SOURCE_PORT"]
	}
}
