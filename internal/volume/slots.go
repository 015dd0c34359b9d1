// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"fmt"

	"github.com/voluks/voluks/keyslot"
)

// ActionSlots is a change of slots that are not voluks's own.
const ActionSlots = "slots"

// ChangeSlots lets change work on the header of a volume, which may be open, under its lock, and does afterwards what belongs to a changed header: the
// record follows, the backup is renewed, older ones are destroyed. What it returns is left to be done. Errors are those of change and of Rotate.
func (m *Manager) ChangeSlots(ctx context.Context, name string, change func(keyslot.Container, *keyslot.Keyring) error) (warnings []string, err error) {
	r, err := m.changeKeys(ctx, name, ActionSlots, func(c Container, k *keyslot.Keyring, _ *KeyReceipt) error { return change(c, k) })
	return r.Warnings, err
}

// UseSlots is ChangeSlots for what changes nothing.
func (m *Manager) UseSlots(ctx context.Context, name string, use func(keyslot.Container, *keyslot.Keyring) error) (err error) {
	defer finishError(&err, "open", name)
	l, r, err := m.lockReady(ctx, name, "test")
	if err != nil {
		return err
	}
	defer l.Release()
	c, _, err := m.door(ctx, r)
	if err != nil {
		return err
	}
	h, err := c.Header()
	if err != nil {
		return fmt.Errorf("read its LUKS header: %w", err)
	}
	if _, err := m.checkHeader(h, r); err != nil {
		return err
	}
	k, err := m.keyring(ctx)
	if err != nil {
		return err
	}
	return use(c, k)
}
