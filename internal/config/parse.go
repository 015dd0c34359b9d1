// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// Parse reads a configuration. The file name is for messages, the paths for defaults. Problems are
// *Error, joined: all that are found at once, so that a person corrects them in one go. On an error
// the Config is empty.
func Parse(file string, data []byte, p Paths) (Config, error) {
	problems := &problems{file: file}
	var anything map[string]any
	if err := toml.Unmarshal(data, &anything); err != nil {
		var bad *toml.DecodeError
		line := 0
		if errors.As(err, &bad) {
			line, _ = bad.Position()
		}
		problems.add(line, "", "%s", strings.TrimPrefix(err.Error(), "toml: "))
		return Config{}, problems.err()
	}

	found := walk(data, problems)
	if len(problems.errs) > 0 {
		return Config{}, problems.err()
	}
	doc := defaults(p)
	decode := func(into any) {
		if err := toml.Unmarshal(data, into); err != nil { // the walk has checked names and kinds
			problems.add(0, "", "%s", strings.TrimPrefix(err.Error(), "toml: "))
		}
	}
	if found.recoveryWord {
		// One key of two kinds: the outer field hides the table of the embedded document.
		word := struct {
			*document
			Recovery string `toml:"recovery"`
		}{document: &doc}
		decode(&word)
		found.word = word.Recovery
	} else {
		decode(&doc)
	}
	if len(problems.errs) > 0 {
		return Config{}, problems.err()
	}
	cfg := doc.config(found, problems, p)
	if err := problems.err(); err != nil {
		return Config{}, err
	}
	return cfg, nil
}

// ParseKEK is Parse for a file with the [kek] table alone.
func ParseKEK(file string, data []byte, p Paths) (KEK, error) {
	cfg, err := Parse(file, data, p)
	if err != nil {
		return KEK{}, err
	}
	problems := &problems{file: file}
	found := walk(data, problems)
	for key, line := range found.lines {
		if key != "kek" && !strings.HasPrefix(key, "kek.") {
			problems.add(line, key, "does not belong here: this file has the [kek] table alone")
		}
	}
	if !found.has("kek.provider") {
		problems.add(0, "kek.provider", "is missing; known: %s", strings.Join(providers(), ", "))
	}
	return cfg.KEK, problems.err()
}

// keysFound is where the keys of a file are.
type keysFound struct {
	lines        map[string]int // by path with indices
	recoveryWord bool           // recovery is a string, not a table
	word         string
}

// has says whether the key, or anything below it, is in the file.
func (f keysFound) has(path string) bool {
	for key := range f.lines {
		if key == path || strings.HasPrefix(key, path+".") {
			return true
		}
	}
	return false
}

// line is where the key is, or the nearest table above it that is in the file.
func (f keysFound) line(path string) int {
	for {
		if line, ok := f.lines[path]; ok {
			return line
		}
		i := strings.LastIndexByte(path, '.')
		if i < 0 {
			return 0
		}
		path = path[:i]
	}
}

// walk checks names and kinds of all keys against the schema and notes their lines. The decoder's own
// strict mode is not enough: it ignores case, takes a table for a list of one, and forgets part of
// the path inside inline tables.
func walk(data []byte, problems *problems) keysFound {
	found := keysFound{lines: map[string]int{}}
	w := walker{keys: schema(), found: &found, problems: problems, counts: map[string]int{}}
	w.parser.Reset(data)
	for w.parser.NextExpression() {
		node := w.parser.Expression()
		switch node.Kind {
		case unstable.Table:
			w.table, w.index = "", ""
			w.table, w.index, w.skip = w.enter(node, isTable)
		case unstable.ArrayTable:
			w.table, w.index = "", ""
			w.table, w.index, w.skip = w.enter(node, isTables)
		case unstable.KeyValue:
			if !w.skip {
				w.value(node)
			}
		}
	}
	if err := w.parser.Error(); err != nil { // Parse has read it once before
		problems.add(0, "", "%v", err)
	}
	return found
}

type walker struct {
	parser   unstable.Parser
	keys     []key
	found    *keysFound
	problems *problems
	counts   map[string]int // elements so far of each list of tables

	table string // path of the current table
	index string // the same with indices, for people
	skip  bool   // the current table is not known: one error is enough for all that is in it
}

// enter resolves the dotted key of a node below the current table. Each part before the last one must
// be a table, the last one of kind want.
func (w *walker) enter(node *unstable.Node, want kind) (path, index string, skip bool) {
	path, index = w.table, w.index
	line := 0
	for parts := node.Key(); parts.Next(); {
		part := parts.Node()
		if line == 0 {
			line = w.parser.Shape(part.Raw).Start.Line
		}
		name := string(part.Data)
		is, known := w.lookup(join(path, name))
		if !known {
			w.unknown(line, path, join(index, name), name)
			return "", "", true
		}
		path, index = join(path, name), join(index, name)
		switch {
		case is == isTables && (!parts.IsLast() || want != isTables):
			if w.counts[path] == 0 {
				w.problems.add(line, index, "is %s; write [[%s]]", is, path)
				return "", "", true
			}
			index += fmt.Sprintf("[%d]", w.counts[path]-1)
		case is == isTables:
			index += fmt.Sprintf("[%d]", w.counts[path])
			w.counts[path]++
		case is != isTable && !parts.IsLast():
			w.problems.add(line, index, "is %s, not a table", is)
			return "", "", true
		}
	}
	is, _ := w.lookup(path)
	if want != "" && is != want && is != isTables {
		w.problems.add(line, index, "is %s, not %s", is, want)
		return "", "", true
	}
	if _, again := w.found.lines[index]; !again {
		w.found.lines[index] = line
	}
	return path, index, false
}

// value checks one key = value, and what is inside it if that is an inline table.
func (w *walker) value(node *unstable.Node) {
	path, index, bad := w.enter(node, "")
	if bad {
		return
	}
	is, _ := w.lookup(path)
	value, line := node.Value(), w.found.lines[index]
	if path == "recovery" && value.Kind == unstable.String {
		w.found.recoveryWord = true
		return
	}
	if !fits(value, is) {
		w.problems.add(line, index, "must be %s", is)
		return
	}
	if value.Kind == unstable.InlineTable {
		inner := *w
		inner.table, inner.index = path, index
		for members := value.Children(); members.Next(); {
			inner.value(members.Node())
		}
	}
}

func fits(value *unstable.Node, is kind) bool {
	switch is {
	case isTable:
		return value.Kind == unstable.InlineTable
	case isString:
		return value.Kind == unstable.String
	case isBool:
		return value.Kind == unstable.Bool
	case isList:
		if value.Kind != unstable.Array {
			return false
		}
		for elements := value.Children(); elements.Next(); {
			if elements.Node().Kind != unstable.String && elements.Node().Kind != unstable.Comment {
				return false
			}
		}
		return true
	}
	return false // a list of tables is written as [[name]]
}

func (w *walker) lookup(path string) (kind, bool) {
	for _, k := range w.keys {
		if k.path == path {
			return k.kind, true
		}
	}
	return "", false
}

func (w *walker) unknown(line int, table, index, name string) {
	known := children(w.keys, table)
	if near := Nearest(name, known); near != "" {
		w.problems.add(line, index, "unknown key; did you mean %s?", near)
		return
	}
	if _, top := w.lookup(name); top && table != "" {
		w.problems.add(line, index, "unknown key; %s belongs at the top of the file, above the first [table]", name)
		return
	}
	w.problems.add(line, index, "unknown key; known here: %s", strings.Join(known, ", "))
}

func join(table, name string) string {
	if table == "" {
		return name
	}
	return table + "." + name
}
