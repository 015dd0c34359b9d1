// SPDX-License-Identifier: Apache-2.0

package backing

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/voluks/voluks/internal/sys"
)

// Attachment is an attached image. The loop device exists as long as anything has it open: this, a mapping, a mount. Whoever attaches keeps the
// Attachment open for everything that he does through Path, and closes it when a mapping holds the device, or when he is done.
type Attachment struct {
	Path   string   // /dev/loopN; means this image only until Close
	Direct bool     // the device writes past the host's page cache
	Loop   sys.Loop // as the kernel describes it
	file   *os.File
}

// File returns the open loop device, to be inherited by a child that goes on with it. It stays the Attachment's.
func (a *Attachment) File() *os.File { return a.file }

// Close lets go of the device. It may be called again.
func (a *Attachment) Close() error {
	if a == nil || a.file == nil {
		return nil
	}
	err := a.file.Close()
	a.file = nil
	return err
}

// attachPatience is how long Attach waits for somebody who has the lock but no loop device: a cryptsetup that reads the header, another Attach that
// is not done, a device that is just being unbound.
const attachPatience = 3 * time.Second

// Attach binds the image to a loop device, with 4096-byte blocks and, where possible, direct I/O; if this package has it attached already, it returns
// the same device. An image that somebody else has locked or bound to a loop device is ErrInUse, and so is one that is bound twice. A missing image
// is os.ErrNotExist.
func (i *Image) Attach(ctx context.Context) (*Attachment, error) {
	wait, cancel := context.WithTimeout(ctx, attachPatience)
	defer cancel()
	pause := time.Millisecond
	for {
		a, err := i.tryAttach(ctx)
		if err == nil {
			return a, nil
		}
		if !errors.Is(err, errUnsettled) {
			return nil, fmt.Errorf("attach image: %w", err)
		}
		select {
		case <-wait.Done():
			if ctx.Err() != nil {
				err = fmt.Errorf("%w: %w", err, context.Cause(ctx))
			}
			return nil, fmt.Errorf("attach image: %w", err)
		case <-time.After(pause):
		}
		pause = min(2*pause, 50*time.Millisecond)
	}
}

// errUnsettled: ErrInUse that may pass.
var errUnsettled = fmt.Errorf("locked by somebody who has not attached it: %w", ErrInUse)

func (i *Image) tryAttach(ctx context.Context) (*Attachment, error) {
	f, err := sys.OpenRegular(i.path, true)
	if err != nil {
		return nil, err
	}
	// The loop device keeps the description, and with it the lock.
	defer f.Close()
	if err := checkSize(f); err != nil {
		return nil, err
	}
	err = sys.TryLock(f)
	locked := errors.Is(err, sys.ErrLocked)
	if err != nil && !locked {
		return nil, err
	}
	// After the attempt: whoever had the lock first has, if it was us, bound a device, or is about to.
	loops, err := sys.LoopsOver(f)
	if err != nil {
		return nil, err
	}
	switch {
	case len(loops) == 0 && !locked:
		l, file, err := sys.LoopAttach(ctx, f, BlockSize)
		if err != nil {
			return nil, err
		}
		return &Attachment{Path: l.Path, Direct: l.Direct, Loop: l, file: file}, nil
	case len(loops) == 0:
		return nil, fmt.Errorf("%s: %w", i.path, errUnsettled)
	case len(loops) > 1 || !ours(loops[0]) || !locked:
		return nil, fmt.Errorf("%s: bound to %s by another program: %w", i.path, names(loops), ErrInUse)
	}
	file, err := loops[0].Hold()
	if errors.Is(err, sys.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", i.path, errUnsettled) // it went away in between
	}
	if err != nil {
		return nil, err
	}
	return &Attachment{Path: loops[0].Path, Direct: loops[0].Direct, Loop: loops[0], file: file}, nil
}

func checkSize(f *os.File) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if st.Size() <= HeaderSize || st.Size()%BlockSize != 0 {
		return fmt.Errorf("%s has %d bytes, which no image has: it was cut, or is not one of voluks", f.Name(), st.Size())
	}
	return nil
}

