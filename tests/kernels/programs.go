// SPDX-License-Identifier: Apache-2.0

// Package kernels tests the programs on the kernels that are supported: this
// machine's, and Debian's 6.1 and 6.12 in QEMU. There the tests of sockets run,
// too, and what a command without --netns and --cgroup does, which must not be
// tried on a machine that others work on.
package kernels

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"github.com/wfpebpf/wfpebpf/bpf"
)

// Release is the kernel's line, such as 6.12.
func Release() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return "", err
	}
	parts := strings.SplitN(string(b), ".", 3)
	if len(parts) < 3 {
		return "", fmt.Errorf("kernel release %q", b)
	}
	return parts[0] + "." + parts[1], nil
}

// verifiedMark begins a line of Lines.
const verifiedMark = "verified "

// Verified loads every program on this kernel and returns how many
// instructions the verifier went through for each, of a limit of a million.
// Programs of a type that the kernel does not have are left out, and LSM programs where
// they are forbidden.
func Verified() (map[string]uint32, error) {
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, err
	}
	spec, err := bpf.LoadWFP()
	if err != nil {
		return nil, err
	}
	lacking := map[ebpf.ProgramType]bool{}
	for name, p := range spec.Programs {
		if _, asked := lacking[p.Type]; !asked {
			err := features.HaveProgramType(p.Type)
			lacking[p.Type] = errors.Is(err, ebpf.ErrNotSupported) || p.Type == ebpf.LSM && errors.Is(err, unix.EPERM)
		}
		if lacking[p.Type] {
			delete(spec.Programs, name)
		}
	}
	coll, err := ebpf.NewCollection(spec)
	if err != nil {
		return nil, refusals(spec, err)
	}
	defer coll.Close()
	counts := map[string]uint32{}
	for name, p := range coll.Programs {
		info, err := p.Info()
		if err != nil {
			return nil, err
		}
		n, ok := info.VerifiedInstructions()
		if !ok || n == 0 {
			return nil, fmt.Errorf("%s: this kernel does not tell verified instructions", name)
		}
		counts[name] = n
	}
	if len(counts) != len(spec.Programs) || len(counts) == 0 {
		return nil, fmt.Errorf("%d of %d programs were loaded", len(counts), len(spec.Programs))
	}
	return counts, nil
}

// refusals loads the programs one by one and names all that the kernel refuses,
// each with the end of the verifier's log.
func refusals(spec *ebpf.CollectionSpec, together error) error {
	const tail = 12
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(spec.Programs)) {
		one := spec.Copy()
		one.Programs = map[string]*ebpf.ProgramSpec{name: one.Programs[name]}
		coll, err := ebpf.NewCollection(one)
		if err == nil {
			coll.Close()
			continue
		}
		var ve *ebpf.VerifierError
		if errors.As(err, &ve) {
			log := ve.Log[max(0, len(ve.Log)-tail):]
			err = fmt.Errorf("%w\n\t%s", ve.Cause, strings.Join(log, "\n\t"))
		}
		errs = append(errs, fmt.Errorf("%s: %w", name, err))
	}
	if len(errs) == 0 {
		return together
	}
	return errors.Join(errs...)
}

// Lines writes counts as text, a line a program; ParseLines finds them in a
// test's output.
func Lines(counts map[string]uint32) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		fmt.Fprintf(&b, "%s%s %d\n", verifiedMark, name, counts[name])
	}
	return b.String()
}

// ParseLines reads the lines of Lines and passes all others over.
func ParseLines(text string) map[string]uint32 {
	counts := map[string]uint32{}
	for line := range strings.Lines(text) {
		var name string
		var n uint32
		if _, err := fmt.Sscanf(line, verifiedMark+"%s %d\n", &name, &n); err == nil {
			counts[name] = n
		}
	}
	return counts
}
