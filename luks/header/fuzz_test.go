// SPDX-License-Identifier: Apache-2.0

package header_test

import (
	"encoding/json"
	"errors"
	"reflect"
	"testing"

	"github.com/voluks/voluks/luks/header"
)

// FuzzRead feeds whole headers as they may lie on a disk.
func FuzzRead(f *testing.F) {
	for _, raw := range realHeaders(f) {
		f.Add(raw)
		f.Add(raw[:len(raw)/2])
		f.Add(raw[:5000])
	}
	f.Add([]byte("LUKS\xba\xbe\x00\x01"))
	f.Add([]byte("LUKS\xba\xbe\x00\x02\x00\x00\x00\x00\x00\x40\x00\x00"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, raw []byte) {
		check(t, raw, int64(len(raw)))
		check(t, raw, space)
	})
}

// FuzzMetadata feeds the metadata of both copies, with right checksums around it.
func FuzzMetadata(f *testing.F) {
	f.Add(metadata, metadata)
	for _, raw := range realHeaders(f) {
		if h, err := read(raw); err == nil {
			f.Add(string(h.JSON), string(h.JSON))
		}
	}
	f.Fuzz(func(t *testing.T, first, second string) {
		check(t, append(firstHalf(first).bytes(), secondHalf(second).bytes()...), space)
	})
}

// check reads and asserts what holds of any input.
func check(t *testing.T, raw []byte, size int64) {
	h, err := header.Read(disk{raw, size}, size)
	if (h == nil) == (err == nil) {
		t.Fatalf("header %v with error %v", h, err)
	}
	if err != nil {
		var damage *header.DamagedError
		if !errors.Is(err, header.ErrNotLUKS) && !errors.Is(err, header.ErrLUKS1) && !(errors.As(err, &damage) && damage.Lost()) {
			t.Fatalf("an error of no kind: %v", err)
		}
		return
	}
	if again, _ := header.Read(disk{raw, size}, size); !reflect.DeepEqual(h, again) {
		t.Fatal("two readings differ")
	}
	good := h.Copies[0].Err == nil || h.Copies[1].Err == nil
	if !good || (h.Damage() == nil) != (h.Copies[0].Err == nil && h.Copies[1].Err == nil) {
		t.Fatalf("copies %+v, damage %v", h.Copies, h.Damage())
	}
	if !json.Valid(h.JSON) {
		t.Fatalf("no JSON: %q", h.JSON)
	}
	// What was read and written down again is the same.
	same := mustRead(t, rewrite(h))
	if !reflect.DeepEqual(h.Keyslots, same.Keyslots) || !reflect.DeepEqual(h.Tokens, same.Tokens) || !reflect.DeepEqual(h.Segments, same.Segments) ||
		!reflect.DeepEqual(h.Digests, same.Digests) || !reflect.DeepEqual(h.Config, same.Config) || same.Damage() != nil {
		t.Fatalf("rewritten: %+v, was %+v", same, h)
	}
	e := header.Expect{MetadataSize: h.Size}
	if err := h.Strict(e); err == nil {
		acceptable(t, h)
		if err := same.Strict(e); err != nil {
			t.Fatalf("acceptable, but not when rewritten: %v", err)
		}
	}
}

func rewrite(h *header.Header) []byte {
	a, b := firstHalf(string(h.JSON)), secondHalf(string(h.JSON))
	a.size, b.size, b.offset = h.Size, h.Size, h.Size
	return append(a.bytes(), b.bytes()...)
}

// acceptable asserts what every caller relies on after Strict.
func acceptable(t *testing.T, h *header.Header) {
	if len(h.Segments) != 1 || h.Segments[0].Encryption != "aes-xts-plain64" || h.Segments[0].Offset != offset || len(h.Digests) != 1 || len(h.Digests[0].Digest) != 32 ||
		len(h.Config.Requirements) != 0 {
		t.Fatalf("acceptable: %+v", h)
	}
	for i, k := range h.Keyslots {
		end := k.Area.Offset + k.Area.Size
		if k.Area.Offset < 2*h.Size || end > offset || end > h.Space || k.Area.Size < 256000 || k.Area.Encryption != "aes-xts-plain64" || k.AF.Stripes != 4000 {
			t.Fatalf("acceptable slot %d: %+v", i, k)
		}
		if k.KDF.Type != "pbkdf2" && (k.KDF.Time < 1 || k.KDF.Memory > 4<<20 || k.KDF.CPUs < 1 || k.KDF.CPUs > 255) {
			t.Fatalf("acceptable slot %d: %+v", i, k)
		}
		for j, o := range h.Keyslots {
			if i != j && k.Area.Offset < o.Area.Offset+o.Area.Size && o.Area.Offset < end {
				t.Fatalf("acceptable slots %d and %d overlap", i, j)
			}
		}
	}
}
