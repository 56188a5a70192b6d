// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
)

// A filter at n layers is n filters.
func TestLimitOfFilters(t *testing.T) {
	var names []string
	for _, l := range layermap.Layers() {
		if l.GUID != (filter.GUID{}) {
			names = append(names, strings.TrimPrefix(l.Name, "FWPS_LAYER_"))
		}
	}
	const head, tail = "wfpebpf: 1\nfilters:\n", ", action: BLOCK}\n"
	one := "- {name: F, layer: " + names[0] + tail
	all := "- {name: F, layer: [" + strings.Join(names, ", ") + "]" + tail
	full := head + strings.Repeat(all, MaxFilters/len(names)) + strings.Repeat(one, MaxFilters%len(names))
	// the last is the first that is one too many
	want := fmt.Sprintf("full:%d:4: more than 1000000 filters", strings.Count(full, "\n")+1)
	if _, err := readDocument("full", []byte(full+one), nil); err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
}

// All files of a policy count together.
func TestLimitOfFiltersOfAllFiles(t *testing.T) {
	l := newLoading(Options{})
	l.drafts = MaxFilters - 1
	one := []byte("wfpebpf: 1\nfilters: [{name: F, layer: STREAM_V4, action: BLOCK}]\n")
	if err := l.read("a", one); err != nil {
		t.Fatalf("at the limit: %v", err)
	}
	if err := l.read("b", one); err == nil || err.Error() != "b: more than 1000000 filters" {
		t.Errorf("past the limit: error %v", err)
	}
}

func TestLimitOfFileSize(t *testing.T) {
	for _, c := range []struct {
		size int
		ok   bool
	}{{MaxFileSize, true}, {MaxFileSize + 1, false}} {
		_, err := readAll("full", io.LimitReader(blanks{}, int64(c.size)))
		if ok := err == nil; ok != c.ok || !ok && err.Error() != "full: larger than 64 MiB" {
			t.Errorf("%d bytes: %v", c.size, err)
		}
	}
}

// blanks is a file of nothing else.
type blanks struct{}

func (blanks) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = ' '
	}
	return len(b), nil
}
