// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/wfpebpf/wfpebpf/filter"
)

const (
	dhcpSID = "S-1-5-80-2940520708-3855866260-481812779-327648279-1710889582"
	userSID = "S-1-5-21-1-2-3-1001"
	svchost = `\device\harddiskvolume3\windows\system32\svchost.exe`
)

// What a filter of a dump becomes here, by what it tests and what the map says.
func TestIdentities(t *testing.T) {
	doSvc := string(filter.ServiceSID("DoSvc"))
	pkg := string(filter.PackageSID("Vendor.App_hash"))
	sid := func(match, s string) string { return condXML("ALE_PACKAGE_ID", match, "FWP_SID sid "+s) }
	luid := func(n string) string { return condXML("IP_ARRIVAL_INTERFACE", "EQUAL", "FWP_UINT64 uint64 "+n) }
	profile := func(n string) string { return condXML("ORIGINAL_PROFILE_ID", "EQUAL", "FWP_UINT32 uint32 "+n) }
	for _, tc := range []struct {
		name, conds, m, want string
	}{
		{"app, exact, letter case ignored", appXML("EQUAL", `\Device\X\A.exe`), `apps: {'\device\x\a.EXE': /bin/a}`, "enforced"},
		{"app, not mapped", appXML("EQUAL", `\device\x\a.exe`), "", `unmatchable: app \device\x\a.exe is not in the map`},
		{"app, one of two mapped", appXML("EQUAL", `\device\x\b.exe`) + appXML("EQUAL", `\device\x\a.exe`), `apps: {'\device\x\a.exe': /bin/a}`, "enforced"},
		{"app, not equal to one that is not here", appXML("NOT_EQUAL", `\device\x\a.exe`), "", "enforced"},
		{"app System", appXML("EQUAL", "System"), "", "enforced"},
		{"app below a volume", appXML("EQUAL", `\device\v\a.exe`), `volumes: {'\Device\V\': /nowhere}`, "enforced"},
		{"app that climbs out of a volume", appXML("EQUAL", `\device\v\..\a.exe`), `volumes: {'\device\v': /nowhere}`, `unmatchable: app \device\v\..\a.exe is not in the map`},

		{"user, mapped", userXML("D:(A;;CC;;;" + userSID + ")"), `sids: {` + userSID + `: "uid:1000"}`, "enforced"},
		{"group, mapped", userXML("D:(A;;CC;;;BA)"), `sids: {S-1-5-32-544: "gid:0"}`, "enforced"},
		{"user, not mapped", userXML("D:(A;;CC;;;" + userSID + ")"), "", "unmatchable: ALE_USER_ID: not in the map: " + userSID},
		{"Everyone", userXML("O:LSD:(A;;CC;;;AC)(A;;CC;;;WD)"), "", "enforced"},
		{"everyone denied before the user is allowed", userXML("D:(D;;CC;;;WD)(A;;CC;;;" + userSID + ")"), `sids: {` + userSID + `: "uid:1000"}`,
			"unmatchable: ALE_USER_ID: the access list admits no one"},
		{"the user denied before it is allowed", userXML("D:(D;;CC;;;" + userSID + ")(A;;CC;;;" + userSID + ")"), `sids: {` + userSID + `: "uid:1000"}`,
			"unmatchable: ALE_USER_ID: the access list admits no one"},
		{"another user denied", userXML("D:(D;;CC;;;BA)(A;;CC;;;" + userSID + ")"), `sids: {` + userSID + `: "uid:1000", S-1-5-32-544: "uid:7"}`, "enforced"},
		{"only a deny entry", userXML("D:(D;;CC;;;WD)"), "", "unmatchable: ALE_USER_ID: the access list admits no one"},
		{"service, mapped", userXML("O:SYG:SYD:(A;;CCRC;;;" + doSvc + ")"), "services: {dosvc: d.service}", "enforced"},
		{"service, not mapped, named by its hash", userXML("O:SYG:SYD:(A;;CCRC;;;" + dhcpSID + ")"), "",
			"unmatchable: ALE_USER_ID: not in the map: service Dhcp (" + dhcpSID + ")"},
		{"service in svchost.exe", appXML("EQUAL", svchost) + userXML("D:(A;;CC;;;"+doSvc+")"), "services: {DoSvc: d.service}", "enforced"},
		{"user in svchost.exe", appXML("EQUAL", svchost) + userXML("D:(A;;CC;;;"+userSID+")"), `sids: {` + userSID + `: "uid:1000"}`,
			"unmatchable: app " + svchost + " is not in the map"},
		{"service in another program", appXML("EQUAL", `\device\x\a.exe`) + userXML("D:(A;;CC;;;"+doSvc+")"), "services: {DoSvc: d.service}",
			`unmatchable: app \device\x\a.exe is not in the map`},

		{"package, none", sid("EQUAL", "S-1-0-0"), "", "enforced"},
		{"package, mapped", sid("EQUAL", pkg), "packages: {Vendor.App_hash: a.scope}", "enforced"},
		{"package, not mapped", sid("EQUAL", pkg), "", "unmatchable: ALE_PACKAGE_ID: package " + pkg + " is not in the map"},
		{"any package, none mapped", sid("NOT_EQUAL", "S-1-0-0"), "", "unmatchable: ALE_PACKAGE_ID: no package is mapped"},
		{"any package, one mapped", sid("NOT_EQUAL", "S-1-0-0"), "packages: {Vendor.App_hash: a.scope}", "enforced"},

		{"link, mapped", luid("5"), "links: {'5': eth0}", "enforced"},
		{"link, not mapped", luid("5"), "links: {'6': eth0}", "unmatchable: no link is mapped to LUID 5"},

		{"profile of every link", profile("1"), "", "enforced"},
		{"profile of a zone", profile("2"), "zones: {eth0: private}", "enforced"},
		{"profile of no link", profile("3"), "zones: {eth0: private}", "unmatchable: ORIGINAL_PROFILE_ID: no link is in profile 3 (domain)"},

		{"a value of what is always empty", condXML("ORIGINAL_ICMP_TYPE", "EQUAL", "FWP_UINT16 uint16 8"), "",
			"unmatchable: ORIGINAL_ICMP_TYPE is always empty here: ICMP is not judged at ALE yet"},
		{"the one value", condXML("ARRIVAL_TUNNEL_TYPE", "EQUAL", "FWP_UINT32 uint32 0"), "", "enforced"},
		{"a flag that there is", flagXML("FLAGS_ANY_SET", 0x1|0x2), "", "enforced"},
		{"only flags that there are not", flagXML("FLAGS_ANY_SET", 0x2|0x20), "",
			"unmatchable: no traffic here has these FLAGS; they come from the call or packet: IS_LOOPBACK, IS_APPCONTAINER_LOOPBACK, IS_NON_APPCONTAINER_LOOPBACK; IS_REAUTHORIZE"},
		{"all of flags, one of which there is not", flagXML("FLAGS_ALL_SET", 0x1|0x2), "",
			"unmatchable: no traffic here has these FLAGS; they come from the call or packet: IS_LOOPBACK, IS_APPCONTAINER_LOOPBACK, IS_NON_APPCONTAINER_LOOPBACK; IS_REAUTHORIZE"},
		{"none of flags that there are not", flagXML("FLAGS_NONE_SET", 0x2), "", "enforced"},
		{"one of two groups of flags", flagXML("FLAGS_ALL_SET", 0x2) + flagXML("EQUAL", 0x800001), "", "enforced"},
		{"a protocol that is judged, of two", condXML("IP_PROTOCOL", "EQUAL", "FWP_UINT8 uint8 1") + condXML("IP_PROTOCOL", "EQUAL", "FWP_UINT8 uint8 17"), "", "enforced"},
		{"no protocol at all", condXML("IP_PROTOCOL", "GREATER", "FWP_UINT8 uint8 255"), "", "unmatchable: no traffic has this IP_PROTOCOL"},
		{"all protocols but one", condXML("IP_PROTOCOL", "NOT_EQUAL", "FWP_UINT8 uint8 6"), "", "enforced"},
		{"another value", condXML("ARRIVAL_TUNNEL_TYPE", "EQUAL", "FWP_UINT32 uint32 1"), "", "unmatchable: ARRIVAL_TUNNEL_TYPE is always 0 here: Linux has no Teredo, ISATAP or IP-HTTPS tunnel types"},
		{"another value or the one", condXML("ARRIVAL_TUNNEL_TYPE", "EQUAL", "FWP_UINT32 uint32 1") + condXML("ARRIVAL_TUNNEL_TYPE", "EQUAL", "FWP_UINT32 uint32 0"), "", "enforced"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := loadText(t, dumpOf(testFilter{conditions: tc.conds}), mapText(t, tc.m))
			if got := outcome(p.Entries[0]); got != tc.want {
				t.Errorf("%s\nwant %s", got, tc.want)
			}
			if p.Store.Filter(1) == nil {
				t.Error("the filter is not in the store")
			}
		})
	}
}

