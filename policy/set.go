// SPDX-License-Identifier: Apache-2.0

// This file reads sets of addresses: the lists of a policy file's key sets, and
// the files that these name. A set may be much larger than a policy, so a file
// of one is not held in memory, and a line of it allocates nothing.

package policy

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
)

// Limits of sets.
const (
	MaxSetEntries    = 1 << 20   // entries of one set
	MaxAllSetEntries = 4 << 20   // entries of the sets of one policy file
	MaxSets          = 1000      // sets of one policy file
	MaxSetFileSize   = 128 << 20 // bytes of one file of a set
)

// setBlock is how much of a file of a set is looked at in one piece. A line is
// at most as long.
const setBlock = 64 << 10

// fileSet is a set that a policy file defines.
type fileSet struct {
	pos  pos
	set  *filter.AddressSet
	used bool // a condition refers to it
}

// set reads one entry of sets: {file: PATH}, or a list of addresses.
func (r *yamlReader) set(key, n *node) error {
	name := key.text
	switch {
	case name == "":
		return key.pos.errorf("a set needs a name")
	case len(r.doc.sets) == MaxSets:
		return key.pos.errorf("more than %d sets", MaxSets)
	}
	b, source, err := r.setContent(name, n)
	if err != nil {
		return err
	}
	if r.entries += b.Entries(); r.entries > MaxAllSetEntries {
		return key.pos.errorf("the sets have more than %d entries", MaxAllSetEntries)
	}
	def := &fileSet{pos: key.pos, set: b.Set(name, source)}
	r.sets[name] = def
	r.doc.sets = append(r.doc.sets, def)
	return nil
}

func (r *yamlReader) setContent(name string, n *node) (b *filter.SetBuilder, source string, err error) {
	b = &filter.SetBuilder{}
	switch n.kind {
	case listNode:
		for _, it := range n.list {
			if err := it.expect(scalarNode, "an entry of a set"); err != nil {
				return nil, "", err
			}
			if err := addEntry(b, it.pos, it.text); err != nil {
				return nil, "", err
			}
		}
		return b, "", nil
	case mapNode:
		at := n.pos
		var file string
		err := n.fields("a set", map[string]reader{"file": func(n *node) error {
			file, at = n.text, n.pos
			return n.expect(scalarNode, "file")
		}})
		if err != nil {
			return nil, "", err
		}
		if file == "" {
			return nil, "", at.errorf("set %q: {file: PATH} or a list of addresses is needed", clip(name))
		}
		if !filepath.IsAbs(file) {
			file = filepath.Join(filepath.Dir(r.doc.file), file)
		}
		var placed *Error
		if err := readSetFile(b, file); err != nil && !errors.As(err, &placed) {
			return nil, "", at.wrap(err, "set %q", clip(name))
		} else if err != nil {
			return nil, "", err
		}
		return b, file, nil
	}
	return nil, "", n.pos.errorf("set %q must be {file: PATH} or a list of addresses, not %s", clip(name), nodeKindNames[n.kind])
}

