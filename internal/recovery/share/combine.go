// SPDX-License-Identifier: Apache-2.0

package share

import (
	"errors"
	"fmt"

	"github.com/cloudflare/circl/group"
	"github.com/cloudflare/circl/secretsharing"

	"github.com/voluks/voluks/internal/recovery"
	"github.com/voluks/voluks/internal/secret"
)

// A ForeignError is a share that cannot be combined with the others, and why. It is an ErrForeign.
type ForeignError struct {
	Fingerprint, WantFingerprint Fingerprint // of the share, and of the others
	Set, WantSet                 string      // of the share, and of the others
}

// Error says which identity or splitting the share belongs to.
func (e *ForeignError) Error() string {
	if e.Fingerprint != e.WantFingerprint {
		return fmt.Sprintf("%v: it is of identity %s, they are of %s", ErrForeign, e.Fingerprint, e.WantFingerprint)
	}
	return fmt.Sprintf("%v: it is of the same identity, but of splitting %s, they are of %s", ErrForeign, e.Set, e.WantSet)
}

// Is makes every ForeignError an ErrForeign.
func (e *ForeignError) Is(target error) bool { return target == ErrForeign }

// Check says whether next can be combined with those before, which fit together. An error is an *Error around ErrForeign or ErrRepeated. For a
// program that asks for one share after the other and can say at once what is wrong.
func Check(before []*Share, next *Share) error {
	if len(before) == 0 {
		return nil
	}
	return fits(before[0], before, next, len(before)+1)
}

func fits(reference *Share, before []*Share, next *Share, position int) error {
	if next.root != reference.root {
		return &Error{Position: position, Number: next.Number, Err: &ForeignError{
			Fingerprint: next.Fingerprint, WantFingerprint: reference.Fingerprint, Set: next.Set(), WantSet: reference.Set(),
		}}
	}
	for _, s := range before {
		if s.root == next.root && s.Number == next.Number {
			return &Error{Position: position, Number: next.Number, Err: ErrRepeated}
		}
	}
	return nil
}

// Combine gives the identity back, as the line that age reads, and its recipient. The caller wipes the identity; the shares stay the caller's.
//
// Every share that does not belong is named: the error joins an *Error for each, around ErrForeign (measured against the splitting with the most shares,
// the first of equals) or ErrRepeated. Too few are a *TooFewError. The recipient is compared with the fingerprint that the shares name:
// ErrRecipient, and no identity, if it is another.
func Combine(shares []*Share) (*secret.Key, recovery.Recipient, error) {
	if len(shares) == 0 {
		return nil, recovery.Recipient{}, fmt.Errorf("combine shares: %w", &TooFewError{Have: 0, Need: MinNeeded})
	}
	reference := commonest(shares)
	var problems []error
	for i, s := range shares {
		if err := fits(reference, shares[:i], s, i+1); err != nil {
			problems = append(problems, err)
		}
	}
	if len(problems) > 0 {
		return nil, recovery.Recipient{}, fmt.Errorf("combine shares: %w", errors.Join(problems...))
	}
	if len(shares) < reference.Needed {
		return nil, recovery.Recipient{}, fmt.Errorf("combine shares: %w", &TooFewError{Have: len(shares), Need: reference.Needed})
	}
	identity, recipient, err := combine(shares[:reference.Needed])
	if err != nil {
		return nil, recovery.Recipient{}, fmt.Errorf("combine shares: %w", err)
	}
	return identity, recipient, nil
}

// commonest returns the first share of the splitting with the most shares.
func commonest(shares []*Share) *Share {
	count := map[digest]int{}
	for _, s := range shares {
		count[s.root]++
	}
	best := shares[0]
	for _, s := range shares {
		if count[s.root] > count[best.root] {
			best = s
		}
	}
	return best
}

// combine takes exactly as many shares as are needed, all of one splitting and with different numbers: circl panics on equal ones.
func combine(shares []*Share) (*secret.Key, recovery.Recipient, error) {
	first := shares[0]
	var points []secretsharing.Share
	defer func() {
		for _, p := range points {
			forget(p.Value)
		}
	}()
	for i, s := range shares {
		p := secretsharing.Share{ID: group.Ristretto255.NewScalar().SetUint64(uint64(s.Number)), Value: group.Ristretto255.NewScalar()}
		if err := p.Value.UnmarshalBinary(s.value.Bytes()); err != nil {
			return nil, recovery.Recipient{}, &Error{Position: i + 1, Number: s.Number, Err: ErrForged}
		}
		points = append(points, p)
	}
	scalar, err := secretsharing.Recover(uint(first.Needed-1), points)
	if err != nil {
		return nil, recovery.Recipient{}, err
	}
	defer forget(scalar)
	raw, err := secret.New(identityBytes)
	if err != nil {
		return nil, recovery.Recipient{}, err
	}
	defer raw.Wipe()
	possible, err := fromScalar(scalar, first.clear, raw.Bytes())
	if err != nil {
		return nil, recovery.Recipient{}, err
	}
	if !possible {
		return nil, recovery.Recipient{}, ErrRecipient
	}
	return verified(first, raw)
}

// verified lets an identity out only if its recipient is the one that the shares name.
func verified(s *Share, raw *secret.Key) (*secret.Key, recovery.Recipient, error) {
	text, err := identityText(s.Kind, raw)
	if err != nil {
		return nil, recovery.Recipient{}, err
	}
	recipient, err := recipientOf(text)
	if err != nil || recipient.Fingerprint() != s.Fingerprint.String() {
		text.Wipe()
		return nil, recovery.Recipient{}, ErrRecipient
	}
	return text, recipient, nil
}
