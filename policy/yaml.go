// SPDX-License-Identifier: Apache-2.0

// This file reads wfpebpf's own policy files. Condition values are read in
// yaml_value.go.
//
// A file of ours is written by hand, so what a dump's filter is refused for is
// an error here: an unknown field, a value of the wrong type, a name that is
// not defined.

package policy

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
)

// formatVersion is the value of the key wfpebpf, the first of a policy file.
const formatVersion = "1"

type yamlReader struct {
	doc *document
	m   *Map

	providers, subLayers, callouts map[string]filter.GUID                 // by key as written
	redirects                      map[filter.GUID]filter.ProviderContext // of callouts that are built in, by key
	sets                           map[string]*fileSet
	entries                        int // of all sets
}

func readYAML(name string, data []byte, m *Map) (*document, error) {
	root, err := parseYAML(name, data)
	if err != nil {
		return nil, err
	}
	if m == nil {
		m = &Map{}
	}
	r := &yamlReader{
		doc: &document{file: name}, m: m,
		providers: map[string]filter.GUID{}, subLayers: map[string]filter.GUID{}, callouts: map[string]filter.GUID{},
		sets: map[string]*fileSet{}, redirects: map[filter.GUID]filter.ProviderContext{},
	}
	// Definitions come before what refers to them, wherever they stand in the file.
	version := ""
	var providers, subLayers, callouts, sets, filters *node
	keep := func(to **node) reader { return func(n *node) error { *to = n; return nil } }
	err = root.fields("the policy", map[string]reader{
		"wfpebpf": text(&version, "wfpebpf"), "providers": keep(&providers), "sublayers": keep(&subLayers),
		"callouts": keep(&callouts), "sets": keep(&sets), "filters": keep(&filters),
	})
	if err != nil {
		return nil, err
	}
	if version != formatVersion {
		return nil, root.pos.errorf("not a policy: it must begin with \"wfpebpf: %s\"", formatVersion)
	}
	if sets != nil {
		if err := sets.entries("sets", r.set); err != nil {
			return nil, err
		}
	}
	for _, part := range []struct {
		what string
		n    *node
		read reader
	}{
		{"providers", providers, r.provider}, {"sublayers", subLayers, r.subLayer},
		{"callouts", callouts, r.callout}, {"filters", filters, r.filter},
	} {
		if part.n == nil {
			continue
		}
		items, err := part.n.items(part.what)
		if err != nil {
			return nil, err
		}
		for _, it := range items {
			if err := part.read(it); err != nil {
				return nil, err
			}
		}
	}
	return r.doc, nil
}

// objectKey reads the key of an object that the file defines.
func objectKey(n *node, kind, key string, known map[string]filter.GUID) (filter.GUID, error) {
	if key == "" {
		return filter.GUID{}, n.pos.errorf("a %s needs a key", kind)
	}
	if _, dup := known[key]; dup {
		return filter.GUID{}, n.pos.wrap(filter.ErrAlreadyExists, "%s %q", kind, clip(key))
	}
	g, err := uuid.Parse(key)
	if err != nil {
		g = filter.DeriveKey(kind, key)
	}
	known[key] = g
	return g, nil
}

// reference finds an object that the file defines or that WFP has built in.
func reference(n *node, kind string, known map[string]filter.GUID, builtin func(string) (filter.GUID, bool), missing error) (filter.GUID, error) {
	if err := n.expect(scalarNode, kind); err != nil {
		return filter.GUID{}, err
	}
	if g, ok := known[n.text]; ok {
		return g, nil
	}
	if g, ok := builtin(n.text); ok {
		return g, nil
	}
	// The same key may be written with and without braces.
	if want, err := uuid.Parse(n.text); err == nil {
		for _, g := range known {
			if g == want {
				return g, nil
			}
		}
	}
	return filter.GUID{}, n.pos.wrap(missing, "%s %q", kind, clip(n.text))
}

