// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"

	"github.com/wfpebpf/wfpebpf/loader"
)

func attachCommand() *cobra.Command {
	return linkCommand("attach", "Filter one more link with the policy in force",
		"Adds a link to those that the policy in force filters, at the MAC frame and IP packet layers.",
		(*loader.Engine).AttachLink)
}

// linkCommand makes a command that does something to one link of an instance.
func linkCommand(name, short, long string, do func(*loader.Engine, string) error) *cobra.Command {
	var target loader.Target
	cmd := &cobra.Command{
		Use:               name + " IF",
		Short:             short,
		Long:              long,
		Example:           "  wfpebpf " + name + " eth1\n  wfpebpf " + name + " veth0 --netns lab",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeOne(completeLinks),
		RunE: func(_ *cobra.Command, args []string) error {
			return withEngine(target, func(e *loader.Engine) error { return do(e, args[0]) })
		},
	}
	targetFlags(cmd, &target)
	return cmd
}

// withEngine calls fn with the target's instance, or with the only one.
func withEngine(t loader.Target, fn func(*loader.Engine) error) error {
	if err := loader.CheckCapabilities(); err != nil {
		return err
	}
	e, err := loader.Find(t)
	if err != nil {
		return err
	}
	defer e.Close()
	return fn(e)
}
