// SPDX-License-Identifier: Apache-2.0

package testbed

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// ProcOptions says where a process runs and as whom.
type ProcOptions struct {
	Netns  *Netns  // required: no test opens sockets in the machine's own
	Cgroup *Cgroup // nil: that of the test
	UID    int     // 0: root, with all capabilities
	GID    int
	// CopyTo runs a copy of the test binary, which is another executable to
	// whoever looks at inodes. A path without a slash is put in a directory
	// of its own.
	CopyTo string
}

// Proc is a process that opens sockets on command. Its methods may be called
// from several goroutines at once.
type Proc struct {
	PID int
	Exe string // path of the executable that it runs

	cmd   *exec.Cmd
	stdin io.WriteCloser
	done  chan struct{} // closed when it has ended and been waited for

	mu      sync.Mutex
	nextID  int
	waiting map[int]chan response // nil once it has ended
}

// Sock is a socket of a process.
type Sock struct {
	ID     int
	Local  netip.AddrPort // zero where the address family is not IP
	Remote netip.AddrPort // zero unless connected
	// Protocol is what the kernel made it with, such as IPPROTO_MPTCP.
	Protocol int
}

// MPTCP says which protocol a TCP socket is made with.
type MPTCP int

const (
	MPTCPDefault MPTCP = iota // as Go does: listeners use it where the kernel has it, connections do not
	MPTCPOn
	MPTCPOff
)

// Options of a command; each command uses those that apply.
type Options struct {
	Local   string        // bind to this first; empty: implicitly
	Timeout time.Duration // 0: DefaultTimeout
	MPTCP   MPTCP
	V6Only  bool // IPV6_V6ONLY; the "6" of a network otherwise names only the socket's family
	NoBind  bool // Listen without bind, on a port of the kernel's choice
	Silent  bool // Listen without answering
}

// DefaultTimeout is how long a command waits for the peer. It is longer than
// the first retransmission of a SYN, so that one lost packet is no time-out.
const DefaultTimeout = 2 * time.Second

// Stats counts what reached a listening socket.
type Stats struct {
	Accepted int // TCP connections, or datagrams
	Bytes    int
}