func (r *yamlReader) provider(n *node) error {
	var p filter.Provider
	var key string
	err := n.fields("a provider", map[string]reader{
		"key": text(&key, "key"), "name": text(&p.Name, "name"), "description": text(&p.Description, "description"),
		"service": text(&p.ServiceName, "service"),
	})
	if err != nil {
		return err
	}
	if p.Key, err = objectKey(n, "provider", key, r.providers); err != nil {
		return err
	}
	if p.Name == "" {
		p.Name = key
	}
	r.doc.providers = append(r.doc.providers, p)
	return nil
}

func (r *yamlReader) subLayer(n *node) error {
	var s filter.SubLayer
	var key string
	weighed := false
	err := n.fields("a sublayer", map[string]reader{
		"key": text(&key, "key"), "name": text(&s.Name, "name"), "description": text(&s.Description, "description"),
		"provider": r.providerRef(&s.Provider),
		"weight": func(n *node) error {
			w, err := strconv.ParseUint(n.text, 10, 16)
			if err != nil || n.kind != scalarNode {
				return n.pos.wrap(filter.ErrInvalidWeight, "the weight of a sublayer is 0 to 65535, not %q", clip(n.text))
			}
			s.Weight, weighed = uint16(w), true
			return nil
		},
	})
	if err != nil {
		return err
	}
	if s.Key, err = objectKey(n, "sublayer", key, r.subLayers); err != nil {
		return err
	}
	if !weighed {
		return n.pos.wrap(filter.ErrInvalidWeight, "sublayer %q has no weight", clip(key))
	}
	if s.Name == "" {
		s.Name = key
	}
	r.doc.subLayers = append(r.doc.subLayers, located[filter.SubLayer]{n.pos, s})
	return nil
}

func (r *yamlReader) providerRef(to *filter.GUID) reader {
	return func(n *node) (err error) {
		*to, err = reference(n, "provider", r.providers, providerGUID, filter.ErrProviderNotFound)
		return err
	}
}

// builtinRedirect is the name of the callout that is built in.
const builtinRedirect = "redirect"

// callout reads a declaration. One that is built in stands for that callout and a
// provider context of its own; any other is not registered, and its filters follow
// WFP's rule for those.
func (r *yamlReader) callout(n *node) error {
	var c filter.Callout
	var key, builtin, to string
	var builtinNode, toNode *node
	layers := 0
	at := func(to **node, read reader) reader { return func(n *node) error { *to = n; return read(n) } }
	err := n.fields("a callout", map[string]reader{
		"key": text(&key, "key"), "name": text(&c.Name, "name"), "description": text(&c.Description, "description"),
		"provider": r.providerRef(&c.Provider),
		"builtin":  at(&builtinNode, text(&builtin, "builtin")), "to": at(&toNode, text(&to, "to")),
		"layer": func(n *node) error {
			l, err := layerRef(n)
			if err == nil {
				c.Layer, layers = l.ID, 1
			}
			return err
		},
	})
	if err != nil {
		return err
	}
	if c.Key, err = objectKey(n, "callout", key, r.callouts); err != nil {
		return err
	}
	if layers == 0 {
		return n.pos.errorf("callout %q needs a layer", clip(key))
	}
	if c.Name == "" {
		c.Name = key
	}
	switch {
	case builtinNode != nil && builtin != builtinRedirect:
		return builtinNode.pos.wrap(filter.ErrCalloutNotFound, "no callout %q is built in; %q is", clip(builtin), builtinRedirect)
	case builtinNode != nil && toNode == nil:
		return n.pos.errorf("callout %q: redirect needs to: an address and a port", clip(key))
	case builtinNode == nil && toNode != nil:
		return toNode.pos.errorf("callout %q: to goes only with builtin: redirect", clip(key))
	case builtinNode != nil:
		return r.redirect(n, toNode, &c, to)
	}
	r.doc.callouts = append(r.doc.callouts, located[filter.Callout]{n.pos, c})
	return nil
}

