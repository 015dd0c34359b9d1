// SPDX-License-Identifier: Apache-2.0

package copytree

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/voluks/voluks/internal/sys"
)

// Size is what a tree takes.
type Size struct {
	Files     int   // of any kind, names of one file each counted
	Bytes     int64 // of content, holes included
	Allocated int64 // bytes on the disk

	inodes map[[2]uint64]bool
}

// Users are processes that have something of the tree open or mounted; dir is where it is now. An error wraps sys.ErrUnknown.
func (s Size) Users(dir string) ([]sys.Process, error) {
	users := sys.ProcessesOpening(func(dev, ino uint64) bool { return s.inodes[[2]uint64{dev, ino}] })
	mounting, err := sys.ProcessesMounting(dir)
	return append(users, mounting...), err
}

// Measure looks at all of a tree, dir, an absolute path without symbolic links. Hard links count once; what vanishes meanwhile does not count.
func Measure(ctx context.Context, dir string) (Size, error) {
	s := Size{inodes: map[[2]uint64]bool{}}
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && path != dir {
			return nil // it is in use
		}
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		i, err := sys.Lstat(path)
		if errors.Is(err, fs.ErrNotExist) && path != dir {
			return nil
		}
		if err != nil {
			return err
		}
		s.Files++
		id := [2]uint64{i.Dev, i.Ino}
		if s.inodes[id] {
			return nil
		}
		s.inodes[id] = true
		if i.Type() == sys.TypeRegular {
			s.Bytes += i.Size
		}
		s.Allocated += i.Allocated
		return nil
	})
	return s, err
}

// ChangedAfter finds something in dir, but not dir itself, of which content, properties or name have changed after t; empty if there is none.
func ChangedAfter(ctx context.Context, dir string, t time.Time) (path string, err error) {
	err = filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil || p == dir {
			return err
		}
		i, err := sys.Lstat(p)
		if err == nil && i.Ctime.After(t) {
			path = p
			return filepath.SkipAll
		}
		return err
	})
	return path, err
}
