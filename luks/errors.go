// SPDX-License-Identifier: Apache-2.0

package luks

import (
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/luks/header"
	"github.com/voluks/voluks/luks/internal/cryptsetup"
)

// Conditions that callers act on; an [*Error] is at most one of them for errors.Is.
var (
	ErrWrongKey     = errors.New("the key does not open this slot")
	ErrNoSlot       = errors.New("no such key slot")
	ErrSlotOccupied = errors.New("the key slot is occupied")
	ErrLastSlot     = errors.New("the last key slot is not removed")
	ErrNoToken      = errors.New("no such token")
	ErrNoSpace      = errors.New("the metadata area is full")
	ErrBusy         = errors.New("in use")
	ErrActive       = errors.New("a mapping of that name exists")
	ErrNotActive    = errors.New("no such mapping")
	ErrKeyLength    = errors.New("key of a wrong length")

	// ErrNoDeviceMapper means that the kernel has no device-mapper here.
	ErrNoDeviceMapper = sys.ErrNoDeviceMapper
	// ErrDamaged means that no copy of the header is good. It is what every *header.DamagedError is.
	ErrDamaged = header.ErrDamaged
)

// Error is what failed on which container or mapping.
type Error struct {
	Op     string        // what was being done, for example "test slot 3"
	Object string        // path of the container, or name of the mapping
	Errno  syscall.Errno // what libcryptsetup returned, or the nearest number for what was found without it
	Detail string        // what libcryptsetup said; possibly empty

	kind error // one of the conditions above, or nil
}

// Error says what failed and why, in one line without secrets.
func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s of %s: ", e.Op, e.Object)
	if e.kind != nil {
		b.WriteString(e.kind.Error())
	} else {
		b.WriteString(e.Errno.Error())
	}
	if e.Detail != "" {
		fmt.Fprintf(&b, " (libcryptsetup: %s)", strings.ReplaceAll(e.Detail, "\n", " "))
	}
	return b.String()
}

// Is tells the condition.
func (e *Error) Is(target error) bool { return e.kind != nil && target == e.kind }

// Unwrap gives the errno.
func (e *Error) Unwrap() error { return e.Errno }

// kinds says what an errno means for one operation: libcryptsetup uses the same numbers for many things.
type kinds map[syscall.Errno]error

var withKey = kinds{syscall.EPERM: ErrWrongKey, syscall.ENOENT: ErrNoSlot}

// failed makes an *Error of what package cryptsetup returned. What is one already stays, and any other error keeps its type behind the operation.
func failed(op, object string, err error, k kinds) error {
	if e := (*Error)(nil); err == nil || errors.As(err, &e) {
		return err
	}
	if c, ok := err.(*cryptsetup.Error); ok { // alone, not among others

		return &Error{Op: op, Object: object, Errno: c.Errno, Detail: c.Detail, kind: k[c.Errno]}
	}
	return fmt.Errorf("%s of %s: %w", op, object, err)
}
