// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/wfpebpf/wfpebpf/tests/testbed"
)

// result is what one command line came to.
type result struct {
	code     int
	out, err string
}

// wfpebpf runs a command line in this process, outside of any SSH connection
// unless the test sets one.
func wfpebpf(t testing.TB, args ...string) result {
	t.Helper()
	var out, errOut bytes.Buffer
	code := run(args, strings.NewReader(""), &out, &errOut)
	return result{code, out.String(), errOut.String()}
}

// asCommand makes a copy of the test program behave as the command.
const asCommand = "WFPEBPF_TEST_COMMAND"

// command prepares a process that runs a command line.
func command(t testing.TB, args ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, args...)
	cmd.Env = append(os.Environ(), asCommand+"=1")
	return cmd
}

func TestMain(m *testing.M) {
	// Tests run the command as a process by running themselves; the process
	// that takes a policy back is always such a copy.
	if os.Getenv(asCommand) != "" || len(os.Args) > 1 && slices.Contains([]string{"rollback-after", "demo-actor"}, os.Args[1]) {
		main()
	}
	testbed.RunChild()
	os.Unsetenv(sshConnection)
	os.Exit(m.Run())
}

// write writes a file for one test and returns its path.
func write(t testing.TB, name, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// decode reads JSON that must have exactly the keys of to.
func decode(t testing.TB, text string, to any) {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(to); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
}

const smallPolicy = `
wfpebpf: 1
sublayers: [{key: corp, name: Corporate, weight: 60000}]
filters:
  - {name: Block SMB, layer: [ALE_AUTH_CONNECT_V4, ALE_AUTH_CONNECT_V6], sublayer: corp, action: BLOCK,
     conditions: [{IP_REMOTE_PORT: 445}]}
  - {name: No logins, layer: ALE_AUTH_RECV_ACCEPT_V4, action: BLOCK, conditions: [{IP_LOCAL_PORT: 22}, {IP_PROTOCOL: tcp}]}
`
