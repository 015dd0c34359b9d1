// SPDX-License-Identifier: Apache-2.0

package keyslot_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"reflect"
	"testing"

	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/kek/kektest"
	"github.com/voluks/voluks/internal/secret"
	"github.com/voluks/voluks/internal/testenv"
	"github.com/voluks/voluks/keyslot"
	"github.com/voluks/voluks/luks"
	"github.com/voluks/voluks/luks/header"
)

func TestMain(m *testing.M) {
	// libcryptsetup opens the random devices on first use, and keeps them: no leak of ours.
	if _, err := luks.Version(); err != nil {
		panic(err)
	}
	testenv.Main(m)
}

// F37 F38: two slots with keys of their own, described by their tokens, in the cheap key derivation
// that random keys allow.
func TestFormat(t *testing.T) {
	everywhere(t, func(t *testing.T, l lab) {
		start := l.blank(t)
		n := newNode(t)
		c := n.formatted(t, start)
		n.whole(t, c)
		want := []keyslot.Slot{
			{Number: 31, Managed: true, Role: "agent", Generation: 1, Created: created, KEK: kek.Ref{Provider: "memory", ID: "kek-1", Version: "1"},
				History: []kek.Ref{{Provider: "memory", ID: "kek-1"}}},
			{Number: 30, Managed: true, Role: "recovery", Generation: 1, Created: created, Recipients: []string{n.Recipients[0].Fingerprint()}},
		}
		if got := state(t, c); !reflect.DeepEqual(got.Slots, want) || got.Volume != nil {
			t.Errorf("got %+v", got)
		}
		h, err := c.Header()
		if err != nil {
			t.Fatal(err)
		}
		for number, slot := range h.Keyslots {
			if slot.KDF.Type != "pbkdf2" || slot.KDF.Iterations != 1000 {
				t.Errorf("slot %d: %+v", number, slot.KDF)
			}
		}
		_, agent, err := keyslot.Unlock(t.Context(), c, n.Keyring)
		if err != nil {
			t.Fatal(err)
		}
		defer agent.Wipe()
		_, rescue, err := keyslot.UnlockRecovery(c, n.identities)
		if err != nil {
			t.Fatal(err)
		}
		defer rescue.Wipe()
		if agent.Equal(rescue) {
			t.Error("both slots have one key")
		}
		if err := c.TestSlot(31, rescue); !errors.Is(err, luks.ErrWrongKey) {
			t.Errorf("the recovery key on the agent's slot: %v", err)
		}
	})
}

func TestFormatWithoutRecovery(t *testing.T) {
	everywhere(t, func(t *testing.T, l lab) {
		start := l.blank(t)
		n := newNode(t)
		n.Recipients, n.NoRecovery = nil, true
		c := n.formatted(t, start)
		if s := state(t, c); len(s.Slots) != 1 || s.Slots[0].Role != keyslot.RoleAgent {
			t.Errorf("slots %+v", s.Slots)
		}
		n.opens(t, c)
		if _, _, err := keyslot.UnlockRecovery(c, n.identities); !errors.Is(err, keyslot.ErrNoRecoverySlot) {
			t.Errorf("recovery: %v", err)
		}
		if err := keyslot.Complete(t.Context(), c, n.Keyring); err != nil {
			t.Error(err)
		}
		if s := state(t, c); len(s.Slots) != 1 {
			t.Errorf("slots %+v", s.Slots)
		}
	})
}

