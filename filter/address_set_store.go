// SPDX-License-Identifier: Apache-2.0

// This file is how sets of addresses are kept outside of a process. JSON holds
// only what a set is called and the digest of its content, because a policy
// refers to it from many filters and its readers rarely want the addresses;
// these have a form of their own.

package filter

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
)

// digest is that of a set's binary form.
type digest [sha256.Size]byte

func (d digest) String() string { return hex.EncodeToString(d[:]) }

// setMagic begins the binary form; what follows are the two counts and the
// ranges of IPv4 and of IPv6, all in big-endian order.
var setMagic = []byte("wfpset\x00\x01")

const (
	setHeader  = 8 + 2*8
	range4Size = 2 * 4
	range6Size = 2 * 16
)

// MarshalBinary returns the addresses of the set, without its name.
func (s *AddressSet) MarshalBinary() ([]byte, error) {
	if !s.Loaded() {
		return nil, errors.New("the addresses of the set are not here")
	}
	return s.appendRanges(make([]byte, 0, setHeader+len(s.v4)*range4Size+len(s.v6)*range6Size), nil), nil
}

// appendRanges appends the binary form to b or, where h is given, hands it to h
// whenever b is full.
func (s *AddressSet) appendRanges(b []byte, h hash.Hash) []byte {
	room := func() {
		if h != nil && cap(b)-len(b) < range6Size {
			h.Write(b)
			b = b[:0]
		}
	}
	b = append(b, setMagic...)
	b = binary.BigEndian.AppendUint64(b, uint64(len(s.v4)))
	b = binary.BigEndian.AppendUint64(b, uint64(len(s.v6)))
	for _, r := range s.v4 {
		room()
		b = binary.BigEndian.AppendUint64(b, uint64(r.Low)<<32|uint64(r.High))
	}
	for _, r := range s.v6 {
		room()
		for _, n := range [...]uint64{r.Low.High, r.Low.Low, r.High.High, r.High.Low} {
			b = binary.BigEndian.AppendUint64(b, n)
		}
	}
	return b
}

func digestOf(s *AddressSet) (d digest) {
	h := sha256.New()
	h.Write(s.appendRanges(make([]byte, 0, 1<<14), h))
	h.Sum(d[:0])
	return d
}

// errSetData is what is wrong with data that is not the binary form of the set.
var errSetData = errors.New("not the addresses of the set")

// Load returns the set with its addresses, which are in the binary form. They
// must be those that the set had when it was written as JSON.
func (s *AddressSet) Load(data []byte) (*AddressSet, error) {
	if sha256.Sum256(data) != s.digest {
		return nil, fmt.Errorf("%s: %w", s, errSetData)
	}
	out := &AddressSet{name: s.name, source: s.source, entries: s.entries, digest: s.digest, loaded: true}
	if !out.read(data) || s.count != out.count {
		return nil, fmt.Errorf("%s: %w", s, errSetData)
	}
	return out, nil
}

// read reads the binary form; false where it is not that of any set.
func (s *AddressSet) read(data []byte) bool {
	rest, ok := bytes.CutPrefix(data, setMagic)
	if !ok || len(data) < setHeader {
		return false
	}
	n4, n6 := binary.BigEndian.Uint64(rest), binary.BigEndian.Uint64(rest[8:])
	rest = rest[16:]
	room := uint64(len(rest))
	if n4 > room/range4Size || n6 > room/range6Size || n4*range4Size+n6*range6Size != room {
		return false
	}
	s.v4, s.v6 = make([]Range4, n4), make([]Range6, n6)
	for i := range s.v4 {
		n := binary.BigEndian.Uint64(rest)
		rest = rest[8:]
		s.v4[i] = Range4{uint32(n >> 32), uint32(n)}
		if s.v4[i].High < s.v4[i].Low || i > 0 && s.v4[i].Low <= s.v4[i-1].High {
			return false
		}
	}
	word := func() uint64 {
		n := binary.BigEndian.Uint64(rest)
		rest = rest[8:]
		return n
	}
	for i := range s.v6 {
		r := &s.v6[i]
		*r = Range6{Addr6{word(), word()}, Addr6{word(), word()}}
		if r.High.Compare(r.Low) < 0 || i > 0 && r.Low.Compare(s.v6[i-1].High) <= 0 {
			return false
		}
	}
	s.count = [2]int{len(s.v4), len(s.v6)}
	return true
}

// setJSON is a set in JSON.
type setJSON struct {
	Name    string `json:"name"`
	Source  string `json:"source,omitempty"`
	Entries int    `json:"entries"`
	V4      int    `json:"v4"` // ranges
	V6      int    `json:"v6"`
	Digest  string `json:"digest"`
}

// MarshalJSON writes what the set is called and how large it is, never what is
// in it.
func (s *AddressSet) MarshalJSON() ([]byte, error) {
	return json.Marshal(setJSON{s.name, s.source, s.entries, s.count[0], s.count[1], s.Digest()})
}

// UnmarshalJSON reads what MarshalJSON wrote. The set has no addresses until
// Load gives it some, and until then no condition on it is valid.
func (s *AddressSet) UnmarshalJSON(data []byte) error {
	var j setJSON
	if err := json.Unmarshal(data, &j); err != nil {
		return err
	}
	sum, err := hex.DecodeString(j.Digest)
	if err != nil || len(sum) != sha256.Size || j.Entries < 0 || j.V4 < 0 || j.V6 < 0 {
		return errors.New("not the description of a set")
	}
	*s = AddressSet{name: j.Name, source: j.Source, entries: j.Entries, count: [2]int{j.V4, j.V6}, digest: digest(sum)}
	return nil
}
