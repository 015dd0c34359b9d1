// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	keyfile "github.com/voluks/voluks/internal/kek/file"
	"github.com/voluks/voluks/internal/volume"
	"github.com/voluks/voluks/luks"
)

// ends runs voluks on the node of a test; it must end with that status. What it said on both streams is returned.
func (n *docNode) ends(status int, args ...string) string {
	n.t.Helper()
	cmd := voluks(append([]string{"--root", n.root}, args...)...)
	cmd.Dir = n.where
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if got := 0; err != nil && (!errors.As(err, &exit) || exit.ExitCode() != status) || err == nil && status != got {
		n.t.Fatalf("voluks %s: %v, want exit status %d\n%s", strings.Join(args, " "), err, status, out)
	}
	if bytes.Contains(out, []byte("AGE-SECRET-KEY-1")) {
		n.t.Errorf("voluks %s shows the identity:\n%s", strings.Join(args, " "), out)
	}
	return string(out)
}

// says runs voluks, however it ends.
func (n *docNode) says(args ...string) string {
	out, _ := voluks(append([]string{"--root", n.root}, args...)...).CombinedOutput()
	return string(out)
}

func (n *docNode) config() string {
	n.t.Helper()
	b, err := os.ReadFile(filepath.Join(n.root, "etc/voluks/config.toml"))
	must(n.t, err)
	return string(b)
}

func wants(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%q is missing in\n%s", part, text)
		}
	}
}

const otherUUID = "4d2f6e2c-6a1f-4d63-8a2d-9b2f7a1e3c58"

// A node without recovery gets an identity, then another one, then a post-quantum one; at each step the identity that counts opens every volume and the one
// before opens none. F36
func TestRecoveryInitAndRekey(t *testing.T) {
	n := emptyDocNode(t)
	n.ends(0, "init", "--no-recovery")
	n.volume("db", docUUID)
	n.volume("logs", otherUUID)
	n.ends(exitUsage, "recovery", "rekey", "--new-identity-file", "first")
	n.ends(exitConfig, "recovery", "verify", "--identity-file", n.someIdentity())
	if _, err := os.Stat(filepath.Join(n.where, "first")); err == nil {
		t.Error("an identity was made for nothing")
	}
	n.ends(exitRefused, "recovery", "init") // no terminal to show it on
	file := filepath.Join(n.root, "etc/voluks/config.toml")
	must(t, os.WriteFile(file, []byte(n.config()+"# a remark\n"), 0o644))
	must(t, os.Chmod(file, 0o640))

	said := n.ends(0, "recovery", "init", "--new-identity-file", "first")
	wants(t, said, "db    sealed", "logs  sealed", "made first", "is sealed to")
	if strings.Contains(said, "reencrypt") {
		t.Errorf("nobody could open them before:\n%s", said)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("the configuration: %v, %v", info.Mode(), err)
	}
	wants(t, n.config(), "# a remark", "confirmed = true")
	n.ends(exitExists, "recovery", "init", "--new-identity-file", "again")
	wants(t, n.ends(0, "recovery", "verify", "--identity-file", "first"), "db    opens", "opens 2 of 2 volumes")
	wants(t, n.ends(0, "volume", "inspect", "db"), "the recovery identity last opened it ", "sealed to")

	n.ends(exitExists, "recovery", "rekey", "--new-identity-file", "first")
	said = n.ends(0, "recovery", "rekey", "--new-identity-file", "second", "--post-quantum")
	wants(t, said, "db    sealed", "reencrypt: db", "reencrypt: logs")
	wants(t, n.ends(exitLocked, "recovery", "verify", "--identity-file", "first"), "opens 0 of 2 volumes", "not tried", "voluks recovery show")
	wants(t, n.ends(0, "volume", "ls"), "db: the recovery identity was replaced and the new one was never tried")
	wants(t, n.says("doctor", "--quiet"), "recovery.drill", "logs: the recovery identity was replaced")
	n.ends(0, "recovery", "verify", "--identity-file", "second")
	if said := n.says("doctor", "--quiet"); strings.Contains(said, "recovery.drill") {
		t.Errorf("it was tried:\n%s", said)
	}
	for _, args := range [][]string{
		{"--recipient", "age1nonsense"}, {"--new-identity", "--new-identity-file", "x"}, {"--split", "5/3"}, {"--post-quantum"}, {"db"}, {"--parallel", "0"},
	} {
		n.ends(exitUsage, append([]string{"recovery", "rekey"}, args...)...)
	}
	// A list that is stated again changes nothing, and lists what deserves reencrypt all the same.
	wants(t, n.ends(0, "recovery", "rekey"), "db    unchanged", "reencrypt: db")
}

