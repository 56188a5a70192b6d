// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"

	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
	"github.com/wfpebpf/wfpebpf/policy"
)

// rule is one filter of the benchmark, from which a WFP filter, a row of the
// linear scan and matching headers are made. It tests local and remote address,
// protocol, both ports, interface and FLAGS.
type rule struct {
	local, remote         netip.Prefix
	protocol              uint8 // 0: any
	localLow, localHigh   uint16
	remoteLow, remoteHigh uint16
	luid                  uint64 // 0: any
	flagsNone             uint32
	block                 bool
	subLayer              int
}

const (
	benchSubLayers = 5
	benchLinks     = 8
	flagLoopback   = 0x1
	flagReauth     = 0x4
)

// rules makes n rules in five sublayers. Most are narrow, as in real policies:
// a remote prefix or a local port for one protocol.
func rules(n int, v6 bool, seed uint64) []rule {
	r := rand.New(rand.NewPCG(seed, uint64(n)))
	list := make([]rule, n)
	for i := range list {
		x := rule{localHigh: 65535, remoteHigh: 65535, local: whole(v6), remote: whole(v6), subLayer: i * benchSubLayers / n}
		x.protocol = []uint8{6, 6, 6, 17, 17, 0}[r.IntN(6)]
		if r.IntN(4) != 0 {
			x.remote = prefix(r, v6, 0, []int{16, 20, 24, 28, 32}[r.IntN(5)])
		}
		if r.IntN(6) == 0 {
			x.local = prefix(r, v6, 1, []int{24, 32}[r.IntN(2)])
		}
		if r.IntN(2) == 0 || x.remote.Bits() == 0 {
			x.localLow = uint16(r.IntN(65536))
			x.localHigh = x.localLow
			if r.IntN(5) == 0 {
				x.localHigh = uint16(min(65535, int(x.localLow)+r.IntN(64)))
			}
		}
		if r.IntN(8) == 0 {
			x.remoteLow = uint16(r.IntN(65536))
			x.remoteHigh = x.remoteLow
		}
		if r.IntN(8) == 0 {
			x.luid = uint64(1 + r.IntN(benchLinks))
		}
		if r.IntN(4) == 0 {
			x.flagsNone = []uint32{flagLoopback, flagReauth, flagLoopback | flagReauth}[r.IntN(3)]
		}
		x.block = r.IntN(8) == 0
		list[i] = x
	}
	return list
}

