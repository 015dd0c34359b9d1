// SPDX-License-Identifier: Apache-2.0

package luks

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/voluks/voluks/internal/sys"
)

// Raw is the device or file of a container itself, read and written past the page cache: for taking and restoring backups of the header, for which
// libcryptsetup's own functions do not do. Its backup copies the key material of destroyed slots if any is left, and its restore writes everything in
// one go, so that a crash in the middle leaves no header at all.
type Raw struct {
	*sys.DirectFile
	lock *os.File
}

// Raw opens the container. For writing, an image file stays locked until Close, as libcryptsetup and loop devices lock it; ErrBusy if somebody else has it
// for longer than some seconds. A block device is held exclusively: ErrBusy if it is mounted, or a mapping has it, open volumes of others included.
func (c *Container) Raw(write bool) (*Raw, error) {
	op := "read the header area"
	if write {
		op = "write the header area"
	}
	f, err := sys.OpenDirect(c.path, write)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", op, err)
	}
	r := &Raw{DirectFile: f}
	if write {
		if err := r.hold(op, c.path); err != nil {
			return nil, errors.Join(err, r.Close())
		}
	}
	return r, nil
}

func (r *Raw) hold(op, path string) error {
	st, err := r.File().Stat()
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() {
		r.lock, err = os.OpenFile(descriptor(r.File()), os.O_RDONLY|syscall.O_EXCL, 0)
		if errors.Is(err, syscall.EBUSY) {
			return &Error{Op: op, Object: path, Errno: syscall.EBUSY, kind: ErrBusy}
		}
		return err
	}
	// A lock belongs to an open file, so one of its own can outlive nothing and be confused with nothing.
	lock, err := os.Open(descriptor(r.File()))
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), lockWait)
	defer cancel()
	if err := sys.LockWait(ctx, lock); err != nil {
		if errors.Is(err, sys.ErrLocked) {
			err = &Error{Op: op, Object: path, Errno: syscall.EBUSY, kind: ErrBusy}
		}
		return errors.Join(err, lock.Close())
	}
	r.lock = lock
	return nil
}

// Close gives the lock back, too.
func (r *Raw) Close() error {
	err := r.DirectFile.Close()
	if r.lock != nil {
		err = errors.Join(err, r.lock.Close())
		r.lock = nil
	}
	return err
}
