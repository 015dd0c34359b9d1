// SPDX-License-Identifier: Apache-2.0

package headerbackup

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
)

// The members of the binary header that a copy of the metadata does not share with the other one, or that restoring changes. See "LUKS2 On-Disk Format
// Specification", section 2.1; numbers are big-endian.
const (
	offEpoch    = 16
	offSalt     = 104
	lenSalt     = 64
	offPlace    = 256
	offChecksum = 448
	lenChecksum = 64
)

var magics = [2]string{"LUKS\xba\xbe", "SKUL\xba\xbe"}

// setPlace makes a whole copy of the metadata the first (0) or second (1) one. Each has a salt of its own, whose only purpose is that checksums differ.
func setPlace(b []byte, which int, size int64) error {
	copy(b, magics[which])
	binary.BigEndian.PutUint64(b[offPlace:], uint64(int64(which)*size))
	if _, err := rand.Read(b[offSalt:][:lenSalt]); err != nil {
		return err
	}
	setChecksum(b)
	return nil
}

// setEpoch gives both copies at the start of a header area another epoch.
func setEpoch(raw []byte, size int64, epoch uint64) {
	for _, b := range [][]byte{raw[:size], raw[size : 2*size]} {
		binary.BigEndian.PutUint64(b[offEpoch:], epoch)
		setChecksum(b)
	}
}

// setChecksum writes the SHA-256 over a whole copy, in which its own field counts as zero. The reader has seen that the algorithm is this one.
func setChecksum(b []byte) {
	field := b[offChecksum:][:lenChecksum]
	clear(field)
	sum := sha256.Sum256(b)
	copy(field, sum[:])
}
