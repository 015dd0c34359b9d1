// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// onOwnThread runs fn on a thread that ends with it, whatever fn does to the thread's namespaces.
func onOwnThread(fn func()) {
	done := make(chan struct{})
	var start func()
	start = func() {
		// Never unlocked after fn: the runtime ends the thread with the goroutine, and starts no other thread from it.
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The first thread cannot end, and /proc/PID shows what it sees. While this goroutine sits on it, the next one gets another.
			go start()
			<-done
			runtime.UnlockOSThread()
			return
		}
		fn()
		close(done)
	}
	go start()
	<-done
}

// WithHidden runs start, which starts a child, on a thread with a mount namespace of its own in which the files and directories at hide are empty; the
// child keeps that namespace. It is for programs that look at every block device of the machine, and would wait for ever for one that is suspended. Needs
// CAP_SYS_ADMIN.
//
// The namespace must not keep other volumes busy, so it leaves all mounts of devices out but those that the system itself lies on.
func WithHidden(hide []string, start func() error) error {
	var err error
	onOwnThread(func() {
		if err = hideHere(hide); err == nil {
			err = start()
		}
	})
	return err
}

func hideHere(hide []string) error {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("enter a mount namespace: %w", err)
	}
	// What is unmounted outside goes here too, and nothing that happens here shows outside.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("separate mount namespace: %w", err)
	}
	mounts, err := MountInfoOf("thread-self")
	if err != nil {
		return err
	}
	for _, m := range mounts {
		if strings.HasPrefix(m.Source, "/dev/") && !slices.Contains(systemDirs, m.Mountpoint) {
			// Best effort: one that is below another is gone already, and one that stays does little harm.
			_ = unix.Unmount(m.Mountpoint, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		}
	}
	for _, path := range hide {
		if err := cover(path); err != nil {
			return fmt.Errorf("hide %s: %w", path, err)
		}
	}
	return nil
}

// cover mounts something empty over path, if that exists.
func cover(path string) error {
	st, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case st.IsDir():
		return unix.Mount("none", path, "tmpfs", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "size=4k")
	}
	return unix.Mount("/dev/null", path, "", unix.MS_BIND, "")
}

// systemDirs are where programs, their libraries and their settings may have a file system of their own.
var systemDirs = []string{"/", "/usr", "/usr/local", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc", "/nix", "/nix/store", "/gnu", "/gnu/store", "/dev", "/proc", "/sys", "/run"}
