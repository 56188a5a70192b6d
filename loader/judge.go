// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"

	"github.com/wfpebpf/wfpebpf/bpf"
	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
)

// caseOf encodes field values as a hook would fill them in.
func (n *numbers) caseOf(l *layermap.Layer, values filter.Values) *bpf.Case {
	c := &bpf.Case{}
	n.encode(c, l, values)
	return c
}

func (n *numbers) encode(c *bpf.Case, l *layermap.Layer, values filter.Values) {
	*c = bpf.Case{}
	c.Values.Layer = uint32(l.ID)
	for i, f := range l.Fields {
		if i >= len(values) || values[i].IsEmpty() {
			continue
		}
		src := l.Source(f.Key)
		if src.Kind != layermap.Filled {
			continue
		}
		v, s := values[i], src.Slot
		c.Values.Present |= 1 << s
		switch {
		case s == layermap.SlotApp || s == layermap.SlotUser || s == layermap.SlotPackage:
			c.Values.Slot[s] = n.number(s, v)
		case v.Type == layermap.ByteArray16 && len(v.Bytes) == 16:
			c.Values.Slot[s] = binary.BigEndian.Uint64(v.Bytes)
			c.Values.Slot[s+1] = binary.BigEndian.Uint64(v.Bytes[8:])
		case v.Type == layermap.ByteArray6 && len(v.Bytes) == 6:
			var b [8]byte
			copy(b[2:], v.Bytes)
			c.Values.Slot[s] = binary.BigEndian.Uint64(b[:])
		default:
			c.Values.Slot[s] = v.Num
		}
	}
}
