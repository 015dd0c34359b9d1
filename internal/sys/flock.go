// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// ErrLocked means that another open file description holds the lock.
var ErrLocked = errors.New("locked by another user")

// TryLock takes an exclusive flock(2) on f without waiting; ErrLocked if it is taken. The lock belongs to the open file description: it is shared
// with children and loop devices that got the descriptor, and ends when the last of them has closed it. Nobody must unlock it explicitly, since
// that would end it for all of them.
func TryLock(f *os.File) error {
	err := control(f, func(fd int) error {
		return retry(func() error { return unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) })
	})
	if errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("lock %s: %w", f.Name(), ErrLocked)
	}
	if err != nil {
		return fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return nil
}

// LockWait is TryLock until it succeeds or ctx ends; then the error wraps both ErrLocked and the context's error. It polls, since a thread that
// waits in flock(2) cannot be cancelled; the pauses grow from 1 to 50 ms.
func LockWait(ctx context.Context, f *os.File) error {
	pause := time.Millisecond
	for {
		err := TryLock(f)
		if !errors.Is(err, ErrLocked) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", err, context.Cause(ctx))
		case <-time.After(pause):
		}
		pause = min(2*pause, 50*time.Millisecond)
	}
}
