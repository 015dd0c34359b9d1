// SPDX-License-Identifier: Apache-2.0

package copytree

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/voluks/voluks/internal/testenv"
)

// What happens to the source after it was copied is seen, whatever the source is called by then; a new name of it alone is nothing.
func TestUnchangedRenamed(t *testing.T) {
	testenv.Outside(t)
	t.Parallel()
	for name, change := range map[string]func(dir string) error{
		"nothing": func(string) error { return nil },
		"new":     func(d string) error { return os.WriteFile(filepath.Join(d, "sub/deep/new"), nil, 0o600) },
		"at root": func(d string) error {
			return keepingTime(d, func(p string) error { return os.WriteFile(filepath.Join(p, "new"), nil, 0o600) })
		},
	} {
		src, dst := tree(t), dest(t)
		m := copied(t, src, dst)
		held := opened(t, src)
		must(t, os.Rename(src, src+".aside"))
		must(t, change(src+".aside"))
		if err := m.Unchanged(t.Context(), held, true); (err == nil) != (name == "nothing") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What anybody does to the copy after it was verified is found, at once and though its times do not show it; what Verify itself did is not.
func TestTouched(t *testing.T) {
	testenv.Outside(t)
	t.Parallel()
	for want, touch := range map[string]func(dir string) error{
		"": func(string) error { return nil },
		"sub/tool": func(d string) error {
			return keepingTime(filepath.Join(d, "sub/tool"), func(p string) error { return writeAt(p, "X", 3) })
		},
		"/": func(d string) error {
			return keepingTime(d, func(p string) error { return os.Mkdir(filepath.Join(p, "new"), 0o700) })
		},
		"sub/link": func(d string) error { return os.Remove(filepath.Join(d, "sub/link")) },
		"sub/deep/same": func(d string) error {
			return errors.Join(os.RemoveAll(filepath.Join(d, "sub/deep")), os.Symlink("/", filepath.Join(d, "sub/deep")))
		},
	} {
		src, dst := tree(t), dest(t)
		m := copied(t, src, dst)
		must(t, verify(t, m, src, dst))
		must(t, touch(dst))
		got, err := m.Touched(t.Context(), opened(t, dst))
		if want != "" {
			want = filepath.Join(dst, want)
		}
		if must(t, err); got != want {
			t.Errorf("%q instead of %q", got, want)
		}
	}
}

// Long afterwards, what nobody has touched reads back as what was copied; what rots is found.
func TestRecheck(t *testing.T) {
	testenv.Outside(t)
	t.Parallel()
	src, dst := tree(t), dest(t)
	m := copied(t, src, dst)
	must(t, verify(t, m, src, dst))
	r, err := m.Recheck(t.Context(), opened(t, dst))
	if must(t, err); r != (Recheck{Verified: 5}) {
		t.Errorf("%+v", r)
	}
	must(t, writeAt(filepath.Join(dst, "plain"), "of its user", 0))
	must(t, os.Remove(filepath.Join(dst, "empty")))
	r, err = m.Recheck(t.Context(), opened(t, dst))
	if must(t, err); r != (Recheck{3, 1, 1}) {
		t.Errorf("%+v", r)
	}
	for i := range m.entries {
		if m.entries[i].path == "sub/tool" {
			m.entries[i].sum = make([]byte, 32) // as if the disk had rotted
		}
	}
	var differs *DiffersError
	if _, err := m.Recheck(t.Context(), opened(t, dst)); !errors.As(err, &differs) {
		t.Errorf("rotten: %v", err)
	}
}

// whileReading is a context that is asked now and then whether it has ended.
type whileReading struct {
	context.Context
	do func()
}

func (c whileReading) Err() error {
	c.do()
	return c.Context.Err()
}

// A file that its user writes while it is read back is his, and not rotten.
func TestRecheckInUse(t *testing.T) {
	testenv.Outside(t)
	t.Parallel()
	src, dst := tree(t), dest(t)
	m := copied(t, src, dst)
	must(t, verify(t, m, src, dst))
	asked, want := 0, Recheck{Verified: 4, Changed: 1}
	for i, e := range m.entries {
		if e.path == "sparse" {
			m.entries = append(m.entries[i:i+1:i+1], slices.Concat(m.entries[:i], m.entries[i+1:])...)
			break
		}
	}
	ctx := whileReading{t.Context(), func() {
		if asked++; asked == 2 { // after its first hole, before its content
			must(t, writeAt(filepath.Join(dst, "sparse"), "of its user", 1<<20))
		}
	}}
	if r, err := m.Recheck(ctx, opened(t, dst)); err != nil || r != want {
		t.Errorf("%+v, %v", r, err)
	}
}

// Only what was copied is removed, by what it is: what was added, replaced or changed meanwhile stays, with the directories that it is in, and nothing is
// followed out of the tree. What has another name outside is told. It goes on where it was interrupted.
func TestRemove(t *testing.T) {
	t.Parallel()
	src, dst, host := tree(t), dest(t), host(t)
	must(t, os.Mkdir(filepath.Join(src, "other"), 0o700))
	must(t, os.WriteFile(filepath.Join(src, "other/tool"), []byte("x"), 0o600))
	must(t, os.Link(filepath.Join(src, "no text \xff\nnew line"), filepath.Join(filepath.Dir(src), "outside")))
	m := copied(t, src, dst)
	root := opened(t, src)
	if _, err := m.Remove(t.Context(), root); err == nil {
		t.Fatal("removed without a verification")
	}
	must(t, verify(t, m, src, dst))
	must(t, os.WriteFile(filepath.Join(src, "sub/deep/new"), nil, 0o600))
	must(t, keepingTime(filepath.Join(src, "sub/tool"), func(p string) error { return writeAt(p, "X", 3) }))
	must(t, os.Rename(filepath.Join(src, "empty"), filepath.Join(src, "moved")))
	must(t, os.WriteFile(filepath.Join(src, "empty"), nil, 0o400)) // another file of that name
	must(t, os.RemoveAll(filepath.Join(src, "other")))
	must(t, os.Symlink(host, filepath.Join(src, "other")))
	r, err := m.Remove(t.Context(), root)
	must(t, err)
	var kept []string
	for _, path := range r.Kept {
		rel, err := filepath.Rel(src, path)
		must(t, err)
		kept = append(kept, rel)
	}
	slices.Sort(kept)
	if want := []string{"empty", "other", "other/tool", "sub", "sub/deep", "sub/tool"}; !slices.Equal(kept, want) {
		t.Errorf("kept %q", kept)
	}
	if !slices.Equal(r.Elsewhere, []string{"no text \xff\nnew line"}) {
		t.Errorf("elsewhere %q", r.Elsewhere)
	}
	for name, there := range map[string]bool{"sub/deep/new": true, "sub/tool": true, "moved": true, "empty": true, "plain": false, "sub/link": false, "socket": false, "pipe": false} {
		if _, err := os.Lstat(filepath.Join(src, name)); (err == nil) != there {
			t.Errorf("%s: %v", name, err)
		}
	}
	must(t, errors.Join(os.Remove(filepath.Join(src, "other")), os.Remove(filepath.Join(src, "empty")), os.Remove(filepath.Join(src, "sub/tool")), os.Remove(filepath.Join(src, "sub/deep/new"))))
	r, err = m.Remove(t.Context(), root)
	if must(t, err); len(r.Kept) != 1 || filepath.Base(r.Kept[0]) != "moved" {
		t.Errorf("kept %q", r.Kept)
	}
	must(t, os.Remove(filepath.Join(src, "moved")))
	if r, err = m.Remove(t.Context(), root); err != nil || r.Removed != 0 || len(r.Kept) != 0 {
		t.Errorf("%+v, %v", r, err)
	}
	must(t, os.Remove(src))
}
