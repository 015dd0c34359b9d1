// SPDX-License-Identifier: Apache-2.0

package keyslot_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/internal/testenv"
	"github.com/voluks/voluks/keyslot"
	"github.com/voluks/voluks/luks"
	"github.com/voluks/voluks/luks/header"
)

const powerCutSize = 32 << 20

// A recorder is a disk of powerCutSize that was zero at first and whose writes the kernel logs in the
// order in which they became durable.
type recorder struct {
	path string // of the disk
	name string // of its device
	log  string // device that holds the log
}

func record(t *testing.T) *recorder {
	t.Helper()
	data, log := testenv.Disk(t, 0, powerCutSize), testenv.Disk(t, 1, 10*powerCutSize)
	f, err := sys.OpenDirect(data, true)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for off := int64(0); off < powerCutSize; off += 1 << 20 {
		if _, err := f.WriteAt(make([]byte, 1<<20), off); err != nil {
			t.Fatal(err)
		}
	}
	r := &recorder{name: "keyslot-recorded", log: log}
	r.path = testenv.DM(t, r.name, fmt.Sprintf("0 %d log-writes %s %s", powerCutSize/512, data, log))
	return r
}

func (r *recorder) dmsetup(t *testing.T, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "dmsetup", args...)
	cmd.Env = append(os.Environ(), "DM_DISABLE_UDEV=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("dmsetup %v: %v: %s", args, err, out)
	}
}

// mark puts a note into the log: before it stands exactly what was durable when it was made.
func (r *recorder) mark(t *testing.T, note string) {
	t.Helper()
	r.dmsetup(t, "message", r.name, "0", "mark", note)
}

// replay calls power with the content of the disk after each durable write, as it would be found after
// a power cut there, the last note before it, and what that write has changed.
func (r *recorder) replay(t *testing.T, power func(disk []byte, note string, from, to int64)) (cuts int) {
	t.Helper()
	r.dmsetup(t, "remove", "--noudevsync", r.name)
	log, err := sys.OpenDirect(r.log, false)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	read := func(off int64, n int) []byte {
		buf := make([]byte, (n+4095)/4096*4096)
		if _, err := log.ReadAt(buf, off); err != nil {
			t.Fatal(err)
		}
		return buf[:n]
	}
	// The format is that of Linux' drivers/md/dm-log-writes.c.
	const (
		magic   = 0x6a736677736872
		discard = 4
		mark    = 8
	)
	super := read(0, 4096)
	u64 := func(b []byte, i int) int64 { return int64(binary.LittleEndian.Uint64(b[8*i:])) }
	unit := int64(binary.LittleEndian.Uint32(super[24:]))
	if u64(super, 0) != magic || u64(super, 1) != 1 || unit < 512 {
		t.Fatalf("no log: %x", super[:32])
	}
	disk, note := make([]byte, powerCutSize), ""
	pos := unit
	for range u64(super, 2) {
		aligned := pos &^ 4095
		entry := read(aligned, 8192)[pos-aligned:]
		sector, count, flags, length := u64(entry, 0), u64(entry, 1), u64(entry, 2), u64(entry, 3)
		pos += unit
		switch {
		case flags&mark != 0:
			note = string(bytes.TrimRight(entry[32:32+length], "\x00"))
		case flags&discard != 0:
			clear(disk[sector*unit:][:count*unit])
			continue
		case count == 0: // a bare flush
			continue
		default:
			start := pos &^ 4095
			copy(disk[sector*unit:][:count*unit], read(start, int(pos-start+count*unit))[pos-start:])
			pos += count * unit
		}
		cuts++
		power(disk, note, sector*unit, (sector+count)*unit)
	}
	return cuts
}

// A power cut after each durable write of a creation, in the order in which the disk got them: once
// the agent token is there the node opens the container, and what Format and SetVolume have promised
// is durable. F4 F29 F31
func TestPowerCuts(t *testing.T) {
	r := record(t)
	n := newNode(t)
	none := *n.Keyring
	none.NoRecovery = true
	c := luks.At(r.path)
	do := func(note string, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		r.mark(t, note)
	}
	do("agent", keyslot.Format(t.Context(), c, &none, params()))
	do("both", keyslot.Complete(t.Context(), c, n.Keyring))
	do("volume", keyslot.SetVolume(c, volumeToken()))

	path := filepath.Join(t.TempDir(), "disk")
	damaged, blank, before, fresh := 0, 0, "", false
	cuts := r.replay(t, func(disk []byte, note string, from, to int64) {
		before = note
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
