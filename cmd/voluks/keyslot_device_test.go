// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/voluks/voluks/luks"
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
