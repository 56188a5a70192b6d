// SPDX-License-Identifier: Apache-2.0

// This file says where the value of a field comes from on Linux, as far as a
// reader must know: what is one value here, what is always empty, and what
// cannot be known.

package policy

import (
	"strings"

	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
)

type sourceKind uint8

const (
	sourceFilled   sourceKind = iota // a value that differs from traffic to traffic
	sourceConstant                   // one value here
	sourceNever                      // always empty
	sourceRefused                    // cannot be known
)

type fieldSource struct {
	kind   sourceKind
	value  filter.Value // of a constant
	reason string
}

// sourceOf is what the binder asks.
var sourceOf = classifyCondition

func classifyCondition(l *layermap.Layer, key string) fieldSource {
	if s, ok := fieldSources[key]; ok {
		return s
	}
	if strings.HasPrefix(key, "RESERVED") {
		return fieldSource{kind: sourceNever, reason: "it is reserved"}
	}
	return fieldSource{}
}

var fieldSources = map[string]fieldSource{
	"TUNNEL_TYPE":                       {kind: sourceConstant, value: filter.U32(0)},
	"ARRIVAL_TUNNEL_TYPE":               {kind: sourceConstant, value: filter.U32(0)},
	"NEXTHOP_TUNNEL_TYPE":               {kind: sourceConstant, value: filter.U32(0)},
	"ALE_SIO_FIREWALL_SYSTEM_PORT":      {kind: sourceConstant, value: filter.U32(0)},
	"COMPARTMENT_ID":                    {kind: sourceConstant, value: filter.U32(1)},
	"ALE_NAP_CONTEXT":                   {kind: sourceNever, reason: "needs network access protection"},
	"ALE_REMOTE_USER_ID":                {kind: sourceNever, reason: "needs IPsec"},
	"ALE_REMOTE_MACHINE_ID":             {kind: sourceNever, reason: "needs IPsec"},
	"ALE_SECURITY_ATTRIBUTE_FQBN_VALUE": {kind: sourceNever, reason: "needs AppLocker"},
	"ALE_PACKAGE_FAMILY_NAME":           {kind: sourceRefused, reason: "package claims of tokens have no counterpart"},
}
