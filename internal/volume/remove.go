// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"syscall"
)

// What a crash leaves during a removal, and who repairs it:
//
//	after this write                              a crash leaves                     repaired by
//	time of removal in the record                 a volume; the time is ignored      Remove, again
//	rename of volumes/NAME to removed/UUID        a tombstone, a bare mountpoint     Settle removes the mountpoint
//	bare mountpoint removed                       a tombstone

// nothingThere refuses to remove a volume at whose mountpoint something is mounted, whatever it is, or whose backing somebody has.
func (m *Manager) nothingThere(r *record) error {
	mounts, err := m.s.Kernel.Mounts()
	if err != nil {
		return err
	}
	mountpoint, err := m.mountpoint(r.Name)
	if err != nil && !errors.Is(err, ErrNotMounted) {
		return err
	}
	for _, mount := range mounts {
		if mountpoint != "" && below(mount.Mountpoint, mountpoint) {
			other := fmt.Sprintf("%s (%s) is mounted on %s", mount.Source, mount.FSType, mount.Mountpoint)
			return &Error{Code: CodeInUse, Err: &HeldError{Others: []string{other}}}
		}
	}
	users, err := m.backing(r).Users()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if len(users) > 0 {
		return &Error{Code: CodeInUse, Err: &HeldError{Others: users}}
	}
	return nil
}

// bury makes a tombstone of a closed volume. The name is free afterwards. Nothing of the volume is changed, so that it can be dug up again.
func (m *Manager) bury(r *record) error {
	now := m.now().UTC()
	stale := r.Removed != nil // of an earlier removal, which the tombstone must not be taken for
	r.Removed = &now
	if err := m.save(r); !stale && (errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)) {
		// A full disk is a reason to remove volumes, so it keeps nobody from it: the time of removal is then when Expired first sees it.
		m.log.Warn("the time of removal could not be written down", "volume", r.Name, "err", err)
	} else if err != nil {
		return err
	}
	m.o.Crash("remove.marked")
	if err := m.directories(); err != nil {
		return err
	}
	if err := m.s.Files.Rename(m.o.Paths.VolumeDir(r.Name), filepath.Join(m.o.Paths.RemovedDir(), r.UUID)); err != nil {
		return err
	}
	m.o.Crash("remove.renamed")
	// What follows is tidiness; Settle does it again.
	if err := m.removeTraces(r.Name); err != nil {
		m.log.Warn("traces of a removed volume are left", "volume", r.Name, "err", err)
	}
	m.o.Crash("remove.bare")
	return nil
}

// removeTraces takes away the mountpoint and the holders of a name that no volume has, unless somebody else has mounted something there.
func (m *Manager) removeTraces(name string) error {
	mounts, err := m.s.Kernel.Mounts()
	if err != nil {
		return err
	}
	mountpoint, err := m.mountpoint(name)
	if err != nil && !errors.Is(err, ErrNotMounted) {
		return err
	}
	for _, mount := range mounts {
		if mountpoint != "" && below(mount.Mountpoint, mountpoint) {
			return nil
		}
	}
	errs := []error{m.s.Filesystems.RemoveBare(m.o.Paths.Mount(name))}
	// Holders of a volume that somebody took away by hand hold nothing.
	dir := m.o.Paths.Holders(name)
	files, err := m.s.Files.List(dir)
	errs = append(errs, err)
	for _, file := range files {
		errs = append(errs, m.s.Files.Remove(filepath.Join(dir, file)))
	}
	return errors.Join(append(errs, m.s.Files.Remove(dir))...)
}
