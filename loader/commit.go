// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"errors"
	"os"
	"slices"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/wfpebpf/wfpebpf/bpf"
	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
	"github.com/wfpebpf/wfpebpf/policy"
)

// Commit compiles the policy, attaches the hooks that it needs and puts it in
// force by one store. On an error the policy before stays in force.
//
// Where the policy is the one that this engine has committed last but for few
// filters, added to its store or deleted from it, the tables in force stay and are
// amended, which takes some milliseconds whatever their size; State says so. They
// are made anew where more than MaxAdded filters of a layer were added since, or one
// in 16 of all differs; where a filter needs a sublayer that had none at its layer,
// a set of addresses, or a user, program or service that no filter named; and where
// anything but filters differs. A program that is running at the store may end by the
// policy before.
func (e *Engine) Commit(ctx context.Context, p *policy.Policy) error {
	return e.transact(ctx, p, false)
}

// CommitUnconfirmed is Commit of a policy that waits for Confirm from the
// moment that it is in force.
func (e *Engine) CommitUnconfirmed(ctx context.Context, p *policy.Policy) error {
	return e.transact(ctx, p, true)
}

func (e *Engine) transact(ctx context.Context, p *policy.Policy, unconfirmed bool) error {
	lock, err := e.in.makeLock()
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := e.followPins(); err != nil {
		return err
	}
	in, err := e.stamp()
	if err != nil {
		return err
	}
	err = e.commit(ctx, p, in, unconfirmed)
	if inForce := (*InForceError)(nil); err != nil && in == 0 && !errors.As(err, &inForce) {
		// nothing of ours was in force: a failure must leave nothing behind
		return errors.Join(err, e.remove())
	}
	return err
}

// draft is a commit that is not in force yet: tables of its own, or an edition of
// those that are.
type draft struct {
	rec     *record
	tables  *tables // nil: those in force are
	amended *amended
	targets map[filter.ID]bpf.End // where filters redirect
}

// draft compiles a policy.
func (e *Engine) draft(p *policy.Policy, in stamp, ephemeral portRange) (*draft, error) {
	targets, err := redirectTargets(p.Store)
	if err != nil {
		return nil, err
	}
	if e.laid != nil && e.laid.last == in.commit() && sameContexts(e.laid.rec.Contexts, redirectContexts(p.Store)) {
		if a := e.laid.amend(p, ephemeral); a != nil {
			rec := a.change.head(e.laid.rec)
			rec.Applied, rec.Place = time.Now(), in.place().next(false)
			return &draft{rec: rec, amended: a, targets: targets}, nil
		}
	}
	t, err := compile(p, ephemeral)
	if err != nil {
		return nil, err
	}
	rec := newRecord(p, t)
	rec.Place = in.place().next(true)
	return &draft{rec: rec, tables: t, targets: targets}, nil
}

// fill fills the draft's tables, for a commit that follows the one in force. Where
// they were in use before, no program may still go by them.
func (e *Engine) fill(d *draft, in stamp, devs []device) error {
	before := in.commit()
	principals, _ := d.rec.Numbers.principals()
	links := linkTable(devs, d.rec.linkPolicy())
	if d.amended != nil {
		// as many commits ago as there are editions it was another one, but for
		// roll-backs, which wait themselves
		if recent := uint64(bpf.Editions - 2); before > recent {
			if err := e.grace.since(before - recent); err != nil {
				return err
			}
		}
		err := errors.Join(e.uploadAmended(d.rec.Place, in.place(), d.amended), e.putTargets(d.rec.Place, d.targets))
		if err != nil {
			return err
		}
		return e.syncHost(d.rec, principals, links)
	}
	if before > 0 {
		if err := e.grace.since(before); err != nil {
			return err
		}
	}
	if err := e.in.loseTables(before - 1); err != nil {
		return err
	}
	return errors.Join(e.upload(d.rec.Place, d.tables, links, principals), e.putTargets(d.rec.Place, d.targets))
}

// syncHost brings what tables that stay say of the host up to date with it.
func (e *Engine) syncHost(rec *record, principals map[bpf.Principal]uint32, links map[uint32]bpf.Link) error {
	if _, err := syncTable(e, bpf.WFPMapPrincipals, rec, principals, e.changing); err != nil {
		return err
	}
	_, err := syncTable(e, bpf.WFPMapLinks, rec, links, e.changing)
	return err
}

