// SPDX-License-Identifier: Apache-2.0

// This file reads the values of conditions in wfpebpf's own files: one syntax a
// field, else one a data type.

package policy

import (
	"errors"
	"net"
	"net/netip"
	"os/user"
	"strconv"
	"strings"

	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
)

// yamlValue is one value with the match type that its spelling implies.
type yamlValue struct {
	pos         pos
	text        string
	value       filter.Value
	match       filter.MatchType
	otherFamily bool // an address of the family that the layer does not have
}

// emptyName is the value that a field without one has, FWP_EMPTY.
const emptyName = "EMPTY"

// fieldNames are names for the values of fields that are numbers.
var fieldNames = map[string]map[string]uint64{
	"IP_PROTOCOL":       protocolNames,
	"EMBEDDED_PROTOCOL": protocolNames,

	"IP_LOCAL_ADDRESS_TYPE":        addressTypeNames,
	"IP_DESTINATION_ADDRESS_TYPE":  addressTypeNames,
	"EMBEDDED_LOCAL_ADDRESS_TYPE":  addressTypeNames,
	"MAC_LOCAL_ADDRESS_TYPE":       macTypeNames,
	"MAC_REMOTE_ADDRESS_TYPE":      macTypeNames,
	"MAC_SOURCE_ADDRESS_TYPE":      macTypeNames,
	"MAC_DESTINATION_ADDRESS_TYPE": macTypeNames,

	"ETHER_TYPE": {
		"ipv4": 0x0800, "arp": 0x0806, "vlan": 0x8100, "ipv6": 0x86dd, "mpls": 0x8847,
		"pppoe-discovery": 0x8863, "pppoe": 0x8864, "eapol": 0x888e, "qinq": 0x88a8, "lldp": 0x88cc, "ptp": 0x88f7,
	},
	"DIRECTION": {"outbound": 0, "out": 0, "inbound": 1, "in": 1},

	"LOCAL_INTERFACE_PROFILE_ID":   profileNames,
	"ARRIVAL_INTERFACE_PROFILE_ID": profileNames,
	"NEXTHOP_INTERFACE_PROFILE_ID": profileNames,
	"ORIGINAL_PROFILE_ID":          profileNames,
	"CURRENT_PROFILE_ID":           profileNames,

	"INTERFACE_TYPE":         interfaceTypeNames,
	"ARRIVAL_INTERFACE_TYPE": interfaceTypeNames,
	"NEXTHOP_INTERFACE_TYPE": interfaceTypeNames,

	// FWP_VSWITCH_NETWORK_TYPE
	"VSWITCH_NETWORK_TYPE":               {"unknown": 0, "private": 1, "internal": 2, "external": 3},
	"VSWITCH_SOURCE_INTERFACE_TYPE":      nicTypeNames,
	"VSWITCH_DESTINATION_INTERFACE_TYPE": nicTypeNames,

	// FWP_CONDITION_FLAG_*
	"FLAGS": {
		"IS_LOOPBACK": 0x1, "IS_IPSEC_SECURED": 0x2, "IS_REAUTHORIZE": 0x4, "IS_WILDCARD_BIND": 0x8,
		"IS_RAW_ENDPOINT": 0x10, "IS_FRAGMENT": 0x20, "IS_FRAGMENT_GROUP": 0x40, "IS_IPSEC_NATT_RECLASSIFY": 0x80,
		"REQUIRES_ALE_CLASSIFY": 0x100, "IS_IMPLICIT_BIND": 0x200, "IS_REASSEMBLED": 0x400,
		"IS_NAME_APP_SPECIFIED": 0x4000, "IS_PROMISCUOUS": 0x8000, "IS_AUTH_FW": 0x10000, "IS_RECLASSIFY": 0x20000,
		"IS_OUTBOUND_PASS_THRU": 0x40000, "IS_INBOUND_PASS_THRU": 0x80000, "IS_CONNECTION_REDIRECTED": 0x100000,
		"IS_PROXY_CONNECTION": 0x200000, "IS_APPCONTAINER_LOOPBACK": 0x400000,
		"IS_NON_APPCONTAINER_LOOPBACK": 0x800000, "IS_RESERVED": 0x1000000,
		"IS_HONORING_POLICY_AUTHORIZE": 0x2000000,
	},
	// FWP_CONDITION_REAUTHORIZE_REASON_*
	"REAUTHORIZE_REASON": {
		"POLICY_CHANGE": 0x1, "NEW_ARRIVAL_INTERFACE": 0x2, "NEW_NEXTHOP_INTERFACE": 0x4, "PROFILE_CROSSING": 0x8,
		"CLASSIFY_COMPLETION": 0x10, "IPSEC_PROPERTIES_CHANGED": 0x20, "MID_STREAM_INSPECTION": 0x40,
		"SOCKET_PROPERTY_CHANGED": 0x80, "NEW_INBOUND_MCAST_BCAST_PACKET": 0x100, "EDP_POLICY_CHANGED": 0x200,
		"PROXY_HANDLE_CHANGED": 0x4000, "CHECK_OFFLOAD": 0x10000,
	},
	// FWP_CONDITION_SOCKET_PROPERTY_FLAG_*
	"ALE_SIO_FIREWALL_SYSTEM_PORT": {"IS_SYSTEM_PORT_RPC": 0x1, "ALLOW_EDGE_TRAFFIC": 0x2, "DENY_EDGE_TRAFFIC": 0x4},
	// FWP_CONDITION_L2_*
	"L2_FLAGS": {
		"IS_NATIVE_ETHERNET": 0x1, "IS_WIFI": 0x2, "IS_MOBILE_BROADBAND": 0x4, "IS_WIFI_DIRECT_DATA": 0x8,
		"IS_VM2VM": 0x10, "IS_MALFORMED_PACKET": 0x20, "IS_IP_FRAGMENT_GROUP": 0x40, "IF_CONNECTOR_PRESENT": 0x80,
	},
}

