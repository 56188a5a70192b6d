// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
	"github.com/wfpebpf/wfpebpf/policy"
)

// amending is a policy in force that changes.
type amending struct {
	t      *testing.T
	target Target
	e      *Engine
	p      *policy.Policy
	other  filter.GUID // a sublayer that has no filters at first
}

const (
	amendedLayer = layermap.ALEAuthConnectV4
	firstPort    = 1000
	laidFilters  = 1600 // so that 100 may change
)

// newAmending commits filters that block a port each, and one that permits what is
// left of UDP.
func newAmending(t *testing.T) *amending {
	target := newTarget(t)
	s := filter.NewStore()
	a := &amending{t: t, target: target, e: engineFor(t, target), p: &policy.Policy{Store: s}, other: filter.DeriveKey("sublayer", "other")}
	if err := s.AddSubLayer(filter.SubLayer{Key: a.other, Name: "other", Weight: 5}); err != nil {
		t.Fatal(err)
	}
	for i := range laidFilters - 2 {
		a.add(filter.ActionBlock, firstPort+i, filter.Condition{Field: "IP_PROTOCOL", Value: filter.U8(uint8(6 + 11*(i%2)))})
	}
	a.addFilter(&filter.Filter{Name: "the rest of UDP", Action: filter.ActionPermit,
		Conditions: []filter.Condition{{Field: "IP_PROTOCOL", Value: filter.U8(17)}}})
	a.addFilter(&filter.Filter{Name: "a program", Action: filter.ActionBlock,
		Conditions: []filter.Condition{{Field: "ALE_APP_ID", Value: filter.Blob([]byte("/bin/known"))}}})
	a.commit(false)
	return a
}

func (a *amending) addFilter(f *filter.Filter) *filter.Filter {
	a.t.Helper()
	if f.Layer == 0 {
		f.Layer = amendedLayer
	}
	if err := a.p.Store.AddFilter(f); err != nil {
		a.t.Fatal(err)
	}
	return f
}

// add adds a filter on a remote port.
func (a *amending) add(action filter.Action, port int, conditions ...filter.Condition) *filter.Filter {
	a.t.Helper()
	return a.addFilter(&filter.Filter{Name: fmt.Sprint(action.Short(), " ", port), Action: action,
		Conditions: append(conditions, filter.Condition{Field: "IP_REMOTE_PORT", Value: filter.U16(uint16(port))})})
}

func (a *amending) remove(f *filter.Filter) {
	a.t.Helper()
	if err := a.p.Store.DeleteFilter(f.ID); err != nil {
		a.t.Fatal(err)
	}
}

// nth is the filter that was added first, second, ...
func (a *amending) nth(n int) *filter.Filter { return a.p.Store.Filters()[n] }

// commit commits, compares verdicts and says whether the tables should have been
// amended.
func (a *amending) commit(amended bool) {
	a.t.Helper()
	if err := a.e.Commit(context.Background(), a.p); err != nil {
		a.t.Fatal(err)
	}
	s, err := a.e.State()
	if err != nil {
		a.t.Fatal(err)
	}
	if (s.Amends != nil) != amended {
		a.t.Errorf("amended: %+v, want %v", s.Amends, amended)
	}
	if n := s.Filters[layerName(amendedLayer)]; n != len(a.p.Store.Layer(amendedLayer)) {
		a.t.Errorf("%d filters are in force, want %d", n, len(a.p.Store.Layer(amendedLayer)))
	}
	a.agree(a.e)
}

