// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/wfpebpf/wfpebpf/loader"
)

func TestTables(t *testing.T) {
	v := table("ID NAME", []loader.FilterRow{{ID: 1, Name: "a\tb\x1b\nc"}}, func(r loader.FilterRow) []any { return []any{r.ID, r.Name} })
	var b bytes.Buffer
	if err := v.text(&b); err != nil {
		t.Fatal(err)
	}
	if want := "ID  NAME\n1   a b\ufffd; c\n"; b.String() != want {
		t.Errorf("got %q, want %q", b.String(), want)
	}
	b.Reset()
	if err := writeJSON(&b, table("ID", []loader.FilterRow(nil), nil).json); err != nil {
		t.Fatal(err)
	}
	if strings.TrimSpace(b.String()) != "[]" {
		t.Errorf("no rows are %q in JSON, want []", b.String())
	}
}

// A row without its last cells must not move the columns of others.
func TestColumnsAreAligned(t *testing.T) {
	var b bytes.Buffer
	if err := writeTable(&b, "A B C", [][]any{{"a", "long cell", ""}, {"é", "b", "c"}, {"aaa", "b", "c"}}); err != nil {
		t.Fatal(err)
	}
	if want := "A    B          C\na    long cell\né    b          c\naaa  b          c\n"; b.String() != want {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
}

func TestStateText(t *testing.T) {
	var b bytes.Buffer
	err := writeState(&b, loader.State{Generation: 3, Failsafes: []string{"tcp/22"}, Stale: []string{"/usr/bin/x"}, Filters: map[string]int{"ALE_AUTH_CONNECT_V4": 2}})
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"generation", "tcp/22", "/usr/bin/x", "filters at ALE_AUTH_CONNECT_V4"} {
		if !strings.Contains(b.String(), part) {
			t.Errorf("the state lacks %q:\n%s", part, b.String())
		}
	}
}

func TestFamilies(t *testing.T) {
	for _, tc := range []struct{ layers, want string }{
		{"A_V4 A_V6 B_V4 B_V6", "A_V4/V6, B_V4/V6"},
		{"A_V4 B_V6", "A_V4, B_V6"},
		{"A_V6 A_V4", "A_V6, A_V4"},
		{"INBOUND_MAC_FRAME_ETHERNET", "INBOUND_MAC_FRAME_ETHERNET"},
		{"", ""},
	} {
		if got := families(strings.Fields(tc.layers)); got != tc.want {
			t.Errorf("%s: %q, want %q", tc.layers, got, tc.want)
		}
	}
}