// Nothing at these layers sees other protocols, and there is such traffic: the
// filter is not enforced, whatever it does.
func TestProtocolsThatAreNotJudged(t *testing.T) {
	for _, tc := range []struct{ layer, want string }{
		{"ALE_AUTH_CONNECT_V4", "refused: IP_PROTOCOL is that of the socket: TCP or UDP; others are not judged yet"},
		{"ALE_AUTH_RECV_ACCEPT_V6", "refused: IP_PROTOCOL is that of the socket: TCP or UDP; others are not judged yet"},
		{"ALE_RESOURCE_ASSIGNMENT_V4", "enforced"}, // raw sockets are of any protocol
	} {
		for _, action := range []string{"BLOCK", "PERMIT"} {
			t.Run(tc.layer+" "+action, func(t *testing.T) {
				p := loadText(t, fmt.Sprintf(
					"wfpebpf: 1\nfilters: [{name: f, layer: %s, action: %s, conditions: [{IP_PROTOCOL: [icmp, 50]}]}]\n", tc.layer, action), nil)
				if got := outcome(p.Entries[0]); got != tc.want {
					t.Errorf("%s\nwant %s", got, tc.want)
				}
			})
		}
	}
}

func TestServiceHostIsDropped(t *testing.T) {
	doSvc := string(filter.ServiceSID("DoSvc"))
	p := loadText(t, dumpOf(testFilter{conditions: appXML("EQUAL", svchost) + userXML("D:(A;;CC;;;"+doSvc+")")}),
		mapText(t, "services: {DoSvc: d.service}"))
	conds := p.Entries[0].Filter.Conditions
	if len(conds) != 1 || conds[0].Field != "ALE_USER_ID" {
		t.Errorf("conditions %v, want only ALE_USER_ID", conds)
	}
	if got := p.Services[filter.SID(doSvc)]; got != "d.service" {
		t.Errorf("the service's unit is %q", got)
	}
}

