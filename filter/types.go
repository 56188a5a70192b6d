// SPDX-License-Identifier: Apache-2.0

// Package filter is WFP's object model (providers, sublayers, filters,
// callouts, provider contexts), its validation with WFP's error codes, filter
// weights, and Arbitrate, the reference evaluator. The evaluator is the oracle
// that the BPF programs are held against, so it is written for clearness and
// follows the documents rule by rule. The package knows no kernel and does no
// I/O.
package filter

import (
	"fmt"
	"slices"

	"github.com/wfpebpf/wfpebpf/layermap"
)

// GUID identifies an object; keys are unique within one type of object.
type GUID = layermap.GUID

// ID is the run-time identifier (LUID) of a filter.
type ID uint64

// Action is FWP_ACTION_TYPE: the action of a filter or the result of a callout.
type Action uint32

// The bits and values are Windows's (fwptypes.h).
const (
	actionFlagTerminating    Action = 0x1000
	actionFlagNonTerminating Action = 0x2000
	actionFlagCallout        Action = 0x4000

	ActionBlock              Action = 0x1 | actionFlagTerminating
	ActionPermit             Action = 0x2 | actionFlagTerminating
	ActionCalloutTerminating Action = 0x3 | actionFlagCallout | actionFlagTerminating
	ActionCalloutInspection  Action = 0x4 | actionFlagCallout | actionFlagNonTerminating
	ActionCalloutUnknown     Action = 0x5 | actionFlagCallout
	ActionContinue           Action = 0x6 | actionFlagNonTerminating
	ActionNone               Action = 0x7
	ActionNoneNoMatch        Action = 0x8
)

var actionNames = map[Action]string{
	ActionBlock: "BLOCK", ActionPermit: "PERMIT",
	ActionCalloutTerminating: "CALLOUT_TERMINATING", ActionCalloutInspection: "CALLOUT_INSPECTION",
	ActionCalloutUnknown: "CALLOUT_UNKNOWN", ActionContinue: "CONTINUE",
	ActionNone: "NONE", ActionNoneNoMatch: "NONE_NO_MATCH",
}

// String returns WFP's spelling, FWP_ACTION_*.
func (a Action) String() string {
	if s, ok := actionNames[a]; ok {
		return "FWP_ACTION_" + s
	}
	return fmt.Sprintf("FWP_ACTION(%#x)", uint32(a))
}

// Short returns the name without FWP_ACTION_.
func (a Action) Short() string { return a.String()[len("FWP_ACTION_"):] }

// IsCallout reports whether a filter with this action calls a callout.
func (a Action) IsCallout() bool { return a&actionFlagCallout != 0 }

// MatchType is FWP_MATCH_TYPE; the numbers are Windows's.
type MatchType uint8

// The match types. Which of them go with which types of value, and how each
// decides, is the table in match.go.
const (
	MatchEqual MatchType = iota
	MatchGreater
	MatchLess
	MatchGreaterOrEqual
	MatchLessOrEqual
	MatchRange
	MatchFlagsAllSet
	MatchFlagsAnySet
	MatchFlagsNoneSet
	MatchEqualCaseInsensitive
	MatchNotEqual
	MatchPrefix
	MatchNotPrefix
)

var matchTypeNames = [...]string{
	"EQUAL", "GREATER", "LESS", "GREATER_OR_EQUAL", "LESS_OR_EQUAL", "RANGE",
	"FLAGS_ALL_SET", "FLAGS_ANY_SET", "FLAGS_NONE_SET", "EQUAL_CASE_INSENSITIVE",
	"NOT_EQUAL", "PREFIX", "NOT_PREFIX",
}

// String returns WFP's spelling, FWP_MATCH_*.
func (m MatchType) String() string {
	if int(m) < len(matchTypeNames) {
		return "FWP_MATCH_" + matchTypeNames[m]
	}
	return fmt.Sprintf("FWP_MATCH(%d)", uint8(m))
}

// Flags is FWPM_FILTER_FLAG_*.
type Flags uint32

// The flags, with the values of FWPM_FILTER0; FWPS_FILTER0 has others for the
// same names. PERSISTENT and BOOTTIME exclude each other; DISABLED and INDEXED
// are set by the engine. Arbitration heeds BOOTTIME, CLEAR_ACTION_RIGHT,
// PERMIT_IF_CALLOUT_UNREGISTERED and DISABLED.
const (
	FlagPersistent                      Flags = 0x1
	FlagBootTime                        Flags = 0x2
	FlagHasProviderContext              Flags = 0x4
	FlagClearActionRight                Flags = 0x8
	FlagPermitIfCalloutUnregistered     Flags = 0x10
	FlagDisabled                        Flags = 0x20
	FlagIndexed                         Flags = 0x40
	FlagHasSecurityRealmProviderContext Flags = 0x80
	FlagSystemOSOnly                    Flags = 0x100
	FlagGameOSOnly                      Flags = 0x200
	FlagSilentMode                      Flags = 0x400
	FlagIPsecNoAcquireInitiate          Flags = 0x800
	FlagReserved0                       Flags = 0x1000
	FlagReserved1                       Flags = 0x2000
	flagsKnown                          Flags = 0x3fff
)

// Condition compares one field of the layer with a value. Several conditions
// on one field are OR'ed; conditions on different fields are AND'ed.
type Condition struct {
	Field string // canonical condition key, such as IP_REMOTE_PORT
	Match MatchType
	Value Value
}

// Provider groups the objects of one vendor. FWPM_PROVIDER0.
type Provider struct {
	Key                  GUID
	Name, Description    string
	ServiceName          string
	Persistent, Disabled bool
}

// ProviderContext carries data for callouts and, in a dump, the text that says
// which rule a filter came from. FWPM_PROVIDER_CONTEXT3.
type ProviderContext struct {
	Key               GUID
	Name, Description string
	Provider          GUID
	Data              []byte
	Origin            string // Data as text, where it is UTF-16 text
}

// SubLayer is FWPM_SUBLAYER0. Weight orders the sublayers, higher first.
type SubLayer struct {
	Key               GUID
	Name, Description string
	Provider          GUID
	Weight            uint16
}

// Callout is FWPM_CALLOUT0: the management side of a callout, which belongs to
// exactly one layer.
type Callout struct {
	Key                 GUID
	Name, Description   string
	Provider            GUID
	Layer               layermap.LayerID
	UsesProviderContext bool
}

// Filter is FWPM_FILTER0.
type Filter struct {
	Key               GUID
	ID                ID // zero: assigned when added
	Name, Description string
	Provider          GUID
	Layer             layermap.LayerID
	SubLayer          GUID  // zero: FWPM_SUBLAYER_UNIVERSAL
	Weight            Value // EMPTY, UINT8 0..15 or UINT64
	EffectiveWeight   uint64
	KeepWeight        bool // EffectiveWeight comes from a dump and is not recomputed
	Conditions        []Condition
	Action            Action
	Callout           GUID // with a callout action
	ProviderContext   GUID // with FlagHasProviderContext
	RawContext        uint64
	Flags             Flags
	Origin            string // text of the provider context, for explanations
}

// Sets returns the sets of addresses that the filter's conditions name, each
// once. Sets of one name and content are one: conditions that were read from JSON
// share none.
func (f *Filter) Sets() []*AddressSet {
	var sets []*AddressSet
	for i := range f.Conditions {
		s := f.Conditions[i].Value.Set
		same := func(t *AddressSet) bool { return t == s || t.name == s.name && t.digest == s.digest }
		if s != nil && !slices.ContainsFunc(sets, same) {
			sets = append(sets, s)
		}
	}
	return sets
}
