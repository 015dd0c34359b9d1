// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// Conditions that callers act on. Each is wrapped, with what was being done, by the functions that say so.
var (
	// ErrNoDeviceMapper means that the kernel has no device-mapper, or that its control node is not there.
	ErrNoDeviceMapper = errors.New("the kernel has no device-mapper here (/dev/mapper/control): load the module dm_mod, or share /dev with the container")
	// ErrNoLoop means that the kernel has no loop devices, or that their control node is not there.
	ErrNoLoop = errors.New("the kernel has no loop devices here (/dev/loop-control): load the module loop, or share /dev with the container")
	// ErrNotExist is os.ErrNotExist: the thing asked for is positively not there.
	ErrNotExist = os.ErrNotExist
	// ErrBusy means that somebody uses the thing, so that it stays.
	ErrBusy = errors.New("in use")
	// ErrUnknown means that a look-up could not be completed: the answer is neither yes nor no, and nothing may be cleaned up on it.
	ErrUnknown = errors.New("cannot tell")
)

// isGone tells whether err says that a process or entry vanished between two looks.
func isGone(err error) bool { return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) }
