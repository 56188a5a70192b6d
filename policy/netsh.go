// SPDX-License-Identifier: Apache-2.0

// This file walks the XML that `netsh wfp show state` and `show filters` write
// and turns its items into objects. Single values are read in netsh_value.go.
//
// The two shapes differ: `show state` nests filters and callouts under each
// layer and has all definitions, `show filters` is flat and has few. Nothing
// else in the files is looked at.

package policy

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
)

// unknownLayer stands in Filter.Layer for a layer that does not exist.
const unknownLayer layermap.LayerID = 0xFFFF

// element is an XML element below an item: what is read whole.
type element struct {
	pos  pos
	name string
	text string
	kids []*element
}

// child returns the first child with a name, or an empty element at the place
// where it is missing.
func (e *element) child(name string) *element {
	for _, k := range e.kids {
		if k.name == name {
			return k
		}
	}
	return &element{pos: e.pos, name: name}
}

func (e *element) has(name string) bool {
	for _, k := range e.kids {
		if k.name == name {
			return true
		}
	}
	return false
}

// path follows names downwards.
func (e *element) path(names ...string) *element {
	for _, n := range names {
		e = e.child(n)
	}
	return e
}

// items returns the <item> children, which a list has nothing beside: to pass
// over what else is there could make a filter match more than it was meant to.
func (e *element) items() ([]*element, error) {
	if e.text != "" {
		return nil, e.pos.errorf("<%s> is %q, not a list of <item>", e.name, clip(e.text))
	}
	for _, k := range e.kids {
		if k.name != "item" {
			return nil, k.pos.errorf("<%s> holds <%s>, not <item> alone", e.name, clip(k.name))
		}
	}
	return e.kids, nil
}

// dumpRoots are the root elements that a dump may have. The firewall's own
// state follows the platform's as a second root and holds no filters.
var dumpRoots = map[string]bool{"wfpstate": true, "wfpdiag": true, "filters": true, "firewallState": true}

// dumpItems says what the items of a list become, by the name of the list.
var dumpItems = map[string]func(*dumpReader, *element) error{
	"filters":          (*dumpReader).filter,
	"providers":        (*dumpReader).provider,
	"providerContexts": (*dumpReader).providerContext,
	"subLayers":        (*dumpReader).subLayer,
	"callouts":         (*dumpReader).callout,
}

// maxMembers is how many members an element may have that are not the items of
// a list. A filter has 15.
const maxMembers = 100

type dumpReader struct {
	doc     *document
	origins map[filter.GUID]string // texts of provider contexts
}

// readDump reads either shape of dump.
func readDump(name string, data []byte) (*document, error) {
	r := &dumpReader{doc: &document{file: name, windows: true}, origins: map[filter.GUID]string{}}
	x := &xmlReader{file: name, dec: xml.NewDecoder(bytes.NewReader(data))}
	x.dec.CharsetReader = charset
	sawFilters := false
	for {
		tok, err := x.next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		start, ok := tok.(xml.StartElement)
		if !ok {
			continue
		}
		if len(x.stack) == 1 && !dumpRoots[start.Name.Local] {
			return nil, x.start.errorf("<%s> is not the output of netsh wfp show state or show filters", clip(start.Name.Local))
		}
		if start.Name.Local == "filters" {
			sawFilters = true
		}
		if start.Name.Local != "item" || len(x.stack) < 2 || x.stack[0] == "firewallState" {
			continue
		}
		read := dumpItems[x.stack[len(x.stack)-2]]
		if read == nil {
			continue
		}
		e, err := x.element(start)
		if err != nil {
			return nil, err
		}
		if err := read(r, e); err != nil {
			return nil, err
		}
	}
	if !sawFilters {
		return nil, &Error{File: name, Msg: "holds no <filters>: not the output of netsh wfp show state or show filters"}
	}
	for _, d := range r.doc.drafts {
		d.filter.Origin = r.origins[d.filter.ProviderContext]
	}
	return r.doc, nil
}

// charset takes the text of a declared encoding: readAll made it UTF-8 by the
// byte order mark, which UTF-16 has.
func charset(label string, text io.Reader) (io.Reader, error) {
	if strings.EqualFold(label, "UTF-16") {
		return text, nil
	}
	return nil, errors.New("not UTF-8: save the file in that encoding")
}