// agree compares the verdicts, and the list of filters, with the policy.
func (a *amending) agree(e *Engine) {
	a.t.Helper()
	for _, id := range []layermap.LayerID{amendedLayer, layermap.ALEAuthConnectV6} {
		l := layermap.ByID(id)
		var traffic []filter.Values
		for _, protocol := range []uint8{6, 17, 1} {
			for _, app := range []string{"/bin/known", "/bin/other"} {
				for _, port := range []uint16{1, firstPort, firstPort + 1, firstPort + 2, firstPort + 3, firstPort + 40, firstPort + 41, 9000, 9001, 9063, 60000} {
					for _, address := range []uint32{0x0a000001, 0x0a010203, 0xc0000201} {
						v := make(filter.Values, len(l.Fields))
						v[l.FieldIndex("IP_PROTOCOL")] = filter.U8(protocol)
						v[l.FieldIndex("IP_REMOTE_PORT")] = filter.U16(port)
						v[l.FieldIndex("ALE_APP_ID")] = filter.Blob([]byte(app))
						if l.Family == layermap.V4 {
							v[l.FieldIndex("IP_REMOTE_ADDRESS")] = filter.U32(address)
						} else {
							v[l.FieldIndex("IP_REMOTE_ADDRESS")] = filter.Addr16(netip.AddrFrom16([16]byte{0: 0x20, 15: byte(address)}))
						}
						traffic = append(traffic, v)
					}
				}
			}
		}
		verdicts, err := e.Judge(id, traffic)
		if err != nil {
			a.t.Fatal(err)
		}
		for i, v := range traffic {
			var want filter.Result
			a.p.Store.Plan(id).Arbitrate(v, nil, &want)
			var by filter.ID
			if want.Filter != nil {
				by = want.Filter.ID
			}
			if got := verdicts[i]; got.Action != want.Action || got.Soft != want.Soft || got.Filter != by {
				a.t.Errorf("%v, %v: the kernel says %+v, the evaluator %v by %d, soft %v", id, v, got, want.Action, by, want.Soft)
			}
		}
	}
	rows, err := e.Filters()
	if err != nil {
		a.t.Fatal(err)
	}
	if !slices.EqualFunc(rows, a.p.Store.Filters(), func(r FilterRow, f *filter.Filter) bool { return r.ID == f.ID && r.Name == f.Name }) {
		a.t.Errorf("%d filters are listed, not those of the policy in their order", len(rows))
	}
}

