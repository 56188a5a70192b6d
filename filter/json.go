// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"encoding/json"
	"strconv"
)

// AppendJSON appends the filter as package encoding/json reads it into a Filter;
// members that are zero are left out. It exists because a policy of 100,000 filters
// is written at each commit, and encoding/json takes more than a second for that.
func (f *Filter) AppendJSON(b []byte) []byte {
	o := object{b: append(b, '{')}
	o.guid("Key", f.Key)
	o.number("ID", uint64(f.ID))
	o.text("Name", f.Name)
	o.text("Description", f.Description)
	o.guid("Provider", f.Provider)
	o.number("Layer", uint64(f.Layer))
	o.guid("SubLayer", f.SubLayer)
	o.value("Weight", &f.Weight)
	o.number("EffectiveWeight", f.EffectiveWeight)
	o.truth("KeepWeight", f.KeepWeight)
	if len(f.Conditions) > 0 {
		o.name("Conditions")
		o.b = append(o.b, '[')
		for i := range f.Conditions {
			if i > 0 {
				o.b = append(o.b, ',')
			}
			o.b = f.Conditions[i].appendJSON(o.b)
		}
		o.b = append(o.b, ']')
	}
	o.number("Action", uint64(f.Action))
	o.guid("Callout", f.Callout)
	o.guid("ProviderContext", f.ProviderContext)
	o.number("RawContext", f.RawContext)
	o.number("Flags", uint64(f.Flags))
	o.text("Origin", f.Origin)
	return append(o.b, '}')
}

func (c *Condition) appendJSON(b []byte) []byte {
	o := object{b: append(b, '{')}
	o.text("Field", c.Field)
	o.number("Match", uint64(c.Match))
	o.value("Value", &c.Value)
	return append(o.b, '}')
}

func (v *Value) appendJSON(b []byte) []byte {
	o := object{b: append(b, '{')}
	o.number("Type", uint64(v.Type))
	o.number("Num", v.Num)
	o.text("Text", v.Text)
	o.text("SID", string(v.SID))
	if len(v.Bytes) > 0 {
		o.any("Bytes", v.Bytes)
	}
	if v.SD != nil {
		o.any("SD", v.SD)
	}
	if v.Token != nil {
		o.any("Token", v.Token)
	}
	if v.Set != nil {
		o.any("Set", v.Set)
	}
	if v.Range != nil {
		o.name("Range")
		o.b = append(o.b, `{"Low":`...)
		o.b = v.Range.Low.appendJSON(o.b)
		o.b = append(o.b, `,"High":`...)
		o.b = append(v.Range.High.appendJSON(o.b), '}')
	}
	return append(o.b, '}')
}

// object is a JSON object that is being written.
type object struct {
	b    []byte
	many bool
}

func (o *object) name(name string) {
	if o.many {
		o.b = append(o.b, ',')
	}
	o.many = true
	o.b = append(append(append(o.b, '"'), name...), '"', ':')
}

func (o *object) number(name string, n uint64) {
	if n != 0 {
		o.name(name)
		o.b = strconv.AppendUint(o.b, n, 10)
	}
}

func (o *object) truth(name string, t bool) {
	if t {
		o.name(name)
		o.b = append(o.b, "true"...)
	}
}

// text writes what needs no escape itself, which is nearly all there is.
func (o *object) text(name, s string) {
	if s == "" {
		return
	}
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			o.any(name, s)
			return
		}
	}
	o.name(name)
	o.b = append(append(append(o.b, '"'), s...), '"')
}

func (o *object) guid(name string, g GUID) {
	if g == (GUID{}) {
		return
	}
	o.name(name)
	o.b = append(append(append(o.b, '"'), g.String()...), '"')
}

func (o *object) value(name string, v *Value) {
	if v.Type == 0 && v.Num == 0 && v.Bytes == nil && v.Text == "" && v.SID == "" && v.SD == nil && v.Token == nil && v.Range == nil && v.Set == nil {
		return
	}
	o.name(name)
	o.b = v.appendJSON(o.b)
}

func (o *object) any(name string, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // plain data: it cannot fail
	}
	o.name(name)
	o.b = append(o.b, b...)
}
