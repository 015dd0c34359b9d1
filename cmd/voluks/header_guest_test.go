// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/voluks/voluks/internal/recovery"
	"github.com/voluks/voluks/luks"
	"github.com/voluks/voluks/luks/header"
)

// withIdentity gives the node a recovery identity that the test has, in the file that is returned.
func (n *node) withIdentity() string {
	n.t.Helper()
	text, recipient, err := recovery.Generate()
	must(n.t, err)
	defer text.Wipe()
	file := filepath.Join(n.root, "identity")
	must(n.t, os.WriteFile(file, text.Bytes(), 0o600))
	n.configure("age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p", recipient)
	return file
}

// A volume's header is lost and comes back; an older one that somebody kept comes back only with its keys rotated, and a restore behind voluks's back is
// refused. Both copies of the old backup are gone after a rotation. F36 F40
func TestGuestHeader(t *testing.T) {
	n := guestNode(t)
	identity := n.withIdentity()
	second := filepath.Join(n.root, "second")
	must(t, os.Mkdir(second, 0o700))
	n.configure("# directory = \"/mnt/other/voluks\"", "directory = \""+second+"\"")

	n.run("volume", "create", "db", "--size", "32M")
	n.run("volume", "create", "other", "--size", "32M")
	path := strings.TrimSpace(n.run("volume", "mount", "db"))
	must(t, os.WriteFile(filepath.Join(path, "x"), []byte("kept"), 0o600))
	old := n.headerBackups("db")
	if len(old) != 1 || len(old[0].Copies) != 2 || old[0].Copies[0].Error+old[0].Copies[1].Error != "" {
		t.Fatalf("%+v", old)
	}
	stolen := filepath.Join(n.root, "stolen.age")
	b, err := os.ReadFile(old[0].Copies[1].Path)
	must(t, err)
	must(t, os.WriteFile(stolen, b, 0o600))
	n.wants("while it is open", n.fails(exitInUse, "header", "restore", "--recovery-identity", identity, "db"), "it is open")

	n.run("keyslot", "rotate", "--role", "all", "db")
	for _, c := range old[0].Copies {
		if _, err := os.Stat(c.Path); !os.IsNotExist(err) {
			t.Errorf("%s is still there: %v", c.Path, err)
		}
	}
	n.wants("their loss", n.run("header", "ls", "db"), "2 older destroyed")
	n.wants("check", n.run("header", "check", "--recovery-identity", identity), "db: whole and up to date, and the identity opens it", "other: whole")
	n.run("volume", "umount", "db")

	image := filepath.Join(n.root, "var/lib/voluks/volumes/db/image")
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	_, err = f.WriteAt(make([]byte, 1<<20), 0)
	must(t, err)
	must(t, f.Sync())
	n.wants("without its header", n.fails(exitDamaged, "volume", "mount", "db"), "hint: put a backup of its header back: voluks header restore db")
	n.wants("check", n.fails(exitDamaged, "header", "check", "db"), "gone or damaged")
	n.wants("by its path", n.fails(exitUsage, "header", "restore", "--recovery-identity", identity, image), `it is the volume "db"`)
	n.fails(exitUsage, "header", "restore", "--recovery-identity", identity, "--from", n.headerBackups("other")[0].Copies[0].Path, "db")
	n.wants("older", n.fails(exitRefused, "header", "restore", "--recovery-identity", identity, "--from", stolen, "db"), "WARNING:", "keys that were retired", "--accept-older")
	n.wants("restore", n.run("header", "restore", "--recovery-identity", identity, "db"), "generation 3, read back, and the identity opens slot")
	kept := func(where string) {
		t.Helper()
		n.run("volume", "mount", "db")
		if b, err := os.ReadFile(filepath.Join(path, "x")); string(b) != "kept" {
			t.Errorf("%s: the data is gone: %q, %v", where, b, err)
		}
		n.run("volume", "umount", "db")
	}
	kept("restored")

	n.wants("older", n.run("header", "restore", "--accept-older", "--recovery-identity", identity, "--from", stolen, "db"), "volume mount --accept-older-header db")
	h, err := luks.At(image).Header()
	must(t, err)
	n.wants("older header", n.fails(exitDamaged, "volume", "mount", "db"), "older header")
	n.run("volume", "mount", "db", "--accept-older-header")
	n.run("volume", "umount", "db")
	noneOf(t, image, h)

	// By hand, behind voluks's back.
	script := "age --decrypt --identity " + identity + " " + stolen + " | gunzip > " + n.root + "/header && cryptsetup luksHeaderRestore --batch-mode " + image + " --header-backup-file " + n.root + "/header"
	if out, err := exec.Command("sh", "-eu", "-c", script).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	n.wants("behind its back", n.fails(exitDamaged, "volume", "mount", "db"), "older header", "--accept-older-header")
	n.wants("rotate", n.fails(exitDamaged, "keyslot", "rotate", "db"), "older header")
	a := n.serve()
	n.wants("through Docker", n.call("VolumeDriver.Mount", `{"Name":"db","ID":"one"}`), "older header", "--accept-older-header")
	a.end(syscall.SIGTERM)
	n.run("volume", "mount", "db", "--accept-older-header")
	n.run("volume", "umount", "db")
	noneOf(t, image, h)
	kept("accepted")
}

// noneOf wants that no slot of an old header is in the new one.
func noneOf(t *testing.T, image string, old *header.Header) {
	t.Helper()
	h, err := luks.At(image).Header()
	must(t, err)
	for _, is := range h.Keyslots {
		for _, was := range old.Keyslots {
			if string(is.KDF.Salt) == string(was.KDF.Salt) {
				t.Error("a slot of the older header is left")
			}
		}
	}
}

func (n *node) configure(from, to string) {
	n.t.Helper()
	file := filepath.Join(n.root, "etc/voluks/config.toml")
	b, err := os.ReadFile(file)
	must(n.t, err)
	if !strings.Contains(string(b), from) {
		n.t.Fatalf("no %q in\n%s", from, b)
	}
	must(n.t, os.WriteFile(file, []byte(strings.Replace(string(b), from, to, 1)), 0o600))
}

func (n *node) headerBackups(name string) []backupResult {
	n.t.Helper()
	var result struct{ Backups []backupResult }
	must(n.t, json.Unmarshal([]byte(n.run("--format", "json", "header", "ls", name)), &result))
	return result.Backups
}
