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

// A link comes before those that lie on it, whatever their numbers.
func TestLowerFirst(t *testing.T) {
	attrs := func(index, master, parent int) netlink.LinkAttrs {
		return netlink.LinkAttrs{Index: index, MasterIndex: master, ParentIndex: parent}
	}
	links := []netlink.Link{
		&netlink.Vlan{LinkAttrs: attrs(1, 0, 2)}, // on the bridge
		&netlink.Bridge{LinkAttrs: attrs(2, 0, 0)},
		&netlink.Veth{LinkAttrs: attrs(3, 2, 1)}, // a port; its parent is its other end
		&netlink.Bond{LinkAttrs: attrs(4, 2, 0)},
		&netlink.Device{LinkAttrs: attrs(5, 4, 0)}, // of the bond
		&netlink.Device{LinkAttrs: attrs(6, 0, 0)},
	}
	list := make([]device, len(links))
	for i, l := range links {
		list[i].Index = l.Attrs().Index
	}
	lowerFirst(list, links)
	var got []int
	for _, d := range list {
		got = append(got, d.Index)
	}
	if want := []int{3, 5, 6, 4, 2, 1}; !slices.Equal(got, want) {
		t.Errorf("order %v, want %v", got, want)
	}
}
