// SPDX-License-Identifier: Apache-2.0

package header

import (
	"bytes"
	"errors"
	"fmt"
	"io"
)

// Sizes that one copy may have. When the first copy is unreadable, the second is looked for behind each of them, in this order, which is that of
// libcryptsetup: both must take the same one.
var sizes = []int64{16 << 10, 32 << 10, 64 << 10, 128 << 10, 256 << 10, 512 << 10, 1 << 20, 2 << 20, 4 << 20}

// Read reads both copies of the LUKS2 header at the start of r, which has size bytes, and decodes the newer good one (the first if they are equal). A header
// of the size that voluks writes takes one read; all reads are at multiples of 4096, and of such lengths unless size is none.
//
// A header with one good copy is returned without an error, and [Header.Damage] tells of the bad one. With no good copy the header is nil and the error
// one of ErrNotLUKS, ErrLUKS1, *DamagedError, or the read error if a copy could not be read at all.
func Read(r io.ReaderAt, size int64) (*Header, error) {
	w := newWindow(r, size)
	copies := [2]candidate{readCopy(w, 0, primaryMagic, nil)}
	first := &copies[0]
	if errors.Is(first.err, ErrLUKS1) {
		return nil, ErrLUKS1
	}
	if first.bin.size != 0 {
		copies[1] = readCopy(w, first.bin.size, secondaryMagic, first.header)
	} else {
		copies[1] = findSecond(w)
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
	h.Raw = w.start[:min(int64(len(w.start)), 2*h.Size)]
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

// readCopy reads the copy at offset. If other, an already decoded copy, has the same metadata, it is not decoded again.
func readCopy(w *window, offset int64, magic []byte, other *Header) candidate {
	c := candidate{offset: offset}
	var raw []byte
	if c.bin, raw, c.err = readBinary(w, offset, magic); c.err != nil {
		return c
	}
	area := raw[binarySize:]
	h := &Header{}
	if other != nil && sameText(area, other.JSON) {
		*h = *other
	} else {
		var err error
		if h, err = decode(area); err != nil {
			c.err = fmt.Errorf("metadata: %w", err)
			return c
		}
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

// sameText says whether an area holds that text and then zeros, as an area that was decoded does.
func sameText(area, text []byte) bool {
	rest, ok := bytes.CutPrefix(area, text)
	return ok && len(rest) > 0 && len(bytes.TrimLeft(rest, "\x00")) == 0
}

// findSecond looks for the second copy without knowing its place. The first one with the magic bytes and a right checksum ends the search even if its
// metadata is unusable, or an attacker could hide it from us and not from libcryptsetup.
func findSecond(w *window) candidate {
	none := candidate{offset: sizes[0], err: ErrMagic}
	for _, offset := range sizes {
		c := readCopy(w, offset, secondaryMagic, nil)
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
