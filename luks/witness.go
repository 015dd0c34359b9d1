// SPDX-License-Identifier: Apache-2.0

package luks

import (
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"runtime"
	"syscall"
	"time"

	second "github.com/anatol/luks.go"

	"github.com/voluks/voluks/internal/secret"
	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/luks/header"
)

// Witness is TestSlot by an independent implementation in pure Go, on what is on the device past all caches: the strict check, and the derivation on a copy
// of those very bytes. With TestSlot it proves a new slot before anything relies on it. Nothing on the device is written.
//
// A damaged copy of the header is an error here (*header.DamagedError), since that implementation reads the first one only; TestSlot has repaired it. Other
// errors are those of TestSlot.
//
// The implementation leaves keys derived on the way in memory that the garbage collector owns: see the package comment on processes.
func (c *Container) Witness(slot int, key *secret.Key) error {
	op := fmt.Sprintf("second test of slot %d", slot)
	if length(key) == 0 {
		return fmt.Errorf("%s of %s: %w: it is empty", op, c.path, ErrKeyLength)
	}
	copied, h, err := c.copyForWitness(op, slot)
	if err != nil {
		return err
	}
	defer copied.Close()
	device, err := second.Open(descriptor(copied))
	if err != nil {
		return fmt.Errorf("%s of %s: %w", op, c.path, err)
	}
	defer device.Close()
	defer runtime.KeepAlive(key)
	volume, err := device.UnsealVolume(slot, key.Bytes())
	if errors.Is(err, second.ErrPassphraseDoesNotMatch) {
		return &Error{Op: op, Object: c.path, Errno: syscall.EPERM, kind: ErrWrongKey}
	}
	if err != nil {
		return fmt.Errorf("%s of %s: %w", op, c.path, err)
	}
	defer wipeVolumeKey(volume)
	s := h.Segments[0]
	if volume.UUID != h.UUID || volume.StorageEncryption != s.Encryption || volume.StorageOffset != uint64(s.Offset) || volume.StorageSectorSize != uint64(s.SectorSize) {
		return fmt.Errorf("%s of %s: another container: UUID %s, %s at byte %d in sectors of %d", op, c.path, volume.UUID, volume.StorageEncryption, volume.StorageOffset, volume.StorageSectorSize)
	}
	return nil
}

// copyForWitness checks the header and copies it with the key material of one slot into memory. The rest of the copy is zero.
func (c *Container) copyForWitness(op string, slot int) (*os.File, *header.Header, error) {
	f, err := sys.OpenDirect(c.path, false)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", op, err)
	}
	defer f.Close()
	h, err := readHeader(f, time.Sleep)
	if err == nil {
		err = h.Damage()
	}
	if err == nil {
		err = h.Strict(c.expectation(h, header.Expect{}))
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%s of %s: %w", op, c.path, err)
	}
	if err := c.exists(op, h, slot); err != nil {
		return nil, nil, err
	}
	area := h.Keyslots[slot].Area
	material := make([]byte, area.Size)
	if _, err := f.ReadAt(material, area.Offset); err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, fmt.Errorf("%s of %s: %w", op, c.path, err)
	}
	// It wants the file to reach to the data. Of both copies all is there: the strict check has passed their size.
	m, err := sys.SparseMemfd("voluks-header", h.Segments[0].Offset, map[int64][]byte{0: h.Raw, area.Offset: material})
	if err != nil {
		return nil, nil, fmt.Errorf("%s of %s: %w", op, c.path, err)
	}
	return m, h, nil
}

// wipeVolumeKey zeroes the volume key in a private field of the other implementation; a test guards its name.
func wipeVolumeKey(v *second.Volume) bool {
	field := reflect.ValueOf(v).Elem().FieldByName("key")
	if !field.IsValid() || field.Kind() != reflect.Slice || field.Type().Elem().Kind() != reflect.Uint8 {
		return false
	}
	clear(field.Bytes())
	return field.Len() > 0
}
