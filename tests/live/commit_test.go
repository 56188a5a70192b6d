// SPDX-License-Identifier: Apache-2.0

package live

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/wfpebpf/wfpebpf/bpf"
	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
	"github.com/wfpebpf/wfpebpf/loader"
	"github.com/wfpebpf/wfpebpf/policy"
	"github.com/wfpebpf/wfpebpf/tests/testbed"
)

// A commit is one instant, at every layer: two policies with opposite verdicts
// on two kinds of traffic, called one and other, take turns while both flow at
// full rate. What would show that a verdict came from neither policy, or from
// both:
//
//   - Datagrams reach a layer in the order in which they were sent, since one
//     processor sends them. Each tells by being delivered or not which policy
//     judged it. Along the traffic that changes once a commit; a single verdict
//     out of turn, or a moment in which both kinds pass or neither does, are two
//     changes more.
//   - Of each event the filter must be one that is for this kind of traffic. The
//     policies are so unlike that what is looked up in the tables of one and
//     read in those of the other is another filter: the decoys, which match no
//     traffic, and the filters for the rest, which match nothing either.
//   - The counters of decoys and rest, read before each commit, stay at zero,
//     as do the counters of inconsistent tables.
//   - The judge, called by another engine, answers all cases of one run by the
//     same policy.
//
// A packet is judged at one layer after another, each time by the policy then
// in force, as in WFP. One that is on its way when a commit comes may thus be
// delivered though either policy would block it at one of the layers. The
// stream "crossing" counts how many are: one a commit at most, the packet that
// the processor had in its hands.
const (
	commitsEnv = "COMMITS" // how many; without it the default, or what its time allows
	// On a machine that is busy with other things a commit takes several times
	// as long as on one that is not.
	defaultCommits, leastCommits = 120, 25
	defaultTime, commitsTime     = 30 * time.Second, 15 * time.Minute

	onePort, otherPort, openPort = 7001, 7002, 7003
	// traffic in one go: as many times a datagram of each kind of each stream
	burst = 24

	unicast = 1 // NL_ADDRESS_TYPE
)

// Networks of the senders; the host routes 10.80.0.0/14 to the peer.
var (
	oneNet     = netip.MustParsePrefix("10.80.0.0/16")
	otherNet   = netip.MustParsePrefix("10.81.0.0/16")
	neutralNet = netip.MustParsePrefix("10.82.0.0/16")
)

// stream is pairs of datagrams, one of each kind.
type stream struct {
	name    string
	sources [2]netip.Prefix
	ports   [2]int
	oneFlow bool // always from the same address and port
	// crossing: policies agree that no datagram passes both layers
	crossing bool

	delivered []byte // by number of the datagram, 2n for one and 2n+1 for other
	sent      int
}

func streams() []*stream {
	ippacket, both := [2]netip.Prefix{oneNet, otherNet}, [2]int{onePort, otherPort}
	return []*stream{
		{name: "INBOUND_IPPACKET, one flow", sources: ippacket, ports: [2]int{openPort, openPort}, oneFlow: true},
		{name: "INBOUND_IPPACKET, many flows", sources: ippacket, ports: [2]int{openPort, openPort}},
		{name: "ALE_AUTH_RECV_ACCEPT", sources: [2]netip.Prefix{neutralNet, neutralNet}, ports: both},
		{name: "both layers", sources: ippacket, ports: both},
		{name: "crossing", sources: ippacket, ports: [2]int{otherPort, onePort}, crossing: true},
	}
}

// Ids of filters: 100 for the first policy and 200 for the second, 1000 more at
// ALE_AUTH_RECV_ACCEPT.
const (
	idOne filter.ID = iota + 1
	idOther
	idOpen
	idRest
	idDecoy // and on
)

func idAt(layer layermap.LayerID, second bool, id filter.ID) filter.ID {
	id += 100
	if second {
		id += 100
	}
	if layer == layermap.ALEAuthRecvAcceptV4 {
		id += 1000
	}
	return id
}

