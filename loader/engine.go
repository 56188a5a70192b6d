// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/wfpebpf/wfpebpf/bpf"
	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
	"github.com/wfpebpf/wfpebpf/policy"
)

// Engine is one instance. It is not safe for concurrent use; processes exclude
// each other by a lock.
type Engine struct {
	in       *instance
	ns       *netns
	cg       cgroup
	spec     *ebpf.CollectionSpec
	maps     map[string]*ebpf.Map
	programs map[string]*ebpf.Program // loaded as they are needed
	foreign  error                    // the pins are another version's: only Down works

	numbers   *numbers // of the commit numbersOf, kept for the judge; nil: not read yet
	numbersOf uint64
}

// Open opens the target's instance, or prepares a new one; nothing exists
// before the first Commit.
func Open(opts Options) (*Engine, error) {
	if err := CheckCapabilities(); err != nil {
		return nil, err
	}
	ns, err := openNetns(opts.Netns)
	if err != nil {
		return nil, err
	}
	cg, err := findCgroup(opts.Cgroup)
	if err != nil {
		ns.close()
		return nil, err
	}
	e := &Engine{ns: ns, cg: cg, in: instanceAt(instanceName(ns, cg))}
	if err := e.in.load(); err != nil {
		// none, or one of an earlier boot
		e.in.info = instanceInfo{BootID: bootID(), Version: bpf.Version()}
	}
	e.in.info.Netns, e.in.info.NetnsInode, e.in.info.NetnsCookie = opts.Netns, ns.inode, ns.cookie
	e.in.info.Cgroup, e.in.info.CgroupID = cg.name, cg.id
	e.in.info.Interfaces, e.in.info.Permits = opts.Interfaces, opts.Permits
	// a link that is named is wanted, also after detach
	e.in.info.Detached = slices.DeleteFunc(e.in.info.Detached, func(name string) bool { return slices.Contains(opts.Interfaces, name) })
	if err := e.openMaps(); err != nil {
		e.Close()
		return nil, err
	}
	return e, nil
}

// Find opens an instance that exists. An empty target finds the only one.
func Find(t Target) (*Engine, error) {
	if err := CheckCapabilities(); err != nil {
		return nil, err
	}
	list, err := instances()
	if err != nil {
		return nil, err
	}
	if t != (Target{}) {
		ns, err := openNetns(t.Netns)
		if err != nil {
			return nil, err
		}
		defer ns.close()
		list = slices.DeleteFunc(list, func(in *instance) bool { return in.info.NetnsInode != ns.inode })
		if t.Cgroup != "" {
			cg, err := findCgroup(t.Cgroup)
			if err != nil {
				return nil, err
			}
			list = slices.DeleteFunc(list, func(in *instance) bool { return in.info.CgroupID != cg.id })
		}
	}
	switch len(list) {
	case 0:
		return nil, fmt.Errorf("%w (wfpebpf apply FILE puts a policy in force)", ErrNotApplied)
	case 1:
		return list[0].open()
	}
	names := ""
	for _, in := range list {
		names += fmt.Sprintf("\n  --netns %q --cgroup %s", in.info.Netns, in.info.Cgroup)
	}
	return nil, fmt.Errorf("%w; name one of:%s", ErrAmbiguous, names)
}

func (in *instance) open() (*Engine, error) {
	e := &Engine{in: in}
	var err error
	if e.ns, err = in.findNetns(); err != nil {
		return nil, err
	}
	e.cg, _ = findCgroup(in.info.Cgroup)
	if err := e.openMaps(); err != nil {
		e.Close()
		return nil, err
	}
	return e, nil
}

// findNetns opens the instance's namespace: by its name, or, where it has none
// any more, through a process in it. One that is gone comes back as the
// caller's with inode 0; then only what is not on its links is left.
func (in *instance) findNetns() (*netns, error) {
	paths := []string{in.info.Netns}
	processes, _ := filepath.Glob("/proc/[0-9]*/ns/net")
	for _, path := range append(paths, processes...) {
		if n, err := openNetns(path); err == nil {
			if n.inode == in.info.NetnsInode {
				return n, nil
			}
			n.close()
		}
	}
	n, err := openNetns("")
	if err == nil {
		n.inode = 0
	}
	return n, err
}

