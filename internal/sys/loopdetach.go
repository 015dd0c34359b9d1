// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// detachPatience is how long LoopDetach waits for a process that has the device open. udev opens every device for a moment when it changes.
const detachPatience = 5 * time.Second

// LoopDetach makes sure that the device l is not bound to l's file any more. It acts only after it has seen, on an open descriptor, that the device
// is still bound to that file: numbers are reused. A device that somebody uses stays as it was, and the error wraps ErrBusy: at once if a mapping or
// mount holds it, after 5 s or at the end of ctx if a process has it open. (The kernel's own LOOP_CLR_FD reports success for a device in use, and
// unbinds it later.)
func LoopDetach(ctx context.Context, l Loop) error {
	ctx, cancel := context.WithTimeout(ctx, detachPatience)
	defer cancel()
	cleared, err := clearLoop(l)
	if err != nil {
		return fmt.Errorf("detach %s from %s: %w", l.Path, l.File, err)
	}
	pause := time.Millisecond
	for {
		bound, err := stillBound(l)
		if err != nil {
			return fmt.Errorf("detach %s from %s: %w", l.Path, l.File, err)
		}
		if !bound {
			return nil
		}
		select {
		case <-ctx.Done():
			err := fmt.Errorf("detach %s from %s: a process has it open: %w", l.Path, l.File, ErrBusy)
			if cleared {
				err = errors.Join(err, keepLoop(l))
			}
			return err
		case <-time.After(pause):
		}
		pause = min(2*pause, 50*time.Millisecond)
	}
}

func stillBound(l Loop) (bool, error) {
	now, err := LoopByDev(l.Major, l.Minor)
	if errors.Is(err, ErrNotExist) {
		return false, nil
	}
	return err == nil && now.isSame(l), err
}

func (l Loop) isSame(other Loop) bool {
	return l.BackingDev == other.BackingDev && l.BackingIno == other.BackingIno
}

// clearLoop asks the kernel to unbind the device, unless the kernel does so anyway with the last user (autoclear); cleared tells whether it asked.
func clearLoop(l Loop) (cleared bool, err error) {
	// O_EXCL on a block device: fails if a mapping, a mount or another O_EXCL user holds it.
	f, err := open(l.Path, unix.O_RDONLY|unix.O_EXCL|unix.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, unix.EBUSY):
		// Somebody holds it; if it is bound to another file by now, then it is not ours to judge.
		if bound, err := stillBound(l); err != nil || !bound {
			return false, err
		}
		return false, fmt.Errorf("a mapping or mount holds it: %w", ErrBusy)
	case isGone(err), errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV):
		return false, nil
	case err != nil:
		return false, err
	}
	defer f.Close()
	now, err := loopStatus(f)
	if errors.Is(err, unix.ENXIO) {
		return false, nil
	}
	if err != nil || !now.isSame(l) || now.Autoclear {
		return false, err
	}
	err = control(f, func(fd int) error {
		return retry(func() error { return unix.IoctlSetInt(fd, unix.LOOP_CLR_FD, 0) })
	})
	if err != nil && !errors.Is(err, unix.ENXIO) {
		return false, fmt.Errorf("unbind: %w", err)
	}
	return true, nil
}

// keepLoop takes back the autoclear flag that LOOP_CLR_FD left on a device in use, which would be torn down under its user otherwise.
func keepLoop(l Loop) error {
	f, err := open(l.Path, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	now, err := loopStatus(f)
	if err != nil || !now.isSame(l) {
		return err
	}
	return control(f, func(fd int) error {
		info, err := unix.IoctlLoopGetStatus64(fd)
		if err != nil {
			return err
		}
		info.Flags &^= unix.LO_FLAGS_AUTOCLEAR
		return unix.IoctlLoopSetStatus64(fd, info)
	})
}
