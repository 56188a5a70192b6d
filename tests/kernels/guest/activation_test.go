// SPDX-License-Identifier: Apache-2.0

//go:build guest

package guest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// activated is the sockets that process 1 makes and hands on, by the file numbers
// that they have, which neither it nor a shell uses.
var activated = map[int]struct{ name, network, address string }{
	20: {"TCP", "tcp", "127.0.0.1:9003"},
	21: {"MPTCP", "mptcp", "[::1]:9004"},
	22: {"UDP", "udp", "127.0.0.1:9005"},
}

// activate makes the sockets and becomes a program, which inherits them.
func activate(program string) error {
	for fd, a := range activated {
		f, err := listen(a.network, a.address)
		if err != nil {
			return fmt.Errorf("%s: %w", a.name, err)
		}
		// a duplicate is not closed by exec
		if err := unix.Dup3(int(f.Fd()), fd, 0); err != nil {
			return fmt.Errorf("%s: %w", a.name, err)
		}
	}
	return unix.Exec(program, []string{program}, os.Environ())
}

func listen(network, address string) (*os.File, error) {
	if network == "udp" {
		c, err := net.ListenPacket(network, address)
		if err != nil {
			return nil, err
		}
		return c.(*net.UDPConn).File()
	}
	var config net.ListenConfig
	config.SetMultipathTCP(network == "mptcp")
	l, err := config.Listen(context.Background(), "tcp", address)
	if err != nil {
		return nil, err
	}
	return l.(*net.TCPListener).File()
}

const activationPolicy = `
wfpebpf: 1
filters:
  - name: Permit it
    layer: [ALE_AUTH_RECV_ACCEPT_V4, ALE_AUTH_RECV_ACCEPT_V6]
    action: PERMIT
    weight: 8
    conditions: [%s]
  - {name: Block the rest, layer: [ALE_AUTH_RECV_ACCEPT_V4, ALE_AUTH_RECV_ACCEPT_V6], action: BLOCK, weight: 0}
`

// TestActivation: sockets that process 1 made and handed to a service before
// there was a policy, and holds itself, are the service's.
func TestActivation(t *testing.T) {
	const cgroups, unit = "/sys/fs/cgroup", "/activated.service"
	if err := os.Mkdir(cgroups+unit, 0o755); err != nil {
		t.Fatal(err)
	}
	enter := func(cgroup string) {
		if err := os.WriteFile(cgroups+cgroup+"/cgroup.procs", []byte(strconv.Itoa(os.Getpid())), 0); err != nil {
			t.Fatal(err)
		}
	}
	enter(unit)
	defer enter("")
	for _, row := range []struct {
		condition string
		passes    bool
	}{
		{`{ALE_USER_ID: "unit:` + unit + `"}`, true},
		{"{ALE_APP_ID: /program}", true},
		{"{ALE_APP_ID: /bin/busybox}", false}, // process 1
	} {
		t.Run(row.condition, func(t *testing.T) {
			file := t.TempDir() + "/policy.yaml"
			if err := os.WriteFile(file, fmt.Appendf(nil, activationPolicy, row.condition), 0o600); err != nil {
				t.Fatal(err)
			}
			wfpebpf(t, "apply", file)
			defer wfpebpf(t, "down")
			for fd, a := range activated {
				t.Run(a.name, func(t *testing.T) {
					switch err := reach(fd, a.network, a.address); {
					case row.passes && err != nil:
						t.Error(err)
					case !row.passes && !errors.Is(err, os.ErrDeadlineExceeded):
						t.Errorf("got %v, want no answer", err)
					}
				})
			}
		})
	}
}

// reach sends to a socket of activate and waits until the socket has it.
func reach(fd int, network, address string) error {
	const limit = 3 * time.Second
	duplicate, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 10)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(duplicate), address)
	defer f.Close()
	if network == "udp" {
		server, err := net.FilePacketConn(f)
		if err != nil {
			return err
		}
		defer server.Close()
		client, err := net.Dial(network, address)
		if err != nil {
			return err
		}
		defer client.Close()
		if _, err := client.Write([]byte("hello")); err != nil {
			return err
		}
		server.SetReadDeadline(time.Now().Add(limit))
		_, _, err = server.ReadFrom(make([]byte, 16))
		return err
	}
	d := net.Dialer{Timeout: limit}
	d.SetMultipathTCP(network == "mptcp")
	client, err := d.Dial("tcp", address)
	if err != nil {
		if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
			return os.ErrDeadlineExceeded
		}
		return err
	}
	return client.Close()
}
