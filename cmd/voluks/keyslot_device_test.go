// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/voluks/voluks/keyslot"
	"github.com/voluks/voluks/luks"
	"github.com/voluks/voluks/luks/header"
)

// passwordDevice is an image with one slot, number 0, for a passphrase.
func passwordDevice(t *testing.T, passphrase string) string {
	t.Helper()
	dir := t.TempDir()
	image, file := filepath.Join(dir, "image"), filepath.Join(dir, "passphrase")
	must(t, os.WriteFile(file, []byte(passphrase), 0o600))
	must(t, os.WriteFile(image, nil, 0o600))
	must(t, os.Truncate(image, 32<<20))
	cmd := exec.CommandContext(t.Context(), "cryptsetup", "luksFormat", "--batch-mode", "--type", "luks2", "--pbkdf", "argon2id", "--pbkdf-force-iterations", "4", "--pbkdf-memory", "32",
		"--pbkdf-parallel", "1", "--key-file", file, image)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return image
}

func echoes(t *testing.T, f *os.File) bool {
	t.Helper()
	var state syscall.Termios
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), syscall.TCGETS, uintptr(unsafe.Pointer(&state))); errno != 0 {
		t.Fatal(errno)
	}
	return state.Lflag&syscall.ECHO != 0
}

// A person changes a passphrase: neither is shown, a weak one and a slip are refused before anything is written, and the slot is not weaker than before.
// F34 F38 F41
func TestRotateOnATerminal(t *testing.T) {
	const old, next = "walnut ferry glacier mosaic tundra", "velvet compass orchid thunder maple"
	image := passwordDevice(t, old)
	for _, slip := range []struct {
		first, second string
		status        int
	}{{"letmein letmein", "", exitUsage}, {"", "", exitUsage}, {next, "velvet compass orchid thunder mapel", exitUsage}, {next, next, exitOK}} {
		p, e := terminal(t)
		status := background(e, "keyslot", "rotate", image)
		p.sees(`A passphrase that opens .*image now: $`)
		p.types(old)
		p.sees(`A new passphrase for .*image: $`)
		p.types(slip.first)
		if slip.second != "" {
			p.sees(`The same again: $`)
			p.types(slip.second)
		}
		if got := <-status; got != slip.status {
			t.Fatalf("%q: exit status %d:\n%s", slip.first, got, p.text())
		}
		if text := p.text(); strings.Contains(text, "walnut") || strings.Contains(text, "velvet") || strings.Contains(text, "letmein") {
			t.Errorf("shown:\n%s", text)
		}
		if !echoes(t, e.stdin) {
			t.Error("the terminal shows nothing any more")
		}
		h, err := luks.Foreign(image).Header()
		must(t, err)
		want := 0
		if slip.status == exitOK {
			want = 1
		}
		if _, ok := h.Keyslots[want]; !ok || len(h.Keyslots) != 1 {
			t.Errorf("%q: slots %v", slip.first, h.Keyslots)
		}
		if k := h.Keyslots[want].KDF; k.Type != "argon2id" || want == 1 && (k.Time < 4 || k.Memory < 64<<10) {
			t.Errorf("%q: %+v", slip.first, k)
		}
	}
}

// Ctrl-C at a prompt leaves a terminal that shows what is typed.
func TestInterruptedPrompt(t *testing.T) {
	image := passwordDevice(t, "walnut ferry glacier mosaic tundra")
	p, e := terminal(t)
	status := background(e, "keyslot", "test", image)
	p.sees(`A passphrase that opens .*image now: $`)
	if echoes(t, e.stdin) {
		t.Error("what is typed now would be shown")
	}
	must(t, syscall.Kill(os.Getpid(), syscall.SIGINT))
	if got := <-status; got != exitInterrupted {
		t.Errorf("exit status %d:\n%s", got, p.text())
	}
	if !echoes(t, e.stdin) {
		t.Error("the terminal shows nothing any more")
	}
}

// A passphrase beside the two slots of a volume: tried, and removed once the node's own key has opened. Those of voluks stay, the backup follows, and the
// volume has one door. F31 F35 F36
func TestPassphraseOfVolume(t *testing.T) {
	n := newDocNode(t)
	cfg, err := (&env{root: n.root}).loadConfig()
	must(t, err)
	k, err := keyslot.OpenKeyring(cfg)
	must(t, err)
	c := luks.At(n.image)
	slot, key, err := keyslot.Unlock(t.Context(), c, k)
	must(t, err)
	defer key.Wipe()
	file := filepath.Join(n.where, "passphrase")
	must(t, os.WriteFile(file, []byte("velvet compass orchid thunder maple"), 0o600))
	typed, err := secretFile(file)
	must(t, err)
	defer typed.Wipe()
	_, err = keyslot.AddKey(t.Context(), c, luks.Auth{Slot: slot, Key: key}, -1, typed, luks.AtLeast(header.KDF{Type: "argon2id", CPUs: 1}))
	must(t, err)
	runs := func(status int, want string, args ...string) {
		t.Helper()
		out, err := voluks(append([]string{"--root", n.root}, args...)...).CombinedOutput()
		var exit *exec.ExitError
		got := 0
		if errors.As(err, &exit) {
			got = exit.ExitCode()
		}
		if got != status || !strings.Contains(string(out), want) {
			t.Errorf("%v: exit status %d instead of %d, %q is wanted in:\n%s", args, got, status, want, out)
		}
	}
	runs(exitOK, "opens slot 31 of db", "keyslot", "test", "db")
	runs(exitOK, "opens slot 0 of db", "keyslot", "test", "--key-file", file, "db")
	runs(exitUsage, `it is the volume "db" of this node`, "keyslot", "test", "--key-file", file, n.image)
	runs(exitUsage, "belongs to a token", "keyslot", "rm", "--key-file", file, "db", "30")
	runs(exitDamaged, "the newest backup is of epoch", "header", "check", "db")
	runs(exitOK, "destroyed slot 0 of db", "keyslot", "rm", "db", "0")
	runs(exitOK, "whole and up to date", "header", "check", "db")
	h, err := c.Header()
	must(t, err)
	if len(h.Keyslots) != 2 || c.TestSlot(slot, key) != nil {
		t.Errorf("slots %v", h.Keyslots)
	}
}
