// SPDX-License-Identifier: Apache-2.0

// This file looks at YAML as raw text, before the parser does, for what would
// cost the parser more than the text is worth. What the text means is found in
// yaml_node.go.

package policy

import "bytes"

// Bounds on what the parser's time grows with the square of: the keys of one
// mapping, and the places where a value is left out.
const (
	maxKeys    = 10_000
	maxMissing = 1000
)

// scanYAML refuses deep nesting, very long lines and mappings, many values left
// out, keys marked with ?, anchors and tags. It knows quotes and comments on one
// line only, which is where they occur.
func scanYAML(name string, data []byte) error {
	s := yamlScan{name: name}
	for len(data) > 0 {
		line, rest := data, []byte(nil)
		if i := bytes.IndexAny(data, "\r\n"); i >= 0 {
			line, rest = data[:i], data[i+1:]
			if data[i] == '\r' {
				rest = bytes.TrimPrefix(rest, []byte("\n"))
			}
		}
		data = rest
		s.no++
		if err := s.line(line); err != nil {
			return err
		}
	}
	return nil
}

// yamlScan is what the scan knows from the lines before.
type yamlScan struct {
	name    string
	no      int    // of the line
	flow    []byte // open [ and {; the { is : behind the colon of a key
	blocks  []yamlBlock
	last    byte      // the last character that is not blank
	open    bool      // the line before ended where a value can begin
	entry   yamlEntry // the innermost one of the line before
	missing int       // values left out
}

// yamlBlock is an indent at which lines begin, and how many of them are keys.
type yamlBlock struct{ indent, keys int }

// yamlEntry is a key, or the dash of a list's item, and its column.
type yamlEntry struct {
	column int
	dash   bool
}

// endsValue reports whether a line that begins like this shows that the entry
// before it has no value: a value is indented deeper, but for the list that is
// the value of a key.
func (e yamlEntry) endsValue(indent int, dash bool) bool {
	return indent < e.column || indent == e.column && (e.dash || !dash)
}

func (s *yamlScan) line(line []byte) error {
	if len(line) > MaxStringSize {
		return s.errorf(0, "line longer than 1 MiB")
	}
	trimmed := bytes.TrimLeft(line, " ")
	if len(trimmed) == 0 || trimmed[0] == '#' {
		return nil
	}
	indent := len(line) - len(trimmed)
	dash := trimmed[0] == '-' && blank(trimmed, 1)
	for len(s.blocks) > 0 && s.blocks[len(s.blocks)-1].indent > indent {
		s.blocks = s.blocks[:len(s.blocks)-1]
	}
	if len(s.blocks) == 0 || s.blocks[len(s.blocks)-1].indent < indent {
		s.blocks = append(s.blocks, yamlBlock{indent: indent})
	}
	if top := &s.blocks[len(s.blocks)-1]; !dash {
		if top.keys++; top.keys > maxKeys {
			return s.errorf(indent, "more than %d keys in one mapping", maxKeys)
		}
	}
	if s.open && s.entry.endsValue(indent, dash) {
		if err := s.leftOut(indent); err != nil {
			return err
		}
	}
	return s.characters(line)
}

func (s *yamlScan) characters(line []byte) error {
	dashes := 0
	start := true // at a place where a value can begin
	var quote byte
	for i := 0; i < len(line); i++ {
		c := line[i]
		if quote != 0 {
			switch {
			case c == '\\' && quote == '"':
				i++
			case c == quote:
				quote = 0
			}
			continue
		}
		switch c {
		case ' ', '\t':
			continue
		case '#':
			if i == 0 || line[i-1] == ' ' {
				i = len(line)
			}
			continue
		case '"', '\'':
			if start {
				quote = c
			}
		case '[', '{':
			s.flow = append(s.flow, c)
		case ':':
			if top := len(s.flow) - 1; top >= 0 && s.flow[top] == '{' && (blank(line, i+1) || s.last == '"' || s.last == '\'') {
				s.flow[top] = ':'
			}
		case ']', '}', ',':
			if err := s.endOfFlow(c, i); err != nil {
				return err
			}
		case '&', '*', '!':
			if start && i+1 < len(line) && line[i+1] != ' ' {
				return s.errorf(i, "anchors, aliases and tags are not accepted")
			}
		case '?':
			if start && blank(line, i+1) {
				return s.errorf(i, "keys that begin with ? are not accepted")
			}
		case '-':
			if start {
				dashes++
			}
		}
		if len(s.flow)+dashes+len(s.blocks) > MaxDepth {
			return s.errorf(i, "nested deeper than %d", MaxDepth)
		}
		next := blank(line, i+1)
		if start {
			s.entry = yamlEntry{column: i, dash: c == '-' && next}
		}
		start = c == '[' || c == '{' || c == ',' || (c == ':' || start && (c == '-' || c == '!')) && next
		s.last = c
	}
	s.open = start && len(s.flow) == 0
	return nil
}

// blank reports whether a line has nothing or a blank at a place.
func blank(line []byte, i int) bool { return i >= len(line) || line[i] == ' ' || line[i] == '\t' }

// endOfFlow ends an element of a list or mapping in brackets, and with a
// closing bracket the whole. A key without a colon lacks its value, too.
func (s *yamlScan) endOfFlow(c byte, column int) error {
	top := len(s.flow) - 1
	if top < 0 {
		return nil
	}
	bare := s.flow[top] == '{' && s.last != '{' && s.last != ','
	switch {
	case c != ',':
		s.flow = s.flow[:top]
	case s.flow[top] == ':':
		s.flow[top] = '{'
	}
	if bare || s.last == ':' {
		return s.leftOut(column)
	}
	return nil
}

// leftOut counts a value that is not there.
func (s *yamlScan) leftOut(column int) error {
	if s.missing++; s.missing > maxMissing {
		return s.errorf(column, "more than %d values left out", maxMissing)
	}
	return nil
}

func (s *yamlScan) errorf(column int, format string, args ...any) error {
	return pos{s.name, s.no, column + 1}.errorf(format, args...)
}
