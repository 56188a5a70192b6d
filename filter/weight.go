// SPDX-License-Identifier: Apache-2.0

// This file computes effective weights. How Windows generates the low 60 bits
// is not documented; what follows has the shape that real filters show: a sum
// of one contribution a field, the more the narrower the condition, with the
// fields in a fixed order of significance. The numbers are this project's and
// differ from those of any Windows build, which differ among each other too.

package filter

import (
	"encoding/binary"
	"math"
	"math/bits"
	"slices"

	"github.com/wfpebpf/wfpebpf/layermap"
)

// AutoWeightBits is FWPM_AUTO_WEIGHT_BITS: how many low bits are generated.
const AutoWeightBits = 60

// run is a run of bits in a generated weight. Fields of one run take its bits
// in common: a layer rarely has more than one of them and real weights do not
// tell them apart.
type run struct {
	keys []string
	want int // bits, if the layer has them to spare
}

// significance lists the runs from the most to the least significant. Fields
// that are not listed follow in the layer's order with one bit each.
var significance = []run{
	{[]string{"IP_REMOTE_ADDRESS", "IP_REMOTE_ADDRESS_V4", "IP_REMOTE_ADDRESS_V6", "IP_DESTINATION_ADDRESS"}, 8},
	{[]string{"IP_LOCAL_ADDRESS", "IP_LOCAL_ADDRESS_V4", "IP_LOCAL_ADDRESS_V6", "IP_SOURCE_ADDRESS"}, 8},
	{[]string{"IP_ARRIVAL_INTERFACE", "IP_NEXTHOP_INTERFACE", "IP_LOCAL_INTERFACE"}, 1},
	{[]string{"IP_PROTOCOL"}, 2},
	{[]string{"IP_LOCAL_PORT", "ORIGINAL_ICMP_TYPE", "IP_SOURCE_PORT"}, 6},
	{[]string{"IP_REMOTE_PORT", "IP_DESTINATION_PORT"}, 6},
	{[]string{"ALE_APP_ID", "ALE_PACKAGE_ID", "ALE_PACKAGE_FAMILY_NAME"}, 1},
	{[]string{"ALE_USER_ID"}, 1},
	{[]string{"FLAGS"}, 1},
	{[]string{"ALE_SIO_FIREWALL_SYSTEM_PORT"}, 1},
	{[]string{"ARRIVAL_INTERFACE_TYPE", "NEXTHOP_INTERFACE_TYPE", "INTERFACE_TYPE"}, 1},
	{[]string{"ARRIVAL_TUNNEL_TYPE", "NEXTHOP_TUNNEL_TYPE", "TUNNEL_TYPE"}, 1},
	{[]string{"ORIGINAL_PROFILE_ID"}, 2},
	{[]string{"CURRENT_PROFILE_ID"}, 2},
	{[]string{"INTERFACE_QUARANTINE_EPOCH"}, 1},
}

// slot is where a field's contribution goes: units of 1<<shift, at most max.
type slot struct {
	run   int // fields of one run share a slot
	shift int
	max   uint64
}

// layouts holds the slot of each field of each layer, by FWPS index.
var layouts = func() map[layermap.LayerID][]slot {
	m := map[layermap.LayerID][]slot{}
	for i, layers := 0, layermap.Layers(); i < len(layers); i++ {
		m[layers[i].ID] = layout(&layers[i])
	}
	return m
}()

// layout gives every run of the layer one bit, then hands the spare bits out
// one at a time, most significant run first, until none wants more.
func layout(l *layermap.Layer) []slot {
	runOf := make([]int, len(l.Fields))
	var order []int        // the layer's runs, most significant first
	width := map[int]int{} // bits
	want := map[int]int{}
	for r := range significance {
		for i := range l.Fields {
			if slices.Contains(significance[r].keys, l.Fields[i].Key) {
				runOf[i] = r
				if width[r] == 0 {
					order, width[r], want[r] = append(order, r), 1, significance[r].want
				}
			}
		}
	}
	listed := func(key string) bool {
		return slices.ContainsFunc(significance, func(r run) bool { return slices.Contains(r.keys, key) })
	}
	for i := range l.Fields {
		if !listed(l.Fields[i].Key) {
			r := len(significance) + i
			runOf[i] = r
			order, width[r], want[r] = append(order, r), 1, 1
		}
	}
	for spare, given := AutoWeightBits-len(order), true; spare > 0 && given; {
		given = false
		for _, r := range order {
			if spare > 0 && width[r] < want[r] {
				width[r]++
				spare--
				given = true
			}
		}
	}
	slots := make([]slot, len(l.Fields))
	shift := 0
	for _, r := range slices.Backward(order) {
		for i := range l.Fields {
			if runOf[i] == r {
				slots[i] = slot{run: r, shift: shift, max: 1<<width[r] - 1}
			}
		}
		shift += width[r]
	}
	return slots
}

// EffectiveWeight returns the weight that orders the filter in its sublayer,
// higher first: a UINT64 weight is taken as it is; EMPTY gives a generated
// number below 1<<60; a UINT8 class of 0 to 15 is put above the generated
// bits. EMPTY and class 0 are therefore the same. The same conditions at the
// same layer always give the same weight.
//
// Errors wrap ErrInvalidWeight, ErrLayerNotFound or ErrConditionNotFound.
func EffectiveWeight(f *Filter) (uint64, error) {
	if p := checkWeight(f.Weight); p != nil {
		return 0, f.refuse(p)
	}
	if f.Weight.Type == layermap.Uint64 {
		return f.Weight.Num, nil
	}
	layer := layermap.ByID(f.Layer)
	if layer == nil {
		return 0, f.refuse(&problem{ErrLayerNotFound, "there is no such layer", "choose another"})
	}
	auto, p := autoWeight(layer, f.Conditions)
	if p != nil {
		return 0, f.refuse(p)
	}
	return f.Weight.Num<<AutoWeightBits | auto, nil
}

