// SPDX-License-Identifier: Apache-2.0

//go:build voluks_crashpoints

package crashpoint

import (
	"os"
	"syscall"
)

// Hit kills the process with SIGKILL if the environment variable VOLUKS_CRASH_AT names this point. Nothing deferred runs, as in a real crash.
func Hit(point string) {
	if os.Getenv("VOLUKS_CRASH_AT") == point {
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // the signal is on its way
	}
}
