// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/kek/kektest"
	"github.com/voluks/voluks/internal/volume"
)

func refs(ids ...string) []kek.Ref {
	var all []kek.Ref
	for _, id := range ids {
		all = append(all, kek.Ref{Provider: "memory", ID: id})
	}
	return all
}

// An old key is free when no volume needs it, removed ones included, whether or not any has ever used it; and none is while one volume cannot be read.
func TestVerdicts(t *testing.T) {
	keys := &kek.Set{Active: kektest.NewMemory("now").New(), Previous: []kek.Provider{kektest.NewMemory("old").New()}}
	moved := volume.KeyUse{Volume: "moved", Keys: refs("now"), History: refs("older", "now")}
	fresh := volume.KeyUse{Volume: "fresh", Keys: refs("now"), History: refs("now")}
	behind := volume.KeyUse{Volume: "behind", Keys: refs("old"), History: refs("old")}
	removed := volume.KeyUse{Volume: "gone", UUID: "1-2", Removed: true, Keys: refs("old"), History: refs("old")}
	unread := volume.KeyUse{Volume: "unread", Err: errors.New("I/O error")}
	for _, test := range []struct {
		uses    []volume.KeyUse
		free    string
		needed  string
		unknown string
	}{
		{nil, "[old]", "", "[]"},
		{[]volume.KeyUse{fresh}, "[old]", "", "[]"},
		{[]volume.KeyUse{fresh, moved}, "[old older]", "", "[]"},
		{[]volume.KeyUse{moved, behind, removed}, "[older]", "old:[behind gone (removed, 1-2)]", "[]"},
		{[]volume.KeyUse{moved, unread}, "[]", "", "[unread]"},
		{[]volume.KeyUse{unread}, "[]", "", "[unread]"},
	} {
		all, unknown := verdicts(test.uses, keys)
		free, needed := []string{}, ""
		for _, v := range all {
			if v.free() {
				free = append(free, v.Key.ID)
			}
			if len(v.Needed) > 0 {
				needed += fmt.Sprint(v.Key.ID, ":", v.Needed)
			}
		}
		if fmt.Sprint(free) != test.free || needed != test.needed || fmt.Sprint(unknown) != test.unknown {
			t.Errorf("%+v: free %v, needed %s, unknown %v", test.uses, free, needed, unknown)
		}
	}
}

// Only a key that this node has to do with can be revoked, and not the active one: the good news must not be about a mistyped name.
func TestRevocable(t *testing.T) {
	keys := &kek.Set{Active: kektest.NewMemory("now").New(), Previous: []kek.Provider{kektest.NewMemory("old").New()}}
	uses := []volume.KeyUse{{Volume: "db", Keys: refs("now"), History: refs("now", "older"), Former: refs("oldest")}}
	for given, want := range map[string]string{
		"old": "old", "memory:old": "old", "older": "older", "oldest": "oldest", "memory:oldest": "oldest",
		"now": "!active", "memory:now": "!active", "olds": "!keys that were: memory:old, memory:older, memory:oldest", "file:old": "!no volume", "": "!no volume",
	} {
		id, err := revocable(given, keys, uses)
		if bad, is := strings.CutPrefix(want, "!"); is {
			if err == nil || !strings.Contains(err.Error(), bad) {
				t.Errorf("%q: %q, %v", given, id, err)
			}
		} else if err != nil || id != want {
			t.Errorf("%q: %q, %v", given, id, err)
		}
	}
}
