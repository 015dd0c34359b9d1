// SPDX-License-Identifier: Apache-2.0

package copytree

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"syscall"

	"github.com/voluks/voluks/internal/sys"
)

// Touched finds something of the copy that is not as Verify has left it: somebody else has written there. "" if there is nothing.
func (m *Manifest) Touched(ctx context.Context, dst *Tree) (string, error) {
	names := m.names()
	for _, e := range m.entries {
		if err := ctx.Err(); err != nil {
			return "", context.Cause(ctx)
		}
		if e.source.Type() == sys.TypeSocket {
			continue
		}
		d, err := dst.at(e.path)
		if absent(err) {
			return filepath.Join(dst.Root.Name(), e.path), nil
		}
		if err != nil {
			return "", err
		}
		touched := !same(d.Inode, e.copy, false)
		if !touched && e.source.Type() == sys.TypeDir {
			err = hasNames(d, names[e.path], false)
			var differs *DiffersError
			if errors.As(err, &differs) {
				touched, err = true, nil
			}
		}
		if err := errors.Join(err, d.Close()); err != nil || touched {
			return d.Name(), err
		}
	}
	return "", nil
}

// Recheck is what Manifest.Recheck found: numbers of regular files.
type Recheck struct {
	Verified int `json:"verified"` // nobody has written them since, and they read back as what was copied
	Changed  int `json:"changed"`  // somebody has, since: they are his
	Gone     int `json:"gone"`     // somebody has removed them since
}

// Recheck reads the copy back once more, long after it was made and used: what nobody has touched must be what was copied. *DiffersError if it is not.
func (m *Manifest) Recheck(ctx context.Context, dst *Tree) (r Recheck, err error) {
	buf := make([]byte, readBack)
	for _, e := range m.entries {
		if err := ctx.Err(); err != nil {
			return r, context.Cause(ctx)
		}
		if len(e.sum) == 0 {
			continue // no regular file, or another name of one
		}
		d, err := dst.at(e.path)
		if absent(err) {
			r.Gone++
			continue
		}
		if err != nil {
			return r, err
		}
		if !same(d.Inode, e.copy, false) {
			r.Changed++
			d.Close()
			continue
		}
		sum, err := sumFile(ctx, d, buf, true)
		if err == nil {
			err = d.Look() // its user may have written it at that moment
		}
		if err := errors.Join(err, d.Close()); err != nil {
			return r, err
		}
		switch {
		case !same(d.Inode, e.copy, false):
			r.Changed++
		case !bytes.Equal(sum[:], e.sum):
			return r, &DiffersError{d.Name(), "content"}
		default:
			r.Verified++
		}
	}
	return r, nil
}

// Removal is what Manifest.Remove did.
type Removal struct {
	Removed   int      `json:"removed"`             // names
	Kept      []string `json:"kept,omitempty"`      // what is not what was copied, and so stays
	Elsewhere []string `json:"elsewhere,omitempty"` // files whose content has names outside of the tree, and so stays on the disk
}

// Remove removes from the source what was copied and verified, by what it is; whatever else is there stays, with the directories that it is in. The root
// stays, empty. Interrupted, it is to be called again.
func (m *Manifest) Remove(ctx context.Context, src *Tree) (r Removal, err error) {
	if !m.Verified {
		return r, errors.New("remove the source of a copy: it was not verified")
	}
	inside := map[uint64]uint64{} // names of each file
	for _, e := range m.entries {
		if e.source.Type() != sys.TypeDir {
			inside[e.source.Ino]++
		}
	}
	for _, e := range m.entries {
		if err := ctx.Err(); err != nil {
			return r, context.Cause(ctx)
		}
		if e.path == "" {
			continue
		}
		if n := inside[e.source.Ino]; e.source.Type() == sys.TypeRegular && e.source.Nlink > n && n > 0 {
			r.Elsewhere = append(r.Elsewhere, e.path)
			inside[e.source.Ino] = 0 // said once
		}
		removed, err := remove(src, e)
		if err != nil {
			return r, err
		}
		switch removed {
		case gone:
		case kept:
			r.Kept = append(r.Kept, filepath.Join(src.Root.Name(), e.path))
		case done:
			r.Removed++
		}
	}
	left, err := src.Root.Names()
	if err == nil && len(left) > 0 && len(r.Kept) == 0 {
		for _, name := range left {
			r.Kept = append(r.Kept, filepath.Join(src.Root.Name(), name))
		}
	}
	return r, errors.Join(err, src.Root.Sync())
}

type outcome int

const (
	done outcome = iota
	gone         // by an earlier call
	kept         // it is something else
)

// remove removes one name if it is what was copied. Removing a name changes the times of what has it and of its directory, so those count for files with one
// name alone.
func remove(src *Tree, e Entry) (outcome, error) {
	dir, base := filepath.Split(e.path)
	parent, err := src.at(filepath.Clean(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return gone, nil
	}
	if err == nil && parent.Inode.Type() != sys.TypeDir {
		err = errors.Join(syscall.ENOTDIR, parent.Close())
	}
	if absent(err) {
		return kept, nil
	}
	if err != nil {
		return kept, err
	}
	defer parent.Close()
	s, err := child(parent, base, src.Root.Inode.Dev)
	if errors.Is(err, fs.ErrNotExist) {
		return gone, nil
	}
	if err != nil {
		return kept, err
	}
	now, was, isDir := s.Inode, e.source, e.source.Type() == sys.TypeDir
	s.Close()
	if !now.Same(was) || !isDir && (now.Size != was.Size || !now.Mtime.Equal(was.Mtime)) || !isDir && was.Nlink == 1 && !now.Ctime.Equal(was.Ctime) {
		return kept, nil
	}
	err = parent.Unlink(base, isDir)
	if errors.Is(err, syscall.ENOTEMPTY) || errors.Is(err, fs.ErrExist) {
		return kept, nil
	}
	if err != nil {
		return kept, fmt.Errorf("remove the plain data: %w", err)
	}
	return done, nil
}
