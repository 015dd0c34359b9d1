// SPDX-License-Identifier: Apache-2.0

package luks

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	second "github.com/anatol/luks.go"

	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/luks/header"
)

// FuzzWitness asserts that the strict check keeps everything away from luks.go that would crash it (a panic, or memory without end), and that the two agree on
// what they read. The corpus of package header serves here too, since whatever is hostile there must not get through.
func FuzzWitness(f *testing.F) {
	base := firstHeader(f)
	h, err := header.Read(bytes.NewReader(base), int64(len(base)))
	if err != nil {
		f.Fatal(err)
	}
	good := string(h.JSON)
	f.Add(good)
	for _, change := range [][2]string{
		{`"iterations":1000`, `"iterations":1001`}, {`"hash":"sha256"`, `"hash":"sha1"`}, {`"hash":"sha256"`, `"hash":"sha3-512"`}, {`"key_size":64}`, `"key_size":32}`},
		{`"kdf":{"type":"pbkdf2","hash":"sha256","iterations":1000,`, `"kdf":{"type":"argon2id","time":1,"memory":32,"cpus":16,`},
		{`"kdf":{"type":"pbkdf2","hash":"sha256","iterations":1000,`, `"kdf":{"type":"argon2i","time":1,"memory":32,"cpus":1,`},
		{`"kdf":{"type":"pbkdf2"`, `"priority":2,"kdf":{"type":"pbkdf2"`}, {`"sector_size":4096`, `"sector_size":512`}, {`"keyslots":["31"]`, `"keyslots":[]`},
	} {
		if !strings.Contains(good, change[0]) {
			f.Fatalf("%s is not in %s", change[0], good)
		}
		f.Add(strings.ReplaceAll(good, change[0], change[1]))
	}
	paths, err := filepath.Glob("header/testdata/fuzz/FuzzMetadata/*")
	if err != nil || len(paths) < 50 {
		f.Fatalf("%d hostile headers, %v", len(paths), err)
	}
	for _, path := range paths {
		f.Add(corpusText(f, path))
	}
	image := make([]byte, header.DefaultDataOffset)
	copy(image, base)
	f.Fuzz(func(t *testing.T, metadata string) { compareReaders(t, image, metadata) })
}

// compareReaders puts the metadata into both copies in the image, which it may do again and again.
func compareReaders(t *testing.T, image []byte, metadata string) {
	for at := range 2 {
		part := image[at*header.DefaultMetadataSize : (at+1)*header.DefaultMetadataSize]
		clear(part[4096:])
		copy(part[4096:], metadata)
		clear(part[448:512])
		sum := sha256.Sum256(part)
		copy(part[448:], sum[:])
	}
	h, err := header.Read(bytes.NewReader(image), int64(len(image)))
	if err != nil || h.Damage() != nil || h.Strict(header.Expect{}) != nil {
		return
	}
	m, err := sys.Memfd("fuzz", image)
	must(t, err)
	defer m.Close()
	d, err := second.Open(descriptor(m))
	if err != nil {
		t.Fatalf("accepted, but luks.go says %v: %s", err, metadata)
	}
	defer d.Close()
	if d.UUID() != h.UUID || d.Version() != 2 {
		t.Errorf("luks.go reads UUID %s", d.UUID())
	}
	tokens, err := d.Tokens()
	if err != nil || len(tokens) != len(h.Tokens) {
		t.Errorf("luks.go reads tokens %v, %v", tokens, err)
	}
	for id, k := range h.Keyslots {
		if k.KDF.Memory > 4096 || k.KDF.Iterations > 5000 || k.KDF.Time > 8 {
			continue // within bounds, but too much for here
		}
		if _, err := d.UnsealVolume(id, []byte("whatever")); err == nil || errors.Is(err, os.ErrClosed) {
			t.Errorf("slot %d: %v", id, err)
		}
	}
}

// corpusText is the first string of a corpus file.
func corpusText(f *testing.F, path string) string {
	f.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	line := strings.Split(string(b), "\n")[1]
	text, err := strconv.Unquote(strings.TrimSuffix(strings.TrimPrefix(line, "string("), ")"))
	if err != nil {
		f.Fatalf("%s: %v", path, err)
	}
	return text
}

// firstHeader is the committed header of voluks.
func firstHeader(f *testing.F) []byte {
	f.Helper()
	packed, err := os.Open(committed + ".hdr.gz")
	if err != nil {
		f.Fatal(err)
	}
	defer packed.Close()
	z, err := gzip.NewReader(packed)
	if err != nil {
		f.Fatal(err)
	}
	raw, err := io.ReadAll(z)
	if err != nil {
		f.Fatal(err)
	}
	return raw
}
