// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/wfpebpf/wfpebpf/policy"
)

// Exceeding a limit of redirection is an error of a dry run, too.
func TestRedirectLimits(t *testing.T) {
	redirecting := func(subLayers, filters int, callout string) string {
		var b strings.Builder
		b.WriteString("wfpebpf: 1\ncallouts: [{key: c, layer: ALE_CONNECT_REDIRECT_V4, builtin: redirect, to: '127.0.0.1:1'}]\nsublayers:\n")
		for i := range subLayers {
			fmt.Fprintf(&b, "  - {key: s%d, weight: %d}\n", i, i)
		}
		b.WriteString("filters:\n")
		for i := range filters {
			fmt.Fprintf(&b, "  - {name: f%d, layer: ALE_CONNECT_REDIRECT_V4, sublayer: s%d, %s, conditions: [{IP_REMOTE_PORT: %d}]}\n",
				i, i%subLayers, callout, i)
		}
		return b.String()
	}
	const redirect, permit = "action: CALLOUT_TERMINATING, callout: c", "action: PERMIT"
	for _, c := range []struct {
		subLayers, filters int
		action             string
		limit              bool
	}{
		{MaxRedirectSubLayers, MaxRedirectSubLayers, redirect, false},
		{MaxRedirectSubLayers + 1, MaxRedirectSubLayers + 1, redirect, true},
		{MaxRedirectSubLayers + 1, MaxRedirectSubLayers + 1, permit, false},
		{1, MaxRedirects, redirect, false},
		{1, MaxRedirects + 1, redirect, true},
	} {
		p, err := policy.LoadReader("p.yaml", strings.NewReader(redirecting(c.subLayers, c.filters, c.action)), policy.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if err := Check(p); errors.Is(err, ErrLimit) != c.limit || err != nil && !c.limit {
			t.Errorf("%d filters of %d sublayers, %s: %v", c.filters, c.subLayers, c.action, err)
		}
	}
}