// autoWeight generates the low 60 bits.
func autoWeight(layer *layermap.Layer, conds []Condition) (uint64, *problem) {
	slots := layouts[layer.ID]
	share := make([]float64, len(slots)) // of each field: the sum over its OR'ed conditions
	for i := range conds {
		at := layer.FieldIndex(conds[i].Field)
		if at < 0 {
			return 0, &problem{ErrConditionNotFound, "the layer has no field " + conds[i].Field, "remove the condition"}
		}
		share[at] += specificity(&conds[i], layer.Fields[at].DataType)
	}
	var sum uint64
	units := map[int]uint64{} // spent of each run
	for i, s := range slots {
		n := min(contribution(share[i], s.max), s.max-units[s.run])
		units[s.run] += n
		sum += n << s.shift
	}
	return sum, nil
}

// contribution is how many of max units a field's conditions add: none if they
// admit every value, else at least one.
func contribution(share float64, max uint64) uint64 {
	if share <= 0 {
		return 0
	}
	return uint64(math.Max(1, math.Round(math.Min(1, share)*float64(max))))
}

// fieldBits is the width that a condition's size is measured against.
var fieldBits = map[layermap.DataType]float64{
	layermap.Uint8: 8, layermap.Uint16: 16, layermap.Uint32: 32, layermap.Uint64: 64,
	layermap.Int8: 8, layermap.Int16: 16, layermap.Int32: 32, layermap.Int64: 64,
	layermap.ByteArray16: 128, layermap.ByteArray6: 48,
}

// unmeasured is the share of a condition that admits several values of a type
// whose values cannot be counted: a prefix of a path, a range of strings. Sets of
// addresses have it whatever is in them: a new version of a list must not change
// the order of the filters. It leaves a set between a single address, an
// exception from it, and a wide network.
const unmeasured = 0.5

// specificity is 1 for a condition that admits one value and 0 for one that
// admits all: 1 - log2(N)/width, with N the number of values admitted. The
// FLAGS_* match types and access checks count as one value, as real weights
// show.
func specificity(c *Condition, t layermap.DataType) float64 {
	switch c.Match {
	case MatchEqual, MatchFlagsAllSet, MatchFlagsAnySet, MatchFlagsNoneSet, MatchEqualCaseInsensitive:
		switch c.Value.Type {
		case layermap.V4AddrMask:
			return float64(bits.OnesCount32(uint32(c.Value.Num))) / 32
		case layermap.V6AddrMask:
			return float64(min(c.Value.Num, 128)) / 128
		case layermap.AddressSetType:
			return unmeasured
		}
		return 1
	case MatchNotEqual, MatchNotPrefix:
		return math.SmallestNonzeroFloat64 // all but a few: one unit
	case MatchPrefix:
		return unmeasured
	}
	size, counted := fieldBits[t]
	if !counted {
		return unmeasured
	}
	last := math.Exp2(size) - 1 // the greatest value, counted from the smallest as zero
	low, high := 0.0, last
	switch c.Match {
	case MatchGreater:
		low = ordinal(&c.Value, size) + 1
	case MatchGreaterOrEqual:
		low = ordinal(&c.Value, size)
	case MatchLess:
		high = ordinal(&c.Value, size) - 1
	case MatchLessOrEqual:
		high = ordinal(&c.Value, size)
	case MatchRange:
		if c.Value.Range == nil {
			return 0
		}
		return shareOf(rangeSize(c.Value.Range, size), size)
	}
	return shareOf(high-low+1, size)
}

// shareOf turns a count of values into a share.
func shareOf(n, size float64) float64 {
	if n < 1 {
		return 1 // admits nothing, so nothing is narrower
	}
	s := 1 - math.Log2(n)/size
	if s <= 0 && n < math.Exp2(size) {
		return math.SmallestNonzeroFloat64
	}
	return math.Max(0, s)
}

// rangeSize counts the values of a range. It subtracts before it rounds, or a
// narrow range of IPv6 addresses would come out as empty.
func rangeSize(r *Range, size float64) float64 {
	if len(r.Low.Bytes) == 16 && len(r.High.Bytes) == 16 {
		lowHigh, lowLow := binary.BigEndian.Uint64(r.Low.Bytes), binary.BigEndian.Uint64(r.Low.Bytes[8:])
		highHigh, highLow := binary.BigEndian.Uint64(r.High.Bytes), binary.BigEndian.Uint64(r.High.Bytes[8:])
		d, borrow := bits.Sub64(highLow, lowLow, 0)
		u, _ := bits.Sub64(highHigh, lowHigh, borrow)
		return math.Ldexp(float64(u), 64) + float64(d) + 1
	}
	if size <= 64 && r.Low.Bytes == nil {
		return float64(r.High.Num-r.Low.Num) + 1 // wraps rightly for INT* too
	}
	return ordinal(&r.High, size) - ordinal(&r.Low, size) + 1
}

// ordinal is a value's place among those of its type, from zero.
func ordinal(v *Value, size float64) float64 {
	if w := width(signedBits[:], v.Type); w != 0 {
		return float64(signed(v.Num, w)) + math.Exp2(size-1)
	}
	if len(v.Bytes) == 0 {
		return float64(v.Num)
	}
	n := 0.0
	for _, b := range v.Bytes {
		n = n*256 + float64(b)
	}
	return n
}