func whole(v6 bool) netip.Prefix {
	if v6 {
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
}

// prefix draws from a few thousand networks; a V6 prefix is 32 bits longer, as
// is usual.
func prefix(r *rand.Rand, v6 bool, net byte, bits int) netip.Prefix {
	n := r.Uint32()
	if v6 {
		var b [16]byte
		b[0], b[1], b[2], b[3] = 0x20, 0x01, 0x0d, 0xb8+net
		binary.BigEndian.PutUint32(b[4:], n)
		bits += 32
		if bits == 64 && r.IntN(2) == 0 {
			bits = 128
			binary.BigEndian.PutUint64(b[8:], r.Uint64())
		}
		return netip.PrefixFrom(netip.AddrFrom16(b), bits).Masked()
	}
	b := [4]byte{}
	binary.BigEndian.PutUint32(b[:], n)
	b[0] = 10 + net
	return netip.PrefixFrom(netip.AddrFrom4(b), bits).Masked()
}

func (x *rule) conditions(v6 bool) []filter.Condition {
	var cs []filter.Condition
	add := func(field string, m filter.MatchType, v filter.Value) {
		cs = append(cs, filter.Condition{Field: field, Match: m, Value: v})
	}
	address := func(field string, p netip.Prefix) {
		switch {
		case p.Bits() == 0:
		case v6:
			add(field, filter.MatchEqual, filter.V6Mask(p))
		default:
			add(field, filter.MatchEqual, filter.V4Mask(p))
		}
	}
	port := func(field string, low, high uint16) {
		switch {
		case low == 0 && high == 65535:
		case low == high:
			add(field, filter.MatchEqual, filter.U16(low))
		default:
			add(field, filter.MatchRange, filter.RangeOf(filter.U16(low), filter.U16(high)))
		}
	}
	address("IP_LOCAL_ADDRESS", x.local)
	address("IP_REMOTE_ADDRESS", x.remote)
	port("IP_LOCAL_PORT", x.localLow, x.localHigh)
	port("IP_REMOTE_PORT", x.remoteLow, x.remoteHigh)
	if x.protocol != 0 {
		add("IP_PROTOCOL", filter.MatchEqual, filter.U8(x.protocol))
	}
	if x.luid != 0 {
		add("IP_LOCAL_INTERFACE", filter.MatchEqual, filter.U64(x.luid))
	}
	if x.flagsNone != 0 {
		add("FLAGS", filter.MatchFlagsNoneSet, filter.U32(x.flagsNone))
	}
	return cs
}

// policyOf makes the policy of a layer.
func policyOf(layer layermap.LayerID, list []rule) (*policy.Policy, error) {
	s := filter.NewStore()
	v6 := layermap.ByID(layer).Family == layermap.V6
	var keys []filter.GUID
	for i := range benchSubLayers {
		keys = append(keys, filter.DeriveKey("sublayer", fmt.Sprint("bench", i)))
		if err := s.AddSubLayer(filter.SubLayer{Key: keys[i], Name: fmt.Sprint("bench ", i), Weight: uint16(1000 - i)}); err != nil {
			return nil, err
		}
	}
	for i, x := range list {
		f := &filter.Filter{
			Name: fmt.Sprint("rule ", i), Layer: layer, SubLayer: keys[x.subLayer], Action: filter.ActionPermit,
			Weight: filter.U64(uint64(len(list) - i)), Conditions: x.conditions(v6),
		}
		if x.block {
			f.Action = filter.ActionBlock
		}
		if err := s.AddFilter(f); err != nil {
			return nil, err
		}
	}
	return &policy.Policy{Store: s}, nil
}

// scanned makes the row of the linear scan. Both classifiers read addresses as
// they stand in the values: one of IPv4 is the number in the first word.
func (x *rule) scanned(v6 bool) benchBenchRule {
	r := benchBenchRule{
		Interface: x.luid, FlagsNone: x.flagsNone, Protocol: x.protocol, Sublayer: uint16(x.subLayer),
		LocalPortLow: x.localLow, LocalPortHigh: x.localHigh, RemotePortLow: x.remoteLow, RemotePortHigh: x.remoteHigh,
	}
	if x.block {
		r.Block = 1
	}
	r.LocalLow, r.LocalHigh = bounds(x.local, v6)
	r.RemoteLow, r.RemoteHigh = bounds(x.remote, v6)
	return r
}

func bounds(p netip.Prefix, v6 bool) (low, high [2]uint64) {
	if !v6 {
		b := p.Addr().As4()
		low[0] = uint64(binary.BigEndian.Uint32(b[:]))
		high[0] = low[0] | (1<<(32-p.Bits()) - 1)
		return low, high
	}
	b := p.Addr().As16()
	low = [2]uint64{binary.BigEndian.Uint64(b[:]), binary.BigEndian.Uint64(b[8:])}
	high = [2]uint64{low[0] | ^uint64(0)>>min(p.Bits(), 64), low[1] | ^uint64(0)>>max(p.Bits()-64, 0)}
	return low, high
}

// headers makes traffic that matches deep: each header is built to meet a rule
// drawn from the whole list.
func headers(layer layermap.LayerID, list []rule, n int, seed uint64) []filter.Values {
	r := rand.New(rand.NewPCG(seed, 77))
	l := layermap.ByID(layer)
	v6 := l.Family == layermap.V6
	out := make([]filter.Values, n)
	for i := range out {
		x := list[r.IntN(len(list))]
		vs := make(filter.Values, len(l.Fields))
		set := func(field string, v filter.Value) { vs[l.FieldIndex(field)] = v }
		set("IP_LOCAL_ADDRESS", addressIn(r, x.local, v6, 1))
		set("IP_REMOTE_ADDRESS", addressIn(r, x.remote, v6, 0))
		set("IP_LOCAL_PORT", filter.U16(x.localLow+uint16(r.IntN(int(x.localHigh-x.localLow)+1))))
		set("IP_REMOTE_PORT", filter.U16(x.remoteLow+uint16(r.IntN(int(x.remoteHigh-x.remoteLow)+1))))
		protocol := x.protocol
		if protocol == 0 {
			protocol = []uint8{6, 17}[r.IntN(2)]
		}
		set("IP_PROTOCOL", filter.U8(protocol))
		luid := x.luid
		if luid == 0 {
			luid = uint64(1 + r.IntN(benchLinks))
		}
		set("IP_LOCAL_INTERFACE", filter.U64(luid))
		set("FLAGS", filter.U32(uint32([]int{0, flagLoopback, flagReauth}[r.IntN(3)])&^x.flagsNone))
		out[i] = vs
	}
	return out
}

func addressIn(r *rand.Rand, p netip.Prefix, v6 bool, net byte) filter.Value {
	if p.Bits() == 0 {
		p = prefix(r, v6, net, 32)
	}
	a := p.Addr().As16()
	for bit := p.Bits() + 128 - p.Addr().BitLen(); bit < 128; bit++ {
		if r.IntN(2) == 0 {
			a[bit/8] |= 0x80 >> (bit % 8)
		}
	}
	if v6 {
		return filter.Addr16(netip.AddrFrom16(a))
	}
	return filter.Addr4(netip.AddrFrom16(a).Unmap())
}
