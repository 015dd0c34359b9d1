// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// LoopAttach binds img, which must be open for reading and writing, to a free loop device with that logical block size (512 to 4096), direct I/O
// where the kernel and the file system can, and autoclear.
//
// It returns the device together with an open descriptor of it, which the caller closes. Autoclear means that the device is gone when its last user
// closes it, so the descriptor must stay open until a mapping or mount holds the device; close it early, or crash, and nothing is left behind.
// The kernel keeps img's open file description, and with it a flock on it, for as long as the device is bound.
//
// Other users of loop devices may take the free one first; then the next is tried until ctx ends.
func LoopAttach(ctx context.Context, img *os.File, blockSize int) (Loop, *os.File, error) {
	dev, ino, err := FileID(img)
	if err != nil {
		return Loop{}, nil, fmt.Errorf("attach loop device: %w", err)
	}
	ctl, err := open("/dev/loop-control", unix.O_RDWR, 0)
	if err != nil {
		if isGone(err) || errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENODEV) {
			err = fmt.Errorf("%w: %w", err, ErrNoLoop)
		}
		return Loop{}, nil, fmt.Errorf("attach loop device: %w", err)
	}
	defer ctl.Close()
	for {
		f, err := tryLoop(ctl, img, blockSize)
		if err == nil {
			l, err := loopStatus(f)
			if err == nil && (l.BackingDev != dev || l.BackingIno != ino) {
				err = fmt.Errorf("%s is bound to another file", l.Path)
			}
			if err == nil && l.BlockSize != blockSize {
				err = fmt.Errorf("%s has blocks of %d bytes instead of %d", l.Path, l.BlockSize, blockSize)
			}
			if err != nil {
				return Loop{}, nil, errors.Join(fmt.Errorf("attach %s to a loop device: %w", img.Name(), err), f.Close())
			}
			return l, f, nil
		}
		if !errors.Is(err, errLoopTaken) {
			return Loop{}, nil, fmt.Errorf("attach %s to a loop device: %w", img.Name(), err)
		}
		select {
		case <-ctx.Done():
			return Loop{}, nil, fmt.Errorf("attach %s to a loop device: %w: %w", img.Name(), err, context.Cause(ctx))
		case <-time.After(time.Millisecond + rand.N(10*time.Millisecond)):
		}
	}
}

// errLoopTaken: the free device was somebody else's by the time we had it.
var errLoopTaken = errors.New("other users keep taking the free loop device")

func tryLoop(ctl, img *os.File, blockSize int) (*os.File, error) {
	var number int
	err := control(ctl, func(fd int) (err error) {
		number, err = unix.IoctlRetInt(fd, unix.LOOP_CTL_GET_FREE)
		return err
	})
	if errors.Is(err, unix.EINTR) {
		return nil, errLoopTaken
	}
	if err != nil {
		return nil, fmt.Errorf("find a free loop device: %w", err)
	}
	f, err := open(loopPath(number), unix.O_RDWR, 0)
	switch {
	// The node appears a moment after the device (udev), or was removed again (LOOP_CTL_REMOVE).
	case isGone(err), errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV), errors.Is(err, unix.EBUSY):
		return nil, fmt.Errorf("%w: %w", err, errLoopTaken)
	case err != nil:
		return nil, err
	}
	err = configureLoop(f, img, blockSize)
	if err == nil {
		return f, nil
	}
	// EBUSY: bound by somebody else, or being unbound.
	if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EINTR) {
		err = fmt.Errorf("%w: %w", err, errLoopTaken)
	}
	return nil, errors.Join(err, f.Close())
}

func configureLoop(loop, img *os.File, blockSize int) error {
	configure := func(flags uint32) error {
		return control(img, func(imgFD int) error {
			return control(loop, func(fd int) error {
				c := unix.LoopConfig{Fd: uint32(imgFD), Size: uint32(blockSize)}
				c.Info.Flags = flags
				c.Info.File_name = loopName(img.Name())
				return unix.IoctlLoopConfigure(fd, &c)
			})
		})
	}
	err := configure(unix.LO_FLAGS_AUTOCLEAR | unix.LO_FLAGS_DIRECT_IO)
	if errors.Is(err, unix.EINVAL) {
		// Kernels before 6.14 drop direct I/O silently where the file cannot do it; a refusal would look like this.
		err = configure(unix.LO_FLAGS_AUTOCLEAR)
	}
	if err != nil {
		return fmt.Errorf("bind %s: %w", loop.Name(), err)
	}
	return nil
}

// LoopDetach makes sure that the device l is not bound to l's file any more. It acts only after it has seen, on an open descriptor, that the device
// is still bound to that file: numbers are reused. A device that somebody uses stays as it was, and the error wraps ErrBusy; the kernel's own
// LOOP_CLR_FD would report success then and unbind under the user later. It returns when the device is gone, or with ErrBusy when ctx ends.
func LoopDetach(ctx context.Context, l Loop) error {
	if err := clearLoop(l); err != nil {
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
			return fmt.Errorf("detach %s from %s: a process has it open: %w: %w", l.Path, l.File, ErrBusy, context.Cause(ctx))
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
	return err == nil && now.BackingDev == l.BackingDev && now.BackingIno == l.BackingIno, err
}

func clearLoop(l Loop) error {
	// O_EXCL on a block device: fails if a mapping, a mount or another O_EXCL user holds it.
	f, err := open(l.Path, unix.O_RDONLY|unix.O_EXCL|unix.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, unix.EBUSY):
		// Somebody holds it; if it is bound to another file by now, then it is not ours to judge.
		if bound, err := stillBound(l); err != nil || !bound {
			return err
		}
		return fmt.Errorf("a mapping or mount holds it: %w", ErrBusy)
	case isGone(err), errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV):
		return nil
	case err != nil:
		return err
	}
	defer f.Close()
	now, err := loopStatus(f)
	if errors.Is(err, unix.ENXIO) {
		return nil
	}
	if err != nil {
		return err
	}
	if now.BackingDev != l.BackingDev || now.BackingIno != l.BackingIno || now.Autoclear {
		// Not this file, or it goes with its last user, which may be the descriptor at hand.
		return nil
	}
	err = control(f, func(fd int) error {
		return retry(func() error { return unix.IoctlSetInt(fd, unix.LOOP_CLR_FD, 0) })
	})
	if err != nil && !errors.Is(err, unix.ENXIO) {
		return fmt.Errorf("unbind: %w", err)
	}
	return nil
}
