// SPDX-License-Identifier: Apache-2.0

package volumetest

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/voluks/voluks/internal/secret"
	"github.com/voluks/voluks/luks"
	"github.com/voluks/voluks/luks/header"
)

// disk is what an image holds. The zero value is blank.
type disk struct {
	size int64
	junk bool       // neither blank nor a header: a format that was cut off
	box  *container // nil: no LUKS header
}

// container is a LUKS2 container. The file system belongs to the volume key, so it is inside.
type container struct {
	uuid, label, subsystem string
	sectorSize             int
	epoch                  uint64
	slots                  map[int]slot
	tokens                 map[int]json.RawMessage
	fs                     *fsys
	flags                  luks.Flags // for activations by others
	damaged                bool       // both copies
	served                 bool       // was mounted where users find it
}

type slot struct {
	key  [32]byte // SHA-256 of the slot key
	salt []byte
	kdf  string
}

// fsys is a file system, from the moment mkfs touched the device.
type fsys struct {
	typ, uuid string // as a probe sees them; empty while mkfs has not written them
	whole     bool
	data      bool
	size      int64
	uid, gid  int
	files     map[string]string // what users put there
}

func (c *container) managed() bool {
	for _, t := range c.tokens {
		if strings.HasPrefix(tokenType(t), "voluks-") {
			return true
		}
	}
	return false
}

func (c *container) complete() bool {
	for _, t := range c.tokens {
		if tokenType(t) == "voluks-volume" {
			return true
		}
	}
	return false
}

func tokenType(raw json.RawMessage) string {
	var t struct{ Type string }
	json.Unmarshal(raw, &t)
	return t.Type
}

func (c *container) opens(number int, key *secret.Key) (ok, exists bool) {
	s, exists := c.slots[number]
	return exists && s.key == sha256.Sum256(key.Bytes()), exists
}

// header is the container's metadata as a reader of real headers would return it.
func (c *container) header(size int64) *header.Header {
	const area = 258048
	h := &header.Header{
		UUID: c.uuid, Label: c.label, Subsystem: c.subsystem, Epoch: c.epoch, Size: header.DefaultMetadataSize, Space: size,
		Keyslots: map[int]header.Keyslot{}, Tokens: map[int]header.Token{},
		Segments: map[int]header.Segment{}, Digests: map[int]header.Digest{},
	}
	for i := range h.Copies {
		h.Copies[i] = header.Copy{Offset: int64(i) * header.DefaultMetadataSize, Epoch: c.epoch}
	}
	numbers := slices.Sorted(maps.Keys(c.slots))
	for i, n := range numbers {
		s := c.slots[n]
		h.Keyslots[n] = header.Keyslot{
			Type: "luks2", KeySize: header.DefaultKeyBytes, AF: header.AF{Type: "luks1", Stripes: 4000, Hash: "sha256"},
			Area: header.Area{Type: "raw", Offset: 2*header.DefaultMetadataSize + int64(i)*area, Size: area, Encryption: header.DefaultCipher, KeySize: header.DefaultKeyBytes},
			KDF:  header.KDF{Type: s.kdf, Hash: "sha256", Iterations: 1000, Salt: s.salt},
		}
	}
	for n, raw := range c.tokens {
		var t struct{ Keyslots []string }
		json.Unmarshal(raw, &t)
		token := header.Token{Type: tokenType(raw), JSON: raw}
		for _, s := range t.Keyslots {
			var number int
			fmt.Sscan(s, &number)
			token.Keyslots = append(token.Keyslots, number)
		}
		h.Tokens[n] = token
	}
	h.Segments[0] = header.Segment{
		Type: "crypt", Offset: header.DefaultDataOffset, Dynamic: true, Encryption: header.DefaultCipher, SectorSize: c.sectorSize,
	}
	h.Digests[0] = header.Digest{
		Type: "pbkdf2", Hash: "sha256", Iterations: 1000, Salt: make([]byte, 32), Digest: make([]byte, 32), Keyslots: numbers, Segments: []int{0},
	}
	h.Config = header.Config{JSONSize: header.DefaultMetadataSize - 4096, KeyslotsSize: header.DefaultDataOffset - 2*header.DefaultMetadataSize}
	return h
}
