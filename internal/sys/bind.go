// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"bytes"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// OpenDir opens a directory in order to name it, not to read it. The mount that it lies on cannot be unmounted while it is open. The last element of
// path may not be a link.
func OpenDir(path string) (*os.File, error) {
	return open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
}

// MountID is the id of the mount that f was opened on, as in MountInfo.ID. While f is open no other mount gets that id.
func MountID(f *os.File) (int, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", f.Fd()))
	if err != nil {
		return 0, fmt.Errorf("mount of %s: %w", f.Name(), err)
	}
	for line := range bytes.Lines(b) {
		if value, ok := bytes.CutPrefix(line, []byte("mnt_id:")); ok {
			return strconv.Atoi(string(bytes.TrimSpace(value)))
		}
	}
	return 0, fmt.Errorf("mount of %s: the kernel does not say", f.Name())
}

// BindDir mounts the directory that dir has open, whatever its path leads to by now, at target.
func BindDir(dir *os.File, target string) error {
	return Mount(fmt.Sprintf("/proc/self/fd/%d", dir.Fd()), target, "", MountBind, "")
}
