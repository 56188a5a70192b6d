// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/wfpebpf/wfpebpf/bpf"
	"github.com/wfpebpf/wfpebpf/policy"
)

// IANA ifType numbers that the INTERFACE_TYPE fields hold.
const (
	ifTypeOther     = 1
	ifTypeEthernet  = 6
	ifTypePPP       = 23
	ifTypeLoopback  = 24
	ifTypeWireless  = 71
	ifTypeTunnel    = 131
	arphrdEther     = 1
	arphrdPPP       = 512
	arphrdTunnel    = 768
	arphrdTunnel6   = 769
	arphrdLoopback  = 772
	arphrdSIT       = 776
	arphrdIPGRE     = 778
	arphrdIEEE80211 = 801
	arphrdIP6GRE    = 823
	arphrdNone      = 0xfffe
)

// ifTypes maps ARPHRD_* to IANA's numbers.
var ifTypes = map[uint16]uint32{
	arphrdEther: ifTypeEthernet, arphrdLoopback: ifTypeLoopback, arphrdPPP: ifTypePPP,
	arphrdTunnel: ifTypeTunnel, arphrdTunnel6: ifTypeTunnel, arphrdSIT: ifTypeTunnel,
	arphrdIPGRE: ifTypeTunnel, arphrdIP6GRE: ifTypeTunnel, arphrdNone: ifTypeTunnel,
	arphrdIEEE80211: ifTypeWireless,
}

// device is a link as the engine needs it.
type device struct {
	Index    int
	Name     string
	Up       bool
	Loopback bool
	Type     uint32 // IANA ifType
	MAC      uint64
	Ethernet bool // frames start with a MAC header

	Bridge  int    // index of the bridge that it is a port of; 0: of none
	NIC     uint32 // what it is to a bridge, bpf.NIC*
	Network uint32 // of a bridge, bpf.Network*
}

// whole lists again what changed while the kernel listed it, since entries can
// be missing then, and what is missing would be detached. Where changes never
// cease the last list must do; the next look makes up for it.
func whole[T any](list func() ([]T, error)) (all []T, err error) {
	for range 10 {
		if all, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return all, err
		}
	}
	return all, nil
}

func addresses(h *netlink.Handle, family int) ([]netlink.Addr, error) {
	list, err := whole(func() ([]netlink.Addr, error) { return h.AddrList(nil, family) })
	if err != nil {
		return nil, fmt.Errorf("listing addresses: %w", err)
	}
	return list, nil
}

// devices lists the links of a namespace.
func devices(h *netlink.Handle) ([]device, error) {
	links, err := whole(h.LinkList)
	if err != nil {
		return nil, fmt.Errorf("listing links: %w", err)
	}
	var list []device
	for _, l := range links {
		a := l.Attrs()
		d := device{
			Index: a.Index, Name: a.Name, Up: a.RawFlags&unix.IFF_UP != 0,
			Loopback: a.RawFlags&unix.IFF_LOOPBACK != 0, Type: ifTypeOther,
		}
		hw := arphrd(a)
		if t, ok := ifTypes[hw]; ok {
			d.Type = t
		}
		d.Ethernet = hw == arphrdEther || hw == arphrdLoopback
		if len(a.HardwareAddr) == 6 {
			var b [8]byte
			copy(b[2:], a.HardwareAddr)
			d.MAC = binary.BigEndian.Uint64(b[:])
		}
		list = append(list, d)
	}
	fillBridges(list, links)
	return list, nil
}

// arphrd recovers the link's ARPHRD_* number from netlink's name for it.
func arphrd(a *netlink.LinkAttrs) uint16 {
	return encapTypes[a.EncapType]
}

var encapTypes = map[string]uint16{
	"ether": arphrdEther, "loopback": arphrdLoopback, "ppp": arphrdPPP, "ipip": arphrdTunnel,
	"tunnel6": arphrdTunnel6, "sit": arphrdSIT, "gre": arphrdIPGRE, "gre6": arphrdIP6GRE,
	"none": arphrdNone, "ieee802.11": arphrdIEEE80211,
}

// HostLink is a link as the engine sees it.
type HostLink struct {
	Name      string
	Index     uint32
	Type      uint32 // IANA ifType
	MAC       net.HardwareAddr
	Up        bool
	Addresses []netip.Addr

	Bridge  uint32 // index of the bridge that it is a port of; 0: of none
	NIC     uint32 // what it is to a bridge, NDIS_SWITCH_NIC_TYPE
	Network uint32 // of a bridge, FWP_VSWITCH_NETWORK_TYPE; 0: it is none
}

// HostLinks lists the links of a network namespace, by name or path; empty is
// the caller's. It needs no privilege for the caller's own.
func HostLinks(name string) ([]HostLink, error) {
	ns, err := openNetns(name)
	if err != nil {
		return nil, err
	}
	defer ns.close()
	var list []HostLink
	err = ns.inside(name != "", func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		devs, err := devices(h)
		if err != nil {
			return err
		}
		addrs, err := addresses(h, unix.AF_UNSPEC)
		if err != nil {
			return err
		}
		for _, d := range devs {
			l := HostLink{Name: d.Name, Index: uint32(d.Index), Type: d.Type, Up: d.Up, Bridge: uint32(d.Bridge), NIC: d.NIC, Network: d.Network}
			if d.MAC != 0 {
				l.MAC = binary.BigEndian.AppendUint64(nil, d.MAC)[2:]
			}
			for _, a := range addrs {
				if ip, ok := netip.AddrFromSlice(a.IP); ok && a.LinkIndex == d.Index {
					l.Addresses = append(l.Addresses, ip.Unmap())
				}
			}
			list = append(list, l)
		}
		return nil
	})
	return list, err
}

