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

// The lock that the unit names is found among the descriptors that flock(1) hands down, and closing it lets the next one have it. F42
func TestTurn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "turn")
	if os.Getenv("VOLUKS_TEST_TURN") != "" {
		turn := turnOf(os.Getenv("VOLUKS_TEST_TURN"))
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
	cmd := exec.Command("flock", "--no-fork", path, os.Args[0], "-test.run=^TestTurn$", "-test.v")
	cmd.Env = append(os.Environ(), "VOLUKS_TEST_TURN="+path)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if turnOf(path) != nil {
		t.Error("a lock is found that nobody handed down")
	}

	units, err := systemd.Units(systemd.Program)
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("ExecStart=/usr/bin/flock --no-fork %s /usr/bin/voluks boot open ", config.DefaultPaths().Turn())
	for _, u := range units {
		if u.Name == "voluks-volume@.service" && !strings.Contains(u.Content, want) {
			t.Errorf("the unit does not take the lock:\n%s", u.Content)
		}
	}
}
