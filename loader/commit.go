// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"errors"
	"os"
	"slices"

	"github.com/vishvananda/netlink"

	"github.com/wfpebpf/wfpebpf/bpf"
	"github.com/wfpebpf/wfpebpf/layermap"
	"github.com/wfpebpf/wfpebpf/policy"
)

// Commit compiles the policy, attaches the hooks that it needs and puts it in
// force by one store. On an error the policy before stays in force.
func (e *Engine) Commit(ctx context.Context, p *policy.Policy) error {
	return e.transact(ctx, p, false)
}

// CommitUnconfirmed is Commit of a policy that waits for Confirm from the
// moment that it is in force.
func (e *Engine) CommitUnconfirmed(ctx context.Context, p *policy.Policy) error {
	return e.transact(ctx, p, true)
}

func (e *Engine) transact(ctx context.Context, p *policy.Policy, unconfirmed bool) error {
	if err := makeDir(e.in.run); err != nil {
		return err
	}
	lock, err := e.in.lock("lock")
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := e.followPins(); err != nil {
		return err
	}
	generation, err := e.active()
	if err != nil {
		return err
	}
	err = e.commit(ctx, p, generation, unconfirmed)
	if inForce := (*InForceError)(nil); err != nil && generation == 0 && !errors.As(err, &inForce) {
		// nothing of ours was in force: a failure must leave nothing behind
		return errors.Join(err, e.remove())
	}
	return err
}

func (e *Engine) commit(ctx context.Context, p *policy.Policy, generation uint64, unconfirmed bool) error {
	ephemeral, err := e.ns.ephemeral()
	if err != nil {
		return err
	}
	t, err := compile(p, ephemeral)
	if err != nil {
		return err
	}
	rec := newRecord(p, t)
	rec.Generation, rec.Unconfirmed = generation+1, unconfirmed
	h, devs, err := e.links()
	if err != nil {
		return err
	}
	defer h.Close()
	if err := errors.Join(e.absent(devs), ctx.Err()); err != nil {
		return err
	}
	want, missing, err := e.plan(rec.Layers, devs)
	if err != nil {
		return err
	}
	if err := e.pinMaps(); err != nil {
		return err
	}
	principals, _ := rec.Numbers.principals()
	if err := e.in.loseTables(generation - 1); err != nil {
		return err
	}
	if err := e.upload(uint32(rec.Generation&1), t, linkTable(devs, rec.linkPolicy()), principals); err != nil {
		return err
	}
	if err := e.syncRoutes(h); err != nil {
		return err
	}
	if err := e.configure(ephemeral); err != nil {
		return err
	}
	// from here on down finds what a process that dies leaves behind
	before := instance{run: e.in.run}
	known := before.load() == nil
	if err := e.in.save(); err != nil {
		return err
	}
	err = e.putInForce(ctx, rec, want, missing, generation-1)
	if inForce := (*InForceError)(nil); err != nil && known && !errors.As(err, &inForce) {
		return errors.Join(err, before.save()) // a watch goes by it
	}
	return err
}

// plan is the attachments that the layers of a policy want, and those of them
// that are missing, whose programs it loads.
func (e *Engine) plan(layers map[layermap.LayerID]int, devs []device) (want, missing []spot, err error) {
	want = spots(layers, e.selected(devs))
	missing, err = e.missing(want)
	if err == nil {
		err = e.load(programsFor(missing))
	}
	return want, missing, err
}

// putInForce makes the attachments that are missing and stores the number of a
// commit whose tables are filled. On an error the one before stays in force, as
// it was. Then the records of commits that nothing leads back to go, and the
// attachments that are not wanted any more.
func (e *Engine) putInForce(ctx context.Context, rec *record, want, missing []spot, obsolete ...uint64) error {
	made, err := e.attach(missing)
	if err == nil {
		err = ctx.Err()
	}
	if err == nil {
		err = e.in.writeSets(rec)
	}
	if err == nil {
		err = e.in.writeRecord(rec)
	}
	if err == nil {
		err = e.maps[bpf.WFPMapActive].Put(uint32(0), rec.Generation) // the commit
	}
	if err != nil {
		return errors.Join(err, e.detachAll(made))
	}
	for _, generation := range obsolete {
		e.in.removeRecord(generation)
	}
	if err := errors.Join(e.gracePeriod(), e.tidy(want)); err != nil {
		return &InForceError{err}
	}
	return nil
}

func linkTable(devs []device, p *linkPolicy) map[uint32]bpf.Link {
	table := map[uint32]bpf.Link{}
	for _, d := range devs {
		table[uint32(d.Index)] = d.fact(p)
	}
	return table
}

func (e *Engine) syncRoutes(h *netlink.Handle) error {
	table, err := routes(h)
	if err != nil {
		return err
	}
	if err := table.fillSources(h); err != nil {
		return err
	}
	// every generation has these
	_, err = syncMap(e.maps[bpf.WFPMapRoutes], table, e.changing)
	return errors.Join(err, e.changed())
}

func (e *Engine) configure(ephemeral portRange) error {
	c := bpf.Config{
		NetnsCookie: e.ns.cookie, EphemeralLow: uint32(ephemeral.low), EphemeralHigh: uint32(ephemeral.high),
	}
	if e.in.info.Permits {
		c.Permits = 1
	}
	return e.maps[bpf.WFPMapConfig].Put(uint32(0), c)
}

