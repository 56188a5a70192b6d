// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"golang.org/x/sys/unix"
)

var columns = []string{"layer", "filters", "verdict, ns", "kept verdict, ns", "amended, ns", "linear scan, ns", "commit", "one filter, ms", "memory"}

// cells are one line of the table.
func (r result) cells() []string {
	kept := "-"
	if len(r.kept) > 0 {
		kept = spread(r.kept)
	}
	return []string{
		r.layer.Name, group(strconv.Itoa(r.filters)), spread(r.classify), kept, spread(r.amended), spread(r.scan),
		fmt.Sprintf("%s ms", group(fmt.Sprintf("%.0f", r.commit.Seconds()*1000))), tenths(r.change), fmt.Sprintf("%.1f MB", float64(r.memory)/1e6),
	}
}

// spread is the median, and in brackets the least and the most.
func spread(ns []float64) string { return spreadAs("%.0f", ns) }

// tenths is spread to one decimal place.
func tenths(ms []float64) string { return spreadAs("%.1f", ms) }

func spreadAs(format string, list []float64) string {
	s := slices.Sorted(slices.Values(list))
	text := func(n float64) string {
		whole, rest, point := strings.Cut(fmt.Sprintf(format, n), ".")
		if point {
			rest = "." + rest
		}
		return group(whole) + rest
	}
	return fmt.Sprintf("%s (%s-%s)", text(s[len(s)/2]), text(s[0]), text(s[len(s)-1]))
}

// group sets the thousands apart.
func group(digits string) string {
	for i := len(digits) - 3; i > 0 && digits[i-1] != '-'; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

// text is the table for a terminal.
func text(list []result) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, strings.Join(columns, "\t"))
	for _, r := range list {
		fmt.Fprintln(w, strings.Join(r.cells(), "\t"))
	}
	w.Flush()
	return b.String()
}

// verdictSection is the table with what one must know to read it.
func verdictSection(list []result, runs int) section {
	var b strings.Builder
	fmt.Fprintf(&b, `What a verdict costs, and what a linear scan of the same rules in BPF would cost.

| %s |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
`, strings.Join(columns, " | "))
	for _, r := range list {
		fmt.Fprintf(&b, "| %s |\n", strings.Join(r.cells(), " | "))
	}
	fmt.Fprintf(&b, `
- Times are medians of %d runs, the least and the most in brackets. The programs run
  by turns; what the same loop takes without a classifier is taken off.
- A run judges %s cases. The linear scan judges as many of them as make %s
  comparisons with a rule at most.
- Kept: at the layers of packets a verdict is kept, and said again of the next packet
  that is alike. The verdict of every case is kept, in a table that is larger than a
  host's, and the cases were all asked about just before. An ALE layer classifies a
  flow once.
- The filters test local and remote address, protocol, both ports, interface and
  FLAGS, in %d sublayers. Each case is made to match a filter drawn from all.
- The kernel's verdicts on %s cases are the evaluator's, in action, right and filter,
  and both programs block as many of those that they judge: no time is taken otherwise.
- Commit: replacing a policy of that size by another on an engine that runs.
- One filter: adding a filter to that policy, and removing another one, by a commit
  each, from the object to the policy in force: %d of each. Amended: a verdict after
  that.
- Memory: all maps of the engine, with the tables of the policy before, which stay for
  a roll-back.
`, runs, group(strconv.Itoa(cases)), group(strconv.Itoa(scanSteps)), benchSubLayers, group(strconv.Itoa(sample)), runs)
	return section{"Verdicts", b.String()}
}

// kernelVersion leaves away what a distribution or a machine adds.
func kernelVersion() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return "?"
	}
	version, _, _ := strings.Cut(unix.ByteSliceToString(u.Release[:]), "-")
	return version
}

func cpuModel() string {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if name, model, ok := strings.Cut(s.Text(), ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(model)
		}
	}
	return runtime.GOARCH
}
