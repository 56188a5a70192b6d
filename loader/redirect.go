// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/wfpebpf/wfpebpf/bpf"
	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
)

const (
	// MaxRedirects is how many filters of a policy may redirect.
	MaxRedirects = bpf.Redirects
	// MaxRedirectSubLayers is how many sublayers may have filters at a layer some of
	// whose redirect: those that one search judges, for each of them may.
	MaxRedirectSubLayers = bpf.Span
)

// redirectTargets is where the filters of a store lead that redirect. It is ErrLimit where
// the programs cannot tell which does, or keep where to.
func redirectTargets(s *filter.Store) (map[filter.ID]bpf.End, error) {
	targets := map[filter.ID]bpf.End{}
	for _, l := range layermap.Layers() {
		if _, ok := filter.RedirectCallout(l.ID); !ok {
			continue
		}
		filters, redirecting := s.Layer(l.ID), false
		for _, f := range filters {
			if !f.Redirects() {
				continue
			}
			redirecting = true
			to, ok := s.RedirectTarget(f)
			if !ok {
				return nil, fmt.Errorf("filter %d %q, %v: its provider context names no address and port to redirect to", f.ID, f.Name, l.ID)
			}
			if err := filter.CheckRedirect(l.ID, to); err != nil {
				return nil, fmt.Errorf("filter %d %q, %v: %w", f.ID, f.Name, l.ID, err)
			}
			targets[f.ID] = redirectEnd(to)
		}
		if n := subLayersOf(filters); redirecting && n > MaxRedirectSubLayers {
			return nil, fmt.Errorf("%w: %d sublayers with filters at %v, where some redirect, at most %d; bring filters together in fewer sublayers", ErrLimit, n, l.ID, MaxRedirectSubLayers)
		}
	}
	if len(targets) > MaxRedirects {
		return nil, fmt.Errorf("%w: %d filters redirect, at most %d; put conditions that lead to one place in one filter", ErrLimit, len(targets), MaxRedirects)
	}
	return targets, nil
}

// subLayersOf counts the sublayers of filters in evaluation order.
func subLayersOf(filters []*filter.Filter) int {
	n := 0
	for i, f := range filters {
		if i == 0 || subLayerKey(f) != subLayerKey(filters[i-1]) {
			n++
		}
	}
	return n
}

// redirectEnd writes an end as the programs have it.
func redirectEnd(to netip.AddrPort) bpf.End {
	b := to.Addr().As16()
	return bpf.End{
		Address: [2]uint64{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}, Port: uint32(to.Port()),
	}
}

// redirectContexts are the provider contexts of a store's filters that redirect, each
// once, in the order of the filters.
func redirectContexts(s *filter.Store) []filter.ProviderContext {
	var list []filter.ProviderContext
	seen := map[filter.GUID]bool{}
	for _, l := range layermap.Layers() {
		if _, ok := filter.RedirectCallout(l.ID); !ok {
			continue
		}
		for _, f := range s.Layer(l.ID) {
			if c := s.ProviderContext(f.ProviderContext); f.Redirects() && c != nil && !seen[c.Key] {
				seen[c.Key] = true
				list = append(list, *c)
			}
		}
	}
	return list
}

func sameContexts(a, b []filter.ProviderContext) bool {
	return slices.EqualFunc(a, b, func(x, y filter.ProviderContext) bool {
		return x.Key == y.Key && bytes.Equal(x.Data, y.Data)
	})
}

// putTargets makes an edition's filters lead where those of a policy do. No program may
// go by the edition.
func (e *Engine) putTargets(at place, targets map[filter.ID]bpf.End) error {
	m := e.maps[bpf.WFPMapTargets]
	var (
		key   bpf.TargetKey
		end   bpf.End
		stale []bpf.TargetKey
	)
	it := m.Iterate()
	for it.Next(&key, &end) {
		if want, ok := targets[filter.ID(key.FilterId)]; key.Edition == at.Edition && (!ok || want != end) {
			stale = append(stale, key)
		}
	}
	if err := it.Err(); err != nil {
		return fmt.Errorf("reading table %s: %w", bpf.WFPMapTargets, err)
	}
	for _, k := range stale {
		if err := m.Delete(k); err != nil {
			return fmt.Errorf("filling table %s: %w", bpf.WFPMapTargets, err)
		}
	}
	for id, to := range targets {
		if err := m.Put(bpf.TargetKey{FilterId: uint64(id), Edition: at.Edition}, to); err != nil {
			return fmt.Errorf("filling table %s: %w", bpf.WFPMapTargets, err)
		}
	}
	return nil
}
