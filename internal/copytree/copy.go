// SPDX-License-Identifier: Apache-2.0

// Package copytree copies a tree of files with everything that belongs to them: content and holes, owners, permissions, access lists and other extended
// attributes, times, hard links, symbolic links, devices and pipes. It copies over what an earlier pass has left, changing what differs and removing what is
// gone, so that the last pass over a tree that was in use during the first is short; and it shows by reading back that the copy is one.
//
// A crash leaves a copy that lacks something. A file gets its time of change last, so that one that is half copied is known by it, and copied again.
package copytree

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/voluks/voluks/internal/sys"
)

// Options say how to copy. The zero value is right.
type Options struct {
	// Progress is told, now and then, how many bytes of the source are dealt with.
	Progress func(done int64)
	// Live says that the source may change meanwhile: files that vanish or are replaced are left out.
	Live bool
	// FileSystem says that the source is a whole file system: its own lost+found is left out.
	FileSystem bool
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

// A Manifest is what a copy was made of, for Verify.
type Manifest struct {
	Stats   Stats // numbers
	entries []entry
}

type entry struct {
	path   string // relative
	inode  sys.Inode
	sum    [sha256.Size]byte // of a regular file that was copied in this pass
	hashed bool
}

// MountedError is a file system that is mounted inside the source: it is another tree.
type MountedError struct{ Path string }

// Error implements error.
func (e *MountedError) Error() string {
	return fmt.Sprintf("something else is mounted at %s: unmount it, or copy it by itself", e.Path)
}

// errReplaced is a name of the source that means another file than a moment before.
var errReplaced = errors.New("replaced while it was copied")

type copier struct {
	ctx      context.Context
	src, dst string
	o        Options
	m        *Manifest
	device   uint64
	again    map[string]bool   // Options.Again
	mounted  map[string]bool   // paths in the source at which something is mounted
	links    map[uint64]string // inode number in the source → relative path of the first name
	taken    map[uint64]bool   // inode numbers in the copy that were there, and are one of the source's files
	buf      []byte
	done     int64
}

// A source is one name of the source tree. Whoever writes to the tree during a live pass may put a symbolic link where a directory was; so names are looked
// up in the directory that was opened, and nothing is followed.
type source struct {
	rel   string // in the tree, for messages and for the copy
	path  string // below /proc/self/fd of its directory
	inode sys.Inode
}

// Copy makes dst, a directory that exists, what src is. Nothing is followed out of src. What dst has besides is removed.
func Copy(ctx context.Context, src, dst string, o Options) (*Manifest, error) {
	root, err := sys.Lstat(src)
	if err != nil {
		return nil, err
	}
	c := &copier{ctx: ctx, src: src, dst: dst, o: o, m: &Manifest{}, device: root.Dev, again: map[string]bool{}, links: map[uint64]string{}, taken: map[uint64]bool{}, buf: make([]byte, chunk)}
	for _, path := range o.Again {
		c.again[path] = true
	}
	if c.mounted, err = mountedBelow(src); err != nil {
		return nil, err
	}
	if err := c.dir(source{path: src, inode: root}); err != nil {
		return nil, fmt.Errorf("copy: %w", err)
	}
	d, err := os.Open(dst)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return c.m, sys.SyncFilesystem(d)
}

// mountedBelow are the mountpoints in a directory, bind mounts of its own file system among them.
func mountedBelow(dir string) (map[string]bool, error) {
	table, err := sys.MountInfoOf("self")
	if err != nil {
		return nil, err
	}
	mounted := map[string]bool{}
	for _, m := range table {
		if strings.HasPrefix(m.Mountpoint, strings.TrimSuffix(dir, "/")+"/") {
			mounted[m.Mountpoint] = true
		}
	}
	return mounted, nil
}

func (c *copier) progress(n int64) {
	c.done += n
	if c.o.Progress != nil {
		c.o.Progress(c.done)
	}
}

// open opens a file or a directory of the source, and nothing but what Lstat has seen.
func (c *copier) open(s source) (*os.File, error) {
	f, i, err := sys.OpenNoFollow(s.path)
	if err != nil {
		return nil, err
	}
	if i.Dev != s.inode.Dev || i.Ino != s.inode.Ino || i.Type() != s.inode.Type() {
		f.Close()
		return nil, errReplaced
	}
	return f, nil
}

// dir copies a directory that dst has already, and gives it its own properties last, since what happens in it changes them.
func (c *copier) dir(s source) error {
	if s.inode.Type() != sys.TypeDir {
		return fmt.Errorf("%s is no directory", filepath.Join(c.src, s.rel))
	}
	d, err := c.open(s)
	if err != nil {
		return err
	}
	defer d.Close()
	names, err := d.ReadDir(-1)
	if err != nil {
		return err
	}
	keep := make(map[string]bool, len(names))
	for _, name := range names {
		if err := c.ctx.Err(); err != nil {
			return context.Cause(c.ctx)
		}
		if c.o.FileSystem && s.rel == "" && name.Name() == "lost+found" {
			continue
		}
		child := source{rel: filepath.Join(s.rel, name.Name()), path: fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), name.Name())}
		made, err := c.entry(&child)
		if err != nil {
			if c.o.Live && c.gone(child, err) {
				continue // the next pass sees what is there then
			}
			return c.named(child, err)
		}
		keep[name.Name()] = made
	}
	there, err := os.ReadDir(filepath.Join(c.dst, s.rel))
	if err != nil {
		return err
	}
	for _, name := range there {
		if !keep[name.Name()] {
			c.m.Stats.Removed++
			if err := os.RemoveAll(filepath.Join(c.dst, s.rel, name.Name())); err != nil {
				return err
			}
		}
	}
	return c.finish(s, entry{})
}

