// SPDX-License-Identifier: Apache-2.0

package live

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
	"github.com/wfpebpf/wfpebpf/loader"
	"github.com/wfpebpf/wfpebpf/policy"
	"github.com/wfpebpf/wfpebpf/tests/testbed"
)

// sized is a policy made to the size that a test wants.
type sized struct {
	t *testing.T
	*policy.Policy
}

func newSized(t *testing.T) *sized {
	return &sized{t, &policy.Policy{Store: filter.NewStore(), Services: map[filter.SID]string{}}}
}

func (p *sized) add(layer layermap.LayerID, action filter.Action, conditions ...filter.Condition) {
	p.t.Helper()
	p.addFilter(&filter.Filter{Name: "Filter", Layer: layer, Action: action, Conditions: conditions})
}

func (p *sized) addFilter(f *filter.Filter) {
	p.t.Helper()
	if err := p.Store.AddFilter(f); err != nil {
		p.t.Fatal(err)
	}
}

// subLayer adds one that stands behind those before it.
func (p *sized) subLayer(n int) filter.GUID {
	p.t.Helper()
	key := filter.DeriveKey("sublayer", fmt.Sprint(n))
	if err := p.Store.AddSubLayer(filter.SubLayer{Key: key, Name: fmt.Sprint(n), Weight: uint16(60000 - n)}); err != nil {
		p.t.Fatal(err)
	}
	return key
}

func equals(field string, v filter.Value) filter.Condition {
	return filter.Condition{Field: field, Match: filter.MatchEqual, Value: v}
}

func remoteAddress(n int) filter.Condition {
	return equals("IP_REMOTE_ADDRESS", filter.U32(uint32(n)))
}

func localAddress(n int) filter.Condition {
	return equals("IP_LOCAL_ADDRESS", filter.U32(uint32(n)))
}

func remotePort(n int) filter.Condition { return equals("IP_REMOTE_PORT", filter.U16(uint16(n))) }

func localPort(n int) filter.Condition { return equals("IP_LOCAL_PORT", filter.U16(uint16(n))) }

// valuesOf is what a layer's fields hold for some traffic.
func valuesOf(l *layermap.Layer, traffic ...filter.Condition) filter.Values {
	values := make(filter.Values, len(l.Fields))
	for _, c := range traffic {
		values[l.FieldIndex(c.Field)] = c.Value
	}
	return values
}

// pastLimits makes a policy past each limit of the loader. If one were in force,
// port 8081 would be open and 8080 closed.
var pastLimits = []struct {
	name string
	fill func(p *sized)
}{
	{"filters", func(p *sized) {
		for n := range loader.MaxFiltersPerLayer {
			p.add(layermap.ALEAuthConnectV4, filter.ActionPermit, remoteAddress(10<<24+n))
		}
	}},
	{"sublayers", func(p *sized) {
		for n := range loader.MaxSubLayersPerLayer {
			p.addFilter(&filter.Filter{Name: "Filter", Layer: layermap.ALEAuthConnectV4, SubLayer: p.subLayer(n), Action: filter.ActionPermit})
		}
	}},
	{"tokens", func(p *sized) {
		sd := &filter.SecurityDescriptor{}
		for n := range uint32(1024) {
			for _, sid := range []filter.SID{filter.UnixUser(1000 + n), filter.UnixGroup(1000 + n)} {
				sd.Entries = append(sd.Entries, filter.ACE{Allow: true, Mask: filter.AccessMatchFilter, SID: sid})
			}
		}
		p.add(layermap.ALEAuthConnectV4, filter.ActionPermit, equals("ALE_USER_ID", filter.SDValue(sd)))
	}},
	{"nodes", func(p *sized) {
		for n := range 16 {
			bits := uint32(1)<<(31-n) | 0x8000
			p.add(layermap.ALEAuthConnectV4, filter.ActionPermit, equals("IP_REMOTE_ADDRESS", filter.V4AddrAndMask(bits, bits)))
		}
	}},
	{"cells", func(p *sized) {
		for n := range 31 {
			conditions := make([]filter.Condition, 4096)
			for i := range conditions {
				conditions[i] = remoteAddress((4096*n+i)<<15 + 1)
			}
			for _, l := range []layermap.LayerID{
				layermap.ALEAuthConnectV4, layermap.ALEAuthRecvAcceptV4, layermap.InboundTransportV4,
				layermap.OutboundTransportV4, layermap.InboundIPPacketV4, layermap.OutboundIPPacketV4,
			} {
				p.add(l, filter.ActionPermit, conditions...)
			}
		}
	}},
	{"buckets", func(p *sized) {
		var b filter.SetBuilder
		for n := range policy.MaxSetEntries {
			// a range: addresses would be hashed, which takes cells
			a := netip.AddrFrom16(filter.Addr6{High: 0x20010db8<<32 | uint64(n), Low: 1}.Bytes())
			to := netip.AddrFrom16(filter.Addr6{High: 0x20010db8<<32 | uint64(n), Low: 100}.Bytes())
			if err := b.Add(a, to); err != nil {
				p.t.Fatal(err)
			}
		}
		p.add(layermap.ALEAuthConnectV6, filter.ActionPermit, equals("IP_REMOTE_ADDRESS", filter.SetValue(b.Set("set", ""))))
	}},
}

