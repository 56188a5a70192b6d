// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
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

func layersCommand() *cobra.Command {
	var fieldsOf string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "layers",
		Short: "Show WFP's layers, where each sits on Linux, and whether this host can carry it",
		Long: `Shows every run-time filtering layer with the Linux hook that carries it, how
near that is to Windows, and what this kernel can do; the note says why a layer is
not available, or what is otherwise than on Windows. Long texts are cut; --json
has them whole, and the least kernel. With --fields it shows the
fields of one layer and where the value of each comes from: filled at each
classification, constant (one value here), never (always EMPTY), or refused (a
filter that tests it is not loaded).`,
		Example: `  wfpebpf layers
  wfpebpf layers --fields ALE_AUTH_CONNECT_V4
  wfpebpf layers --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			out := cmd.OutOrStdout()
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
