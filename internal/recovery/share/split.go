// SPDX-License-Identifier: Apache-2.0

package share

import (
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/cloudflare/circl/group"
	"github.com/cloudflare/circl/secretsharing"

	"github.com/voluks/voluks/internal/secret"
)

// Split makes total shares of an identity, of which any needed give it back. The identity is the text of an age identity file with one identity, new or
// old. It is borrowed; the caller wipes the shares.
//
// Nothing is returned that was not proven: every share is read back from its text and checked with the commitments, and shares combine to the identity,
// with each of them taking part at least once. Errors: ErrIdentity, and numbers out of MinNeeded ≤ needed ≤ total ≤ MaxShares.
func Split(identity *secret.Key, needed, total int) ([]*Share, error) {
	if needed < MinNeeded || needed > total || total > MaxShares {
		return nil, fmt.Errorf("split the identity %d of %d: at least %d are needed to combine, no more than there are, and at most %d are made", needed, total, MinNeeded, MaxShares)
	}
	shares, err := split(identity.Bytes(), needed, total)
	if err != nil {
		WipeAll(shares)
		return nil, fmt.Errorf("split the identity: %w", err)
	}
	return shares, nil
}

func split(text []byte, needed, total int) ([]*Share, error) {
	kind, raw, err := parseIdentity(text)
	if err != nil {
		return nil, err
	}
	defer raw.Wipe()
	canonical, err := identityText(kind, raw)
	if err != nil {
		return nil, err
	}
	defer canonical.Wipe()
	recipient, err := recipientOf(canonical)
	if err != nil {
		return nil, err
	}
	fingerprint, err := FingerprintOf(recipient)
	if err != nil {
		return nil, err
	}
	scalar, open, err := toScalar(raw.Bytes())
	if err != nil {
		return nil, err
	}
	defer forget(scalar)

	dealer := secretsharing.New(rand.Reader, uint(needed-1), scalar)
	commitments := dealer.CommitSecret()
	var shares []*Share
	for _, made := range dealer.Share(uint(total)) {
		s := &Share{Kind: kind, Needed: needed, Total: total, Number: len(shares) + 1, Fingerprint: fingerprint, clear: open}
		shares = append(shares, s)
		if !secretsharing.Verify(uint(needed-1), made, commitments) {
			return shares, fmt.Errorf("share %d does not match the commitments", s.Number)
		}
		s.value, err = scalarKey(made.Value)
		if err != nil {
			return shares, err
		}
		forget(made.Value)
	}
	plant(shares)
	return shares, prove(shares, canonical)
}

// prove combines what is about to be handed out: as printed, and so that each share is needed once.
func prove(shares []*Share, identity *secret.Key) error {
	var read []*Share
	defer func() { WipeAll(read) }()
	for _, s := range shares {
		text, err := s.Text()
		if err != nil {
			return err
		}
		again, err := Parse(text.Bytes())
		text.Wipe()
		if err != nil {
			return fmt.Errorf("share %d: %w", s.Number, err)
		}
		read = append(read, again)
	}
	needed := shares[0].Needed
	for first := 0; first < len(read); first += needed {
		from := min(first, len(read)-needed)
		got, _, err := Combine(read[from : from+needed])
		if err != nil {
			return err
		}
		same := got.Equal(identity)
		got.Wipe()
		if !same {
			return errors.New("the shares combine to another identity")
		}
	}
	return nil
}

// scalarKey moves a scalar's bytes into locked memory.
func scalarKey(s group.Scalar) (*secret.Key, error) {
	b, err := s.MarshalBinary()
	if err != nil {
		return nil, err
	}
	return secret.Move(b)
}
