// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Attribute flags of ioctl_iflags(2); x/sys has no names for them.
const (
	flagImmutable = 0x00000010
	flagNoCOW     = 0x00800000
)

// Fallocate reserves real blocks for the first size bytes of f and makes it that long. A file system that cannot reserve gives an error that wraps
// errors.ErrUnsupported; a full one gives ENOSPC, and may have reserved a part.
func Fallocate(f *os.File, size int64) error { return FallocateRange(f, 0, size) }

// FallocateRange is Fallocate for length bytes at off, so that a large reservation can be made in steps.
func FallocateRange(f *os.File, off, length int64) error { return fallocate(f, 0, off, length) }

func fallocate(f *os.File, mode uint32, off, length int64) error {
	err := control(f, func(fd int) error {
		return retry(func() error { return unix.Fallocate(fd, mode, off, length) })
	})
	if unsupported(err) {
		return fmt.Errorf("reserve %d bytes for %s: %w: %w", length, f.Name(), err, errors.ErrUnsupported)
	}
	if err != nil {
		return fmt.Errorf("reserve %d bytes for %s: %w", length, f.Name(), err)
	}
	return nil
}

// FallocateBeyond reserves blocks for length bytes at off without making the file longer. A truncation to the size that the file has gives back what lies
// beyond its end. Errors are those of FallocateRange.
func FallocateBeyond(f *os.File, off, length int64) error {
	return fallocate(f, unix.FALLOC_FL_KEEP_SIZE, off, length)
}

// SetNoCOW switches copy-on-write (and with it checksums and compression) off for f, which must still be empty. Where that does not exist (all
// file systems but btrfs) the error wraps errors.ErrUnsupported.
func SetNoCOW(f *os.File) error {
	if err := setFlag(f, flagNoCOW, true); err != nil {
		return fmt.Errorf("switch copy-on-write off for %s: %w", f.Name(), err)
	}
	return nil
}

// SetImmutable sets or clears the immutable attribute (chattr +i) of a file or directory; of a directory, nothing in it can be made, renamed or
// removed then, not even by root, while mounting over it works. Where the file system does not have it the error wraps errors.ErrUnsupported;
// without CAP_LINUX_IMMUTABLE it is EPERM. A symbolic link is refused.
func SetImmutable(path string, on bool) error {
	f, err := open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := setFlag(f, flagImmutable, on); err != nil {
		return fmt.Errorf("set immutable=%t on %s: %w", on, path, err)
	}
	return nil
}

// setFlag changes one of the attribute flags of ioctl_iflags(2) and reads it back: some file systems take an unknown flag and forget it.
func setFlag(f *os.File, flag uint32, on bool) error {
	return control(f, func(fd int) error {
		var flags uint32 // the number of the request says long, the kernel reads and writes an int
		if err := ioctl(fd, unix.FS_IOC_GETFLAGS, unsafe.Pointer(&flags)); err != nil {
			return orUnsupported(err)
		}
		want := flags &^ flag
		if on {
			want |= flag
		}
		if want == flags {
			return nil
		}
		if err := ioctl(fd, unix.FS_IOC_SETFLAGS, unsafe.Pointer(&want)); err != nil {
			return orUnsupported(err)
		}
		if err := ioctl(fd, unix.FS_IOC_GETFLAGS, unsafe.Pointer(&flags)); err != nil {
			return err
		}
		if flags&flag != want&flag {
			return fmt.Errorf("the file system forgot it: %w", errors.ErrUnsupported)
		}
		return nil
	})
}

func orUnsupported(err error) error {
	if unsupported(err) {
		return fmt.Errorf("%w: %w", err, errors.ErrUnsupported)
	}
	return err
}

// SyncDir makes the entries of the directory at path durable.
func SyncDir(path string) error {
	d, err := open(path, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	return nil
}

// SyncFile makes the content of the file at path durable, and its name. Whoever wrote it may have left that to the kernel.
func SyncFile(path string) error {
	f, err := open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync file: %w", err)
	}
	return SyncDir(filepath.Dir(path))
}

// DropCache lets the kernel forget what it keeps in memory of a file that is durable. It may not, and nothing depends on it, so there is no error.
func DropCache(path string) {
	f, err := open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return
	}
	defer f.Close()
	_ = control(f, forget)
}

// Memfd returns an anonymous file in memory that holds data, positioned at its start and sealed against every change. The name is for debugging
// alone. Its pages can be swapped: no secrets.
func Memfd(name string, data []byte) (*os.File, error) {
	return SparseMemfd(name, int64(len(data)), map[int64][]byte{0: data})
}

// SparseMemfd is Memfd for a file of size bytes that holds pieces at their offsets, and zeros between them that take no memory.
func SparseMemfd(name string, size int64, pieces map[int64][]byte) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("create memfd: %w", err)
	}
	f := os.NewFile(uintptr(fd), "memfd:"+name)
	err = f.Truncate(size)
	for off, piece := range pieces {
		if err == nil {
			_, err = f.WriteAt(piece, off)
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("fill memfd: %w", err), f.Close())
	}
	err = control(f, func(fd int) error {
		_, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SEAL|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE)
		return err
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("seal memfd: %w", err), f.Close())
	}
	return f, nil
}
