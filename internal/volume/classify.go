// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"syscall"

	"github.com/voluks/voluks/internal/backing"
	"github.com/voluks/voluks/internal/filesystem"
	"github.com/voluks/voluks/internal/headerbackup"
	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/recovery"
	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/keyslot"
	"github.com/voluks/voluks/luks"
	"github.com/voluks/voluks/luks/header"
)

// finishError gives an error of an operation its final form. Deferred, so that no way out misses it.
func finishError(err *error, op, name string) {
	if *err == nil {
		return
	}
	code := classify(*err)
	cause := *err
	// A coded error from further down is only the carrier of its code.
	if e, ok := cause.(*Error); ok && e.Op == "" {
		cause = e.Err
	}
	*err = &Error{Code: code, Op: op, Volume: name, Err: cause}
}

// classify finds the code of an error. The order matters: the most particular first, and the end of the context last, since the error that it caused
// often says more.
func classify(err error) Code {
	var coded *Error
	if errors.As(err, &coded) {
		return coded.Code
	}
	var bare codeError
	if errors.As(err, &bare) {
		return Code(bare)
	}
	is := func(targets ...error) bool {
		for _, t := range targets {
			if errors.Is(err, t) {
				return true
			}
		}
		return false
	}
	switch {
	case as[*OccupiedError](err): // before what is there
		return CodeInUse
	case is(errUnusable), as[*damagedError](err), is(header.ErrDamaged, header.ErrNotLUKS, header.ErrLUKS1), as[*header.StrictError](err):
		return CodeDamaged
	case is(sys.ErrNotRegular, syscall.EIO):
		return CodeDamaged
	case as[*backing.OtherError](err):
		return CodeDamaged
	case as[*luks.TableError](err):
		return CodePlaintext
	case is(keyslot.ErrNoRecovery, recovery.ErrNoRecipient), is(keyslot.ErrNoRecoverySlot) && !is(keyslot.ErrNoAgentSlot):
		return CodeNoRecovery
	case is(keyslot.ErrUnknownVersion, keyslot.ErrToken, keyslot.ErrNotOurs), as[*keyslot.ForeignTokenError](err):
		return CodeDamaged
	case is(kek.ErrUnavailable, kek.ErrDenied, kek.ErrDisabled, kek.ErrNotFound): // also where a setting is named as the likely cause
		return CodeLocked
	case as[*kek.ConfigError](err):
		return CodeConfig
	case is(kek.ErrNotMine, kek.ErrWrongKey, luks.ErrWrongKey, luks.ErrNoSlot, keyslot.ErrWrongKey, keyslot.ErrNoAgentSlot,
		recovery.ErrWrongIdentity, recovery.ErrSealed):
		return CodeLocked
	case is(sys.ErrNoDeviceMapper, sys.ErrNoLoop, luks.ErrNoDeviceMapper):
		return CodeNoDM
	case as[*backing.NoSpaceError](err), is(syscall.ENOSPC, syscall.EDQUOT):
		return CodeNoSpace
	case is(headerbackup.ErrOther, headerbackup.ErrOlder):
		return CodeInvalid
	case is(headerbackup.ErrDamaged, headerbackup.ErrUnreadable, headerbackup.ErrUnusual):
		return CodeDamaged
	case is(headerbackup.ErrReencrypting, headerbackup.ErrChanging):
		return CodeBusy
	case is(recovery.ErrWrongIdentity):
		return CodeLocked
	case as[*backing.NotBlankError](err):
		return CodeDamaged
	case as[*filesystem.ErrNoTool](err):
		return CodeNoTool
	case as[*filesystem.MismatchError](err), as[*filesystem.SignatureError](err):
		return CodeDamaged
	case as[*filesystem.OptionError](err), as[*filesystem.SizeError](err), as[*OptionError](err):
		return CodeInvalid
	case is(backing.ErrInUse):
		return CodeInUse
	case is(sys.ErrBusy, sys.ErrLocked, luks.ErrBusy):
		return CodeBusy
	case is(context.DeadlineExceeded):
		return CodeTimeout
	case is(context.Canceled):
		return CodeCanceled
	}
	return CodeInternal
}

// KeyMissing says of an error of a key provider that it does not give the key now, instead of being set up wrongly.
func KeyMissing(err error) bool { return classify(err) == CodeLocked }

func as[T error](err error) bool {
	var t T
	return errors.As(err, &t)
}
