// SPDX-License-Identifier: Apache-2.0

package backing

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/voluks/voluks/internal/sys"
)

// Image is an image file, known by its path. It holds nothing open.
type Image struct{ path string }

// At returns the image at path, which need not exist yet.
func At(path string) *Image { return &Image{path: path} }

// Path returns the image's path.
func (i *Image) Path() string { return i.path }

// allocStep bounds one reservation, so that the caller's deadline is looked at in between.
const allocStep = 4 << 30

// Create makes the image with size bytes (see ImageSize), mode 0600, readable as zeros, without copy-on-write where the file system has such a switch.
// When it returns nil, file and name are durable. Whatever fails, what it made is removed again. An existing file of that name is an error that wraps
// os.ErrExist and is left alone; too little space is a *NoSpaceError; Full on a file system that cannot reserve wraps errors.ErrUnsupported.
func (i *Image) Create(ctx context.Context, size int64, a Alloc) (err error) {
	if size <= HeaderSize || size%BlockSize != 0 {
		return fmt.Errorf("create image %s: size of %d bytes: must be more than %d and a multiple of %d", i.path, size, HeaderSize, BlockSize)
	}
	if a != Full && a != Sparse {
		return fmt.Errorf("create image %s: allocation %q: must be %q or %q", i.path, a, Full, Sparse)
	}
	// Asked now: after a failed attempt, a part of the free space is the attempt's.
	fs, err := sys.Statfs(filepath.Dir(i.path))
	if err != nil {
		return fmt.Errorf("create image: %w", err)
	}
	f, err := os.OpenFile(i.path, os.O_RDWR|os.O_CREATE|os.O_EXCL|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return i.createError(size, fs, err)
	}
	defer func() {
		if e := f.Close(); err == nil && e != nil {
			err = fmt.Errorf("create image: %w", e)
		}
		if err != nil {
			// O_EXCL made it, so it is ours to remove.
			err = errors.Join(err, os.Remove(i.path))
		}
	}()
	// The umask may have taken bits away, and it must not matter.
	if err := f.Chmod(0o600); err != nil {
		return fmt.Errorf("create image: %w", err)
	}
	// Before the first byte: later it does nothing. With copy-on-write, overwriting a key slot would leave the old one on the disk.
	if err := sys.SetNoCOW(f); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return fmt.Errorf("create image: %w", err)
	}
	if err := allocate(ctx, f, size, a); err != nil {
		return i.createError(size, fs, err)
	}
	if err := f.Sync(); err != nil {
		return i.createError(size, fs, err)
	}
	if err := sys.SyncDir(filepath.Dir(i.path)); err != nil {
		return fmt.Errorf("create image: %w", err)
	}
	return nil
}

func allocate(ctx context.Context, f *os.File, size int64, a Alloc) error {
	if a == Sparse {
		return f.Truncate(size)
	}
	for at := int64(0); at < size; at += allocStep {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := sys.FallocateRange(f, at, min(allocStep, size-at)); err != nil {
			return err
		}
	}
	return nil
}

// createError turns "disk full" into a *NoSpaceError with the figures.
func (i *Image) createError(need int64, fs sys.FSStat, err error) error {
	if !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("allocate image %s: %w", i.path, err)
	}
	n := &NoSpaceError{Path: filepath.Dir(i.path), Need: need, Avail: fs.Avail, Inodes: fs.Files > 0 && fs.FilesFree == 0}
	return fmt.Errorf("allocate image: %w: %w", n, err)
}

// Reserve returns nil if dir's file system has room for need more bytes now, and a *NoSpaceError otherwise. Space that only root could use does not
// count. It reserves nothing by itself: the caller holds the node's lock until Create has.
func Reserve(ctx context.Context, dir string, need int64) error {
	if ctx.Err() != nil {
		return fmt.Errorf("reserve space: %w", context.Cause(ctx))
	}
	st, err := sys.Statfs(dir)
	if err != nil {
		return fmt.Errorf("reserve space: %w", err)
	}
	if st.Avail < need {
		return fmt.Errorf("reserve space: %w", &NoSpaceError{Path: dir, Need: need, Avail: st.Avail})
	}
	if st.Files > 0 && st.FilesFree == 0 {
		return fmt.Errorf("reserve space: %w", &NoSpaceError{Path: dir, Need: need, Avail: st.Avail, Inodes: true})
	}
	return nil
}