// redirect makes the provider context of a callout that is declared as the built-in
// redirect.
func (r *yamlReader) redirect(n, toNode *node, c *filter.Callout, to string) error {
	end, err := netip.ParseAddrPort(to)
	if err != nil {
		return toNode.pos.errorf("%q is not an address and a port, such as 127.0.0.1:3128 or [::1]:3128", clip(to))
	}
	if err := filter.CheckRedirect(c.Layer, end); err != nil {
		return toNode.pos.wrap(err, "callout %q", clip(c.Name))
	}
	context := filter.RedirectContext(c.Key, c.Name, end)
	context.Provider, context.Description = c.Provider, c.Description
	r.redirects[c.Key] = context
	r.doc.contexts = append(r.doc.contexts, context)
	builtin, _ := filter.RedirectCallout(c.Layer)
	r.doc.callouts = append(r.doc.callouts, located[filter.Callout]{n.pos, builtin})
	return nil
}

func layerRef(n *node) (*layermap.Layer, error) {
	if err := n.expect(scalarNode, "layer"); err != nil {
		return nil, err
	}
	if l := dumpLayer(n.text); l != nil {
		return l, nil
	}
	return nil, n.pos.wrap(filter.ErrLayerNotFound, "layer %q", clip(n.text))
}

// filter reads one entry of filters, which is one filter for each of its layers.
func (r *yamlReader) filter(n *node) error {
	f := filter.Filter{SubLayer: filter.SubLayerUniversal}
	var layers []*layermap.Layer
	var layerNodes []*node
	var conditions []*node
	var calloutNode *node
	acts := false
	err := n.fields("a filter", map[string]reader{
		"name": text(&f.Name, "name"), "description": text(&f.Description, "description"),
		"provider": r.providerRef(&f.Provider),
		"layer": func(n *node) error {
			items, err := n.scalarOrList("layer")
			if err != nil {
				return err
			}
			for _, it := range items {
				l, err := layerRef(it)
				if err != nil {
					return err
				}
				for _, other := range layers {
					if other == l {
						return it.pos.errorf("layer %s is there twice", l.Name)
					}
				}
				layers, layerNodes = append(layers, l), append(layerNodes, it)
			}
			return nil
		},
		"sublayer": func(n *node) (err error) {
			f.SubLayer, err = reference(n, "sublayer", r.subLayers, subLayerGUID, filter.ErrSubLayerNotFound)
			return err
		},
		"weight": func(n *node) (err error) {
			f.Weight, err = yamlWeight(n)
			return err
		},
		"action": func(n *node) error {
			if err := n.expect(scalarNode, "action"); err != nil {
				return err
			}
			f.Action, acts = filterActions[strings.TrimPrefix(strings.ToUpper(n.text), "FWP_ACTION_")]
			if !acts {
				return n.pos.wrap(filter.ErrInvalidActionType, "action %q", clip(n.text))
			}
			return nil
		},
		"callout": func(n *node) (err error) {
			calloutNode = n
			f.Callout, err = reference(n, "callout", r.callouts, providedCallout, filter.ErrCalloutNotFound)
			return err
		},
		"flags": func(n *node) error {
			items, err := n.scalarOrList("flags")
			for _, it := range items {
				bit, ok := filterFlags[strings.TrimPrefix(strings.ToUpper(it.text), "FWPM_FILTER_FLAG_")]
				if !ok || it.kind != scalarNode {
					return it.pos.wrap(filter.ErrInvalidFlags, "flag %q", clip(it.text))
				}
				f.Flags |= bit
			}
			return err
		},
		"conditions": func(n *node) (err error) {
			conditions, err = n.items("conditions")
			return err
		},
	})
	switch {
	case err != nil:
		return err
	case f.Name == "":
		return n.pos.wrap(filter.ErrNullDisplayName, "a filter needs a name")
	case len(layers) == 0:
		return n.pos.wrap(filter.ErrLayerNotFound, "filter %q has no layer", clip(f.Name))
	case !acts:
		return n.pos.wrap(filter.ErrInvalidActionType, "filter %q has no action", clip(f.Name))
	case f.Action.IsCallout() && calloutNode == nil:
		return n.pos.wrap(filter.ErrCalloutNotFound, "filter %q has a callout action and names no callout", clip(f.Name))
	case !f.Action.IsCallout() && calloutNode != nil:
		return calloutNode.pos.errorf("filter %q: a callout goes only with a callout action", clip(f.Name))
	}
	context, redirects := r.redirects[f.Callout]
	if redirects && f.Action == filter.ActionCalloutInspection {
		return calloutNode.pos.wrap(filter.ErrInvalidActionType,
			"filter %q: redirect changes what it is asked about; use CALLOUT_TERMINATING or CALLOUT_UNKNOWN", clip(f.Name))
	}
	families := map[layermap.Family]bool{}
	for _, l := range layers {
		families[l.Family] = true
	}
	both := families[layermap.V4] && families[layermap.V6]
	for i, l := range layers {
		if len(r.doc.drafts) == MaxFilters {
			return n.pos.errorf("more than %d filters", MaxFilters)
		}
		copied := f
		d := &draft{pos: layerNodes[i].pos, filter: &copied, layerName: l.Name}
		copied.Layer = l.ID
		if calloutNode != nil {
			d.calloutName = calloutNode.text
		}
		if redirects {
			c, ok := filter.RedirectCallout(l.ID)
			if !ok {
				return layerNodes[i].pos.wrap(filter.ErrIncompatibleLayer, "filter %q: nothing is redirected at %s", clip(f.Name), l.Name)
			}
			to, _ := filter.RedirectEnd(&context)
			if err := filter.CheckRedirect(l.ID, to); err != nil {
				return layerNodes[i].pos.wrap(err, "filter %q", clip(f.Name))
			}
			copied.Callout, copied.ProviderContext, copied.Origin = c.Key, context.Key, context.Origin
			copied.Flags |= filter.FlagHasProviderContext
		}
		if err := r.conditions(d, l, conditions, both); err != nil {
			return err
		}
		r.doc.drafts = append(r.doc.drafts, d)
	}
	return nil
}

