// SPDX-License-Identifier: Apache-2.0

package keyslot_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/kek/kektest"
	"github.com/voluks/voluks/internal/recovery"
	"github.com/voluks/voluks/internal/recovery/typable"
	"github.com/voluks/voluks/internal/secret"
	"github.com/voluks/voluks/keyslot"
)

// heir is the same node after its key was lost: another key, and somebody who lends the identity.
func (n *node) heir() *node {
	next := *n
	k := *n.Keyring
	next.Keyring = &k
	next.provider = kektest.NewMemory("kek-2")
	k.KEK = next.provider.Set()
	k.Identities = n.identities
	return &next
}

// alone is a node that has nothing but the identity.
func (n *node) alone() *keyslot.Keyring { return &keyslot.Keyring{Identities: n.identities} }

// The key of the node is lost, at whatever moment of a rotation. The identity gives the volume a new agent slot; it may die after each of its writes, and
// so may the next try. At every moment the identity or the new key opens the volume, and in the end it is in order. F29 F31 F32
func TestRescueCrashes(t *testing.T) {
	everywhere(t, func(t *testing.T, l lab) {
		for _, role := range append([]string{"nothing"}, roles...) {
			for before := range 6 {
				if role == "nothing" && before > 0 || role != "nothing" && (before == 0 || before == 5 || l.name == "luks") {
					continue
				}
				t.Run(fmt.Sprintf("%s %d", role, before), func(t *testing.T) {
					n := newNode(t)
					next := n.heir()
					prepare := func() func() program {
						start := l.blank(t)
						n.ready(t, start)
						if role != "nothing" {
							cut(start, diesAfter, before, func(p program) error {
								_, err := keyslot.Rotate(t.Context(), p.c, n.Keyring, role)
								return err
							})
						}
						return start
					}
					operation := func(p program) error {
						r, err := keyslot.Rotate(t.Context(), p.c, next.Keyring, keyslot.RoleAgent)
						if err == nil && r.KEK.ID != "kek-2" {
							err = fmt.Errorf("wrapped by %v", r.KEK)
						}
						return err
					}
					writes := countWrites(t, prepare(), operation)
					if writes < 5 {
						t.Errorf("%d writes", writes)
					}
					for k := 1; k <= writes; k++ {
						if l.name == "luks" && k != 2 {
							continue // the fake has them all, and TestGuestKillRecovery the real thing
						}
						for _, how := range l.ways {
							start := prepare()
							cut(start, how, k, operation)
							opensSomehow(t, start, next)
							for again := 1; l.name == "fake" && how == diesAfter; again++ {
								p := start()
								p.dieAfter(again)
								err := operation(p)
								opensSomehow(t, start, next)
								if err == nil || again > writes {
									break
								}
							}
							if err := operation(start()); err != nil {
								t.Fatalf("%s %d: again: %v", how, k, err)
							}
							// What the identity did, the node now does by itself.
							own := *next
							keys := *next.Keyring
							keys.Identities, own.Keyring = nil, &keys
							own.inOrder(t, start)
						}
					}
				})
			}
		}
	})
}

// opensSomehow proves that the identity alone opens the volume, and the keyring with it too.
func opensSomehow(t *testing.T, start func() program, n *node) {
	t.Helper()
	for _, k := range []*keyslot.Keyring{n.alone(), n.Keyring} {
		if err := opensWith(t, start().c, k); err != nil {
			t.Fatal(err)
		}
	}
}

