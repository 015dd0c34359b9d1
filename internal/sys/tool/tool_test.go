// SPDX-License-Identifier: Apache-2.0

package tool

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/voluks/voluks/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

func sh(script string) Command { return Command{Path: "/bin/sh", Args: []string{"-c", script}} }

func TestFind(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, nil, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	program := write("mkfs.some", 0o755)
	write("no-program", 0o644)
	if err := os.Mkdir(filepath.Join(dir, "directory"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", "relative:"+dir)
	if got, err := Find("mkfs.some", "somefs"); err != nil || got != program {
		t.Errorf("%s, %v", got, err)
	}
	for _, name := range []string{"no-program", "directory", "none"} {
		got, err := Find(name, "package-of-it")
		var missing *MissingError
		if !errors.As(err, &missing) || missing.Tool != name || !strings.Contains(err.Error(), "install the package package-of-it") {
			t.Errorf("%s: %s, %v", name, got, err)
		}
	}
	t.Setenv("PATH", "")
	if _, err := Find("sh", "dash"); err != nil {
		t.Errorf("without PATH: %v", err)
	}
}

func TestRun(t *testing.T) {
	t.Setenv("VOLUKS_CANARY", "canary")
	out, err := Run(t.Context(), sh("cat; env; echo done"))
	if err != nil || strings.Contains(string(out), "canary") || !strings.HasSuffix(string(out), "done\n") || !strings.Contains(string(out), "LC_ALL=C\n") {
		t.Errorf("%s, %v", out, err)
	}
	out, err = Run(t.Context(), sh("echo out; echo 'first line' >&2; echo 'second  line' >&2; exit 3"))
	var exit *ExitError
	if !errors.As(err, &exit) || *exit != (ExitError{"sh", 3, "first line second line"}) || string(out) != "out\n" {
		t.Errorf("%q, %v", out, err)
	}
	if err.Error() != "sh: exit status 3: first line second line" {
		t.Error(err)
	}
	if _, err = Run(t.Context(), sh("kill -9 $$")); !errors.As(err, &exit) || exit.Code != -1 || err.Error() != "sh: ended by a signal" {
		t.Error(err)
	}
	if _, err := Run(t.Context(), Command{Path: "/nonexistent"}); err == nil || errors.As(err, &exit) {
		t.Error(err)
	}
}

func TestRunInherits(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	c := sh("readlink /proc/self/fd/3")
	c.Files = []*os.File{f}
	if out, err := Run(t.Context(), c); err != nil || string(out) != f.Name()+"\n" {
		t.Errorf("%s, %v", out, err)
	}
}

func TestRunDeadline(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	start := time.Now()
	// A grandchild that keeps the pipe open must not keep Run.
	_, err := Run(ctx, sh("sleep 5 & sleep 6"))
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > 4*time.Second {
		t.Errorf("after %v: %v", time.Since(start), err)
	}
	if _, err := Run(ctx, sh("exit 0")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("after the deadline: %v", err)
	}
}

func TestOutputIsBounded(t *testing.T) {
	out, err := Run(t.Context(), sh("head -c 10000000 /dev/zero; echo end; head -c 1000000 /dev/zero >&2; echo ' the end' >&2; exit 1"))
	var exit *ExitError
	if !errors.As(err, &exit) || len(exit.Stderr) > keepInError+3 || !strings.HasSuffix(exit.Stderr, "the end") {
		t.Errorf("%.100v", err)
	}
	if len(out) > keepOutput || !strings.HasSuffix(string(out), "end\n") {
		t.Errorf("%d bytes", len(out))
	}
}
