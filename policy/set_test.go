// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
)

// readList reads the text of a set's file; the ranges come back as text.
func readList(text string) (string, *filter.AddressSet, error) {
	var b filter.SetBuilder
	if err := readSet(&b, "list", strings.NewReader(text)); err != nil {
		return "", nil, err
	}
	s := b.Set("list", "list")
	var out []string
	for low, high := range s.All() {
		out = append(out, filter.RangeText(low, high))
	}
	return strings.Join(out, " "), s, nil
}

func TestSetFile(t *testing.T) {
	for _, tc := range []struct{ name, text, want string }{
		{"nothing", "", ""},
		{"comments only", "# a list\n\n  \n; of nothing\n", ""},
		{"one of each", "192.0.2.1\n10.0.0.0/8\n172.16.0.1-172.16.0.9\n", "10.0.0.0/8 172.16.0.1-172.16.0.9 192.0.2.1"},
		{"both families", "2001:db8::/32\n::1\nfd00::1-fd00::ff\n192.0.2.1\n", "192.0.2.1 ::1 2001:db8::/32 fd00::1-fd00::ff"},
		{"no line end", "192.0.2.1", "192.0.2.1"},
		{"lines of Windows", "\ufeff192.0.2.1\r\n\r\n198.51.100.0/24\r\n", "192.0.2.1 198.51.100.0/24"},
		{"comments behind", "192.0.2.1 # bad\n198.51.100.0/24 ; SBL1\n203.0.113.1;x#y\n203.0.113.3#x;y\n", "192.0.2.1 198.51.100.0/24 203.0.113.1 203.0.113.3"},
		{"blanks", "\t192.0.2.1  \n 10.0.0.1 - 10.0.0.3\n", "10.0.0.1-10.0.0.3 192.0.2.1"},
		{"host bits", "192.0.2.77/24\n2001:db8::77/64\n", "192.0.2.0/24 2001:db8::/64"},
		{"mapped", "::ffff:192.0.2.1\n", "192.0.2.1"},
		{"what overlaps", "10.0.0.0/8\n10.1.1.1\n11.0.0.0/8\n", "10.0.0.0/7"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, _, err := readList(tc.text)
			if err != nil || got != tc.want {
				t.Errorf("%q, error %v, want %q", got, err, tc.want)
			}
		})
	}
}

func TestSetFileErrors(t *testing.T) {
	for _, tc := range []struct{ name, text, want string }{
		{"a name", "192.0.2.1\nexample.org\n", `list:2:1: "example.org" is not an address, a prefix (192.0.2.0/24) or a range (192.0.2.1-192.0.2.9); correct or remove it: FWP_E_TYPE_MISMATCH`},
		{"the first bad line only", "bad\nworse\n", `list:1:1: "bad" is not`},
		{"indented", "  bad # as it is\n", `list:1:3: "bad" is not`},
		{"two in a line", "192.0.2.1 192.0.2.2\n", `"192.0.2.1 192.0.2.2" is not`},
		{"a prefix too long", "192.0.2.1/33\n", `"192.0.2.1/33" is not`},
		{"a mask", "192.0.2.0/255.255.255.0\n", `"192.0.2.0/255.255.255.0" is not`},
		{"a zone", "fe80::1%eth0\n", `"fe80::1%eth0" is not`},
		{"numbers that could be octal", "192.0.02.1\n", `"192.0.02.1" is not`},
		{"a range of two families", "10.0.0.1-::1\n", `"10.0.0.1-::1" is not`},
		{"a range upside down", "10.0.0.9-10.0.0.1\n", `list:1:1: "10.0.0.9-10.0.0.1" begins above its end; exchange the two: FWP_E_INVALID_RANGE`},
		{"a range of prefixes", "10.0.0.0/8-11.0.0.0/8\n", `is not an address`},
		{"UTF-16", "\xff\xfe1\x00\n\x00", "list:1:1: UTF-16 text; save the list as UTF-8 or ASCII"},
		{"binary", "\x7fELF\x00\x01\n", `is not an address`},
		{"a megabyte in a line", strings.Repeat("1", 1<<20), "list:1:1: line longer than 64 KiB"},
		{"a long line further down", "192.0.2.1\n" + strings.Repeat("#", 1<<20), "list:2:1: line longer than 64 KiB"},
		{"what would write to a terminal", "\x1b[2J\n", `list:1:1: "\x1b[2J" is not`},
		{"a long word", strings.Repeat("x", 1000) + "\n", strings.Repeat("x", 80) + `..." is not`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, _, err := readList(tc.text)
			var at *Error
			if err == nil || !errors.As(err, &at) || !strings.Contains(err.Error(), tc.want) || len(err.Error()) > 400 || strings.Contains(err.Error(), "\n") {
				t.Errorf("error %v\nwant %s", err, tc.want)
			}
		})
	}
}

