// SPDX-License-Identifier: Apache-2.0

package filesystem

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/voluks/voluks/internal/sys"
)

// DataDir is the directory inside of a file system that users of the volume get. The root of the file system is not for them: it has lost+found, which
// some programs take for content, and an unmounted volume has no such directory at all.
const DataDir = "data"

// MakeData makes the directory DataDir in the file system mounted at mnt, with owner and mode (permission bits, setuid, setgid, sticky), durably. If it is
// there already it gets that owner and mode, so it is called while the volume is made and never later, when users may have changed them. Without a
// mount at mnt it does nothing and fails: that would be a plaintext directory.
func MakeData(mnt string, uid, gid int, mode os.FileMode) error {
	if err := makeData(mnt, uid, gid, mode); err != nil {
		return fmt.Errorf("make data directory: %w", err)
	}
	return nil
}

func makeData(mnt string, uid, gid int, mode os.FileMode) error {
	on, err := mountedAt(mnt)
	if err != nil {
		return err
	}
	if !on {
		return fmt.Errorf("%s: nothing is mounted there", mnt)
	}
	// Through a Root nothing that lies in the file system, such as a link, leads out of it.
	root, err := os.OpenRoot(mnt)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := root.Mkdir(DataDir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	d, err := root.OpenFile(DataDir, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Chown(uid, gid); err != nil {
		return err
	}
	// After chown, which takes setuid and setgid away; and the umask has no say here.
	if err := d.Chmod(mode); err != nil {
		return err
	}
	if err := d.Sync(); err != nil {
		return err
	}
	return sys.SyncDir(mnt)
}

// MakeBare makes the directory mnt on which a volume is to be mounted, or finds it, and makes it useless while nothing is mounted: no permissions, and
// immutable. It returns whether it is immutable, which holds for root too; file systems without that attribute and processes without
// CAP_LINUX_IMMUTABLE leave it at the permissions, which root does not feel: say it loudly then. A directory with something in it is an error, since
// that was written in plaintext; so is a mount on it (ErrMounted).
func MakeBare(mnt string) (immutable bool, err error) {
	if immutable, err = makeBare(mnt); err != nil {
		return false, fmt.Errorf("make mountpoint: %w", err)
	}
	return immutable, nil
}

func makeBare(mnt string) (bool, error) {
	if on, err := mountedAt(mnt); err != nil {
		return false, err
	} else if on {
		return false, fmt.Errorf("%s: %w", mnt, ErrMounted)
	}
	if err := os.Mkdir(mnt, 0); err != nil && !errors.Is(err, os.ErrExist) {
		return false, err
	}
	st, err := os.Lstat(mnt)
	if err != nil {
		return false, err
	}
	if !st.IsDir() {
		return false, fmt.Errorf("%s: not a directory", mnt)
	}
	entries, err := os.ReadDir(mnt)
	if err != nil && !errors.Is(err, os.ErrPermission) { // without privileges it cannot be looked into, nor written to
		return false, err
	}
	if len(entries) > 0 {
		return false, fmt.Errorf("%s: there is %q in it, which was written while no volume was mounted: move it away", mnt, entries[0].Name())
	}
	// Not again if it is right: an immutable directory cannot be changed.
	if st.Mode().Perm() != 0 {
		if err := os.Chmod(mnt, 0); err != nil {
			return false, err
		}
	}
	if err := sys.SyncDir(filepath.Dir(mnt)); err != nil {
		return false, err
	}
	err = sys.SetImmutable(mnt, true)
	if errors.Is(err, errors.ErrUnsupported) || errors.Is(err, os.ErrPermission) {
		return false, nil
	}
	return err == nil, err
}

// RemoveBare removes what MakeBare has made, durably; nothing there is no error. A mount on it is ErrMounted and ErrBusy, and anything in it is an error: it
// never removes more than one empty directory.
func RemoveBare(mnt string) error {
	if err := removeBare(mnt); err != nil {
		return fmt.Errorf("remove mountpoint: %w", err)
	}
	return nil
}

func removeBare(mnt string) error {
	st, err := os.Lstat(mnt)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !st.IsDir() {
		return fmt.Errorf("%s: not a directory", mnt)
	}
	if on, err := mountedAt(mnt); err != nil {
		return err
	} else if on {
		return fmt.Errorf("%s: %w: %w", mnt, ErrMounted, ErrBusy)
	}
	// An immutable directory is EPERM, whatever is in it; one that is not immutable is left so if it stays.
	err = rmdir(mnt)
	if errors.Is(err, syscall.EPERM) {
		if err := sys.SetImmutable(mnt, false); err != nil {
			return err
		}
		if err = rmdir(mnt); err != nil {
			err = errors.Join(err, sys.SetImmutable(mnt, true))
		}
	}
	if err != nil {
		return err
	}
	return sys.SyncDir(filepath.Dir(mnt))
}

func rmdir(path string) error {
	if err := syscall.Rmdir(path); err != nil {
		return &os.PathError{Op: "rmdir", Path: path, Err: err}
	}
	return nil
}
