// SPDX-License-Identifier: Apache-2.0

package keydir_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/kek/kektest"
	"github.com/voluks/voluks/internal/kek/keydir"
	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

const uuid = "0b41f68c-4a4c-4d5e-9a4e-0f1d2c3b4a59"

var binding = kek.Binding{VolumeUUID: uuid, Role: "agent"}

func settings(path string) keydir.Settings {
	return keydir.Settings{At: "kek.keydir", Path: path, TestOnlyVolatile: true}
}

func directory(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := keydir.Init(settings(dir)); err != nil {
		t.Fatal(err)
	}
	return dir
}

func open(t *testing.T, dir string) kek.Provider {
	t.Helper()
	p, err := keydir.New(settings(dir))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// F28, F29, F39
func TestConformance(t *testing.T) {
	dir, other := directory(t), directory(t)
	kektest.Run(t, kektest.Target{
		New:   func(t *testing.T) kek.Provider { return open(t, dir) },
		Other: func(t *testing.T) kek.Provider { return open(t, other) },
		Down: func(t *testing.T) kek.Provider { // the medium is unmounted under it
			p := open(t, dir)
			away := dir + ".away"
			if err := os.Rename(dir, away); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if entries, _ := os.ReadDir(dir); len(entries) > 0 {
					t.Errorf("something was written where the medium is not mounted: %v", entries)
				}
				if err := errors.Join(os.RemoveAll(dir), os.Rename(away, dir)); err != nil {
					t.Fatal(err)
				}
			})
			return p
		},
	})
}

func TestCustody(t *testing.T) {
	dir := directory(t)
	p := open(t, dir)
	w, wrap, ref, err := p.Generate(t.Context(), binding)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Wipe()
	key := filepath.Join(dir, uuid+".key")
	info, err := os.Stat(key)
	if err != nil || info.Mode().Perm() != 0o600 || info.Size() != 32 {
		t.Fatalf("%v, %v", info, err)
	}
	// A second wrap for the volume, of a rotation, is under the same key.
	second, _, _, err := p.Generate(t.Context(), binding)
	if err != nil {
		t.Fatal(err)
	}
	second.Wipe()
	got, err := p.Unwrap(t.Context(), binding, ref, wrap)
	if err != nil || !got.Equal(w) {
		t.Errorf("%v", err)
	}
	got.Wipe()
	// The owner takes the key away, and brings it back.
	if err := os.Rename(key, key+".taken"); err != nil {
		t.Fatal(err)
	}
	_, err = p.Unwrap(t.Context(), binding, ref, wrap)
	var missing *keydir.MissingError
	if !errors.As(err, &missing) || missing.Path != key || !errors.Is(err, kek.ErrNotFound) || errors.Is(err, kek.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	if err := os.Rename(key+".taken", key); err != nil {
		t.Fatal(err)
	}
	got, err = p.Unwrap(t.Context(), binding, ref, wrap)
	if err != nil {
		t.Error(err)
	}
	got.Wipe()
}

func TestForget(t *testing.T) {
	dir := directory(t)
	p := open(t, dir).(kek.Forgetter)
	if probe := (&kek.Set{}).Test(t.Context(), p); probe.Err != nil {
		t.Error(probe.Err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("a test left a key behind: %v, %v", entries, err)
	}
	w, wrap, ref, err := p.Generate(t.Context(), binding)
	if err != nil {
		t.Fatal(err)
	}
	w.Wipe()
	// A crash of whoever made it has left a second name.
	if err := os.Link(filepath.Join(dir, uuid+".key"), filepath.Join(dir, "."+uuid+".key123456")); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := p.Forget(t.Context(), uuid); err != nil {
			t.Error(err)
		}
	}
	w, err = p.Unwrap(t.Context(), binding, ref, wrap)
	w.Wipe()
	if !errors.Is(err, kek.ErrNotFound) {
		t.Errorf("got %v", err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("the key is still there: %v, %v", entries, err)
	}
	if err := p.Forget(t.Context(), "../x"); err == nil {
		t.Error("forgot a path")
	}
}

// Two processes that make the key of one volume at once have the same one in the end.
func TestRace(t *testing.T) {
	dir := directory(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			p, err := keydir.New(settings(dir))
			if err != nil {
				t.Error(err)
				return
			}
			w, wrap, ref, err := p.Generate(t.Context(), binding)
			if err != nil {
				t.Error(err)
				return
			}
			defer w.Wipe()
			got, err := p.Unwrap(t.Context(), binding, ref, wrap)
			if err != nil || !got.Equal(w) {
				t.Errorf("%v", err)
			}
			got.Wipe()
		})
	}
	wg.Wait()
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 2 {
		t.Errorf("%v, %v", entries, err)
	}
}

