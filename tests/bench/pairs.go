// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// slice is what one short measurement gave.
type slice struct {
	rate float64 // packets, connections or bytes a second
	cpu  float64 // ns of CPU time for one
}

func sliceOf(count uint64, elapsed, cpu time.Duration) slice {
	return slice{float64(count) / elapsed.Seconds(), float64(cpu) / float64(count)}
}

// pairs is slices of two contenders by turns, so that what else the machine
// does meets both alike.
type pairs struct {
	a, b []slice
}

// interleave measures two contenders n times by turns, the first being now the
// one and now the other.
func interleave(ctx context.Context, n int, a, b func() (slice, error)) (p pairs, err error) {
	for i := -1; i < n; i++ {
		if err := ctx.Err(); err != nil {
			return p, err
		}
		order := []func() (slice, error){a, b}
		if i%2 == 0 {
			slices.Reverse(order)
		}
		var got [2]slice
		for j, f := range order {
			if got[j], err = f(); err != nil {
				return p, err
			}
		}
		if i%2 == 0 {
			slices.Reverse(got[:])
		}
		if i >= 0 { // the first pair warms up
			p.a, p.b = append(p.a, got[0]), append(p.b, got[1])
		}
	}
	return p, nil
}

// ratio is medians with their spread, the middle half of the pairs.
type ratio struct{ median, low, high float64 }

func ratioOf(values []float64) ratio {
	s := slices.Sorted(slices.Values(values))
	n := len(s)
	return ratio{(s[(n-1)/2] + s[n/2]) / 2, s[n/4], s[n-1-n/4]}
}

func (r ratio) String() string {
	if r.median < 0.1 {
		return r.text(3)
	}
	return r.text(2)
}

func (r ratio) text(digits int) string {
	text := func(f float64) string { return strconv.FormatFloat(f, 'f', digits, 64) }
	return fmt.Sprintf("%s (%s-%s)", text(r.median), text(r.low), text(r.high))
}

// rates is how many times b's rate is a's.
func (p pairs) rates() ratio {
	var list []float64
	for i := range p.a {
		list = append(list, p.b[i].rate/p.a[i].rate)
	}
	return ratioOf(list)
}

// cpus is the same by CPU time: what a takes for one, divided by what b takes.
func (p pairs) cpus() ratio {
	var list []float64
	for i := range p.a {
		list = append(list, p.a[i].cpu/p.b[i].cpu)
	}
	return ratioOf(list)
}

func medianOf(list []slice, of func(slice) float64) float64 {
	var values []float64
	for _, s := range list {
		values = append(values, of(s))
	}
	return ratioOf(values).median
}

func rateOf(s slice) float64 { return s.rate }
func cpuOf(s slice) float64  { return s.cpu }

// floor is what a ratio must reach.
type floor struct {
	what  string
	least float64
	pairs pairs
}

// cells judge by the rates, and where the floor lies inside their spread by the
// CPU time.
func (f floor) cells() []string {
	rates, cpus := f.pairs.rates(), f.pairs.cpus()
	met, by := rates.median >= f.least, "rate"
	if rates.low < f.least && f.least <= rates.high {
		met, by = cpus.median >= f.least, "CPU time"
	}
	verdict := "short"
	if met {
		verdict = "PASS"
	}
	return []string{f.what, strconv.FormatFloat(f.least, 'f', 2, 64), rates.text(3), cpus.text(3), verdict + ", by " + by}
}

// grid is a table in Markdown; the first column is text.
func grid(columns []string, rows [][]string) string {
	var b strings.Builder
	line := func(cells []string) { fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | ")) }
	line(columns)
	b.WriteString("| ---" + strings.Repeat(" | ---:", len(columns)-1) + " |\n")
	for _, r := range rows {
		line(r)
	}
	return b.String()
}

func floorTable(list []floor) string {
	var rows [][]string
	for _, f := range list {
		rows = append(rows, f.cells())
	}
	return grid([]string{"floor", "at least", "rate", "by CPU time", ""}, rows)
}

// progress tells on stderr what is going on: a measurement takes minutes.
func progress(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
