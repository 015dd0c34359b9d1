// SPDX-License-Identifier: Apache-2.0

// Package typable makes recovery keys that a person can type, in the form that systemd gives them, so that systemd's own tools take them for their own.
//
// Facts, as found in systemd (systemd-cryptenroll --recovery-key, systemd-cryptsetup) and by running versions 252 and 257: a key is 256 random bits written in
// modhex, an alphabet of 16 letters that lie alike on most keyboards, as eight groups of eight with a dash between. The passphrase of the key slot is
// that text of 71 bytes, dashes included, and not the bits. The slot has PBKDF2 with 1,000 iterations, since the key has full entropy. A token of type
// "systemd-recovery" names the slot and holds nothing else; by it systemd-cryptenroll lists the slot as "recovery". What is typed at a
// prompt may lack the dashes and may be in upper case: systemd-cryptsetup then tries the normal form. It does not do so with the content of a key file, and
// plain cryptsetup never does: they want the text as it was printed.
//
// The form has no checksum. A letter outside the alphabet and a wrong length can be told, a wrong letter only by the slot not opening.
package typable

import (
	"errors"
	"fmt"

	"github.com/voluks/voluks/internal/secret"
)

const (
	alphabet  = "cbdefghijklnrtuv" // of 0 to 15
	bytesIn   = 32
	groupSize = 8
	groups    = 2 * bytesIn / groupSize

	// Length is how many bytes the text of a key has.
	Length = 2*bytesIn + groups - 1

	maxInput = 1 << 10
)

// ErrMistyped is what every *TypoError is, for errors.Is.
var ErrMistyped = errors.New("no recovery key")

// A TypoError says what is wrong with the text of a key and where. It does not quote it.
type TypoError struct {
	What  string // is wrong
	Group int    // from 1; 0: no one place
	Char  int    // in the group, from 1
}

// Error names the place.
func (e *TypoError) Error() string {
	if e.Group == 0 {
		return fmt.Sprintf("%v: %s", ErrMistyped, e.What)
	}
	return fmt.Sprintf("%v: group %d, character %d: %s", ErrMistyped, e.Group, e.Char, e.What)
}

// Is makes every TypoError an ErrMistyped.
func (e *TypoError) Is(target error) bool { return target == ErrMistyped }

// Generate returns a new key: the text to show once, which is also the passphrase to give to the key slot, with luks.KDFRandomKey. The caller wipes it.
func Generate() (*secret.Key, error) {
	bits, err := secret.Random(bytesIn)
	if err != nil {
		return nil, fmt.Errorf("make a recovery key: %w", err)
	}
	defer bits.Wipe()
	digits, err := secret.New(2 * bytesIn)
	if err != nil {
		return nil, fmt.Errorf("make a recovery key: %w", err)
	}
	defer digits.Wipe()
	for i, b := range bits.Bytes() {
		digits.Bytes()[2*i], digits.Bytes()[2*i+1] = alphabet[b>>4], alphabet[b&15]
	}
	return grouped(digits.Bytes())
}

// Parse returns the passphrase for what was typed: case, blanks, line ends and dashes do not matter. The text is borrowed; the caller wipes the result.
// An error is a *TypoError, unless memory could not be locked.
func Parse(typed []byte) (*secret.Key, error) {
	if len(typed) > maxInput {
		return nil, &TypoError{What: fmt.Sprintf("%d bytes are too much", len(typed))}
	}
	room, err := secret.New(maxInput)
	if err != nil {
		return nil, fmt.Errorf("read a recovery key: %w", err)
	}
	defer room.Wipe()
	digits := room.Bytes()[:0]
	for _, c := range typed {
		switch letter := fold(c); {
		case c == ' ' || c == '\t' || c == '\r' || c == '\n' || c == '-':
		case value(letter) < 0:
			return nil, &TypoError{What: "no recovery key has this character", Group: len(digits)/groupSize + 1, Char: len(digits)%groupSize + 1}
		default:
			digits = append(digits, letter)
		}
	}
	if len(digits) != 2*bytesIn {
		return nil, &TypoError{What: fmt.Sprintf("%d letters instead of %d", len(digits), 2*bytesIn)}
	}
	return grouped(digits)
}

func grouped(digits []byte) (*secret.Key, error) {
	out, err := secret.New(Length)
	if err != nil {
		return nil, fmt.Errorf("make a recovery key: %w", err)
	}
	b := out.Bytes()[:0]
	for i := 0; i < len(digits); i += groupSize {
		if i > 0 {
			b = append(b, '-')
		}
		b = append(b, digits[i:i+groupSize]...)
	}
	return out, nil
}

func fold(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

func value(letter byte) int {
	for v := range len(alphabet) {
		if alphabet[v] == letter {
			return v
		}
	}
	return -1
}
