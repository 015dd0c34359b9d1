// SPDX-License-Identifier: Apache-2.0

package copytree

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/internal/testenv"
)

// Everything is there in the end, which Verify and, independent of it, find's view of both trees say.
func TestCopy(t *testing.T) {
	t.Parallel()
	src, dst := tree(t), dest(t)
	m := copied(t, src, dst)
	must(t, verify(t, m, src, dst))
	if m.Stats.Sockets != 1 || m.Stats.Copied != 5 {
		t.Errorf("%+v", m.Stats)
	}
	list := func(dir string) string {
		find := exec.CommandContext(t.Context(), "find", ".", "!", "-type", "s", "-printf", "%P %y %m %U %G %n %l %T@\n")
		find.Dir = dir
		out, err := find.Output()
		must(t, err)
		return strings.Join(slices.Sorted(strings.Lines(string(out))), "")
	}
	if a, b := list(src), list(dst); a != b {
		t.Errorf("source:\n%s\ncopy:\n%s", a, b)
	}
	if i := lstat(t, filepath.Join(dst, "sparse")); i.Size != 3<<20 || i.Allocated > 1<<19 {
		t.Errorf("sparse: %+v", i)
	}
	must(t, entry(filepath.Join(dst, "sub/deep/same"), func(e *sys.Entry) error {
		x, err := e.Xattrs()
		if x[attribute] != "kept" || x["system.posix_acl_access"] != acl {
			t.Errorf("attributes %q", x)
		}
		return err
	}))
}

// A second pass copies what has changed, and removes what is gone.
func TestCopyAgain(t *testing.T) {
	t.Parallel()
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
	must(t, setXattrs(filepath.Join(dst, "sub"), map[string]string{"system.posix_acl_default": given}))
	m := copied(t, src, dst)
	if m.Stats.Written > 1<<20 || m.Stats.Removed != 1 {
		t.Errorf("%+v", m.Stats)
	}
	must(t, verify(t, m, src, dst))
	if _, err := os.Lstat(filepath.Join(dst, "sub/tool")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what is gone: %v", err)
	}
}

// Whatever is wrong with a copy is found; a pipe in the place of a file does not stop the search.
func TestVerify(t *testing.T) {
	testenv.Outside(t)
	t.Parallel()
	replace := func(path string, make func(path string) error) error {
		return keepingTime(path, func(p string) error {
			var was sys.Inode
			err := entry(p, func(e *sys.Entry) error { was = e.Inode; return nil })
			if err := errors.Join(err, os.Remove(p), make(p), os.Lchown(p, was.UID, was.GID)); err != nil || was.Type() == sys.TypeLink {
				return err
			}
			return entry(p, func(e *sys.Entry) error {
				if e.Inode.Type() == sys.TypeLink {
					return nil
				}
				return e.SetMode(was.Mode)
			})
		})
	}
	for name, spoil := range map[string]func(dir string) error{
		"content": func(d string) error {
			return keepingTime(filepath.Join(d, "plain"), func(p string) error { return writeAt(p, "X", 500_000) })
		},
		"hole": func(d string) error {
			return keepingTime(filepath.Join(d, "sparse"), func(p string) error { return writeAt(p, "X", 5<<19) })
		},
		"size":      func(d string) error { return os.Truncate(filepath.Join(d, "sparse"), 1) },
		"mode":      func(d string) error { return os.Chmod(filepath.Join(d, "sub/tool"), 0o755) },
		"time":      func(d string) error { return setTimes(filepath.Join(d, "empty"), time.Now()) },
		"missing":   func(d string) error { return os.Remove(filepath.Join(d, "sub/link")) },
		"attribute": func(d string) error { return setXattrs(filepath.Join(d, "plain"), nil) },
		"name too many": func(d string) error {
			return keepingTime(filepath.Join(d, "sub/deep"), func(p string) error { return os.WriteFile(filepath.Join(p, "planted"), nil, 0o600) })
		},
		"name at root": func(d string) error {
			return keepingTime(d, func(p string) error { return os.Mkdir(filepath.Join(p, "lost+found"), 0o700) })
		},
		"pipe": func(d string) error {
			return replace(filepath.Join(d, "sub/tool"), func(p string) error { return mknod(p, sys.Inode{Mode: 0o010755}) })
		},
		"link to itself": func(d string) error {
			return replace(filepath.Join(d, "sub/tool"), func(p string) error { return os.Symlink("tool", p) })
		},
		"hard link": func(d string) error {
			return replace(filepath.Join(d, "sub/deep/same"), func(p string) error {
				b, err := os.ReadFile(filepath.Join(d, "plain"))
				return errors.Join(err, os.WriteFile(p, b, 0o600), setXattrs(p, map[string]string{attribute: "kept", "system.posix_acl_access": acl}))
			})
		},
		"target": func(d string) error {
			return replace(filepath.Join(d, "sub/link"), func(p string) error { return os.Symlink("../elsewhere", p) })
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			src, dst := tree(t), dest(t)
			m := copied(t, src, dst)
			must(t, spoil(dst))
			var differs *DiffersError
			if err := verify(t, m, src, dst); !errors.As(err, &differs) {
				t.Errorf("error: %v", err)
			}
		})
	}
}

