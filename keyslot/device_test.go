// SPDX-License-Identifier: Apache-2.0

package keyslot_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/voluks/voluks/internal/secret"
	"github.com/voluks/voluks/internal/testenv"
	"github.com/voluks/voluks/keyslot"
	"github.com/voluks/voluks/luks"
	"github.com/voluks/voluks/luks/header"
)

const deviceUUID = "5d0c7a3e-90a4-4d7e-8a40-2f6b8f0c1d22"

// device makes a container with one slot, number 0, that nobody's token names.
func device(t testing.TB, start func() program, key *secret.Key) {
	t.Helper()
	if err := start().c.Format(luks.FormatParams{UUID: deviceUUID, SectorSize: 512, Slot: 0, Key: key}); err != nil {
		t.Fatal(err)
	}
}

func slotsOf(t testing.TB, c keyslot.Container) []int {
	t.Helper()
	h, err := c.Header()
	if err != nil {
		t.Fatal(err)
	}
	var numbers []int
	for n := range h.Keyslots {
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	return numbers
}

// F29 F31 F32: killed after any write, and with any write failing, the old key or the new one opens the device; the same call again ends with the new
// slot alone.
func TestReplaceKeyCutShort(t *testing.T) {
	everywhere(t, func(t *testing.T, l lab) {
		for _, way := range l.ways {
			for k := 1; ; k++ {
				start := l.blank(t)
				old, next := randomKey(t), randomKey(t)
				device(t, start, old)
				p := start()
				if way == diesAfter {
					p.dieAfter(k)
				} else {
					p.failAt(k)
				}
				done, err := keyslot.ReplaceKey(t.Context(), p.c, luks.Auth{Slot: 0, Key: old}, next, luks.KDFRandomKey)
				if p.steps() < k {
					if err != nil || done.OldSlot != 0 || done.NewSlot != 1 || done.Resumed || k < 3 {
						t.Fatalf("%s %d: %+v, %v", way, k, done, err)
					}
					break
				}
				c := start().c
				opensOld, opensNew := c.TestSlot(0, old) == nil, c.TestSlot(1, next) == nil
				if !opensOld && !opensNew {
					t.Fatalf("%s %d: nothing opens it", way, k)
				}
				if way == failsAt && !opensOld && err != nil {
					t.Errorf("%s %d: the old slot is gone, and the error is %v", way, k, err)
				}
				if opensOld {
					if done, err = keyslot.ReplaceKey(t.Context(), c, luks.Auth{Slot: 0, Key: old}, next, luks.KDFRandomKey); err != nil || done.Resumed != opensNew {
						t.Errorf("%s %d: again: %+v, %v", way, k, done, err)
					}
				}
				if got := slotsOf(t, c); !slices.Equal(got, []int{1}) || c.TestSlot(1, next) != nil {
					t.Errorf("%s %d: slots %v in the end", way, k, got)
				}
			}
		}
	})
}

// F31 F34: nothing goes before another slot has opened, and nothing that a token names; slot 0 is a slot.
func TestRemoveKey(t *testing.T) {
	everywhere(t, func(t *testing.T, l lab) {
		start := l.blank(t)
		first, second, third := randomKey(t), randomKey(t), randomKey(t)
		device(t, start, first)
		c := start().c
		auth := luks.Auth{Slot: 0, Key: first}
		if err := keyslot.RemoveKey(t.Context(), c, 0, &auth, false); !errors.Is(err, luks.ErrLastSlot) {
			t.Errorf("the last one: %v", err)
		}
		for i, key := range []*secret.Key{second, third} {
			if done, err := keyslot.AddKey(t.Context(), c, auth, -1, key, luks.KDFRandomKey); err != nil || done.NewSlot != i+1 || len(done.ProvedBy) != 2 {
				t.Fatalf("%+v, %v", done, err)
			}
		}
		if done, err := keyslot.AddKey(t.Context(), c, auth, -1, third, luks.KDFRandomKey); err != nil || !done.Resumed || done.NewSlot != 2 {
			t.Errorf("again: %+v, %v", done, err)
		}
		if _, err := keyslot.AddKey(t.Context(), c, auth, 0, randomKey(t), luks.KDFRandomKey); !errors.Is(err, luks.ErrSlotOccupied) {
			t.Errorf("over slot 0: %v", err)
		}
		if _, err := keyslot.AddKey(t.Context(), c, luks.Auth{Slot: 0, Key: second}, -1, randomKey(t), luks.KDFRandomKey); !errors.Is(err, luks.ErrWrongKey) {
			t.Errorf("wrong key: %v", err)
		}
		if _, err := c.SetToken(-1, []byte(`{"type":"clevis","keyslots":["2"],"jwe":{}}`)); err != nil {
			t.Fatal(err)
		}
		for name, test := range map[string]struct {
			number int
			other  *luks.Auth
			want   error
		}{
			"nothing shown":      {0, nil, keyslot.ErrUntested},
			"itself":             {0, &auth, keyslot.ErrUntested},
			"wrong key":          {0, &luks.Auth{Slot: 1, Key: first}, luks.ErrWrongKey},
			"no slot":            {7, &auth, luks.ErrNoSlot},
			"a token names it":   {2, &auth, keyslot.ErrManaged},
			"other is not there": {0, &luks.Auth{Slot: 9, Key: second}, luks.ErrNoSlot},
		} {
			if err := keyslot.RemoveKey(t.Context(), c, test.number, test.other, true); !errors.Is(err, test.want) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if _, err := keyslot.ReplaceKey(t.Context(), c, luks.Auth{Slot: 2, Key: third}, randomKey(t), luks.KDFRandomKey); !errors.Is(err, keyslot.ErrManaged) {
			t.Errorf("replace what a token names: %v", err)
		}
		if got := slotsOf(t, c); !slices.Equal(got, []int{0, 1, 2}) {
			t.Fatalf("refused, and slots are %v", got)
		}
		if err := keyslot.RemoveKey(t.Context(), c, 0, &luks.Auth{Slot: 1, Key: second}, false); err != nil {
			t.Error(err)
		}
		if got := slotsOf(t, c); !slices.Equal(got, []int{1, 2}) {
			t.Errorf("slots %v", got)
		}

		// The new slot of a rotation that died belongs to its journal.
		start = l.blank(t)
		n := newNode(t)
		c = start().c
		if err := errors.Join(keyslot.Format(t.Context(), c, n.Keyring, params()), keyslot.SetVolume(c, newVolume())); err != nil {
			t.Fatal(err)
		}
		p := start()
		p.dieAfter(2)
		if _, err := keyslot.Rotate(t.Context(), p.c, n.Keyring, keyslot.RoleAgent); err == nil {
			t.Fatal("the rotation did not die")
		}
		slot, key, err := keyslot.Unlock(t.Context(), c, n.Keyring)
		if err != nil {
			t.Fatal(err)
		}
		defer key.Wipe()
		before := slotsOf(t, c)
		if err := keyslot.RemoveKey(t.Context(), c, before[0], &luks.Auth{Slot: slot, Key: key}, false); !errors.Is(err, keyslot.ErrManaged) || len(before) != 3 {
			t.Errorf("of a rotation: %v, slots %v", err, before)
		}
	})
}

// weakening is a container whose new slots come out cheaper than was asked for.
type weakening struct{ keyslot.Container }

func (w weakening) AddSlot(auth luks.Auth, slot int, key *secret.Key, kdf luks.KDF) error {
	if err := w.Container.AddSlot(auth, slot, key, kdf); err != nil {
		return err
	}
	return errors.New("read back another header than was written")
}

// F38: a new slot that is not as it was asked for is gone again, and the old one stays.
func TestReplaceKeyAssertsItsDerivation(t *testing.T) {
	testenv.Outside(t)
	start := realLab(t)
	old := randomKey(t)
	device(t, start, old)
	c := weakening{start().c}
	if _, err := keyslot.ReplaceKey(t.Context(), c, luks.Auth{Slot: 0, Key: old}, randomKey(t), luks.KDFRandomKey); err == nil {
		t.Error("taken")
	}
	if got := slotsOf(t, c); !slices.Equal(got, []int{0}) || c.TestSlot(0, old) != nil {
		t.Errorf("slots %v", got)
	}
	passphrase := sliceKey(t, "velvet compass orchid")
	kdf := luks.AtLeast(header.KDF{Type: "argon2id", Time: 5, Memory: 70 << 10, CPUs: 1})
	done, err := keyslot.ReplaceKey(t.Context(), start().c, luks.Auth{Slot: 0, Key: old}, passphrase, kdf)
	if err != nil {
		t.Fatal(err)
	}
	h, err := start().c.Header()
	if err != nil {
		t.Fatal(err)
	}
	if k := h.Keyslots[done.NewSlot].KDF; k.Type != "argon2id" || k.Time != 5 || k.Memory != 70<<10 {
		t.Errorf("the new slot has %+v", k)
	}
}

func sliceKey(t testing.TB, text string) *secret.Key {
	t.Helper()
	k, err := secret.Move([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Wipe)
	return k
}