var (
	// IANA protocol numbers.
	protocolNames = map[string]uint64{
		"hopopt": 0, "icmp": 1, "igmp": 2, "ipip": 4, "tcp": 6, "egp": 8, "udp": 17, "dccp": 33, "ipv6": 41,
		"ipv6-route": 43, "ipv6-frag": 44, "rsvp": 46, "gre": 47, "esp": 50, "ah": 51, "icmpv6": 58, "ipv6-icmp": 58,
		"ipv6-nonxt": 59, "ipv6-opts": 60, "ospf": 89, "pim": 103, "vrrp": 112, "l2tp": 115, "sctp": 132, "udplite": 136,
	}
	// NL_ADDRESS_TYPE
	addressTypeNames = map[string]uint64{"unspecified": 0, "unicast": 1, "anycast": 2, "multicast": 3, "broadcast": 4}
	// DL_ADDRESS_TYPE
	macTypeNames = map[string]uint64{"unicast": 0, "multicast": 1, "broadcast": 2}
	// NDIS_SWITCH_NIC_TYPE
	nicTypeNames = map[string]uint64{"external": 0, "synthetic": 1, "emulated": 2, "internal": 3}
	profileNames = map[string]uint64{
		"public": uint64(ProfilePublic), "private": uint64(ProfilePrivate), "domain": uint64(ProfileDomain),
	}
	// IANA interface types.
	interfaceTypeNames = map[string]uint64{
		"other": 1, "ethernet": 6, "ppp": 23, "loopback": 24, "wifi": 71, "tunnel": 131, "ieee1394": 144,
	}
)

