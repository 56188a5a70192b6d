// SPDX-License-Identifier: Apache-2.0

package filter_test

import (
	"encoding/json"
	"math"
	"reflect"
	"testing"

	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
	"github.com/wfpebpf/wfpebpf/tests/random"
)

// What AppendJSON writes is what encoding/json reads and writes.
func TestAppendJSON(t *testing.T) {
	var filters []*filter.Filter
	for seed := range uint64(20) {
		p := random.New(seed).Policy(random.Size{SubLayers: 4, Filters: 60},
			layermap.ALEAuthConnectV4, layermap.ALEAuthConnectV6, layermap.ALEAuthRecvAcceptV4)
		filters = append(filters, p.Store.Filters()...)
	}
	filters = append(filters, &filter.Filter{}, &filter.Filter{
		ID: math.MaxUint64, Name: "a \"name\" \\ with\nä and </script>", Description: "\x00\xff",
		Weight: filter.U64(0), RawContext: 7, Origin: "somewhere",
		Conditions: []filter.Condition{{}, {Field: "ALE_USER_ID", Value: filter.Value{Bytes: []byte{}, Token: &filter.Token{}}}},
	})
	for _, f := range filters {
		var got, want filter.Filter
		b := f.AppendJSON(nil)
		if err := json.Unmarshal(b, &got); err != nil {
			t.Fatalf("%s: %v", b, err)
		}
		std, err := json.Marshal(f)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(std, &want); err != nil {
			t.Fatal(err)
		}
		for i := range want.Conditions { // an empty blob may come back as none
			if v := &want.Conditions[i].Value; len(v.Bytes) == 0 {
				v.Bytes = nil
			}
		}
		if len(want.Conditions) == 0 {
			want.Conditions = nil
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s\ngot  %+v\nwant %+v", b, got, want)
		}
	}
}
