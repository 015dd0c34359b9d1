// SPDX-License-Identifier: Apache-2.0

// Package atomicfile writes state so that after a crash either the old or the new content is there, whole, and reads it without trusting it.
package atomicfile

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/renameio/v2"

	"github.com/voluks/voluks/internal/sys"
)

var (
	// ErrNotRegular means that the path is a link, directory, device or anything else but a regular file.
	ErrNotRegular = sys.ErrNotRegular
	// ErrTooLarge means that a file is longer than its reader allows.
	ErrTooLarge = errors.New("file is too large")
)

// Write replaces the file at path by data, with exactly that mode. When it returns nil the content and the name are durable. When it fails before the
// rename the old file is untouched; if only the last step, the sync of the directory, fails, the new content is in place but may not survive a
// power cut. Something at path that is not a regular file is refused with ErrNotRegular: a link would be replaced where its target was meant.
func Write(path string, data []byte, mode os.FileMode) error {
	if st, err := os.Lstat(path); err == nil && !st.Mode().IsRegular() {
		return fmt.Errorf("write %s: %w", path, ErrNotRegular)
	} else if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("write %s: %w", path, err)
	}
	t, err := pending(path, data, mode)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer t.Cleanup() //nolint:errcheck // does nothing after the rename; before it the first error counts
	// This one syncs the file, but not the directory.
	if err := t.CloseAtomicallyReplace(); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := sys.SyncDir(filepath.Dir(path)); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// Create is Write for a file that is not there yet. Whatever is at path stays as it is, and the error wraps fs.ErrExist. A crash leaves nothing at path
// or the whole content, and perhaps a temporary file beside it.
func Create(path string, data []byte, mode os.FileMode) error {
	t, err := pending(path, data, mode)
	if err != nil {
		return fmt.Errorf("create %s: %w", path, err)
	}
	if err = t.Sync(); err == nil {
		err = os.Link(t.Name(), path) // unlike a rename, it never replaces
	}
	if cleaned := t.Cleanup(); err == nil {
		err = cleaned
	}
	if err == nil {
		err = sys.SyncDir(filepath.Dir(path))
	}
	if err != nil {
		return fmt.Errorf("create %s: %w", path, err)
	}
	return nil
}

// pending writes data to a temporary file, which must lie in the same directory: a rename or link across file systems is not one.
func pending(path string, data []byte, mode os.FileMode) (*renameio.PendingFile, error) {
	t, err := renameio.NewPendingFile(path, renameio.WithTempDir(filepath.Dir(path)), renameio.WithStaticPermissions(mode))
	if err != nil {
		return nil, err
	}
	if _, err := t.Write(data); err != nil {
		_ = t.Cleanup()
		return nil, err
	}
	return t, nil
}

// IsTemporary tells whether a file of that name, without its directory, is what a Write or Create that was killed has left beside its target: a dot, the target's
// name and a random number. So no file that is written with this package should be named like that.
func IsTemporary(name string) bool {
	target := strings.TrimRight(name, "0123456789")
	return len(target) < len(name) && len(target) > 1 && target[0] == '.'
}

// Remove removes the file at path, durably, and what calls of Write or Create for it that were killed have left beside it: content has a second name there. A
// file that is not there is success.
func Remove(path string) error {
	dir, base := filepath.Split(path)
	entries, err := os.ReadDir(filepath.Clean(dir))
	if err != nil {
		return fmt.Errorf("remove %s: %w", path, err)
	}
	for _, e := range entries {
		if e.Name() != base && !(strings.HasPrefix(e.Name(), "."+base) && IsTemporary(e.Name())) {
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove %s: %w", path, err)
		}
	}
	return sys.SyncDir(filepath.Clean(dir))
}

// Read returns the whole content of the regular file at path. The last element of path may not be a link (ErrNotRegular); more than limit bytes are
// ErrTooLarge, and no more than that is ever read.
func Read(path string, limit int64) ([]byte, error) {
	f, err := sys.OpenRegular(path, false)
	if err != nil {
		return nil, fmt.Errorf("read state: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read state: %w", err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("read %s: more than %d bytes: %w", path, limit, ErrTooLarge)
	}
	return data, nil
}
