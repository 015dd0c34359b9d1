// SPDX-License-Identifier: Apache-2.0

package atomicfile

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/renameio/v2"

	"github.com/voluks/voluks/internal/testenv"
)

func TestMain(m *testing.M) {
	if path := os.Getenv("VOLUKS_TEST_WRITER"); path != "" {
		for n := 0; ; n++ {
			if err := Write(path, content(n), 0o600); err != nil {
				fmt.Println(err)
				os.Exit(1)
			}
			if n == 10 {
				fmt.Println("started")
			}
		}
	}
	testenv.Main(m)
}

func content(n int) []byte {
	return []byte(strings.Repeat(fmt.Sprintf("generation %d\n", n), 5000))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestWriteRead(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077))
	path := filepath.Join(t.TempDir(), "record.json")
	for _, mode := range []os.FileMode{0o600, 0o644, 0o400, 0o640} {
		data := []byte("content of mode " + mode.String())
		must(t, Write(path, data, mode))
		got, err := Read(path, int64(len(data)))
		if err != nil || string(got) != string(data) {
			t.Errorf("%q, %v", got, err)
		}
		st, err := os.Stat(path)
		if err != nil || st.Mode() != mode {
			t.Errorf("mode %v instead of %v, %v", st.Mode(), mode, err)
		}
		if _, err := Read(path, int64(len(data))-1); !errors.Is(err, ErrTooLarge) {
			t.Errorf("one byte more than allowed: %v", err)
		}
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("left beside the file: %v, %v", entries, err)
	}
	must(t, Write(path, nil, 0o600))
	if got, err := Read(path, 0); err != nil || len(got) != 0 {
		t.Errorf("empty: %q, %v", got, err)
	}
}

func TestNotRegular(t *testing.T) {
	dir := t.TempDir()
	target, link, pipe, sub := filepath.Join(dir, "target"), filepath.Join(dir, "link"), filepath.Join(dir, "pipe"), filepath.Join(dir, "sub")
	must(t, os.WriteFile(target, []byte("old"), 0o600))
	must(t, os.Symlink(target, link))
	must(t, syscall.Mkfifo(pipe, 0o600))
	must(t, os.Mkdir(sub, 0o700))
	for _, path := range []string{link, pipe, sub, "/dev/null"} {
		if err := Write(path, []byte("new"), 0o600); !errors.Is(err, ErrNotRegular) {
			t.Errorf("write %s: %v", path, err)
		}
		if _, err := Read(path, 100); !errors.Is(err, ErrNotRegular) {
			t.Errorf("read %s: %v", path, err)
		}
	}
	if b, err := os.ReadFile(target); err != nil || string(b) != "old" {
		t.Errorf("target of the link: %q, %v", b, err)
	}
	if st, err := os.Lstat(link); err != nil || st.Mode()&os.ModeSymlink == 0 {
		t.Errorf("link: %v, %v", st, err)
	}
	if _, err := Read(filepath.Join(dir, "none"), 1); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if err := Write(filepath.Join(dir, "no/such"), nil, 0o600); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

// F7: what is there stays, whatever it is, and nothing is left beside it.
func TestCreate(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "new")
	must(t, Create(path, []byte("content"), 0o600))
	for name, place := range map[string]func(path string) error{
		"new":       func(string) error { return nil },
		"empty":     func(path string) error { return os.WriteFile(path, nil, 0o644) },
		"dangling":  func(path string) error { return os.Symlink("/nonexistent/file", path) },
		"directory": func(path string) error { return os.Mkdir(path, 0o700) },
	} {
		must(t, place(filepath.Join(dir, name)))
		if err := Create(filepath.Join(dir, name), []byte("other"), 0o600); !errors.Is(err, os.ErrExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got, err := Read(path, 100); err != nil || string(got) != "content" {
		t.Errorf("%q, %v", got, err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode() != 0o600 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 4 {
		t.Errorf("left beside the files: %v, %v", entries, err)
	}
	if err := Create(filepath.Join(dir, "no/such"), nil, 0o600); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

// What cannot be written leaves what was there, and nothing beside it.
func TestFailedWriteLeavesTheOld(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "record.json")
	must(t, Write(path, []byte("old"), 0o600))
	// A limit on the size of files is a full disk for this process alone.
	var old syscall.Rlimit
	must(t, syscall.Getrlimit(syscall.RLIMIT_FSIZE, &old))
	must(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 100, Max: old.Max}))
	err := Write(path, make([]byte, 1000), 0o600)
	must(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &old))
	if err == nil {
		t.Error("wrote more than the limit")
	}
	if b, err := Read(path, 100); err != nil || string(b) != "old" {
		t.Errorf("%q, %v", b, err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

// F9: killed at any moment, the old or the new content is there, whole.
func TestKilledWriter(t *testing.T) {
	exe, err := os.Executable()
	must(t, err)
	path := filepath.Join(t.TempDir(), "record.json")
	for range 5 {
		cmd := exec.Command(exe)
		cmd.Env = append(os.Environ(), "VOLUKS_TEST_WRITER="+path)
		out, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		line := make([]byte, 8)
		if _, err := out.Read(line); err != nil || string(line) != "started\n" {
			t.Errorf("writer says %q, %v", line, err)
		}
		// Everybody who reads meanwhile sees a whole file.
		for end := time.Now().Add(20 * time.Millisecond); time.Now().Before(end); {
			whole(t, path)
		}
		must(t, cmd.Process.Kill())
		_ = cmd.Wait()
		whole(t, path)
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	must(t, err)
	for _, e := range entries {
		if e.Name() != filepath.Base(path) && !IsTemporary(e.Name()) {
			t.Errorf("%s is not recognised as left by a killed writer", e.Name())
		}
	}
}

func TestIsTemporary(t *testing.T) {
	f, err := renameio.NewPendingFile(filepath.Join(t.TempDir(), "record.json"))
	must(t, err)
	defer f.Cleanup()
	for name, want := range map[string]bool{
		filepath.Base(f.Name()): true, ".record.json7": true, "record.json": false, "record.json7": false, ".record.json": false, ".7": false, "7": false, "": false,
	} {
		if IsTemporary(name) != want {
			t.Errorf("%q: %t", name, !want)
		}
	}
}

func whole(t *testing.T, path string) {
	t.Helper()
	b, err := Read(path, 1<<20)
	must(t, err)
	first, _, _ := strings.Cut(string(b), "\n")
	if string(b) != strings.Repeat(first+"\n", 5000) {
		t.Fatalf("%d bytes that begin with %q are not what was written", len(b), first)
	}
}

func TestConcurrentWriters(t *testing.T) {
	path := filepath.Join(t.TempDir(), "record.json")
	var wg sync.WaitGroup
	for n := range 8 {
		wg.Go(func() {
			if err := Write(path, content(n), 0o600); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	whole(t, path)
}