func (e *Engine) commit(ctx context.Context, p *policy.Policy, in stamp, unconfirmed bool) error {
	ephemeral, err := e.ns.ephemeral()
	if err != nil {
		return err
	}
	d, err := e.draft(p, in, ephemeral)
	if err != nil {
		return err
	}
	rec := d.rec
	rec.Generation, rec.Unconfirmed = in.commit()+1, unconfirmed
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
	if err := e.prepare(d, in, h, devs, ephemeral); err != nil {
		return errors.Join(err, e.in.drop(rec.Generation))
	}
	// from here on down finds what a process that dies leaves behind
	before := instance{run: e.in.run}
	known := before.load() == nil
	if err := e.in.save(); err != nil {
		return err
	}
	err = e.putInForce(ctx, rec, want, missing, in.commit(), e.in.baseOf(in.commit()))
	if inForce := (*InForceError)(nil); err != nil && !errors.As(err, &inForce) {
		if known {
			err = errors.Join(err, before.save()) // a watch goes by it
		}
		return errors.Join(err, e.in.drop(rec.Generation))
	}
	e.numbers, e.numbersOf = rec.Numbers, rec.Generation
	if d.tables != nil {
		e.laid = keep(rec, d.tables, ephemeral)
	} else {
		e.laid.last, e.laid.edition = rec.Generation, d.amended.records
	}
	return err
}

// prepare does what must be done before a draft can be put in force. It writes the
// record meanwhile: to fill tables is to wait for the kernel, mostly.
func (e *Engine) prepare(d *draft, in stamp, h *netlink.Handle, devs []device, ephemeral portRange) error {
	written := make(chan error, 1)
	go func() { written <- e.in.keep(d.rec) }()
	err := e.fill(d, in, devs)
	if err = errors.Join(err, <-written); err != nil {
		return err
	}
	return errors.Join(e.syncRoutes(h), e.configure(ephemeral))
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

// putInForce makes the attachments that are missing and stores the stamp of a commit
// whose tables are filled and whose record is written. On an error the one before stays in force, as
// it was. Then the records of commits that nothing leads back to go, all but that of
// this one and some, and the attachments that are not wanted any more.
func (e *Engine) putInForce(ctx context.Context, rec *record, want, missing []spot, keep ...uint64) error {
	made, err := e.attach(missing)
	if err == nil {
		err = ctx.Err()
	}
	if err == nil {
		err = e.putStamp(newStamp(rec.Generation, rec.Place)) // the commit
	}
	if err != nil {
		return errors.Join(err, e.detachAll(made))
	}
	e.grace.begin(rec.Generation)
	if err := errors.Join(e.in.forget(append(keep, rec.Generation, rec.base())...), e.tidy(want)); err != nil {
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
		Cgroup: e.cg.id, CgroupLevel: uint32(e.cg.level),
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
	// The tables of the commit before still stand, unless one that failed has taken
	// their place.
	h, devs, err := e.links()
	if err != nil {
		return err
	}
	defer h.Close()
	in, err := e.stamp()
	if err != nil {
		return err
	}
	now := &draft{rec: old.again(generation + 1)}
	if e.in.lostTables(generation - 1) {
		if now, err = e.draftAgain(old, in); err != nil {
			return err
		}
		now.rec.Generation = generation + 1
	}
	want, missing, err := e.plan(now.rec.Layers, devs)
	if err != nil {
		return err
	}
	e.laid = nil // its filters are others than those that were read
	if now.tables != nil {
		err = e.fill(now, in, devs)
	} else {
		// what the tables say of the host is as old as the policy is
		principals, _ := now.rec.Numbers.principals()
		err = e.syncHost(now.rec, principals, linkTable(devs, now.rec.linkPolicy()))
	}
	if err != nil {
		return err
	}
	if err := errors.Join(e.syncRoutes(h), e.in.keep(now.rec)); err != nil {
		return err
	}
	if err := e.putInForce(context.Background(), now.rec, want, missing); err != nil {
		return err
	}
	// the next edition is one that was in use a moment ago
	return e.grace.since(now.rec.Generation)
}

// draftAgain compiles the policy of a commit anew that was in force.
func (e *Engine) draftAgain(old *record, in stamp) (*draft, error) {
	p, err := e.policy(old)
	if err != nil {
		return nil, err
	}
	ephemeral, err := e.ns.ephemeral()
	if err != nil {
		return nil, err
	}
	t, err := compile(p, ephemeral)
	if err != nil {
		return nil, err
	}
	targets, err := redirectTargets(p.Store)
	if err != nil {
		return nil, err
	}
	rec := newRecord(p, t)
	rec.Applied, rec.Place = old.Applied, in.place().next(true)
	return &draft{rec: rec, tables: t, targets: targets}, nil
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
	if !e.in.hasRecord(generation) {
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
