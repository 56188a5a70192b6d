// SPDX-License-Identifier: Apache-2.0

// This file lists the objects that WFP creates itself: sublayers with their
// weights, providers and callouts. A filter that names a built-in callout can
// be stored and explained; whether anything implements the callout is another
// matter (see Provided).

package filter

import (
	"strings"

	"github.com/google/uuid"

	"github.com/wfpebpf/wfpebpf/layermap"
)

type builtinSubLayer struct {
	name, guid, provider string // without FWPM_SUBLAYER_, FWPM_PROVIDER_
	weight               uint16
	display              string
}

// Weights as two machines showed them (Windows 11 of 2024 and of 2026); they
// agreed on every one.
var builtinSubLayers = []builtinSubLayer{
	{"RPC_AUDIT", "758c84f4-fb48-4de9-9aeb-3ed9551ab1fd", "", 49152, "RPC Built-in Audit Sublayer"},
	{"IPSEC_TUNNEL", "83f299ed-9ff4-4967-aff4-c309f4dab827", "", 40960, "WFP Built-in IPsec Tunnel Sublayer"},
	{"IPSEC_FORWARD_OUTBOUND_TUNNEL", "a5082e73-8f71-4559-8a9a-101cea04ef87", "", 36864, "WFP Built-in IPsec Forward Outbound Tunnel Sublayer"},
	{"IPSEC_DOSP", "e076d572-5d3d-48ef-802b-909eddb098bd", "", 34816, "WFP Built-in IPsec DoS Protection Sublayer"},
	{"UNIVERSAL", "eebecc03-ced4-4380-819a-2734397b2b74", "", 32768, "WFP Built-in Universal Sublayer"},
	{"LIPS", "1b75c0ce-ff60-4711-a70f-b4958cc3b2d0", "", 32767, "WFP Built-in Legacy IPsec Sublayer"},
	{"SECURE_SOCKET", "15a66e17-3f3c-4f7b-aa6c-812aa613dd82", "", 16384, "WFP Built-in Secure Socket Sublayer"},
	{"IPSEC_SECURITY_REALM", "37a57701-5884-4964-92b8-3e704688b0ad", "", 12288, "WFP Built-in IPsec Security Realm Sublayer"},
	{"TCP_TEMPLATES", "24421dcf-0ac5-4caa-9e14-50f6e3636af0", "", 8704, "WFP Built-in TCP Templates Sublayer"},
	{"TCP_CHIMNEY_OFFLOAD", "337608b9-b7d5-4d5f-82f9-3618618bc058", "", 8192, "WFP Built-in TCP Chimney Offload Sublayer"},
	{"MPSSVC_APP_ISOLATION", "ffe221c3-92a8-4564-a59f-dafb70756020", "MPSSVC_APP_ISOLATION", 7, "WFP Built-in MPSSVC App Isolation Sublayer"},
	{"MPSSVC_TENANT_RESTRICTIONS", "1ec6c7e1-fdd9-478a-b55f-ff8ba1d2c17d", "MPSSVC_TENANT_RESTRICTIONS", 6, "WFP Built-in MPSSVC Tenant Restrictions Sublayer"},
	{"MPSSVC_EDP", "09a47e38-fa97-471b-b123-18bcd7e65071", "MPSSVC_EDP", 5, "WFP Built-in MPSSVC Enterprise Data Protection Sublayer"},
	{"MPSSVC_QUARANTINE", "b3cdd441-af90-41ba-a745-7c6008ff2302", "MPSSVC_WSH", 4, "WFP Built-in MPSSVC Quarantine Sublayer"},
	{"MPSSVC_WSH", "b3cdd441-af90-41ba-a745-7c6008ff2300", "MPSSVC_WSH", 3, "WFP Built-in MPSSVC Windows Service Hardening Sublayer"},
	{"MPSSVC_WF", "b3cdd441-af90-41ba-a745-7c6008ff2301", "MPSSVC_WF", 2, "WFP Built-in MPSSVC Windows Firewall Sublayer"},
	{"TEREDO", "ba69dc66-5176-4979-9c89-26a7b46a8327", "", 1, "WFP Built-in Edge Traversal Sublayer"},
	{"INSPECTION", "877519e1-e6a9-41a5-81b4-8c4f118e4a60", "", 0, "WFP Built-in Inspection Sublayer"},
}

