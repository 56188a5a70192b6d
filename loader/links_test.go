// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
)

// What is listed while it changes is listed again; an error is none of that.
func TestWhole(t *testing.T) {
	broken := errors.New("broken")
	type answer struct {
		list []int
		err  error
	}
	for name, test := range map[string]struct {
		answers []answer
		want    []int
		err     error
	}{
		"at once":     {[]answer{{[]int{1, 2}, nil}}, []int{1, 2}, nil},
		"interrupted": {[]answer{{[]int{1}, netlink.ErrDumpInterrupted}, {[]int{1, 2}, nil}}, []int{1, 2}, nil},
		"broken":      {[]answer{{nil, netlink.ErrDumpInterrupted}, {nil, broken}}, nil, broken},
		"for ever":    {slices.Repeat([]answer{{[]int{1}, netlink.ErrDumpInterrupted}}, 100), []int{1}, nil},
	} {
		i := 0
		got, err := whole(func() ([]int, error) { i++; return test.answers[i-1].list, test.answers[i-1].err })
		if !slices.Equal(got, test.want) || !errors.Is(err, test.err) {
			t.Errorf("%s: %v, %v; want %v, %v", name, got, err, test.want, test.err)
		}
	}
}

// Notifications never wait for who looks around, and their end is told.
func TestDrain(t *testing.T) {
	from, changed, ended := make(chan int), make(chan struct{}, 1), make(chan struct{}, 1)
	go drain(from, changed, ended)
	for i := range 3 {
		from <- i
	}
	close(from)
	<-ended
	if len(changed) != 1 {
		t.Errorf("%d changes to look at, want 1", len(changed))
	}
}
