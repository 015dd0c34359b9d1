// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"

	"github.com/voluks/voluks/keyslot"
)

// Unlockable finds out whether the key provider would give the key of a volume now. It reads the header and asks the provider, takes no lock and
// changes nothing, so it can be asked for many volumes at once; whether the key opens the slot shows when it is opened. A volume that is open needs
// no key. Whoever starts services that need volumes asks this first and waits while the error is kek.ErrUnavailable (F23 F43).
//
// Errors: ErrNotFound, ErrInvalid, ErrUnfinished, ErrLocked, ErrConfig, ErrDamaged, ErrTimeout, ErrCanceled.
func (m *Manager) Unlockable(ctx context.Context, name string) (err error) {
	defer finishError(&err, "unlock", name)
	r, err := m.find(name)
	if err != nil {
		return err
	}
	if r.State != StateReady {
		return &Error{Code: CodeUnfinished, Err: errors.New("its creation was interrupted")}
	}
	if r.Spec.Ephemeral {
		return nil // it makes its own key
	}
	v, err := m.look()
	if err != nil {
		return err
	}
	if d, err := own(v, r); err != nil || d != nil {
		return err
	}
	if err := m.checkBacking(ctx, r); err != nil {
		return err
	}
	k, err := m.keyring(ctx)
	if err != nil {
		return err
	}
	c, _, err := m.door(ctx, r)
	if err != nil {
		return err
	}
	h, err := c.Header()
	if err != nil {
		return err
	}
	if _, err := m.checkHeader(h, r); err != nil {
		return err
	}
	_, key, err := keyslot.Unlock(ctx, c, k)
	if err != nil {
		return err
	}
	key.Wipe()
	return nil
}