// turn makes one of the two policies. The first permits one and blocks other,
// the second the reverse, with other sublayers, fields and order.
func turn(t *testing.T, second bool) *policy.Policy {
	t.Helper()
	s := filter.NewStore()
	key := func(n int) filter.GUID { return filter.DeriveKey("sublayer", fmt.Sprint("commit ", second, n)) }
	for n := range 3 {
		err := s.AddSubLayer(filter.SubLayer{Key: key(n), Name: fmt.Sprint("Commit ", n), Weight: uint16(3000 - 1000*n)})
		if err != nil {
			t.Fatal(err)
		}
	}
	add := func(layer layermap.LayerID, name string, id filter.ID, subLayer, weight int, action filter.Action, conditions ...filter.Condition) {
		t.Helper()
		err := s.AddFilter(&filter.Filter{
			ID: idAt(layer, second, id), Name: name, Layer: layer, SubLayer: key(subLayer), Action: action,
			Weight: filter.U64(uint64(weight)), Conditions: conditions,
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	equal := func(field string, v filter.Value) filter.Condition {
		return filter.Condition{Field: field, Match: filter.MatchEqual, Value: v}
	}
	from := func(p netip.Prefix) filter.Condition { return equal("IP_REMOTE_ADDRESS", filter.V4Mask(p)) }
	to := func(port int) filter.Condition { return equal("IP_LOCAL_PORT", filter.U16(uint16(port))) }
	udp := equal("IP_PROTOCOL", filter.U8(17))

	in, accept := layermap.InboundIPPacketV4, layermap.ALEAuthRecvAcceptV4
	permit, block := filter.ActionPermit, filter.ActionBlock
	decoy := func(n, subLayer, weight int) {
		action := []filter.Action{permit, block}[n%2]
		id := idDecoy + filter.ID(n)
		add(in, "Decoy", id, subLayer, weight, action, from(netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 16, byte(n), 0}), 24)))
		add(accept, "Decoy", id, subLayer, weight, action, to(9000+n), udp)
	}
	if !second {
		add(in, "Permit one", idOne, 0, 900, permit, from(oneNet))
		add(in, "Block other", idOther, 0, 890, block, from(otherNet))
		add(in, "Permit open", idOpen, 0, 880, permit, from(netip.MustParsePrefix("10.82.0.0/15")))
		add(accept, "Permit one", idOne, 0, 900, permit, to(onePort), udp)
		add(accept, "Block other", idOther, 0, 890, block, to(otherPort), udp)
		add(accept, "Permit open", idOpen, 0, 880, permit, to(openPort))
		for n := range 8 {
			decoy(n, 0, 800-n)
		}
	} else {
		// a mixture finds a decoy where the first policy has a filter
		for n := range 40 {
			decoy(n, 0, 800-n)
		}
		add(in, "Permit other", idOther, 1, 900, permit, from(otherNet), equal("IP_LOCAL_ADDRESS_TYPE", filter.U8(unicast)),
			filter.Condition{Field: "FLAGS", Match: filter.MatchFlagsNoneSet, Value: filter.U32(1)})
		add(in, "Block one", idOne, 1, 890, block, from(oneNet))
		add(in, "Permit open", idOpen, 1, 880, permit, from(netip.MustParsePrefix("10.82.0.0/15")))
		add(accept, "Permit other", idOther, 1, 900, permit, to(otherPort))
		add(accept, "Block one", idOne, 1, 890, block, to(onePort), udp,
			filter.Condition{Field: "IP_REMOTE_PORT", Match: filter.MatchGreater, Value: filter.U16(1)})
		add(accept, "Permit open", idOpen, 1, 880, permit, to(openPort), udp)
	}
	subLayer := 0
	if second {
		subLayer = 1
	}
	// no traffic here gets so far
	add(in, "Block the rest", idRest, subLayer, 0, block)
	add(accept, "Block the rest", idRest, subLayer, 0, block, udp)
	return &policy.Policy{Store: s}
}

// turns are two policies whose tables have nothing in common.
func turns(t *testing.T) [2]*policy.Policy {
	return [2]*policy.Policy{turn(t, false), turn(t, true)}
}

