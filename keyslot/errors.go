// SPDX-License-Identifier: Apache-2.0

package keyslot

import (
	"errors"
	"fmt"
)

var (
	// ErrNoRecovery: there is no confirmed recovery recipient, and the configuration does not say
	// that there shall be none.
	ErrNoRecovery = errors.New("no confirmed recovery recipient")
	// ErrNoAgentSlot: the header has no slot that this node could open by itself.
	ErrNoAgentSlot = errors.New("no agent slot")
	// ErrNoRecoverySlot: the header has no slot for the recovery identity.
	ErrNoRecoverySlot = errors.New("no recovery slot")
	// ErrUnknownVersion: a token was written by a voluks that knows more than this one. It, and the
	// slots it may speak of, are never touched.
	ErrUnknownVersion = errors.New("token of an unknown version")
	// ErrToken: a token of ours is not what voluks writes.
	ErrToken = errors.New("malformed token")
	// ErrWrongKey: what the token holds does not open for this volume, role and generation; it was
	// tampered with, or comes from elsewhere.
	ErrWrongKey = errors.New("sealed slot key does not open")
	// ErrNotOurs: there is something that Format must not replace.
	ErrNotOurs = errors.New("container was not left by an interrupted creation of this volume")
	// ErrNotReady: the creation of the volume has not ended.
	ErrNotReady = errors.New("the volume is not complete")
	// ErrNoSlot: all key slots are taken.
	ErrNoSlot = errors.New("no free key slot")
)

// TokenError is a token of ours that cannot be used. It is ErrToken.
type TokenError struct {
	ID   int    // number of the token
	Type string // of the token
	Err  error  // what is wrong with it
}

// Error implements error.
func (e *TokenError) Error() string {
	return fmt.Sprintf("%v %d (%s): %v", ErrToken, e.ID, e.Type, e.Err)
}

// Is makes it an ErrToken.
func (e *TokenError) Is(target error) bool { return target == ErrToken }

// Unwrap returns what is wrong with it.
func (e *TokenError) Unwrap() error { return e.Err }

// VersionError is a token of ours with a version that this voluks does not know. It is
// ErrUnknownVersion.
type VersionError struct {
	ID      int    // of the token
	Type    string // of the token
	Version string // as written; "" if there is none
}

// Error implements error.
func (e *VersionError) Error() string {
	return fmt.Sprintf("token %d (%s) has version %q, this voluks knows %d", e.ID, e.Type, e.Version, version)
}

// Is makes it an ErrUnknownVersion.
func (e *VersionError) Is(target error) bool { return target == ErrUnknownVersion }

// ForeignTokenError is a token that was made for another header: the container was copied, or its
// UUID changed, by something other than voluks.
type ForeignTokenError struct {
	ID     int    // of the token
	Type   string // of the token
	UUID   string // in the token
	Header string // UUID of the header that it is in
}

// Error implements error.
func (e *ForeignTokenError) Error() string {
	return fmt.Sprintf("token %d (%s) belongs to the volume %s, not to %s", e.ID, e.Type, e.UUID, e.Header)
}

// TooLargeError means that the tokens would not fit beside their successors: a rotation needs room
// for the old and the new ones at once.
type TooLargeError struct {
	Size, Limit int // bytes of JSON
}

// Error implements error.
func (e *TooLargeError) Error() string {
	return fmt.Sprintf("tokens would take %d bytes of the header, at most %d are allowed", e.Size, e.Limit)
}

// ProofError means that a slot does not open with the key that was put into it.
type ProofError struct {
	Slot int    // that did not open
	By   string // who tried: "libcryptsetup" or "luks.go"
	Err  error  // why
}

// Error implements error.
func (e *ProofError) Error() string {
	return fmt.Sprintf("prove key slot %d with %s: %v", e.Slot, e.By, e.Err)
}

// Unwrap returns what the prover said.
func (e *ProofError) Unwrap() error { return e.Err }

// SharedSlotError means that a token of somebody else names a slot of ours, which can therefore not be
// destroyed.
type SharedSlotError struct{ Slot int }

// Error implements error.
func (e *SharedSlotError) Error() string {
	return fmt.Sprintf("a token that is not voluks's names key slot %d", e.Slot)
}
