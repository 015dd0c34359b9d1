// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/voluks/voluks/internal/backing"
	"github.com/voluks/voluks/internal/sys"
)

// Files of an image in the directory of its volume.
const (
	imageFile    = "image"
	newImageFile = "image.new" // being allocated; renamed once it is whole
)

type realBackings struct{}

// At implements Backings. A record that names another kind is never read, see record.check.
func (realBackings) At(p Place) Backing {
	switch p.Kind {
	case BackingDevice:
		return realDevice{backing.DeviceAt(p.Device, p.ID, p.UUID)}
	case BackingLVM:
		return realLV{backing.LVAt(p.VG, p.Pool, p.UUID)}
	}
	return realImage{backing.At(filepath.Join(p.Dir, cmp.Or(p.File, imageFile))), filepath.Join(p.Dir, newImageFile)}
}

func (realBackings) Identify(path string) (sys.BlockID, error) { return backing.Identify(path) }

type realDevice struct{ *backing.Device }

func (d realDevice) Attach(ctx context.Context) (Attachment, error) {
	return held(d.Device.Attach(ctx))
}

type realLV struct{ *backing.LV }

func (l realLV) Attach(ctx context.Context) (Attachment, error) { return held(l.LV.Attach(ctx)) }

func held(h *backing.Held, err error) (Attachment, error) {
	if err != nil {
		return nil, err
	}
	return h, nil
}

type realImage struct {
	*backing.Image
	half string // where it is made
}

// sparseNeed is room, in bytes, for what mkfs writes into a new sparse image.
const sparseNeed = 16 << 20

func (i realImage) Create(ctx context.Context, size int64, alloc string) error {
	full, err := backing.ImageSize(size)
	if err != nil {
		return err
	}
	if _, err := os.Lstat(i.Path()); err == nil {
		return &os.PathError{Op: "create", Path: i.Path(), Err: fs.ErrExist}
	}
	if err := backing.At(i.half).Remove(); err != nil {
		return err
	}
	// Before anything is allocated: a disk that is filled to the brim on the way to an error hurts everybody else on it. What format and mkfs write must
	// be there for a sparse image too.
	need := full
	if alloc == AllocSparse {
		need = min(full, backing.HeaderSize+sparseNeed)
	}
	if err := backing.Reserve(ctx, filepath.Dir(i.half), need); err != nil {
		return err
	}
	if err := backing.At(i.half).Create(ctx, full, backing.Alloc(alloc)); err != nil {
		return err
	}
	if err := (OSFiles{}).Rename(i.half, i.Path()); err != nil {
		return errors.Join(err, i.Remove(ctx))
	}
	return nil
}

func (i realImage) Size(context.Context) (int64, error) {
	info, err := os.Lstat(i.Path())
	if err != nil {
		return 0, err
	}
	if !info.Mode().IsRegular() {
		return 0, fmt.Errorf("size of %s: %w", i.Path(), sys.ErrNotRegular)
	}
	return info.Size() - backing.HeaderSize, nil
}

func (i realImage) Room() (missing, left int64, err error) {
	info, err := os.Lstat(i.Path())
	if err != nil {
		return 0, 0, err
	}
	st, err := sys.Statfs(i.Path())
	if err != nil {
		return 0, 0, err
	}
	const block = 512 // bytes; the unit of st_blocks, whatever the file system's
	return max(0, info.Size()-info.Sys().(*syscall.Stat_t).Blocks*block), st.Avail, nil
}

func (i realImage) Attach(ctx context.Context) (Attachment, error) {
	a, err := i.Image.Attach(ctx)
	if err != nil {
		return nil, err
	}
	return realAttachment{a}, nil
}

type realAttachment struct{ *backing.Attachment }

func (a realAttachment) Dev() string { return a.Path }

func (i realImage) Detach(ctx context.Context) error {
	err := i.Image.Detach(ctx)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (i realImage) ProbeBlank(ctx context.Context, dev string) error {
	return backing.ProbeBlank(ctx, dev)
}

func (i realImage) Wipe(context.Context, string) error {
	return errors.New("an image of voluks is never wiped")
}

func (i realImage) Remove(context.Context) error {
	return errors.Join(i.Image.Remove(), backing.At(i.half).Remove())
}
