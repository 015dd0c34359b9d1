// SPDX-License-Identifier: Apache-2.0

package keyslot_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/voluks/voluks/internal/kek/kektest"
	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/internal/testenv"
	"github.com/voluks/voluks/keyslot"
	"github.com/voluks/voluks/luks"
)

// A hundred and more power cuts at random instants of rotations, by the identity alone too, of a revocation, and of a change to other recipients. F29 F31 F32
//
// The kernel has logged what reached the disk and where it was told to flush (dm-log-writes). A cut leaves everything from before the last flush; of what
// came later any part, each write whole, not at all, or torn between two sectors in either direction, as a disk with a cache of its own may. What this
// cannot show: a disk that forgets what it has flushed (TestGuestLostWrites), half a sector, and a file system or loop device in between
// (TestGuestPowerCutKeys of the volume).
func TestRandomPowerCuts(t *testing.T) {
	times := testenv.PowerCuts(t, 100)
	random, seed := testenv.Random(t)

	n := newNode(t)
	r := record(t, n)
	c := luks.At(r.Path)
	third := kektest.NewMemory("kek-3")
	ring := n.moving(kektest.NewMemory("kek-2"))
	ring.KEK.Previous = append(ring.KEK.Previous, third.New())
	r.Mark(t, "ready")
	changes := map[string]keyChange{}
	for _, change := range keyChanges("kek-1", third, n.another(t)) {
		changes[change.name] = change
	}
	order := []string{"agent", "recovery", "revoke", "rekey", "rescue", "move"} // the first two by the first key
	promised := map[string]uint64{"ready": 1}
	for i, name := range order {
		change, k := changes[name], ring
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

	base, writes := r.After(t, "ready")
	if len(writes) < 60 {
		t.Fatalf("only %d entries were logged", len(writes))
	}

	path := filepath.Join(t.TempDir(), "disk")
	outcome, disk := map[string]int{}, make([]byte, powerCutSize)
	for i := range times {
		at := random.IntN(len(writes))
		testenv.PowerOff(disk, random, 512, base, writes[:at+1])
		note := writes[at].Note
		write(t, path, disk, 0)
		what, err := n.afterRandomCut(t, luks.At(path), ring, promised[note], changes[order[random.IntN(len(order))]])
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
	if err := n.counts(c); err != nil {
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
