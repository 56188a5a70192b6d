// SPDX-License-Identifier: Apache-2.0

// This file accounts for every filter of a policy, for programs and for people.

package policy

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

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
	// Sets are the sets of addresses that the files define; none where they
	// define none.
	Sets []ReportSet `json:"sets,omitempty"`

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

// ReportSet is one set of addresses in a Report.
type ReportSet struct {
	Name    string `json:"name"`
	File    string `json:"file"` // empty: the addresses stand in the policy
	Entries int    `json:"entries"`
	V4      int    `json:"v4"`      // ranges of IPv4 addresses that the entries come to
	V6      int    `json:"v6"`      // likewise
	Filters int    `json:"filters"` // that are kept and have a condition on it
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
	filters := map[*filter.AddressSet]int{}
	for _, f := range p.Store.Filters() {
		for _, s := range f.Sets() {
			filters[s]++
		}
	}
	for _, s := range p.Sets {
		r.Sets = append(r.Sets, ReportSet{
			Name: s.Name(), File: s.Source(), Entries: s.Entries(), V4: s.Ranges4(), V6: s.Ranges6(), Filters: filters[s],
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

// lineWidth is how long a line of the text is at most.
const lineWidth = 140

// mostUnmatchable is how many rows the text has for blocks that match nothing:
// a dump has hundreds of filters for programs that exist on Windows only.
const mostUnmatchable = 10

// mostInCell is how many ids or layers a cell of the text lists.
const mostInCell = 12

// WriteText writes the report for a person: the notes, the blocks that do not
// take effect, a summary by kind of reason, and in the last line how many block
// filters cannot be enforced.
func (r Report) WriteText(w io.Writer) error {
	b := bufio.NewWriter(w)
	for _, n := range r.notes {
		writeNote(b, printable(n))
	}
	for _, part := range []struct {
		state State
		title string
		most  int
	}{
		{StateRefused, "Block filters that cannot be enforced:", len(r.Filters)},
		{StateUnmatchable, "Block filters that nothing on this host can match:", mostUnmatchable},
	} {
		rows := merge(r.blocks(part.state))
		if len(rows) == 0 {
			continue
		}
		fmt.Fprintln(b, part.title)
		shown := rows[:min(len(rows), part.most)]
		writeRows(b, shown)
		more := 0
		for _, row := range rows[len(shown):] {
			more += len(row.ids)
		}
		if more > 0 {
			fmt.Fprintf(b, "  and %d more (--json lists all)\n", more)
		}
	}
	writeSets(b, r.Sets)
	fmt.Fprintf(b, "%d filters: %d enforced, %d unmatchable, %d refused\n", r.Total, r.Enforced, r.Unmatchable, r.Refused)
	for _, c := range r.classes() {
		fmt.Fprintf(b, "  %6d %s: %s\n", c.n, c.state, c.class)
	}
	fmt.Fprintf(b, "%d block filters cannot be enforced\n", r.UnenforceableBlocks())
	return b.Flush()
}

// mostSets is how many sets the text names.
const mostSets = 20

func writeSets(b *bufio.Writer, sets []ReportSet) {
	for _, s := range sets[:min(len(sets), mostSets)] {
		text := fmt.Sprintf("set %q: %d entries in %d IPv4 and %d IPv6 ranges, %d filters",
			clip(s.Name), s.Entries, s.V4, s.V6, s.Filters)
		if s.File != "" {
			text += ", from " + s.File
		}
		writeNote(b, printable(text))
	}
	if more := len(sets) - mostSets; more > 0 {
		fmt.Fprintf(b, "and %d more sets (--json lists all)\n", more)
	}
}

// writeNote writes a note, a long one clause by clause.
func writeNote(b *bufio.Writer, note string) {
	indent := ""
	for utf8.RuneCountInString(indent+note) > lineWidth {
		clause, rest, found := strings.Cut(note, "; ")
		if !found {
			break
		}
		for _, line := range wrap(clause+";", lineWidth-len(indent)) {
			fmt.Fprintf(b, "%s%s\n", indent, line)
			indent = "  "
		}
		note = rest
	}
	for _, line := range wrap(note, lineWidth-len("  ")) {
		fmt.Fprintf(b, "%s%s\n", indent, line)
		indent = "  "
	}
}

// row is the filters of one name that have the same fate for the same reason:
// one rule of Windows is a filter at each of several layers.
type row struct {
	ids       []filter.ID
	layers    []string
	name, why string
}

// merge makes rows of filters, in the order in which they first occur.
func merge(list []ReportFilter) []*row {
	type key struct{ name, why string }
	var rows []*row
	at := map[key]*row{}
	for _, f := range list {
		why := f.Reason
		if f.class == classLayer {
			why = string(classLayer) // which one stands beside it
		}
		k := key{f.Name, why}
		if at[k] == nil {
			at[k] = &row{name: f.Name, why: why}
			rows = append(rows, at[k])
		}
		at[k].ids = append(at[k].ids, f.ID)
		at[k].layers = append(at[k].layers, f.Layer)
	}
	return rows
}

// writeRows writes columns; what is too long for its column goes on below. The
// last column has what the others leave.
func writeRows(b *bufio.Writer, rows []*row) {
	const gap = "  "
	cells := [][4]string{{"id", "name", "layer", "why"}}
	for _, r := range rows {
		// Names come from a file: they cannot write to the terminal.
		cells = append(cells, [4]string{
			idText(r.ids), printable(clip(r.name)), printable(layerText(r.layers)), printable(whyText(r.why)),
		})
	}
	left := lineWidth
	widths := [4]int{22, 36, 31}
	for i := range widths[:3] {
		longest := 0
		for _, c := range cells {
			longest = max(longest, utf8.RuneCountInString(c[i]))
		}
		widths[i] = min(widths[i], longest)
		left -= len(gap) + widths[i]
	}
	widths[3] = left - len(gap)
	for _, c := range cells {
		var lines [4][]string
		height := 0
		for i := range c {
			lines[i] = wrap(c[i], widths[i])
			height = max(height, len(lines[i]))
		}
		for n := range height {
			var line strings.Builder
			for i := range lines {
				text := ""
				if n < len(lines[i]) {
					text = lines[i][n]
				}
				fmt.Fprintf(&line, "%s%-*s", gap, widths[i], text)
			}
			fmt.Fprintln(b, strings.TrimRight(line.String(), " "))
		}
	}
}

// wrap breaks text into lines, where it can behind a space or a backslash.
func wrap(s string, width int) []string {
	var lines []string
	text := []rune(s)
	for len(text) > width {
		at := width
		for i := width; i > width/3; i-- {
			if text[i-1] == '\\' || text[i-1] == ' ' || text[i] == ' ' {
				at = i
				break
			}
		}
		lines = append(lines, strings.TrimRight(string(text[:at]), " "))
		if text = text[at:]; text[0] == ' ' {
			text = text[1:]
		}
	}
	return append(lines, string(text))
}

// idText lists ids, neighbours as a range.
func idText(ids []filter.ID) string {
	ids = slices.Sorted(slices.Values(ids))
	var parts []string
	n := 0
	for n < len(ids) && len(parts) < mostInCell {
		last := n
		for last+1 < len(ids) && ids[last+1] == ids[last]+1 {
			last++
		}
		switch last - n {
		case 0:
			parts = append(parts, fmt.Sprint(ids[n]))
		case 1:
			parts = append(parts, fmt.Sprint(ids[n]), fmt.Sprint(ids[last]))
		default:
			parts = append(parts, fmt.Sprintf("%d-%d", ids[n], ids[last]))
		}
		n = last + 1
	}
	text := strings.Join(parts, ", ")
	if n < len(ids) {
		text += fmt.Sprintf(" and %d more", len(ids)-n)
	}
	return text
}

// layerText lists layers, both families of one as "NAME_V4, _V6".
func layerText(layers []string) string {
	base := func(s string) string { return strings.TrimSuffix(strings.TrimSuffix(s, "_V4"), "_V6") }
	var order []string
	families := map[string][]string{}
	for _, l := range layers {
		b := base(l)
		if families[b] == nil {
			order = append(order, b)
		}
		if f := strings.TrimPrefix(l, b); !slices.Contains(families[b], f) {
			families[b] = append(families[b], f)
		}
	}
	var parts []string
	for _, b := range order[:min(len(order), mostInCell)] {
		parts = append(parts, clip(b)+strings.Join(families[b], ", "))
	}
	text := strings.Join(parts, ", ")
	if n := len(order) - len(parts); n > 0 {
		text += fmt.Sprintf(" and %d more", n)
	}
	return text
}

// identifiers in a reason: a number behind the name of a service, and the list
// that some makes.
var (
	sidBehindName = regexp.MustCompile(` \(S-1-[-0-9]+\)`)
	listOfSIDs    = regexp.MustCompile(`^(.*not in the map: [^,]+)((?:, [^,]+?)*)(?: and (\d+) more)?$`)
)

// whyText shortens a reason to what tells a person what to look at.
func whyText(why string) string {
	const most = 200
	why = sidBehindName.ReplaceAllString(why, "")
	if m := listOfSIDs.FindStringSubmatch(why); m != nil {
		more, _ := strconv.Atoi(m[3])
		if more += strings.Count(m[2], ","); more > 0 {
			return fmt.Sprintf("%s and %d more", m[1], more)
		}
	}
	if len(why) > most {
		why = why[:most] + "..."
	}
	return why
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
