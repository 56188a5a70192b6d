// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/wfpebpf/wfpebpf/loader"
)

func eventsCommand() *cobra.Command {
	var target loader.Target
	var asJSON, follow, permits bool
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Show what was blocked, and by which filter",
		Long: `Shows the net events that wait to be read and ends; with --follow it goes on until
it is interrupted. Permits are among them where apply was given --permits. With
--json it writes one object a line, {"lost":N} where events were lost.`,
		Example: `  wfpebpf events
  wfpebpf events --follow --json`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			write := eventText
			if asJSON {
				write = eventJSON
			}
			out := cmd.OutOrStdout()
			return untilInterrupted(func(ctx context.Context) error {
				return withEngine(target, func(e *loader.Engine) error {
					return e.Events(ctx, follow, permits, func(ev loader.Event) error { return write(out, ev) })
				})
			})
		},
	}
	cmd.Flags().BoolVar(&follow, "follow", false, "wait for more, until interrupted")
	cmd.Flags().BoolVar(&permits, "permits", false, "show permitted traffic, too")
	targetFlags(cmd, &target)
	jsonFlag(cmd, &asJSON)
	return cmd
}

// untilInterrupted calls fn with a context that ends at Ctrl-C or SIGTERM, which
// is how such a command is meant to end.
func untilInterrupted(fn func(context.Context) error) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := fn(ctx)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func eventJSON(w io.Writer, ev loader.Event) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	if ev.Lost > 0 {
		return e.Encode(map[string]uint64{"lost": ev.Lost})
	}
	return e.Encode(ev)
}

// protocolNames are the protocols that have a name here; others are numbers.
var protocolNames = map[uint8]string{1: "icmp", 6: "tcp", 17: "udp", 58: "icmpv6"}

func eventText(w io.Writer, ev loader.Event) error {
	if ev.Lost > 0 {
		_, err := fmt.Fprintf(w, "%d events were lost\n", ev.Lost)
		return err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %s at %s:", ev.Time.Format(time.RFC3339Nano), ev.Action, ev.Direction, ev.Layer)
	if ev.Protocol != 0 {
		name := protocolNames[ev.Protocol]
		if name == "" {
			name = fmt.Sprint("protocol ", ev.Protocol)
		}
		b.WriteString(" " + name)
	}
	if ev.Src != "" || ev.Dst != "" {
		fmt.Fprintf(&b, " %s to %s", ev.Src, ev.Dst)
	}
	part := func(word, value string) {
		if value != "" {
			fmt.Fprintf(&b, " %s %s", word, value)
		}
	}
	part("on", ev.Interface)
	part("out by", ev.OutInterface)
	part("program", ev.Program)
	if ev.PID != 0 {
		fmt.Fprintf(&b, " pid %d", ev.PID)
	}
	part("user", ev.User)
	if ev.FilterID != 0 {
		fmt.Fprintf(&b, ", filter %q (%d) in %s", clip(ev.FilterName), ev.FilterID, ev.SubLayer)
		if ev.Origin != "" {
			fmt.Fprintf(&b, ", origin %q", clip(ev.Origin))
		}
	}
	if ev.DiscardModule != "" {
		fmt.Fprintf(&b, ", discarded: %s %s", ev.DiscardModule, ev.DiscardReason)
	}
	if ev.DiscardFilterID != 0 {
		fmt.Fprintf(&b, " by filter %q (%d)", clip(ev.DiscardFilterName), ev.DiscardFilterID)
	}
	_, err := fmt.Fprintln(w, oneLine(b.String()))
	return err
}