// OpenAll opens every instance that exists.
func OpenAll() ([]*Engine, error) {
	if err := CheckCapabilities(); err != nil {
		return nil, err
	}
	list, err := instances()
	var engines []*Engine
	for _, in := range list {
		e, openErr := in.open()
		if openErr != nil {
			err = errors.Join(err, openErr)
			continue
		}
		engines = append(engines, e)
	}
	return engines, err
}

// Target is what the instance filters.
func (e *Engine) Target() Target {
	return Target{Netns: e.in.info.Netns, Cgroup: e.in.info.Cgroup}
}

// Instances lists the instances that exist.
func Instances() ([]Target, error) {
	list, err := instances()
	var ts []Target
	for _, in := range list {
		ts = append(ts, Target{Netns: in.info.Netns, Cgroup: in.info.Cgroup})
	}
	return ts, err
}

// openMaps loads the object's description and opens the pinned maps, if any. The
// judge's cases are no part of the instance: each process has its own, or it
// would read the verdicts on another's.
func (e *Engine) openMaps() error {
	if err := rlimit.RemoveMemlock(); err != nil {
		return err
	}
	var err error
	if e.spec, err = bpf.LoadWFP(); err != nil {
		return err
	}
	e.maps, e.programs = map[string]*ebpf.Map{}, map[string]*ebpf.Program{}
	for name, spec := range e.spec.Maps {
		if !ours(name) || name == bpf.WFPMapCases {
			continue
		}
		m, err := ebpf.LoadPinnedMap(filepath.Join(e.in.pins, "maps", name), nil)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("opening pinned map %s: %w", name, err)
		}
		e.maps[name] = m
		if err := spec.Compatible(m); err != nil && e.foreign == nil {
			e.foreign = fmt.Errorf("pinned map %s was made by another version: %w (run wfpebpf down first)", name, err)
		}
	}
	// Tables of one version mean nothing to the programs of another, and those
	// that are attached stay.
	if len(e.maps) > 0 && e.in.info.Version != bpf.Version() && e.foreign == nil {
		e.foreign = errors.New("the programs in force are those of another version of wfpebpf (run wfpebpf down first)")
	}
	return nil
}

