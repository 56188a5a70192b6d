// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"bytes"
	"encoding/json"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
	"github.com/wfpebpf/wfpebpf/policy"
)

// corporate is a small policy that the cases are asked of.
const corporate = `
wfpebpf: 1
sublayers:
  - {key: corp, name: Corporate, weight: 60000}
  - {key: low, name: Low, weight: 100}
filters:
  - {name: Block SMB, layer: [ALE_AUTH_CONNECT_V4, ALE_AUTH_CONNECT_V6], sublayer: corp, action: BLOCK,
     conditions: [{IP_REMOTE_PORT: 445}, {IP_PROTOCOL: tcp}]}
  - {name: Permit all, layer: ALE_AUTH_CONNECT_V4, sublayer: low, action: PERMIT}
  - {name: Only eth0, layer: ALE_AUTH_RECV_ACCEPT_V4, action: PERMIT, weight: 9, conditions: [{IP_ARRIVAL_INTERFACE: eth0}]}
  - {name: Only private, layer: ALE_AUTH_RECV_ACCEPT_V4, action: PERMIT, weight: 8, conditions: [{CURRENT_PROFILE_ID: private}]}
  - {name: Loopback, layer: ALE_AUTH_RECV_ACCEPT_V4, action: PERMIT, weight: 7, conditions: [{FLAGS: [IS_LOOPBACK, IS_NON_APPCONTAINER_LOOPBACK]}]}
  - {name: Web server, layer: ALE_AUTH_RECV_ACCEPT_V4, action: PERMIT, weight: 6, conditions: [{ALE_APP_ID: /usr/sbin/nginx}]}
  - {name: Root, layer: ALE_AUTH_RECV_ACCEPT_V4, action: PERMIT, weight: 5, conditions: [{ALE_USER_ID: "uid:0"}]}
  - {name: The unit, layer: ALE_AUTH_RECV_ACCEPT_V4, action: PERMIT, weight: 4, conditions: [{ALE_USER_ID: "unit:web.service"}]}
  - {name: Default, layer: ALE_AUTH_RECV_ACCEPT_V4, action: BLOCK, weight: 0}
  - {name: Bad neighbour, layer: INBOUND_IPPACKET_V4, action: BLOCK, conditions: [{IP_REMOTE_ADDRESS: 192.0.2.66}]}
  - {name: No answers to, layer: OUTBOUND_IPPACKET_V4, action: BLOCK, conditions: [{IP_REMOTE_ADDRESS: 192.0.2.77}]}
  - {name: Implicit bind, layer: ALE_RESOURCE_ASSIGNMENT_V4, action: BLOCK, conditions: [{FLAGS: IS_WILDCARD_BIND}, {IP_LOCAL_PORT: 666}]}
  - {name: No ping, layer: INBOUND_TRANSPORT_V4, action: BLOCK, conditions: [{IP_PROTOCOL: icmp}, {ICMP_TYPE: 8}]}
  - {name: No transport from, layer: INBOUND_TRANSPORT_V4, action: BLOCK, conditions: [{IP_REMOTE_ADDRESS: 192.0.2.88}]}
  - {name: No transport to, layer: OUTBOUND_TRANSPORT_V4, action: BLOCK, conditions: [{IP_REMOTE_ADDRESS: 192.0.2.99}]}
  - {name: No neighbours, layer: INBOUND_TRANSPORT_V6, action: BLOCK, conditions: [{IP_PROTOCOL: icmpv6}, {IP_LOCAL_ADDRESS: "2001:db8::1"}]}
  - {name: No guests, layer: IPFORWARD_V4, action: BLOCK, weight: 9, conditions: [{IP_LOCAL_INTERFACE: eth2}, {IP_FORWARD_INTERFACE: eth1}, {ARRIVAL_INTERFACE_PROFILE_ID: private}]}
  - {name: Not by veth3, layer: EGRESS_VSWITCH_TRANSPORT_V4, action: BLOCK, conditions: [{VSWITCH_DESTINATION_INTERFACE_ID: veth3}, {IP_DESTINATION_PORT: 50000}]}
  - {name: No IPv6 frames, layer: OUTBOUND_MAC_FRAME_ETHERNET, action: BLOCK, conditions: [{ETHER_TYPE: ipv6}, {IP_LOCAL_INTERFACE: eth1}]}
`

func load(t testing.TB, text string) (*policy.Policy, *policy.Map) {
	t.Helper()
	m, err := policy.LoadMapReader("map", strings.NewReader("zones: {eth2: private}\nlinks: {'19985273102270464': eth0}\n"))
	if err != nil {
		t.Fatal(err)
	}
	p, err := policy.LoadReader("policy", strings.NewReader(text), policy.Options{Map: m})
	if err != nil {
		t.Fatal(err)
	}
	return p, m
}

