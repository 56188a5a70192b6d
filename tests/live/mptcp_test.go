// SPDX-License-Identifier: Apache-2.0

package live

import (
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/wfpebpf/wfpebpf/loader"
	"github.com/wfpebpf/wfpebpf/tests/testbed"
)

// The kernel opens further subflows of an MPTCP connection by itself. They are
// judged like any connection; those that go out are the system's, not those of
// the program that has the connection.
func TestMPTCPSubflows(t *testing.T) {
	const ofHost, ofPeer = `{IP_LOCAL_ADDRESS: [10.77.0.11, "fd77::11"]}`, `{IP_REMOTE_ADDRESS: [10.77.0.12, "fd77::12"]}`
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		name, layer, conditions string // of the block
		inbound, joins          bool
	}{
		{"in, permitted", "ALE_AUTH_RECV_ACCEPT", "{IP_LOCAL_PORT: 9999}", true, true},
		{"in, blocked", "ALE_AUTH_RECV_ACCEPT", ofPeer, true, false},
		{"in, blocked to the program", "ALE_AUTH_RECV_ACCEPT", ofPeer + ", {ALE_APP_ID: " + exe + "}", true, false},
		{"out, permitted", "ALE_AUTH_CONNECT", "{IP_REMOTE_PORT: 9999}", false, true},
		{"out, blocked", "ALE_AUTH_CONNECT", ofHost, false, false},
		{"out, blocked to the system", "ALE_AUTH_CONNECT", ofHost + ", {ALE_APP_ID: System}", false, false},
		{"out, blocked to the program", "ALE_AUTH_CONNECT", ofHost + ", {ALE_APP_ID: " + exe + "}", false, true},
		{"out, bind blocked", "ALE_RESOURCE_ASSIGNMENT", ofHost, false, false},
	} {
		for i, name := range []string{"v4", "v6"} {
			t.Run(row.name+" "+name, func(t *testing.T) {
				b := newBed(t)
				f := b.families()[i]
				client, server, link, from, to := b.host, b.peer, "h0", f.hostSecond, f.peer
				if row.inbound {
					client, server, link, from, to = b.peer, b.host, "p0", f.peerSecond, f.host
				}
				ipMPTCP(t, server, "limits", "set", "subflows", "2")
				ipMPTCP(t, client, "limits", "set", "subflows", "2")
				ipMPTCP(t, client, "endpoint", "add", bare(from), "dev", link, "subflow")
				b.apply(blocks(both(row.layer), row.conditions))
				b.listen(b.on(server, testbed.ProcOptions{}), 8080)
				p := b.on(client, testbed.ProcOptions{})
				s := b.dial(p, f.tcp, at(to, 8080), testbed.Options{MPTCP: testbed.MPTCPOn})
				if row.joins {
					b.await(func() bool { return mptcpCount(t, server, "MPJoinAckRx") > 0 })
				} else {
					b.await(func() bool {
						return slices.ContainsFunc(b.events(), func(e loader.Event) bool {
							return e.Layer == row.layer+"_"+f.layer && e.FilterName == "Block it" &&
								strings.HasPrefix(e.Src+e.Dst, from+":")
						})
					})
					time.Sleep(soon)
					if n := mptcpCount(t, server, "MPJoinSynRx"); n != 0 {
						t.Errorf("%d SYNs for a subflow came through", n)
					}
				}
				passes.want(t, p.Exchange(s, "hello"))
				if n := b.state().NoIdentity; n != 0 {
					t.Errorf("%d packets for sockets without an identity", n)
				}
			})
		}
	}
}

// ipMPTCP runs ip mptcp in a namespace.
func ipMPTCP(t *testing.T, n *testbed.Netns, args ...string) {
	t.Helper()
	ip, err := exec.LookPath("ip")
	if err != nil {
		testbed.Missing(t, "no ip: needs the package iproute2")
	}
	args = append([]string{"-n", n.Name, "mptcp"}, args...)
	if out, err := exec.Command(ip, args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// mptcpCount is one of a namespace's counters of MPTCP.
func mptcpCount(t *testing.T, n *testbed.Netns, name string) int {
	t.Helper()
	var text []byte
	err := n.Do(func() (err error) {
		text, err = os.ReadFile("/proc/thread-self/net/netstat")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] != "MPTcpExt:" {
			continue
		}
		if names == nil {
			names = fields
			continue
		}
		if i := slices.Index(names, name); i > 0 && i < len(fields) {
			count, err := strconv.Atoi(fields[i])
			if err != nil {
				t.Fatal(err)
			}
			return count
		}
	}
	t.Fatalf("the kernel does not count %s", name)
	return 0
}
