// SPDX-License-Identifier: Apache-2.0

package copytree

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/voluks/voluks/internal/sys"
)

// Tree is a directory with all that is in it. It is held by a descriptor, so what its path leads to later does not matter; nothing is followed out of it, and
// nothing that is mounted in it belongs to it.
type Tree struct {
	Root *sys.Entry // the directory
}

// Open holds the tree at a path, whose last element is no symbolic link.
func Open(path string) (*Tree, error) {
	root, err := sys.OpenEntry(path)
	if err != nil {
		return nil, err
	}
	if root.Inode.Type() != sys.TypeDir {
		return nil, errors.Join(fmt.Errorf("%s is no directory", path), root.Close())
	}
	return &Tree{root}, nil
}

// Close lets go of it.
func (t *Tree) Close() error { return t.Root.Close() }

// MountedError is a file system that is mounted inside a tree: it is another tree.
type MountedError struct{ Path string }

// Error implements error.
func (e *MountedError) Error() string {
	return fmt.Sprintf("something else is mounted at %s: unmount it, or migrate it by itself", e.Path)
}

// child holds what lies beneath a directory, if that is of the same file system.
func child(dir *sys.Entry, path string, device uint64) (*sys.Entry, error) {
	e, err := dir.Child(path)
	if errors.Is(err, sys.ErrOtherMount) {
		return nil, &MountedError{filepath.Join(dir.Name(), path)}
	}
	if err == nil && e.Inode.Dev != device {
		return nil, errors.Join(&MountedError{e.Name()}, e.Close())
	}
	return e, err
}

// at holds what lies at a path of the tree; "" is the root.
func (t *Tree) at(path string) (*sys.Entry, error) { return child(t.Root, path, t.Root.Inode.Dev) }

// removeTree removes a name of a directory with all that is beneath it.
func removeTree(ctx context.Context, dir *sys.Entry, name string, device uint64) error {
	e, err := child(dir, name, device)
	if err != nil {
		return err
	}
	defer e.Close()
	isDir := e.Inode.Type() == sys.TypeDir
	if isDir {
		names, err := e.Names()
		if err != nil {
			return err
		}
		for _, name := range names {
			if err := ctx.Err(); err != nil {
				return context.Cause(ctx)
			}
			if err := removeTree(ctx, e, name, device); err != nil {
				return err
			}
		}
	}
	return dir.Unlink(name, isDir)
}

// Size is what a tree takes.
type Size struct {
	Files     int       // of any kind, names of one file each counted, the root included
	Bytes     int64     // of content, holes included
	Allocated int64     // bytes on the disk
	At        time.Time // when this was begun to be found out

	set sys.FileSet
}

// Users says who has something of the tree open or mounted; dir is where it is now, without symbolic links. An error wraps sys.ErrUnknown.
func (s *Size) Users(dir string) ([]string, error) {
	users, err := s.set.Users()
	if err != nil {
		return nil, err
	}
	mounts, err := sys.MountsOver(dir)
	return append(users, mounts...), err
}

// Measure looks at all of a tree. Hard links count once; what vanishes meanwhile does not count. *MountedError.
func (t *Tree) Measure(ctx context.Context) (*Size, error) {
	s := &Size{At: time.Now()}
	seen := map[uint64]bool{}
	var walk func(e *sys.Entry, name string) error
	walk = func(e *sys.Entry, name string) error {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		s.Files++
		s.set.Add(e.Inode, name)
		if !seen[e.Inode.Ino] {
			seen[e.Inode.Ino] = true
			if e.Inode.Type() == sys.TypeRegular {
				s.Bytes += e.Inode.Size
			}
			s.Allocated += e.Inode.Allocated
		}
		if e.Inode.Type() != sys.TypeDir {
			return nil
		}
		names, err := e.Names()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		for _, name := range names {
			if err != nil {
				break
			}
			var c *sys.Entry
			if c, err = child(e, name, t.Root.Inode.Dev); errors.Is(err, fs.ErrNotExist) {
				err = nil
				continue
			}
			if err == nil {
				err = errors.Join(walk(c, name), c.Close())
			}
		}
		return err
	}
	if err := t.Root.Look(); err != nil {
		return nil, err
	}
	return s, walk(t.Root, filepath.Base(t.Root.Name()))
}
