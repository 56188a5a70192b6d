// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"testing"

	"github.com/wfpebpf/wfpebpf/layermap"
	"github.com/wfpebpf/wfpebpf/tests/testbed"
)

// What the kernel does not tell is said of the layer, and of no other.
func TestStatusWithoutResets(t *testing.T) {
	testbed.RequireRoot(t)
	was := haveResets
	t.Cleanup(func() { haveResets = was })
	for _, have := range []bool{true, false} {
		haveResets = func() bool { return have }
		for _, id := range []layermap.LayerID{layermap.InboundTransportV4Discard, layermap.InboundTransportV6Discard} {
			if got, why := layerStatus(id, nil); got != have || got == (why != "") {
				t.Errorf("%v with resets %t: available %t, %q", id, have, got, why)
			}
		}
		for _, id := range []layermap.LayerID{layermap.InboundTransportV4, layermap.InboundIPPacketV4Discard, layermap.OutboundTransportV6Discard} {
			if got, why := layerStatus(id, nil); !got {
				t.Errorf("%v with resets %t: %q", id, have, why)
			}
		}
	}
}
