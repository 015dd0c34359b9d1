// SPDX-License-Identifier: Apache-2.0

package cryptsetup

// #include <libcryptsetup.h>
import "C"

// PreferSlot makes those who try a key on any slot try this one before others.
func (d *Device) PreferSlot(slot int) error {
	if err := checkSlot(slot); err != nil {
		return err
	}
	return result("crypt_keyslot_set_priority", int(C.crypt_keyslot_set_priority(d.cd, C.int(slot), C.CRYPT_SLOT_PRIORITY_PREFER)))
}
