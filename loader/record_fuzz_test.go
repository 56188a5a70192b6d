// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
	"github.com/wfpebpf/wfpebpf/policy"
)

// seedRecord is the record of a small policy.
func seedRecord(f *testing.F) []byte {
	s := filter.NewStore()
	var set filter.SetBuilder
	if err := set.Add(netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.9")); err != nil {
		f.Fatal(err)
	}
	for _, v := range []struct {
		key string
		v   filter.Value
	}{
		{"IP_REMOTE_PORT", filter.U16(445)},
		{"IP_REMOTE_ADDRESS", filter.SetValue(set.Set("list", "list.txt"))},
		{"ALE_APP_ID", filter.Blob([]byte("/bin/sh"))},
		{"ALE_USER_ID", filter.SDValue(&filter.SecurityDescriptor{Entries: []filter.ACE{{Allow: true, Mask: 1, SID: filter.UnixUser(1000)}}})},
	} {
		if err := s.AddFilter(&filter.Filter{
			Name: v.key, Layer: layermap.ALEAuthConnectV4, Action: filter.ActionBlock,
			Conditions: []filter.Condition{{Field: v.key, Value: v.v}},
		}); err != nil {
			f.Fatal(err)
		}
	}
	p := &policy.Policy{Store: s, Services: map[filter.SID]string{filter.ServiceSID("DoSvc"): "a.service"}}
	t, err := compile(p, portRange{32768, 60999})
	if err != nil {
		f.Fatal(err)
	}
	data, err := json.Marshal(newRecord(p, t))
	if err != nil {
		f.Fatal(err)
	}
	return data
}

// A record that is read back makes a policy that can be judged, and says the
// same when it is written again.
func FuzzRecord(f *testing.F) {
	f.Add(seedRecord(f))
	in := instance{run: f.TempDir()}
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(in.recordPath(1), data, 0o600); err != nil {
			t.Fatal(err)
		}
		readAndUse(t, &in, 1)
	})
}

// So does one that amends another one.
func FuzzChange(f *testing.F) {
	in := instance{run: f.TempDir()}
	if err := os.WriteFile(in.recordPath(1), seedRecord(f), 0o600); err != nil {
		f.Fatal(err)
	}
	data, err := json.Marshal(&change{
		Base: 1, Generation: 2, Removed: []filter.ID{2}, Order: []filter.ID{9}, Place: place{1, 3},
		Added: []*filter.Filter{{ID: 9, Name: "added", Layer: layermap.ALEAuthConnectV4, Action: filter.ActionBlock}},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(in.changePath(2), data, 0o600); err != nil {
			t.Fatal(err)
		}
		readAndUse(t, &in, 2)
	})
}

func readAndUse(t *testing.T, in *instance, generation uint64) {
	r, err := in.readRecord(generation)
	if err != nil {
		return
	}
	for _, s := range sets(r.Filters) {
		_ = s.String()
	}
	if err := in.loadSets(r); err == nil && slices.ContainsFunc(sets(r.Filters), func(s *filter.AddressSet) bool { return !s.Loaded() }) {
		t.Fatal("sets without addresses are taken for loaded")
	}
	store := r.store()
	r.linkPolicy()
	r.subLayerNames()
	for _, l := range liveLayers() {
		filter.Arbitrate(store, l, make(filter.Values, len(layermap.ByID(l).Fields)), nil)
	}
	r.Generation = generation
	if err := in.writeRecord(r); err != nil {
		t.Fatalf("cannot be written again: %v", err)
	}
	if _, err := in.readRecord(generation); err != nil {
		t.Fatalf("cannot be read again: %v", err)
	}
}

// instance.json names what is filtered; only one of this boot is an instance.
func FuzzInstance(f *testing.F) {
	for _, boot := range []string{bootID(), "another"} {
		data, err := json.Marshal(instanceInfo{Netns: "/run/netns/a", NetnsInode: 1, NetnsCookie: 2, Cgroup: "/", CgroupID: 1, Interfaces: []string{"eth0"}, BootID: boot})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	in := instance{run: f.TempDir()}
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(filepath.Join(in.run, "instance.json"), data, 0o600); err != nil {
			t.Fatal(err)
		}
		in.info = instanceInfo{}
		if err := in.load(); err == nil && in.info.BootID != bootID() {
			t.Errorf("boot %q is taken for this one", in.info.BootID)
		}
	})
}