// yamlWeight reads a class of 0 to 15, {uint64: N}, or nothing.
func yamlWeight(n *node) (filter.Value, error) {
	switch n.kind {
	case nullNode:
		return filter.Value{}, nil
	case scalarNode:
		if w, err := strconv.ParseUint(n.text, 10, 8); err == nil && w <= 15 {
			return filter.U8(uint8(w)), nil
		}
	case mapNode:
		var exact string
		if err := n.fields("a weight", map[string]reader{"uint64": text(&exact, "uint64")}); err != nil {
			return filter.Value{}, err
		}
		if w, err := number(exact, 64); err == nil {
			return filter.U64(w), nil
		}
	}
	return filter.Value{}, n.pos.wrap(filter.ErrInvalidWeight, "a weight is a class of 0 to 15 or {uint64: N}, not %q", clip(n.text))
}

// conditions reads the conditions for the copy of a filter at one layer. Where
// the filter has layers of both families, each copy takes the addresses of its
// own.
func (r *yamlReader) conditions(d *draft, l *layermap.Layer, conditions []*node, both bool) error {
	var keys []string            // in the order in which they first occur
	count := map[string][2]int{} // of a field: conditions, and addresses left out
	for _, n := range conditions {
		if err := n.expect(mapNode, "a condition"); err != nil {
			return err
		}
		if len(n.keys) != 1 {
			return n.pos.errorf("a condition is one field with its value")
		}
		k, v := n.keys[0], n.list[0]
		key := layermap.CanonicalKey(k.text)
		i := l.FieldIndex(key)
		if i < 0 {
			return k.pos.wrap(filter.ErrConditionNotFound, "layer %s has no field %s", l.Name, clip(k.text))
		}
		field := l.Fields[i]
		conds, other, err := r.condition(field, v, both)
		if err != nil {
			return err
		}
		was, ok := count[key]
		if !ok {
			keys = append(keys, key)
		}
		count[key] = [2]int{was[0] + len(conds), was[1] + other}
		d.filter.Conditions = append(d.filter.Conditions, conds...)
	}
	for _, key := range keys {
		if n := count[key]; n[0] == 0 && n[1] > 0 {
			d.refused(because(classFamily, "%s has only addresses of the other family than layer %s", key, l.Name))
		}
	}
	return nil
}

