// SPDX-License-Identifier: Apache-2.0

package header

import (
	"encoding/base64"
	"encoding/json"
	"maps"
	"math"
	"slices"
	"strconv"
)

// A decoder remembers the first thing that was wrong, so that the code that reads the metadata can be a list of fields.
type decoder struct {
	err     error
	unknown []string // paths of members that nobody asked for
}

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = malformed(format, args...)
	}
}

// A node is one JSON object. Reading a member takes it out; whatever is left in the end is unknown to us. Names are compared exactly, which decoding into
// a struct would not do.
type node struct {
	d       *decoder
	path    string
	members map[string]json.RawMessage
}

func (d *decoder) node(path string, raw json.RawMessage) *node {
	n := &node{d: d, path: path}
	if raw == nil || json.Unmarshal(raw, &n.members) != nil || n.members == nil {
		d.fail("%s is no object", path)
	}
	return n
}

func (n *node) take(key string) (json.RawMessage, string) {
	raw := n.members[key]
	delete(n.members, key)
	return raw, n.path + "." + key
}

func (n *node) has(key string) bool {
	_, ok := n.members[key]
	return ok
}

func (n *node) object(key string) *node {
	raw, path := n.take(key)
	return n.d.node(path, raw)
}

// each calls f for all members of an object whose names must be the numbers 0 to limit-1.
func (n *node) each(key string, limit int, f func(id int, path string, raw json.RawMessage)) {
	o := n.object(key)
	for _, name := range slices.Sorted(maps.Keys(o.members)) {
		path := o.path + "." + name
		id, ok := number(name)
		if !ok || id >= int64(limit) {
			n.d.fail("%.60s: not a number below %d", path, limit)
			return
		}
		f(int(id), path, o.members[name])
	}
}

func (n *node) text(key string) string {
	raw, path := n.take(key)
	var s string
	if !text(raw, &s) {
		n.d.fail("%s is no string", path)
	}
	return s
}

// integer reads a JSON number without sign, fraction and exponent.
func (n *node) integer(key string) int {
	raw, path := n.take(key)
	v, ok := number(string(raw))
	if !ok || v > math.MaxInt {
		n.d.fail("%s is no number in range", path)
	}
	return int(v)
}

// offset reads a 64-bit number, which LUKS2 writes as a string.
func (n *node) offset(key string) int64 {
	raw, path := n.take(key)
	var s string
	v, ok := int64(0), text(raw, &s)
	if ok {
		v, ok = number(s)
	}
	if !ok {
		n.d.fail("%s is no number in a string", path)
	}
	return v
}

func (n *node) base64(key string) []byte {
	path := n.path + "." + key
	b, err := base64.StdEncoding.Strict().DecodeString(n.text(key))
	if err != nil {
		n.d.fail("%s is not base64", path)
	}
	return b
}

func (n *node) texts(key string) []string {
	raw, path := n.take(key)
	var list []json.RawMessage
	if raw == nil || json.Unmarshal(raw, &list) != nil || list == nil {
		n.d.fail("%s is no array", path)
	}
	out := make([]string, len(list))
	for i, item := range list {
		if !text(item, &out[i]) {
			n.d.fail("%s holds something else than strings", path)
		}
	}
	return out
}

// ids reads an array of slot or segment numbers, which are strings.
func (n *node) ids(key string, limit int) []int {
	path := n.path + "." + key
	ids := []int{}
	for _, s := range n.texts(key) {
		id, ok := number(s)
		if !ok || id >= int64(limit) || slices.Contains(ids, int(id)) {
			n.d.fail("%s: %.40q is no number below %d, or occurs twice", path, s, limit)
			return nil
		}
		ids = append(ids, int(id))
	}
	return ids
}

// done notes the members that nobody took.
func (n *node) done() {
	for key := range n.members {
		n.d.unknown = append(n.d.unknown, n.path+"."+key)
	}
}

// text decodes a JSON string; null is none.
func text(raw json.RawMessage, into *string) bool {
	return len(raw) > 0 && raw[0] == '"' && json.Unmarshal(raw, into) == nil
}

// number parses decimal digits in the one form that has no leading zeros.
func number(s string) (int64, bool) {
	v, err := strconv.ParseInt(s, 10, 64)
	return v, err == nil && v >= 0 && strconv.FormatInt(v, 10) == s
}
