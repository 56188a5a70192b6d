// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"

	"github.com/wfpebpf/wfpebpf/bpf"
	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
)

// Events calls fn for each event. Without follow it returns when none is left.
// permits asks for permits, too, while it runs. One process at a time can read.
func (e *Engine) Events(ctx context.Context, follow, permits bool, fn func(Event) error) error {
	lock, err := e.in.lock("events.lock")
	if err != nil {
		return err
	}
	defer lock.Close()
	if permits {
		was, err := e.setPermits(true)
		if err != nil {
			return err
		}
		defer e.setPermits(was)
	}
	r, err := ringbuf.NewReader(e.maps[bpf.WFPMapEvents])
	if err != nil {
		return err
	}
	defer r.Close()
	stop := context.AfterFunc(ctx, func() { r.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	d := newDescriber(e)
	lost, err := e.counter(bpf.CounterLost)
	if err != nil {
		return err
	}
	if !follow && lost > 0 {
		if err := fn(Event{Lost: lost}); err != nil {
			return err
		}
	}
	var rec ringbuf.Record
	var raw bpf.Event
	for ctx.Err() == nil {
		deadline := time.Now() // what is there, and no more
		if follow {
			deadline = deadline.Add(time.Second)
		}
		r.SetDeadline(deadline)
		err := r.ReadInto(&rec)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			if !follow {
				return nil
			}
			now, err := e.counter(bpf.CounterLost)
			if err != nil {
				return err
			}
			if now > lost {
				if err := fn(Event{Lost: now - lost}); err != nil {
					return err
				}
				lost = now
			}
			if !exists(e.in.run) {
				return nil // taken down
			}
			continue
		}
		if err != nil {
			return err
		}
		if _, err := binary.Decode(rec.RawSample, binary.NativeEndian, &raw); err != nil {
			return fmt.Errorf("malformed event: %w", err)
		}
		if err := fn(d.describe(&raw)); err != nil {
			return err
		}
	}
	return nil
}

// setPermits switches events for permits on or off and says what it was.
func (e *Engine) setPermits(on bool) (was bool, err error) {
	m := e.maps[bpf.WFPMapConfig]
	var c bpf.Config
	if err := m.Lookup(uint32(0), &c); err != nil {
		return false, err
	}
	was = c.Permits != 0
	c.Permits = 0
	if on {
		c.Permits = 1
	}
	return was, m.Put(uint32(0), c)
}

// describer turns what the programs saw into words. It follows commits.
type describer struct {
	e          *Engine
	generation uint64
	filters    map[filter.ID]*filter.Filter
	subLayers  map[filter.GUID]string
	apps       map[[2]uint64]string // by device and inode
	users      map[uint32]string
	links      map[uint32]string
	boot       time.Time
}

func newDescriber(e *Engine) *describer {
	var now unix.Timespec
	unix.ClockGettime(unix.CLOCK_BOOTTIME, &now)
	d := &describer{e: e, boot: time.Now().Add(-time.Duration(now.Nano())), users: map[uint32]string{}, links: map[uint32]string{}}
	d.reload()
	return d
}

func (d *describer) reload() {
	rec, err := d.e.record()
	if err != nil {
		return
	}
	d.generation = rec.Generation
	d.filters, d.subLayers = map[filter.ID]*filter.Filter{}, rec.subLayerNames()
	for _, f := range rec.Filters {
		d.filters[f.ID] = f
	}
	d.apps = map[[2]uint64]string{}
	for _, app := range rec.Numbers.Apps {
		if dev, inode, err := executable(app); err == nil {
			d.apps[[2]uint64{uint64(dev), inode}] = app
		}
	}
}

func (d *describer) describe(raw *bpf.Event) Event {
	if g, err := d.e.active(); err == nil && g != d.generation {
		d.reload()
	}
	layer := layermap.LayerID(raw.Layer)
	ev := Event{
		Time: d.boot.Add(time.Duration(raw.Time)), Layer: layerName(layer), Action: "permit",
		FilterID: filter.ID(raw.FilterId), Direction: "in", Protocol: raw.Protocol, PID: raw.Pid,
		Interface: d.link(raw.Ifindex), Program: d.program(raw), User: d.user(raw), Flow: raw.Flow,
	}
	if filter.Action(raw.Action) == filter.ActionBlock {
		ev.Action = "block"
	}
	if f := d.filters[ev.FilterID]; f != nil {
		ev.FilterName, ev.Origin, ev.SubLayer = f.Name, f.Origin, d.subLayers[f.SubLayer]
	}
	local, remote := endpoints(layer, raw)
	ev.Src, ev.Dst = remote, local
	if raw.Outbound != 0 {
		ev.Direction, ev.Src, ev.Dst = "out", local, remote
	}
	if l := layermap.ByID(layer); l != nil && l.Discard {
		d.discard(&ev, raw)
	}
	if raw.OriginalPort != 0 {
		was := *raw
		was.Remote, was.RemotePort = raw.Original, uint16(raw.OriginalPort)
		_, ev.OriginalDst = endpoints(layer, &was)
	}
	if forwards(layer) {
		ev.Direction, ev.OutInterface = "forward", d.link(raw.Dev)
	}
	return ev
}

// discard fills in what an event of a discard layer says of what happened before.
func (d *describer) discard(ev *Event, raw *bpf.Event) {
	module := layermap.DiscardModule(raw.DiscardModule)
	ev.DiscardModule, ev.DiscardReason = module.String(), module.Reason(raw.DiscardReason)
	ev.DiscardFilterID = filter.ID(raw.DiscardFilter)
	if f := d.filters[ev.DiscardFilterID]; f != nil {
		ev.DiscardFilterName = f.Name
	}
}

// forwards reports whether the layer's packets go through the host: neither in nor
// out (FWP_DIRECTION_FORWARD).
func forwards(layer layermap.LayerID) bool {
	l := layermap.ByID(layer)
	return l != nil && strings.HasPrefix(l.Name, "IPFORWARD_")
}

// endpoints writes what the layer has of addresses and ports.
func endpoints(layer layermap.LayerID, raw *bpf.Event) (local, remote string) {
	l := layermap.ByID(layer)
	if l == nil {
		return "", ""
	}
	has := func(keys ...string) bool {
		return slices.ContainsFunc(keys, func(key string) bool { return l.FieldIndex(key) >= 0 })
	}
	if l.Family == layermap.AnyFamily {
		if !has("MAC_LOCAL_ADDRESS", "MAC_SOURCE_ADDRESS") {
			return "", ""
		}
		return macText(raw.Local[0]), macText(raw.Remote[0])
	}
	write := func(half [2]uint64, port uint16, ports bool) string {
		var a netip.Addr
		if l.Family == layermap.V4 {
			a = netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, uint32(half[0]))))
		} else {
			var b [16]byte
			binary.BigEndian.PutUint64(b[:], half[0])
			binary.BigEndian.PutUint64(b[8:], half[1])
			a = netip.AddrFrom16(b)
		}
		if !ports {
			return a.String()
		}
		return netip.AddrPortFrom(a, port).String()
	}
	ports := has("IP_LOCAL_PORT", "IP_SOURCE_PORT")
	local = write(raw.Local, raw.LocalPort, ports)
	if !has("IP_REMOTE_ADDRESS", "IP_DESTINATION_ADDRESS") {
		return local, ""
	}
	return local, write(raw.Remote, raw.RemotePort, ports)
}

