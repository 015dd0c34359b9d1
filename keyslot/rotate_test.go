// SPDX-License-Identifier: Apache-2.0

package keyslot_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/kek/kektest"
	"github.com/voluks/voluks/internal/secret"
	"github.com/voluks/voluks/internal/testenv"
	"github.com/voluks/voluks/keyslot"
	"github.com/voluks/voluks/luks"
	"github.com/voluks/voluks/luks/header"
)

var roles = []string{keyslot.RoleAgent, keyslot.RoleRecovery}

// ready is a container with everything, in use.
func (n *node) ready(t testing.TB, start func() program) keyslot.Container {
	t.Helper()
	c := n.formatted(t, start)
	if err := keyslot.SetVolume(c, newVolume()); err != nil {
		t.Fatal(err)
	}
	return c
}

// newVolume is the token of a volume that was just made.
func newVolume() keyslot.VolumeToken {
	v := volumeToken()
	v.HighestGeneration = 0 // filled in
	return v
}

// inOrder checks that there is one proven slot of each role in the usual derivation, that three tokens
// say all, and that nothing is left to do. It returns the slots. F32 F38
func (n *node) inOrder(t testing.TB, start func() program) keyslot.Slots {
	t.Helper()
	p := start()
	c := p.c
	found, err := keyslot.Recover(t.Context(), c, n.Keyring)
	if err != nil || p.steps() != 0 || found.Finished != nil || found.Undone != "" || found.Left != nil {
		t.Fatalf("there was something left to do: %+v, %d writes, %v", found, p.steps(), err)
	}
	h, err := c.Header()
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Strict(header.Expect{UUID: uuid, SectorSize: 4096}); err != nil {
		t.Error(err)
	}
	s := state(t, c)
	if len(s.Slots) != 2 || len(h.Tokens) != 3 || s.Slots[0].Role == s.Slots[1].Role || s.Interrupted() {
		t.Fatalf("slots %+v, %d tokens", s.Slots, len(h.Tokens))
	}
	for number, slot := range h.Keyslots {
		if slot.KDF.Type != "pbkdf2" || slot.KDF.Hash != "sha256" || slot.KDF.Iterations != 1000 || slot.KeySize != 64 {
			t.Errorf("slot %d: %+v", number, slot)
		}
	}
	n.opens(t, c)
	n.recovers(t, c)
	return s
}

// slotOf is the one slot of a role.
func slotOf(t testing.TB, s keyslot.Slots, role string) keyslot.Slot {
	t.Helper()
	i := slices.IndexFunc(s.Slots, func(s keyslot.Slot) bool { return s.Role == role })
	if i < 0 {
		t.Fatalf("no %s slot in %+v", role, s.Slots)
	}
	return s.Slots[i]
}

