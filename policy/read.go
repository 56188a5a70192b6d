// SPDX-License-Identifier: Apache-2.0

// This file opens files, holds them to the size limits and tells their format.
// What is in them is read by netsh.go and yaml.go.

package policy

import (
	"bytes"
	"encoding/binary"
	"io"
	"os"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/wfpebpf/wfpebpf/filter"
)

// document is one file as read: definitions and filters, nothing resolved
// against other files, the map or this host.
type document struct {
	file      string
	windows   bool // a dump: effective weights are kept, identities are Windows's
	providers []filter.Provider
	contexts  []filter.ProviderContext
	subLayers []located[filter.SubLayer]
	callouts  []located[filter.Callout]
	units     []string // named as users
	sets      []*fileSet
	drafts    []*draft
}

// located is an object and where it stands.
type located[T any] struct {
	pos pos
	obj T
}

// draft is a filter as read.
type draft struct {
	pos     pos
	filter  *filter.Filter
	windows bool // from a dump

	layerName   string // as written, for a layer that does not exist
	calloutName string
	refuse      *reason // found while reading; the first one counts
}

func (d *draft) refused(r *reason) {
	if d.refuse == nil {
		d.refuse = r
	}
}

// readFile returns a file's bytes, at most MaxFileSize of them.
func readFile(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && st.IsDir() {
		return nil, &Error{File: file, Msg: "is a directory"}
	}
	return readAll(file, f)
}

func readAll(name string, r io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, MaxFileSize+1))
	if err != nil {
		return nil, &Error{File: name, Err: err}
	}
	if len(data) > MaxFileSize {
		return nil, &Error{File: name, Msg: "larger than 64 MiB"}
	}
	return toUTF8(name, data)
}

// toUTF8 takes the byte order mark away. A dump that went through a shell's
// redirection on Windows is UTF-16.
func toUTF8(name string, data []byte) ([]byte, error) {
	switch {
	case bytes.HasPrefix(data, []byte("\xef\xbb\xbf")):
		data = data[3:]
	case bytes.HasPrefix(data, []byte("\xff\xfe")), bytes.HasPrefix(data, []byte("\xfe\xff")):
		var order binary.ByteOrder = binary.LittleEndian
		if data[0] == 0xfe {
			order = binary.BigEndian
		}
		data = data[2:]
		if len(data)%2 != 0 {
			return nil, &Error{File: name, Msg: "UTF-16 text of an odd number of bytes"}
		}
		units := make([]uint16, len(data)/2)
		for i := range units {
			units[i] = order.Uint16(data[2*i:])
		}
		data = []byte(string(utf16.Decode(units)))
	}
	if !utf8.Valid(data) {
		p := badUTF8(data)
		p.file = name
		return nil, p.errorf("not UTF-8 text")
	}
	return data, nil
}

// badUTF8 returns the place of the first byte that is not UTF-8.
func badUTF8(data []byte) pos {
	p := pos{line: 1, col: 1}
	for len(data) > 0 {
		r, n := utf8.DecodeRune(data)
		if r == utf8.RuneError && n <= 1 {
			break
		}
		if p.col++; r == '\n' {
			p.line, p.col = p.line+1, 1
		}
		data = data[n:]
	}
	return p
}

// readDocument tells the format by content: what begins like XML is a dump,
// everything else is wfpebpf's own YAML.
func readDocument(name string, data []byte, m *Map) (*document, error) {
	if bytes.HasPrefix(bytes.TrimSpace(data), []byte("<")) {
		return readDump(name, data)
	}
	return readYAML(name, data, m)
}