// missing is the attachments that do not exist, or whose link is another one by
// now: a link made anew under a name has nothing of what its predecessor had.
func (e *Engine) missing(want []spot) ([]spot, error) {
	have, err := e.in.attached()
	return slices.DeleteFunc(slices.Clone(want), func(s spot) bool {
		return slices.Contains(have, s.pin()) && e.holds(s)
	}), err
}

// attach makes attachments, all or none, and returns their names. Where sockets
// are among them, the sockets that are older get their identity.
func (e *Engine) attach(list []spot) (made []string, err error) {
	for _, s := range list {
		// what has the name already is on a link that is gone
		if err = e.detach(s.pin()); err == nil {
			err = e.attachAt(s)
		}
		if err != nil {
			break
		}
		made = append(made, s.pin())
	}
	if err == nil && slices.ContainsFunc(list, func(s spot) bool { return s.hook.kind == onCgroup }) {
		err = e.adoptOldSockets()
	}
	if err != nil {
		return nil, errors.Join(err, e.detachAll(made))
	}
	return made, nil
}

func (e *Engine) detachAll(names []string) (err error) {
	for _, name := range names {
		err = errors.Join(err, e.detach(name))
	}
	return err
}

// ErrNotWaiting: the commit was confirmed, replaced or removed.
var ErrNotWaiting = errors.New("the commit does not wait to be confirmed")

// RollbackUnconfirmed is Rollback of a commit that still waits for Confirm;
// ErrNotWaiting where it does not.
func (e *Engine) RollbackUnconfirmed(generation uint64) error {
	return e.rollback(func(rec *record) error {
		if rec.Generation != generation || !rec.Unconfirmed {
			return ErrNotWaiting
		}
		return nil
	})
}

// Rollback puts the policy before the last Commit in force again; where there
// was none it is Down.
func (e *Engine) Rollback() error { return e.rollback(func(*record) error { return nil }) }

func (e *Engine) rollback(allowed func(*record) error) error {
	lock, err := e.hold()
	if err != nil {
		return err
	}
	defer lock.Close()
	rec, err := e.record()
	if err != nil {
		return err
	}
	if err := allowed(rec); err != nil {
		return err
	}
	generation := rec.Generation
	old, err := e.in.readRecord(generation - 1)
	if errors.Is(err, os.ErrNotExist) {
		return e.remove()
	}
	if err != nil {
		return err
	}
	// The tables of the generation before still stand in the other slot, which
	// is also that of the next, unless a commit that failed has filled that.
	h, devs, err := e.links()
	if err != nil {
		return err
	}
	defer h.Close()
	want, missing, err := e.plan(old.Layers, devs)
	if err != nil {
		return err
	}
	old.Generation, old.Unconfirmed = generation+1, false
	principals, _ := old.Numbers.principals()
	if e.in.lostTables(generation - 1) {
		if err := e.fillAgain(old, generation-1, devs, principals); err != nil {
			return err
		}
	}
	// what the tables say of the host is as old as the policy is
	if _, err := syncTable(e, bpf.WFPMapPrincipals, old, principals, nil); err != nil {
		return err
	}
	if _, err := syncTable(e, bpf.WFPMapLinks, old, linkTable(devs, old.linkPolicy()), nil); err != nil {
		return err
	}
	if err := e.syncRoutes(h); err != nil {
		return err
	}
	return e.putInForce(context.Background(), old, want, missing, generation, generation-1)
}

// fillAgain makes the tables of a commit that was in force again, for the commit that
// its record is of now.
func (e *Engine) fillAgain(rec *record, committed uint64, devs []device, principals map[bpf.Principal]uint32) error {
	now := rec.Generation
	rec.Generation = committed // its sets lie under that
	p, err := e.policy(rec)
	rec.Generation = now
	if err != nil {
		return err
	}
	ephemeral, err := e.ns.ephemeral()
	if err != nil {
		return err
	}
	t, err := compile(p, ephemeral)
	if err != nil {
		return err
	}
	return e.upload(uint32(now&1), t, linkTable(devs, rec.linkPolicy()), principals)
}

// tidy detaches the hooks that are not wanted any more.
func (e *Engine) tidy(want []spot) error {
	have, err := e.in.attached()
	for _, name := range have {
		if !slices.ContainsFunc(want, func(s spot) bool { return s.pin() == name }) {
			err = errors.Join(err, e.detach(name))
		}
	}
	return err
}

// record is the policy in force.
func (e *Engine) record() (*record, error) {
	generation, err := e.active()
	if err != nil {
		return nil, err
	}
	rec, err := e.in.readRecord(generation)
	if errors.Is(err, os.ErrNotExist) {
		return nil, ErrNotApplied
	}
	return rec, err
}

// Generation counts the commits of the instance; 0 before the first.
func (e *Engine) Generation() (uint64, error) {
	generation, err := e.active()
	if !exists(e.in.recordPath(generation)) {
		return 0, err // taken down by another process
	}
	return generation, err
}

// Confirm keeps an unconfirmed commit and reports whether there was one.
func (e *Engine) Confirm() (bool, error) {
	lock, err := e.hold()
	if err != nil {
		return false, err
	}
	defer lock.Close()
	rec, err := e.record()
	if err != nil || !rec.Unconfirmed {
		return false, err
	}
	rec.Unconfirmed = false
	return true, e.in.writeRecord(rec)
}

// Unconfirmed reports whether the last commit waits for Confirm.
func (e *Engine) Unconfirmed() bool {
	rec, err := e.record()
	return err == nil && rec.Unconfirmed
}
