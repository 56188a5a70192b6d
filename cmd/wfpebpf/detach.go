// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"

	"github.com/wfpebpf/wfpebpf/loader"
)

func detachCommand() *cobra.Command {
	return linkCommand("detach", "Filter one link less with the policy in force",
		"Takes a link from those that the policy in force filters, at the MAC frame and IP packet layers.",
		(*loader.Engine).DetachLink)
}
