// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"errors"
	"strings"
	"testing"
)

func TestDerivedSIDs(t *testing.T) {
	for _, c := range []struct{ name, got, want SID }{
		{"service", ServiceSID("DoSvc"), "S-1-5-80-3055155277-3816794035-3994065555-2874236192-2193176987"},
		{"service in capitals", ServiceSID("DOSVC"), ServiceSID("dosvc")},
		{"package", PackageSID("microsoft.win32webviewhost_cw5n1h2txyewy"), "S-1-15-2-1310292540-1029022339-4008023048-2190398717-53961996-4257829345-603366646"},
		{"package in capitals", PackageSID("Microsoft.Win32WebViewHost_cw5n1h2txyewy"), PackageSID("microsoft.win32webviewhost_cw5n1h2txyewy")},
		{"user", UnixUser(1000), "S-1-22-1-1000"},
		{"group", UnixGroup(4294967295), "S-1-22-2-4294967295"},
	} {
		if c.got != c.want {
			t.Errorf("%s: %s, want %s", c.name, c.got, c.want)
		}
	}
	for _, c := range []struct {
		sid  SID
		kind string
		id   uint32
		ok   bool
	}{
		{UnixUser(7), "user", 7, true}, {UnixGroup(7), "group", 7, true}, {"S-1-22-1-4294967296", "", 0, false},
		{"S-1-22-1-", "", 0, false}, {"S-1-22-3-1", "", 0, false}, {SIDEveryone, "", 0, false},
	} {
		if kind, id, ok := ParseUnix(c.sid); kind != c.kind || id != c.id || ok != c.ok {
			t.Errorf("ParseUnix(%s) = %s %d %v", c.sid, kind, id, ok)
		}
	}
}

