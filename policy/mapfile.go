// SPDX-License-Identifier: Apache-2.0

// This file reads the map file. What its entries do to a filter is in bind.go.

package policy

import (
	"hash/fnv"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/google/uuid"

	"github.com/wfpebpf/wfpebpf/filter"
)

// Map is the map file: what the names of a Windows policy mean on this host.
// The zero value maps nothing.
type Map struct {
	Apps      map[string]string      // Windows path, lower case: Linux path
	Volumes   map[string]string      // NT volume prefix, lower case: directory
	Services  map[string]string      // service name: systemd unit
	SIDs      map[filter.SID]string  // SID: "uid:N" or "gid:N"
	Packages  map[string]string      // package family name or moniker: unit or scope
	Links     map[string]string      // LUID or GUID: link name
	Zones     map[string]string      // link name: public, private or domain
	SubLayers map[filter.GUID]uint16 // weights that a dump does not hold

	disk sync.Map // looked-up paths below volumes
}

// LoadMap reads a map file.
func LoadMap(file string) (*Map, error) {
	data, err := readFile(file)
	if err != nil {
		return nil, err
	}
	return parseMap(file, data)
}

// LoadMapReader is LoadMap of a file that is already open; name is for
// messages.
func LoadMapReader(name string, r io.Reader) (*Map, error) {
	data, err := readAll(name, r)
	if err != nil {
		return nil, err
	}
	return parseMap(name, data)
}

func parseMap(name string, data []byte) (*Map, error) {
	root, err := parseYAML(name, data)
	if err != nil {
		return nil, err
	}
	m := &Map{
		Apps: map[string]string{}, Volumes: map[string]string{}, Services: map[string]string{},
		SIDs: map[filter.SID]string{}, Packages: map[string]string{}, Links: map[string]string{},
		Zones: map[string]string{}, SubLayers: map[filter.GUID]uint16{},
	}
	err = root.fields("the map file", map[string]reader{
		"apps":      m.strings("apps", m.Apps, windowsPath, linuxPath),
		"volumes":   m.strings("volumes", m.Volumes, volume, linuxPath),
		"services":  m.strings("services", m.Services, nonEmpty, nonEmpty),
		"packages":  m.strings("packages", m.Packages, nonEmpty, nonEmpty),
		"links":     m.strings("links", m.Links, linkKey, linkName),
		"zones":     m.strings("zones", m.Zones, linkName, zone),
		"sids":      m.sids,
		"subLayers": m.subLayers,
	})
	if err != nil {
		return nil, err
	}
	return m, nil
}

// check takes or corrects a name; what says which kind was expected.
type check func(string) (out, what string)

func nonEmpty(s string) (string, string) { return s, "a name" }

func windowsPath(s string) (string, string) { return strings.ToLower(s), "a Windows path" }

