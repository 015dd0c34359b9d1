// SPDX-License-Identifier: Apache-2.0

package keyslot_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/kek/kektest"
	"github.com/voluks/voluks/internal/secret"
	"github.com/voluks/voluks/internal/testenv"
	"github.com/voluks/voluks/keyslot"
	"github.com/voluks/voluks/luks"
)

// A loser is a container on a disk that reports some writes as done and forgets them.
type loser struct {
	keyslot.Container
	n        int
	from, to int  // the writes that are lost, from 1
	lost     bool // whether any was
}

func (l *loser) loses() bool {
	l.n++
	lost := l.n >= l.from && l.n <= l.to
	l.lost = l.lost || lost
	return lost
}

func (l *loser) AddSlot(auth luks.Auth, slot int, key *secret.Key, kdf luks.KDF) error {
	if l.loses() {
		return nil
	}
	return l.Container.AddSlot(auth, slot, key, kdf)
}

func (l *loser) KillSlot(slot int) error {
	if l.loses() {
		return nil
	}
	return l.Container.KillSlot(slot)
}

func (l *loser) SetToken(id int, json []byte) (int, error) {
	if l.loses() {
		return max(id, 9), nil
	}
	return l.Container.SetToken(id, json)
}

func (l *loser) RemoveToken(id int) error {
	if l.loses() {
		return nil
	}
	return l.Container.RemoveToken(id)
}

// keyChange is an operation on the keys of a container, with the keyring that opens it afterwards.
type keyChange struct {
	name  string
	do    func(context.Context, keyslot.Container, *keyslot.Keyring) error
	check func(s keyslot.Slots) error // of what the operation has promised when it returned nil
}

// keyChanges are all there are. to is whom the recovery slot may be sealed to anew, next the key of a node that has lost the one before.
func keyChanges(revoked string, next *kektest.Memory, to *node) []keyChange {
	rotate := func(role string) func(context.Context, keyslot.Container, *keyslot.Keyring) error {
		return func(ctx context.Context, c keyslot.Container, k *keyslot.Keyring) error {
			_, err := keyslot.Rotate(ctx, c, k, role)
			return err
		}
	}
	any := func(keyslot.Slots) error { return nil }
	return []keyChange{
		{"agent", rotate(keyslot.RoleAgent), any},
		{"recovery", rotate(keyslot.RoleRecovery), any},
		{"move", func(ctx context.Context, c keyslot.Container, k *keyslot.Keyring) error {
			_, err := keyslot.Rewrap(ctx, c, k)
			return err
		}, func(s keyslot.Slots) error {
			if s.NeedsKey(kek.Ref{Provider: "memory", ID: revoked}) {
				return errors.New("it still needs the old key")
			}
			return nil
		}},
		{"revoke", func(ctx context.Context, c keyslot.Container, k *keyslot.Keyring) error {
			_, err := keyslot.Revoke(ctx, c, k, revoked)
			return err
		}, func(s keyslot.Slots) error {
			for _, slot := range s.Slots {
				if slot.WrappedBy(revoked) || slot.Role == keyslot.RoleAgent && !slot.ExposedTo(revoked) {
					return fmt.Errorf("slot %+v", slot)
				}
			}
			return nil
		}},
		{"rekey", func(ctx context.Context, c keyslot.Container, k *keyslot.Keyring) error {
			other := *k
			other.Recipients = to.Recipients
			_, err := keyslot.Rekey(ctx, c, &other)
			return err
		}, func(s keyslot.Slots) error {
			if !s.SealedTo(to.Recipients) {
				return errors.New("it is sealed to others")
			}
			return nil
		}},
		{"rescue", func(ctx context.Context, c keyslot.Container, k *keyslot.Keyring) error {
			heir := *k
			heir.KEK, heir.Identities = next.Set(), to.identities
			_, err := keyslot.Rotate(ctx, c, &heir, keyslot.RoleAgent)
			return err
		}, func(s keyslot.Slots) error {
			if !s.NeedsKey(next.New().Ref()) {
				return errors.New("the new key does not open it")
			}
			return nil
		}},
	}
}

// another is a node whose identities open what is sealed to either. The node's do so from now on, too.
func (n *node) another(t testing.TB) *node {
	to := newNode(t)
	n.identities = append(n.identities, to.identities...)
	to.identities = n.identities
	return to
}

// tidy checks that the node and the identity open the container, and that it has two slots and three tokens with nothing pending.
func (n *node) tidy(t testing.TB, c keyslot.Container, k *keyslot.Keyring) error {
	t.Helper()
	if err := n.counts(c); err != nil {
		return err
	}
	return n.stillOpens(t, c, k)
}

// counts is tidy without opening anything.
func (n *node) counts(c keyslot.Container) error {
	h, err := c.Header()
	if err != nil {
		return err
	}
	s, err := keyslot.State(h)
	if err != nil {
		return err
	}
	if len(h.Keyslots) != 2 || len(h.Tokens) != 3 || s.Interrupted() {
		return fmt.Errorf("%d slots, %d tokens, interrupted %t", len(h.Keyslots), len(h.Tokens), s.Interrupted())
	}
	return nil
}

func (n *node) stillOpens(t testing.TB, c keyslot.Container, k *keyslot.Keyring) error {
	t.Helper()
	if err := opensWith(t, c, k); err != nil {
		return err
	}
	slot, key, err := keyslot.UnlockRecovery(c, n.identities)
	if err != nil {
		return err
	}
	defer key.Wipe()
	return keyslot.Prove(c, slot, key)
}

