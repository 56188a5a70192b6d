// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"testing"

	"github.com/cilium/ebpf/asm"

	"github.com/wfpebpf/wfpebpf/bpf"
	"github.com/wfpebpf/wfpebpf/layermap"
	"github.com/wfpebpf/wfpebpf/tests/testbed"
)

// A kernel that refuses a program, as 6.1 does those of netfilter, can do what
// it could without it; of the layers that need the program each says which hook
// is refused.
func TestProbeOfAKernelThatRefusesAProgram(t *testing.T) {
	testbed.RequireRoot(t)
	spec, err := bpf.LoadWFP()
	if err != nil {
		t.Fatal(err)
	}
	spec.Programs[bpf.WFPProgWfpLocalIn].Instructions = asm.Instructions{asm.Return()} // of nothing
	refused, err := probePrograms(spec)
	if err != nil {
		t.Fatal(err)
	}
	without := map[layermap.LayerID]string{}
	for _, h := range hooks {
		if h.kind != onLocalIn {
			continue
		}
		for _, id := range h.layers {
			without[id] = "this kernel refuses " + h.name + ": "
			if layermap.ByID(id+1).DiscardOf() != nil { // where own blocks are judged next
				without[id+1] = without[id]
			}
		}
	}
	if len(without) != 10 {
		t.Fatalf("%d layers are judged at LOCAL_IN: %v", len(without), without)
	}
	for _, l := range layermap.Layers() {
		if !l.Hook().Live {
			continue
		}
		available, reason := layerStatus(l.ID, refused)
		want, lacks := without[l.ID]
		if available == lacks || lacks && (len(reason) <= len(want) || reason[:len(want)] != want) {
			t.Errorf("%s: available %t, %q", l.Name, available, reason)
		}
	}
}
