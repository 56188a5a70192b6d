// SPDX-License-Identifier: Apache-2.0

package layermap

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// readLines returns the lines of a testdata file, without comments.
func readLines(t *testing.T, name string) []string {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var lines []string
	s := bufio.NewScanner(f)
	for s.Scan() {
		if line := s.Text(); line != "" && !strings.HasPrefix(line, "#") {
			lines = append(lines, line)
		}
	}
	if err := s.Err(); err != nil {
		t.Fatal(err)
	}
	return lines
}

// documentedNames is how many run-time layer names the document lists.
const documentedNames = 92

func TestEveryDocumentedLayerIsInTheTable(t *testing.T) {
	names := readLines(t, "seed_layers.txt")
	if len(names) != documentedNames {
		t.Errorf("testdata has %d names, want %d", len(names), documentedNames)
	}
	for _, name := range names {
		if ByName("FWPS_LAYER_"+name) == nil {
			t.Errorf("FWPS_LAYER_%s is documented and not in the table", name)
		}
	}
}

// TestNamesAgainstTheDocument holds testdata against the document itself, in
// a checkout that has it beside it.
func TestNamesAgainstTheDocument(t *testing.T) {
	const pattern = "../../shared/seeds/001*.txt"
	files, _ := filepath.Glob(pattern)
	if len(files) != 1 {
		t.Skipf("the document %s is not here; testdata/seed_layers.txt stands for it", pattern)
	}
	text, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, m := range regexp.MustCompile(`FWPS_LAYER_([A-Z0-9_]+)`).FindAllStringSubmatch(string(text), -1) {
		if !slices.Contains(want, m[1]) {
			want = append(want, m[1])
		}
	}
	if got := readLines(t, "seed_layers.txt"); !slices.Equal(got, want) {
		t.Errorf("testdata/seed_layers.txt is not the document's list:\n got %q\nwant %q", got, want)
	}
}

func TestDataOffsets(t *testing.T) {
	documented := map[string]bool{}
	for _, line := range readLines(t, "data_offsets.txt") {
		name, want, ok := strings.Cut(line, "\t")
		if !ok {
			t.Fatalf("testdata/data_offsets.txt: no tab in %q", line)
		}
		documented[name] = true
		l := ByName(name)
		if l == nil {
			t.Errorf("no layer %s", name)
			continue
		}
		if got := l.Offset.String(); got != want {
			t.Errorf("%s: data starts at %q, documented %q", l.FWPS(), got, want)
		}
	}
	for i := range layers {
		if l := &layers[i]; !documented[l.Name] && l.Offset != OffsetUndocumented && l.Offset != OffsetNone {
			t.Errorf("%s: data starts at %q, which no document says", l.FWPS(), l.Offset)
		}
	}
}

func TestLookUps(t *testing.T) {
	for i := range Layers() {
		l := &Layers()[i]
		if got := ByID(l.ID); got != l {
			t.Errorf("ByID(%d) = %v, want %s", l.ID, got, l.Name)
		}
		if l.GUID == (GUID{}) {
			if !strings.HasPrefix(l.Name, "RESERVED1_") {
				t.Errorf("%s has no GUID", l.Name)
			}
		} else if got := ByGUID(l.GUID); got != l {
			t.Errorf("ByGUID(%s) = %v, want %s", l.GUID, got, l.Name)
		}
		for _, name := range []string{l.Name, l.FWPS(), l.FWPM(), strings.ToLower(l.FWPS())} {
			if got := ByName(name); got != l {
				t.Errorf("ByName(%q) = %v, want %s", name, got, l.Name)
			}
		}
		if got := l.ID.String(); got != l.FWPS() {
			t.Errorf("LayerID(%d).String() = %q, want %q", l.ID, got, l.FWPS())
		}
	}
	if ByID(0xffff) != nil || ByGUID(GUID{}) != nil || ByName("FWPS_LAYER_NO_SUCH") != nil || ByName("") != nil {
		t.Error("a look-up of what does not exist answers a layer")
	}
	if got, want := LayerID(0xffff).String(), "FWPS_LAYER_65535"; got != want {
		t.Errorf("String of an unknown id = %q, want %q", got, want)
	}
}

func TestIdentifiersAreUnique(t *testing.T) {
	if len(byID) != len(layers) || len(byName) != len(layers) {
		t.Errorf("%d layers, %d ids, %d names", len(layers), len(byID), len(byName))
	}
	if len(keyByGUID) != len(conditionGUIDs) {
		t.Errorf("%d condition keys share %d GUIDs", len(conditionGUIDs), len(keyByGUID))
	}
}

// TestIDsGoInFours checks the one arrangement of ids that WFP keeps for ever.
func TestIDsGoInFours(t *testing.T) {
	for id := LayerID(0); id < InboundMACFrameEthernet; id += 4 {
		base := strings.TrimSuffix(ByID(id).Name, "_V4")
		for i, suffix := range []string{"_V4", "_V4_DISCARD", "_V6", "_V6_DISCARD"} {
			l := ByID(id + LayerID(i))
			if l.Name != base+suffix {
				t.Errorf("layer %d is %s, want %s%s", l.ID, l.Name, base, suffix)
			}
			if want := []Family{V4, V4, V6, V6}[i]; l.Family != want {
				t.Errorf("%s: family %d, want %d", l.Name, l.Family, want)
			}
		}
	}
	for i := range layers {
		if l := &layers[i]; l.Discard != strings.HasSuffix(l.Name, "_DISCARD") {
			t.Errorf("%s: Discard is %v", l.Name, l.Discard)
		}
	}
}

