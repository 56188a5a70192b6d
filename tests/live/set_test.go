// SPDX-License-Identifier: Apache-2.0

package live

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
	"github.com/wfpebpf/wfpebpf/policy"
	"github.com/wfpebpf/wfpebpf/tests/testbed"
)

// setFile writes a list of some thousand addresses and networks of both
// families, in no order, and with it the entries given.
func setFile(t *testing.T, entries ...string) string {
	t.Helper()
	var b strings.Builder
	for i := range 3000 {
		n := i * 7919 % 3000
		fmt.Fprintf(&b, "198.18.%d.%d\n2001:db8:%x::/48\n", n>>7, n<<1&255, n<<1)
		if i == 1500 {
			b.WriteString(strings.Join(entries, "\n") + "\n")
		}
	}
	file := filepath.Join(t.TempDir(), "list.txt")
	if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// A list of addresses is one filter: it blocks who is in it and nobody beside.
func TestSet(t *testing.T) {
	b := newBed(t)
	p, peer := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	b.listen(p, 8080)
	b.listen(peer, 8080)
	second := []string{b.peerEnd.SecondV4.String(), b.peerEnd.SecondV6.String()}
	listed := "sets: {listed: {file: " + setFile(t, second...) + "}}\n"
	all := "sets: {all: {file: " + setFile(t, "10.77.0.0/24", "fd77::/64") + "}}\n"
	plain := []call{tcp(8080), udp(8080)}
	fromSecond := []call{tcp(8080).fromPeerSecond(), udp(8080).fromPeerSecond()}
	for _, row := range []struct {
		name, sets, layer, condition string
		blocked, passed              []call
		how                          outcome
	}{
		{"packets in", listed, "INBOUND_IPPACKET", "{IP_REMOTE_ADDRESS: {set: listed}}", fromSecond, plain, dropped},
		{"packets out", listed, "OUTBOUND_IPPACKET", "{IP_REMOTE_ADDRESS: {set: listed}}", fromSecond, plain, dropped},
		{"accept", listed, "ALE_AUTH_RECV_ACCEPT", "{IP_REMOTE_ADDRESS: {set: listed}}", fromSecond, plain, dropped},
		{"accept from others", listed, "ALE_AUTH_RECV_ACCEPT", "{IP_REMOTE_ADDRESS: {match: NOT_EQUAL, set: listed}}", plain, fromSecond, dropped},
		{"a network", all, "ALE_AUTH_RECV_ACCEPT", "{IP_REMOTE_ADDRESS: {set: all}}", slices.Concat(plain, fromSecond), nil, dropped},
		{"all but a network", all, "ALE_AUTH_RECV_ACCEPT", "{IP_REMOTE_ADDRESS: {match: NOT_EQUAL, set: all}}", nil, slices.Concat(plain, fromSecond), dropped},
		{"local addresses", all, "INBOUND_IPPACKET", "{IP_LOCAL_ADDRESS: {set: all}}", plain, nil, dropped},
	} {
		t.Run(row.name, func(t *testing.T) {
			b.apply(row.sets + blocks(both(row.layer), row.condition))
			for _, f := range b.families() {
				t.Run(f.name, func(t *testing.T) {
					each(t, peer, f, row.passed, passes)
					b.events()
					each(t, peer, f, row.blocked, row.how)
					if len(row.blocked) > 0 {
						b.wantBlock(row.layer+"_"+f.layer, "Block it")
						b.wantHits(row.layer+"_"+f.layer, "Block it")
					}
				})
			}
		})
	}
	t.Run("connect", func(t *testing.T) {
		b.apply(listed + blocks(atConnect, "{IP_REMOTE_ADDRESS: {set: listed}}"))
		for _, f := range b.families() {
			passes.want(t, p.Connect(f.tcp, at(f.peer, 8080)))
			denied.want(t, p.Connect(f.tcp, at(f.peerSecond, 8080)))
			b.wantBlock("ALE_AUTH_CONNECT_"+f.layer, "Block it")
		}
	})
}

// The policy in force keeps its sets beside the record, whatever becomes of the
// files; what no commit has any more goes.
func TestSetIsKept(t *testing.T) {
	b := newBed(t)
	file := setFile(t, b.peerEnd.SecondV4.String())
	listed := "sets: {a: {file: " + file + "}, b: {file: " + file + "}}\nfilters:\n" +
		rule("BLOCK", "A", both("INBOUND_IPPACKET"), 8, "{IP_REMOTE_ADDRESS: {set: a}}") +
		rule("BLOCK", "B", both("OUTBOUND_IPPACKET"), 8, "{IP_REMOTE_ADDRESS: {set: b}}")
	other := "sets: {a: [192.0.2.1]}\n" + blocks("INBOUND_IPPACKET_V4", "{IP_REMOTE_ADDRESS: {set: a}}")
	none := blocks("INBOUND_IPPACKET_V4", "{IP_REMOTE_ADDRESS: 192.0.2.1}")
	run := func() string { return filepath.Join("/run/wfpebpf", filepath.Base(b.pins())) }
	kept := func(want int) {
		t.Helper()
		files, err := filepath.Glob(filepath.Join(run(), "set-*"))
		if err != nil || len(files) != want {
			t.Errorf("kept %q, want %d files (%v)", files, want, err)
		}
	}
	blocked := func(p *policy.Policy, addr netip.Addr) bool {
		l := layermap.ByID(layermap.InboundIPPacketV4)
		values := make(filter.Values, len(l.Fields))
		values[l.FieldIndex("IP_REMOTE_ADDRESS")] = filter.Addr4(addr)
		return filter.Arbitrate(p.Store, l.ID, values, nil).Blocked()
	}
	inForce := func(want bool) {
		t.Helper()
		p, err := b.engine.Policy()
		if err != nil {
			t.Fatal(err)
		}
		if got := blocked(p, b.peerEnd.SecondV4); got != want {
			t.Errorf("the policy in force blocks the listed address: %t", got)
		}
	}
	b.apply(listed)
	kept(1) // both sets are one file
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	inForce(true)
	st, err := os.Stat(filepath.Join(run(), "policy-1.json"))
	if err != nil || st.Size() > 64<<10 {
		t.Errorf("the record takes %d bytes (%v)", st.Size(), err)
	}
	b.apply(other)
	kept(2)
	inForce(false)
	if err := b.engine.Rollback(); err != nil {
		t.Fatal(err)
	}
	kept(1)
	inForce(true)
	rows, err := b.engine.Sets()
	if err != nil || len(rows) != 2 || rows[0].Name != "a" || rows[0].Entries != 6001 || rows[0].File != file || rows[0].Filters != 2 {
		t.Errorf("sets %+v, %v", rows, err)
	}
	b.apply(none)
	kept(1) // for a roll-back
	b.apply(none)
	kept(0)
}
