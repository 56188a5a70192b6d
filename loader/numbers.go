// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/wfpebpf/wfpebpf/bpf"
	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
	"github.com/wfpebpf/wfpebpf/policy"
)

// numbers gives each identity that a policy names a number, since the BPF
// programs compare numbers. 0 is everybody else. Numbers are of one generation;
// what the programs keep in socket storage is the identity itself.
type numbers struct {
	Apps     []string // by number: executables; 0 is any other
	UIDs     []uint32 // likewise
	GIDs     []uint32
	Services []string // units
	Packages []string // units
	System   uint32   // number of the app "System"; 0: no filter names it

	ServiceSIDs [][]filter.SID // by service number
	PackageSIDs []filter.SID   // by package number
}

// appSystem is the app id of traffic without a process.
const appSystem = "System"

// otherApp stands for every executable that no filter names; no path is equal
// to it.
const otherApp = "\x00any other executable"

func numberIdentities(p *policy.Policy) (*numbers, error) {
	return numberFilters(p, p.Store.Filters())
}

// numberFilters gives numbers to the identities that some of a policy's filters name.
func numberFilters(p *policy.Policy, filters []*filter.Filter) (*numbers, error) {
	apps, uids, gids := map[string]bool{}, map[uint32]bool{}, map[uint32]bool{}
	services := map[string][]filter.SID{}
	packages := map[string]filter.SID{}
	for sid, unit := range p.Packages {
		packages[unit] = sid
	}
	for _, f := range filters {
		l := layermap.ByID(f.Layer)
		if l == nil || !l.Hook().Live {
			continue
		}
		for _, c := range f.Conditions {
			switch l.Source(c.Field).Slot {
			case layermap.SlotApp:
				if c.Value.Type == layermap.ByteBlob {
					apps[string(c.Value.Bytes)] = true
				}
			case layermap.SlotUser:
				if c.Value.SD == nil {
					continue
				}
				for _, e := range c.Value.SD.Entries {
					kind, id, ok := filter.ParseUnix(e.SID)
					if unit := p.Services[e.SID]; unit != "" && !slices.Contains(services[unit], e.SID) {
						services[unit] = append(services[unit], e.SID)
					} else if ok && kind == "user" {
						uids[id] = true
					} else if ok {
						gids[id] = true
					}
				}
			}
		}
	}
	n := &numbers{Apps: []string{otherApp}, UIDs: []uint32{0}, GIDs: []uint32{0}, Services: []string{""}, Packages: []string{""}}
	for _, app := range slices.Sorted(maps.Keys(apps)) {
		if app == appSystem {
			n.System = uint32(len(n.Apps))
		}
		n.Apps = append(n.Apps, app)
	}
	n.UIDs = append(n.UIDs, slices.Sorted(maps.Keys(uids))...)
	n.GIDs = append(n.GIDs, slices.Sorted(maps.Keys(gids))...)
	n.ServiceSIDs = append(n.ServiceSIDs, nil)
	for _, unit := range slices.Sorted(maps.Keys(services)) {
		n.Services = append(n.Services, unit)
		var held []filter.SID
		for other, sids := range services {
			// a unit inside another unit's cgroup is both
			if other == unit || strings.HasPrefix(unit, strings.TrimSuffix(other, "/")+"/") {
				held = append(held, sids...)
			}
		}
		slices.Sort(held)
		n.ServiceSIDs = append(n.ServiceSIDs, held)
	}
	n.PackageSIDs = append(n.PackageSIDs, filter.SIDNull)
	for _, unit := range slices.Sorted(maps.Keys(packages)) {
		n.Packages = append(n.Packages, unit)
		n.PackageSIDs = append(n.PackageSIDs, packages[unit])
	}
	if tokens := n.tokens(); tokens > MaxTokens {
		return nil, fmt.Errorf("%w: the policy names %d users, %d groups and %d services, whose combinations are %d, at most %d; name groups instead of their users",
			ErrLimit, len(n.UIDs)-1, len(n.GIDs)-1, len(n.Services)-1, tokens, MaxTokens)
	}
	return n, nil
}

func (n *numbers) tokens() int { return len(n.UIDs) * len(n.GIDs) * len(n.Services) }

