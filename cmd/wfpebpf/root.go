// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"strings"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/wfpebpf/wfpebpf/loader"
)

// Exit codes.
const (
	exitDone    = 0 // also when some filters were refused: the report says so
	exitNothing = 1 // nothing was changed
	exitUsage   = 2
)

// usageError is a mistake in the command line that shows only while it runs.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// run runs one command line and returns its exit code.
func run(args []string, in io.Reader, out, errOut io.Writer) int {
	root, started := newRoot()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errOut)
	err := root.Execute()
	if err == nil {
		return exitDone
	}
	// What fails before a command starts is a mistake in the command line.
	var usage usageError
	code := exitNothing
	if !*started || errors.As(err, &usage) {
		code = exitUsage
	}
	msg := oneLine(err.Error())
	if code == exitUsage {
		help := "wfpebpf --help"
		if cmd, _, err := root.Find(args); err == nil && cmd.HasParent() {
			help = cmd.CommandPath() + " --help"
		}
		msg += " (" + help + ")"
	}
	fmt.Fprintf(errOut, "wfpebpf: %s\n", msg)
	return code
}

// oneLine keeps a message, which may quote a hostile file, on its line and the
// terminal unharmed.
func oneLine(s string) string {
	var lines []string
	for _, line := range strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' }) {
		lines = append(lines, strings.TrimSpace(line))
	}
	s = strings.Join(lines, "; ")
	return strings.Map(func(r rune) rune {
		if r != ' ' && !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, s)
}

// policyFiles is the check of arguments that are policy files.
func policyFiles(_ *cobra.Command, args []string) error {
	if len(args) == 0 {
		return errors.New("a policy file is needed")
	}
	return nil
}

// newRoot builds the tree of commands. started becomes true once a command's
// flags and arguments are accepted.
func newRoot() (root *cobra.Command, started *bool) {
	started = new(bool)
	root = &cobra.Command{
		Use:   "wfpebpf",
		Short: "The Windows Filtering Platform on Linux",
		Long: `The Windows Filtering Platform on Linux: policies of WFP filters, enforced by
BPF programs that sit where WFP's layers do, with WFP's verdicts.

Exit codes: 0 done (also when some filters were refused: the report says so),
1 nothing changed, 2 wrong usage.`,
		Version:       version(),
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cmd.SetOut(cmd.ErrOrStderr())
			if err := cmd.Help(); err != nil {
				return err
			}
			return usagef("a command is needed")
		},
	}
	root.SetVersionTemplate("wfpebpf {{.Version}}\n")
	root.AddCommand(
		applyCommand(), confirmCommand(), downCommand(), watchCommand(), attachCommand(), detachCommand(),
		layersCommand(), showCommand(), eventsCommand(), explainCommand(), demoCommand(),
		rollbackCommand(), actorCommand(),
	)
	// Not PersistentPreRun, which comes before the check of flags that exclude
	// each other.
	for _, cmd := range root.Commands() {
		body := cmd.RunE
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			*started = true
			return body(cmd, args)
		}
	}
	return root, started
}

// version is that of the module, or of the commit that was built.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "(unknown)"
	}
	v := info.Main.Version
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && (v == "" || v == "(devel)") {
			return s.Value
		}
	}
	if v == "" {
		return "(devel)"
	}
	return v
}

// targetFlags adds the flags that say which instance is meant.
func targetFlags(cmd *cobra.Command, t *loader.Target) {
	cmd.Flags().StringVar(&t.Netns, "netns", "", "network namespace, by its name or path (default: the caller's)")
	cmd.Flags().StringVar(&t.Cgroup, "cgroup", "", "cgroup whose sockets are judged at the ALE layers (default: the root)")
	complete(cmd, "netns", completeNetns)
}

// jsonFlag adds --json.
func jsonFlag(cmd *cobra.Command, to *bool) {
	cmd.Flags().BoolVar(to, "json", false, "write JSON, for programs")
}