func volume(s string) (string, string) {
	return strings.ToLower(strings.TrimRight(s, `\`)), "a volume"
}

func linuxPath(s string) (string, string) {
	if !strings.HasPrefix(s, "/") || strings.ContainsRune(s, 0) {
		s = ""
	}
	return s, "an absolute Linux path"
}

// linkNames admits what the kernel does: at most 15 bytes, no slash, no space.
var linkNames = regexp.MustCompile(`^[^\s/:]{1,15}$`)

func linkName(s string) (string, string) {
	if !linkNames.MatchString(s) || s == "." || s == ".." {
		s = ""
	}
	return s, "a link name"
}

func linkKey(s string) (string, string) {
	const what = "an interface LUID or GUID"
	if n, err := strconv.ParseUint(s, 10, 64); err == nil {
		return strconv.FormatUint(n, 10), what
	}
	if g, err := uuid.Parse(s); err == nil {
		return g.String(), what
	}
	return "", what
}

// zoneProfiles are the zones that a link can be in, and their profile ids.
var zoneProfiles = map[string]uint32{"public": ProfilePublic, "private": ProfilePrivate, "domain": ProfileDomain}

func zone(s string) (string, string) {
	s = strings.ToLower(s)
	if zoneProfiles[s] == 0 {
		s = ""
	}
	return s, "public, private or domain"
}

// strings returns a reader of a mapping of names.
func (m *Map) strings(what string, to map[string]string, key, value check) reader {
	return func(n *node) error {
		return n.entries(what, func(k, v *node) error {
			name, kind := key(k.text)
			if name == "" {
				return k.pos.errorf("%s: %q is not %s", what, clip(k.text), kind)
			}
			if err := v.expect(scalarNode, what+": "+clip(k.text)); err != nil {
				return err
			}
			val, kind := value(v.text)
			if val == "" {
				return v.pos.errorf("%s: %q is not %s", what, clip(v.text), kind)
			}
			// Keys that differ as text can be the same name: letter case, braces.
			if _, dup := to[name]; dup {
				return k.pos.errorf("%s: %q is there twice", what, clip(k.text))
			}
			to[name] = val
			return nil
		})
	}
}

func (m *Map) sids(n *node) error {
	return n.entries("sids", func(k, v *node) error {
		sid, err := filter.ParseSID(k.text)
		if err != nil {
			return k.pos.errorf("sids: %q is not a security identifier", clip(k.text))
		}
		if _, dup := m.SIDs[sid]; dup {
			return k.pos.errorf("sids: %q is there twice", clip(k.text))
		}
		if _, ok := unixSID(v.text); v.kind != scalarNode || !ok {
			return v.pos.errorf(`sids: %q is not "uid:N" or "gid:N"`, clip(v.text))
		}
		m.SIDs[sid] = v.text
		return nil
	})
}

func (m *Map) subLayers(n *node) error {
	return n.entries("subLayers", func(k, v *node) error {
		g, err := uuid.Parse(k.text)
		if err != nil {
			return k.pos.errorf("subLayers: %q is not a GUID", clip(k.text))
		}
		if _, dup := m.SubLayers[g]; dup {
			return k.pos.errorf("subLayers: %q is there twice", clip(k.text))
		}
		w, err := strconv.ParseUint(v.text, 10, 16)
		if err != nil || v.kind != scalarNode {
			return v.pos.errorf("subLayers: %q is not a weight of 0 to 65535", clip(v.text))
		}
		m.SubLayers[g] = uint16(w)
		return nil
	})
}

// unixSID reads "uid:N" or "gid:N".
func unixSID(s string) (filter.SID, bool) {
	kind, num, _ := strings.Cut(s, ":")
	n, err := strconv.ParseUint(num, 10, 32)
	switch {
	case err == nil && kind == "uid":
		return filter.UnixUser(uint32(n)), true
	case err == nil && kind == "gid":
		return filter.UnixGroup(uint32(n)), true
	}
	return "", false
}

// derivedLUID marks LUIDs that are made from a link's name. The top 16 bits of
// a Windows LUID are the IANA interface type, and 0xffff is none.
const derivedLUID = 0xffff << 48

// LUID returns the value that the INTERFACE fields have for a link: the Windows
// LUID that the map's links give it (the least, where they give several), else
// one derived from the name, whose top 16 bits are 0xffff so that it is never
// that of a Windows interface. A nil Map maps nothing.
func (m *Map) LUID(ifname string) uint64 {
	if n := m.windowsLUIDs(ifname); len(n) > 0 {
		return n[0]
	}
	h := fnv.New64a()
	h.Write([]byte(ifname))
	return h.Sum64() | derivedLUID
}

// windowsLUIDs returns the LUIDs that the map gives a link, ascending.
func (m *Map) windowsLUIDs(ifname string) []uint64 {
	var out []uint64
	if m == nil {
		return nil
	}
	for k, name := range m.Links {
		if n, err := strconv.ParseUint(k, 10, 64); err == nil && name == ifname {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out
}

// link returns the name that the map gives a LUID.
func (m *Map) link(luid uint64) (string, bool) {
	name, ok := m.Links[strconv.FormatUint(luid, 10)]
	return name, ok
}
