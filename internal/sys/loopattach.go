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
// Other users of loop devices may take the free one first; then the next is tried, for at most 30 seconds. A free device that has no node in /dev is
// ErrNoLoop after two seconds, which udev has to make one.
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
	ctx, cancel := context.WithTimeout(ctx, attachPatience)
	defer cancel()
	start := time.Now()
	finder := loopFinder{ctl, map[int]bool{}}
	for {
		f, err := finder.openFree()
		if err == nil {
			err = bindLoop(f, img, blockSize)
		}
		if err == nil {
			l, err := loopStatus(f)
			if err == nil {
				err = l.mustBe(dev, ino, blockSize)
			}
			if err != nil {
				return Loop{}, nil, errors.Join(fmt.Errorf("attach %s to a loop device: %w", img.Name(), err), f.Close())
			}
			return l, f, nil
		}
		if isGone(err) && time.Since(start) > nodePatience {
			err = fmt.Errorf("%w: %w", err, ErrNoLoop)
		} else if errors.Is(err, errLoopTaken) {
			err = wait(ctx, err)
		}
		if err != nil {
			return Loop{}, nil, fmt.Errorf("attach %s to a loop device: %w", img.Name(), err)
		}
	}
}

// mustBe checks that the device is what was asked for.
func (l Loop) mustBe(dev, ino uint64, blockSize int) error {
	switch {
	case l.BackingDev != dev || l.BackingIno != ino:
		return fmt.Errorf("%s is bound to another file", l.Path)
	case l.BlockSize != blockSize:
		return fmt.Errorf("%s has blocks of %d bytes instead of %d", l.Path, l.BlockSize, blockSize)
	case !l.Autoclear || l.ReadOnly || l.Offset != 0 || l.SizeLimit != 0:
		return fmt.Errorf("%s is not bound as it was asked for", l.Path)
	}
	return nil
}

const (
	attachPatience = 30 * time.Second
	nodePatience   = 2 * time.Second
	openPatience   = 2 * time.Second
)

// wait pauses for some milliseconds, at random so that those who race do not meet again. At the end of ctx it returns err with the context's.
func wait(ctx context.Context, err error) error {
	select {
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", err, context.Cause(ctx))
	case <-time.After(time.Millisecond + rand.N(10*time.Millisecond)):
		return nil
	}
}

// errLoopTaken: the free device was somebody else's by the time we had it.
var errLoopTaken = errors.New("other users keep taking the free loop device")

// A loopFinder finds devices for one LoopAttach. It remembers those that do not answer.
type loopFinder struct {
	ctl   *os.File
	hangs map[int]bool
}

// openFree opens a device that is free, or was a moment ago; errLoopTaken if there is none right now.
//
// The kernel calls a device free until whoever binds it is done, and lets nobody open it meanwhile. Where that one waits for a disk that does not answer,
// everybody would be given the same device and wait with it. So such a device is passed over, and where there is no other one is made. F12
func (l *loopFinder) openFree() (*os.File, error) {
	var number int
	err := control(l.ctl, func(fd int) (err error) {
		number, err = unix.IoctlRetInt(fd, unix.LOOP_CTL_GET_FREE)
		return err
	})
	if errors.Is(err, unix.EINTR) {
		return nil, errLoopTaken
	}
	if err != nil {
		return nil, fmt.Errorf("find a free loop device: %w", err)
	}
	for {
		if l.hangs[number] {
			for number = 0; l.hangs[number] || loopBound(number); number++ {
			}
			err := control(l.ctl, func(fd int) error { return unix.IoctlSetInt(fd, unix.LOOP_CTL_ADD, number) })
			if err != nil && !errors.Is(err, unix.EEXIST) {
				return nil, fmt.Errorf("make a loop device: %w", err)
			}
		}
		f, err := openFreeLoop(number)
		if !errors.Is(err, errLoopHangs) {
			return f, err
		}
		l.hangs[number] = true
	}
}

// loopBound tells whether sysfs shows the device of that number as bound.
func loopBound(number int) bool {
	_, err := os.Stat(fmt.Sprintf("/sys/block/loop%d/loop", number))
	return err == nil
}

// errLoopHangs: whoever works on the device does not come to an end.
var errLoopHangs = errors.New("the loop device does not answer")

// openFreeLoop opens the device of that number; errLoopTaken if it is not there (any more).
func openFreeLoop(number int) (*os.File, error) {
	f, err := openInTime(loopPath(number), unix.O_RDWR, openPatience)
	// The node appears a moment after the device (udev), or was removed again (LOOP_CTL_REMOVE).
	if isGone(err) || errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EBUSY) {
		return nil, fmt.Errorf("%w: %w", err, errLoopTaken)
	}
	return f, err
}

// openInTime gives up with errLoopHangs. The thread that waits then ends with the process at the latest, as far as the kernel lets it.
func openInTime(path string, flags int, patience time.Duration) (*os.File, error) {
	type result struct {
		f   *os.File
		err error
	}
	opened, late := make(chan result), make(chan struct{})
	go func() {
		f, err := open(path, flags, 0)
		select {
		case opened <- result{f, err}:
		case <-late:
			if err == nil {
				f.Close()
			}
		}
	}()
	select {
	case r := <-opened:
		return r.f, r.err
	case <-time.After(patience):
		close(late)
		return nil, fmt.Errorf("open %s: %w", path, errLoopHangs)
	}
}

// bindLoop binds an open device, and closes it if that fails; errLoopTaken if it is not free any more.
func bindLoop(f, img *os.File, blockSize int) error {
	err := configureLoop(f, img, blockSize)
	if err == nil {
		return nil
	}
	// EBUSY: bound by somebody else, or being unbound.
	if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EINTR) {
		err = fmt.Errorf("%w: %w", err, errLoopTaken)
	}
	return errors.Join(err, f.Close())
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