// subLayerAliases are further names of the same keys.
var subLayerAliases = map[string]string{"EDGE_TRAVERSAL": "TEREDO"}

type builtinProvider struct{ name, guid, service string } // name without FWPM_PROVIDER_

// The document prints another GUID for IPSEC_DOSP_CONFIG; this is the header's.
var builtinProviders = []builtinProvider{
	{"IKEEXT", "10ad9216-ccde-456c-8b16-e9f04e60a90b", "IKEEXT"},
	{"IPSEC_DOSP_CONFIG", "3c6c05a9-c05c-4bb9-8338-2327814ce8bf", ""},
	{"TCP_CHIMNEY_OFFLOAD", "896aa19e-9a34-4bcb-ae79-beb9127c84b9", ""},
	{"TCP_TEMPLATES", "76cfcd30-3394-432d-bed3-441ae50e63c3", ""},
	{"MPSSVC_WSH", "4b153735-1049-4480-aab4-d1b9bdc03710", "mpssvc"},
	{"MPSSVC_WF", "decc16ca-3f33-4346-be1e-8fb4ae0f3d62", "mpssvc"},
	{"MPSSVC_EDP", "a90296f7-46b8-4457-8f84-b05e05d3c622", "mpssvc"},
	{"MPSSVC_TENANT_RESTRICTIONS", "d0718ff9-44da-4f50-9dc2-c963a4247613", "mpssvc"},
	{"MPSSVC_APP_ISOLATION", "3cc2631f-2d5d-43a0-b174-614837d863a1", "mpssvc"},
}

// noLayer marks the one built-in callout whose layer no source states.
const noLayer = "-"

type builtinCallout struct {
	name, guid, layer string // without FWPM_CALLOUT_, FWPM_LAYER_
	context           bool   // FWPM_CALLOUT_FLAG_USES_PROVIDER_CONTEXT
}