// condition reads one entry: a value, a list of values that are alternatives,
// {match, value}, or {match, set}. other counts the addresses left out because they are of
// the other family.
func (r *yamlReader) condition(field layermap.Field, n *node, both bool) (conds []filter.Condition, other int, err error) {
	match, explicit := filter.MatchEqual, false
	at := n
	if n.kind == mapNode {
		var value, set *node
		err := n.fields("a condition", map[string]reader{
			"match": func(n *node) error {
				m, ok := matchTypes[strings.TrimPrefix(strings.ToUpper(n.text), "FWP_MATCH_")]
				if !ok || n.kind != scalarNode {
					return n.pos.errorf("match type %q is not known", clip(n.text))
				}
				match, explicit = m, true
				return nil
			},
			"value": func(n *node) error { value = n; return nil },
			"set":   func(n *node) error { set = n; return nil },
		})
		switch {
		case err != nil:
			return nil, 0, err
		case set != nil && value != nil:
			return nil, 0, n.pos.errorf("%s: a condition has a value or a set, not both", field.Key)
		case set != nil && match != filter.MatchEqual && match != filter.MatchNotEqual:
			return nil, 0, n.pos.wrap(filter.ErrMatchTypeMismatch, "%s: a set goes with EQUAL (in it) or NOT_EQUAL (not in it)", field.Key)
		case set != nil:
			v, err := r.setRef(field, set)
			return []filter.Condition{{Field: field.Key, Match: match, Value: v}}, 0, err
		}
		if value == nil {
			return nil, 0, n.pos.errorf("%s: a condition needs a value", field.Key)
		}
		n = value
	}
	items, err := n.scalarOrList(field.Key)
	if err != nil {
		return nil, 0, err
	}
	if len(items) == 0 {
		return nil, 0, at.pos.errorf("%s: a condition needs a value", field.Key)
	}
	for _, it := range items {
		if err := it.expect(scalarNode, field.Key); err != nil {
			return nil, 0, err
		}
	}
	vals, err := r.values(field, items)
	if err != nil {
		return nil, 0, err
	}
	for _, v := range vals {
		if v.otherFamily {
			if both {
				other++
				continue
			}
			return nil, 0, v.pos.wrap(filter.ErrTypeMismatch, "%s: %q is of the other family than the layer", field.Key, clip(v.text))
		}
		c := filter.Condition{Field: field.Key, Match: v.match, Value: v.value}
		if explicit {
			if c.Match = match; match == filter.MatchRange && v.value.Type != layermap.RangeType {
				return nil, 0, v.pos.wrap(filter.ErrInvalidRange, "%s: %q is not a range low-high", field.Key, clip(v.text))
			}
			if match != filter.MatchRange && v.value.Type == layermap.RangeType {
				return nil, 0, v.pos.wrap(filter.ErrMatchTypeMismatch, "%s: a range goes with RANGE, not %s", field.Key, strings.TrimPrefix(match.String(), "FWP_MATCH_"))
			}
		}
		conds = append(conds, c)
	}
	return conds, other, nil
}

// providedCallout finds the built-in callouts of Windows that are provided here.
func providedCallout(name string) (filter.GUID, bool) {
	c, ok := filter.BuiltinCallout(name)
	return c.Key, ok && filter.Provided[c.Key] != nil
}
