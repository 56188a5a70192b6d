// SPDX-License-Identifier: Apache-2.0

package diff

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
	"github.com/wfpebpf/wfpebpf/policy"
)

// Every field of more than four bytes at once, by ranges, sets and bits, which random
// policies hardly ever ask for together, in more sublayers than one search judges.
func TestDiffWideFields(t *testing.T) {
	d := newDiffer(t)
	r := rand.New(rand.NewPCG(1, 2))
	address := func(n int) netip.Addr {
		return netip.AddrFrom16([16]byte{0x20, 1, 0x0d, 0xb8, 7: byte(n & 1), 15: byte(n)})
	}
	for _, id := range []layermap.LayerID{layermap.ALEAuthConnectV6, layermap.ALEAuthRecvAcceptV6} {
		l, s := layermap.ByID(id), filter.NewStore()
		draw := func(f layermap.Field) filter.Value {
			if f.DataType == layermap.ByteArray16 {
				return filter.Addr16(address(r.IntN(64)))
			}
			return filter.U64(uint64(r.IntN(64)))
		}
		var wide []layermap.Field
		for _, f := range l.Fields {
			if l.Source(f.Key).Kind == layermap.Filled && (f.DataType == layermap.ByteArray16 || f.DataType == layermap.Uint64) {
				wide = append(wide, f)
			}
		}
		for sub := range 20 {
			key := filter.DeriveKey("sublayer", fmt.Sprint("wide ", sub))
			if err := s.AddSubLayer(filter.SubLayer{Key: key, Name: fmt.Sprint(sub), Weight: uint16(1000 - sub)}); err != nil {
				t.Fatal(err)
			}
			for i := range 12 {
				f := &filter.Filter{Layer: id, SubLayer: key, Action: filter.ActionPermit, Name: fmt.Sprint(sub, i), Weight: filter.U64(uint64(i))}
				for _, n := range r.Perm(len(wide))[:2+r.IntN(2)] {
					c := filter.Condition{Field: wide[n].Key, Match: filter.MatchGreaterOrEqual, Value: draw(wide[n])}
					switch kind := r.IntN(4); {
					case kind == 0 && wide[n].DataType == layermap.ByteArray16:
						var b filter.SetBuilder
						for range 2 {
							a := address(32 * r.IntN(2))
							if err := b.Add(a, a.Next()); err != nil {
								t.Fatal(err)
							}
						}
						c.Match, c.Value = filter.MatchEqual, filter.SetValue(b.Set("some", ""))
					case kind == 0 && wide[n].Key == "IP_LOCAL_INTERFACE":
						c.Match, c.Value = filter.MatchFlagsAnySet, filter.U64(1<<r.IntN(6))
					case kind == 1:
						c.Match = filter.MatchLess
					}
					f.Conditions = append(f.Conditions, c)
				}
				if err := s.AddFilter(f); err != nil {
					t.Fatal(err)
				}
			}
		}
		p := &policy.Policy{Store: s}
		if err := d.engine.Commit(context.Background(), p); err != nil {
			t.Fatal(err)
		}
		values := make([]filter.Values, 3000)
		for i := range values {
			values[i] = make(filter.Values, len(l.Fields))
			for n, f := range l.Fields {
				if src := l.Source(f.Key); src.Kind == layermap.Constant {
					values[i][n] = filter.Value{Type: f.DataType, Num: src.Value}
				}
			}
			for _, f := range wide {
				if r.IntN(12) > 0 {
					values[i][l.FieldIndex(f.Key)] = draw(f)
				}
			}
		}
		d.compare(scene{test: t.Name()}, p, l, values)
	}
}
