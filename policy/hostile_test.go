// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"
)

// placed is what every error about the contents of a file begins with.
var placed = regexp.MustCompile(`^hostile:\d+:\d+: `)

// numbered repeats a line with a number in it.
func numbered(format string) string {
	var b strings.Builder
	for i := range 200_000 {
		fmt.Fprintf(&b, format, i)
	}
	return b.String()
}

func TestHostileFiles(t *testing.T) {
	deepXML := strings.Repeat("<a>", 100_000)
	bomb := `<!DOCTYPE wfpdiag [<!ENTITY a "aaaaaaaaaa">` + strings.Repeat(`<!ENTITY b "&a;&a;&a;&a;">`, 10) + `]><wfpdiag><filters>&b;</filters></wfpdiag>`
	good := dumpOf(testFilter{conditions: condXML("IP_LOCAL_PORT", "EQUAL", "FWP_UINT16 uint16 80")})
	long := strings.Repeat("x", 10<<20)
	for _, tc := range []struct{ name, text, want string }{
		{"entity bomb", bomb, "document type declarations are not accepted"},
		{"undeclared entity", "<wfpdiag><filters>&lol;</filters></wfpdiag>", "invalid character entity"},
		{"10 MB string", strings.Replace(good, "Filter 1", long, 1), "longer than 1 MiB"},
		{"10 MB attribute", "<wfpdiag a='" + long + "'>", "EOF"},
		{"deep nesting", "<wfpdiag><filters>" + deepXML, "nested deeper than 64"},
		{"deep nesting in a filter", "<wfpdiag><filters><item>" + deepXML, "nested deeper than 64"},
		{"truncated", good[:len(good)/2], "EOF"},
		{"truncated in a tag", good[:strings.Index(good, "matchType")], "EOF"},
		{"tags crossed", "<wfpdiag><filters></wfpdiag></filters>", "closed by"},
		{"another root", "<html><body/></html>", "<html> is not the output of netsh wfp"},
		{"text beside the root", "<wfpdiag/>text", "text outside of the root"},
		{"letters where a number belongs", strings.Replace(good, "<filterId>1<", "<filterId>one<", 1), `<filterId> is "one"`},
		{"no filter id", strings.Replace(good, "<filterId>1</filterId>", "", 1), `<filterId> is ""`},
		{"number out of range", strings.Replace(good, ">80<", ">65536<", 1), `<uint16> is "65536", not a number of 16 bits`},
		{"value of another type", strings.Replace(good, ">80<", ">\u0664<", 1), "not a number of 16 bits"},
		{"no value", strings.Replace(good, "<uint16>80</uint16>", "", 1), "has no value"},
		{"two values", strings.Replace(good, "<uint16>80</uint16>", "<uint16>80</uint16><uint32>81</uint32>", 1), "<conditionValue> of type FWP_UINT16 has two values"},
		{"a value twice", strings.Replace(good, "<uint16>80</uint16>", "<uint16>80</uint16><uint16>81</uint16>", 1), "<uint16> is there twice in <conditionValue>"},
		{"a condition without a value", strings.Replace(good, "conditionValue>", "otherValue>", 2), "IP_LOCAL_PORT: the condition has no value"},
		{"a filter id twice", strings.Replace(good, "</filterId>", "</filterId><filterId>2</filterId>", 1), "<filterId> is there twice in <item>"},
		{"conditions that are no items", strings.Replace(good, "<filterCondition>", "<filterCondition><condition/>", 1), "<filterCondition> holds <condition>, not <item> alone"},
		{"flags that are text", strings.Replace(good, "<flags>", "<flags>FWPM_FILTER_FLAG_BOOTTIME", 1), `<flags> is "FWPM_FILTER_FLAG_BOOTTIME", not a list of <item>`},
		{"many members", strings.Replace(good, "<flags>", numbered("<a%d/>")+"<flags>", 1), "has more than 100 members"},
		{"another encoding", `<?xml version="1.0" encoding="ISO-8859-1"?>` + good, "not UTF-8"},
		{"no GUID", strings.Replace(good, "{0000", "{xxxx", 1), "is not a GUID"},
		{"blob that is no hexadecimal", dumpOf(testFilter{conditions: condXML("ALE_APP_ID", "EQUAL", "FWP_BYTE_BLOB_TYPE byteBlob <data>5</data>")}), "not hexadecimal"},
		{"address that is none", dumpOf(testFilter{conditions: condXML("IP_REMOTE_ADDRESS", "EQUAL", "FWP_V4_ADDR_MASK v4AddrMask <addr>10.0.0.999</addr><mask>255.0.0.0</mask>")}), "not an IPv4 address"},
		{"range of one end", dumpOf(testFilter{conditions: condXML("IP_LOCAL_PORT", "RANGE", "FWP_RANGE_TYPE rangeValue <valueLow><type>FWP_UINT16</type><uint16>1</uint16></valueLow>")}), "has no <valueHigh>"},

		{"YAML: 10 MB string", "wfpebpf: 1\nproviders: " + long, "line longer than 1 MiB"},
		{"YAML: long text over lines", "wfpebpf: 1\nproviders:\n  - key: a\n    name: |\n" + strings.Repeat("      "+strings.Repeat("x", 1000)+"\n", 2000), "longer than 1 MiB"},
		{"YAML: deep flow", "wfpebpf: " + strings.Repeat("[", 100_000), "nested deeper than 64"},
		{"YAML: deep blocks", strings.Repeat("- ", 100_000), "nested deeper than 64"},
		{"YAML: deep indents", func() string {
			var b strings.Builder
			for i := range 500 {
				fmt.Fprintf(&b, "%*sa:\n", i, "")
			}
			return b.String()
		}(), "nested deeper than 64"},
		{"YAML: alias bomb", "a: &a [1,1]\nb: &b [*a,*a,*a]\nc: [*b,*b,*b]\n", "anchors, aliases and tags"},
		{"YAML: tag", "wfpebpf: !!int 1\n", "anchors, aliases and tags"},
		{"YAML: merge", "wfpebpf: 1\n<<: {filters: []}\n", ""},
		{"YAML: anchors in a row", strings.Repeat("&a ", 100_000), "anchors, aliases and tags"},
		{"YAML: many keys", numbered("k%d: 1\n"), "more than 10000 keys"},
		{"YAML: many keys with dashes", numbered("-k%d: 1\n"), "more than 10000 keys"},
		{"YAML: many keys of lists", numbered("k%d:\n- a\n"), "more than 10000 keys"},
		{"YAML: many keys in lines of CR", numbered("k%d: 1\r"), "more than 10000 keys"},
		{"YAML: many documents", numbered("k%d: 1\n---\n"), "more than 10000 keys"},
		{"YAML: items left out", "f:\n" + strings.Repeat("-\n", 200_000), "more than 1000 values left out"},
		{"YAML: values left out", "f:\n" + strings.Repeat("- a:\n", 200_000), "more than 1000 values left out"},
		{"YAML: values left out above others", "f:\n" + strings.Repeat("- a: # none\n  b: 1\n", 200_000), "more than 1000 values left out"},
		{"YAML: values left out in flow", "f: [{" + strings.Repeat("a: ,", 200_000) + "}]", "more than 1000 values left out"},
		{"YAML: values left out in flow over lines", "f: [" + strings.Repeat("{a:\n}, ", 500) + strings.Repeat("{a:}, {a: }, ", 20_000) + "]", "more than 1000 values left out"},
		{"YAML: keys without a colon", "f: [{" + strings.Repeat("a,", 200_000) + "}]", "more than 1000 values left out"},
		{"YAML: values left out before a tab", "f:\n" + strings.Repeat("- a:\t\n", 200_000), "more than 1000 values left out"},
		{"YAML: keys marked as such", "f:\n" + strings.Repeat("- ? a\n", 100_000), "keys that begin with ?"},
		{"YAML: doubled keys", "wfpebpf: 1\nwfpebpf: 1\n", `key "wfpebpf" is there twice`},
		{"YAML: truncated", "wfpebpf: 1\nfilters: [{name: \"a", ""},
		{"YAML: unclosed list", "wfpebpf: 1\nfilters: [", ""},
		{"YAML: brackets that close nothing", strings.Repeat("]", 1<<18), "could not find '['"},
		{"YAML: commas only", "[" + strings.Repeat(",", 1<<17), "found ','"},
		{"YAML: colons in a row", strings.Repeat("a: ", 100_000), "mapping value is not allowed"},
		{"YAML: wrong types", "wfpebpf: 1\nfilters: {a: 1}\n", "filters must be a list"},
		{"YAML: a filter that is none", "wfpebpf: 1\nfilters: [3]\n", "a filter must be a mapping"},
		{"YAML: empty", "", "not a policy"},
		{"binary", "\x7fELF\x02\x01\x01\x00\xff\xfe", "not UTF-8 text"},
		{"NULs", strings.Repeat("\x00", 1<<20), ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			start := time.Now()
			p, err := LoadReader("hostile", strings.NewReader(tc.text), Options{})
			took := time.Since(start)
			if err == nil || p != nil {
				t.Fatalf("it was loaded (error %v)", err)
			}
			if msg := err.Error(); !placed.MatchString(msg) || !strings.Contains(msg, tc.want) || len(msg) > 300 || strings.Contains(msg, "\n") {
				t.Errorf("error %.400q, want a line with a position and %q", msg, tc.want)
			}
			if took > time.Second {
				t.Errorf("took %s, want under a second", took)
			}
		})
	}
}

