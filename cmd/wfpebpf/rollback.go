// SPDX-License-Identifier: Apache-2.0

// This file is apply --confirm: the wait, and the process that takes the policy
// back. That process has a session of its own, so that neither the death of
// apply nor of its terminal, which a bad policy may bring about, cancels it. It
// runs before the commit is made: at no moment is a policy in force that waits
// for its confirmation and that nobody would take back.

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
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

// parentFile is the descriptor by which the process knows that apply has not
// come to the end of its commit: apply holds the other end of the pipe.
const parentFile = 3

// rollbackCommand is the process that takes a policy back. It is no part of the
// command line.
func rollbackCommand() *cobra.Command {
	var target loader.Target
	var generation uint64
	cmd := &cobra.Command{
		Use:    "rollback-after DURATION",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			after, err := time.ParseDuration(args[0])
			if err != nil {
				return usageError{err}
			}
			parent := os.NewFile(parentFile, "apply")
			if parent == nil {
				return usagef("apply starts this command")
			}
			r := rollback{
				find:       func() (unconfirmed, error) { return loader.Find(exactly(target)) },
				committing: make(chan struct{}), first: generation, after: after, patience: rollbackPatience,
			}
			go func() {
				// Nothing is ever written: this ends when apply lets go.
				_, _ = io.Copy(io.Discard, parent)
				close(r.committing)
			}()
			fmt.Fprintln(cmd.OutOrStdout(), rollbackReady)
			takenBack, err := r.run()
			if takenBack {
				os.Exit(exitTakenBack)
			}
			return err
		},
	}
	targetFlags(cmd, &target)
	cmd.Flags().Uint64Var(&generation, "generation", 0, "the commit to take back, or one that came in its place")
	return cmd
}

// rollbackReady is what the process says once it watches.
const rollbackReady = "ready"

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
	Generation() (uint64, error)
	RollbackUnconfirmed(generation uint64) error
	Close() error
}

// rollback takes one commit back.
type rollback struct {
	find       func() (unconfirmed, error)
	committing chan struct{} // closed once apply has committed, failed or died
	first      uint64        // the generation that the commit will have, or a later one where another process was faster
	after      time.Duration
	patience   time.Duration
}

// run waits until the commit is in force and then for its time, and takes it
// back unless it is confirmed or replaced meanwhile. What keeps it from looking
// is no reason to leave the policy in force: it tries again.
func (r *rollback) run() (takenBack bool, err error) {
	var (
		ours     uint64 // 0: the commit is not in force yet
		deadline time.Time
		giveUp   time.Time // while looking fails
	)
	for {
		// Asked before the look: what apply did before it let go must be seen.
		over := isClosed(r.committing)
		start := time.Now()
		look, err := r.look(ours, !deadline.IsZero() && !time.Now().Before(deadline))
		switch {
		case err != nil && giveUp.IsZero():
			giveUp = time.Now().Add(r.patience)
			if !deadline.IsZero() {
				giveUp = deadline.Add(r.patience)
			}
		case err != nil && time.Now().After(giveUp):
			return false, err
		case err != nil:
		case look.takenBack:
			return true, nil
		case look.generation >= r.first && look.waits && look.generation != ours && (!over || ours == 0):
			ours, deadline, giveUp = look.generation, time.Now().Add(r.after), time.Time{}
		case over && (!look.waits || look.generation != ours):
			return false, nil // confirmed, replaced, removed, or never made
		default:
			giveUp = time.Time{}
		}
		r.pause(over, deadline, time.Since(start))
	}
}

// pause waits for the next look, which is due at once when apply lets go. To
// look takes a while where the policy is large, and must not keep a processor
// busy.
func (r *rollback) pause(over bool, deadline time.Time, took time.Duration) {
	wait := max(pollInterval, 4*took)
	if left := time.Until(deadline); left > 0 {
		wait = min(wait, left)
	}
	if over {
		time.Sleep(wait)
		return
	}
	select {
	case <-r.committing:
	case <-time.After(wait):
	}
}

func isClosed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// look is what is in force at one moment.
type look struct {
	generation uint64
	waits      bool // for its confirmation
	takenBack  bool
}

// look looks once and, if it is due, takes our commit back.
func (r *rollback) look(ours uint64, due bool) (look, error) {
	e, err := r.find()
	if errors.Is(err, loader.ErrNotApplied) {
		return look{}, nil
	}
	if err != nil {
		return look{}, err
	}
	defer e.Close()
	var l look
	if l.generation, err = e.Generation(); err != nil || l.generation < r.first {
		return l, err
	}
	l.waits = e.Unconfirmed()
	if now, err := e.Generation(); err != nil || now != l.generation {
		return look{}, errors.Join(errors.New("another commit came between"), err)
	}
	if due && l.waits && l.generation == ours {
		err = e.RollbackUnconfirmed(ours)
		if errors.Is(err, loader.ErrNotWaiting) {
			l.waits, err = false, nil // confirmed since we looked
			return l, nil
		}
		l.takenBack = err == nil
	}
	return l, err
}

