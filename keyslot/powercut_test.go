// SPDX-License-Identifier: Apache-2.0

package keyslot_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/voluks/voluks/internal/testenv"
	"github.com/voluks/voluks/keyslot"
	"github.com/voluks/voluks/luks"
	"github.com/voluks/voluks/luks/header"
)

const powerCutSize = 32 << 20

// record makes a disk of powerCutSize that was zero at first and whose writes the kernel logs in the
// order in which they became durable.
func record(t *testing.T) *testenv.Recorder {
	t.Helper()
	return testenv.Record(t, "keyslot-recorded", make([]byte, powerCutSize))
}

// A power cut after each durable write of a creation, in the order in which the disk got them: once
// the agent token is there the node opens the container, and what Format and SetVolume have promised
// is durable. F4 F29 F31
func TestPowerCuts(t *testing.T) {
	r := record(t)
	n := newNode(t)
	none := *n.Keyring
	none.NoRecovery = true
	c := luks.At(r.Path)
	do := func(note string, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		r.Mark(t, note)
	}
	do("agent", keyslot.Format(t.Context(), c, &none, params()))
	do("both", keyslot.Complete(t.Context(), c, n.Keyring))
	do("volume", keyslot.SetVolume(c, volumeToken()))

	path := filepath.Join(t.TempDir(), "disk")
	cuts, damaged, blank, before, fresh := 0, 0, 0, "", false
	r.Replay(t, func(disk []byte, w testenv.Write) {
		note, from, to := w.Note, w.From, w.To
		before = note
		if from == to && !w.Mark {
			return // a bare flush
		}
		cuts++
		if note == "" && !bytes.Contains(disk[:8], []byte("LUKS")) && !bytes.Contains(disk[header.DefaultMetadataSize:][:8], []byte("SKUL")) {
			if blank++; blank > 1 {
				fresh = false
				return // wiping goes on
			}
		}
		if fresh {
			// Reading may have repaired the header; the rest is as it was.
			write(t, path, disk[:2*header.DefaultMetadataSize], 0)
			write(t, path, disk[from:to], from)
		} else {
			write(t, path, disk, 0)
		}
		writes, err := n.afterPowerCut(t, path, note)
		fresh = writes == 0
		switch {
		case errors.Is(err, header.ErrDamaged) && note == "":
			damaged++ // no token was ever there: the creation of the volume starts anew
		case err != nil:
			t.Errorf("after %q: %v", note, err)
		}
	})
	t.Logf("%d power cuts, %d of them with both copies of a header without slots torn", cuts, damaged)
	if cuts < 20 || before != "dm-log-writes-end" {
		t.Errorf("%d power cuts, the last one after %q", cuts, before)
	}
}

// afterPowerCut checks what is promised at that point, and finishes the creation.
func (n *node) afterPowerCut(t *testing.T, path, note string) (writes int, err error) {
	s := &stepper{Container: luks.At(path)}
	err = n.afterCut(t, s, note)
	return s.n, err
}

func (n *node) afterCut(t *testing.T, s *stepper, note string) error {
	h, err := s.Header()
	if err != nil && !(note == "" && errors.Is(err, header.ErrNotLUKS)) {
		return err
	}
	if err != nil || !keyslot.Managed(h) {
		if note != "" {
			return errors.New("no token, though Format had returned")
		}
		return keyslot.Format(t.Context(), s, n.Keyring, params())
	}
	slots, err := keyslot.State(h)
	if err != nil {
		return err
	}
	if note == "volume" && slots.Volume == nil {
		return errors.New("no token of the volume, though SetVolume had returned")
	}
	slot, key, err := keyslot.Unlock(t.Context(), s, n.Keyring)
	if err != nil {
		return err
	}
	defer key.Wipe()
	if err := s.TestSlot(slot, key); err != nil {
		return err
	}
	if slots.Volume == nil {
		if err := keyslot.Complete(t.Context(), s, n.Keyring); err != nil {
			return err
		}
	}
	if note == "both" && s.n != 0 {
		return fmt.Errorf("%d writes to complete, though Complete had returned", s.n)
	}
	slot, rescue, err := keyslot.UnlockRecovery(s, n.identities)
	if err != nil {
		return err
	}
	defer rescue.Wipe()
	if err := keyslot.Prove(s, slot, rescue); err != nil {
		return err
	}
	if h, err = s.Header(); err == nil && len(h.Keyslots) != 2 {
		err = fmt.Errorf("%d slots", len(h.Keyslots))
	}
	return err
}

// write writes part of a disk to a file, with holes where it is zero and nothing was.
func write(t *testing.T, path string, part []byte, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if len(part) == powerCutSize {
		if err := errors.Join(f.Truncate(0), f.Truncate(powerCutSize)); err != nil {
			t.Fatal(err)
		}
	}
	zeros := make([]byte, 64<<10)
	for off := 0; off < len(part); off += len(zeros) {
		piece := part[off:min(off+len(zeros), len(part))]
		if len(part) == powerCutSize && bytes.Equal(piece, zeros) {
			continue
		}
		if _, err := f.WriteAt(piece, at+int64(off)); err != nil {
			t.Fatal(err)
		}
	}
}
