// SPDX-License-Identifier: Apache-2.0

package policy

import "github.com/wfpebpf/wfpebpf/filter"

// classHost is what the host at hand cannot do, found out after loading.
const classHost class = "this host cannot enforce it"

// Refuse takes a filter out of the policy because the host at hand cannot
// enforce it: a kernel that lacks a hook, say. The report shows the reason. A
// filter that is not in the Store is left as it is.
func (p *Policy) Refuse(id filter.ID, reason string) {
	for i := range p.Entries {
		e := &p.Entries[i]
		if e.Filter.ID != id || e.State == StateRefused {
			continue
		}
		if p.Store.DeleteFilter(id) == nil {
			e.State, e.Reason, e.class = StateRefused, reason, classHost
		}
	}
}
