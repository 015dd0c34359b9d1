// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrOtherMount: something else is mounted there.
var ErrOtherMount = errors.New("something else is mounted there")

// Entry is a file or directory that is held by a descriptor of the path kind: what the name of it leads to later does not matter any more. Everything is
// looked up beneath one, without following any symbolic link, and without going into another mount. So whoever may write to a tree cannot make its reader or
// writer leave it.
type Entry struct {
	Inode Inode // when it was opened, or last looked at
	fd    int
	file  *os.File // of fd, once it is open; until then that is only good for holding
	name  string   // for messages
}

// OpenEntry holds what is at a path. The last element is not followed.
func OpenEntry(path string) (*Entry, error) {
	var fd int
	err := retry(func() (err error) {
		fd, err = unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return newEntry(fd, path)
}

func newEntry(fd int, name string) (*Entry, error) {
	e := &Entry{fd: fd, name: name}
	if err := e.Look(); err != nil {
		e.Close()
		return nil, err
	}
	return e, nil
}

// Close lets go of it.
func (e *Entry) Close() error {
	if e.file != nil {
		return e.file.Close()
	}
	return unix.Close(e.fd)
}

// Name is how it was opened, for messages.
func (e *Entry) Name() string { return e.name }

// Look brings Inode up to date.
func (e *Entry) Look() (err error) {
	e.Inode, err = statxOf(e.fd, "")
	return e.failed("stat", "", err)
}

// Child holds what lies beneath a directory; more than one element is possible, "" is the directory itself. fs.ErrNotExist; ErrOtherMount.
func (e *Entry) Child(path string) (*Entry, error) {
	fd, err := e.beneath(path, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, e.failed("open", path, err)
	}
	return newEntry(fd, e.join(path))
}

func (e *Entry) beneath(path string, flags, mode uint64) (fd int, err error) {
	how := unix.OpenHow{
		Flags: flags | unix.O_CLOEXEC, Mode: mode,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	}
	if path == "" {
		path = "."
	}
	for {
		fd, err = unix.Openat2(e.fd, path, &how)
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN): // something was renamed at that moment
			continue
		case errors.Is(err, unix.EXDEV):
			err = fmt.Errorf("%w: %w", err, ErrOtherMount)
		}
		return fd, err
	}
}

func (e *Entry) join(path string) string {
	if path == "" {
		return e.name
	}
	return strings.TrimSuffix(e.name, "/") + "/" + path
}

func (e *Entry) failed(op, path string, err error) error {
	if err == nil {
		return nil
	}
	return &os.PathError{Op: op, Path: e.join(path), Err: err}
}

// self is a path of this very file: the kernel goes from there to what is held, and follows nothing after that.
func (e *Entry) self() string { return fmt.Sprintf("/proc/self/fd/%d", e.fd) }