// However the file comes, its lines are the same.
func TestSetFileInPieces(t *testing.T) {
	text := "\ufeff192.0.2.1\r\n# comment\n2001:db8::/32\n10.0.0.1-10.0.0.9"
	want, _, err := readList(text)
	if err != nil {
		t.Fatal(err)
	}
	var b filter.SetBuilder
	if err := readSet(&b, "list", iotest.OneByteReader(strings.NewReader(text))); err != nil {
		t.Fatal(err)
	}
	var got []string
	for low, high := range b.Set("", "").All() {
		got = append(got, filter.RangeText(low, high))
	}
	if strings.Join(got, " ") != want {
		t.Errorf("%q, want %q", got, want)
	}
	if err := readSet(&b, "list", iotest.ErrReader(errors.New("broken"))); err == nil || !strings.Contains(err.Error(), "list: broken") {
		t.Errorf("error %v", err)
	}
}

func TestSetFileLimits(t *testing.T) {
	list := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, "%d.%d.%d.%d\n", 10+i>>24, i>>16&255, i>>8&255, i&255)
		}
		return b.String()
	}
	_, s, err := readList(list(MaxSetEntries))
	if err != nil || s.Entries() != MaxSetEntries {
		t.Errorf("at the limit: %v", err)
	}
	_, _, err = readList(list(MaxSetEntries + 1))
	if want := "list:1048577:1: more than 1048576 entries; make it several sets"; err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
	line := strings.Repeat("#", 1023) + "\n"
	text := strings.Repeat(line, MaxSetFileSize/len(line))
	if _, _, err := readList(text); err != nil {
		t.Errorf("at the limit of the size: %v", err)
	}
	if _, _, err := readList(text + "\n"); err == nil || !strings.Contains(err.Error(), "list: larger than 128 MiB; make it several sets") {
		t.Errorf("error %v", err)
	}
	longest := strings.Repeat("#", setBlock-1) + "\n"
	if _, _, err := readList(longest + "192.0.2.1\n"); err != nil {
		t.Errorf("the longest line: %v", err)
	}
}

func TestLimitsOfAllSets(t *testing.T) {
	dir := t.TempDir()
	var b strings.Builder
	for i := range MaxSetEntries {
		fmt.Fprintf(&b, "1.%d.%d.%d\n", i>>16&255, i>>8&255, i&255)
	}
	put(t, dir, "list.txt", b.String())
	four := "wfpebpf: 1\nsets: {a: {file: list.txt}, b: {file: list.txt}, c: {file: list.txt}, d: {file: list.txt}"
	if _, err := Load([]string{put(t, dir, "p.yaml", four+"}\n")}, Options{}); err != nil {
		t.Errorf("at the limit: %v", err)
	}
	_, err := Load([]string{put(t, dir, "p.yaml", four+", e: [192.0.2.1]}\n")}, Options{})
	if err == nil || !strings.Contains(err.Error(), "p.yaml:2:92: the sets have more than 4194304 entries") {
		t.Errorf("error %v", err)
	}
	many := func(n int) string {
		var b strings.Builder
		b.WriteString("wfpebpf: 1\nsets:\n")
		for i := range n {
			fmt.Fprintf(&b, "  s%d: []\n", i)
		}
		return b.String()
	}
	loadText(t, many(MaxSets), nil)
	if _, err := LoadReader("policy", strings.NewReader(many(MaxSets+1)), Options{}); err == nil || err.Error() != "policy:1003:3: more than 1000 sets" {
		t.Errorf("error %v", err)
	}
}

