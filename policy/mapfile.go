// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"io"

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
}

// LoadMap reads a map file.
func LoadMap(file string) (*Map, error) { return nil, nil }

// LoadMapReader is LoadMap of a file that is already open.
func LoadMapReader(name string, r io.Reader) (*Map, error) { return nil, nil }

// LUID returns the value that the INTERFACE fields have for a link.
func (m *Map) LUID(ifname string) uint64 { return 0 }
