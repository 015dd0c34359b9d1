// SPDX-License-Identifier: Apache-2.0

package share

import (
	"crypto/sha256"
	"encoding/hex"
)

// Fingerprint is 64 bits of a recipient's fingerprint.
type Fingerprint [8]byte

// FingerprintOf returns the fingerprint of an age recipient.
func FingerprintOf(recipient string) Fingerprint {
	sum := sha256.Sum256([]byte(recipient))
	return Fingerprint(sum[:8])
}

func (f Fingerprint) String() string { return hex.EncodeToString(f[:]) }