// amendments are two policies of which the second one amends the tables of the
// first: its filters for the two kinds of traffic are others, and nothing else is.
func amendments(t *testing.T) [2]*policy.Policy {
	t.Helper()
	const decoys = 200
	first, second := turn(t, false), turn(t, true)
	for n := range decoys {
		f := &filter.Filter{
			ID: filter.ID(5000 + n), Name: "Decoy", Layer: layermap.ALEAuthRecvAcceptV4, SubLayer: first.Store.Filters()[0].SubLayer,
			Action: filter.ActionBlock, Weight: filter.U64(1000),
			Conditions: []filter.Condition{{Field: "IP_LOCAL_PORT", Match: filter.MatchEqual, Value: filter.U16(uint16(10000 + n))}},
		}
		if err := first.Store.AddFilter(f); err != nil {
			t.Fatal(err)
		}
	}
	s := first.Store.Clone()
	for _, layer := range []layermap.LayerID{layermap.InboundIPPacketV4, layermap.ALEAuthRecvAcceptV4} {
		for _, kind := range []filter.ID{idOne, idOther} {
			was := *s.Filter(idAt(layer, false, kind))
			if err := s.DeleteFilter(was.ID); err != nil {
				t.Fatal(err)
			}
			f := *second.Store.Filter(idAt(layer, true, kind))
			f.SubLayer = was.SubLayer
			if err := s.AddFilter(&f); err != nil {
				t.Fatal(err)
			}
		}
	}
	return [2]*policy.Policy{first, {Store: s}}
}

// inForce is the policy of a commit: they take turns, but each fifth time the
// same comes again. Tables are filled by turns, too: now and then, what is left
// in them must be of the other policy, or nobody would see it used too early or
// too long.
func inForce(commit int) int { return (commit + commit/5) % 2 }

func TestCommitUnderTraffic(t *testing.T) {
	for _, c := range []struct {
		name     string
		policies func(*testing.T) [2]*policy.Policy
		amended  bool
	}{
		{"replaced", turns, false},
		{"amended", amendments, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			commitUnderTraffic(t, c.policies(t), c.amended)
		})
	}
}

func commitUnderTraffic(t *testing.T, policies [2]*policy.Policy, amended bool) {
	b := newBedAlone(t)
	commits, least, limit := defaultCommits, leastCommits, defaultTime
	if text := os.Getenv(commitsEnv); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 2 {
			t.Fatalf("%s=%s is no number of commits", commitsEnv, text)
		}
		commits, least, limit = n, n, commitsTime
	}
	b.openEngine(loader.Options{Target: b.target(), Permits: true})
	for _, p := range []*policy.Policy{policies[0], policies[1], policies[0]} {
		b.commit(p)
		if s := b.state(); (s.Amends != nil) != (amended && p == policies[1]) {
			t.Fatalf("the commit amends the tables: %+v", s.Amends)
		}
	}
	f := newFlood(b)
	watch, judge := b.another(), b.another()

	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	var group sync.WaitGroup
	failed := make(chan error, 3) // the first of each
	run := func(what string, fn func(context.Context) error) {
		group.Go(func() {
			if err := fn(ctx); err != nil {
				failed <- fmt.Errorf("%s: %w", what, err)
			}
		})
	}
	var events, runs int
	run("traffic", f.run)
	run("events", func(ctx context.Context) (err error) { events, err = checkEvents(ctx, watch); return err })
	run("judge", func(ctx context.Context) (err error) { runs, err = checkJudge(ctx, judge); return err })

	start := time.Now()
	var done, changes int
	committed := make(chan error)
	go func() {
		err := pin(notLast)
		if err == nil {
			done, changes, err = b.alternate(policies, commits, limit, &f.bursts, failed)
		}
		committed <- err
	}()
	err := <-committed
	elapsed := time.Since(start)
	stop()
	group.Wait()
	close(failed)
	for more := range failed {
		err = errors.Join(err, more)
	}
	if err = errors.Join(err, b.onlyMeant()); err != nil {
		t.Fatalf("after %d commits: %v", done, err)
	}
	if done < least {
		t.Errorf("%d commits in %s, want %d", done, elapsed, least)
	}
	sent := 0
	for _, s := range f.streams {
		sent += s.sent
	}
	t.Logf("%d commits in %s, %.1f ms each; %d datagrams, %.0f/s; %d events and %d runs of the judge",
		done, elapsed.Round(time.Millisecond), float64(elapsed.Milliseconds())/float64(done), sent, float64(sent)/elapsed.Seconds(), events, runs)
	for _, s := range f.streams {
		s.check(t, done, changes)
	}
	if events < 100*done || runs < done {
		t.Errorf("%d events and %d runs of the judge are too few for %d commits", events, runs, done)
	}
	if st := b.state(); st.Errors+st.NoIdentity+st.Unreadable > 0 {
		t.Errorf("%d packets met inconsistent tables, %d sockets without identity, %d were not read", st.Errors, st.NoIdentity, st.Unreadable)
	}
}