func (n *numbers) generation() bpf.Generation {
	g := bpf.Generation{
		Gids: uint32(len(n.GIDs)), Services: uint32(len(n.Services)), Users: uint32(n.tokens()),
		SystemApp: n.System,
	}
	if len(n.Services) > 1 {
		g.HasServices = 1
	}
	if len(n.Packages) > 1 {
		g.HasPackages = 1
	}
	return g
}

// values is what the numbers of a slot stand for, for the evaluator; nil where
// the slot holds no number.
func (n *numbers) values(s layermap.Slot) []filter.Value {
	switch s {
	case layermap.SlotApp:
		return n.appValues()
	case layermap.SlotUser:
		values := make([]filter.Value, 0, n.tokens())
		for u := range n.UIDs {
			for g := range n.GIDs {
				for s := range n.Services {
					values = append(values, n.token(u, g, s))
				}
			}
		}
		return values
	case layermap.SlotPackage:
		values := make([]filter.Value, len(n.PackageSIDs))
		for i, sid := range n.PackageSIDs {
			values[i] = filter.SIDValue(sid)
		}
		return values
	}
	return nil
}

func (n *numbers) appValues() []filter.Value {
	values := make([]filter.Value, len(n.Apps))
	for i, app := range n.Apps {
		values[i] = filter.Blob([]byte(app))
	}
	return values
}

// token is what a process with these numbers holds.
func (n *numbers) token(uid, gid, service int) filter.Value {
	var sids []filter.SID
	if uid > 0 {
		sids = append(sids, filter.UnixUser(n.UIDs[uid]))
	}
	if gid > 0 {
		sids = append(sids, filter.UnixGroup(n.GIDs[gid]))
	}
	return filter.TokenValue(append(sids, n.ServiceSIDs[service]...)...)
}

// alike returns what gives for a token's number that of the one that holds only those
// of its users, groups and services that conditions name, and so is granted the same:
// a million tokens differ in few for any one access list.
func (n *numbers) alike(conds []filter.Condition) func(token int) int {
	named := map[filter.SID]bool{}
	for _, c := range conds {
		if c.Value.SD != nil {
			for _, e := range c.Value.SD.Entries {
				named[e.SID] = true
			}
		}
	}
	only := func(count int, isNamed func(i int) bool) []int {
		list := make([]int, count)
		for i := 1; i < count; i++ {
			if isNamed(i) {
				list[i] = i
			}
		}
		return list
	}
	uids := only(len(n.UIDs), func(i int) bool { return named[filter.UnixUser(n.UIDs[i])] })
	gids := only(len(n.GIDs), func(i int) bool { return named[filter.UnixGroup(n.GIDs[i])] })
	services := only(len(n.Services), func(i int) bool {
		return slices.ContainsFunc(n.ServiceSIDs[i], func(s filter.SID) bool { return named[s] })
	})
	return func(token int) int {
		uid, gid, service := token/len(services)/len(gids), token/len(services)%len(gids), token%len(services)
		return (uids[uid]*len(gids)+gids[gid])*len(services) + services[service]
	}
}

// number is the inverse of values: the number that the kernel gives to an
// identity, for the judge.
func (n *numbers) number(s layermap.Slot, v filter.Value) uint64 {
	switch s {
	case layermap.SlotApp:
		return uint64(max(0, slices.Index(n.Apps, string(v.Bytes))))
	case layermap.SlotPackage:
		return uint64(max(0, slices.Index(n.PackageSIDs, v.SID)))
	}
	if v.Token == nil {
		return 0
	}
	var uid, gid, service int
	for i := 1; i < len(n.UIDs); i++ {
		if v.Token.Holds(filter.UnixUser(n.UIDs[i])) {
			uid = i
		}
	}
	for i := 1; i < len(n.GIDs); i++ {
		if v.Token.Holds(filter.UnixGroup(n.GIDs[i])) {
			gid = i
		}
	}
	most := 0
	for i := 1; i < len(n.Services); i++ {
		all := !slices.ContainsFunc(n.ServiceSIDs[i], func(s filter.SID) bool { return !v.Token.Holds(s) })
		if all && len(n.ServiceSIDs[i]) > most {
			service, most = i, len(n.ServiceSIDs[i])
		}
	}
	return uint64((uid*len(n.GIDs)+gid)*len(n.Services) + service)
}
