// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"errors"
	"net/netip"

	"github.com/wfpebpf/wfpebpf/layermap"
)

var ErrConditionalACE = errors.New("stub")

func U8(n uint8) Value                     { return Value{} }
func U16(n uint16) Value                   { return Value{} }
func U32(n uint32) Value                   { return Value{} }
func U64(n uint64) Value                   { return Value{} }
func Blob(b []byte) Value                  { return Value{} }
func Str(s string) Value                   { return Value{} }
func Addr4(a netip.Addr) Value             { return Value{} }
func Addr16(a netip.Addr) Value            { return Value{} }
func V4Mask(p netip.Prefix) Value          { return Value{} }
func V6Mask(p netip.Prefix) Value          { return Value{} }
func RangeOf(low, high Value) Value        { return Value{} }
func SIDValue(s SID) Value                 { return Value{} }
func SDValue(sd *SecurityDescriptor) Value { return Value{} }
func TokenValue(sids ...SID) Value         { return Value{} }
func MAC(m [6]byte) Value                  { return Value{} }

func (v Value) IsEmpty() bool      { return false }
func (v Value) Equal(w Value) bool { return false }
func (v Value) String() string     { return "" }

func FormatValue(f layermap.Field, v Value) string { return "" }
func Compare(a, b Value) (int, bool)               { return 0, false }

func ServiceSID(name string) SID                        { return "" }
func PackageSID(familyName string) SID                  { return "" }
func UnixUser(uid uint32) SID                           { return "" }
func UnixGroup(gid uint32) SID                          { return "" }
func ParseUnix(s SID) (kind string, id uint32, ok bool) { return "", 0, false }
func ParseSID(text string) (SID, error)                 { return "", nil }

func ParseSDDL(text string) (*SecurityDescriptor, error) { return nil, nil }
func (sd *SecurityDescriptor) Grants(t *Token) bool      { return false }

func (c Condition) Matches(v Value) bool                                      { return false }
func MatchesAll(conds []Condition, layer *layermap.Layer, values Values) bool { return false }

func (f *Filter) Validate() error               { return nil }
func EffectiveWeight(f *Filter) (uint64, error) { return 0, nil }

type Store struct{}

func NewStore() *Store                                      { return nil }
func (s *Store) AddProvider(p Provider) error               { return nil }
func (s *Store) AddProviderContext(c ProviderContext) error { return nil }
func (s *Store) AddSubLayer(l SubLayer) error               { return nil }
func (s *Store) AddCallout(c Callout) error                 { return nil }
func (s *Store) AddFilter(f *Filter) error                  { return nil }
func (s *Store) DeleteFilter(id ID) error                   { return nil }
func (s *Store) Filter(id ID) *Filter                       { return nil }
func (s *Store) Filters() []*Filter                         { return nil }
func (s *Store) SubLayer(key GUID) *SubLayer                { return nil }
func (s *Store) SubLayers() []*SubLayer                     { return nil }
func (s *Store) Callout(key GUID) *Callout                  { return nil }
func (s *Store) Provider(key GUID) *Provider                { return nil }
func (s *Store) ProviderContext(key GUID) *ProviderContext  { return nil }
func (s *Store) Layer(id layermap.LayerID) []*Filter        { return nil }
func (s *Store) Ties(id layermap.LayerID) [][]*Filter       { return nil }
func (s *Store) Clone() *Store                              { return nil }

type Values []Value
type ClassifyOut struct {
	Action     Action
	ClearRight bool
}
type CalloutFunc func(f *Filter, values Values, right bool) ClassifyOut
type Callouts map[GUID]CalloutFunc
type SubLayerResult struct {
	SubLayer *SubLayer
	Filter   *Filter
	Action   Action
	Soft     bool
}
type Result struct {
	Action    Action
	Soft      bool
	Filter    *Filter
	Veto      bool
	SubLayers []SubLayerResult
}

func (r Result) Blocked() bool { return false }
func Arbitrate(s *Store, layer layermap.LayerID, values Values, callouts Callouts) Result {
	return Result{}
}
func Sensitive(s *Store, layer layermap.LayerID, values Values, callouts Callouts) []string {
	return nil
}
