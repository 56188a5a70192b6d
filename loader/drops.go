// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"slices"

	"github.com/cilium/ebpf/btf"

	"github.com/wfpebpf/wfpebpf/bpf"
	"github.com/wfpebpf/wfpebpf/layermap"
)

// DropReasons are the drop reasons that the running kernel has (enum skb_drop_reason),
// and their numbers.
func DropReasons() (map[string]uint32, error) {
	spec, err := btf.LoadKernelSpec()
	if err != nil {
		return nil, err
	}
	var e *btf.Enum
	if err := spec.TypeByName("skb_drop_reason", &e); err != nil {
		return nil, fmt.Errorf("the kernel's drop reasons: %w", err)
	}
	reasons := map[string]uint32{}
	for _, v := range e.Values {
		reasons[v.Name] = uint32(v.Value)
	}
	return reasons, nil
}

// fillDrops tells the program at kfree_skb what each of this kernel's drop reasons is to
// WFP. One that this version does not know, of a newer kernel, is none of WFP's.
func (e *Engine) fillDrops() error {
	reasons, err := DropReasons()
	if err != nil {
		return err
	}
	m := e.maps[bpf.WFPMapDrops]
	for name, number := range reasons {
		d, ok := layermap.DropReason(name)
		if !ok || !d.Discards() {
			continue
		}
		if number >= m.MaxEntries() {
			return fmt.Errorf("the kernel's drop reason %s is %d: there is room for %d", name, number, m.MaxEntries())
		}
		if err := m.Put(number, dropRow(d)); err != nil {
			return fmt.Errorf("drop reason %s: %w", name, err)
		}
	}
	return nil
}

// dropRow is a drop reason as the program reads it.
func dropRow(d layermap.Drop) (row bpf.Drop) {
	row.Discards = 1
	if d.Queued {
		row.Queued = 1
	}
	for stage, at := range d.At {
		if at == (layermap.Discard{}) {
			continue
		}
		row.At[stage].Layer = uint16(at.V4())
		row.At[stage].Module = uint16(at.Reason.Module)
		row.At[stage].Reason = at.Reason.Number
	}
	return row
}

// dropLayers are the layers that some drop of a kernel belongs to.
func dropLayers() (list []layermap.LayerID) {
	layermap.DropReasons(func(_ string, d layermap.Drop) {
		for _, at := range d.At {
			if at != (layermap.Discard{}) {
				list = append(list, at.V4(), at.V6())
			}
		}
	})
	slices.Sort(list)
	return slices.Compact(list)
}