// What amends the tables, and what has them made anew.
func TestAmend(t *testing.T) {
	tcp := filter.Condition{Field: "IP_PROTOCOL", Value: filter.U8(6)}
	address := func(a uint32) filter.Condition {
		return filter.Condition{Field: "IP_REMOTE_ADDRESS", Value: filter.U32(a)}
	}
	for _, c := range []struct {
		name    string
		change  func(*amending)
		amended bool
	}{
		{"one added", func(a *amending) { a.add(filter.ActionPermit, firstPort, tcp) }, true},
		{"one added before all", func(a *amending) {
			a.addFilter(&filter.Filter{Name: "first", Action: filter.ActionPermit, Weight: filter.U8(15)})
		}, true},
		{"one added after all", func(a *amending) {
			a.addFilter(&filter.Filter{Name: "last", Action: filter.ActionBlock, Weight: filter.U8(0)})
		}, true},
		{"one removed", func(a *amending) { a.remove(a.nth(0)) }, true},
		{"one removed that had others left out", func(a *amending) {
			for i, f := range a.p.Store.Filters()[2:40] {
				a.remove(f)
				a.add(f.Action, firstPort+2+i, f.Conditions[0])
			}
			twin := a.nth(0)
			a.add(filter.ActionPermit, firstPort, twin.Conditions[0])
			a.e.laid = nil
			a.commit(false)
			a.remove(twin)
		}, true},
		{"one turned", func(a *amending) {
			a.remove(a.nth(3))
			a.add(filter.ActionPermit, firstPort+3, filter.Condition{Field: "IP_PROTOCOL", Value: filter.U8(17)})
		}, true},
		{"addresses", func(a *amending) {
			a.addFilter(&filter.Filter{Name: "net", Action: filter.ActionBlock, Conditions: []filter.Condition{address(0x0a000001), address(0x0a010203)}})
			a.addFilter(&filter.Filter{Name: "flags", Action: filter.ActionPermit, Conditions: []filter.Condition{
				{Field: "FLAGS", Match: filter.MatchFlagsNoneSet, Value: filter.U32(1)}, address(0xc0000201)}})
		}, true},
		{"a program that has a number", func(a *amending) {
			a.add(filter.ActionPermit, 9000, filter.Condition{Field: "ALE_APP_ID", Value: filter.Blob([]byte("/bin/known"))})
		}, true},
		{"a layer that had no filters", func(a *amending) {
			a.addFilter(&filter.Filter{Name: "v6", Layer: layermap.ALEAuthConnectV6, Action: filter.ActionBlock,
				Conditions: []filter.Condition{{Field: "IP_REMOTE_ADDRESS", Value: filter.Addr16(netip.AddrFrom16([16]byte{0: 0x20, 15: 1}))}}})
			a.addFilter(&filter.Filter{Name: "v6 too", Layer: layermap.ALEAuthConnectV6, SubLayer: a.other, Action: filter.ActionPermit})
		}, true},
		{"as many as there is room for", func(a *amending) {
			for i := range MaxAdded {
				a.add(filter.ActionPermit, 9000+i, tcp)
			}
		}, true},
		{"one more than that", func(a *amending) {
			for i := range MaxAdded + 1 {
				a.add(filter.ActionPermit, 9000+i, tcp)
			}
		}, false},
		{"many removed", func(a *amending) {
			for _, f := range a.p.Store.Filters()[:laidFilters/fewChanges] {
				a.remove(f)
			}
		}, true},
		{"one more than that removed", func(a *amending) {
			for _, f := range a.p.Store.Filters()[:laidFilters/fewChanges+1] {
				a.remove(f)
			}
		}, false},
		{"a program that has none", func(a *amending) {
			a.add(filter.ActionPermit, 9000, filter.Condition{Field: "ALE_APP_ID", Value: filter.Blob([]byte("/bin/other"))})
		}, false},
		{"another sublayer", func(a *amending) {
			a.addFilter(&filter.Filter{Name: "other", SubLayer: a.other, Action: filter.ActionBlock, Conditions: []filter.Condition{tcp}})
		}, false},
		{"another unit", func(a *amending) { a.p.Services = map[filter.SID]string{"S-1-5-80-1": "a.service"} }, false},
		{"a filter that is ignored", func(a *amending) {
			a.addFilter(&filter.Filter{Name: "off", Action: filter.ActionBlock, Flags: filter.FlagDisabled})
		}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := newAmending(t)
			c.change(a)
			a.commit(c.amended)
		})
	}
}

// Many changes follow each other, faster than programs end that go by older tables,
// and each is taken back.
func TestAmendAgainAndAgain(t *testing.T) {
	a := newAmending(t)
	for i := range 30 {
		f := a.add(filter.ActionPermit, 9000+i%3)
		a.commit(true)
		a.remove(a.nth(i))
		a.commit(true)
		if i%2 == 0 {
			a.remove(f)
			a.commit(true)
		}
	}
	// at last there is too much beside the tables
	for i := range 15 {
		a.remove(a.nth(i))
	}
	for i := range MaxAdded {
		a.add(filter.ActionBlock, 9000+i)
	}
	a.commit(false)
}

