// SPDX-License-Identifier: Apache-2.0

// This file says what the layers of the virtual switch know of Linux bridges: a switch
// is a bridge, its ports are the links whose master it is, and the names of both are
// their ids.

package loader

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/wfpebpf/wfpebpf/bpf"
	"github.com/wfpebpf/wfpebpf/filter"
)

// Kinds of links, in the words of rtnetlink.
const kindBridge = "bridge"

// guestKinds are the links that have a guest, or a container, at their other end. All
// others lead out of the host.
var guestKinds = map[string]bool{"veth": true, "tun": true}

// fillBridges fills in what a bridge and its ports are to each other. Both lists have the
// same links.
func fillBridges(list []device, links []netlink.Link) {
	bridges := map[int]*device{}
	for i, l := range links {
		if l.Type() == kindBridge {
			list[i].NIC, list[i].Network = bpf.NICInternal, bpf.NetworkInternal
			bridges[list[i].Index] = &list[i]
		}
	}
	for i, l := range links {
		b := bridges[l.Attrs().MasterIndex]
		if b == nil {
			continue
		}
		list[i].Bridge, list[i].NIC = b.Index, bpf.NICExternal
		if guestKinds[l.Type()] {
			list[i].NIC = bpf.NICSynthetic
		} else {
			b.Network = bpf.NetworkExternal
		}
	}
}

// PortTowards is the index of the port by which a bridge sends frames to a peer, or to
// the router towards it, as the neighbours and the bridge's addresses tell; 0 where they
// tell nothing.
func PortTowards(netns string, bridge uint32, peer netip.Addr) (uint32, error) {
	ns, err := openNetns(netns)
	if err != nil {
		return 0, err
	}
	defer ns.close()
	var port uint32
	err = ns.inside(netns != "", func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		port, err = portTowards(h, int(bridge), peer)
		return err
	})
	return port, err
}

func portTowards(h *netlink.Handle, bridge int, peer netip.Addr) (uint32, error) {
	routes, err := h.RouteGet(peer.AsSlice())
	if err != nil {
		return 0, err
	}
	next := net.IP(peer.AsSlice())
	for _, r := range routes {
		if r.LinkIndex == bridge && r.Gw != nil {
			next = r.Gw
		}
	}
	neighbours, err := h.NeighList(bridge, unix.AF_UNSPEC)
	if err != nil {
		return 0, err
	}
	known, err := h.NeighList(0, unix.AF_BRIDGE)
	if err != nil {
		return 0, err
	}
	for _, n := range neighbours {
		if !n.IP.Equal(next) {
			continue
		}
		for _, at := range known {
			if at.MasterIndex == bridge && bytes.Equal(at.HardwareAddr, n.HardwareAddr) {
				return uint32(at.LinkIndex), nil
			}
		}
	}
	return 0, nil
}

// maxName is the length of a link's name: the kernel's IFNAMSIZ, less the zero.
const maxName = 15

// nameKey is a name in 16 bytes: itself and its length. What is longer names no link, and
// all that is such is alike.
func nameKey(name []byte) key {
	if len(name) > maxName {
		return maxKey(len(key{}))
	}
	var k key
	copy(k[:], name)
	k[maxName] = byte(len(name))
	return k
}

// nameMembers is a condition on the name of a link. Names have no order here.
func nameMembers(c filter.Condition) ([]member, error) {
	k := nameKey(c.Value.Bytes)
	none := len(c.Value.Bytes) > maxName
	switch c.Match {
	case filter.MatchEqual:
		if none {
			return nil, nil
		}
		return []member{rangeMember(k, k, len(k))}, nil
	case filter.MatchNotEqual:
		if none {
			return []member{rangeMember(key{}, maxKey(len(k)), len(k))}, nil
		}
		return othersThan(k, len(k)), nil
	}
	return nil, fmt.Errorf("%v on %s cannot be compiled: %w", c.Match, c.Field, filter.ErrMatchTypeMismatch)
}

// nameWords is that as the programs have it.
func nameWords(name []byte) [2]uint64 {
	k := nameKey(name)
	return [2]uint64{binary.BigEndian.Uint64(k[:8]), binary.BigEndian.Uint64(k[8:])}
}
