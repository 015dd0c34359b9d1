// SPDX-License-Identifier: Apache-2.0

package credential_test

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/kek/credential"
	"github.com/voluks/voluks/internal/kek/credential/sealed"
	"github.com/voluks/voluks/internal/kek/kektest"
	"github.com/voluks/voluks/internal/kek/keyfile"
	"github.com/voluks/voluks/internal/kek/realtest"
	"github.com/voluks/voluks/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

var binding = kek.Binding{VolumeUUID: "0b41f68c-4a4c-4d5e-9a4e-0f1d2c3b4a59", Role: "agent"}

// host makes systemd-creds use a host key of the test's own, and no credentials of the session that the test runs in.
func host(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("systemd-creds"); err != nil {
		testenv.Missing(t, "systemd-creds", "package systemd: "+err.Error())
	}
	if os.Geteuid() != 0 {
		testenv.Missing(t, "systemd-creds", "systemd-creds keeps its host key for root")
	}
	t.Setenv("SYSTEMD_CREDENTIAL_SECRET", filepath.Join(t.TempDir(), "host.secret"))
	t.Setenv("CREDENTIALS_DIRECTORY", "")
}

func settings(t *testing.T) sealed.File {
	t.Helper()
	return sealed.File{At: "kek.credential", Path: filepath.Join(t.TempDir(), "credstore.encrypted", "voluks-kek")}
}

func create(t *testing.T) (sealed.File, kek.Ref) {
	t.Helper()
	s := settings(t)
	ref, sealedTo, err := credential.Create(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(sealedTo, sealed.HostKey) {
		t.Errorf("sealed to %v", sealedTo)
	}
	return s, ref
}

func open(t *testing.T, s sealed.File) kek.Provider {
	t.Helper()
	p, err := credential.New(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// F28, F29, F39: as the command line has it.
func TestConformance(t *testing.T) {
	host(t)
	s, ref := create(t)
	other, _ := create(t)
	if p := open(t, s); p.Ref() != ref {
		t.Errorf("made %v, opened %v", ref, p.Ref())
	}
	info, err := os.Stat(s.Path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if left, _ := os.ReadDir(filepath.Dir(s.Path)); len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
	kektest.Run(t, kektest.Target{
		New:    func(t *testing.T) kek.Provider { return open(t, s) },
		Other:  func(t *testing.T) kek.Provider { return open(t, other) },
		Stride: 5,
	})
}

// loaded gives the test what systemd gives to a unit with LoadCredentialEncrypted=, by name.
func loaded(t *testing.T, credentials map[string][]byte) {
	t.Helper()
	dir := t.TempDir()
	for name, content := range credentials {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o400); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
}

func random(t *testing.T, n int) []byte {
	t.Helper()
	key := make([]byte, n)
	rand.Read(key)
	return key
}

// As the agent has it. The file need not be there, and systemd-creds neither.
func TestConformanceLoaded(t *testing.T) {
	loaded(t, map[string][]byte{sealed.DefaultName: random(t, 32), "other": random(t, 32)})
	s := settings(t)
	other := s
	other.Name = "other"
	kektest.Run(t, kektest.Target{
		New:   func(t *testing.T) kek.Provider { return open(t, s) },
		Other: func(t *testing.T) kek.Provider { return open(t, other) },
	})
}

// The agent and the command line, which have the key by different ways, open each other's wraps.
func TestTwoWays(t *testing.T) {
	host(t)
	s, ref := create(t)
	w, wrap, _, err := open(t, s).Generate(t.Context(), binding)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Wipe()
	decrypted, err := exec.Command("systemd-creds", "decrypt", "--name="+sealed.DefaultName, s.Path, "-").Output()
	if err != nil {
		t.Fatal(err)
	}
	loaded(t, map[string][]byte{sealed.DefaultName: decrypted})
	s.Path = "/nonexistent"
	p := open(t, s)
	got, err := p.Unwrap(t.Context(), binding, ref, wrap)
	if err != nil || !got.Equal(w) {
		t.Errorf("%v", err)
	}
	got.Wipe()
}

// The credential was replaced under a running agent.
func TestReplaced(t *testing.T) {
	host(t)
	s, ref := create(t)
	p := open(t, s)
	w, wrap, _, err := p.Generate(t.Context(), binding)
	if err != nil {
		t.Fatal(err)
	}
	w.Wipe()
	if err := os.Remove(s.Path); err != nil {
		t.Fatal(err)
	}
	now, _, err := credential.Create(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	_, err = p.Unwrap(t.Context(), binding, ref, wrap)
	var not *kek.NotMineError
	if !errors.As(err, &not) || not.Want != ref || not.Have != now {
		t.Errorf("got %v", err)
	}
}

// With a TPM the key is sealed to it too, and opens on no other node.
func TestTPM(t *testing.T) {
	host(t)
	device, stop := realtest.NewTPM(t)
	s := settings(t)
	s.TPM2Device = device
	ref, sealedTo, err := credential.Create(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(sealedTo, []string{sealed.TPM2, sealed.HostKey}) {
		t.Errorf("sealed to %v", sealedTo)
	}
	if p := open(t, s); p.Ref() != ref {
		t.Errorf("made %v, opened %v", ref, p.Ref())
	}
	stop()
	if _, err := credential.New(s); !errors.Is(err, kek.ErrUnavailable) {
		t.Errorf("without the TPM: %v", err)
	}
	s.TPM2Device, _ = realtest.NewTPM(t)
	if _, err := credential.New(s); err == nil || errors.Is(err, kek.ErrUnavailable) {
		t.Errorf("with another TPM: %v", err)
	}
}

func TestCreateNeverOverwrites(t *testing.T) {
	host(t)
	s, _ := create(t)
	before, err := os.ReadFile(s.Path)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := credential.Create(t.Context(), s); !errors.Is(err, keyfile.ErrExists) {
		t.Errorf("got %v", err)
	}
	if after, err := os.ReadFile(s.Path); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the file was changed (%v)", err)
	}
}

func TestBad(t *testing.T) {
	host(t)
	good, _ := create(t)
	write := func(content []byte) string {
		path := filepath.Join(t.TempDir(), "master.cred")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	seal := func(content []byte, args ...string) string {
		cmd := exec.Command("systemd-creds", append([]string{"encrypt", "--name=" + sealed.DefaultName}, append(args, "-", "-")...)...)
		cmd.Stdin = bytes.NewReader(content)
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		return write(out)
	}
	content, err := os.ReadFile(good.Path)
	if err != nil {
		t.Fatal(err)
	}
	unknown, _ := base64.StdEncoding.DecodeString(strings.ReplaceAll(string(content), "\n", ""))
	unknown[0] ^= 1
	damaged := bytes.Clone(content)
	damaged[100] ^= 1
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(good.Path, link); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		change  func(*sealed.File)
		setting string
		words   string
	}{
		"bad name":        {func(s *sealed.File) { s.Name = "../x" }, "name", "not the name"},
		"relative path":   {func(s *sealed.File) { s.Path = "master.cred" }, "path", "absolute"},
		"missing":         {func(s *sealed.File) { s.Path = "/nonexistent/master.cred" }, "path", "voluks init --credential"},
		"a link":          {func(s *sealed.File) { s.Path = link }, "path", ""},
		"rubbish":         {func(s *sealed.File) { s.Path = write([]byte("rubbish")) }, "path", "not an encrypted credential"},
		"a key in clear":  {func(s *sealed.File) { s.Path = write(random(t, 32)) }, "path", "not an encrypted credential"},
		"of unknown kind": {func(s *sealed.File) { s.Path = write([]byte(base64.StdEncoding.EncodeToString(unknown))) }, "path", "kind"},
		"damaged":         {func(s *sealed.File) { s.Path = write(damaged) }, "path", ""},
		"huge":            {func(s *sealed.File) { s.Path = write(make([]byte, 1<<20)) }, "path", "too large"},
		"31 bytes":        {func(s *sealed.File) { s.Path = seal(random(t, 31), "--with-key=host") }, "path", "32"},
		"33 bytes":        {func(s *sealed.File) { s.Path = seal(random(t, 33), "--with-key=host") }, "path", "32"},
		"no key at all":   {func(s *sealed.File) { s.Path = seal(random(t, 32), "--with-key=tpm2-absent") }, "path", "anybody"},
		"another name":    {func(s *sealed.File) { s.Name = "other" }, "path", ""},
		"another host": {func(*sealed.File) {
			t.Setenv("SYSTEMD_CREDENTIAL_SECRET", filepath.Join(t.TempDir(), "other.secret"))
		}, "path", ""},
	} {
		s := good
		secret := os.Getenv("SYSTEMD_CREDENTIAL_SECRET")
		tc.change(&s)
		_, err := credential.New(s)
		t.Setenv("SYSTEMD_CREDENTIAL_SECRET", secret)
		var setting *kek.ConfigError
		if !errors.As(err, &setting) || setting.Setting != "kek.credential."+tc.setting || !strings.Contains(err.Error(), tc.words) || errors.Is(err, kek.ErrUnavailable) {
			t.Errorf("%s: %v", name, err)
		}
	}
	loaded(t, map[string][]byte{sealed.DefaultName: random(t, 31)})
	var setting *kek.ConfigError
	if _, err := credential.New(good); !errors.As(err, &setting) || setting.Setting != "kek.credential.name" {
		t.Errorf("loaded with 31 bytes: %v", err)
	}
}