// someIdentity makes a file with an identity that opens nothing here.
func (n *docNode) someIdentity() string {
	n.t.Helper()
	other := emptyDocNode(n.t)
	path := filepath.Join(n.t.TempDir(), "other")
	other.ends(0, "init", "--recovery-identity-file", path)
	return path
}

// One volume that fails keeps no other; it is named as not done, with removed ones, and the next run does it.
func TestRekeyWithABadVolume(t *testing.T) {
	n := newDocNode(t)
	n.volume("logs", otherUUID)
	image := filepath.Join(n.root, "var/lib/voluks/volumes/logs/image")
	must(t, os.Rename(image, image+".away"))
	must(t, os.WriteFile(image, make([]byte, 48<<20), 0o600))
	removed := filepath.Join(n.root, "var/lib/voluks/removed", otherUUID[:35]+"9")
	must(t, os.MkdirAll(removed, 0o700))
	for _, name := range []string{"image", "record.json"} {
		b, err := os.ReadFile(filepath.Join(filepath.Dir(n.image), name))
		must(t, err)
		must(t, os.WriteFile(filepath.Join(removed, name), b, 0o600))
	}
	said := n.ends(exitDamaged, "recovery", "rekey", "--new-identity-file", "next")
	wants(t, said, "db    sealed", "logs  failed", "not done: logs", "not done: db: it was removed", "1 of 2 volumes failed")
	n.ends(exitDamaged, "recovery", "verify", "--identity-file", "next")
	must(t, os.Rename(image+".away", image))
	must(t, os.RemoveAll(removed))
	wants(t, n.ends(0, "recovery", "rekey"), "db    unchanged", "logs  sealed", "reencrypt: db", "reencrypt: logs")
	n.ends(0, "recovery", "verify", "--identity-file", "next")
	n.ends(exitNotFound, "recovery", "verify", "--identity-file", "next", "nothing")
}