// The identity stands in only for what the node cannot open, and somebody else's identity never.
func TestRescueRefuses(t *testing.T) {
	n, other := newNode(t), newNode(t)
	start := fakeLab(t)
	n.ready(t, start)
	before := state(t, start().c)

	stranger := n.heir()
	stranger.Identities = other.identities
	p := start()
	_, err := keyslot.Rotate(t.Context(), p.c, stranger.Keyring, keyslot.RoleAgent)
	if !errors.Is(err, recovery.ErrWrongIdentity) || !errors.Is(err, kek.ErrNotMine) || p.steps() != 0 {
		t.Errorf("a stranger's identity: %d writes, %v", p.steps(), err)
	}
	for _, by := range []string{"libcryptsetup", "luks.go"} {
		p := start()
		var proof *keyslot.ProofError
		if _, err := keyslot.Rotate(t.Context(), doubt{p.c, by, 30}, n.heir().Keyring, keyslot.RoleAgent); !errors.As(err, &proof) || p.steps() != 0 {
			t.Errorf("the recovery slot does not open with %s: %d writes, %v", by, p.steps(), err)
		}
	}
	// The recovery slot itself is rotated by the node alone.
	if _, err := keyslot.Rotate(t.Context(), start().c, n.heir().Keyring, keyslot.RoleRecovery); !errors.Is(err, kek.ErrNotMine) {
		t.Errorf("rotate the recovery slot: %v", err)
	}
	if after := n.inOrder(t, start); !slices.EqualFunc(after.Slots, before.Slots, func(a, b keyslot.Slot) bool { return a.Number == b.Number && a.Generation == b.Generation }) {
		t.Errorf("slots %+v", after.Slots)
	}
	// The node opens it: its own key is used, though there is an identity.
	both := *n.Keyring
	both.Identities = n.identities
	r, err := keyslot.Rotate(t.Context(), start().c, &both, keyslot.RoleAgent)
	if err != nil || r.Rescued {
		t.Errorf("%+v, %v", r, err)
	}
	if r, err = keyslot.Rotate(t.Context(), start().c, n.heir().Keyring, keyslot.RoleAgent); err != nil || !r.Rescued || r.OldGeneration != 2 || r.NewGeneration != 3 {
		t.Errorf("%+v, %v", r, err)
	}
}

// A header without any agent slot is opened by the identity, and gets one.
func TestRescueWithoutAgent(t *testing.T) {
	everywhere(t, func(t *testing.T, l lab) {
		n := newNode(t)
		start := l.blank(t)
		c := n.ready(t, start)
		if err := c.KillSlot(31); err != nil {
			t.Fatal(err)
		}
		if err := opensWith(t, c, n.Keyring); !errors.Is(err, keyslot.ErrNoAgentSlot) {
			t.Errorf("without identity: %v", err)
		}
		if err := opensWith(t, c, n.alone()); err != nil {
			t.Error(err)
		}
		k := *n.Keyring
		k.Identities = n.identities
		if _, err := keyslot.Rotate(t.Context(), c, &k, keyslot.RoleAgent); err != nil {
			t.Fatal(err)
		}
		n.inOrder(t, start)
	})
}

// The recovery slot gets other recipients: killed after each write the node opens the volume, and so does whom the header names; the next run ends with
// the new ones alone. F29 F31 F32
func TestRekeyCrashes(t *testing.T) {
	everywhere(t, func(t *testing.T, l lab) {
		n, to := newNode(t), newNode(t)
		k := *n.Keyring
		k.Recipients = to.Recipients
		moved := *n
		moved.Keyring, moved.identities = &k, to.identities
		operation := func(p program) error { _, err := keyslot.Rekey(t.Context(), p.c, &k); return err }
		start := l.blank(t)
		n.ready(t, start)
		writes := countWrites(t, start, operation)
		if writes != 5 {
			t.Errorf("%d writes", writes)
		}
		for i := 1; i <= writes; i++ {
			if l.name == "luks" && i != 3 {
				continue // as in TestRescueCrashes
			}
			for _, how := range l.ways {
				start := l.blank(t)
				n.ready(t, start)
				cut(start, how, i, operation)
				n.opens(t, start().c)
				s := state(t, start().c)
				for _, slot := range s.Slots {
					if slot.Role != keyslot.RoleRecovery {
						continue
					}
					whom := n.identities
					if slices.Contains(slot.Recipients, to.Recipients[0].Fingerprint()) {
						whom = to.identities
					}
					if _, err := keyslot.ProveRecovery(start().c, whom); err != nil {
						t.Errorf("%s %d: slot %+v: %v", how, i, slot, err)
					}
				}
				for again := 1; l.name == "fake" && again <= writes; again++ {
					p := start()
					p.dieAfter(again)
					if operation(p) == nil {
						break
					}
					n.opens(t, start().c)
				}
				if err := operation(start()); err != nil {
					t.Fatalf("%s %d: again: %v", how, i, err)
				}
				moved.inOrder(t, start)
				if _, err := keyslot.ProveRecovery(start().c, n.identities); !errors.Is(err, recovery.ErrWrongIdentity) {
					t.Errorf("%s %d: the old identity: %v", how, i, err)
				}
				p := start()
				if r, err := keyslot.Rekey(t.Context(), p.c, &k); r != nil || err != nil || p.steps() != 0 {
					t.Errorf("%s %d: a third time: %+v, %v", how, i, r, err)
				}
			}
		}
	})
}

