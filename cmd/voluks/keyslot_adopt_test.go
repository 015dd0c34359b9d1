// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/voluks/voluks/internal/testenv"
)

// The passphrase of a device is asked for, and nobody sees it; afterwards the terminal shows what is typed, as before. F41
func TestAdoptOnATerminal(t *testing.T) {
	if _, err := exec.LookPath("cryptsetup"); err != nil {
		testenv.Missing(t, "tools", err.Error())
	}
	p, e := terminal(t)
	device := filepath.Join(e.root, "device")
	if err := os.WriteFile(device, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(device, 32<<20); err != nil {
		t.Fatal(err)
	}
	format := exec.Command("cryptsetup", "luksFormat", "-q", "--type", "luks2", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-file", "-", device)
	format.Stdin = strings.NewReader("correct horse")
	if out, err := format.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if got := <-background(e, "init", "--no-recovery"); got != 0 {
		t.Fatalf("exit status %d:\n%s", got, p.text())
	}
	status := background(e, "keyslot", "adopt", "--name", "data", device)
	p.sees(`A passphrase that opens \S+ now: $`)
	p.types("correct horse")
	p.sees(`this node opens slot 31`)
	if got := <-status; got != 0 {
		t.Fatalf("exit status %d:\n%s", got, p.text())
	}
	if strings.Contains(p.text(), "horse") {
		t.Errorf("the passphrase was shown:\n%s", p.text())
	}
	p.types("seen again")
	p.sees(`seen again`)
}
