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

	"github.com/voluks/voluks/internal/backing"
	"github.com/voluks/voluks/internal/sys"
)

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
	how = OverwrittenInPlace
	if len(backing.BesideFile(f)) > 0 {
		how = LogicalOnly
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
