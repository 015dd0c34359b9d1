// SPDX-License-Identifier: Apache-2.0

package config

import (
	"reflect"
	"slices"
	"strings"
)

// The structs below are the file as it is written. Their tags are the only list of known keys:
// names, kinds and suggestions are taken from them.

type document struct {
	KEK      kekTable      `toml:"kek"`
	Previous []kekTable    `toml:"previous"`
	Recovery recoveryTable `toml:"recovery"`
	Volumes  struct {
		DefaultSize string `toml:"default_size"`
		DefaultFS   string `toml:"default_fs"`
		Overcommit  bool   `toml:"overcommit"`
		Workqueue   string `toml:"workqueue"`
	} `toml:"volumes"`
	Backing struct {
		Devices      []string `toml:"devices"`
		VolumeGroups []string `toml:"volume_groups"`
	} `toml:"backing"`
	Docker struct {
		Socket string `toml:"socket"`
	} `toml:"docker"`
	Backup struct {
		Directory string `toml:"directory"`
	} `toml:"backup"`
	Remove struct {
		Keep string `toml:"keep"`
	} `toml:"remove"`
	Rotation struct {
		MaxAge string `toml:"max_age"`
	} `toml:"rotation"`
}

// kekTable has one table of settings per provider: a field here and in KEK, and a case in
// kekTable.selected are all that a new provider needs in this package.
type kekTable struct {
	Provider   string     `toml:"provider"`
	Timeout    string     `toml:"timeout"`
	File       File       `toml:"file"`
	KeyDir     KeyDir     `toml:"keydir"`
	Credential Credential `toml:"credential"`
	AWSKMS     AWSKMS     `toml:"awskms"`
	Vault      Vault      `toml:"vault"`
	Clevis     Clevis     `toml:"clevis"`
	Exec       Exec       `toml:"exec"`
}

type recoveryTable struct {
	Recipients []string `toml:"recipients"`
	Confirmed  bool     `toml:"confirmed"`
	Drill      string   `toml:"drill"`
}

// kind is what a key holds, in the words of an error message.
type kind string

const (
	isTable  kind = "a table"
	isTables kind = "a list of tables"
	isString kind = "a string in quotes"
	isBool   kind = "true or false"
	isList   kind = "a list of strings"
)

// key is one known key. Elements of lists of tables are written without their index.
type key struct {
	path string
	kind kind
}

// schema lists the known keys of the document.
func schema() []key {
	return keysOf(reflect.TypeFor[document](), "", nil)
}

func keysOf(t reflect.Type, prefix string, keys []key) []key {
	for i := range t.NumField() {
		field := t.Field(i)
		path := prefix + field.Tag.Get("toml")
		switch field.Type.Kind() {
		case reflect.Struct:
			keys = keysOf(field.Type, path+".", append(keys, key{path, isTable}))
		case reflect.Bool:
			keys = append(keys, key{path, isBool})
		case reflect.Slice:
			if elem := field.Type.Elem(); elem.Kind() == reflect.Struct {
				keys = keysOf(elem, path+".", append(keys, key{path, isTables}))
			} else {
				keys = append(keys, key{path, isList})
			}
		default:
			keys = append(keys, key{path, isString})
		}
	}
	return keys
}

// children are the names directly below a table; "" is the top of the file.
func children(keys []key, table string) []string {
	var names []string
	for _, k := range keys {
		parent, name := "", k.path
		if i := strings.LastIndexByte(k.path, '.'); i >= 0 {
			parent, name = k.path[:i], k.path[i+1:]
		}
		if parent == table {
			names = append(names, name)
		}
	}
	return names
}

// providers are the names of the key providers.
func providers() []string {
	return slices.DeleteFunc(children(schema(), "kek"), func(s string) bool { return s == "provider" || s == "timeout" })
}

// Nearest returns the one of names that name was most likely meant to be, or "" if none is near: at
// most two slips in a short word, a third of the letters in a long one.
func Nearest(name string, names []string) string {
	best, least := "", max(2, len(name)/3)+1
	for _, candidate := range names {
		if d := distance(strings.ToLower(name), strings.ToLower(candidate)); d < least && d < len(candidate) {
			best, least = candidate, d
		}
	}
	return best
}

// distance is the number of letters inserted, left out, changed or swapped with their neighbour
// between a and b (optimal string alignment).
func distance(a, b string) int {
	before, previous := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range previous {
		previous[j] = j
	}
	for i := 1; i <= len(a); i++ {
		current := make([]int, len(b)+1)
		current[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			current[j] = min(previous[j]+1, current[j-1]+1, previous[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				current[j] = min(current[j], before[j-2]+1)
			}
		}
		before, previous = previous, current
	}
	return previous[len(b)]
}
