// SPDX-License-Identifier: Apache-2.0

package share

import (
	"github.com/cloudflare/circl/group"

	"github.com/voluks/voluks/internal/secret"
)

// Taken as a little-endian number, the bits 3 to 253 of an identity become the scalar: 251 bits, below the group's order of a little over 2^252. Bits 0
// to 2, 254 and 255 are the five that are not shared; RFC 7748 has X25519 overwrite exactly those.

// toScalar splits an identity into its scalar and its clear bits.
func toScalar(raw []byte) (group.Scalar, byte, error) {
	room, err := secret.New(identityBytes)
	if err != nil {
		return nil, 0, err
	}
	defer room.Wipe()
	b := room.Bytes()
	for i := range b {
		b[i] = raw[i] >> 3
		if i+1 < len(raw) {
			b[i] |= raw[i+1] << 5
		}
	}
	b[31] &= 7
	s := group.Ristretto255.NewScalar()
	if err := s.UnmarshalBinary(b); err != nil {
		return nil, 0, err
	}
	return s, raw[0]&7 | raw[31]>>6<<3, nil
}

// fromScalar is the inverse. It reports false for a scalar that toScalar cannot have made.
func fromScalar(s group.Scalar, clear byte, raw []byte) (bool, error) {
	m, err := s.MarshalBinary()
	if err != nil {
		return false, err
	}
	moved, err := secret.Move(m)
	if err != nil {
		return false, err
	}
	defer moved.Wipe()
	b := moved.Bytes()
	if b[31]>>3 != 0 {
		return false, nil
	}
	for i := range raw {
		raw[i] = b[i] << 3
		if i > 0 {
			raw[i] |= b[i-1] >> 5
		}
	}
	raw[0] |= clear & 7
	raw[31] |= clear >> 3 << 6
	return true, nil
}

// forget overwrites a scalar in place. circl keeps copies of its own inside a splitting, which only the end of the process removes.
func forget(scalars ...group.Scalar) {
	for _, s := range scalars {
		if s != nil {
			s.SetUint64(0)
		}
	}
}
