// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/wfpebpf/wfpebpf/loader"
)

func confirmCommand() *cobra.Command {
	var target loader.Target
	cmd := &cobra.Command{
		Use:   "confirm",
		Short: "Keep what apply --confirm put in force",
		Long: `Keeps the policy that "wfpebpf apply --confirm" put in force, from any terminal.
Without --netns and --cgroup it keeps every policy that waits.`,
		Example: `  wfpebpf confirm
  wfpebpf confirm --netns lab`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(*cobra.Command, []string) error {
			kept := 0
			err := eachInstance(target, func(e *loader.Engine) error {
				was, err := e.Confirm()
				if was {
					kept++
				}
				return err
			})
			if err == nil && kept == 0 {
				err = errors.New("no policy waits to be confirmed")
			}
			return err
		},
	}
	targetFlags(cmd, &target)
	return cmd
}

// eachInstance calls fn with the instance of a target; with every instance
// where no target is named. It goes on after an error and returns them all.
func eachInstance(t loader.Target, fn func(*loader.Engine) error) error {
	engines, err := engines(t)
	errs := []error{err}
	for _, e := range engines {
		errs = append(errs, fn(e))
		e.Close()
	}
	return errors.Join(errs...)
}

// engines opens the instance of a target, or every instance where none is named.
// A namespace that has lost its name is still known by it.
func engines(t loader.Target) ([]*loader.Engine, error) {
	if err := loader.CheckCapabilities(); err != nil {
		return nil, err
	}
	if t == (loader.Target{}) {
		return loader.OpenAll()
	}
	e, err := loader.Find(t)
	if err == nil {
		return []*loader.Engine{e}, nil
	}
	if t.Netns == "" || errors.Is(err, loader.ErrAmbiguous) {
		return nil, err
	}
	all, _ := loader.OpenAll() // of one that cannot be opened the name says nothing
	var named []*loader.Engine
	for _, e := range all {
		if of := e.Target(); of.Netns == t.Netns && (t.Cgroup == "" || of.Cgroup == t.Cgroup) {
			named = append(named, e)
		} else {
			e.Close()
		}
	}
	if len(named) > 0 {
		err = nil
	}
	return named, err
}