func TestUsersAreTranslatedInPlace(t *testing.T) {
	p := loadText(t, dumpOf(testFilter{conditions: userXML("D:(D;;CC;;;BA)(A;;CC;;;" + userSID + ")")}),
		mapText(t, `sids: {`+userSID+`: "uid:1000", S-1-5-32-544: "gid:0"}`))
	sd := p.Entries[0].Filter.Conditions[0].Value.SD
	for _, tc := range []struct {
		sids []filter.SID
		want bool
	}{
		{[]filter.SID{filter.UnixUser(1000)}, true},
		{[]filter.SID{filter.UnixUser(1000), filter.UnixGroup(0)}, false},
		{[]filter.SID{filter.UnixUser(1001)}, false},
	} {
		if got := sd.Grants(&filter.Token{SIDs: tc.sids}); got != tc.want {
			t.Errorf("%v granted: %t, want %t", tc.sids, got, tc.want)
		}
	}
}

func TestVolumeFindsTheSpellingOnDisk(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "Program Files", "Tool"), 0o755); err != nil {
		t.Fatal(err)
	}
	exe := filepath.Join(root, "Program Files", "Tool", "Tool.EXE")
	if err := os.WriteFile(exe, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	m := mapText(t, fmt.Sprintf("volumes: {'\\device\\v': %q}", root))
	for windows, want := range map[string]string{
		`\DEVICE\V\program files\tool\tool.exe`: exe,
		`\device\v\program files\other\x.exe`:   filepath.Join(root, "Program Files", "other", "x.exe"),
	} {
		if got, ok := m.app(windows); !ok || got != want {
			t.Errorf("%s is %q, want %q", windows, got, want)
		}
	}
}

func TestLinksAndQuarantine(t *testing.T) {
	p := loadFixture(t, "state.xml")
	want := LinkFacts{LUID: 1700000000000001, Profile: ProfilePrivate, Epoch: 7, EpochV6: 6, Mapped: true}
	if got := p.Links["eth0"]; got != want {
		t.Errorf("eth0 is %+v, want %+v", got, want)
	}
	if got := p.Links["wlan0"]; got.Epoch != 0 || !got.Mapped || got.Profile != ProfilePublic {
		t.Errorf("wlan0 is %+v, want mapped, public and in quarantine", got)
	}
	if p.DefaultProfile != ProfilePublic {
		t.Errorf("default profile %d, want public", p.DefaultProfile)
	}
	note := `quarantine: only mapped links leave quarantine: eth0; on every other link new inbound traffic meets the block filter "Quarantine block"`
	if len(p.Notes) == 0 || p.Notes[0] != note {
		t.Errorf("notes %q, want first %q", p.Notes, note)
	}
	if p := loadFixture(t, "filters.xml"); len(p.Notes) != 0 {
		t.Errorf("a dump without quarantine has the notes %q", p.Notes)
	}
}

func TestNoMappedLinkLeavesQuarantine(t *testing.T) {
	p, err := Load([]string{filepath.Join("testdata", "state.xml")}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Notes) == 0 || !strings.HasPrefix(p.Notes[0], "quarantine: no mapped link leaves quarantine") {
		t.Errorf("notes %q", p.Notes)
	}
}

func TestLUID(t *testing.T) {
	m := mapText(t, "links: {'9': eth0, '5': eth0}")
	var none *Map
	for _, tc := range []struct {
		name string
		m    *Map
		link string
		ok   func(uint64) bool
	}{
		{"the least of the map", m, "eth0", func(n uint64) bool { return n == 5 }},
		{"derived", m, "eth1", func(n uint64) bool { return n>>48 == 0xffff }},
		{"derived without a map", none, "eth1", func(n uint64) bool { return n == m.LUID("eth1") }},
	} {
		if n := tc.m.LUID(tc.link); !tc.ok(n) {
			t.Errorf("%s: %d", tc.name, n)
		}
	}
	// Both Windows LUIDs of a link lead to its one value here.
	p := loadText(t, dumpOf(testFilter{conditions: condXML("IP_ARRIVAL_INTERFACE", "EQUAL", "FWP_UINT64 uint64 9")}), m)
	if got := p.Entries[0].Filter.Conditions[0].Value.Num; got != 5 {
		t.Errorf("the condition has LUID %d, want 5", got)
	}
}
