// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
	"github.com/wfpebpf/wfpebpf/policy"
)

// The layout of an instance's files, which every version must keep to:
//
//	PINS/maps/NAME        the maps of bpf/maps.h and verdicts.h, but for the judge's cases
//	PINS/links/HOOK[@IF]  the attachments; those without IF to the cgroup or, of
//	                      netfilter, to the namespace
//	RUN/instance.json     what is filtered
//	RUN/policy-N.json     the policy of commit N; `active` says which N is in force
//	RUN/set-N-DIGEST      a set of addresses of commit N (sets.go)
//	RUN/lock              held by the process that changes the instance
//	RUN/events.lock       held by the process that reads events
type instance struct {
	pins, run string
	info      instanceInfo
}

// instanceInfo is instance.json.
type instanceInfo struct {
	Netns       string   `json:"netns"`
	NetnsInode  uint64   `json:"netnsInode"`
	NetnsCookie uint64   `json:"netnsCookie"`
	Cgroup      string   `json:"cgroup"`
	CgroupID    uint64   `json:"cgroupId"`
	Interfaces  []string `json:"interfaces"` // empty: all that are up
	Permits     bool     `json:"permits"`
	Detached    []string `json:"detached"` // links that detach took out
	BootID      string   `json:"bootId"`
	Version     string   `json:"version"` // of the programs, bpf.Version
}

// record is policy-N.json: what is needed to explain, list and keep current a
// policy without its files.
type record struct {
	Generation  uint64                      `json:"generation"`
	Applied     time.Time                   `json:"applied"`
	Unconfirmed bool                        `json:"unconfirmed"`
	Filters     []*filter.Filter            `json:"filters,omitempty"` // of the store, in file order
	SubLayers   []filter.SubLayer           `json:"subLayers"`
	Callouts    []filter.Callout            `json:"callouts"`
	Services    map[filter.SID]string       `json:"services"`
	Packages    map[filter.SID]string       `json:"packages"`
	Links       map[string]policy.LinkFacts `json:"links"`
	Profile     uint32                      `json:"profile"`
	Failsafes   []string                    `json:"failsafes"`
	Order       []filter.ID                 `json:"order,omitempty"` // behind each record of the filters table
	Layers      map[layermap.LayerID]int    `json:"layers"`          // filters that can decide, by layer
	Numbers     *numbers                    `json:"numbers"`
}

func newRecord(p *policy.Policy, t *tables) *record {
	r := &record{
		Applied: time.Now(), Filters: p.Store.Filters(), Services: p.Services, Packages: p.Packages,
		Links: p.Links, Profile: p.DefaultProfile, Failsafes: p.Failsafes, Numbers: t.numbers,
		Layers: t.counts,
	}
	for _, s := range p.Store.SubLayers() {
		r.SubLayers = append(r.SubLayers, *s)
	}
	for _, c := range p.Store.Callouts() {
		r.Callouts = append(r.Callouts, *c)
	}
	for _, f := range t.records {
		id := filter.ID(0) // a position that is not used
		if f != nil {
			id = f.ID
		}
		r.Order = append(r.Order, id)
	}
	return r
}

// store makes the policy's objects again.
func (r *record) store() *filter.Store {
	s := filter.NewStore()
	// what is built in is there already; everything was valid when committed
	for _, l := range r.SubLayers {
		s.AddSubLayer(l)
	}
	for _, c := range r.Callouts {
		s.AddCallout(c)
	}
	for _, f := range r.Filters {
		g := *f
		g.Provider, g.ProviderContext = filter.GUID{}, filter.GUID{}
		g.Flags &^= filter.FlagHasProviderContext
		s.AddFilter(&g)
	}
	return s
}

func (r *record) linkPolicy() *linkPolicy { return &linkPolicy{Links: r.Links, Default: r.Profile} }

// nameFormat is an instance's name: the inode of its namespace and the id of its
// cgroup.
const nameFormat = "net%d-cg%d"

func instanceAt(name string) *instance {
	return &instance{pins: filepath.Join(pinRoot(), name), run: filepath.Join(runRoot(), name)}
}

func instanceName(ns *netns, c cgroup) string { return fmt.Sprintf(nameFormat, ns.inode, c.id) }