// F29: a key that is gone after the next boot.
func TestVolatile(t *testing.T) {
	for _, memory := range []string{"/dev/shm", "/run", "/tmp"} {
		if stat, err := sys.Statfs(memory); err != nil || stat.Type != 0x01021994 {
			continue
		}
		dir, err := os.MkdirTemp(memory, "voluks-test-")
		if err != nil {
			continue
		}
		defer os.RemoveAll(dir)
		_, err = keydir.Init(keydir.Settings{At: "kek.keydir", Path: dir})
		check(t, "init", err, "tmpfs")
		if _, err := keydir.Init(settings(dir)); err != nil {
			t.Fatal(err)
		}
		p, err := keydir.New(keydir.Settings{At: "kek.keydir", Path: dir})
		if err != nil {
			t.Fatal(err)
		}
		_, _, _, err = p.Generate(t.Context(), binding)
		check(t, "generate", err, "tmpfs")
		if entries, _ := os.ReadDir(dir); len(entries) != 1 {
			t.Errorf("a key was made: %v", entries)
		}
		return
	}
	testenv.Missing(t, "tmpfs", "no tmpfs that can be written to")
}

func check(t *testing.T, what string, err error, words string) {
	t.Helper()
	var setting *kek.ConfigError
	if !errors.As(err, &setting) || setting.Setting != "kek.keydir.path" || !strings.Contains(err.Error(), words) {
		t.Errorf("%s: got %v", what, err)
	}
}

func TestBad(t *testing.T) {
	empty := t.TempDir()
	_, err := keydir.New(settings(empty))
	check(t, "no mark", err, "is its medium mounted?")
	if !errors.Is(err, kek.ErrUnavailable) {
		t.Errorf("no mark: %v", err)
	}
	_, err = keydir.New(settings(filepath.Join(empty, "nothing")))
	check(t, "no directory", err, "is its medium mounted?")
	_, err = keydir.New(settings("keys"))
	check(t, "relative", err, "absolute")
	_, err = keydir.Init(settings(filepath.Join(empty, "nothing")))
	check(t, "init of nothing", err, "no such file")

	dir := directory(t)
	if err := os.Chmod(dir, 0o770); err != nil {
		t.Fatal(err)
	}
	_, err = keydir.New(settings(dir))
	check(t, "others can write", err, "0770")

	dir = directory(t)
	mark := filepath.Join(dir, "voluks-keydir")
	_, err = keydir.New(settings(mark))
	check(t, "a file", err, "not a directory")
	before, err := keydir.Init(settings(dir))
	if err != nil || before != open(t, dir).Ref() {
		t.Errorf("a second init: %v, %v", before, err)
	}
	p := open(t, dir)
	key := filepath.Join(dir, uuid+".key")
	for what, content := range map[string][]byte{"short": []byte("\x80short"), "readable": nil} {
		os.Remove(key)
		if content != nil {
			if err := os.WriteFile(key, content, 0o600); err != nil {
				t.Fatal(err)
			}
		} else {
			w, _, _, err := p.Generate(t.Context(), binding)
			if err != nil {
				t.Fatal(err)
			}
			w.Wipe()
			if err := os.Chmod(key, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		_, _, _, err := p.Generate(t.Context(), binding)
		check(t, what, err, key)
		_, err = p.Unwrap(t.Context(), binding, p.Ref(), make([]byte, 61))
		check(t, what, err, key)
	}
	if err := os.WriteFile(mark, []byte("voluks key directory 0123456789abcdef\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = p.Unwrap(t.Context(), binding, p.Ref(), []byte("x"))
	check(t, "another medium", err, "another key directory")
	if err := os.WriteFile(mark, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = keydir.New(settings(dir))
	check(t, "damaged mark", err, "damaged")
	if _, _, _, err := p.Generate(t.Context(), kek.Binding{VolumeUUID: "../../etc/shadow", Role: "agent"}); err == nil {
		t.Error("a volume that is a path got a key")
	}
}
