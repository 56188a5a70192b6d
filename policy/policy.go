// SPDX-License-Identifier: Apache-2.0

// Package policy reads policies from files (wfpebpf's own YAML and the two
// shapes of `netsh wfp` XML) together with the map file that says what Windows
// names mean on this host, and yields filter objects and a report that accounts
// for every filter. It only reads files and knows no kernel.
//
// A policy is loaded whole or not at all: a malformed file is one error with a
// position. A well-formed filter that cannot be carried over is no error; it is
// an Entry with a State and a Reason.
//
// Identities in the filters of a loaded policy are those of this host:
//
//   - ALE_APP_ID is the path of an executable in UTF-8 without a NUL, or
//     "System" where no process is behind the traffic. A Windows path that the
//     map has nothing for stays as it is, in UTF-8, and equals no path here.
//   - INTERFACE fields hold Map.LUID of a link.
//   - Security descriptors name users and groups as filter.UnixUser and
//     filter.UnixGroup. Services and packages keep their SIDs, which
//     Policy.Services and Policy.Packages lead to units.
package policy

import (
	"fmt"
	"io"

	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
)

// State says what became of a filter.
type State string

const (
	// StateEnforced: the filter is in the Store and something here can match it.
	StateEnforced State = "enforced"
	// StateUnmatchable: the filter is in the Store, but nothing on this host can
	// match it, because it names an identity that is not mapped or tests a field
	// that has another value here.
	StateUnmatchable State = "unmatchable"
	// StateRefused: the filter is not in the Store.
	StateRefused State = "refused"
)

// Entry is one filter of the files and what became of it. Filter is never nil;
// for a refused filter it holds what could be read.
type Entry struct {
	Filter *filter.Filter
	File   string
	Line   int
	State  State
	Reason string // empty where enforced

	class class
	layer string // as written; names a layer that does not exist
}

// LinkFacts is what the INTERFACE and PROFILE fields are filled with for
// traffic over one link.
type LinkFacts struct {
	LUID    uint64 // Map.LUID of the link's name
	Profile uint32 // ProfilePublic, ProfilePrivate or ProfileDomain
	// Epoch and EpochV6 are INTERFACE_QUARANTINE_EPOCH at V4 and at V6 layers:
	// Windows counts the two halves of an interface separately. 0 is a link that
	// is still in quarantine.
	Epoch, EpochV6 uint64
	Mapped         bool // the map's links name it
}

// The values of the PROFILE_ID fields.
const (
	ProfilePublic  uint32 = 1
	ProfilePrivate uint32 = 2
	ProfileDomain  uint32 = 3
)

// Policy is what Load made of the files.
type Policy struct {
	Store          *filter.Store // the enforced and the unmatchable filters
	Entries        []Entry       // every filter, in file order
	Links          map[string]LinkFacts
	DefaultProfile uint32                // of a link that Links does not hold
	Services       map[filter.SID]string // SID of a mapped service: its unit
	Packages       map[filter.SID]string // SID of a mapped package: its unit or scope
	Sets           []*filter.AddressSet  // that the files define
	Notes          []string              // what the reader should know first
	Files          []string
	Failsafes      []string // what is let in whatever the filters say, as the user wrote it
}

// Options of Load; the zero value is usable.
type Options struct {
	Map        *Map                 // nil: an empty map
	Registered map[filter.GUID]bool // callouts that the engine provides
	Progress   func(string)         // told one line a file; may be nil
}

// Limits of what is read. They are far above any real policy and keep a hostile
// file from taking the host down.
const (
	MaxFileSize   = 64 << 20  // bytes of one file
	MaxStringSize = 1 << 20   // bytes of one string in a file
	MaxDepth      = 64        // nested elements or values
	MaxFilters    = 1_000_000 // filters of one policy
)

// Load reads policy files of any format, which is told by content, and builds
// one policy of them. Any malformed file is one error with file, line and
// column, and nothing is loaded.
func Load(files []string, opts Options) (*Policy, error) {
	l := newLoading(opts)
	for _, file := range files {
		data, err := readFile(file)
		if err != nil {
			return nil, err
		}
		if err := l.read(file, data); err != nil {
			return nil, err
		}
	}
	return l.finish()
}

