// SPDX-License-Identifier: Apache-2.0

// This file accounts for every filter of a policy, for programs and for people.

package policy

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
)

// Report accounts for every filter of a policy: Total is the number of Filters
// and the sum of the three states. Its JSON is part of the command line's
// contract.
type Report struct {
	Total       int            `json:"total"`
	Enforced    int            `json:"enforced"`
	Unmatchable int            `json:"unmatchable"`
	Refused     int            `json:"refused"`
	Filters     []ReportFilter `json:"filters"`

	notes []string
}

// ReportFilter is one filter in a Report.
type ReportFilter struct {
	ID       filter.ID `json:"id"`
	Name     string    `json:"name"`
	Layer    string    `json:"layer"`
	SubLayer string    `json:"subLayer"`
	Action   string    `json:"action"`
	State    State     `json:"state"`
	Reason   string    `json:"reason"`

	class class
}

// Report returns the account of every filter, in file order.
func (p *Policy) Report() Report {
	r := Report{Filters: make([]ReportFilter, 0, len(p.Entries)), notes: p.Notes}
	count := map[State]*int{StateEnforced: &r.Enforced, StateUnmatchable: &r.Unmatchable, StateRefused: &r.Refused}
	for i := range p.Entries {
		e := &p.Entries[i]
		r.Total++
		*count[e.State]++
		r.Filters = append(r.Filters, ReportFilter{
			ID: e.Filter.ID, Name: e.Filter.Name, Layer: e.layerName(), SubLayer: p.subLayerName(e.Filter.SubLayer),
			Action: actionName(e.Filter.Action), State: e.State, Reason: e.Reason, class: e.class,
		})
	}
	return r
}

// actionName is empty for an action that could not be read.
func actionName(a filter.Action) string {
	if a == 0 {
		return ""
	}
	return a.Short()
}

// subLayerName names WFP's own sublayers by their key, others by their name.
func (p *Policy) subLayerName(key filter.GUID) string {
	if key == (filter.GUID{}) {
		key = filter.SubLayerUniversal
	}
	if s := p.Store.SubLayer(key); s != nil {
		return strings.TrimPrefix(s.Name, "FWPM_SUBLAYER_")
	}
	return fmt.Sprintf("{%s}", key)
}

// UnenforceableBlocks returns how many BLOCK filters are refused: traffic that
// the policy means to stop and that will pass. A BLOCK that is unmatchable is
// not counted, because no traffic here is what it means to stop.
func (r Report) UnenforceableBlocks() int { return len(r.blocks(StateRefused)) }

func (r Report) blocks(s State) []ReportFilter {
	var out []ReportFilter
	for _, f := range r.Filters {
		if f.State == s && f.Action == filter.ActionBlock.Short() {
			out = append(out, f)
		}
	}
	return out
}

// WriteText writes the report for a person: the notes, the blocks that do not
// take effect, a summary by kind of reason, and in the last line how many block
// filters cannot be enforced.
func (r Report) WriteText(w io.Writer) error {
	b := bufio.NewWriter(w)
	for _, n := range r.notes {
		fmt.Fprintln(b, printable(n))
	}
	for _, part := range []struct {
		state State
		title string
	}{
		{StateRefused, "Block filters that cannot be enforced:"},
		{StateUnmatchable, "Block filters that nothing on this host can match:"},
	} {
		list := r.blocks(part.state)
		if len(list) == 0 {
			continue
		}
		fmt.Fprintf(b, "%s\n", part.title)
		for _, f := range list {
			// Names come from a file: quoted, they cannot write to the terminal.
			fmt.Fprintf(b, "  filter %d %q, layer %s, sublayer %q: %s\n", f.ID, clip(f.Name), clip(f.Layer), f.SubLayer, printable(f.Reason))
		}
	}
	fmt.Fprintf(b, "%d filters: %d enforced, %d unmatchable, %d refused\n", r.Total, r.Enforced, r.Unmatchable, r.Refused)
	for _, c := range r.classes() {
		fmt.Fprintf(b, "  %6d %s: %s\n", c.n, c.state, c.class)
	}
	fmt.Fprintf(b, "%d block filters cannot be enforced\n", r.UnenforceableBlocks())
	return b.Flush()
}

// printable replaces what would control a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !strconv.IsPrint(r) {
			return '\uFFFD'
		}
		return r
	}, s)
}

type classCount struct {
	state State
	class class
	n     int
}

// classes counts the kinds of reasons, refusals first, the most frequent first.
func (r Report) classes() []classCount {
	at := map[classCount]int{}
	for _, f := range r.Filters {
		if f.State != StateEnforced {
			at[classCount{state: f.State, class: f.class}]++
		}
	}
	var out []classCount
	for c, n := range at {
		c.n = n
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b classCount) int {
		return cmp.Or(cmp.Compare(a.state, b.state), cmp.Compare(b.n, a.n), cmp.Compare(a.class, b.class))
	})
	return out
}

// ties returns a note for each group of filters whose order WFP does not define
// and whose actions differ. Filters that match nothing here take no part.
func ties(p *Policy) []string {
	live := map[*filter.Filter]bool{}
	used := map[layermap.LayerID]bool{}
	for _, e := range p.Entries {
		if e.State == StateEnforced {
			live[e.Filter], used[e.Filter.Layer] = true, true
		}
	}
	var notes []string
	layers := layermap.Layers()
	for i := range layers {
		l := &layers[i]
		if !used[l.ID] {
			continue
		}
		for _, group := range p.Store.Ties(l.ID) {
			group = slices.DeleteFunc(slices.Clone(group), func(f *filter.Filter) bool { return !live[f] })
			if note := tie(p, l, group); note != "" {
				notes = append(notes, note)
			}
		}
	}
	return notes
}

func tie(p *Policy, l *layermap.Layer, group []*filter.Filter) string {
	byAction := map[filter.Action][]*filter.Filter{}
	var order []filter.Action
	for _, f := range group {
		if byAction[f.Action] == nil {
			order = append(order, f.Action)
		}
		byAction[f.Action] = append(byAction[f.Action], f)
	}
	if len(order) < 2 {
		return ""
	}
	var parts []string
	for _, a := range order {
		fs := byAction[a]
		part := fmt.Sprintf("%s %d %q", a.Short(), fs[0].ID, clip(fs[0].Name))
		if len(fs) > 1 {
			part += fmt.Sprintf(" and %d more", len(fs)-1)
		}
		parts = append(parts, part)
	}
	return fmt.Sprintf("tie: layer %s, sublayer %s, weight %#x: %s; WFP defines no order, here the lowest id goes first",
		l.Name, p.subLayerName(group[0].SubLayer), group[0].EffectiveWeight, strings.Join(parts, " / "))
}