var builtinCallouts = []builtinCallout{
	{"IPSEC_INBOUND_TRANSPORT_V4", "5132900d-5e84-4b5f-80e4-01741e81ff10", "INBOUND_TRANSPORT_V4", false},
	{"IPSEC_INBOUND_TRANSPORT_V6", "49d3ac92-2a6c-4dcf-955f-1c3be009dd99", "INBOUND_TRANSPORT_V6", false},
	{"IPSEC_OUTBOUND_TRANSPORT_V4", "4b46bf0a-4523-4e57-aa38-a87987c910d9", "OUTBOUND_TRANSPORT_V4", false},
	{"IPSEC_OUTBOUND_TRANSPORT_V6", "38d87722-ad83-4f11-a91f-df0fb077225b", "OUTBOUND_TRANSPORT_V6", false},
	{"IPSEC_INBOUND_TUNNEL_V4", "191a8a46-0bf8-46cf-b045-4b45dfa6a324", "INBOUND_TRANSPORT_V4", true},
	{"IPSEC_INBOUND_TUNNEL_V6", "80c342e3-1e53-4d6f-9b44-03df5aeee154", "INBOUND_TRANSPORT_V6", true},
	{"IPSEC_OUTBOUND_TUNNEL_V4", "70a4196c-835b-4fb0-98e8-075f4d977d46", "OUTBOUND_TRANSPORT_V4", true},
	{"IPSEC_OUTBOUND_TUNNEL_V6", "f1835363-a6a5-4e62-b180-23db789d8da6", "OUTBOUND_TRANSPORT_V6", true},
	{"IPSEC_FORWARD_INBOUND_TUNNEL_V4", "28829633-c4f0-4e66-873f-844db2a899c7", "IPFORWARD_V4", true},
	{"IPSEC_FORWARD_INBOUND_TUNNEL_V6", "af50bec2-c686-429a-884d-b74443e7b0b4", "IPFORWARD_V6", true},
	{"IPSEC_FORWARD_OUTBOUND_TUNNEL_V4", "fb532136-15cb-440b-937c-1717ca320c40", "IPFORWARD_V4", true},
	{"IPSEC_FORWARD_OUTBOUND_TUNNEL_V6", "dae640cc-e021-4bee-9eb6-a48b275c8c1d", "IPFORWARD_V6", true},
	{"IPSEC_INBOUND_INITIATE_SECURE_V4", "7dff309b-ba7d-4aba-91aa-ae5c6640c944", "ALE_AUTH_RECV_ACCEPT_V4", true},
	{"IPSEC_INBOUND_INITIATE_SECURE_V6", "a9a0d6d9-c58c-474e-8aeb-3cfe99d6d53d", "ALE_AUTH_RECV_ACCEPT_V6", true},
	{"IPSEC_ALE_CONNECT_V4", "6ac141fc-f75d-4203-b9c8-48e6149c2712", "ALE_AUTH_CONNECT_V4", true},
	{"IPSEC_ALE_CONNECT_V6", "4c0dda05-e31f-4666-90b0-b3dfad34129a", "ALE_AUTH_CONNECT_V6", true},
	{"WFP_TRANSPORT_LAYER_V4_SILENT_DROP", "eda08606-2494-4d78-89bc-67837c03b969", "INBOUND_TRANSPORT_V4_DISCARD", false},
	{"WFP_TRANSPORT_LAYER_V6_SILENT_DROP", "8693cc74-a075-4156-b476-9286eece814e", "INBOUND_TRANSPORT_V6_DISCARD", false},
	{"TCP_CHIMNEY_CONNECT_LAYER_V4", "f3e10ab3-2c25-4279-ac36-c30fc181bec4", "ALE_AUTH_CONNECT_V4", false},
	{"TCP_CHIMNEY_CONNECT_LAYER_V6", "39e22085-a341-42fc-a279-aec94e689c56", "ALE_AUTH_CONNECT_V6", false},
	{"TCP_CHIMNEY_ACCEPT_LAYER_V4", "e183ecb2-3a7f-4b54-8ad9-76050ed880ca", "ALE_AUTH_RECV_ACCEPT_V4", false},
	{"TCP_CHIMNEY_ACCEPT_LAYER_V6", "0378cf41-bf98-4603-81f2-7f12586079f6", "ALE_AUTH_RECV_ACCEPT_V6", false},
	{"SET_OPTIONS_AUTH_CONNECT_LAYER_V4", "bc582280-1677-41e9-94ab-c2fcb15c2eeb", "ALE_AUTH_CONNECT_V4", true},
	{"SET_OPTIONS_AUTH_CONNECT_LAYER_V6", "98e5373c-b884-490f-b65f-2f6a4a575195", "ALE_AUTH_CONNECT_V6", true},
	{"IPSEC_INBOUND_TUNNEL_ALE_ACCEPT_V4", "3df6e7de-fd20-48f2-9f26-f854444cba79", "ALE_AUTH_RECV_ACCEPT_V4", false},
	{"IPSEC_INBOUND_TUNNEL_ALE_ACCEPT_V6", "a1e392d3-72ac-47bb-87a7-0122c69434ab", "ALE_AUTH_RECV_ACCEPT_V6", false},
	{"EDGE_TRAVERSAL_ALE_RESOURCE_ASSIGNMENT_V4", "079b1010-f1c5-4fcd-ae05-da41107abd0b", "ALE_RESOURCE_ASSIGNMENT_V4", false},
	{"TEREDO_ALE_RESOURCE_ASSIGNMENT_V6", "31b95392-066e-42a2-b7db-92f8acdd56f9", "ALE_RESOURCE_ASSIGNMENT_V6", false},
	{"EDGE_TRAVERSAL_ALE_LISTEN_V4", "33486ab5-6d5e-4e65-a00b-a7afed0ba9a1", "ALE_AUTH_LISTEN_V4", false},
	{"TEREDO_ALE_LISTEN_V6", "81a434e7-f60c-4378-bab8-c625a30f0197", "ALE_AUTH_LISTEN_V6", false},
	{"TCP_TEMPLATES_CONNECT_LAYER_V4", "215a0b39-4b7e-4eda-8ce4-179679df6224", "ALE_AUTH_CONNECT_V4", false},
	{"TCP_TEMPLATES_CONNECT_LAYER_V6", "838b37a1-5c12-4d34-8b38-078728b2d25c", "ALE_AUTH_CONNECT_V6", false},
	{"TCP_TEMPLATES_ACCEPT_LAYER_V4", "2f23f5d0-40c4-4c41-a254-46d8dba8957c", "ALE_AUTH_RECV_ACCEPT_V4", false},
	{"TCP_TEMPLATES_ACCEPT_LAYER_V6", "b25152f0-991c-4f53-bbe7-d24b45fe632c", "ALE_AUTH_RECV_ACCEPT_V6", false},
	{"RESERVED_AUTH_CONNECT_LAYER_V4", "288b524d-0566-4e19-b612-8f441a2e5949", "ALE_AUTH_CONNECT_V4", false},
	{"RESERVED_AUTH_CONNECT_LAYER_V6", "00b84b92-2b5e-4b71-ab0e-aaca43e387e6", "ALE_AUTH_CONNECT_V6", false},
	{"SET_OPTIONS_AUTH_RECV_ACCEPT_LAYER_V4", "2d55f008-0c01-4f92-b26e-a08a94569b8d", "ALE_AUTH_RECV_ACCEPT_V4", true},
	{"SET_OPTIONS_AUTH_RECV_ACCEPT_LAYER_V6", "63018537-f281-4dc4-83d3-8dec18b7ade2", "ALE_AUTH_RECV_ACCEPT_V6", true},
	{"POLICY_SILENT_MODE_AUTH_CONNECT_LAYER_V4", "5fbfc31d-a51c-44dc-acb6-0624a030a700", "ALE_AUTH_CONNECT_V4", false},
	{"POLICY_SILENT_MODE_AUTH_CONNECT_LAYER_V6", "5fbfc31d-a51c-44dc-acb6-0624a030a701", "ALE_AUTH_CONNECT_V6", false},
	{"POLICY_SILENT_MODE_AUTH_RECV_ACCEPT_LAYER_V4", "5fbfc31d-a51c-44dc-acb6-0624a030a702", "ALE_AUTH_RECV_ACCEPT_V4", false},
	{"POLICY_SILENT_MODE_AUTH_RECV_ACCEPT_LAYER_V6", "5fbfc31d-a51c-44dc-acb6-0624a030a703", "ALE_AUTH_RECV_ACCEPT_V6", false},
	{"BUILT_IN_RESERVED_1", "779719a4-e695-47b6-a199-7999fec9163b", "RESERVED_LAYER_9", true},
	{"BUILT_IN_RESERVED_2", "ef9661b6-7c5e-48fd-a130-96678ceacc41", "RESERVED_LAYER_10", true},
	{"BUILT_IN_RESERVED_3", "18729c7a-2f62-4be0-966f-974b21b86df1", "ALE_AUTH_CONNECT_V4", false},
	{"BUILT_IN_RESERVED_4", "6c3fb801-daff-40e9-91e6-f7ff7e52f7d9", "ALE_AUTH_CONNECT_V6", false},
	{"OUTBOUND_NETWORK_CONNECTION_POLICY_LAYER_V4", "103090d4-8e28-4fd6-9894-d1d67d6b10c9", "OUTBOUND_NETWORK_CONNECTION_POLICY_V4", true},
	{"OUTBOUND_NETWORK_CONNECTION_POLICY_LAYER_V6", "4ed3446d-8dc7-459b-b09f-c1cb7a8f8689", "OUTBOUND_NETWORK_CONNECTION_POLICY_V6", true},
	{"IPSEC_DOSP_FORWARD_V6", "6d08a342-db9e-4fbe-9ed2-57374ce89f79", "IPFORWARD_V6", false},
	{"IPSEC_DOSP_FORWARD_V4", "2fcb56ec-cd37-4b4f-b108-62c2b1850a0c", "IPFORWARD_V4", false},
	{"HTTP_TEMPLATE_SSL_HANDSHAKE", "b3423249-8d09-4858-9210-95c7fda8e30f", noLayer, false},
}

