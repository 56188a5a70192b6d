// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/netip"
	"testing"

	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/policy"
)

// What --failsafe lets in must be filters that the store takes, for nothing
// looks at them again.
func FuzzFailsafe(f *testing.F) {
	for _, s := range []string{"tcp/22", "UDP/51820", "tcp/22@10.0.0.0/8", "tcp/22@2001:db8::1", "tcp/22@::ffff:10.0.0.0/104", "tcp/22@fe80::1%lo"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := parseFailsafe(text)
		if err != nil {
			return
		}
		if s.port == 0 || s.protocol != 6 && s.protocol != 17 {
			t.Errorf("%q is protocol %d, port %d", text, s.protocol, s.port)
		}
		p := &policy.Policy{Store: filter.NewStore()}
		if err := addFailsafes(p, []failsafe{s}); err != nil {
			t.Errorf("%q: %v", text, err)
		}
		if r := p.Report(); r.Total == 0 || r.Enforced != r.Total {
			t.Errorf("%q: report %+v", text, r)
		}
	})
}

// What the flags of explain describe is judged, whatever it is.
func FuzzTuple(f *testing.F) {
	f.Add(true, "tcp", "10.0.0.2:50000", "10.0.0.1:445", "/usr/bin/curl", "1000", "dosvc.service")
	f.Add(false, "udp", "[2001:db8::1]:53", "[2001:db8::2]", "", "gid:10", "")
	f.Add(false, "99", "", "::ffff:10.0.0.1", "System", "S-1-5-18", "")
	f.Fuzz(func(t *testing.T, out bool, protocol, from, to, program, user, unit string) {
		q := question{from: from, to: to, program: program, unit: unit}
		if user != "" {
			q.user = "uid:" + user // a name would be looked up on this host
		}
		if q.in = protocol; out {
			q.in, q.out = "", protocol
		}
		p := &policy.Policy{Store: filter.NewStore()}
		tuple, err := q.tuple(p, &policy.Map{})
		if err != nil {
			return
		}
		for _, a := range []netip.Addr{tuple.Local.Addr(), tuple.Remote.Addr()} {
			if a.Zone() != "" {
				t.Errorf("address %v has a zone, which no field holds", a)
			}
		}
		for _, windows := range []bool{false, true} {
			for _, a := range tuple.Explain(p, p.Store, windows) {
				if a.Verdict != "permit" {
					t.Errorf("no filter, and %s says %s", a.Layer, a.Verdict)
				}
			}
		}
	})
}
