// SPDX-License-Identifier: Apache-2.0

package header

import (
	"bytes"
	"encoding/json"
	"strings"
	"unicode/utf8"
)

// maxDepth is the nesting that json-c, the decoder of libcryptsetup, accepts by default.
const maxDepth = 32

// document cuts the JSON text out of its zero-padded area and checks that there is only one way to read it.
func document(area []byte) ([]byte, error) {
	text, padding, terminated := bytes.Cut(area, []byte{0})
	switch {
	case !terminated:
		return nil, malformed("no NUL after the JSON")
	case len(text) == 0 || text[0] != '{' || text[len(text)-1] != '}':
		return nil, malformed("no JSON object")
	case len(bytes.Trim(padding, "\x00")) != 0:
		return nil, malformed("bytes after the JSON")
	case !utf8.Valid(text):
		return nil, malformed("not UTF-8")
	case !json.Valid(text):
		return nil, malformed("not JSON")
	}
	w := walker{dec: json.NewDecoder(bytes.NewReader(text))}
	w.dec.UseNumber()
	if err := w.value(0, false); err != nil {
		return nil, err
	}
	return text, nil
}

// A walker checks what json.Valid does not: keys that occur twice (the last one wins in both decoders, but only where they are byte for byte the same),
// keys in another case (Go takes them for the same, C does not), NUL characters (where C ends the string) and depth.
type walker struct {
	dec *json.Decoder
}

// value checks the next value. In tokens, which may come from anybody, keys have any case.
func (w *walker) value(depth int, token bool) error {
	if depth > maxDepth {
		return malformed("nested deeper than %d", maxDepth)
	}
	t, err := w.dec.Token()
	if err != nil {
		return malformed("not JSON")
	}
	switch t := t.(type) {
	case string:
		return plain(t)
	case json.Delim:
		if t == '{' {
			return w.object(depth, token)
		}
		for w.dec.More() {
			if err := w.value(depth+1, token); err != nil {
				return err
			}
		}
		_, err = w.dec.Token()
	}
	if err != nil {
		return malformed("not JSON")
	}
	return nil
}

func (w *walker) object(depth int, token bool) error {
	seen := map[string]bool{}
	for w.dec.More() {
		t, err := w.dec.Token()
		key, ok := t.(string)
		if err != nil || !ok {
			return malformed("not JSON")
		}
		if err := plain(key); err != nil {
			return err
		}
		if seen[key] {
			return malformed("member %.40q occurs twice", key)
		}
		seen[key] = true
		if !token && strings.Trim(key, "abcdefghijklmnopqrstuvwxyz0123456789_-") != "" {
			return malformed("member %.40q has other characters than small letters", key)
		}
		if err := w.value(depth+1, token || depth == 0 && key == "tokens"); err != nil {
			return err
		}
	}
	if _, err := w.dec.Token(); err != nil {
		return malformed("not JSON")
	}
	return nil
}

func plain(s string) error {
	if strings.ContainsRune(s, 0) {
		return malformed("NUL in a string")
	}
	return nil
}