// xmlReader is a token reader that holds the file to the limits and knows where
// it is.
type xmlReader struct {
	file  string
	dec   *xml.Decoder
	stack []string
	start pos // of the last token
}

func (x *xmlReader) next() (xml.Token, error) {
	line, col := x.dec.InputPos()
	x.start = pos{x.file, line, col}
	tok, err := x.dec.Token()
	if err == io.EOF {
		return nil, err
	}
	if err != nil {
		line, col := x.dec.InputPos()
		msg := err.Error()
		var syn *xml.SyntaxError
		if errors.As(err, &syn) {
			msg = syn.Msg
		}
		return nil, pos{x.file, line, col}.errorf("%s", clip(msg))
	}
	switch t := tok.(type) {
	case xml.Directive:
		// A document type could define entities that grow without bound; a dump has none.
		return nil, x.start.errorf("document type declarations are not accepted")
	case xml.CharData:
		if len(t) > MaxStringSize {
			return nil, x.start.errorf("text longer than 1 MiB")
		}
		if len(x.stack) == 0 && len(bytes.TrimSpace(t)) > 0 {
			return nil, x.start.errorf("text outside of the root element")
		}
	case xml.StartElement:
		if len(x.stack) == MaxDepth {
			return nil, x.start.errorf("elements nested deeper than %d", MaxDepth)
		}
		x.stack = append(x.stack, t.Name.Local)
	case xml.EndElement:
		x.stack = x.stack[:len(x.stack)-1]
	}
	return tok, nil
}

// element reads the rest of an element whose start tag has been taken.
func (x *xmlReader) element(start xml.StartElement) (*element, error) {
	e := &element{pos: x.start, name: start.Name.Local}
	var text []byte
	for {
		tok, err := x.next()
		if err == io.EOF {
			return nil, e.pos.errorf("<%s> is not closed", e.name)
		}
		if err != nil {
			return nil, err
		}
		switch t := tok.(type) {
		case xml.StartElement:
			if t.Name.Local != "item" && e.has(t.Name.Local) {
				return nil, x.start.errorf("<%s> is there twice in <%s>", clip(t.Name.Local), e.name)
			}
			if t.Name.Local != "item" && len(e.kids) == maxMembers {
				return nil, x.start.errorf("<%s> has more than %d members", e.name, maxMembers)
			}
			kid, err := x.element(t)
			if err != nil {
				return nil, err
			}
			e.kids = append(e.kids, kid)
		case xml.CharData:
			if text = append(text, t...); len(text) > MaxStringSize {
				return nil, e.pos.errorf("<%s> is longer than 1 MiB", e.name)
			}
		case xml.EndElement:
			e.text = strings.TrimSpace(string(text))
			return e, nil
		}
	}
}

// key reads an object's key: a GUID in braces or one of WFP's names.
func key(e *element, kind string, builtin func(string) (filter.GUID, bool)) (filter.GUID, error) {
	if e.text == "" {
		return filter.GUID{}, nil
	}
	if g, ok := builtin(e.text); ok {
		return g, nil
	}
	if strings.HasPrefix(e.text, "{") {
		g, err := uuid.Parse(e.text)
		if err != nil {
			return g, e.pos.errorf("%q is not a GUID", clip(e.text))
		}
		return g, nil
	}
	// A name of a newer Windows, whose GUID is not known here. A derived key keeps
	// references within the file together.
	return filter.DeriveKey(kind, e.text), nil
}

func providerGUID(name string) (filter.GUID, bool) {
	p, ok := filter.BuiltinProvider(name)
	return p.Key, ok
}

func subLayerGUID(name string) (filter.GUID, bool) {
	s, ok := filter.BuiltinSubLayer(name)
	return s.Key, ok
}

func calloutGUID(name string) (filter.GUID, bool) {
	c, ok := filter.BuiltinCallout(name)
	return c.Key, ok
}

func noBuiltin(string) (filter.GUID, bool) { return filter.GUID{}, false }

// identity is what all objects but filters have in common.
type identity struct {
	key, provider     filter.GUID
	name, description string // an object without a name goes by its key
}

func identityOf(e *element, keyName, kind string, builtin func(string) (filter.GUID, bool)) (identity, error) {
	id := identity{name: e.path("displayData", "name").text, description: e.path("displayData", "description").text}
	if id.name == "" {
		id.name = e.child(keyName).text
	}
	var err error
	if id.key, err = key(e.child(keyName), kind, builtin); err != nil {
		return id, err
	}
	id.provider, err = key(e.child("providerKey"), "provider", providerGUID)
	return id, err
}

