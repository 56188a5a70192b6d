// SPDX-License-Identifier: Apache-2.0

// This file is apply --confirm: the wait, and the process that takes the policy
// back. That process has a session of its own, so that neither the death of
// apply nor of its terminal, which a bad policy may bring about, cancels it.

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/wfpebpf/wfpebpf/loader"
)

// pollInterval is how soon a confirm from elsewhere is noticed.
const pollInterval = 100 * time.Millisecond

// exitTakenBack is how the process says that it took the policy back.
const exitTakenBack = 3

// rollbackCommand is the process that takes a policy back. It is no part of the
// command line.
func rollbackCommand() *cobra.Command {
	var target loader.Target
	var generation uint64
	cmd := &cobra.Command{
		Use:    "rollback-after DURATION",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			after, err := time.ParseDuration(args[0])
			if err != nil {
				return usageError{err}
			}
			takenBack, err := rollbackAfter(target, generation, after)
			if takenBack {
				os.Exit(exitTakenBack)
			}
			return err
		},
	}
	targetFlags(cmd, &target)
	cmd.Flags().Uint64Var(&generation, "generation", 0, "the commit to take back")
	return cmd
}

// waiting reports whether a commit still waits to be confirmed. Another commit
// after it ends the wait, as does Down.
func waiting(e *loader.Engine, generation uint64) bool {
	if !e.Unconfirmed() {
		return false
	}
	s, err := e.State()
	return err != nil || s.Generation == generation
}

// rollbackAfter waits and takes the commit back unless it is confirmed. What
// keeps it from looking is no reason to leave the policy in force, so that it
// tries until it succeeds.
func rollbackAfter(target loader.Target, generation uint64, after time.Duration) (takenBack bool, err error) {
	deadline := time.Now().Add(after)
	for {
		e, err := loader.Find(target)
		if err == nil {
			switch {
			case !waiting(e, generation):
				return false, e.Close()
			case !time.Now().Before(deadline):
				err = e.Rollback()
			}
			e.Close()
			if err == nil && !time.Now().Before(deadline) {
				return true, nil
			}
		}
		if errors.Is(err, loader.ErrNotApplied) {
			return false, nil // it was removed meanwhile
		}
		time.Sleep(pollInterval)
	}
}

// await marks the commit as one to be confirmed, starts the process that takes
// it back, and waits for what comes first: Enter, a confirm from elsewhere, or
// the end of the time.
func (a *application) await(cmd *cobra.Command, engine *loader.Engine) error {
	undo := func(err error) error {
		return errors.Join(err, engine.Rollback())
	}
	if err := engine.SetUnconfirmed(); err != nil {
		return undo(err)
	}
	state, err := engine.State()
	if err != nil {
		return undo(err)
	}
	child, err := startRollback(state, a.confirm)
	if err != nil {
		return undo(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- child.Wait() }()
	progress := cmd.ErrOrStderr()
	interactive := isTerminal(cmd.InOrStdin())
	how := "wfpebpf confirm"
	if interactive {
		how = "Enter or " + how
		go confirmByEnter(cmd.InOrStdin(), engine, progress)
	}
	fmt.Fprintf(progress, "in force; taken back after %s unless kept by: %s\n", a.confirm, how)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	deadline := time.Now().Add(a.confirm)
	for {
		select {
		case err := <-ended:
			if interactive {
				fmt.Fprintln(progress)
			}
			return a.outcome(err, progress)
		case <-tick.C:
			if left := time.Until(deadline).Round(time.Second); interactive && left >= 0 {
				fmt.Fprintf(progress, "\r%s left ", left)
			}
		}
	}
}

// outcome reads the end of the process that takes the policy back.
func (a *application) outcome(err error, progress io.Writer) error {
	var exit *exec.ExitError
	switch {
	case err == nil:
		fmt.Fprintln(progress, "kept")
		return nil
	case errors.As(err, &exit) && exit.ExitCode() == exitTakenBack:
		return fmt.Errorf("not confirmed within %s: the policy before is in force again", a.confirm)
	}
	return fmt.Errorf("the process that takes the policy back failed (%w): the policy stays in force, unconfirmed", err)
}

// confirmByEnter keeps the policy once a line is read.
func confirmByEnter(in io.Reader, engine *loader.Engine, progress io.Writer) {
	if _, err := bufio.NewReader(in).ReadString('\n'); err != nil {
		return
	}
	if _, err := engine.Confirm(); err != nil {
		fmt.Fprintf(progress, "wfpebpf: %s\n", oneLine(err.Error()))
	}
}

// startRollback starts the process. It holds nothing of the terminal, of the
// working directory or of the environment.
func startRollback(s loader.State, after time.Duration) (*exec.Cmd, error) {
	args := []string{"rollback-after", after.String(), "--generation", strconv.FormatUint(s.Generation, 10)}
	if s.Netns != "" {
		args = append(args, "--netns", s.Netns)
	}
	if s.Cgroup != "" {
		args = append(args, "--cgroup", s.Cgroup)
	}
	// The name under /proc is this very program, even if its file was replaced.
	child := exec.Command("/proc/self/exe", args...)
	child.Args[0] = "wfpebpf"
	child.Env = []string{}
	child.Dir = "/"
	child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return child, child.Start()
}

func isTerminal(in io.Reader) bool {
	f, ok := in.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
