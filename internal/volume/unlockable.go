// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"time"

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
	_, err = m.tryKey(ctx, r)
	return err
}

// TryKey has the key provider unwrap the key of a volume once, whether it is open or not, and says how long that took. It takes no lock, changes
// nothing and keeps nothing. Errors are those of Unlockable.
func (m *Manager) TryKey(ctx context.Context, name string) (took time.Duration, err error) {
	defer finishError(&err, "unlock", name)
	r, err := m.find(name)
	if err != nil {
		return 0, err
	}
	return m.tryKey(ctx, r)
}

func (m *Manager) tryKey(ctx context.Context, r *record) (took time.Duration, err error) {
	k, err := m.keyring(ctx)
	if err != nil {
		return 0, err
	}
	now := *k.KEK
	now.Patience = 0
	k.KEK = &now
	c, _, err := m.door(ctx, r)
	if err != nil {
		return 0, err
	}
	h, err := c.Header()
	if err != nil {
		return 0, err
	}
	if _, err := m.checkHeader(h, r); err != nil {
		return 0, err
	}
	started := m.now()
	_, key, err := keyslot.Unlock(ctx, c, k)
	key.Wipe()
	return m.now().Sub(started), err
}
