// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"encoding/hex"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf16"
)

// testFilter is a filter of a made-up dump. What is left out is a PERMIT at
// ALE_AUTH_RECV_ACCEPT_V4 in the firewall's sublayer.
type testFilter struct {
	layer, subLayer, action, callout, flags, extra string
	conditions                                     string
}

// dumpOf writes filters, numbered from 1, in the flat shape.
func dumpOf(filters ...testFilter) string {
	var b strings.Builder
	b.WriteString("<wfpdiag><filters>")
	or := func(s, d string) string {
		if s == "" {
			return d
		}
		return s
	}
	for i, f := range filters {
		fmt.Fprintf(&b, "<item><filterKey>{00000000-0000-0000-0000-%012d}</filterKey><displayData><name>Filter %d</name></displayData>", i+1, i+1)
		b.WriteString("<flags>")
		for _, name := range strings.Fields(f.flags) {
			fmt.Fprintf(&b, "<item>FWPM_FILTER_FLAG_%s</item>", name)
		}
		fmt.Fprintf(&b, "</flags><layerKey>%s</layerKey><subLayerKey>%s</subLayerKey><weight><type>FWP_EMPTY</type></weight>",
			or(f.layer, "FWPM_LAYER_ALE_AUTH_RECV_ACCEPT_V4"), or(f.subLayer, "FWPM_SUBLAYER_MPSSVC_WF"))
		fmt.Fprintf(&b, "<filterCondition>%s</filterCondition><action><type>%s</type><filterType>%s</filterType></action>",
			f.conditions, or(f.action, "FWP_ACTION_PERMIT"), f.callout)
		fmt.Fprintf(&b, "%s<filterId>%d</filterId><effectiveWeight><type>FWP_UINT64</type><uint64>%d</uint64></effectiveWeight></item>\n",
			f.extra, i+1, i)
	}
	b.WriteString("</filters></wfpdiag>")
	return b.String()
}

// condXML writes one condition; value is "type member text", such as
// "FWP_UINT16 uint16 80".
func condXML(field, match, value string) string {
	parts := strings.SplitN(value, " ", 3)
	return fmt.Sprintf("<item><fieldKey>FWPM_CONDITION_%s</fieldKey><matchType>FWP_MATCH_%s</matchType><conditionValue><type>%s</type><%s>%s</%s></conditionValue></item>",
		field, match, parts[0], parts[1], parts[2], parts[1])
}

func appXML(match, path string) string {
	return condXML("ALE_APP_ID", match, "FWP_BYTE_BLOB_TYPE byteBlob <data>"+utf16Hex(path)+"</data>")
}

func userXML(sddl string) string {
	return condXML("ALE_USER_ID", "EQUAL", "FWP_SECURITY_DESCRIPTOR_TYPE sd "+sddl)
}

func utf16Hex(s string) string {
	var b []byte
	for _, u := range append(utf16.Encode([]rune(s)), 0) {
		b = append(b, byte(u), byte(u>>8))
	}
	return hex.EncodeToString(b)
}

func loadText(t testing.TB, text string, m *Map) *Policy {
	t.Helper()
	p, err := LoadReader("policy", strings.NewReader(text), Options{Map: m})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func mapText(t testing.TB, text string) *Map {
	t.Helper()
	m, err := LoadMapReader("map.yaml", strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func loadFixture(t testing.TB, names ...string) *Policy {
	t.Helper()
	m, err := LoadMap(filepath.Join("testdata", "map.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var files []string
	for _, n := range names {
		files = append(files, filepath.Join("testdata", n))
	}
	p, err := Load(files, Options{Map: m})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// outcome is what a test says about an entry.
func outcome(e Entry) string {
	if e.Reason == "" {
		return string(e.State)
	}
	return string(e.State) + ": " + e.Reason
}

func flagXML(match string, bits uint32) string {
	return condXML("FLAGS", match, fmt.Sprintf("FWP_UINT32 uint32 %d", bits))
}
