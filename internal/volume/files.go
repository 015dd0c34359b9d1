// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/voluks/voluks/internal/atomicfile"
	"github.com/voluks/voluks/internal/sys"
)

// Files are the small files that a Manager keeps: records, holders, and the directories around them. Every change is atomic, and durable when the
// method returns: a power cut afterwards does not undo it.
type Files interface {
	// Read returns a regular file of at most max bytes. fs.ErrNotExist if there is none.
	Read(path string, max int64) ([]byte, error)
	// Write replaces the file or makes it, with mode 0600.
	Write(path string, data []byte) error
	// Mkdir makes a directory, which may exist already. Its parent must exist.
	Mkdir(path string, mode fs.FileMode) error
	// Rename moves a file or directory. A target that exists is an error, unless it is a file.
	Rename(old, new string) error
	// Remove removes a file or an empty directory. Nothing there is success. What a Write that was killed has left in a directory goes with it.
	Remove(path string) error
	// List returns the names in a directory, sorted; none if the directory does not exist. What a Write that was killed has left is not among them.
	List(dir string) ([]string, error)
}

// OSFiles are Files in the real file system.
type OSFiles struct{}

// Read implements Files.
func (OSFiles) Read(path string, max int64) ([]byte, error) { return atomicfile.Read(path, max) }

// Write implements Files.
func (OSFiles) Write(path string, data []byte) error { return atomicfile.Write(path, data, 0o600) }

// Mkdir implements Files.
func (OSFiles) Mkdir(path string, mode fs.FileMode) error {
	err := os.Mkdir(path, mode)
	if errors.Is(err, fs.ErrExist) {
		info, err := os.Lstat(path)
		if err == nil && !info.IsDir() {
			err = fmt.Errorf("%s exists and is no directory", path)
		}
		return err
	}
	if err != nil {
		return err
	}
	return sys.SyncDir(filepath.Dir(path))
}

// Rename implements Files.
func (OSFiles) Rename(old, new string) error {
	// rename(2) would replace an empty directory without a word.
	if info, err := os.Lstat(new); err == nil && info.IsDir() {
		return &os.PathError{Op: "rename", Path: new, Err: fs.ErrExist}
	}
	if err := os.Rename(old, new); err != nil {
		return err
	}
	err := sys.SyncDir(filepath.Dir(new))
	if filepath.Dir(old) != filepath.Dir(new) {
		err = errors.Join(err, sys.SyncDir(filepath.Dir(old)))
	}
	return err
}

// Remove implements Files.
func (OSFiles) Remove(path string) error {
	err := os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if errors.Is(err, syscall.ENOTEMPTY) && removeTemporary(path) {
		err = os.Remove(path)
	}
	if err != nil {
		return err
	}
	return sys.SyncDir(filepath.Dir(path))
}

// removeTemporary removes what killed writers have left in a directory. It tells whether there was nothing else; if there is, it removes nothing.
func removeTemporary(dir string) bool {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false
	}
	for _, e := range entries {
		if !temporary(e) {
			return false
		}
	}
	for _, e := range entries {
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
			return false
		}
	}
	return true
}

func temporary(e os.DirEntry) bool { return e.Type().IsRegular() && atomicfile.IsTemporary(e.Name()) }

// List implements Files.
func (OSFiles) List(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		if !temporary(e) {
			names = append(names, e.Name())
		}
	}
	return names, err
}