// LoadReader is Load of one file that is already open; name is for messages.
func LoadReader(name string, r io.Reader, opts Options) (*Policy, error) {
	l := newLoading(opts)
	data, err := readAll(name, r)
	if err != nil {
		return nil, err
	}
	if err := l.read(name, data); err != nil {
		return nil, err
	}
	return l.finish()
}

// loading is a policy on its way from documents to a store.
type loading struct {
	opts   Options
	m      *Map
	docs   []*document
	drafts int
	policy *Policy

	setNames map[string]string // and the file that defines it
}

func newLoading(opts Options) *loading {
	l := &loading{opts: opts, m: opts.Map, setNames: map[string]string{}}
	if l.m == nil {
		l.m = &Map{}
	}
	l.policy = &Policy{
		Store: filter.NewStore(), Links: map[string]LinkFacts{}, DefaultProfile: ProfilePublic,
		Services: map[filter.SID]string{}, Packages: map[filter.SID]string{},
	}
	return l
}

func (l *loading) read(name string, data []byte) error {
	doc, err := readDocument(name, data, l.m)
	if err != nil {
		return err
	}
	if l.drafts += len(doc.drafts); l.drafts > MaxFilters {
		return &Error{File: name, Msg: fmt.Sprintf("more than %d filters", MaxFilters)}
	}
	l.docs = append(l.docs, doc)
	l.policy.Files = append(l.policy.Files, name)
	if l.opts.Progress != nil {
		l.opts.Progress(fmt.Sprintf("%s: %d filters", name, len(doc.drafts)))
	}
	return nil
}

func (l *loading) finish() (*Policy, error) {
	p := l.policy
	for _, define := range []func(*document) error{l.providers, l.subLayers, l.callouts, l.sets} {
		for _, doc := range l.docs {
			if err := define(doc); err != nil {
				return nil, err
			}
		}
	}
	l.mapped()
	l.links()
	b := &binder{
		m: l.m, registered: l.opts.Registered, services: p.Services, packages: p.Packages,
		profiles: map[uint32]bool{p.DefaultProfile: true}, store: p.Store,
	}
	for _, f := range p.Links {
		b.profiles[f.Profile] = true
	}
	next := filter.ID(1) // of files of ours, which number nothing themselves
	for _, doc := range l.docs {
		for _, d := range doc.drafts {
			if !d.windows {
				d.filter.ID = next
				next++
			}
			if err := l.add(b, doc, d); err != nil {
				return nil, err
			}
		}
	}
	if note := l.quarantine(); note != "" {
		p.Notes = append([]string{note}, p.Notes...)
	}
	p.Notes = append(p.Notes, ties(p)...)
	return p, nil
}

// providers defines the providers and the provider contexts.
func (l *loading) providers(doc *document) error {
	s := l.policy.Store
	for _, p := range doc.providers {
		if s.Provider(p.Key) != nil && doc.windows {
			continue // built in, or in another dump of the same host
		}
		if err := s.AddProvider(p); err != nil {
			return &Error{File: doc.file, Err: err}
		}
	}
	for _, c := range doc.contexts {
		if s.ProviderContext(c.Key) != nil && doc.windows {
			continue
		}
		if doc.windows {
			l.providerSeen(c.Provider)
		}
		if err := s.AddProviderContext(c); err != nil {
			return &Error{File: doc.file, Err: err}
		}
	}
	return nil
}

// providerSeen defines a provider that a dump refers to and does not hold.
func (l *loading) providerSeen(key filter.GUID) {
	if key != (filter.GUID{}) && l.policy.Store.Provider(key) == nil {
		l.policy.Store.AddProvider(filter.Provider{Key: key, Name: fmt.Sprintf("{%s}", key)})
	}
}

func (l *loading) subLayers(doc *document) error {
	s := l.policy.Store
	for _, at := range doc.subLayers {
		sub := at.obj
		if doc.windows {
			if have := s.SubLayer(sub.Key); have != nil {
				if have.Weight != sub.Weight {
					l.policy.Notes = append(l.policy.Notes, fmt.Sprintf(
						"sublayer %s has weight %d in %s and %d here; %d is used", have.Name, sub.Weight, doc.file, have.Weight, have.Weight))
				}
				continue
			}
			l.providerSeen(sub.Provider)
		}
		if err := s.AddSubLayer(sub); err != nil {
			return at.pos.wrap(err, "")
		}
	}
	if !doc.windows {
		return nil
	}
	// The map's weights are for dumps that do not hold them.
	for _, d := range doc.drafts {
		key := d.filter.SubLayer
		if w, ok := l.m.SubLayers[key]; ok && s.SubLayer(key) == nil {
			if err := s.AddSubLayer(filter.SubLayer{Key: key, Name: fmt.Sprintf("{%s}", key), Weight: w}); err != nil {
				return d.pos.wrap(err, "")
			}
		}
	}
	return nil
}

