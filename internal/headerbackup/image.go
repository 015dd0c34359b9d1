// SPDX-License-Identifier: Apache-2.0

package headerbackup

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/voluks/voluks/luks/header"
)

var (
	// ErrReencrypting means that the volume is being re-encrypted: the header says how far, and an older one with newer data loses them. There is
	// no backup of it before the end.
	ErrReencrypting = errors.New("the volume is being re-encrypted")
	// ErrChanging means that somebody else kept writing the header while it was read.
	ErrChanging = errors.New("the header keeps changing")
	// ErrUnusual means a header of which no backup can be made, since its areas are not where LUKS2 has them.
	ErrUnusual = errors.New("not a header that can be backed up")
)

const (
	maxArea = 16 << 20 // bytes: where the data of a volume begin, and of every LUKS2 device with default parameters

	attempts = 5
)

// An Image is a header area as it is kept: two copies of the metadata that say the same, the key material of their slots, zeros.
type Image struct {
	Header *header.Header // read from it
	Taken  time.Time      // zero if it is being taken now

	raw  []byte // the first bytes, at least up to the end of the last slot in use
	size int64  // of the whole; what raw lacks is zero
}

// capture reads the header area. The copy of the metadata that the reader chose is taken for both, so a backup of a half damaged header is whole. The header
// that is returned with it, and also with an error where one could be read, is as it was found, damage included.
func capture(r io.ReaderAt, size int64) (*Image, *header.Header, error) {
	for range attempts {
		before, err := header.Read(r, size)
		if err != nil {
			return nil, nil, err
		}
		raw, err := readAreas(r, before)
		if err != nil {
			return nil, before, err
		}
		total := areaEnd(before)
		after, err := header.Read(r, size)
		if err != nil {
			return nil, before, err
		}
		if after.Epoch != before.Epoch || !bytes.Equal(after.JSON, before.JSON) {
			continue
		}
		i, err := newImage(raw, total)
		if errors.Is(err, errInconsistent) {
			continue
		}
		return i, before, err
	}
	return nil, nil, ErrChanging
}

var errInconsistent = errors.New("copies of the metadata do not match")

// newImage checks the first bytes of a header area of that size: both copies good and the same, areas in their places.
func newImage(raw []byte, size int64) (*Image, error) {
	h, err := header.Read(bytes.NewReader(raw), size)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errInconsistent, err)
	}
	if err := h.Damage(); err != nil {
		return nil, fmt.Errorf("%w: %w", errInconsistent, err)
	}
	if err := usual(h); err != nil {
		return nil, err
	}
	if end := areaEnd(h); end != size || used(h) > int64(len(raw)) {
		return nil, fmt.Errorf("%w: %d bytes of %d, where the metadata want %d of %d", ErrUnusual, len(raw), size, used(h), end)
	}
	return &Image{Header: h, raw: raw, size: size}, nil
}

// areaEnd is where the header area ends by its own word.
func areaEnd(h *header.Header) int64 { return 2*h.Size + h.Config.KeyslotsSize }

// used is where the last slot ends.
func used(h *header.Header) int64 {
	end := 2 * h.Size
	for _, k := range h.Keyslots {
		end = max(end, k.Area.Offset+k.Area.Size)
	}
	return end
}

// usual refuses what cannot be copied with sense, and everything that would make a later step read or write out of bounds. Whether the header is one that
// voluks made is not asked here: a backup must also be possible of one that somebody added a slot to.
func usual(h *header.Header) error {
	for _, r := range h.Config.Requirements {
		if strings.HasPrefix(r, "online-reencrypt") {
			return ErrReencrypting
		}
	}
	end := areaEnd(h)
	if h.Config.KeyslotsSize < 0 || h.Config.KeyslotsSize > maxArea || end > maxArea || end%block != 0 {
		return fmt.Errorf("%w: key slot area of %d bytes", ErrUnusual, h.Config.KeyslotsSize)
	}
	for id, k := range h.Keyslots {
		a := k.Area
		if k.Type != "luks2" || a.Type != "raw" {
			return fmt.Errorf("%w: key slot %d is of type %.20q with an area of type %.20q", ErrUnusual, id, k.Type, a.Type)
		}
		if a.Offset < 2*h.Size || a.Size <= 0 || a.Size > end || a.Offset > end-a.Size || a.Offset%block != 0 || a.Size%block != 0 {
			return fmt.Errorf("%w: key slot %d has %d bytes at %d, the area ends at %d", ErrUnusual, id, a.Size, a.Offset, end)
		}
	}
	for id, s := range h.Segments {
		if s.Offset < end {
			return fmt.Errorf("%w: segment %d begins at %d, inside the header area of %d bytes", ErrUnusual, id, s.Offset, end)
		}
	}
	return nil
}

const block = 4096

// readAreas builds the header area anew from the chosen copy of the metadata and the areas of the slots that it names.
func readAreas(r io.ReaderAt, h *header.Header) ([]byte, error) {
	if err := usual(h); err != nil {
		return nil, err
	}
	raw := make([]byte, used(h))
	chosen := 0
	if h.Copies[0].Err != nil {
		chosen = 1
	}
	place := raw[int64(chosen)*h.Size:][:h.Size]
	if err := readAt(r, place, h.Copies[chosen].Offset); err != nil {
		return nil, err
	}
	other := raw[int64(1-chosen)*h.Size:][:h.Size]
	copy(other, place)
	if err := setPlace(other, 1-chosen, h.Size); err != nil {
		return nil, err
	}
	for _, k := range h.Keyslots {
		if err := readAt(r, raw[k.Area.Offset:][:k.Area.Size], k.Area.Offset); err != nil {
			return nil, err
		}
	}
	return raw, nil
}

func readAt(r io.ReaderAt, b []byte, offset int64) error {
	if n, err := r.ReadAt(b, offset); n < len(b) {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("read %d bytes at %d: %w", len(b), offset, err)
	}
	return nil
}
