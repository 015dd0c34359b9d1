// SPDX-License-Identifier: Apache-2.0

// Package recovery seals slot keys to the offline recovery identity, and opens them with it. The
// format is that of age (age-encryption.org/v1, armored), so that age and cryptsetup alone open every
// volume when voluks and its node are gone.
package recovery

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"filippo.io/age"
)

var (
	// ErrRecipient: a text is no age recipient that can be sealed to.
	ErrRecipient = errors.New("is not a usable age recipient")
	// ErrIsIdentity: a secret identity stands where its public recipient belongs.
	ErrIsIdentity = errors.New("is a secret identity; its recipient belongs here")
	// ErrMixed: post-quantum recipients and others in one list. age refuses it, since whoever breaks
	// the weaker one has the key.
	ErrMixed = errors.New("post-quantum recipients and others cannot be mixed")
	// ErrTwice: a recipient is there twice.
	ErrTwice = errors.New("is there twice")
)

// RecipientError says which recipient of a list is wrong. It does not show it, which may be a secret.
type RecipientError struct {
	Index int   // from 0
	Err   error // what is wrong with it
}

// Error implements error.
func (e *RecipientError) Error() string { return fmt.Sprintf("recipient %d %v", e.Index+1, e.Err) }

// Unwrap returns what is wrong.
func (e *RecipientError) Unwrap() error { return e.Err }

// Recipient is the public half of a recovery identity. The zero value is none.
type Recipient struct {
	text string
	age  age.Recipient
}

// ParseRecipient reads "age1..." (X25519) or "age1pq1..." (ML-KEM-768 with X25519). Errors wrap
// ErrRecipient or ErrIsIdentity and never show the text.
func ParseRecipient(text string) (Recipient, error) {
	var r age.Recipient
	var canonical string
	switch {
	case strings.HasPrefix(strings.ToUpper(text), "AGE-SECRET-KEY-"):
		return Recipient{}, ErrIsIdentity
	case strings.HasPrefix(text, "age1pq1"):
		hybrid, err := age.ParseHybridRecipient(text)
		if err != nil {
			return Recipient{}, ErrRecipient
		}
		r, canonical = hybrid, hybrid.String()
	default:
		x25519, err := age.ParseX25519Recipient(text)
		if err != nil {
			return Recipient{}, ErrRecipient
		}
		r, canonical = x25519, x25519.String()
	}
	if canonical != text {
		return Recipient{}, ErrRecipient // one recipient, one text: fingerprints are of the text
	}
	// A point of low order parses, and nothing can be sealed to it: found here, not at a create.
	if _, err := r.Wrap(make([]byte, 16)); err != nil {
		return Recipient{}, ErrRecipient
	}
	return Recipient{text: text, age: r}, nil
}

// ParseRecipients reads a list as the configuration has it. An empty list is no error. Errors are
// *RecipientError.
func ParseRecipients(texts []string) ([]Recipient, error) {
	var out []Recipient
	for i, text := range texts {
		r, err := ParseRecipient(text)
		switch {
		case err != nil:
		case slices.Contains(texts[:i], text):
			err = ErrTwice
		case i > 0 && r.PostQuantum() != out[0].PostQuantum():
			err = ErrMixed
		}
		if err != nil {
			return nil, &RecipientError{Index: i, Err: err}
		}
		out = append(out, r)
	}
	return out, nil
}

// String is the recipient as age writes it. It is public.
func (r Recipient) String() string { return r.text }

// PostQuantum says whether what is sealed withstands a quantum computer.
func (r Recipient) PostQuantum() bool {
	_, ok := r.age.(*age.HybridRecipient)
	return ok
}

// Fingerprint is a short public name, of 16 hexadecimal digits, for lists and tokens: a post-quantum
// recipient itself has 1,959 characters.
func (r Recipient) Fingerprint() string {
	sum := sha256.Sum256([]byte(r.text))
	return hex.EncodeToString(sum[:8])
}

// Fingerprints are the fingerprints of a list, in its order.
func Fingerprints(recipients []Recipient) []string {
	out := make([]string, len(recipients))
	for i, r := range recipients {
		out[i] = r.Fingerprint()
	}
	return out
}
