// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/wfpebpf/wfpebpf/loader"
)

// views are what show can show: each reads one kind of rows and gives its table.
var views = map[string]func(*loader.Engine) (view, error){
	"filters": func(e *loader.Engine) (view, error) {
		rows, err := e.Filters()
		return filterTable(rows), err
	},
	"sets": func(e *loader.Engine) (view, error) {
		rows, err := e.Sets()
		return table("NAME ENTRIES IPV4-RANGES IPV6-RANGES FILTERS FILE", rows, func(r loader.SetRow) []any {
			return []any{short(r.Name), r.Entries, r.V4, r.V6, r.Filters, r.File}
		}), err
	},
	"sublayers": func(e *loader.Engine) (view, error) {
		rows, err := e.SubLayers()
		return table("KEY NAME WEIGHT FILTERS", rows, func(r loader.SubLayerRow) []any {
			return []any{r.Key, short(r.Name), r.Weight, r.Filters}
		}), err
	},
	"callouts": func(e *loader.Engine) (view, error) {
		rows, err := e.Callouts()
		return table("KEY NAME LAYER REGISTERED", rows, func(r loader.CalloutRow) []any {
			return []any{r.Key, short(r.Name), r.Layer, r.Registered}
		}), err
	},
	"hooks": func(e *loader.Engine) (view, error) {
		rows, err := e.Hooks()
		for i := range rows {
			rows[i].Layers = list(rows[i].Layers)
		}
		return table("HOOK TARGET LAYERS LINK", rows, func(r loader.HookRow) []any {
			return []any{r.Hook, r.Target, families(r.Layers), r.Link}
		}), err
	},
	"state": func(e *loader.Engine) (view, error) {
		s, err := e.State()
		s.Stale, s.Failsafes = list(s.Stale), list(s.Failsafes)
		if s.Filters == nil {
			s.Filters = map[string]int{}
		}
		return view{json: s, text: func(w io.Writer) error { return writeState(w, s) }}, err
	},
}

// filterTable has a column for sets of addresses where some filter names one.
func filterTable(rows []loader.FilterRow) view {
	const header = "ID NAME LAYER SUBLAYER WEIGHT ACTION HITS"
	cells := func(r loader.FilterRow) []any {
		return []any{r.ID, short(r.Name), r.Layer, short(r.SubLayer), fmt.Sprintf("%#x", r.Weight), r.Action, r.Hits}
	}
	if !slices.ContainsFunc(rows, func(r loader.FilterRow) bool { return len(r.Sets) > 0 }) {
		return table(header, rows, cells)
	}
	return table(header+" SETS", rows, func(r loader.FilterRow) []any {
		var sets []string
		for _, s := range r.Sets {
			sets = append(sets, fmt.Sprintf("%s (%d entries)", short(s.Name), s.Entries))
		}
		return append(cells(r), strings.Join(sets, ", "))
	})
}

// families writes layers of which both families are there as one word, in the
// order of their first.
func families(layers []string) string {
	var out []string
	for _, l := range layers {
		base, v6 := strings.CutSuffix(l, "_V6")
		i := slices.Index(out, base+"_V4")
		if v6 && i >= 0 {
			out[i] += "/V6"
			continue
		}
		out = append(out, l)
	}
	return strings.Join(out, ", ")
}

// view is one kind of rows, ready to be written either way.
type view struct {
	json any
	text func(io.Writer) error
}

func table[T any](header string, rows []T, cells func(T) []any) view {
	return view{json: list(rows), text: func(w io.Writer) error {
		var out [][]any
		for _, r := range rows {
			out = append(out, cells(r))
		}
		return writeTable(w, header, out)
	}}
}

func showCommand() *cobra.Command {
	var target loader.Target
	var asJSON bool
	what := slices.Sorted(maps.Keys(views))
	cmd := &cobra.Command{
		Use:   "show {" + strings.Join(what, "|") + "}",
		Short: "Show what is in force",
		Long: `Shows the filters with their hits since the last commit, the sublayers, the
callouts, the sets of addresses, the hooks, or an overview: commits, memory, names that went stale, lost
events, failsafes.`,
		Example: `  wfpebpf show filters
  wfpebpf show state --json
  wfpebpf show sets
  wfpebpf show hooks --netns lab`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 || views[args[0]] == nil {
				return errors.New("one of these is needed: " + strings.Join(what, ", "))
			}
			return nil
		},
		ValidArgs: what,
		RunE: func(cmd *cobra.Command, args []string) error {
			return withEngine(target, func(e *loader.Engine) error {
				v, err := views[args[0]](e)
				if err != nil {
					return err
				}
				if asJSON {
					return writeJSON(cmd.OutOrStdout(), v.json)
				}
				return v.text(cmd.OutOrStdout())
			})
		},
	}
	targetFlags(cmd, &target)
	jsonFlag(cmd, &asJSON)
	return cmd
}

func writeState(w io.Writer, s loader.State) error {
	or := func(s, otherwise string) string {
		if s == "" {
			return otherwise
		}
		return s
	}
	rows := [][]any{
		{"netns", or(s.Netns, "(the caller's)")},
		{"cgroup", or(s.Cgroup, "/")},
		{"generation", s.Generation},
		{"applied", s.Applied.Format(time.RFC3339)},
		{"unconfirmed", s.Unconfirmed},
		{"memory", fmt.Sprintf("%.1f MiB", float64(s.Memory)/(1<<20))},
		{"lost events", s.LostEvents},
		{"errors", s.Errors},
		{"without identity", s.NoIdentity},
		{"unreadable", s.Unreadable},
		{"failsafes", or(strings.Join(s.Failsafes, ", "), "-")},
	}
	if a := s.Amends; a != nil {
		rows = append(rows, []any{"amends", fmt.Sprintf("generation %d: %d filters added, %d removed", a.Generation, a.Added, a.Removed)})
	}
	for _, layer := range slices.Sorted(maps.Keys(s.Filters)) {
		rows = append(rows, []any{"filters at " + layer, s.Filters[layer]})
	}
	for _, stale := range s.Stale {
		rows = append(rows, []any{"stale", stale})
	}
	return writeTable(w, "WHAT VALUE", rows)
}
