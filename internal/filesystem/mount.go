// SPDX-License-Identifier: Apache-2.0

package filesystem

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/voluks/voluks/internal/sys"
)

// Mount mounts the file system on dev at the directory target, an absolute path. Before, it looks whether dev carries a file system of that type and, if
// s.UUID is set, of that UUID (*MismatchError); nothing may be mounted at target yet (ErrMounted). Mounted with nosuid and nodev unless s.Mount says
// suid or dev, and ext4 turns read-only on errors. It never makes or repairs anything, except that the file system replays its own journal.
//
// mount(2) cannot be interrupted: ctx counts before it begins.
func Mount(ctx context.Context, dev, target string, s Spec) error {
	if err := mount(ctx, dev, target, s); err != nil {
		return fmt.Errorf("mount %s: %w", s.Type, err)
	}
	return nil
}

func mount(ctx context.Context, dev, target string, s Spec) error {
	// Checked again: the Spec may come from a file.
	if _, err := ParseMount(s.Type, strings.Join(s.Mount, ",")); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	// A second mount on top would hide the first.
	on, err := mountedAt(target)
	if err != nil {
		return err
	}
	if on {
		return fmt.Errorf("%s: %w", target, ErrMounted)
	}
	if err := checkDevice(dev, s.Type, s.UUID); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	flags, data := mountArgs(s)
	return sys.Mount(dev, target, string(s.Type), flags, data)
}

// mountedAt tells whether anything is mounted exactly at path.
func mountedAt(path string) (bool, error) {
	if !filepath.IsAbs(path) {
		return false, fmt.Errorf("mountpoint %q: must be an absolute path", path)
	}
	// The table has no links in it. The last element may not be one: Unmount does not follow it.
	dir, err := filepath.EvalSymlinks(filepath.Dir(path))
	if err != nil {
		return false, err
	}
	path = filepath.Join(dir, filepath.Base(path))
	table, err := sys.MountInfoOf("self")
	if err != nil {
		return false, err
	}
	for _, m := range table {
		if m.Mountpoint == path {
			return true, nil
		}
	}
	return false, nil
}

// BusyError means that processes use a file system. It wraps ErrBusy.
type BusyError struct {
	Target string        // the mountpoint
	Users  []sys.Process // those that were found; there may be others
	Err    error         // what the kernel said
}

// Error implements error.
func (e *BusyError) Error() string {
	s := e.Err.Error()
	for n, u := range e.Users {
		if n == 5 {
			return fmt.Sprintf("%s and %d more", s, len(e.Users)-n)
		}
		if n == 0 {
			s += ": used by "
		} else {
			s += ", "
		}
		s += u.String()
	}
	return s
}

// Unwrap returns the cause, which wraps ErrBusy.
func (e *BusyError) Unwrap() error { return e.Err }

// busyPatience is how long Unmount waits for a user to leave: somebody who just looks, such as a program that measures free space.
const busyPatience = 500 * time.Millisecond

// Unmount unmounts what is at target, never lazily: while somebody uses the file system it stays mounted, and after a short wait the error is a *BusyError
// that names the processes. If nothing is mounted there the error wraps sys.ErrNotExist. All that was written is on the device when it returns nil,
// unless the same file system is mounted elsewhere too.
//
// umount(2) cannot be interrupted while it writes: ctx counts between attempts.
func Unmount(ctx context.Context, target string) error {
	if ctx.Err() != nil {
		return fmt.Errorf("unmount %s: %w", target, context.Cause(ctx))
	}
	wait, cancel := context.WithTimeout(ctx, busyPatience)
	defer cancel()
	for {
		err := sys.Unmount(target)
		if !errors.Is(err, sys.ErrBusy) {
			return err
		}
		select {
		case <-wait.Done():
			return &BusyError{Target: target, Users: sys.ProcessesUsing(target), Err: err}
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Usage is how full a file system is, in bytes.
type Usage struct {
	Size  int64 // bytes
	Used  int64 // bytes
	Avail int64 // for users other than root
}

// UsageOf asks the mounted file system that holds path.
func UsageOf(path string) (Usage, error) {
	st, err := sys.Statfs(path)
	if err != nil {
		return Usage{}, fmt.Errorf("usage of file system: %w", err)
	}
	return Usage{Size: st.Size, Used: st.Size - st.Free, Avail: st.Avail}, nil
}