func (r *dumpReader) provider(e *element) error {
	id, err := identityOf(e, "providerKey", "provider", providerGUID)
	if err != nil {
		return err
	}
	r.doc.providers = append(r.doc.providers, filter.Provider{
		Key: id.key, Name: id.name, Description: id.description, ServiceName: e.child("serviceName").text,
	})
	return nil
}

func (r *dumpReader) providerContext(e *element) error {
	id, err := identityOf(e, "providerContextKey", "provider context", noBuiltin)
	if err != nil {
		return err
	}
	c := filter.ProviderContext{Key: id.key, Provider: id.provider, Name: id.name, Description: id.description}
	if data := e.path("dataBuffer", "data"); data.text != "" {
		if c.Data, err = hexBytes(data); err != nil {
			return err
		}
		c.Origin, _ = utf16Text(c.Data)
	}
	r.origins[c.Key] = c.Origin
	r.doc.contexts = append(r.doc.contexts, c)
	return nil
}

func (r *dumpReader) subLayer(e *element) error {
	id, err := identityOf(e, "subLayerKey", "sublayer", subLayerGUID)
	if err != nil {
		return err
	}
	w, err := unsigned(e.child("weight"), 16)
	if err != nil {
		return err
	}
	s := filter.SubLayer{Key: id.key, Provider: id.provider, Name: id.name, Description: id.description, Weight: uint16(w)}
	r.doc.subLayers = append(r.doc.subLayers, located[filter.SubLayer]{e.pos, s})
	return nil
}

func (r *dumpReader) callout(e *element) error {
	id, err := identityOf(e, "calloutKey", "callout", calloutGUID)
	if err != nil {
		return err
	}
	c := filter.Callout{Key: id.key, Provider: id.provider, Name: id.name, Description: id.description}
	l := dumpLayer(e.child("applicableLayer").text)
	if l == nil {
		return nil // no filter of a layer that exists can name it
	}
	c.Layer = l.ID
	flags, err := e.child("flags").items()
	if err != nil {
		return err
	}
	for _, f := range flags {
		if f.text == "FWPM_CALLOUT_FLAG_USES_PROVIDER_CONTEXT" {
			c.UsesProviderContext = true
		}
	}
	r.doc.callouts = append(r.doc.callouts, located[filter.Callout]{e.pos, c})
	return nil
}

// dumpLayer finds a layer by name or by GUID in braces; nil where there is none.
func dumpLayer(text string) *layermap.Layer {
	if strings.HasPrefix(text, "{") {
		if g, err := uuid.Parse(text); err == nil {
			return layermap.ByGUID(g)
		}
	}
	return layermap.ByName(text)
}

// filterFlags are the names of FWPM_FILTER_FLAG_*. HAS_FILTER_ORIGIN is a newer
// bit, without a published number, that says nothing about what the filter does.
var filterFlags = map[string]filter.Flags{
	"NONE": 0, "PERSISTENT": filter.FlagPersistent, "BOOTTIME": filter.FlagBootTime,
	"HAS_PROVIDER_CONTEXT": filter.FlagHasProviderContext, "CLEAR_ACTION_RIGHT": filter.FlagClearActionRight,
	"PERMIT_IF_CALLOUT_UNREGISTERED": filter.FlagPermitIfCalloutUnregistered, "DISABLED": filter.FlagDisabled,
	"INDEXED":                             filter.FlagIndexed,
	"HAS_SECURITY_REALM_PROVIDER_CONTEXT": filter.FlagHasSecurityRealmProviderContext,
	"SYSTEMOS_ONLY":                       filter.FlagSystemOSOnly, "GAMEOS_ONLY": filter.FlagGameOSOnly,
	"SILENT_MODE": filter.FlagSilentMode, "IPSEC_NO_ACQUIRE_INITIATE": filter.FlagIPsecNoAcquireInitiate,
	"RESERVED0": filter.FlagReserved0, "RESERVED1": filter.FlagReserved1,
	"HAS_FILTER_ORIGIN": 0,
}

// filterActions are the actions that a filter may have.
var filterActions = map[string]filter.Action{
	"BLOCK": filter.ActionBlock, "PERMIT": filter.ActionPermit,
	"CALLOUT_TERMINATING": filter.ActionCalloutTerminating, "CALLOUT_INSPECTION": filter.ActionCalloutInspection,
	"CALLOUT_UNKNOWN": filter.ActionCalloutUnknown,
}

