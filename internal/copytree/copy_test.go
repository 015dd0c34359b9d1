// SPDX-License-Identifier: Apache-2.0

package copytree

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
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

// tree makes a source that has one of everything.
func tree(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "src")
	p := func(name string) string { return filepath.Join(dir, name) }
	must(t, os.MkdirAll(p("sub/deep"), 0o750))
	must(t, os.WriteFile(p("plain"), []byte(strings.Repeat("content ", 300_000)), 0o640))
	must(t, os.WriteFile(p("empty"), nil, 0o400))
	must(t, os.WriteFile(p("sub/tool"), []byte("#!/bin/sh\n"), 0o755))
	must(t, os.Chmod(p("sub/tool"), 0o755|fs.ModeSetuid))
	must(t, os.Chmod(p("sub"), 0o777|fs.ModeSticky))
	must(t, os.Link(p("plain"), p("sub/deep/same")))
	must(t, os.Symlink("../nowhere", p("sub/link")))
	must(t, os.WriteFile(p("name with\nnew line"), []byte("x"), 0o600))
	f, err := os.Create(p("sparse"))
	must(t, err)
	_, err = f.WriteAt([]byte("in the middle"), 5<<20)
	must(t, err)
	must(t, f.Truncate(9<<20))
	must(t, f.Close())
	must(t, sys.Mknod(p("pipe"), sys.Inode{Mode: 0o010644}))
	if os.Getuid() == 0 {
		must(t, sys.Mknod(p("null"), sys.Inode{Mode: 0o020666, Rdev: 0x103}))
		must(t, os.Lchown(p("sub/link"), 5, 6))
		must(t, os.Chown(p("plain"), 70, 71))
	}
	must(t, sys.SetXattrs(p("plain"), map[string]string{attribute: "kept", "system.posix_acl_access": acl}))
	l, err := net.Listen("unix", p("socket"))
	must(t, err)
	t.Cleanup(func() { l.Close() })
	past := time.Date(2001, 2, 3, 4, 5, 6, 789, time.UTC)
	for _, name := range []string{"sub/link", "plain", "sub/deep", "sub", ""} {
		must(t, sys.SetTimes(p(name), past, past))
	}
	return dir
}

func dest(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "dst")
	must(t, os.Mkdir(dir, 0o700))
	return dir
}

func copied(t *testing.T, src, dst string) *Manifest {
	t.Helper()
	m, err := Copy(t.Context(), src, dst, Options{})
	must(t, err)
	return m
}

// Everything is there in the end, which Verify and, independent of it, find's view of both trees say.
func TestCopy(t *testing.T) {
	src, dst := tree(t), dest(t)
	m := copied(t, src, dst)
	must(t, Verify(t.Context(), m, src, dst, nil))
	if m.Stats.Sockets != 1 || m.Stats.Copied != 5 {
		t.Errorf("%+v", m.Stats)
	}
	list := func(dir string) string {
		find := exec.CommandContext(t.Context(), "find", ".", "!", "-type", "s", "-printf", "%P %y %m %U %G %n %l %T@\n")
		find.Dir = dir
		out, err := find.Output()
		must(t, err)
		return lines(string(out))
	}
	if a, b := list(src), list(dst); a != b {
		t.Errorf("source:\n%s\ncopy:\n%s", a, b)
	}
	i, err := sys.Lstat(filepath.Join(dst, "sparse"))
	if must(t, err); i.Size != 9<<20 || i.Allocated > 1<<20 {
		t.Errorf("sparse: %+v", i)
	}
	x, err := sys.Xattrs(filepath.Join(dst, "sub/deep/same"))
	if must(t, err); x[attribute] != "kept" || x["system.posix_acl_access"] != acl {
		t.Errorf("attributes %q", x)
	}
}

// lines sorts them.
func lines(s string) string {
	return strings.Join(slices.Sorted(strings.Lines(s)), "")
}

// A second pass copies what has changed, and removes what is gone.
func TestCopyAgain(t *testing.T) {
	src, dst := tree(t), dest(t)
	copied(t, src, dst)
	p := func(name string) string { return filepath.Join(src, name) }
	must(t, os.WriteFile(p("sub/new"), []byte("new"), 0o600))
	must(t, os.WriteFile(p("empty.tmp"), []byte("no longer empty"), 0o600))
	must(t, os.Rename(p("empty.tmp"), p("empty")))
	must(t, os.Remove(p("sub/tool")))
	must(t, os.Remove(p("pipe")))
	must(t, os.Mkdir(p("pipe"), 0o700)) // another type under the same name
	must(t, os.Remove(p("sub/deep/same")))
	must(t, os.WriteFile(p("sub/deep/same"), []byte("not the same any more"), 0o600))
	must(t, os.Link(p("plain"), p("sub/deep/another")))
	must(t, os.Chmod(p("sparse"), 0o444))
	// A directory of the copy that gives what is made in it an access list, which the source does not have.
	given := strings.Replace(acl, "\x02\x00\x04\x00\x07", "\x02\x00\x06\x00\x07", 1)
	must(t, sys.SetXattrs(filepath.Join(dst, "sub"), map[string]string{"system.posix_acl_default": given}))
	m := copied(t, src, dst)
	if m.Stats.Written > 5<<20 || m.Stats.Removed != 1 {
		t.Errorf("%+v", m.Stats)
	}
	must(t, Verify(t.Context(), m, src, dst, nil))
	if _, err := os.Lstat(filepath.Join(dst, "sub/tool")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what is gone: %v", err)
	}
}

