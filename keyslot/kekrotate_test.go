// SPDX-License-Identifier: Apache-2.0

package keyslot_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/kek/kektest"
	"github.com/voluks/voluks/internal/secret"
	"github.com/voluks/voluks/keyslot"
	"github.com/voluks/voluks/luks"
)

// moving is the node with a new active provider and its old one as a previous one.
func (n *node) moving(next *kektest.Memory) *keyslot.Keyring {
	k := *n.Keyring
	k.KEK = &kek.Set{Active: next.New(), Previous: []kek.Provider{n.provider.New()}}
	return &k
}

// opensWith says whether the node with these keys opens the container.
func opensWith(t testing.TB, c keyslot.Container, k *keyslot.Keyring) error {
	t.Helper()
	slot, key, err := keyslot.Unlock(t.Context(), c, k)
	if err != nil {
		return err
	}
	defer key.Wipe()
	return keyslot.Prove(c, slot, key)
}

// The token moves to the active key, the slot and its key stay, and the old key opens nothing any more.
func TestRewrap(t *testing.T) {
	everywhere(t, func(t *testing.T, l lab) {
		n := newNode(t)
		start := l.blank(t)
		c := n.ready(t, start)
		before := n.inOrder(t, start)
		old := n.keyOf(t, c, keyslot.RoleAgent)
		next := kektest.NewMemory("kek-2")
		k := n.moving(next)
		r, err := keyslot.Rewrap(t.Context(), c, k)
		if err != nil || !r.Changed || r.From.ID != "kek-1" || r.To.ID != "kek-2" || r.Slot != 31 || r.UUID != uuid {
			t.Fatalf("%+v, %v", r, err)
		}
		if err := opensWith(t, c, &keyslot.Keyring{KEK: next.Set()}); err != nil {
			t.Errorf("the new key alone: %v", err)
		}
		if err := opensWith(t, c, n.Keyring); !errors.Is(err, kek.ErrNotMine) {
			t.Errorf("the old key alone: %v", err)
		}
		s := state(t, c)
		was, is := slotOf(t, before, keyslot.RoleAgent), slotOf(t, s, keyslot.RoleAgent)
		if is.Number != was.Number || is.Generation != was.Generation || !is.Created.Equal(was.Created) || len(is.History) != 2 || !is.WrappedBy("kek-1") || !is.WrappedBy("kek-2") {
			t.Errorf("%+v became %+v", was, is)
		}
		if s.NeedsKey(kek.Ref{Provider: "memory", ID: "kek-1"}) || !s.NeedsKey(kek.Ref{Provider: "memory", ID: "kek-2"}) || len(s.Keys()) != 1 {
			t.Errorf("keys %v", s.Keys())
		}
		if err := c.TestSlot(31, old); err != nil {
			t.Errorf("the slot key: %v", err)
		}
		n.recovers(t, c)
		// Again: nothing.
		p := start()
		if r, err := keyslot.Rewrap(t.Context(), p.c, k); err != nil || r.Changed || p.steps() != 0 {
			t.Errorf("again: %+v, %d writes, %v", r, p.steps(), err)
		}
	})
}

// F29: whenever the program dies, the old or the new key opens, and the next run ends it.
func TestRewrapCrashes(t *testing.T) {
	everywhere(t, func(t *testing.T, l lab) {
		next := kektest.NewMemory("kek-2")
		n := newNode(t)
		k := n.moving(next)
		operation := func(p program) error { _, err := keyslot.Rewrap(t.Context(), p.c, k); return err }
		start := l.blank(t)
		n.ready(t, start)
		if writes := countWrites(t, start, operation); writes != 1 {
			t.Errorf("%d writes", writes)
		}
		for _, how := range []string{diesAfter, failsAt} {
			start := l.blank(t)
			n.ready(t, start)
			cut(start, how, 1, operation)
			if err := opensWith(t, start().c, k); err != nil {
				t.Errorf("%s: %v", how, err)
			}
			if err := operation(start()); err != nil {
				t.Errorf("%s: %v", how, err)
			}
			if err := opensWith(t, start().c, &keyslot.Keyring{KEK: next.Set()}); err != nil {
				t.Errorf("%s: %v", how, err)
			}
		}
		// After a rotation that died, for every write of it: both are ended.
		for cutAt := 1; cutAt <= 4 && l.name == "fake"; cutAt++ {
			for _, role := range roles {
				start := l.blank(t)
				n.ready(t, start)
				cut(start, diesAfter, cutAt, func(p program) error {
					_, err := keyslot.Rotate(t.Context(), p.c, n.Keyring, role)
					return err
				})
				if err := operation(start()); err != nil {
					t.Fatal(err)
				}
				h, err := start().c.Header()
				if err != nil {
					t.Fatal(err)
				}
				if s := state(t, start().c); s.Interrupted() || len(h.Tokens) != 3 || len(s.Slots) != 2 {
					t.Errorf("%s killed after %d: %+v", role, cutAt, s)
				}
				if err := opensWith(t, start().c, &keyslot.Keyring{KEK: next.Set()}); err != nil {
					t.Errorf("%s killed after %d: %v", role, cutAt, err)
				}
				n.recovers(t, start().c)
			}
		}
	})
}

