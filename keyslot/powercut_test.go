// SPDX-License-Identifier: Apache-2.0

package keyslot_test

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/voluks/voluks/internal/testenv"
	"github.com/voluks/voluks/keyslot"
	"github.com/voluks/voluks/luks"
	"github.com/voluks/voluks/luks/header"
)

const powerCutSize = header.DefaultDataOffset + 1<<20

// record makes a disk of powerCutSize whose writes the kernel logs in the order in which they became durable. It is zero at first, but for a container
// of the node that is ready, if there is to be one.
func record(t *testing.T, ready *node) *testenv.Recorder {
	t.Helper()
	first := make([]byte, powerCutSize)
	if ready != nil {
		p := realLab(t)()
		ready.ready(t, func() program { return p })
		for at, piece := range inUse(t, p.path) {
			copy(first[at:], piece)
		}
	}
	return testenv.Record(t, "keyslot-recorded", first)
}

// A power cut after each durable write of a creation, in the order in which the disk got them: once
// the agent token is there the node opens the container, and what Format and SetVolume have promised
// is durable. F4 F29 F31
func TestPowerCuts(t *testing.T) {
	r := record(t, nil)
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
	cuts, damaged, blank, before := 0, 0, 0, ""
	r.Replay(t, func(disk []byte, w testenv.Write) {
		note := w.Note
		before = note
		if w.From == w.To && !w.Mark {
			return // a bare flush
		}
		cuts++
		if note == "" && !bytes.Contains(disk[:8], []byte("LUKS")) && !bytes.Contains(disk[header.DefaultMetadataSize:][:8], []byte("SKUL")) {
			if blank++; blank > 1 {
				return // wiping goes on
			}
		}
		write(t, path, disk, 0)
		err := n.afterCut(t, &stepper{Container: luks.At(path)}, note)
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

// afterCut checks what is promised at that point, and finishes the creation.
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
