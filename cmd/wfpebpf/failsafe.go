// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
	"github.com/wfpebpf/wfpebpf/policy"
)

// failsafe is what --failsafe always lets in.
type failsafe struct {
	text     string
	protocol uint8
	port     uint16
	from     netip.Prefix // not valid: from anywhere
}

const protocolTCP = 6

// failsafeProtocols are the protocols that have ports and that ALE judges.
var failsafeProtocols = map[string]uint8{"tcp": protocolTCP, "udp": 17}

// parseFailsafe reads PROTOCOL/PORT[@CIDR].
func parseFailsafe(text string) (failsafe, error) {
	bad := func(why string) (failsafe, error) {
		return failsafe{}, fmt.Errorf("--failsafe %q: %s; write it as tcp/22 or tcp/22@10.0.0.0/8", text, why)
	}
	f := failsafe{text: text}
	service, cidr, restricted := strings.Cut(text, "@")
	protocol, port, ok := strings.Cut(service, "/")
	if f.protocol = failsafeProtocols[strings.ToLower(protocol)]; !ok || f.protocol == 0 {
		return bad("the protocol is tcp or udp")
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return bad("the port is 1 to 65535")
	}
	f.port = uint16(n)
	if !restricted {
		return f, nil
	}
	if f.from, err = netip.ParsePrefix(cidr); err != nil {
		a, err := netip.ParseAddr(cidr)
		if err != nil || a.Zone() != "" {
			return bad("what follows @ is an address or a prefix")
		}
		f.from = netip.PrefixFrom(a, a.BitLen())
	}
	if f.from = f.from.Masked(); f.from.Addr().Is4In6() {
		return bad("write IPv4 addresses as such")
	}
	return f, nil
}

// failsafeSubLayer goes before every other sublayer: it has the highest weight,
// and among sublayers of one weight the lowest key goes first.
var failsafeSubLayer = filter.SubLayer{
	Key: uuid.MustParse("00000000-0000-0000-0000-000000000001"), Name: "wfpebpf failsafe", Weight: 0xffff,
}

// failsafeFile stands for a file name in the report.
const failsafeFile = "--failsafe"

// addFailsafes adds what the failsafes let in to a policy and to its report.
func addFailsafes(p *policy.Policy, safes []failsafe) error {
	if len(safes) == 0 {
		return nil
	}
	if err := p.Store.AddSubLayer(failsafeSubLayer); err != nil {
		return err
	}
	var notes []string
	for _, s := range safes {
		for _, f := range s.filters(p.Store) {
			if err := p.Store.AddFilter(f); err != nil {
				return err
			}
			p.Entries = append(p.Entries, policy.Entry{Filter: f, File: failsafeFile, State: policy.StateEnforced})
		}
		p.Failsafes = append(p.Failsafes, s.text)
		notes = append(notes, "failsafe: "+s.text+" is always let in")
	}
	p.Notes = append(notes, p.Notes...)
	return nil
}

// filters are the hard permits of a failsafe. Binds and listeners are let through for
// both families, because a socket of IPv6 serves IPv4 as well. The IPPACKET layers
// have no ports, so that they are opened for a peer only, with all its packets.
// The transport layers, ALE_FLOW_ESTABLISHED, AUTH_LISTEN and STREAM_PACKET, which are
// of TCP alone, and DATAGRAM_DATA, which is of all else, are opened where the policy has
// filters at them: others are not hooked.
func (s failsafe) filters(policy *filter.Store) []*filter.Filter {
	service := []filter.Condition{
		{Field: "IP_PROTOCOL", Value: filter.U8(s.protocol)}, {Field: "IP_LOCAL_PORT", Value: filter.U16(s.port)},
	}
	var out []*filter.Filter
	add := func(layer layermap.LayerID, conditions ...filter.Condition) {
		out = append(out, &filter.Filter{
			Name: "failsafe " + s.text, Layer: layer, SubLayer: failsafeSubLayer.Key, Conditions: conditions,
			Action: filter.ActionPermit, Flags: filter.FlagClearActionRight,
		})
	}
	add(layermap.ALEResourceAssignmentV4, service...)
	add(layermap.ALEResourceAssignmentV6, service...)
	for _, layer := range []layermap.LayerID{layermap.ALEBindRedirectV4, layermap.ALEBindRedirectV6} {
		if len(policy.Layer(layer)) > 0 { // and nothing leads the bind elsewhere
			add(layer, service...)
		}
	}
	for _, layer := range []layermap.LayerID{layermap.ALEAuthListenV4, layermap.ALEAuthListenV6} {
		if s.protocol == protocolTCP && len(policy.Layer(layer)) > 0 {
			add(layer, service[1:]...)
		}
	}
	for _, family := range failsafeFamilies {
		var peer []filter.Condition
		if s.from.IsValid() {
			if s.from.Addr().Is6() != family.v6 {
				continue
			}
			mask := filter.V4Mask
			if family.v6 {
				mask = filter.V6Mask
			}
			peer = []filter.Condition{{Field: "IP_REMOTE_ADDRESS", Value: mask(s.from)}}
		}
		add(family.accept, slices.Concat(service, peer)...)
		if len(peer) > 0 {
			add(family.packets[0], peer...)
			add(family.packets[1], peer...)
		}
		for _, layer := range family.transport {
			if len(policy.Layer(layer)) == 0 {
				continue
			}
			add(layer, slices.Concat(service, peer)...)
			if family.v6 {
				add(layer, neighbours...)
			}
		}
		if len(policy.Layer(family.flow)) > 0 {
			add(family.flow, slices.Concat(service, peer)...)
		}
		if s.protocol == protocolTCP && len(policy.Layer(family.stream)) > 0 {
			add(family.stream, slices.Concat(service[1:], peer)...)
		}
		if len(policy.Layer(family.datagram)) > 0 {
			if s.protocol != protocolTCP {
				add(family.datagram, slices.Concat(service, peer)...)
			}
			if family.v6 {
				add(family.datagram, neighbours...)
			}
		}
	}
	return out
}

// failsafeFamilies are the layers that an inbound connection of a family and
// its answers pass.
var failsafeFamilies = []struct {
	v6                 bool
	accept             layermap.LayerID
	packets, transport [2]layermap.LayerID // in, out
	flow               layermap.LayerID
	stream, datagram   layermap.LayerID
}{
	{
		false, layermap.ALEAuthRecvAcceptV4,
		[2]layermap.LayerID{layermap.InboundIPPacketV4, layermap.OutboundIPPacketV4},
		[2]layermap.LayerID{layermap.InboundTransportV4, layermap.OutboundTransportV4},
		layermap.ALEFlowEstablishedV4, layermap.StreamPacketV4, layermap.DatagramDataV4,
	},
	{
		true, layermap.ALEAuthRecvAcceptV6,
		[2]layermap.LayerID{layermap.InboundIPPacketV6, layermap.OutboundIPPacketV6},
		[2]layermap.LayerID{layermap.InboundTransportV6, layermap.OutboundTransportV6},
		layermap.ALEFlowEstablishedV6, layermap.StreamPacketV6, layermap.DatagramDataV6,
	},
}

// neighbours are the ICMPv6 messages by which routers (133, 134) and neighbours
// (135, 136) are found: without them nobody is let in for long.
var neighbours = []filter.Condition{
	{Field: "IP_PROTOCOL", Value: filter.U8(58)},
	{Field: "IP_LOCAL_PORT", Match: filter.MatchRange, Value: filter.RangeOf(filter.U16(133), filter.U16(136))},
}
