// SPDX-License-Identifier: Apache-2.0

package live

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"github.com/wfpebpf/wfpebpf/loader"
)

// A bridge and its ports have an XDP program each, though the bridge is the older link.
// Below somebody else's program the kernel takes none: the error says where to look.
func TestFrameNativeStacked(t *testing.T) {
	b := newSwitchBed(t)
	native := blocks("INBOUND_MAC_FRAME_NATIVE", "{INTERFACE: q0}")
	b.apply(native)
	reached := func(from, to int, o outcome) {
		t.Helper()
		text := "stacked " + o.text
		b.send(b.guests[from].tap, frame(t, b.guests[to].end.MAC, b.guests[from].end.MAC, 0, text))
		o.want(t, b.guests[to].tap.receive(text, o.limit))
	}
	reached(0, 1, dropped)
	reached(1, 0, passes)
	if err := b.engine.Down(); err != nil {
		t.Fatal(err)
	}
	b.engine.Close()
	b.engine = nil

	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "above", Type: ebpf.XDP, License: "Apache-2.0",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer prog.Close()
	var theirs link.Link
	err = b.host.Do(func() (err error) {
		theirs, err = link.AttachXDP(link.XDPOptions{
			Program: prog, Interface: b.link("br0").Attrs().Index, Flags: link.XDPGenericMode,
		})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	b.openEngine(loader.Options{Target: b.target(), Interfaces: []string{"q0"}})
	err = b.engine.Commit(context.Background(), b.load(native, nil))
	if !errors.Is(err, loader.ErrOccupied) || !strings.Contains(err.Error(), "a link that lies on q0") {
		t.Errorf("got %v, want ErrOccupied and which link lies below", err)
	}
	reached(0, 1, passes)
}
