// SPDX-License-Identifier: Apache-2.0

package volumetest

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/voluks/voluks/internal/volume"
)

// files are in the real file system, and each change is a write of the process. What is written is durable here by definition, so nothing is synced.
type files struct {
	*process
	volume.OSFiles
}

func (p files) change(what, path string, f func() error) error {
	unlock, err := p.begin(context.Background())
	if err != nil {
		return err
	}
	defer unlock()
	done, err := p.step("%s %s", what, short(path))
	if err != nil {
		return err
	}
	err = f()
	done()
	return errors.Join(err, p.alive())
}

// A process that is killed by its write leaves the temporary file of it.
func (p files) Write(path string, data []byte) error {
	temporary := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+"1")
	err := p.change("write", path, func() error {
		temp := path + ".new"
		if err := os.WriteFile(temp, data, 0o600); err != nil {
			return err
		}
		return os.Rename(temp, path)
	})
	if errors.Is(err, ErrKilled) {
		_ = os.WriteFile(temporary, data[:len(data)/2], 0o600) // not where there is no directory yet
	}
	return err
}

func (p files) Mkdir(path string, mode fs.FileMode) error {
	if info, err := os.Lstat(path); err == nil && info.IsDir() {
		return nil
	}
	return p.change("mkdir", path, func() error { return os.Mkdir(path, mode) })
}

func (p files) Rename(old, new string) error {
	return p.change("rename to "+short(new), old, func() error {
		if info, err := os.Lstat(new); err == nil && info.IsDir() {
			return &os.PathError{Op: "rename", Path: new, Err: fs.ErrExist}
		}
		return os.Rename(old, new)
	})
}

func (p files) Remove(path string) error {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return p.change("remove", path, func() error { return p.OSFiles.Remove(path) })
}
