// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Harden makes sure that neither this process nor a child ever writes a core dump, and that no other process without CAP_SYS_PTRACE can read this
// one's memory. The limit is inherited by children; the dumpable attribute is not (execve resets it), so a child that is voluks calls Harden again.
// With dumpable off, the files of /proc/self belong to root.
func Harden() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbid core dumps: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("make process undumpable: %w", err)
	}
	return nil
}
