// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// workerEnv makes this program a worker: a process in a namespace, a cgroup and
// on a CPU, which sends and receives on command until its input ends.
const workerEnv = "WFPEBPF_BENCH_WORKER"

// order is one command to a worker, a line of JSON.
type order struct {
	Op    string        // a key of workerOps
	Ports []uint16      // receive, listen
	Flows []flow        // what to send or to connect, in turn
	New   bool          // flood: each packet opens a flow
	Once  bool          // flood, connect: each flow once
	For   time.Duration // flood, connect, stream
}

// report is what came of an order.
type report struct {
	Count   uint64        // packets, connections or bytes
	Elapsed time.Duration // that it took
	CPU     time.Duration // of the thread that sends, or of the process
	Error   string
}

// flow is one remote end and the port at the server.
type flow struct {
	Remote netip.Addr
	Port   uint16
	Source uint16 // port of a datagram's sender
	Out    bool   // the host is the client
}

var workerOps = map[string]func(order) (report, error){
	"receive": receive, "flood": flood, "listen": listen, "connect": connect, "stream": stream, "cpu": processCPU,
}

// workerMain serves orders; the result is an exit status.
func workerMain(in io.Reader, out io.Writer) int {
	dec, enc := json.NewDecoder(in), json.NewEncoder(out)
	for {
		var o order
		if err := dec.Decode(&o); err != nil {
			if errors.Is(err, io.EOF) {
				return 0
			}
			fmt.Fprintln(os.Stderr, "bench worker:", err)
			return 1
		}
		r, err := workerOps[o.Op](o)
		if err != nil {
			r.Error = err.Error()
		}
		if enc.Encode(r) != nil {
			return 1 // the benchmark has gone
		}
	}
}

// worker is the benchmark's end of one.
type worker struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	enc   *json.Encoder
	dec   *json.Decoder
}

// start starts a worker on a CPU, in the host's namespace and cgroup or in the
// peer's namespace. It ends with the lab.
func (s *site) start(ns netns.NsHandle, cpu int) (*worker, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	w := &worker{cmd: exec.Command(exe)}
	// No collection of garbage in a measurement; more threads than CPUs may
	// wait in system calls.
	w.cmd.Env = append(os.Environ(), workerEnv+"=1", "GOGC=off", "GOMAXPROCS=4")
	w.cmd.Stderr = os.Stderr
	// A Ctrl-C is for the benchmark, which ends its workers.
	w.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if ns == s.host {
		dir, err := os.Open(s.target.Cgroup)
		if err != nil {
			return nil, err
		}
		defer dir.Close()
		w.cmd.SysProcAttr.UseCgroupFD, w.cmd.SysProcAttr.CgroupFD = true, int(dir.Fd())
	}
	if w.stdin, err = w.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := w.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	w.enc, w.dec = json.NewEncoder(w.stdin), json.NewDecoder(stdout)
	err = inside(ns, func() error {
		var set unix.CPUSet
		set.Set(cpu)
		if err := unix.SchedSetaffinity(0, &set); err != nil {
			return fmt.Errorf("pinning to CPU %d: %w", cpu, err)
		}
		// ahead of what else the machine does, for so long as a slice lasts
		if err := unix.Setpriority(unix.PRIO_PROCESS, 0, -20); err != nil {
			return fmt.Errorf("raising the priority: %w", err)
		}
		return w.cmd.Start()
	})
	if err != nil {
		return nil, fmt.Errorf("starting a worker: %w", err)
	}
	s.lab.later(func() error {
		w.stdin.Close()
		w.cmd.Process.Kill() // it may be in the middle of an order
		w.cmd.Wait()
		return nil
	})
	return w, nil
}

// do gives an order and waits for what comes of it.
func (w *worker) do(ctx context.Context, o order) (r report, err error) {
	stop := context.AfterFunc(ctx, func() { w.cmd.Process.Kill() })
	defer stop()
	if err = w.enc.Encode(o); err == nil {
		err = w.dec.Decode(&r)
	}
	switch {
	case ctx.Err() != nil:
		return r, ctx.Err()
	case err != nil:
		return r, fmt.Errorf("worker, %s: %w", o.Op, err)
	case r.Error != "":
		return r, fmt.Errorf("worker, %s: %s", o.Op, r.Error)
	}
	return r, nil
}

// processCPU is the CPU time of the worker so far.
func processCPU(order) (report, error) {
	var u unix.Rusage
	err := unix.Getrusage(unix.RUSAGE_SELF, &u)
	return report{CPU: time.Duration(u.Utime.Nano() + u.Stime.Nano())}, err
}

// threadCPU is the CPU time of the calling thread so far, with that of the
// softirqs that ran on top of it, unless the kernel counts those apart
// (CONFIG_IRQ_TIME_ACCOUNTING).
func threadCPU() time.Duration {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t) != nil {
		return 0
	}
	return time.Duration(t.Nano())
}
