// SPDX-License-Identifier: Apache-2.0

package share

import (
	"encoding/hex"
	"fmt"

	"github.com/voluks/voluks/internal/recovery"
)

// Fingerprint is the fingerprint of the identity's recipient, which recovery writes as 16 hexadecimal digits.
type Fingerprint [8]byte

// FingerprintOf returns the fingerprint of a recipient.
func FingerprintOf(r recovery.Recipient) (Fingerprint, error) {
	var f Fingerprint
	if n, err := hex.Decode(f[:], []byte(r.Fingerprint())); err != nil || n != len(f) {
		return Fingerprint{}, fmt.Errorf("fingerprint %.40q of a recipient has another form", r.Fingerprint())
	}
	return f, nil
}

// String writes it as recovery does.
func (f Fingerprint) String() string { return hex.EncodeToString(f[:]) }