// The key is on the screen once and nowhere else; a slot is made only when its end was typed; without a terminal it goes to a file, or, if that is asked
// for, to standard output. F41
func TestRecoveryKey(t *testing.T) {
	n := newDocNode(t)
	slots := func() int {
		t.Helper()
		h, err := luks.At(n.image).Header()
		must(t, err)
		return len(h.Keyslots)
	}
	add := func(answer func(key string) string) (string, int) {
		t.Helper()
		p, e := terminal(t)
		cmd := voluks("--root", n.root, "recovery", "key", "add", "db")
		cmd.Stdin, cmd.Stdout, cmd.Stderr = e.stdin, e.stdout, e.stderr
		must(t, cmd.Start())
		key := p.sees(`never again(?s:.*?)\r?\n    ([a-z-]{71})\r?\n`)[1]
		p.sees(`characters: $`)
		if slots() != 2 {
			t.Error("there is a slot before anybody has confirmed to have the key")
		}
		p.types(answer(key))
		_ = cmd.Wait()
		p.sees(`\x1b\[3J(?s:.*)\x1b\[3J`)
		if strings.Count(p.text(), key) != 1 {
			t.Errorf("the key was shown more than once:\n%s", p.text())
		}
		return key, cmd.ProcessState.ExitCode()
	}
	if _, status := add(func(string) string { return "" }); status != exitRefused || slots() != 2 {
		t.Errorf("not confirmed: exit status %d, %d slots", status, slots())
	}
	key, status := add(func(key string) string { return strings.ToUpper(key[63:]) })
	if status != 0 || slots() != 3 {
		t.Fatalf("exit status %d, %d slots", status, slots())
	}
	wants(t, n.ends(0, "keyslot", "ls", "db"), "systemd-recovery")

	n.ends(exitRefused, "recovery", "key", "add", "db")
	n.ends(exitRefused, "--format", "json", "recovery", "key", "add", "db")
	n.ends(exitUsage, "recovery", "key", "add", "--out", "x", "--print", "db")
	n.ends(exitNotFound, "recovery", "key", "add", "--out", "x", "nothing")
	said := n.ends(0, "--format", "json", "recovery", "key", "add", "--out", "file", "db")
	second, err := os.ReadFile(filepath.Join(n.where, "file"))
	must(t, err)
	if len(second) != 71 || strings.Contains(said, string(second)) || strings.Contains(said, `"key"`) {
		t.Errorf("%d bytes, and it said\n%s", len(second), said)
	}
	n.ends(exitExists, "recovery", "key", "add", "--out", "file", "db")
	var result recoveryKeyResult
	must(t, json.Unmarshal([]byte(n.ends(0, "--format", "json", "recovery", "key", "add", "--print", "db")), &result))
	for slot, k := range map[int]string{29: key, 28: string(second), result.Slot: result.Key} {
		cmd := exec.Command("cryptsetup", "open", "--test-passphrase", "--key-slot", fmt.Sprint(slot), n.image)
		cmd.Stdin = strings.NewReader(k + "\n")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("slot %d: %v: %s", slot, err, out)
		}
	}
	must(t, filepath.WalkDir(n.root, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || path == filepath.Join(n.where, "file") {
			return err
		}
		b, err := os.ReadFile(path)
		for _, k := range []string{key, string(second), result.Key} {
			if bytes.Contains(b, []byte(k)) {
				t.Errorf("%s holds a recovery key", path)
			}
		}
		return err
	}))

	n.ends(exitRefused, "recovery", "key", "rm", "db")
	wants(t, n.ends(exitUsage, "recovery", "key", "rm", "--force", "db"), "[27 28 29]")
	n.ends(exitUsage, "recovery", "key", "rm", "--force", "--slot", "30", "db")
	for _, args := range [][]string{{"--slot", "29"}, {"--slot", "27"}, nil} {
		n.ends(0, append([]string{"recovery", "key", "rm", "--force", "db"}, args...)...)
	}
	if slots() != 2 {
		t.Errorf("%d slots", slots())
	}
	var info volume.Info
	must(t, json.Unmarshal([]byte(n.ends(0, "--format", "json", "volume", "inspect", "db")), &info))
	if len(info.Slots) != 2 {
		t.Errorf("%+v", info.Slots)
	}
}

// The master key is gone and a new one is there: what of the command line needs the identity, and what it says without.
func TestRotateWithTheIdentity(t *testing.T) {
	n := newDocNode(t)
	key := filepath.Join(n.root, "etc/voluks/master.key")
	must(t, os.Remove(key))
	_, err := keyfile.Generate(key)
	must(t, err)
	wants(t, n.ends(exitLocked, "keyslot", "rotate", "--all"), "voluks kek ls")
	n.ends(exitLocked, "keyslot", "rotate", "--all", "--recovery-identity", n.someIdentity())
	must(t, os.WriteFile(filepath.Join(n.where, "nonsense"), []byte("nonsense\n"), 0o600))
	n.ends(exitUsage, "keyslot", "rotate", "--all", "--recovery-identity", "nonsense")
	wants(t, n.ends(0, "keyslot", "rotate", "--all", "--role", "all", "--recovery-identity", "identity"), "agent slot 31 -> 29, generation 1 -> 2 (with the recovery identity)",
		"recovery slot 30 -> 31, generation 1 -> 3")
	n.ends(0, "keyslot", "rotate", "--all")
	n.ends(0, "recovery", "verify", "--identity-file", "identity")
}
