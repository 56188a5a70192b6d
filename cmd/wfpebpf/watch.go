// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"

	"github.com/spf13/cobra"

	"github.com/wfpebpf/wfpebpf/loader"
)

func watchCommand() *cobra.Command {
	var target loader.Target
	cmd := &cobra.Command{
		Use:   "watch",
		Short: "Keep the policy in force current: links, addresses, executables",
		Long: `Stays in the foreground and keeps current what changes on the host: new links,
addresses and routes, executables that are replaced. Without it enforcement goes
on, and "wfpebpf show state" lists what is stale. Without --netns and --cgroup it
watches every instance. It tells systemd when it is ready (Type=notify).`,
		Example: `  wfpebpf watch
  wfpebpf watch --netns lab`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var mu sync.Mutex
			report := func(line string) {
				mu.Lock()
				defer mu.Unlock()
				fmt.Fprintln(cmd.OutOrStdout(), oneLine(line))
			}
			return untilInterrupted(func(ctx context.Context) error { return watch(ctx, target, report) })
		},
	}
	targetFlags(cmd, &target)
	return cmd
}

// watch watches all instances that are meant until the first fails.
func watch(ctx context.Context, target loader.Target, report func(string)) error {
	engines, err := engines(target)
	defer func() {
		for _, e := range engines {
			e.Close()
		}
	}()
	if err != nil {
		return err
	}
	if len(engines) == 0 {
		return loader.ErrNotApplied
	}
	if err := notify("READY=1"); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, len(engines))
	for _, e := range engines {
		go func() { ended <- e.Watch(ctx, report) }()
	}
	var errs []error
	for range engines {
		if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
			errs = append(errs, err)
		}
		cancel()
	}
	return errors.Join(errs...)
}

// notify tells the service manager a change of state. Outside of a service it
// does nothing.
func notify(state string) error {
	name := os.Getenv("NOTIFY_SOCKET")
	if name == "" {
		return nil
	}
	// A leading @ stands for the NUL of an abstract name; package net knows that.
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("telling the service manager: %w", err)
	}
	defer conn.Close()
	_, err = conn.Write([]byte(state))
	return err
}
