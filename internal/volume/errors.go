// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"errors"
	"fmt"
)

// Code names a kind of failure that a caller can act on. Codes are stable: they cross the pipe between agent and worker, stand in JSON output
// and decide exit codes.
type Code string

// The codes. Each has an error value of the same meaning below, for errors.Is.
const (
	CodeNotFound   Code = "not_found"      // no volume of that name
	CodeExists     Code = "exists_differs" // the name is taken by a volume with other options
	CodeUnfinished Code = "unfinished"     // its creation was interrupted: create it again, or remove it
	CodeNotMounted Code = "not_mounted"    // it is not mounted
	CodeInUse      Code = "in_use"         // holders, a mount or a mapping forbid it
	CodeBusy       Code = "busy"           // another operation on this volume runs, or the kernel says busy: try again
	CodeLocked     Code = "locked"         // no key: the provider is down, refuses, or does not have it
	CodeStuck      Code = "stuck"          // an operation is past its deadline and does not die: a device below does not answer
	CodeDamaged    Code = "damaged"        // record, header or backing is not what it must be
	CodeInvalid    Code = "invalid"        // the request is wrong; nothing was done
	CodeConfig     Code = "config"         // the node's configuration or its master key is wrong
	CodeNoSpace    Code = "no_space"       // the backing's file system cannot hold it
	CodeNoDM       Code = "no_dm"          // the kernel has no device-mapper or no dm-crypt
	CodeNoTool     Code = "no_tool"        // a program such as mkfs.xfs is not installed
	CodeNoRecovery Code = "no_recovery"    // no recovery recipient is confirmed
	CodePlaintext  Code = "plaintext"      // the proof failed: what is mounted is not known to be encrypted
	CodeTimeout    Code = "timeout"        // the deadline passed; everything was undone
	CodeCanceled   Code = "canceled"       // the caller went away; everything was undone
	CodeInternal   Code = "internal"       // anything else
)

// Errors to compare with errors.Is. What a Manager returns is an *Error that matches one of them and says more.
var (
	ErrNotFound   error = codeError(CodeNotFound)
	ErrExists     error = codeError(CodeExists)
	ErrUnfinished error = codeError(CodeUnfinished)
	ErrNotMounted error = codeError(CodeNotMounted)
	ErrInUse      error = codeError(CodeInUse)
	ErrBusy       error = codeError(CodeBusy)
	ErrLocked     error = codeError(CodeLocked)
	ErrStuck      error = codeError(CodeStuck)
	ErrDamaged    error = codeError(CodeDamaged)
	ErrInvalid    error = codeError(CodeInvalid)
	ErrConfig     error = codeError(CodeConfig)
	ErrNoSpace    error = codeError(CodeNoSpace)
	ErrNoDM       error = codeError(CodeNoDM)
	ErrNoTool     error = codeError(CodeNoTool)
	ErrNoRecovery error = codeError(CodeNoRecovery)
	ErrPlaintext  error = codeError(CodePlaintext)
	ErrTimeout    error = codeError(CodeTimeout)
	ErrCanceled   error = codeError(CodeCanceled)
)

// codeError is the bare form of a code.
type codeError Code

// Error implements error.
func (c codeError) Error() string { return "volume: " + string(c) }

// Error is what every method of Manager fails with: what was being done, to which volume, and why. It holds no secret. Its text names the way
// out where there is one, since Docker shows nothing else.
type Error struct {
	Code   Code   // what a caller can act on
	Op     string // "create", "mount", "unmount", "remove", "inspect", "list", "path", "settle"
	Volume string // empty where no single volume is meant
	Err    error  // the cause, part of the text
}

// Error implements error.
func (e *Error) Error() string {
	if e.Op == "" { // on its way up, see finishError
		return e.Err.Error()
	}
	if e.Volume == "" {
		return fmt.Sprintf("%s: %v", e.Op, e.Err)
	}
	return fmt.Sprintf("%s volume %q: %v", e.Op, e.Volume, e.Err)
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// Is makes errors.Is(err, ErrBusy) true for an Error with CodeBusy.
func (e *Error) Is(target error) bool {
	c, ok := target.(codeError)
	return ok && Code(c) == e.Code
}

// CodeOf gives the code of an error of this package, also through wrapping and after a trip through the worker's pipe. It is "" for nil and
// CodeInternal for an error of somebody else.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	var c codeError
	if errors.As(err, &c) {
		return Code(c)
	}
	return CodeInternal
}

// OptionError says what is wrong with one option of a volume. Its text is meant for the person who wrote the option.
type OptionError struct {
	Option  string   // as it was written
	Value   string   // empty for an unknown or secret-looking option, whose value is never repeated
	Reason  string   // what is wrong, and what would be right
	Nearest string   // for an unknown option: the known one most like it, or ""
	Known   []string // for an unknown option: what exists
}

// Error implements error.
func (e *OptionError) Error() string {
	if e.Value == "" {
		return fmt.Sprintf("option %q: %s", e.Option, e.Reason)
	}
	return fmt.Sprintf("option %s=%q: %s", e.Option, e.Value, e.Reason)
}

// Difference is one option in which a request and the volume of that name differ.
type Difference struct {
	Option string `json:"option"` // its name
	Have   string `json:"have"`   // of the volume
	Want   string `json:"want"`   // of the request
}

// DiffError says in what a create request differs from the volume that has the name (F10).
type DiffError struct{ Differences []Difference }

// Error implements error.
func (e *DiffError) Error() string {
	s := "a volume of this name exists with other options, which are fixed at creation:"
	for i, d := range e.Differences {
		if i > 0 {
			s += ","
		}
		s += fmt.Sprintf(" %s is %s, not %s", d.Option, d.Have, d.Want)
	}
	return s
}

// HeldError says who keeps a volume from being removed or closed.
type HeldError struct {
	Holders []Holder // recorded users
	Others  []string // users that the kernel shows: "mounted at /x", "pid 7 in another mount namespace"
	Closing bool     // the caller's own holder is gone; the volume closes by itself when the others leave
}

// Error implements error.
func (e *HeldError) Error() string {
	s := "in use"
	if e.Closing {
		s = "released, but it cannot be closed yet (it will be, when the others leave)"
	}
	sep := ": "
	for _, h := range e.Holders {
		s += sep + "held by " + h.String()
		sep = ", "
	}
	for _, o := range e.Others {
		s += sep + o
		sep = ", "
	}
	return s
}