func TestLayerAnswers(t *testing.T) {
	p, m := load(t, corporate)
	for _, tc := range []struct {
		name, layer, values string
		verdict, filter     string
	}{
		{"a block of a heavier sublayer is final", "ALE_AUTH_CONNECT_V4", "IP_REMOTE_PORT=445 IP_PROTOCOL=tcp", "block", "Block SMB"},
		{"another protocol passes it", "ALE_AUTH_CONNECT_V4", "IP_REMOTE_PORT=445 IP_PROTOCOL=udp", "permit", "Permit all"},
		{"nothing matches", "ALE_AUTH_CONNECT_V6", "IP_REMOTE_PORT=80 IP_PROTOCOL=6", "permit", ""},
		{"full names", "FWPM_LAYER_ALE_AUTH_CONNECT_V6", "FWPM_CONDITION_IP_REMOTE_PORT=445 FWPM_CONDITION_IP_PROTOCOL=6", "block", "Block SMB"},
		{"the LUID of a mapped link by its name", "ALE_AUTH_RECV_ACCEPT_V4", "IP_ARRIVAL_INTERFACE=eth0", "permit", "Only eth0"},
		{"the LUID of a mapped link by its number", "ALE_AUTH_RECV_ACCEPT_V4", "IP_ARRIVAL_INTERFACE=19985273102270464", "permit", "Only eth0"},
		{"a profile by its name", "ALE_AUTH_RECV_ACCEPT_V4", "CURRENT_PROFILE_ID=private", "permit", "Only private"},
		{"flags by name", "ALE_AUTH_RECV_ACCEPT_V4", "FLAGS=IS_LOOPBACK,IS_NON_APPCONTAINER_LOOPBACK", "permit", "Loopback"},
		{"flags by number", "ALE_AUTH_RECV_ACCEPT_V4", "FLAGS=0x800001", "permit", "Loopback"},
		{"a program", "ALE_AUTH_RECV_ACCEPT_V4", "ALE_APP_ID=/usr/sbin/nginx", "permit", "Web server"},
		{"a user", "ALE_AUTH_RECV_ACCEPT_V4", "ALE_USER_ID=uid:0", "permit", "Root"},
		{"a user by name", "ALE_AUTH_RECV_ACCEPT_V4", "ALE_USER_ID=user:root", "permit", "Root"},
		{"a user and a unit make one token", "ALE_AUTH_RECV_ACCEPT_V4", "ALE_USER_ID=uid:5 ALE_USER_ID=unit:web.service", "permit", "The unit"},
		{"a field that is EMPTY", "ALE_AUTH_RECV_ACCEPT_V4", "ALE_APP_ID=EMPTY", "block", "Default"},
		{"an alias of a field", "ALE_AUTH_RECV_ACCEPT_V4", "ICMP_TYPE=8", "block", "Default"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := layermap.ByName(tc.layer)
			v, err := Values(p, m, l, strings.Fields(tc.values))
			if err != nil {
				t.Fatal(err)
			}
			a := Layer(p.Store, l, v, false)
			if a.Verdict != tc.verdict || a.FilterName != tc.filter {
				t.Errorf("%s by %q, want %s by %q", a.Verdict, a.FilterName, tc.verdict, tc.filter)
			}
		})
	}
}

func TestValuesThatAreRefused(t *testing.T) {
	p, m := load(t, corporate)
	for _, tc := range []struct{ layer, value, err string }{
		{"ALE_AUTH_CONNECT_V4", "IP_REMOTE_PORT", "not FIELD=VALUE"},
		{"ALE_AUTH_CONNECT_V4", "ETHER_TYPE=1", "has no field ETHER_TYPE"},
		{"ALE_AUTH_CONNECT_V4", "IP_REMOTE_PORT=70000", "not a value of 16 bits"},
		{"ALE_AUTH_CONNECT_V4", "IP_REMOTE_PORT=1-2", "one value is needed"},
		{"ALE_AUTH_CONNECT_V4", "IP_REMOTE_ADDRESS=10.0.0.0/8", "one value is needed"},
		{"ALE_AUTH_CONNECT_V4", "IP_REMOTE_ADDRESS=::1", "other family"},
		{"ALE_AUTH_CONNECT_V4", "FLAGS=IS_NOTHING", "not known"},
		{"ALE_AUTH_CONNECT_V4", "ALE_USER_ID=D:(A;;CC;;;WD)", "one value is needed"},
		{"ALE_AUTH_CONNECT_V4", "ALE_APP_ID=nginx", "not an absolute path"},
		{"ALE_AUTH_CONNECT_V4", `ALE_APP_ID="}], x: [{`, "not an absolute path"},
	} {
		t.Run(tc.value, func(t *testing.T) {
			_, err := Values(p, m, layermap.ByName(tc.layer), []string{tc.value})
			if err == nil || !strings.Contains(err.Error(), tc.err) {
				t.Errorf("got %v, want %q", err, tc.err)
			}
			if err != nil && (strings.Contains(err.Error(), "value:1:") || strings.Contains(err.Error(), "\n")) {
				t.Errorf("error shows a place in no file, or is no line: %v", err)
			}
		})
	}
}

func addrPort(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

var eth1 = Link{Name: "eth1", Index: 3, Type: 6, MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}}

