// SPDX-License-Identifier: Apache-2.0

// This file finds out which values that a caller does not know would change a
// verdict. It tries values out; it does not reason about conditions.

package filter

import (
	"bytes"
	"math"
	"slices"

	"github.com/wfpebpf/wfpebpf/layermap"
)

// Sensitive returns the keys of the fields without a value whose value could
// change the layer's action or the deciding filter, in FWPS order. A field of
// flags that is zero counts as one without a value.
//
// Every filter that the known values leave open is tried with values that make
// it match, and every open field with the values at the borders of the
// conditions on it, starting from each outcome that this finds. A field whose
// effect shows only under a combination that none of these makes is missed; a
// field that is returned does make a difference, alone or with others
// returned.
func Sensitive(s *Store, layer layermap.LayerID, values Values, callouts Callouts) []string {
	p := s.Plan(layer)
	if p.layer == nil || len(p.filters) == 0 {
		return nil
	}
	e := &explorer{plan: p, callouts: callouts, start: make(Values, len(p.layer.Fields))}
	copy(e.start, values)
	for i, f := range p.layer.Fields {
		v := &e.start[i]
		e.open = append(e.open, v.IsEmpty() || f.Type == layermap.FlagsField && v.Num == 0)
	}
	e.found = make([]bool, len(e.open))
	e.run()
	var keys []string
	for i, f := range p.layer.Fields {
		if e.found[i] {
			keys = append(keys, f.Key)
		}
	}
	return keys
}

// explorer holds what is known of one layer while values are tried.
type explorer struct {
	plan     *Plan
	callouts Callouts
	start    Values // as given, one a field
	open     []bool // fields whose value is not known
	found    []bool // fields that were seen to matter

	scratch Result
	seen    map[outcome]bool
	queue   []Values // one set of values for each outcome
}

// outcome is what two verdicts are compared by.
type outcome struct {
	action Action
	filter *Filter
}

func (e *explorer) outcome(v Values) outcome {
	e.plan.Arbitrate(v, e.callouts, &e.scratch)
	return outcome{e.scratch.Action, e.scratch.Filter}
}

func (e *explorer) run() {
	e.seen = map[outcome]bool{e.outcome(e.start): true}
	e.queue = []Values{e.start}
	for len(e.queue) > 0 {
		base := e.queue[0]
		e.queue = e.queue[1:]
		was := e.outcome(base)
		for i := range e.plan.subLayers {
			for j := range e.plan.subLayers[i].filters {
				e.tryFilter(base, was, &e.plan.subLayers[i].filters[j])
			}
		}
	}
}

// tryFilter tries the values that make a filter match, then each of its open
// fields by itself.
func (e *explorer) tryFilter(base Values, was outcome, f *plannedFilter) {
	var open []*conditionGroup
	news := false // an open field of the filter is not known to matter yet
	for i := range f.groups {
		g := &f.groups[i]
		switch {
		case g.field < 0:
			return
		case e.open[g.field]:
			open = append(open, g)
			news = news || !e.found[g.field]
		case !g.matches(e.start):
			return // no value of an open field can make this one match
		}
	}
	if !news {
		return
	}
	made := slices.Clone(base)
	var fields []int
	for _, g := range open {
		if g.matches(base) {
			continue
		}
		v, ok := g.witness(e.fieldType(g.field))
		if !ok {
			return
		}
		made[g.field] = v
		fields = append(fields, g.field)
	}
	e.try(made, was, fields)
	for _, from := range [...]Values{base, made} {
		fromOutcome := e.outcome(from)
		for _, g := range open {
			for i := range g.conds {
				for _, v := range borders(&g.conds[i], e.fieldType(g.field)) {
					one := slices.Clone(from)
					one[g.field] = v
					e.try(one, fromOutcome, []int{g.field})
				}
			}
		}
	}
}

func (e *explorer) fieldType(i int) layermap.DataType { return e.plan.layer.Fields[i].DataType }

// try notes the changed fields if the values lead elsewhere.
func (e *explorer) try(v Values, was outcome, changed []int) {
	now := e.outcome(v)
	if now == was {
		return
	}
	for _, i := range changed {
		e.found[i] = true
	}
	if !e.seen[now] {
		e.seen[now] = true
		e.queue = append(e.queue, v)
	}
}