// A roll-back puts the policy before an amendment in force, that before another one
// too, and so does one by another process, or after a commit that failed.
func TestAmendAndRollBack(t *testing.T) {
	type step func(a *amending) *Engine // does the roll-back
	same := func(a *amending) *Engine { return a.e }
	other := func(a *amending) *Engine { return engineFor(a.t, a.target) }
	fails := func(a *amending) *Engine {
		a.e.laid = nil
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		e, q := a.e, &policy.Policy{Store: a.p.Store.Clone()}
		if err := q.Store.AddFilter(&filter.Filter{Name: "never", Layer: amendedLayer, Action: filter.ActionBlock}); err != nil {
			a.t.Fatal(err)
		}
		e.in.info.Interfaces = []string{"lo"}
		cancel()
		if err := e.Commit(ctx, q); err == nil {
			a.t.Fatal("the commit does not fail")
		}
		a.e.in.loseTables(a.generation() - 1)
		return e
	}
	for _, c := range []struct {
		name     string
		changes  int // before the last one
		rollBack step
	}{
		{"to what was laid", 0, same}, {"to an amendment", 1, same},
		{"to what was laid, elsewhere", 0, other}, {"to an amendment, elsewhere", 1, other},
		{"to what was laid, whose tables are lost", 0, fails}, {"to an amendment, whose tables are lost", 1, fails},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := newAmending(t)
			for i := range c.changes {
				a.remove(a.nth(0))
				a.add(filter.ActionPermit, 9000+i)
				a.commit(true)
			}
			before := &policy.Policy{Store: a.p.Store.Clone()}
			a.add(filter.ActionBlock, 9063)
			a.remove(a.nth(1))
			a.commit(true)
			generation := a.generation()
			if err := c.rollBack(a).Rollback(); err != nil {
				t.Fatal(err)
			}
			if now := a.generation(); now != generation+1 {
				t.Errorf("generation %d, want %d", now, generation+1)
			}
			a.p = before
			a.agree(a.e)
			a.agree(other(a))
			// and from there it goes on
			a.add(filter.ActionBlock, 9001)
			a.commit(false)
			a.add(filter.ActionBlock, 9002)
			a.commit(true)
		})
	}
}

func (a *amending) generation() uint64 {
	a.t.Helper()
	g, err := a.e.Generation()
	if err != nil {
		a.t.Fatal(err)
	}
	return g
}

// Another process sees what was amended, and its commits are whole: it does not know
// what the tables were made of. Then this one does not any more.
func TestAmendBesideAnotherProcess(t *testing.T) {
	a := newAmending(t)
	a.add(filter.ActionBlock, 9000)
	a.commit(true)
	b := &amending{t: t, target: a.target, e: engineFor(t, a.target), p: a.p, other: a.other}
	b.agree(b.e)
	p, err := b.e.Policy()
	if err != nil {
		t.Fatal(err)
	}
	if want := len(a.p.Store.Filters()); len(p.Store.Filters()) != want {
		t.Errorf("the policy has %d filters, want %d", len(p.Store.Filters()), want)
	}
	b.add(filter.ActionBlock, 9001)
	b.commit(false)
	a.add(filter.ActionBlock, 9002)
	a.commit(false)
}

// An unconfirmed amendment is confirmed, or taken back.
func TestAmendUnconfirmed(t *testing.T) {
	a := newAmending(t)
	before := &policy.Policy{Store: a.p.Store.Clone()}
	a.add(filter.ActionBlock, 9000)
	if err := a.e.CommitUnconfirmed(context.Background(), a.p); err != nil {
		t.Fatal(err)
	}
	if !a.e.Unconfirmed() {
		t.Error("it does not wait")
	}
	if was, err := a.e.Confirm(); err != nil || !was || a.e.Unconfirmed() {
		t.Errorf("confirm: %v, %v; waits still: %v", was, err, a.e.Unconfirmed())
	}
	a.agree(a.e)
	kept := &policy.Policy{Store: a.p.Store.Clone()}
	a.add(filter.ActionBlock, 9001)
	if err := a.e.CommitUnconfirmed(context.Background(), a.p); err != nil {
		t.Fatal(err)
	}
	if err := a.e.RollbackUnconfirmed(a.generation()); err != nil {
		t.Fatal(err)
	}
	a.p = kept
	a.agree(a.e)
	if len(kept.Store.Filters()) != len(before.Store.Filters())+1 {
		t.Error("the wrong policy is kept")
	}
}
