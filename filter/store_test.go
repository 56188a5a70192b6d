// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"errors"
	"slices"
	"testing"

	"github.com/wfpebpf/wfpebpf/layermap"
)

func ids(filters []*Filter) (out []ID) {
	for _, f := range filters {
		out = append(out, f.ID)
	}
	return out
}

func TestAddFilterRules(t *testing.T) {
	callout, context := DeriveKey("callout", "c"), DeriveKey("context", "x")
	for _, c := range []struct {
		name   string
		change func(*Filter)
		want   string
	}{
		{"nothing named", func(*Filter) {}, ""},
		{"validation", func(f *Filter) { f.Name = "" }, "NULL_DISPLAY_NAME"},
		{"unknown sublayer", func(f *Filter) { f.SubLayer = DeriveKey("sublayer", "none") }, "SUBLAYER_NOT_FOUND"},
		{"unknown provider", func(f *Filter) { f.Provider = DeriveKey("provider", "none") }, "PROVIDER_NOT_FOUND"},
		{"unknown callout", func(f *Filter) { f.Action = ActionCalloutUnknown }, "CALLOUT_NOT_FOUND"},
		{"callout", func(f *Filter) { f.Action, f.Callout = ActionCalloutUnknown, callout }, ""},
		{"callout of another layer", func(f *Filter) {
			f.Action, f.Callout, f.Layer = ActionCalloutUnknown, callout, layermap.ByName("ALE_AUTH_CONNECT_V6").ID
		}, "INCOMPATIBLE_LAYER"},
		{"built-in callout", func(f *Filter) {
			c, _ := BuiltinCallout("IPSEC_INBOUND_TRANSPORT_V4")
			f.Action, f.Callout, f.Layer = ActionCalloutTerminating, c.Key, c.Layer
		}, ""},
		{"callout that needs a context", func(f *Filter) {
			c, _ := BuiltinCallout("IPSEC_INBOUND_TUNNEL_V4")
			f.Action, f.Callout, f.Layer = ActionCalloutTerminating, c.Key, c.Layer
		}, "CONTEXT_INCOMPATIBLE_WITH_CALLOUT"},
		{"provider context", func(f *Filter) { f.Flags, f.ProviderContext = FlagHasProviderContext, context }, ""},
		{"unknown provider context", func(f *Filter) { f.Flags = FlagHasProviderContext }, "PROVIDER_CONTEXT_NOT_FOUND"},
		{"BLOCK in INSPECTION", func(f *Filter) { f.SubLayer = SubLayerInspection }, "ACTION_INCOMPATIBLE_WITH_SUBLAYER"},
		{"inspection in INSPECTION", func(f *Filter) {
			f.SubLayer, f.Action, f.Callout = SubLayerInspection, ActionCalloutInspection, callout
		}, ""},
		{"id taken", func(f *Filter) { f.ID = 70 }, "ALREADY_EXISTS"},
		{"key taken", func(f *Filter) { f.Key = DeriveKey("filter", "first") }, "ALREADY_EXISTS"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := NewStore()
			must(t, s.AddCallout(Callout{Key: callout, Name: "c", Layer: connectV4.ID}))
			must(t, s.AddProviderContext(ProviderContext{Key: context, Name: "x"}))
			must(t, s.AddFilter(&Filter{ID: 70, Key: DeriveKey("filter", "first"), Name: "first", Layer: connectV4.ID, Action: ActionPermit}))
			f := &Filter{Name: "f", Layer: connectV4.ID, Action: ActionBlock}
			c.change(f)
			before := *f
			err := s.AddFilter(f)
			if c.want != "" {
				if !errors.Is(err, ErrorByName(c.want)) {
					t.Errorf("got %v, want %s", err, c.want)
				}
				if f.ID != before.ID || f.Key != before.Key || f.SubLayer != before.SubLayer || len(s.Filters()) != 1 {
					t.Error("a refused filter left traces")
				}
				return
			}
			must(t, err)
			if f.ID != 71 || f.Key == (GUID{}) || s.Filter(71) != f || s.FilterByKey(f.Key) != f || s.SubLayer(f.SubLayer) == nil {
				t.Errorf("not filled in: %+v", f)
			}
		})
	}
}

func TestAddObjects(t *testing.T) {
	key := DeriveKey("test", "k")
	none := DeriveKey("provider", "none")
	for _, c := range []struct {
		name string
		add  func(*Store) error
		want string
	}{
		{"sublayer", func(s *Store) error { return s.AddSubLayer(SubLayer{Key: key, Name: "n"}) }, ""},
		{"sublayer without a name", func(s *Store) error { return s.AddSubLayer(SubLayer{Key: key}) }, "NULL_DISPLAY_NAME"},
		{"sublayer without a key", func(s *Store) error { return s.AddSubLayer(SubLayer{Name: "n"}) }, "INVALID_PARAMETER"},
		{"built-in sublayer", func(s *Store) error { return s.AddSubLayer(SubLayer{Key: SubLayerUniversal, Name: "n"}) }, "ALREADY_EXISTS"},
		{"sublayer of an unknown provider", func(s *Store) error { return s.AddSubLayer(SubLayer{Key: key, Name: "n", Provider: none}) }, "PROVIDER_NOT_FOUND"},
		{"provider", func(s *Store) error { return s.AddProvider(Provider{Key: key, Name: "n"}) }, ""},
		{"callout of no layer", func(s *Store) error { return s.AddCallout(Callout{Key: key, Name: "n", Layer: 60000}) }, "LAYER_NOT_FOUND"},
		{"context of an unknown provider", func(s *Store) error {
			return s.AddProviderContext(ProviderContext{Key: key, Name: "n", Provider: none})
		}, "PROVIDER_NOT_FOUND"},
		{"delete an unknown filter", func(s *Store) error { return s.DeleteFilter(1) }, "FILTER_NOT_FOUND"},
	} {
		err := c.add(NewStore())
		if c.want == "" {
			must(t, err)
		} else if !errors.Is(err, ErrorByName(c.want)) {
			t.Errorf("%s: got %v, want %s", c.name, err, c.want)
		}
	}
}