// files lists what lies below directories.
func files(t *testing.T, dirs ...string) (list []string) {
	t.Helper()
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			list = append(list, path)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return list
}

// A commit past a limit is refused, and the policy in force stays as it is.
func TestCommitPastLimits(t *testing.T) {
	b := newBed(t)
	p, peer := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	b.listen(peer, 8080, 8081)
	b.apply(blocks(atConnect, "{IP_REMOTE_PORT: 8081}"))
	run := filepath.Join("/run/wfpebpf", filepath.Base(b.pins()))
	// what exists: maps, programs, links and files
	exists := func() []string {
		return slices.Concat(slices.Sorted(maps.Keys(b.objects())), files(t, b.pins(), run))
	}
	b.events() // which makes a file to lock
	state, before := b.state(), exists()
	for _, c := range pastLimits {
		t.Run(c.name, func(t *testing.T) {
			past := newSized(t)
			c.fill(past)
			past.add(layermap.ALEAuthConnectV4, filter.ActionBlock, remotePort(8080))
			past.add(layermap.ALEAuthConnectV4, filter.ActionPermit, remotePort(8081))
			// a hook that the policy in force does not need
			past.add(layermap.InboundIPPacketV4, filter.ActionBlock, remoteAddress(10<<24))
			if err := b.engine.Commit(context.Background(), past.Policy); !errors.Is(err, loader.ErrLimit) {
				t.Fatalf("error %v, want %v", err, loader.ErrLimit)
			}
			for _, f := range b.families() {
				passes.want(t, p.Connect(f.tcp, at(f.peer, 8080)))
				denied.want(t, p.Connect(f.tcp, at(f.peer, 8081)))
				b.wantBlock("ALE_AUTH_CONNECT_"+f.layer, "Block it")
			}
			if s := b.state(); !reflect.DeepEqual(s, state) {
				t.Errorf("state %+v, before %+v", s, state)
			}
			after := exists()
			left := slices.DeleteFunc(slices.Clone(after), func(what string) bool { return slices.Contains(before, what) })
			if len(left) > 0 || len(after) != len(before) {
				t.Errorf("%q are left, %d things of %d", left, len(after), len(before))
			}
		})
	}
	b.apply(blocks(atConnect, "{IP_REMOTE_PORT: 8080}"))
	for _, f := range b.families() {
		denied.want(t, p.Connect(f.tcp, at(f.peer, 8080)))
		passes.want(t, p.Connect(f.tcp, at(f.peer, 8081)))
	}
}

// A first commit past a limit leaves nothing.
func TestFirstCommitPastALimit(t *testing.T) {
	b := newBed(t)
	b.openEngine(loader.Options{Target: b.target()})
	past := newSized(t)
	for n := range loader.MaxSubLayersPerLayer + 1 {
		past.addFilter(&filter.Filter{Name: "Filter", Layer: layermap.ALEAuthConnectV4, SubLayer: past.subLayer(n), Action: filter.ActionBlock})
	}
	if err := b.engine.Commit(context.Background(), past.Policy); !errors.Is(err, loader.ErrLimit) {
		t.Fatalf("error %v, want %v", err, loader.ErrLimit)
	}
	if _, err := loader.Find(b.target()); !errors.Is(err, loader.ErrNotApplied) {
		t.Errorf("the instance: %v, want %v", err, loader.ErrNotApplied)
	}
	var ns unix.Stat_t
	if err := unix.Stat(b.host.Path, &ns); err != nil {
		t.Fatal(err)
	}
	for _, root := range []string{"/run/wfpebpf", "/sys/fs/bpf/wfpebpf"} {
		left, err := filepath.Glob(filepath.Join(root, fmt.Sprintf("net%d-*", ns.Ino)))
		if err != nil || len(left) > 0 {
			t.Errorf("%q is left (%v)", left, err)
		}
	}
}