func TestFields(t *testing.T) {
	for i := range layers {
		l := &layers[i]
		without := strings.HasSuffix(l.Name, "_FAST") || strings.HasPrefix(l.Name, "RESERVED1_")
		if (len(l.Fields) == 0) != without {
			t.Errorf("%s has %d fields", l.FWPS(), len(l.Fields))
		}
		for j, f := range l.Fields {
			if !KnownKey(f.Key) {
				t.Errorf("%s: FWPM_CONDITION_%s is unknown", l.FWPS(), f.Key)
			}
			if got := l.FieldIndex("FWPM_CONDITION_" + f.Key); got != j {
				t.Errorf("%s: FieldIndex(%s) = %d, want %d", l.FWPS(), f.Key, got, j)
			}
			if f.Type == IPAddress && f.DataType != Uint32 && f.DataType != ByteArray16 {
				t.Errorf("%s: address %s has type %s", l.FWPS(), f.Key, f.DataType)
			}
			if f.Type == IPAddress && (l.Family == V4) != (f.DataType == Uint32) && l.Family != AnyFamily {
				t.Errorf("%s: address %s has type %s", l.FWPS(), f.Key, f.DataType)
			}
		}
	}
	if i := ByID(InboundIPPacketV4).FieldIndex("IP_REMOTE_PORT"); i != -1 {
		t.Errorf("INBOUND_IPPACKET_V4 has a port at %d", i)
	}
}

// TestDiscardFields: a discard layer has the fields of its base. In the states
// that were recorded one lacks its base's four reserved fields.
func TestDiscardFields(t *testing.T) {
	for i := range layers {
		l := &layers[i]
		if !l.Discard {
			continue
		}
		want := slices.Clone(ByName(strings.TrimSuffix(l.Name, "_DISCARD")).Fields)
		if l.ID == ALEAuthRecvAcceptV6Discard {
			want = slices.DeleteFunc(want, func(f Field) bool { return strings.HasPrefix(f.Key, "RESERVED") })
		}
		if !slices.Equal(l.Fields, want) {
			t.Errorf("%s: fields\n%v, want\n%v", l.FWPS(), l.Fields, want)
		}
	}
}

func TestAliases(t *testing.T) {
	for alias, key := range conditionAliases {
		if !KnownKey(key) {
			t.Errorf("%s stands for %s, which is unknown", alias, key)
		}
		if KnownKey(alias) {
			t.Errorf("%s is a key and an alias", alias)
		}
		if got := CanonicalKey("fwpm_condition_" + strings.ToLower(alias)); got != key {
			t.Errorf("CanonicalKey(%s) = %s, want %s", alias, got, key)
		}
	}
	for _, row := range []struct{ layer, alias, key string }{
		{"ALE_AUTH_CONNECT_V4", "ICMP_TYPE", "IP_LOCAL_PORT"},
		{"ALE_AUTH_CONNECT_V4", "ICMP_CODE", "IP_REMOTE_PORT"},
		{"INGRESS_VSWITCH_TRANSPORT_V4", "VSWITCH_ICMP_TYPE", "IP_SOURCE_PORT"},
		{"INBOUND_MAC_FRAME_NATIVE", "INTERFACE", "IP_LOCAL_INTERFACE"},
	} {
		l := ByName(row.layer)
		if a, k := l.FieldIndex(row.alias), l.FieldIndex(row.key); a != k || k < 0 {
			t.Errorf("%s: %s is field %d, %s is field %d", l.FWPS(), row.alias, a, row.key, k)
		}
	}
}

func TestConditionGUIDs(t *testing.T) {
	for key, g := range conditionGUIDs {
		if got, ok := KeyByGUID(g); !ok || got != key {
			t.Errorf("KeyByGUID(%s) = %s, %v, want %s", g, got, ok, key)
		}
	}
	if _, ok := KeyByGUID(GUID{}); ok {
		t.Error("the zero GUID names a key")
	}
}

func TestDataTypeNames(t *testing.T) {
	for dt, name := range dataTypeNames {
		if got, ok := ParseDataType(name); !ok || got != dt {
			t.Errorf("ParseDataType(%s) = %d, %v, want %d", name, got, ok, dt)
		}
	}
	for _, row := range []struct {
		name string
		want DataType
	}{{"FWP_SID_TYPE", SIDType}, {"FWP_RANGE", RangeType}, {"FWP_BYTE_BLOB", ByteBlob}} {
		if got, ok := ParseDataType(row.name); !ok || got != row.want {
			t.Errorf("ParseDataType(%s) = %s, %v, want %s", row.name, got, ok, row.want)
		}
	}
	if got, want := fmt.Sprint(DataType(99)), "FWP_DATA_TYPE(99)"; got != want {
		t.Errorf("an unknown type prints as %q, want %q", got, want)
	}
}
