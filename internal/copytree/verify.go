// SPDX-License-Identifier: Apache-2.0

package copytree

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"

	"github.com/voluks/voluks/internal/sys"
)

// ChangedError is a file of the source that has changed since it was copied: somebody uses it.
type ChangedError struct{ Path string }

// Error implements error.
func (e *ChangedError) Error() string {
	return fmt.Sprintf("%s has changed since it was copied: something still uses the source", e.Path)
}

// DiffersError is a file of the copy that is not what it was copied from.
type DiffersError struct{ Path, What string }

// Error implements error.
func (e *DiffersError) Error() string {
	return fmt.Sprintf("the copy of %s has another %s", e.Path, e.What)
}

// StaleError are files, by their paths in the source, that an earlier pass has copied and whose content is another now, which neither their sizes nor their times
// show: something writes through a mapping, or faster than the clock of the file system, or a power cut took what was copied. Copy copies them if it is given
// Paths as Options.Again.
type StaleError struct{ Paths []string }

// Error implements error.
func (e *StaleError) Error() string {
	return fmt.Sprintf("the copy of %s, and of %d other files, is older than its times say", e.Paths[0], len(e.Paths)-1)
}

// CopyVerified is Copy and Verify. What turns out to be stale, so many files, is copied again, once.
func CopyVerified(ctx context.Context, src, dst string, o Options) (m *Manifest, stale int, err error) {
	for {
		m, err := Copy(ctx, src, dst, o)
		if err != nil {
			return nil, stale, err
		}
		err = Verify(ctx, m, src, dst, o.Verified)
		var found *StaleError
		if !errors.As(err, &found) || stale > 0 {
			return m, stale, err
		}
		stale = len(found.Paths)
		o.Again = found.Paths
	}
}

// Verify shows that dst is what src was when Copy made the manifest, and that src still is that: all properties are compared, and all content of the copy is
// read from the disk and its checksum compared with that of what was read from the source. Errors are *ChangedError, *DiffersError,
// *StaleError if nothing else is wrong, and those of reading.
func Verify(ctx context.Context, m *Manifest, src, dst string, progress func(done int64)) error {
	v := verifier{ctx: ctx, src: src, dst: dst, links: map[uint64]uint64{}, sources: map[uint64]uint64{}, buf: make([]byte, chunk), progress: progress}
	for _, e := range m.entries {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if err := v.entry(e); err != nil {
			return fmt.Errorf("verify: %w", err)
		}
	}
	if len(v.stale) > 0 {
		return &StaleError{v.stale}
	}
	return nil
}

// Unchanged shows that src still is what it was when Copy made the manifest, whatever src is called now; *ChangedError if not. It reads no content.
func Unchanged(ctx context.Context, m *Manifest, src string) error {
	for _, e := range m.entries {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		now, err := sys.Lstat(filepath.Join(src, e.path))
		if err != nil {
			return err
		}
		if !same(now, e) {
			return &ChangedError{filepath.Join(src, e.path)}
		}
	}
	return nil
}

// same tells whether a file of the source is the one that was copied. The root may have been renamed, which some file systems note as its last change.
func same(now sys.Inode, e entry) bool {
	was := e.inode
	return now.Ino == was.Ino && now.Mode == was.Mode && now.Size == was.Size && now.Mtime.Equal(was.Mtime) && (e.path == "" || now.Ctime.Equal(was.Ctime))
}

type verifier struct {
	ctx      context.Context
	src, dst string
	links    map[uint64]uint64 // inode numbers in the source → in the copy
	sources  map[uint64]uint64 // the other way round
	buf      []byte
	done     int64
	stale    []string // relative paths
	progress func(int64)
}

func (v *verifier) entry(e entry) error {
	from, to := filepath.Join(v.src, e.path), filepath.Join(v.dst, e.path)
	now, err := sys.Lstat(from)
	if err != nil {
		return err
	}
	was := e.inode
	if !same(now, e) {
		return &ChangedError{from}
	}
	is, err := sys.Lstat(to)
	if err != nil {
		return err
	}
	differs := func(what string) error { return &DiffersError{from, what} }
	switch {
	case is.Mode != was.Mode:
		return differs("type or mode")
	case is.UID != was.UID || is.GID != was.GID:
		return differs("owner")
	case !is.Mtime.Equal(was.Mtime):
		return differs("time of change")
	case is.Type() == sys.TypeRegular && is.Size != was.Size:
		return differs("size")
	case is.Type() != sys.TypeRegular && is.Type() != sys.TypeDir && is.Type() != sys.TypeLink && is.Rdev != was.Rdev:
		return differs("device number")
	}
	first, known := v.links[was.Ino]
	source, reached := v.sources[is.Ino]
	if known && first != is.Ino || reached && source != was.Ino {
		return differs("hard link")
	}
	v.links[was.Ino], v.sources[is.Ino] = is.Ino, was.Ino
	if err := v.attributes(from, to); err != nil {
		return err
	}
	switch {
	case is.Type() == sys.TypeLink:
		a, err1 := os.Readlink(from)
		b, err2 := os.Readlink(to)
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
		if a != b {
			return differs("target")
		}
	case is.Type() == sys.TypeRegular && !known:
		return v.content(e, is, from, to)
	}
	return nil
}

func (v *verifier) attributes(from, to string) error {
	a, err1 := sys.Xattrs(from)
	b, err2 := sys.Xattrs(to)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	// A security module gives labels by itself.
	delete(a, "security.selinux")
	delete(b, "security.selinux")
	if !maps.Equal(a, b) {
		return &DiffersError{from, "extended attribute or access list"}
	}
	return nil
}

func (v *verifier) content(e entry, is sys.Inode, from, to string) error {
	want := e.sum
	if !e.hashed { // by an earlier pass
		var err error
		if want, err = v.sum(from, e.inode, false); err != nil {
			return err
		}
	}
	got, err := v.sum(to, is, true)
	if err != nil {
		return err
	}
	switch {
	case got == want:
	case e.hashed:
		return &DiffersError{from, "content"}
	default:
		v.stale = append(v.stale, e.path)
	}
	if v.done += e.inode.Size; v.progress != nil {
		v.progress(v.done)
	}
	return nil
}

// sum reads a file; cold says from the disk.
func (v *verifier) sum(path string, inode sys.Inode, cold bool) (sum [sha256.Size]byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return sum, err
	}
	defer f.Close()
	if cold {
		if err := sys.ReadCold(f); err != nil {
			return sum, err
		}
	}
	h := sha256.New()
	err = eachPart(v.ctx, f, inode, v.buf, func(b []byte, _ int64, _ bool) error { h.Write(b); return nil })
	if err != nil {
		return sum, err
	}
	return [sha256.Size]byte(h.Sum(nil)), nil
}