// alternate commits by turns until one of the others fails.
func (b *bed) alternate(policies [2]*policy.Policy, commits int, limit time.Duration, bursts *atomic.Int64, failed chan error) (done, changes int, err error) {
	start, seen := time.Now(), bursts.Load()
	for done < commits && time.Since(start) < limit {
		select {
		case err := <-failed:
			return done, changes, err
		default:
		}
		if err := b.onlyMeant(); err != nil {
			return done, changes, err
		}
		// a policy in force for less than a burst proves nothing
		if bursts.Load() < seen+3 {
			time.Sleep(time.Millisecond)
			continue
		}
		if inForce(done) != inForce(done+1) {
			changes++
		}
		done++
		if err := b.engine.Commit(context.Background(), policies[inForce(done)]); err != nil {
			return done, changes, err
		}
		seen = bursts.Load()
	}
	return done, changes, nil
}

// check counts how often the policy that judged changed along the stream.
func (s *stream) check(t *testing.T, commits, want int) {
	t.Helper()
	passed := [2]int{}
	changes, last := 0, -1
	var where []string
	for i, d := range s.delivered[:s.sent] {
		passed[i%2] += int(d)
		// the first policy delivers one, the second other
		judged := i%2 ^ 1 ^ int(d)
		if last >= 0 && judged != last {
			changes++
			if where = append(where, fmt.Sprint(i)); len(where) > 6 {
				where = where[1:]
			}
		}
		last = judged
	}
	if s.crossing {
		t.Logf("%s: %d and %d of %d datagrams were on their way between the layers when a commit came", s.name, passed[0], passed[1], s.sent)
		if passed[0]+passed[1] > commits {
			t.Errorf("%s: %d datagrams passed that both policies block, more than one a commit", s.name, passed[0]+passed[1])
		}
		return
	}
	t.Logf("%s: %d and %d of %d datagrams passed; the policy changed %d times", s.name, passed[0], passed[1], s.sent, changes)
	if changes != want {
		t.Errorf("%s: along the traffic the policy that judged changed %d times and not %d: a verdict was neither policy's, or both kinds passed or were blocked at once (last at %s)",
			s.name, changes, want, strings.Join(where, ", "))
	}
}

// another opens the bed's instance a second time, as another process would.
func (b *bed) another() *loader.Engine {
	b.t.Helper()
	e, err := loader.Find(b.target())
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { e.Close() })
	return e
}

// watch follows what changes on the host until the test ends, as another process would.
func (b *bed) watch() {
	b.t.Helper()
	watcher := b.another()
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- watcher.Watch(ctx, func(string) {}) }()
	b.t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			b.t.Error(err)
		}
	})
}

// onlyMeant is an error where a filter has decided that no traffic here meets.
func (b *bed) onlyMeant() error {
	rows, err := b.engine.Filters()
	for _, r := range rows {
		if r.Hits > 0 && (r.Name == "Decoy" || r.Name == "Block the rest") {
			err = errors.Join(err, fmt.Errorf("filter %d %q at %s decided %d times", r.ID, r.Name, r.Layer, r.Hits))
		}
	}
	return err
}

// checkEvents holds each event to the filters that are for its traffic.
func checkEvents(ctx context.Context, e *loader.Engine) (n int, err error) {
	in, accept := layermap.InboundIPPacketV4, layermap.ALEAuthRecvAcceptV4
	err = e.Events(ctx, true, false, func(ev loader.Event) error {
		if ev.Lost > 0 {
			return nil // there are more than anyone reads
		}
		n++
		layer, kind := in, idOpen
		if ev.Layer == "INBOUND_IPPACKET_V4" {
			source, err := netip.ParseAddr(ev.Src)
			switch {
			case err != nil:
				return err
			case oneNet.Contains(source):
				kind = idOne
			case otherNet.Contains(source):
				kind = idOther
			}
		} else {
			layer = accept
			switch to, err := netip.ParseAddrPort(ev.Dst); {
			case err != nil:
				return err
			case to.Port() == onePort:
				kind = idOne
			case to.Port() == otherPort:
				kind = idOther
			}
		}
		for _, second := range []bool{false, true} {
			permit := kind == idOpen || (kind == idOne) != second
			if ev.FilterID == idAt(layer, second, kind) && (ev.Action == "permit") == permit {
				return nil
			}
		}
		return fmt.Errorf("%d. event: no policy gives this verdict: %+v", n, ev)
	})
	if ctx.Err() != nil {
		err = nil
	}
	return n, err
}

