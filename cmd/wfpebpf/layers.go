// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/wfpebpf/wfpebpf/layermap"
	"github.com/wfpebpf/wfpebpf/loader"
)

// layerRow is one layer as `layers --json` shows it.
type layerRow struct {
	ID        layermap.LayerID `json:"id"`
	FWPS      string           `json:"fwps"`
	FWPM      string           `json:"fwpm"`
	GUID      string           `json:"guid"`
	Mode      string           `json:"mode"`
	Hook      string           `json:"hook"`
	Fidelity  string           `json:"fidelity"`
	Differs   string           `json:"differs"`
	MinKernel string           `json:"minKernel"`
	Available bool             `json:"available"`
	Reason    string           `json:"reason"`
}

// fieldRow is one field as `layers --fields L --json` shows it.
type fieldRow struct {
	Index    int    `json:"index"` // FWPS
	Field    string `json:"field"`
	DataType string `json:"dataType"`
	Source   string `json:"source"` // filled, constant, never, refused
	Value    string `json:"value"`  // of a constant
	From     string `json:"from"`
}

// dropRow is what a drop reason of the kernel is to WFP, as `layers --drops --json` shows
// it. A reason has a row for each layer; one that is no discard of WFP's has one without.
type dropRow struct {
	Reason  string   `json:"reason"`  // of the kernel, without SKB_DROP_REASON_
	Number  *uint32  `json:"number"`  // on this host's kernel; null: it does not have it
	Dropped []string `json:"dropped"` // how far the packet had come
	Layer   string   `json:"layer"`
	Module  string   `json:"module"`
	Discard string   `json:"discard"`
	Why     string   `json:"why"`
}