// parseName takes from an instance's name what the name says of it.
func (in *instance) parseName() bool {
	n, err := fmt.Sscanf(filepath.Base(in.run), nameFormat, &in.info.NetnsInode, &in.info.CgroupID)
	return n == 2 && err == nil
}

func bootID() string {
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b))
}

// instances lists what exists, by name.
func instances() ([]*instance, error) {
	entries, err := os.ReadDir(runRoot())
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list []*instance
	for _, e := range entries {
		in := instanceAt(e.Name())
		if in.load() == nil {
			list = append(list, in)
		}
	}
	return list, nil
}

// load reads instance.json. An instance of another boot is gone with its pins.
func (in *instance) load() error {
	if err := readJSON(filepath.Join(in.run, "instance.json"), &in.info); err != nil {
		return err
	}
	if in.info.BootID != bootID() {
		return os.ErrNotExist
	}
	return nil
}

func (in *instance) save() error { return writeJSON(filepath.Join(in.run, "instance.json"), in.info) }

func (in *instance) recordPath(generation uint64) string {
	return filepath.Join(in.run, fmt.Sprintf("policy-%d.json", generation))
}

func (in *instance) lostPath(generation uint64) string {
	return filepath.Join(in.run, fmt.Sprintf("lost-%d", generation))
}

// loseTables notes that the tables of a commit are about to be overwritten by those
// of one that may fail: a roll-back must make them again.
func (in *instance) loseTables(generation uint64) error {
	if !exists(in.recordPath(generation)) {
		return nil
	}
	return os.WriteFile(in.lostPath(generation), nil, 0o600)
}

func (in *instance) lostTables(generation uint64) bool { return exists(in.lostPath(generation)) }

func (in *instance) readRecord(generation uint64) (*record, error) {
	r := &record{}
	if err := readJSON(in.recordPath(generation), r); err != nil {
		return nil, err
	}
	if !r.whole() {
		return nil, fmt.Errorf("%s is damaged: run wfpebpf down and apply again", in.recordPath(generation))
	}
	return r, nil
}

// whole reports whether what the rest of the package relies on is there.
func (r *record) whole() bool {
	n := r.Numbers
	return n != nil && !slices.Contains(r.Filters, nil) &&
		len(n.Apps) > 0 && len(n.UIDs) > 0 && len(n.GIDs) > 0 &&
		len(n.Services) > 0 && len(n.Services) == len(n.ServiceSIDs) &&
		len(n.Packages) > 0 && len(n.Packages) == len(n.PackageSIDs)
}

// writeRecord writes the filters by themselves: they are nearly all of the file, and
// a commit waits for it.
func (in *instance) writeRecord(r *record) error {
	rest := *r
	rest.Filters, rest.Order = nil, nil
	b, err := json.Marshal(rest)
	if err != nil {
		return err
	}
	b = append(b[:len(b)-1], `,"filters":[`...)
	for i, f := range r.Filters {
		if i > 0 {
			b = append(b, ',')
		}
		b = f.AppendJSON(b)
	}
	b = append(b, `],"order":[`...)
	for i, id := range r.Order {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendUint(b, uint64(id), 10)
	}
	return writeFile(in.recordPath(r.Generation), append(b, "]}"...))
}

func readJSON(path string, v any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// writeJSON replaces a file in one step, so that no reader sees half of it.
func writeJSON(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return writeFile(path, b)
}

func writeFile(path string, data []byte) error {
	tmp := fmt.Sprintf("%s.%d", path, os.Getpid())
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// lock takes one of the instance's locks; ErrBusy where somebody has it, and
// ErrNotApplied where the instance is gone.
func (in *instance) lock(name string) (*os.File, error) {
	path := filepath.Join(in.run, name)
	for range 50 { // another commit takes a moment, not more
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
		if errors.Is(err, os.ErrNotExist) {
			return nil, ErrNotApplied
		}
		if err != nil {
			return nil, err
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil && stillThere(f, path) {
			return f, nil
		}
		f.Close()
		time.Sleep(100 * time.Millisecond)
	}
	return nil, fmt.Errorf("%w (%s)", ErrBusy, filepath.Base(in.run))
}

// stillThere reports whether a path leads to the file that was opened by it. Who
// takes an instance down removes its locks while others wait for them.
func stillThere(f *os.File, path string) bool {
	opened, err := f.Stat()
	if err != nil {
		return false
	}
	now, err := os.Stat(path)
	return err == nil && os.SameFile(opened, now)
}
