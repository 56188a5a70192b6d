// SPDX-License-Identifier: Apache-2.0

// Package policy reads policies from files (wfpebpf's own YAML and the two
// shapes of `netsh wfp` XML) together with the map file that says what Windows
// names mean on this host, and yields filter objects and a report that accounts
// for every filter. It only reads files and knows no kernel.
//
// A policy is loaded whole or not at all: a malformed file is one error with a
// position. A well-formed filter that cannot be carried over is no error; it is
// an Entry with a State and a Reason.
package policy

import (
	"io"

	"github.com/wfpebpf/wfpebpf/filter"
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

	// windows is the filter as the file has it, nil where it could not be read:
	// what WindowsStore shows.
	windows *filter.Filter
	// class groups equal kinds of reasons in the summary of a report.
	class string
}

// LinkFacts is what the INTERFACE and PROFILE fields are filled with for
// traffic over one link.
type LinkFacts struct {
	LUID    uint64 // Map.LUID of the link's name
	Profile uint32 // ProfilePublic, ProfilePrivate or ProfileDomain
	Epoch   uint64 // INTERFACE_QUARANTINE_EPOCH; 0 is a link still in quarantine
	Mapped  bool   // the map's links name it
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
	Notes          []string              // what the reader should know first
	Files          []string

	windows *filter.Store
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
func Load(files []string, opts Options) (*Policy, error) { return nil, nil }

// LoadReader is Load of one file that is already open; name is for messages.
func LoadReader(name string, r io.Reader, opts Options) (*Policy, error) { return nil, nil }

// WindowsStore returns the policy as Windows would have it: refused filters
// too, where they can be represented, and no identity translated away.
func (p *Policy) WindowsStore() *filter.Store { return p.windows }
