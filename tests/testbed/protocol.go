// SPDX-License-Identifier: Apache-2.0

package testbed

import (
	"errors"
	"net/netip"

	"golang.org/x/sys/unix"
)

// The conversation between a test and its processes: one JSON object a line,
// requests on the process's standard input, one answer each on its standard
// output, in any order. Its first line answers request 0, once it is ready.

// What the environment tells a process that Start made.
const (
	childEnv    = "WFPEBPF_TESTBED_CHILD"
	childUIDEnv = "WFPEBPF_TESTBED_UID"
	childGIDEnv = "WFPEBPF_TESTBED_GID"
)

type request struct {
	ID      int    `json:"id"`
	Op      string `json:"op"`
	Sock    int    `json:"sock,omitempty"`
	Network string `json:"network,omitempty"`
	Addr    string `json:"addr,omitempty"`
	Data    []byte `json:"data,omitempty"`
	// For op "socket".
	Domain   int `json:"domain,omitempty"`
	Type     int `json:"type,omitempty"`
	Protocol int `json:"protocol,omitempty"`
	// For op "setsockopt", whose value is Data.
	Level  int `json:"level,omitempty"`
	Option int `json:"option,omitempty"`

	Options Options `json:"options"`
}

type response struct {
	ID     int            `json:"id"`
	Sock   int            `json:"sock,omitempty"`
	Local  netip.AddrPort `json:"local"`
	Remote netip.AddrPort `json:"remote"`
	Data   []byte         `json:"data,omitempty"`
	Stats  Stats          `json:"stats"`
	// Protocol of Sock, SO_PROTOCOL.
	Protocol int `json:"protocol,omitempty"`
	Number   int `json:"number,omitempty"` // of Sock's descriptor

	Originals []netip.AddrPort `json:"originals,omitempty"` // of a proxy's connections

	// On failure: the call, and one of the three ways to say why.
	Call    string `json:"call,omitempty"`
	Errno   uint32 `json:"errno,omitempty"`
	Timeout bool   `json:"timeout,omitempty"`
	Closed  bool   `json:"closed,omitempty"`
	Text    string `json:"text,omitempty"`
}

func (r *response) socket() Sock {
	return Sock{ID: r.Sock, Local: r.Local, Remote: r.Remote, Protocol: r.Protocol}
}

// err is the failure that a response tells, or nil.
func (r *response) err(command string) error {
	var cause error
	switch {
	case r.Errno != 0:
		cause = unix.Errno(r.Errno)
	case r.Timeout:
		cause = ErrTimeout
	case r.Closed:
		cause = ErrClosed
	case r.Text != "":
		cause = errors.New(r.Text)
	default:
		return nil
	}
	return &OpError{Command: command, Call: r.Call, Err: cause}
}

// callError is a failed system call inside a process.
type callError struct {
	call string
	err  error
}

func (e *callError) Error() string { return e.call + ": " + e.err.Error() }
func (e *callError) Unwrap() error { return e.err }

// failure turns an error into the fields of a response.
func (r *response) failure(err error) {
	r.Call = "command"
	if ce, ok := errors.AsType[*callError](err); ok {
		r.Call = ce.call
		err = ce.err
	}
	switch errno := Errno(err); {
	case errno != 0:
		r.Errno = uint32(errno)
	case errors.Is(err, ErrTimeout):
		r.Timeout = true
	case errors.Is(err, ErrClosed):
		r.Closed = true
	default:
		r.Text = err.Error()
	}
}
