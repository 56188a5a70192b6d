// SPDX-License-Identifier: Apache-2.0

// This file checks what can be said about a filter alone. What depends on
// other objects (sublayer, provider, callout, context) is checked by the
// store.

package filter

import (
	"fmt"

	"github.com/wfpebpf/wfpebpf/layermap"
)

// filterActions are the actions that a filter may have; the others are results
// of callouts.
var filterActions = map[Action]bool{
	ActionBlock: true, ActionPermit: true,
	ActionCalloutTerminating: true, ActionCalloutInspection: true, ActionCalloutUnknown: true,
}

// MaxWeightClass is the greatest UINT8 weight, FWPM_WEIGHT_RANGE_MAX.
const MaxWeightClass = 15

// MaxConditions is the most conditions of a filter. Windows documents none; rules of
// its firewall list up to some thousand addresses. What is longer is a list of
// addresses and has a form of its own, AddressSet.
const MaxConditions = 1 << 14

// problem is what a check finds: the code, what is wrong, and what to do.
type problem struct {
	err    error
	detail string
	remedy string
}

// Validate checks the filter by WFP's rules as far as no other object is
// needed. The error is an *ObjectError that wraps one of the codes; the first
// problem found is reported.
func (f *Filter) Validate() error {
	if p := f.check(); p != nil {
		return f.refuse(p)
	}
	return nil
}

func (f *Filter) refuse(p *problem) error {
	name := f.Name
	if name == "" {
		name = f.Key.String()
	}
	return &ObjectError{
		Object: "filter", Name: name, Layer: f.Layer, HasLayer: true,
		Detail: p.detail, Remedy: p.remedy, Err: p.err,
	}
}

func (f *Filter) check() *problem {
	if f.Name == "" {
		return &problem{ErrNullDisplayName, "it has no display name", "give it one"}
	}
	layer := layermap.ByID(f.Layer)
	if layer == nil || layer.GUID == (GUID{}) {
		// RESERVED1 has a run-time id and no key, so no filter can be added to it.
		return &problem{ErrLayerNotFound, "no filter can be added there", "choose a layer that has a management key"}
	}
	if !filterActions[f.Action] {
		return &problem{ErrInvalidActionType, f.Action.String() + " is not an action of a filter",
			"use PERMIT, BLOCK or one of the CALLOUT actions"}
	}
	if p := f.checkFlags(layer); p != nil {
		return p
	}
	if p := checkWeight(f.Weight); p != nil {
		return p
	}
	if n := len(f.Conditions); n > MaxConditions {
		return &problem{ErrInvalidParameter, fmt.Sprintf("it has %d conditions, at most %d", n, MaxConditions),
			"put addresses in a set, or make it several filters that share out the values of one field"}
	}
	for i := range f.Conditions {
		if p := f.Conditions[i].check(layer); p != nil {
			c := &f.Conditions[i]
			p.detail = fmt.Sprintf("condition %d, %s %s %s: %s", i+1, c.Field, c.Match, c.Value.Type, p.detail)
			return p
		}
	}
	return nil
}

func (f *Filter) checkFlags(layer *layermap.Layer) *problem {
	switch {
	case f.Flags&^flagsKnown != 0:
		return &problem{ErrInvalidFlags, fmt.Sprintf("unknown flags %#x", uint32(f.Flags&^flagsKnown)), "clear them"}
	case f.Flags&FlagPersistent != 0 && f.Flags&FlagBootTime != 0:
		return &problem{ErrInvalidParameter, "it is both PERSISTENT and BOOTTIME",
			"add two filters, one with each flag"}
	case f.Flags&FlagBootTime != 0 && layer.Mode != layermap.KernelMode:
		return &problem{ErrIncompatibleLayer, "a BOOTTIME filter at a user-mode layer", "clear BOOTTIME"}
	case f.Flags&FlagPermitIfCalloutUnregistered != 0 &&
		f.Action != ActionCalloutTerminating && f.Action != ActionCalloutUnknown:
		return &problem{ErrInvalidFlags, "PERMIT_IF_CALLOUT_UNREGISTERED with " + f.Action.String(),
			"clear the flag, or use CALLOUT_TERMINATING or CALLOUT_UNKNOWN"}
	}
	return nil
}

func checkWeight(w Value) *problem {
	switch {
	case w.Type == layermap.Empty, w.Type == layermap.Uint64:
		return nil
	case w.Type == layermap.Uint8 && w.Num <= MaxWeightClass:
		return nil
	case w.Type == layermap.Uint8:
		return &problem{ErrInvalidWeight, fmt.Sprintf("weight class %d", w.Num), "use a class of 0 to 15"}
	}
	return &problem{ErrInvalidWeight, "the weight is a " + w.Type.String(), "use FWP_EMPTY, FWP_UINT8 or FWP_UINT64"}
}

