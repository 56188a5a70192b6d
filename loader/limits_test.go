// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/wfpebpf/wfpebpf/bpf"
	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
	"github.com/wfpebpf/wfpebpf/policy"
)

// limited is a policy of filters that a test adds.
type limited struct {
	t *testing.T
	*policy.Policy
}

func newLimited(t *testing.T) *limited {
	return &limited{t, &policy.Policy{Store: filter.NewStore()}}
}

func (p *limited) add(layer layermap.LayerID, action filter.Action, conditions ...filter.Condition) *filter.Filter {
	p.t.Helper()
	f := &filter.Filter{Name: "Filter", Layer: layer, Action: action, Conditions: conditions}
	p.addFilter(f)
	return f
}

func (p *limited) addFilter(f *filter.Filter) {
	p.t.Helper()
	if err := p.Store.AddFilter(f); err != nil {
		p.t.Fatal(err)
	}
}

// mustFit compiles a policy that keeps to every limit.
func (p *limited) mustFit() *tables {
	p.t.Helper()
	tab, err := compile(p.Policy, portRange{32768, 60999})
	if err != nil {
		p.t.Fatalf("at the limit: %v", err)
	}
	return tab
}

// mustNot compiles a policy that exceeds a limit.
func (p *limited) mustNot(want ...string) {
	p.t.Helper()
	_, err := compile(p.Policy, portRange{32768, 60999})
	if !errors.Is(err, ErrLimit) {
		p.t.Fatalf("past the limit: error %v, want %v", err, ErrLimit)
	}
	for _, part := range want {
		if !strings.Contains(err.Error(), part) {
			p.t.Errorf("%q is not in: %v", part, err)
		}
	}
}

// agree compares the tables' verdict on traffic with the evaluator's, which is
// returned.
func (p *limited) agree(tab *tables, layer layermap.LayerID, traffic ...filter.Condition) filter.Result {
	p.t.Helper()
	l := layermap.ByID(layer)
	values := make(filter.Values, len(l.Fields))
	for _, c := range traffic {
		values[l.FieldIndex(c.Field)] = c.Value
	}
	want := filter.Arbitrate(p.Store, layer, values, nil)
	got, _ := tab.judge(tab.numbers.caseOf(l, values))
	var id filter.ID
	if want.Filter != nil {
		id = want.Filter.ID
	}
	if got.Action != want.Action || got.Filter != id || got.Soft != want.Soft {
		p.t.Fatalf("%v, %v: tables say %v by %d, the evaluator %v by %d", layer, traffic, got.Action, got.Filter, want.Action, id)
	}
	return want
}

// is is a condition, or what a field of some traffic holds.
func is(field string, v filter.Value) filter.Condition {
	return filter.Condition{Field: field, Value: v}
}

func remote(a int) filter.Condition     { return is("IP_REMOTE_ADDRESS", filter.U32(uint32(a))) }
func local(a int) filter.Condition      { return is("IP_LOCAL_ADDRESS", filter.U32(uint32(a))) }
func localPort(n int) filter.Condition  { return is("IP_LOCAL_PORT", filter.U16(uint16(n))) }
func remotePort(n int) filter.Condition { return is("IP_REMOTE_PORT", filter.U16(uint16(n))) }
func remote6(high, low uint64) filter.Condition {
	return is("IP_REMOTE_ADDRESS", filter.Addr16(netip.AddrFrom16(filter.Addr6{High: high, Low: low}.Bytes())))
}

// many makes conditions from 0 to n-1.
func many(n int, of func(i int) filter.Condition) []filter.Condition {
	conditions := make([]filter.Condition, n)
	for i := range conditions {
		conditions[i] = of(i)
	}
	return conditions
}

const (
	ten        = 10 << 24 // 10.0.0.0
	transport4 = layermap.InboundTransportV4
	transport6 = layermap.InboundTransportV6
)

func TestLimitOfFilters(t *testing.T) {
	t.Parallel()
	p := newLimited(t)
	actions := [...]filter.Action{filter.ActionBlock, filter.ActionPermit}
	for i := range MaxFiltersPerLayer {
		p.add(transport4, actions[i%2], remote(ten+i))
	}
	tab := p.mustFit()
	for _, i := range []int{0, 1, 4095, 65535, 65536, 100_000, MaxFiltersPerLayer - 2, MaxFiltersPerLayer - 1} {
		if v := p.agree(tab, transport4, remote(ten+i)); v.Action != actions[i%2] {
			t.Errorf("filter %d: %v", i, v.Action)
		}
	}
	p.agree(tab, transport4, remote(ten+MaxFiltersPerLayer))
	p.add(transport4, filter.ActionBlock, remote(ten+MaxFiltersPerLayer))
	p.mustNot("131073 filters at FWPS_LAYER_INBOUND_TRANSPORT_V4, at most 131072", "; put addresses")
}