// An interrupted change to other recipients than those that are wanted now is not the end of it; what is told is who could open the volume before.
func TestRekeyAfterAnother(t *testing.T) {
	n := newNode(t)
	start := fakeLab(t)
	n.ready(t, start)
	between, k := *n.Keyring, *n.Keyring
	between.Recipients, k.Recipients = newNode(t).Recipients, postQuantum(t, 3)
	cut(start, diesAfter, 3, func(p program) error { _, err := keyslot.Rekey(t.Context(), p.c, &between); return err })
	r, err := keyslot.Rekey(t.Context(), start().c, &k)
	if err != nil || r.Resumed || !slices.Equal(r.OldRecipients, recovery.Fingerprints(between.Recipients)) || !slices.Equal(r.Recipients, recovery.Fingerprints(k.Recipients)) {
		t.Errorf("%+v, %v", r, err)
	}
	s := state(t, start().c)
	if !s.SealedTo(k.Recipients) || s.SealedTo(k.Recipients[1:]) || s.SealedTo(n.Recipients) || len(s.Slots) != 2 {
		t.Errorf("slots %+v", s.Slots)
	}
	if _, err := keyslot.Rekey(t.Context(), start().c, n.alone()); !errors.Is(err, keyslot.ErrNoRecovery) {
		t.Errorf("no recipients: %v", err)
	}
}

