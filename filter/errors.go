// SPDX-License-Identifier: Apache-2.0

// This file holds WFP's error codes and the error that says which object a
// code is about. What the codes mean is decided where they are returned.

package filter

import (
	"fmt"
	"strings"

	"github.com/wfpebpf/wfpebpf/layermap"
)

// Error is one of WFP's error codes, FWP_E_*. Each code is one variable of this
// package, so errors.Is finds it in whatever wraps it.
type Error struct {
	Name    string // FWP_E_*
	Code    uint32 // the HRESULT; the NTSTATUS differs in the high half, 0xC022
	Meaning string // a clause without a capital or a full stop
}

// Error returns name, code and meaning.
func (e *Error) Error() string { return fmt.Sprintf("%s (0x%08X): %s", e.Name, e.Code, e.Meaning) }

// The codes of FwpmEngine's functions (winerror.h). The package returns only
// those that can occur without IPsec, sessions and transactions; all are here
// so that a code met in a log or an importer has a name.
var (
	ErrCalloutNotFound                   = newError("FWP_E_CALLOUT_NOT_FOUND", 0x80320001, "there is no such callout")
	ErrConditionNotFound                 = newError("FWP_E_CONDITION_NOT_FOUND", 0x80320002, "the condition key is unknown at the layer")
	ErrFilterNotFound                    = newError("FWP_E_FILTER_NOT_FOUND", 0x80320003, "there is no such filter")
	ErrLayerNotFound                     = newError("FWP_E_LAYER_NOT_FOUND", 0x80320004, "there is no such layer")
	ErrProviderNotFound                  = newError("FWP_E_PROVIDER_NOT_FOUND", 0x80320005, "there is no such provider")
	ErrProviderContextNotFound           = newError("FWP_E_PROVIDER_CONTEXT_NOT_FOUND", 0x80320006, "there is no such provider context")
	ErrSubLayerNotFound                  = newError("FWP_E_SUBLAYER_NOT_FOUND", 0x80320007, "there is no such sublayer")
	ErrNotFound                          = newError("FWP_E_NOT_FOUND", 0x80320008, "the object does not exist")
	ErrAlreadyExists                     = newError("FWP_E_ALREADY_EXISTS", 0x80320009, "the key or id is taken by an object of the same type")
	ErrInUse                             = newError("FWP_E_IN_USE", 0x8032000A, "other objects still refer to the object")
	ErrDynamicSessionInProgress          = newError("FWP_E_DYNAMIC_SESSION_IN_PROGRESS", 0x8032000B, "not allowed in a dynamic session")
	ErrWrongSession                      = newError("FWP_E_WRONG_SESSION", 0x8032000C, "wrong session for this object")
	ErrNoTxnInProgress                   = newError("FWP_E_NO_TXN_IN_PROGRESS", 0x8032000D, "needs an explicit transaction")
	ErrTxnInProgress                     = newError("FWP_E_TXN_IN_PROGRESS", 0x8032000E, "not allowed inside an explicit transaction / second begin")
	ErrTxnAborted                        = newError("FWP_E_TXN_ABORTED", 0x8032000F, "transaction was forcibly cancelled")
	ErrSessionAborted                    = newError("FWP_E_SESSION_ABORTED", 0x80320010, "session cancelled; still close the handle")
	ErrIncompatibleTxn                   = newError("FWP_E_INCOMPATIBLE_TXN", 0x80320011, "write inside a read-only transaction")
	ErrTimeout                           = newError("FWP_E_TIMEOUT", 0x80320012, "transaction lock wait expired")
	ErrNetEventsDisabled                 = newError("FWP_E_NET_EVENTS_DISABLED", 0x80320013, "net event collection off")
	ErrIncompatibleLayer                 = newError("FWP_E_INCOMPATIBLE_LAYER", 0x80320014, "the layer does not support the operation")
	ErrKMClientsOnly                     = newError("FWP_E_KM_CLIENTS_ONLY", 0x80320015, "kernel callers only")
	ErrLifetimeMismatch                  = newError("FWP_E_LIFETIME_MISMATCH", 0x80320016, "longer-lived object refers to a shorter-lived one")
	ErrBuiltInObject                     = newError("FWP_E_BUILTIN_OBJECT", 0x80320017, "a built-in object cannot be deleted")
	ErrTooManyCallouts                   = newError("FWP_E_TOO_MANY_CALLOUTS", 0x80320018, "limit 100,000")
	ErrNotificationDropped               = newError("FWP_E_NOTIFICATION_DROPPED", 0x80320019, "subscriber queue full")
	ErrTrafficMismatch                   = newError("FWP_E_TRAFFIC_MISMATCH", 0x8032001A, "GetSpi called with other traffic")
	ErrIncompatibleSAState               = newError("FWP_E_INCOMPATIBLE_SA_STATE", 0x8032001B, "SA functions out of order")
	ErrNullPointer                       = newError("FWP_E_NULL_POINTER", 0x8032001C, "required pointer null")
	ErrInvalidEnumerator                 = newError("FWP_E_INVALID_ENUMERATOR", 0x8032001D, "enum value out of range")
	ErrInvalidFlags                      = newError("FWP_E_INVALID_FLAGS", 0x8032001E, "flag bits are unknown or may not be set")
	ErrInvalidNetMask                    = newError("FWP_E_INVALID_NET_MASK", 0x8032001F, "the address mask is bad")
	ErrInvalidRange                      = newError("FWP_E_INVALID_RANGE", 0x80320020, "the range is bad")
	ErrInvalidInterval                   = newError("FWP_E_INVALID_INTERVAL", 0x80320021, "bad time interval")
	ErrZeroLengthArray                   = newError("FWP_E_ZERO_LENGTH_ARRAY", 0x80320022, "an array that may not be empty is empty")
	ErrNullDisplayName                   = newError("FWP_E_NULL_DISPLAY_NAME", 0x80320023, "the display name is missing")
	ErrInvalidActionType                 = newError("FWP_E_INVALID_ACTION_TYPE", 0x80320024, "a filter may not have this action")
	ErrInvalidWeight                     = newError("FWP_E_INVALID_WEIGHT", 0x80320025, "the filter weight is bad")
	ErrMatchTypeMismatch                 = newError("FWP_E_MATCH_TYPE_MISMATCH", 0x80320026, "the match type does not go with the type of the operand")
	ErrTypeMismatch                      = newError("FWP_E_TYPE_MISMATCH", 0x80320027, "the value has the wrong type")
	ErrOutOfBounds                       = newError("FWP_E_OUT_OF_BOUNDS", 0x80320028, "integer out of range")
	ErrReserved                          = newError("FWP_E_RESERVED", 0x80320029, "reserved field non-zero")
	ErrDuplicateCondition                = newError("FWP_E_DUPLICATE_CONDITION", 0x8032002A, "a field has more than one condition")
	ErrDuplicateKeymod                   = newError("FWP_E_DUPLICATE_KEYMOD", 0x8032002B, "keying module listed twice")
	ErrActionIncompatibleWithLayer       = newError("FWP_E_ACTION_INCOMPATIBLE_WITH_LAYER", 0x8032002C, "the layer does not admit the action")
	ErrActionIncompatibleWithSubLayer    = newError("FWP_E_ACTION_INCOMPATIBLE_WITH_SUBLAYER", 0x8032002D, "the sublayer does not admit the action")
	ErrContextIncompatibleWithLayer      = newError("FWP_E_CONTEXT_INCOMPATIBLE_WITH_LAYER", 0x8032002E, "context not usable at layer")
	ErrContextIncompatibleWithCallout    = newError("FWP_E_CONTEXT_INCOMPATIBLE_WITH_CALLOUT", 0x8032002F, "context not usable with callout")
	ErrIncompatibleAuthMethod            = newError("FWP_E_INCOMPATIBLE_AUTH_METHOD", 0x80320030, "the authentication methods of the IKE policy do not go together")
	ErrIncompatibleDHGroup               = newError("FWP_E_INCOMPATIBLE_DH_GROUP", 0x80320031, "the Diffie-Hellman groups of the IKE policy do not go together")
	ErrEMNotSupported                    = newError("FWP_E_EM_NOT_SUPPORTED", 0x80320032, "IKE has no extended mode")
	ErrNeverMatch                        = newError("FWP_E_NEVER_MATCH", 0x80320033, "enum template / subscription can never match")
	ErrProviderContextMismatch           = newError("FWP_E_PROVIDER_CONTEXT_MISMATCH", 0x80320034, "the provider context is of the wrong type")
	ErrInvalidParameter                  = newError("FWP_E_INVALID_PARAMETER", 0x80320035, "a parameter is bad")
	ErrTooManySubLayers                  = newError("FWP_E_TOO_MANY_SUBLAYERS", 0x80320036, "no weight is left for another sublayer")
	ErrCalloutNotificationFailed         = newError("FWP_E_CALLOUT_NOTIFICATION_FAILED", 0x80320037, "notifyFn returned an error")
	ErrInvalidAuthTransform              = newError("FWP_E_INVALID_AUTH_TRANSFORM", 0x80320038, "the IPsec authentication transform is bad")
	ErrInvalidCipherTransform            = newError("FWP_E_INVALID_CIPHER_TRANSFORM", 0x80320039, "the IPsec cipher transform is bad")
	ErrIncompatibleCipherTransform       = newError("FWP_E_INCOMPATIBLE_CIPHER_TRANSFORM", 0x8032003A, "the IPsec cipher transform does not go with the rest")
	ErrInvalidTransformCombination       = newError("FWP_E_INVALID_TRANSFORM_COMBINATION", 0x8032003B, "the IPsec transforms may not be combined")
	ErrDuplicateAuthMethod               = newError("FWP_E_DUPLICATE_AUTH_METHOD", 0x8032003C, "an authentication method is listed twice")
	ErrInvalidTunnelEndpoint             = newError("FWP_E_INVALID_TUNNEL_ENDPOINT", 0x8032003D, "the tunnel endpoint is bad")
	ErrL2DriverNotReady                  = newError("FWP_E_L2_DRIVER_NOT_READY", 0x8032003E, "L2 filter driver not ready")
	ErrKeyDictatorAlreadyRegistered      = newError("FWP_E_KEY_DICTATOR_ALREADY_REGISTERED", 0x8032003F, "a key dictator is registered already")
	ErrKeyDictationInvalidKeyingMaterial = newError("FWP_E_KEY_DICTATION_INVALID_KEYING_MATERIAL", 0x80320040, "the dictated keying material is bad")
	ErrConnectionsDisabled               = newError("FWP_E_CONNECTIONS_DISABLED", 0x80320041, "connection monitoring off")
	ErrInvalidDNSName                    = newError("FWP_E_INVALID_DNS_NAME", 0x80320042, "the DNS name is bad")
	ErrStillOn                           = newError("FWP_E_STILL_ON", 0x80320043, "option still in use")
	ErrIKEEXTNotRunning                  = newError("FWP_E_IKEEXT_NOT_RUNNING", 0x80320044, "IKEEXT service not running")
	ErrDropNoICMP                        = newError("FWP_E_DROP_NOICMP", 0x80320104, "drop without ICMP (used for silent drop)")
)

