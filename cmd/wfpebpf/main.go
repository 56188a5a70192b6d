// SPDX-License-Identifier: Apache-2.0

// Command wfpebpf is the Windows Filtering Platform on Linux: it loads WFP
// policies, enforces them with BPF programs at the hooks that stand where WFP's
// layers do, and explains every verdict.
//
// One file holds one subcommand. What a policy means is decided in package
// policy, what a verdict is in package explain, and what happens in the kernel
// in package loader; here is only what the command line adds.
package main

import "os"

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }
