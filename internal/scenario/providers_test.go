// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/voluks/voluks/internal/kek/realtest"
)

// other is a second node on this machine, below a directory of its own, and what it gets for its key provider.
type other struct {
	t    *testing.T
	root string
	made string // what init said
}

// newOther makes one by "voluks init" with these arguments, and a volume "db" on it.
func newOther(t *testing.T, args ...string) other {
	t.Helper()
	full(t)
	root, err := os.MkdirTemp("/var/tmp", "node")
	if err != nil {
		t.Fatal(err)
	}
	n := other{t: t, root: root}
	t.Cleanup(func() { os.RemoveAll(root) })
	for i := range args {
		args[i] = strings.ReplaceAll(args[i], "ROOT", root)
	}
	n.made = n.voluks(append([]string{"init", "--no-recovery"}, args...)...)
	t.Cleanup(func() {
		try("voluks", "--root", root, "volume", "umount", "--force", "db")
		if _, err := try("voluks", "--root", root, "volume", "rm", "--force", "db"); err != nil {
			t.Error(err)
		}
	})
	n.voluks("volume", "create", "--size", "32M", "db")
	return n
}

func (n other) command(args ...string) []string {
	return append([]string{"voluks", "--root", n.root}, args...)
}

func (n other) voluks(args ...string) string {
	n.t.Helper()
	return output(n.t, n.command(args...)...)
}

// opens mounts db anew, writes or reads a file in it, and unmounts it.
func (n other) opens() {
	n.t.Helper()
	file := filepath.Join(n.voluks("volume", "mount", "db"), "kept")
	if _, err := os.Stat(file); errors.Is(err, os.ErrNotExist) {
		err = os.WriteFile(file, []byte("x"), 0o600)
		if err != nil {
			n.t.Error(err)
		}
	}
	n.voluks("volume", "umount", "db")
}

func (n other) write(name, text string) (path string) {
	n.t.Helper()
	path = filepath.Join(n.root, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		n.t.Fatal(err)
	}
	return path
}

// tangTable starts the tang server of Debian, which others stop, and returns the [kek] table for its keys as they are then.
func tangTable(t *testing.T, provider string) string {
	t.Helper()
	output(t, "systemctl", "start", "tangd.socket")
	var thumbprint string
	eventually(t, func() (err error) { thumbprint, err = try("tang-show-keys", "80"); return err })
	return "[kek]\nprovider = \"clevis\"\n" + provider + "[kek.clevis]\npin = \"tang\"\npolicy = '{\"url\":\"http://127.0.0.1\",\"thp\":\"" + thumbprint + "\"}'\n"
}

// A tang server as Debian runs it, its keys rotated under a volume: the old wrap opens until the old keys are destroyed, the moved one after that; and
// while the server is away the volume does not open, whatever else happens. F29 F40
func TestTangServer(t *testing.T) {
	full(t)
	t.Cleanup(func() { try("systemctl", "stop", "tangd.socket") })
	settings := filepath.Join(t.TempDir(), "kek.toml")
	if err := os.WriteFile(settings, []byte(tangTable(t, "")), 0o600); err != nil {
		t.Fatal(err)
	}
	n := newOther(t, "--kek", settings)
	n.opens()
	output(t, "/usr/libexec/tangd-rotate-keys", "-d", "/var/lib/tang")
	n.opens()
	n.write("etc/voluks/config.toml", "recovery = \"none\"\n"+tangTable(t, ""))
	if moved := n.voluks("kek", "rotate"); !strings.Contains(moved, "moved") {
		t.Errorf("after the server's keys were rotated: %s", moved)
	}
	old, err := filepath.Glob("/var/lib/tang/.*.jwk")
	if err != nil || len(old) == 0 {
		t.Fatalf("old keys: %v, %v", old, err)
	}
	for _, key := range old {
		if err := os.Remove(key); err != nil {
			t.Fatal(err)
		}
	}
	n.opens()
	output(t, "systemctl", "stop", "tangd.socket")
	out, err := try(n.command("kek", "test")...)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 6 || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("kek test without the server: %v\n%s", err, out)
	}
}

// A systemd credential: made by init, sealed to what there is, which is said; opened by systemd-creds, and by systemd for a unit that
// imports what the agent's does.
func TestCredential(t *testing.T) {
	n := newOther(t, "--credential")
	if !strings.Contains(n.made, "sealed to the host key of this installation alone, since systemd can use no TPM2 here") {
		t.Errorf("init says: %s", n.made)
	}
	if told := n.voluks("--format", "json", "kek", "test"); !strings.Contains(told, `"works"`) {
		t.Errorf("kek test: %s", told)
	}
	n.opens()
	sealed := filepath.Join(n.root, "etc/credstore.encrypted/voluks-kek")
	_, err := try(n.command("kek", "create", "credential", sealed)...)
	if err == nil || !strings.Contains(err.Error(), "never overwritten") || strings.Contains(err.Error(), "hint: edit") {
		t.Errorf("made once more: %v", err)
	}
	if err := os.Rename(sealed, sealed+".elsewhere"); err != nil {
		t.Fatal(err)
	}
	if out, err := try(n.command("volume", "mount", "db")...); err == nil {
		t.Errorf("mounted without the credential: %s", out)
	}
	// Where systemd keeps them, a unit gets it as the agent does.
	const store = "/etc/credstore.encrypted/voluks-kek"
	output(t, "install", "-D", "-m", "0600", sealed+".elsewhere", store)
	t.Cleanup(func() { os.Remove(store) })
	imports := regexp.MustCompile("(?m)^ImportCredential=.*$").FindString(output(t, "systemctl", "cat", "voluks.service"))
	output(t, "systemd-run", "--quiet", "--wait", "--collect", "-p", imports, "voluks", "--root", n.root, "volume", "mount", "db")
	n.voluks("volume", "umount", "db")
}

// The same with a TPM, which is a program here: the credential is sealed to both, and does not open without it.
func TestCredentialTPM(t *testing.T) {
	full(t)
	device, stop := realtest.NewTPM(t)
	n := newOther(t, "--credential", "--tpm2-device", device)
	if !strings.Contains(n.made, "sealed to the TPM2 of this node and the host key of this installation.") {
		t.Errorf("init says: %s", n.made)
	}
	n.opens()
	made := n.voluks("--format", "json", "kek", "create", "--tpm2-device", device, "credential", filepath.Join(n.root, "second"))
	if !strings.Contains(made, "the TPM2 of this node") || !strings.Contains(made, "the host key of this installation") {
		t.Errorf("kek create says: %s", made)
	}
	stop()
	if out, err := try(n.command("volume", "mount", "db")...); err == nil {
		t.Errorf("mounted without the TPM: %s", out)
	}
}
