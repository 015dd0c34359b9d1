// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

func openFile(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// F16: the lock excludes other descriptions, in the same process too, and ends with the description.
func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	a, b := openFile(t, path), openFile(t, path)
	if err := TryLock(a); err != nil {
		t.Fatal(err)
	}
	if err := TryLock(a); err != nil {
		t.Errorf("again on the same description: %v", err)
	}
	if err := TryLock(b); !errors.Is(err, ErrLocked) {
		t.Errorf("second lock: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := LockWait(ctx, b); !errors.Is(err, ErrLocked) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("wait in vain: %v", err)
	}
	done := make(chan error)
	go func() { done <- LockWait(t.Context(), b) }()
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Errorf("wait: %v", err)
	}
}

// The lock of an agent's volume must outlive the agent while a child works on it.
func TestChildKeepsLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	a, b := openFile(t, path), openFile(t, path)
	if err := TryLock(a); err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	cmd := exec.Command("cat")
	cmd.Stdin = r
	cmd.ExtraFiles = []*os.File{a}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if err := TryLock(b); !errors.Is(err, ErrLocked) {
		t.Errorf("lock while the child lives: %v", err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if err := TryLock(b); err != nil {
		t.Errorf("lock after the child: %v", err)
	}
}
