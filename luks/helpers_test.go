// SPDX-License-Identifier: Apache-2.0

package luks

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/voluks/voluks/internal/secret"
	"github.com/voluks/voluks/internal/testenv"
	"github.com/voluks/voluks/luks/header"
)

func TestMain(m *testing.M) {
	// libcryptsetup opens /dev/urandom and /dev/random on first use, and keeps them: no leak of ours.
	if _, err := Version(); err != nil {
		panic(err)
	}
	testenv.Main(m)
}

const (
	testUUID = "0f6bd0a6-1a5c-4a49-9d15-6f8a3c5b2e11"
	agent    = 31
	recovery = 30
	dataSize = 4 << 20 // bytes behind the header
)

func randomKey(t testing.TB) *secret.Key {
	t.Helper()
	k, err := secret.Random(32)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Wipe)
	return k
}

func keyOf(t testing.TB, text string) *secret.Key {
	t.Helper()
	k, err := secret.Move([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Wipe)
	return k
}

// image makes an empty file for a container. It is sparse: only headers are written in these tests.
func image(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, header.DefaultDataOffset+dataSize); err != nil {
		t.Fatal(err)
	}
	return path
}

func params(key *secret.Key) FormatParams {
	return FormatParams{UUID: testUUID, Label: "db", Subsystem: "voluks", SectorSize: 4096, Slot: agent, Key: key}
}

// formatted makes a container in a file.
func formatted(t testing.TB, key *secret.Key) *Container {
	t.Helper()
	c := At(image(t))
	if err := c.Format(params(key)); err != nil {
		t.Fatal(err)
	}
	return c
}

func mustHeader(t testing.TB, c *Container) *header.Header {
	t.Helper()
	h, err := c.Header()
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantError(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("error is %v, want %v", err, want)
	}
}

// cli runs the cryptsetup program, with a key on its standard input if there is one.
func cli(t testing.TB, key *secret.Key, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "cryptsetup", args...)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin", "LC_ALL=C")
	if key != nil {
		cmd.Stdin = bytes.NewReader(key.Bytes())
	}
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func mustCLI(t testing.TB, key *secret.Key, args ...string) string {
	t.Helper()
	out, err := cli(t, key, args...)
	if err != nil {
		t.Fatalf("cryptsetup %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return out
}

// content identifies what is in a file now.
func content(t testing.TB, path string) [sha256.Size]byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		t.Fatal(err)
	}
	return [sha256.Size]byte(sum.Sum(nil))
}

// overwrite writes bytes into a file, as a disk or another program would.
func overwrite(t testing.TB, path string, at int64, b []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
}
