// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/voluks/voluks/internal/backing"
)

// claim finds out what the device of a new volume is known by, and that no other volume has it. The caller holds the node's lock until the record is
// written. A record that cannot be read may be of a volume on this device: its content would then forbid a format, so it matters only where that is
// to be wiped.
func (m *Manager) claim(r *record, wipe bool) error {
	id, err := m.s.Backings.Identify(r.Spec.Device)
	if errors.Is(err, fs.ErrNotExist) {
		return &Error{Code: CodeInvalid, Err: fmt.Errorf("there is no device %s now: %w", r.Spec.Device, err)}
	}
	if err != nil {
		return err
	}
	r.Device = &id
	if id.Size%sectorSize != 0 && id.Block <= 512 {
		r.SectorSize = 512 // a partition may end anywhere
	}
	r.Spec.Size = (id.Size - backing.HeaderSize) &^ int64(r.SectorSize-1)
	if err := r.Spec.checkSize(); err != nil {
		return err
	}
	return m.unclaimed(r, wipe)
}

// unclaimed makes sure that no other volume has the device of this one. The caller holds the node's lock.
func (m *Manager) unclaimed(r *record, wipe bool) error {
	for _, dir := range []string{m.o.Paths.VolumesDir(), m.o.Paths.RemovedDir()} {
		all, err := m.s.Files.List(dir)
		if err != nil {
			return err
		}
		for _, name := range all {
			err := m.claimed(filepath.Join(dir, name), r)
			if as[*damagedError](err) && !wipe {
				m.log.Warn("a record cannot be read", "err", err)
				continue
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// claimed looks whether the volume or tombstone in a directory has the device. *damagedError if its record cannot be read.
func (m *Manager) claimed(dir string, r *record) error {
	b, err := m.s.Files.Read(filepath.Join(dir, recordFile), maxRecord)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var theirs *record
	if err == nil {
		theirs, err = decodeRecord(b)
	}
	if err != nil {
		return &damagedError{filepath.Join(dir, recordFile), fmt.Errorf("it may be of a volume on this device: %w", err)}
	}
	if theirs.Device == nil || theirs.UUID == r.UUID || !sameDisk(theirs, r) {
		return nil
	}
	if filepath.Dir(dir) == m.o.Paths.RemovedDir() {
		if theirs.State != StateReady {
			return nil // it never held anything
		}
		return &Error{Code: CodeInUse, Err: fmt.Errorf("device %s holds the removed volume %q (%s), until that is erased", r.Spec.Device, theirs.Name, theirs.UUID)}
	}
	return &Error{Code: CodeInUse, Err: fmt.Errorf("device %s is the volume %q", r.Spec.Device, theirs.Name)}
}

// sameDisk tells whether two volumes would lie on one device, by either of two names, or on a disk and a part of it.
func sameDisk(a, b *record) bool {
	if a.Spec.Device == b.Spec.Device {
		return true
	}
	if !slices.ContainsFunc(a.Device.Names(), func(name string) bool { return slices.Contains(b.Device.Names(), name) }) {
		return false
	}
	whole := a.Device.Partition == 0 || b.Device.Partition == 0
	return whole || a.Device.Partition == b.Device.Partition
}

// OccupiedError means that a device that was to become a volume holds something. It was not touched.
type OccupiedError struct {
	Device string // path
	Serial string // what it is named by; "" if it has no name
	Err    error  // what is there
}

// Error implements error.
func (e *OccupiedError) Error() string {
	s := fmt.Sprintf("device %s is occupied, and was not touched: %v", e.Device, e.Err)
	if e.Serial == "" {
		return s + "; it has no serial number to name it by: if nobody needs what is on it, clear it by hand"
	}
	return s + fmt.Sprintf("; if nobody needs what is on it: voluks volume create --wipe-serial %s", e.Serial)
}

// Unwrap gives what is there.
func (e *OccupiedError) Unwrap() error { return e.Err }

// mayWipe notes that what is on the volume's device may be destroyed, if it was named for that.
func (r *record) mayWipe(serial string) error {
	if serial == "" || r.Device == nil {
		return nil
	}
	invalid := func(format string, args ...any) error {
		return &Error{Code: CodeInvalid, Err: fmt.Errorf(format, args...)}
	}
	names := r.Device.Names()
	if len(names) == 0 {
		return invalid("device %s has no serial number to name it by, so it is not wiped", r.Spec.Device)
	}
	if !slices.Contains(names, serial) {
		return invalid("device %s is %s, not %q; nothing was touched", r.Spec.Device, strings.Join(names, " or "), serial)
	}
	r.wipe = true
	return nil
}

// wipe destroys what occupies a device that was named for it (F6). Of anything else it says that it is occupied.
func (m *Manager) wipe(ctx context.Context, dev string, r *record, occupied error) error {
	if r.Device == nil {
		return fmt.Errorf("%w: %w", errUnusable, occupied)
	}
	if !r.wipe {
		e := &OccupiedError{Device: r.Spec.Device, Err: occupied}
		if names := r.Device.Names(); len(names) > 0 {
			e.Serial = names[0]
		}
		return e
	}
	m.log.Warn("a device is wiped, as was asked for", "volume", r.Name, "device", r.Spec.Device, "was", occupied.Error())
	r.begun = true
	if err := m.backing(r).Wipe(ctx, dev); err != nil {
		return err
	}
	m.o.Crash("create.wiped")
	return nil
}
