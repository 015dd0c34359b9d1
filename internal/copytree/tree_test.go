// SPDX-License-Identifier: Apache-2.0

package copytree

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/voluks/voluks/internal/sys"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// attribute is an extended one. The tmpfs of the guest has none of users.
var attribute = "user.comment"

// acl is the access list u::rw-,u:7:r--,g::r--,m::r--,o::--- as the kernel keeps it.
const acl = "\x02\x00\x00\x00\x01\x00\x06\x00\xff\xff\xff\xff\x02\x00\x04\x00\x07\x00\x00\x00\x04\x00\x04\x00\xff\xff\xff\xff\x10\x00\x04\x00\xff\xff\xff\xff\x20\x00\x00\x00\xff\xff\xff\xff"

// entry does something with what is at a path.
func entry(path string, do func(e *sys.Entry) error) error {
	e, err := sys.OpenEntry(path)
	if err != nil {
		return err
	}
	return errors.Join(do(e), e.Close())
}

func lstat(t testing.TB, path string) (i sys.Inode) {
	t.Helper()
	must(t, entry(path, func(e *sys.Entry) error { i = e.Inode; return nil }))
	return i
}

func setTimes(path string, at time.Time) error {
	return entry(path, func(e *sys.Entry) error { return e.SetTimes(sys.Inode{Atime: at, Mtime: at}) })
}

func setXattrs(path string, all map[string]string) error {
	return entry(path, func(e *sys.Entry) error { return e.SetXattrs(all) })
}

func mknod(path string, i sys.Inode) error {
	return entry(filepath.Dir(path), func(e *sys.Entry) error { return e.Mknod(filepath.Base(path), i) })
}

// tree makes a source that has one of everything.
func tree(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "src")
	p := func(name string) string { return filepath.Join(dir, name) }
	must(t, os.MkdirAll(p("sub/deep"), 0o750))
	must(t, os.WriteFile(p("plain"), []byte(strings.Repeat("content ", 100_000)), 0o640))
	must(t, os.WriteFile(p("empty"), nil, 0o400))
	must(t, os.WriteFile(p("sub/tool"), []byte("#!/bin/sh\n"), 0o755))
	must(t, os.Chmod(p("sub/tool"), 0o755|fs.ModeSetuid))
	must(t, os.Chmod(p("sub"), 0o777|fs.ModeSticky))
	must(t, os.Link(p("plain"), p("sub/deep/same")))
	must(t, os.Symlink("../nowhere", p("sub/link")))
	must(t, os.WriteFile(p("no text \xff\nnew line"), []byte("x"), 0o600))
	f, err := os.Create(p("sparse"))
	must(t, err)
	_, err = f.WriteAt([]byte("in the middle"), 1<<20)
	must(t, err)
	must(t, f.Truncate(3<<20))
	must(t, f.Close())
	must(t, mknod(p("pipe"), sys.Inode{Mode: 0o010644}))
	if os.Getuid() == 0 {
		must(t, mknod(p("null"), sys.Inode{Mode: 0o020666, Rdev: 0x103}))
		must(t, os.Lchown(p("sub/link"), 5, 6))
		must(t, os.Chown(p("plain"), 70, 71))
	}
	must(t, setXattrs(p("plain"), map[string]string{attribute: "kept", "system.posix_acl_access": acl}))
	l, err := net.Listen("unix", p("socket"))
	must(t, err)
	t.Cleanup(func() { l.Close() })
	past := time.Date(2001, 2, 3, 4, 5, 6, 789, time.UTC)
	for _, name := range []string{"sub/link", "plain", "sub/deep", "sub", ""} {
		must(t, setTimes(p(name), past))
	}
	return dir
}

func dest(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "dst")
	must(t, os.Mkdir(dir, 0o700))
	return dir
}

func opened(t *testing.T, dir string) *Tree {
	t.Helper()
	tree, err := Open(dir)
	must(t, err)
	t.Cleanup(func() { tree.Close() })
	return tree
}

func copied(t *testing.T, src, dst string) *Manifest {
	t.Helper()
	m, err := Copy(t.Context(), opened(t, src), opened(t, dst), Options{})
	must(t, err)
	return m
}

func verify(t *testing.T, m *Manifest, src, dst string) error {
	t.Helper()
	return Verify(t.Context(), m, opened(t, src), opened(t, dst), nil)
}

// keepingTime changes a file so that its times do not show it.
func keepingTime(path string, change func(path string) error) error {
	var was sys.Inode
	if err := entry(path, func(e *sys.Entry) error { was = e.Inode; return nil }); err != nil {
		return err
	}
	if err := change(path); err != nil {
		return fmt.Errorf("change: %w", err)
	}
	return entry(path, func(e *sys.Entry) error { return e.SetTimes(was) })
}

// writeAt overwrites a part of a file.
func writeAt(path, content string, at int64) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte(content), at)
	return errors.Join(err, f.Close())
}