// keyOf is the key of a role.
func (n *node) keyOf(t testing.TB, c keyslot.Container, role string) *secret.Key {
	t.Helper()
	var key *secret.Key
	var err error
	if role == keyslot.RoleAgent {
		_, key, err = keyslot.Unlock(t.Context(), c, n.Keyring)
	} else {
		_, key, err = keyslot.UnlockRecovery(c, n.identities)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(key.Wipe)
	return key
}

// F29 F30 F31 F38: the role has a new key in a new slot; the old key opens nothing any more; the other
// role is untouched.
func TestRotate(t *testing.T) {
	everywhere(t, func(t *testing.T, l lab) {
		for _, role := range roles {
			n := newNode(t)
			start := l.blank(t)
			c := n.ready(t, start)
			before := n.inOrder(t, start)
			old := n.keyOf(t, c, role)
			r, err := keyslot.Rotate(t.Context(), c, n.Keyring, role)
			if err != nil {
				t.Fatal(err)
			}
			after := n.inOrder(t, start)
			was, is := slotOf(t, before, role), slotOf(t, after, role)
			if r.OldSlot != was.Number || r.NewSlot != is.Number || r.NewSlot == r.OldSlot || r.OldGeneration != 1 || r.NewGeneration != 2 ||
				is.Generation != 2 || r.Role != role || r.UUID != uuid || r.Resumed || len(r.ProvedBy) != 2 || r.Operation == "" || r.Ended.IsZero() {
				t.Errorf("%s: receipt %+v for %+v and %+v", role, r, was, is)
			}
			for _, other := range roles {
				if a, b := slotOf(t, before, other), slotOf(t, after, other); other != role && !reflect.DeepEqual(a, b) {
					t.Errorf("%s: the other slot was %+v and is %+v", role, a, b)
				}
			}
			key := n.keyOf(t, c, role)
			if key.Equal(old) {
				t.Errorf("%s: the key is the same", role)
			}
			for _, slot := range after.Slots {
				if err := c.TestSlot(slot.Number, old); !errors.Is(err, luks.ErrWrongKey) {
					t.Errorf("%s: the old key on slot %d: %v", role, slot.Number, err)
				}
			}
		}
	})
}

// The enumeration of the table in rotate.go: the program dies after write k, or write k fails, for
// every k. At every moment the node and the identity open the container, also with a program that
// knows nothing of rotations; the next rotation ends clean. F29 F31 F32 F33
func TestRotateCrashes(t *testing.T) {
	everywhere(t, func(t *testing.T, l lab) {
		for _, role := range roles {
			n := newNode(t)
			operation := func(p program) error {
				_, err := keyslot.Rotate(t.Context(), p.c, n.Keyring, role)
				return err
			}
			start := l.blank(t)
			n.ready(t, start)
			writes := countWrites(t, start, operation)
			if writes != 5 {
				t.Errorf("%d writes", writes)
			}
			for k := 1; k <= writes; k++ {
				for _, how := range l.ways {
					t.Run(fmt.Sprintf("%s %s %d", role, how, k), func(t *testing.T) {
						start := l.blank(t)
						n.ready(t, start)
						cut(start, how, k, operation)
						n.opens(t, start().c)
						n.recovers(t, start().c)
						// The repair may die as well, at each of its writes, and again.
						for again := 1; l.name == "fake"; again++ {
							p := start()
							p.dieAfter(again)
							_, err := keyslot.Recover(t.Context(), p.c, n.Keyring)
							n.opens(t, start().c)
							n.recovers(t, start().c)
							if err == nil || again > 6 {
								break
							}
						}
						if _, err := keyslot.Recover(t.Context(), start().c, n.Keyring); err != nil {
							t.Fatal(err)
						}
						n.inOrder(t, start)
						if l.name == "luks" {
							return
						}
						if err := operation(start()); err != nil {
							t.Fatal(err)
						}
						n.inOrder(t, start)
					})
				}
			}
		}
	})
}

// What was interrupted after the slot was made is continued by the next rotation, and told; before
// that it is taken back and begun anew.
func TestRotateResumes(t *testing.T) {
	everywhere(t, func(t *testing.T, l lab) {
		for _, role := range roles {
			for k := 1; k <= 4; k++ {
				if l.name == "luks" && k != 2 {
					continue // TestRotateCrashes has them
				}
				n := newNode(t)
				start := l.blank(t)
				n.ready(t, start)
				operation := func(p program) error {
					_, err := keyslot.Rotate(t.Context(), p.c, n.Keyring, role)
					return err
				}
				cut(start, diesAfter, k, operation)
				r, err := keyslot.Rotate(t.Context(), start().c, n.Keyring, role)
				if err != nil {
					t.Fatal(err)
				}
				if r.Resumed != (k > 1) || r.OldGeneration != 1 || r.NewGeneration != 2 || r.Role != role {
					t.Errorf("%s, killed after %d: %+v", role, k, r)
				}
				if s := n.inOrder(t, start); slotOf(t, s, role).Generation != 2 {
					t.Errorf("%s, killed after %d: %+v", role, k, s.Slots)
				}
			}
		}
	})
}

// F32 F38: a hundred rotations leave as many slots and tokens as there were, and the header as large.
func TestHundredRotations(t *testing.T) { rotations(t, fakeLab, 100) }

// The real thing takes too long for a hundred outside the guest.
func TestSomeRotations(t *testing.T) { rotations(t, realLab, 8) }

func TestGuestHundredRotations(t *testing.T) {
	testenv.Guest(t)
	rotations(t, realLab, 100)
}

func rotations(t *testing.T, blank func(testing.TB) func() program, times int) {
	n := newNode(t)
	start := blank(t)
	c := n.ready(t, start)
	size := 0
	for i := range times {
		if _, err := keyslot.Rotate(t.Context(), c, n.Keyring, roles[i%2]); err != nil {
			t.Fatalf("rotation %d: %v", i, err)
		}
		h, err := c.Header()
		if err != nil {
			t.Fatal(err)
		}
		if len(h.Keyslots) != 2 || len(h.Tokens) != 3 {
			t.Fatalf("rotation %d: %d slots, %d tokens", i, len(h.Keyslots), len(h.Tokens))
		}
		switch total := len(h.JSON); {
		case i == 1:
			size = total
		case i > 1 && (total < size-8 || total > size+8): // digits of the generation and of offsets
			t.Fatalf("rotation %d: %d bytes of metadata, %d before", i, total, size)
		}
	}
	if s := n.inOrder(t, start); s.Generation() != uint64(times)+1 {
		t.Errorf("generation %d", s.Generation())
	}
}

// F31 F35: whatever others have put into the header survives a hundred operations: with token, with
// the derivation of a person's passphrase, and with exactly our parameters.
func TestRotateLeavesOthersAlone(t *testing.T) {
	everywhere(t, func(t *testing.T, l lab) {
		n := newNode(t)
		start := l.blank(t)
		c := n.ready(t, start)
		slot, key, err := keyslot.Unlock(t.Context(), c, n.Keyring)
		if err != nil {
			t.Fatal(err)
		}
		defer key.Wipe()
		keys := map[int]*secret.Key{0: randomKey(t), 3: randomKey(t), 29: randomKey(t)}
		for number, key2 := range keys {
			if err := c.AddSlot(luks.Auth{Slot: slot, Key: key}, number, key2, luks.KDFRandomKey); err != nil {
				t.Fatal(err)
			}
		}
		set(t, c, -1, `{"type":"clevis","keyslots":["0"],"jwe":{}}`)
		for i := range len(l.ways) * 5 {
			operation := func(p program) error {
				_, err := keyslot.Rotate(t.Context(), p.c, n.Keyring, roles[i%2])
				return err
			}
			cut(start, diesAfter, 1+i%5, operation)
			if err := operation(start()); err != nil {
				t.Fatal(err)
			}
		}
		s := state(t, c)
		if len(s.Slots) != 5 || s.Interrupted() {
			t.Errorf("slots %+v", s.Slots)
		}
		for number, key := range keys {
			if err := c.TestSlot(number, key); err != nil {
				t.Errorf("slot %d: %v", number, err)
			}
		}
	})
}

// Undo destroys a slot only if the interrupted rotation can be shown to have made it.
func TestUndo(t *testing.T) {
	testenv.Outside(t)
	everywhere(t, func(t *testing.T, l lab) {
		for name, test := range map[string]struct {
			kdf   luks.KDF
			token string // of somebody, that names the slot
			kept  bool
		}{
			"our parameters":     {luks.KDFRandomKey, "", false}, // torn: not the key of the journal
			"a passphrase":       {luks.KDFPassphrase, "", true},
			"somebody's token":   {luks.KDFRandomKey, `{"type":"clevis","keyslots":["29"],"jwe":{}}`, true},
			"passphrase and all": {luks.KDFPassphrase, `{"type":"clevis","keyslots":["29"],"jwe":{}}`, true},
		} {
			if l.name == "luks" && test.kdf == luks.KDFPassphrase && test.token != "" {
				continue // Argon2id takes its time
			}
			t.Run(name, func(t *testing.T) {
				n := newNode(t)
				start := l.blank(t)
				c := n.ready(t, start)
				cut(start, diesAfter, 1, func(p program) error {
					_, err := keyslot.Rotate(t.Context(), p.c, n.Keyring, keyslot.RoleAgent)
					return err
				})
				slot, key, err := keyslot.Unlock(t.Context(), c, n.Keyring)
				if err != nil {
					t.Fatal(err)
				}
				defer key.Wipe()
				theirs := randomKey(t)
				if err := c.AddSlot(luks.Auth{Slot: slot, Key: key}, 29, theirs, test.kdf); err != nil {
					t.Fatal(err)
				}
				if test.token != "" {
					set(t, c, -1, test.token)
				}
				found, err := keyslot.Recover(t.Context(), c, n.Keyring)
				if err != nil {
					t.Fatal(err)
				}
				if test.kept != slices.Equal(found.Left, []int{29}) || found.Undone == "" || found.Finished != nil {
					t.Errorf("found %+v", found)
				}
				if err := c.TestSlot(29, theirs); (err == nil) != test.kept {
					t.Errorf("the slot: %v", err)
				}
				if s := state(t, c); s.Interrupted() {
					t.Errorf("%+v", s)
				}
				n.opens(t, c)
			})
		}
	})
}

// Each prover alone stops a rotation: the old slot stays, the new one is gone. F29 F31
func TestRotateProof(t *testing.T) {
	n := newNode(t)
	for _, role := range roles {
		for _, by := range []string{"libcryptsetup", "luks.go"} {
			start := realLab(t)
			n.ready(t, start)
			before := n.inOrder(t, start)
			_, err := keyslot.Rotate(t.Context(), doubt{start().c, by, 29}, n.Keyring, role)
			var proof *keyslot.ProofError
			if !errors.As(err, &proof) || proof.By != by || proof.Slot != 29 {
				t.Errorf("%s, %s: %v", role, by, err)
			}
			if after := n.inOrder(t, start); !reflect.DeepEqual(after.Slots, before.Slots) {
				t.Errorf("%s, %s: slots %+v", role, by, after.Slots)
			}
		}
	}
}

// Recover destroys nothing while the agent slot is not proven to open. F31
func TestRecoverProvesFirst(t *testing.T) {
	for _, k := range []int{2, 3, 4} {
		n := newNode(t)
		start := fakeLab(t)
		n.ready(t, start)
		cut(start, diesAfter, k, func(p program) error {
			_, err := keyslot.Rotate(t.Context(), p.c, n.Keyring, keyslot.RoleAgent)
			return err
		})
		for _, by := range []string{"libcryptsetup", "luks.go"} {
			p := start()
			var proof *keyslot.ProofError
			if _, err := keyslot.Recover(t.Context(), doubt{p.c, by, n.opens(t, start().c)}, n.Keyring); !errors.As(err, &proof) || p.steps() != 0 {
				t.Errorf("killed after %d, %s: %d writes, %v", k, by, p.steps(), err)
			}
		}
		n.provider.Fail(kek.ErrUnavailable)
		p := start()
		if _, err := keyslot.Recover(t.Context(), p.c, n.Keyring); !errors.Is(err, kek.ErrUnavailable) || p.steps() != 0 {
			t.Errorf("killed after %d: %d writes, %v", k, p.steps(), err)
		}
		n.provider.Fail(nil)
		if _, err := keyslot.Recover(t.Context(), start().c, n.Keyring); err != nil {
			t.Fatal(err)
		}
		n.inOrder(t, start)
	}
}

// A disk that does not take the header down: nothing is concluded by this process. F29
func TestRotateSyncFails(t *testing.T) {
	n := newNode(t)
	path := image(t)
	start := func() program { return program{c: &stepper{Container: luks.At(path)}} }
	n.ready(t, start)
	s := &stepper{Container: luks.At(path), noSync: true}
	if _, err := keyslot.Rotate(t.Context(), s, n.Keyring, keyslot.RoleAgent); err == nil || s.n != 1 {
		t.Errorf("%d writes, %v", s.n, err)
	}
	n.opens(t, luks.At(path))
	if _, err := keyslot.Rotate(t.Context(), luks.At(path), n.Keyring, keyslot.RoleAgent); err != nil {
		t.Error(err)
	}
}

// Whatever fails before the first write leaves the header as it was.
func TestRotateRefuses(t *testing.T) {
	everywhere(t, func(t *testing.T, l lab) {
		start := l.blank(t)
		n := newNode(t)
		n.ready(t, start)
		stopped, stop := context.WithCancel(t.Context())
		stop()
		for name, test := range map[string]struct {
			ctx   context.Context
			role  string
			spoil func(*keyslot.Keyring)
			want  error
		}{
			"provider down": {t.Context(), keyslot.RoleAgent, func(*keyslot.Keyring) { n.provider.Fail(kek.ErrUnavailable) }, kek.ErrUnavailable},
			"other key":     {t.Context(), keyslot.RoleRecovery, func(k *keyslot.Keyring) { k.KEK = kektest.NewMemory("other").Set() }, kek.ErrNotMine},
			"cannot unwrap": {t.Context(), keyslot.RoleAgent, func(k *keyslot.Keyring) {
				k.KEK = &kek.Set{Active: wrapsOnly{kektest.NewMemory("other").New()}, Previous: []kek.Provider{n.provider.New()}}
			}, kek.ErrDenied},
			"no recipient": {t.Context(), keyslot.RoleRecovery, func(k *keyslot.Keyring) { k.Recipients = nil }, keyslot.ErrNoRecovery},
			"too many":     {t.Context(), keyslot.RoleRecovery, func(k *keyslot.Keyring) { k.Recipients = postQuantum(t, 12) }, &keyslot.TooLargeError{}},
			"cancelled":    {stopped, keyslot.RoleAgent, func(*keyslot.Keyring) {}, context.Canceled},
		} {
			k := *n.Keyring
			test.spoil(&k)
			p := start()
			_, err := keyslot.Rotate(test.ctx, p.c, &k, test.role)
			if large := new(keyslot.TooLargeError); errors.As(test.want, &large) {
				if !errors.As(err, &large) {
					t.Errorf("%s: %v", name, err)
				}
			} else if !errors.Is(err, test.want) {
				t.Errorf("%s: %v", name, err)
			}
			if p.steps() != 0 {
				t.Errorf("%s: %d writes", name, p.steps())
			}
			n.provider.Fail(nil)
		}
		n.inOrder(t, start)

		// Somebody's token names our slot.
		c := start().c
		id, err := c.SetToken(-1, []byte(`{"type":"clevis","keyslots":["31"],"jwe":{}}`))
		if err != nil {
			t.Fatal(err)
		}
		var shared *keyslot.SharedSlotError
		p := start()
		if _, err := keyslot.Rotate(t.Context(), p.c, n.Keyring, keyslot.RoleAgent); !errors.As(err, &shared) || p.steps() != 0 {
			t.Errorf("shared: %d writes, %v", p.steps(), err)
		}
		if err := c.RemoveToken(id); err != nil {
			t.Fatal(err)
		}
		// A container that is not complete, and one with a token of a later voluks.
		set(t, c, -1, `{"type":"voluks-agent","keyslots":[],"v":2}`)
		p = start()
		if _, err := keyslot.Rotate(t.Context(), p.c, n.Keyring, keyslot.RoleAgent); !errors.Is(err, keyslot.ErrUnknownVersion) || p.steps() != 0 {
			t.Errorf("unknown version: %d writes, %v", p.steps(), err)
		}
		p = l.blank(t)()
		if err := keyslot.Format(t.Context(), p.c, n.Keyring, params()); err != nil {
			t.Fatal(err)
		}
		if _, err := keyslot.Rotate(t.Context(), p.c, n.Keyring, keyslot.RoleAgent); !errors.Is(err, keyslot.ErrNotReady) {
			t.Errorf("not ready: %v", err)
		}
	})
}

// A volume that was made without recovery slot gets one.
func TestRotateMakesRecovery(t *testing.T) {
	everywhere(t, func(t *testing.T, l lab) {
		n := newNode(t)
		none := *n.Keyring
		none.NoRecovery = true
		start := l.blank(t)
		c := start().c
		if err := keyslot.Format(t.Context(), c, &none, params()); err != nil {
			t.Fatal(err)
		}
		if err := keyslot.SetVolume(c, newVolume()); err != nil {
			t.Fatal(err)
		}
		r, err := keyslot.Rotate(t.Context(), c, n.Keyring, keyslot.RoleRecovery)
		if err != nil || r.OldSlot != -1 || r.OldGeneration != 0 || r.NewGeneration != 2 {
			t.Fatalf("%+v, %v", r, err)
		}
		n.inOrder(t, start)
	})
}

// A pending token is taken only in the form in which it is written.
func TestPendingToken(t *testing.T) {
	n := newNode(t)
	start := fakeLab(t)
	c := n.ready(t, start)
	var raw []byte
	for _, role := range roles {
		cut(start, diesAfter, 1, func(p program) error {
			_, err := keyslot.Rotate(t.Context(), p.c, n.Keyring, role)
			return err
		})
		h, err := c.Header()
		if err != nil {
			t.Fatal(err)
		}
		for _, token := range h.Tokens {
			if token.Type == keyslot.TypePending {
				raw = token.JSON
			}
		}
		decoded, err := keyslot.DecodeToken(raw)
		pending, ok := decoded.(keyslot.PendingToken)
		if err != nil || !ok || pending.Role() != role || pending.Slot() != 29 || pending.Generation() != 2 || len(pending.Salts) != 2 {
			t.Fatalf("%+v, %v", decoded, err)
		}
		for _, change := range [][2]string{
			{`"keyslots":[],"v":1,"uuid":"` + uuid, `"keyslots":["31"],"v":1,"uuid":"` + uuid},
			{uuid, "ffffffff-4a4c-4d5e-9a4e-0f1d2c3b4a59"},
			{`"operation":"`, `"operation":"` + strings.Repeat("x", 100)},
			{`"salts":[`, `"salts":["",`},
			{`"token":{`, `"token":{"x":1,`},
			{`"token":{"type":"voluks-`, `"token":{"type":"voluks-other-`},
			{`"v":1`, `"v":2`},
		} {
			bad := strings.Replace(string(raw), change[0], change[1], 1)
			if bad == string(raw) {
				t.Fatalf("%q is not in %s", change[0], raw)
			}
			if _, err := keyslot.DecodeToken([]byte(bad)); err == nil {
				t.Errorf("%q for %q is accepted", change[1], change[0])
			}
		}
		if _, err := keyslot.Recover(t.Context(), c, n.Keyring); err != nil {
			t.Fatal(err)
		}
	}
}

// F30: a LUKS1 container is not touched, whatever is asked.
func TestKeysOfLUKS1(t *testing.T) {
	n := newNode(t)
	path := image(t)
	head := append([]byte("LUKS\xba\xbe\x00\x01"), make([]byte, 4088)...)
	write := func() {
		t.Helper()
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteAt(head, 0); err != nil {
			t.Fatal(err)
		}
	}
	write()
	for _, change := range keyChanges("kek-2", kektest.NewMemory("kek-3"), newNode(t)) {
		s := &stepper{Container: luks.At(path)}
		if err := change.do(t.Context(), s, n.Keyring); !errors.Is(err, header.ErrLUKS1) || s.n != 0 {
			t.Errorf("%s: %d writes, %v", change.name, s.n, err)
		}
	}
	if is, err := os.ReadFile(path); err != nil || !bytes.Equal(is[:len(head)], head) {
		t.Errorf("the header was changed: %v", err)
	}
}

// F34: slot 0 is a slot like any other, and not "none": where it is the last one that is free, the new key goes there, and comes out again.
func TestRotateThroughSlotZero(t *testing.T) {
	n := newNode(t)
	start := fakeLab(t)
	c := n.ready(t, start)
	slot, key, err := keyslot.Unlock(t.Context(), c, n.Keyring)
	if err != nil {
		t.Fatal(err)
	}
	defer key.Wipe()
	for number := 29; number > 0; number-- {
		if err := c.AddSlot(luks.Auth{Slot: slot, Key: key}, number, randomKey(t), luks.KDFRandomKey); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []struct {
		role     string
		from, to int
	}{{keyslot.RoleAgent, 31, 0}, {keyslot.RoleRecovery, 30, 31}, {keyslot.RoleAgent, 0, 30}, {keyslot.RoleRecovery, 31, 0}, {keyslot.RoleAgent, 30, 31}} {
		r, err := keyslot.Rotate(t.Context(), c, n.Keyring, want.role)
		if err != nil || r.OldSlot != want.from || r.NewSlot != want.to {
			t.Fatalf("want %+v, got %+v, %v", want, r, err)
		}
		n.opens(t, c)
		n.recovers(t, c)
	}
	if s := state(t, c); len(s.Slots) != 31 || s.Interrupted() {
		t.Errorf("%d slots, interrupted %t", len(s.Slots), s.Interrupted())
	}
	// None is left: nothing is written.
	if err := c.AddSlot(luks.Auth{Slot: n.opens(t, c), Key: n.keyOf(t, c, keyslot.RoleAgent)}, 30, randomKey(t), luks.KDFRandomKey); err != nil {
		t.Fatal(err)
	}
	p := start()
	if _, err := keyslot.Rotate(t.Context(), p.c, n.Keyring, keyslot.RoleAgent); !errors.Is(err, keyslot.ErrNoSlot) || p.steps() != 0 {
		t.Errorf("no slot: %d writes, %v", p.steps(), err)
	}
}