// The bounds that keep the parser quick do not meet a policy of many filters,
// however it is written.
func TestManyFilters(t *testing.T) {
	for _, one := range []string{
		"- {name: a, layer: [ALE_AUTH_CONNECT_V4,\n   INBOUND_IPPACKET_V4], action: BLOCK, conditions: [{FLAGS: {match: FLAGS_ALL_SET, value: [IS_LOOPBACK]}}]}\n",
		"- {\"name\":\"a\",\"layer\":\"ALE_AUTH_CONNECT_V4\",\"action\":\"BLOCK\",\"conditions\":[{\"IP_REMOTE_PORT\":5}]}\n",
		"-\n  name: a\n  layer:\n  - ALE_AUTH_CONNECT_V4\n  action: BLOCK\n  conditions:\n  # ports\n\n  - IP_REMOTE_PORT: 5\n  - IP_REMOTE_PORT: # more\n      match: RANGE\n      value: 6-9\n",
	} {
		const n = 2000
		if p := loadText(t, "wfpebpf: 1\nfilters:\n"+strings.Repeat(one, n), nil); len(p.Entries) < n {
			t.Errorf("%d filters of %q, want at least %d", len(p.Entries), one, n)
		}
	}
}

func TestFileTooLarge(t *testing.T) {
	_, err := LoadReader("hostile", strings.NewReader(strings.Repeat(" ", MaxFileSize+1)), Options{})
	if err == nil || !strings.Contains(err.Error(), "larger than 64 MiB") {
		t.Errorf("error %v", err)
	}
}

func TestOneBadFileLoadsNothing(t *testing.T) {
	if p, err := Load([]string{"testdata/state.xml", "testdata/map.yaml"}, Options{}); err == nil || p != nil {
		t.Errorf("policy %v, error %v", p, err)
	}
	if _, err := Load([]string{"testdata/no-such-file"}, Options{}); err == nil {
		t.Error("a file that is not there was loaded")
	}
	if _, err := Load([]string{"testdata"}, Options{}); err == nil || !strings.Contains(err.Error(), "is a directory") {
		t.Errorf("a directory: %v", err)
	}
}
