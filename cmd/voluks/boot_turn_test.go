// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/voluks/voluks/internal/config"
	"github.com/voluks/voluks/internal/testenv"
	"github.com/voluks/voluks/systemd"
)

// The lock that the unit takes is found among the descriptors that flock(1) hands down, and closing it lets the next one have it. F42
func TestTurn(t *testing.T) {
	if root := os.Getenv("VOLUKS_TEST_TURN"); root != "" {
		e := newEnv()
		e.root = root
		turn := e.turn()
		if turn == nil {
			t.Fatal("not found")
		}
		free := func() error { return exec.Command("flock", "--nonblock", turn.Name(), "true").Run() }
		if free() == nil {
			t.Fatal("the lock is not held")
		}
		turn.Close()
		if err := free(); err != nil {
			t.Fatalf("the lock is still held: %v", err)
		}
		return
	}
	if _, err := exec.LookPath("flock"); err != nil {
		testenv.Missing(t, "flock", "no flock(1)")
	}
	root := t.TempDir()
	lane := config.PathsUnder(root).Lane("3")
	if err := os.MkdirAll(filepath.Dir(lane), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("VOLUKS_BOOT_LANE", "3")
	cmd := exec.Command("flock", "--no-fork", lane, os.Args[0], "-test.run=^TestTurn$", "-test.v")
	cmd.Env = append(os.Environ(), "VOLUKS_TEST_TURN="+root)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	e := newEnv()
	e.root = root
	if e.turn() != nil {
		t.Error("a lock is found that nobody handed down")
	}

	units, err := systemd.Units(systemd.Program)
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("ExecStart=/usr/bin/flock --no-fork %s /usr/bin/voluks boot open ", config.DefaultPaths().Lane("${VOLUKS_BOOT_LANE}"))
	for _, u := range units {
		if u.Name == "voluks-volume@.service" && !strings.Contains(u.Content, want) {
			t.Errorf("the unit does not take the lock:\n%s", u.Content)
		}
	}
}
