// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"os"

	"golang.org/x/sys/unix"
)

// Magic numbers of file systems as FSStat.Type has them (statfs(2)).
const (
	MagicBtrfs   = unix.BTRFS_SUPER_MAGIC
	MagicExt     = unix.EXT4_SUPER_MAGIC
	MagicXFS     = unix.XFS_SUPER_MAGIC
	MagicTmpfs   = unix.TMPFS_MAGIC
	MagicOverlay = unix.OVERLAYFS_SUPER_MAGIC
)

// FSStat is what a file system says of its space: bytes, except Files and FilesFree (inodes; 0 where there is no fixed number).
type FSStat struct {
	Size      int64 // total
	Free      int64 // free, including what is reserved for root
	Avail     int64 // free for users
	Files     int64 // inodes
	FilesFree int64 // inodes
	BlockSize int64 // bytes
	Type      int64 // magic number
}

// Statfs asks the file system that holds path.
func Statfs(path string) (FSStat, error) {
	var s unix.Statfs_t
	if err := retry(func() error { return unix.Statfs(path, &s) }); err != nil {
		return FSStat{}, &os.PathError{Op: "statfs", Path: path, Err: err}
	}
	// Block counts are in fragments (statfs(2)), which Linux file systems set to the block size or leave 0.
	unit := int64(s.Frsize)
	if unit == 0 {
		unit = int64(s.Bsize)
	}
	return FSStat{
		Size: int64(s.Blocks) * unit, Free: int64(s.Bfree) * unit, Avail: int64(s.Bavail) * unit,
		Files: int64(s.Files), FilesFree: int64(s.Ffree), BlockSize: int64(s.Bsize), Type: int64(uint32(s.Type)),
	}, nil
}
