// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
)

// What a crash leaves during an unmount, and who repairs it:
//
//	after this step     a crash leaves                       repaired by
//	holder removed      a mount that nobody holds            Settle; the next Mount uses it
//	unmounted           a mapping that nobody holds          Settle; the next Mount uses it
//	mapping closed      nothing: the loop device goes with   -
//	                    its last user
//
// The holder goes first: Docker swallows an error of Unmount and never asks again, so one that stayed would stay for ever.

// Unmount takes the holder away and, if it was the last, closes the volume. An unknown holder or a volume that is not mounted is success. If
// somebody else still uses the file system the holder is gone all the same, and the error is ErrBusy around a *HeldError with Closing set: Settle
// closes the volume later.
//
// Errors: ErrNotFound, ErrInvalid, ErrBusy, ErrStuck, ErrDamaged, ErrTimeout, ErrCanceled.
func (m *Manager) Unmount(ctx context.Context, name, holderID string) (err error) {
	defer finishError(&err, "unmount", name)
	if err := CheckName(name); err != nil {
		return &Error{Code: CodeInvalid, Err: err}
	}
	l, err := m.lockVolume(ctx, name, "unmount")
	if err != nil {
		return err
	}
	defer l.Release()
	if err := m.dropHolder(name, holderID); err != nil {
		return err
	}
	m.o.Crash("unmount.released")
	r, err := m.find(name)
	if err != nil {
		return err
	}
	left, err := m.holders(name)
	if err != nil || len(left) > 0 {
		return err
	}
	return m.clear(ctx, r)
}

// Remove turns a volume that nobody uses into a tombstone; its name is free at once, its data stays until the configured time is over. It works on
// unfinished volumes too, and never descends into anything.
//
// Errors: ErrNotFound, ErrInvalid, ErrInUse around a *HeldError, ErrDamaged, ErrBusy, ErrStuck.
func (m *Manager) Remove(ctx context.Context, name string) (err error) {
	defer finishError(&err, "remove", name)
	if err := CheckName(name); err != nil {
		return &Error{Code: CodeInvalid, Err: err}
	}
	l, err := m.lockVolume(ctx, name, "remove")
	if err != nil {
		return err
	}
	defer l.Release()
	r, err := m.find(name)
	if err != nil {
		return err
	}
	held, err := m.holders(name)
	if err != nil {
		return err
	}
	if len(held) > 0 {
		return &Error{Code: CodeInUse, Err: &HeldError{Holders: held}}
	}
	// What is open without a holder was about to be closed. If it cannot be, somebody uses it (F25).
	if err := m.clear(ctx, r); err != nil {
		var h *HeldError
		if errors.As(err, &h) {
			return &Error{Code: CodeInUse, Err: &HeldError{Others: h.Others}}
		}
		return err
	}
	if err := m.nothingThere(r); err != nil {
		return err
	}
	return m.bury(r)
}