// calloutAliases are further names of the same keys.
var calloutAliases = map[string]string{
	"EDGE_TRAVERSAL_ALE_RESOURCE_ASSIGNMENT_V6": "TEREDO_ALE_RESOURCE_ASSIGNMENT_V6",
	"EDGE_TRAVERSAL_ALE_LISTEN_V6":              "TEREDO_ALE_LISTEN_V6",
}

// SubLayerUniversal is the sublayer of a filter that names none.
var SubLayerUniversal = uuid.MustParse("eebecc03-ced4-4380-819a-2734397b2b74")

// SubLayerInspection admits only inspection callouts.
var SubLayerInspection = uuid.MustParse("877519e1-e6a9-41a5-81b4-8c4f118e4a60")

// The tables above as objects, and the names that lead to them.
var (
	ownSubLayers []SubLayer
	ownProviders []Provider
	ownCallouts  []Callout

	subLayerByName = map[string]int{}
	providerByName = map[string]int{}
	calloutByName  = map[string]int{}
)

func init() {
	for i, r := range builtinProviders {
		providerByName[r.name], providerByName[r.guid] = i, i
		ownProviders = append(ownProviders, Provider{
			Key: uuid.MustParse(r.guid), Name: "FWPM_PROVIDER_" + r.name, ServiceName: r.service, Persistent: true,
		})
	}
	for i, r := range builtinSubLayers {
		subLayerByName[r.name], subLayerByName[r.guid] = i, i
		s := SubLayer{
			Key: uuid.MustParse(r.guid), Name: "FWPM_SUBLAYER_" + r.name, Description: r.display, Weight: r.weight,
		}
		if r.provider != "" {
			s.Provider = ownProviders[providerByName[r.provider]].Key
		}
		ownSubLayers = append(ownSubLayers, s)
	}
	for _, r := range builtinCallouts {
		l := layermap.ByName(r.layer)
		if l == nil {
			continue // no layer, so no filter can name it
		}
		calloutByName[r.name], calloutByName[r.guid] = len(ownCallouts), len(ownCallouts)
		ownCallouts = append(ownCallouts, Callout{
			Key: uuid.MustParse(r.guid), Name: "FWPM_CALLOUT_" + r.name, Layer: l.ID, UsesProviderContext: r.context,
		})
	}
	for alias, name := range subLayerAliases {
		subLayerByName[alias] = subLayerByName[name]
	}
	for alias, name := range calloutAliases {
		calloutByName[alias] = calloutByName[name]
	}
}

