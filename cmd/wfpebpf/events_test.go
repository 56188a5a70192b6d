// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/wfpebpf/wfpebpf/loader"
)

var blocked = loader.Event{
	Time: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), Layer: "ALE_AUTH_CONNECT_V6", Action: "block", FilterID: 7,
	FilterName: "Block\nSMB", Origin: "rule", SubLayer: "Corporate", Direction: "out", Protocol: 6,
	Src: "[2001:db8::1]:50000", Dst: "[2001:db8::2]:445", Interface: "eth0", PID: 12, Program: "/usr/bin/x", User: "alice",
}

var forwarded = loader.Event{
	Time: blocked.Time, Layer: "IPFORWARD_V4", Action: "block", FilterID: 7, FilterName: blocked.FilterName, SubLayer: "Corporate",
	Direction: "forward", Src: "192.0.2.1", Dst: "198.51.100.1", Interface: "eth0", OutInterface: "eth1",
}

var discarded = loader.Event{
	Time: blocked.Time, Layer: "INBOUND_IPPACKET_V4_DISCARD", Action: "block", FilterID: 7, FilterName: "Look", SubLayer: "Corporate",
	Direction: "in", Src: "192.0.2.1", Dst: "198.51.100.1", Interface: "eth0",
	DiscardModule: "general", DiscardReason: "FirewallPolicy", DiscardFilterID: 6, DiscardFilterName: "Block it",
}

func TestEventForms(t *testing.T) {
	for _, tc := range []struct {
		name  string
		write func(*bytes.Buffer) error
		want  string
	}{
		{"JSON", func(b *bytes.Buffer) error { return eventJSON(b, blocked) },
			`{"time":"2026-01-02T03:04:05.000000006Z","layer":"ALE_AUTH_CONNECT_V6","action":"block","filterId":7,` +
				`"filterName":"Block\nSMB","origin":"rule","subLayer":"Corporate","direction":"out","protocol":6,` +
				`"src":"[2001:db8::1]:50000","dst":"[2001:db8::2]:445","interface":"eth0","pid":12,"program":"/usr/bin/x","user":"alice"}`},
		{"forwarded, JSON", func(b *bytes.Buffer) error { return eventJSON(b, forwarded) },
			`{"time":"2026-01-02T03:04:05.000000006Z","layer":"IPFORWARD_V4","action":"block","filterId":7,` +
				`"filterName":"Block\nSMB","origin":"","subLayer":"Corporate","direction":"forward","protocol":0,` +
				`"src":"192.0.2.1","dst":"198.51.100.1","interface":"eth0","pid":0,"program":"","user":"","outInterface":"eth1"}`},
		{"forwarded, text", func(b *bytes.Buffer) error { return eventText(b, forwarded) },
			`2026-01-02T03:04:05.000000006Z block forward at IPFORWARD_V4: 192.0.2.1 to 198.51.100.1 on eth0 out by eth1, filter "Block\nSMB" (7) in Corporate`},
		{"discarded, JSON", func(b *bytes.Buffer) error { return eventJSON(b, discarded) },
			`{"time":"2026-01-02T03:04:05.000000006Z","layer":"INBOUND_IPPACKET_V4_DISCARD","action":"block","filterId":7,` +
				`"filterName":"Look","origin":"","subLayer":"Corporate","direction":"in","protocol":0,` +
				`"src":"192.0.2.1","dst":"198.51.100.1","interface":"eth0","pid":0,"program":"","user":"",` +
				`"discardModule":"general","discardReason":"FirewallPolicy","discardFilterId":6,"discardFilterName":"Block it"}`},
		{"discarded, text", func(b *bytes.Buffer) error { return eventText(b, discarded) },
			`2026-01-02T03:04:05.000000006Z block in at INBOUND_IPPACKET_V4_DISCARD: 192.0.2.1 to 198.51.100.1 on eth0,` +
				` filter "Look" (7) in Corporate, discarded: general FirewallPolicy by filter "Block it" (6)`},
		{"lost, JSON", func(b *bytes.Buffer) error { return eventJSON(b, loader.Event{Lost: 3}) }, `{"lost":3}`},
		{"text", func(b *bytes.Buffer) error { return eventText(b, blocked) },
			`2026-01-02T03:04:05.000000006Z block out at ALE_AUTH_CONNECT_V6: tcp [2001:db8::1]:50000 to [2001:db8::2]:445` +
				` on eth0 program /usr/bin/x pid 12 user alice, filter "Block\nSMB" (7) in Corporate, origin "rule"`},
		{"lost, text", func(b *bytes.Buffer) error { return eventText(b, loader.Event{Lost: 3}) }, "3 events were lost"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var b bytes.Buffer
			if err := tc.write(&b); err != nil {
				t.Fatal(err)
			}
			got, rest, _ := strings.Cut(b.String(), "\n")
			if got != tc.want || rest != "" {
				t.Errorf("got  %s\nwant %s", b.String(), tc.want)
			}
		})
	}
}