// interfaceFields hold the LUID of a link.
var interfaceFields = map[string]bool{
	"IP_LOCAL_INTERFACE": true, "IP_ARRIVAL_INTERFACE": true, "IP_NEXTHOP_INTERFACE": true,
	"IP_FORWARD_INTERFACE": true, "IP_PHYSICAL_ARRIVAL_INTERFACE": true, "IP_PHYSICAL_NEXTHOP_INTERFACE": true,
}

// switchIDs are the id of a virtual switch, or of an interface of it.
var switchIDs = map[string]bool{
	"VSWITCH_ID": true, "VSWITCH_SOURCE_INTERFACE_ID": true, "VSWITCH_DESTINATION_INTERFACE_ID": true,
}

// values reads the alternatives of a condition. Users and flags are no
// alternatives: several users are one access list, several flags one mask.
func (r *yamlReader) values(field layermap.Field, items []*node) ([]yamlValue, error) {
	first := yamlValue{pos: items[0].pos, text: items[0].text}
	if len(items) == 1 && first.text == emptyName && !items[0].quoted {
		return []yamlValue{first}, nil
	}
	switch {
	case field.DataType == layermap.TokenAccessInformation || field.DataType == layermap.TokenInformation:
		sd, err := r.users(field, items)
		first.value = filter.SDValue(sd)
		return []yamlValue{first}, err
	case field.Type == layermap.FlagsField:
		first.match = filter.MatchFlagsAllSet
		mask, err := flagMask(field, items)
		first.value = filter.Value{Type: field.DataType, Num: mask}
		return []yamlValue{first}, err
	}
	var out []yamlValue
	for _, it := range items {
		v, err := r.value(field, it)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

// flagMask reads names and numbers of flags into one mask.
func flagMask(field layermap.Field, items []*node) (uint64, error) {
	var mask uint64
	for _, it := range items {
		name := strings.ToUpper(it.text)
		for _, prefix := range []string{
			"FWP_CONDITION_FLAG_", "FWP_CONDITION_REAUTHORIZE_REASON_", "FWP_CONDITION_SOCKET_PROPERTY_FLAG_", "FWP_CONDITION_L2_",
		} {
			name = strings.TrimPrefix(name, prefix)
		}
		if bit, ok := fieldNames[field.Key][name]; ok {
			mask |= bit
			continue
		}
		n, err := number(it.text, 32)
		if err != nil {
			return 0, it.pos.errorf("%s: flag %q is not known", field.Key, clip(it.text))
		}
		mask |= n
	}
	return mask, nil
}

// number reads a decimal number, or a hexadecimal one that begins with 0x. A
// decimal one has no leading zero: YAML's versions differ about whether that
// makes it octal.
func number(s string, bits int) (uint64, error) {
	if hex, ok := strings.CutPrefix(strings.ToLower(s), "0x"); ok {
		return strconv.ParseUint(hex, 16, bits)
	}
	if len(s) > 1 && s[0] == '0' {
		return 0, strconv.ErrSyntax
	}
	return strconv.ParseUint(s, 10, bits)
}

// typeBits is the width of the number types that a condition can be written in.
var typeBits = map[layermap.DataType]int{layermap.Uint8: 8, layermap.Uint16: 16, layermap.Uint32: 32, layermap.Uint64: 64}

func (r *yamlReader) value(field layermap.Field, n *node) (yamlValue, error) {
	v := yamlValue{pos: n.pos, text: n.text}
	switch {
	case field.Type == layermap.IPAddress:
		return address(field, v)
	case field.Key == "ALE_APP_ID" || field.Key == "ALE_ORIGINAL_APP_ID":
		return r.program(field, v)
	case interfaceFields[field.Key]:
		if num, err := number(n.text, 64); err == nil {
			v.value = filter.U64(num)
			return v, nil
		}
		if name, _ := linkName(n.text); name == "" {
			return v, n.pos.errorf("%s: %q is not the name of a link", field.Key, clip(n.text))
		}
		v.value = filter.U64(r.m.LUID(n.text))
		return v, nil
	case field.DataType == layermap.SIDType:
		sid, err := r.packageSID(n.text)
		if err != nil {
			return v, n.pos.errorf("%s: %s", field.Key, err)
		}
		v.value = filter.SIDValue(sid)
		return v, nil
	case field.DataType == layermap.ByteArray6:
		b, err := net.ParseMAC(n.text)
		if err != nil || len(b) != 6 {
			return v, n.pos.wrap(filter.ErrTypeMismatch, "%s: %q is not a MAC address", field.Key, clip(n.text))
		}
		v.value = filter.MAC([6]byte(b))
		return v, nil
	case field.DataType == layermap.UnicodeString:
		v.value = filter.Str(n.text)
		return v, nil
	case switchIDs[field.Key]:
		name, _ := linkName(n.text)
		if guid, _ := linkKey(n.text); name == "" && guid == "" {
			return v, n.pos.errorf("%s: %q is neither the name of a link nor a GUID", field.Key, clip(n.text))
		}
		v.value = filter.Blob([]byte(n.text))
		return v, nil
	case field.DataType == layermap.ByteBlob:
		v.value = filter.Blob([]byte(n.text))
		return v, nil
	}
	bits := typeBits[field.DataType]
	if bits == 0 {
		return v, n.pos.errorf("%s: a value of type %s cannot be written here", field.Key, field.DataType)
	}
	named := func(s string) (filter.Value, bool) {
		s = strings.TrimSpace(s)
		num, known := fieldNames[field.Key][strings.ToLower(s)]
		if !known {
			var err error
			if num, err = number(s, 64); err != nil {
				return filter.Value{}, false
			}
		}
		return filter.Value{Type: field.DataType, Num: num}, bits == 64 || num < 1<<bits
	}
	var ok bool
	if v.value, ok = named(n.text); ok {
		return v, nil
	}
	if low, high, isRange := strings.Cut(n.text, "-"); isRange {
		a, okA := named(low)
		b, okB := named(high)
		if okA && okB && a.Num > b.Num {
			return v, n.pos.wrap(filter.ErrInvalidRange, "%s: %q", field.Key, clip(n.text))
		}
		if okA && okB {
			v.value, v.match = filter.RangeOf(a, b), filter.MatchRange
			return v, nil
		}
	}
	return v, n.pos.wrap(filter.ErrTypeMismatch, "%s: %q is not a value of %d bits", field.Key, clip(n.text), bits)
}

// address reads an address, a prefix or a range of addresses.
func address(field layermap.Field, v yamlValue) (yamlValue, error) {
	want4 := field.DataType == layermap.Uint32
	of := func(a netip.Addr) filter.Value {
		if a.Is4() {
			return filter.Addr4(a)
		}
		return filter.Addr16(a)
	}
	if a, err := netip.ParseAddr(v.text); err == nil && a.Zone() == "" {
		v.otherFamily = a.Is4() != want4
		v.value = of(a)
		return v, nil
	}
	if p, err := netip.ParsePrefix(v.text); err == nil {
		v.otherFamily = p.Addr().Is4() != want4
		if p = p.Masked(); p.Addr().Is4() {
			v.value = filter.V4Mask(p)
		} else {
			v.value = filter.V6Mask(p)
		}
		return v, nil
	}
	low, high, _ := strings.Cut(v.text, "-")
	a, errA := netip.ParseAddr(strings.TrimSpace(low))
	b, errB := netip.ParseAddr(strings.TrimSpace(high))
	if errors.Join(errA, errB) != nil || a.Zone()+b.Zone() != "" || a.Is4() != b.Is4() {
		return v, v.pos.wrap(filter.ErrTypeMismatch, "%s: %q is not an address, a prefix or a range of addresses", field.Key, clip(v.text))
	}
	if b.Less(a) {
		return v, v.pos.wrap(filter.ErrInvalidRange, "%s: %q", field.Key, clip(v.text))
	}
	v.otherFamily = a.Is4() != want4
	v.value, v.match = filter.RangeOf(of(a), of(b)), filter.MatchRange
	return v, nil
}

// program reads the path of an executable, or System.
func (r *yamlReader) program(field layermap.Field, v yamlValue) (yamlValue, error) {
	p, _ := linuxPath(v.text)
	if p == "" && (v.text == systemApp || strings.Contains(v.text, `\`)) {
		p = v.text // a Windows path is translated by the map, as a dump's is
	}
	if p == "" {
		return v, v.pos.wrap(filter.ErrTypeMismatch, "%s: %q is not an absolute path or System", field.Key, clip(v.text))
	}
	v.value = filter.Blob([]byte(p))
	return v, nil
}

// packageSID reads a package: a SID, none, or a family name.
func (r *yamlReader) packageSID(s string) (filter.SID, error) {
	if s == "none" {
		return filter.SIDNull, nil
	}
	if strings.HasPrefix(strings.ToUpper(s), "S-1-") {
		return filter.ParseSID(s)
	}
	return filter.PackageSID(s), nil
}

// users reads one security descriptor in SDDL, or users, groups and units, each
// of which becomes an allow entry.
func (r *yamlReader) users(field layermap.Field, items []*node) (*filter.SecurityDescriptor, error) {
	if len(items) == 1 && strings.Contains(items[0].text, "D:") {
		sd, err := filter.ParseSDDL(items[0].text)
		if err != nil {
			return nil, items[0].pos.wrap(err, "%s", field.Key)
		}
		return sd, nil
	}
	sd := &filter.SecurityDescriptor{}
	var b strings.Builder
	b.WriteString("D:")
	for _, it := range items {
		sid, err := r.principal(it.text)
		if err != nil {
			return nil, it.pos.errorf("%s: %s", field.Key, err)
		}
		sd.Entries = append(sd.Entries, filter.ACE{Allow: true, Mask: filter.AccessMatchFilter, SID: sid})
		b.WriteString("(A;;CC;;;" + string(sid) + ")")
	}
	sd.Text = b.String()
	return sd, nil
}

// principalKinds reads what follows "kind:" in a user.
var principalKinds = map[string]func(*yamlReader, string) (filter.SID, error){
	"user": func(_ *yamlReader, name string) (filter.SID, error) {
		u, err := user.Lookup(name)
		if err != nil {
			return "", err
		}
		id, err := strconv.ParseUint(u.Uid, 10, 32)
		return filter.UnixUser(uint32(id)), err
	},
	"group": func(_ *yamlReader, name string) (filter.SID, error) {
		g, err := user.LookupGroup(name)
		if err != nil {
			return "", err
		}
		id, err := strconv.ParseUint(g.Gid, 10, 32)
		return filter.UnixGroup(uint32(id)), err
	},
	"unit": func(r *yamlReader, name string) (filter.SID, error) {
		if name == "" {
			return "", errors.New("a unit needs a name")
		}
		sid := filter.ServiceSID(name)
		r.doc.units = append(r.doc.units, name)
		return sid, nil
	},
	"service": func(_ *yamlReader, name string) (filter.SID, error) {
		if name == "" {
			return "", errors.New("a service needs a name")
		}
		return filter.ServiceSID(name), nil
	},
}

func (r *yamlReader) principal(s string) (filter.SID, error) {
	if sid, ok := unixSID(s); ok {
		return sid, nil
	}
	if sid, err := filter.ParseSID(s); err == nil {
		return sid, nil
	}
	kind, name, found := strings.Cut(s, ":")
	if read := principalKinds[kind]; found && read != nil {
		return read(r, name)
	}
	return "", errors.New(strconv.Quote(clip(s)) + ` is none of uid:N, gid:N, user:NAME, group:NAME, unit:NAME, service:NAME, a SID or SDDL`)
}
