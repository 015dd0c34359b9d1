// SPDX-License-Identifier: Apache-2.0

package copytree

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"syscall"

	"github.com/voluks/voluks/internal/sys"
)

// ChangedError is a file of the source that is not what it was when it was copied: somebody uses it.
type ChangedError struct{ Path string }

// Error implements error.
func (e *ChangedError) Error() string {
	return fmt.Sprintf("%s has changed since the copy was begun: something still uses the source", e.Path)
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
func CopyVerified(ctx context.Context, src, dst *Tree, o Options) (m *Manifest, stale int, err error) {
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

// Verify shows that dst is what src was when Copy made the manifest, neither less nor more, and that src still is that: all names and properties are compared,
// and all content of the copy is read from the disk and its checksum compared with that of what was read from the source. The manifest then knows the copy
// too. Errors are *ChangedError, *DiffersError, *StaleError if nothing else is wrong, and those of reading.
func Verify(ctx context.Context, m *Manifest, src, dst *Tree, progress func(done int64)) error {
	v := verifier{ctx: ctx, src: src, dst: dst, names: m.names(), links: map[uint64]uint64{}, sources: map[uint64]uint64{}, buf: make([]byte, readBack), progress: progress}
	for i := range m.entries {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if err := v.entry(&m.entries[i]); err != nil {
			return err
		}
	}
	if len(v.stale) > 0 {
		return &StaleError{v.stale}
	}
	m.Verified = true
	return nil
}

// Unchanged shows that src still is what it was when Copy made the manifest; *ChangedError if not. It reads no content: no change leaves the kernel's own time
// of it as it was. renamed says that the root was, which some file systems note there.
func (m *Manifest) Unchanged(ctx context.Context, src *Tree, renamed bool) error {
	names := m.names()
	for _, e := range m.entries {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		s, err := held(src, e, renamed)
		if err != nil {
			return err
		}
		if e.source.Type() == sys.TypeDir {
			err = hasNames(s, names[e.path], true)
		}
		if err := errors.Join(err, s.Close()); err != nil {
			return err
		}
	}
	return nil
}

// held holds a file of the source that is what was copied; *ChangedError if it is not.
func held(src *Tree, e Entry, renamed bool) (*sys.Entry, error) {
	s, err := src.at(e.path)
	if absent(err) {
		return nil, &ChangedError{filepath.Join(src.Root.Name(), e.path)}
	}
	if err != nil {
		return nil, err
	}
	if !same(s.Inode, e.source, renamed && e.path == "") {
		return nil, errors.Join(&ChangedError{s.Name()}, s.Close())
	}
	return s, nil
}

// absent tells whether an error says that there is no such name, or that something on the way to it is no directory.
func absent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ELOOP)
}

func same(now, was sys.Inode, renamed bool) bool {
	return now.Same(was) && now.Mode == was.Mode && now.Size == was.Size && now.Mtime.Equal(was.Mtime) && (renamed || now.Ctime.Equal(was.Ctime))
}

// hasNames shows that a directory has these names and no others: of the source with its sockets, of the copy without.
func hasNames(dir *sys.Entry, want map[string]bool, source bool) error {
	there, err := dir.Names()
	if err != nil {
		return err
	}
	found := 0
	for _, name := range there {
		socket, ok := want[name]
		switch {
		case ok && !(socket && !source):
			found++
		case source:
			return &ChangedError{filepath.Join(dir.Name(), name)}
		default:
			return &DiffersError{filepath.Join(dir.Name(), name), "name: the source does not have it"}
		}
	}
	for _, socket := range want {
		if !socket || source {
			found--
		}
	}
	switch {
	case found == 0:
		return nil
	case source:
		return &ChangedError{dir.Name()}
	}
	return &DiffersError{dir.Name(), "set of names"}
}

type verifier struct {
	ctx      context.Context
	src, dst *Tree
	names    map[string]map[string]bool
	links    map[uint64]uint64 // inode numbers in the source → in the copy
	sources  map[uint64]uint64 // the other way round
	buf      []byte
	done     int64
	stale    []string // relative paths
	progress func(int64)
}

func (v *verifier) entry(e *Entry) (err error) {
	s, err := held(v.src, *e, false)
	if err != nil {
		return err
	}
	defer s.Close()
	if s.Inode.Type() == sys.TypeSocket {
		return nil
	}
	d, err := v.dst.at(e.path)
	if absent(err) {
		return &DiffersError{s.Name(), "name: it is not there"}
	}
	if err != nil {
		return err
	}
	defer d.Close()
	if what := difference(s.Inode, d.Inode); what != "" {
		return &DiffersError{s.Name(), what}
	}
	first, known := v.links[s.Inode.Ino]
	source, reached := v.sources[d.Inode.Ino]
	if known && first != d.Inode.Ino || reached && source != s.Inode.Ino {
		return &DiffersError{s.Name(), "hard link"}
	}
	v.links[s.Inode.Ino], v.sources[d.Inode.Ino] = d.Inode.Ino, s.Inode.Ino
	if err := attributes(s, d); err != nil {
		return err
	}
	switch s.Inode.Type() {
	case sys.TypeLink:
		err = targets(s, d)
	case sys.TypeDir:
		if err = hasNames(s, v.names[e.path], true); err == nil {
			err = hasNames(d, v.names[e.path], false)
		}
	case sys.TypeRegular:
		if !known {
			err = v.content(e, s, d)
		}
	}
	e.copy = d.Inode
	return err
}

// difference names a property in which a copy differs; "" if there is none.
func difference(s, d sys.Inode) string {
	switch {
	case d.Mode != s.Mode:
		return "type or mode"
	case d.UID != s.UID || d.GID != s.GID:
		return "owner"
	case !d.Mtime.Equal(s.Mtime):
		return "time of change"
	case d.Type() == sys.TypeRegular && d.Size != s.Size:
		return "size"
	case d.Type() != sys.TypeRegular && d.Type() != sys.TypeDir && d.Type() != sys.TypeLink && d.Rdev != s.Rdev:
		return "device number"
	}
	return ""
}

func attributes(s, d *sys.Entry) error {
	a, err1 := s.Xattrs()
	b, err2 := d.Xattrs()
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	if !maps.Equal(a, b) {
		return &DiffersError{s.Name(), "extended attribute or access list"}
	}
	return nil
}

func targets(s, d *sys.Entry) error {
	a, err1 := s.Readlink()
	b, err2 := d.Readlink()
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	if a != b {
		return &DiffersError{s.Name(), "target"}
	}
	return nil
}

func (v *verifier) content(e *Entry, s, d *sys.Entry) error {
	want, hashed := e.sum, len(e.sum) > 0
	if !hashed { // an earlier pass copied it
		sum, err := sumFile(v.ctx, s, v.buf, false)
		if err != nil {
			return err
		}
		want = sum[:]
	}
	got, err := sumFile(v.ctx, d, v.buf, true)
	if err != nil {
		return err
	}
	switch {
	case bytes.Equal(got[:], want):
		e.sum = want
	case hashed:
		return &DiffersError{s.Name(), "content"}
	default:
		v.stale = append(v.stale, e.path)
	}
	if v.done += s.Inode.Size; v.progress != nil {
		v.progress(v.done)
	}
	return nil
}
