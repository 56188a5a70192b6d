// SPDX-License-Identifier: Apache-2.0

package diff

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
	"github.com/wfpebpf/wfpebpf/policy"
)

// Large sets have tables of their own, by what they hold: addresses far apart, many
// in one network, ranges, networks of one size and of several, and more of them at one
// field.
func TestDiffSets(t *testing.T) {
	d := newDiffer(t)
	r := rand.New(rand.NewPCG(1, 2))
	v4 := func(a uint32) netip.Addr { return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, a))) }
	v6 := func(high, low uint64) netip.Addr {
		return netip.AddrFrom16(filter.Addr6{High: high, Low: low}.Bytes())
	}
	type shape struct {
		name  string
		layer layermap.LayerID
		draw  func(i int) (low, high netip.Addr)
	}
	one := func(a netip.Addr) (netip.Addr, netip.Addr) { return a, a }
	shapes := []shape{
		{"far apart", layermap.ALEAuthConnectV4, func(int) (_, _ netip.Addr) { return one(v4(r.Uint32())) }},
		{"every other", layermap.ALEAuthConnectV4, func(i int) (_, _ netip.Addr) { return one(v4(uint32(10<<24 + 2*i))) }},
		{"crowds", layermap.ALEAuthConnectV4, func(i int) (_, _ netip.Addr) {
			return one(v4(uint32(i/40)<<16 | 0x5500 | r.Uint32()&0xff))
		}},
		{"ranges", layermap.ALEAuthConnectV4, func(int) (low, high netip.Addr) {
			a := r.Uint32() &^ 0xffff
			return v4(a - r.Uint32N(300)), v4(a + r.Uint32N(300))
		}},
		{"networks", layermap.InboundTransportV4, func(int) (low, high netip.Addr) {
			size := uint32(1) << r.IntN(12)
			a := r.Uint32() &^ (size - 1)
			return v4(a), v4(a + size - 1)
		}},
		{"far apart", layermap.ALEAuthConnectV6, func(int) (_, _ netip.Addr) { return one(v6(0x20010db8<<32|uint64(r.Uint32()), r.Uint64())) }},
		{"every other", layermap.ALEAuthConnectV6, func(i int) (_, _ netip.Addr) { return one(v6(0x20010db8<<32, uint64(2*i)-9000)) }},
		{"ranges", layermap.ALEAuthConnectV6, func(i int) (low, high netip.Addr) {
			return v6(0x20010db8<<32|uint64(i), 5), v6(0x20010db8<<32|uint64(i), 5+r.Uint64N(1000))
		}},
		{"networks of one size", layermap.InboundTransportV6, func(int) (low, high netip.Addr) {
			a := 0x2a00<<48 | r.Uint64N(1<<28)<<16
			return v6(a, 0), v6(a|0xffff, ^uint64(0))
		}},
		{"addresses and networks", layermap.ALEAuthConnectV6, func(i int) (low, high netip.Addr) {
			if i%100 != 0 {
				return one(v6(0x20010db8<<32|r.Uint64N(1<<20), r.Uint64()))
			}
			a := r.Uint64N(1<<32) << 32
			return v6(a, 0), v6(a|0xffffffff, ^uint64(0))
		}},
	}
	const entries, pairs = 20_000, 5000
	for _, c := range shapes {
		for _, negated := range []bool{false, true} {
			l, s := layermap.ByID(c.layer), filter.NewStore()
			is4 := l.Family != layermap.V6
			var bounds []netip.Addr
			for n := range 3 {
				var b filter.SetBuilder
				for i := range entries {
					low, high := c.draw(i)
					if n == 1 && i == 0 { // the first and the last, in one of them
						low, high = netip.IPv6Unspecified(), netip.IPv6Unspecified()
						if is4 {
							low, high = v4(0), v4(0)
						}
					} else if n == 1 && i == 1 {
						low, high = v6(^uint64(0), ^uint64(0)), v6(^uint64(0), ^uint64(0))
						if is4 {
							low, high = v4(^uint32(0)), v4(^uint32(0))
						}
					}
					if high.Less(low) {
						continue // around the end
					}
					if err := b.Add(low, high); err != nil {
						t.Fatal(err)
					}
					bounds = append(bounds, low, high)
				}
				f := &filter.Filter{Layer: c.layer, Name: fmt.Sprint(c.name, n), Action: filter.ActionBlock, Weight: filter.U64(uint64(n))}
				match := filter.MatchEqual
				if negated && n > 0 {
					match = filter.MatchNotEqual
				}
				set := filter.SetValue(b.Set(f.Name, ""))
				f.Conditions = []filter.Condition{{Field: "IP_REMOTE_ADDRESS", Match: match, Value: set}}
				switch n {
				case 1:
					f.Action = filter.ActionPermit
					f.Conditions = append(f.Conditions, filter.Condition{Field: "IP_LOCAL_ADDRESS", Match: filter.MatchEqual, Value: set})
				case 2:
					f.Conditions = append(f.Conditions, filter.Condition{Field: "IP_PROTOCOL", Match: filter.MatchEqual, Value: filter.U8(6)})
				}
				if err := s.AddFilter(f); err != nil {
					t.Fatal(err)
				}
			}
			p := &policy.Policy{Store: s}
			if err := d.engine.Commit(context.Background(), p); err != nil {
				t.Fatal(err)
			}
			draw := func() filter.Value {
				a := bounds[r.IntN(len(bounds))]
				switch next := r.IntN(4); {
				case next == 1 && a.Next().IsValid():
					a = a.Next()
				case next == 2 && a.Prev().IsValid():
					a = a.Prev()
				case next == 3:
					b := a.AsSlice()
					b[r.IntN(len(b))] ^= 1 << r.IntN(8)
					a, _ = netip.AddrFromSlice(b)
				}
				if is4 {
					return filter.Addr4(a)
				}
				return filter.Addr16(a)
			}
			values := make([]filter.Values, pairs)
			for i := range values {
				values[i] = make(filter.Values, len(l.Fields))
				for n, f := range l.Fields {
					if src := l.Source(f.Key); src.Kind == layermap.Constant {
						values[i][n] = filter.Value{Type: f.DataType, Num: src.Value}
					}
				}
				values[i][l.FieldIndex("IP_REMOTE_ADDRESS")] = draw()
				values[i][l.FieldIndex("IP_LOCAL_ADDRESS")] = draw()
				values[i][l.FieldIndex("IP_PROTOCOL")] = filter.U8([]uint8{6, 17}[r.IntN(2)])
			}
			d.compare(scene{test: t.Name()}, p, l, values)
		}
	}
}
