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
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/wfpebpf/wfpebpf/loader"
)

// pollInterval is how soon a confirm from elsewhere is noticed.
const pollInterval = 200 * time.Millisecond

// rollbackPatience is how long taking back is tried where it fails.
const rollbackPatience = 10 * time.Minute

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
			find := func() (unconfirmed, error) { return loader.Find(exactly(target)) }
			takenBack, err := rollbackAfter(find, generation, after, rollbackPatience)
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

// exactly names the parts of a target that apply was not given: for Find an
// empty name is any instance, for apply it is the caller's own namespace and the
// root cgroup.
func exactly(t loader.Target) loader.Target {
	if t.Netns == "" {
		t.Netns = "/proc/self/ns/net"
	}
	if t.Cgroup == "" {
		t.Cgroup = "/"
	}
	return t
}

// unconfirmed is the part of loader.Engine that the process needs.
type unconfirmed interface {
	Unconfirmed() bool
	State() (loader.State, error)
	Rollback() error
	Close() error
}

// rollbackAfter waits, and takes the commit back unless it is confirmed or
// replaced meanwhile. What keeps it from looking is no reason to leave the
// policy in force: it tries again.
func rollbackAfter(find func() (unconfirmed, error), generation uint64, after, patience time.Duration) (takenBack bool, err error) {
	deadline := time.Now().Add(after)
	for {
		due := !time.Now().Before(deadline)
		over, err := rollbackIf(find, generation, due)
		switch {
		case over:
			return true, nil
		case errors.Is(err, errNotWaiting):
			return false, nil
		case time.Since(deadline) > patience:
			return false, err
		}
		time.Sleep(pollInterval)
	}
}

// errNotWaiting: the commit was confirmed, replaced or removed.
var errNotWaiting = errors.New("the commit does not wait to be confirmed")

// rollbackIf looks once, and takes the commit back if it is due. done says that
// it did.
func rollbackIf(find func() (unconfirmed, error), generation uint64, due bool) (done bool, err error) {
	e, err := find()
	if errors.Is(err, loader.ErrNotApplied) {
		return false, errNotWaiting
	}
	if err != nil {
		return false, err
	}
	defer e.Close()
	if !e.Unconfirmed() {
		return false, errNotWaiting
	}
	if s, err := e.State(); err == nil && s.Generation != generation {
		return false, errNotWaiting
	}
	if !due {
		return false, nil
	}
	if err := e.Rollback(); err != nil {
		return false, err
	}
	return true, nil
}

// await marks the commit as one to be confirmed, starts the process that takes
// it back, and waits for what comes first: Enter, a confirm from elsewhere, or
// the end of the time. It lets the engine go before it waits.
func (a *application) await(cmd *cobra.Command, engine *loader.Engine, release func()) error {
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
	child, err := startRollback(a.options.Target, state.Generation, a.confirm)
	if err != nil {
		return undo(err)
	}
	release()
	ended := make(chan error, 1)
	go func() { ended <- child.Wait() }()
	progress := cmd.ErrOrStderr()
	interactive := isTerminal(cmd.InOrStdin())
	how := "wfpebpf confirm"
	if interactive {
		how = "Enter or " + how
		go a.confirmByEnter(cmd.InOrStdin(), progress)
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
			return outcome(err, a.confirm, progress)
		case <-tick.C:
			if left := time.Until(deadline).Round(time.Second); interactive && left >= 0 {
				fmt.Fprintf(progress, "\r%s left ", left)
			}
		}
	}
}

// outcome reads the end of the process that takes the policy back.
func outcome(err error, after time.Duration, progress io.Writer) error {
	var exit *exec.ExitError
	switch {
	case err == nil:
		fmt.Fprintln(progress, "kept")
		return nil
	case errors.As(err, &exit) && exit.ExitCode() == exitTakenBack:
		return fmt.Errorf("not confirmed within %s: the policy before is in force again", after)
	}
	return fmt.Errorf("the process that takes the policy back failed (%w): the policy stays in force, unconfirmed", err)
}

// confirmByEnter keeps the policy once a line is read.
func (a *application) confirmByEnter(in io.Reader, progress io.Writer) {
	if _, err := bufio.NewReader(in).ReadString('\n'); err != nil {
		return
	}
	e, err := loader.Find(exactly(a.options.Target))
	if err == nil {
		_, err = e.Confirm()
		e.Close()
	}
	if err != nil {
		fmt.Fprintf(progress, "wfpebpf: %s\n", oneLine(err.Error()))
	}
}

// startRollback starts the process. It holds nothing of the terminal, of the
// working directory or of the environment.
func startRollback(t loader.Target, generation uint64, after time.Duration) (*exec.Cmd, error) {
	args, err := rollbackArgs(t, generation, after)
	if err != nil {
		return nil, err
	}
	// The name under /proc is this very program, even if its file was replaced.
	child := exec.Command("/proc/self/exe", args...)
	child.Args[0] = "wfpebpf"
	child.Env = []string{}
	child.Dir = "/"
	child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return child, child.Start()
}

func rollbackArgs(t loader.Target, generation uint64, after time.Duration) ([]string, error) {
	args := []string{"rollback-after", after.String(), "--generation", strconv.FormatUint(generation, 10)}
	if t.Netns != "" {
		// A path must mean the same from the root directory.
		if strings.ContainsRune(t.Netns, '/') {
			var err error
			if t.Netns, err = filepath.Abs(t.Netns); err != nil {
				return nil, err
			}
		}
		args = append(args, "--netns", t.Netns)
	}
	if t.Cgroup != "" {
		args = append(args, "--cgroup", t.Cgroup)
	}
	return args, nil
}

func isTerminal(in io.Reader) bool {
	f, ok := in.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
