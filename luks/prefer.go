// SPDX-License-Identifier: Apache-2.0

package luks

import (
	"fmt"

	"github.com/voluks/voluks/luks/header"
	"github.com/voluks/voluks/luks/internal/cryptsetup"
)

// PreferSlot makes programs that try a key on any slot, such as systemd-cryptsetup, try this one first: a slot of voluks answers in milliseconds, while
// a passphrase slot takes seconds and up to 1 GiB (F42). voluks itself always names the slot. Nothing is synced. ErrNoSlot.
func (c *Container) PreferSlot(slot int) error {
	op := fmt.Sprintf("prefer slot %d", slot)
	h, err := c.inspect(op)
	if err != nil {
		return err
	}
	if err := c.exists(op, h, slot); err != nil {
		return err
	}
	if err := c.load(op, nil, func(d *cryptsetup.Device) error { return d.PreferSlot(slot) }); err != nil {
		return err
	}
	return c.changed(op, func(h *header.Header) bool {
		p := h.Keyslots[slot].Priority
		return p != nil && *p == 2
	})
}
