// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"syscall"
	"time"
)

// turnTime is how long the next volume of a lane waits for one that is slow, as after a power cut or when its device does not answer.
const turnTime = 2 * time.Second

// turn is the lock that flock(1) hands down to this process in the unit of volumes: there each waits for its turn before this program starts, since what
// waits must not take memory. Closing it lets the next one start; it is closed anyway when the process ends or turnTime is over. Without a lock closing it
// does nothing. F42
func (e *env) turn() *os.File {
	path := e.paths().Lane(os.Getenv("VOLUKS_BOOT_LANE"))
	for fd := 3; fd < 10; fd++ {
		if target, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd)); err == nil && target == path {
			syscall.CloseOnExec(fd) // not for mkfs and the like, which may outlive this
			f := os.NewFile(uintptr(fd), path)
			time.AfterFunc(turnTime, func() { f.Close() })
			return f
		}
	}
	return nil
}