// Start runs a process until the test ends or Close.
func Start(t testing.TB, opt ProcOptions) *Proc {
	t.Helper()
	if opt.Netns == nil {
		t.Fatal("testbed.Start: no namespace given")
	}
	p := &Proc{done: make(chan struct{}), waiting: map[int]chan response{}, nextID: 1}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p.Exe = exe
	if opt.CopyTo != "" {
		p.Exe = opt.CopyTo
		if !strings.Contains(p.Exe, "/") {
			p.Exe = filepath.Join(t.TempDir(), p.Exe)
		}
		if err := copyFile(p.Exe, exe); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.Remove(p.Exe) })
	}

	ready := make(chan response, 1)
	p.waiting[0] = ready
	stdout, err := p.start(opt)
	if err != nil {
		t.Fatalf("start %s in %s: %v", p.Exe, opt.Netns.Name, err)
	}
	p.PID = p.cmd.Process.Pid
	t.Cleanup(p.Close)
	go p.read(stdout)

	r, ok := <-ready
	if !ok {
		t.Fatalf("%s ended before it was ready: does TestMain call testbed.Main?", p.Exe)
	}
	if err := r.err("start " + p.Exe); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *Proc) start(opt ProcOptions) (io.Reader, error) {
	var attr syscall.SysProcAttr
	if opt.Cgroup != nil {
		dir, err := os.Open(opt.Cgroup.Path)
		if err != nil {
			return nil, err
		}
		defer dir.Close()
		attr.UseCgroupFD, attr.CgroupFD = true, int(dir.Fd())
	}
	// A program that was just written can be busy for a moment: another
	// process that is about to start still has it open.
	for tries := 0; ; tries++ {
		cmd := exec.Command(p.Exe)
		cmd.Env = append(os.Environ(), childEnv+"=1",
			childUIDEnv+"="+strconv.Itoa(opt.UID), childGIDEnv+"="+strconv.Itoa(opt.GID))
		cmd.Stderr = os.Stderr
		cmd.SysProcAttr = &attr
		stdin, err := cmd.StdinPipe()
		if err != nil {
			return nil, err
		}
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			return nil, err
		}
		err = opt.Netns.Do(cmd.Start)
		if err == nil {
			p.cmd, p.stdin = cmd, stdin
			return stdout, nil
		}
		if !errors.Is(err, unix.ETXTBSY) || tries == 20 {
			return nil, err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// read hands answers to those who wait, until the process ends.
func (p *Proc) read(stdout io.Reader) {
	dec := json.NewDecoder(bufio.NewReader(stdout))
	for {
		var r response
		if dec.Decode(&r) != nil {
			break
		}
		p.mu.Lock()
		ch := p.waiting[r.ID]
		delete(p.waiting, r.ID)
		p.mu.Unlock()
		if ch != nil {
			ch <- r
		}
	}
	p.cmd.Wait()
	p.mu.Lock()
	for _, ch := range p.waiting {
		close(ch)
	}
	p.waiting = nil
	p.mu.Unlock()
	close(p.done)
}

// Close ends the process and waits for it. Its sockets are closed by the
// kernel.
func (p *Proc) Close() {
	p.stdin.Close()
	select {
	case <-p.done:
	case <-time.After(3 * time.Second):
		p.cmd.Process.Kill()
		<-p.done
	}
}

// Kill ends the process at once, as by the out-of-memory killer.
func (p *Proc) Kill() {
	p.cmd.Process.Kill()
	<-p.done
}

// CgroupPath returns where the process is in the cgroup v2 hierarchy, from the
// kernel.
func (p *Proc) CgroupPath() (string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", p.PID))
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		if path, ok := strings.CutPrefix(line, "0::"); ok {
			return strings.TrimSpace(path), nil
		}
	}
	return "", errors.New("not in a cgroup v2 hierarchy")
}

// do sends a request and waits for its answer.
func (p *Proc) do(req request, command string) (response, error) {
	ch := make(chan response, 1)
	p.mu.Lock()
	if p.waiting == nil {
		p.mu.Unlock()
		return response{}, &OpError{command, "command", errors.New("the process has ended")}
	}
	req.ID = p.nextID
	p.nextID++
	p.waiting[req.ID] = ch
	line, err := json.Marshal(req)
	if err == nil {
		_, err = p.stdin.Write(append(line, '\n'))
	}
	if err != nil {
		delete(p.waiting, req.ID)
	}
	p.mu.Unlock()
	if err != nil {
		return response{}, &OpError{command, "command", err}
	}
	r, ok := <-ch
	if !ok {
		return response{}, &OpError{command, "command", errors.New("the process has ended")}
	}
	return r, r.err(command)
}

func (p *Proc) sock(req request, opts []Options) (Sock, error) {
	if len(opts) > 0 {
		req.Options = opts[0]
	}
	r, err := p.do(req, fmt.Sprintf("%s %s %s", req.Op, req.Network, req.Addr))
	if err != nil {
		return Sock{}, err
	}
	return r.socket(), nil
}

// Listen opens an echo server on tcp4, tcp6, udp4 or udp6. A network that ends
// in 6 takes IPv4 in mapped form too.
func (p *Proc) Listen(network, addr string, opts ...Options) (Sock, error) {
	return p.sock(request{Op: "listen", Network: network, Addr: addr}, opts)
}

// Dial connects a TCP or UDP socket. ErrTimeout: no answer came.
func (p *Proc) Dial(network, addr string, opts ...Options) (Sock, error) {
	return p.sock(request{Op: "dial", Network: network, Addr: addr}, opts)
}

// Bind opens a socket and binds it, no more; Sock.Local has the port.
func (p *Proc) Bind(network, addr string, opts ...Options) (Sock, error) {
	return p.sock(request{Op: "bind", Network: network, Addr: addr}, opts)
}

// UDP opens a UDP socket that is not connected, bound only where Options.Local
// says so.
func (p *Proc) UDP(network string, opts ...Options) (Sock, error) {
	return p.sock(request{Op: "udp", Network: network}, opts)
}

// Socket makes a socket of any kind, such as AF_INET, SOCK_RAW, IPPROTO_ICMP.
func (p *Proc) Socket(domain, typ, protocol int) (Sock, error) {
	r, err := p.do(request{Op: "socket", Domain: domain, Type: typ, Protocol: protocol},
		fmt.Sprintf("socket %d %d %d", domain, typ, protocol))
	return r.socket(), err
}

// SetOption sets an option of a socket.
func (p *Proc) SetOption(s Sock, level, option int, value []byte) error {
	_, err := p.do(request{Op: "setsockopt", Sock: s.ID, Level: level, Option: option, Data: value},
		fmt.Sprintf("setsockopt %d %d", level, option))
	return err
}

// BindSock binds a socket that exists.
func (p *Proc) BindSock(s Sock, addr string) error {
	_, err := p.do(request{Op: "bindsock", Sock: s.ID, Addr: addr}, "bind "+addr)
	return err
}

// ConnectSock connects a socket that exists. ErrTimeout: no answer came.
func (p *Proc) ConnectSock(s Sock, addr string, opts ...Options) error {
	req := request{Op: "connectsock", Sock: s.ID, Addr: addr}
	if len(opts) > 0 {
		req.Options = opts[0]
	}
	_, err := p.do(req, "connect "+addr)
	return err
}

// Exchange sends a message on a connected socket and reads its echo.
func (p *Proc) Exchange(s Sock, message string, opts ...Options) error {
	req := request{Op: "exchange", Sock: s.ID, Data: []byte(message)}
	if len(opts) > 0 {
		req.Options = opts[0]
	}
	_, err := p.do(req, fmt.Sprintf("exchange on %s to %s", s.Local, s.Remote))
	return err
}

// SendTo sends one datagram from a socket of UDP or Socket. An address such as
// [::ffff:10.77.0.2]:53 reaches IPv4 from a udp6 socket.
func (p *Proc) SendTo(s Sock, addr, message string) error {
	_, err := p.do(request{Op: "sendto", Sock: s.ID, Addr: addr, Data: []byte(message)}, "sendto "+addr)
	return err
}

// Receive waits for one datagram.
func (p *Proc) Receive(s Sock, opts ...Options) (from netip.AddrPort, message string, err error) {
	req := request{Op: "receive", Sock: s.ID}
	if len(opts) > 0 {
		req.Options = opts[0]
	}
	r, err := p.do(req, fmt.Sprintf("receive on %s", s.Local))
	return r.Remote, string(r.Data), err
}

// Duplicate returns a descriptor of this process for a socket of the other: for
// more traffic than a conversation carries. The socket stays the other's to the
// kernel, in its cgroup and with its identity. The caller closes it.
func (p *Proc) Duplicate(s Sock) (fd int, err error) {
	r, err := p.do(request{Op: "number", Sock: s.ID}, "number")
	if err != nil {
		return -1, err
	}
	process, err := unix.PidfdOpen(p.PID, 0)
	if err != nil {
		return -1, &OpError{"duplicate", "pidfd_open", err}
	}
	defer unix.Close(process)
	if fd, err = unix.PidfdGetfd(process, r.Number, 0); err != nil {
		return -1, &OpError{"duplicate", "pidfd_getfd", err}
	}
	return fd, nil
}

// UDPSend sends one datagram from a new socket that is not connected, without
// waiting for an answer.
func (p *Proc) UDPSend(network, addr, message string, opts ...Options) error {
	s, err := p.UDP(network, opts...)
	if err != nil {
		return err
	}
	defer p.CloseSock(s)
	return p.SendTo(s, addr, message)
}

// UDPExchange sends one datagram from a new socket that is not connected and
// reads its echo.
func (p *Proc) UDPExchange(network, addr, message string, opts ...Options) error {
	s, err := p.UDP(network, opts...)
	if err != nil {
		return err
	}
	defer p.CloseSock(s)
	if err := p.SendTo(s, addr, message); err != nil {
		return err
	}
	_, got, err := p.Receive(s, opts...)
	if err == nil && got != message {
		err = &OpError{"exchange with " + addr, "recvfrom", fmt.Errorf("echo of %q is %q", message, got)}
	}
	return err
}

// Connect dials, exchanges one message and closes: the whole of what a blocked
// program would not be able to do.
func (p *Proc) Connect(network, addr string, opts ...Options) error {
	s, err := p.Dial(network, addr, opts...)
	if err != nil {
		return err
	}
	defer p.CloseSock(s)
	return p.Exchange(s, "hello", opts...)
}

// Stats tells what has reached a socket of Listen.
func (p *Proc) Stats(s Sock) (Stats, error) {
	r, err := p.do(request{Op: "stats", Sock: s.ID}, "stats")
	return r.Stats, err
}

// CloseSock closes a socket.
func (p *Proc) CloseSock(s Sock) error {
	_, err := p.do(request{Op: "close", Sock: s.ID}, "close")
	return err
}

func copyFile(to, from string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(dst, src); err != nil {
		dst.Close()
		return err
	}
	return dst.Close()
}
