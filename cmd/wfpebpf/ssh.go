// SPDX-License-Identifier: Apache-2.0

// This file finds out what the caller's own SSH connection is, so that a policy
// that would cut it is noticed before it is in force.

package main

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/wfpebpf/wfpebpf/explain"
	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
	"github.com/wfpebpf/wfpebpf/policy"
)

// sshConnection is where sshd says what connection a shell came by.
const sshConnection = "SSH_CONNECTION"

// sshTuple reads "client port server port". It is false where the text says
// nothing, as outside of SSH.
func sshTuple(connection string) (explain.Tuple, bool) {
	words := strings.Fields(connection)
	if len(words) != 4 {
		return explain.Tuple{}, false
	}
	t := explain.Tuple{Protocol: 6}
	for i, to := range []*netip.AddrPort{&t.Remote, &t.Local} {
		a, err := netip.ParseAddr(words[2*i])
		port, err2 := strconv.ParseUint(words[2*i+1], 10, 16)
		if err != nil || err2 != nil {
			return explain.Tuple{}, false
		}
		if a.Zone() != "" {
			t.Link.Name = a.Zone()
		}
		*to = netip.AddrPortFrom(a.WithZone("").Unmap(), uint16(port))
	}
	if pid := sshListener(os.Getpid()); pid != 0 {
		identify(&t, pid)
	}
	return t, true
}

// sshListener finds the outermost ancestor that is sshd: the one that listens,
// whose identity an accept is judged with. 0 where there is none.
func sshListener(pid int) int {
	found := 0
	for pid > 1 {
		name, parent, ok := process(pid)
		if !ok {
			break
		}
		if name == "sshd" {
			found = pid
		}
		pid = parent
	}
	return found
}

// process reads a process's name and parent. The name stands in parentheses and
// may hold any character.
func process(pid int) (name string, parent int, ok bool) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", 0, false
	}
	open, end := strings.IndexByte(string(stat), '('), strings.LastIndexByte(string(stat), ')')
	if open < 0 || end < open {
		return "", 0, false
	}
	fields := strings.Fields(string(stat[end+1:]))
	if len(fields) < 2 {
		return "", 0, false
	}
	parent, err = strconv.Atoi(fields[1])
	return string(stat[open+1 : end]), parent, err == nil
}

// identify adds the program, the user and the unit of a process, as far as they
// can be read.
func identify(t *explain.Tuple, pid int) {
	proc := fmt.Sprintf("/proc/%d", pid)
	if exe, err := os.Readlink(filepath.Join(proc, "exe")); err == nil {
		t.App = filter.Blob([]byte(strings.TrimSuffix(exe, " (deleted)")))
	}
	t.User = filter.TokenValue(filter.UnixUser(0), filter.UnixGroup(0))
	cgroup, err := os.ReadFile(filepath.Join(proc, "cgroup"))
	if err != nil {
		return
	}
	for line := range strings.Lines(string(cgroup)) {
		path, v2 := strings.CutPrefix(strings.TrimSpace(line), "0::")
		if base := filepath.Base(path); v2 && strings.Contains(base, ".") {
			t.Unit = base
		}
	}
}

// wouldBlock asks the evaluator about a connection. filtered tells of a link whether it
// is among those to be filtered.
func wouldBlock(p *policy.Policy, t explain.Tuple, filtered func(link string) bool) (*filter.Filter, layermap.LayerID) {
	if t.Unit != "" && t.User.Token != nil {
		sids := append([]filter.SID{filter.ServiceSID(t.Unit)}, t.User.Token.SIDs...)
		for sid, unit := range p.Services {
			if unit == t.Unit {
				sids = append(sids, sid)
			}
		}
		t.User = filter.TokenValue(sids...)
	}
	return explain.WouldBlock(p, t, filtered)
}
