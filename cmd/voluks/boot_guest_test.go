// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/internal/volume"
)

type fixedPath string

func (f fixedPath) Path(context.Context, string) (string, error) { return string(f), nil }

// A directory that does not lie on the volume's own mount is not mounted for services: what was there before stays as it was. F28
func TestProveDir(t *testing.T) {
	source := filepath.Join(t.TempDir(), "data")
	if err := os.Mkdir(source, 0o700); err != nil {
		t.Fatal(err)
	}
	dir, err := sys.OpenDir(source)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	for where, text := range map[string]string{source: "unmounted meanwhile", "/elsewhere/data": "/elsewhere/data", "": `is at ""`} {
		err := proveDir(t.Context(), fixedPath(where), "db", source, dir)
		if !errors.Is(err, volume.ErrPlaintext) || !strings.Contains(err.Error(), text) {
			t.Errorf("with the volume at %q: %v", where, err)
		}
	}
}

// mount -t voluks mounts the data of an open volume on top of what is there, and nothing else.
func TestGuestBootMount(t *testing.T) {
	n := guestNode(t)
	n.run("volume", "create", "db", "--size", "32M")
	where := t.TempDir()
	if err := sys.Mount("tmpfs", where, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := sys.Unmount(where); err != nil {
			t.Error(err)
		}
	}()
	before, err := topMount(where)
	if err != nil {
		t.Fatal(err)
	}
	n.fails(exitFailure, "boot", "mount", "voluks:db", where)
	if now, err := topMount(where); err != nil || now == nil || now.ID != before.ID {
		t.Errorf("a mount that failed has changed what was there: %+v, %v", now, err)
	}

	path := strings.TrimSpace(n.run("volume", "mount", "db"))
	n.run("boot", "mount", "voluks:db", where, "--fake")
	n.run("boot", "mount", "voluks:db", where)
	if err := os.WriteFile(filepath.Join(where, "x"), []byte("there"), 0o600); err != nil {
		t.Error(err)
	}
	if b, err := os.ReadFile(filepath.Join(path, "x")); string(b) != "there" {
		t.Errorf("in the volume: %q, %v", b, err)
	}
	if got, err := topMount(where); err != nil || got.Root != "/data" || got.ID == before.ID {
		t.Errorf("mounted is %+v, %v", got, err)
	}
	if err := sys.Unmount(where); err != nil {
		t.Error(err)
	}
	n.run("volume", "umount", "db")
}

// A volume of voluks in crypttab would be opened twice, and its file system destroyed: there is no key for it.
func TestGuestNoKeyForAVolume(t *testing.T) {
	n := guestNode(t)
	n.run("volume", "create", "db", "--size", "32M")
	e := &env{root: n.root}
	image := filepath.Join(n.root, "var/lib/voluks/volumes/db/image")
	key, err := e.adoptedKey(t.Context(), image, "")
	if err == nil {
		key.Wipe()
	}
	if err == nil || !strings.Contains(err.Error(), "out of crypttab") {
		t.Errorf("%v", err)
	}
}