func TestLayersInTheOrderOfThePacketFlows(t *testing.T) {
	for _, tc := range []struct {
		name string
		t    Tuple
		want string
	}{
		{"TCP out", Tuple{Outbound: true, Protocol: 6, Local: addrPort("192.0.2.1:1"), Remote: addrPort("192.0.2.2:2")},
			"ALE_RESOURCE_ASSIGNMENT_V4 ALE_CONNECT_REDIRECT_V4 ALE_AUTH_CONNECT_V4 STREAM_PACKET_V4 OUTBOUND_TRANSPORT_V4 OUTBOUND_IPPACKET_V4 OUTBOUND_MAC_FRAME_ETHERNET OUTBOUND_MAC_FRAME_NATIVE ALE_FLOW_ESTABLISHED_V4"},
		{"TCP in", Tuple{Protocol: 6, Local: addrPort("192.0.2.1:1"), Remote: addrPort("192.0.2.2:2")},
			"INBOUND_MAC_FRAME_NATIVE INBOUND_MAC_FRAME_ETHERNET INBOUND_IPPACKET_V4 INBOUND_TRANSPORT_V4 STREAM_PACKET_V4 ALE_AUTH_RECV_ACCEPT_V4 ALE_FLOW_ESTABLISHED_V4"},
		{"UDP over IPv6 out", Tuple{Outbound: true, Protocol: 17, Remote: addrPort("[2001:db8::1]:53")},
			"ALE_RESOURCE_ASSIGNMENT_V6 ALE_CONNECT_REDIRECT_V6 ALE_AUTH_CONNECT_V6 ALE_FLOW_ESTABLISHED_V6 OUTBOUND_TRANSPORT_V6 OUTBOUND_IPPACKET_V6 OUTBOUND_MAC_FRAME_ETHERNET OUTBOUND_MAC_FRAME_NATIVE"},
		{"mapped addresses are IPv4", Tuple{Outbound: true, Protocol: 17, Remote: addrPort("[::ffff:192.0.2.2]:53")},
			"ALE_RESOURCE_ASSIGNMENT_V4 ALE_CONNECT_REDIRECT_V4 ALE_AUTH_CONNECT_V4 ALE_FLOW_ESTABLISHED_V4 OUTBOUND_TRANSPORT_V4 OUTBOUND_IPPACKET_V4 OUTBOUND_MAC_FRAME_ETHERNET OUTBOUND_MAC_FRAME_NATIVE"},
		{"loopback has no frames", Tuple{Protocol: 6, Local: addrPort("127.0.0.1:1"), Remote: addrPort("127.0.0.1:2")},
			"INBOUND_IPPACKET_V4 INBOUND_TRANSPORT_V4 STREAM_PACKET_V4 ALE_AUTH_RECV_ACCEPT_V4 ALE_FLOW_ESTABLISHED_V4"},
		{"an ICMP error in", Tuple{Protocol: 1, Local: addrPort("192.0.2.1:3"), Remote: addrPort("192.0.2.2:3")},
			"INBOUND_MAC_FRAME_NATIVE INBOUND_MAC_FRAME_ETHERNET INBOUND_IPPACKET_V4 INBOUND_TRANSPORT_V4 INBOUND_ICMP_ERROR_V4"},
		{"an ICMP error out", Tuple{Outbound: true, Protocol: 58, Local: addrPort("[2001:db8::1]:1"), Remote: addrPort("[2001:db8::2]:4")},
			"OUTBOUND_ICMP_ERROR_V6 OUTBOUND_TRANSPORT_V6 OUTBOUND_IPPACKET_V6 OUTBOUND_MAC_FRAME_ETHERNET OUTBOUND_MAC_FRAME_NATIVE"},
		{"a type that is an error of ICMPv6 alone", Tuple{Protocol: 1, Local: addrPort("192.0.2.1:2"), Remote: addrPort("192.0.2.2:0")},
			"INBOUND_MAC_FRAME_NATIVE INBOUND_MAC_FRAME_ETHERNET INBOUND_IPPACKET_V4 INBOUND_TRANSPORT_V4"},
		{"forwarded", Tuple{Forwarded: true, Protocol: 6, Local: addrPort("192.0.2.1:1"), Remote: addrPort("198.51.100.2:2")},
			"INBOUND_MAC_FRAME_NATIVE INBOUND_MAC_FRAME_ETHERNET INBOUND_IPPACKET_V4 IPFORWARD_V4 OUTBOUND_IPPACKET_V4 OUTBOUND_MAC_FRAME_ETHERNET OUTBOUND_MAC_FRAME_NATIVE"},
		{"forwarded over IPv6", Tuple{Forwarded: true, Protocol: 17, Local: addrPort("[2001:db8::1]:1"), Remote: addrPort("[2001:db8:1::2]:2")},
			"INBOUND_MAC_FRAME_NATIVE INBOUND_MAC_FRAME_ETHERNET INBOUND_IPPACKET_V6 IPFORWARD_V6 OUTBOUND_IPPACKET_V6 OUTBOUND_MAC_FRAME_ETHERNET OUTBOUND_MAC_FRAME_NATIVE"},
		{"in by a port of a bridge", Tuple{Protocol: 6, Local: addrPort("192.0.2.1:1"), Remote: addrPort("192.0.2.2:2"), Link: br0, Port: veth3},
			"INGRESS_VSWITCH_ETHERNET INGRESS_VSWITCH_TRANSPORT_V4 INBOUND_MAC_FRAME_NATIVE INBOUND_MAC_FRAME_ETHERNET INBOUND_IPPACKET_V4 INBOUND_TRANSPORT_V4 STREAM_PACKET_V4 ALE_AUTH_RECV_ACCEPT_V4 ALE_FLOW_ESTABLISHED_V4"},
		{"out by a port of a bridge", Tuple{Outbound: true, Protocol: 17, Remote: addrPort("[2001:db8::1]:53"), Link: br0, Port: veth3},
			"ALE_RESOURCE_ASSIGNMENT_V6 ALE_CONNECT_REDIRECT_V6 ALE_AUTH_CONNECT_V6 ALE_FLOW_ESTABLISHED_V6 OUTBOUND_TRANSPORT_V6 OUTBOUND_IPPACKET_V6 OUTBOUND_MAC_FRAME_ETHERNET OUTBOUND_MAC_FRAME_NATIVE EGRESS_VSWITCH_ETHERNET EGRESS_VSWITCH_TRANSPORT_V6"},
		{"a listener", Tuple{Listening: true, Protocol: 6, Local: addrPort("0.0.0.0:80")}, "ALE_RESOURCE_ASSIGNMENT_V4 ALE_AUTH_LISTEN_V4"},
		{"a listener on both families", Tuple{Listening: true, Protocol: 6, Local: addrPort("[::]:80")}, "ALE_RESOURCE_ASSIGNMENT_V6 ALE_AUTH_LISTEN_V6"},
		{"a bound UDP socket", Tuple{Listening: true, Protocol: 17, Local: addrPort("192.0.2.1:53")}, "ALE_RESOURCE_ASSIGNMENT_V4"},
		{"ICMP is not judged at ALE", Tuple{Protocol: 1, Local: addrPort("192.0.2.1:0"), Remote: addrPort("192.0.2.2:0")},
			"INBOUND_MAC_FRAME_NATIVE INBOUND_MAC_FRAME_ETHERNET INBOUND_IPPACKET_V4 INBOUND_TRANSPORT_V4"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var got []string
			for _, l := range tc.t.Layers(false) {
				got = append(got, l.Name)
			}
			if g := strings.Join(got, " "); g != tc.want {
				t.Errorf("got %s\nwant %s", g, tc.want)
			}
		})
	}
}