func (r *dumpReader) filter(e *element) error {
	if len(r.doc.drafts) == MaxFilters {
		return e.pos.errorf("more than %d filters", MaxFilters)
	}
	id, err := unsigned(e.child("filterId"), 64)
	if err != nil {
		return err
	}
	f := &filter.Filter{
		ID: filter.ID(id), Layer: unknownLayer,
		Name: e.path("displayData", "name").text, Description: e.path("displayData", "description").text,
	}
	d := &draft{pos: e.pos, filter: f, windows: true}
	r.doc.drafts = append(r.doc.drafts, d)

	for _, k := range []struct {
		to      *filter.GUID
		name    string
		kind    string
		builtin func(string) (filter.GUID, bool)
	}{
		{&f.Key, "filterKey", "filter", noBuiltin},
		{&f.Provider, "providerKey", "provider", providerGUID},
		{&f.SubLayer, "subLayerKey", "sublayer", subLayerGUID},
		{&f.ProviderContext, "providerContextKey", "provider context", noBuiltin},
	} {
		if *k.to, err = key(e.child(k.name), k.kind, k.builtin); err != nil {
			return err
		}
	}
	flags, err := e.child("flags").items()
	if err != nil {
		return err
	}
	for _, it := range flags {
		bit, ok := filterFlags[strings.TrimPrefix(it.text, "FWPM_FILTER_FLAG_")]
		if !ok {
			d.refused(because(classUnreadable, "flag %s is not known", clip(it.text)))
		}
		f.Flags |= bit
	}
	if raw := e.child("rawContext"); raw.text != "" {
		if f.RawContext, err = unsigned(raw, 64); err != nil {
			return err
		}
	}
	if err := r.weights(e, d); err != nil {
		return err
	}
	if err := r.action(e.child("action"), d); err != nil {
		return err
	}

	d.layerName = e.child("layerKey").text
	layer := dumpLayer(d.layerName)
	if layer == nil {
		d.refused(because(classUnreadable, "layer %s is not known", clip(d.layerName)))
		return nil
	}
	f.Layer = layer.ID
	conditions, err := e.child("filterCondition").items()
	if err != nil {
		return err
	}
	for _, it := range conditions {
		c, err := dumpCondition(it)
		if why, ok := asReason(err); ok {
			d.refused(why)
			continue
		}
		if err != nil {
			return err
		}
		f.Conditions = append(f.Conditions, c)
	}
	return nil
}

func (r *dumpReader) weights(e *element, d *draft) error {
	var err error
	if d.filter.Weight, err = dumpValue(e.child("weight")); err != nil {
		if why, ok := asReason(err); ok {
			d.refused(why)
		} else {
			return err
		}
	}
	if !e.has("effectiveWeight") {
		return nil
	}
	w := e.child("effectiveWeight")
	v, err := dumpValue(w)
	if err != nil {
		if why, ok := asReason(err); ok {
			d.refused(why)
			return nil
		}
		return err
	}
	if v.Type != layermap.Uint64 {
		return w.pos.errorf("effectiveWeight is %s, not FWP_UINT64", v.Type)
	}
	d.filter.EffectiveWeight, d.filter.KeepWeight = v.Num, true
	return nil
}

func (r *dumpReader) action(e *element, d *draft) error {
	name := e.child("type").text
	a, ok := filterActions[strings.TrimPrefix(name, "FWP_ACTION_")]
	if !ok {
		d.refused(because(classUnreadable, "action %q is not known", clip(name)))
		return nil
	}
	d.filter.Action = a
	if !a.IsCallout() {
		return nil
	}
	// The tool prints the union's GUID as filterType, whichever member it is.
	k := e.child("filterType")
	if e.has("calloutKey") {
		k = e.child("calloutKey")
	}
	d.calloutName = k.text
	var err error
	d.filter.Callout, err = key(k, "callout", calloutGUID)
	return err
}

// unsigned reads a decimal number of at most bits bits.
func unsigned(e *element, bits int) (uint64, error) {
	n, err := strconv.ParseUint(e.text, 10, bits)
	if err != nil {
		return 0, e.pos.errorf("<%s> is %q, not a number of %d bits", e.name, clip(e.text), bits)
	}
	return n, nil
}
