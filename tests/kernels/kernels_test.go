// SPDX-License-Identifier: Apache-2.0

package kernels

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/wfpebpf/wfpebpf/tests/testbed"
	"github.com/wfpebpf/wfpebpf/tests/vm"
)

const module = "github.com/wfpebpf/wfpebpf"

// liveTests are the tests of package live that run on every kernel: each hook
// with its means of attachment, and not each condition, since emulation is slow.
var liveTests = []string{
	"TestConnect", "TestAccept", "TestAssignment", "TestAssignmentListen",
	"TestAssignmentRaw", "TestAssignmentImplicitPort", "TestListen",
	"TestIPPacket", "TestIPPacketFragment", "TestFrameEthernet", "TestFrameNative", "TestFrameNativeOut",
	"TestVSwitchOtherLinks", "TestVSwitchTransportTagged", "TestVSwitchPorts",
	"TestFlowBothWays", "TestFlowOpenBefore", "TestFlowBlockedStaysBlocked",
	"TestEstablished", "TestEstablishedOnce", "TestEnding", "TestEndingAccepted",
	"TestDrops",
	"TestRedirectTCP", "TestRedirectUDP", "TestRedirectBind",
	"TestReauthorizeBlock",
}

// netfilterTests run where the kernel has BPF links at netfilter's hooks (6.4).
var netfilterTests = []string{
	"TestTransport", "TestTransportICMP", "TestTransportFragment", "TestForward", "TestForwardFragment",
	"TestICMPErrorAlone", "TestICMPErrorOrder", "TestICMPErrorCutOff", "TestStreamPacketEvent", "TestStreamPacketOpenConnection", "TestStreamPacketOrder",
	"TestDropsOfOwnBlocks",
}

var kernels = []vm.Kernel{vm.Kernel61, vm.Kernel612}

func TestProgramsHere(t *testing.T) {
	testbed.RequireRoot(t)
	release, err := Release()
	if err != nil {
		t.Fatal(err)
	}
	counts, err := Verified()
	if err != nil {
		t.Fatal(err)
	}
	compare(t, release, counts)
}

// TestKernels runs on each kernel what package guest has: every program is
// loaded, and wfpebpf is run as by somebody who owns the machine.
func TestKernels(t *testing.T) {
	for _, k := range kernels {
		t.Run(k.Version, func(t *testing.T) {
			command := vm.Build(t, module+"/cmd/wfpebpf")
			guest := vm.BuildTest(t, module+"/tests/kernels/guest", "guest")
			r := vm.RunWith(t, k, map[string]string{"wfpebpf": command, "first": guest}, guest, "-test.v", "-test.timeout=8m")
			requirePassed(t, r, "TestPrograms", "TestLayers", "TestDefaults", "TestActivation")
			compareLayers(t, k.Version, ParseLayerLines(r.Output))
			compare(t, k.Version, ParseLines(r.Output))
		})
	}
}

// TestLive runs tests of package live on each kernel.
func TestLive(t *testing.T) {
	for _, k := range kernels {
		t.Run(k.Version, func(t *testing.T) {
			tests := liveTests
			if k != vm.Kernel61 {
				tests = slices.Concat(liveTests, netfilterTests)
			}
			r := vm.Run(t, k, vm.BuildTest(t, module+"/tests/live"),
				"-test.v", "-test.timeout=12m", "-test.run=^("+strings.Join(tests, "|")+")$")
			requirePassed(t, r, tests...)
		})
	}
}

var ran = regexp.MustCompile(`(?m)^--- (PASS|FAIL|SKIP): (\w+)`)

// requirePassed fails unless the tests ran to their end and none was skipped.
func requirePassed(t *testing.T, r vm.Result, names ...string) {
	t.Helper()
	var passed []string
	for _, m := range ran.FindAllStringSubmatch(r.Output, -1) {
		if m[1] == "PASS" {
			passed = append(passed, m[2])
		}
	}
	for _, name := range names {
		if !slices.Contains(passed, name) {
			t.Errorf("%s did not pass", name)
		}
	}
	if r.ExitCode != 0 || strings.Contains(r.Output, "--- SKIP") {
		t.Errorf("exit code %d\n%s\n%s", r.ExitCode, r.Output, r.Console)
	}
	t.Logf("passed: %s", strings.Join(passed, " "))
}

const (
	golden = "verified.golden"
	// updateEnv has this run's counts written down.
	updateEnv = "UPDATE"
	// growth in percent is how much more the verifier may have to do than was
	// written down: a jump tells of a loop that it no longer prunes.
	growth = 20
	limit  = 1_000_000 // of the kernel
)

// compare holds counts to those that are written down for a kernel.
func compare(t *testing.T, release string, counts map[string]uint32) {
	t.Helper()
	if len(counts) == 0 {
		t.Fatal("no counts of verified instructions")
	}
	all := readGolden(t)
	t.Logf("Linux %s:\n%s", release, Lines(counts))
	if os.Getenv(updateEnv) != "" {
		all[release] = counts
		writeGolden(t, all)
		return
	}
	was := all[release]
	if was == nil {
		// the machine's own kernel can be any
		t.Logf("%s has nothing on Linux %s to compare with", golden, release)
	}
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		n, before := counts[name], was[name]
		switch {
		case n > limit/2:
			t.Errorf("Linux %s: %s takes the verifier %d instructions, of a limit of %d", release, name, n, limit)
		case was != nil && before == 0:
			t.Errorf("Linux %s: %s is new in %s: run with %s=1", release, name, golden, updateEnv)
		case was != nil && uint64(n)*100 > uint64(before)*(100+growth):
			t.Errorf("Linux %s: %s takes the verifier %d instructions, %d before; if that must be, run with %s=1",
				release, name, n, before, updateEnv)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(was)) {
		if counts[name] == 0 {
			t.Errorf("Linux %s: %s is in %s and was not loaded: run with %s=1", release, name, golden, updateEnv)
		}
	}
}

// readGolden reads lines "release program instructions".
func readGolden(t *testing.T) map[string]map[string]uint32 {
	t.Helper()
	all := map[string]map[string]uint32{}
	text, err := os.ReadFile(golden)
	if err != nil && os.Getenv(updateEnv) == "" {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		var release, name string
		var n uint32
		if _, err := fmt.Sscanf(line, "%s %s %d\n", &release, &name, &n); err != nil {
			t.Fatalf("%s: %q: %v", golden, line, err)
		}
		if all[release] == nil {
			all[release] = map[string]uint32{}
		}
		all[release][name] = n
	}
	return all
}

func writeGolden(t *testing.T, all map[string]map[string]uint32) {
	t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "# Instructions that the verifier went through, by kernel and program. Written by\n"+
		"# %s=1 go test ./tests/kernels; growth by more than %d %% fails.\n", updateEnv, growth)
	for _, release := range slices.Sorted(maps.Keys(all)) {
		for _, name := range slices.Sorted(maps.Keys(all[release])) {
			fmt.Fprintf(&b, "%s %s %d\n", release, name, all[release][name])
		}
	}
	if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestLinesRoundTrip(t *testing.T) {
	want := map[string]uint32{"wfp_a": 12, "wfp_b": 3456}
	got := ParseLines("=== RUN   TestPrograms\n" + Lines(want) + "verified nothing\n--- PASS\n")
	if !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
