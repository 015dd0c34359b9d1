// SPDX-License-Identifier: Apache-2.0

package keyslot_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/voluks/voluks/internal/testenv"
	"github.com/voluks/voluks/keyslot"
	"github.com/voluks/voluks/luks"
)

// F29 F31: the power goes after each write of ReplaceKey that reached the disk, in the order of the disk: the old key or the new one opens it, once it
// has returned the new one does, and the same call again leaves the new slot alone.
func TestPowerCutsOfReplaceKey(t *testing.T) {
	testenv.Guest(t)
	old, next := randomKey(t), randomKey(t)
	path := image(t)
	if err := luks.At(path).Format(luks.FormatParams{UUID: deviceUUID, SectorSize: 512, Slot: 0, Key: old}); err != nil {
		t.Fatal(err)
	}
	first, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	r := testenv.Record(t, "keyslot-replaced", first)
	if _, err := keyslot.ReplaceKey(t.Context(), luks.At(r.Path), luks.Auth{Slot: 0, Key: old}, next, luks.KDFRandomKey); err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(t.TempDir(), "disk")
	cuts, both, opensOld, opensNew := 0, 0, true, false
	r.Replay(t, func(disk []byte, w testenv.Write) {
		if w.From == w.To {
			return
		}
		cuts++
		write(t, copied, disk, 0)
		c := luks.At(copied)
		opensOld, opensNew = c.TestSlot(0, old) == nil, c.TestSlot(1, next) == nil
		if opensOld && opensNew {
			both++
		}
		if !opensOld && !opensNew {
			t.Errorf("write %d: nothing opens it", cuts)
		}
		if opensOld {
			if _, err := keyslot.ReplaceKey(t.Context(), c, luks.Auth{Slot: 0, Key: old}, next, luks.KDFRandomKey); err != nil {
				t.Errorf("write %d: again: %v", cuts, err)
			}
		}
		if !opensOld && slices.Contains(slotsOf(t, c), 0) { // its key material went first
			if err := keyslot.RemoveKey(t.Context(), c, 0, &luks.Auth{Slot: 1, Key: next}, false); err != nil {
				t.Errorf("write %d: the dead slot: %v", cuts, err)
			}
		}
		if got := slotsOf(t, c); !slices.Equal(got, []int{1}) || c.TestSlot(1, next) != nil {
			t.Errorf("write %d: slots %v in the end", cuts, got)
		}
	})
	if cuts < 6 || both == 0 || opensOld || !opensNew {
		t.Errorf("%d cuts, both open after %d, in the end the old %t, the new %t", cuts, both, opensOld, opensNew)
	}
}
