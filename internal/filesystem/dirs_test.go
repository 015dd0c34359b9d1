// SPDX-License-Identifier: Apache-2.0

package filesystem

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/voluks/voluks/internal/sys"
)

func TestBare(t *testing.T) {
	mnt := filepath.Join(t.TempDir(), "mnt")
	immutable, err := MakeBare(mnt)
	must(t, err)
	t.Cleanup(func() { _ = RemoveBare(mnt) })
	st, err := os.Stat(mnt)
	if err != nil || st.Mode().Perm() != 0 || !st.IsDir() {
		t.Errorf("%v, %v", st, err)
	}
	// F21: while nothing is mounted, a write is an error, for root where the file system can say so.
	if err := os.WriteFile(filepath.Join(mnt, "plaintext"), nil, 0o600); err == nil && (immutable || os.Getuid() != 0) {
		t.Error("could be written to")
	}
	_ = os.Remove(filepath.Join(mnt, "plaintext"))
	if again, err := MakeBare(mnt); err != nil || again != immutable {
		t.Errorf("again: %t, %v", again, err)
	}
	must(t, RemoveBare(mnt))
	must(t, RemoveBare(mnt))
	if _, err := os.Stat(mnt); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

func TestBareRefuses(t *testing.T) {
	dir := t.TempDir()
	full := filepath.Join(dir, "full")
	must(t, os.MkdirAll(filepath.Join(full, "sub"), 0o700))
	must(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
	must(t, os.Symlink(full, filepath.Join(dir, "link")))
	for _, p := range []string{full, filepath.Join(dir, "file"), filepath.Join(dir, "link"), filepath.Join(dir, "no/such"), "relative", "/proc"} {
		if i, err := MakeBare(p); err == nil || i {
			t.Errorf("made %s: %t, %v", p, i, err)
		}
	}
	// F25
	for _, p := range []string{full, filepath.Join(dir, "file"), filepath.Join(dir, "link"), "relative", "/proc"} {
		if err := RemoveBare(p); err == nil && p != "relative" {
			t.Errorf("removed %s", p)
		}
	}
	must(t, os.Mkdir(filepath.Join(full, "sub", "still changeable"), 0o700))
	if _, err := MakeBare(full); err == nil || !strings.Contains(err.Error(), `"sub"`) {
		t.Errorf("does not name what is in the way: %v", err)
	}
	if err := RemoveBare("/proc"); !errors.Is(err, ErrMounted) || !errors.Is(err, sys.ErrBusy) {
		t.Errorf("a mount: %v", err)
	}
}

// F21, F28: without a mount there is no data directory.
func TestMakeDataNeedsAMount(t *testing.T) {
	dir := t.TempDir()
	if err := MakeData(dir, 0, 0, 0o755); err == nil {
		t.Error("made a plaintext directory")
	}
	if _, err := os.Stat(filepath.Join(dir, DataDir)); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

func TestUsageOf(t *testing.T) {
	u, err := UsageOf(t.TempDir())
	if err != nil || u.Size <= 0 || u.Used < 0 || u.Used+u.Avail > u.Size {
		t.Errorf("%+v, %v", u, err)
	}
}