// A provider that renews its own wraps is asked to, and W stays.
func TestRewrapVersions(t *testing.T) {
	n := newNode(t)
	start := fakeLab(t)
	c := n.ready(t, start)
	p := &rewrapper{Provider: n.provider.New()}
	k := *n.Keyring
	k.KEK = &kek.Set{Active: p}
	r, err := keyslot.Rewrap(t.Context(), c, &k)
	if err != nil || r.Changed || p.calls != 0 {
		t.Errorf("nothing newer: %+v, %d calls, %v", r, p.calls, err)
	}
	n.provider.Advance()
	if r, err = keyslot.Rewrap(t.Context(), c, &k); err != nil || !r.Changed || p.calls != 1 || r.From.Version != "1" || r.To.Version != "2" {
		t.Errorf("a newer version: %+v, %d calls, %v", r, p.calls, err)
	}
	n.opens(t, c)
	if is := slotOf(t, state(t, c), keyslot.RoleAgent); len(is.History) != 1 {
		t.Errorf("history %v", is.History)
	}
	// One that finds out only now that it cannot.
	p.err = errors.ErrUnsupported
	n.provider.Advance()
	if r, err = keyslot.Rewrap(t.Context(), c, &k); err != nil || !r.Changed || r.To.Version != "3" {
		t.Errorf("unsupported: %+v, %v", r, err)
	}
	// One whose new wrap does not open: nothing is written.
	p.err, p.bad = nil, true
	n.provider.Advance()
	q := start()
	if _, err = keyslot.Rewrap(t.Context(), q.c, &k); !errors.Is(err, kek.ErrWrongKey) || q.steps() != 0 {
		t.Errorf("a bad wrap: %d writes, %v", q.steps(), err)
	}
	n.opens(t, c)
}

// rewrapper renews wraps as key services do.
type rewrapper struct {
	kek.Provider
	calls int
	err   error
	bad   bool
}

func (p *rewrapper) Rewrap(ctx context.Context, b kek.Binding, ref kek.Ref, wrap []byte) ([]byte, kek.Ref, error) {
	p.calls++
	if p.err != nil {
		return nil, kek.Ref{}, p.err
	}
	again, now, err := p.Provider.(kek.Rewrapper).Rewrap(ctx, b, ref, wrap)
	if err != nil {
		return nil, kek.Ref{}, err
	}
	if p.bad {
		again[0] ^= 1
	}
	return again, now, nil
}

// Before the token is replaced the new wrap must be unwrapped, by the active provider alone, and open
// the slot by both provers.
func TestRewrapProvesFirst(t *testing.T) {
	everywhere(t, func(t *testing.T, l lab) {
		n := newNode(t)
		start := l.blank(t)
		n.ready(t, start)
		before := n.inOrder(t, start)
		next := kektest.NewMemory("kek-2")
		for _, by := range []string{"libcryptsetup", "luks.go"} {
			p := start()
			var proof *keyslot.ProofError
			if _, err := keyslot.Rewrap(t.Context(), doubt{p.c, by, 31}, n.moving(next)); !errors.As(err, &proof) || p.steps() != 0 {
				t.Errorf("%s: %d writes, %v", by, p.steps(), err)
			}
		}
		for name, test := range map[string]struct {
			active kek.Provider
			want   error
		}{
			"cannot unwrap":   {wrapsOnly{next.New()}, kek.ErrDenied},
			"unwraps another": {unwrapsOther{next.New()}, keyslot.ErrWrongKey},
		} {
			k := n.moving(next)
			k.KEK.Active = test.active
			p := start()
			if _, err := keyslot.Rewrap(t.Context(), p.c, k); !errors.Is(err, test.want) || p.steps() != 0 {
				t.Errorf("%s: %d writes, %v", name, p.steps(), err)
			}
		}
		// The previous one could unwrap what the active one wraps: it is to go, so that does not count.
		k := n.moving(next)
		k.KEK = &kek.Set{Active: disowns{next.New()}, Previous: []kek.Provider{n.provider.New(), next.New()}}
		q := start()
		if _, err := keyslot.Rewrap(t.Context(), q.c, k); !errors.Is(err, kek.ErrNotMine) || q.steps() != 0 {
			t.Errorf("disowns: %d writes, %v", q.steps(), err)
		}
		// Provider down.
		next.Fail(kek.ErrUnavailable)
		p := start()
		if _, err := keyslot.Rewrap(t.Context(), p.c, n.moving(next)); !errors.Is(err, kek.ErrUnavailable) || p.steps() != 0 {
			t.Errorf("provider down: %d writes, %v", p.steps(), err)
		}
		if after := n.inOrder(t, start); fmt.Sprint(after.Slots) != fmt.Sprint(before.Slots) {
			t.Errorf("slots %+v", after.Slots)
		}
	})
}

