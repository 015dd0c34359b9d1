// SPDX-License-Identifier: Apache-2.0

package cryptsetup

import (
	"errors"
	"fmt"
	"syscall"

	upstream "github.com/martinjungblut/go-cryptsetup"
)

// Error is a failed call of libcryptsetup.
type Error struct {
	Call   string        // the C function
	Errno  syscall.Errno // the negative return value; EINVAL is what the library returns for most of what goes wrong
	Detail string        // its error messages during the call, in its own words; possibly empty
}

// Error says which function failed, how, and what the library said.
func (e *Error) Error() string {
	if e.Detail == "" {
		return fmt.Sprintf("%s: %v", e.Call, e.Errno)
	}
	return fmt.Sprintf("%s: %v: %s", e.Call, e.Errno, e.Detail)
}

// Unwrap gives the errno.
func (e *Error) Unwrap() error { return e.Errno }

// result makes an error of a return value. Call it right after the C function, on the same thread.
func result(call string, r int) error {
	if r >= 0 {
		return nil
	}
	return &Error{Call: call, Errno: syscall.Errno(-r), Detail: lastErrors()}
}

// fromUpstream does the same for calls that go through go-cryptsetup.
func fromUpstream(call string, err error) error {
	if err == nil {
		return nil
	}
	var e *upstream.Error
	if !errors.As(err, &e) {
		return fmt.Errorf("%s: %w", call, err)
	}
	return result(call, e.Code())
}