// Each sublayer blocks a local port and hard permits a remote one, of which the
// sublayer that comes first decides.
func TestLimitOfSubLayers(t *testing.T) {
	p := newLimited(t)
	add := func(n int) {
		key := filter.DeriveKey("sublayer", fmt.Sprint(n))
		if err := p.Store.AddSubLayer(filter.SubLayer{Key: key, Name: fmt.Sprint(n), Weight: uint16(60000 - n)}); err != nil {
			t.Fatal(err)
		}
		for _, f := range []filter.Filter{
			{Action: filter.ActionBlock, Weight: filter.U8(9), Conditions: []filter.Condition{localPort(n)}},
			{Action: filter.ActionPermit, Flags: filter.FlagClearActionRight, Weight: filter.U8(8), Conditions: []filter.Condition{remotePort(n)}},
			{Action: filter.ActionPermit, Weight: filter.U8(0), Conditions: []filter.Condition{is("IP_PROTOCOL", filter.U8(6))}},
		} {
			f.Name, f.Layer, f.SubLayer = fmt.Sprint(n), transport4, key
			p.addFilter(&f)
		}
	}
	for n := range MaxSubLayersPerLayer {
		add(n)
	}
	tab := p.mustFit()
	for blocking := range MaxSubLayersPerLayer + 1 {
		for permitting := range MaxSubLayersPerLayer + 1 {
			for _, protocol := range []uint8{6, 17} {
				v := p.agree(tab, transport4, localPort(blocking), remotePort(permitting), is("IP_PROTOCOL", filter.U8(protocol)))
				if blocked := blocking < MaxSubLayersPerLayer && blocking <= permitting; v.Blocked() != blocked {
					t.Fatalf("block in sublayer %d, permit in %d: %v", blocking, permitting, v.Action)
				}
			}
		}
	}
	add(MaxSubLayersPerLayer)
	p.mustNot("65 sublayers with filters at FWPS_LAYER_INBOUND_TRANSPORT_V4, at most 64", "; bring")
}

// One filter with as many conditions as a filter may have.
func TestMostConditionsOfAFilter(t *testing.T) {
	const n = filter.MaxConditions
	each := func(n int, of ...func(i int) filter.Condition) []filter.Condition {
		var all []filter.Condition
		for _, f := range of {
			all = append(all, many(n, f)...)
		}
		return all
	}
	address := func(field string) func(i int) filter.Condition {
		return func(i int) filter.Condition { return is(field, filter.U32(ten+uint32(2*i))) }
	}
	port := func(field string) func(i int) filter.Condition {
		return func(i int) filter.Condition { return is(field, filter.U16(uint16(2*i))) }
	}
	app := func(i int) filter.Condition { return is("ALE_APP_ID", filter.Blob(fmt.Appendf(nil, "/bin/%d", i))) }
	connect := layermap.ALEAuthConnectV4
	for _, c := range []struct {
		name       string
		layer      layermap.LayerID
		conditions []filter.Condition
		in, out    []filter.Condition
	}{
		{"addresses", transport4, each(n, address("IP_REMOTE_ADDRESS")), []filter.Condition{remote(ten + 2*(n-1))}, []filter.Condition{remote(ten + 2*n - 1)}},
		{"ports", transport4, each(n, port("IP_LOCAL_PORT")), []filter.Condition{localPort(2 * (n - 1))}, []filter.Condition{localPort(2*n - 1)}},
		{"IPv6 addresses", transport6, each(n, func(i int) filter.Condition { return remote6(0x20010db8<<32|uint64(i), 1) }),
			[]filter.Condition{remote6(0x20010db8<<32|(n-1), 1)}, []filter.Condition{remote6(0x20010db8<<32|(n-1), 2)}},
		{"programs", connect, each(n, app), []filter.Condition{app(n - 1)}, []filter.Condition{app(n)}},
		{"several fields", transport4, each(n/4, address("IP_REMOTE_ADDRESS"), address("IP_LOCAL_ADDRESS"), port("IP_REMOTE_PORT"), port("IP_LOCAL_PORT")),
			[]filter.Condition{remote(ten + n/2 - 2), local(ten), remotePort(2), localPort(n/2 - 2)},
			[]filter.Condition{remote(ten + n/2 - 2), local(ten), remotePort(2), localPort(n/2 - 1)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if len(c.conditions) != n {
				t.Fatalf("%d conditions", len(c.conditions))
			}
			for _, others := range []int{0, 40} {
				p := newLimited(t)
				p.add(c.layer, filter.ActionBlock, c.conditions...)
				for i := range others {
					p.add(c.layer, filter.ActionPermit, is("IP_PROTOCOL", filter.U8(uint8(i))), remotePort(i))
				}
				tab := p.mustFit()
				if v := p.agree(tab, c.layer, c.in...); !v.Blocked() {
					t.Errorf("%v passes", c.in)
				}
				if v := p.agree(tab, c.layer, c.out...); v.Blocked() {
					t.Errorf("%v is blocked", c.out)
				}
			}
		})
	}
}

