// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Inode is what a file is apart from its content and its extended attributes. Symbolic links are not followed.
type Inode struct {
	Dev, Ino, Nlink uint64    // device and number of it, and how many names it has
	Mode            uint32    // type and permissions, as stat(2) has them
	UID, GID        int       // of its owner
	Rdev            uint64    // of a device: which one
	Size            int64     // bytes
	Allocated       int64     // bytes
	Atime, Mtime    time.Time // of the last access, of the last change of its content
	Ctime           time.Time // of the last change of anything, as the kernel has it
}

// Lstat looks at a file.
func Lstat(path string) (Inode, error) {
	var st unix.Stat_t
	if err := retry(func() error { return unix.Lstat(path, &st) }); err != nil {
		return Inode{}, &os.PathError{Op: "lstat", Path: path, Err: err}
	}
	return inodeOf(&st), nil
}

func inodeOf(st *unix.Stat_t) Inode {
	at := func(t unix.Timespec) time.Time { return time.Unix(t.Unix()) }
	return Inode{
		Dev: st.Dev, Ino: st.Ino, Nlink: uint64(st.Nlink), Mode: st.Mode, UID: int(st.Uid), GID: int(st.Gid), Rdev: st.Rdev, Size: st.Size, Allocated: 512 * st.Blocks,
		Atime: at(st.Atim), Mtime: at(st.Mtim), Ctime: at(st.Ctim),
	}
}

// OpenNoFollow opens a file or a directory for reading and tells what it is. A symbolic link is an error, and a pipe without a writer does not wait.
func OpenNoFollow(path string) (*os.File, Inode, error) {
	f, err := open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, Inode{}, err
	}
	var st unix.Stat_t
	if err := control(f, func(fd int) error { return unix.Fstat(fd, &st) }); err != nil {
		f.Close()
		return nil, Inode{}, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return f, inodeOf(&st), nil
}

// Type is the type of the file: one of S_IFREG and so on.
func (i Inode) Type() uint32 { return i.Mode & unix.S_IFMT }

// Types of files, as Inode.Type gives them.
const (
	TypeRegular = unix.S_IFREG
	TypeDir     = unix.S_IFDIR
	TypeLink    = unix.S_IFLNK
	TypeSocket  = unix.S_IFSOCK
)

// Xattrs are all extended attributes of a file, access lists included. A file system without them has none.
func Xattrs(path string) (map[string]string, error) {
	list, err := grow(func(b []byte) (int, error) { return unix.Llistxattr(path, b) })
	if errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	if err != nil {
		return nil, &os.PathError{Op: "listxattr", Path: path, Err: err}
	}
	all := map[string]string{}
	for _, name := range strings.Split(strings.TrimSuffix(string(list), "\x00"), "\x00") {
		if name == "" {
			continue
		}
		value, err := grow(func(b []byte) (int, error) { return unix.Lgetxattr(path, name, b) })
		if errors.Is(err, unix.ENODATA) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("attribute %s: %w", name, &os.PathError{Op: "getxattr", Path: path, Err: err})
		}
		all[name] = string(value)
	}
	return all, nil
}

func grow(get func([]byte) (int, error)) ([]byte, error) {
	for size := 1024; ; size *= 4 {
		b := make([]byte, size)
		n, err := get(b)
		if errors.Is(err, unix.ERANGE) && size < 1<<20 {
			continue
		}
		if err != nil {
			return nil, err
		}
		return b[:n], nil
	}
}

// SetXattrs gives a file exactly these extended attributes.
func SetXattrs(path string, want map[string]string) error {
	have, err := Xattrs(path)
	if err != nil {
		return err
	}
	for name, value := range want {
		if old, ok := have[name]; ok && old == value {
			continue
		}
		if err := unix.Lsetxattr(path, name, []byte(value), 0); err != nil {
			return fmt.Errorf("attribute %s: %w", name, &os.PathError{Op: "setxattr", Path: path, Err: err})
		}
	}
	for name := range have {
		if _, ok := want[name]; ok || name == "security.selinux" {
			continue
		}
		if err := unix.Lremovexattr(path, name); err != nil {
			return fmt.Errorf("attribute %s: %w", name, &os.PathError{Op: "removexattr", Path: path, Err: err})
		}
	}
	return nil
}

// SetTimes sets the times of access and of change of a file, a symbolic link itself included.
func SetTimes(path string, atime, mtime time.Time) error {
	spec := func(t time.Time) unix.Timespec { return unix.NsecToTimespec(t.UnixNano()) }
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{spec(atime), spec(mtime)}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &os.PathError{Op: "utimensat", Path: path, Err: err}
	}
	return nil
}

// SetMode sets the permissions of a file that is no symbolic link, set-user-id and the like included.
func SetMode(path string, mode uint32) error {
	if err := unix.Chmod(path, mode&^unix.S_IFMT); err != nil {
		return &os.PathError{Op: "chmod", Path: path, Err: err}
	}
	return nil
}

// Mknod makes a special file of the type, permissions and device of another.
func Mknod(path string, i Inode) error {
	if err := unix.Mknod(path, i.Mode, int(i.Rdev)); err != nil {
		return &os.PathError{Op: "mknod", Path: path, Err: err}
	}
	return nil
}

// DataRange finds the next range of a file that holds data, from off on: fs.ErrNotExist if there is none. Elsewhere there are only zeros.
func DataRange(f *os.File, off int64) (from, to int64, err error) {
	err = control(f, func(fd int) error {
		if from, err = unix.Seek(fd, off, unix.SEEK_DATA); err != nil {
			return err
		}
		to, err = unix.Seek(fd, from, unix.SEEK_HOLE)
		return err
	})
	if errors.Is(err, unix.ENXIO) {
		return 0, 0, os.ErrNotExist
	}
	if err != nil {
		return 0, 0, &os.PathError{Op: "seek", Path: f.Name(), Err: err}
	}
	return from, to, nil
}

// ReadCold asks the kernel to forget the content of a file that is on the disk, so that reading it reads the disk, and that far ahead.
func ReadCold(f *os.File) error {
	return control(f, func(fd int) error {
		return errors.Join(unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED), unix.Fadvise(fd, 0, 0, unix.FADV_SEQUENTIAL))
	})
}

// SyncFilesystem makes everything durable that was written to the file system of f.
func SyncFilesystem(f *os.File) error {
	if err := control(f, unix.Syncfs); err != nil {
		return &os.PathError{Op: "syncfs", Path: f.Name(), Err: err}
	}
	return nil
}
