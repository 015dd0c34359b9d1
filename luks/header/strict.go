// SPDX-License-Identifier: Apache-2.0

package header

import (
	"fmt"
	"slices"
	"strings"
)

// What voluks writes, and the zero value of [Expect] stands for.
const (
	DefaultCipher       = "aes-xts-plain64"
	DefaultKeyBytes     = 64
	DefaultDataOffset   = 16 << 20
	DefaultMetadataSize = 64 << 10
)

// Expect is what a header must be for [Header.Strict]. A zero field stands for what voluks writes; only UUID and SectorSize have a zero that takes any
// (512 and 4096 as sector sizes).
type Expect struct {
	UUID         string // "": any
	SectorSize   int    // bytes; 0: 512 or 4096
	DataOffset   int64  // bytes; 0: DefaultDataOffset
	MetadataSize int64  // bytes of one copy; 0: DefaultMetadataSize
	Cipher       string // "": DefaultCipher
	KeyBytes     int    // of the volume key; 0: DefaultKeyBytes
}

// Strict returns nil if the header is one that voluks could have written, apart from key slots and tokens of others, which only have to be within sane
// bounds. Otherwise it returns a *StrictError with the first thing that is not so.
//
// LUKS2 metadata is not authenticated: whoever can write to the device can put a null cipher there and the right passphrase still "opens" the volume
// (CVE-2021-4122, CVE-2025-59054), or make every unlock cost gigabytes. Strict is the answer to what one reading of the header says; what the kernel was told
// in the end has to be compared too, since the device may change in between. A damaged or older copy is no reason to refuse, but a copy that is sound
// by its checksum must pass as well, whichever libcryptsetup will take.
func (h *Header) Strict(e Expect) error {
	e = e.filled()
	for i, c := range h.Copies {
		if c.Err != nil && deliberate(c.Err) {
			return &StrictError{Field: []string{"first", "second"}[i] + " copy", Got: "malformed (" + c.Err.Error() + ")", Want: "LUKS2 metadata, or damage that its checksum shows"}
		}
	}
	if h.other != nil {
		if err := h.other.strict(e); err != nil {
			return err
		}
	}
	return h.strict(e)
}

func (e Expect) filled() Expect {
	if e.DataOffset == 0 {
		e.DataOffset = DefaultDataOffset
	}
	if e.MetadataSize == 0 {
		e.MetadataSize = DefaultMetadataSize
	}
	if e.Cipher == "" {
		e.Cipher = DefaultCipher
	}
	if e.KeyBytes == 0 {
		e.KeyBytes = DefaultKeyBytes
	}
	return e
}

func (h *Header) strict(e Expect) error {
	var c checker
	if e.UUID != "" {
		want(&c, "uuid", h.UUID, e.UUID)
	}
	want(&c, "metadata size", h.Size, e.MetadataSize)
	c.check(len(h.unknown) == 0, "metadata", strings.Join(h.unknown, ", "), "only known members")
	h.strictConfig(&c, e)
	h.strictSegment(&c, e)
	h.strictDigest(&c, e)
	h.strictKeyslots(&c, e)
	return c.first()
}

func (h *Header) strictConfig(c *checker, e Expect) {
	for _, r := range h.Config.Requirements {
		c.check(false, "config.requirements", fmt.Sprintf("%.40q", r), "none")
	}
	known := []string{"allow-discards", "no-read-workqueue", "no-write-workqueue"}
	for _, f := range h.Config.Flags {
		c.check(slices.Contains(known, f), "config.flags", fmt.Sprintf("%.40q", f), "only "+strings.Join(known, ", "))
	}
	want(c, "config.keyslots_size", h.Config.KeyslotsSize, e.DataOffset-2*h.Size)
}

func (h *Header) strictSegment(c *checker, e Expect) {
	s, ok := h.Segments[0]
	c.check(ok && len(h.Segments) == 1, "segments", fmt.Sprintf("%d of them", len(h.Segments)), "one, number 0")
	want(c, "segments.0.type", s.Type, "crypt")
	want(c, "segments.0.encryption", s.Encryption, e.Cipher)
	want(c, "segments.0.offset", s.Offset, e.DataOffset)
	c.check(s.Dynamic, "segments.0.size", fmt.Sprint(s.Size), "dynamic")
	want(c, "segments.0.iv_tweak", s.IVTweak, 0)
	if e.SectorSize != 0 {
		want(c, "segments.0.sector_size", s.SectorSize, e.SectorSize)
	} else {
		oneOf(c, "segments.0.sector_size", s.SectorSize, 512, 4096)
	}
	c.check(!s.Integrity, "segments.0.integrity", "set", "none")
	c.check(len(s.Flags) == 0, "segments.0.flags", fmt.Sprintf("%.80q", s.Flags), "none")
}

func (h *Header) strictDigest(c *checker, e Expect) {
	g, ok := h.Digests[0]
	c.check(ok && len(h.Digests) == 1, "digests", fmt.Sprintf("%d of them", len(h.Digests)), "one, number 0")
	want(c, "digests.0.type", g.Type, "pbkdf2")
	want(c, "digests.0.hash", g.Hash, "sha256")
	between(c, "digests.0.iterations", g.Iterations, 1000, maxIterations)
	between(c, "digests.0.salt length", len(g.Salt), minSalt, maxSalt)
	want(c, "digests.0.digest length", len(g.Digest), 32)
	c.check(slices.Equal(g.Segments, []int{0}), "digests.0.segments", fmt.Sprint(g.Segments), "[0]")
	for id := range h.Keyslots {
		c.check(slices.Contains(g.Keyslots, id), "digests.0.keyslots", fmt.Sprintf("without %d", id), "all key slots")
	}
}

// A checker keeps the complaint that comes first in the order of the fields' names, so that one header always gives one answer although maps have no order.
type checker struct{ found *StrictError }

func (c *checker) first() error {
	if c.found == nil {
		return nil
	}
	return c.found
}

func (c *checker) check(ok bool, field, got, wanted string) {
	if !ok && (c.found == nil || field < c.found.Field) {
		c.found = &StrictError{Field: field, Got: got, Want: wanted}
	}
}

func want[T comparable](c *checker, field string, got, wanted T) {
	c.check(got == wanted, field, show(got), show(wanted))
}

func oneOf[T comparable](c *checker, field string, got T, wanted ...T) {
	c.check(slices.Contains(wanted, got), field, show(got), "one of "+fmt.Sprint(wanted))
}

func between[T int | int64](c *checker, field string, got, low, high T) {
	c.check(low <= got && got <= high, field, show(got), fmt.Sprintf("%d to %d", low, high))
}

// show prints a value of a foreign header, of which a string may be of any length and content.
func show(v any) string {
	if s, ok := v.(string); ok {
		return fmt.Sprintf("%.60q", s)
	}
	return fmt.Sprint(v)
}
