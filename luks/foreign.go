// SPDX-License-Identifier: Apache-2.0

package luks

import "github.com/voluks/voluks/luks/header"

// maxForeignOffset bounds where the data of a container of others may begin.
const maxForeignOffset = 128 << 20

// Foreign names a container that somebody else formatted, cryptsetup with its defaults for example, and that voluks adds a slot to. The sizes of
// metadata and header, and that of the volume key (256 or 512 bits), are then what the header itself says, within bounds; everything else is checked as
// strictly as for At.
func Foreign(path string) *Container { return &Container{path: path, foreign: true} }

// Foreign tells whether the container was named by the function of that name.
func (c *Container) Foreign() bool { return c.foreign }

// Expect is what the header of this container must be, as far as the header itself may decide that: for a container of others, the sizes that h states
// within bounds. For those who check a copy of a header that is not on the device.
func (c *Container) Expect(h *header.Header) header.Expect {
	return c.expectation(h, header.Expect{UUID: h.UUID})
}

// expectation completes what the strict check of this container asks for.
func (c *Container) expectation(h *header.Header, e header.Expect) header.Expect {
	if !c.foreign {
		return e
	}
	if s, ok := h.Segments[0]; ok && s.Offset >= 2*h.Size && s.Offset <= maxForeignOffset {
		e.DataOffset = s.Offset
	}
	e.KeyBytes = keyBytes(h)
	e.MetadataSize = h.Size // the reading of the header allows the sizes of LUKS2 alone
	return e
}

// aes128 is the length in bytes of a volume key of AES-128-XTS, the default of cryptsetup before version 2.1.
const aes128 = 32

// keyBytes is the length of the volume key by the header's own word: one of the two that AES-XTS is used with here. The strict check then wants it of all
// slots.
func keyBytes(h *header.Header) int {
	for _, k := range h.Keyslots {
		if k.KeySize != aes128 {
			return header.DefaultKeyBytes
		}
	}
	if len(h.Keyslots) == 0 {
		return header.DefaultKeyBytes
	}
	return aes128
}
