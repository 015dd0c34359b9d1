// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/rand"
	"os"
	"path/filepath"
	"testing"

	"github.com/voluks/voluks/internal/config"
	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/kek/exec"
	"github.com/voluks/voluks/internal/kek/kektest"
)

// The test binary is the helper when it is called as one.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && filepath.IsAbs(os.Args[1]) {
		main()
		return
	}
	os.Exit(m.Run())
}

func TestConformance(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	add := func(dir, name string) {
		key := make([]byte, 32)
		rand.Read(key)
		if err := os.WriteFile(filepath.Join(dir, name), key, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	provider := func(id string) (string, func(*testing.T) kek.Provider) {
		dir := t.TempDir()
		add(dir, "1.key")
		return dir, func(t *testing.T) kek.Provider {
			p, err := exec.New("kek.exec", config.Exec{Command: []string{self, dir}, ID: id})
			if err != nil {
				t.Fatal(err)
			}
			return p
		}
	}
	// What the key service behind a helper may be like; the example has its keys in files, and so has none.
	while := func(script string) func(*testing.T) kek.Provider {
		return func(t *testing.T) kek.Provider {
			p, err := exec.New("kek.exec", config.Exec{Command: []string{"/bin/sh", "-c", "cat >/dev/null; " + script}, ID: "one"})
			if err != nil {
				t.Fatal(err)
			}
			return p
		}
	}
	dir, one := provider("one")
	_, other := provider("other")
	kektest.Run(t, kektest.Target{
		New:      one,
		Other:    other,
		Advance:  func(*testing.T) { add(dir, "2.key") },
		Down:     while(`echo '{"error": "unavailable"}'`),
		Slow:     while(`sleep 600`),
		Denied:   while(`echo '{"error": "denied"}'`),
		Disabled: while(`echo '{"error": "disabled"}'`),
	})
}