func TestLimitOfTokens(t *testing.T) {
	t.Parallel()
	// with everybody else: 128 x 128 x 64
	p := newLimited(t)
	p.Services = map[filter.SID]string{}
	allow := func(sids ...filter.SID) {
		sd := &filter.SecurityDescriptor{}
		for _, s := range sids {
			sd.Entries = append(sd.Entries, filter.ACE{Allow: true, Mask: filter.AccessMatchFilter, SID: s})
		}
		p.add(layermap.ALEAuthConnectV4, filter.ActionBlock, is("ALE_USER_ID", filter.SDValue(sd)))
	}
	service := func(i int) filter.SID {
		name := fmt.Sprint("service", i)
		p.Services[filter.ServiceSID(name)] = name + ".service"
		return filter.ServiceSID(name)
	}
	var users, groups, services []filter.SID
	for i := range 127 {
		users, groups = append(users, filter.UnixUser(uint32(1000+i))), append(groups, filter.UnixGroup(uint32(2000+i)))
	}
	for i := range 63 {
		services = append(services, service(i))
	}
	allow(users[:126]...)
	allow(groups[:126]...)
	allow(services[:62]...)
	allow(users[126], groups[126], services[62])
	tab := p.mustFit()
	if tab.generation.Users != MaxTokens {
		t.Fatalf("%d tokens, want %d", tab.generation.Users, MaxTokens)
	}
	for _, c := range []struct {
		sids    []filter.SID
		blocked bool
	}{
		{nil, false}, {users[125:126], true}, {groups[126:127], true}, {services[62:], true},
		{[]filter.SID{filter.UnixUser(5), filter.UnixGroup(5)}, false},
	} {
		if v := p.agree(tab, layermap.ALEAuthConnectV4, is("ALE_USER_ID", filter.TokenValue(c.sids...))); v.Blocked() != c.blocked {
			t.Errorf("%v: %v", c.sids, v.Action)
		}
	}
	allow(service(63))
	p.mustNot("127 users, 127 groups and 64 services", "are 1064960, at most 1048576", "; name groups")
}

// Conditions on bits of the first byte, the second and the third make a node of
// each value of the first, and then one of what they tell apart of the second; each
// condition on a value of the first and three more bits of the second makes 32 more,
// each on values of both one more.
func TestLimitOfNodes(t *testing.T) {
	t.Parallel()
	mask := func(want, mask uint32) filter.Condition {
		return is("IP_REMOTE_ADDRESS", filter.V4AddrAndMask(want|0x8000, mask|0x8000))
	}
	p := newLimited(t)
	for i := range uint32(13) {
		p.add(transport4, filter.ActionBlock, mask(1<<(31-i), 1<<(31-i)))
	}
	const nodes = 256 + 256*32
	for first := range uint32((MaxNodesPerField - nodes) / 32) {
		p.add(transport4, filter.ActionPermit, mask(first<<24, 0xff07<<16))
	}
	tab := p.mustFit()
	for _, a := range []int{0, 0x8000, 0x80000000, 0x80008000, 0x00088000, 0x00078000, 0xf7008000, 0xf7f88000, 0xff078000} {
		p.agree(tab, transport4, remote(a))
	}
	p.add(transport4, filter.ActionPermit, mask(0xf900<<16, 0xffff<<16))
	p.mustNot("IP_REMOTE_ADDRESS at FWPS_LAYER_INBOUND_TRANSPORT_V4", "more than 16384 table nodes", "; use fewer")
}

// scatter is address i of up to 131,072, each in a /17 of its own.
func scatter(i int) int { return i<<15 + 1 }

// shares shares conditions out to filters at layers.
func (p *limited) shares(layers []layermap.LayerID, filters, conditions int, of func(i int) filter.Condition, also ...filter.Condition) {
	p.t.Helper()
	for n := range filters {
		list := many(conditions, func(i int) filter.Condition { return of(i*filters + n) })
		list = append(list, also...)
		for _, l := range layers {
			p.add(l, filter.ActionBlock, list...)
		}
	}
}

