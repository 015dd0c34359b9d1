// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/voluks/voluks/internal/kek/file"
	"github.com/voluks/voluks/internal/recovery"
	"github.com/voluks/voluks/internal/recovery/typable"
	"github.com/voluks/voluks/internal/secret"
	"github.com/voluks/voluks/internal/volume"
	"github.com/voluks/voluks/keyslot"
)

// identitiesIn reads a recovery identity from a file; none from "".
func identitiesIn(path string) []recovery.Identity {
	if path == "" {
		return nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		panic(err)
	}
	text, err := secret.Move(b)
	if err != nil {
		panic(err)
	}
	defer text.Wipe()
	identities, err := recovery.ParseIdentities(text)
	if err != nil {
		panic(err)
	}
	return identities
}

// newIdentity makes a recovery identity, which new recovery slots are sealed to from now on, and returns its file.
func (r *real) newIdentity() string {
	r.t.Helper()
	text, recipient, err := recovery.Generate()
	if err != nil {
		r.t.Fatal(err)
	}
	defer text.Wipe()
	path := filepath.Join(r.root, recipient[:20])
	if err := os.WriteFile(path, text.Bytes(), 0o600); err != nil {
		r.t.Fatal(err)
	}
	r.recipient = recipient
	return path
}

// loseKey replaces the master key by another one.
func (r *real) loseKey() {
	r.t.Helper()
	if err := os.Remove(r.paths.MasterKey()); err != nil {
		r.t.Fatal(err)
	}
	if _, err := file.Generate(r.paths.MasterKey()); err != nil {
		r.t.Fatal(err)
	}
}

func addRecoveryKey(ctx context.Context, m *volume.Manager, name string) error {
	key, err := typable.Generate()
	if err != nil {
		return err
	}
	defer key.Wipe()
	_, err = m.AddRecoveryKey(ctx, name, key)
	return err
}

// A process that seals a mounted volume to another identity, or gives it a slot for a new master key by the identity, or deals in recovery keys, is killed
// at each named point. The volume opens with whom its header names, and the next run ends clean. F29 F31 F32 F36
func TestGuestKillRecovery(t *testing.T) {
	r := newReal(t)
	identity := r.newIdentity()
	r.create("db")
	path := r.mount("db", "a")
	r.put(path, canary)
	recovers := func(identity string) error {
		_, err := keyslot.ProveRecovery(r.container(), identitiesIn(identity))
		return err
	}

	before := kills{"backup.written": true, "backup.destroyed": true, "backup.recorded": true} // TestGuestKillKeys has these
	tried := func(o order, least int, begin func(), killed, ended func() error) {
		do := func(m *volume.Manager) error { return o.changeKeys(t.Context(), m) }
		begin()
		points := r.points(do)
		if len(points) < least || !slices.Contains(points, o.Op+".recorded") {
			t.Errorf("%s: only %v", o.Op, points)
		}
		if err := ended(); err != nil {
			t.Fatalf("%s: %v", o.Op, err)
		}
		for i, point := range before.add(points, o.Op == volume.ActionRotate) {
			t.Run(o.Op+"/"+point, func(t *testing.T) {
				defer r.in(t)()
				begin()
				r.kill(point, o)
				if err := killed(); err != nil {
					t.Errorf("killed: %v", err)
				}
				if i%4 == 0 { // not only the proof, but the way that everybody takes
					r.unmount("db", "a")
					path = r.mount("db", "a")
				}
				if err := do(r.manager()); err != nil && o.Op != volume.ActionRemove { // there may be nothing left to remove
					t.Errorf("again: %v", err)
				}
				if err := ended(); err != nil {
					t.Errorf("again: %v", err)
				}
				r.get(path, canary)
			})
		}
	}

	var former string
	tried(order{Op: volume.ActionRekey, Name: "db"}, 7, func() {
		former, identity = identity, r.newIdentity()
	}, func() error {
		if err := recovers(former); err == nil {
			return r.opens()
		}
		return errors.Join(r.opens(), recovers(identity))
	}, func() error {
		if err := recovers(former); !errors.Is(err, recovery.ErrWrongIdentity) {
			return fmt.Errorf("the old identity: %w", err)
		}
		if past := r.inspect("db").PastRecipients; !slices.Contains(past, identitiesIn(former)[0].Recipient().Fingerprint()) {
			return fmt.Errorf("past recipients %v", past)
		}
		return errors.Join(r.opens(), r.ordered(), recovers(identity))
	})

	r.lend = identity
	tried(order{Op: volume.ActionRotate, Name: "db", Role: keyslot.RoleAgent}, 7, r.loseKey, func() error { return recovers(identity) }, func() error {
		return errors.Join(r.opens(), r.ordered(), recovers(identity))
	})
	r.lend = ""

	typed := func() (n int) {
		h, err := r.container().Header()
		if err != nil {
			t.Fatal(err)
		}
		return len(keyslot.TypedSlots(h))
	}
	remove := func() error {
		for typed() > 0 {
			h, err := r.container().Header()
			if err != nil {
				return err
			}
			if _, err := r.manager().RemoveRecoveryKey(t.Context(), "db", keyslot.TypedSlots(h)[0]); err != nil {
				return err
			}
		}
		return nil
	}
	tried(order{Op: volume.ActionAdd, Name: "db"}, 6, func() {}, r.opens, func() error {
		if typed() == 0 {
			return errors.New("there is no recovery key")
		}
		return errors.Join(remove(), r.opens(), r.ordered())
	})
	tried(order{Op: volume.ActionRemove, Name: "db"}, 4, func() {
		if err := addRecoveryKey(t.Context(), r.manager(), "db"); err != nil {
			t.Fatal(err)
		}
	}, r.opens, func() error { return errors.Join(r.opens(), r.ordered()) })

	r.unmount("db", "a")
	r.clean()
}