// witness returns a value for which one of the conditions holds.
func (g *conditionGroup) witness(t layermap.DataType) (Value, bool) {
	for i := range g.conds {
		for _, v := range borders(&g.conds[i], t) {
			if g.conds[i].matches(&v) {
				return v, true
			}
		}
	}
	return Value{}, false
}

// borders returns values of a field's type on both sides of where a condition
// begins and ceases to hold.
func borders(c *Condition, t layermap.DataType) []Value {
	o := &c.Value
	switch o.Type {
	case layermap.Empty:
		return []Value{{}}
	case layermap.RangeType:
		if o.Range == nil {
			return nil
		}
		return append(around(o.Range.Low), around(o.Range.High)...)
	case layermap.V4AddrMask:
		addr, mask := uint32(o.Num>>32), uint32(o.Num)
		return []Value{U32(addr), U32(addr ^ mask&-mask)}
	case layermap.V6AddrMask:
		in := Value{Type: layermap.ByteArray16, Bytes: o.Bytes}
		if o.Num == 0 || o.Num > 128 || len(o.Bytes) != 16 {
			return []Value{in}
		}
		out := bytes.Clone(o.Bytes)
		out[(o.Num-1)/8] ^= 0x80 >> ((o.Num - 1) % 8)
		return []Value{in, {Type: layermap.ByteArray16, Bytes: out}}
	case layermap.SecurityDescriptorType:
		return tokens(o.SD, t)
	case layermap.AddressSetType:
		return o.Set.borders(t)
	}
	switch c.Match {
	case MatchFlagsAllSet, MatchFlagsAnySet, MatchFlagsNoneSet:
		return flagWords(*o)
	}
	return around(*o)
}

// around returns a value and its neighbours.
func around(v Value) []Value {
	vs := []Value{v}
	number := func(n uint64) { vs = append(vs, Value{Type: v.Type, Num: n}) }
	array := func(b []byte) { vs = append(vs, Value{Type: v.Type, Bytes: b}) }
	switch v.kind() {
	case kindUnsigned, kindSigned:
		w := max(width(unsignedBits[:], v.Type), width(signedBits[:], v.Type))
		mask := uint64(math.MaxUint64) >> (64 - w)
		number((v.Num - 1) & mask) // wraps at the ends, which gives the other end
		number((v.Num + 1) & mask)
	case kindFloat:
		number(v.Num - 1)
		number(v.Num + 1)
	case kindArray16, kindArray6:
		array(step(v.Bytes, 0xff))
		array(step(v.Bytes, 0x01))
	case kindBlob:
		array(append(bytes.Clone(v.Bytes), 0))
		if n := len(v.Bytes); n > 0 {
			array(step(v.Bytes, 0x01))
			array(bytes.Clone(v.Bytes[:n-1]))
			other := bytes.Clone(v.Bytes)
			other[0] ^= 0xff
			array(other)
		}
	case kindText:
		for _, s := range [...]string{v.Text + "x", "x" + v.Text, ""} {
			vs = append(vs, Str(s))
		}
	case kindSID:
		for _, s := range [...]SID{SIDNull, SIDAnonymous} {
			if s != v.SID {
				vs = append(vs, SIDValue(s))
			}
		}
	}
	return vs
}

// step adds 1 (by = 0x01) or -1 (by = 0xff) to a big-endian number.
func step(b []byte, by byte) []byte {
	b = bytes.Clone(b)
	for i := len(b) - 1; i >= 0; i-- {
		b[i] += by
		// Only a wrap carries into the next byte.
		if by == 0x01 && b[i] != 0 || by == 0xff && b[i] != 0xff {
			break
		}
	}
	return b
}

// flagWords returns words with none, all and each one of a mask's bits.
func flagWords(v Value) []Value {
	vs := []Value{{Type: v.Type}, {Type: v.Type, Num: v.Num}}
	for rest := v.Num; rest != 0; rest &= rest - 1 {
		vs = append(vs, Value{Type: v.Type, Num: rest & -rest})
	}
	return vs
}

// tokens returns tokens that hold nothing, and each SID of an access list.
func tokens(sd *SecurityDescriptor, t layermap.DataType) []Value {
	vs := []Value{{Type: t, Token: &Token{}}}
	if sd == nil {
		return vs
	}
	for _, e := range sd.Entries {
		vs = append(vs, Value{Type: t, Token: &Token{SIDs: []SID{e.SID}}})
	}
	return vs
}
