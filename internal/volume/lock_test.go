// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/voluks/voluks/internal/config"
	"github.com/voluks/voluks/internal/sys"
)

func lockManager(t *testing.T) *Manager {
	return New(Options{Paths: config.PathsUnder(t.TempDir())})
}

func briefly(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}

func TestLockExcludes(t *testing.T) {
	m := lockManager(t)
	l, err := m.lockVolume(t.Context(), "db", "mount")
	if err != nil {
		t.Fatal(err)
	}
	_, err = m.lockVolume(briefly(t), "db", "unmount")
	if classify(err) != CodeBusy || !strings.Contains(err.Error(), "mount (process ") || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	other, err := m.lockVolume(briefly(t), "other", "mount")
	if err != nil {
		t.Fatal(err)
	}
	other.Release()
	l.Release()
	l, err = m.lockVolume(briefly(t), "db", "unmount")
	if err != nil {
		t.Fatal(err)
	}
	l.Release()
}

// The note of a process that was killed stays in the file, and means nothing without the flock.
func TestLockAfterKill(t *testing.T) {
	m := lockManager(t)
	path := m.o.Paths.Lock("db")
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, note := range []string{`{"pid":1,"op":"mount","since":"2020-01-01T00:00:00Z","deadline":"2020-01-01T00:01:00Z"}`, "", "{", "null"} {
		if err := os.WriteFile(path, []byte(note), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, stuck := m.stuck("db"); stuck {
			t.Errorf("%q: stuck", note)
		}
		l, err := m.lockVolume(briefly(t), "db", "mount")
		if err != nil {
			t.Fatalf("%q: %v", note, err)
		}
		l.Release()
	}
}

// A lock held past its deadline is known as such by everybody, at once.
func TestLockStuck(t *testing.T) {
	m := lockManager(t)
	l, err := m.lockVolume(briefly(t), "db", "mount")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Release()
	if _, stuck := m.stuck("db"); stuck {
		t.Error("stuck before the deadline")
	}
	m.now = func() time.Time { return time.Now().Add(undoTime + time.Second) }
	if note, stuck := m.stuck("db"); !stuck || note.Op != "mount" || note.PID != os.Getpid() {
		t.Errorf("note %+v, stuck %t", note, stuck)
	}
	begin := time.Now()
	if _, err := m.lockVolume(t.Context(), "db", "mount"); classify(err) != CodeStuck {
		t.Errorf("got %v", err)
	}
	if took := time.Since(begin); took > time.Second {
		t.Errorf("it took %v", took)
	}
}

// A child with the descriptor keeps the lock: a mkfs that outlives its worker.
func TestLockOfAChild(t *testing.T) {
	m := lockManager(t)
	l, err := m.lockVolume(t.Context(), "db", "create")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sleep", "1000")
	cmd.ExtraFiles = []*os.File{l.File}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	l.File.Close() // as the end of the worker does, without a word
	if _, err := m.lockVolume(briefly(t), "db", "mount"); classify(err) != CodeBusy || !strings.Contains(err.Error(), "create (process ") {
		t.Errorf("got %v", err)
	}
	cmd.Process.Kill()
	cmd.Wait()
	l, err = m.lockVolume(t.Context(), "db", "mount")
	if err != nil {
		t.Fatal(err)
	}
	l.Release()
}

// Somebody cleared the runtime directory: the lock of the old file locks nobody out, so it must not be taken for one.
func TestLockFileReplaced(t *testing.T) {
	m := lockManager(t)
	path := m.o.Paths.Lock("db")
	l, err := m.lockVolume(t.Context(), "db", "mount")
	if err != nil {
		t.Fatal(err)
	}
	old := l.File
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	other, err := m.lockVolume(briefly(t), "db", "mount")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Release()
	old.Close()
	// While the new file is locked, one who has the old one open may lock it, and must notice.
	if err := sys.TryLock(other.File); err != nil {
		t.Fatal(err)
	}
	if _, err := m.lockVolume(briefly(t), "db", "mount"); classify(err) != CodeBusy {
		t.Errorf("got %v", err)
	}
}

// The longest name has a lock.
func TestLockOfALongName(t *testing.T) {
	m := lockManager(t)
	l, err := m.lockVolume(t.Context(), strings.Repeat("x", maxName), "mount")
	if err != nil {
		t.Fatal(err)
	}
	l.Release()
}

func TestUndo(t *testing.T) {
	var u undo
	var order []string
	step := func(name string, err error) {
		u.add(name, func(ctx context.Context) error {
			if ctx.Err() != nil {
				t.Error("the undo is cancelled")
			}
			if d, ok := ctx.Deadline(); !ok || time.Until(d) > undoTime {
				t.Error("the undo has no deadline of its own")
			}
			order = append(order, name)
			return err
		})
	}
	bad := errors.New("bad")
	step("one", nil)
	step("two", bad)
	step("three", nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := errors.New("cause")
	cause := err
	u.onError(ctx, &err)
	if strings.Join(order, " ") != "three two one" || !errors.Is(err, cause) || !errors.Is(err, bad) || !strings.HasPrefix(err.Error(), "cause; ") {
		t.Errorf("order %v, error %v", order, err)
	}
	u.onError(ctx, &err)
	if len(order) != 3 {
		t.Error("undone twice")
	}
}
