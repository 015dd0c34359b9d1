// SPDX-License-Identifier: Apache-2.0

package copytree

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/voluks/voluks/internal/sys"
)

// host makes a directory that is none of the trees' business, and shows in the end that it is as it was.
func host(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "host")
	must(t, os.MkdirAll(filepath.Join(dir, "deep"), 0o755))
	for _, name := range []string{"passwd", "tool", "deep/same", "same", "1", "2", "3"} {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte("of the host"), 0o644))
	}
	was := lstat(t, dir)
	t.Cleanup(func() {
		for _, name := range []string{"passwd", "tool", "deep/same", "same", "1", "2", "3"} {
			b, err := os.ReadFile(filepath.Join(dir, name))
			if i := lstat(t, filepath.Join(dir, name)); err != nil || string(b) != "of the host" || i.Mode != 0o100644 || i.UID != os.Getuid() {
				t.Errorf("%s of the host: %q, %+v, %v", name, b, i, err)
			}
		}
		if names, err := os.ReadDir(dir); err != nil || len(names) != 7 {
			t.Errorf("the host has %v, %v", names, err)
		}
		if now := lstat(t, dir); now.Mode != was.Mode || now.UID != was.UID {
			t.Errorf("the directory of the host: %+v", now)
		}
	})
	return dir
}

// Somebody who may write into the volume between two passes leads root nowhere: links in the place of directories, files and names that are gone.
func TestPlantedInTheCopy(t *testing.T) {
	t.Parallel()
	src, dst, host := tree(t), dest(t), host(t)
	must(t, os.MkdirAll(filepath.Join(src, "going/deep"), 0o700))
	copied(t, src, dst)
	must(t, os.RemoveAll(filepath.Join(src, "going")))
	for name, target := range map[string]string{"sub": host, "plain": filepath.Join(host, "passwd"), "empty": filepath.Join(host, "tool"), "going": host, "new": host} {
		must(t, os.RemoveAll(filepath.Join(dst, name)))
		must(t, os.Symlink(target, filepath.Join(dst, name)))
	}
	must(t, os.Remove(filepath.Join(dst, "sparse")))
	must(t, mknod(filepath.Join(dst, "sparse"), sys.Inode{Mode: 0o010600}))
	m := copied(t, src, dst)
	must(t, verify(t, m, src, dst))
}

// Nor does somebody who does so at the worst moments of a pass: whatever becomes of the copy, nothing outside is read, written, or removed.
func TestPlantedWhileCopied(t *testing.T) {
	t.Parallel()
	for _, live := range []bool{false, true} {
		src, dst, host := tree(t), dest(t), host(t)
		must(t, os.WriteFile(filepath.Join(src, "sub/deep/1"), []byte(strings.Repeat("x", 400_000)), 0o600))
		must(t, os.WriteFile(filepath.Join(src, "sub/2"), []byte(strings.Repeat("x", 400_000)), 0o600))
		_, err := Copy(t.Context(), opened(t, src), opened(t, dst), Options{})
		must(t, err)
		n := 0
		o := Options{Live: live, Again: []string{"plain", "sparse", "sub/deep/1", "sub/2"}, Progress: func(int64) {
			n++ // in the midst of some file, each time another directory is swapped for a link to the host's
			dir := []string{"sub/deep", "sub"}[n%2]
			at := filepath.Join(dst, dir)
			if real, err := filepath.EvalSymlinks(at); err == nil && real == at {
				must(t, os.Rename(at, filepath.Join(dst, "was"+strings.Repeat("_", n))))
				must(t, os.Symlink(filepath.Join(host, map[string]string{"sub": "", "sub/deep": "deep"}[dir]), at))
			}
		}}
		m, err := Copy(t.Context(), opened(t, src), opened(t, dst), o)
		if err == nil {
			err = verify(t, m, src, dst)
			if n > 1 && err == nil && !live {
				t.Log("the copy was whole all the same")
			}
		}
		must(t, func() error { m := copied(t, src, dst); return verify(t, m, src, dst) }())
	}
}

// Somebody who may write to the source, and knows when it is read, gets nothing of the host's into the copy.
func TestPlantedInTheSource(t *testing.T) {
	t.Parallel()
	src, dst, host := tree(t), dest(t), host(t)
	must(t, os.Mkdir(filepath.Join(src, "a"), 0o700))
	for _, name := range []string{"1", "2", "3"} {
		must(t, os.WriteFile(filepath.Join(src, "a", name), []byte("of the source"), 0o600))
	}
	swapped := false
	_, err := Copy(t.Context(), opened(t, src), opened(t, dst), Options{Live: true, Progress: func(int64) {
		if !swapped {
			swapped = true
			must(t, os.Rename(filepath.Join(src, "a"), filepath.Join(src, "b")))
			must(t, os.Symlink(host, filepath.Join(src, "a")))
		}
	}})
	must(t, err)
	for _, dir := range []string{"a", "b"} {
		for _, name := range []string{"1", "2", "3"} {
			if i, err := os.Lstat(filepath.Join(dst, dir)); err != nil || i.Mode().Type() == os.ModeSymlink {
				continue
			}
			if b, err := os.ReadFile(filepath.Join(dst, dir, name)); err == nil && string(b) == "of the host" {
				t.Errorf("%s of the host was copied", name)
			}
		}
	}
}

// What is held stays what it is, whatever its name leads to; and what opening would wait for or set off is not opened.
func TestEntry(t *testing.T) {
	t.Parallel()
	src, host := tree(t), host(t)
	root := opened(t, src).Root
	e, err := root.Child("plain")
	must(t, err)
	defer e.Close()
	must(t, os.Rename(filepath.Join(src, "plain"), filepath.Join(src, "elsewhere")))
	must(t, os.Symlink(filepath.Join(host, "passwd"), filepath.Join(src, "plain")))
	must(t, e.SetMode(0o600))
	f, err := e.Open()
	must(t, err)
	b := make([]byte, 8)
	_, err = f.Read(b)
	if must(t, err); string(b) != "content " {
		t.Errorf("read %q", b)
	}
	must(t, os.Symlink(host, filepath.Join(src, "out")))
	for _, path := range []string{"out/passwd", "../x", "/etc/passwd", "sub/../../x", "plain/."} {
		if e, err := root.Child(path); err == nil {
			e.Close()
			t.Errorf("%s was found", path)
		}
	}
	pipe, err := root.Child("pipe")
	must(t, err)
	defer pipe.Close()
	if _, err := pipe.Open(); !errors.Is(err, sys.ErrNotRegular) {
		t.Errorf("a pipe was opened: %v", err)
	}
	for name, err := range map[string]error{"create": func() error { _, _, err := root.Create("out/x"); return err }(), "mkdir": root.Mkdir("out/x"),
		"unlink": root.Unlink("out/passwd", false), "link": root.Link(root, "elsewhere", "out/x"), "symlink": root.Symlink("x", "out/y"), "parent": root.Mkdir("..")} {
		if err == nil {
			t.Errorf("%s went through a link", name)
		}
	}
	if _, _, err := root.Create("plain"); !errors.Is(err, os.ErrExist) {
		t.Errorf("created through a link: %v", err)
	}
}
