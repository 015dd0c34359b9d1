// SPDX-License-Identifier: Apache-2.0

package header_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/voluks/voluks/luks/header"
)

func TestReadDecodes(t *testing.T) {
	h := mustRead(t, pair(metadata))
	if h.UUID != uuid || h.Label != "a label" || h.Subsystem != "voluks" || h.Epoch != 3 || h.Size != 64<<10 || h.Space != space {
		t.Errorf("binary header: %+v", h)
	}
	if string(h.JSON) != metadata {
		t.Errorf("JSON is %s", h.JSON)
	}
	if err := h.Damage(); err != nil {
		t.Errorf("damage of a good header: %v", err)
	}
	if s := h.Segments[0]; s.Type != "crypt" || s.Offset != offset || !s.Dynamic || s.Encryption != "aes-xts-plain64" || s.SectorSize != 4096 {
		t.Errorf("segment: %+v", s)
	}
	k := h.Keyslots[31]
	if k.KeySize != 64 || k.Area.Offset != 131072 || k.Area.Size != 258048 || k.KDF.Type != "pbkdf2" || k.KDF.Iterations != 1000 || len(k.KDF.Salt) != 32 || k.Priority != nil {
		t.Errorf("key slot: %+v", k)
	}
	token := h.Tokens[0]
	if token.Type != "voluks-agent" || len(token.Keyslots) != 1 || token.Keyslots[0] != 31 || string(token.JSON) != `{"type":"voluks-agent","keyslots":["31"],"Any":{"any":[1.5,null,true]}}` {
		t.Errorf("token: %+v %s", token, token.JSON)
	}
	if err := h.Strict(header.Expect{UUID: uuid, SectorSize: 4096}); err != nil {
		t.Errorf("strict: %v", err)
	}
}

// F6: one copy overwritten, torn or stale is reported, and the other one serves.
func TestReadDamage(t *testing.T) {
	newer := secondHalf(metadata)
	newer.epoch = 9
	older := newer
	older.epoch = 2
	other := secondHalf(swap(t, metadata, `"voluks-agent"`, `"voluks-other"`))
	tests := []struct {
		name          string
		head          []byte
		first, second error
	}{
		{"good", pair(metadata), nil, nil},
		{"first zeroed", append(make([]byte, 64<<10), secondHalf(metadata).bytes()...), header.ErrMagic, nil},
		{"second zeroed", firstHalf(metadata).bytes(), nil, header.ErrMagic},
		{"first torn", flip(pair(metadata), 5000), header.ErrChecksum, nil},
		{"second torn", flip(pair(metadata), 64<<10+5000), nil, header.ErrChecksum},
		{"first with another size", flip(pair(metadata), 13), header.ErrChecksum, nil},
		{"second newer", append(firstHalf(metadata).bytes(), newer.bytes()...), header.ErrStale, nil},
		{"second older", append(firstHalf(metadata).bytes(), older.bytes()...), nil, header.ErrStale},
		{"same epoch, other content", append(firstHalf(metadata).bytes(), other.bytes()...), nil, header.ErrDiffers},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			h := mustRead(t, test.head)
			if !errors.Is(h.Copies[0].Err, test.first) || !errors.Is(h.Copies[1].Err, test.second) {
				t.Errorf("copies: %v, %v", h.Copies[0].Err, h.Copies[1].Err)
			}
			err := h.Damage()
			if test.first == nil && test.second == nil {
				if err != nil {
					t.Error(err)
				}
				return
			}
			var damage *header.DamagedError
			if !errors.As(err, &damage) || !errors.Is(err, header.ErrDamaged) || damage.Lost() {
				t.Errorf("damage: %v", err)
			}
			if string(h.JSON) != metadata {
				t.Errorf("not read from the good copy")
			}
			if err := h.Strict(header.Expect{}); err != nil {
				t.Errorf("a damaged copy makes the good one unacceptable: %v", err)
			}
		})
	}
}

func flip(b []byte, at int) []byte {
	b[at] ^= 0x20
	return b
}

// F6: every single changed byte of a copy is seen.
func TestReadSeesEveryByte(t *testing.T) {
	small := swap(t, metadata, `"61440"`, `"12288"`)
	a, b := firstHalf(small), secondHalf(small)
	a.size, b.size, b.offset = 16<<10, 16<<10, 16<<10
	good := append(a.bytes(), b.bytes()...)
	end := 4096 + len(small) + 64
	for copyAt, name := range map[int]string{0: "first", 16 << 10: "second"} {
		for at := copyAt; at < copyAt+end; at++ {
			if tail := at - copyAt; tail >= 448+32 && tail < 512 {
				continue // the checksum's field is 64 bytes, SHA-256 uses 32
			}
			good[at] ^= 1
			h, err := read(good)
			good[at] ^= 1
			if copyAt == 0 && at == 7 && errors.Is(err, header.ErrNotLUKS) {
				continue
			}
			if err != nil {
				t.Fatalf("byte %d: %v", at, err)
			}
			if h.Damage() == nil || (h.Copies[0].Err == nil) == (name == "first") {
				t.Fatalf("byte %d of the %s copy changed: %v, %v", at-copyAt, name, h.Copies[0].Err, h.Copies[1].Err)
			}
		}
	}
}

