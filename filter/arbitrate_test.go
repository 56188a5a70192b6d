// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/wfpebpf/wfpebpf/layermap"
)

var connectV4 = layermap.ByName("ALE_AUTH_CONNECT_V4")

// valuesOf makes a layer's values from those of some fields.
func valuesOf(l *layermap.Layer, m map[string]Value) Values {
	vs := make(Values, len(l.Fields))
	for k, v := range m {
		i := l.FieldIndex(k)
		if i < 0 {
			panic("no field " + k)
		}
		vs[i] = v
	}
	return vs
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// The words of the arbitration tables below. Each filter word is one filter;
// a sublayer is its filters, heaviest first.
var words = map[string]struct {
	action Action
	flags  Flags
	result ClassifyOut // of the callout
	absent bool        // the callout is not registered
	misses bool        // a condition that does not hold
}{
	"permit":                {action: ActionPermit},
	"hard permit":           {action: ActionPermit, flags: FlagClearActionRight},
	"block":                 {action: ActionBlock},
	"block, flag":           {action: ActionBlock, flags: FlagClearActionRight},
	"no match":              {action: ActionBlock, misses: true},
	"T permit":              {action: ActionCalloutTerminating, result: ClassifyOut{Action: ActionPermit}},
	"T permit, flag":        {action: ActionCalloutTerminating, flags: FlagClearActionRight, result: ClassifyOut{Action: ActionPermit}},
	"T hard permit":         {action: ActionCalloutTerminating, result: ClassifyOut{Action: ActionPermit, ClearRight: true}},
	"T block":               {action: ActionCalloutTerminating, result: ClassifyOut{Action: ActionBlock}},
	"T hard block":          {action: ActionCalloutTerminating, result: ClassifyOut{Action: ActionBlock, ClearRight: true}},
	"T continue":            {action: ActionCalloutTerminating, result: ClassifyOut{Action: ActionContinue}},
	"T none":                {action: ActionCalloutTerminating, result: ClassifyOut{Action: ActionNone}},
	"U permit":              {action: ActionCalloutUnknown, result: ClassifyOut{Action: ActionPermit}},
	"U block":               {action: ActionCalloutUnknown, result: ClassifyOut{Action: ActionBlock}},
	"U continue":            {action: ActionCalloutUnknown, result: ClassifyOut{Action: ActionContinue, ClearRight: true}},
	"U none":                {action: ActionCalloutUnknown, result: ClassifyOut{Action: ActionNone}},
	"I permit":              {action: ActionCalloutInspection, result: ClassifyOut{Action: ActionPermit, ClearRight: true}},
	"I block":               {action: ActionCalloutInspection, result: ClassifyOut{Action: ActionBlock, ClearRight: true}},
	"absent T":              {action: ActionCalloutTerminating, absent: true},
	"absent U":              {action: ActionCalloutUnknown, absent: true},
	"absent I":              {action: ActionCalloutInspection, absent: true},
	"absent T permit":       {action: ActionCalloutTerminating, flags: FlagPermitIfCalloutUnregistered, absent: true},
	"absent T permit, flag": {action: ActionCalloutTerminating, flags: FlagPermitIfCalloutUnregistered | FlagClearActionRight, absent: true},
	"absent U permit":       {action: ActionCalloutUnknown, flags: FlagPermitIfCalloutUnregistered, absent: true},
	"block, disabled":       {action: ActionBlock, flags: FlagDisabled},
	"block, boot time":      {action: ActionBlock, flags: FlagBootTime},
}

// scenario builds a store from sublayers, highest first, that are separated by
// "/", with filters that are separated by ";". Filter n has id n.
func scenario(t testing.TB, text string) (*Store, Callouts) {
	s, callouts := NewStore(), Callouts{}
	id := ID(0)
	for i, sub := range strings.Split(text, "/") {
		key := DeriveKey("sublayer", fmt.Sprint(i))
		must(t, s.AddSubLayer(SubLayer{Key: key, Name: fmt.Sprint(i), Weight: uint16(60000 - i)}))
		for j, word := range strings.Split(sub, ";") {
			word = strings.TrimSpace(word)
			w, ok := words[word]
			if !ok {
				if word == "" {
					continue
				}
				t.Fatalf("unknown word %q", word)
			}
			id++
			f := &Filter{ID: id, Name: word, Layer: connectV4.ID, SubLayer: key, Action: w.action, Flags: w.flags, Weight: U64(uint64(1000 - j))}
			if w.misses {
				f.Conditions = []Condition{{Field: "IP_PROTOCOL", Match: MatchEqual, Value: U8(99)}}
			}
			if w.action.IsCallout() {
				f.Callout = DeriveKey("callout", fmt.Sprint(id))
				must(t, s.AddCallout(Callout{Key: f.Callout, Name: word, Layer: connectV4.ID}))
				if !w.absent {
					callouts[f.Callout] = func(*Filter, Values, bool) ClassifyOut { return w.result }
				}
			}
			must(t, s.AddFilter(f))
		}
	}
	return s, callouts
}

func TestArbitration(t *testing.T) {
	const (
		soft = true
		hard = false
	)
	for _, c := range []struct {
		name      string
		subLayers string
		action    Action
		soft      bool
		by        ID // 0: no filter
		veto      bool
	}{
		// The worked outcomes.
		{"soft permit, static block", "permit / block", ActionBlock, hard, 2, false},
		{"hard permit, static block", "hard permit / block", ActionPermit, hard, 1, false},
		{"hard permit, callout block: veto", "hard permit / T block", ActionBlock, hard, 2, true},
		{"hard block, permit", "block / permit", ActionBlock, hard, 1, false},
		{"hard block, hard permit", "block / hard permit", ActionBlock, hard, 1, false},
		{"hard block, callout hard permit", "block / T hard permit", ActionBlock, hard, 1, false},
		{"callout soft block, static permit", "T block / permit", ActionPermit, soft, 2, false},
		{"nothing, permit", "no match / permit", ActionPermit, soft, 2, false},
		{"nothing matches", "no match", ActionNoneNoMatch, soft, 0, false},
		{"no filter", "", ActionNoneNoMatch, soft, 0, false},

		// Defaults of the right.
		{"static permit is soft", "permit", ActionPermit, soft, 1, false},
		{"static permit with CLEAR_ACTION_RIGHT is hard", "hard permit", ActionPermit, hard, 1, false},
		{"static block is hard", "block", ActionBlock, hard, 1, false},
		{"static block with CLEAR_ACTION_RIGHT is hard", "block, flag", ActionBlock, hard, 1, false},
		{"callout permit is soft", "T permit", ActionPermit, soft, 1, false},
		{"callout that clears the right permits hard", "T hard permit", ActionPermit, hard, 1, false},
		{"CLEAR_ACTION_RIGHT on a callout filter is advice", "T permit, flag", ActionPermit, soft, 1, false},
		{"callout block is soft", "T block", ActionBlock, soft, 1, false},
		{"callout that clears the right blocks hard", "T hard block", ActionBlock, hard, 1, false},

		// The override table.
		{"soft permit, callout soft block", "permit / T block", ActionBlock, soft, 2, false},
		{"soft permit, soft permit: the lower decides", "permit / permit", ActionPermit, soft, 2, false},
		{"soft permit, hard permit, block", "permit / hard permit / block", ActionPermit, hard, 2, false},
		{"hard permit, callout permit", "hard permit / T permit", ActionPermit, hard, 1, false},
		{"hard permit, UNKNOWN callout block: veto", "hard permit / U block", ActionBlock, hard, 2, true},
		{"callout hard permit, callout hard block: veto", "T hard permit / T hard block", ActionBlock, hard, 2, true},
		{"after a veto nothing counts", "hard permit / T block / permit / T hard permit", ActionBlock, hard, 2, true},
		{"a second veto changes nothing", "hard permit / T block / T block", ActionBlock, hard, 2, true},
		{"soft block, hard permit, block", "T block / hard permit / block", ActionPermit, hard, 2, false},
		{"soft block, soft permit, block", "T block / permit / block", ActionBlock, hard, 3, false},
		{"callout hard block, permit", "T hard block / permit", ActionBlock, hard, 1, false},
		{"soft permit, nothing", "permit / no match", ActionPermit, soft, 1, false},

		// Within a sublayer.
		{"permit ends the sublayer", "permit ; block", ActionPermit, soft, 1, false},
		{"block ends the sublayer", "block ; permit", ActionBlock, hard, 1, false},
		{"what does not match is passed over", "no match ; permit ; block", ActionPermit, soft, 2, false},
		{"CONTINUE goes on", "U continue ; block", ActionBlock, hard, 2, false},
		{"only CONTINUE contributes nothing", "U continue ; U continue", ActionNoneNoMatch, soft, 0, false},
		{"CONTINUE does not clear the right", "permit / U continue / block", ActionBlock, hard, 3, false},
		{"inspection goes on whatever it returns", "I block ; permit", ActionPermit, soft, 2, false},
		{"inspection contributes nothing", "I permit / block", ActionBlock, hard, 2, false},
		{"inspection has no veto", "hard permit / I block", ActionPermit, hard, 1, false},

		// Coercion.
		{"TERMINATING with CONTINUE counts as BLOCK", "T continue ; permit", ActionBlock, soft, 1, false},
		{"TERMINATING with NONE counts as BLOCK", "T none ; permit", ActionBlock, soft, 1, false},
		{"UNKNOWN may permit", "U permit ; block", ActionPermit, soft, 1, false},
		{"UNKNOWN with NONE goes on", "U none ; permit", ActionPermit, soft, 2, false},

		// Callouts that are not registered.
		{"unregistered TERMINATING blocks hard", "absent T / permit", ActionBlock, hard, 1, false},
		{"unregistered UNKNOWN blocks hard", "absent U / permit", ActionBlock, hard, 1, false},
		{"unregistered INSPECTION is ignored", "absent I ; permit", ActionPermit, soft, 2, false},
		{"unregistered block has no veto", "hard permit / absent T", ActionPermit, hard, 1, false},
		{"PERMIT_IF_CALLOUT_UNREGISTERED, TERMINATING", "absent T permit / block", ActionBlock, hard, 2, false},
		{"PERMIT_IF_CALLOUT_UNREGISTERED, UNKNOWN", "absent U permit ; block", ActionPermit, soft, 1, false},
		{"... with CLEAR_ACTION_RIGHT", "absent T permit, flag / block", ActionPermit, hard, 1, false},

		// Filters that are not in effect.
		{"DISABLED is not evaluated", "block, disabled ; permit", ActionPermit, soft, 2, false},
		{"BOOTTIME is not evaluated once the engine runs", "block, boot time ; permit", ActionPermit, soft, 2, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, callouts := scenario(t, c.subLayers)
			r := Arbitrate(s, connectV4.ID, valuesOf(connectV4, map[string]Value{"IP_PROTOCOL": U8(6)}), callouts)
			var by ID
			if r.Filter != nil {
				by = r.Filter.ID
			}
			got := fmt.Sprint(r.Action, r.Soft, by, r.Veto)
			if want := fmt.Sprint(c.action, c.soft, c.by, c.veto); got != want {
				t.Errorf("action, soft, filter, veto: %s, want %s", got, want)
			}
			if r.Blocked() != (c.action == ActionBlock) {
				t.Errorf("Blocked() = %v with %v", r.Blocked(), r.Action)
			}
		})
	}
}

