// SPDX-License-Identifier: Apache-2.0

// This file decides what becomes of each filter on this host: it translates
// identities through the map and finds what cannot be enforced or can match
// nothing. The rules are one table by field; a field without an entry has only
// the rule of where its value comes from.

package policy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
)

// binder has what the rules look things up in.
type binder struct {
	m          *Map
	registered map[filter.GUID]bool
	services   map[filter.SID]string
	packages   map[filter.SID]string
	profiles   map[uint32]bool // that some link here has
	store      *filter.Store
}

// group is the conditions that a filter has on one field: alternatives.
type group struct {
	layer   *layermap.Layer
	field   layermap.Field
	windows bool // from a dump
	conds   []*filter.Condition
}

// any reports whether some alternative holds for a value.
func (g *group) any(v filter.Value) bool {
	return slices.ContainsFunc(g.conds, func(c *filter.Condition) bool { return c.Matches(v) })
}

// anyOf reports whether one of the values satisfies the group.
func (g *group) anyOf(values []uint64) bool {
	return slices.ContainsFunc(values, func(n uint64) bool {
		return g.any(filter.Value{Type: g.field.DataType, Num: n})
	})
}

// rare says what becomes of a group that no value satisfies which the layer
// sees: there is no such traffic or, of protocols, there is and it passes by.
func (g *group) rare(src layermap.Source) (why *reason, refused bool) {
	switch {
	case g.field.Type == layermap.FlagsField:
		return because(classFlags, "no traffic here has these %s; they come from %s", g.field.Key, src.From), false
	case g.field.Key != "IP_PROTOCOL":
		return because(classValue, "no traffic here has this %s; it comes from %s", g.field.Key, src.From), false
	}
	for n := range uint64(256) {
		if g.anyOf([]uint64{n}) {
			return because(classProtocol, "%s is that of %s", g.field.Key, src.From), true
		}
	}
	return because(classValue, "no traffic has this %s", g.field.Key), false
}

// fieldRules translate a group's values in place. They return nil where some
// value here can satisfy the group; refused says that the filter must not be
// loaded rather than kept as one that matches nothing.
var fieldRules = map[string]func(b *binder, g *group) (why *reason, refused bool){
	"ALE_APP_ID":                    (*binder).app,
	"ALE_ORIGINAL_APP_ID":           (*binder).app,
	"ALE_USER_ID":                   (*binder).user,
	"ALE_PACKAGE_ID":                (*binder).pkg,
	"IP_LOCAL_INTERFACE":            (*binder).link,
	"IP_ARRIVAL_INTERFACE":          (*binder).link,
	"IP_NEXTHOP_INTERFACE":          (*binder).link,
	"IP_FORWARD_INTERFACE":          (*binder).link,
	"IP_PHYSICAL_ARRIVAL_INTERFACE": (*binder).link,
	"IP_PHYSICAL_NEXTHOP_INTERFACE": (*binder).link,
	"LOCAL_INTERFACE_PROFILE_ID":    (*binder).profile,
	"ARRIVAL_INTERFACE_PROFILE_ID":  (*binder).profile,
	"NEXTHOP_INTERFACE_PROFILE_ID":  (*binder).profile,
	"ORIGINAL_PROFILE_ID":           (*binder).profile,
	"CURRENT_PROFILE_ID":            (*binder).profile,

	"VSWITCH_ID":                       (*binder).linkByName,
	"VSWITCH_SOURCE_INTERFACE_ID":      (*binder).linkByName,
	"VSWITCH_DESTINATION_INTERFACE_ID": (*binder).linkByName,
}