// operandFields says which fields an operand goes with whose type differs from
// the field's. A SID or a token as the operand of a token field is legal only
// in templates of enumerations, which this package does not have.
var operandFields = map[layermap.DataType]func(f *layermap.Field) bool{
	layermap.V4AddrMask: func(f *layermap.Field) bool {
		return f.Type == layermap.IPAddress && f.DataType == layermap.Uint32
	},
	layermap.V6AddrMask: func(f *layermap.Field) bool {
		return f.Type == layermap.IPAddress && f.DataType == layermap.ByteArray16
	},
	layermap.SecurityDescriptorType: func(f *layermap.Field) bool { return kinds[f.DataType] == kindToken },
	layermap.AddressSetType: func(f *layermap.Field) bool {
		return f.Type == layermap.IPAddress && (f.DataType == layermap.Uint32 || f.DataType == layermap.ByteArray16)
	},
	layermap.Empty: func(*layermap.Field) bool { return true },
}

func (c *Condition) check(layer *layermap.Layer) *problem {
	at := layer.FieldIndex(c.Field)
	if at < 0 {
		return &problem{ErrConditionNotFound, "the layer has no such field", "remove the condition or choose another layer"}
	}
	if int(c.Match) >= len(matchRules) {
		return &problem{ErrInvalidEnumerator, "unknown match type", "use one of FWP_MATCH_*"}
	}
	field := &layer.Fields[at]
	if c.Value.Type == layermap.RangeType {
		return c.checkRange(field)
	}
	admits := operandFields[c.Value.Type]
	if admits == nil {
		admits = func(f *layermap.Field) bool {
			return f.DataType == c.Value.Type && kinds[f.DataType] != kindToken
		}
	}
	if !admits(field) {
		return typeMismatch(field)
	}
	if c.Value.kind()&matchRules[c.Match].operands == 0 {
		return &problem{ErrMatchTypeMismatch, "the match type does not go with this type of value", "choose another match type"}
	}
	return checkContent(&c.Value)
}

func typeMismatch(f *layermap.Field) *problem {
	return &problem{ErrTypeMismatch, "the field is a " + f.DataType.String(), "give a value of that type"}
}

func (c *Condition) checkRange(field *layermap.Field) *problem {
	if c.Match != MatchRange {
		return &problem{ErrMatchTypeMismatch, "a range with another match type", "use FWP_MATCH_RANGE"}
	}
	r := c.Value.Range
	if r == nil {
		return &problem{ErrNullPointer, "the range is missing", "give both ends"}
	}
	if r.Low.Type != field.DataType || r.High.Type != field.DataType {
		return typeMismatch(field)
	}
	if kinds[field.DataType]&kindSortable == 0 {
		return &problem{ErrMatchTypeMismatch, "values of the field have no order", "use FWP_MATCH_EQUAL"}
	}
	for _, end := range [...]*Value{&r.Low, &r.High} {
		if p := checkContent(end); p != nil {
			return p
		}
	}
	if order, ok := Compare(r.Low, r.High); !ok || order > 0 {
		return &problem{ErrInvalidRange, "the low end is above the high end", "exchange the ends"}
	}
	return nil
}

// arrayLength is the length in bytes of the types that have a fixed one.
var arrayLength = map[layermap.DataType]int{
	layermap.ByteArray16: 16, layermap.ByteArray6: 6, layermap.V6AddrMask: 16,
}

// checkContent checks what a value holds against its type.
func checkContent(v *Value) *problem {
	if n, fixed := arrayLength[v.Type]; fixed && len(v.Bytes) != n {
		return &problem{ErrInvalidParameter, fmt.Sprintf("%d bytes, not %d", len(v.Bytes), n), "give the whole array"}
	}
	if w := width(unsignedBits[:], v.Type); w != 0 && w < 64 && v.Num>>w != 0 {
		return outOfBounds(w)
	}
	if w := width(signedBits[:], v.Type); w != 0 && w < 64 && v.Num>>w != 0 && int64(v.Num) != signed(v.Num, w) {
		return outOfBounds(w)
	}
	switch v.Type {
	case layermap.V6AddrMask:
		if v.Num > 128 {
			return &problem{ErrInvalidNetMask, fmt.Sprintf("a prefix of %d bits", v.Num), "use 0 to 128"}
		}
	case layermap.SIDType:
		if s, err := ParseSID(string(v.SID)); err != nil || s != v.SID {
			return &problem{ErrInvalidParameter, fmt.Sprintf("%.100q is not a SID in its usual spelling", string(v.SID)), "write it as S-1-..."}
		}
	case layermap.SecurityDescriptorType:
		if v.SD == nil {
			return &problem{ErrNullPointer, "the security descriptor is missing", "give one"}
		}
	case layermap.AddressSetType:
		switch {
		case v.Set == nil:
			return &problem{ErrNullPointer, "the set is missing", "give one"}
		case !v.Set.Loaded():
			return &problem{ErrNullPointer, fmt.Sprintf("the addresses of set %.100q are missing", v.Set.Name()), "load them"}
		}
	}
	return nil
}

func outOfBounds(bits uint8) *problem {
	return &problem{ErrOutOfBounds, fmt.Sprintf("the number does not fit in %d bits", bits), "give a smaller one"}
}
