// SPDX-License-Identifier: Apache-2.0

package testbed

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// ErrTimeout is what a command that waited in vain for a peer returns: a
// connect without an answer, a datagram without an echo.
var ErrTimeout = errors.New("timed out")

// ErrClosed is what a read from a connection that the peer has shut down
// returns.
var ErrClosed = errors.New("closed by the peer")

// OpError says which command of a process failed, and how.
type OpError struct {
	Command string // with its arguments: "dial tcp4 10.77.0.2:80"
	Call    string // the system call, "connect"
	Err     error  // a unix.Errno, ErrTimeout, ErrClosed or a text
}

func (e *OpError) Error() string {
	reason := e.Err.Error()
	if errno := Errno(e.Err); errno != 0 {
		reason = fmt.Sprintf("%s (%s)", unix.ErrnoName(errno), reason)
	}
	return fmt.Sprintf("%s: %s: %s", e.Command, e.Call, reason)
}

func (e *OpError) Unwrap() error { return e.Err }

// Errno returns the error number in err: 0 where there is none, so for no
// error and for ErrTimeout.
func Errno(err error) unix.Errno {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return 0
}