// readSetFile adds the entries of a file. An error about what is in it is an
// *Error, one about the file as such is not.
func readSetFile(b *filter.SetBuilder, file string) error {
	// Without O_NONBLOCK a FIFO would not even open before somebody writes.
	f, err := os.OpenFile(file, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	switch {
	case err != nil:
		return err
	case st.IsDir():
		return fmt.Errorf("%s is a directory", file)
	case !st.Mode().IsRegular():
		return fmt.Errorf("%s is not a regular file: a set is read from nothing else", file)
	}
	return readSet(b, file, f)
}

// readSet adds entries: one address, prefix or range a line. What follows # or ;
// is a comment, as published lists have it.
func readSet(b *filter.SetBuilder, name string, r io.Reader) error {
	s := setLines{name: name, b: b}
	buf := make([]byte, setBlock)
	have, size := 0, 0
	for {
		n, err := r.Read(buf[have:])
		if size += n; size > MaxSetFileSize {
			return &Error{File: name, Msg: fmt.Sprintf("larger than %d MiB; make it several sets", MaxSetFileSize>>20)}
		}
		have += n
		if err != nil && err != io.EOF {
			return &Error{File: name, Err: err}
		}
		end := have
		if err == nil {
			for end > 0 && buf[end-1] != '\n' {
				end--
			}
		}
		if end == 0 && have == len(buf) {
			return pos{name, s.no + 1, 1}.errorf("line longer than %d KiB", setBlock>>10)
		}
		// One string a block: its lines are parts of it.
		if err := s.read(string(buf[:end])); err != nil {
			return err
		}
		have = copy(buf, buf[end:have])
		if err == io.EOF {
			return nil
		}
	}
}

// setLines reads whole lines.
type setLines struct {
	name string
	no   int // of the last line
	b    *filter.SetBuilder
}

func (s *setLines) read(text string) error {
	for text != "" {
		line := text
		if i := strings.IndexByte(text, '\n'); i >= 0 {
			line, text = text[:i], text[i+1:]
		} else {
			text = ""
		}
		if s.no++; s.no == 1 {
			if strings.HasPrefix(line, "\xff\xfe") || strings.HasPrefix(line, "\xfe\xff") {
				return pos{s.name, 1, 1}.errorf("UTF-16 text; save the list as UTF-8 or ASCII")
			}
			line = strings.TrimPrefix(line, "\ufeff")
		}
		whole := line
		if i := strings.IndexByte(line, '#'); i >= 0 {
			line = line[:i]
		}
		if i := strings.IndexByte(line, ';'); i >= 0 {
			line = line[:i]
		}
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		if err := addEntry(s.b, pos{s.name, s.no, 1 + strings.Index(whole, line)}, line); err != nil {
			return err
		}
	}
	return nil
}

// addEntry adds one entry. Host bits of a prefix count for nothing, as in
// conditions and in other firewalls' lists.
func addEntry(b *filter.SetBuilder, at pos, text string) error {
	if b.Entries() == MaxSetEntries {
		return at.errorf("more than %d entries; make it several sets", MaxSetEntries)
	}
	low, high, ok := parseEntry(text)
	err := error(filter.ErrTypeMismatch)
	if ok {
		err = b.Add(low, high)
	}
	switch err {
	case nil:
		return nil
	case filter.ErrInvalidRange:
		return at.wrap(err, "%q begins above its end; exchange the two", clip(text))
	}
	return at.wrap(err, "%q is not an address, a prefix (192.0.2.0/24) or a range (192.0.2.1-192.0.2.9); correct or remove it", clip(text))
}

func parseEntry(text string) (low, high netip.Addr, ok bool) {
	if strings.IndexByte(text, '/') >= 0 {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return low, high, false
		}
		low, high = filter.PrefixRange(p)
		return low, high, true
	}
	first, last, isRange := strings.Cut(text, "-")
	low, err := netip.ParseAddr(strings.TrimSpace(first))
	if !isRange || err != nil {
		return low, low, err == nil
	}
	high, err = netip.ParseAddr(strings.TrimSpace(last))
	return low, high, err == nil
}

// setRef reads the name of a set in a condition.
func (r *yamlReader) setRef(field layermap.Field, n *node) (filter.Value, error) {
	if err := n.expect(scalarNode, "set"); err != nil {
		return filter.Value{}, err
	}
	def := r.sets[n.text]
	if def == nil {
		return filter.Value{}, n.pos.wrap(filter.ErrNotFound, "%s: set %q is not among the sets of this file", field.Key, clip(n.text))
	}
	def.used = true
	if field.Type != layermap.IPAddress {
		return filter.Value{}, n.pos.wrap(filter.ErrTypeMismatch, "%s: only a field that is an IP address can be in a set", field.Key)
	}
	return filter.SetValue(def.set), nil
}

// emptySets finds that a group of conditions can hold for no address, because
// all it names are sets without addresses of the field's family.
func (g *group) emptySets() *reason {
	var empty *filter.AddressSet
	for _, c := range g.conds {
		if c.Value.Type != layermap.AddressSetType || c.Match != filter.MatchEqual || rangesFor(c.Value.Set, g.field) > 0 {
			return nil
		}
		if empty == nil {
			empty = c.Value.Set
		}
	}
	switch {
	case empty == nil:
		return nil
	case empty.Empty():
		return because(classEmptySet, "%s: set %q is empty", g.field.Key, clip(empty.Name()))
	}
	family := "IPv4"
	if g.field.DataType == layermap.ByteArray16 {
		family = "IPv6"
	}
	return because(classFamily, "%s: set %q has no %s addresses", g.field.Key, clip(empty.Name()), family)
}

// rangesFor is how many ranges of a set a field can be in.
func rangesFor(s *filter.AddressSet, f layermap.Field) int {
	if f.DataType == layermap.ByteArray16 {
		return s.Ranges6()
	}
	return s.Ranges4()
}

// sets adopts the sets of a file and notes those that are no use.
func (l *loading) sets(doc *document) error {
	for _, def := range doc.sets {
		if first := l.setNames[def.set.Name()]; first != "" {
			return def.pos.wrap(filter.ErrAlreadyExists, "set %q is in %s, too", clip(def.set.Name()), first)
		}
		l.setNames[def.set.Name()] = doc.file
		l.policy.Sets = append(l.policy.Sets, def.set)
		if !def.used {
			l.policy.Notes = append(l.policy.Notes, fmt.Sprintf("set %q, %s:%d, is in no condition", clip(def.set.Name()), doc.file, def.pos.line))
		}
		if def.set.Empty() {
			l.policy.Notes = append(l.policy.Notes, fmt.Sprintf("set %q, %s:%d, is empty: nothing is in it", clip(def.set.Name()), doc.file, def.pos.line))
		}
	}
	return nil
}