// bind decides about a filter and translates its conditions. An error is a
// mistake in a file of ours; in a dump the same is a reason.
func (b *binder) bind(d *draft) (State, *reason, error) {
	f := d.filter
	if why := b.outright(d); why != nil {
		if !d.windows && f.Layer != unknownLayer {
			if err := f.Validate(); err != nil {
				return "", nil, d.pos.wrap(err, "")
			}
		}
		return StateRefused, why, nil
	}
	if err := f.Validate(); err != nil {
		if !d.windows {
			return "", nil, d.pos.wrap(err, "")
		}
		return StateRefused, because(classUnreadable, "%s", invalid(err)), nil
	}
	layer := layermap.ByID(f.Layer)
	dropHost(f)
	if layer.Hook().Reserved {
		return StateUnmatchable, because(classReserved, "layer %s is reserved and never classified", layer.FWPS()), nil
	}
	var unmatchable *reason
	for _, g := range groups(f, layer, d.windows) {
		why, refused := b.group(g)
		switch {
		case refused:
			return StateRefused, why, nil
		case why != nil && unmatchable == nil:
			unmatchable = why
		}
	}
	if unmatchable != nil {
		return StateUnmatchable, unmatchable, nil
	}
	return StateEnforced, nil, nil
}

// outright finds why a filter is refused whatever its conditions are.
func (b *binder) outright(d *draft) *reason {
	f := d.filter
	switch {
	case f.Flags&filter.FlagBootTime != 0:
		return because(classBootTime, "boot-time")
	case f.Flags&filter.FlagDisabled != 0:
		return because(classDisabled, "disabled")
	case d.windows && f.Action.IsCallout() && !b.registered[f.Callout] && filter.Provided[f.Callout] == nil:
		return because(classCallout, "callout %s is not provided here", b.calloutName(d))
	case f.Layer == unknownLayer:
		return d.refuse
	}
	if _, redirects := filter.RedirectCallout(f.Layer); redirects && f.Action.IsCallout() && !f.Redirects() {
		return because(classCallout, "callout %s is not provided here; at %s only the built-in redirect is", b.calloutName(d), layermap.ByID(f.Layer).Name)
	}
	layer := layermap.ByID(f.Layer)
	if h := layer.Hook(); !h.Live && !h.Reserved {
		return because(classLayer, "layer %s does not run yet", layer.FWPS())
	}
	if f.SubLayer != (filter.GUID{}) && b.store.SubLayer(f.SubLayer) == nil {
		return because(classSubLayer, "sublayer weight unknown: {%s}", f.SubLayer)
	}
	return d.refuse
}

// calloutName names a callout by all that is known of it.
func (b *binder) calloutName(d *draft) string {
	braced := fmt.Sprintf("{%s}", d.filter.Callout)
	c := b.store.Callout(d.filter.Callout)
	switch {
	case c != nil && strings.HasPrefix(c.Name, "FWPM_CALLOUT_"):
		return c.Name
	case strings.HasPrefix(d.calloutName, "FWPM_CALLOUT_"):
		return d.calloutName
	case c != nil:
		return fmt.Sprintf("%q %s", c.Name, braced)
	}
	return braced
}

// invalid makes a reason of a validation error: the filter and the layer stand
// beside it in the report already.
func invalid(err error) string {
	var oe *filter.ObjectError
	if e, ok := err.(*filter.ObjectError); ok {
		oe = e
	}
	if oe == nil {
		return err.Error()
	}
	code := "invalid"
	if e, ok := oe.Err.(*filter.Error); ok {
		code = e.Name
	}
	return code + ": " + oe.Detail
}

// groups returns the conditions by field, in the order in which the fields
// first occur.
func groups(f *filter.Filter, layer *layermap.Layer, windows bool) []*group {
	var out []*group
	at := map[string]*group{}
	for i := range f.Conditions {
		c := &f.Conditions[i]
		g := at[c.Field]
		if g == nil {
			g = &group{layer: layer, field: layer.Fields[layer.FieldIndex(c.Field)], windows: windows}
			at[c.Field] = g
			out = append(out, g)
		}
		g.conds = append(g.conds, c)
	}
	return out
}

// group applies the field's rules. Where the value comes from goes first: a
// field that is always empty is so for every identity.
func (b *binder) group(g *group) (why *reason, refused bool) {
	src := g.layer.Source(g.field.Key)
	rule, empty := fieldRules[g.field.Key], g.emptySets()
	switch {
	case src.Kind == layermap.Refused:
		return because(classField, "%s: %s", g.field.Key, src.From), true
	case src.Kind == layermap.Never:
		if !g.any(filter.Value{}) {
			return because(classConstant, "%s is always empty here: %s", g.field.Key, src.From), false
		}
		return nil, false
	case rule != nil:
		return rule(b, g)
	case empty != nil:
		return empty, false
	case src.Only != nil:
		if !g.anyOf(src.Only) {
			return g.rare(src)
		}
	case src.Kind == layermap.Constant:
		if v := (filter.Value{Type: g.field.DataType, Num: src.Value}); !g.any(v) {
			return because(classConstant, "%s is always %s here: %s", g.field.Key, filter.FormatValue(g.field, v), src.From), false
		}
	}
	return nil, false
}

