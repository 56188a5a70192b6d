// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
	"github.com/wfpebpf/wfpebpf/policy"
)

// largeSet is half a million addresses far apart.
func largeSet(tb testing.TB, v6 bool) *filter.AddressSet {
	tb.Helper()
	r := rand.New(rand.NewPCG(1, 2))
	var b filter.SetBuilder
	for range 500_000 {
		a := netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, r.Uint32()|0x01000000)))
		if v6 {
			raw := [16]byte{0x20, 0x01, 0x0d, 0xb8}
			binary.BigEndian.PutUint32(raw[4:], r.Uint32())
			binary.BigEndian.PutUint64(raw[8:], r.Uint64())
			a = netip.AddrFrom16(raw)
		}
		if err := b.Add(a, a); err != nil {
			tb.Fatal(err)
		}
	}
	return b.Set("large", "")
}

func setPolicy(tb testing.TB, layer layermap.LayerID, set *filter.AddressSet) *policy.Policy {
	tb.Helper()
	s := filter.NewStore()
	if err := s.AddFilter(&filter.Filter{
		Name: "Block the set", Layer: layer, Action: filter.ActionBlock,
		Conditions: []filter.Condition{{Field: "IP_REMOTE_ADDRESS", Match: filter.MatchEqual, Value: filter.SetValue(set)}},
	}); err != nil {
		tb.Fatal(err)
	}
	return &policy.Policy{Store: s}
}

func BenchmarkCompileSet(b *testing.B) {
	for _, layer := range []layermap.LayerID{layermap.ALEAuthConnectV4, layermap.ALEAuthConnectV6} {
		p := setPolicy(b, layer, largeSet(b, layermap.ByID(layer).Family == layermap.V6))
		b.Run(layermap.ByID(layer).Name, func(b *testing.B) {
			for b.Loop() {
				t, err := compile(p, portRange{32768, 60999})
				if err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(4*len(t.cells)+len(t.buckets)*96+len(t.branches)*128)/1e6, "MB")
			}
		})
	}
}
