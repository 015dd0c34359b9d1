// SPDX-License-Identifier: Apache-2.0

// Package share splits the recovery identity into n shares of which any k give it back, and fewer give nothing.
//
// # What is shared
//
// An age identity, X25519 or post-quantum, is 32 bytes. 251 of their bits become a scalar of Ristretto255, which circl shares after Shamir. The other
// five are written in clear into every share. They are the ones that X25519 overwrites before it uses a key, so an X25519 identity loses nothing; of
// a post-quantum seed 251 secret bits remain. So an identity that exists can be split as well as a new one, nothing but the shares has to
// be kept, and combining gives back the same string, bit by bit. (Sharing a random scalar that encrypts the identity would need the 48 bytes of the
// ciphertext on every share, for nothing.)
//
// # How a share is checked
//
// Each share stands alone: whoever holds one can check it without the others, and without the node.
//
//   - Mistyped: a checksum, that of bech32m, over all characters. One wrong character is always found, and its place is named; so are two neighbours
//     that were exchanged and a character too few or too many.
//   - Foreign: the fingerprint of the identity's recipient, and the root of a hash tree over all shares of the same splitting, which also binds k, n
//     and the fingerprint. Two splittings of one identity differ in the root.
//   - Forged: the path from this share to that root. A value that was not handed out has no path. Parse checks it.
//   - Repeated: the number.
//
// At the end the recipient of what was combined is compared with the fingerprint. There is no way to a wrong identity with success.
//
// Feldman's commitments, which circl offers for this, were weighed and left out. They would add 52 characters for each of the k to every share, where
// the tree adds 10 for each doubling of n. They let an owner check an honest dealer, but the dealer is this program. And they hide the
// identity only as long as nobody computes discrete logarithms: one share and a quantum computer would open what was encrypted to a post-quantum
// recipient. Hashes of values that are random and as large as the key do not. Split uses the commitments inside, to check its own work.
//
// The digests of the tree have 50 bits. That stops any accident. An owner who spends 2^50 hashes on a forged share could have it pass for one that was
// handed out, and would reach only what a lost share reaches: the comparison at the end fails.
//
// # How it is written
//
// 5 bits to a character, in the alphabet of bech32, in groups of five: 105 characters for 2 of 3, 115 for 3 of 5, never more than 125. Upper and
// lower case are the same, spaces, dashes and line ends do not count, and letters that the alphabet lacks are read as the ones they are
// taken for (O as 0, I and 1 as L, B as 8). Lines that begin with # are comments. See layout for the order.
package share

import (
	"errors"
	"fmt"

	"github.com/voluks/voluks/internal/secret"
)

// Limits of a splitting.
const (
	MinNeeded = 2  // a splitting of which one share is enough is a copy: copy the identity instead
	MaxShares = 16 // more owners than anybody has; the tree stays below five levels
)

// Version is what this package writes, and the only one that it reads.
const Version = 1

// Kind says which type of age identity was split.
type Kind byte

// The kinds. Their numbers are part of the format.
const (
	X25519 Kind = 0
	Hybrid Kind = 1 // age's ML-KEM-768 with X25519
)

// String returns the name that people see.
func (k Kind) String() string {
	if k == Hybrid {
		return "post-quantum"
	}
	return "X25519"
}

// A Share is one owner's part of an identity. Only its value is secret. Whoever got it calls Wipe.
type Share struct {
	Kind        Kind        // of identity
	Needed      int         // k: how many shares give the identity back
	Total       int         // n: how many were made
	Number      int         // of this share, from 1 to Total
	Fingerprint Fingerprint // of the identity's recipient

	clear byte // the five bits that are not shared
	root  digest
	path  []digest // from the leaf upwards
	value *secret.Key
}

// Wipe destroys the share's secret. It may be called any number of times, and on nil.
func (s *Share) Wipe() {
	if s != nil {
		s.value.Wipe()
	}
}

// WipeAll wipes every share of a list.
func WipeAll(shares []*Share) {
	for _, s := range shares {
		s.Wipe()
	}
}

// Set returns the short public name of the splitting: the same on all its shares, another one when the same identity is split again.
func (s *Share) Set() string { return s.root.String() }

// String describes the share without its secret.
func (s *Share) String() string {
	return fmt.Sprintf("share %d of %d (any %d) of identity %s, set %s", s.Number, s.Total, s.Needed, s.Fingerprint, s.Set())
}

var (
	// ErrMistyped means that a share's text is not what was printed; the error is a *TypoError and tells where.
	ErrMistyped = errors.New("mistyped")
	// ErrVersion means that the text is sound, but of a form that this version does not know.
	ErrVersion = errors.New("made by a newer voluks")
	// ErrForged means that the text is typed right, but no such share was ever handed out.
	ErrForged = errors.New("not one of the shares that were handed out")
	// ErrForeign means that a share belongs to another identity or another splitting than the shares before it.
	ErrForeign = errors.New("does not belong to the other shares")
	// ErrRepeated means that a share with this number is already there.
	ErrRepeated = errors.New("given twice")
	// ErrRecipient means that shares which look right combine to something that is not the identity they name.
	ErrRecipient = errors.New("the shares do not give the identity that they name")
	// ErrIdentity means that what should be split is no single age identity, X25519 or post-quantum.
	ErrIdentity = errors.New("not one age identity")
)

// An Error is about one of several shares.
type Error struct {
	Position int   // in the list, from 1
	Number   int   // written on the share
	Err      error // what is wrong with it
}

// Error names the share by the number that is written on it.
func (e *Error) Error() string { return fmt.Sprintf("share %d: %v", e.Number, e.Err) }

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// TooFewError means that more shares are needed.
type TooFewError struct{ Have, Need int }

// Error says how many.
func (e *TooFewError) Error() string {
	return fmt.Sprintf("%d shares are needed and %d are there", e.Need, e.Have)
}