// app translates programs. A value that the map has nothing for stays, as the
// Windows path in UTF-8: it is no path of this host and equals none.
func (b *binder) app(g *group) (*reason, bool) {
	var missing *reason
	ok := false
	for _, c := range g.conds {
		if c.Value.Type != layermap.ByteBlob {
			ok = ok || c.Matches(filter.Value{})
			continue
		}
		if c.Match != filter.MatchEqual && c.Match != filter.MatchNotEqual {
			return because(classField, "%s: a program is compared with EQUAL or NOT_EQUAL, not %s", g.field.Key, c.Match), true
		}
		name := string(c.Value.Bytes)
		if g.windows {
			text, isText := utf16Text(c.Value.Bytes)
			if !isText {
				return because(classUnreadable, "%s is not UTF-16 text", g.field.Key), true
			}
			name = text
		}
		mapped := name == systemApp || !g.windows && strings.HasPrefix(name, "/")
		if p, found := b.m.app(name); !strings.HasPrefix(name, "/") && found {
			name, mapped = p, true
		}
		c.Value = filter.Blob([]byte(name))
		if mapped || c.Match == filter.MatchNotEqual {
			ok = true
		} else if missing == nil {
			missing = because(classApp, "app %s is not in the map", name)
		}
	}
	if ok {
		return nil, false
	}
	return missing, false
}

// link replaces Windows LUIDs by the one that the link has here.
func (b *binder) link(g *group) (*reason, bool) {
	var missing *reason
	ok := false
	for _, c := range g.conds {
		if c.Value.Type != layermap.Uint64 || c.Match != filter.MatchEqual && c.Match != filter.MatchNotEqual {
			ok = true // ranges of LUIDs say nothing about one link
			continue
		}
		name, mapped := b.m.link(c.Value.Num)
		switch {
		case mapped:
			c.Value = filter.U64(b.m.LUID(name))
			ok = true
		case c.Value.Num>>48 == derivedLUID>>48, c.Match == filter.MatchNotEqual:
			ok = true
		case missing == nil:
			missing = because(classLink, "no link is mapped to LUID %d", c.Value.Num)
		}
	}
	if ok {
		return nil, false
	}
	return missing, false
}

// linkByName translates ids of virtual switches and of their interfaces: the map's links
// say which bridge or port a GUID is; in files of ours a name is one already.
func (b *binder) linkByName(g *group) (*reason, bool) {
	var missing *reason
	ok := false
	for _, c := range g.conds {
		if c.Value.Type != layermap.ByteBlob {
			ok = ok || c.Matches(filter.Value{})
			continue
		}
		if c.Match != filter.MatchEqual && c.Match != filter.MatchNotEqual {
			return because(classField, "%s: a link is compared with EQUAL or NOT_EQUAL, not %s", g.field.Key, c.Match), true
		}
		id := string(c.Value.Bytes)
		if text, isText := utf16Text(c.Value.Bytes); g.windows && isText {
			id = text
		}
		name, _ := linkName(id)
		guid, _ := linkKey(id)
		if mapped := b.m.Links[guid]; mapped != "" || g.windows {
			name = mapped
		}
		switch {
		case name != "":
			c.Value = filter.Blob([]byte(name))
			ok = true
		case c.Match == filter.MatchNotEqual:
			ok = true
		case missing == nil:
			missing = because(classLink, "no link is mapped to %s %q", g.field.Key, clip(id))
		}
	}
	if ok {
		return nil, false
	}
	return missing, false
}

// profile finds profiles that no link has.
func (b *binder) profile(g *group) (*reason, bool) {
	for p := range b.profiles {
		if g.any(filter.Value{Type: g.field.DataType, Num: uint64(p)}) {
			return nil, false
		}
	}
	return because(classProfile, "%s: no link is in profile %s", g.field.Key, profileText(g.conds[0].Value)), false
}

