// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
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

	grace *grace
	laid  *laid // what the tables in force were made of, if this engine has made them
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
	e := &Engine{ns: ns, cg: cg, grace: newGrace(), in: instanceAt(instanceName(ns, cg))}
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
	e := &Engine{in: in, grace: newGrace()}
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
	if err := e.fillDrops(); err != nil {
		return err
	}
	return e.addEditionPages()
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
	err := e.closeMaps()
	if e.ns != nil {
		e.ns.close()
	}
	return err
}

func (e *Engine) closeMaps() error {
	for _, p := range e.programs {
		p.Close()
	}
	for _, m := range e.maps {
		m.Close()
	}
	e.maps, e.programs, e.foreign, e.numbers, e.laid = nil, nil, nil, nil, nil
	return e.grace.reset()
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
	return errors.Join(e.closeMaps(), e.openMaps())
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
	any := device{Name: "any", Ethernet: true, Bridge: 1}
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
