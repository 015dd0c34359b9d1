// SPDX-License-Identifier: Apache-2.0

// Package copytree copies a tree of files with everything that belongs to them: content and holes, owners, permissions, access lists and other extended
// attributes, times, hard links, symbolic links, devices and pipes. It copies over what an earlier pass has left, changing what differs and removing what is
// gone, so that the last pass over a tree that was in use during the first is short; and it shows by reading back that the copy is one.
//
// Both trees may belong to somebody who wants the reader or writer, which is root, to go astray. So both are held by descriptors, everything is looked up
// beneath them without following anything, and what is found is held before it is asked what it is.
//
// A crash leaves a copy that lacks something. A file gets its time of change last, so that one that is half copied is known by it, and copied again; and what
// an earlier pass copied is compared by content in the last one.
package copytree

import (
	"context"
	"crypto/sha256"
	"errors"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/voluks/voluks/internal/sys"
)

// margin is more than the clock of a file system lags behind: two changes of a file that are so far apart have different times.
const margin = 50 * time.Millisecond

// Options say how to copy. The zero value is right.
type Options struct {
	// Progress is told, now and then, how many bytes of the source are dealt with.
	Progress func(done int64)
	// Live says that the source may change meanwhile: files that vanish are left out. Without it a change is a *ChangedError.
	Live bool
	// Since is when the source was last looked at as a whole: nothing may have changed in it after that, unless Live. The zero value is now.
	Since time.Time
	// Again are paths, relative to the source, of files whose content is copied even if size and time say that the copy has it.
	Again []string
	// Verified is told, now and then, how many bytes of the copy CopyVerified has read back.
	Verified func(done int64)
}

// Stats is what a copy was, in numbers.
type Stats struct {
	Files   int   `json:"files"`   // of any kind, directories included
	Copied  int   `json:"copied"`  // whose content was copied; the others had it
	Bytes   int64 `json:"bytes"`   // of all content
	Written int64 `json:"written"` // bytes of content that was copied
	Removed int   `json:"removed"` // that the source does not have any more
	Sockets int   `json:"sockets"` // left out: whoever listens makes them anew
}

type copier struct {
	ctx      context.Context
	src, dst *Tree
	o        Options
	m        *Manifest
	started  time.Time           // no file has changed after that, unless Live
	again    map[string]bool     // Options.Again
	links    map[uint64]firstOne // by inode number in the source
	taken    map[uint64]bool     // inode numbers in the copy that were there, and are one of the source's files
	buf      []byte
	done     int64
}

// firstOne is the first name of a file that has several.
type firstOne struct {
	path string
	ino  uint64 // in the copy
}

