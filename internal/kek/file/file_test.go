// SPDX-License-Identifier: Apache-2.0

package file_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/kek/file"
	"github.com/voluks/voluks/internal/kek/kektest"
)

// F28 F37 F41
func TestConformance(t *testing.T) {
	dir := t.TempDir()
	open := func(name string) func(*testing.T) kek.Provider {
		path := filepath.Join(dir, name)
		if _, err := file.Generate(path); err != nil {
			t.Fatal(err)
		}
		return func(t *testing.T) kek.Provider {
			p, err := file.New(path)
			if err != nil {
				t.Fatal(err)
			}
			return p
		}
	}
	kektest.Run(t, kektest.Target{New: open("one.key"), Other: open("two.key")})
}

// The format does not change: a wrap that was made once is opened by every later voluks. The key is
// the bytes 0 to 31, computed with another implementation of HKDF and AES-GCM; see testdata/vector.py.
func TestVector(t *testing.T) {
	path := filepath.Join(t.TempDir(), "master.key")
	key := make([]byte, kek.KeySize)
	for i := range key {
		key[i] = byte(i)
	}
	if err := os.WriteFile(path, key, 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := file.New(path)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("testdata/vector.txt")
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.Fields(text)
	if got := p.Ref().ID; got != string(lines[0]) {
		t.Errorf("fingerprint %s, want %s", got, lines[0])
	}
	wrap, err := hex.DecodeString(string(lines[1]))
	if err != nil {
		t.Fatal(err)
	}
	b := kek.Binding{VolumeUUID: "6f2a1c1e-7d1e-4b7e-8a55-52f0a4d1c0de", Role: "agent"}
	w, err := p.Unwrap(t.Context(), b, p.Ref(), wrap)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Wipe()
	if want := bytes.Repeat([]byte{0xa5}, kek.KeySize); !bytes.Equal(w.Bytes(), want) {
		t.Error("the vector opened to another key")
	}
}

// F39: a master key that was replaced by another is told apart from damage, with both fingerprints,
// also when it is replaced while the provider is in use.
func TestReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "master.key")
	first, err := file.Generate(path)
	if err != nil {
		t.Fatal(err)
	}
	before, err := file.New(path)
	if err != nil {
		t.Fatal(err)
	}
	b := kek.Binding{VolumeUUID: "6f2a1c1e-7d1e-4b7e-8a55-52f0a4d1c0de", Role: "agent"}
	w, wrap, ref, err := before.Generate(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	w.Wipe()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	second, err := file.Generate(path)
	if err != nil {
		t.Fatal(err)
	}
	after, err := file.New(path)
	if err != nil {
		t.Fatal(err)
	}
	for what, p := range map[string]kek.Provider{"made before": before, "made after": after} {
		_, err := p.Unwrap(t.Context(), b, ref, wrap)
		var not *kek.NotMineError
		if !errors.As(err, &not) || not.Want != first || not.Have != second {
			t.Errorf("%s: %v", what, err)
		}
	}
	// What is wrapped meanwhile names the key that wrapped it.
	w, _, ref, err = before.Generate(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	w.Wipe()
	if ref != second {
		t.Errorf("wrapped by %v, told %v", second, ref)
	}
}
