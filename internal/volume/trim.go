// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
)

// Trim gives the space that the file system of a mounted volume does not use back to what is below, and returns how many bytes the file system named; how
// many of them were in use below, nobody tells. It needs a volume that was made with discard=true.
//
// Errors: ErrInvalid (discards are off), ErrNotMounted, ErrNotFound, ErrPlaintext, ErrBusy.
func (m *Manager) Trim(ctx context.Context, name string) (bytes int64, err error) {
	defer finishError(&err, "trim", name)
	l, r, err := m.lockReady(ctx, name, "trim")
	if err != nil {
		return 0, err
	}
	defer l.Release()
	if !r.Spec.Discard {
		return 0, &Error{Code: CodeInvalid, Err: errors.New("discards are off for it, which is fixed when a volume is made (discard=true)")}
	}
	v, err := m.look()
	if err != nil {
		return 0, err
	}
	p, err := m.prove(v, r)
	if errors.Is(err, ErrNotMounted) {
		return 0, &Error{Code: CodeNotMounted, Err: errors.New("it is not mounted, and what is unused only its file system knows")}
	}
	if err != nil {
		return 0, err
	}
	return m.s.Filesystems.Trim(p.mount.Mountpoint)
}
