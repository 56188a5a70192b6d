// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/wfpebpf/wfpebpf/filter"
)

func TestMapFile(t *testing.T) {
	m, err := LoadMap(filepath.Join("testdata", "map.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for what, ok := range map[string]bool{
		"apps, in lower case":        m.Apps[`\device\harddiskvolume9\tools\tool.exe`] == "/usr/bin/tool",
		"volumes":                    m.Volumes[`\device\harddiskvolume3`] == "/mnt/c",
		"services":                   m.Services["DoSvc"] == "transmission-daemon.service",
		"sids":                       m.SIDs["S-1-5-32-544"] == "gid:0",
		"packages":                   m.Packages["Vendor.App_hash"] == "app-flatpak-org.example.App",
		"links by LUID":              m.Links["1700000000000001"] == "eth0",
		"links by GUID, in one form": m.Links["5738a093-cc56-49de-8053-856154e02479"] == "wlan0",
		"zones":                      m.Zones["eth0"] == "private",
		"subLayers":                  len(m.SubLayers) == 1,
	} {
		if !ok {
			t.Errorf("%s not read", what)
		}
	}
}

func TestMappedPackages(t *testing.T) {
	p := loadFixture(t, "policy.yaml")
	if got := p.Packages[filter.PackageSID("Vendor.App_hash")]; got != "app-flatpak-org.example.App" {
		t.Errorf("the package's scope is %q", got)
	}
}

func TestMapFileErrors(t *testing.T) {
	for _, tc := range []struct{ text, want string }{
		{"app: {}\n", `map:1:1: unknown key "app" in the map file`},
		{"apps: {}\napps: {}\n", `map:2:1: key "apps" is there twice, first in line 1`},
		{"links: {'1': eth0, '1': eth1}\n", `map:1:20: key "1" is there twice`},
		{"links: {'1': eth0, '01': eth1}\n", `map:1:20: links: "01" is there twice`},
		{"apps: {'C:\\A': /a, 'c:\\a': /b}\n", `is there twice`},
		{"apps: [a]\n", "map:1:7: apps must be a mapping, not a list"},
		{"apps: {'c:\\a': bin/a}\n", `apps: "bin/a" is not an absolute Linux path`},
		{"links: {eth0: '1'}\n", `map:1:9: links: "eth0" is not an interface LUID or GUID`},
		{"links: {'1': 'a link'}\n", `map:1:14: links: "a link" is not a link name`},
		{"zones: {eth0: home}\n", `map:1:15: zones: "home" is not public, private or domain`},
		{"sids: {S-1: 'uid:1'}\n", `map:1:8: sids: "S-1" is not a security identifier`},
		{"sids: {S-1-5-18: root}\n", `map:1:18: sids: "root" is not "uid:N" or "gid:N"`},
		{"subLayers: {WF: 2}\n", `subLayers: "WF" is not a GUID`},
		{"subLayers: {'{33333333-2222-3333-4444-555555555555}': -1}\n", `"-1" is not a weight of 0 to 65535`},
		{"services: {DoSvc: [a]}\n", "services: DoSvc must be a single value, not a list"},
	} {
		if _, err := LoadMapReader("map", strings.NewReader(tc.text)); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%serror %v\nwant %s", tc.text, err, tc.want)
		}
	}
}
