// SPDX-License-Identifier: Apache-2.0

package keyslot_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/kek/kektest"
	"github.com/voluks/voluks/internal/recovery"
	"github.com/voluks/voluks/internal/testenv"
	"github.com/voluks/voluks/keyslot"
	"github.com/voluks/voluks/luks"
)

// A power cut at each flush of rotations, of a move to another key, of a change to another recovery identity and of what that identity does
// when the key is lost, in the order in which the disk got them: at each point the node and the identity open the container, and Recover leaves two slots and three tokens. F29
// F31 F32
func TestPowerCutsOfRotation(t *testing.T) {
	n := newNode(t)
	r := record(t, n)
	c := luks.At(r.Path)
	r.Mark(t, "ready")
	do := func(note string, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		r.Mark(t, note)
	}
	next := kektest.NewMemory("kek-2")
	k := n.moving(next)
	_, err := keyslot.Rotate(t.Context(), c, n.Keyring, keyslot.RoleAgent)
	do("agent", err)
	_, err = keyslot.Rotate(t.Context(), c, n.Keyring, keyslot.RoleRecovery)
	do("recovery", err)
	_, err = keyslot.Rewrap(t.Context(), c, k)
	do("moved", err)
	_, err = keyslot.Revoke(t.Context(), c, k, "kek-1")
	do("revoked", err)
	to := newNode(t)
	rekeyed := *k
	rekeyed.Recipients = to.Recipients
	_, err = keyslot.Rekey(t.Context(), c, &rekeyed)
	do("rekeyed", err)
	last := kektest.NewMemory("kek-3")
	heir := keyslot.Keyring{KEK: last.Set(), Identities: to.identities, Now: n.Now}
	_, err = keyslot.Rotate(t.Context(), c, &heir, keyslot.RoleAgent)
	do("rescued", err)
	identities := slices.Concat(n.identities, to.identities)
	k.KEK = &kek.Set{Active: last.New(), Previous: append([]kek.Provider{k.KEK.Active}, k.KEK.Previous...)}

	path := filepath.Join(t.TempDir(), "disk")
	least := map[string]uint64{"ready": 1, "agent": 2, "recovery": 3, "moved": 3, "revoked": 4, "rekeyed": 5, "rescued": 6}
	undone, finished, cuts := 0, 0, 0
	end, dirty := "", false
	r.Replay(t, func(disk []byte, w testenv.Write) {
		note := w.Note
		end = note
		// After each write of the first rotation, and at each flush of what follows: writes between two flushes are alike in all of them, and
		// TestRandomPowerCuts tears them.
		dirty = dirty || w.From < w.To
		if !dirty && !w.Mark || note != "ready" && !w.Flush && !w.Mark {
			return
		}
		dirty = false
		cuts++
		write(t, path, disk, 0)
		s := &stepper{Container: luks.At(path)}
		err := func() error {
			if err := opensWith(t, s, k); err != nil {
				return err
			}
			slot, key, err := keyslot.UnlockRecovery(s, identities)
			if err != nil {
				return err
			}
			defer key.Wipe()
			if err := s.TestSlot(slot, key); err != nil {
				return err
			}
			found, err := keyslot.Recover(t.Context(), s, k)
			if err != nil {
				return err
			}
			if found.Undone != "" {
				undone++
			}
			if found.Finished != nil {
				finished++
			}
			h, err := s.Header()
			if err != nil {
				return err
			}
			slots, err := keyslot.State(h)
			if err != nil {
				return err
			}
			if len(h.Keyslots) != 2 || len(h.Tokens) != 3 || slots.Interrupted() || len(found.Left) > 0 {
				return fmt.Errorf("left %+v: %d slots, %d tokens", found, len(h.Keyslots), len(h.Tokens))
			}
			if slots.Generation() < least[note] {
				return fmt.Errorf("generation %d, though a rotation to %d had returned", slots.Generation(), least[note])
			}
			if least[note] >= least["rekeyed"] {
				if _, err := keyslot.ProveRecovery(s, n.identities); !errors.Is(err, recovery.ErrWrongIdentity) {
					return fmt.Errorf("the old identity: %w", err)
				}
			}
			if least[note] >= least["revoked"] {
				if err := opensWith(t, s, n.Keyring); err == nil {
					return errors.New("the revoked key opens it")
				}
			}
			return opensWith(t, s, k)
		}()
		if err != nil {
			t.Errorf("after %q: %v", note, err)
		}
	})
	t.Logf("%d power cuts: %d rotations taken back, %d finished", cuts, undone, finished)
	if cuts < 50 || undone == 0 || finished == 0 || end != "dm-log-writes-end" {
		t.Errorf("%d power cuts, the last one after %q: %d taken back, %d finished", cuts, end, undone, finished)
	}
}