// A recovery key that is typed: until its slot is published it counts for nothing, from then on it opens the volume and is systemd's; taken away again it
// leaves nothing. Killed after each write both ways. F31 F32
func TestTypedCrashes(t *testing.T) {
	everywhere(t, func(t *testing.T, l lab) {
		n := newNode(t)
		key, err := typable.Generate()
		if err != nil {
			t.Fatal(err)
		}
		defer key.Wipe()
		add := func(p program) error { _, err := keyslot.AddTyped(t.Context(), p.c, n.Keyring, key); return err }
		remove := func(p program) error { return keyslot.RemoveTyped(t.Context(), p.c, n.Keyring, 29) }
		start := l.blank(t)
		n.ready(t, start)
		if writes := countWrites(t, start, add); writes != 3 {
			t.Errorf("%d writes to add", writes)
		}
		opensTyped(t, start, key)
		if s := state(t, start().c); len(s.Slots) != 3 || s.Slots[2].Kind != "systemd-recovery" || s.Interrupted() {
			t.Errorf("slots %+v", s.Slots)
		}
		// The others are rotated around it. F35
		for _, role := range roles {
			if _, err := keyslot.Rotate(t.Context(), start().c, n.Keyring, role); err != nil {
				t.Fatal(err)
			}
		}
		opensTyped(t, start, key)
		if writes := countWrites(t, start, remove); writes != 2 {
			t.Errorf("%d writes to remove", writes)
		}
		n.inOrder(t, start)
		if err := remove(start()); !errors.Is(err, keyslot.ErrNoTyped) {
			t.Errorf("removed twice: %v", err)
		}
		if err := keyslot.RemoveTyped(t.Context(), start().c, n.Keyring, 31); !errors.Is(err, keyslot.ErrNoTyped) {
			t.Errorf("removed a slot of the node: %v", err)
		}

		for k := 1; k <= 3; k++ {
			if l.name == "luks" && k != 2 {
				continue // as in TestRescueCrashes
			}
			for _, how := range l.ways {
				start := l.blank(t)
				n.ready(t, start)
				cut(start, how, k, add)
				n.opens(t, start().c)
				n.recovers(t, start().c)
				if k == 3 { // published, at the second try if the first one failed
					opensTyped(t, start, key)
					continue
				}
				if _, err := keyslot.Recover(t.Context(), start().c, n.Keyring); err != nil {
					t.Fatal(err)
				}
				n.inOrder(t, start)
			}
		}
		for k := 1; k <= 2; k++ {
			if l.name == "luks" && k != 1 {
				continue
			}
			for _, how := range l.ways {
				start := l.blank(t)
				n.ready(t, start)
				if err := add(start()); err != nil {
					t.Fatal(err)
				}
				cut(start, how, k, remove)
				n.opens(t, start().c)
				if err := remove(start()); err != nil && (k < 2 || how == failsAt || !errors.Is(err, keyslot.ErrNoTyped)) {
					t.Errorf("%s %d: again: %v", how, k, err)
				}
				n.inOrder(t, start)
			}
		}
	})
}

func opensTyped(t *testing.T, start func() program, key *secret.Key) {
	t.Helper()
	h, err := start().c.Header()
	if err != nil {
		t.Fatal(err)
	}
	slots := keyslot.TypedSlots(h)
	if len(slots) != 1 {
		t.Fatalf("slots %v", slots)
	}
	if err := keyslot.Prove(start().c, slots[0], key); err != nil {
		t.Error(err)
	}
}

// The journal of a recovery key is taken only in the form in which it is written.
func TestPendingTyped(t *testing.T) {
	n := newNode(t)
	key, err := typable.Generate()
	if err != nil {
		t.Fatal(err)
	}
	defer key.Wipe()
	start := fakeLab(t)
	c := n.ready(t, start)
	cut(start, diesAfter, 1, func(p program) error { _, err := keyslot.AddTyped(t.Context(), p.c, n.Keyring, key); return err })
	s := state(t, c)
	if s.Pending == nil || s.Pending.Role() != keyslot.RoleTyped || s.Pending.Slot() != 29 || s.Pending.Generation() != 0 {
		t.Fatalf("%+v", s.Pending)
	}
	raw, err := s.Pending.Encode()
	if err != nil || strings.Contains(string(raw), string(key.Bytes()[:8])) {
		t.Fatalf("%s, %v", raw, err)
	}
	for _, change := range [][2]string{
		{`"keyslots":["29"]}`, `"keyslots":["29"],"x":1}`}, {`"keyslots":["29"]}`, `"keyslots":["32"]}`}, {`"keyslots":["29"]}`, `"keyslots":[]}`},
		{`"systemd-recovery"`, `"systemd-tpm2"`}, {`"token":{`, `"sealed":"AAAA","token":{`},
	} {
		bad := strings.Replace(string(raw), change[0], change[1], 1)
		if bad == string(raw) {
			t.Fatalf("%q is not in %s", change[0], raw)
		}
		if _, err := keyslot.DecodeToken([]byte(bad)); err == nil {
			t.Errorf("%q for %q is accepted", change[1], change[0])
		}
	}
	if _, err := keyslot.AddTyped(t.Context(), c, n.Keyring, n.identity); !errors.Is(err, typable.ErrMistyped) {
		t.Errorf("another kind of secret: %v", err)
	}
}
