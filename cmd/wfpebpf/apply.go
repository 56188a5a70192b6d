// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/wfpebpf/wfpebpf/explain"
	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
	"github.com/wfpebpf/wfpebpf/loader"
	"github.com/wfpebpf/wfpebpf/policy"
)

// application is one run of apply.
type application struct {
	options   loader.Options
	mapFile   string
	failsafes []string
	confirm   time.Duration

	dryRun, strict, force, json bool
}

func applyCommand() *cobra.Command {
	var a application
	cmd := &cobra.Command{
		Use:   "apply FILE...",
		Short: "Enforce a policy; enforcement stays when the command ends",
		Long: `Reads policy files (wfpebpf's own YAML, netsh wfp XML), reports what becomes of
each filter, attaches the hooks that the policy needs and puts it in force in one
instant. Run again, it replaces the policy in force. The last line of the report
is the number of block filters that cannot be enforced here.

Files of addresses that a policy names (its sets) are read along with it; after a
change of one, apply the policy again.

A policy that would block the caller's own SSH connection, as if new, is not put
in force, unless --confirm or --force is given. Flows that are open at the first
apply are not cut at the ALE layers.

--confirm commits the policy, waits, and takes it back unless it is confirmed: by
Enter, or by "wfpebpf confirm" from any terminal. The policy is taken back even
when this command or its terminal dies.

--failsafe PROTOCOL/PORT[@CIDR] always lets in connections to a local port: a hard
permit in a sublayer above all others at the ALE layers, at the TRANSPORT layers
where the policy has filters there, and, with @CIDR, for all packets from and to
those addresses at the IPPACKET layers. It does not reach filters on MAC frames.

--dry-run only reports, and needs no root. It fails where apply would because the
policy exceeds a limit.`,
		Example: `  wfpebpf apply policy.yaml --dry-run
  wfpebpf apply wfpstate.xml --map map.yaml --iface eth0 --failsafe tcp/22
  wfpebpf apply policy.yaml --confirm 30s
  wfpebpf apply policy.yaml --netns lab --json`,
		Args: policyFiles,
		RunE: func(cmd *cobra.Command, args []string) error { return a.run(cmd, args) },
	}
	f := cmd.Flags()
	mapFlag(cmd, &a.mapFile)
	targetFlags(cmd, &a.options.Target)
	f.StringArrayVar(&a.options.Interfaces, "iface", nil, "link to filter; repeatable (default: all that are up)")
	f.DurationVar(&a.confirm, "confirm", 0, "take the policy back after this time unless it is confirmed")
	f.StringArrayVar(&a.failsafes, "failsafe", nil, "always let in connections to this port, such as tcp/22 or tcp/22@10.0.0.0/8; repeatable")
	f.BoolVar(&a.dryRun, "dry-run", false, "report only; needs no root")
	f.BoolVar(&a.strict, "strict", false, "change nothing where a block filter is refused or can match nothing here")
	f.BoolVar(&a.force, "force", false, "apply even if the caller's SSH connection would be blocked")
	f.BoolVar(&a.options.Permits, "permits", false, "report permitted traffic as events, too")
	jsonFlag(cmd, &a.json)
	complete(cmd, "iface", completeLinks)
	complete(cmd, "failsafe", func(*cobra.Command) []string { return []string{"tcp/22"} })
	return cmd
}

func (a *application) run(cmd *cobra.Command, files []string) error {
	if cmd.Flags().Changed("confirm") && a.confirm < time.Second {
		return usagef("--confirm %s is too short a time to confirm in: 1s is the least", a.confirm)
	}
	var safes []failsafe
	for _, text := range a.failsafes {
		s, err := parseFailsafe(text)
		if err != nil {
			return usageError{err}
		}
		safes = append(safes, s)
	}
	if !a.dryRun {
		if err := loader.CheckCapabilities(); err != nil {
			return err
		}
	}
	p, _, err := loadPolicy(cmd.ErrOrStderr(), files, a.mapFile)
	if err != nil {
		return err
	}
	if err := addFailsafes(p, safes); err != nil {
		return err
	}
	var engine *loader.Engine
	var release func()
	if !a.dryRun {
		if engine, err = loader.Open(a.options); err != nil {
			return err
		}
		release = sync.OnceFunc(func() { engine.Close() })
		defer release()
		if err := a.checkLinks(); err != nil {
			return err
		}
		refuseUnavailable(p, engine.Unavailable(p))
	}
	p.NoteProtocols()
	report := p.Report()
	if err := a.write(cmd.OutOrStdout(), report); err != nil {
		return err
	}
	if a.strict {
		if err := strict(report); err != nil {
			return err
		}
	}
	// A dry run says what would happen, so it asks about SSH, too.
	blocked := a.checkSSH(p, os.Getenv(sshConnection))
	switch {
	case blocked == nil || a.force || a.confirm > 0:
	case a.dryRun:
		fmt.Fprintf(cmd.ErrOrStderr(), "wfpebpf: warning: %s\n", oneLine(blocked.Error()))
	default:
		return blocked
	}
	if a.dryRun {
		defer slowly(cmd.ErrOrStderr(), fmt.Sprintf("compiling %d filters", len(p.Store.Filters())))()
		return loader.Check(p)
	}
	return a.commit(cmd, engine, release, p)
}

func (a *application) write(w io.Writer, r policy.Report) error {
	if a.json {
		return writeJSON(w, r)
	}
	return r.WriteText(w)
}

