// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wfpebpf/wfpebpf/layermap"
)

// What a client asks of the server by its first byte.
const (
	askEcho  = 'e' // the byte comes back
	askCount = 'c' // a count of the bytes that follow comes back after the last
)

const (
	streamBuffer = 128 << 10 // of one write
	socketBuffer = 512 << 10
)

// listen serves TCP at a port from then on, one connection after another.
func listen(o order) (report, error) {
	for _, port := range o.Ports {
		fd, err := tcpSocket()
		if err == nil {
			err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
		}
		if err == nil {
			err = unix.Bind(fd, &unix.SockaddrInet4{Port: int(port)})
		}
		if err == nil {
			err = unix.Listen(fd, 64)
		}
		if err != nil {
			return report{}, err
		}
		go func() {
			buffer := make([]byte, 2*streamBuffer)
			for {
				c, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
				if err == nil {
					serve(c, buffer)
					unix.Close(c)
				}
			}
		}()
	}
	return report{}, nil
}

// serve returns when the client has closed, however it did.
func serve(c int, buffer []byte) {
	if n, err := unix.Read(c, buffer[:1]); err != nil || n == 0 {
		return
	}
	if buffer[0] == askEcho {
		if _, err := unix.Write(c, buffer[:1]); err == nil {
			unix.Read(c, buffer[:1]) // until the client's reset
		}
		return
	}
	sum := uint64(0)
	for {
		n, err := unix.Read(c, buffer)
		if err != nil {
			return
		}
		if n == 0 {
			break
		}
		sum += uint64(n)
	}
	unix.Write(c, binary.LittleEndian.AppendUint64(nil, sum))
}

// tcpSocket makes a socket with buffers of one size: those that the kernel sizes
// differ from connection to connection, and what leaves the cache costs more.
func tcpSocket() (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return 0, err
	}
	err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, socketBuffer)
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, socketBuffer)
	}
	if err != nil {
		unix.Close(fd)
		return 0, err
	}
	return fd, nil
}

// dial connects as the flow says. A blocked connection fails within the limit.
func dial(f flow, limit time.Duration) (int, error) {
	fd, err := tcpSocket()
	if err != nil {
		return 0, err
	}
	to := f.Remote
	// A reset at the end leaves no TIME_WAIT, of which there would soon be too many.
	err = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	if err == nil {
		wait := unix.NsecToTimeval(limit.Nanoseconds())
		err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &wait)
	}
	if err == nil && !f.Out {
		to = hostAddress
		err = unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
		if err == nil {
			err = unix.Bind(fd, &unix.SockaddrInet4{Addr: f.Remote.As4()})
		}
	}
	if err == nil {
		err = unix.Connect(fd, &unix.SockaddrInet4{Addr: to.As4(), Port: int(f.Port)})
	}
	if err != nil {
		unix.Close(fd)
		return 0, fmt.Errorf("connecting to %s: %w", netip.AddrPortFrom(to, f.Port), err)
	}
	return fd, nil
}

// connectLimit is more than a connection takes, and less than a SYN that was
// dropped takes to come again.
const connectLimit = 300 * time.Millisecond

// connect makes connections for a time, or each flow once, with a byte there
// and back, and counts those that came about. Once, one that does not is no error.
func connect(o order) (r report, err error) {
	b := make([]byte, 1)
	start := time.Now()
	for i := 0; o.Once && i < len(o.Flows) || !o.Once && r.Elapsed < o.For; i++ {
		fd, err := dial(o.Flows[i%len(o.Flows)], connectLimit)
		if err != nil && o.Once {
			continue
		}
		if err != nil {
			return r, err
		}
		b[0] = askEcho
		if _, err = unix.Write(fd, b); err == nil {
			_, err = unix.Read(fd, b)
		}
		unix.Close(fd)
		if err != nil {
			return r, err
		}
		r.Count++
		r.Elapsed = time.Since(start)
	}
	return r, nil
}

// stream sends over one connection for a time and counts what has arrived.
func stream(o order) (r report, err error) {
	fd, err := dial(o.Flows[0], connectLimit)
	if err != nil {
		return r, err
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, []byte{askCount}); err != nil {
		return r, err
	}
	data := make([]byte, streamBuffer)
	start := time.Now()
	for time.Since(start) < o.For {
		if _, err := unix.Write(fd, data); err != nil {
			return r, err
		}
	}
	if err := unix.Shutdown(fd, unix.SHUT_WR); err != nil {
		return r, err
	}
	var answer [8]byte
	if n, err := unix.Read(fd, answer[:]); err != nil || n != len(answer) {
		return r, fmt.Errorf("the server answers with %d bytes: %w", n, err)
	}
	r.Elapsed = time.Since(start)
	r.Count = binary.LittleEndian.Uint64(answer[:])
	return r, nil
}

