// SPDX-License-Identifier: Apache-2.0

package dockerplugin

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// F24: the socket file of an agent that was killed does not keep the next one from starting.
func TestListenReplacesStaleSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b", "voluks.sock")
	dead, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	dead.(*net.UnixListener).SetUnlinkOnClose(false)
	dead.Close()
	if _, err := os.Lstat(path); err != nil {
		t.Fatal("the test needs a stale file")
	}
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

func TestListenWhereSomeoneListens(t *testing.T) {
	path := filepath.Join(t.TempDir(), "voluks.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := Listen(path); !errors.Is(err, ErrServed) {
		t.Fatalf("got %v, want ErrServed", err)
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatalf("the socket of the other was taken away: %v", err)
	}
	conn.Close()
}

func TestListenErrors(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		file:                               "is no socket",
		filepath.Join(file, "voluks.sock"): "not a directory",
		filepath.Join(dir, strings.Repeat("x", 108)): "Linux allows 107",
	} {
		if l, err := Listen(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, %v, want an error with %q", path, l, err, want)
		}
	}
	if b, err := os.ReadFile(file); string(b) != "precious" {
		t.Errorf("the file is gone: %v", err)
	}
}