// lookUp finds a row by name, with or without its prefix, or by GUID, with or
// without braces; letter case does not matter.
func lookUp(rows map[string]int, prefix, name string) (int, bool) {
	name = strings.TrimSpace(name)
	if g, err := uuid.Parse(name); err == nil {
		i, ok := rows[g.String()]
		return i, ok
	}
	i, ok := rows[strings.TrimPrefix(strings.ToUpper(name), prefix)]
	return i, ok
}

// BuiltinSubLayers returns WFP's own sublayers, highest weight first. The
// slice is the caller's.
func BuiltinSubLayers() []SubLayer { return append([]SubLayer(nil), ownSubLayers...) }

// BuiltinProviders returns WFP's own providers. The slice is the caller's.
func BuiltinProviders() []Provider { return append([]Provider(nil), ownProviders...) }

// BuiltinCallouts returns WFP's own callouts that belong to a layer. The slice
// is the caller's.
func BuiltinCallouts() []Callout { return append([]Callout(nil), ownCallouts...) }

// BuiltinSubLayer returns the built-in sublayer with a name (FWPM_SUBLAYER_X
// or X, aliases included) or a GUID.
func BuiltinSubLayer(name string) (SubLayer, bool) {
	if i, ok := lookUp(subLayerByName, "FWPM_SUBLAYER_", name); ok {
		return ownSubLayers[i], true
	}
	return SubLayer{}, false
}

// BuiltinProvider returns the built-in provider with a name (FWPM_PROVIDER_X
// or X) or a GUID.
func BuiltinProvider(name string) (Provider, bool) {
	if i, ok := lookUp(providerByName, "FWPM_PROVIDER_", name); ok {
		return ownProviders[i], true
	}
	return Provider{}, false
}

// BuiltinCallout returns the built-in callout with a name (FWPM_CALLOUT_X or
// X, aliases included) or a GUID.
func BuiltinCallout(name string) (Callout, bool) {
	if i, ok := lookUp(calloutByName, "FWPM_CALLOUT_", name); ok {
		return ownCallouts[i], true
	}
	return Callout{}, false
}

// keyNamespace is the name space that DeriveKey hashes in. It is part of the
// format of policies: changing it changes the keys of every object named in
// one.
var keyNamespace = uuid.NewSHA1(uuid.NameSpaceURL, []byte("https://github.com/wfpebpf/wfpebpf"))

// DeriveKey returns the key of an object that a policy names by a short name.
// Equal kinds and names give equal keys on every machine; letter case counts.
func DeriveKey(kind, shortName string) GUID {
	return uuid.NewSHA1(keyNamespace, []byte(kind+"\x00"+shortName))
}
