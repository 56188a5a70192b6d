// SPDX-License-Identifier: Apache-2.0

// This file reads security descriptors in SDDL, as WFP filters on users and
// packages carry them, and decides whether a token is granted
// FWP_ACTRL_MATCH_FILTER. Only the access list decides; owner, group and audit
// list are read past.

package filter

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// ErrConditionalACE is the refusal of an access control entry whose effect
// depends on more than a SID: callback, object and resource entries. Leaving
// one out would change who is granted access, so the descriptor is refused.
var ErrConditionalACE = errors.New("conditional or object access control entry")

// AccessMatchFilter is FWP_ACTRL_MATCH_FILTER: the access that a condition on
// a user or package asks for.
const AccessMatchFilter uint32 = 0x1

// Bounds on what ParseSDDL reads. A self-relative descriptor's access list
// cannot pass 64 KiB either.
const (
	maxSDDLBytes   = 64 << 10
	maxSDDLEntries = 4096
)

// genericAll is what GENERIC_ALL stands for besides its own bit: the access
// check maps it to every right of the object.
const genericAll = 1 << 28

// accessRights are SDDL's two-letter rights. Those named after directory
// objects, files and keys are only numbers here, and 0x1 in them counts
// whatever it means for a file or a key. Of the generic rights GA alone is
// mapped, because no document gives WFP's mapping of the others.
var accessRights = map[string]uint32{
	"CC": 0x1, "DC": 0x2, "LC": 0x4, "SW": 0x8, "RP": 0x10, "WP": 0x20, "DT": 0x40, "LO": 0x80, "CR": 0x100,
	"SD": 0x10000, "RC": 0x20000, "WD": 0x40000, "WO": 0x80000,
	"GA": genericAll | AccessMatchFilter, "GX": 1 << 29, "GW": 1 << 30, "GR": 1 << 31,
	"FA": 0x1f01ff, "FR": 0x120089, "FW": 0x120116, "FX": 0x1200a0,
	"KA": 0xf003f, "KR": 0x20019, "KW": 0x20006, "KX": 0x20019,
}

// aceFlags are the flags of an entry. Only IO matters: such an entry is there
// to be inherited and takes no part in this object's access check.
var aceFlags = []string{"CI", "OI", "NP", "IO", "ID", "SA", "FA", "TP", "CR"}

// refusedACE are the entry types that belong to an access list and that an
// evaluation by SID cannot honour.
var refusedACE = map[string]bool{"XA": true, "XD": true, "OA": true, "OD": true, "ZA": true}

// ParseSDDL reads a security descriptor in text form. Syntax errors wrap
// ErrInvalidParameter; entries that an evaluation by SID cannot honour give
// ErrConditionalACE. An access list that is absent or NO_ACCESS_CONTROL grants
// everyone; one without entries grants nobody.
func ParseSDDL(text string) (*SecurityDescriptor, error) {
	if len(text) > maxSDDLBytes {
		return nil, fmt.Errorf("SDDL of %d bytes, %d allowed: %w", len(text), maxSDDLBytes, ErrInvalidParameter)
	}
	sd := &SecurityDescriptor{Text: text, NoDACL: true}
	p := sddlParser{rest: strings.TrimSpace(text)}
	seen := map[byte]bool{}
	for p.rest != "" {
		if len(p.rest) < 2 || p.rest[1] != ':' {
			return nil, p.fail("O:, G:, D: or S: expected")
		}
		part := upper(p.rest[0])
		if seen[part] {
			return nil, p.fail("part given twice")
		}
		seen[part] = true
		p.rest = p.rest[2:]
		var err error
		switch part {
		case 'O', 'G':
			err = p.principal()
		case 'D':
			sd.NoDACL, sd.Entries, err = p.accessList()
		case 'S':
			err = p.auditList()
		default:
			err = p.fail("O:, G:, D: or S: expected")
		}
		if err != nil {
			return nil, err
		}
	}
	return sd, nil
}

type sddlParser struct{ rest string }

func upper(c byte) byte {
	if 'a' <= c && c <= 'z' {
		return c - 'a' + 'A'
	}
	return c
}

// fail reports what is wrong and where, quoting little of what may be hostile.
func (p *sddlParser) fail(why string) error {
	at := p.rest
	if len(at) > 40 {
		at = at[:40] + "..."
	}
	return fmt.Errorf("SDDL at %q: %s: %w", at, why, ErrInvalidParameter)
}

// principal skips an owner or group: it runs to the next part's letter and
// colon or to the end. It takes no part in matching, but must be a SID.
func (p *sddlParser) principal() error {
	end := len(p.rest)
	if i := strings.IndexByte(p.rest, ':'); i >= 1 {
		end = i - 1
	}
	sid := strings.TrimSpace(p.rest[:end])
	// Domain-relative aliases (DA, DU, ...) are legal here and have no fixed SID.
	if len(sid) != 2 {
		if _, err := ParseSID(sid); err != nil {
			return fmt.Errorf("owner or group: %w", err)
		}
	}
	p.rest = p.rest[end:]
	return nil
}

// listFlags reads the flags before a list's entries. null is set by
// NO_ACCESS_CONTROL.
func (p *sddlParser) listFlags() (null bool, err error) {
	for p.rest != "" && p.rest[0] != '(' {
		if len(p.rest) >= 2 && p.rest[1] == ':' {
			break // the next part; no flag is followed by a colon
		}
		rest, found := "", false
		for _, f := range [...]string{"NO_ACCESS_CONTROL", "AI", "AR", "P", " "} {
			if len(p.rest) >= len(f) && strings.EqualFold(p.rest[:len(f)], f) {
				rest, found = p.rest[len(f):], true
				null = null || f == "NO_ACCESS_CONTROL"
				break
			}
		}
		if !found {
			return false, p.fail("unknown flag of a list")
		}
		p.rest = rest
	}
	return null, nil
}

