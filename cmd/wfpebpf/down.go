// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/wfpebpf/wfpebpf/loader"
)

func downCommand() *cobra.Command {
	var target loader.Target
	cmd := &cobra.Command{
		Use:   "down",
		Short: "Remove all that wfpebpf made, and nothing else",
		Long: `Ends enforcement and removes programs, maps and records. Without --netns and
--cgroup it removes every instance. Nothing to remove is no error.`,
		Example: `  wfpebpf down
  wfpebpf down --netns lab`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(*cobra.Command, []string) error {
			if target == (loader.Target{}) {
				return loader.DownAll()
			}
			err := eachInstance(target, (*loader.Engine).Down)
			if !errors.Is(err, loader.ErrNotApplied) {
				return err
			}
			// Its record is damaged, or was never written: apply was killed before.
			e, err := loader.Open(loader.Options{Target: target})
			if err != nil {
				return err
			}
			defer e.Close()
			return e.Down()
		},
	}
	targetFlags(cmd, &target)
	return cmd
}
