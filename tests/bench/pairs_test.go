// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/binary"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// pairsOf is pairs whose ratios are the given ones.
func pairsOf(rates, cpus []float64) (p pairs) {
	for i := range rates {
		p.a = append(p.a, slice{rate: 100, cpu: 100})
		p.b = append(p.b, slice{rate: 100 * rates[i], cpu: 100 / cpus[i]})
	}
	return p
}

func TestFloor(t *testing.T) {
	same := func(r float64) []float64 { return []float64{r, r, r, r} }
	for _, c := range []struct {
		name        string
		rates, cpus []float64
		want        string
	}{
		{"above it, the CPU time below", same(0.95), same(0.80), "PASS, by rate"},
		{"below it, the CPU time above", same(0.85), same(0.95), "short, by rate"},
		{"inside the spread, the CPU time above", []float64{0.7, 0.8, 1, 1.1}, same(0.91), "PASS, by CPU time"},
		{"inside the spread, the CPU time below", []float64{0.8, 0.85, 1, 1.1}, same(0.89), "short, by CPU time"},
		{"one pair is far off", []float64{0.1, 0.95, 0.95, 0.95, 0.95}, slices.Repeat([]float64{0.1}, 5), "PASS, by rate"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cells := floor{"it", 0.90, pairsOf(c.rates, c.cpus)}.cells()
			if got := cells[len(cells)-1]; got != c.want {
				t.Errorf("%q of %q, want %q", got, cells, c.want)
			}
		})
	}
}

func TestRatio(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   string
	}{
		{[]float64{0.9}, "0.90 (0.90-0.90)"},
		{[]float64{4, 1, 3, 2}, "2.50 (2.00-3.00)"},
		{[]float64{9, 1, 3, 2, 5, 4, 6, 7, 8}, "5.00 (3.00-7.00)"},
		{[]float64{0.0152, 0.014, 0.016}, "0.015 (0.014-0.016)"},
	} {
		if got := ratioOf(c.values).String(); got != c.want {
			t.Errorf("%v: %s, want %s", c.values, got, c.want)
		}
	}
}

// Each pair's slices are one of each, whichever came first.
func TestInterleave(t *testing.T) {
	var order string
	turn := func(name string, rate float64) func() (slice, error) {
		return func() (slice, error) { order += name; return slice{rate: rate, cpu: 1}, nil }
	}
	p, err := interleave(context.Background(), 3, turn("a", 1), turn("b", 2))
	if err != nil {
		t.Fatal(err)
	}
	if order != "ab"+"ba"+"ab"+"ba" {
		t.Errorf("turns are %s", order)
	}
	if got := p.rates().String(); len(p.a) != 3 || got != "2.00 (2.00-2.00)" {
		t.Errorf("%d pairs, b's rate is %s of a's", len(p.a), got)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := interleave(ctx, 3, turn("a", 1), turn("b", 2)); err != context.Canceled {
		t.Errorf("cancelled: %v", err)
	}
}

func TestWriteSection(t *testing.T) {
	path := filepath.Join(t.TempDir(), "RESULTS.md")
	for _, s := range []section{{"One", "first\n"}, {"Two", "second\n"}, {"One", "third\n"}} {
		if err := writeSection(path, s); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	got := string(b)
	one, two := strings.Index(got, "\n## One\n\nthird\n\nLinux "), strings.Index(got, "\n## Two\n\nsecond\n\nLinux ")
	if !strings.HasPrefix(got, resultsHead) || one < 0 || two < one || strings.Contains(got, "first") || strings.Contains(got, "\n\n\n") {
		t.Errorf("the file is:\n%s", got)
	}
}

func TestEndpoints(t *testing.T) {
	for _, n := range []int{10, 1_000, largest} {
		list := endpoints(n)
		seen := map[netip.Addr]bool{}
		blocks := 0
		for _, e := range list {
			if seen[e.remote] || !remotes.Contains(e.remote) {
				t.Fatalf("%d rules: address %s comes twice, or is not the peer's", n, e.remote)
			}
			seen[e.remote] = true
			if e.block {
				blocks++
			}
		}
		if len(list) != n || blocks < n/8 || blocks > n/8+1 {
			t.Errorf("%d rules, %d of which block; want %d and one in eight", len(list), blocks, n)
		}
		flows := map[flow]bool{}
		for _, f := range flowsOf(list, permitted) {
			flows[f] = true
		}
		if len(flows) != flowCount {
			t.Errorf("%d rules: %d flows, want %d", n, len(flows), flowCount)
		}
	}
}

func TestDatagram(t *testing.T) {
	f := flow{Remote: netip.MustParseAddr("10.67.1.2"), Source: 1030, Port: 5001}
	b := datagram(f)
	sum := uint32(0)
	for i := 14; i < 34; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if sum = sum>>16 + sum&0xffff; sum != 0xffff {
		t.Errorf("the IP header's checksum is wrong: the sum is %#x", sum)
	}
	source, _ := netip.AddrFromSlice(b[26:30])
	if source != f.Remote || binary.BigEndian.Uint16(b[34:]) != f.Source || binary.BigEndian.Uint16(b[36:]) != f.Port {
		t.Errorf("%x is not a datagram of %+v", b, f)
	}
}
