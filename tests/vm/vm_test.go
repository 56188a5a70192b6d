// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"slices"
	"strings"
	"testing"
)

func TestRun(t *testing.T) {
	for _, k := range []Kernel{Kernel61, Kernel612} {
		t.Run(k.Version, func(t *testing.T) {
			r := Run(t, k, Build(t, "./testdata/hello"), "-x", "it's two words", "$HOME")
			if r.ExitCode != 7 {
				t.Errorf("exit code %d, want 7", r.ExitCode)
			}
			kernel, rest, _ := strings.Cut(r.Output, "\n")
			if !strings.HasPrefix(kernel, "kernel "+k.Version+".") {
				t.Errorf("runs on %q, want %s", kernel, k.Version)
			}
			if want := "veth: true\nargs [\"-x\" \"it's two words\" \"$HOME\"]\n"; rest != want {
				t.Errorf("output %q, want %q\nconsole:\n%s", rest, want, r.Console)
			}
		})
	}
}

// TestTestbed holds the ground that other tests stand on against each kernel.
func TestTestbed(t *testing.T) {
	for _, k := range []Kernel{Kernel61, Kernel612} {
		t.Run(k.Version, func(t *testing.T) {
			r := Run(t, k, BuildTest(t, "github.com/wfpebpf/wfpebpf/tests/testbed"), "-test.v")
			if r.ExitCode != 0 || strings.Contains(r.Output, "--- SKIP") {
				t.Errorf("exit code %d\n%s", r.ExitCode, r.Output)
			}
		})
	}
}

func TestPackages(t *testing.T) {
	names := []string{
		"linux-image-6.1.0-9-cloud-amd64", "linux-image-6.1.0-47-cloud-amd64", "linux-image-6.1.0-50-cloud-amd64-dbg",
		"linux-image-6.12.9+deb12-cloud-amd64", "linux-image-6.12.117+deb12-cloud-amd64", "linux-image-6.12.57+deb13-cloud-amd64",
		"linux-image-6.12.117+deb12-amd64", "linux-image-6.12-cloud-amd64", "linux-image-6.1.0-51-cloud-amd64-unsigned", "fetch-123",
	}
	for _, row := range []struct {
		k    Kernel
		want []string
	}{
		{Kernel61, []string{"linux-image-6.1.0-47-cloud-amd64", "linux-image-6.1.0-9-cloud-amd64"}},
		{Kernel612, []string{"linux-image-6.12.117+deb12-cloud-amd64", "linux-image-6.12.57+deb13-cloud-amd64", "linux-image-6.12.9+deb12-cloud-amd64"}},
	} {
		if got := row.k.packages(names); !slices.Equal(got, row.want) {
			t.Errorf("%s: %q, want %q", row.k.Version, got, row.want)
		}
	}
}

func TestCutStatus(t *testing.T) {
	out, code, err := cutStatus("FAIL\n" + statusMark + "1\n")
	if out != "FAIL\n" || code != 1 || err != nil {
		t.Errorf("%q, %d, %v", out, code, err)
	}
	if _, _, err := cutStatus("panic"); err == nil {
		t.Error("a machine that stopped early has a status")
	}
}
