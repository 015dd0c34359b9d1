// SPDX-License-Identifier: Apache-2.0

package cryptsetup

/*
#include "shim.h"
#include <stdlib.h>
*/
import "C"

import (
	"fmt"
	"runtime"
	"unsafe"
)

// Flags of an activation, persistent or for once.
type Flags struct {
	Discards, NoReadWorkqueue, NoWriteWorkqueue bool // as cryptsetup's options of these names
}

func (f Flags) bits() C.uint32_t {
	var bits C.uint32_t
	for bit, on := range map[C.uint32_t]bool{
		C.CRYPT_ACTIVATE_ALLOW_DISCARDS:     f.Discards,
		C.CRYPT_ACTIVATE_NO_READ_WORKQUEUE:  f.NoReadWorkqueue,
		C.CRYPT_ACTIVATE_NO_WRITE_WORKQUEUE: f.NoWriteWorkqueue,
	} {
		if on {
			bits |= bit
		}
	}
	return bits
}

// Activate opens the container with one slot as a mapping of that name, with exactly the flags given: those that the header has are for plain cryptsetup. The
// volume key goes to the kernel through the keyring of this thread and is taken out of it again.
func (d *Device) Activate(name string, slot int, key []byte, flags Flags) error {
	if name == "" {
		return fmt.Errorf("activate: no name")
	}
	text := C.CString(name)
	defer C.free(unsafe.Pointer(text))
	defer clearKeyring()
	return d.activate(text, slot, key, flags.bits()|C.CRYPT_ACTIVATE_KEYRING_KEY|C.CRYPT_ACTIVATE_IGNORE_PERSISTENT)
}

// clearKeyring takes the volume key out of the keyring of this thread.
func clearKeyring() {
	if r := C.voluks_clear_thread_keyring(); r != 0 {
		// One lock too many: the thread, and with it its keyring, then ends with the goroutine.
		runtime.LockOSThread()
	}
}

// Resize makes a mapping as large as its device is by now. The kernel needs the volume key again to load the table, so a slot has to open; EPERM and ENOENT
// as of Test.
func (d *Device) Resize(name string, slot int, key []byte) error {
	text := C.CString(name)
	defer C.free(unsafe.Pointer(text))
	defer clearKeyring()
	if err := d.activate(nil, slot, key, C.CRYPT_ACTIVATE_KEYRING_KEY); err != nil {
		return err
	}
	const all = 0 // of the device
	return result("crypt_resize", int(C.crypt_resize(d.cd, text, all)))
}

func (d *Device) activate(name *C.char, slot int, key []byte, flags C.uint32_t) error {
	if err := checkSlot(slot); err != nil {
		return err
	}
	if err := checkKey(key); err != nil {
		return err
	}
	r := int(C.crypt_activate_by_passphrase(d.cd, name, C.int(slot), pointer(key), C.size_t(len(key)), flags))
	return exactly("crypt_activate_by_passphrase", r, slot)
}

// Deactivate removes a mapping. EBUSY: somebody has it open. ENODEV: there is none. libdevmapper tries for five seconds if it is busy.
func (d *Device) Deactivate(name string) error {
	return fromUpstream("crypt_deactivate", d.up.Deactivate(name))
}

// SetPersistentFlags replaces the activation flags in the header.
func (d *Device) SetPersistentFlags(flags Flags) error {
	return result("crypt_persistent_flags_set", int(C.crypt_persistent_flags_set(d.cd, C.CRYPT_FLAGS_ACTIVATION, flags.bits())))
}
