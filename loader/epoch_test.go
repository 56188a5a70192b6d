// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"strings"
	"testing"

	"github.com/wfpebpf/wfpebpf/layermap"
	"github.com/wfpebpf/wfpebpf/policy"
)

// Epochs differ where the filters of the layer do, and nowhere else.
func TestEpochs(t *testing.T) {
	epoch := func(filters string) uint64 {
		t.Helper()
		text := "wfpebpf: 1\nsublayers: [{key: high, weight: 9}, {key: low, weight: 2}]\nfilters:\n" + filters
		p, err := policy.LoadReader("policy", strings.NewReader(text), policy.Options{})
		if err != nil {
			t.Fatal(err)
		}
		tables, err := compile(p, portRange{32768, 60999})
		if err != nil {
			t.Fatal(err)
		}
		if l := tables.layers[layermap.ALEAuthConnectV4]; l != nil {
			return l.Epoch
		}
		return 0
	}
	const (
		web   = "  - {name: Web, layer: ALE_AUTH_CONNECT_V4, action: PERMIT, weight: 5, sublayer: high, conditions: [{IP_REMOTE_PORT: 80}]}\n"
		rest  = "  - {name: Rest, layer: ALE_AUTH_CONNECT_V4, action: BLOCK, weight: 0, sublayer: high}\n"
		other = "  - {name: Other, layer: ALE_AUTH_RECV_ACCEPT_V4, action: BLOCK}\n"
	)
	base := epoch(web + rest)
	for _, row := range []struct {
		name, filters string
		same          bool
	}{
		{"again", web + rest, true},
		{"with a filter of another layer before", other + web + rest, true},
		{"in another order, by other weights of their own", rest + web, true},
		{"under another name", strings.Replace(web, "Web", "WWW", 1) + rest, true},
		{"with one that nothing matches", web + rest + "  - {name: None, layer: ALE_AUTH_CONNECT_V4, action: BLOCK, conditions: [{TUNNEL_TYPE: 1}]}\n", true},
		{"one less", web, false},
		{"one twice", web + web + rest, false},
		{"another action", strings.Replace(web, "PERMIT", "BLOCK", 1) + rest, false},
		{"a hard permit", strings.Replace(web, "weight: 5", "weight: 5, flags: [CLEAR_ACTION_RIGHT]", 1) + rest, false},
		{"another value", strings.Replace(web, "80", "81", 1) + rest, false},
		{"another field", strings.Replace(web, "IP_REMOTE_PORT", "IP_LOCAL_PORT", 1) + rest, false},
		{"another match", strings.Replace(web, "IP_REMOTE_PORT: 80", "IP_REMOTE_PORT: {match: NOT_EQUAL, value: 80}", 1) + rest, false},
		{"another weight", strings.Replace(web, "weight: 5", "weight: 6", 1) + rest, false},
		{"another sublayer", strings.Replace(web, "high", "low", 1) + rest, false},
		{"none", other, false},
	} {
		if got := epoch(row.filters); (got == base) != row.same {
			t.Errorf("%s: epoch %#x, before %#x, the same: want %t", row.name, got, base, row.same)
		}
	}
	if got := epoch(other); got != 0 {
		t.Errorf("a layer without filters has epoch %#x", got)
	}
}
