// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"io"

	"github.com/wfpebpf/wfpebpf/filter"
)

// Report accounts for every filter of a policy. Its JSON is part of the
// command line's contract.
type Report struct {
	Total       int            `json:"total"`
	Enforced    int            `json:"enforced"`
	Unmatchable int            `json:"unmatchable"`
	Refused     int            `json:"refused"`
	Filters     []ReportFilter `json:"filters"`

	notes []string
}

// ReportFilter is one filter in a Report.
type ReportFilter struct {
	ID       filter.ID `json:"id"`
	Name     string    `json:"name"`
	Layer    string    `json:"layer"`
	SubLayer string    `json:"subLayer"`
	Action   string    `json:"action"`
	State    State     `json:"state"`
	Reason   string    `json:"reason"`

	class string
}

// Report returns the account of every filter.
func (p *Policy) Report() Report { return Report{} }

// WriteText writes the report for a person.
func (r Report) WriteText(w io.Writer) error { return nil }
