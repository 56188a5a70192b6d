// SPDX-License-Identifier: Apache-2.0

// This file writes answers for people.

package explain

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
)

// WriteText writes answers. Of several, which are the layers that traffic
// passes, it says first what they come to; then a paragraph a layer, but a line
// for those where nothing happens.
func WriteText(w io.Writer, answers []Answer) error {
	if len(answers) > 1 {
		fmt.Fprintf(w, "%s\n\n", outcome(answers))
	}
	for i := range answers {
		if i > 0 && !(answers[i].quiet() && answers[i-1].quiet()) {
			fmt.Fprintln(w)
		}
		if err := answers[i].writeText(w); err != nil {
			return err
		}
	}
	return nil
}

// outcome is what the layers come to: traffic passes where all of them let it.
func outcome(answers []Answer) string {
	for i := range answers {
		if a := &answers[i]; a.Verdict == block {
			return fmt.Sprintf("BLOCK at %s: %s", a.Layer, a.by())
		}
	}
	return fmt.Sprintf("PERMIT: none of these %d layers blocks it", len(answers))
}

// quiet reports whether an answer takes one line.
func (a *Answer) quiet() bool {
	return len(a.SubLayers) == 0 && len(a.Sensitive) == 0 && len(a.Notes) == 0 && (a.Live == nil || a.Live.Agrees)
}

// by says which filter decided.
func (a *Answer) by() string {
	by := "no filter decides"
	if a.FilterID != 0 {
		by = fmt.Sprintf("by %s (%d)", quote(a.FilterName), a.FilterID)
		if a.Origin != "" {
			by += ", origin " + quote(a.Origin)
		}
	}
	return by
}

func (a *Answer) writeText(w io.Writer) error {
	agrees := ""
	if a.Live != nil && a.Live.Agrees {
		agrees = " (the kernel agrees)"
	}
	fmt.Fprintf(w, "%s at %s: %s%s\n", a.Verdict, a.Layer, a.by(), agrees)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if len(a.SubLayers) > 0 {
		fmt.Fprintln(t, "  SUBLAYER\tWEIGHT\tACTION\tRIGHT\tFILTER")
	}
	for _, s := range a.SubLayers {
		by := "-"
		if s.FilterID != 0 {
			by = fmt.Sprintf("%s (%d)", quote(s.filterName), s.FilterID)
		}
		fmt.Fprintf(t, "  %s\t%d\t%s\t%s\t%s\n", strings.Trim(quote(s.Name), `"`), s.Weight, s.Action, s.Right, by)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if a.RedirectTo != "" {
		fmt.Fprintf(w, "  redirected to %s by %s (%d), but for what the program that listens there opens itself\n", a.RedirectTo, quote(a.redirectedBy), a.RedirectedBy)
	}
	for _, m := range a.Sets {
		where := "is not in it"
		if m.Range != "" {
			where = "is in it (" + m.Range + ")"
		}
		fmt.Fprintf(w, "  %s (%d) matches by set %s: %s %s %s\n", quote(m.filterName), m.FilterID, quote(m.Set), m.Field, m.Address, where)
	}
	if len(a.Sensitive) > 0 {
		fmt.Fprintf(w, "  other values of these fields would change it: %s\n", strings.Join(a.Sensitive, ", "))
	}
	for _, n := range a.Notes {
		fmt.Fprintf(w, "  %s\n", strings.Trim(quote(n), `"`))
	}
	if l := a.Live; l != nil && !l.Agrees {
		fmt.Fprintf(w, "  DIFFERS: the kernel says %s, filter %d\n", l.Verdict, l.FilterID)
	}
	return nil
}

// quote shortens text from a file and keeps it from writing to the terminal.
func quote(s string) string {
	const most = 160
	if len(s) > most {
		s = s[:most] + "..."
	}
	return strconv.Quote(s)
}
