// SPDX-License-Identifier: Apache-2.0

package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/wfpebpf/wfpebpf/layermap"
	"github.com/wfpebpf/wfpebpf/loader"
)

func TestLayersJSON(t *testing.T) {
	r := wfpebpf(t, "layers", "--json")
	var rows []layerRow
	decode(t, r.out, &rows)
	if len(rows) != len(layermap.Layers()) {
		t.Errorf("%d rows for %d layers", len(rows), len(layermap.Layers()))
	}
	for _, row := range rows {
		l := layermap.ByID(row.ID)
		if l == nil || row.FWPS != l.FWPS() || row.FWPM != l.FWPM() || row.Hook == "" || row.Fidelity == "" {
			t.Errorf("row %+v", row)
		}
		if !row.Available && row.Reason == "" {
			t.Errorf("%s is not available and does not say why", row.FWPS)
		}
	}
}

func TestLayerAvailability(t *testing.T) {
	probed := []loader.LayerStatus{
		{Layer: layermap.ALEAuthConnectV4, Available: true, Reason: "by cgroup hooks"},
		{Layer: layermap.ALEAuthConnectV6, Reason: "no cgroup hooks"},
	}
	rows := map[layermap.LayerID]layerRow{}
	for _, r := range layerRows(probed) {
		rows[r.ID] = r
	}
	for _, tc := range []struct {
		name      string
		layer     layermap.LayerID
		available bool
		reason    string
	}{
		{"probed and there", layermap.ALEAuthConnectV4, true, "by cgroup hooks"},
		{"probed and not there", layermap.ALEAuthConnectV6, false, "no cgroup hooks"},
		{"not probed", layermap.InboundIPPacketV4, false, "not probed"},
		{"does not run yet", layermap.StreamV4, false, "does not run yet"},
		{"cannot be had", layermap.Reserved1V4, false, layermap.ByID(layermap.Reserved1V4).Hook().Differs},
	} {
		if r := rows[tc.layer]; r.Available != tc.available || r.Reason != tc.reason {
			t.Errorf("%s: available %t, reason %q; want %t, %q", tc.name, r.Available, r.Reason, tc.available, tc.reason)
		}
	}
}

func TestFieldsOfALayer(t *testing.T) {
	l := layermap.ByName("ALE_AUTH_CONNECT_V4")
	var rows []fieldRow
	decode(t, wfpebpf(t, "layers", "--json", "--fields", "FWPM_LAYER_ALE_AUTH_CONNECT_V4").out, &rows)
	if len(rows) != len(l.Fields) {
		t.Fatalf("%d rows for %d fields", len(rows), len(l.Fields))
	}
	for i, row := range rows {
		if row.Index != i || row.Field != l.Fields[i].Key || row.Source != l.Source(row.Field).Kind.String() || row.From == "" {
			t.Errorf("row %+v", row)
		}
	}
	text := wfpebpf(t, "layers", "--fields", "ale_auth_connect_v4").out
	for _, part := range []string{"INDEX", "IP_REMOTE_PORT", "constant 1", "refused"} {
		if !strings.Contains(text, part) {
			t.Errorf("the table lacks %q:\n%s", part, text)
		}
	}
}

func TestDropsOfTheKernel(t *testing.T) {
	var rows []dropRow
	decode(t, wfpebpf(t, "layers", "--json", "--drops").out, &rows)
	i := slices.IndexFunc(rows, func(r dropRow) bool { return r.Reason == "IP_INHDR" && r.Layer == "IPFORWARD_DISCARD" })
	if i < 0 {
		t.Fatalf("no row for the TTL of what is passed on in %+v", rows)
	}
	r := rows[i]
	if r.Number == nil || r.Module != "network" || r.Discard != "HopLimitExceeded" || !slices.Equal(r.Dropped, []string{"forwarded"}) {
		t.Errorf("row %+v", r)
	}
	for _, r := range rows {
		if (r.Layer == "") != (len(r.Dropped) == 0) || r.Layer == "" && r.Why == "" {
			t.Errorf("row %+v", r)
		}
	}
	text := wfpebpf(t, "layers", "--drops").out
	for _, part := range []string{"REASON", "IP_RPFILTER", "network BadSourceAddress", "INBOUND_IPPACKET_DISCARD"} {
		if !strings.Contains(text, part) {
			t.Errorf("the table lacks %q:\n%s", part, text)
		}
	}
}
