// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"github.com/wfpebpf/wfpebpf/bpf"
	"github.com/wfpebpf/wfpebpf/layermap"
)

var capabilities = []struct {
	bit  uint
	name string
}{
	{unix.CAP_NET_ADMIN, "CAP_NET_ADMIN"}, {unix.CAP_SYS_ADMIN, "CAP_SYS_ADMIN"},
	{unix.CAP_PERFMON, "CAP_PERFMON"}, {unix.CAP_BPF, "CAP_BPF"},
}

// CheckCapabilities names the first capability that the process lacks.
func CheckCapabilities() error {
	var data [2]unix.CapUserData
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capget(&header, &data[0]); err != nil {
		return fmt.Errorf("reading capabilities: %w", err)
	}
	for _, c := range capabilities {
		if data[c.bit/32].Effective&(1<<(c.bit%32)) == 0 {
			return fmt.Errorf("%w %s (run as root)", ErrCapability, c.name)
		}
	}
	return nil
}

// Probe asks the kernel what it can do for each layer: the programs of its
// hooks are loaded, and those of links attached in a namespace that is thrown
// away. It asks once a process.
var Probe = sync.OnceValue(probe)

func probe() []LayerStatus {
	refused := map[string]error{} // by program
	err := CheckCapabilities()
	if err == nil {
		err = rlimit.RemoveMemlock()
	}
	var spec *ebpf.CollectionSpec
	if err == nil {
		spec, err = bpf.LoadWFP()
	}
	if err == nil {
		refused, err = probePrograms(spec)
	}
	var list []LayerStatus
	for _, l := range layermap.Layers() {
		s := LayerStatus{Layer: l.ID}
		switch {
		case l.Hook().Reserved:
			s.Available = true
		case !l.Hook().Live:
			s.Reason = "does not run yet"
		case err != nil:
			s.Reason = err.Error()
		default:
			s.Available, s.Reason = layerStatus(l.ID, refused)
		}
		list = append(list, s)
	}
	return list
}

func layerStatus(id layermap.LayerID, refused map[string]error) (bool, string) {
	means := ""
	for _, h := range hooks {
		if !h.carries(id) {
			continue
		}
		if h.kind == onAnswer && !haveNetfilterLinks() {
			means = also(means, "no netfilter links here (6.4), and so no datagrams to closed ports")
			continue
		}
		if err := refusedLSM(); err != nil && h.kind == onLSM {
			means = also(means, fmt.Sprintf("by sock_ops: no LSM program here (%v); listen() succeeds, and a blocked listener gets no connections", err))
			continue
		}
		if h.program == resetProgram && !haveResets() {
			return false, "this kernel does not tell of packets without a socket at " + h.name + " (6.10)"
		}
		if err := refused[h.program]; err != nil {
			return false, fmt.Sprintf("this kernel refuses %s: %v", h.name, err)
		}
		if h.kind.onTC() && !haveTCX() {
			means = also(means, "by clsact: no tcx here (6.6)")
		}
	}
	return true, means
}

// also adds a means to those that a layer is carried by, once.
func also(means, more string) string {
	if strings.Contains(means, more) {
		return means
	}
	return strings.TrimPrefix(means+"; "+more, "; ")
}

// probePrograms loads all programs at once, and one by one where that fails,
// to name what does not load. What loads is then tried out further.
func probePrograms(spec *ebpf.CollectionSpec) (map[string]error, error) {
	refused := map[string]error{}
	spec = spec.Copy()
	for _, h := range hooks {
		if h.kind == onLSM && refusedLSM() != nil {
			delete(spec.Programs, h.program) // its layers do without
		}
	}
	coll, err := ebpf.NewCollection(spec.Copy())
	if err != nil {
		able := spec.Copy()
		for name, p := range spec.Programs {
			if err := loadsAlone(spec, name, p); err != nil {
				refused[name] = err
				delete(able.Programs, name)
			}
		}
		if coll, err = ebpf.NewCollection(able); err != nil {
			return refused, fmt.Errorf("loading the programs that load alone: %w", err)
		}
	}
	defer coll.Close()
	if _, err := cgroupRoot(); err != nil {
		for _, h := range hooks {
			if h.kind == onCgroup {
				refused[h.program] = err
			}
		}
	}
	for program, err := range probeLinks(coll) {
		refused[program] = err
	}
	return refused, nil
}

// loadsAlone says why a program does not load. That the kernel has none of the
// type, and which has, says more than what it stumbles over.
func loadsAlone(spec *ebpf.CollectionSpec, name string, p *ebpf.ProgramSpec) error {
	if err := features.HaveProgramType(p.Type); errors.Is(err, ebpf.ErrNotSupported) {
		return err
	}
	one := spec.Copy()
	one.Programs = map[string]*ebpf.ProgramSpec{name: p.Copy()}
	c, err := ebpf.NewCollection(one)
	if err != nil {
		return err
	}
	c.Close()
	return nil
}

// probeLinks attaches the programs of links and of the namespace to lo in a
// namespace of its own.
func probeLinks(coll *ebpf.Collection) map[string]error {
	result := make(chan map[string]error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread and its namespace end
		refused := map[string]error{}
		defer func() { result <- refused }()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return // the loads above must do
		}
		lo := &device{Index: 1, Name: "lo"}
		for _, h := range hooks {
			var l link.Link
			var err error
			prog := coll.Programs[h.program]
			switch {
			case prog == nil:
				continue // refused already
			case h.kind == onXDP:
				l, err = attachXDP(lo, prog)
			case h.kind.onTC() && haveTCX():
				l, err = link.AttachTCX(link.TCXOptions{Interface: lo.Index, Program: prog, Attach: h.attach})
			case h.kind == onLocalIn, h.kind == onForward, h.kind == onLocalOut, h.kind == onAnswer:
				l, err = attachNetfilter(&h, prog)
			default:
				continue
			}
			if err != nil {
				refused[h.program] = err
				continue
			}
			if err := l.Close(); err != nil && !errors.Is(err, unix.ENOLINK) {
				refused[h.program] = err
			}
		}
	}()
	return <-result
}
