// SPDX-License-Identifier: Apache-2.0

package headerbackup

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/voluks/voluks/internal/sys"
)

// File systems that write a file's new bytes where the old ones were, by their magic numbers (statfs(2)). ext4 does so unless it journals data, which is rare
// and cannot be seen from here.
var inPlace = map[int64]bool{
	0xef53:     true, // ext2, ext3, ext4
	0x58465342: true, // xfs
	0x01021994: true, // tmpfs
}

// destroy overwrites a file with random bytes and removes it, each durably, and says what that means. A file that is not there is AlreadyGone.
func destroy(path string) (how string, err error) {
	f, err := sys.OpenRegular(path, true)
	if errors.Is(err, fs.ErrNotExist) {
		return AlreadyGone, nil
	}
	if err != nil {
		return "", fmt.Errorf("destroy a header backup: %w", err)
	}
	defer f.Close()
	how = LogicalOnly
	if st, err := sys.Statfs(path); err == nil && inPlace[st.Type] {
		how = OverwrittenInPlace
	}
	if err := overwrite(f); err != nil {
		return "", fmt.Errorf("destroy the header backup %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil {
		return "", fmt.Errorf("destroy a header backup: %w", err)
	}
	if err := sys.SyncDir(filepath.Dir(path)); err != nil {
		return "", fmt.Errorf("destroy the header backup %s: %w", path, err)
	}
	return how, nil
}

func overwrite(f *os.File) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if _, err := io.CopyN(f, rand.Reader, st.Size()); err != nil {
		return err
	}
	return f.Sync()
}
