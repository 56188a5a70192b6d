// SPDX-License-Identifier: Apache-2.0

package layermap

import (
	"strings"
	"testing"
)

// A drop has a layer that exists in both families, a reason that WFP has, and goes the
// way of the packet; what is no discard says why.
func TestDrops(t *testing.T) {
	stages := map[string][]DropStage{
		inPacket:  {DropArrived, DropDelivered, DropForwarded},
		outPacket: {DropArrived, DropForwarded, DropSent}, // what is passed on goes out, too
		onward:    {DropForwarded}, inTransport: {DropArrived, DropDelivered}, outTransport: {DropSent},
	}
	DropReasons(func(name string, d Drop) {
		if _, ok := DropReason("SKB_DROP_REASON_" + name); !ok {
			t.Errorf("%s is not found by its name in the kernel", name)
		}
		if !d.Discards() {
			if d.Why == "" {
				t.Errorf("%s is no discard, and nothing says why", name)
			}
			return
		}
		for s, at := range d.At {
			if at == (Discard{}) {
				continue
			}
			ok := false
			for _, may := range stages[at.Layer] {
				ok = ok || may == DropStage(s)
			}
			if !ok {
				t.Errorf("%s: a packet that %s is not dropped at %s", name, DropStage(s), at.Layer)
			}
			for id, family := range map[LayerID]Family{at.V4(): V4, at.V6(): V6} {
				if l := ByID(id); !l.Discard || l.Family != family || hookKey(l.Name) != at.Layer {
					t.Errorf("%s: %s is not %s", name, l.Name, at.Layer)
				}
			}
			if at.V6() != at.V4()+2 {
				t.Errorf("%s: the programs find the V6 layer two behind the V4 one", at.Layer)
			}
			if n := at.Reason.Module.Reason(at.Reason.Number); !strings.ContainsAny(n, "abcdefghijklmnopqrstuvwxyz") {
				t.Errorf("%s: WFP has no reason %s", name, at.Reason)
			}
		}
	})
}

func TestDropReasonNames(t *testing.T) {
	for name, want := range map[string]string{
		"SKB_DROP_REASON_IP_CSUM": "network BadChecksum", "SKB_DROP_REASON_UDP_CSUM": "transport ChecksumInvalid",
		"SKB_DROP_REASON_SKB_CSUM": "", "SKB_CONSUMED": "", "SKB_DROP_REASON_NO_SOCKET": "",
	} {
		d, ok := DropReason(name)
		if !ok {
			t.Errorf("%s is not found", name)
		}
		got := ""
		if at := d.At[DropDelivered]; at != (Discard{}) {
			got = at.Reason.String()
		}
		if got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if _, ok := DropReason("SKB_DROP_REASON_OF_A_LATER_KERNEL"); ok {
		t.Error("a reason that nobody knows is found")
	}
}
