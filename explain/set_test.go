// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/wfpebpf/wfpebpf/layermap"
)

const withSets = `
wfpebpf: 1
sets:
  listed: [192.0.2.0/24, 198.51.100.1-198.51.100.9, "2001:db8::/32"]
  ours: [10.0.0.0/8]
sublayers: [{key: first, weight: 60000}]
filters:
  - {name: Listed, layer: [ALE_AUTH_CONNECT_V4, ALE_AUTH_CONNECT_V6], sublayer: first, action: BLOCK, conditions: [{IP_REMOTE_ADDRESS: {set: listed}}]}
  - {name: Foreign, layer: ALE_AUTH_CONNECT_V4, action: PERMIT, conditions: [{IP_REMOTE_ADDRESS: {match: NOT_EQUAL, set: ours}}, {IP_REMOTE_PORT: 443}]}
`

// An answer names the part of a set by which a filter matched, never the set's
// other addresses.
func TestSetsInAnswers(t *testing.T) {
	p, m := load(t, withSets)
	const foreign = `"Foreign" (3) matches by set "ours": IP_REMOTE_ADDRESS `
	for _, tc := range []struct {
		layer, address, verdict string
		want                    []string
	}{
		{"ALE_AUTH_CONNECT_V4", "192.0.2.7", block, []string{
			`"Listed" (1) matches by set "listed": IP_REMOTE_ADDRESS 192.0.2.7 is in it (192.0.2.0/24)`, foreign + "192.0.2.7 is not in it"}},
		{"ALE_AUTH_CONNECT_V4", "198.51.100.2", block, []string{
			`"Listed" (1) matches by set "listed": IP_REMOTE_ADDRESS 198.51.100.2 is in it (198.51.100.1-198.51.100.9)`, foreign + "198.51.100.2 is not in it"}},
		{"ALE_AUTH_CONNECT_V6", "2001:db8::7", block, []string{
			`"Listed" (2) matches by set "listed": IP_REMOTE_ADDRESS 2001:db8::7 is in it (2001:db8::/32)`}},
		{"ALE_AUTH_CONNECT_V4", "203.0.113.1", permit, []string{foreign + "203.0.113.1 is not in it"}},
		{"ALE_AUTH_CONNECT_V4", "10.1.1.1", permit, nil},
	} {
		t.Run(tc.address, func(t *testing.T) {
			l := layermap.ByName(tc.layer)
			values, err := Values(p, m, l, []string{"IP_REMOTE_ADDRESS=" + tc.address, "IP_REMOTE_PORT=443"})
			if err != nil {
				t.Fatal(err)
			}
			a := Layer(p.Store, l, values, false)
			var b bytes.Buffer
			if err := WriteText(&b, []Answer{a}); err != nil {
				t.Fatal(err)
			}
			var got []string
			for line := range strings.Lines(b.String()) {
				if strings.Contains(line, "by set") {
					got = append(got, strings.TrimSpace(line))
				}
			}
			if a.Verdict != tc.verdict || !slices.Equal(got, tc.want) {
				t.Errorf("%s:\n%s\nwant %s and\n%s", a.Verdict, b.String(), tc.verdict, strings.Join(tc.want, "\n"))
			}
			out, err := json.Marshal(a)
			if err != nil {
				t.Fatal(err)
			}
			if has := strings.Contains(string(out), `"sets":[{"filterId":`); has != (len(tc.want) > 0) {
				t.Errorf("JSON %s", out)
			}
		})
	}
}
