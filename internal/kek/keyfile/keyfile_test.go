// SPDX-License-Identifier: Apache-2.0

package keyfile_test

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/voluks/voluks/internal/kek/keyfile"
)

// raw is a key that cannot be taken for text: its first byte is not printable.
func raw(t *testing.T) []byte {
	t.Helper()
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		t.Fatal(err)
	}
	key[0] = 0x80
	return key
}

// F28 F34 F41: every key file that is not one gives an error of its own, which does not show it.
func TestBadFiles(t *testing.T) {
	key := raw(t)
	hexText, base64Text := hex.EncodeToString(key), base64.StdEncoding.EncodeToString(key)
	tests := map[string]struct {
		content []byte
		want    error
		detail  string
	}{
		"empty":                 {nil, keyfile.ErrShort, "0 bytes, expected 32"},
		"short":                 {key[:31], keyfile.ErrShort, "31 bytes, expected 32"},
		"long":                  {append(bytes.Clone(key), 1), keyfile.ErrLong, "33 bytes, expected 32"},
		"very long":             {bytes.Repeat(key, 100), keyfile.ErrLong, "3200 bytes, expected 32"},
		"newline":               {append(bytes.Clone(key), '\n'), keyfile.ErrNewline, "33 bytes, expected 32"},
		"crlf":                  {append(bytes.Clone(key), '\r', '\n'), keyfile.ErrNewline, "34 bytes, expected 32"},
		"hex":                   {[]byte(hexText), keyfile.ErrHex, "64 bytes, expected 32"},
		"hex line":              {[]byte(strings.ToUpper(hexText) + "\n"), keyfile.ErrHex, "65 bytes, expected 32"},
		"hex of half a key":     {[]byte(hexText[:32]), keyfile.ErrHex, "32 bytes, expected 32"},
		"hex line of half":      {[]byte(hexText[:32] + "\n"), keyfile.ErrHex, "33 bytes, expected 32"},
		"base64":                {[]byte(base64Text), keyfile.ErrBase64, "44 bytes, expected 32"},
		"base64 line":           {[]byte(base64Text + "\n"), keyfile.ErrBase64, "45 bytes, expected 32"},
		"base64url, not padded": {[]byte(base64.RawURLEncoding.EncodeToString(key)), keyfile.ErrBase64, "43 bytes, expected 32"},
		"passphrase":            {[]byte("correct horse battery staple!!!!"), keyfile.ErrNotRandom, "32 bytes, expected 32"},
		"zeros":                 {make([]byte, 32), keyfile.ErrNotRandom, "32 bytes, expected 32"},
	}
	for name, test := range tests {
		path := filepath.Join(t.TempDir(), "master.key")
		if err := os.WriteFile(path, test.content, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := keyfile.Read(path)
		var typed *keyfile.Error
		if !errors.As(err, &typed) || !errors.Is(err, test.want) || typed.Path != path {
			t.Errorf("%s: got %v, want %v", name, err, test.want)
			continue
		}
		if !strings.HasSuffix(err.Error(), "("+test.detail+")") {
			t.Errorf("%s: %v does not end in %s", name, err, test.detail)
		}
		if strings.Contains(err.Error(), hexText[2:10]) || strings.Contains(err.Error(), base64Text[2:10]) || strings.Contains(err.Error(), "horse") {
			t.Errorf("%s: the error shows the key: %v", name, err)
		}
	}
}

// A key that ends in what could be a newline is a key.
func TestKeysThatEndInNewline(t *testing.T) {
	for _, end := range []string{"\n", "\r\n", "\n\n", "\r"} {
		key := raw(t)
		copy(key[32-len(end):], end)
		path := filepath.Join(t.TempDir(), "master.key")
		if err := os.WriteFile(path, key, 0o400); err != nil {
			t.Fatal(err)
		}
		if _, err := keyfile.Read(path); err != nil {
			t.Errorf("%q: %v", end, err)
		}
		if err := os.WriteFile(path+"2", append(key, '\n'), 0o400); err != nil {
			t.Fatal(err)
		}
		if _, err := keyfile.Read(path + "2"); !errors.Is(err, keyfile.ErrNewline) {
			t.Errorf("%q and a newline: %v", end, err)
		}
	}
}

func TestBadKinds(t *testing.T) {
	key := raw(t)
	tests := map[string]struct {
		make func(path string) error
		want error
	}{
		"missing":   {func(string) error { return nil }, keyfile.ErrMissing},
		"directory": {func(path string) error { return os.Mkdir(path, 0o700) }, keyfile.ErrNotRegular},
		"pipe":      {func(path string) error { return syscall.Mkfifo(path, 0o600) }, keyfile.ErrNotRegular},
		"symlink": {func(path string) error {
			return errors.Join(os.WriteFile(path+".real", key, 0o600), os.Symlink(path+".real", path))
		}, keyfile.ErrSymlink},
		"group may read":    {func(path string) error { return write(path, key, 0o640) }, keyfile.ErrOpen},
		"others may read":   {func(path string) error { return write(path, key, 0o604) }, keyfile.ErrOpen},
		"group may write":   {func(path string) error { return write(path, key, 0o620) }, keyfile.ErrOpen},
		"others may search": {func(path string) error { return write(path, key, 0o601) }, keyfile.ErrOpen},
	}
	for name, test := range tests {
		path := filepath.Join(t.TempDir(), "master.key")
		if err := test.make(path); err != nil {
			t.Fatal(err)
		}
		_, err := keyfile.Read(path)
		var typed *keyfile.Error
		if !errors.As(err, &typed) || !errors.Is(err, test.want) {
			t.Errorf("%s: got %v, want %v", name, err, test.want)
		}
	}
	if _, err := keyfile.Read(filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file is not fs.ErrNotExist: %v", err)
	}
}

func TestOtherOwner(t *testing.T) {
	path := "/proc/self/status" // a regular file of whoever runs this
	if os.Geteuid() == 0 {
		path = filepath.Join(t.TempDir(), "master.key")
		if err := errors.Join(write(path, raw(t), 0o600), os.Chown(path, 1, 1)); err != nil {
			t.Fatal(err)
		}
	} else {
		path = "/etc/passwd" // root's
	}
	if _, err := keyfile.Read(path); !errors.Is(err, keyfile.ErrOwner) {
		t.Errorf("got %v, want %v", err, keyfile.ErrOwner)
	}
}

func write(path string, key []byte, mode os.FileMode) error {
	return errors.Join(os.WriteFile(path, key, 0o600), os.Chmod(path, mode))
}

func TestGenerate(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "master.key")
	made, err := keyfile.Generate(path)
	if err != nil {
		t.Fatal(err)
	}
	defer made.Wipe()
	found, err := keyfile.Read(path)
	if err != nil {
		t.Fatal(err)
	}
	defer found.Wipe()
	if !found.Equal(made) {
		t.Error("another key was found than was made")
	}
	key, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 || len(key) != 32 {
		t.Errorf("%v, %d bytes, %v", info.Mode(), len(key), err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

// F7: whatever is there stays, and nothing is left beside it.
func TestGenerateNeverOverwrites(t *testing.T) {
	key := raw(t)
	for name, place := range map[string]func(path string) error{
		"key":            func(path string) error { return write(path, key, 0o600) },
		"empty":          func(path string) error { return write(path, nil, 0o644) },
		"dangling link":  func(path string) error { return os.Symlink("/nonexistent/key", path) },
		"directory":      func(path string) error { return os.Mkdir(path, 0o700) },
		"key of another": func(path string) error { return errors.Join(write(path, key, 0o600), os.Chmod(path, 0)) },
	} {
		dir := t.TempDir()
		path := filepath.Join(dir, "master.key")
		if err := place(path); err != nil {
			t.Fatal(err)
		}
		before, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := keyfile.Generate(path); !errors.Is(err, keyfile.ErrExists) || !errors.Is(err, fs.ErrExist) {
			t.Errorf("%s: got %v, want %v", name, err, keyfile.ErrExists)
		}
		after, err := os.Lstat(path)
		if err != nil || !os.SameFile(before, after) || before.Size() != after.Size() || before.Mode() != after.Mode() {
			t.Errorf("%s: changed: %v", name, err)
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
			t.Errorf("%s: left behind: %v, %v", name, entries, err)
		}
	}
	if _, err := keyfile.Generate(filepath.Join(t.TempDir(), "no", "master.key")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
}
