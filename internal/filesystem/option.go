// SPDX-License-Identifier: Apache-2.0

package filesystem

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// OptionError means that an option or its value is not on the list.
type OptionError struct {
	Option  string   // as given
	Kind    string   // "mkfs" or "mount"
	Type    Type     // of the file system whose option it is
	Reason  string   // why, if there is more to say than that it is not on the list
	Allowed []string // what exists, or the values that this option takes
}

// Error implements error.
func (e *OptionError) Error() string {
	s := fmt.Sprintf("%s option %q is not allowed for %s", e.Kind, e.Option, e.Type)
	if e.Reason != "" {
		s += ": " + e.Reason
	}
	if len(e.Allowed) > 0 {
		s += "; allowed: " + strings.Join(e.Allowed, ", ")
	}
	return s
}

// value says which values an option takes.
type value struct {
	words    []string // these, or
	min, max int64    // a number between these, with a suffix k, m, g (powers of 1024) if suffix is set
	suffix   bool
	none     bool // may also stand without a value
	list     bool // several words joined by commas; each may be negated by ^
}

// flag is an option without a value.
var flag = value{none: true}

func words(w ...string) value             { return value{words: w} }
func optional(v value) value              { v.none = true; return v }
func number(minimum, maximum int64) value { return value{min: minimum, max: maximum} }
func size(minimum, maximum int64) value   { return value{min: minimum, max: maximum, suffix: true} }
func features(w ...string) value          { return value{words: w, list: true} }

var (
	bit   = words("0", "1")
	count = number(0, 1<<31-1)
)

// describe says it for people.
func (v value) describe() string {
	switch {
	case v.list:
		return strings.Join(v.words, "|") + " (^ negates)"
	case len(v.words) > 0:
		return strings.Join(v.words, "|")
	case v.max > 0 || v.min > 0:
		return fmt.Sprintf("%d..%d", v.min, v.max)
	}
	return ""
}

func (v value) allows(s string, given bool) bool {
	if !given {
		return v.none
	}
	switch {
	case v.list:
		parts := strings.Split(s, ",")
		return !slices.ContainsFunc(parts, func(p string) bool { return !slices.Contains(v.words, strings.TrimPrefix(p, "^")) })
	case len(v.words) > 0:
		return slices.Contains(v.words, s)
	}
	n, ok := parseNumber(s, v.suffix)
	return ok && v.max > 0 && v.min <= n && n <= v.max
}

// parseNumber takes plain decimal digits: no sign, no blank, no other notation, which mkfs might read differently.
func parseNumber(s string, suffix bool) (int64, bool) {
	shift := 0
	if suffix && s != "" {
		if i := strings.IndexByte("kmg", s[len(s)-1]|0x20); i >= 0 {
			shift = 10 * (i + 1)
			s = s[:len(s)-1]
		}
	}
	if s == "" || strings.Trim(s, "0123456789") != "" || len(s) > 12 {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n > 1<<62>>shift {
		return 0, false
	}
	return n << shift, true
}

// names returns what a table allows, each with its values, for an error message.
func names(table map[string]value) []string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(table)) {
		v := table[name]
		switch d := v.describe(); {
		case d == "":
			all = append(all, name)
		case v.none:
			all = append(all, name+"[="+d+"]")
		default:
			all = append(all, name+"="+d)
		}
	}
	return all
}
