// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Extent is where a piece of a file lies on the device of its file system, in bytes, as fiemap says (Linux, Documentation/filesystems/fiemap.rst).
type Extent struct {
	Logical, Physical, Length uint64 // bytes: in the file, on the device, and long
	Flags                     uint32 // of fiemap, such as ExtentShared
}

// Flags of an Extent.
const (
	ExtentShared  = 0x2000 // other files have it too: whoever writes to one of them writes elsewhere
	ExtentUnfixed = 0x2 | 0x4 | 0x8 | 0x80 | 0x200 | 0x400
	// ExtentUnfixed is any of: place unknown, not yet allocated, encoded, encrypted by the file system, inline, packed with others.
)

// fiemapRequest is FS_IOC_FIEMAP: _IOWR('f', 11, struct fiemap).
const fiemapRequest = 0xc020660b

const fiemapBatch = 64

type fiemap struct {
	start, length          uint64
	flags, mapped, room, _ uint32
	extents                [fiemapBatch]struct {
		logical, physical, length uint64
		_                         [2]uint64
		flags                     uint32
		_                         [3]uint32
	}
}

// FileExtents lists the extents of the first n bytes of a file, after what is in the page cache was written. Holes have none. errors.ErrUnsupported if
// the file system does not tell.
func FileExtents(f *os.File, n uint64) (all []Extent, err error) {
	const syncFirst, last = 0x1, 0x1
	for start := uint64(0); start < n; {
		m := fiemap{start: start, length: n - start, flags: syncFirst, room: fiemapBatch}
		if err := control(f, func(fd int) error { return ioctl(fd, fiemapRequest, unsafe.Pointer(&m)) }); err != nil {
			return nil, fmt.Errorf("extents of %s: %w", f.Name(), orUnsupported(err))
		}
		if m.mapped == 0 {
			return all, nil
		}
		for _, e := range m.extents[:min(m.mapped, fiemapBatch)] {
			all = append(all, Extent{e.logical, e.physical, e.length, e.flags})
			start = e.logical + e.length
			if e.flags&last != 0 {
				return all, nil
			}
		}
	}
	return all, nil
}

// JournalsData tells whether the file system writes the content of a file to its journal first (chattr +j). errors.ErrUnsupported if it does not tell.
func JournalsData(f *os.File) (bool, error) {
	const journalData = 0x4000 // FS_JOURNAL_DATA_FL, linux/fs.h
	var flags uint32
	err := control(f, func(fd int) error { return ioctl(fd, unix.FS_IOC_GETFLAGS, unsafe.Pointer(&flags)) })
	if err != nil {
		return false, orUnsupported(err)
	}
	return flags&journalData != 0, nil
}

// Discard tells a block device that its content is needed no longer. errors.ErrUnsupported if the device has no use for that.
func Discard(f *os.File) error {
	size, err := deviceSize(f)
	if err != nil {
		return err
	}
	whole := [2]uint64{0, uint64(size)}
	if err := control(f, func(fd int) error { return ioctl(fd, unix.BLKDISCARD, unsafe.Pointer(&whole)) }); err != nil {
		return fmt.Errorf("discard %s: %w", f.Name(), orUnsupported(err))
	}
	return nil
}