func macText(n uint64) string {
	return net.HardwareAddr(binary.BigEndian.AppendUint64(nil, n)[2:]).String()
}

func (d *describer) link(index uint32) string {
	if index == 0 {
		return ""
	}
	if name, ok := d.links[index]; ok {
		return name
	}
	name := strconv.Itoa(int(index))
	d.e.ns.do(func() error {
		if i, err := net.InterfaceByIndex(int(index)); err == nil {
			name = i.Name
		}
		return nil
	})
	d.links[index] = name
	return name
}

// program is the executable's path: as the policy names it, or as the process
// shows it while it lives and still runs the same file.
func (d *describer) program(raw *bpf.Event) string {
	if raw.Inode == 0 {
		return ""
	}
	key := [2]uint64{uint64(raw.Dev), raw.Inode}
	if app, ok := d.apps[key]; ok {
		return app
	}
	exe := fmt.Sprintf("/proc/%d/exe", raw.Pid)
	var st unix.Stat_t
	if unix.Stat(exe, &st) != nil || st.Ino != raw.Inode {
		return ""
	}
	path, _ := os.Readlink(exe)
	if d.apps == nil {
		d.apps = map[[2]uint64]string{}
	}
	d.apps[key] = path
	return path
}

func (d *describer) user(raw *bpf.Event) string {
	if raw.Pid == 0 {
		return ""
	}
	if name, ok := d.users[raw.Uid]; ok {
		return name
	}
	name := strconv.FormatUint(uint64(raw.Uid), 10)
	if u, err := user.LookupId(name); err == nil {
		name = u.Username
	}
	d.users[raw.Uid] = name
	return name
}