// gone tells whether an error comes from a name that does not mean any more what it meant.
func (c *copier) gone(s source, err error) bool {
	now, gone := sys.Lstat(s.path)
	return errors.Is(err, errReplaced) || errors.Is(gone, fs.ErrNotExist) || gone == nil && s.inode.Ino != 0 && (now.Ino != s.inode.Ino || now.Type() != s.inode.Type())
}

// named says in an error which file it was.
func (c *copier) named(s source, err error) error {
	if errors.Is(err, errReplaced) {
		return &ChangedError{filepath.Join(c.src, s.rel)}
	}
	var at *fs.PathError
	if errors.As(err, &at) && at.Path == s.path {
		at.Path = filepath.Join(c.src, s.rel)
	}
	return err
}

// entry copies one name and notes what it is; false for what is left out.
func (c *copier) entry(s *source) (bool, error) {
	from, to := filepath.Join(c.src, s.rel), filepath.Join(c.dst, s.rel)
	inode, err := sys.Lstat(s.path)
	if err != nil {
		return false, err
	}
	s.inode = inode
	if inode.Dev != c.device || c.mounted[from] {
		return false, &MountedError{from}
	}
	if inode.Type() == sys.TypeSocket {
		c.m.Stats.Sockets++
		return false, nil
	}
	old, err := sys.Lstat(to)
	exists := err == nil
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if exists && old.Type() != inode.Type() {
		if err := os.RemoveAll(to); err != nil {
			return false, err
		}
		exists = false
	}
	if inode.Type() == sys.TypeDir {
		if !exists {
			if err := os.Mkdir(to, 0o700); err != nil {
				return false, err
			}
		}
		return true, c.dir(*s)
	}
	first, linked := c.links[inode.Ino]
	if linked && inode.Nlink > 1 {
		return true, c.link(*s, first, old, exists)
	}
	if inode.Nlink > 1 {
		c.links[inode.Ino] = s.rel
	}
	if exists && c.taken[old.Ino] { // it was a link to what is another file by now
		if err := os.Remove(to); err != nil {
			return false, err
		}
		exists = false
	}
	if exists {
		c.taken[old.Ino] = true
	}
	if inode.Type() == sys.TypeRegular {
		return true, c.regular(*s, old, exists)
	}
	return true, c.special(*s, exists)
}

func (c *copier) link(s source, first string, old sys.Inode, exists bool) error {
	target, err := sys.Lstat(filepath.Join(c.dst, first))
	if err != nil {
		return err
	}
	to := filepath.Join(c.dst, s.rel)
	if !exists || old.Ino != target.Ino {
		if exists {
			if err := os.Remove(to); err != nil {
				return err
			}
		}
		if err := os.Link(filepath.Join(c.dst, first), to); err != nil {
			return err
		}
	}
	c.note(entry{path: s.rel, inode: s.inode})
	return nil
}

// special makes a symbolic link, a device or a pipe. They are small, so one that is there is made anew.
func (c *copier) special(s source, exists bool) error {
	to := filepath.Join(c.dst, s.rel)
	if exists {
		if err := os.Remove(to); err != nil {
			return err
		}
	}
	if s.inode.Type() == sys.TypeLink {
		target, err := os.Readlink(s.path)
		if err == nil {
			err = os.Symlink(target, to)
		}
		if err != nil {
			return err
		}
	} else if err := sys.Mknod(to, s.inode); err != nil {
		return err
	}
	return c.finish(s, entry{})
}

func (c *copier) regular(s source, old sys.Inode, exists bool) error {
	c.m.Stats.Bytes += s.inode.Size
	if exists && old.Size == s.inode.Size && old.Mtime.Equal(s.inode.Mtime) && !c.again[s.rel] {
		c.progress(s.inode.Size)
		return c.finish(s, entry{})
	}
	c.m.Stats.Copied++
	c.m.Stats.Written += s.inode.Size
	e := entry{hashed: true}
	var err error
	if e.sum, err = c.content(s); err != nil {
		return err
	}
	return c.finish(s, e)
}

// finish gives a file the properties of the source: the owner first, since a change of it clears others, the times last.
func (c *copier) finish(s source, e entry) error {
	to := filepath.Join(c.dst, s.rel)
	if err := os.Lchown(to, s.inode.UID, s.inode.GID); err != nil {
		return err
	}
	if s.inode.Type() != sys.TypeLink {
		if err := sys.SetMode(to, s.inode.Mode); err != nil {
			return err
		}
	}
	attributes, err := sys.Xattrs(s.path)
	if err == nil { // also without any: a directory may have given it an access list
		err = sys.SetXattrs(to, attributes)
	}
	if err != nil {
		return err
	}
	if err := sys.SetTimes(to, s.inode.Atime, s.inode.Mtime); err != nil {
		return err
	}
	e.path, e.inode = s.rel, s.inode
	c.note(e)
	return nil
}

func (c *copier) note(e entry) {
	c.m.Stats.Files++
	c.m.entries = append(c.m.entries, e)
}