var (
	br0   = Link{Name: "br0", Index: 9, Type: 6, MAC: net.HardwareAddr{2, 0, 0, 0, 0, 9}, Network: 3}
	veth3 = Link{Name: "veth3", Index: 8, Type: 6, NIC: 1}
)

func TestFieldsOfATuple(t *testing.T) {
	p, _ := load(t, corporate)
	in := Tuple{Protocol: 6, Local: addrPort("192.0.2.1:22"), Remote: addrPort("192.0.2.2:40000"), Link: Link{Name: "eth2", Index: 4, Type: 6}}
	out := in
	out.Outbound, out.Link = true, eth1
	loop := Tuple{Protocol: 17, Local: addrPort("127.0.0.1:53"), Remote: addrPort("127.0.0.1:40000")}
	ping := Tuple{Protocol: 1, Local: addrPort("192.0.2.1:8"), Remote: addrPort("192.0.2.2:0"), Link: eth1}
	unreachable := ping
	unreachable.Local, unreachable.Remote = addrPort("192.0.2.1:3"), addrPort("192.0.2.2:1")
	pinging := ping
	pinging.Outbound = true
	someICMP, gre := ping, ping
	someICMP.Local = addrPort("192.0.2.1:0")
	gre.Protocol = 47
	multicast := Tuple{Protocol: 17, Local: addrPort("224.0.0.251:5353"), Remote: addrPort("192.0.2.2:5353"), Link: eth1}
	through := Tuple{
		Forwarded: true, Protocol: 6, Local: addrPort("192.0.2.1:22"), Remote: addrPort("198.51.100.2:40000"),
		Link: Link{Name: "eth2", Index: 4, Type: 6, MAC: net.HardwareAddr{2, 0, 0, 0, 0, 2}}, OutLink: eth1,
	}
	passThru := through
	passThru.FromHost, passThru.ToHost = true, true
	unlinked := through
	unlinked.Link, unlinked.OutLink = Link{}, Link{}
	bridged := in
	bridged.Link, bridged.Port = br0, veth3
	bridging := bridged
	bridging.Outbound = true
	elsewhere := bridged
	elsewhere.Link, elsewhere.Port = Link{Name: "br7"}, Link{Name: "veth7"}
	listener := Tuple{Listening: true, Protocol: 6, Local: addrPort("192.0.2.1:80"), Link: Link{Name: "eth2", Index: 4, Type: 6}}
	picked, anywhere, toItself := listener, listener, listener
	picked.Local, anywhere.Local, toItself.Local = addrPort("192.0.2.1:0"), addrPort("0.0.0.0:80"), addrPort("127.0.0.2:80")
	anywhere.Link, toItself.Link = Link{}, Link{}
	for _, tc := range []struct {
		name, layer, field string
		t                  Tuple
		want               string
	}{
		{"a listener's port", "ALE_AUTH_LISTEN_V4", "IP_LOCAL_PORT", listener, "80"},
		{"its address", "ALE_AUTH_LISTEN_V4", "IP_LOCAL_ADDRESS", listener, "192.0.2.1"},
		{"the type of its address", "ALE_AUTH_LISTEN_V4", "IP_LOCAL_ADDRESS_TYPE", listener, "1"},
		{"the profile of where its address is", "ALE_AUTH_LISTEN_V4", "LOCAL_INTERFACE_PROFILE_ID", listener, "2"},
		{"a listener has no flags", "ALE_AUTH_LISTEN_V4", "FLAGS", anywhere, "0x0"},
		{"a listener at any address", "ALE_AUTH_LISTEN_V4", "IP_LOCAL_ADDRESS", anywhere, "EMPTY"},
		{"has no type of address", "ALE_AUTH_LISTEN_V4", "IP_LOCAL_ADDRESS_TYPE", anywhere, "0"},
		{"and no interface", "ALE_AUTH_LISTEN_V4", "INTERFACE_TYPE", anywhere, "EMPTY"},
		{"a listener on loopback", "ALE_AUTH_LISTEN_V4", "INTERFACE_TYPE", toItself, "24"},
		{"the address of a bind by a call", "ALE_RESOURCE_ASSIGNMENT_V4", "IP_LOCAL_ADDRESS", listener, "192.0.2.1"},
		{"its interface", "ALE_RESOURCE_ASSIGNMENT_V4", "INTERFACE_TYPE", listener, "6"},
		{"a bind that names all is no wildcard", "ALE_RESOURCE_ASSIGNMENT_V4", "FLAGS", listener, "0x0"},
		{"one that leaves the port open is", "ALE_RESOURCE_ASSIGNMENT_V4", "FLAGS", picked, "0x8"},
		{"one to any address is", "ALE_RESOURCE_ASSIGNMENT_V4", "FLAGS", anywhere, "0x8"},
		{"a port that is to be picked", "ALE_RESOURCE_ASSIGNMENT_V4", "IP_LOCAL_PORT", picked, "EMPTY"},
		{"the source of what is forwarded", "IPFORWARD_V4", "IP_SOURCE_ADDRESS", through, "198.51.100.2"},
		{"its destination", "IPFORWARD_V4", "IP_DESTINATION_ADDRESS", through, "192.0.2.1"},
		{"the type of its destination", "IPFORWARD_V4", "IP_DESTINATION_ADDRESS_TYPE", through, "1"},
		{"where it comes in", "IPFORWARD_V4", "SOURCE_INTERFACE_INDEX", through, "4"},
		{"where it goes on", "IPFORWARD_V4", "DESTINATION_INTERFACE_INDEX", through, "3"},
		{"the profile of where it comes in", "IPFORWARD_V4", "ARRIVAL_INTERFACE_PROFILE_ID", through, "2"},
		{"the profile of where it goes on", "IPFORWARD_V4", "NEXTHOP_INTERFACE_PROFILE_ID", through, "1"},
		{"it has no sub-interface", "IPFORWARD_V4", "SOURCE_SUB_INTERFACE_INDEX", through, "0"},
		{"it is no pass-through", "IPFORWARD_V4", "FLAGS", through, "0x0"},
		{"pass-through", "IPFORWARD_V4", "FLAGS", passThru, "0xc0000"},
		{"a link that is not named", "IPFORWARD_V4", "IP_FORWARD_INTERFACE", unlinked, "EMPTY"},
		{"what is forwarded comes in from its source", "INBOUND_IPPACKET_V4", "IP_REMOTE_ADDRESS", through, "198.51.100.2"},
		{"by the link that it comes in by", "INBOUND_IPPACKET_V4", "INTERFACE_INDEX", through, "4"},
		{"to that link's frame address", "INBOUND_MAC_FRAME_ETHERNET", "MAC_LOCAL_ADDRESS", through, "02:00:00:00:00:02"},
		{"and goes out to its destination", "OUTBOUND_IPPACKET_V4", "IP_REMOTE_ADDRESS", through, "192.0.2.1"},
		{"from its source", "OUTBOUND_IPPACKET_V4", "IP_LOCAL_ADDRESS", through, "198.51.100.2"},
		{"by the other link", "OUTBOUND_IPPACKET_V4", "INTERFACE_INDEX", through, "3"},
		{"from the other link's frame address", "OUTBOUND_MAC_FRAME_ETHERNET", "MAC_LOCAL_ADDRESS", through, "02:00:00:00:00:01"},
		{"the switch", "INGRESS_VSWITCH_ETHERNET", "VSWITCH_ID", bridged, "br0"},
		{"its network", "INGRESS_VSWITCH_ETHERNET", "VSWITCH_NETWORK_TYPE", bridged, "3"},
		{"the network of a switch that is not here", "INGRESS_VSWITCH_ETHERNET", "VSWITCH_NETWORK_TYPE", elsewhere, "EMPTY"},
		{"the port that it came in by", "INGRESS_VSWITCH_TRANSPORT_V4", "VSWITCH_SOURCE_INTERFACE_ID", bridged, "veth3"},
		{"what the port is", "INGRESS_VSWITCH_TRANSPORT_V4", "VSWITCH_SOURCE_INTERFACE_TYPE", bridged, "1"},
		{"what a port is that is not here", "INGRESS_VSWITCH_TRANSPORT_V4", "VSWITCH_SOURCE_INTERFACE_TYPE", elsewhere, "EMPTY"},
		{"the source is the peer", "INGRESS_VSWITCH_TRANSPORT_V4", "IP_SOURCE_ADDRESS", bridged, "192.0.2.2"},
		{"the source port is the peer's", "INGRESS_VSWITCH_TRANSPORT_V4", "IP_SOURCE_PORT", bridged, "40000"},
		{"the frame is to the bridge", "INGRESS_VSWITCH_ETHERNET", "MAC_DESTINATION_ADDRESS", bridged, "02:00:00:00:00:09"},
		{"the host sends by the bridge", "EGRESS_VSWITCH_ETHERNET", "VSWITCH_SOURCE_INTERFACE_ID", bridging, "br0"},
		{"which is internal", "EGRESS_VSWITCH_ETHERNET", "VSWITCH_SOURCE_INTERFACE_TYPE", bridging, "3"},
		{"the frame is from the bridge", "EGRESS_VSWITCH_ETHERNET", "MAC_SOURCE_ADDRESS", bridging, "02:00:00:00:00:09"},
		{"the port that it leaves by", "EGRESS_VSWITCH_TRANSPORT_V4", "VSWITCH_DESTINATION_INTERFACE_ID", bridging, "veth3"},
		{"the destination is the peer", "EGRESS_VSWITCH_TRANSPORT_V4", "IP_DESTINATION_ADDRESS", bridging, "192.0.2.2"},
		{"the destination port is the peer's", "EGRESS_VSWITCH_TRANSPORT_V4", "IP_DESTINATION_PORT", bridging, "40000"},
		{"the host is no guest", "EGRESS_VSWITCH_TRANSPORT_V4", "L2_FLAGS", bridging, "0x0"},
		{"local is the receiver", "ALE_AUTH_RECV_ACCEPT_V4", "IP_LOCAL_ADDRESS", in, "192.0.2.1"},
		{"the peer's port", "ALE_AUTH_RECV_ACCEPT_V4", "IP_REMOTE_PORT", in, "40000"},
		{"a zone's profile", "ALE_AUTH_RECV_ACCEPT_V4", "CURRENT_PROFILE_ID", in, "2"},
		{"a link without a zone is public", "ALE_AUTH_CONNECT_V4", "CURRENT_PROFILE_ID", out, "1"},
		{"an accept has an arrival interface", "ALE_AUTH_RECV_ACCEPT_V4", "ARRIVAL_INTERFACE_INDEX", in, "4"},
		{"an accept has no next hop", "ALE_AUTH_RECV_ACCEPT_V4", "NEXTHOP_INTERFACE_INDEX", in, "EMPTY"},
		{"a connect has a next hop", "ALE_AUTH_CONNECT_V4", "NEXTHOP_INTERFACE_INDEX", out, "3"},
		{"a connect has no arrival interface", "ALE_AUTH_CONNECT_V4", "ARRIVAL_INTERFACE_INDEX", out, "EMPTY"},
		{"a field that has one value", "ALE_AUTH_CONNECT_V4", "COMPARTMENT_ID", out, "1"},
		{"a process of no package", "ALE_AUTH_CONNECT_V4", "ALE_PACKAGE_ID", out, "S-1-0-0"},
		{"a program that is not named", "ALE_AUTH_CONNECT_V4", "ALE_APP_ID", out, "EMPTY"},
		{"an implicit bind has no address", "ALE_RESOURCE_ASSIGNMENT_V4", "IP_LOCAL_ADDRESS", out, "EMPTY"},
		{"an implicit bind is of an unspecified address", "ALE_RESOURCE_ASSIGNMENT_V4", "IP_LOCAL_ADDRESS_TYPE", out, "0"},
		{"an implicit bind has no interface", "ALE_RESOURCE_ASSIGNMENT_V4", "IP_LOCAL_INTERFACE", out, "EMPTY"},
		{"an implicit bind has its flag", "ALE_RESOURCE_ASSIGNMENT_V4", "FLAGS", out, "0x8"},
		{"loopback at ALE", "ALE_AUTH_RECV_ACCEPT_V4", "FLAGS", loop, "0x800001"},
		{"loopback at the IP layers", "INBOUND_IPPACKET_V4", "FLAGS", loop, "0x1"},
		{"loopback at the transport layers", "INBOUND_TRANSPORT_V4", "FLAGS", loop, "0x1"},
		{"a port at the transport layers", "INBOUND_TRANSPORT_V4", "IP_LOCAL_PORT", in, "22"},
		{"the peer's port on the way out", "OUTBOUND_TRANSPORT_V4", "IP_REMOTE_PORT", out, "40000"},
		{"the type of ICMP", "INBOUND_TRANSPORT_V4", "IP_LOCAL_PORT", ping, "8"},
		{"the code of ICMP", "INBOUND_TRANSPORT_V4", "IP_REMOTE_PORT", ping, "0"},
		{"the type of ICMP on the way out", "OUTBOUND_TRANSPORT_V4", "IP_LOCAL_PORT", pinging, "8"},
		{"the type of an ICMP error", "INBOUND_ICMP_ERROR_V4", "IP_LOCAL_PORT", unreachable, "3"},
		{"the code of an ICMP error", "INBOUND_ICMP_ERROR_V4", "IP_REMOTE_PORT", unreachable, "1"},
		{"what an ICMP error quotes is not known", "INBOUND_ICMP_ERROR_V4", "EMBEDDED_PROTOCOL", unreachable, "EMPTY"},
		{"the profile of an ICMP error's link", "INBOUND_ICMP_ERROR_V4", "ARRIVAL_INTERFACE_PROFILE_ID", unreachable, "1"},
		{"the direction of a TCP packet in", "STREAM_PACKET_V4", "DIRECTION", in, "1"},
		{"the direction of a TCP packet out", "STREAM_PACKET_V4", "DIRECTION", out, "0"},
		{"a type that is not given", "INBOUND_TRANSPORT_V4", "IP_LOCAL_PORT", someICMP, "EMPTY"},
		{"a protocol without ports", "INBOUND_TRANSPORT_V4", "IP_LOCAL_PORT", gre, "EMPTY"},
		{"a flow that comes in", "ALE_FLOW_ESTABLISHED_V4", "DIRECTION", in, "1"},
		{"a flow that goes out", "ALE_FLOW_ESTABLISHED_V4", "DIRECTION", out, "0"},
		{"loopback at an established flow", "ALE_FLOW_ESTABLISHED_V4", "FLAGS", loop, "0x1"},
		{"the destination of a flow that comes in", "ALE_FLOW_ESTABLISHED_V4", "IP_DESTINATION_ADDRESS_TYPE", multicast, "3"},
		{"the destination of a flow that goes out", "ALE_FLOW_ESTABLISHED_V4", "IP_DESTINATION_ADDRESS_TYPE", out, "1"},
		{"a flow's interface", "ALE_FLOW_ESTABLISHED_V4", "INTERFACE_TYPE", in, "6"},
		{"loopback's interface", "ALE_AUTH_RECV_ACCEPT_V4", "INTERFACE_TYPE", loop, "24"},
		{"multicast", "ALE_AUTH_RECV_ACCEPT_V4", "IP_LOCAL_ADDRESS_TYPE", multicast, "3"},
		{"the kind of frame", "OUTBOUND_MAC_FRAME_ETHERNET", "ETHER_TYPE", out, "2048"},
		{"the link's own address", "OUTBOUND_MAC_FRAME_ETHERNET", "MAC_LOCAL_ADDRESS", out, "02:00:00:00:00:01"},
		{"the peer's frame address is not known", "OUTBOUND_MAC_FRAME_ETHERNET", "MAC_REMOTE_ADDRESS", out, "EMPTY"},
		{"the link of a native frame", "OUTBOUND_MAC_FRAME_NATIVE", "INTERFACE_INDEX", out, "3"},
		{"the type of its link", "OUTBOUND_MAC_FRAME_NATIVE", "INTERFACE_TYPE", out, "6"},
		{"a group's frame address is not the link's", "INBOUND_MAC_FRAME_ETHERNET", "MAC_LOCAL_ADDRESS", multicast, "EMPTY"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := layermap.ByName(tc.layer)
			i := l.FieldIndex(tc.field)
			v := tc.t.Values(p, l)[i]
			if got := filter.FormatValue(l.Fields[i], v); got != tc.want {
				t.Errorf("%s = %s, want %s", tc.field, got, tc.want)
			}
			if v.Type != layermap.Empty && v.Type != l.Fields[i].DataType {
				t.Errorf("%s is of type %s", tc.field, v.Type)
			}
		})
	}
}

