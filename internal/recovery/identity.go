// SPDX-License-Identifier: Apache-2.0

package recovery

import (
	"bytes"
	"errors"
	"fmt"

	"filippo.io/age"

	"github.com/voluks/voluks/internal/secret"
)

// ErrIdentity: a text is no age identity that this package can use.
var ErrIdentity = errors.New("no age identity (AGE-SECRET-KEY-...)")

// Identity opens what is sealed to its recipient. age keeps it in memory that cannot be wiped: only
// processes that end soon may hold one.
type Identity struct {
	age       age.Identity
	recipient Recipient
}

// Recipient is the public half.
func (i Identity) Recipient() Recipient { return i.recipient }

// String shows the recipient's fingerprint: an identity is not printed.
func (i Identity) String() string { return "[identity " + i.recipient.Fingerprint() + "]" }

// GoString is String.
func (i Identity) GoString() string { return i.String() }

// Generate makes a recovery identity (X25519). The text of the identity, one line without its end, is
// shown to a person once and wiped by the caller; the recipient stays on the node.
func Generate() (identity *secret.Key, recipient string, err error) {
	generated, err := age.GenerateX25519Identity()
	if err != nil {
		return nil, "", fmt.Errorf("make a recovery identity: %w", err)
	}
	identity, err = secret.Move([]byte(generated.String()))
	if err != nil {
		return nil, "", fmt.Errorf("make a recovery identity: %w", err)
	}
	return identity, generated.Recipient().String(), nil
}

// GeneratePostQuantum is Generate for an identity that withstands a quantum computer, too (ML-KEM-768 with X25519).
func GeneratePostQuantum() (identity *secret.Key, recipient string, err error) {
	generated, err := age.GenerateHybridIdentity()
	if err != nil {
		return nil, "", fmt.Errorf("make a recovery identity: %w", err)
	}
	identity, err = secret.Move([]byte(generated.String()))
	if err != nil {
		return nil, "", fmt.Errorf("make a recovery identity: %w", err)
	}
	return identity, generated.Recipient().String(), nil
}

// ParseIdentities reads identities as age-keygen writes them: one per line, empty lines and lines that
// start with # left out. The text is borrowed. Errors wrap ErrIdentity and say the line, never more.
func ParseIdentities(text *secret.Key) ([]Identity, error) {
	var out []Identity
	number := 0
	for line := range bytes.Lines(text.Bytes()) {
		number++
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		identity, err := parseIdentity(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		out = append(out, identity)
	}
	if len(out) == 0 {
		return nil, ErrIdentity
	}
	return out, nil
}

// parseIdentity drops the causes that age gives: they may quote the text.
func parseIdentity(line []byte) (Identity, error) {
	var identity age.Identity
	var recipient string
	if bytes.HasPrefix(line, []byte("AGE-SECRET-KEY-PQ-1")) {
		hybrid, err := age.ParseHybridIdentity(string(line))
		if err != nil {
			return Identity{}, ErrIdentity
		}
		identity, recipient = hybrid, hybrid.Recipient().String()
	} else {
		x25519, err := age.ParseX25519Identity(string(line))
		if err != nil {
			return Identity{}, ErrIdentity
		}
		identity, recipient = x25519, x25519.Recipient().String()
	}
	r, err := ParseRecipient(recipient)
	if err != nil {
		return Identity{}, ErrIdentity
	}
	return Identity{age: identity, recipient: r}, nil
}