// Lengths of a slice: what disturbs one should still disturb the next, so they
// are short and many.
const (
	streamSlice  = 25 * time.Millisecond
	connectSlice = 10 * time.Millisecond // each way
	streamTurns  = 8                     // pairs for each run that is asked for
)

// streamSite is a site with a worker at each end, which serves and connects.
// Both have the same CPU, so that nothing is idle and no wake-up goes to another:
// the rate is the cost. Over two CPUs no firewall beside itself differs by a fifth.
type streamSite struct {
	firewall
	*site
	hostEnd, peerEnd *worker
}

var streamLayers = where{[]layermap.LayerID{layermap.ALEAuthConnectV4, layermap.ALEAuthRecvAcceptV4}, unix.IPPROTO_TCP}

// streamPort is where the workers listen: traffic meets the rules for it.
var streamPort = servicePorts[0]

func newStreamSite(ctx context.Context, l *lab, name string, f firewall, list []endpoint) (*streamSite, error) {
	s, err := l.newSite(name)
	if err != nil {
		return nil, err
	}
	// before there are sockets: those have the identity of their making
	if err := f.install(ctx, s, list); err != nil {
		return nil, err
	}
	t := &streamSite{firewall: f, site: s}
	if t.hostEnd, err = s.start(s.host, senderCPU()); err != nil {
		return nil, err
	}
	if t.peerEnd, err = s.start(s.peer, senderCPU()); err != nil {
		return nil, err
	}
	for _, w := range []*worker{t.hostEnd, t.peerEnd} {
		if _, err := w.do(ctx, order{Op: "listen", Ports: []uint16{streamPort}}); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// client is who connects.
func (t *streamSite) client(out bool) *worker {
	if out {
		return t.hostEnd
	}
	return t.peerEnd
}

func (t *streamSite) cpu(ctx context.Context) (sum time.Duration, err error) {
	for _, w := range []*worker{t.hostEnd, t.peerEnd} {
		r, err := w.do(ctx, order{Op: "cpu"})
		if err != nil {
			return 0, err
		}
		sum += r.CPU
	}
	return sum, nil
}

// slice gives the client the order, for each way, and counts the CPU time of both
// ends.
func (t *streamSite) slice(ctx context.Context, o order, ways ...bool) func() (slice, error) {
	return func() (slice, error) {
		before, err := t.cpu(ctx)
		if err != nil {
			return slice{}, err
		}
		var sum report
		for _, out := range ways {
			o.Flows = flowsOut(o.Flows, out)
			r, err := t.client(out).do(ctx, o)
			if err != nil {
				return slice{}, err
			}
			sum.Count += r.Count
			sum.Elapsed += r.Elapsed
		}
		after, err := t.cpu(ctx)
		return sliceOf(sum.Count, sum.Elapsed, after-before), err
	}
}

func flowsOut(flows []flow, out bool) []flow {
	list := make([]flow, len(flows))
	for i, f := range flows {
		f.Out = out
		list[i] = f
	}
	return list
}

// tcpFlows are as flowsOf, to the port of the workers.
func tcpFlows(list []endpoint, wanted func(endpoint) bool) []flow {
	return flowsOf(list, func(e endpoint) bool { return e.port == streamPort && wanted(e) })
}

// check holds the firewall to the rules, both ways.
func (t *streamSite) check(ctx context.Context, list []endpoint) error {
	const some = 8 // a blocked one takes its time
	for _, out := range []bool{false, true} {
		for what, wanted := range map[string]func(endpoint) bool{"permitted": permitted, "blocked": blocked} {
			want := uint64(some)
			if what == "blocked" && !t.permissive {
				want = 0
			}
			flows := flowsOut(tcpFlows(list, wanted)[:some], out)
			r, err := t.client(out).do(ctx, order{Op: "connect", Flows: flows, Once: true})
			if err != nil {
				return err
			}
			if r.Count != want {
				return fmt.Errorf("of %d %s connections (outbound: %t) %d come about, not %d", some, what, out, r.Count, want)
			}
		}
	}
	return nil
}

// runStreams measures TCP through the ALE layers.
func runStreams(ctx context.Context, size, n int) (sec section, err error) {
	l := &lab{}
	defer func() { err = errors.Join(err, l.Close()) }()
	const title = "TCP through the ALE layers"
	n *= streamTurns
	progress("%s: %d filters", title, size)
	list := endpoints(size)
	var notes []string
	firewalls := []firewall{none(noFirewall), none(again), wfpebpf(streamLayers)}
	if v, err := version(ctx, "nft"); err != nil {
		notes = append(notes, "nftables is left out: "+err.Error()+".")
	} else {
		notes = append(notes, "nft is of "+v+".")
		firewalls = append(firewalls, conntrack())
	}
	var sites []*streamSite
	for i, f := range firewalls {
		s, err := newStreamSite(ctx, l, fmt.Sprint("tcp-", i), f, list)
		if err == nil {
			err = s.check(ctx, list)
		}
		if err != nil {
			return sec, fmt.Errorf("%s: %s: %w", title, f.name, err)
		}
		sites = append(sites, s)
	}
	var rows [][]string
	var floors []floor
	flows := tcpFlows(list, permitted)
	connections := order{Op: "connect", Flows: flows, For: connectSlice}
	transfer := order{Op: "stream", Flows: flows, For: streamSlice}
	for _, m := range []struct {
		what, unit   string
		least, scale float64
		order        order
		out          []bool // the ways to go, one after another
	}{
		{"connections", "a second", 0.90, 1, connections, []bool{false, true}},
		{"throughput in", "Gbit/s", 0.98, 8e-9, transfer, []bool{false}},
		{"throughput out", "Gbit/s", 0.98, 8e-9, transfer, []bool{true}},
	} {
		pair := func(a, b *streamSite) (pairs, error) {
			p, err := interleave(ctx, n, a.slice(ctx, m.order, m.out...), b.slice(ctx, m.order, m.out...))
			if err != nil {
				return p, fmt.Errorf("%s: %s, %s beside %s: %w", title, m.what, b.name, a.name, err)
			}
			progress("  %s: %s beside %s: %s, by CPU time %s", m.what, b.name, a.name, p.rates(), p.cpus())
			return p, nil
		}
		amount := func(s []slice) string {
			return group(strconv.FormatFloat(medianOf(s, rateOf)*m.scale, 'f', 0, 64)) + " " + m.unit
		}
		cpu := func(s []slice) string {
			if m.scale == 1 {
				return strconv.FormatFloat(medianOf(s, cpuOf)/1000, 'f', 1, 64) + " us"
			}
			return strconv.FormatFloat(medianOf(s, cpuOf), 'f', 3, 64) + " ns a byte"
		}
		var mine pairs
		for i, s := range sites[1:] {
			p, err := pair(sites[0], s)
			if err != nil {
				return sec, err
			}
			if s.name == ours {
				mine = p
			}
			if i == 0 {
				rows = append(rows, []string{m.what, noFirewall, "1", amount(p.a), "1", cpu(p.a)})
			}
			rows = append(rows, []string{m.what, s.name, p.rates().String(), amount(p.b), p.cpus().String(), cpu(p.b)})
		}
		floors = append(floors, floor{m.what + ", beside no firewall", m.least, mine})
		for _, s := range sites[3:] {
			p, err := pair(s, sites[2])
			if err != nil {
				return sec, err
			}
			floors = append(floors, floor{m.what + ", beside " + s.name, 1, p})
		}
	}
	var t strings.Builder
	fmt.Fprintf(&t, "A host with %s filters at each of %s, and a peer without a firewall.\n\n", group(strconv.Itoa(size)), streamLayers.name())
	t.WriteString(grid([]string{"TCP", "firewall", "beside no firewall", "", "by CPU time", "CPU time"}, rows))
	t.WriteString("\n" + floorTable(floors) + "\n")
	for _, note := range append([]string{
		fmt.Sprintf("Ratios are medians of %d pairs of slices by turns (%s of connections each way, %s of throughput), the middle half in brackets. No firewall beside itself shows how well they can be told.", n, connectSlice, streamSlice),
		"A rule tests remote address, protocol and port: the local one of what comes in, the remote one of what goes out; one in eight blocks, and what no rule permits is blocked. Each firewall must let permitted connections come about and blocked ones not, both ways, before any time is taken.",
		"Connections: half of them go out, half come in, each with a byte there and back and a reset, to or from addresses of permitting rules from all over the list. Throughput: one connection of a permitting rule.",
		"Both ends run on one CPU, where nothing is idle, so the rates are costs. CPU time is that of both ends' processes, with the softirqs that run on top of them.",
		"Where a floor lies inside the spread of the rates, the CPU time decides.",
	}, notes...) {
		t.WriteString("- " + note + "\n")
	}
	return section{title, t.String()}, nil
}
