// SPDX-License-Identifier: Apache-2.0

// Package vm runs a program under a kernel of another version, in QEMU. The
// kernels are Debian's for cloud machines, fetched by apt into the user's
// cache; the rest of the machine is an initramfs that is made on the spot.
//
// Software emulation is some ten times slower than the machine: what is run
// here asks whether something works, not how fast.
package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/wfpebpf/wfpebpf/tests/testbed"
)

// Result is what a program left behind.
type Result struct {
	ExitCode int
	Output   string // standard output and standard error
	Console  string // the kernel's messages
}

// limit is how long a machine may run, starting included.
const limit = 13 * time.Minute

// Run boots a kernel, runs a static program as its only process besides init,
// and waits for the machine to stop. The program is root, and finds /proc,
// /sys with cgroup2 and bpffs, /tmp, busybox, and veth, bridge and dummy links
// to make. The test ends by testbed.Missing, naming the package, where QEMU or
// the kernel cannot be had, and fails where the machine does not come to an end.
func Run(t testing.TB, k Kernel, program string, args ...string) Result {
	t.Helper()
	return RunWith(t, k, nil, program, args...)
}

// RunWith is Run of a machine that has more programs: files are their paths
// here by their names there, which are in the root directory. One named "first"
// is run as process 1 once the machine is set up; it must become the program
// that its argument names.
func RunWith(t testing.TB, k Kernel, files map[string]string, program string, args ...string) Result {
	t.Helper()
	qemu := require(t, "qemu-system-x86_64", "qemu-system-x86")
	busybox := require(t, "busybox", "busybox-static")
	if static, err := isStatic(busybox); err != nil || !static {
		testbed.Missing(t, "%s is not static: needs the package busybox-static (%v)", busybox, err)
	}
	if static, err := isStatic(program); err != nil || !static {
		t.Fatalf("%s is no static program: build it with CGO_ENABLED=0 (%v)", program, err)
	}
	root := k.unpack(t)

	dir := t.TempDir()
	initrd := filepath.Join(dir, "initrd.gz")
	if err := writeInitrd(initrd, root, busybox, files, program, args); err != nil {
		t.Fatal(err)
	}
	kernel, err := findKernel(root)
	if err != nil {
		t.Fatal(err)
	}

	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	console, output := filepath.Join(dir, "console"), filepath.Join(dir, "output")
	// One thread for both CPUs: with two, one CPU can still run what the other
	// has just patched in the kernel's text, which ends in an oops now and then.
	cmd := exec.CommandContext(ctx, qemu,
		"-accel", "tcg,thread=single", "-cpu", "max", "-smp", "2", "-m", "3072",
		"-nodefaults", "-no-reboot", "-display", "none",
		"-serial", "file:"+console, "-serial", "file:"+output,
		"-kernel", kernel, "-initrd", initrd,
		"-append", "console=ttyS0 panic=-1 quiet lsm=landlock,lockdown,yama,apparmor,bpf")
	said, err := cmd.CombinedOutput()
	read := func(path string) string {
		b, _ := os.ReadFile(path)
		return string(bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n")))
	}
	r := Result{Console: read(console)}
	if err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("still running after %s", limit)
		}
		t.Fatalf("QEMU with Linux %s: %v\n%s%s%s", k.Version, err, said, r.Console, read(output))
	}
	r.Output, r.ExitCode, err = cutStatus(read(output))
	if err != nil {
		t.Fatalf("Linux %s: %v\n%s%s", k.Version, err, r.Console, r.Output)
	}
	return r
}

// BuildTest compiles the tests of a package into a program for Run, whose
// arguments are then -test.run and the like. Tests that are for such a machine
// only stand behind build tags.
func BuildTest(t testing.TB, pkg string, tags ...string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), filepath.Base(pkg)+".test")
	build(t, "test", "-c", "-tags", strings.Join(tags, ","), "-o", out, pkg)
	return out
}

// Build compiles a command, or a single source file, into a program for Run.
func Build(t testing.TB, pkg string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), strings.TrimSuffix(filepath.Base(pkg), ".go"))
	build(t, "build", "-o", out, pkg)
	return out
}

func build(t testing.TB, args ...string) {
	t.Helper()
	goTool := require(t, "go", "golang-go")
	cmd := exec.Command(goTool, args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH=amd64")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// require finds a program of the machine.
func require(t testing.TB, program, pkg string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		testbed.Missing(t, "no %s: needs the package %s", program, pkg)
	}
	return path
}

// statusMark begins the line by which init tells how the program ended.
const statusMark = "\nwfpebpf-vm: exit status "

// cutStatus parts a program's output from what init adds to it.
func cutStatus(output string) (string, int, error) {
	i := strings.LastIndex(output, statusMark)
	if i < 0 {
		return output, 0, errors.New("the machine stopped before the program had ended")
	}
	code, err := strconv.Atoi(strings.TrimSpace(output[i+len(statusMark):]))
	return output[:i], code, err
}