// lossy does every change with some of its writes lost: lose begins that at write k, one alone or from there on, and the returned function ends it.
// Whatever the operation says then, the container opens; if it says that all is well, all is; and the next one ends clean. F29 F31
func lossy(t *testing.T, n *node, second *kektest.Memory, c keyslot.Container, changes []keyChange, lose func(k int, forEver bool) (on keyslot.Container, end func() (lost bool))) (cases, failed int) {
	first := n.provider
	for _, change := range changes {
		for k := 1; ; k++ {
			more := false
			for _, forEver := range []bool{false, true} {
				// kek-1 wraps at first, whatever the case before has done.
				back := *n.Keyring
				back.KEK = &kek.Set{Active: first.New(), Previous: []kek.Provider{second.New()}}
				if _, err := keyslot.Rewrap(t.Context(), c, &back); err != nil {
					t.Fatal(err)
				}
				if _, err := keyslot.Rekey(t.Context(), c, &back); err != nil {
					t.Fatal(err)
				}
				ring := &back
				if slices.Contains([]string{"move", "revoke", "rescue"}, change.name) {
					ring = n.moving(second)
				}
				at := fmt.Sprintf("%s, write %d lost, and all later ones %t", change.name, k, forEver)
				on, end := lose(k, forEver)
				err := change.do(t.Context(), on, ring)
				if !end() {
					continue
				}
				more = true
				cases++
				if err2 := n.stillOpens(t, c, ring); err2 != nil {
					t.Errorf("%s: it does not open: %v", at, err2)
				}
				if err == nil {
					if err := errors.Join(n.tidy(t, c, ring), change.check(state(t, c))); err != nil {
						t.Errorf("%s: it was said that all is well: %v", at, err)
					}
				} else {
					failed++
				}
				if err := change.do(t.Context(), c, ring); err != nil {
					t.Errorf("%s: again: %v", at, err)
				}
				if err := errors.Join(n.tidy(t, c, ring), change.check(state(t, c))); err != nil {
					t.Errorf("%s: again: %v", at, err)
				}
				if t.Failed() {
					return cases, failed
				}
			}
			if !more {
				break
			}
		}
	}
	return cases, failed
}

func TestLostWrites(t *testing.T) {
	n := newNode(t)
	start := fakeLab(t)
	c := n.ready(t, start)
	next := kektest.NewMemory("kek-2")
	cases, failed := lossy(t, n, next, c, keyChanges("kek-1", next, n.another(t)), func(k int, forEver bool) (keyslot.Container, func() bool) {
		l := &loser{Container: c, from: k, to: k}
		if forEver {
			l.to = 1 << 30
		}
		return l, func() bool { return l.lost }
	})
	if cases < 2*26 || failed < 26 {
		t.Errorf("%d cases, %d failed", cases, failed)
	}
}

// The same with a disk that really does it (dm-flakey, drop_writes): what libcryptsetup, its caches and the kernel make of that.
func TestGuestLostWrites(t *testing.T) {
	const name = "keyslot-flakey"
	disk := testenv.Disk(t, 0, powerCutSize)
	good := fmt.Sprintf("0 %d linear %s 0", powerCutSize/512, disk)
	bad := fmt.Sprintf("0 %d flakey %s 0 0 3600 1 drop_writes", powerCutSize/512, disk)
	n := newNode(t)
	p := realLab(t)()
	n.ready(t, func() program { return p })
	wipe(t, disk)
	for at, piece := range inUse(t, p.path) {
		write(t, disk, piece, at)
	}
	c := luks.At(testenv.DM(t, name, good))
	next := kektest.NewMemory("kek-2")
	// Revoking rotates the agent's slot, and another recipient the recovery slot; with the identity the writes are those of revoking.
	changes := slices.DeleteFunc(keyChanges("kek-1", next, n.another(t)), func(c keyChange) bool { return !slices.Contains([]string{"move", "revoke", "rekey"}, c.name) })
	cases, failed := lossy(t, n, next, c, changes, func(k int, forEver bool) (keyslot.Container, func() bool) {
		s := &switcher{Container: c, from: k, to: k, begin: func() { testenv.DMReload(t, name, bad) }, end: func() { testenv.DMReload(t, name, good) }}
		if forEver {
			s.to = 1 << 30
		}
		return s, s.stop
	})
	t.Logf("%d cases, %d told as failed", cases, failed)
	if cases < 2*11 || failed < 11 {
		t.Errorf("%d cases, %d failed", cases, failed)
	}
}

// A switcher makes the disk below a container bad before some of its writes.
type switcher struct {
	keyslot.Container
	n, from, to int
	bad, was    bool
	begin, end  func()
}

func (s *switcher) write(do func() error) error {
	s.n++
	if !s.bad && s.n >= s.from && s.n <= s.to {
		s.bad, s.was = true, true
		s.begin()
	}
	err := do()
	if s.bad && s.n >= s.to {
		s.bad = false
		s.end()
	}
	return err
}

// stop ends it, and tells whether any write was lost.
func (s *switcher) stop() bool {
	if s.bad {
		s.bad = false
		s.end()
	}
	return s.was
}

func (s *switcher) AddSlot(auth luks.Auth, slot int, key *secret.Key, kdf luks.KDF) error {
	return s.write(func() error { return s.Container.AddSlot(auth, slot, key, kdf) })
}

func (s *switcher) KillSlot(slot int) error {
	return s.write(func() error { return s.Container.KillSlot(slot) })
}

func (s *switcher) SetToken(id int, json []byte) (n int, err error) {
	err = s.write(func() error { n, err = s.Container.SetToken(id, json); return err })
	return n, err
}

func (s *switcher) RemoveToken(id int) error {
	return s.write(func() error { return s.Container.RemoveToken(id) })
}