// checkJudge asks about both kinds in one run: the verdicts must be those of
// one policy.
func checkJudge(ctx context.Context, e *loader.Engine) (n int, err error) {
	host := filter.Addr4(netip.MustParseAddr("10.77.0.1"))
	batches := map[layermap.LayerID][]filter.Values{}
	for _, id := range []layermap.LayerID{layermap.InboundIPPacketV4, layermap.ALEAuthRecvAcceptV4} {
		l := layermap.ByID(id)
		for i := range bpf.JudgeCases {
			vs := make(filter.Values, len(l.Fields))
			set := func(field string, v filter.Value) {
				if at := l.FieldIndex(field); at >= 0 {
					vs[at] = v
				}
			}
			set("IP_LOCAL_ADDRESS", host)
			set("IP_LOCAL_ADDRESS_TYPE", filter.U8(unicast))
			set("IP_REMOTE_ADDRESS", filter.Addr4([]netip.Prefix{oneNet, otherNet}[i%2].Addr().Next()))
			set("FLAGS", filter.U32(0))
			set("IP_PROTOCOL", filter.U8(17))
			set("IP_LOCAL_PORT", filter.U16([]uint16{onePort, otherPort}[i%2]))
			set("IP_REMOTE_PORT", filter.U16(40000))
			batches[id] = append(batches[id], vs)
		}
	}
	if err := pin(last); err != nil {
		return 0, err
	}
	for ctx.Err() == nil {
		for id, values := range batches {
			verdicts, err := e.Judge(id, values)
			if err != nil {
				return n, fmt.Errorf("%v: %w", id, err)
			}
			second := verdicts[0].Action == filter.ActionBlock
			for i, v := range verdicts {
				kind, action := idOne+filter.ID(i%2), filter.ActionPermit
				if (i%2 == 0) == second {
					action = filter.ActionBlock
				}
				if v.Action != action || v.Filter != idAt(id, second, kind) {
					return n, fmt.Errorf("%v: run %d: case 0 got %+v and case %d %+v, which no one policy gives", id, n, verdicts[0], i, v)
				}
			}
			n++
		}
	}
	return n, nil
}

// pin ties the goroutine to processors; its thread ends with it. Those whose
// work a commit must not split run on the last one and commits on the others:
// on one processor, they would never be under way at the same time.
func pin(to func(processor int) bool) error {
	runtime.LockOSThread()
	var set unix.CPUSet
	for i := range runtime.NumCPU() {
		if to(i) {
			set.Set(i)
		}
	}
	return unix.SchedSetaffinity(0, &set)
}

func last(processor int) bool    { return processor == runtime.NumCPU()-1 }
func notLast(processor int) bool { return !last(processor) || processor == 0 }

// flood sends the streams and takes what is delivered, in one thread: no
// datagram is lost for want of room, and all are judged in their order.
type flood struct {
	t       *testing.T
	out     int                // the peer's end
	in      map[int]int        // by port: the host's sockets
	frames  [][2][]byte        // by stream: a datagram of each kind
	streams []*stream          //
	marker  []byte             // is delivered always, so that all before it were
	bursts  atomic.Int64       // done
	buf     [datagramSize]byte //
	number  uint32             // of the flow
}

// The datagram's payload: its stream, or markerStream, and its number there.
const (
	datagramSize = 16
	markerStream = 255
	ipAt         = 14
	udpAt        = ipAt + 20
	payloadAt    = udpAt + 8
)