func profileText(v filter.Value) string {
	for name, id := range zoneProfiles {
		if v.Type == layermap.Uint32 && v.Num == uint64(id) {
			return fmt.Sprintf("%d (%s)", id, name)
		}
	}
	return v.String()
}

// pkg knows what package a process can be of: none, or one that is mapped.
func (b *binder) pkg(g *group) (*reason, bool) {
	if g.any(filter.SIDValue(filter.SIDNull)) {
		return nil, false
	}
	for sid := range b.packages {
		if g.any(filter.SIDValue(sid)) {
			return nil, false
		}
	}
	c := g.conds[0]
	if c.Match == filter.MatchNotEqual {
		return because(classPackage, "%s: no package is mapped", g.field.Key), false
	}
	return because(classPackage, "%s: package %s is not in the map", g.field.Key, c.Value), false
}

// user translates the identifiers of access lists, and finds lists that admit
// no one here.
func (b *binder) user(g *group) (*reason, bool) {
	var unknown []string
	ok := false
	for _, c := range g.conds {
		if c.Value.Type != layermap.SecurityDescriptorType || c.Value.SD == nil {
			ok = ok || c.Matches(filter.Value{})
			continue
		}
		sd := *c.Value.SD
		sd.Entries = slices.Clone(sd.Entries)
		held := sd.NoDACL
		for i := range sd.Entries {
			e := &sd.Entries[i]
			if to, mapped := unixSID(b.m.SIDs[e.SID]); mapped {
				e.SID = to
			}
			switch {
			case !e.Allow || e.Mask&filter.AccessMatchFilter == 0:
			case !b.held(e.SID):
				unknown = append(unknown, sidText(e.SID))
			case sd.Grants(&filter.Token{SIDs: []filter.SID{e.SID}}): // no entry before denies it
				held = true
			}
		}
		c.Value = filter.SDValue(&sd)
		ok = ok || held
	}
	switch {
	case ok:
		return nil, false
	case len(unknown) == 0:
		return because(classUser, "%s: the access list admits no one", g.field.Key), false
	}
	return because(classUser, "%s: not in the map: %s", g.field.Key, some(unknown)), false
}

// held reports whether a process here can hold an identifier.
func (b *binder) held(s filter.SID) bool {
	if s == filter.SIDEveryone {
		return true
	}
	if _, _, unix := filter.ParseUnix(s); unix {
		return true
	}
	_, mapped := b.services[s]
	return mapped
}

// some joins the first few texts of a list.
func some(list []string) string {
	const most = 3
	if len(list) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(list[:most], ", "), len(list)-most)
	}
	return strings.Join(list, ", ")
}

// serviceHost runs most of Windows's services, so a condition on it says only
// "some service".
const serviceHost = "svchost.exe"

// dropHost removes the condition on the service host from a filter that names
// services too: here the unit's cgroup stands for both.
func dropHost(f *filter.Filter) {
	services, host := false, false
	for _, c := range f.Conditions {
		switch {
		case c.Field == "ALE_USER_ID":
			if !onlyServices(c.Value.SD) {
				return
			}
			services = true
		case c.Field == "ALE_APP_ID":
			name, _ := utf16Text(c.Value.Bytes)
			if strings.ContainsRune(string(c.Value.Bytes), '\\') && !strings.ContainsRune(name, '\\') {
				name = string(c.Value.Bytes) // our own files hold UTF-8
			}
			if c.Match != filter.MatchEqual || windowsBase(name) != serviceHost {
				return
			}
			host = true
		}
	}
	if services && host {
		f.Conditions = slices.DeleteFunc(slices.Clone(f.Conditions), func(c filter.Condition) bool { return c.Field == "ALE_APP_ID" })
	}
}

// servicePrefix begins the identifiers of services.
const servicePrefix = "S-1-5-80-"

func onlyServices(sd *filter.SecurityDescriptor) bool {
	if sd == nil || len(sd.Entries) == 0 {
		return false
	}
	for _, e := range sd.Entries {
		if e.Allow && !strings.HasPrefix(string(e.SID), servicePrefix) {
			return false
		}
	}
	return true
}
