// SPDX-License-Identifier: Apache-2.0

package kernels

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/wfpebpf/wfpebpf/tests/testbed"
)

// TestLayersHere: what this kernel could carry once, it carries. By what means is not
// asked: whether LSM programs may be attached is for the host to say.
func TestLayersHere(t *testing.T) {
	testbed.RequireRoot(t)
	release, err := Release()
	if err != nil {
		t.Fatal(err)
	}
	compareLayers(t, release, WithoutMeans(ParseLayerLines(LayerLines())))
}

// compareLayers holds what a kernel can carry to what is written down for it, so that a
// layer that is lost is seen.
func compareLayers(t *testing.T, release, got string) {
	t.Helper()
	if strings.Count(got, "\n") < 20 {
		t.Fatalf("Linux %s: too few layers are told of: %q", release, got)
	}
	file := filepath.Join("testdata", "layers-"+release+".txt")
	if os.Getenv(updateEnv) != "" {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		// the machine's own kernel can be any
		t.Logf("nothing is written down of Linux %s", release)
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("Linux %s carries\n%sand %s says\n%sIf that must be, run with %s=1", release, got, file, want, updateEnv)
	}
}

func TestParseLayerLines(t *testing.T) {
	const lines = "layer A yes\nlayer B no needs kernel 6.4\n"
	if got, want := ParseLayerLines("=== RUN\n"+lines+"player C\n"), "A yes\nB no needs kernel 6.4\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got, want := WithoutMeans("A yes by clsact\nB no needs\n"), "A yes\nB no\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