// load loads programs over the maps, which are made where they do not exist
// yet. Nothing of that is visible before pinMaps. The verifier takes most of
// the time of a first apply, so the programs go to it on all processors.
func (e *Engine) load(programs []string) error {
	if len(e.maps) == 0 {
		if err := e.newMaps(); err != nil {
			return err
		}
	}
	if e.maps[bpf.WFPMapCases] == nil {
		m, err := ebpf.NewMap(e.spec.Maps[bpf.WFPMapCases])
		if err != nil {
			return err
		}
		e.maps[bpf.WFPMapCases] = m
	}
	programs = slices.DeleteFunc(programs, func(name string) bool { return e.programs[name] != nil })
	parts := make([][]string, min(runtime.NumCPU(), len(programs)))
	for i, name := range programs {
		parts[i%len(parts)] = append(parts[i%len(parts)], name)
	}
	var (
		group sync.WaitGroup
		mu    sync.Mutex
		errs  []error
	)
	for _, part := range parts {
		group.Go(func() {
			loaded, err := e.newPrograms(part)
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, err)
			maps.Copy(e.programs, loaded)
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

// newPrograms loads some programs over the maps that exist.
func (e *Engine) newPrograms(names []string) (map[string]*ebpf.Program, error) {
	coll, err := e.collection(names)
	if err != nil {
		return nil, err
	}
	defer coll.Close()
	loaded := map[string]*ebpf.Program{}
	for _, name := range names {
		loaded[name] = coll.DetachProgram(name)
	}
	return loaded, nil
}

// newMaps makes the maps.
func (e *Engine) newMaps() error {
	coll, err := e.collection(nil)
	if err != nil {
		return err
	}
	defer coll.Close()
	for name := range e.spec.Maps {
		if ours(name) {
			e.maps[name] = coll.DetachMap(name)
		}
	}
	return nil
}

// ours tells the instance's maps from the sections of the object (.rodata).
func ours(mapName string) bool { return !strings.HasPrefix(mapName, ".") }

func (e *Engine) collection(programs []string) (*ebpf.Collection, error) {
	spec := e.spec.Copy()
	for name := range spec.Programs {
		if !slices.Contains(programs, name) {
			delete(spec.Programs, name)
		}
	}
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: e.maps})
	var ve *ebpf.VerifierError
	switch {
	case errors.As(err, &ve):
		return nil, fmt.Errorf("this kernel refuses a program: %w", ve)
	case err != nil:
		return nil, fmt.Errorf("loading the BPF programs: %w", err)
	}
	return coll, nil
}

// pinMaps makes the instance's directories and pins its maps.
func (e *Engine) pinMaps() error {
	if err := ensureBPFFS(); err != nil {
		return err
	}
	for _, dir := range []string{"maps", "links"} {
		if err := makeDir(filepath.Join(e.in.pins, dir)); err != nil {
			return err
		}
	}
	for name, m := range e.maps {
		if m.IsPinned() || name == bpf.WFPMapCases {
			continue
		}
		if err := m.Pin(filepath.Join(e.in.pins, "maps", name)); err != nil {
			return fmt.Errorf("pinning map %s: %w", name, err)
		}
	}
	return nil
}

// programsFor is what attachments need: the programs of their hooks, and with
// sockets the ones that look for older sockets.
func programsFor(spots []spot) []string {
	var names []string
	for _, s := range spots {
		if s.hook.kind == onCgroup {
			names = append(names, oldSockets...)
		}
		names = append(names, s.hook.program)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Close releases the process's handles; enforcement stays.
func (e *Engine) Close() error {
	e.closeMaps()
	if e.ns != nil {
		e.ns.close()
	}
	return nil
}

func (e *Engine) closeMaps() {
	for _, p := range e.programs {
		p.Close()
	}
	for _, m := range e.maps {
		m.Close()
	}
	e.maps, e.programs, e.foreign, e.numbers = nil, nil, nil, nil
}

// active is the number of the commit in force, 0 before the first.
func (e *Engine) active() (generation uint64, err error) {
	stamp, err := e.stamp()
	return stamp % stampChange, err
}

// The stamp tells apart all states that the tables in force have had: a verdict
// that the programs have kept counts under the stamp alone under which it was
// made. Its lower half is the number of the commit.
const stampChange = 1 << 32 // added for each change that was made to them

func (e *Engine) stamp() (stamp uint64, err error) {
	if e.foreign != nil {
		return 0, e.foreign
	}
	if m := e.maps[bpf.WFPMapActive]; m != nil {
		err = m.Lookup(uint32(0), &stamp)
	}
	return stamp, err
}

// changing is for who is about to change tables that are in force; changed must
// follow. A process that dies in between leaves the programs without verdicts
// that they kept, until somebody looks around or commits.
func (e *Engine) changing() error {
	stamp, err := e.stamp()
	if err != nil || stamp == 0 {
		return err // nothing is in force
	}
	return e.maps[bpf.WFPMapActive].Put(uint32(0), stamp|bpf.StampUnsettled)
}

// changed lets verdicts be kept again, if they were not, under a stamp that no
// packet finds which may have met the tables as they were.
func (e *Engine) changed() error {
	stamp, err := e.stamp()
	if err != nil || stamp&bpf.StampUnsettled == 0 {
		return err
	}
	if err := e.gracePeriod(); err != nil {
		return err
	}
	return e.maps[bpf.WFPMapActive].Put(uint32(0), stamp&^bpf.StampUnsettled+stampChange)
}

// hold takes the instance's lock and looks anew at what another process may
// have changed, or taken down, since this one opened the instance.
func (e *Engine) hold() (*os.File, error) {
	lock, err := e.in.lock("lock")
	if err != nil {
		return nil, err
	}
	if e.in.load() != nil {
		err = ErrNotApplied
	} else {
		err = e.followPins()
	}
	if err != nil {
		lock.Close()
		return nil, err
	}
	return lock, nil
}

// followPins opens the maps again where those that are pinned are not ours any
// more: another process made the instance, or took it down, since we looked.
func (e *Engine) followPins() error {
	mine := e.maps[bpf.WFPMapActive]
	pinned, err := ebpf.LoadPinnedMap(filepath.Join(e.in.pins, "maps", bpf.WFPMapActive), nil)
	switch {
	case errors.Is(err, os.ErrNotExist):
		if mine == nil || !mine.IsPinned() {
			return nil
		}
	case err != nil:
		return fmt.Errorf("opening pinned map %s: %w", bpf.WFPMapActive, err)
	default:
		defer pinned.Close()
		if mine != nil && sameMap(mine, pinned) {
			return nil
		}
	}
	e.closeMaps()
	return e.openMaps()
}

func sameMap(a, b *ebpf.Map) bool {
	x, errX := a.Info()
	y, errY := b.Info()
	if errX != nil || errY != nil {
		return false
	}
	idX, okX := x.ID()
	idY, okY := y.ID()
	return okX && okY && idX == idY
}

// netlink opens a handle in the namespace.
func (e *Engine) netlink() (h *netlink.Handle, err error) {
	err = e.ns.do(func() error {
		h, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	return h, err
}

// links opens a handle in the namespace and lists its links.
func (e *Engine) links() (*netlink.Handle, []device, error) {
	h, err := e.netlink()
	if err != nil {
		return nil, nil, err
	}
	devs, err := devices(h)
	if err != nil {
		h.Close()
		return nil, nil, err
	}
	return h, devs, nil
}

// selected is the links that the options name: all that are up where they name
// none, less those that detach took out. One that is named and absent is waited
// for.
func (e *Engine) selected(devs []device) []device {
	var list []device
	for _, d := range devs {
		chosen := d.Up
		if len(e.in.info.Interfaces) > 0 {
			chosen = slices.Contains(e.in.info.Interfaces, d.Name)
		}
		if chosen && !slices.Contains(e.in.info.Detached, d.Name) {
			list = append(list, d)
		}
	}
	return list
}

// absent is an error where the options name a link that does not exist.
func (e *Engine) absent(devs []device) error {
	for _, name := range e.in.info.Interfaces {
		if !slices.ContainsFunc(devs, func(d device) bool { return d.Name == name }) {
			return fmt.Errorf("no link %q in network namespace %s", name, e.ns.path)
		}
	}
	return nil
}

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

// gracePeriod returns when every program that was running has ended: the
// kernel waits for that when an outer map's entry is replaced.
func (e *Engine) gracePeriod() error {
	outer := e.maps[bpf.WFPMapLinks]
	generation, err := e.active()
	if err != nil {
		return err
	}
	slot := uint32(generation & 1)
	var m *ebpf.Map
	if err := outer.Lookup(slot, &m); err != nil {
		return err
	}
	defer m.Close()
	return outer.Put(slot, m)
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

// Down removes everything of the instance, and nothing else.
func (e *Engine) Down() error {
	if !exists(e.in.run) && !exists(e.in.pins) {
		return nil
	}
	if err := makeDir(e.in.run); err != nil {
		return err
	}
	lock, err := e.in.lock("lock")
	if err != nil {
		return err
	}
	defer lock.Close()
	return e.remove()
}

// DownAll is Down of every instance, also of those whose records are lost or
// damaged: what is pinned is in force whatever the records say.
func DownAll() error {
	if err := CheckCapabilities(); err != nil {
		return err
	}
	names := map[string]bool{}
	for _, dir := range []string{runRoot(), pinRoot()} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		for _, e := range entries {
			names[e.Name()] = true
		}
	}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(names)) {
		errs = append(errs, downNamed(name))
	}
	return errors.Join(errs...)
}

func downNamed(name string) error {
	in := instanceAt(name)
	if err := in.load(); err != nil {
		in.info = instanceInfo{}
		if !in.parseName() {
			return fmt.Errorf("%s is no instance of wfpebpf: remove it by hand", in.run)
		}
	}
	e, err := in.open()
	if err != nil {
		return err
	}
	defer e.Close()
	return e.Down()
}

func (e *Engine) remove() error {
	names, err := e.in.attached()
	err = errors.Join(err, e.detachAll(names))
	for _, m := range e.maps {
		if m.IsPinned() {
			err = errors.Join(err, m.Unpin())
		}
	}
	// what a version that we do not know has pinned goes, too
	filepath.WalkDir(e.in.pins, func(path string, d fs.DirEntry, walkErr error) error {
		if walkErr == nil && !d.IsDir() {
			err = errors.Join(err, os.Remove(path))
		}
		return nil
	})
	e.closeMaps()
	return errors.Join(err, os.RemoveAll(e.in.pins), os.RemoveAll(e.in.run), removeEmpty(pinRoot()), removeEmpty(runRoot()), e.openMaps())
}

// removeEmpty removes a directory that holds nothing any more. Another instance
// may be at it, too.
func removeEmpty(dir string) error {
	err := unix.Rmdir(dir)
	if errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// makeDir is MkdirAll where removeEmpty of another instance may take a parent
// away again.
func makeDir(dir string) (err error) {
	for range 10 {
		if err = os.MkdirAll(dir, 0o700); !errors.Is(err, os.ErrNotExist) {
			break
		}
	}
	return err
}

// AttachLink adds a link to those that are filtered, while the policy is in
// force.
func (e *Engine) AttachLink(name string) error {
	return e.changeLinks(name, func(in *instanceInfo) {
		in.Detached = slices.DeleteFunc(in.Detached, func(s string) bool { return s == name })
		if len(in.Interfaces) > 0 && !slices.Contains(in.Interfaces, name) {
			in.Interfaces = append(in.Interfaces, name)
		}
	})
}

// DetachLink takes a link out.
func (e *Engine) DetachLink(name string) error {
	return e.changeLinks(name, func(in *instanceInfo) {
		// it stays among the named ones: naming none would mean all
		if !slices.Contains(in.Detached, name) {
			in.Detached = append(in.Detached, name)
		}
	})
}

func (e *Engine) changeLinks(name string, change func(*instanceInfo)) error {
	lock, err := e.hold()
	if err != nil {
		return err
	}
	defer lock.Close()
	if e.ns.inode != e.in.info.NetnsInode {
		return fmt.Errorf("the network namespace %q of this instance is gone", e.in.info.Netns)
	}
	h, devs, err := e.links()
	if err != nil {
		return err
	}
	defer h.Close()
	if !slices.ContainsFunc(devs, func(d device) bool { return d.Name == name }) {
		return fmt.Errorf("no link %q in network namespace %s", name, e.ns.path)
	}
	change(&e.in.info)
	if err := e.in.save(); err != nil {
		return err
	}
	_, err = e.refresh(h)
	return err
}

// Unavailable says which of a policy's layers this kernel cannot carry. Their
// filters must be refused before Commit.
func (e *Engine) Unavailable(p *policy.Policy) map[layermap.LayerID]string {
	layers, why := map[layermap.LayerID]int{}, map[layermap.LayerID]string{}
	for _, l := range layermap.Layers() {
		layers[l.ID] = len(p.Store.Layer(l.ID))
	}
	any := device{Name: "any", Ethernet: true}
	want := spots(layers, []device{any})
	attached, _ := e.in.attached()
	want = slices.DeleteFunc(want, func(s spot) bool {
		return slices.ContainsFunc(attached, func(name string) bool { return name == s.hook.name || strings.HasPrefix(name, s.hook.name+"@") })
	})
	if e.load(programsFor(want)) == nil {
		return why // it can; asking in detail would take as long again
	}
	for _, s := range Probe() {
		if !s.Available && layers[s.Layer] > 0 {
			why[s.Layer] = s.Reason
		}
	}
	return why
}

// Policy returns the policy in force: its objects and what its map said of
// links, services and packages. It holds no entries of refused filters.
func (e *Engine) Policy() (*policy.Policy, error) {
	rec, err := e.record()
	if err != nil {
		return nil, err
	}
	return e.policy(rec)
}

// policy is the policy that a record is of.
func (e *Engine) policy(rec *record) (*policy.Policy, error) {
	if err := e.in.loadSets(rec); err != nil {
		return nil, err
	}
	return &policy.Policy{
		Store: rec.store(), Sets: sets(rec.Filters), Links: rec.Links, DefaultProfile: rec.Profile,
		Services: rec.Services, Packages: rec.Packages, Failsafes: rec.Failsafes,
	}, nil
}

// Store returns the objects of the policy in force, or nil.
func (e *Engine) Store() *filter.Store {
	p, err := e.Policy()
	if err != nil {
		return nil
	}
	return p.Store
}

// haveTCX asks the kernel for the tcx programs of lo: one without tcx (below
// 6.6) does not know the question.
func haveTCX() bool {
	_, err := link.QueryPrograms(link.QueryOptions{Target: 1, Attach: ebpf.AttachTCXIngress})
	return err == nil
}