// put writes a file and returns its path.
func put(t testing.TB, dir, name, text string) string {
	t.Helper()
	file := filepath.Join(dir, name)
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

const setFilters = `filters:
  - {name: Listed, layer: [INBOUND_IPPACKET_V4, INBOUND_IPPACKET_V6], action: BLOCK, conditions: [{IP_REMOTE_ADDRESS: {set: bad}}]}
  - {name: Strangers, layer: ALE_AUTH_CONNECT_V4, action: BLOCK, conditions: [{IP_REMOTE_ADDRESS: {match: NOT_EQUAL, set: ours}}]}
`

func TestSetsOfAPolicy(t *testing.T) {
	dir := t.TempDir()
	lists := filepath.Join(dir, "lists")
	if err := os.Mkdir(lists, 0o755); err != nil {
		t.Fatal(err)
	}
	put(t, lists, "bad.txt", "192.0.2.0/25\n192.0.2.128/25\n2001:db8::/32\n")
	file := put(t, dir, "policy.yaml", "wfpebpf: 1\n"+setFilters+
		"sets:\n  bad: {file: lists/bad.txt}\n  ours: [10.0.0.0/8, 172.16.0.1-172.16.0.9, \"fd00::/8\"]\n")
	p, err := Load([]string{file}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range p.Entries {
		if e.State != StateEnforced || len(e.Filter.Conditions) != 1 {
			t.Errorf("filter %d is %s with %d conditions", e.Filter.ID, outcome(e), len(e.Filter.Conditions))
		}
	}
	if len(p.Notes) > 0 {
		t.Errorf("notes %q", p.Notes)
	}
	if p.Store.Filter(1).Conditions[0].Value.Set != p.Store.Filter(2).Conditions[0].Value.Set {
		t.Error("the set is there twice")
	}
	for _, tc := range []struct {
		layer   layermap.LayerID
		addr    string
		blocked bool
	}{
		{layermap.InboundIPPacketV4, "192.0.2.200", true},
		{layermap.InboundIPPacketV4, "192.0.3.1", false},
		{layermap.InboundIPPacketV6, "2001:db8::1", true},
		{layermap.InboundIPPacketV6, "2001:db9::1", false},
		{layermap.ALEAuthConnectV4, "10.1.1.1", false},
		{layermap.ALEAuthConnectV4, "172.16.0.9", false},
		{layermap.ALEAuthConnectV4, "172.16.0.10", true},
	} {
		l := layermap.ByID(tc.layer)
		values := make(filter.Values, len(l.Fields))
		a := netip.MustParseAddr(tc.addr)
		if values[l.FieldIndex("IP_REMOTE_ADDRESS")] = filter.Addr4(a); a.Is6() {
			values[l.FieldIndex("IP_REMOTE_ADDRESS")] = filter.Addr16(a)
		}
		if got := filter.Arbitrate(p.Store, tc.layer, values, nil).Blocked(); got != tc.blocked {
			t.Errorf("%s at %v: blocked %t, want %t", tc.addr, tc.layer, got, tc.blocked)
		}
	}
	out, err := json.Marshal(p.Report())
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf(`"sets":[{"name":"bad","file":%q,"entries":3,"v4":1,"v6":1,"filters":2},{"name":"ours","file":"","entries":3,"v4":2,"v6":1,"filters":1}]`, filepath.Join(lists, "bad.txt"))
	if !strings.Contains(string(out), want) {
		t.Errorf("report %s\nlacks %s", out, want)
	}
	var text strings.Builder
	if err := p.Report().WriteText(&text); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"set \"bad\": 3 entries in 1 IPv4 and 1 IPv6 ranges, 2 filters, from ",
		"set \"ours\": 3 entries in 2 IPv4 and 1 IPv6 ranges, 1 filters\n",
	} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("the report lacks %q:\n%s", want, text.String())
		}
	}
	if strings.Contains(text.String(), "192.0.2") {
		t.Errorf("the report lists addresses:\n%s", text.String())
	}
}