func layersCommand() *cobra.Command {
	var fieldsOf string
	var drops, asJSON bool
	cmd := &cobra.Command{
		Use:   "layers",
		Short: "Show WFP's layers, where each sits on Linux, and whether this host can carry it",
		Long: `Shows every run-time filtering layer with the Linux hook that carries it, how
near that is to Windows, and what this kernel can do; the note says why a layer is
not available, or what is otherwise than on Windows. Long texts are cut; --json
has them whole, and the least kernel. With --fields it shows the
fields of one layer and where the value of each comes from: filled at each
classification, constant (one value here), never (always EMPTY), or refused (a
filter that tests it is not loaded). With --drops it shows the kernel's reasons to drop
a packet, and the discard layer, module and reason of WFP that each is seen as.`,
		Example: `  wfpebpf layers
  wfpebpf layers --fields ALE_AUTH_CONNECT_V4
  wfpebpf layers --drops
  wfpebpf layers --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			out := cmd.OutOrStdout()
			if drops {
				rows, err := dropRows()
				if err != nil {
					return err
				}
				if asJSON {
					return writeJSON(out, rows)
				}
				return writeTable(out, "REASON NUMBER DROPPED LAYER DISCARD NOTE", dropCells(rows))
			}
			if !cmd.Flags().Changed("fields") {
				rows := layerRows(loader.Probe())
				if asJSON {
					return writeJSON(out, rows)
				}
				return writeTable(out, "ID LAYER HERE FIDELITY HOOK NOTE", layerCells(rows))
			}
			l := layermap.ByName(fieldsOf)
			if l == nil {
				return usagef("there is no layer %q; wfpebpf layers lists them", fieldsOf)
			}
			rows := fieldRows(l)
			if asJSON {
				return writeJSON(out, rows)
			}
			var cells [][]any
			for _, r := range rows {
				source := r.Source
				if r.Value != "" {
					source += " " + r.Value
				}
				cells = append(cells, []any{r.Index, r.Field, r.DataType, source, r.From})
			}
			return writeTable(out, "INDEX FIELD TYPE SOURCE FROM", cells)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringVar(&fieldsOf, "fields", "", "show the fields of this layer")
	complete(cmd, "fields", completeLayers)
	cmd.Flags().BoolVar(&drops, "drops", false, "show what the kernel's own drops are seen as")
	cmd.MarkFlagsMutuallyExclusive("fields", "drops")
	jsonFlag(cmd, &asJSON)
	return cmd
}

// layerRows joins the table of layers with what the kernel was found to do.
func layerRows(probed []loader.LayerStatus) []layerRow {
	status := map[layermap.LayerID]loader.LayerStatus{}
	for _, s := range probed {
		status[s.Layer] = s
	}
	rows := []layerRow{}
	for _, l := range layermap.Layers() {
		h := l.Hook()
		row := layerRow{
			ID: l.ID, FWPS: l.FWPS(), FWPM: l.FWPM(), Mode: l.Mode.String(), Hook: h.Name, Fidelity: h.Fidelity.String(),
			Differs: h.Differs, MinKernel: h.MinKernel,
		}
		if l.GUID != (layermap.GUID{}) {
			row.GUID = l.GUID.String()
		}
		switch s, known := status[l.ID]; {
		case h.Fidelity == layermap.None:
			row.Reason = h.Differs
		case h.Reserved:
			row.Available = true
		case !h.Live:
			row.Reason = "does not run yet"
		case known:
			row.Available, row.Reason = s.Available, s.Reason
		default:
			row.Reason = "not probed"
		}
		rows = append(rows, row)
	}
	return rows
}

// layerCells are what fits a line: most layers differ in nothing, or are not
// enforced yet for no reason of this host.
func layerCells(rows []layerRow) [][]any {
	var cells [][]any
	for _, r := range rows {
		l := layermap.ByID(r.ID)
		here, note := "no", r.Reason
		switch {
		case r.Available:
			here, note = "yes", r.Differs
			if r.Reason != "" {
				note = strings.TrimPrefix(r.Differs+"; "+r.Reason, "; ")
			}
		case !l.Hook().Live && l.Hook().Fidelity != layermap.None:
			here, note = "not yet", r.Differs
		}
		cells = append(cells, []any{uint16(r.ID), l.Name, here, r.Fidelity, cut(r.Hook, 50), note})
	}
	return cells
}

func fieldRows(l *layermap.Layer) []fieldRow {
	rows := []fieldRow{}
	for i, f := range l.Fields {
		src := l.Source(f.Key)
		row := fieldRow{Index: i, Field: f.Key, DataType: f.DataType.String(), Source: src.Kind.String(), From: src.From}
		if src.Kind == layermap.Constant {
			row.Value = fmt.Sprint(src.Value)
		}
		rows = append(rows, row)
	}
	return rows
}

// dropRows joins the table of drops with the reasons that this kernel has.
func dropRows() ([]dropRow, error) {
	numbers, err := loader.DropReasons()
	if err != nil {
		return nil, err
	}
	here := map[string]*uint32{}
	for name, number := range numbers {
		here[layermap.ShortDropReason(name)] = &number
	}
	rows := []dropRow{}
	layermap.DropReasons(func(name string, d layermap.Drop) {
		if !d.Discards() {
			rows = append(rows, dropRow{Reason: name, Number: here[name], Dropped: []string{}, Why: d.Why})
		}
		first := len(rows)
		for stage, at := range d.At {
			if at == (layermap.Discard{}) {
				continue
			}
			row := dropRow{
				Reason: name, Number: here[name], Layer: at.Layer, Module: at.Reason.Module.String(),
				Discard: at.Reason.Module.Reason(at.Reason.Number), Why: d.Why,
			}
			same := slices.IndexFunc(rows[first:], func(r dropRow) bool {
				return r.Layer == row.Layer && r.Module == row.Module && r.Discard == row.Discard
			})
			if same < 0 {
				rows, same = append(rows, row), len(rows)-first
			}
			r := &rows[first+same]
			r.Dropped = append(r.Dropped, layermap.DropStage(stage).String())
		}
	})
	slices.SortStableFunc(rows, func(a, b dropRow) int { return strings.Compare(a.Reason, b.Reason) })
	return rows, nil
}

func dropCells(rows []dropRow) [][]any {
	var cells [][]any
	for _, r := range rows {
		number, dropped, layer, discard := "-", "-", "-", "-"
		if r.Number != nil {
			number = fmt.Sprint(*r.Number)
		}
		if r.Layer != "" {
			dropped, layer, discard = strings.Join(r.Dropped, ","), r.Layer, r.Module+" "+r.Discard
		}
		cells = append(cells, []any{r.Reason, number, dropped, layer, discard, r.Why})
	}
	return cells
}
