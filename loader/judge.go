// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/wfpebpf/wfpebpf/bpf"
	"github.com/wfpebpf/wfpebpf/filter"
	"github.com/wfpebpf/wfpebpf/layermap"
)

// caseOf encodes field values as a hook would fill them in.
func (n *numbers) caseOf(l *layermap.Layer, values filter.Values) *bpf.Case {
	c := &bpf.Case{}
	n.encode(c, l, values)
	return c
}

func (n *numbers) encode(c *bpf.Case, l *layermap.Layer, values filter.Values) {
	*c = bpf.Case{}
	c.Values.Layer = uint16(l.ID)
	for i, f := range l.Fields {
		if i >= len(values) || values[i].IsEmpty() {
			continue
		}
		src := l.Source(f.Key)
		if src.Kind != layermap.Filled {
			continue
		}
		v, s := values[i], src.Slot
		place := s.Place()
		c.Values.Present |= 1 << s
		switch {
		case v.Type == layermap.ByteBlob && n.values(s) == nil: // the name of a link
			words := nameWords(v.Bytes)
			copy(c.Values.Word[place.Word:], words[:])
		case v.Type == layermap.TokenAccessInformation || v.Type == layermap.TokenInformation ||
			v.Type == layermap.ByteBlob || v.Type == layermap.SIDType:
			c.Values.Word[place.Word] |= n.number(s, v) << place.Shift
		case v.Type == layermap.ByteArray16 && len(v.Bytes) == 16:
			c.Values.Word[place.Word] = binary.BigEndian.Uint64(v.Bytes)
			c.Values.Word[place.Word+1] = binary.BigEndian.Uint64(v.Bytes[8:])
		case v.Type == layermap.ByteArray6 && len(v.Bytes) == 6:
			var b [8]byte
			copy(b[2:], v.Bytes)
			c.Values.Word[place.Word] |= binary.BigEndian.Uint64(b[:])
		default:
			c.Values.Word[place.Word] |= v.Num << place.Shift
		}
	}
}

// numbersInForce is the numbers of the commit in force, and which commit it is.
// The record that holds them is large and is read once a commit.
func (e *Engine) numbersInForce() (*numbers, uint64, error) {
	generation, err := e.Generation()
	if err != nil {
		return nil, 0, err
	}
	if e.numbers == nil || e.numbersOf != generation {
		rec, err := e.record()
		if err != nil {
			return nil, 0, err
		}
		e.numbers, e.numbersOf = rec.Numbers, rec.Generation
	}
	return e.numbers, e.numbersOf, nil
}

// Judge asks the kernel for the verdicts of a layer on values in FWPS order,
// by the same tables and the same classifier as the hooks.
func (e *Engine) Judge(layer layermap.LayerID, values []filter.Values) ([]Verdict, error) {
	l := layermap.ByID(layer)
	if l == nil {
		return nil, filter.ErrLayerNotFound
	}
	if _, _, err := e.numbersInForce(); err != nil {
		return nil, err
	}
	if err := e.load([]string{bpf.WFPProgWfpJudge}); err != nil {
		return nil, err
	}
	prog, cases := e.programs[bpf.WFPProgWfpJudge], e.maps[bpf.WFPMapCases]
	verdicts := make([]Verdict, 0, len(values))
	keys := make([]uint32, bpf.JudgeCases)
	for i := range keys {
		keys[i] = uint32(i)
	}
	batch := make([]bpf.Case, bpf.JudgeCases)
	for len(values) > 0 {
		numbers, generation, err := e.numbersInForce()
		if err != nil {
			return nil, err
		}
		in, err := e.stamp()
		if err != nil {
			return nil, err
		}
		at := in.place()
		n := min(len(values), bpf.JudgeCases)
		for i, v := range values[:n] {
			numbers.encode(&batch[i], l, v)
		}
		if _, err := cases.BatchUpdate(keys[:n], batch[:n], nil); err != nil {
			return nil, fmt.Errorf("handing cases to the judge: %w", err)
		}
		run := bpf.JudgeRun{Cases: uint32(n)}
		if ret, err := prog.Run(&ebpf.RunOptions{Context: &run, ContextOut: &run}); err != nil || ret != 0 {
			return nil, fmt.Errorf("running the judge: %w (%d)", err, ret)
		}
		if now, err := e.active(); err != nil {
			return nil, err
		} else if now != generation || run.Generation != at.number() {
			continue // a commit came between: these numbers mean others in it
		}
		var cursor ebpf.MapBatchCursor
		got, out := make([]uint32, n), make([]bpf.Case, n)
		if m, err := cases.BatchLookup(&cursor, got, out, nil); m < n {
			return nil, fmt.Errorf("reading the judge's verdicts: %w", err)
		}
		for _, c := range out {
			if c.Verdict.Error != 0 {
				return nil, fmt.Errorf("the tables of %v are inconsistent", layer)
			}
			v := Verdict{Action: filter.Action(c.Verdict.Action), Soft: c.Verdict.Soft != 0, Filter: filter.ID(c.Verdict.FilterId)}
			// where nothing matched nobody has taken the right away
			v.Soft = v.Soft || v.Action == filter.ActionNoneNoMatch
			verdicts = append(verdicts, v)
		}
		values = values[n:]
	}
	return verdicts, nil
}

// Encode gives field values the form that the BPF programs classify, for
// programs of benchmarks that run over the same tables.
func (e *Engine) Encode(layer layermap.LayerID, values []filter.Values) ([]bpf.Values, error) {
	numbers, _, err := e.numbersInForce()
	if err != nil {
		return nil, err
	}
	l := layermap.ByID(layer)
	if l == nil {
		return nil, filter.ErrLayerNotFound
	}
	out := make([]bpf.Values, len(values))
	var c bpf.Case
	for i, v := range values {
		numbers.encode(&c, l, v)
		out[i] = c.Values
	}
	return out, nil
}

// Maps returns the instance's maps by their names in bpf/, for programs
// of benchmarks. The caller must not close them.
func (e *Engine) Maps() map[string]*ebpf.Map { return e.maps }
