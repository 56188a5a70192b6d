// SPDX-License-Identifier: Apache-2.0

// This file makes and reads security identifiers: those that Windows derives
// from names (services, app packages), those that stand for Linux users and
// groups, and the two-letter aliases of SDDL.

package filter

import (
	"crypto/sha1"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf16"
)

// Further well-known security identifiers.
const (
	SIDLocalSystem    SID = "S-1-5-18"
	SIDLocalService   SID = "S-1-5-19"
	SIDNetworkService SID = "S-1-5-20"
	SIDAdministrators SID = "S-1-5-32-544"
	SIDUsers          SID = "S-1-5-32-545"
	SIDAuthenticated  SID = "S-1-5-11"
	// SIDAllAppPackages is held by every AppContainer.
	SIDAllAppPackages SID = "S-1-15-2-1"
)

const (
	servicePrefix   = "S-1-5-80"
	packagePrefix   = "S-1-15-2"
	unixUserPrefix  = "S-1-22-1-"
	unixGroupPrefix = "S-1-22-2-"
)

// ServiceSID returns the SID of a Windows service, S-1-5-80 followed by the
// SHA-1 of the name. The name is the short one (Dnscache), in any letter case.
func ServiceSID(name string) SID {
	sum := sha1.Sum(utf16LE(strings.ToUpper(name)))
	return hashedSID(servicePrefix, sum[:])
}

// PackageSID returns the SID of an AppContainer, S-1-15-2 followed by the first
// 28 bytes of the SHA-256 of the package family name, in any letter case.
func PackageSID(familyName string) SID {
	sum := sha256.Sum256(utf16LE(strings.ToLower(familyName)))
	return hashedSID(packagePrefix, sum[:28])
}

// hashedSID appends the bytes as little-endian 32-bit subauthorities.
func hashedSID(prefix string, sum []byte) SID {
	s := prefix
	for ; len(sum) >= 4; sum = sum[4:] {
		s += "-" + strconv.FormatUint(uint64(binary.LittleEndian.Uint32(sum)), 10)
	}
	return SID(s)
}

func utf16LE(s string) []byte {
	var b []byte
	for _, u := range utf16.Encode([]rune(s)) {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return b
}

// UnixUser returns the SID of a Linux user, S-1-22-1-UID.
func UnixUser(uid uint32) SID {
	return SID(unixUserPrefix + strconv.FormatUint(uint64(uid), 10))
}

// UnixGroup returns the SID of a Linux group, S-1-22-2-GID.
func UnixGroup(gid uint32) SID {
	return SID(unixGroupPrefix + strconv.FormatUint(uint64(gid), 10))
}

// ParseUnix returns what UnixUser or UnixGroup made a SID from. kind is "user"
// or "group"; ok is false for any other SID.
func ParseUnix(s SID) (kind string, id uint32, ok bool) {
	for _, p := range [...]struct{ prefix, kind string }{{unixUserPrefix, "user"}, {unixGroupPrefix, "group"}} {
		if rest, found := strings.CutPrefix(string(s), p.prefix); found {
			n, err := strconv.ParseUint(rest, 10, 32)
			if err != nil {
				return "", 0, false
			}
			return p.kind, uint32(n), true
		}
	}
	return "", 0, false
}

// sidAliases are SDDL's two-letter names of SIDs that are the same on every
// machine. Those that depend on a domain (DA, DU, ...) have no fixed SID.
var sidAliases = map[string]SID{
	"WD": SIDEveryone, "AN": SIDAnonymous, "AU": SIDAuthenticated, "AC": SIDAllAppPackages,
	"SY": SIDLocalSystem, "LS": SIDLocalService, "NS": SIDNetworkService,
	"BA": SIDAdministrators, "BU": SIDUsers,
	"BG": "S-1-5-32-546", "PU": "S-1-5-32-547", "AO": "S-1-5-32-548", "SO": "S-1-5-32-549",
	"PO": "S-1-5-32-550", "BO": "S-1-5-32-551", "RE": "S-1-5-32-552", "RU": "S-1-5-32-554",
	"RD": "S-1-5-32-555", "NO": "S-1-5-32-556", "MU": "S-1-5-32-558", "LU": "S-1-5-32-559",
	"IS": "S-1-5-32-568", "CY": "S-1-5-32-569", "ER": "S-1-5-32-573", "CD": "S-1-5-32-574",
	"RA": "S-1-5-32-575", "ES": "S-1-5-32-576", "MS": "S-1-5-32-577", "HA": "S-1-5-32-578",
	"AA": "S-1-5-32-579", "RM": "S-1-5-32-580",
	"NU": "S-1-5-2", "IU": "S-1-5-4", "SU": "S-1-5-6", "ED": "S-1-5-9", "PS": "S-1-5-10",
	"RC": "S-1-5-12", "WR": "S-1-5-33", "UD": "S-1-5-84-0-0-0-0-0",
	"CO": "S-1-3-0", "CG": "S-1-3-1", "OW": "S-1-3-4",
	"LW": "S-1-16-4096", "ME": "S-1-16-8192", "MP": "S-1-16-8448", "HI": "S-1-16-12288", "SI": "S-1-16-16384",
	"AS": "S-1-18-1", "SS": "S-1-18-2",
}

// maxSubAuthorities is SID_MAX_SUB_AUTHORITIES.
const maxSubAuthorities = 15

// ParseSID reads a SID written as S-1-..., or as one of SDDL's two-letter
// aliases that mean the same on every machine. The result is in the one
// spelling that compares: a capital S, decimal numbers, no leading zeros.
// Errors wrap ErrInvalidParameter.
func ParseSID(text string) (SID, error) {
	text = strings.ToUpper(strings.TrimSpace(text))
	if s, ok := sidAliases[text]; ok {
		return s, nil
	}
	bad := func(why string) (SID, error) {
		if len(text) > 200 {
			text = text[:200] + "..."
		}
		return "", fmt.Errorf("SID %q: %s: %w", text, why, ErrInvalidParameter)
	}
	rest, ok := strings.CutPrefix(text, "S-1-")
	if !ok {
		return bad("neither S-1-... nor an alias that means the same on every machine")
	}
	parts := strings.SplitN(rest, "-", maxSubAuthorities+2)
	if len(parts) > maxSubAuthorities+1 {
		return bad("more than 15 subauthorities")
	}
	out := "S-1"
	for i, p := range parts {
		bits, base := 32, 10
		if i == 0 {
			bits = 48 // the identifier authority has six bytes
		}
		if hex, ok := strings.CutPrefix(p, "0X"); ok {
			p, base = hex, 16
		}
		n, err := strconv.ParseUint(p, base, bits)
		if err != nil {
			return bad("a part is not a number of its size")
		}
		out += "-" + strconv.FormatUint(n, 10)
	}
	return SID(out), nil
}
