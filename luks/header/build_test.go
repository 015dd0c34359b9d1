// SPDX-License-Identifier: Apache-2.0

package header_test

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/voluks/voluks/luks/header"
)

const (
	uuid   = "0f6bd0a6-1a5c-4a49-9d15-6f8a3c5b2e11"
	space  = 64 << 20 // bytes of the pretended device
	offset = 16 << 20
)

// metadata is what voluks writes, with two slots. Tests change one thing of it.
const metadata = `{"keyslots":{` +
	`"30":{"type":"luks2","key_size":64,"af":{"type":"luks1","stripes":4000,"hash":"sha256"},"area":{"type":"raw","offset":"389120","size":"258048","encryption":"aes-xts-plain64","key_size":64},"kdf":{"type":"pbkdf2","hash":"sha256","iterations":1000,"salt":"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="}},` +
	`"31":{"type":"luks2","key_size":64,"af":{"type":"luks1","stripes":4000,"hash":"sha256"},"area":{"type":"raw","offset":"131072","size":"258048","encryption":"aes-xts-plain64","key_size":64},"kdf":{"type":"pbkdf2","hash":"sha256","iterations":1000,"salt":"ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA="}}},` +
	`"tokens":{"0":{"type":"voluks-agent","keyslots":["31"],"Any":{"any":[1.5,null,true]}}},` +
	`"segments":{"0":{"type":"crypt","offset":"16777216","size":"dynamic","iv_tweak":"0","encryption":"aes-xts-plain64","sector_size":4096}},` +
	`"digests":{"0":{"type":"pbkdf2","keyslots":["30","31"],"segments":["0"],"hash":"sha256","iterations":1000,"salt":"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=","digest":"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="}},` +
	`"config":{"json_size":"61440","keyslots_size":"16646144","flags":["allow-discards"]}}`

// A half is what a test writes as one copy of a header, checksum included.
type half struct {
	magic     string
	offset    int64
	size      int64
	epoch     uint64
	uuid      string
	algorithm string
	json      string
	padding   byte // fills the JSON area behind the text
}

func firstHalf(json string) half {
	return half{magic: "LUKS\xba\xbe", size: 64 << 10, epoch: 3, uuid: uuid, algorithm: "sha256", json: json}
}

func secondHalf(json string) half {
	c := firstHalf(json)
	c.magic, c.offset = "SKUL\xba\xbe", c.size
	return c
}

func (c half) bytes() []byte {
	b := make([]byte, c.size)
	copy(b, c.magic)
	binary.BigEndian.PutUint16(b[6:], 2)
	binary.BigEndian.PutUint64(b[8:], uint64(c.size))
	binary.BigEndian.PutUint64(b[16:], c.epoch)
	copy(b[24:], "a label")
	copy(b[72:], c.algorithm)
	copy(b[104:], "salt, different in each copy"+c.magic)
	copy(b[168:], c.uuid)
	copy(b[208:], "voluks")
	binary.BigEndian.PutUint64(b[256:], uint64(c.offset))
	for i := copy(b[4096:], c.json); 4096+i < len(b); i++ {
		b[4096+i] = c.padding
	}
	sum := sha256.Sum256(b)
	copy(b[448:], sum[:])
	return b
}

// pair is a whole header with the same metadata twice.
func pair(json string) []byte {
	return append(firstHalf(json).bytes(), secondHalf(json).bytes()...)
}

// A disk is a device of which only the beginning is not zero.
type disk struct {
	head []byte
	size int64
}

func (d disk) ReadAt(p []byte, at int64) (int, error) {
	clear(p)
	if at < int64(len(d.head)) {
		copy(p, d.head[at:])
	}
	if at+int64(len(p)) > d.size {
		return int(max(0, d.size-at)), io.EOF
	}
	return len(p), nil
}

func read(head []byte) (*header.Header, error) {
	return header.Read(disk{head, space}, space)
}

func mustRead(t *testing.T, head []byte) *header.Header {
	t.Helper()
	h, err := read(head)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// edit sets the member at the path (names joined by dots) to a value, or removes it if the value is nil.
func edit(t testing.TB, text, path string, value any) string {
	t.Helper()
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	var root map[string]any
	if err := dec.Decode(&root); err != nil {
		t.Fatal(err)
	}
	at, names := root, strings.Split(path, ".")
	for _, name := range names[:len(names)-1] {
		next, ok := at[name].(map[string]any)
		if !ok {
			next = map[string]any{}
			at[name] = next
		}
		at = next
	}
	if last := names[len(names)-1]; value == nil {
		delete(at, last)
	} else {
		at[last] = value
	}
	out, err := json.Marshal(root)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// swap replaces a piece of text that must occur.
func swap(t testing.TB, text, old, new string) string {
	t.Helper()
	if !strings.Contains(text, old) {
		t.Fatalf("%q is not in the metadata", old)
	}
	return strings.ReplaceAll(text, old, new)
}

// realHeaders are the first bytes of containers that cryptsetup and voluks made; see testdata/README.md.
func realHeaders(t testing.TB) map[string][]byte {
	t.Helper()
	paths, err := filepath.Glob("testdata/*.hdr.gz")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no headers in testdata: %v", err)
	}
	out := map[string][]byte{}
	for _, path := range paths {
		packed, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		z, err := gzip.NewReader(bytes.NewReader(packed))
		if err != nil {
			t.Fatal(err)
		}
		raw, err := io.ReadAll(z)
		if err != nil {
			t.Fatal(err)
		}
		out[strings.TrimSuffix(filepath.Base(path), ".hdr.gz")] = raw
	}
	return out
}
