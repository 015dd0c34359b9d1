// SPDX-License-Identifier: Apache-2.0

package share

import (
	"crypto/sha256"
	"encoding/binary"
	"math/bits"
)

// levels returns the height of the tree over n shares.
func levels(n int) int { return bits.Len(uint(n - 1)) }

// hash binds parts to a purpose and to everything public that the shares of a splitting have in common.
func (s *Share) hash(purpose string, parts ...[]byte) digest {
	h := sha256.New()
	h.Write([]byte("voluks recovery share: " + purpose + "\x00"))
	h.Write([]byte{Version, byte(s.Kind), byte(s.Needed), byte(s.Total), s.clear})
	h.Write(s.Fingerprint[:])
	for _, p := range parts {
		h.Write(p)
	}
	return digest(binary.BigEndian.Uint64(h.Sum(nil)) >> (64 - digestBits))
}

func (s *Share) leaf() digest {
	return s.hash("leaf", []byte{byte(s.Number)}, s.value.Bytes())
}

// absent stands where the tree has a leaf and the splitting no share.
func (s *Share) absent() digest { return s.hash("absent") }

func (s *Share) join(left, right digest) digest {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], uint64(left))
	binary.BigEndian.PutUint64(b[8:], uint64(right))
	return s.hash("node", b[:])
}

// climb returns the root that the share's own value and path lead to.
func (s *Share) climb() digest {
	d, place := s.leaf(), s.Number-1
	for _, sibling := range s.path {
		if place&1 == 0 {
			d = s.join(d, sibling)
		} else {
			d = s.join(sibling, d)
		}
		place >>= 1
	}
	return d
}

// plant gives every share of one splitting its path and the root.
func plant(shares []*Share) {
	first := shares[0]
	row := make([]digest, 1<<levels(len(shares)))
	for i := range row {
		row[i] = first.absent()
		if i < len(shares) {
			row[i] = shares[i].leaf()
		}
	}
	for level := 0; len(row) > 1; level++ {
		for i, s := range shares {
			s.path = append(s.path, row[i>>level^1])
		}
		above := make([]digest, len(row)/2)
		for i := range above {
			above[i] = first.join(row[2*i], row[2*i+1])
		}
		row = above
	}
	for _, s := range shares {
		s.root = row[0]
	}
}