func TestTheUnitLeadsToItsServices(t *testing.T) {
	m, err := policy.LoadMapReader("map", strings.NewReader("services: {DoSvc: do.service}\n"))
	if err != nil {
		t.Fatal(err)
	}
	p, err := policy.LoadReader("policy", strings.NewReader("wfpebpf: 1\n"), policy.Options{Map: m})
	if err != nil {
		t.Fatal(err)
	}
	l := layermap.ByName("ALE_AUTH_CONNECT_V4")
	v, err := Values(p, m, l, []string{"ALE_USER_ID=unit:do.service"})
	if err != nil {
		t.Fatal(err)
	}
	token := v[l.FieldIndex("ALE_USER_ID")].Token
	if !token.Holds(filter.ServiceSID("DoSvc")) || !token.Holds(filter.ServiceSID("do.service")) {
		t.Errorf("the token holds %v", token.SIDs)
	}
}

func TestWouldBlock(t *testing.T) {
	p, _ := load(t, corporate)
	ssh := func(remote string) Tuple {
		return Tuple{Protocol: 6, Local: addrPort("192.0.2.1:22"), Remote: addrPort(remote), Link: Link{Name: "eth0"}}
	}
	elsewhere := ssh("192.0.2.2:50000")
	elsewhere.Link.Name = "eth9"
	bridged := ssh("192.0.2.2:50000")
	bridged.Port = veth3
	over6 := Tuple{Protocol: 6, Local: addrPort("[2001:db8::1]:22"), Remote: addrPort("[2001:db8::2]:50000"), Link: Link{Name: "eth0"}}
	for _, tc := range []struct {
		name, filter, layer string
		t                   Tuple
		links               bool
	}{
		{"permitted", "", "", ssh("192.0.2.2:50000"), true},
		{"blocked at accept", "Default", "FWPS_LAYER_ALE_AUTH_RECV_ACCEPT_V4", elsewhere, true},
		{"blocked at accept over any link", "Default", "FWPS_LAYER_ALE_AUTH_RECV_ACCEPT_V4", elsewhere, false},
		{"blocked at the packet layer", "Bad neighbour", "FWPS_LAYER_INBOUND_IPPACKET_V4", ssh("192.0.2.66:50000"), true},
		{"its link is not filtered", "", "", ssh("192.0.2.66:50000"), false},
		{"its answers are blocked", "No answers to", "FWPS_LAYER_OUTBOUND_IPPACKET_V4", ssh("192.0.2.77:50000"), true},
		{"blocked at the transport layer", "No transport from", "FWPS_LAYER_INBOUND_TRANSPORT_V4", ssh("192.0.2.88:50000"), false},
		{"its answers are blocked at the transport layer", "No transport to", "FWPS_LAYER_OUTBOUND_TRANSPORT_V4", ssh("192.0.2.99:50000"), false},
		{"its answers are blocked at a port of the bridge", "Not by veth3", "FWPS_LAYER_EGRESS_VSWITCH_TRANSPORT_V4", bridged, true},
		{"that port is not filtered", "", "", bridged, false},
		{"neighbours are not found", "No neighbours", "FWPS_LAYER_INBOUND_TRANSPORT_V6", over6, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f, layer := WouldBlock(p, tc.t, func(string) bool { return tc.links })
			switch {
			case f == nil && tc.filter != "":
				t.Errorf("passes, want a block by %q", tc.filter)
			case f != nil && (f.Name != tc.filter || layer.String() != tc.layer):
				t.Errorf("blocked by %q at %s, want %q at %s", f.Name, layer, tc.filter, tc.layer)
			}
		})
	}
}