func newFlood(b *bed) *flood {
	b.t.Helper()
	route := &netlink.Route{LinkIndex: b.hostEnd.Index, Dst: &net.IPNet{IP: net.IP{10, 80, 0, 0}, Mask: net.CIDRMask(14, 32)}, Scope: netlink.SCOPE_LINK}
	if err := b.host.Netlink().RouteAdd(route); err != nil {
		b.t.Fatal(err)
	}
	f := &flood{t: b.t, out: newTap(b.t, b.peerEnd, 0).fd, in: map[int]int{}, streams: streams()}
	host := b.on(b.host, testbed.ProcOptions{})
	for _, port := range []int{onePort, otherPort, openPort} {
		fd, err := host.Duplicate(b.open(host, "udp4", at(b.hostEnd.V4.String(), port)))
		if err != nil {
			b.t.Fatal(err)
		}
		b.t.Cleanup(func() { unix.Close(fd) })
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20); err != nil {
			b.t.Fatal(err)
		}
		f.in[port] = fd
	}
	frame := func(source netip.Addr, port int) []byte {
		ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: source.AsSlice(), DstIP: b.hostEnd.V4.AsSlice()}
		udp := &layers.UDP{SrcPort: 20000, DstPort: layers.UDPPort(port)}
		if err := udp.SetNetworkLayerForChecksum(ip); err != nil {
			b.t.Fatal(err)
		}
		bytes := serialize(b.t, &layers.Ethernet{SrcMAC: b.peerEnd.MAC, DstMAC: b.hostEnd.MAC, EthernetType: layers.EthernetTypeIPv4},
			ip, udp, gopacket.Payload(make([]byte, datagramSize)))
		binary.BigEndian.PutUint16(bytes[udpAt+6:], 0) // no checksum: the payload changes
		return bytes
	}
	for _, s := range f.streams {
		var pair [2][]byte
		for kind := range pair {
			pair[kind] = frame(s.sources[kind].Addr().Next(), s.ports[kind])
		}
		f.frames = append(f.frames, pair)
	}
	f.marker = frame(netip.MustParseAddr("10.83.0.1"), openPort)
	f.marker[payloadAt] = markerStream
	return f
}

// run sends until the context ends.
func (f *flood) run(ctx context.Context) error {
	// On another processor the datagrams would overtake each other.
	if err := pin(last); err != nil {
		return err
	}
	for ctx.Err() == nil {
		for range burst {
			for i, s := range f.streams {
				for kind := range 2 {
					if err := f.send(uint8(i), s, f.frames[i][kind]); err != nil {
						return err
					}
				}
			}
		}
		binary.BigEndian.PutUint64(f.marker[payloadAt+8:], uint64(f.bursts.Load()))
		if _, err := unix.Write(f.out, f.marker); err != nil {
			return err
		}
		if err := f.collect(); err != nil {
			return err
		}
		f.bursts.Add(1)
	}
	return nil
}

// send sends a stream's next datagram.
func (f *flood) send(number uint8, s *stream, frame []byte) error {
	if !s.oneFlow {
		// A flow that ALE has authorised is not judged again, so each datagram
		// is a flow of its own.
		f.number++
		binary.BigEndian.PutUint16(frame[ipAt+14:], uint16(f.number))
		binary.BigEndian.PutUint16(frame[udpAt:], 20000+uint16(f.number>>16))
		binary.BigEndian.PutUint16(frame[ipAt+10:], 0)
		binary.BigEndian.PutUint16(frame[ipAt+10:], checksum(frame[ipAt:udpAt]))
	}
	frame[payloadAt] = number
	binary.BigEndian.PutUint64(frame[payloadAt+8:], uint64(s.sent))
	s.sent++
	s.delivered = append(s.delivered, 0)
	_, err := unix.Write(f.out, frame)
	return err
}

// collect takes what was delivered until the burst's marker comes, after which
// nothing of the burst can.
func (f *flood) collect() error {
	deadline := time.Now().Add(5 * time.Second)
	marked := false
	for !marked {
		if time.Now().After(deadline) {
			return errors.New("a datagram that both policies permit did not arrive")
		}
		var err error
		if marked, err = f.drain(f.in[openPort]); err != nil {
			return err
		}
	}
	for _, port := range []int{onePort, otherPort} {
		if _, err := f.drain(f.in[port]); err != nil {
			return err
		}
	}
	return nil
}

func (f *flood) drain(fd int) (marked bool, err error) {
	for {
		n, _, err := unix.Recvfrom(fd, f.buf[:], unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return marked, nil
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return marked, err
		case n != datagramSize:
			return marked, fmt.Errorf("a datagram of %d bytes that nobody sent", n)
		}
		at := binary.BigEndian.Uint64(f.buf[8:])
		if f.buf[0] == markerStream {
			marked = marked || at == uint64(f.bursts.Load())
			continue
		}
		s := f.streams[f.buf[0]]
		if s.delivered[at] != 0 {
			return marked, fmt.Errorf("%s: datagram %d came twice", s.name, at)
		}
		s.delivered[at] = 1
	}
}