var errorsByName = map[string]*Error{}

func newError(name string, code uint32, meaning string) *Error {
	e := &Error{Name: name, Code: code, Meaning: meaning}
	errorsByName[name] = e
	return e
}

// ErrorByName returns the error with a name, with or without FWP_E_ and in any
// letter case, or nil.
func ErrorByName(name string) *Error {
	name = strings.ToUpper(name)
	if !strings.HasPrefix(name, "FWP_E_") {
		name = "FWP_E_" + name
	}
	return errorsByName[name]
}

// ObjectError says which object an error is about, why it is refused and what
// to do. It wraps one of the codes.
type ObjectError struct {
	Object string           // the kind of object: filter, sublayer, callout, ...
	Name   string           // its display name, or its key where it has none
	Layer  layermap.LayerID // the layer, where HasLayer is set
	// HasLayer is needed because zero is a layer, INBOUND_IPPACKET_V4.
	HasLayer bool
	Detail   string // what is wrong
	Remedy   string // what to do about it
	Err      error  // the code
}

// Error names the object and the layer, then says what is wrong, which code it
// is, and what to do.
func (e *ObjectError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %q", e.Object, e.Name)
	if e.HasLayer {
		fmt.Fprintf(&b, ", layer %s", e.Layer)
	}
	if e.Detail != "" {
		fmt.Fprintf(&b, ": %s", e.Detail)
	}
	if e.Err != nil {
		fmt.Fprintf(&b, ": %s", e.Err)
	}
	if e.Remedy != "" {
		fmt.Fprintf(&b, "; %s", e.Remedy)
	}
	return b.String()
}

// Unwrap returns the code.
func (e *ObjectError) Unwrap() error { return e.Err }