// Whatever is wrong with a copy is found.
func TestVerify(t *testing.T) {
	for name, spoil := range map[string]func(dir string) error{
		"content": func(d string) error {
			return keepingTime(filepath.Join(d, "plain"), func(p string) error {
				f, err := os.OpenFile(p, os.O_WRONLY, 0)
				if err != nil {
					return err
				}
				defer f.Close()
				_, err = f.WriteAt([]byte("X"), 1_000_000)
				return err
			})
		},
		"hole": func(d string) error {
			return keepingTime(filepath.Join(d, "sparse"), func(p string) error {
				f, err := os.OpenFile(p, os.O_WRONLY, 0)
				if err != nil {
					return err
				}
				defer f.Close()
				_, err = f.WriteAt([]byte("X"), 8<<20)
				return err
			})
		},
		"size":      func(d string) error { return os.Truncate(filepath.Join(d, "sparse"), 1) },
		"mode":      func(d string) error { return os.Chmod(filepath.Join(d, "sub/tool"), 0o755) },
		"time":      func(d string) error { return sys.SetTimes(filepath.Join(d, "empty"), time.Now(), time.Now()) },
		"missing":   func(d string) error { return os.Remove(filepath.Join(d, "sub/link")) },
		"attribute": func(d string) error { return sys.SetXattrs(filepath.Join(d, "plain"), nil) },
		"link": func(d string) error {
			p := filepath.Join(d, "sub/deep/same")
			return keepingTime(p, func(p string) error {
				b, err := os.ReadFile(p)
				if err != nil {
					return err
				}
				i, err := sys.Lstat(p)
				if err != nil {
					return err
				}
				x, err := sys.Xattrs(p)
				return errors.Join(err, os.Remove(p), os.WriteFile(p, b, 0o600), os.Lchown(p, i.UID, i.GID), sys.SetMode(p, i.Mode), sys.SetXattrs(p, x))
			})
		},
		"target": func(d string) error {
			return keepingTime(filepath.Join(d, "sub/link"), func(p string) error {
				i, err := sys.Lstat(p)
				return errors.Join(err, os.Remove(p), os.Symlink("../elsewhere", p), os.Lchown(p, i.UID, i.GID))
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			src, dst := tree(t), dest(t)
			m := copied(t, src, dst)
			must(t, spoil(dst))
			err := Verify(t.Context(), m, src, dst, nil)
			var differs *DiffersError
			if !errors.As(err, &differs) && !(name == "missing" && errors.Is(err, fs.ErrNotExist)) {
				t.Errorf("error: %v", err)
			}
		})
	}
	src, dst := tree(t), dest(t)
	m := copied(t, src, dst)
	must(t, os.WriteFile(filepath.Join(src, "plain"), []byte("somebody writes"), 0o600))
	var changed *ChangedError
	if err := Verify(t.Context(), m, src, dst, nil); !errors.As(err, &changed) {
		t.Errorf("a source in use: %v", err)
	}
}

// keepingTime changes a file so that its times do not show it.
func keepingTime(path string, change func(path string) error) error {
	i, err := sys.Lstat(path)
	if err != nil {
		return err
	}
	if err := change(path); err != nil {
		return fmt.Errorf("change: %w", err)
	}
	return sys.SetTimes(path, i.Atime, i.Mtime)
}

// A copy that is cut anywhere is finished by the next one.
func TestCopyCut(t *testing.T) {
	src := tree(t)
	for cut := int64(1); ; cut += 700_000 {
		dst := dest(t)
		ctx, cancel := context.WithCancel(t.Context())
		_, err := Copy(ctx, src, dst, Options{Progress: func(done int64) {
			if done >= cut {
				cancel()
			}
		}})
		cancel()
		m := copied(t, src, dst)
		must(t, Verify(t.Context(), m, src, dst, nil))
		if err == nil {
			return
		}
	}
}

// What an earlier pass copied, and what was written since without its times showing it, is found and copied again; so is what a crash left as zeros.
func TestStale(t *testing.T) {
	src, dst := tree(t), dest(t)
	copied(t, src, dst)
	must(t, keepingTime(filepath.Join(src, "plain"), func(p string) error {
		f, err := os.OpenFile(p, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = f.WriteAt([]byte("through a mapping"), 4096)
		return errors.Join(err, f.Close())
	}))
	must(t, keepingTime(filepath.Join(dst, "sparse"), func(p string) error {
		return errors.Join(os.Truncate(p, 0), os.Truncate(p, 9<<20))
	}))
	m := copied(t, src, dst)
	if m.Stats.Copied != 0 {
		t.Errorf("times show it: %+v", m.Stats)
	}
	var stale *StaleError
	if err := Verify(t.Context(), m, src, dst, nil); !errors.As(err, &stale) || len(stale.Paths) != 2 {
		t.Fatalf("verified: %v", err)
	}
	m, err := Copy(t.Context(), src, dst, Options{Again: stale.Paths})
	must(t, err)
	must(t, Verify(t.Context(), m, src, dst, nil))
}

// Somebody who may write to the source, and knows when it is read, gets nothing of the host's into the copy: neither by a directory that becomes a link
// while it is copied, nor by a file that becomes one after it was looked at, nor does a pipe stop the pass.
func TestFollowsNothing(t *testing.T) {
	dir := t.TempDir()
	src, dst, host := filepath.Join(dir, "src"), dest(t), filepath.Join(dir, "host")
	for _, d := range []string{filepath.Join(src, "a"), host} {
		must(t, os.MkdirAll(d, 0o700))
		for _, name := range []string{"1", "2", "3"} {
			must(t, os.WriteFile(filepath.Join(d, name), []byte(d), 0o600))
		}
	}
	swapped := false
	_, err := Copy(t.Context(), src, dst, Options{Live: true, Progress: func(int64) {
		if !swapped {
			swapped = true
			must(t, os.Rename(filepath.Join(src, "a"), filepath.Join(src, "b")))
			must(t, os.Symlink(host, filepath.Join(src, "a")))
		}
	}})
	must(t, err)
	for _, name := range []string{"1", "2", "3"} {
		if b, err := os.ReadFile(filepath.Join(dst, "a", name)); err == nil && string(b) == host {
			t.Errorf("%s of the host was copied", name)
		}
	}
	for kind, make := range map[string]func(path string) error{
		"link": func(p string) error { return os.Symlink(filepath.Join(host, "1"), p) },
		"pipe": func(p string) error { return sys.Mknod(p, sys.Inode{Mode: 0o010600}) },
		"file": func(p string) error { return os.WriteFile(p, []byte("another"), 0o600) },
	} {
		p := filepath.Join(src, "b", "1")
		seen, err := sys.Lstat(p)
		must(t, err)
		must(t, os.Rename(p, p+kind)) // the inode number stays taken
		must(t, make(p))
		c := &copier{}
		f, err := c.open(source{path: p, inode: seen})
		if err == nil {
			f.Close()
			t.Errorf("a %s was opened", kind)
		}
		must(t, errors.Join(os.Remove(p), os.Rename(p+kind, p)))
	}
}

// What happens to the source after it was copied is seen, whatever the source is called by then; a new name of it alone is nothing.
func TestUnchanged(t *testing.T) {
	for name, change := range map[string]func(dir string) error{
		"nothing": func(string) error { return nil },
		"content": func(d string) error {
			return keepingTime(filepath.Join(d, "sub/tool"), func(p string) error { return os.WriteFile(p, []byte("#!/bin/ls\n"), 0o755) })
		},
		"new":     func(d string) error { return os.WriteFile(filepath.Join(d, "sub/deep/new"), nil, 0o600) },
		"gone":    func(d string) error { return os.Remove(filepath.Join(d, "sub/link")) },
		"at root": func(d string) error { return os.Remove(filepath.Join(d, "pipe")) },
	} {
		src, dst := tree(t), dest(t)
		m := copied(t, src, dst)
		must(t, os.Rename(src, src+".aside"))
		must(t, change(src+".aside"))
		if err := Unchanged(t.Context(), m, src+".aside"); (err == nil) != (name == "nothing") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What somebody writes into the copy after a pass is found, and what the pass wrote is not.
func TestChangedAfter(t *testing.T) {
	src, dst := tree(t), dest(t)
	copied(t, src, dst)
	ended := time.Now()
	if p, err := ChangedAfter(t.Context(), dst, ended); p != "" || err != nil {
		t.Errorf("nothing: %q, %v", p, err)
	}
	for limit := time.Now().Add(time.Minute); ; { // the clock of file systems is a coarse one
		must(t, keepingTime(filepath.Join(dst, "empty"), func(p string) error { return os.Chmod(p, 0o400) }))
		p, err := ChangedAfter(t.Context(), dst, ended)
		if filepath.Base(p) == "empty" && err == nil {
			break
		}
		if err != nil || time.Now().After(limit) {
			t.Fatalf("something: %q, %v", p, err)
		}
	}
}