// ours tells whether a loop device looks as LoopAttach makes them. Whether the lock is held tells the rest.
func ours(l sys.Loop) bool {
	return l.Autoclear && !l.ReadOnly && l.Offset == 0 && l.SizeLimit == 0 && l.BlockSize == BlockSize
}

func names(loops []sys.Loop) string {
	var paths []string
	for _, l := range loops {
		paths = append(paths, l.Path)
	}
	return strings.Join(paths, ", ")
}

// loops returns the loop devices of the image; os.ErrNotExist if there is no such file.
func (i *Image) loops() ([]sys.Loop, error) {
	f, err := sys.OpenRegular(i.path, false)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return sys.LoopsOver(f)
}

// Attached returns the loop device that the image is bound to, by whomever; ok is false if there is none. Two of them are ErrInUse. The device is not
// held: by the time the answer is read it may be gone.
func (i *Image) Attached() (dev string, ok bool, err error) {
	loops, err := i.loops()
	switch {
	case err != nil:
		return "", false, fmt.Errorf("look up loop device of image: %w", err)
	case len(loops) == 0:
		return "", false, nil
	case len(loops) > 1:
		return "", false, fmt.Errorf("%s is bound to %s at once: %w", i.path, names(loops), ErrInUse)
	}
	return loops[0].Path, true, nil
}

// Detach makes sure that no loop device of this package has the image; nothing attached is no error. The device normally goes by itself, with its
// mapping. While something uses it, it stays, and the error is ErrInUse and sys.ErrBusy; a device that another program has bound is ErrInUse.
func (i *Image) Detach(ctx context.Context) error {
	loops, err := i.loops()
	if err != nil {
		return fmt.Errorf("detach image: %w", err)
	}
	for _, l := range loops {
		if !ours(l) {
			return fmt.Errorf("detach image: %s: bound to %s by another program: %w", i.path, l.Path, ErrInUse)
		}
		if err := sys.LoopDetach(ctx, l); err != nil {
			if errors.Is(err, sys.ErrBusy) {
				err = fmt.Errorf("%w: %w", err, ErrInUse)
			}
			return fmt.Errorf("detach image: %w", err)
		}
	}
	return nil
}

// Rotational tells whether the file system that the image is in lies on a rotating disk. Of a file system without a device of its own, such as btrfs, it
// cannot be told: os.ErrNotExist.
func (i *Image) Rotational() (bool, error) {
	f, err := sys.OpenRegular(i.path, false)
	if err != nil {
		return false, err
	}
	defer f.Close()
	major, minor, err := sys.DeviceBelow(f)
	if err != nil {
		return false, err
	}
	return sys.Rotational(major, minor)
}

// Door is the path by which the image is to be read and written now: its loop device while there is one, the file only while there is none.
func (i *Image) Door(context.Context) (string, error) {
	loops, err := i.loops()
	if err != nil {
		return "", err
	}
	if len(loops) > 0 {
		return loops[0].Path, nil
	}
	return i.path, nil
}

// Users says which loop devices the image is bound to.
func (i *Image) Users() ([]string, error) {
	loops, err := i.loops()
	var users []string
	for _, l := range loops {
		users = append(users, "its image is bound to "+l.Path)
	}
	return users, err
}

// Is returns nil if the device is a loop device over the whole image, an *OtherError if it is anything else.
func (i *Image) Is(d sys.Dev) error {
	loop, err := sys.LoopByDev(d.Major, d.Minor)
	if errors.Is(err, sys.ErrNotExist) {
		return other("it is no loop device over the image")
	}
	if err != nil {
		return err
	}
	f, err := sys.OpenRegular(i.path, false)
	if err != nil {
		return err
	}
	defer f.Close()
	dev, ino, err := sys.FileID(f)
	if err != nil {
		return err
	}
	if loop.BackingDev != dev || loop.BackingIno != ino || loop.Offset != 0 || loop.SizeLimit != 0 {
		return other("%s is over %s", loop.Path, loop.File)
	}
	return nil
}
