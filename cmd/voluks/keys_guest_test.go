// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/voluks/voluks/internal/kek/file"
	"github.com/voluks/voluks/keyslot"
)

// Keys of a mounted volume on the command line: rotated, moved to another master key, the old one revoked. The files stay, the volume stays mounted, the
// old key and the old header open nothing. F29 F33 F36 F40
func TestGuestKeys(t *testing.T) {
	n := guestNode(t)
	for _, name := range []string{"db", "logs"} {
		n.run("volume", "create", name, "--size", "32M")
	}
	path := strings.TrimSpace(n.run("volume", "mount", "db"))
	if err := os.WriteFile(filepath.Join(path, "x"), []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	backups := func(name string) []string {
		found, err := filepath.Glob(filepath.Join(n.root, "var/lib/voluks/backups", n.inspect(name).UUID, "g*.age"))
		if err != nil {
			t.Fatal(err)
		}
		return found
	}

	n.wants("dry run", n.run("keyslot", "rotate", "--all", "--dry-run"), "would be rotated")
	n.wants("younger", n.run("keyslot", "rotate", "--all", "--older-than", "1d"), "its keys are younger")
	if g := n.inspect("db").Slots[0].Generation; g != 1 {
		t.Errorf("generation %d before anything was rotated", g)
	}
	n.wants("rotate", n.run("keyslot", "rotate", "--all", "--role", "all"), "db    rotated", "logs  rotated", "agent slot 31 -> 29, generation 1 -> 2", "recovery slot 30 -> 31, generation 1 -> 3")
	first := backups("db")
	if len(first) != 1 {
		t.Errorf("backups %v", first)
	}

	// Another master key.
	etc := filepath.Join(n.root, "etc/voluks")
	old := filepath.Join(etc, "master.key")
	next := filepath.Join(etc, "next.key")
	if _, err := file.Generate(next); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(etc, "config.toml")
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	_, oldID, _ := strings.Cut(n.inspect("db").Slots[1].KEK, ":") // the agent slot is 29 by now
	n.fails(exitUsage, "kek", "revoke", oldID)
	n.wants("revoke a key that nobody knows", n.fails(exitUsage, "kek", "revoke", "0123456789abcdef"), "no volume of this node was ever wrapped by a key")
	if !strings.Contains(string(text), old) {
		t.Fatalf("the configuration is\n%s", text)
	}
	text = []byte(strings.Replace(string(text), old, next, 1) + "\n[[previous]]\nprovider = \"file\"\n[previous.file]\npath = \"" + old + "\"\n")
	if err := os.WriteFile(config, text, 0o600); err != nil {
		t.Fatal(err)
	}
	n.wants("kek rotate one", n.run("kek", "rotate", "logs"), "is still needed by db")
	n.wants("kek ls", n.run("kek", "ls"), "active    file", " logs\n", "previous  file      "+oldID+"  reachable", " db\n")
	n.wants("kek rotate", n.run("kek", "rotate"), "db    moved", "logs  unchanged", oldID+" is needed by no volume any more")
	n.wants("kek revoke", n.run("kek", "revoke", oldID), "db    rotated", "logs  rotated", "opens no volume of this node any more", "reencrypt: db")
	if again := backups("db"); len(again) != 1 || again[0] == first[0] {
		t.Errorf("backups %v, before %v", again, first)
	}
	var result revokeResult
	if err := json.Unmarshal([]byte(n.run("--format", "json", "kek", "revoke", oldID)), &result); err != nil || len(result.NotDone) != 0 || strings.Join(result.Reencrypt, " ") != "db logs" || result.Volumes[0].Receipt.Changed() {
		t.Errorf("again: %+v, %v", result, err)
	}
	if err := os.Remove(old); err != nil {
		t.Fatal(err)
	}
	info := n.inspect("db")
	if info.State != "mounted" || len(info.Slots) != 2 || strings.Contains(info.Slots[1].KEK, oldID) || info.Slots[1].Role != keyslot.RoleAgent {
		t.Errorf("%+v", info)
	}
	n.run("volume", "umount", "db")
	n.run("volume", "mount", "db")
	if b, err := os.ReadFile(filepath.Join(path, "x")); string(b) != "kept" {
		t.Errorf("the data is gone: %q, %v", b, err)
	}
	n.run("volume", "umount", "db")

	// An older header, put back.
	image := filepath.Join(n.root, "var/lib/voluks/volumes/db/image")
	header := make([]byte, 16<<20)
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.ReadAt(header, 0); err != nil {
		t.Fatal(err)
	}
	n.run("keyslot", "rotate", "db")
	if _, err := f.WriteAt(header, 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	n.wants("older header", n.fails(exitDamaged, "volume", "mount", "db"), "older header", "--accept-older-header")
	n.run("volume", "mount", "db", "--accept-older-header")
	if b, err := os.ReadFile(filepath.Join(path, "x")); string(b) != "kept" {
		t.Errorf("the data is gone: %q, %v", b, err)
	}
}
