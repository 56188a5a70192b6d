// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	vnetns "github.com/vishvananda/netns"

	"github.com/wfpebpf/wfpebpf/bpf"
)

// Executables and cgroups are looked at this often: nothing tells of their
// replacement in a way that needs no handle on each.
const watchInterval = 2 * time.Second

// Watch keeps current what changes (links, addresses, routes, replaced
// executables, units) until the context ends; report is told each change.
func (e *Engine) Watch(ctx context.Context, report func(string)) error {
	if e.ns.inode != e.in.info.NetnsInode {
		return fmt.Errorf("the network namespace %q of this instance is gone", e.in.info.Netns)
	}
	h, err := e.netlink()
	if err != nil {
		return err
	}
	defer h.Close()
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	for ctx.Err() == nil {
		if err := e.follow(ctx, h, tick.C, report); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
	return nil
}

// follow looks around after each notification and each tick, until the context
// ends or the notifications do: a socket that was full for a moment has lost
// some, and gives no more. The next call looks around first, which makes up for
// that.
func (e *Engine) follow(ctx context.Context, h *netlink.Handle, tick <-chan time.Time, report func(string)) error {
	links := make(chan netlink.LinkUpdate)
	addrs := make(chan netlink.AddrUpdate)
	routes := make(chan netlink.RouteUpdate)
	done := make(chan struct{})
	defer close(done)
	at := vnetns.NsHandle(e.ns.file.Fd())
	failed := make(chan error, 3)
	onError := func(err error) {
		select {
		case failed <- err:
		default:
		}
	}
	if err := errors.Join(
		netlink.LinkSubscribeWithOptions(links, done, netlink.LinkSubscribeOptions{Namespace: &at, ErrorCallback: onError}),
		netlink.AddrSubscribeWithOptions(addrs, done, netlink.AddrSubscribeOptions{Namespace: &at, ErrorCallback: onError}),
		netlink.RouteSubscribeWithOptions(routes, done, netlink.RouteSubscribeOptions{Namespace: &at, ErrorCallback: onError}),
	); err != nil {
		return fmt.Errorf("subscribing to network changes: %w", err)
	}
	changed := make(chan struct{}, 1)
	ended := make(chan struct{}, 3)
	go drain(links, changed, ended)
	go drain(addrs, changed, ended)
	go drain(routes, changed, ended)
	for {
		changes, err := e.refreshLocked(h)
		if err != nil {
			return err
		}
		for _, c := range changes {
			report(c)
		}
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			report(fmt.Sprintf("network notifications: %v", err))
		case <-ended:
			return nil
		case <-tick:
		case <-changed:
			settle(changed)
		}
	}
}

// drain takes notifications as they come, so that none waits for us to look
// around, and says that there were some.
func drain[T any](from <-chan T, changed, ended chan<- struct{}) {
	for range from {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	ended <- struct{}{}
}

// settle waits for the end of the burst that one change makes.
func settle(changed <-chan struct{}) {
	quiet := time.NewTimer(50 * time.Millisecond)
	defer quiet.Stop()
	for {
		select {
		case <-changed:
		case <-quiet.C:
			return
		}
	}
}

// refreshLocked looks at the record anew each time: another process may have
// committed, or taken everything down.
func (e *Engine) refreshLocked(h *netlink.Handle) ([]string, error) {
	lock, err := e.hold()
	if errors.Is(err, ErrNotApplied) {
		return nil, fmt.Errorf("%w any more", err)
	}
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	return e.refresh(h)
}

// refresh brings the tables of the generation in force and the attachments up
// to date with the host.
func (e *Engine) refresh(h *netlink.Handle) (changes []string, err error) {
	rec, err := e.record()
	if err != nil {
		return nil, err
	}
	devs, err := devices(h)
	if err != nil {
		return nil, err
	}
	principals, _ := rec.Numbers.principals()
	table, err := routes(h)
	if err == nil {
		err = table.fillSources(h)
	}
	if err != nil {
		return nil, err
	}
	for _, s := range []struct {
		what string
		sync func() (int, error)
	}{
		{"links", func() (int, error) {
			return syncTable(e, bpf.WFPMapLinks, rec, linkTable(devs, rec.linkPolicy()), e.changing)
		}},
		{"executables and units", func() (int, error) { return syncTable(e, bpf.WFPMapPrincipals, rec, principals, e.changing) }},
		{"routes and addresses", func() (int, error) { return syncMap(e.maps[bpf.WFPMapRoutes], table, e.changing) }},
	} {
		n, syncErr := s.sync()
		if n > 0 {
			changes = append(changes, fmt.Sprintf("%s: %d entries changed", s.what, n))
		}
		if syncErr != nil {
			err = fmt.Errorf("updating %s: %w", s.what, syncErr)
			break
		}
	}
	if err := errors.Join(err, e.changed()); err != nil {
		return changes, err
	}
	want, missing, err := e.plan(rec.Layers, devs)
	if err != nil {
		return changes, err
	}
	made, err := e.attach(missing)
	for _, name := range made {
		changes = append(changes, name+": attached")
	}
	return changes, errors.Join(err, e.tidy(want))
}

func syncTable[K, V comparable](e *Engine, name string, rec *record, want map[K]V, first func() error) (int, error) {
	var m *ebpf.Map
	if err := e.maps[name].Lookup(rec.Place.Generation, &m); err != nil {
		return 0, err
	}
	defer m.Close()
	return syncMap(m, want, first)
}
