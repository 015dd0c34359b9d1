// SPDX-License-Identifier: Apache-2.0

package header

import (
	"errors"
	"fmt"
)

var (
	// ErrNotLUKS means that neither place where LUKS2 keeps a header carries its magic bytes. It says nothing about what is there instead.
	ErrNotLUKS = errors.New("no LUKS header")
	// ErrLUKS1 means a LUKS version 1 header: voluks neither makes nor opens those.
	ErrLUKS1 = errors.New("a LUKS1 header, voluks reads LUKS2 only")
	// ErrDamaged is what every *DamagedError is, for errors.Is.
	ErrDamaged = errors.New("damaged LUKS2 header")

	// ErrMagic means that a copy's place does not begin with the magic bytes of that copy: overwritten, or never written.
	ErrMagic = errors.New("magic bytes missing")
	// ErrChecksum means that a copy is not what its SHA-256 says: a torn write, a bad sector, or bytes written by something else.
	ErrChecksum = errors.New("checksum does not match")
	// ErrStale means that a copy is sound but older than the other one: a writer stopped between the two.
	ErrStale = errors.New("older than the other copy")
	// ErrDiffers means that both copies are sound and of one epoch, but say different things. No correct writer leaves that behind.
	ErrDiffers = errors.New("differs from the other copy of the same epoch")
)

// DamagedError tells which of the two copies of a header cannot be trusted, and why. A nil field is a good copy. Whatever loads such a header through
// libcryptsetup rewrites the bad copy from the good one, without a word.
type DamagedError struct {
	Primary, Secondary error // what is wrong with each copy; nil: nothing
}

// Error names the bad copies and what is wrong with each.
func (e *DamagedError) Error() string {
	switch {
	case e.Primary != nil && e.Secondary != nil:
		return fmt.Sprintf("%v: first copy: %v; second copy: %v", ErrDamaged, e.Primary, e.Secondary)
	case e.Primary != nil:
		return fmt.Sprintf("%v: first copy: %v", ErrDamaged, e.Primary)
	default:
		return fmt.Sprintf("%v: second copy: %v", ErrDamaged, e.Secondary)
	}
}

// Is makes every DamagedError an ErrDamaged.
func (e *DamagedError) Is(target error) bool { return target == ErrDamaged }

// Unwrap gives the causes of the bad copies.
func (e *DamagedError) Unwrap() []error {
	var errs []error
	for _, err := range []error{e.Primary, e.Secondary} {
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// Lost says that no copy is good: nothing can be opened before a header backup is restored.
func (e *DamagedError) Lost() bool { return e.Primary != nil && e.Secondary != nil }

// StrictError is a header that voluks could not have written, though it may be valid LUKS2. Field is the place in the metadata.
type StrictError struct {
	Field, Got, Want string // what was found there, and what voluks would have written
}

// Error says what was found where, and what was wanted.
func (e *StrictError) Error() string {
	return fmt.Sprintf("LUKS2 header not acceptable: %s is %s, want %s", e.Field, e.Got, e.Want)
}

// A formatError is content that is no LUKS2 metadata although the checksum is right, so some program or person wrote it on purpose.
type formatError struct{ msg string }

func (e *formatError) Error() string { return e.msg }

func malformed(format string, args ...any) error {
	return &formatError{msg: fmt.Sprintf(format, args...)}
}
