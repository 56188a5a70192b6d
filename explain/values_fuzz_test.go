// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"testing"

	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
	"github.com/wfpebpf/wfpebpf/policy"
)

// Each value has the type of its field or is EMPTY, since the evaluator and the
// kernel's judge rely on it.
func FuzzValues(f *testing.F) {
	for _, s := range []string{
		"IP_PROTOCOL=tcp", "IP_REMOTE_ADDRESS=10.0.0.1", "ip_local_port=445", "FLAGS=IS_LOOPBACK|IS_REAUTHORIZE",
		"ALE_USER_ID=uid:1000", "ALE_USER_ID=unit:a.service", "ALE_APP_ID=/bin/sh", "IP_LOCAL_INTERFACE=eth0",
		"IP_REMOTE_ADDRESS=EMPTY", `FLAGS={}`, "IP_REMOTE_PORT=1-9", "ALE_PACKAGE_ID=S-1-0-0", "INTERFACE_MAC_ADDRESS=02:00:00:00:00:01",
	} {
		for _, l := range []layermap.LayerID{layermap.ALEAuthConnectV4, layermap.ALEAuthRecvAcceptV6, layermap.InboundIPPacketV6} {
			f.Add(uint8(l), s)
		}
	}
	p := &policy.Policy{Store: filter.NewStore(), Services: map[filter.SID]string{filter.ServiceSID("DoSvc"): "a.service"}}
	f.Fuzz(func(t *testing.T, layer uint8, text string) {
		l := layermap.ByID(layermap.LayerID(layer))
		if l == nil {
			return
		}
		values, err := Values(p, &policy.Map{}, l, []string{text})
		if err != nil {
			return
		}
		if len(values) != len(l.Fields) {
			t.Fatalf("%d values for %d fields", len(values), len(l.Fields))
		}
		for i, v := range values {
			if !v.IsEmpty() && v.Type != l.Fields[i].DataType {
				t.Errorf("%q: %s is of type %v, want %v", text, l.Fields[i].Key, v.Type, l.Fields[i].DataType)
			}
		}
		Layer(p.Store, l, values, false)
	})
}