func TestSetsThatHoldNothing(t *testing.T) {
	for _, tc := range []struct {
		name, sets, state string
		notes             []string
	}{
		{"empty", "sets: {bad: [], ours: [10.0.0.1]}",
			`unmatchable: IP_REMOTE_ADDRESS: set "bad" is empty|unmatchable: IP_REMOTE_ADDRESS: set "bad" is empty|enforced`,
			[]string{`set "bad", policy:5, is empty: nothing is in it`}},
		{"one family only", "sets: {bad: [192.0.2.1], ours: []}",
			`enforced|unmatchable: IP_REMOTE_ADDRESS: set "bad" has no IPv6 addresses|enforced`,
			[]string{`set "ours", policy:5, is empty: nothing is in it`}},
		{"not used", "sets: {bad: [\"::1\", 192.0.2.1], ours: [10.0.0.1], spare: [10.0.0.1]}", "enforced|enforced|enforced",
			[]string{`set "spare", policy:5, is in no condition`}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := loadText(t, "wfpebpf: 1\n"+setFilters+tc.sets+"\n", nil)
			var states []string
			for _, e := range p.Entries {
				states = append(states, outcome(e))
			}
			if got := strings.Join(states, "|"); got != tc.state {
				t.Errorf("%s\nwant %s", got, tc.state)
			}
			if fmt.Sprint(p.Notes) != fmt.Sprint(tc.notes) {
				t.Errorf("notes %q, want %q", p.Notes, tc.notes)
			}
		})
	}
}

func TestErrorsOfSets(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, "bad.txt", "192.0.2.1\nnonsense\n")
	if err := syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	cond := func(c string) string {
		return "sets: {s: [10.0.0.1]}\n" + strings.TrimPrefix(yamlOf("ALE_AUTH_CONNECT_V4", c), "wfpebpf: 1\n")
	}
	for _, tc := range []struct{ name, text, want string }{
		{"a missing file", "sets: {s: {file: none.txt}}", `p.yaml:2:18: set "s": open ` + dir + `/none.txt: no such file or directory`},
		{"a directory", "sets: {s: {file: .}}", `p.yaml:2:18: set "s": ` + dir + ` is a directory`},
		{"a FIFO", "sets: {s: {file: fifo}}", `/fifo is not a regular file: a set is read from nothing else`},
		{"a device", "sets: {s: {file: /dev/zero}}", `p.yaml:2:18: set "s": /dev/zero is not a regular file`},
		{"a bad line", "sets: {s: {file: bad.txt}}", dir + `/bad.txt:2:1: "nonsense" is not an address`},
		{"a bad entry", "sets: {s: [10.0.0.1, nonsense]}", `p.yaml:2:22: "nonsense" is not an address`},
		{"a list in a list", "sets: {s: [[10.0.0.1]]}", "p.yaml:2:12: an entry of a set must be a single value, not a list"},
		{"a single value", "sets: {s: 10.0.0.1}", `p.yaml:2:11: set "s" must be {file: PATH} or a list of addresses, not a single value`},
		{"nothing", "sets:\n  s:\n", `p.yaml:3:3: set "s" must be {file: PATH} or a list of addresses, not nothing`},
		{"an unknown key", "sets: {s: {files: a}}", `p.yaml:2:12: unknown key "files" in a set`},
		{"no file", "sets: {s: {file: \"\"}}", `set "s": {file: PATH} or a list of addresses is needed`},
		{"no name", "sets: {\"\": []}", "p.yaml:2:8: a set needs a name"},
		{"a list of sets", "sets: [a]", "sets must be a mapping, not a list"},
		{"twice", "sets: {s: [], s: []}", `key "s" is there twice`},
		{"unknown", cond("IP_REMOTE_ADDRESS: {set: other}"), `p.yaml:8:34: IP_REMOTE_ADDRESS: set "other" is not among the sets of this file: FWP_E_NOT_FOUND`},
		{"set and value", cond("IP_REMOTE_ADDRESS: {set: s, value: 10.0.0.1}"), "IP_REMOTE_ADDRESS: a condition has a value or a set, not both"},
		{"a list of names", cond("IP_REMOTE_ADDRESS: {set: [s]}"), "set must be a single value, not a list"},
		{"RANGE", cond("IP_REMOTE_ADDRESS: {match: RANGE, set: s}"), "IP_REMOTE_ADDRESS: a set goes with EQUAL (in it) or NOT_EQUAL (not in it): FWP_E_MATCH_TYPE_MISMATCH"},
		{"a port", cond("IP_REMOTE_PORT: {set: s}"), "p.yaml:8:31: IP_REMOTE_PORT: only a field that is an IP address can be in a set: FWP_E_TYPE_MISMATCH"},
		{"neither", cond("IP_REMOTE_ADDRESS: {match: EQUAL}"), "IP_REMOTE_ADDRESS: a condition needs a value"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			start := time.Now()
			p, err := Load([]string{put(t, dir, "p.yaml", "wfpebpf: 1\n"+tc.text)}, Options{})
			if p != nil || err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v\nwant %s", err, tc.want)
			}
			if took := time.Since(start); took > 5*time.Second {
				t.Errorf("took %s", took)
			}
		})
	}
	one := put(t, dir, "one.yaml", "wfpebpf: 1\nsets: {s: []}\n")
	if _, err := Load([]string{one, put(t, dir, "two.yaml", "wfpebpf: 1\nsets: {s: []}\n")}, Options{}); err == nil ||
		!strings.Contains(err.Error(), `two.yaml:2:8: set "s" is in `+one+`, too: FWP_E_ALREADY_EXISTS`) {
		t.Errorf("the same name in two files: %v", err)
	}
}