func TestForwarded(t *testing.T) {
	p, _ := load(t, corporate)
	through := Tuple{
		Forwarded: true, Protocol: 1, Local: addrPort("192.0.2.1:0"), Remote: addrPort("192.0.2.66:0"), Link: Link{Name: "eth2"}, OutLink: eth1,
	}
	back := through
	back.Local, back.Remote, back.Link, back.OutLink = through.Remote, through.Local, through.OutLink, through.Link
	for _, tc := range []struct {
		name string
		t    Tuple
		want []string // the layers that block, and the filters
	}{
		{"there", through, []string{"INBOUND_IPPACKET_V4 Bad neighbour", "IPFORWARD_V4 No guests"}},
		{"back", back, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var got []string
			for _, a := range tc.t.Explain(p, p.Store, false) {
				if a.Verdict == block {
					got = append(got, a.Layer+" "+a.FilterName)
				}
				if len(a.Notes) > 0 {
					t.Errorf("%s: notes %q on layers that it does not pass", a.Layer, a.Notes)
				}
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func TestAnswerJSON(t *testing.T) {
	p, m := load(t, corporate)
	l := layermap.ByName("ALE_AUTH_CONNECT_V4")
	v, err := Values(p, m, l, []string{"IP_REMOTE_PORT=445"})
	if err != nil {
		t.Fatal(err)
	}
	a := Layer(p.Store, l, v, false)
	got, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"verdict":"permit","filterId":3,"filterName":"Permit all","origin":"","layer":"ALE_AUTH_CONNECT_V4",` +
		`"subLayers":[{"name":"Corporate","weight":60000,"action":"NONE_NO_MATCH","right":"soft","filterId":0},` +
		`{"name":"Low","weight":100,"action":"PERMIT","right":"soft","filterId":3}],"sensitive":["IP_PROTOCOL"]}`
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	a.Compare(filter.ActionBlock, 1)
	var text bytes.Buffer
	if err := WriteText(&text, []Answer{a}); err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"permit at ALE_AUTH_CONNECT_V4: by \"Permit all\" (3)", "SUBLAYER", "IP_PROTOCOL", "DIFFERS: the kernel says block, filter 1"} {
		if !strings.Contains(text.String(), part) {
			t.Errorf("the text lacks %q:\n%s", part, text.String())
		}
	}
}

func TestAsWindowsLetsUnknownCalloutsPass(t *testing.T) {
	p, _ := load(t, `
wfpebpf: 1
callouts: [{key: other, name: Somebody's callout, layer: ALE_AUTH_CONNECT_V4}]
filters:
  - {name: Ask it, layer: ALE_AUTH_CONNECT_V4, action: CALLOUT_TERMINATING, callout: other}
`)
	l := layermap.ByName("ALE_AUTH_CONNECT_V4")
	if a := Layer(p.Store, l, constants(l), false); a.Verdict != "block" {
		t.Errorf("here an unregistered callout blocks, got %s", a.Verdict)
	}
	windows, left := p.WindowsStore()
	if len(left) > 0 {
		t.Errorf("left out: %v", left)
	}
	a := Layer(windows, l, constants(l), true)
	if a.Verdict != "permit" || !slices.Contains(a.Notes, "callout Somebody's callout is taken to let the traffic pass") {
		t.Errorf("got %s with notes %q", a.Verdict, a.Notes)
	}
}

func TestFieldsThatAreAlwaysTheSameChangeNothing(t *testing.T) {
	p, _ := load(t, `
wfpebpf: 1
filters:
  - {name: Some port, layer: ALE_AUTH_CONNECT_V4, action: BLOCK, conditions: [{IP_REMOTE_PORT: 25}]}
  - {name: A tunnel, layer: ALE_AUTH_CONNECT_V4, action: BLOCK, conditions: [{NEXTHOP_TUNNEL_TYPE: 1}]}
  - {name: An arrival, layer: ALE_AUTH_CONNECT_V4, action: BLOCK, conditions: [{IP_ARRIVAL_INTERFACE: eth0}]}
`)
	l := layermap.ByName("ALE_AUTH_CONNECT_V4")
	if a := Layer(p.Store, l, constants(l), false); !slices.Equal(a.Sensitive, []string{"IP_REMOTE_PORT"}) {
		t.Errorf("sensitive %q, want IP_REMOTE_PORT alone", a.Sensitive)
	}
}

func TestTextOfSeveralLayers(t *testing.T) {
	for _, tc := range []struct {
		name    string
		answers []Answer
		want    string
	}{
		{"all permit", []Answer{{Verdict: permit, Layer: "A"}, {Verdict: permit, Layer: "B"}},
			"PERMIT: none of these 2 layers blocks it\n\npermit at A: no filter decides\npermit at B: no filter decides\n"},
		{"one blocks", []Answer{{Verdict: permit, Layer: "A"}, {Verdict: block, Layer: "B", FilterID: 7, FilterName: "X", Notes: []string{"n"}}},
			"BLOCK at B: by \"X\" (7)\n\npermit at A: no filter decides\n\nblock at B: by \"X\" (7)\n  n\n"},
		{"one layer only", []Answer{{Verdict: permit, Layer: "A"}}, "permit at A: no filter decides\n"},
	} {
		var b bytes.Buffer
		if err := WriteText(&b, tc.answers); err != nil || b.String() != tc.want {
			t.Errorf("%s: %v, got\n%swant\n%s", tc.name, err, b.String(), tc.want)
		}
	}
}

func TestOtherProtocolsAreNotJudgedAtALE(t *testing.T) {
	p, _ := load(t, corporate)
	ping := Tuple{Protocol: 1, Outbound: true, Local: netip.MustParseAddrPort("192.0.2.2:8"), Remote: netip.MustParseAddrPort("192.0.2.1:0")}
	untyped := ping
	untyped.Local = netip.MustParseAddrPort("192.0.2.2:0")
	for _, tc := range []struct {
		t     Tuple
		notes int
	}{{ping, 1}, {untyped, 2}} {
		if a := tc.t.Explain(p, p.Store, false); len(a) == 0 || len(a[0].Notes) != tc.notes {
			t.Errorf("%d notes are due in %+v", tc.notes, a)
		}
	}
	windows, _ := p.WindowsStore()
	if a := ping.Explain(p, windows, true); slices.ContainsFunc(a, func(a Answer) bool { return len(a.Notes) > 0 }) {
		t.Errorf("on Windows ALE judges all protocols, got %+v", a)
	}
}