// fact is a link's entry in the links table.
func (d device) fact(p *linkPolicy) bpf.Link {
	f := bpf.Link{
		Luid: p.luid(d.Name), Type: d.Type, Profile: p.Default, Mac: d.MAC,
		Bridge: uint32(d.Bridge), Name: nameWords([]byte(d.Name)), Nic: d.NIC, Network: d.Network,
	}
	if facts, ok := p.Links[d.Name]; ok {
		f.Profile = facts.Profile
		f.Epoch = [2]uint64{facts.Epoch, facts.EpochV6}
	}
	if f.Profile == 0 {
		f.Profile = policy.ProfilePublic
	}
	if d.Loopback {
		f.Flags |= bpf.LinkLoopback
	}
	if d.Ethernet {
		f.Flags |= bpf.LinkEthernet
	}
	return f
}

// linkPolicy is what a policy says of links, by name.
type linkPolicy struct {
	Links   map[string]policy.LinkFacts
	Default uint32
}

func (p *linkPolicy) luid(name string) uint64 {
	if f, ok := p.Links[name]; ok && f.LUID != 0 {
		return f.LUID
	}
	var none *policy.Map
	return none.LUID(name)
}

// routeTable is the content of the routes map: where destinations go.
type routeTable map[bpf.RouteKey]bpf.Route

const mappedBits = 96 // IPv4 prefixes are kept as ::ffff:0:0/96 and longer

// Route types (rtnetlink) that say where traffic goes, and NL_ADDRESS_TYPE.
const (
	nlUnicast   = 1
	nlMulticast = 3
	nlBroadcast = 4
)

var routeTypes = map[int]uint16{
	unix.RTN_UNICAST: nlUnicast, unix.RTN_LOCAL: nlUnicast, unix.RTN_BROADCAST: nlBroadcast,
	unix.RTN_MULTICAST: nlMulticast, unix.RTN_ANYCAST: nlUnicast,
}

// routes reads the namespace's routes, the local ones included. Rules that
// choose between tables are not followed; what a connect is judged with is
// checked again on its first packet.
func routes(h *netlink.Handle) (routeTable, error) {
	t := routeTable{}
	metric := map[bpf.RouteKey]int{}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		list, err := whole(func() ([]netlink.Route, error) {
			return h.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		})
		if err != nil {
			return nil, fmt.Errorf("listing routes: %w", err)
		}
		for _, r := range list {
			kind, ok := routeTypes[r.Type]
			index := r.LinkIndex
			if index == 0 && len(r.MultiPath) > 0 {
				index = r.MultiPath[0].LinkIndex
			}
			if !ok || index == 0 {
				continue
			}
			key := routeKey(r, family)
			cost := r.Priority
			if r.Table == unix.RT_TABLE_LOCAL {
				cost = -1 // the local table is asked first
			}
			if old, seen := metric[key]; seen && old <= cost {
				continue
			}
			metric[key] = cost
			e := bpf.Route{Ifindex: uint32(index), Type: kind}
			if r.Type == unix.RTN_LOCAL {
				e.Local = 1
			}
			if r.Src != nil {
				e.Src = addressHalves(r.Src.To4(), r.Src.To16())
			}
			t[key] = e
		}
	}
	return t, nil
}

func routeKey(r netlink.Route, family int) bpf.RouteKey {
	var k bpf.RouteKey
	if family == unix.AF_INET {
		k.Prefixlen = mappedBits
		k.Addr[10], k.Addr[11] = 0xff, 0xff
	}
	if r.Dst == nil {
		return k
	}
	ones, _ := r.Dst.Mask.Size()
	k.Prefixlen += uint32(ones)
	if v4 := r.Dst.IP.To4(); family == unix.AF_INET && v4 != nil {
		copy(k.Addr[12:], v4)
	} else {
		copy(k.Addr[:], r.Dst.IP.To16())
	}
	return k
}

// addressHalves is an address as struct wfp_tuple holds it.
func addressHalves(v4, v6 []byte) [2]uint64 {
	if v4 != nil {
		return [2]uint64{uint64(binary.BigEndian.Uint32(v4)), 0}
	}
	return [2]uint64{binary.BigEndian.Uint64(v6), binary.BigEndian.Uint64(v6[8:])}
}

// fillSources gives routes without a preferred source the address that the
// kernel would take: the first global one of the interface.
func (t routeTable) fillSources(h *netlink.Handle) error {
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		addrs, err := addresses(h, family)
		if err != nil {
			return err
		}
		for key, r := range t {
			v6 := !(key.Prefixlen >= mappedBits && key.Addr[10] == 0xff && key.Addr[11] == 0xff && key.Addr[0] == 0)
			if r.Src != ([2]uint64{}) || v6 != (family == unix.AF_INET6) {
				continue
			}
			if r.Local != 0 {
				// a connect to an own address comes from that address
				if key.Prefixlen == 128 {
					if v6 {
						r.Src = addressHalves(nil, key.Addr[:])
					} else {
						r.Src = addressHalves(key.Addr[12:], nil)
					}
				} else if !v6 {
					r.Src = [2]uint64{0x7f000001, 0}
				}
				t[key] = r
				continue
			}
			i := slices.IndexFunc(addrs, func(a netlink.Addr) bool {
				linkLocal := a.Scope == unix.RT_SCOPE_LINK
				return a.LinkIndex == int(r.Ifindex) && a.Flags&unix.IFA_F_DEPRECATED == 0 && linkLocal == (v6 && key.Addr[0] == 0xfe && key.Addr[1]&0xc0 == 0x80)
			})
			if i >= 0 {
				r.Src = addressHalves(addrs[i].IP.To4(), addrs[i].IP.To16())
				t[key] = r
			}
		}
	}
	return nil
}