func FuzzSetFile(f *testing.F) {
	f.Add([]byte("\ufeff192.0.2.1\r\n# x\n2001:db8::/32 ; y\n10.0.0.1-10.0.0.9\n::ffff:1.2.3.4/120\n"))
	f.Add([]byte("fe80::1%eth0\n0.0.0.0/0\n::/0"))
	f.Fuzz(func(t *testing.T, data []byte) {
		start := time.Now()
		var b filter.SetBuilder
		err := readSet(&b, "fuzz", strings.NewReader(string(data)))
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("took %s", took)
		}
		var at *Error
		if err != nil && (!errors.As(err, &at) || at.Line == 0) {
			t.Fatalf("an error without a place: %v", err)
		}
		entries := b.Entries()
		s := b.Set("s", "")
		var text strings.Builder
		n := 0
		for low, high := range s.All() {
			if !s.Contains(low) || !s.Contains(high) {
				t.Fatalf("%s-%s is not in its set", low, high)
			}
			fmt.Fprintln(&text, filter.RangeText(low, high))
			n++
		}
		if n > entries {
			t.Fatalf("%d ranges of %d entries", n, entries)
		}
		// What a set is written as reads as the same set.
		_, back, err := readList(text.String())
		if err != nil || back.Digest() != s.Digest() {
			t.Fatalf("%q reads as another set (%v)", text.String(), err)
		}
	})
}

// longList is half a million lines, as published lists have them: mostly addresses, some
// prefixes.
func longList(family string) string {
	r := rand.New(rand.NewPCG(1, 2))
	var b strings.Builder
	for i := range 500_000 {
		if family == "v4" {
			fmt.Fprintf(&b, "%d.%d.%d.%d", 1+r.IntN(223), r.IntN(256), r.IntN(256), r.IntN(256))
		} else {
			fmt.Fprintf(&b, "2a0%x:%x:%x::%x", r.IntN(16), r.IntN(1<<16), r.IntN(1<<16), r.IntN(1<<16))
		}
		if i%8 == 0 {
			fmt.Fprintf(&b, "/%d", 20+r.IntN(12))
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func BenchmarkSetFile(b *testing.B) {
	for _, family := range []string{"v4", "v6"} {
		text := longList(family)
		b.Run("500000 "+family, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				var s filter.SetBuilder
				if err := readSet(&s, "list", strings.NewReader(text)); err != nil || s.Set("list", "list").Entries() != 500_000 {
					b.Fatal(err)
				}
			}
		})
	}
}