// Copy makes dst what src is. What dst has besides is removed. It returns when all of it is durable.
func Copy(ctx context.Context, src, dst *Tree, o Options) (*Manifest, error) {
	c := &copier{
		ctx: ctx, src: src, dst: dst, o: o, m: &Manifest{}, started: o.Since,
		again: map[string]bool{}, links: map[uint64]firstOne{}, taken: map[uint64]bool{}, buf: make([]byte, chunk),
	}
	for _, path := range o.Again {
		c.again[path] = true
	}
	if c.started.IsZero() {
		c.started = time.Now()
	}
	if !o.Live {
		// Some file systems tell of no data, so of zeros, where what was written has no place on the disk yet.
		if err := src.Root.SyncFilesystem(); err != nil {
			return nil, err
		}
		// From then on every change gives a file a time that it does not have yet.
		select {
		case <-time.After(margin - time.Since(c.started)):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	if err := errors.Join(src.Root.Look(), dst.Root.Look()); err != nil {
		return nil, err
	}
	if err := c.dir(src.Root, dst.Root, ""); err != nil {
		return nil, err
	}
	return c.m, dst.Root.SyncFilesystem()
}

func (c *copier) progress(n int64) {
	c.done += n
	if c.o.Progress != nil {
		c.o.Progress(c.done)
	}
}

// still refuses a file that somebody has changed since the pass began. A time in the future is of a clock that was wrong.
func (c *copier) still(s *sys.Entry) error {
	if at := s.Inode.Ctime; !c.o.Live && at.After(c.started) && !at.After(time.Now()) {
		return &ChangedError{s.Name()}
	}
	return nil
}

// dir copies a directory that the copy has already, and gives it its own properties last, since what happens in it changes them.
func (c *copier) dir(s, d *sys.Entry, rel string) error {
	if err := c.still(s); err != nil {
		return err
	}
	names, err := s.Names()
	if err != nil && !(c.o.Live && errors.Is(err, fs.ErrNotExist)) {
		return err
	}
	keep := make(map[string]bool, len(names))
	for _, name := range names {
		if err := c.ctx.Err(); err != nil {
			return context.Cause(c.ctx)
		}
		if keep[name], err = c.entry(s, d, rel, name); err != nil {
			return err
		}
	}
	there, err := d.Names()
	if err != nil {
		return err
	}
	for _, name := range there {
		if !keep[name] {
			c.m.Stats.Removed++
			if err := removeTree(c.ctx, d, name, c.dst.Root.Inode.Dev); err != nil {
				return err
			}
		}
	}
	if err := properties(s, d); err != nil {
		return err
	}
	c.note(Entry{path: rel, source: s.Inode})
	return nil
}

// entry copies one name; false for what is left out.
func (c *copier) entry(from, to *sys.Entry, dir, name string) (bool, error) {
	rel := filepath.Join(dir, name)
	s, err := child(from, name, c.src.Root.Inode.Dev)
	if errors.Is(err, fs.ErrNotExist) {
		if c.o.Live {
			return false, nil // the next pass sees what is there then
		}
		return false, &ChangedError{filepath.Join(from.Name(), name)}
	}
	if err != nil {
		return false, err
	}
	defer s.Close()
	if err := c.still(s); err != nil {
		return false, err
	}
	if s.Inode.Type() == sys.TypeSocket {
		c.m.Stats.Sockets++
		c.m.entries = append(c.m.entries, Entry{path: rel, source: s.Inode})
		return false, nil
	}
	isDir := s.Inode.Type() == sys.TypeDir
	first, linked := c.links[s.Inode.Ino]
	linked = linked && s.Inode.Nlink > 1 && !isDir
	d, err := c.old(s, to, name, first, linked)
	if err != nil {
		return false, err
	}
	defer func() {
		if d != nil {
			d.Close()
		}
	}()
	if linked {
		if d == nil {
			err = c.link(to, first, name)
		}
		c.note(Entry{path: rel, source: s.Inode})
		return true, err
	}
	if d != nil && !isDir {
		c.taken[d.Inode.Ino] = true
	}
	e := Entry{path: rel, source: s.Inode}
	switch s.Inode.Type() {
	case sys.TypeDir:
		if d == nil {
			if d, err = made(to, name, to.Mkdir(name)); err != nil {
				return false, err
			}
		}
		return true, c.dir(s, d, rel)
	case sys.TypeRegular:
		d, err = c.regular(s, d, to, name, &e)
	default:
		d, err = c.special(s, d, to, name)
	}
	if err != nil {
		return false, err
	}
	if s.Inode.Nlink > 1 {
		c.links[s.Inode.Ino] = firstOne{rel, d.Inode.Ino}
	}
	if err := properties(s, d); err != nil {
		return false, err
	}
	c.note(e)
	return true, nil
}

// made holds what was just made, unless that failed.
func made(dir *sys.Entry, name string, err error) (*sys.Entry, error) {
	if err != nil {
		return nil, err
	}
	return dir.Child(name)
}

// old holds what the copy has under a name, if it can become what the source has there; what cannot is removed, and nil returned. It cannot if it is of another
// type, or one more name of what is another file by now.
func (c *copier) old(s, to *sys.Entry, name string, first firstOne, linked bool) (*sys.Entry, error) {
	d, err := child(to, name, c.dst.Root.Inode.Dev)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if d.Inode.Type() == s.Inode.Type() && (linked && d.Inode.Ino == first.ino || !linked && !c.taken[d.Inode.Ino]) {
		return d, nil
	}
	return nil, errors.Join(removeTree(c.ctx, to, name, c.dst.Root.Inode.Dev), d.Close())
}

// link makes a name of a file that the copy has under another one.
func (c *copier) link(to *sys.Entry, first firstOne, name string) error {
	dir, base := filepath.Split(first.path)
	parent, err := c.dst.at(filepath.Clean(dir))
	if err != nil {
		return err
	}
	return errors.Join(to.Link(parent, base, name), parent.Close())
}

// special makes a symbolic link, a device or a pipe. They are small, so one that is there is made anew.
func (c *copier) special(s, d, to *sys.Entry, name string) (*sys.Entry, error) {
	if d != nil {
		if err := to.Unlink(name, false); err != nil {
			return d, err
		}
		d.Close()
	}
	if s.Inode.Type() != sys.TypeLink {
		return made(to, name, to.Mknod(name, s.Inode))
	}
	target, err := s.Readlink()
	if err != nil {
		return nil, err
	}
	return made(to, name, to.Symlink(target, name))
}

// regular copies a file anew, unless the copy seems to have it: nothing is ever written into a file that was there.
func (c *copier) regular(s, d, to *sys.Entry, name string, e *Entry) (*sys.Entry, error) {
	c.m.Stats.Bytes += s.Inode.Size
	if d != nil {
		if d.Inode.Size == s.Inode.Size && d.Inode.Mtime.Equal(s.Inode.Mtime) && !c.again[e.path] {
			c.progress(s.Inode.Size)
			return d, nil
		}
		if err := to.Unlink(name, false); err != nil {
			return d, err
		}
		d.Close()
	}
	c.m.Stats.Copied++
	c.m.Stats.Written += s.Inode.Size
	d, sum, err := c.content(s, to, name)
	e.sum = sum[:]
	return d, err
}

// properties gives a file those of the source: the owner first, since a change of it clears others, the times last.
func properties(s, d *sys.Entry) error {
	owner := d.Inode.UID != s.Inode.UID || d.Inode.GID != s.Inode.GID
	if owner {
		if err := d.SetOwner(s.Inode.UID, s.Inode.GID); err != nil {
			return err
		}
	}
	if s.Inode.Type() != sys.TypeLink && (owner || d.Inode.Mode != s.Inode.Mode) {
		if err := d.SetMode(s.Inode.Mode); err != nil {
			return err
		}
	}
	attributes, err := s.Xattrs()
	if err == nil { // also without any: a directory may have given it an access list
		err = d.SetXattrs(attributes)
	}
	if err != nil {
		return err
	}
	return d.SetTimes(s.Inode)
}

func (c *copier) note(e Entry) {
	c.m.Stats.Files++
	c.m.entries = append(c.m.entries, e)
}

// sumOf is the type of checksums.
type sumOf = [sha256.Size]byte
