// SPDX-License-Identifier: Apache-2.0

package luks

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"syscall"

	"github.com/voluks/voluks/internal/secret"
	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/luks/header"
	"github.com/voluks/voluks/luks/internal/cryptsetup"
)

// OpenParams say which mapping to make, with what, and of what container.
type OpenParams struct {
	Name   string        // of the mapping, see MappingName
	Slot   int           // that is opened; never "any"
	Key    *secret.Key   // borrowed
	Expect header.Expect // what the header must be; its UUID is required

	// How dm-crypt treats requests; the flags in the header do not count.
	Discard, NoReadWorkqueue, NoWriteWorkqueue bool
}

// Flags are how the mapping shall treat requests.
func (p OpenParams) Flags() Flags {
	return Flags{Discards: p.Discard, NoReadWorkqueue: p.NoReadWorkqueue, NoWriteWorkqueue: p.NoWriteWorkqueue}
}

var (
	busy       = kinds{syscall.EBUSY: ErrBusy}
	activation = kinds{syscall.EPERM: ErrWrongKey, syscall.ENOENT: ErrNoSlot, syscall.EBUSY: ErrBusy, syscall.EEXIST: ErrActive}
)

// Open activates the container, which must be a block device, as /dev/mapper/NAME. The header is checked strictly before the key is used, and afterwards the
// kernel's own table is compared with what was asked; a mapping that differs is removed again. When Open returns, the volume key is in the mapping and
// nowhere else in the kernel.
//
// ErrActive: the name is taken. ErrBusy: the device is in use by something else, an open mapping of the same container included. ErrWrongKey, ErrNoSlot,
// ErrNoDeviceMapper, *header.StrictError, *header.DamagedError (no good copy), *TableError. In all cases no mapping of that name is left behind that was not
// there before; if the removal of a bad one fails, the error says so.
func (c *Container) Open(p OpenParams) error {
	op := "open"
	if p.Name == "" || p.Expect.UUID == "" {
		return fmt.Errorf("%s of %s: name and UUID are required", op, c.path)
	}
	if err := unused(op, p.Name); err != nil {
		return err
	}
	table, err := c.plan(op, p)
	if err != nil {
		return err
	}
	if c.testOnlyBeforeActivation != nil {
		c.testOnlyBeforeActivation()
	}
	return c.load(op, activation, func(d *cryptsetup.Device) error {
		defer runtime.KeepAlive(p.Key)
		if err := d.Activate(p.Name, p.Slot, p.Key.Bytes(), cryptsetup.Flags(table.Options)); err != nil {
			return err
		}
		if err := verify(p.Name, table); err != nil {
			if undo := d.Deactivate(p.Name); undo != nil {
				err = errors.Join(err, fmt.Errorf("and it could not be removed: %w", undo))
			}
			return err
		}
		return nil
	})
}

// unused checks that the name is free, and that there is a device-mapper to have names in.
func unused(op, name string) error {
	_, err := sys.DMByName(name)
	switch {
	case errors.Is(err, sys.ErrNotExist):
		return nil
	case err == nil:
		return &Error{Op: op, Object: name, Errno: syscall.EEXIST, kind: ErrActive}
	}
	return fmt.Errorf("%s: %w", op, err)
}

// plan checks the header and the key's slot, and says what the kernel's table must be in the end.
func (c *Container) plan(op string, p OpenParams) (Table, error) {
	if length(p.Key) == 0 {
		return Table{}, fmt.Errorf("%s of %s: %w: it is empty", op, c.path, ErrKeyLength)
	}
	h, err := c.ours(op, p.Expect)
	if err != nil {
		return Table{}, err
	}
	if err := c.exists(op, h, p.Slot); err != nil {
		return Table{}, err
	}
	major, minor, err := sys.DevOf(c.path)
	if err != nil {
		return Table{}, fmt.Errorf("%s: %w", op, err)
	}
	s := h.Segments[0]
	length := h.Space - s.Offset
	if length <= 0 || length%int64(s.SectorSize) != 0 {
		return Table{}, fmt.Errorf("%s of %s: %w", op, c.path, &header.StrictError{
			Field: "device size", Got: fmt.Sprint(h.Space), Want: fmt.Sprintf("more than %d, by a multiple of %d", s.Offset, s.SectorSize),
		})
	}
	return Table{
		UUID: h.UUID, Name: p.Name, Cipher: s.Encryption, SectorSize: s.SectorSize, DataOffset: s.Offset, Length: length,
		Device:  sys.Dev{Major: major, Minor: minor},
		Options: p.Flags(),
	}, nil
}

// verify asks the kernel what it has now.
func verify(name string, want Table) error {
	d, err := sys.DMByName(name)
	if err != nil {
		return err
	}
	return CheckTable(d, want)
}

// Close removes a mapping of a LUKS2 container. ErrNotActive: there is none of that name. ErrBusy: somebody has it open or mounted (in any mount namespace);
// it stays as it is. Anything that is not a LUKS2 mapping is refused. It reads the header below, so it may wait for the device.
func Close(name string) error {
	op := "close"
	d, err := sys.DMByName(name)
	if errors.Is(err, sys.ErrNotExist) {
		return &Error{Op: op, Object: name, Errno: syscall.ENODEV, kind: ErrNotActive}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	if !strings.HasPrefix(d.UUID, "CRYPT-LUKS2-") {
		return fmt.Errorf("%s of %s: it is %q, not a mapping of a LUKS2 container", op, name, d.UUID)
	}
	// libdevmapper would try for five seconds.
	if d.OpenCount > 0 {
		return &Error{Op: op, Object: name, Errno: syscall.EBUSY, kind: ErrBusy}
	}
	err = cryptsetup.ByName(name, func(dev *cryptsetup.Device) error { return dev.Deactivate(name) })
	return failed(op, name, err, kinds{syscall.EBUSY: ErrBusy, syscall.ENODEV: ErrNotActive})
}