// ipv6Set is a set of ranges in as many networks.
func ipv6Set(t *testing.T, n int) filter.Value {
	t.Helper()
	var b filter.SetBuilder
	for i := range n {
		a := netip.AddrFrom16(filter.Addr6{High: 0x20010db8<<32 | uint64(i), Low: 1}.Bytes())
		to := netip.AddrFrom16(filter.Addr6{High: 0x20010db8<<32 | uint64(i), Low: 100}.Bytes())
		if err := b.Add(a, to); err != nil {
			t.Fatal(err)
		}
	}
	return filter.SetValue(b.Set("set", ""))
}

func TestLimitsOfTables(t *testing.T) {
	t.Parallel()
	layers4 := []layermap.LayerID{transport4, layermap.OutboundTransportV4, layermap.InboundIPPacketV4, layermap.OutboundIPPacketV4}
	all4 := append(slices.Clone(layers4), layermap.ALEAuthConnectV4, layermap.ALEAuthRecvAcceptV4)
	layers6 := []layermap.LayerID{transport6, layermap.OutboundTransportV6}
	// a field with fewer groups would be tested by classes and lead nowhere
	const groups = 64*bpf.ClassWords + 10
	for _, c := range []struct {
		name         string
		size         func(tab *tables) int
		most         int
		fill         func(p *limited, n int)
		under, over  int
		layer        layermap.LayerID
		traffic, not filter.Condition
	}{
		// each address takes tables of its own below the first
		{"cells", func(tab *tables) int { return len(tab.cells) }, MaxCells, func(p *limited, n int) {
			p.shares(all4, n, 4096, func(i int) filter.Condition { return remote(scatter(i)) })
		}, 12, 31, transport4, remote(scatter(5)), remote(scatter(12 * 4096))},
		// each range takes one for its second half
		{"buckets", func(tab *tables) int { return len(tab.buckets) }, MaxBuckets, func(p *limited, n int) {
			set := is("IP_REMOTE_ADDRESS", ipv6Set(p.t, n))
			for _, l := range layers6 {
				p.add(l, filter.ActionBlock, set)
			}
		}, 40_000, MaxBuckets/2 + 10, transport6, remote6(0x20010db8<<32|39_999, 1), remote6(0x20010db8<<32|40_000, 1)},
		// each address leads to one
		{"branches", func(tab *tables) int { return len(tab.branches) }, MaxBranches, func(p *limited, n int) {
			p.shares(layers4, groups, n, func(i int) filter.Condition { return remote(ten + i) })
		}, 60, MaxBranches/groups/4 + 10, transport4, remote(ten + 60*groups - 1), remote(ten + 60*groups)},
		// MaxCuts has a test of its own.
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newLimited(t)
			c.fill(p, c.under)
			tab := p.mustFit()
			if n := c.size(tab); n > c.most || n < c.most/20 {
				t.Errorf("%d %s, which says little about the limit of %d", n, c.name, c.most)
			}
			if v := p.agree(tab, c.layer, c.traffic); !v.Blocked() {
				t.Errorf("%v passes", c.traffic)
			}
			if v := p.agree(tab, c.layer, c.not); v.Blocked() {
				t.Errorf("%v is blocked", c.not)
			}
			p = newLimited(t)
			c.fill(p, c.over)
			p.mustNot(c.name, fmt.Sprintf("at most %d;", c.most), "FWPS_LAYER_")
		})
	}
}

// What the one address leads to is told apart by the other, by as many cuts as one
// search can look through. That as many do is tested with a kernel (tests/live).
func TestLimitOfCuts(t *testing.T) {
	t.Parallel()
	const groups, locals = 64*bpf.ClassWords + 1, 1000
	fill := func(conditions int) *limited {
		p := newLimited(t)
		p.shares([]layermap.LayerID{transport4}, groups, conditions, func(i int) filter.Condition { return remote(ten + 2*i) }, local(locals))
		for i := range locals {
			p.add(transport4, filter.ActionPermit, local(i))
		}
		return p
	}
	const most = MaxCuts / 2 / groups
	const some = most / 8
	p := fill(some)
	tab := p.mustFit()
	count := int(slices.MaxFunc(tab.branches, func(a, b bpf.Branch) int { return cmp.Compare(a.Count, b.Count) }).Count)
	if count != 2*groups*some+1 {
		t.Errorf("%d cuts for %d addresses", count, groups*some)
	}
	for _, i := range []int{0, 1, 2, 1000, 2*groups*some - 2, 2*groups*some - 1, 2 * groups * some} {
		v := p.agree(tab, transport4, remote(ten+i), local(locals))
		if want := i%2 == 0 && i < 2*groups*some; v.Blocked() != want {
			t.Errorf("address %d: %v", i, v.Action)
		}
	}
	fill(most+1).mustNot("FWPS_LAYER_INBOUND_TRANSPORT_V4", "cuts, at most 1048576;")
}
