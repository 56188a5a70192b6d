// SPDX-License-Identifier: Apache-2.0

// This file writes tables and JSON.

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// writeJSON writes one value, readable for people, too.
func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// writeTable writes rows under a header, in columns. Cells are held to one
// line, since names come from files.
func writeTable(w io.Writer, header string, rows [][]any) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, strings.ReplaceAll(header, " ", "\t"))
	for _, row := range rows {
		cells := make([]string, len(row))
		for i, c := range row {
			cells[i] = clip(oneLine(strings.ReplaceAll(fmt.Sprint(c), "\t", " ")))
		}
		fmt.Fprintln(t, strings.TrimRight(strings.Join(cells, "\t"), "\t"))
	}
	return t.Flush()
}

// slowly tells a person that work goes on, once it takes long enough to wonder.
// The caller ends it; then nothing is written any more.
func slowly(w io.Writer, what string) (done func()) {
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		start, wait := time.Now(), time.Second
		for {
			select {
			case <-stop:
				return
			case <-time.After(wait):
				fmt.Fprintf(w, "%s (%s)\n", what, time.Since(start).Round(time.Second))
				wait = 5 * time.Second
			}
		}
	}()
	return func() { close(stop); <-stopped }
}

// clip keeps a cell from taking the whole screen.
func clip(s string) string {
	const most = 100
	if r := []rune(s); len(r) > most {
		return string(r[:most]) + "..."
	}
	return s
}

// list is never nil, so that JSON has [] and not null.
func list[T any](l []T) []T {
	if l == nil {
		return []T{}
	}
	return l
}
