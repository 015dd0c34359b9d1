// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A volume whose directory was lost is made again from its image, with the same data and options; a copy of it is refused (F47).
func TestVolumeImport(t *testing.T) {
	n := guestNode(t)
	n.run("volume", "create", "db", "--size", "32M", "--opt", "uid=999")
	before := n.inspect("db")
	path := strings.TrimSpace(n.run("volume", "mount", "db"))
	if err := os.WriteFile(filepath.Join(path, "x"), []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	n.run("volume", "umount", "db")
	dir := filepath.Join(n.root, "var/lib/voluks/volumes/db")
	found := filepath.Join(n.root, "found.img")
	if err := os.Rename(filepath.Join(dir, "image"), found); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	n.wants("import", n.run("volume", "import", found), "imported db ("+before.UUID+"): 32 MiB, ext4; slot 31 opens it", "moved here from "+found)
	after := n.inspect("db")
	after.Created, before.Created = time.Time{}, time.Time{} // of its key, and of its record
	was, _ := json.Marshal(before)
	is, _ := json.Marshal(after)
	if string(was) != string(is) {
		t.Errorf("it is\n%s\nand was\n%s", is, was)
	}
	n.run("volume", "mount", "db")
	if b, err := os.ReadFile(filepath.Join(path, "x")); string(b) != "kept" {
		t.Errorf("the data is gone: %q, %v", b, err)
	}
	// While it is mounted its record goes, and comes back.
	if err := os.Remove(filepath.Join(dir, "record.json")); err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(dir, "image")
	n.wants("ls", n.fails(exitDamaged, "volume", "mount", "db"), "voluks volume import")
	n.wants("import", n.run("volume", "import", image), "imported db")
	n.wants("import again", n.run("volume", "import", image), "known already")
	if info := n.inspect("db"); info.Mountpoint == "" {
		t.Errorf("got %+v", info)
	}
	n.run("volume", "umount", "--force", "db")
	if out, err := exec.Command("cp", "--sparse=always", image, found).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	n.wants("a copy", n.fails(exitExists, "volume", "import", "--name", "copy", found), "UUID of the volume \"db\"")
}
