// SPDX-License-Identifier: Apache-2.0

package live

import (
	"testing"

	"github.com/wfpebpf/wfpebpf/tests/testbed"
)

const connectPolicy = `
filters:
  - name: Block 8081 out
    layer: [ALE_AUTH_CONNECT_V4, ALE_AUTH_CONNECT_V6]
    action: BLOCK
    conditions: [{IP_REMOTE_PORT: 8081}]
  - name: Permit the rest
    layer: [ALE_AUTH_CONNECT_V4, ALE_AUTH_CONNECT_V6]
    action: PERMIT
    weight: 0
`

func TestConnect(t *testing.T) {
	b := newBed(t)
	b.apply(connectPolicy)
	server, client := b.on(b.peer, testbed.ProcOptions{}), b.on(b.host, testbed.ProcOptions{})
	for _, f := range b.families() {
		layer := "ALE_AUTH_CONNECT_" + f.layer
		for _, port := range []int{8080, 8081} {
			if _, err := server.Listen(f.tcp, at(f.peer, port)); err != nil {
				t.Fatal(err)
			}
			if _, err := server.Listen(f.udp, at(f.peer, port)); err != nil {
				t.Fatal(err)
			}
		}
		t.Run("TCP "+f.name, func(t *testing.T) {
			passes.want(t, client.Connect(f.tcp, at(f.peer, 8080)))
			b.wantHits(layer, "Permit the rest")
			denied.want(t, client.Connect(f.tcp, at(f.peer, 8081)))
			e := b.wantBlock(layer, "Block 8081 out")
			if e.Dst != at(f.peer, 8081) || e.Direction != "out" || e.Protocol != 6 || e.PID != uint32(client.PID) || e.Interface != "h0" {
				t.Errorf("event %+v", e)
			}
			b.wantHits(layer, "Block 8081 out")
		})
		t.Run("TCP, not MPTCP, "+f.name, func(t *testing.T) {
			denied.want(t, client.Connect(f.tcp, at(f.peer, 8081), testbed.Options{MPTCP: testbed.MPTCPOff}))
		})
		t.Run("UDP unconnected "+f.name, func(t *testing.T) {
			passes.want(t, client.UDPExchange(f.udp, at(f.peer, 8080), "hello"))
			denied.want(t, client.UDPSend(f.udp, at(f.peer, 8081), "hello"))
			b.wantBlock(layer, "Block 8081 out")
		})
		t.Run("UDP connected "+f.name, func(t *testing.T) {
			passes.want(t, client.Connect(f.udp, at(f.peer, 8080)))
			denied.want(t, client.Connect(f.udp, at(f.peer, 8081)))
		})
	}
	t.Run("mapped", func(t *testing.T) {
		mapped := "[::ffff:" + b.peerEnd.V4.String() + "]"
		passes.want(t, client.Connect("tcp6", at(mapped, 8080)))
		denied.want(t, client.Connect("tcp6", at(mapped, 8081)))
		b.wantBlock("ALE_AUTH_CONNECT_V4", "Block 8081 out")
		denied.want(t, client.UDPSend("udp6", at(mapped, 8081), "hello"))
		b.wantBlock("ALE_AUTH_CONNECT_V4", "Block 8081 out")
	})
	t.Run("the other namespace passes", func(t *testing.T) {
		local := b.on(b.host, testbed.ProcOptions{})
		if _, err := local.Listen("tcp4", at(b.hostEnd.V4.String(), 8081)); err != nil {
			t.Fatal(err)
		}
		passes.want(t, server.Connect("tcp4", at(b.hostEnd.V4.String(), 8081)))
	})
}
