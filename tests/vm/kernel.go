// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/wfpebpf/wfpebpf/tests/testbed"
)

// Kernel is a line of kernel releases. The newest of it that apt offers is run.
type Kernel struct {
	Version string // "6.12"
}

var (
	Kernel61  = Kernel{"6.1"}  // Debian 12, the oldest that is supported
	Kernel612 = Kernel{"6.12"} // Debian 13, and Debian 12 with backports
)

// unpack returns a directory with the contents of the kernel's package, from
// the cache where it is there.
func (k Kernel) unpack(t testing.TB) string {
	t.Helper()
	if runtime.GOARCH != "amd64" {
		t.Skipf("the kernels are for amd64, this is %s", runtime.GOARCH)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir() // no home directory, as in some service
	}
	cache = filepath.Join(cache, "wfpebpf", "kernels")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		t.Fatal(err)
	}
	var cached []string
	entries, err := os.ReadDir(cache)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		cached = append(cached, e.Name())
	}
	if pkgs := k.packages(cached); len(pkgs) > 0 {
		return filepath.Join(cache, pkgs[0])
	}

	what := fmt.Sprintf("needs the package linux-image-%s*-cloud-amd64", k.Version)
	for _, tool := range []string{"apt-cache", "apt-get", "dpkg-deb"} {
		if _, err := exec.LookPath(tool); err != nil {
			testbed.Missing(t, "%s, and there is no %s to fetch it", what, tool)
		}
	}
	names, err := exec.Command("apt-cache", "pkgnames", "linux-image-"+k.Version).Output()
	if err != nil {
		testbed.Missing(t, "%s: apt-cache: %v", what, err)
	}
	pkgs := k.packages(strings.Fields(string(names)))
	// Some names that apt knows have left the archive.
	const tries = 4
	reason := "apt offers none"
	for _, pkg := range pkgs[:min(tries, len(pkgs))] {
		if err := fetch(cache, pkg); err != nil {
			reason = err.Error()
			continue
		}
		return filepath.Join(cache, pkg)
	}
	testbed.Missing(t, "%s: %s", what, reason)
	return ""
}

// packages picks the names of this line's kernels, newest first.
func (k Kernel) packages(names []string) []string {
	re := regexp.MustCompile(`^linux-image-` + regexp.QuoteMeta(k.Version) + `[.](\d[^-]*)(-\d+)?-cloud-amd64$`)
	var found []string
	for _, name := range names {
		if re.MatchString(name) {
			found = append(found, name)
		}
	}
	slices.SortFunc(found, func(a, b string) int { return -compareVersions(a, b) })
	return found
}

var number = regexp.MustCompile(`\d+`)

// compareVersions compares the numbers in two package names.
func compareVersions(a, b string) int {
	return slices.CompareFunc(number.FindAllString(a, -1), number.FindAllString(b, -1), func(a, b string) int {
		x, _ := strconv.Atoi(a)
		y, _ := strconv.Atoi(b)
		return cmp.Compare(x, y)
	})
}

// fetch downloads a package and unpacks it under its name. Others may do the
// same at the same time: whoever is last finds it done.
func fetch(cache, pkg string) error {
	dir, err := os.MkdirTemp(cache, "fetch-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	cmd := exec.Command("apt-get", "-qq", "download", pkg)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("apt-get download %s: %w: %s", pkg, err, lastLine(out))
	}
	debs, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil || len(debs) != 1 {
		return fmt.Errorf("apt-get download %s left %d packages", pkg, len(debs))
	}
	unpacked := filepath.Join(dir, "root")
	if out, err := exec.Command("dpkg-deb", "-x", debs[0], unpacked).CombinedOutput(); err != nil {
		return fmt.Errorf("dpkg-deb -x %s: %w: %s", pkg, err, lastLine(out))
	}
	target := filepath.Join(cache, pkg)
	if err := os.Rename(unpacked, target); err != nil {
		if _, statErr := os.Stat(target); statErr == nil {
			return nil
		}
		return err
	}
	return nil
}

func lastLine(out []byte) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return lines[len(lines)-1]
}

// findKernel returns the boot image of an unpacked package.
func findKernel(root string) (string, error) {
	images, err := filepath.Glob(filepath.Join(root, "boot", "vmlinuz-*"))
	if err != nil || len(images) != 1 {
		return "", fmt.Errorf("%d kernels in %s", len(images), root)
	}
	return images[0], nil
}
