// SPDX-License-Identifier: Apache-2.0

// This file turns YAML text into a small tree with positions, and holds it to
// what a policy or a map file may contain: one document of mappings, lists and
// scalars. Anchors, aliases, merges and tags are refused, so that the size of
// what is read never exceeds the size of the file.

package policy

import (
	"errors"
	"fmt"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

type nodeKind uint8

const (
	nullNode nodeKind = iota
	scalarNode
	listNode
	mapNode
)

var nodeKindNames = [...]string{"nothing", "a single value", "a list", "a mapping"}

// node is a YAML value. Scalars are kept as text, so that each field reads its
// own syntax: YAML's idea of a number does not fit an address or a range.
type node struct {
	pos    pos
	kind   nodeKind
	text   string
	quoted bool
	list   []*node
	keys   []*node // of a mapping; values in list
}

func (n *node) expect(kind nodeKind, what string) error {
	if n.kind != kind {
		return n.pos.errorf("%s must be %s, not %s", what, nodeKindNames[kind], nodeKindNames[n.kind])
	}
	return nil
}

// items returns the elements of a list; a missing value is an empty list.
func (n *node) items(what string) ([]*node, error) {
	if n.kind == nullNode {
		return nil, nil
	}
	return n.list, n.expect(listNode, what)
}

// scalarOrList returns the elements of a list, or the value itself.
func (n *node) scalarOrList(what string) ([]*node, error) {
	if n.kind == scalarNode {
		return []*node{n}, nil
	}
	return n.items(what)
}

// reader reads the value of one key.
type reader func(*node) error

// fields reads a mapping whose keys are all known.
func (n *node) fields(what string, known map[string]reader) error {
	if err := n.expect(mapNode, what); err != nil {
		return err
	}
	for i, k := range n.keys {
		read := known[k.text]
		if read == nil {
			return k.pos.errorf("unknown key %q in %s", clip(k.text), what)
		}
		if err := read(n.list[i]); err != nil {
			return err
		}
	}
	return nil
}

// entries reads a mapping from names to values.
func (n *node) entries(what string, read func(key, value *node) error) error {
	if n.kind == nullNode {
		return nil
	}
	if err := n.expect(mapNode, what); err != nil {
		return err
	}
	for i, k := range n.keys {
		if err := read(k, n.list[i]); err != nil {
			return err
		}
	}
	return nil
}

// text returns a reader that stores a scalar.
func text(to *string, what string) reader {
	return func(n *node) error {
		*to = n.text
		return n.expect(scalarNode, what)
	}
}

// parseYAML reads one document. An empty one is an empty mapping.
func parseYAML(name string, data []byte) (*node, error) {
	if err := scanYAML(name, data); err != nil {
		return nil, err
	}
	file, err := parse(name, data)
	if err != nil {
		return nil, err
	}
	var body ast.Node
	for _, d := range file.Docs {
		if d.Body == nil || d.Body.Type() == ast.CommentType {
			continue
		}
		if body != nil {
			return nil, place(name, d.Body).errorf("more than one document")
		}
		body = d.Body
	}
	if body == nil {
		return &node{pos: pos{name, 1, 1}, kind: mapNode}, nil
	}
	return build(name, body, 0)
}

// parse calls the parser; a defect of it that a hostile file finds is an error
// of that file.
func parse(name string, data []byte) (f *ast.File, err error) {
	defer func() {
		if r := recover(); r != nil {
			f, err = nil, &Error{File: name, Line: 1, Column: 1, Msg: "not readable as YAML"}
		}
	}()
	f, err = parser.ParseBytes(data, 0, parser.AllowDuplicateMapKey()) // doubled keys are found in build, by name
	if err == nil {
		return f, nil
	}
	at := pos{name, 1, 1}
	var syn *yaml.SyntaxError
	if !errors.As(err, &syn) {
		msg, _, _ := strings.Cut(err.Error(), "\n")
		return nil, at.errorf("%s", clip(msg))
	}
	// Not by Error, which prints the text around the place: its time grows with
	// the square of the tokens there.
	if t := syn.Token; t != nil && t.Position != nil {
		at.line, at.col = t.Position.Line, t.Position.Column
	}
	msg, _, _ := strings.Cut(syn.Message, "\n")
	return nil, at.errorf("%s", clip(msg))
}

func place(name string, n ast.Node) pos {
	p := pos{name, 1, 1}
	if t := n.GetToken(); t != nil && t.Position != nil {
		p.line, p.col = t.Position.Line, t.Position.Column
	}
	return p
}

func build(name string, n ast.Node, depth int) (*node, error) {
	out := &node{pos: place(name, n)}
	if depth > MaxDepth {
		return nil, out.pos.errorf("nested deeper than %d", MaxDepth)
	}
	scalar := func(s string, quoted bool) (*node, error) {
		if len(s) > MaxStringSize {
			return nil, out.pos.errorf("text longer than 1 MiB")
		}
		out.kind, out.text, out.quoted = scalarNode, s, quoted
		return out, nil
	}
	switch n := n.(type) {
	case *ast.NullNode:
		return out, nil
	case *ast.StringNode:
		return scalar(n.Value, n.Token.Type.String() != "String")
	case *ast.LiteralNode:
		return scalar(n.Value.Value, true)
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return scalar(n.GetToken().Value, false)
	case *ast.SequenceNode:
		out.kind = listNode
		for _, v := range n.Values {
			kid, err := build(name, v, depth+1)
			if err != nil {
				return nil, err
			}
			out.list = append(out.list, kid)
		}
		return out, nil
	case *ast.MappingNode:
		return buildMap(name, out, n.Values, depth)
	case *ast.MappingValueNode:
		return buildMap(name, out, []*ast.MappingValueNode{n}, depth)
	}
	return nil, out.pos.errorf("%s are not accepted here", notAccepted(n))
}

func notAccepted(n ast.Node) string {
	switch n.Type() {
	case ast.AnchorType:
		return "anchors"
	case ast.AliasType:
		return "aliases"
	case ast.MergeKeyType:
		return "merges"
	case ast.TagType:
		return "tags"
	}
	return fmt.Sprintf("YAML %s nodes", strings.ToLower(n.Type().String()))
}

func buildMap(name string, out *node, values []*ast.MappingValueNode, depth int) (*node, error) {
	out.kind = mapNode
	seen := make(map[string]pos, len(values))
	if len(values) > 0 {
		out.pos = place(name, values[0].Key)
	}
	for _, kv := range values {
		k, err := build(name, kv.Key, depth+1)
		if err != nil {
			return nil, err
		}
		if k.kind != scalarNode {
			return nil, k.pos.errorf("a key must be a single value, not %s", nodeKindNames[k.kind])
		}
		if first, ok := seen[k.text]; ok {
			return nil, k.pos.errorf("key %q is there twice, first in line %d", clip(k.text), first.line)
		}
		seen[k.text] = k.pos
		v, err := build(name, kv.Value, depth+1)
		if err != nil {
			return nil, err
		}
		if v.kind == nullNode {
			v.pos = k.pos
		}
		out.keys, out.list = append(out.keys, k), append(out.list, v)
	}
	return out, nil
}