// Every sublayer is evaluated after a hard block, and each callout learns
// whether it still has the right.
func TestCalloutsSeeBlockedTrafficAndTheRight(t *testing.T) {
	s, callouts := scenario(t, "T block / I permit / block / I block / T permit")
	var rights []string
	for key, classify := range callouts {
		callouts[key] = func(f *Filter, v Values, right bool) ClassifyOut {
			rights = append(rights, fmt.Sprint(f.ID, right))
			return classify(f, v, right)
		}
	}
	r := Arbitrate(s, connectV4.ID, nil, callouts)
	if want := []string{"1 true", "2 true", "4 false", "5 false"}; !slices.Equal(rights, want) {
		t.Errorf("callouts were called with %q, want %q", rights, want)
	}
	var got []string
	for _, sub := range r.SubLayers {
		got = append(got, sub.Action.Short())
	}
	if want := []string{"BLOCK", "CONTINUE", "BLOCK", "CONTINUE", "PERMIT"}; !slices.Equal(got, want) {
		t.Errorf("sublayers came to %q, want %q", got, want)
	}
}

func TestArbitrateAllocatesNothing(t *testing.T) {
	s, callouts := scenario(t, "no match ; U continue ; permit / T block / no match ; hard permit")
	p, values := s.Plan(connectV4.ID), valuesOf(connectV4, map[string]Value{"IP_PROTOCOL": U8(6)})
	var r Result
	p.Arbitrate(values, callouts, &r)
	if n := testing.AllocsPerRun(100, func() { p.Arbitrate(values, callouts, &r) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestSameFieldIsOr(t *testing.T) {
	port := func(m MatchType, n uint16) Condition { return Condition{"IP_REMOTE_PORT", m, U16(n)} }
	tcp := Condition{"IP_PROTOCOL", MatchEqual, U8(6)}
	for _, c := range []struct {
		name  string
		conds []Condition
		port  uint16
		want  bool
	}{
		{"no conditions", nil, 1, true},
		{"first of two", []Condition{port(MatchEqual, 80), port(MatchEqual, 443)}, 80, true},
		{"second of two", []Condition{port(MatchEqual, 80), port(MatchEqual, 443)}, 443, true},
		{"neither", []Condition{port(MatchEqual, 80), port(MatchEqual, 443)}, 22, false},
		{"not consecutive", []Condition{port(MatchEqual, 80), tcp, port(MatchEqual, 443)}, 443, true},
		{"other field fails", []Condition{port(MatchEqual, 80), {"IP_PROTOCOL", MatchEqual, U8(17)}}, 80, false},
		{"two NOT_EQUALs", []Condition{port(MatchNotEqual, 80), port(MatchNotEqual, 443)}, 80, true},
		{"field the layer lacks", []Condition{{"VLAN_ID", MatchEqual, U16(1)}}, 80, false},
	} {
		values := valuesOf(connectV4, map[string]Value{"IP_PROTOCOL": U8(6), "IP_REMOTE_PORT": U16(c.port)})
		if got := MatchesAll(c.conds, connectV4, values); got != c.want {
			t.Errorf("%s: MatchesAll = %v", c.name, got)
		}
		p := plannedFilter{groups: groupConditions(connectV4, c.conds)}
		if got := p.matches(values); got != c.want {
			t.Errorf("%s: planned filter matches = %v", c.name, got)
		}
	}
}

func TestSensitive(t *testing.T) {
	sd, err := ParseSDDL("D:(A;;CC;;;S-1-22-1-1000)")
	must(t, err)
	user := Condition{"ALE_USER_ID", MatchEqual, SDValue(sd)}
	tcp := Condition{"IP_PROTOCOL", MatchEqual, U8(6)}
	port := Condition{"IP_REMOTE_PORT", MatchRange, RangeOf(U16(100), U16(200))}
	loopback := Condition{"FLAGS", MatchFlagsAllSet, U32(1)}
	values := map[string]Value{"IP_PROTOCOL": U8(6)}
	for _, c := range []struct {
		name  string
		conds [][]Condition // of PERMIT filters above a BLOCK
		want  string
	}{
		{"nothing tests the field", [][]Condition{{tcp}}, ""},
		{"user decides", [][]Condition{{tcp, user}}, "ALE_USER_ID"},
		{"known field rules the filter out", [][]Condition{{{"IP_PROTOCOL", MatchEqual, U8(17)}, user}}, ""},
		{"flags of zero are not known", [][]Condition{{loopback}}, "FLAGS"},
		{"two fields together", [][]Condition{{user, port}}, "IP_REMOTE_PORT,ALE_USER_ID"},
		{"behind a filter that always matches", [][]Condition{{tcp}, {user}}, ""},
		{"second filter shows behind the first", [][]Condition{{port}, {user}}, "IP_REMOTE_PORT,ALE_USER_ID"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := NewStore()
			for i, conds := range c.conds {
				must(t, s.AddFilter(&Filter{Name: "p", Layer: connectV4.ID, Action: ActionPermit, Weight: U64(uint64(100 - i)), Conditions: conds}))
			}
			must(t, s.AddFilter(&Filter{Name: "b", Layer: connectV4.ID, Action: ActionBlock}))
			got := Sensitive(s, connectV4.ID, valuesOf(connectV4, values), nil)
			want := []string{}
			for _, f := range connectV4.Fields {
				if slices.Contains(strings.Split(c.want, ","), f.Key) {
					want = append(want, f.Key)
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

// The order of a layer's filters does not depend on the order in which they
// were added.
func TestLayerOrderIsTotal(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		var filters []*Filter
		subs := []GUID{DeriveKey("sublayer", "a"), DeriveKey("sublayer", "b"), DeriveKey("sublayer", "c")}
		for i := range 40 {
			filters = append(filters, &Filter{
				ID: ID(i + 1), Name: "f", Layer: connectV4.ID, Action: ActionPermit,
				SubLayer: subs[rnd.IntN(len(subs))], Weight: U64(uint64(rnd.IntN(4))),
			})
		}
		var first []ID
		for range 5 {
			rnd.Shuffle(len(filters), func(i, j int) { filters[i], filters[j] = filters[j], filters[i] })
			s := NewStore()
			for i, k := range subs {
				must(t, s.AddSubLayer(SubLayer{Key: k, Name: "s", Weight: uint16(100 + i/2)})) // two of one weight
			}
			for _, f := range filters {
				copy := *f
				must(t, s.AddFilter(&copy))
			}
			var ids []ID
			for _, f := range s.Layer(connectV4.ID) {
				ids = append(ids, f.ID)
			}
			if first == nil {
				first = ids
			} else if !slices.Equal(first, ids) {
				t.Fatalf("two orders: %v and %v", first, ids)
			}
		}
	}
}