// F36: what a volume was once exposed to stays in its header through rotations, and a key that wraps again is none of the former ones.
func TestFormerKeys(t *testing.T) {
	n := newNode(t)
	c := n.ready(t, fakeLab(t))
	next := kektest.NewMemory("kek-2")
	forth := n.moving(next)
	back := *n.Keyring
	back.KEK = &kek.Set{Active: n.provider.New(), Previous: []kek.Provider{next.New()}}
	rotate := func(k *keyslot.Keyring, want ...string) {
		t.Helper()
		if _, err := keyslot.Rotate(t.Context(), c, k, keyslot.RoleAgent); err != nil {
			t.Fatal(err)
		}
		if is := slotOf(t, state(t, c), keyslot.RoleAgent); len(is.History) != 1 || fmt.Sprint(is.History[0].ID, is.Former) != fmt.Sprint(want[0], refs(want[1:])) {
			t.Errorf("wrapped by %v, before by %v", is.History, is.Former)
		}
	}
	rotate(n.Keyring, "kek-1")
	rotate(forth, "kek-2", "kek-1")
	rotate(forth, "kek-2", "kek-1")
	rotate(&back, "kek-1", "kek-2")
	rotate(forth, "kek-2", "kek-1")
	if _, err := keyslot.Rewrap(t.Context(), c, &back); err != nil {
		t.Fatal(err)
	}
	if is := slotOf(t, state(t, c), keyslot.RoleAgent); len(is.History) != 2 || len(is.Former) != 0 || !is.ExposedTo("kek-2") {
		t.Errorf("wrapped by %v, before by %v", is.History, is.Former)
	}
}

func refs(ids []string) []kek.Ref {
	all := []kek.Ref{}
	for _, id := range ids {
		all = append(all, kek.Ref{Provider: "memory", ID: id})
	}
	return all
}

// F36: every slot whose key was ever wrapped by the leaked key gets another one, also after the token
// had moved on, and whatever died on the way; others stay.
func TestRevoke(t *testing.T) {
	everywhere(t, func(t *testing.T, l lab) {
		next := kektest.NewMemory("kek-2")
		cuts := 5
		if l.name == "luks" {
			cuts = 2
		}
		for cutAt := 0; cutAt <= cuts; cutAt++ {
			n := newNode(t)
			start := l.blank(t)
			c := n.ready(t, start)
			leaked := n.keyOf(t, c, keyslot.RoleAgent)
			k := n.moving(next)
			if _, err := keyslot.Revoke(t.Context(), c, n.Keyring, "kek-1"); !errors.Is(err, keyslot.ErrStillActive) {
				t.Errorf("active: %v", err)
			}
			switch cutAt {
			case 0: // straight from the old key
			case 1:
				if _, err := keyslot.Rewrap(t.Context(), c, k); err != nil {
					t.Fatal(err)
				}
			default: // a rotation under the old key had died
				cut(start, diesAfter, cutAt-1, func(p program) error {
					_, err := keyslot.Rotate(t.Context(), p.c, n.Keyring, keyslot.RoleAgent)
					return err
				})
			}
			r, err := keyslot.Revoke(t.Context(), c, k, "kek-1")
			if err != nil || r == nil || r.KEK.ID != "kek-2" {
				t.Fatalf("%d: %+v, %v", cutAt, r, err)
			}
			s := state(t, c)
			if is := slotOf(t, s, keyslot.RoleAgent); is.WrappedBy("kek-1") || !is.ExposedTo("kek-1") || s.Interrupted() || len(s.Slots) != 2 {
				t.Errorf("%d: %+v", cutAt, s.Slots)
			}
			if err := opensWith(t, c, n.Keyring); !errors.Is(err, kek.ErrNotMine) {
				t.Errorf("%d: the old key: %v", cutAt, err)
			}
			for _, slot := range s.Slots {
				if err := c.TestSlot(slot.Number, leaked); !errors.Is(err, luks.ErrWrongKey) {
					t.Errorf("%d: the leaked slot key on slot %d: %v", cutAt, slot.Number, err)
				}
			}
			p := start()
			if r, err := keyslot.Revoke(t.Context(), p.c, k, "kek-1"); err != nil || r != nil || p.steps() != 0 {
				t.Errorf("%d: again: %+v, %d writes, %v", cutAt, r, p.steps(), err)
			}
			n.recovers(t, c)
		}
	})
}

// disowns wraps, and does not know its own wraps.
type disowns struct{ kek.Provider }

func (p disowns) Unwrap(_ context.Context, _ kek.Binding, ref kek.Ref, _ []byte) (*secret.Key, error) {
	return nil, &kek.NotMineError{Want: ref, Have: p.Ref()}
}
