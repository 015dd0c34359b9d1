// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Inode is what a file is apart from its content and its extended attributes. Its JSON form is what manifests hold.
type Inode struct {
	Dev       uint64    `json:"dev"`            // of its file system, as stat(2) has it
	Ino       uint64    `json:"ino"`            // its number there
	Nlink     uint64    `json:"nlink"`          // how many names it has
	Mode      uint32    `json:"mode"`           // type and permissions, as stat(2) has them
	UID       int       `json:"uid"`            // of its owner
	GID       int       `json:"gid"`            // of its group
	Rdev      uint64    `json:"rdev,omitempty"` // of a device: which one
	Size      int64     `json:"size"`           // bytes
	Allocated int64     `json:"-"`              // bytes
	Atime     time.Time `json:"-"`              // of the last access
	Mtime     time.Time `json:"mtime"`          // of the last change of its content
	Ctime     time.Time `json:"ctime"`          // of the last change of anything, as the kernel has it; nobody can set it
	Btime     time.Time `json:"btime,omitzero"` // when it was made; zero where the file system does not know
	Mount     uint64    `json:"-"`              // which mount it was seen through
	MountRoot bool      `json:"-"`              // it is the root of that mount
}

// Types of files, as Inode.Type gives them.
const (
	TypeRegular = unix.S_IFREG
	TypeDir     = unix.S_IFDIR
	TypeLink    = unix.S_IFLNK
	TypeSocket  = unix.S_IFSOCK
)

// Type is the type of the file: one of S_IFREG and so on.
func (i Inode) Type() uint32 { return i.Mode & unix.S_IFMT }

// Same tells whether two looks at one file system saw the same file, whatever has become of it: numbers are used again, times of birth are not.
func (i Inode) Same(other Inode) bool {
	return i.Ino == other.Ino && i.Type() == other.Type() && i.Btime.Equal(other.Btime)
}

// statxOf looks at the file of a descriptor, or at a path below it, as stat(2) does.
func statxOf(fd int, path string) (Inode, error) {
	var st unix.Statx_t
	const want = unix.STATX_BASIC_STATS | unix.STATX_BTIME | unix.STATX_MNT_ID
	err := retry(func() error {
		return unix.Statx(fd, path, unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT|unix.AT_STATX_SYNC_AS_STAT, want, &st)
	})
	if err != nil {
		return Inode{}, err
	}
	at := func(t unix.StatxTimestamp) time.Time { return time.Unix(t.Sec, int64(t.Nsec)).UTC() }
	i := Inode{
		Dev: unix.Mkdev(st.Dev_major, st.Dev_minor), Ino: st.Ino, Nlink: uint64(st.Nlink), Mode: uint32(st.Mode), UID: int(st.Uid), GID: int(st.Gid),
		Rdev: unix.Mkdev(st.Rdev_major, st.Rdev_minor), Size: int64(st.Size), Allocated: 512 * int64(st.Blocks),
		Atime: at(st.Atime), Mtime: at(st.Mtime), Ctime: at(st.Ctime), Mount: st.Mnt_id, MountRoot: st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0,
	}
	if st.Mask&unix.STATX_BTIME != 0 {
		i.Btime = at(st.Btime)
	}
	if st.Mask&unix.STATX_MNT_ID == 0 {
		return i, errors.New("the kernel does not tell mounts apart (statx without STATX_MNT_ID): Linux 5.8 does")
	}
	return i, nil
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

// ReadCold makes reading of an open file, whose content is on the disk, read the disk: past the page cache where that can be (true; offsets, lengths and
// memory then have to be multiples of 4096, or are EINVAL), else after the kernel was asked to forget it.
func ReadCold(f *os.File) (direct bool, err error) {
	err = control(f, func(fd int) error {
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
		if err != nil {
			return err
		}
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFL, flags|unix.O_DIRECT); err == nil {
			direct = true
			return nil
		}
		return forget(fd)
	})
	return direct, err
}

// ReadForgotten is ReadCold without the way past the page cache.
func ReadForgotten(f *os.File) error {
	return control(f, func(fd int) error {
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
		if err == nil {
			_, err = unix.FcntlInt(uintptr(fd), unix.F_SETFL, flags&^unix.O_DIRECT)
		}
		return errors.Join(err, forget(fd))
	})
}

func forget(fd int) error {
	return errors.Join(unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED), unix.Fadvise(fd, 0, 0, unix.FADV_SEQUENTIAL))
}
