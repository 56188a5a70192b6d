// SPDX-License-Identifier: Apache-2.0

// This file says which layer somebody may have meant.

package main

import (
	"cmp"
	"slices"
	"strings"

	"github.com/wfpebpf/wfpebpf/layermap"
)

const (
	nearNames = 4 // that are named, at most
	nearEdits = 3 // letters apart, at most
)

// layerNamed returns the layer with a name, or a usage error that names the nearest.
func layerNamed(name string) (*layermap.Layer, error) {
	if l := layermap.ByName(name); l != nil {
		return l, nil
	}
	near := nearLayers(name)
	if len(near) == 0 {
		return nil, usagef("there is no layer %q; wfpebpf layers lists them", name)
	}
	return nil, usagef("there is no layer %q; near it are %s; wfpebpf layers lists them", name, strings.Join(near, ", "))
}

// nearLayers are those whose name has what was given in it or is few letters away; the
// nearest first.
func nearLayers(name string) []string {
	name = strings.ToUpper(name)
	for _, prefix := range []string{"FWPS_LAYER_", "FWPM_LAYER_"} {
		name = strings.TrimPrefix(name, prefix)
	}
	if name == "" {
		return nil
	}
	type candidate struct {
		name string
		away int
	}
	var list []candidate
	for _, l := range layermap.Layers() {
		// without a family either may be meant
		both := strings.TrimSuffix(strings.TrimSuffix(l.Name, "_V4"), "_V6")
		away := min(edits(name, l.Name), edits(name, both))
		if away <= nearEdits || strings.Contains(l.Name, name) {
			list = append(list, candidate{l.Name, away})
		}
	}
	slices.SortStableFunc(list, func(a, b candidate) int { return cmp.Compare(a.away, b.away) })
	var names []string
	for _, c := range list[:min(len(list), nearNames)] {
		names = append(names, c.name)
	}
	return names
}

// edits is how many letters must be put in, taken out or changed to make b of a.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before := row[0] // of the row above, to the left
		row[0] = i + 1
		for j := range len(b) {
			change := before
			if a[i] != b[j] {
				change++
			}
			before = row[j+1]
			row[j+1] = min(change, before+1, row[j]+1)
		}
	}
	return row[len(b)]
}
