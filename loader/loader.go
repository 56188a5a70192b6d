// SPDX-License-Identifier: Apache-2.0

// Package loader is the engine: it compiles a policy's filters into the tables
// of the BPF programs, attaches the programs to their hooks, commits policies
// in one instant, and reads events and counters back. All that it makes is
// pinned and outlives the process; Down removes it.
//
// An instance filters one network namespace (its links and the sockets in it)
// and one cgroup. Pins lie under /sys/fs/bpf/wfpebpf/INSTANCE and the record
// of the policy under /run/wfpebpf/INSTANCE, both in the mount namespace of
// process 1. Needs Linux 6.1 and CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON and
// CAP_SYS_ADMIN.
package loader

import (
	"errors"
	"time"

	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
)

// Sentinels; errors.Is finds them.
var (
	// ErrNotApplied: no instance exists for the target.
	ErrNotApplied = errors.New("nothing is applied")
	// ErrAmbiguous: several instances exist and none was named.
	ErrAmbiguous = errors.New("several instances exist")
	// ErrBusy: another process changes the instance.
	ErrBusy = errors.New("another wfpebpf process is changing this instance")
	// ErrOccupied: somebody else's program stands where one of ours must go.
	ErrOccupied = errors.New("the hook is occupied")
	// ErrCapability: the process lacks a capability.
	ErrCapability = errors.New("missing capability")
	// ErrLimit: the policy exceeds a limit of the engine.
	ErrLimit = errors.New("limit exceeded")
)

// Target is what an instance filters.
type Target struct {
	Netns  string // name under /run/netns or a path; empty: the caller's
	Cgroup string // path in the cgroup2 hierarchy, or its full path; empty: the root
}

// Options say how an instance is attached.
type Options struct {
	Target
	Interfaces []string // links to filter; empty: all that are up, lo included
	Permits    bool     // events for permits, too
}

// Verdict is one answer of the kernel.
type Verdict struct {
	Action filter.Action // PERMIT, BLOCK or NONE_NO_MATCH
	Soft   bool          // the write right is still set
	Filter filter.ID     // whose action became final; 0: none matched
}

// Event is one net event (FWPM_NET_EVENT_CLASSIFY_DROP or _ALLOW).
type Event struct {
	Time       time.Time `json:"time"`
	Layer      string    `json:"layer"`
	Action     string    `json:"action"` // permit, block
	FilterID   filter.ID `json:"filterId"`
	FilterName string    `json:"filterName"`
	Origin     string    `json:"origin"`
	SubLayer   string    `json:"subLayer"`
	Direction  string    `json:"direction"` // in, out, forward
	Protocol   uint8     `json:"protocol"`
	Src        string    `json:"src"`
	Dst        string    `json:"dst"`
	Interface  string    `json:"interface"` // forward: that it came in by
	PID        uint32    `json:"pid"`
	Program    string    `json:"program"`
	User       string    `json:"user"`
	// Flow pairs the events of ALE_FLOW_ESTABLISHED, ALE_ENDPOINT_CLOSURE and
	// ALE_RESOURCE_RELEASE: it is that of the socket. 0 at other layers.
	Flow uint64 `json:"flow,omitempty"`

	OutInterface string `json:"outInterface,omitempty"` // forward: that it goes on by

	// The discard metadata, at discard layers only: who discarded (network, transport,
	// general), why in the words of Windows, and, where that was a filter, which.
	DiscardModule     string    `json:"discardModule,omitempty"`
	DiscardReason     string    `json:"discardReason,omitempty"`
	DiscardFilterID   filter.ID `json:"discardFilterId,omitempty"`
	DiscardFilterName string    `json:"discardFilterName,omitempty"`
	// OriginalDst is the destination before a redirection, at ALE_AUTH_CONNECT.
	OriginalDst string `json:"originalDst,omitempty"`

	Lost uint64 `json:"-"` // not an event: so many were lost before the next
}

// LayerStatus says what this host's kernel can do for a layer, as probed.
type LayerStatus struct {
	Layer     layermap.LayerID
	Available bool
	Reason    string // why not, or by which means
}

// FilterRow is a filter in force.
type FilterRow struct {
	ID       filter.ID `json:"id"`
	Name     string    `json:"name"`
	Layer    string    `json:"layer"`
	SubLayer string    `json:"subLayer"`
	Weight   uint64    `json:"weight"`
	Action   string    `json:"action"`
	Hits     uint64    `json:"hits"` // decisions since the tables were made that it is in
	// Sets are the sets of addresses that its conditions name; they have the
	// addresses by number only.
	Sets []SetRef `json:"sets,omitempty"`
}

// SetRef names a set of addresses.
type SetRef struct {
	Name    string `json:"name"`
	Entries int    `json:"entries"`
}

// SetRow is a set of addresses that filters in force name.
type SetRow struct {
	Name    string `json:"name"`
	File    string `json:"file"` // empty: the addresses stand in the policy
	Entries int    `json:"entries"`
	V4      int    `json:"v4"` // ranges of IPv4 addresses that the entries come to
	V6      int    `json:"v6"` // likewise
	Filters int    `json:"filters"`
}

// SubLayerRow is a sublayer with filters in force.
type SubLayerRow struct {
	Key     string `json:"key"`
	Name    string `json:"name"`
	Weight  uint16 `json:"weight"`
	Filters int    `json:"filters"`
}

// CalloutRow is a callout that the policy declares.
type CalloutRow struct {
	Key        string `json:"key"`
	Name       string `json:"name"`
	Layer      string `json:"layer"`
	Registered bool   `json:"registered"`
}

// HookRow is one attachment.
type HookRow struct {
	Hook   string   `json:"hook"`
	Target string   `json:"target"` // interface, cgroup or network namespace
	Link   string   `json:"link"`   // pin
	Layers []string `json:"layers"`
}

// State is an overview of an instance.
type State struct {
	Netns       string         `json:"netns"`
	Cgroup      string         `json:"cgroup"`
	Generation  uint64         `json:"generation"` // commits so far
	Applied     time.Time      `json:"applied"`
	Filters     map[string]int `json:"filters"` // by layer
	Memory      uint64         `json:"memory"`  // bytes in maps
	Stale       []string       `json:"stale"`   // names that changed since the commit
	LostEvents  uint64         `json:"lostEvents"`
	Errors      uint64         `json:"errors"`     // packets judged with inconsistent tables
	NoIdentity  uint64         `json:"noIdentity"` // packets for sockets without identity
	Unreadable  uint64         `json:"unreadable"` // packets dropped because their headers cannot be read
	Failsafes   []string       `json:"failsafes"`
	Unconfirmed bool           `json:"unconfirmed"` // waits for confirm
	// Amends is how the policy differs from that which its tables were made of; nil
	// where it does not.
	Amends *Amends `json:"amends,omitempty"`
}

// Amends counts what is looked at beside the tables of a commit: that costs each
// verdict a little, and making them anew takes longer.
type Amends struct {
	Generation uint64 `json:"generation"` // the commit
	Added      int    `json:"added"`      // filters
	Removed    int    `json:"removed"`
}

// InForceError says that a commit or roll-back is in force, and what went wrong
// while tidying up after it.
type InForceError struct{ Err error }

func (e *InForceError) Error() string { return "in force, but: " + e.Err.Error() }

func (e *InForceError) Unwrap() error { return e.Err }
