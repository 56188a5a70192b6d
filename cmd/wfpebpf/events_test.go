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
