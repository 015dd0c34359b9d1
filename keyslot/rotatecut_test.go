// SPDX-License-Identifier: Apache-2.0

package keyslot_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/voluks/voluks/internal/kek/kektest"
	"github.com/voluks/voluks/internal/testenv"
	"github.com/voluks/voluks/keyslot"
	"github.com/voluks/voluks/luks"
)

// A power cut after each durable write of rotations and of a move to another key, in the order in which the disk got
// them: at each point the node and the identity open the container, and Recover leaves two slots and three tokens. F29
// F31 F32
func TestPowerCutsOfRotation(t *testing.T) {
	r := record(t)
	n := newNode(t)
	c := luks.At(r.Path)
	do := func(note string, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		r.Mark(t, note)
	}
	next := kektest.NewMemory("kek-2")
	k := n.moving(next)
	do("made", keyslot.Format(t.Context(), c, n.Keyring, params()))
	do("ready", keyslot.SetVolume(c, newVolume()))
	_, err := keyslot.Rotate(t.Context(), c, n.Keyring, keyslot.RoleAgent)
	do("agent", err)
	_, err = keyslot.Rotate(t.Context(), c, n.Keyring, keyslot.RoleRecovery)
	do("recovery", err)
	_, err = keyslot.Rewrap(t.Context(), c, k)
	do("moved", err)
	_, err = keyslot.Revoke(t.Context(), c, k, "kek-1")
	do("revoked", err)

	path := filepath.Join(t.TempDir(), "disk")
	least := map[string]uint64{"ready": 1, "agent": 2, "recovery": 3, "moved": 3, "revoked": 4}
	undone, finished, cuts := 0, 0, 0
	last := ""
	r.Replay(t, func(disk []byte, w testenv.Write) {
		note := w.Note
		last = note
		if w.From == w.To && !w.Mark || least[note] == 0 {
			return // TestPowerCuts has these
		}
		cuts++
		write(t, path, disk, 0)
		s := &stepper{Container: luks.At(path)}
		err := func() error {
			if err := opensWith(t, s, k); err != nil {
				return err
			}
			slot, key, err := keyslot.UnlockRecovery(s, n.identities)
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
			if note == "revoked" {
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
	if cuts < 20 || undone == 0 || finished == 0 || last != "dm-log-writes-end" {
		t.Errorf("%d power cuts, the last one after %q: %d taken back, %d finished", cuts, last, undone, finished)
	}
}
