// SPDX-License-Identifier: Apache-2.0

package backing

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/voluks/voluks/internal/sys"
)

// Erased says what became of a header that was erased.
type Erased struct {
	Bytes   int64    // overwritten with random bytes and read back, from the first one
	Reasons []string // why old bytes may be left below all the same; none: overwritten in place
}

// eraseChunk is what is overwritten at a time, and headerCopy the size of a copy of the metadata, of which there are two in front of the key slots.
const (
	eraseChunk = 1 << 20
	headerCopy = 64 << 10
)

// overwrite destroys what a LUKS header lets nobody do without: both copies of the metadata and all key material. It goes from the end to the start, so
// that a header that can be recognised stays until the key slots are gone: whoever finds none where it should be knows that they are. What was written
// is made durable and read back past the page cache.
func overwrite(ctx context.Context, path string) (n int64, err error) {
	d, err := sys.OpenDirect(path, true)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	n = min(HeaderSize, d.Size()) &^ (BlockSize - 1)
	noise := make([]byte, n)
	rand.Read(noise)
	for end := n; end > 0; {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		at := max(end-eraseChunk, 2*headerCopy)
		if end <= 2*headerCopy {
			at = max(0, end-headerCopy)
		}
		if _, err := d.WriteAt(noise[at:end], at); err != nil {
			return 0, err
		}
		if err := d.Sync(); err != nil {
			return 0, err
		}
		end = at
	}
	back := make([]byte, n)
	if _, err := d.ReadAt(back, 0); err != nil {
		return 0, err
	}
	if !bytes.Equal(back, noise) {
		return 0, errors.New("what was written is not what is read back")
	}
	return n, nil
}

// Erase destroys the header of the image, and with it everything behind it. ErrInUse as for Remove; os.ErrNotExist if there is no image.
func (i *Image) Erase(ctx context.Context) (e Erased, err error) {
	f, err := i.alone()
	if err != nil {
		return e, fmt.Errorf("erase image: %w", err)
	}
	defer f.Close()
	e.Reasons = BesideFile(f)
	before, errBefore := headerExtents(f)
	if e.Bytes, err = overwrite(ctx, i.path); err != nil {
		return e, fmt.Errorf("erase %s: %w", i.path, err)
	}
	after, errAfter := headerExtents(f)
	for _, was := range before {
		if errBefore == nil && errAfter == nil && !slices.ContainsFunc(after, func(is sys.Extent) bool { return covers(is, was) }) {
			e.Reasons = append(e.Reasons, "its file system put the new bytes elsewhere")
			break
		}
	}
	return e, nil
}

// covers tells whether all of a piece still lies where it lay. What was a hole may lie anywhere.
func covers(is, was sys.Extent) bool {
	return is.Logical <= was.Logical && is.Logical+is.Length >= was.Logical+was.Length && is.Physical-is.Logical == was.Physical-was.Logical
}

// alone opens and locks an image that no loop device has. With the lock in hand nobody can attach it through this package between the look and the deed.
func (i *Image) alone() (*os.File, error) {
	f, err := sys.OpenRegular(i.path, true)
	if err != nil {
		return nil, err
	}
	if err := sys.TryLock(f); err != nil {
		if errors.Is(err, sys.ErrLocked) {
			err = fmt.Errorf("%w: %w", err, ErrInUse)
		}
		return nil, errors.Join(err, f.Close())
	}
	loops, err := sys.LoopsOver(f)
	if err == nil && len(loops) > 0 {
		err = fmt.Errorf("%s: bound to %s: %w", i.path, names(loops), ErrInUse)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// eraseDevice destroys the header on a block device that is known to be the right one, and tells the device that its content is needed no longer. Then,
// if it is to have another use, it destroys every trace of a volume. Nobody else can take the device meanwhile.
func eraseDevice(ctx context.Context, h *Held, wipeToo bool) (e Erased, err error) {
	exclusive, err := os.OpenFile(h.node, os.O_RDWR|os.O_EXCL, 0)
	if err != nil {
		return e, fmt.Errorf("erase %s: %w: %w", h.node, ErrInUse, err)
	}
	defer func() { err = errors.Join(err, exclusive.Close()) }()
	major, minor, err := sys.DevOf(h.node)
	if err != nil {
		return e, err
	}
	e.Reasons = belowDevice(major, minor)
	if e.Bytes, err = overwrite(ctx, h.node); err != nil {
		return e, fmt.Errorf("erase %s: %w", h.node, err)
	}
	if err := sys.Discard(exclusive); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return e, err
	}
	if wipeToo {
		err = Wipe(ctx, h.node)
	}
	return e, err
}

// Erase destroys the header on the device, and then every trace that it held a volume, so that it can be given another use. ErrInUse while anything has
// it; an *OtherError if the path leads to another device.
func (d *Device) Erase(ctx context.Context) (e Erased, err error) {
	h, err := d.Attach(ctx)
	if err != nil {
		return e, err
	}
	defer h.Close()
	return eraseDevice(ctx, h, true)
}

// Erase destroys the header on the logical volume. ErrInUse while anything has it, or a snapshot of it has a copy; os.ErrNotExist if there is none.
func (l *LV) Erase(ctx context.Context) (e Erased, err error) {
	h, err := l.Attach(ctx)
	if err != nil {
		return e, err
	}
	defer h.Close()
	if err := l.noSnapshots(ctx); err != nil {
		return e, fmt.Errorf("erase logical volume: %w", err)
	}
	return eraseDevice(ctx, h, false)
}
