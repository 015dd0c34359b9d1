// SPDX-License-Identifier: Apache-2.0

package keyslot_test

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/voluks/voluks/keyslot"
	"github.com/voluks/voluks/luks"
)

func TestSetVolume(t *testing.T) {
	everywhere(t, func(t *testing.T, l lab) {
		n := newNode(t)
		start := l.blank(t)
		c := n.formatted(t, start)
		v := volumeToken()
		v.UUID, v.HighestGeneration = "", 0 // filled in
		if err := keyslot.SetVolume(c, v); err != nil {
			t.Fatal(err)
		}
		want := volumeToken()
		want.HighestGeneration = 1
		if got := state(t, c).Volume; got == nil || !reflect.DeepEqual(*got, want) {
			t.Errorf("got %+v", got)
		}
		// The same again writes nothing.
		p := start()
		if err := keyslot.SetVolume(p.c, v); err != nil || p.steps() != 0 {
			t.Errorf("again: %d writes, %v", p.steps(), err)
		}
		// It replaces itself, and the highest generation does not fall.
		v.Name, v.HighestGeneration = "renamed", 7
		if err := keyslot.SetVolume(c, v); err != nil {
			t.Fatal(err)
		}
		v.HighestGeneration = 3
		if err := keyslot.SetVolume(c, v); err != nil {
			t.Fatal(err)
		}
		h, err := c.Header()
		if err != nil {
			t.Fatal(err)
		}
		if got := state(t, c).Volume; len(h.Tokens) != 3 || got.Name != "renamed" || got.HighestGeneration != 7 {
			t.Errorf("%d tokens, %+v", len(h.Tokens), got)
		}
	})
}

// The token is there or not, whenever the program dies, and the next one writes it.
func TestSetVolumeCrashes(t *testing.T) {
	everywhere(t, func(t *testing.T, l lab) {
		n := newNode(t)
		start := l.blank(t)
		n.formatted(t, start)
		operation := func(p program) error { return keyslot.SetVolume(p.c, volumeToken()) }
		for _, how := range []string{failsAt, diesAfter} {
			cut(start, how, 1, operation)
			if got := state(t, start().c).Volume != nil; got != (how == diesAfter) {
				t.Errorf("%s: %v", how, got)
			}
			n.opens(t, start().c)
		}
		if err := operation(start()); err != nil {
			t.Fatal(err)
		}
		n.opens(t, start().c)
	})
}

func TestSetVolumeRefuses(t *testing.T) {
	everywhere(t, func(t *testing.T, l lab) {
		n := newNode(t)
		c := l.blank(t)().c
		p := params()
		p.Slot, p.Key = 31, randomKey(t)
		if err := c.Format(p); err != nil {
			t.Fatal(err)
		}
		if err := keyslot.SetVolume(c, volumeToken()); !errors.Is(err, keyslot.ErrNoAgentSlot) {
			t.Errorf("no agent slot: %v", err)
		}

		start := l.blank(t)
		c = n.formatted(t, start)
		for name, change := range map[string]func(*keyslot.VolumeToken){
			"no name": func(v *keyslot.VolumeToken) { v.Name = "" },
			"no UUID": func(v *keyslot.VolumeToken) { v.FSUUID = "" },
		} {
			v := volumeToken()
			change(&v)
			again := start()
			if err := keyslot.SetVolume(again.c, v); err == nil || again.steps() != 0 {
				t.Errorf("%s: %d writes, %v", name, again.steps(), err)
			}
		}
		// Others' tokens count: the limit is that of the header.
		filler := `{"type":"somebody","keyslots":[],"x":"` + strings.Repeat("x", 23<<10) + `"}`
		set(t, c, -1, filler)
		again := start()
		var large *keyslot.TooLargeError
		if err := keyslot.SetVolume(again.c, volumeToken()); !errors.As(err, &large) || again.steps() != 0 {
			t.Errorf("too large: %d writes, %v", again.steps(), err)
		}
	})
}

// Slots and tokens of others are told by what made them, and survive whatever is done here. F35
func TestOthers(t *testing.T) {
	everywhere(t, func(t *testing.T, l lab) {
		n := newNode(t)
		c := n.formatted(t, l.blank(t))
		slot, key, err := keyslot.Unlock(t.Context(), c, n.Keyring)
		if err != nil {
			t.Fatal(err)
		}
		defer key.Wipe()
		for i, kind := range []string{"example-tpm", "clevis"} {
			if err := c.AddSlot(luks.Auth{Slot: slot, Key: key}, i, randomKey(t), luks.KDFRandomKey); err != nil {
				t.Fatal(err)
			}
			set(t, c, -1, fmt.Sprintf(`{"type":%q,"keyslots":["%d"],"anything":{"a":[1]}}`, kind, i))
		}
		before, err := c.Header()
		if err != nil {
			t.Fatal(err)
		}
		if err := keyslot.SetVolume(c, volumeToken()); err != nil {
			t.Fatal(err)
		}
		if err := keyslot.Complete(t.Context(), c, n.Keyring); err != nil {
			t.Fatal(err)
		}
		after, err := c.Header()
		if err != nil {
			t.Fatal(err)
		}
		for id, token := range before.Tokens {
			if !reflect.DeepEqual(after.Tokens[id], token) {
				t.Errorf("token %d changed from %s to %s", id, token.JSON, after.Tokens[id].JSON)
			}
		}
		if !reflect.DeepEqual(after.Keyslots, before.Keyslots) {
			t.Error("key slots changed")
		}
		s := state(t, c)
		if len(s.Slots) != 4 || s.Slots[2].Kind != "clevis" || s.Slots[3].Kind != "example-tpm" || s.Slots[2].Managed {
			t.Errorf("slots %+v", s.Slots)
		}
	})
}
