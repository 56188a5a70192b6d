// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"

	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
	"github.com/wfpebpf/wfpebpf/policy"
)

// endpoint is one rule that every firewall can say: a remote address may use a
// port here, or may not. What no rule permits is blocked. No two rules meet the
// same packet, so that sets may ask in any order: the best case for them.
type endpoint struct {
	remote netip.Addr
	port   uint16
	block  bool
}

// servicePorts are those of the rules.
var servicePorts = []uint16{5001, 5002, 5003, 5004, 5005, 5006, 5007, 5008}

// endpoints makes n rules, of which each eighth blocks.
func endpoints(n int) []endpoint {
	r := rand.New(rand.NewPCG(4, uint64(n)))
	first := remotes.Addr().As4()
	list := make([]endpoint, n)
	for i, offset := range r.Perm(1 << (32 - remotes.Bits()))[:n] {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(first[:])+uint32(offset))
		list[i] = endpoint{netip.AddrFrom4(b), servicePorts[r.IntN(len(servicePorts))], i%8 == 3}
	}
	return list
}

// flowCount is the number of flows that traffic consists of, where they are
// known: many of each rule or one of each, as there are rules.
const flowCount = 1024

// flowsOf makes traffic that meets rules of a kind from all over the list.
func flowsOf(list []endpoint, wanted func(endpoint) bool) []flow {
	list = slices.DeleteFunc(slices.Clone(list), func(e endpoint) bool { return !wanted(e) })
	r := rand.New(rand.NewPCG(5, uint64(len(list))))
	r.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	flows := make([]flow, flowCount)
	for i := range flows {
		e := list[i%len(list)]
		flows[i] = flow{Remote: e.remote, Port: e.port, Source: 1024 + uint16(i)}
	}
	return flows
}

func permitted(e endpoint) bool { return !e.block }
func blocked(e endpoint) bool   { return e.block }

// where says at which layers rules are put, and what they can test there.
type where struct {
	layers   []layermap.LayerID
	protocol uint8 // 0: neither protocol nor port is tested
}

// name is that of the layers, without the family.
func (w where) name() string {
	var names []string
	for _, id := range w.layers {
		names = append(names, strings.TrimSuffix(layermap.ByID(id).Name, "_V4"))
	}
	return strings.Join(names, " and ")
}

// endpointPolicy makes a filter of each rule at each layer, in the order of the
// list, and one that blocks the rest.
func endpointPolicy(at where, list []endpoint) (*policy.Policy, error) {
	s := filter.NewStore()
	for _, id := range at.layers {
		l := layermap.ByID(id)
		portField := "IP_LOCAL_PORT"
		if l.ID == layermap.ALEAuthConnectV4 {
			portField = "IP_REMOTE_PORT"
		}
		for i, e := range list {
			f := &filter.Filter{
				Name: fmt.Sprint("endpoint ", i), Layer: id, Action: filter.ActionPermit,
				Weight:     filter.U64(uint64(len(list) - i)),
				Conditions: []filter.Condition{{Field: "IP_REMOTE_ADDRESS", Match: filter.MatchEqual, Value: filter.Addr4(e.remote)}},
			}
			if e.block {
				f.Action = filter.ActionBlock
			}
			if at.protocol != 0 {
				f.Conditions = append(f.Conditions,
					filter.Condition{Field: "IP_PROTOCOL", Match: filter.MatchEqual, Value: filter.U8(at.protocol)},
					filter.Condition{Field: portField, Match: filter.MatchEqual, Value: filter.U16(e.port)})
			}
			if err := s.AddFilter(f); err != nil {
				return nil, err
			}
		}
		rest := &filter.Filter{Name: "the rest", Layer: id, Action: filter.ActionBlock, Weight: filter.U64(0)}
		if err := s.AddFilter(rest); err != nil {
			return nil, err
		}
	}
	return &policy.Policy{Store: s}, nil
}