// accessList reads what follows D:.
func (p *sddlParser) accessList() (null bool, entries []ACE, err error) {
	if null, err = p.listFlags(); err != nil {
		return false, nil, err
	}
	for n := 0; strings.HasPrefix(p.rest, "("); n++ {
		if n == maxSDDLEntries {
			return false, nil, p.fail("more than 4096 entries")
		}
		body, err := p.entry()
		if err != nil {
			return false, nil, err
		}
		ace, takesPart, err := parseACE(body)
		if err != nil {
			return false, nil, err
		}
		if takesPart {
			entries = append(entries, ace)
		}
	}
	if null && len(entries) > 0 {
		return false, nil, p.fail("NO_ACCESS_CONTROL with entries")
	}
	return null, entries, nil
}

// auditList skips what follows S:. Audit and label entries do not decide
// access, whatever their form.
func (p *sddlParser) auditList() error {
	if _, err := p.listFlags(); err != nil {
		return err
	}
	for n := 0; strings.HasPrefix(p.rest, "("); n++ {
		if n == maxSDDLEntries {
			return p.fail("more than 4096 entries")
		}
		if _, err := p.entry(); err != nil {
			return err
		}
	}
	return nil
}

// entry takes one parenthesised entry off the text and returns what is between
// its parentheses. Conditional entries hold further parentheses and strings.
func (p *sddlParser) entry() (string, error) {
	depth, quoted := 0, false
	for i := 0; i < len(p.rest); i++ {
		switch c := p.rest[i]; {
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '(':
			depth++
		case c == ')':
			if depth--; depth == 0 {
				body := p.rest[1:i]
				p.rest = strings.TrimLeft(p.rest[i+1:], " \t\r\n")
				return body, nil
			}
		}
	}
	return "", p.fail("entry without its closing parenthesis")
}

// parseACE reads type;flags;rights;object;inherited object;SID. takesPart is
// false for an entry that is only there to be inherited.
func parseACE(body string) (ace ACE, takesPart bool, err error) {
	f := strings.Split(body, ";")
	fail := func(why string) (ACE, bool, error) {
		return ACE{}, false, (&sddlParser{rest: body}).fail(why)
	}
	kind := strings.ToUpper(strings.TrimSpace(f[0]))
	if refusedACE[kind] {
		return ACE{}, false, fmt.Errorf("entry of type %s: %w", kind, ErrConditionalACE)
	}
	if kind != "A" && kind != "D" {
		return fail("unknown type of entry")
	}
	if len(f) > 6 {
		return ACE{}, false, fmt.Errorf("entry with a condition: %w", ErrConditionalACE)
	}
	if len(f) < 6 {
		return fail("an entry has six parts")
	}
	if strings.TrimSpace(f[3]) != "" || strings.TrimSpace(f[4]) != "" {
		return ACE{}, false, fmt.Errorf("entry for an object type: %w", ErrConditionalACE)
	}
	inheritOnly := false
	flags := strings.ToUpper(strings.TrimSpace(f[1]))
	for ; flags != ""; flags = flags[2:] {
		if len(flags) < 2 || !slices.Contains(aceFlags, flags[:2]) {
			return fail("unknown flag of an entry")
		}
		inheritOnly = inheritOnly || flags[:2] == "IO"
	}
	mask, ok := parseRights(strings.ToUpper(strings.TrimSpace(f[2])))
	if !ok {
		return fail("unknown access right")
	}
	sid, err := ParseSID(f[5])
	if err != nil {
		return ACE{}, false, err
	}
	return ACE{Allow: kind == "A", Mask: mask, SID: sid}, !inheritOnly, nil
}

// parseRights reads a number (0x hexadecimal, 0 octal, decimal) or a run of
// two-letter rights, in capitals.
func parseRights(s string) (mask uint32, ok bool) {
	if s != "" && s[0] >= '0' && s[0] <= '9' {
		n, err := strconv.ParseUint(s, 0, 32)
		if err != nil || strings.Contains(s, "_") {
			return 0, false
		}
		mask = uint32(n)
	} else {
		for ; s != ""; s = s[2:] {
			if len(s) < 2 {
				return 0, false
			}
			bit, known := accessRights[s[:2]]
			if !known {
				return 0, false
			}
			mask |= bit
		}
	}
	if mask&genericAll != 0 {
		mask |= AccessMatchFilter
	}
	return mask, true
}

// Grants reports whether a token passes the access check that a condition on a
// user stands for. The entries are taken in order: the first that is about
// FWP_ACTRL_MATCH_FILTER and names a SID the token holds decides. Where none
// does, access is refused. A nil token holds only Everyone.
func (sd *SecurityDescriptor) Grants(t *Token) bool {
	if sd == nil {
		return false
	}
	if sd.NoDACL {
		return true
	}
	for i := range sd.Entries {
		if e := &sd.Entries[i]; e.Mask&AccessMatchFilter != 0 && t.Holds(e.SID) {
			return e.Allow
		}
	}
	return false
}

// Holds reports whether the token holds a SID. Every token holds Everyone.
func (t *Token) Holds(s SID) bool {
	return s == SIDEveryone || t != nil && slices.Contains(t.SIDs, s)
}
