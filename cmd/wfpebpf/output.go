// SPDX-License-Identifier: Apache-2.0

// This file writes tables and JSON.

package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// writeJSON writes one value, readable for people, too.
func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// writeTable writes rows under a header, in columns. Cells are held to one
// line, since names come from files. On a terminal long lines are cut rather
// than broken: a broken line is in no column.
func writeTable(w io.Writer, header string, rows [][]any) error {
	lines := [][]string{strings.Fields(header)}
	for _, row := range rows {
		cells := make([]string, len(row))
		for i, c := range row {
			cells[i] = clip(oneLine(strings.ReplaceAll(fmt.Sprint(c), "\t", " ")))
		}
		lines = append(lines, cells)
	}
	var widths []int
	for _, cells := range lines {
		for i, c := range cells {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(c))
		}
	}
	out := bufio.NewWriter(w)
	most := terminalWidth(w)
	for _, cells := range lines {
		var b strings.Builder
		for i, c := range cells {
			fmt.Fprintf(&b, "%-*s  ", widths[i], c)
		}
		line := strings.TrimRight(b.String(), " ")
		if most > 0 {
			line = cut(line, most)
		}
		fmt.Fprintln(out, line)
	}
	return out.Flush()
}

// terminalWidth is 0 for what is no terminal, or one that does not say.
func terminalWidth(w io.Writer) int {
	f, ok := w.(*os.File)
	if !ok {
		return 0
	}
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil || size.Col < minWidth {
		return 0
	}
	return int(size.Col)
}

// minWidth is the least width that a table is cut to.
const minWidth = 40

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
func clip(s string) string { return cut(s, 120) }

// short is clip for names in wide tables; JSON has them whole.
func short(s string) string { return cut(s, 40) }

func cut(s string, most int) string {
	if r := []rune(s); len(r) > most {
		return string(r[:most-3]) + "..."
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
