// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// ErrByHand means that a configuration is written in a way that this program does not change.
var ErrByHand = errors.New("this file has to be changed by hand")

// SetRecovery changes what a configuration file says of recovery, and nothing else: comments, order and everything that a person wrote stay. The file must
// be one that Parse reads. The outcome is read back and compared; if it is not what was meant, the error is ErrByHand.
func SetRecovery(file string, data []byte, p Paths, r Recovery) ([]byte, error) {
	before, err := Parse(file, data, p)
	if err != nil {
		return nil, err
	}
	out := setRecovery(data, before.Recovery, r)
	want := before
	want.Recovery = r
	after, err := Parse(file, out, p)
	if err != nil || !reflect.DeepEqual(after, want) {
		return nil, fmt.Errorf("%w: put this into %s:\n%s", ErrByHand, file, strings.Join(r.lines(), "\n"))
	}
	return out, nil
}

func (r Recovery) lines() []string {
	var all []string
	r.render(func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) })
	for len(all) > 0 && all[len(all)-1] == "" {
		all = all[:len(all)-1]
	}
	return all
}

// setRecovery puts new lines in the place of the old table, or at the end. Comments that this program writes go with the old lines and come with the new
// ones; those of a person stay.
func setRecovery(data []byte, old, r Recovery) []byte {
	own := append(old.lines(), r.lines()...)
	own = append(own, noRecovery)
	var out []string
	placed, inside := false, false // the table is written; the line is in the old one
	for line := range strings.Lines(string(data)) {
		line = strings.TrimRight(line, "\r\n")
		text := strings.TrimSpace(line)
		comment := strings.HasPrefix(text, "#")
		switch {
		case comment && slices.Contains(own, text):
			continue
		case old.None && strings.HasPrefix(text, "recovery"):
			continue
		case text == "[recovery]":
			inside, placed = true, true
			out = append(append(out, r.lines()...), "")
			continue
		case inside && strings.HasPrefix(text, "["):
			inside = false
		case inside && !comment:
			continue
		}
		out = append(out, line)
	}
	text := strings.TrimSpace(strings.Join(out, "\n")) + "\n"
	if !placed {
		text += "\n" + strings.Join(r.lines(), "\n") + "\n"
	}
	return []byte(strings.TrimLeft(text, "\n"))
}
