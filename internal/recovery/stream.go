// SPDX-License-Identifier: Apache-2.0

package recovery

import (
	"errors"
	"fmt"
	"io"

	"filippo.io/age"
)

// Encrypt returns a writer whose input goes to dst as a binary age file that each of the recipients can open alone. Nothing is complete before Close
// returned nil. For what is too long to be a sealed key, such as a header backup; it is not for keys.
func Encrypt(dst io.Writer, recipients []Recipient) (io.WriteCloser, error) {
	if len(recipients) == 0 {
		return nil, ErrNoRecipient
	}
	to := make([]age.Recipient, len(recipients))
	for i, r := range recipients {
		if r.age == nil {
			return nil, &RecipientError{Index: i, Err: ErrRecipient}
		}
		to[i] = r.age
	}
	w, err := age.Encrypt(dst, to...)
	if err != nil {
		return nil, fmt.Errorf("encrypt to the recovery recipients: %w", err)
	}
	return w, nil
}

// Decrypt returns what Encrypt was given. age authenticates in pieces of 64 KiB: what was read before an error is genuine, but not the whole, so use nothing
// before io.EOF. Errors wrap ErrWrongIdentity or ErrSealed.
func Decrypt(src io.Reader, identities []Identity) (io.Reader, error) {
	if len(identities) == 0 {
		return nil, ErrWrongIdentity
	}
	ids := make([]age.Identity, len(identities))
	for i, identity := range identities {
		ids[i] = identity.age
	}
	r, err := age.Decrypt(src, ids...)
	var none *age.NoIdentityMatchError
	switch {
	case errors.As(err, &none):
		return nil, ErrWrongIdentity
	case err != nil:
		return nil, fmt.Errorf("%w: %v", ErrSealed, err)
	}
	return r, nil
}
