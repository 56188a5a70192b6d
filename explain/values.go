// SPDX-License-Identifier: Apache-2.0

// This file reads FIELD=VALUE. A value is written as in a policy file, so the
// reader of policy files reads it: there is one syntax and one set of names.

package explain

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
	"github.com/wfpebpf/wfpebpf/policy"
)

// emptyValue is how a field without a value is written.
const emptyValue = "EMPTY"

// unitPrefix begins a principal that is a systemd unit.
const unitPrefix = "unit:"

// Values makes the incoming values of a layer, in FWPS order, from
// FIELD=VALUE. FLAGS and REAUTHORIZE_REASON that are not given are 0, fields that have one value here
// have it, all others are EMPTY. ALE_USER_ID may be given several times: a
// process has a user, groups and a unit. m translates Windows names and the
// names of links; it may be nil.
func Values(p *policy.Policy, m *policy.Map, l *layermap.Layer, assignments []string) (filter.Values, error) {
	values := constants(l)
	given := map[string]bool{}
	for _, a := range assignments {
		key, text, ok := strings.Cut(a, "=")
		if !ok {
			return nil, fmt.Errorf("%q is not FIELD=VALUE", a)
		}
		key = layermap.CanonicalKey(key)
		i := l.FieldIndex(key)
		if i < 0 {
			return nil, fmt.Errorf("layer %s has no field %s; wfpebpf layers --fields %s lists them", l.Name, key, l.Name)
		}
		f := l.Fields[i]
		if given[key] && f.DataType != layermap.TokenAccessInformation {
			return nil, fmt.Errorf("%s is given twice", key)
		}
		given[key] = true
		v, err := value(m, l, f, text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", a, err)
		}
		if v.Token != nil {
			v.Token.SIDs = append(v.Token.SIDs, services(p, text)...)
			if old := values[i].Token; old != nil {
				v.Token.SIDs = append(old.SIDs, v.Token.SIDs...)
			}
		}
		values[i] = v
	}
	return values, nil
}

// constants are the values of a layer about which nothing is known.
func constants(l *layermap.Layer) filter.Values {
	values := make(filter.Values, len(l.Fields))
	for i, f := range l.Fields {
		switch src := l.Source(f.Key); {
		case src.Kind == layermap.Constant:
			values[i] = number(f, src.Value)
		case f.Key == "FLAGS", f.Key == "REAUTHORIZE_REASON":
			values[i] = number(f, 0)
		}
	}
	return values
}

func number(f layermap.Field, n uint64) filter.Value { return filter.Value{Type: f.DataType, Num: n} }

// services are the Windows services that the map leads to a unit.
func services(p *policy.Policy, principal string) []filter.SID {
	unit, ok := strings.CutPrefix(principal, unitPrefix)
	if !ok {
		return nil
	}
	var sids []filter.SID
	for sid, to := range p.Services {
		if to == unit {
			sids = append(sids, sid)
		}
	}
	return sids
}

// value reads one value by having a filter read that tests it.
func value(m *policy.Map, l *layermap.Layer, f layermap.Field, text string) (filter.Value, error) {
	if text == emptyValue {
		return filter.Value{}, nil
	}
	written := any(text)
	if f.Type == layermap.FlagsField {
		written = strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == '|' })
	}
	quoted, err := json.Marshal(written)
	if err != nil {
		return filter.Value{}, err
	}
	doc := fmt.Sprintf("{wfpebpf: 1, filters: [{name: value, layer: %s, action: PERMIT, conditions: [{%s: %s}]}]}", l.Name, f.Key, quoted)
	read, err := policy.LoadReader("value", strings.NewReader(doc), policy.Options{Map: m})
	if err != nil {
		return filter.Value{}, withoutPlace(err)
	}
	conds := read.Entries[0].Filter.Conditions
	if len(conds) != 1 {
		return filter.Value{}, errors.New("not a value of this field")
	}
	v := conds[0].Value
	if v.Type == layermap.SecurityDescriptorType && v.SD != nil && !strings.Contains(text, "D:") {
		token := &filter.Token{}
		for _, e := range v.SD.Entries {
			token.SIDs = append(token.SIDs, e.SID)
		}
		return filter.Value{Type: f.DataType, Token: token}, nil
	}
	if v.Type != f.DataType {
		return filter.Value{}, errors.New("one value is needed, not a set of values")
	}
	return v, nil
}

// withoutPlace takes the line and column away, which are those of a document
// that the reader never sees.
func withoutPlace(err error) error {
	var at *policy.Error
	if !errors.As(err, &at) {
		return err
	}
	switch {
	case at.Err == nil:
		return errors.New(at.Msg)
	case at.Msg == "":
		return at.Err
	}
	return fmt.Errorf("%s: %w", at.Msg, at.Err)
}
