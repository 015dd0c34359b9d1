// SPDX-License-Identifier: Apache-2.0

package header

import (
	"bytes"
	"errors"
	"fmt"
	"io"
)

// ScanSize is how many bytes from the start of a device a header with 64 KiB of metadata occupies, both copies together: one read of this size serves
// everything that [Read] asks for in the common case.
const ScanSize = 2 * 64 << 10

// Sizes that one copy may have. When the first copy is unreadable, the second is looked for behind each of them, in this order, which is that of
// libcryptsetup: both must take the same one.
var sizes = []int64{16 << 10, 32 << 10, 64 << 10, 128 << 10, 256 << 10, 512 << 10, 1 << 20, 2 << 20, 4 << 20}

// Read reads both copies of the LUKS2 header at the start of r, which has size bytes, and decodes the newer good one (the first if they are equal). It
// reads whole multiples of 4096 bytes at multiples of 4096, so r may be a direct I/O reader.
//
// A header with one good copy is returned without an error, and [Header.Damage] tells of the bad one. With no good copy the header is nil and the error
// one of ErrNotLUKS, ErrLUKS1, *DamagedError, or the read error if a copy could not be read at all.
func Read(r io.ReaderAt, size int64) (*Header, error) {
	copies := [2]candidate{readCopy(r, 0, size, primaryMagic)}
	first := &copies[0]
	if errors.Is(first.err, ErrLUKS1) {
		return nil, ErrLUKS1
	}
	if first.bin.size != 0 {
		copies[1] = readCopy(r, first.bin.size, size, secondaryMagic)
	} else {
		copies[1] = findSecond(r, size)
	}
	second := &copies[1]
	compare(first, second)

	chosen, other := first, second
	if first.err != nil {
		chosen, other = second, first
	}
	if chosen.err != nil {
		return nil, lost(first, second)
	}
	h := chosen.header
	h.Space, h.other = size, other.header
	if h.other != nil {
		h.other.Space = size
	}
	h.Copies = [2]Copy{first.report(), second.report()}
	return h, nil
}

// A candidate is one copy as found: usable if err is nil.
type candidate struct {
	offset int64
	bin    binaryHeader
	header *Header
	err    error
}

func (c *candidate) report() Copy {
	return Copy{Offset: c.offset, Epoch: c.bin.epoch, Err: c.err}
}

func readCopy(r io.ReaderAt, offset, size int64, magic []byte) candidate {
	c := candidate{offset: offset}
	var raw []byte
	if c.bin, raw, c.err = readBinary(r, offset, size, magic); c.err != nil {
		return c
	}
	h, err := decode(raw[binarySize:])
	if err != nil {
		c.err = fmt.Errorf("metadata: %w", err)
		return c
	}
	h.UUID, h.Label, h.Subsystem = c.bin.uuid, c.bin.label, c.bin.subsystem
	h.Epoch, h.Size = c.bin.epoch, c.bin.size
	if want := h.Size - binarySize; h.Config.JSONSize != want {
		c.err = malformed("config.json_size is %d, but the area has %d bytes", h.Config.JSONSize, want)
		return c
	}
	c.header = h
	return c
}

// findSecond looks for the second copy without knowing its place. The first one with the magic bytes and a right checksum ends the search even if its
// metadata is unusable, or an attacker could hide it from us and not from libcryptsetup.
func findSecond(r io.ReaderAt, size int64) candidate {
	none := candidate{offset: sizes[0], err: ErrMagic}
	for _, offset := range sizes {
		c := readCopy(r, offset, size, secondaryMagic)
		switch {
		case c.err == nil || deliberate(c.err):
			return c
		case errors.Is(c.err, ErrMagic):
		case none.err == ErrMagic:
			none = c
		}
	}
	return none
}

// compare marks the copy that is not the newer one.
func compare(first, second *candidate) {
	if first.err != nil || second.err != nil {
		return
	}
	a, b := first.header, second.header
	switch {
	case a.Epoch < b.Epoch:
		first.err = ErrStale
	case a.Epoch > b.Epoch:
		second.err = ErrStale
	case !bytes.Equal(a.JSON, b.JSON) || a.UUID != b.UUID || a.Label != b.Label || a.Subsystem != b.Subsystem:
		second.err = ErrDiffers
	}
}

// lost is the error for a header without a good copy.
func lost(first, second *candidate) error {
	for _, c := range []*candidate{first, second} {
		var format *formatError
		known := errors.Is(c.err, ErrMagic) || errors.Is(c.err, ErrChecksum) || errors.As(c.err, &format)
		if !known {
			return fmt.Errorf("read the LUKS2 header at byte %d: %w", c.offset, c.err)
		}
	}
	if errors.Is(first.err, ErrMagic) && errors.Is(second.err, ErrMagic) {
		return ErrNotLUKS
	}
	return &DamagedError{Primary: first.err, Secondary: second.err}
}

// deliberate says that a bad copy was written that way: its checksum is right or is of a kind that this package does not compute, but libcryptsetup may.
func deliberate(err error) bool {
	var format *formatError
	return errors.As(err, &format)
}
