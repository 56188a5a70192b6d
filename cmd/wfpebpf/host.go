// SPDX-License-Identifier: Apache-2.0

// This file finds the link that traffic goes over, which explain and the check
// of the caller's SSH connection need to know.

package main

import (
	"net/netip"
	"slices"

	"github.com/wfpebpf/wfpebpf/explain"
	"github.com/wfpebpf/wfpebpf/loader"
)

// netnsDir is where names of network namespaces are kept.
const netnsDir = "/run/netns"

// loopbackName is the loopback link of every namespace.
const loopbackName = "lo"

// asLink is what explain needs to know of a link.
func asLink(l loader.HostLink) explain.Link {
	return explain.Link{Name: l.Name, Index: l.Index, Type: l.Type, MAC: l.MAC, NIC: l.NIC, Network: l.Network}
}

// named completes what is known of a link by its name. A name that is not here
// stays a name.
func named(name string, links []loader.HostLink) explain.Link {
	for _, l := range links {
		if l.Name == name {
			return asLink(l)
		}
	}
	return explain.Link{Name: name}
}

// owning returns the link that traffic between two addresses goes over, as the
// addresses of the host tell: that of the local address, or loopback where both
// are the host's. Without a name where the local address is not here.
func owning(local, remote netip.Addr, links []loader.HostLink) explain.Link {
	var owner explain.Link
	toSelf := false
	for _, l := range links {
		if slices.Contains(l.Addresses, local.Unmap()) {
			owner = asLink(l)
		}
		toSelf = toSelf || slices.Contains(l.Addresses, remote.Unmap())
	}
	if owner.Name != "" && toSelf {
		return named(loopbackName, links)
	}
	return owner
}

// hasAddress reports whether an address is one of the host's.
func hasAddress(links []loader.HostLink, a netip.Addr) bool {
	return slices.ContainsFunc(links, func(l loader.HostLink) bool { return slices.Contains(l.Addresses, a.Unmap()) })
}
