// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/loader"
)

// manySubLayers is a policy with a filter in each of some sublayers.
func manySubLayers(n int) string {
	sublayers, filters := "wfpebpf: 1\nsublayers:\n", "filters:\n"
	for i := range n {
		sublayers += fmt.Sprintf("  - {key: sub%d, name: Sublayer %d, weight: %d}\n", i, i, 1000+i)
		filters += fmt.Sprintf("  - {name: Filter %d, layer: ALE_AUTH_CONNECT_V4, sublayer: sub%d, action: BLOCK, conditions: [{IP_REMOTE_PORT: %d}]}\n", i, i, 1000+i)
	}
	return sublayers + filters
}

// manyConditions is a policy of one filter with some conditions.
func manyConditions(n int) string {
	conditions := make([]string, n)
	for i := range conditions {
		conditions[i] = fmt.Sprintf("{IP_REMOTE_ADDRESS: 10.1.%d.%d}", i>>8, i&255)
	}
	return "wfpebpf: 1\nfilters:\n  - {name: Long, layer: ALE_AUTH_CONNECT_V4, action: BLOCK, conditions: [" + strings.Join(conditions, ", ") + "]}\n"
}

// pastLimits is policies past a limit and what the one line says of each.
var pastLimits = []struct {
	name, past, want string
	at               string // one at the limit
}{
	{
		"sublayers of a layer", manySubLayers(loader.MaxSubLayersPerLayer + 1),
		"wfpebpf: limit exceeded: 65 sublayers with filters at FWPS_LAYER_ALE_AUTH_CONNECT_V4, at most 64; bring filters together in fewer sublayers\n",
		manySubLayers(loader.MaxSubLayersPerLayer),
	},
	{
		"conditions of a filter", manyConditions(filter.MaxConditions + 1),
		`filter "Long", layer FWPS_LAYER_ALE_AUTH_CONNECT_V4: it has 16385 conditions, at most 16384: FWP_E_INVALID_PARAMETER (0x80320035): a parameter is bad; put addresses in a set, or make it several filters that share out the values of one field` + "\n",
		manyConditions(filter.MaxConditions),
	},
}

func TestDryRunFailsPastLimits(t *testing.T) {
	for _, c := range pastLimits {
		t.Run(c.name, func(t *testing.T) {
			r := wfpebpf(t, "apply", "--dry-run", write(t, "policy.yaml", c.past))
			if r.code != exitNothing || !strings.Contains(r.err, c.want) || strings.Count(r.err, "\n") != 1 {
				t.Errorf("exit code %d, stderr %q\nwant %q", r.code, r.err, c.want)
			}
			r = wfpebpf(t, "apply", "--dry-run", write(t, "policy.yaml", c.at))
			if r.code != exitDone || r.err != "" {
				t.Errorf("at the limit: exit code %d, stderr %q", r.code, r.err)
			}
		})
	}
}

func TestLiveApplyPastLimits(t *testing.T) {
	l := newLab(t)
	l.must("apply", write(t, "policy.yaml", blockServer))
	before := l.state()
	for _, c := range pastLimits {
		t.Run(c.name, func(t *testing.T) {
			r := l.run("apply", write(t, "policy.yaml", c.past))
			if r.code != exitNothing || !strings.Contains(r.err, c.want) || strings.Count(r.err, "\n") != 1 {
				t.Errorf("exit code %d, stderr %q\nwant %q", r.code, r.err, c.want)
			}
			l.requireConnect(true)
			if s := l.state(); s.Generation != before.Generation || s.Memory != before.Memory || !s.Applied.Equal(before.Applied) {
				t.Errorf("state %+v, want %+v", s, before)
			}
		})
	}
	l.must("apply", write(t, "policy.yaml", pastLimits[0].at))
	l.requireConnect(false)
}
