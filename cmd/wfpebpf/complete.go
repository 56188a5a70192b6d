// SPDX-License-Identifier: Apache-2.0

// This file says what the shell can complete: names of layers, fields, network
// namespaces and links.

package main

import (
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/wfpebpf/wfpebpf/layermap"
	"github.com/wfpebpf/wfpebpf/loader"
)

// names lists what a word may become; the shell picks by prefix.
type names func(cmd *cobra.Command) []string

// complete has a flag completed. It panics where the flag does not exist, which
// any test that makes the command finds.
func complete(cmd *cobra.Command, flag string, of names) {
	err := cmd.RegisterFlagCompletionFunc(flag, func(cmd *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
		return withPrefix(of(cmd), word), cobra.ShellCompDirectiveNoFileComp
	})
	if err != nil {
		panic(err)
	}
}

// withPrefix picks without regard to letter case, as names of layers are read.
func withPrefix(all []string, word string) []string {
	var out []string
	for _, n := range all {
		if len(n) >= len(word) && strings.EqualFold(n[:len(word)], word) {
			out = append(out, n)
		}
	}
	return out
}

func completeLayers(*cobra.Command) []string {
	var out []string
	for _, l := range layermap.Layers() {
		out = append(out, l.Name)
	}
	return out
}

func completeNetns(*cobra.Command) []string {
	entries, _ := os.ReadDir(netnsDir)
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

// completeLinks lists the links of the namespace that the command is about, as
// far as the caller may look into it.
func completeLinks(cmd *cobra.Command) []string {
	netns := ""
	if f := cmd.Flag("netns"); f != nil {
		netns = f.Value.String()
	}
	links, _ := loader.HostLinks(netns)
	var out []string
	for _, l := range links {
		out = append(out, l.Name)
	}
	return out
}

// completeOne has a command's single argument completed.
func completeOne(of names) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return withPrefix(of(cmd), word), cobra.ShellCompDirectiveNoFileComp
	}
}
