// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// refusedLSM says why no program of ours is called at the LSM hooks; nil where one
// is. It asks once a process.
var refusedLSM = sync.OnceValue(probeLSM)

// ErrLSMNotCalled: the kernel takes LSM programs and never calls them.
var ErrLSMNotCalled = errors.New("the kernel does not call LSM programs (bpf is not among its lsm=)")

// probeLSM attaches a program to socket_listen and listens: a kernel that was not told
// to use BPF as a security module attaches programs as well, and does not call them. The
// program notes that somebody listens and permits everything.
func probeLSM() error {
	called, err := ebpf.NewMap(&ebpf.MapSpec{Name: "wfp_lsm_called", Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		return err
	}
	defer called.Close()
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "wfp_lsm_probe", Type: ebpf.LSM, AttachType: ebpf.AttachLSMMac, AttachTo: "socket_listen", License: "Dual BSD/GPL",
		Instructions: asm.Instructions{
			asm.Mov.Reg(asm.R2, asm.RFP),
			asm.Add.Imm(asm.R2, -4),
			asm.StoreImm(asm.R2, 0, 0, asm.Word),
			asm.LoadMapPtr(asm.R1, called.FD()),
			asm.FnMapLookupElem.Call(),
			asm.JEq.Imm(asm.R0, 0, "pass"),
			asm.StoreImm(asm.R0, 0, 1, asm.Word),
			asm.Mov.Imm(asm.R0, 0).WithSymbol("pass"),
			asm.Return(),
		},
	})
	if err != nil {
		return fmt.Errorf("loading: %w", short(err))
	}
	defer prog.Close()
	l, err := link.AttachLSM(link.LSMOptions{Program: prog})
	if err != nil {
		return fmt.Errorf("attaching: %w", err)
	}
	defer l.Close()
	if err := listenOnce(); err != nil {
		return err
	}
	var n uint32
	if err := called.Lookup(uint32(0), &n); err != nil {
		return err
	}
	if n == 0 {
		return ErrLSMNotCalled
	}
	return nil
}

// listenOnce calls listen() on a socket that nobody can reach: a local one with a name
// of the kernel's choosing.
func listenOnce() error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return errors.Join(unix.Bind(fd, &unix.SockaddrUnix{}), unix.Listen(fd, 1))
}

// short is what the kernel answered, without advice on memory limits, which are
// lifted.
func short(err error) error {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}
