// SPDX-License-Identifier: Apache-2.0

package header

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"unicode/utf8"
)

// Layout of the binary header; all numbers are big-endian.
const (
	binarySize = 4096 // bytes before the JSON area

	offVersion   = 6
	offSize      = 8
	offEpoch     = 16
	offLabel     = 24
	offAlgorithm = 72
	offUUID      = 168
	offSubsystem = 208
	offOffset    = 256
	offChecksum  = 448
	lenChecksum  = 64
)

var (
	primaryMagic   = []byte("LUKS\xba\xbe")
	secondaryMagic = []byte("SKUL\xba\xbe")
)

type binaryHeader struct {
	size                   int64
	epoch                  uint64
	uuid, label, subsystem string
}

// readBinary reads the copy at offset and checks it up to its checksum. It returns the bytes of the whole copy.
func readBinary(w *window, offset int64, magic []byte) (binaryHeader, []byte, error) {
	head, err := w.bytes(offset, binarySize)
	if err != nil {
		return binaryHeader{}, nil, err
	}
	if !bytes.HasPrefix(head, magic) {
		return binaryHeader{}, nil, ErrMagic
	}
	if version := binary.BigEndian.Uint16(head[offVersion:]); version == 1 && offset == 0 {
		return binaryHeader{}, nil, ErrLUKS1
	} else if version != 2 {
		return binaryHeader{}, nil, fmt.Errorf("version %d in the binary header: %w", version, ErrChecksum)
	}
	// Until the checksum is verified, a wrong value is damage and nothing more.
	length := int64(binary.BigEndian.Uint64(head[offSize:]))
	if !slices.Contains(sizes, length) || offset != 0 && offset != length {
		return binaryHeader{}, nil, fmt.Errorf("header size %d in the binary header: %w", uint64(length), ErrChecksum)
	}
	if offset > w.size-length {
		return binaryHeader{}, nil, fmt.Errorf("cut off at byte %d: %w", w.size, ErrChecksum)
	}
	raw, err := w.bytes(offset, length)
	if err != nil {
		return binaryHeader{}, nil, err
	}
	if err := verify(raw); err != nil {
		return binaryHeader{}, nil, err
	}
	// The first 4096 bytes may have been read twice and changed in between: what the checksum is of is what counts.
	head = raw[:binarySize]
	if !bytes.HasPrefix(head, magic) || binary.BigEndian.Uint16(head[offVersion:]) != 2 || int64(binary.BigEndian.Uint64(head[offSize:])) != length {
		return binaryHeader{}, nil, fmt.Errorf("changed while it was read: %w", ErrChecksum)
	}
	b := binaryHeader{size: length, epoch: binary.BigEndian.Uint64(head[offEpoch:])}
	if at := binary.BigEndian.Uint64(head[offOffset:]); at != uint64(offset) {
		return b, nil, malformed("the copy at byte %d says that it is at byte %d", offset, at)
	}
	for _, field := range []struct {
		name string
		into *string
		raw  []byte
	}{
		{"uuid", &b.uuid, head[offUUID : offUUID+40]},
		{"label", &b.label, head[offLabel : offLabel+48]},
		{"subsystem", &b.subsystem, head[offSubsystem : offSubsystem+48]},
	} {
		text, _, terminated := bytes.Cut(field.raw, []byte{0})
		if !terminated || !utf8.Valid(text) {
			return b, nil, malformed("%s in the binary header is no text", field.name)
		}
		*field.into = string(text)
	}
	return b, raw, nil
}

// verify checks the SHA-256 over a whole copy, in which the checksum's own field counts as zero.
func verify(raw []byte) error {
	name, _, _ := bytes.Cut(raw[offAlgorithm:offAlgorithm+32], []byte{0})
	if string(name) != "sha256" {
		// libcryptsetup may know it and find the checksum right, so this must not pass for mere damage.
		return malformed("checksum algorithm %.32q, only sha256 is known", name)
	}
	sum := sha256.New()
	sum.Write(raw[:offChecksum])
	sum.Write(make([]byte, lenChecksum))
	sum.Write(raw[offChecksum+lenChecksum:])
	if !bytes.Equal(sum.Sum(nil), raw[offChecksum:offChecksum+sha256.Size]) {
		return ErrChecksum
	}
	return nil
}