func TestOrderTiesAndCache(t *testing.T) {
	s := NewStore()
	high := DeriveKey("sublayer", "high")
	must(t, s.AddSubLayer(SubLayer{Key: high, Name: "high", Weight: 0xffff}))
	add := func(id ID, sub GUID, w uint64) {
		t.Helper()
		must(t, s.AddFilter(&Filter{ID: id, Name: "f", Layer: connectV4.ID, SubLayer: sub, Action: ActionPermit, Weight: U64(w)}))
	}
	check := func(what string, want ...ID) {
		t.Helper()
		if got := ids(s.Layer(connectV4.ID)); !slices.Equal(got, want) {
			t.Errorf("%s: order %v, want %v", what, got, want)
		}
	}
	add(5, GUID{}, 100)
	add(4, GUID{}, 100)
	add(3, high, 1)
	add(2, high, 2)
	check("sublayer, weight, id", 2, 3, 4, 5)
	add(1, high, 2)
	check("after adding", 1, 2, 3, 4, 5)
	var ties [][]ID
	for _, group := range s.Ties(connectV4.ID) {
		ties = append(ties, ids(group))
	}
	if len(ties) != 2 || !slices.Equal(ties[0], []ID{1, 2}) || !slices.Equal(ties[1], []ID{4, 5}) {
		t.Errorf("ties %v", ties)
	}

	c := s.Clone()
	must(t, s.DeleteFilter(2))
	check("after deleting", 1, 3, 4, 5)
	if got := ids(c.Layer(connectV4.ID)); !slices.Equal(got, []ID{1, 2, 3, 4, 5}) {
		t.Errorf("the clone changed too: %v", got)
	}
	if got := ids(s.Filters()); !slices.Equal(got, []ID{5, 4, 3, 1}) {
		t.Errorf("insertion order %v", got)
	}
	must(t, s.DeleteFilter(5))
	f := &Filter{Name: "f", Layer: connectV4.ID, Action: ActionPermit}
	must(t, s.AddFilter(f))
	if f.ID != 6 {
		t.Errorf("id %d was used before", f.ID)
	}
}

func TestKeepWeight(t *testing.T) {
	s := NewStore()
	f := &Filter{Name: "f", Layer: connectV4.ID, Action: ActionPermit, Weight: U8(9), EffectiveWeight: 42, KeepWeight: true}
	must(t, s.AddFilter(f))
	if f.EffectiveWeight != 42 {
		t.Errorf("weight of a dump was recomputed as %#x", f.EffectiveWeight)
	}
}

func TestBuiltins(t *testing.T) {
	for _, name := range []string{"FWPM_SUBLAYER_TEREDO", "teredo", "FWPM_SUBLAYER_EDGE_TRAVERSAL", "{BA69DC66-5176-4979-9C89-26A7B46A8327}"} {
		if l, ok := BuiltinSubLayer(name); !ok || l.Name != "FWPM_SUBLAYER_TEREDO" || l.Weight != 1 {
			t.Errorf("BuiltinSubLayer(%q) = %+v, %v", name, l, ok)
		}
	}
	if l, _ := BuiltinSubLayer("UNIVERSAL"); l.Key != SubLayerUniversal || l.Weight != 32768 {
		t.Errorf("UNIVERSAL is %+v", l)
	}
	if l, _ := BuiltinSubLayer("INSPECTION"); l.Key != SubLayerInspection {
		t.Errorf("INSPECTION is %+v", l)
	}
	if _, ok := BuiltinSubLayer("none"); ok {
		t.Error("found a sublayer that does not exist")
	}
	if c, ok := BuiltinCallout("FWPM_CALLOUT_EDGE_TRAVERSAL_ALE_LISTEN_V6"); !ok || c.Name != "FWPM_CALLOUT_TEREDO_ALE_LISTEN_V6" {
		t.Errorf("alias of a callout: %+v", c)
	}
	if p, ok := BuiltinProvider("MPSSVC_WF"); !ok || p.ServiceName != "mpssvc" {
		t.Errorf("MPSSVC_WF is %+v", p)
	}
	for i, r := range builtinCallouts {
		if r.layer != noLayer && layermap.ByName(r.layer) == nil {
			t.Errorf("row %d, %s: unknown layer %s", i, r.name, r.layer)
		}
	}
	for i, l := range NewStore().SubLayers() {
		if want := BuiltinSubLayers()[i]; *l != want {
			t.Errorf("sublayer %d of a new store is %s, want %s", i, l.Name, want.Name)
		}
	}
	if a, b := DeriveKey("filter", "x"), DeriveKey("sublayer", "x"); a == b || a != DeriveKey("filter", "x") || a.Version() != 5 {
		t.Errorf("derived keys %s, %s", a, b)
	}
}