func TestParseSID(t *testing.T) {
	for text, want := range map[string]SID{
		"WD": SIDEveryone, "an": SIDAnonymous, "SY": "S-1-5-18", "LS": "S-1-5-19", "NS": "S-1-5-20",
		"BA": "S-1-5-32-544", "BU": "S-1-5-32-545", "AU": "S-1-5-11", "AC": "S-1-15-2-1",
		"s-1-5-18": "S-1-5-18", "S-1-05-018": "S-1-5-18", "S-1-0x5-18": "S-1-5-18", " S-1-1-0 ": "S-1-1-0",
	} {
		if got, err := ParseSID(text); err != nil || got != want {
			t.Errorf("ParseSID(%q) = %s, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "ZZ", "DA", "S-1", "S-1-", "S-2-5-18", "S-1-5-4294967296", "S-1-5--1", "S-1-5-18-", "S-1-1" + strings.Repeat("-1", 16)} {
		if got, err := ParseSID(text); !errors.Is(err, ErrInvalidParameter) {
			t.Errorf("ParseSID(%q) = %s, %v", text, got, err)
		}
	}
}

func TestGrants(t *testing.T) {
	alice, staff := UnixUser(1000), UnixGroup(50)
	for _, c := range []struct {
		name, text string
		holds      []SID
		want       bool
	}{
		{"user", "D:(A;;CC;;;S-1-22-1-1000)", []SID{alice}, true},
		{"another user", "D:(A;;CC;;;S-1-22-1-1001)", []SID{alice}, false},
		{"group", "O:LSD:(A;;CC;;;S-1-22-2-50)", []SID{alice, staff}, true},
		{"deny first", "D:(D;;CC;;;S-1-22-2-50)(A;;CC;;;S-1-22-1-1000)", []SID{alice, staff}, false},
		{"allow first", "D:(A;;CC;;;S-1-22-1-1000)(D;;CC;;;S-1-22-2-50)", []SID{alice, staff}, true},
		{"Everyone is always held", "D:(A;;CC;;;WD)", nil, true},
		{"deny Everyone", "D:(D;;CC;;;WD)(A;;CC;;;S-1-22-1-1000)", []SID{alice}, false},
		{"other right", "D:(A;;RC;;;WD)", nil, false},
		{"deny of another right", "D:(D;;RC;;;WD)(A;;CCRC;;;WD)", nil, true},
		{"hexadecimal right", "D:(A;;0x20001;;;WD)", nil, true},
		{"decimal right", "D:(A;;1;;;WD)", nil, true},
		{"GA", "D:(A;;GA;;;WD)", nil, true},
		{"GA as a number", "D:(A;;0x10000000;;;WD)", nil, true},
		{"GR is not mapped", "D:(A;;GR;;;WD)", nil, false},
		{"inherit only", "D:(A;CIIO;CC;;;WD)", nil, false},
		{"no propagation is not inherit only", "D:(A;NP;CC;;;WD)", nil, true},
		{"no entries", "D:", []SID{alice}, false},
		{"protected, no entries", "D:P", []SID{alice}, false},
		{"null DACL", "D:NO_ACCESS_CONTROL", nil, true},
		{"protected null DACL", "O:SYG:SYD:PNO_ACCESS_CONTROL", nil, true},
		{"no DACL", "O:SYG:SY", nil, true},
		{"audit list is ignored", "D:(A;;CC;;;WD)S:NO_ACCESS_CONTROL", nil, true},
		{"audit entries are ignored", "D:PAI(A;;CC;;;WD)S:AI(AU;SAFA;CC;;;WD)(ML;;NW;;;LW)", nil, true},
		{"domain owner", "O:DAG:DUD:(A;;CC;;;WD)", nil, true},
		{"lower case", "o:syd:(a;;cc;;;wd)", nil, true},
	} {
		sd, err := ParseSDDL(c.text)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if got := sd.Grants(&Token{SIDs: c.holds}); got != c.want {
			t.Errorf("%s: %s grants %v = %v", c.name, c.text, c.holds, got)
		}
	}
	if (*SecurityDescriptor)(nil).Grants(nil) {
		t.Error("a missing security descriptor grants")
	}
}

func TestParseSDDLRefuses(t *testing.T) {
	for text, want := range map[string]error{
		`D:(XA;;CC;;;WD;(@User.Title=="(VP"))`:                ErrConditionalACE,
		`D:(XD;;CC;;;WD;(Member_of {SID(BA)}))`:               ErrConditionalACE,
		`D:(A;;CC;;;WD;(WIN://SYSAPPID Contains "x"))`:        ErrConditionalACE,
		`D:(OA;;CC;4828CC14-1437-45BC-9B07-AD6F015E5F28;;WD)`: ErrConditionalACE,
		`D:(A;;CC;4828CC14-1437-45BC-9B07-AD6F015E5F28;;WD)`:  ErrConditionalACE,
		`D:(A;;CC;;;WD`:                   ErrInvalidParameter,
		`D:(A;;CC;;WD)`:                   ErrInvalidParameter,
		`D:(A;;C;;;WD)`:                   ErrInvalidParameter,
		`D:(A;;ZZ;;;WD)`:                  ErrInvalidParameter,
		`D:(A;ZZ;CC;;;WD)`:                ErrInvalidParameter,
		`D:(A;;CC;;;DA)`:                  ErrInvalidParameter,
		`D:(A;;0x100000000;;;WD)`:         ErrInvalidParameter,
		`D:(AU;;CC;;;WD)`:                 ErrInvalidParameter,
		`D:(A;;CC;;;WD)D:(A;;CC;;;WD)`:    ErrInvalidParameter,
		`D:(A;;CC;;;WD)junk`:              ErrInvalidParameter,
		`D:NO_ACCESS_CONTROL(A;;CC;;;WD)`: ErrInvalidParameter,
		`X:SY`:                            ErrInvalidParameter,
		`O:D:`:                            ErrInvalidParameter,
		`(A;;CC;;;WD)`:                    ErrInvalidParameter,
		"D:" + strings.Repeat("(A;;CC;;;WD)", 4097): ErrInvalidParameter,
		strings.Repeat(" ", 64<<10) + "D:":          ErrInvalidParameter,
	} {
		if sd, err := ParseSDDL(text); !errors.Is(err, want) {
			t.Errorf("ParseSDDL(%.60q) = %v, %v, want %v", text, sd, err, want)
		}
	}
}

func FuzzParseSDDL(f *testing.F) {
	f.Add("O:SYG:SYD:(A;;CCRC;;;S-1-5-80-3055155277-3816794035-3994065555-2874236192-2193176987)")
	f.Add("O:LSD:(A;;CC;;;S-1-15-3-1)(A;;CC;;;WD)(A;;CC;;;AN)")
	f.Add(`D:PAI(D;CIIO;0x1;;;BA)(XA;;CC;;;WD;(a == "b)"))S:NO_ACCESS_CONTROL`)
	f.Fuzz(func(t *testing.T, text string) {
		sd, err := ParseSDDL(text)
		if err != nil {
			if sd != nil {
				t.Error("descriptor beside an error")
			}
			return
		}
		// What is written from the entries must decide as the original does.
		full := sdText(&SecurityDescriptor{NoDACL: sd.NoDACL, Entries: sd.Entries})
		again, err := ParseSDDL(full)
		switch {
		case len(full) > maxSDDLBytes: // a SID is longer than its alias
			if !errors.Is(err, ErrInvalidParameter) {
				t.Errorf("%d bytes: %v", len(full), err)
			}
			return
		case err != nil:
			t.Fatalf("%q, rewritten as %q: %v", text, full, err)
		}
		for _, token := range []*Token{nil, {SIDs: []SID{SIDAdministrators, UnixUser(0)}}} {
			if sd.Grants(token) != again.Grants(token) {
				t.Errorf("%q decides otherwise when rewritten", text)
			}
		}
	})
}
