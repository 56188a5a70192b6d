// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/wfpebpf/wfpebpf/policy"
)

// mapFlag adds --map.
func mapFlag(cmd *cobra.Command, to *string) {
	cmd.Flags().StringVar(to, "map", "", "map file: what the names of a Windows policy mean on this host")
}

// loadPolicy reads a map file, if one is named, and policy files. It tells w
// where it takes long.
func loadPolicy(w io.Writer, files []string, mapFile string) (*policy.Policy, *policy.Map, error) {
	defer slowly(w, "reading "+strings.Join(files, ", "))()
	m := &policy.Map{}
	if mapFile != "" {
		var err error
		if m, err = policy.LoadMap(mapFile); err != nil {
			return nil, nil, err
		}
	}
	p, err := policy.Load(files, policy.Options{Map: m})
	return p, m, err
}
