// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"fmt"
	"os"
	"strconv"
	"strings"

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

// EndFirst makes the kernel, where memory runs out, end this process and its children before those that it was started by. Without root it
// goes before Harden.
func EndFirst() error {
	const path, more, most = "/proc/self/oom_score_adj", 300, 1000
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read the score of this process: %w", err)
	}
	score, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err == nil {
		err = os.WriteFile(path, strconv.AppendInt(nil, int64(min(score+more, most)), 10), 0)
	}
	if err != nil {
		return fmt.Errorf("raise the score of this process: %w", err)
	}
	return nil
}
