// SPDX-License-Identifier: Apache-2.0

package backing

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/voluks/voluks/internal/sys"
)

// Grow makes the image hold a file system of size bytes, and the loop device over it as large, if there is one; a larger image stays as it is. With Full
// all of the space is taken before the file gets longer, so that it never promises what it does not have. When it fails for want of space nothing has
// changed.
//
//	after this step      a crash leaves                                          repaired by
//	blocks reserved      blocks beyond the end of the file, which nobody sees    Grow, again
//	file longer          a loop device that is shorter than its file             Grow, again; or the next Attach
func (i *Image) Grow(ctx context.Context, size int64, alloc string) error {
	full, err := ImageSize(size)
	if err == nil {
		err = i.lengthen(ctx, full, Alloc(alloc))
	}
	if err != nil {
		return fmt.Errorf("grow image: %w", err)
	}
	loops, err := i.loops()
	if err != nil {
		return fmt.Errorf("grow image: %w", err)
	}
	for _, l := range loops {
		if !ours(l) {
			return fmt.Errorf("grow image: %s: bound to %s by another program: %w", i.path, l.Path, ErrInUse)
		}
		if err := sys.LoopSetCapacity(l); err != nil && !errors.Is(err, sys.ErrNotExist) { // gone: the next one has the size of the file
			return fmt.Errorf("grow image: %w", err)
		}
	}
	return nil
}

func (i *Image) lengthen(ctx context.Context, size int64, a Alloc) (err error) {
	f, err := sys.OpenRegular(i.path, true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	old := st.Size()
	if old >= size {
		return f.Sync() // it may have been made longer by one who crashed before that was durable
	}
	fs, err := sys.Statfs(i.path)
	if err != nil {
		return err
	}
	if a == Full {
		if fs.Avail < size-old {
			return &NoSpaceError{Path: i.path, Need: size - old, Avail: fs.Avail}
		}
		if err := reserve(ctx, f, old, size); err != nil {
			// To the size that it has: what is beyond is given back, and no byte of it is lost.
			return errors.Join(i.createError(size-old, fs, err), f.Truncate(old))
		}
	}
	if err := f.Truncate(size); err != nil {
		return err
	}
	return f.Sync()
}

func reserve(ctx context.Context, f *os.File, from, to int64) error {
	for at := from; at < to; at += allocStep {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := sys.FallocateBeyond(f, at, min(allocStep, to-at)); err != nil {
			return err
		}
	}
	return nil
}

// Grow makes the logical volume hold a file system of size bytes; a larger one stays as it is. LVM enlarges a device in use.
func (l *LV) Grow(ctx context.Context, size int64, _ string) error {
	full, err := ImageSize(size)
	if err != nil {
		return err
	}
	have, err := l.look(ctx, l.name())
	if err != nil || have >= full {
		return err
	}
	if l.pool == "" {
		if err := l.reserve(ctx, full-have); err != nil {
			return err
		}
	}
	_, err = lvm(ctx, "lvextend", "--size", bytesArg(full), l.vg+"/"+l.name())
	return err
}

// Grow makes sure that the device has room for a file system of size bytes: nobody can enlarge it from here.
func (d *Device) Grow(ctx context.Context, size int64, _ string) error {
	have, err := d.Size(ctx)
	if err == nil && have < size {
		err = &NoSpaceError{Path: d.path, Need: size, Avail: have}
	}
	return err
}
