// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
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

func TestMain(m *testing.M) {
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