// One search judges 12 sublayers; a layer has up to 64. Each sublayer here blocks a
// port and hard permits another, of which the sublayer that comes first decides.
func TestMostSubLayers(t *testing.T) {
	b := newBed(t)
	p, peer := b.on(b.host, testbed.ProcOptions{}), b.on(b.peer, testbed.ProcOptions{})
	most := newSized(t)
	connect, transport := layermap.ByID(layermap.ALEAuthConnectV4), layermap.ByID(layermap.InboundTransportV4)
	const n, base = loader.MaxSubLayersPerLayer, 8000
	for i := range n {
		key := most.subLayer(i)
		for _, l := range []*layermap.Layer{connect, transport} {
			for _, f := range []filter.Filter{
				{Action: filter.ActionBlock, Weight: filter.U8(9), Conditions: []filter.Condition{remotePort(base + i)}},
				{Action: filter.ActionPermit, Weight: filter.U8(8), Flags: filter.FlagClearActionRight, Conditions: []filter.Condition{localPort(base + i)}},
			} {
				f.Name, f.Layer, f.SubLayer = fmt.Sprintf("Filter %d", i), l.ID, key
				most.addFilter(&f)
			}
		}
	}
	b.commit(most.Policy)
	for _, l := range []*layermap.Layer{connect, transport} {
		var values []filter.Values
		for blocking := range n + 1 {
			for permitting := range n + 1 {
				values = append(values, valuesOf(l, remotePort(base+blocking), localPort(base+permitting)))
			}
		}
		verdicts, err := b.engine.Judge(l.ID, values)
		if err != nil {
			t.Fatal(err)
		}
		for i, v := range verdicts {
			want := filter.Arbitrate(most.Store, l.ID, values[i], nil)
			if v.Action != want.Action || v.Soft != want.Soft || want.Filter != nil && v.Filter != want.Filter.ID {
				t.Fatalf("%v, block in sublayer %d, permit in %d: the kernel says %v by %d, the evaluator %v", l.ID, i/(n+1), i%(n+1), v.Action, v.Filter, want)
			}
		}
	}
	b.listen(peer, base+n-2, base+n-1, base+n)
	f := b.families()[0]
	for _, c := range []struct {
		name          string
		remote, local int // sublayers
		how           outcome
	}{
		{"nothing matches", n, n, passes},
		{"the last blocks", n - 1, n, denied},
		{"the one before the last permits", n - 1, n - 2, passes},
		{"the last permits", n - 2, n - 1, denied},
	} {
		t.Run(c.name, func(t *testing.T) {
			opt := testbed.Options{Local: at(f.host, base+c.local), MPTCP: testbed.MPTCPOff}
			c.how.want(t, p.Connect(f.tcp, at(f.peer, base+c.remote), opt))
		})
	}
}

// As many cuts as one branch may have, which take all steps of the search for one.
func TestMostCuts(t *testing.T) {
	b := newBed(t)
	most := newSized(t)
	l := layermap.ByID(layermap.InboundTransportV4)
	// each address is told from its neighbours, two cuts, and no two filters are alike
	const groups, locals = 257, 1000
	const each = loader.MaxCuts / 2 / groups
	for g := range groups {
		conditions := []filter.Condition{localAddress(locals)}
		for i := range each {
			conditions = append(conditions, remoteAddress(10<<24+2*(i*groups+g)))
		}
		most.add(l.ID, filter.ActionBlock, conditions...)
	}
	for n := range locals {
		most.add(l.ID, filter.ActionPermit, localAddress(n))
	}
	b.commit(most.Policy)
	var values []filter.Values
	var blocked []bool
	for n := 0; n < 2*groups*each+8; n += 101 {
		for i := n; i < n+2; i++ {
			values = append(values, valuesOf(l, localAddress(locals), remoteAddress(10<<24+i)))
			blocked = append(blocked, i%2 == 0 && i < 2*groups*each)
		}
	}
	verdicts, err := b.engine.Judge(l.ID, values)
	if err != nil {
		t.Fatal(err)
	}
	for i, v := range verdicts {
		if v.Action == filter.ActionBlock != blocked[i] {
			t.Fatalf("%v: %v, want a block: %t", values[i], v.Action, blocked[i])
		}
	}
}
