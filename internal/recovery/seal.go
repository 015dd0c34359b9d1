// SPDX-License-Identifier: Apache-2.0

package recovery

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"filippo.io/age"
	"filippo.io/age/armor"

	"github.com/voluks/voluks/internal/secret"
)

// KeySize is the length in bytes of what is sealed: a slot key and nothing else, so that
// "age --decrypt" gives exactly what "cryptsetup open --key-file -" takes.
const KeySize = 32

var (
	// ErrNoRecipient: there is nobody to seal to.
	ErrNoRecipient = errors.New("no recovery recipient")
	// ErrWrongIdentity: none of the identities is one that was sealed to.
	ErrWrongIdentity = errors.New("none of the identities opens it")
	// ErrSealed: what should be a sealed key is not one; it was damaged or tampered with.
	ErrSealed = errors.New("not a sealed key")
)

// Seal seals a key of KeySize bytes to all recipients; each of them can open it alone. The result is
// an armored age file.
func Seal(key *secret.Key, recipients []Recipient) (string, error) {
	if len(recipients) == 0 {
		return "", ErrNoRecipient
	}
	if key.Len() != KeySize {
		return "", fmt.Errorf("seal a key of %d bytes instead of %d: %w", key.Len(), KeySize, secret.ErrLength)
	}
	to := make([]age.Recipient, len(recipients))
	for i, r := range recipients {
		if r.age == nil {
			return "", &RecipientError{Index: i, Err: ErrRecipient}
		}
		to[i] = r.age
	}
	var out bytes.Buffer
	armored := armor.NewWriter(&out)
	sealed, err := age.Encrypt(armored, to...)
	if err != nil {
		return "", fmt.Errorf("seal a key: %w", err)
	}
	if _, err := sealed.Write(key.Bytes()); err != nil {
		return "", fmt.Errorf("seal a key: %w", err)
	}
	if err := errors.Join(sealed.Close(), armored.Close()); err != nil {
		return "", fmt.Errorf("seal a key: %w", err)
	}
	return out.String(), nil
}

// Open returns the key that was sealed, which the caller wipes. It refuses anything but exactly
// KeySize bytes. Errors wrap ErrWrongIdentity or ErrSealed.
func Open(sealed string, identities []Identity) (*secret.Key, error) {
	ids := make([]age.Identity, len(identities))
	for i, identity := range identities {
		ids[i] = identity.age
	}
	if len(ids) == 0 {
		return nil, ErrWrongIdentity
	}
	plain, err := age.Decrypt(armor.NewReader(strings.NewReader(sealed)), ids...)
	var none *age.NoIdentityMatchError
	switch {
	case errors.As(err, &none):
		return nil, ErrWrongIdentity
	case err != nil:
		return nil, fmt.Errorf("%w: %v", ErrSealed, err)
	}
	key, err := secret.Read(plain, KeySize) // to the end: the armor may not go on behind it
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSealed, err)
	}
	return key, nil
}
