// SPDX-License-Identifier: Apache-2.0

package filter

import "testing"

// BenchmarkArbitrate goes through 256 filters that do not match and one that
// does.
func BenchmarkArbitrate(b *testing.B) {
	s := NewStore()
	for i := range 256 {
		must(b, s.AddFilter(&Filter{
			Name: "f", Layer: connectV4.ID, Action: ActionBlock, Weight: U8(9),
			Conditions: []Condition{{"IP_REMOTE_ADDRESS", MatchEqual, U32(uint32(i))}, {"IP_PROTOCOL", MatchEqual, U8(6)}},
		}))
	}
	must(b, s.AddFilter(&Filter{Name: "f", Layer: connectV4.ID, Action: ActionPermit}))
	p := s.Plan(connectV4.ID)
	values := valuesOf(connectV4, map[string]Value{"IP_REMOTE_ADDRESS": v4("10.0.0.1"), "IP_PROTOCOL": U8(6)})
	var r Result
	for b.Loop() {
		p.Arbitrate(values, nil, &r)
	}
}