func TestReadLost(t *testing.T) {
	luks1 := make([]byte, 4096)
	copy(luks1, "LUKS\xba\xbe\x00\x01")
	version7 := firstHalf(metadata).bytes()
	version7[7] = 7
	huge := firstHalf(metadata).bytes()
	binary.BigEndian.PutUint64(huge[8:], 1<<63)
	tests := []struct {
		name string
		head []byte
		size int64
		want error
	}{
		{"nothing", nil, 0, header.ErrNotLUKS},
		{"zeros", nil, space, header.ErrNotLUKS},
		{"negative size", nil, -1, header.ErrNotLUKS},
		{"a file system", bytes.Repeat([]byte{0x53, 0xef}, 4096), space, header.ErrNotLUKS},
		{"LUKS1", luks1, space, header.ErrLUKS1},
		{"version 7", version7, space, header.ErrDamaged},
		{"huge header", huge, space, header.ErrDamaged},
		{"truncated in the first copy", pair(metadata)[:10000], 10000, header.ErrDamaged},
		{"both torn", flip(flip(pair(metadata), 5000), 64<<10+5000), space, header.ErrDamaged},
		{"both malformed", pair("{}"), space, header.ErrDamaged},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			h, err := header.Read(disk{test.head, test.size}, test.size)
			if h != nil || !errors.Is(err, test.want) {
				t.Errorf("got %v, %v, want %v", h, err, test.want)
			}
			if damage := new(header.DamagedError); errors.As(err, &damage) && !damage.Lost() {
				t.Errorf("%v is not said to be lost", err)
			}
		})
	}
}

type broken struct{ err error }

func (b broken) ReadAt([]byte, int64) (int, error) { return 0, b.err }

// F3: a device that cannot be read is neither blank nor damaged.
func TestReadError(t *testing.T) {
	sick := errors.New("input/output error")
	_, err := header.Read(broken{sick}, space)
	if !errors.Is(err, sick) || errors.Is(err, header.ErrDamaged) || errors.Is(err, header.ErrNotLUKS) {
		t.Errorf("got %v", err)
	}
	_, err = header.Read(broken{io.EOF}, space)
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a device that became shorter: %v", err)
	}
}

// A first copy that is lost with its size does not hide the second one, wherever it is.
func TestReadFindsSecond(t *testing.T) {
	for size := int64(16 << 10); size <= 4<<20; size *= 2 {
		c := secondHalf(metadata)
		c.size, c.offset = size, size
		c.json = swap(t, metadata, `"61440"`, `"`+itoa(size-4096)+`"`)
		h, err := read(append(make([]byte, size), c.bytes()...))
		if err != nil {
			t.Fatalf("size %d: %v", size, err)
		}
		if h.Size != size || h.Copies[1].Offset != size || !errors.Is(h.Copies[0].Err, header.ErrMagic) {
			t.Errorf("size %d: %+v", size, h.Copies)
		}
	}
}

func itoa(n int64) string {
	var b []byte
	for ; n > 0; n /= 10 {
		b = append([]byte{byte('0' + n%10)}, b...)
	}
	return string(b)
}

// Errors quote foreign text, which must not fill a terminal or a log.
func TestErrorsAreShort(t *testing.T) {
	long := strings.Repeat("\u202ex", 5000)
	for _, text := range []string{
		swap(t, metadata, `"crypt"`, `"`+long+`"`),
		swap(t, metadata, `"aes-xts-plain64","sector_size"`, `"`+long+`","sector_size"`),
		swap(t, metadata, `"pbkdf2","hash":"sha256","iterations":1000,"salt":"MDEy`, `"`+long+`","hash":"sha256","iterations":1000,"salt":"MDEy`),
		swap(t, metadata, `"allow-discards"`, `"`+long+`"`),
	} {
		h, err := read(pair(text))
		if err == nil {
			err = h.Strict(header.Expect{})
		}
		if err == nil || len(err.Error()) > 700 || strings.Contains(err.Error(), "\u202e") {
			t.Errorf("error: %.900v", err)
		}
	}
}
