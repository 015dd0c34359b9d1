// SPDX-License-Identifier: Apache-2.0

package luks

import (
	"errors"
	"fmt"

	"github.com/voluks/voluks/internal/lateregexp"
	"github.com/voluks/voluks/internal/secret"
	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/luks/header"
	"github.com/voluks/voluks/luks/internal/cryptsetup"
)

// FormatParams describes a new container and its first slot.
type FormatParams struct {
	UUID             string      // lower case, with dashes; chosen by the caller, so that a container can be recognised after a crash
	Label, Subsystem string      // at most 47 bytes each, public
	SectorSize       int         // bytes: 512, or 4096 where the device's logical block size allows
	Slot             int         // number of the first slot
	Key              *secret.Key // at least 32 random bytes
}

var lowerUUID = lateregexp.New(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

func (p *FormatParams) check() error {
	switch {
	case !lowerUUID().MatchString(p.UUID):
		return fmt.Errorf("UUID %.40q is not of the form 01234567-89ab-cdef-0123-456789abcdef", p.UUID)
	case len(p.Label) > 47 || len(p.Subsystem) > 47:
		return errors.New("label and subsystem may have 47 bytes")
	case p.SectorSize != 512 && p.SectorSize != 4096:
		return fmt.Errorf("sector size %d is neither 512 nor 4096", p.SectorSize)
	}
	if err := checkSlot(p.Slot); err != nil {
		return err
	}
	return KDFRandomKey.check(p.Key)
}

// Format makes a new LUKS2 container with one slot: aes-xts-plain64 with a random 512-bit volume key, 64 KiB of metadata per copy, data from 16 MiB on. The first
// 16 MiB of the device are overwritten, whatever they hold: callers must have made sure that this is nothing. The header is read back and checked. Nothing
// is synced, see [Container.Syncer]; after a crash the header may be there with or without its slot, but never with a token.
//
// ErrBusy: the device is in use (by a mapping, say) and was not touched. ErrKeyLength: the key is too short.
func (c *Container) Format(p FormatParams) error {
	op := "format"
	if err := p.check(); err != nil {
		return fmt.Errorf("%s of %s: %w", op, c.path, err)
	}
	if err := c.room(p.SectorSize); err != nil {
		return fmt.Errorf("%s of %s: %w", op, c.path, err)
	}
	if err := c.unlocked(op); err != nil {
		return err
	}
	err := cryptsetup.Init(c.path, func(d *cryptsetup.Device) error {
		err := d.Format(cryptsetup.FormatParams{
			UUID: p.UUID, Label: p.Label, Subsystem: p.Subsystem, Cipher: header.DefaultCipher, KeyBytes: header.DefaultKeyBytes, SectorSize: p.SectorSize,
			MetadataSize: header.DefaultMetadataSize, DataOffset: header.DefaultDataOffset, Digest: KDFRandomKey.params(),
		})
		if err != nil {
			return err
		}
		return addSlot(d, p.Slot, nil, p.Key, KDFRandomKey.params())
	})
	if err != nil {
		return failed(op, c.path, err, busy)
	}
	return c.formatted(op, p)
}

// room checks that there is a place for data, of whole sectors: libcryptsetup would enlarge a file, and warn only.
func (c *Container) room(sectorSize int) error {
	f, err := sys.OpenDirect(c.path, true)
	if err != nil {
		return err
	}
	defer f.Close()
	data := f.Size() - header.DefaultDataOffset
	if data < int64(sectorSize) || data%int64(sectorSize) != 0 {
		return fmt.Errorf("its size of %d bytes does not leave a whole number of sectors of %d bytes behind the %d bytes of the header", f.Size(), sectorSize, header.DefaultDataOffset)
	}
	return nil
}

// formatted compares what the device has now with what was asked for.
func (c *Container) formatted(op string, p FormatParams) error {
	h, err := c.ours(op, header.Expect{UUID: p.UUID, SectorSize: p.SectorSize})
	if err != nil {
		return err
	}
	if err := h.Damage(); err != nil {
		return fmt.Errorf("%s of %s: read back: %w", op, c.path, err)
	}
	slot, ok := h.Keyslots[p.Slot]
	if !ok || len(h.Keyslots) != 1 || len(h.Tokens) != 0 || h.Label != p.Label || h.Subsystem != p.Subsystem || !KDFRandomKey.made(slot) {
		return fmt.Errorf("%s of %s: read back another header than written: slots %v, label %q, subsystem %q", op, c.path, h.Keyslots, h.Label, h.Subsystem)
	}
	return nil
}
