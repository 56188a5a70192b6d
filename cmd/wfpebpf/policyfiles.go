// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"

	"github.com/wfpebpf/wfpebpf/policy"
)

// mapFlag adds --map.
func mapFlag(cmd *cobra.Command, to *string) {
	cmd.Flags().StringVar(to, "map", "", "map file: what the names of a Windows policy mean on this host")
}

// loadPolicy reads a map file, if one is named, and policy files.
func loadPolicy(files []string, mapFile string) (*policy.Policy, *policy.Map, error) {
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