// A source that is used during the last pass is found, though nothing but the kernel's own time shows it, or a name.
func TestSourceInUse(t *testing.T) {
	testenv.Outside(t)
	t.Parallel()
	for name, change := range map[string]func(dir string) error{
		"content": func(d string) error {
			return keepingTime(filepath.Join(d, "plain"), func(p string) error { return writeAt(p, "X", 3) })
		},
		"a new name": func(d string) error {
			return keepingTime(d, func(p string) error { return os.WriteFile(filepath.Join(p, "new"), nil, 0o600) })
		},
		"gone": func(d string) error { return os.Remove(filepath.Join(d, "sub/link")) },
		"another of it": func(d string) error {
			return keepingTime(filepath.Join(d, "sub"), func(p string) error {
				p = filepath.Join(p, "tool")
				return errors.Join(os.Rename(p, p+".old"), os.WriteFile(p, []byte("#!/bin/sh\n"), 0o755), os.Remove(p+".old"))
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var changed *ChangedError
			src, dst := tree(t), dest(t)
			m := copied(t, src, dst)
			must(t, change(src))
			if err := verify(t, m, src, dst); !errors.As(err, &changed) {
				t.Errorf("after the copy: %v", err)
			}
			if err := m.Unchanged(t.Context(), opened(t, src), false); !errors.As(err, &changed) {
				t.Errorf("without reading: %v", err)
			}
		})
	}
	// While it is copied: by the copy, or if that had been there before by the verification.
	src, dst := tree(t), dest(t)
	var once sync.Once
	m, err := Copy(t.Context(), opened(t, src), opened(t, dst), Options{Progress: func(int64) {
		once.Do(func() {
			for _, name := range []string{"sub/tool", "empty", "sub/deep", "sparse"} {
				must(t, os.Chmod(filepath.Join(src, name), 0o700))
			}
		})
	}})
	if err == nil {
		err = verify(t, m, src, dst)
	}
	var changed *ChangedError
	if !errors.As(err, &changed) {
		t.Errorf("while it is copied: %v", err)
	}

	// Between the look at all of it and the copy, so that what is copied may be of two moments.
	src, dst = tree(t), dest(t)
	since, file := time.Now(), filepath.Join(src, "sub/tool")
	for !lstat(t, file).Ctime.After(since) { // the clock of file systems is a coarse one
		must(t, os.Chmod(file, 0o700))
	}
	if _, err := Copy(t.Context(), opened(t, src), opened(t, dst), Options{Since: since}); !errors.As(err, &changed) || changed.Path != file {
		t.Errorf("before it is copied: %v", err)
	}
	_, err = Copy(t.Context(), opened(t, src), opened(t, dst), Options{Since: since, Live: true})
	must(t, err)
}

// A copy that is cut anywhere is finished by the next one.
func TestCopyCut(t *testing.T) {
	testenv.Outside(t)
	t.Parallel()
	src := tree(t)
	for cut := int64(1); ; cut += 400_000 {
		dst := dest(t)
		ctx, cancel := context.WithCancel(t.Context())
		_, err := Copy(ctx, opened(t, src), opened(t, dst), Options{Progress: func(done int64) {
			if done >= cut {
				cancel()
			}
		}})
		cancel()
		m := copied(t, src, dst)
		must(t, verify(t, m, src, dst))
		if err == nil {
			return
		}
	}
}

// What an earlier pass copied, and what was written since without its times showing it, is found and copied again; so is what a crash left as zeros.
func TestStale(t *testing.T) {
	testenv.Outside(t)
	t.Parallel()
	src, dst := tree(t), dest(t)
	copied(t, src, dst)
	must(t, keepingTime(filepath.Join(src, "plain"), func(p string) error { return writeAt(p, "through a mapping", 4096) }))
	must(t, keepingTime(filepath.Join(dst, "sparse"), func(p string) error {
		return errors.Join(os.Truncate(p, 0), os.Truncate(p, 3<<20))
	}))
	m := copied(t, src, dst)
	if m.Stats.Copied != 0 {
		t.Errorf("times show it: %+v", m.Stats)
	}
	var stale *StaleError
	if err := verify(t, m, src, dst); !errors.As(err, &stale) || len(stale.Paths) != 2 || m.Verified {
		t.Fatalf("verified: %v", err)
	}
	m, n, err := CopyVerified(t.Context(), opened(t, src), opened(t, dst), Options{})
	if must(t, err); n != 2 || !m.Verified {
		t.Errorf("%d were stale", n)
	}
}

// A manifest is written and read as it is, and a part of one is none.
func TestManifest(t *testing.T) {
	testenv.Outside(t)
	t.Parallel()
	src, dst := tree(t), dest(t)
	m := copied(t, src, dst)
	var b bytes.Buffer
	if err := m.Write(&b); err == nil {
		t.Error("written without a verification")
	}
	must(t, verify(t, m, src, dst))
	must(t, m.Write(&b))
	read, err := ReadManifest(bytes.NewReader(b.Bytes()))
	must(t, err)
	must(t, read.Unchanged(t.Context(), opened(t, src), false))
	if touched, err := read.Touched(t.Context(), opened(t, dst)); touched != "" || err != nil {
		t.Errorf("touched %q, %v", touched, err)
	}
	for _, cut := range []int{0, 10, b.Len() / 2, b.Len() - 1} {
		if _, err := ReadManifest(bytes.NewReader(b.Bytes()[:cut])); err == nil {
			t.Errorf("read %d of %d bytes", cut, b.Len())
		}
	}
}
