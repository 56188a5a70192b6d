// SPDX-License-Identifier: Apache-2.0

// This file finds what the INTERFACE, PROFILE and QUARANTINE_EPOCH fields are
// for each link that the map names.

package policy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
)

const epochField = "INTERFACE_QUARANTINE_EPOCH"

func (l *loading) links() {
	links := l.policy.Links
	fact := func(name string) LinkFacts {
		f, ok := links[name]
		if !ok {
			f = LinkFacts{LUID: l.m.LUID(name), Profile: l.policy.DefaultProfile}
		}
		return f
	}
	for _, name := range l.m.Links {
		f := fact(name)
		f.Mapped = true
		links[name] = f
	}
	for name, zone := range l.m.Zones {
		f := fact(name)
		f.Profile = zoneProfiles[zone]
		links[name] = f
	}
	for _, e := range l.epochs() {
		name, ok := l.m.link(e.luid)
		if !ok {
			continue
		}
		f := links[name]
		if e.family == layermap.V6 {
			f.EpochV6 = e.epoch
		} else {
			f.Epoch = e.epoch
		}
		links[name] = f
	}
}

// epoch is what one filter says about one interface.
type epoch struct {
	luid, epoch uint64
	family      layermap.Family
}

// epochs finds the filters that let an interface out of quarantine: they name
// its LUID and the epoch in which it was classified.
func (l *loading) epochs() []epoch {
	var out []epoch
	for _, doc := range l.docs {
		for _, d := range doc.drafts {
			layer := layermap.ByID(d.filter.Layer)
			if layer == nil || d.filter.Action != filter.ActionPermit || !d.filter.InEffect() {
				continue
			}
			e, named, timed := epoch{family: layer.Family}, false, false
			for _, c := range d.filter.Conditions {
				switch {
				case c.Match != filter.MatchEqual || c.Value.Type != layermap.Uint64:
				case c.Field == epochField:
					e.epoch, timed = c.Value.Num, true
				case interfaceFields[c.Field]:
					e.luid, named = c.Value.Num, true
				}
			}
			if named && timed {
				out = append(out, e)
			}
		}
	}
	return out
}

// quarantine returns the note about links that stay in quarantine: it is the
// surprise that a dump has in store for inbound traffic.
func (l *loading) quarantine() string {
	timed := map[filter.GUID]bool{} // sublayers that test the epoch
	for _, e := range l.policy.Entries {
		if e.State == StateRefused {
			continue
		}
		for _, c := range e.Filter.Conditions {
			if c.Field == epochField {
				timed[e.Filter.SubLayer] = true
			}
		}
	}
	if len(timed) == 0 {
		return ""
	}
	block := "a block filter"
	for _, e := range l.policy.Entries {
		if e.State != StateRefused && e.Filter.Action == filter.ActionBlock && timed[e.Filter.SubLayer] {
			block = fmt.Sprintf("the block filter %q", clip(e.Filter.Name))
			break
		}
	}
	out := map[string]bool{}
	for _, e := range l.epochs() {
		if name, ok := l.m.link(e.luid); ok {
			out[name] = true
		}
	}
	if len(out) == 0 {
		return fmt.Sprintf("quarantine: no mapped link leaves quarantine (none is in the map's links with its LUID); on every link new inbound traffic meets %s", block)
	}
	names := make([]string, 0, len(out))
	for name := range out {
		names = append(names, name)
	}
	slices.Sort(names)
	return fmt.Sprintf("quarantine: only mapped links leave quarantine: %s; on every other link new inbound traffic meets %s",
		strings.Join(names, ", "), block)
}