// F28 F39: whatever fails before the first write leaves the disk as it was.
func TestNothingWritten(t *testing.T) {
	everywhere(t, func(t *testing.T, l lab) {
		start := l.blank(t)
		many := postQuantum(t, 12) // 2 KiB each
		stopped, stop := context.WithCancel(t.Context())
		stop()
		for name, test := range map[string]struct {
			ctx   context.Context
			spoil func(*node)
			want  error
		}{
			"no recipient":        {t.Context(), func(n *node) { n.Recipients = nil }, keyslot.ErrNoRecovery},
			"provider down":       {t.Context(), func(n *node) { n.provider.Fail(kek.ErrUnavailable) }, kek.ErrUnavailable},
			"key disabled":        {t.Context(), func(n *node) { n.provider.Fail(kek.ErrDisabled) }, kek.ErrDisabled},
			"cannot unwrap":       {t.Context(), func(n *node) { n.KEK.Active = wrapsOnly{n.provider.New()} }, kek.ErrDenied},
			"unwraps another":     {t.Context(), func(n *node) { n.KEK.Active = unwrapsOther{n.provider.New()} }, kek.ErrWrongKey},
			"cancelled":           {stopped, func(*node) {}, context.Canceled},
			"too many recipients": {t.Context(), func(n *node) { n.Recipients = many }, &keyslot.TooLargeError{}},
		} {
			n := newNode(t)
			test.spoil(n)
			p := start()
			err := keyslot.Format(test.ctx, p.c, n.Keyring, params())
			if large := new(keyslot.TooLargeError); errors.As(test.want, &large) {
				if !errors.As(err, &large) || large.Limit != keyslot.MaxTokens || large.Size <= large.Limit {
					t.Errorf("%s: %v", name, err)
				}
			} else if !errors.Is(err, test.want) {
				t.Errorf("%s: got %v, want %v", name, err, test.want)
			}
			if steps := p.steps(); steps != 0 {
				t.Errorf("%s: %d writes", name, steps)
			}
			if _, err := start().c.Header(); !errors.Is(err, header.ErrNotLUKS) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

// wrapsOnly may encrypt and not decrypt, as a wrong policy of a key service has it.
type wrapsOnly struct{ kek.Provider }

func (wrapsOnly) Unwrap(context.Context, kek.Binding, kek.Ref, []byte) (*secret.Key, error) {
	return nil, kek.ErrDenied
}

// unwrapsOther returns some key.
type unwrapsOther struct{ kek.Provider }

func (unwrapsOther) Unwrap(context.Context, kek.Binding, kek.Ref, []byte) (*secret.Key, error) {
	return secret.Random(kek.KeySize)
}

// F1 F2 F5: Format does not replace what it has not left itself.
func TestFormatRefuses(t *testing.T) {
	everywhere(t, func(t *testing.T, l lab) {
		start := l.blank(t)
		n := newNode(t)
		c := n.formatted(t, start)
		before, err := c.Header()
		if err != nil {
			t.Fatal(err)
		}
		refused := func(what string, p luks.FormatParams) {
			again := start()
			if err := keyslot.Format(t.Context(), again.c, n.Keyring, p); !errors.Is(err, keyslot.ErrNotOurs) {
				t.Errorf("%s: %v", what, err)
			}
			if after, err := c.Header(); err != nil || after.Epoch != before.Epoch || again.steps() != 0 {
				t.Errorf("%s: %d writes, %v", what, again.steps(), err)
			}
		}
		refused("a whole container", params())
		other := params()
		other.UUID = "ffffffff-4a4c-4d5e-9a4e-0f1d2c3b4a59"
		refused("another volume's", other)
		for id := range before.Tokens {
			if err := c.RemoveToken(id); err != nil {
				t.Fatal(err)
			}
		}
		if before, err = c.Header(); err != nil {
			t.Fatal(err)
		}
		refused("another volume's, without tokens", other)
		if _, err := c.SetToken(-1, []byte(`{"type":"clevis","keyslots":["31"],"jwe":{}}`)); err != nil {
			t.Fatal(err)
		}
		if before, err = c.Header(); err != nil {
			t.Fatal(err)
		}
		refused("somebody's token", params())
	})
}

// The enumeration of the table in format.go: the program dies after write k, or write k fails, for
// every k; then the next program finishes, and the container is as if nothing had happened. F4 F29 F31 F32
func TestFormatCrashes(t *testing.T) {
	everywhere(t, func(t *testing.T, l lab) {
		start := l.blank(t)
		n := newNode(t)
		writes := countWrites(t, start, func(p program) error { return keyslot.Format(t.Context(), p.c, n.Keyring, params()) })
		if writes < 4 {
			t.Fatalf("only %d writes", writes)
		}
		for k := 1; k <= writes; k++ {
			for _, how := range l.ways {
				t.Run(fmt.Sprintf("%s %d", how, k), func(t *testing.T) {
					start := l.blank(t)
					cut(start, how, k, func(p program) error { return keyslot.Format(t.Context(), p.c, n.Keyring, params()) })
					n.finish(t, start)
					n.whole(t, start().c)
				})
			}
		}
	})
}

// The same for Complete, after each incomplete state that a Format can leave.
func TestCompleteCrashes(t *testing.T) {
	everywhere(t, func(t *testing.T, l lab) {
		start := l.blank(t)
		n := newNode(t)
		formats := countWrites(t, start, func(p program) error { return keyslot.Format(t.Context(), p.c, n.Keyring, params()) })
		agentOnly := formats - 2 // before the recovery slot and its token
		states := []int{agentOnly, agentOnly + 1}
		if l.name == "luks" {
			states = states[1:] // the first is a part of it
		}
		for _, left := range states {
			prepare := func(t *testing.T) func() program {
				start := l.blank(t)
				cut(start, diesAfter, left, func(p program) error { return keyslot.Format(t.Context(), p.c, n.Keyring, params()) })
				if s := state(t, start().c); len(s.Slots) != 1+left-agentOnly || s.Slots[0].Role != keyslot.RoleAgent {
					t.Fatalf("slots %+v", s.Slots)
				}
				n.opens(t, start().c) // at every moment from here on
				return start
			}
			complete := func(p program) error { return keyslot.Complete(t.Context(), p.c, n.Keyring) }
			writes := countWrites(t, prepare(t), complete)
			if want := 2 + left - agentOnly; writes != want {
				t.Errorf("%d writes to complete, want %d", writes, want)
			}
			for k := 1; k <= writes; k++ {
				for _, how := range l.ways {
					t.Run(fmt.Sprintf("left by %d, %s %d", left, how, k), func(t *testing.T) {
						start := prepare(t)
						cut(start, how, k, complete)
						n.opens(t, start().c)
						n.finish(t, start)
						n.whole(t, start().c)
					})
				}
			}
		}
	})
}

// countWrites runs an operation to its end.
func countWrites(t *testing.T, start func() program, operation func(program) error) int {
	t.Helper()
	p := start()
	if err := operation(p); err != nil {
		t.Fatal(err)
	}
	return p.steps()
}

// cut runs an operation that does not come to its end, unless its last write was the one that it
// died after.
func cut(start func() program, how string, k int, operation func(program) error) {
	p := start()
	if how == failsAt {
		p.failAt(k)
	} else {
		p.dieAfter(k)
	}
	_ = operation(p)
}

// finish does what the creation of a volume does when it finds its own container.
func (n *node) finish(t *testing.T, start func() program) {
	t.Helper()
	c := start().c
	h, err := c.Header()
	if err != nil && !errors.Is(err, header.ErrNotLUKS) {
		t.Fatal(err)
	}
	if err != nil || !keyslot.Managed(h) {
		err = keyslot.Format(t.Context(), c, n.Keyring, params())
	} else {
		n.opens(t, c)
		err = keyslot.Complete(t.Context(), c, n.Keyring)
	}
	if err != nil {
		t.Fatal(err)
	}
	again := start()
	if err := keyslot.Complete(t.Context(), again.c, n.Keyring); err != nil {
		t.Fatal(err)
	}
	if steps := again.steps(); steps != 0 {
		t.Errorf("completing what is complete took %d writes", steps)
	}
}

// A header that libcryptsetup had not finished: no slot yet, or one copy torn.
func TestFormatOverTornHeader(t *testing.T) {
	cryptsetup := tool(t, "cryptsetup")
	n := newNode(t)
	for name, tear := range map[string]func(path string) error{
		"no slot": func(path string) error {
			return exec.CommandContext(t.Context(), cryptsetup, "luksKillSlot", "--batch-mode", path, "31").Run()
		},
		"first copy":  func(path string) error { return zero(path, 0) },
		"second copy": func(path string) error { return zero(path, header.DefaultMetadataSize) },
	} {
		path := image(t)
		p := params()
		p.Slot, p.Key = 31, randomKey(t)
		c := luks.At(path)
		if err := c.Format(p); err != nil {
			t.Fatal(err)
		}
		if err := tear(path); err != nil {
			t.Fatal(err)
		}
		if err := keyslot.Format(t.Context(), c, n.Keyring, params()); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		n.whole(t, c)
	}

	path := image(t)
	c := luks.At(path)
	if err := keyslot.Format(t.Context(), c, n.Keyring, params()); err != nil {
		t.Fatal(err)
	}
	for copy := range 2 {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.WriteAt([]byte("torn"), int64(copy)*header.DefaultMetadataSize+4096)
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	if err := keyslot.Format(t.Context(), c, n.Keyring, params()); !errors.Is(err, keyslot.ErrNotOurs) || !errors.Is(err, header.ErrDamaged) {
		t.Errorf("over a header whose copies are both damaged: %v", err)
	}
}

func zero(path string, offset int64) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(make([]byte, 4096), offset)
	return errors.Join(err, f.Close())
}

// A disk that does not take the header down gets no token.
func TestSyncFails(t *testing.T) {
	n := newNode(t)
	path := image(t)
	s := &stepper{Container: luks.At(path), noSync: true}
	if err := keyslot.Format(t.Context(), s, n.Keyring, params()); !errors.Is(err, os.ErrClosed) {
		t.Errorf("format: %v", err)
	}
	h, err := luks.At(path).Header()
	if err != nil {
		t.Fatal(err)
	}
	if s.n != 1 || keyslot.Managed(h) {
		t.Errorf("%d writes, tokens %v", s.n, h.Tokens)
	}
	if err := keyslot.Format(t.Context(), luks.At(path), n.Keyring, params()); err != nil {
		t.Fatal(err)
	}
	if err := keyslot.SetVolume(s, volumeToken()); !errors.Is(err, os.ErrClosed) {
		t.Errorf("describe the volume: %v", err)
	}
}

// Each prover alone can refuse a slot, and then no token is written.
func TestProof(t *testing.T) {
	for _, by := range []string{"libcryptsetup", "luks.go"} {
		for slot, tokens := range map[int]int{31: 0, 30: 1} {
			n := newNode(t)
			path := image(t)
			err := keyslot.Format(t.Context(), doubt{luks.At(path), by, slot}, n.Keyring, params())
			var proof *keyslot.ProofError
			if !errors.As(err, &proof) || proof.By != by || proof.Slot != slot || !errors.Is(err, luks.ErrWrongKey) {
				t.Errorf("%s on %d: %v", by, slot, err)
			}
			if h, err := luks.At(path).Header(); err != nil || len(h.Tokens) != tokens {
				t.Errorf("%s on %d: tokens %v, %v", by, slot, h.Tokens, err)
			}
		}
	}
	c := luks.At(image(t))
	p := params()
	p.Slot, p.Key = 31, randomKey(t)
	if err := c.Format(p); err != nil {
		t.Fatal(err)
	}
	if err := keyslot.Prove(c, 31, p.Key); err != nil {
		t.Error(err)
	}
	if err := keyslot.Prove(c, 31, randomKey(t)); !errors.Is(err, luks.ErrWrongKey) {
		t.Errorf("another key: %v", err)
	}
	if err := keyslot.Prove(c, 30, p.Key); !errors.Is(err, luks.ErrNoSlot) {
		t.Errorf("another slot: %v", err)
	}
}

// doubt is a container of which one prover says that the key of one slot is wrong.
type doubt struct {
	keyslot.Container
	by   string
	slot int
}

func (d doubt) TestSlot(slot int, key *secret.Key) error {
	if d.by == "libcryptsetup" && d.slot == slot {
		return luks.ErrWrongKey
	}
	return d.Container.TestSlot(slot, key)
}

func (d doubt) Witness(slot int, key *secret.Key) error {
	if d.by == "luks.go" && d.slot == slot {
		return luks.ErrWrongKey
	}
	return d.Container.Witness(slot, key)
}

// F35: what others have put into the header survives, and the slots of a volume that is in use are
// nobody's to tidy up.
func TestCompleteLeavesOthersAlone(t *testing.T) {
	everywhere(t, func(t *testing.T, l lab) {
		start := l.blank(t)
		n := newNode(t)
		c := n.formatted(t, start)
		slot, key, err := keyslot.Unlock(t.Context(), c, n.Keyring)
		if err != nil {
			t.Fatal(err)
		}
		defer key.Wipe()
		// Somebody's slot with our parameters and no token.
		mine := randomKey(t)
		if err := c.AddSlot(luks.Auth{Slot: slot, Key: key}, 5, mine, luks.KDFRandomKey); err != nil {
			t.Fatal(err)
		}
		if err := keyslot.SetVolume(c, volumeToken()); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if err := keyslot.Complete(t.Context(), c, n.Keyring); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.TestSlot(5, mine); err != nil {
			t.Errorf("somebody's slot: %v", err)
		}
		if s := state(t, c); len(s.Slots) != 3 || s.Slots[2].Number != 5 || s.Slots[2].Managed || s.Slots[2].Kind != keyslot.KindUnclaimed {
			t.Errorf("slots %+v", s.Slots)
		}
	})
}

// A volume that was made without recovery slot, and is in use, does not get one by the way: that is a
// change of its own, of which a person is told.
func TestCompleteKeepsReadyVolumes(t *testing.T) {
	everywhere(t, func(t *testing.T, l lab) {
		n := newNode(t)
		none := *n.Keyring
		none.NoRecovery = true
		start := l.blank(t)
		c := start().c
		if err := keyslot.Format(t.Context(), c, &none, params()); err != nil {
			t.Fatal(err)
		}
		if err := keyslot.SetVolume(c, volumeToken()); err != nil {
			t.Fatal(err)
		}
		p := start()
		if err := keyslot.Complete(t.Context(), p.c, n.Keyring); err != nil || p.steps() != 0 {
			t.Errorf("%d writes, %v", p.steps(), err)
		}
	})
}

// Nothing is taken away while the agent slot is not proven to open.
func TestCompleteProvesFirst(t *testing.T) {
	everywhere(t, func(t *testing.T, l lab) {
		n := newNode(t)
		format := func(p program) error { return keyslot.Format(t.Context(), p.c, n.Keyring, params()) }
		writes := countWrites(t, l.blank(t), format)
		start := l.blank(t)
		cut(start, diesAfter, writes-1, format)
		for _, by := range []string{"libcryptsetup", "luks.go"} {
			p := start()
			var proof *keyslot.ProofError
			if err := keyslot.Complete(t.Context(), doubt{p.c, by, 31}, n.Keyring); !errors.As(err, &proof) || p.steps() != 0 {
				t.Errorf("%s: %d writes, %v", by, p.steps(), err)
			}
		}
		n.finish(t, start)
	})
}

// An incomplete container with a token of others: the slot without token may be theirs.
func TestCompleteBesideOthers(t *testing.T) {
	everywhere(t, func(t *testing.T, l lab) {
		start := l.blank(t)
		n := newNode(t)
		none := *n.Keyring
		none.NoRecovery = true
		c := start().c
		if err := keyslot.Format(t.Context(), c, &none, params()); err != nil {
			t.Fatal(err)
		}
		slot, key, err := keyslot.Unlock(t.Context(), c, n.Keyring)
		if err != nil {
			t.Fatal(err)
		}
		defer key.Wipe()
		mine := randomKey(t)
		if err := c.AddSlot(luks.Auth{Slot: slot, Key: key}, 30, mine, luks.KDFRandomKey); err != nil {
			t.Fatal(err)
		}
		if _, err := c.SetToken(-1, []byte(`{"type":"clevis","keyslots":["31"],"jwe":{}}`)); err != nil {
			t.Fatal(err)
		}
		if err := keyslot.Complete(t.Context(), c, n.Keyring); err != nil {
			t.Fatal(err)
		}
		if err := c.TestSlot(30, mine); err != nil {
			t.Errorf("somebody's slot: %v", err)
		}
		if slot := n.recovers(t, c); slot != 29 {
			t.Errorf("the recovery slot is %d", slot)
		}
	})
}

func TestCompleteRefuses(t *testing.T) {
	everywhere(t, func(t *testing.T, l lab) {
		start := l.blank(t)
		n := newNode(t)
		if err := keyslot.Complete(t.Context(), start().c, n.Keyring); !errors.Is(err, header.ErrNotLUKS) {
			t.Errorf("blank: %v", err)
		}
		p := params()
		p.Slot, p.Key = 31, randomKey(t)
		c := start().c
		if err := c.Format(p); err != nil {
			t.Fatal(err)
		}
		if err := keyslot.Complete(t.Context(), c, n.Keyring); !errors.Is(err, keyslot.ErrNoAgentSlot) {
			t.Errorf("no token: %v", err)
		}
	})
	// Provider down, or no recipient: nothing is touched.
	everywhere(t, func(t *testing.T, l lab) {
		start := l.blank(t)
		n := newNode(t)
		cut(start, diesAfter, countWrites(t, l.blank(t), func(p program) error {
			return keyslot.Format(t.Context(), p.c, n.Keyring, params())
		})-1, func(p program) error { return keyslot.Format(t.Context(), p.c, n.Keyring, params()) })
		for name, test := range map[string]struct {
			change func(*node)
			want   error
		}{
			"provider down": {func(n *node) { n.provider.Fail(kek.ErrUnavailable) }, kek.ErrUnavailable},
			"other key":     {func(n *node) { n.KEK = kektest.NewMemory("other").Set() }, kek.ErrNotMine},
			"no recipient":  {func(n *node) { n.Recipients = nil }, keyslot.ErrNoRecovery},
		} {
			changed, keyring := *n, *n.Keyring
			changed.Keyring = &keyring
			test.change(&changed)
			p := start()
			if err := keyslot.Complete(t.Context(), p.c, changed.Keyring); !errors.Is(err, test.want) || p.steps() != 0 {
				t.Errorf("%s: %v, %d writes", name, err, p.steps())
			}
			n.provider.Fail(nil)
		}
		n.finish(t, start)
		n.whole(t, start().c)
	})
}
