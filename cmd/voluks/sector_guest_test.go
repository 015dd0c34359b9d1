// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/internal/testenv"
	"github.com/voluks/voluks/internal/volume"
)

// A node's files move from a disk with 512-byte blocks to one with 4096, and back: its volumes open as before, with the sector size that they were made
// with. One whose record and header differ in it is not opened. F46
func TestGuestDisksOfOtherSectorSizes(t *testing.T) {
	testenv.Guest(t)
	testenv.LeakCheck(t)
	tool := func(args ...string) string {
		t.Helper()
		out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return strings.TrimSpace(string(out))
	}
	small := &node{t, filepath.Join(testenv.Ext4Dir(t, 0), "n")}
	loop := tool("losetup", "--find", "--show", "--sector-size", "4096", testenv.Disk(t, 1, 256<<20))
	defer tool("losetup", "--detach", loop)
	for device, want := range map[string]string{testenv.Disk(t, 0, 0): "512", loop: "4096"} {
		if got := tool("blockdev", "--getss", device); got != want {
			t.Fatalf("%s has blocks of %s bytes, not %s", device, got, want)
		}
	}
	tool("mkfs.ext4", "-q", "-F", loop)
	dir := t.TempDir()
	if err := sys.Mount(loop, dir, "ext4", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := sys.Unmount(dir); err != nil {
			t.Error(err)
		}
	}()
	large := &node{t, filepath.Join(dir, "n")}

	small.run("init", "--no-recovery")
	small.run("volume", "create", "db", "--size", "32M")
	path := func(n *node) string { return filepath.Join(strings.TrimSpace(n.run("volume", "mount", "db")), "x") }
	if err := os.WriteFile(path(small), []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	small.run("volume", "umount", "db")
	move := func(from, to *node) {
		t.Helper()
		tool("rm", "-rf", filepath.Join(from.root, "run"))
		tool("cp", "-a", "--sparse=always", from.root, to.root)
		if b, err := os.ReadFile(path(to)); string(b) != "kept" {
			t.Errorf("in %s: %q, %v", to.root, b, err)
		}
		if table := tool("dmsetup", "table", "voluks-"+to.inspect("db").UUID); !strings.Contains(table, "sector_size:4096") {
			t.Errorf("in %s: %s", to.root, table)
		}
		to.run("volume", "umount", "db")
	}
	move(small, large)
	small.root += "2"
	move(large, small)

	record := filepath.Join(small.root, "var/lib/voluks/volumes/db/record.json")
	text, err := os.ReadFile(record)
	if err != nil {
		t.Fatal(err)
	}
	other := strings.Replace(string(text), `"sector_size": 4096`, `"sector_size": 512`, 1)
	if other == string(text) {
		t.Fatalf("the record has no sector size of 4096:\n%s", text)
	}
	if err := os.WriteFile(record, []byte(other), 0o600); err != nil {
		t.Fatal(err)
	}
	small.wants("another sector size", small.fails(exitDamaged, "volume", "mount", "db"), "sector")
	if info := small.inspect("db"); info.State == volume.StateMounted {
		t.Errorf("it is %s", info.State)
	}
}