func (l *loading) callouts(doc *document) error {
	s := l.policy.Store
	for _, at := range doc.callouts {
		if (doc.windows || filter.Provided[at.obj.Key] != nil) && s.Callout(at.obj.Key) != nil {
			continue
		}
		if doc.windows {
			l.providerSeen(at.obj.Provider)
		}
		if err := s.AddCallout(at.obj); err != nil {
			return at.pos.wrap(err, "")
		}
	}
	return nil
}

// mapped turns the map's names into identifiers.
func (l *loading) mapped() {
	p := l.policy
	for name, unit := range l.m.Services {
		p.Services[filter.ServiceSID(name)] = unit
	}
	for name, unit := range l.m.Packages {
		sid, err := filter.ParseSID(name)
		if err != nil {
			sid = filter.PackageSID(name)
		}
		p.Packages[sid] = unit
	}
	for _, doc := range l.docs {
		for _, unit := range doc.units {
			p.Services[filter.ServiceSID(unit)] = unit
		}
	}
}

// add binds a draft and puts the filter where it belongs.
func (l *loading) add(b *binder, doc *document, d *draft) error {
	p := l.policy
	state, why, err := b.bind(d)
	if err != nil {
		return err
	}
	if state != StateRefused {
		if doc.windows {
			l.complete(p.Store, d.filter)
		}
		if err := p.Store.AddFilter(d.filter); err != nil {
			return d.pos.wrap(err, "")
		}
	}
	e := Entry{Filter: d.filter, File: doc.file, Line: d.pos.line, State: state, layer: d.layerName}
	if why != nil {
		e.Reason, e.class = why.text, why.class
	}
	p.Entries = append(p.Entries, e)
	return nil
}

// complete defines what a dump's filter refers to and the dump does not hold.
func (l *loading) complete(s *filter.Store, f *filter.Filter) {
	l.providerSeen(f.Provider)
	if f.ProviderContext != (filter.GUID{}) && s.ProviderContext(f.ProviderContext) == nil {
		s.AddProviderContext(filter.ProviderContext{Key: f.ProviderContext, Name: fmt.Sprintf("{%s}", f.ProviderContext)})
	}
}

// WindowsStore returns the policy as it is on Windows once the firewall runs:
// also the filters that are refused here, as far as they can be represented.
// Boot-time and disabled filters are not in effect there either. It returns the
// filters, too, that could not be represented.
func (p *Policy) WindowsStore() (s *filter.Store, left []*filter.Filter) {
	s = p.Store.Clone()
	for _, e := range p.Entries {
		if e.State != StateRefused || !e.Filter.InEffect() {
			continue
		}
		f := *e.Filter
		weightless := f.SubLayer != (filter.GUID{}) && s.SubLayer(f.SubLayer) == nil
		if weightless || e.class == classUnreadable || e.class == classConditional {
			left = append(left, e.Filter)
			continue
		}
		if f.Provider != (filter.GUID{}) && s.Provider(f.Provider) == nil {
			s.AddProvider(filter.Provider{Key: f.Provider, Name: fmt.Sprintf("{%s}", f.Provider)})
		}
		if f.ProviderContext != (filter.GUID{}) && s.ProviderContext(f.ProviderContext) == nil {
			s.AddProviderContext(filter.ProviderContext{Key: f.ProviderContext, Name: fmt.Sprintf("{%s}", f.ProviderContext)})
		}
		if f.Action.IsCallout() && s.Callout(f.Callout) == nil {
			s.AddCallout(filter.Callout{Key: f.Callout, Name: fmt.Sprintf("{%s}", f.Callout), Layer: f.Layer})
		}
		if err := s.AddFilter(&f); err != nil {
			left = append(left, e.Filter)
		}
	}
	return s, left
}

// layerName returns the layer's name without its prefix, or what a dump calls a
// layer that does not exist.
func (e *Entry) layerName() string {
	if l := layermap.ByID(e.Filter.Layer); l != nil {
		return l.Name
	}
	return e.layer
}