// guard is the process, seen from apply.
type guard struct {
	parent *os.File // closing it says that the commit is over
	ended  chan error
}

// commitGuarded makes a commit that waits to be confirmed, with a process that
// takes it back from the first moment on.
func (a *application) commitGuarded(engine *loader.Engine, commit func() error) (*guard, uint64, error) {
	before, err := engine.Generation()
	if err != nil {
		return nil, 0, err
	}
	g, err := startRollback(a.options.Target, before+1, a.confirm)
	if err != nil {
		return nil, 0, fmt.Errorf("starting the process that takes the policy back: %w; nothing is changed", err)
	}
	defer g.parent.Close()
	if err := commit(); err != nil {
		return nil, 0, err
	}
	generation, err := engine.Generation()
	return g, generation, err
}

// await waits for what comes first: Enter, a confirm from elsewhere, Ctrl-C, or
// the end of the time.
func (a *application) await(cmd *cobra.Command, g *guard, generation uint64) error {
	progress := cmd.ErrOrStderr()
	interactive := isTerminal(cmd.InOrStdin())
	how := "wfpebpf confirm" + a.targetArgs()
	if interactive {
		how = "Enter, or " + how
		go a.confirmByEnter(cmd.InOrStdin(), progress)
	}
	fmt.Fprintf(progress, "in force; taken back after %s unless kept by: %s\n", a.confirm, how)
	// Only Ctrl-C: it is the wish of a person who sees this. Any other end of
	// this process leaves the decision to the one that takes the policy back.
	interrupt := make(chan os.Signal, 1)
	signal.Notify(interrupt, os.Interrupt)
	defer signal.Stop(interrupt)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	deadline := time.Now().Add(a.confirm)
	for {
		select {
		case err := <-g.ended:
			if interactive {
				fmt.Fprintln(progress)
			}
			return outcome(err, a.confirm, progress)
		case <-interrupt:
			if interactive {
				fmt.Fprintln(progress)
			}
			return a.takeBack(generation)
		case <-tick.C:
			if left := time.Until(deadline).Round(time.Second); interactive && left >= 0 {
				fmt.Fprintf(progress, "\r%4s left ", left)
			}
		}
	}
}

// targetArgs are the flags by which another command finds this instance.
func (a *application) targetArgs() string {
	s := ""
	if a.options.Netns != "" {
		s += " --netns " + a.options.Netns
	}
	if a.options.Cgroup != "" {
		s += " --cgroup " + a.options.Cgroup
	}
	return s
}

// takeBack takes the commit back at once.
func (a *application) takeBack(generation uint64) error {
	e, err := loader.Find(exactly(a.options.Target))
	if err != nil {
		return fmt.Errorf("interrupted, and the policy is not taken back yet: %w", err)
	}
	defer e.Close()
	switch err := e.RollbackUnconfirmed(generation); {
	case errors.Is(err, loader.ErrNotWaiting):
		return errors.New("interrupted; the policy does not wait any more")
	case err != nil:
		return fmt.Errorf("interrupted, and the policy is not taken back yet: %w", err)
	}
	return errors.New("interrupted: " + restored)
}

// restored is how every report of a policy that was taken back ends.
const restored = "the policy before is in force again"

// outcome reads the end of the process that takes the policy back.
func outcome(err error, after time.Duration, progress io.Writer) error {
	var exit *exec.ExitError
	switch {
	case err == nil:
		fmt.Fprintln(progress, "kept")
		return nil
	case errors.As(err, &exit) && exit.ExitCode() == exitTakenBack:
		return fmt.Errorf("not confirmed within %s: %s", after, restored)
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

// startRollback starts the process and waits until it watches. It holds nothing
// of the terminal, of the working directory or of the environment.
func startRollback(t loader.Target, generation uint64, after time.Duration) (*guard, error) {
	args, err := rollbackArgs(t, generation, after)
	if err != nil {
		return nil, err
	}
	lives, parent, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer lives.Close()
	// The name under /proc is this very program, even if its file was replaced.
	child := exec.Command("/proc/self/exe", args...)
	child.Args[0] = "wfpebpf"
	child.Env = []string{}
	child.Dir = "/"
	child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	child.ExtraFiles = []*os.File{lives} // parentFile
	says, err := child.StdoutPipe()
	if err == nil {
		err = child.Start()
	}
	if err != nil {
		parent.Close()
		return nil, err
	}
	g := &guard{parent: parent, ended: make(chan error, 1)}
	line, err := bufio.NewReader(says).ReadString('\n')
	if err == nil && strings.TrimSpace(line) != rollbackReady {
		err = fmt.Errorf("it says %q", line)
	}
	if err != nil {
		parent.Close()
		return nil, errors.Join(err, child.Wait())
	}
	go func() { g.ended <- child.Wait() }()
	return g, nil
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
