// SPDX-License-Identifier: Apache-2.0

package keyslot_test

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	"github.com/voluks/voluks/internal/kek/kektest"
	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/internal/testenv"
	"github.com/voluks/voluks/keyslot"
	"github.com/voluks/voluks/luks"
)

// A hundred and more power cuts at random instants of rotations, of a move to another key and of a revocation. F29 F31 F32
//
// The kernel has logged what reached the disk and where it was told to flush (dm-log-writes). A cut leaves everything from before the last flush; of what
// came later any part, each write whole, not at all, or torn between two sectors in either direction, as a disk with a cache of its own may. What this
// cannot show: a disk that forgets what it has flushed (TestGuestLostWrites), half a sector, and a file system or loop device in between
// (TestGuestPowerCutKeys of the volume).
func TestRandomPowerCuts(t *testing.T) {
	times := testenv.PowerCuts(t, 120)
	random, seed := testenv.Random(t)

	r := record(t)
	n := newNode(t)
	c := luks.At(r.Path)
	ring := n.moving(kektest.NewMemory("kek-2"))
	if err := errors.Join(keyslot.Format(t.Context(), c, n.Keyring, params()), keyslot.SetVolume(c, newVolume())); err != nil {
		t.Fatal(err)
	}
	r.Mark(t, "ready")
	changes := keyChanges("kek-1")
	slices.Reverse(changes[2:]) // the recovery slot and the agent's by the old key; revoked, which moves it; nothing left to move
	changes = append(changes[:2], changes[3], changes[2], changes[1])
	promised := map[string]uint64{"ready": 1}
	for i, change := range changes {
		k := ring
		if i < 2 {
			k = n.Keyring
		}
		if err := change.do(t.Context(), c, k); err != nil {
			t.Fatal(err)
		}
		note := fmt.Sprint(i, "-", change.name) // without blanks, for dmsetup
		r.Mark(t, note)
		s := state(t, c)
		promised[note] = s.Generation()
	}

	var writes []testenv.Logged
	first, base := 0, make([]byte, powerCutSize)
	r.Replay(t, func(disk []byte, w testenv.Write) {
		if w.Note == "" || w.Mark && w.Note == "ready" {
			first = 0
			copy(base, disk)
			return
		}
		writes = append(writes, testenv.Logged{Write: w, Content: bytes.Clone(disk[w.From:w.To])})
	})
	if len(writes) < 60 {
		t.Fatalf("only %d entries were logged", len(writes))
	}

	path := filepath.Join(t.TempDir(), "disk")
	outcome := map[string]int{}
	for i := range times {
		at := first + random.IntN(len(writes)-first)
		disk, note := testenv.PowerOff(random, 512, base, writes[:at+1]), writes[at].Note
		write(t, path, disk, 0)
		what, err := n.afterRandomCut(t, luks.At(path), ring, promised[note], changes[random.IntN(len(changes))])
		outcome[what]++
		if err != nil {
			t.Errorf("seed %d, cut %d, in entry %d of %d, after %q: %v", seed, i, at, len(writes), note, err)
		}
	}
	t.Logf("%d power cuts in %d entries: %v", times, len(writes), outcome)
	if outcome["finished"] == 0 || outcome["undone"] == 0 || outcome["in order"] == 0 {
		t.Errorf("not every kind was seen: %v", outcome)
	}
}

// afterRandomCut checks what is promised after a cut, lets the next operation end it, and says what there was to be ended.
func (n *node) afterRandomCut(t *testing.T, c keyslot.Container, ring *keyslot.Keyring, promised uint64, next keyChange) (what string, err error) {
	if err := n.stillOpens(t, c, ring); err != nil {
		return "lost", fmt.Errorf("it does not open: %w", err)
	}
	h, err := c.Header()
	if err != nil {
		return "lost", err
	}
	s, err := keyslot.State(h)
	if err != nil {
		return "lost", err
	}
	if s.Generation() < promised {
		return "lost", fmt.Errorf("generation %d, though %d had been promised", s.Generation(), promised)
	}
	found, err := keyslot.Recover(t.Context(), c, ring)
	switch {
	case err != nil:
		return "lost", err
	case found.Finished != nil:
		what = "finished"
	case found.Undone != "":
		what = "undone"
	default:
		what = "in order"
	}
	if err := n.tidy(t, c, ring); err != nil {
		return what, err
	}
	if err := next.do(t.Context(), c, ring); err != nil {
		return what, fmt.Errorf("%s: %w", next.name, err)
	}
	return what, errors.Join(n.tidy(t, c, ring), next.check(state(t, c)))
}

// wipe makes the start of a disk blank.
func wipe(t *testing.T, disk string) {
	t.Helper()
	f, err := sys.OpenDirect(disk, true)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for off := int64(0); off < powerCutSize; off += 1 << 20 {
		if _, err := f.WriteAt(make([]byte, 1<<20), off); err != nil {
			t.Fatal(err)
		}
	}
}
