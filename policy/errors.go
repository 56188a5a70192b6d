// SPDX-License-Identifier: Apache-2.0

// This file holds the two ways in which reading fails: a malformed file (an
// Error with a position, nothing is loaded) and a filter that cannot be carried
// over (a reason, the rest loads).

package policy

import (
	"errors"
	"fmt"
)

// Error says what is wrong with a file and where. Line and Column count from 1;
// both are 0 where the file as a whole is meant.
type Error struct {
	File         string
	Line, Column int
	Msg          string
	Err          error // the cause, such as one of WFP's codes; may be nil
}

// Error returns file:line:column: message.
func (e *Error) Error() string {
	msg := e.Msg
	switch {
	case e.Err != nil && msg != "":
		msg += ": " + e.Err.Error()
	case e.Err != nil:
		msg = e.Err.Error()
	}
	if e.Line == 0 {
		return e.File + ": " + msg
	}
	return fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Column, msg)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// pos is a place in a file.
type pos struct {
	file      string
	line, col int
}

func (p pos) errorf(format string, args ...any) error {
	return &Error{File: p.file, Line: p.line, Column: p.col, Msg: fmt.Sprintf(format, args...)}
}

func (p pos) wrap(err error, format string, args ...any) error {
	return &Error{File: p.file, Line: p.line, Column: p.col, Msg: fmt.Sprintf(format, args...), Err: err}
}

// clip shortens text from a file for use in a message: a hostile file may hold
// a megabyte where a word is expected.
func clip(s string) string {
	const most = 80
	if len(s) > most {
		return s[:most] + "..."
	}
	return s
}

// class groups the reasons of a report's summary.
type class string

const (
	classBootTime    class = "boot-time"
	classDisabled    class = "disabled"
	classCallout     class = "callout not provided"
	classLayer       class = "layer does not run yet"
	classSubLayer    class = "sublayer weight unknown"
	classConditional class = "conditional access entry"
	classField       class = "field that cannot be known here"
	classProtocol    class = "protocol not judged at ALE yet"
	classFamily      class = "addresses of the other family"
	classEmptySet    class = "set without addresses"
	classUnreadable  class = "not understood"

	classApp      class = "program not mapped"
	classUser     class = "user, group or service not mapped"
	classPackage  class = "package not mapped"
	classLink     class = "link not mapped"
	classProfile  class = "profile that no link has"
	classConstant class = "field that has one value here"
	classValue    class = "value that no traffic here has"
	classReserved class = "layer that is never classified"
	classFlags    class = "flag that is never set here"
)

// reason says why a filter is refused or can match nothing.
type reason struct {
	class class
	text  string
}

// Error makes a reason usable as the error of a reader that gives up on one
// filter but not on the file.
func (r *reason) Error() string { return r.text }

func because(c class, format string, args ...any) *reason {
	return &reason{class: c, text: fmt.Sprintf(format, args...)}
}

// asReason tells a reason from a malformed file.
func asReason(err error) (*reason, bool) {
	var r *reason
	ok := errors.As(err, &r)
	return r, ok
}