// Open opens a regular file or a directory for reading; ErrNotRegular for anything else, which opening might wait for or set off. What is returned belongs to
// the entry, which closes it.
func (e *Entry) Open() (*os.File, error) {
	if e.file != nil {
		return e.file, nil
	}
	if t := e.Inode.Type(); t != TypeRegular && t != TypeDir {
		return nil, e.failed("open", "", ErrNotRegular)
	}
	fd := -1
	err := retry(func() (err error) {
		fd, err = unix.Open(e.self(), unix.O_RDONLY|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, e.failed("open", "", err)
	}
	unix.Close(e.fd)
	e.fd, e.file = fd, os.NewFile(uintptr(fd), e.name)
	return e.file, nil
}

// Names lists a directory.
func (e *Entry) Names() ([]string, error) {
	if e.Inode.Type() != TypeDir {
		return nil, e.failed("list", "", unix.ENOTDIR)
	}
	f, err := e.Open()
	if err != nil {
		return nil, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	return f.Readdirnames(-1)
}

// Create makes a regular file that was not there, open for writing.
func (e *Entry) Create(name string) (*Entry, *os.File, error) {
	fd, err := e.beneath(name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, nil, e.failed("create", name, err)
	}
	f := os.NewFile(uintptr(fd), e.join(name))
	made := &Entry{fd: fd, file: f, name: f.Name()}
	if err := made.Look(); err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return made, f, nil
}

// Mkdir makes a directory for root alone.
func (e *Entry) Mkdir(name string) error {
	return e.failed("mkdir", name, e.single(name, func() error { return unix.Mkdirat(e.fd, name, 0o700) }))
}

// Mknod makes a special file of the type, permissions and device of another.
func (e *Entry) Mknod(name string, i Inode) error {
	return e.failed("mknod", name, e.single(name, func() error { return unix.Mknodat(e.fd, name, i.Mode, int(i.Rdev)) }))
}

// Symlink makes a symbolic link.
func (e *Entry) Symlink(target, name string) error {
	return e.failed("symlink", name, e.single(name, func() error { return unix.Symlinkat(target, e.fd, name) }))
}

// Link gives a file of another directory one more name here.
func (e *Entry) Link(dir *Entry, old, name string) error {
	return e.failed("link", name, e.single(old, func() error {
		return e.single(name, func() error { return unix.Linkat(dir.fd, old, e.fd, name, 0) })
	}))
}

// Unlink removes a name; of a directory only if it is empty.
func (e *Entry) Unlink(name string, dir bool) error {
	flags := 0
	if dir {
		flags = unix.AT_REMOVEDIR
	}
	return e.failed("remove", name, e.single(name, func() error { return unix.Unlinkat(e.fd, name, flags) }))
}

// RenameTo moves a name into a directory of the same file system, under a name that nobody has there: fs.ErrExist.
func (e *Entry) RenameTo(name string, to *Entry, newName string) error {
	return e.failed("rename", name, e.single(name, func() error {
		return e.single(newName, func() error { return unix.Renameat2(e.fd, name, to.fd, newName, unix.RENAME_NOREPLACE) })
	}))
}

// single keeps names from being paths, which the calls that have no resolve flags would walk.
func (e *Entry) single(name string, call func() error) error {
	if name == "" || name == "." || name == ".." || strings.Contains(name, "/") {
		return unix.EINVAL
	}
	return retry(call)
}

// Sync makes the names in a directory durable.
func (e *Entry) Sync() error {
	f, err := e.Open()
	if err != nil {
		return err
	}
	return f.Sync()
}

// SyncFilesystem makes everything durable that was written to its file system.
func (e *Entry) SyncFilesystem() error {
	f, err := e.Open()
	if err != nil {
		return err
	}
	return e.failed("syncfs", "", control(f, unix.Syncfs))
}

// Filesystem names the file system that it is on, as statfs(2) does: where that has a UUID (ext4, btrfs) by it, else by what it is on.
func (e *Entry) Filesystem() (string, error) {
	var st unix.Statfs_t
	if err := retry(func() error { return unix.Fstatfs(e.fd, &st) }); err != nil {
		return "", e.failed("statfs", "", err)
	}
	return fmt.Sprintf("%x-%08x%08x", st.Type, uint32(st.Fsid.Val[0]), uint32(st.Fsid.Val[1])), nil
}

// Readlink reads a symbolic link.
func (e *Entry) Readlink() (string, error) {
	b, err := grow(func(b []byte) (int, error) {
		n, err := unix.Readlinkat(e.fd, "", b)
		if n == len(b) {
			err = unix.ERANGE
		}
		return n, err
	})
	return string(b), e.failed("readlink", "", err)
}

// SetOwner sets owner and group.
func (e *Entry) SetOwner(uid, gid int) error {
	return e.failed("chown", "", unix.Fchownat(e.fd, "", uid, gid, unix.AT_EMPTY_PATH))
}

// SetMode sets the permissions of what is no symbolic link, set-user-id and the like included.
func (e *Entry) SetMode(mode uint32) error {
	if e.Inode.Type() == TypeLink {
		return e.failed("chmod", "", unix.EOPNOTSUPP)
	}
	if e.file != nil {
		return e.failed("chmod", "", unix.Fchmod(e.fd, mode&^unix.S_IFMT))
	}
	return e.failed("chmod", "", unix.Chmod(e.self(), mode&^unix.S_IFMT))
}

// SetTimes sets the times of access and of change.
func (e *Entry) SetTimes(i Inode) error {
	times := []unix.Timespec{unix.NsecToTimespec(i.Atime.UnixNano()), unix.NsecToTimespec(i.Mtime.UnixNano())}
	return e.failed("utimensat", "", unix.UtimesNanoAt(e.fd, "", times, unix.AT_EMPTY_PATH))
}