// refuseUnavailable refuses the filters of layers that this kernel cannot
// carry, and names the layers first.
func refuseUnavailable(p *policy.Policy, layers map[layermap.LayerID]string) {
	refused := map[layermap.LayerID]int{}
	for _, f := range p.Store.Filters() {
		if why, unavailable := layers[f.Layer]; unavailable {
			p.Refuse(f.ID, why)
			refused[f.Layer]++
		}
	}
	var notes []string
	for _, id := range slices.Sorted(maps.Keys(refused)) {
		notes = append(notes, fmt.Sprintf("kernel: layer %s is not available: %s; its filters are refused: %d",
			layermap.ByID(id).Name, layers[id], refused[id]))
	}
	p.Notes = append(notes, p.Notes...)
}

// strict names the first block filter that would do nothing.
func strict(r policy.Report) error {
	var first *policy.ReportFilter
	n := 0
	for i := range r.Filters {
		f := &r.Filters[i]
		if f.Action == filter.ActionBlock.Short() && f.State != policy.StateEnforced {
			if n++; first == nil {
				first = f
			}
		}
	}
	if n == 0 {
		return nil
	}
	return fmt.Errorf("--strict: %d block filters would not take effect, the first is %q (%d) at layer %s: %s", n, clip(first.Name), first.ID, first.Layer, first.Reason)
}

// commit puts the policy in force and, with --confirm, waits.
func (a *application) commit(cmd *cobra.Command, engine *loader.Engine, release func(), p *policy.Policy) error {
	switch {
	case !engine.Unconfirmed():
	case !a.force:
		return errors.New("the policy in force waits to be confirmed or taken back: confirm it, wait, or use --force; nothing is changed")
	case a.confirm > 0:
		// Taking this one back would put the other in force as if confirmed.
		return errors.New("the policy in force waits to be confirmed or taken back, which no other can do before: confirm it or wait; nothing is changed")
	}
	// Ctrl-C while tables are filled leaves the policy before in force.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	put := func(commit func(context.Context, *policy.Policy) error) error {
		defer slowly(cmd.ErrOrStderr(), fmt.Sprintf("putting %d filters in force", len(p.Store.Filters())))()
		err := commit(ctx, p)
		if done := (*loader.InForceError)(nil); errors.As(err, &done) {
			fmt.Fprintf(cmd.ErrOrStderr(), "wfpebpf: warning: the policy is %s\n", oneLine(done.Error()))
			return nil
		}
		return interrupted(ctx, err)
	}
	if a.confirm == 0 {
		return put(engine.Commit)
	}
	guard, generation, err := a.commitGuarded(engine, func() error { return put(engine.CommitUnconfirmed) })
	if err != nil {
		return err
	}
	stop()
	release() // another command may change the instance now
	return a.await(cmd, guard, generation)
}

// interrupted says what the end of a commit by a signal means.
func interrupted(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return errors.New("interrupted; nothing is changed")
	}
	return err
}

// checkLinks finds a link that is named and not there, before anything is
// reported as if it were to be enforced.
func (a *application) checkLinks() error {
	links, err := loader.HostLinks(a.options.Netns)
	if err != nil {
		return err
	}
	var have []string
	for _, l := range links {
		have = append(have, l.Name)
	}
	for _, name := range a.options.Interfaces {
		if !slices.Contains(have, name) {
			return fmt.Errorf("--iface %q: no such link in the network namespace, which has %s", name, strings.Join(have, ", "))
		}
	}
	return nil
}

// linkNamed reports whether the links to filter are all or hold a name.
func (a *application) linkNamed(name string) bool {
	return len(a.options.Interfaces) == 0 || name == "" || slices.Contains(a.options.Interfaces, name)
}

// portsTowards are the ports of a bridge by which traffic of a peer may cross it: the
// one that the kernel has seen it at, or any. None where the link is no bridge.
func (a *application) portsTowards(peer netip.Addr, bridge explain.Link, links []loader.HostLink) []explain.Link {
	var ports []explain.Link
	if bridge.Network == 0 {
		return nil
	}
	seen, _ := loader.PortTowards(a.options.Netns, bridge.Index, peer)
	for _, l := range links {
		if l.Bridge == bridge.Index && (seen == 0 || seen == l.Index) {
			ports = append(ports, asLink(l))
		}
	}
	return ports
}

// checkSSH returns why the caller's SSH connection would be blocked, nil where
// it would not be or where there is none.
func (a *application) checkSSH(p *policy.Policy, connection string) error {
	t, ok := sshTuple(connection)
	if !ok {
		return nil
	}
	var ports []explain.Link
	if links, err := loader.HostLinks(a.options.Netns); err == nil {
		if a.options.Netns != "" && !hasAddress(links, t.Local.Addr()) {
			// The connection may be to where the caller is, which stays as it is.
			if own, err := loader.HostLinks(""); err == nil && hasAddress(own, t.Local.Addr()) {
				return nil
			}
		}
		if t.Link.Name != "" {
			t.Link = named(t.Link.Name, links)
		} else {
			t.Link = owning(t.Local.Addr(), t.Remote.Addr(), links)
		}
		ports = a.portsTowards(t.Remote.Addr(), t.Link, links)
	}
	f, layer := wouldBlock(p, t, a.linkNamed)
	for i := 0; f == nil && i < len(ports); i++ {
		t.Port = ports[i]
		f, layer = wouldBlock(p, t, a.linkNamed)
	}
	if f == nil {
		return nil
	}
	return fmt.Errorf("your SSH connection (%s) would be blocked by filter %q (%d) at layer %s; nothing is changed: try it with --confirm 30s, let it in with --failsafe tcp/%d, or use --force",
		strings.Join([]string{t.Remote.String(), t.Local.String()}, " to "), clip(f.Name), f.ID, layermap.ByID(layer).Name, t.Local.Port())
}
