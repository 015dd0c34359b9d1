// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Flags of mount(2).
const (
	MountReadOnly    uintptr = unix.MS_RDONLY
	MountNoSUID      uintptr = unix.MS_NOSUID
	MountNoDev       uintptr = unix.MS_NODEV
	MountNoExec      uintptr = unix.MS_NOEXEC
	MountSync        uintptr = unix.MS_SYNCHRONOUS
	MountDirSync     uintptr = unix.MS_DIRSYNC
	MountNoATime     uintptr = unix.MS_NOATIME
	MountNoDirATime  uintptr = unix.MS_NODIRATIME
	MountRelATime    uintptr = unix.MS_RELATIME
	MountStrictATime uintptr = unix.MS_STRICTATIME
	MountLazyTime    uintptr = unix.MS_LAZYTIME
	MountBind        uintptr = unix.MS_BIND
	MountPrivate     uintptr = unix.MS_PRIVATE
)

// Mount is mount(2). Errors keep the errno.
func Mount(source, target, fstype string, flags uintptr, data string) error {
	err := retry(func() error { return unix.Mount(source, target, fstype, flags, data) })
	if err != nil {
		return fmt.Errorf("mount %s on %s: %w", source, target, err)
	}
	return nil
}

// Unmount takes the topmost mount off target, which must not be a symbolic link. It is never lazy: while anybody uses the file system the mount
// stays and the error wraps ErrBusy. If nothing is mounted there the error wraps ErrNotExist.
func Unmount(target string) error {
	err := retry(func() error { return unix.Unmount(target, unix.UMOUNT_NOFOLLOW) })
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("unmount %s: %w: %w", target, err, ErrBusy)
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("unmount %s: nothing is mounted there: %w", target, ErrNotExist)
	}
	return fmt.Errorf("unmount %s: %w", target, err)
}
