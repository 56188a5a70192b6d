// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"maps"
	"slices"
	"testing"

	"github.com/wfpebpf/wfpebpf/bpf"
	"github.com/wfpebpf/wfpebpf/layermap"
	"github.com/wfpebpf/wfpebpf/tests/testbed"
)

// Every drop reason of this kernel has its row: a discard of WFP's, or why it is none.
func TestDropReasonsOfKernel(t *testing.T) {
	reasons, err := DropReasons()
	if err != nil {
		testbed.Missing(t, "needs the kernel's BTF: %v", err)
	}
	if len(reasons) < 60 { // 6.1 has 67
		t.Errorf("the kernel has %d drop reasons", len(reasons))
	}
	discards := 0
	for _, name := range slices.Sorted(maps.Keys(reasons)) {
		d, ok := layermap.DropReason(name)
		if !ok {
			t.Errorf("%s (%d) has no row in layermap's table of drops", name, reasons[name])
		}
		if d.Discards() {
			discards++
			if reasons[name] >= bpf.DropReasons {
				t.Errorf("%s is %d: there is room for %d", name, reasons[name], bpf.DropReasons)
			}
		}
	}
	if discards < 40 {
		t.Errorf("%d of them are discards", discards)
	}
}
