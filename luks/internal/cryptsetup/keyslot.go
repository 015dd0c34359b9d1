// SPDX-License-Identifier: Apache-2.0

package cryptsetup

/*
#include "shim.h"
#include <stdlib.h>
*/
import "C"

import (
	"fmt"
	"syscall"
	"unsafe"

	"github.com/voluks/voluks/luks/header"
)

const pbkdfNoBenchmark = C.CRYPT_PBKDF_NO_BENCHMARK

// PBKDF is how the key of a slot is derived. Costs that are given are taken as they are; without any, the library measures the machine and takes its defaults
// for the type (2 s of work for Argon2id).
type PBKDF struct {
	Type       string // "pbkdf2", "argon2id"
	Hash       string // of pbkdf2
	Iterations uint32 // of pbkdf2; passes of Argon2
	Memory     uint32 // KiB, of Argon2
	Threads    uint32 // of Argon2
}

// AddSlot makes a new slot for a volume key; nil stands for the one that Format just made. The slot must be free.
func (d *Device) AddSlot(slot int, volumeKey, key []byte, kdf PBKDF) error {
	if err := checkSlot(slot); err != nil {
		return err
	}
	if err := checkKey(key); err != nil {
		return err
	}
	// Without this the library forgets what the header was formatted with, and spends seconds and a gigabyte on its default.
	if err := d.setPBKDF(kdf); err != nil {
		return err
	}
	r := int(C.crypt_keyslot_add_by_volume_key(d.cd, C.int(slot), pointer(volumeKey), C.size_t(len(volumeKey)), pointer(key), C.size_t(len(key))))
	return exactly("crypt_keyslot_add_by_volume_key", r, slot)
}

// DestroySlot wipes the key material of a slot and takes it out of the metadata, tokens included.
func (d *Device) DestroySlot(slot int) error {
	if err := checkSlot(slot); err != nil {
		return err
	}
	return result("crypt_keyslot_destroy", int(C.crypt_keyslot_destroy(d.cd, C.int(slot))))
}

// Test derives the key of one slot and compares what comes out with the digest. EPERM: wrong key. ENOENT: no such slot.
func (d *Device) Test(slot int, key []byte) error {
	return d.activate(nil, slot, key, 0)
}

// VolumeKey writes the volume key to the memory given, whose length must be its size. EPERM and ENOENT as of Test.
func (d *Device) VolumeKey(slot int, key, into []byte) error {
	if err := checkSlot(slot); err != nil {
		return err
	}
	if err := checkKey(key); err != nil {
		return err
	}
	if size := int(C.crypt_get_volume_key_size(d.cd)); size != len(into) {
		return fmt.Errorf("the volume key has %d bytes, not %d", size, len(into))
	}
	size := C.size_t(len(into))
	r := int(C.crypt_volume_key_get(d.cd, C.int(slot), pointer(into), &size, pointer(key), C.size_t(len(key))))
	if err := exactly("crypt_volume_key_get", r, slot); err != nil {
		return err
	}
	if int(size) != len(into) {
		return fmt.Errorf("crypt_volume_key_get: %d bytes instead of %d", int(size), len(into))
	}
	return nil
}

// VerifyVolumeKey checks a volume key against the digest.
func (d *Device) VerifyVolumeKey(volumeKey []byte) error {
	return result("crypt_volume_key_verify", int(C.crypt_volume_key_verify(d.cd, pointer(volumeKey), C.size_t(len(volumeKey)))))
}

func (d *Device) setPBKDF(kdf PBKDF) error {
	name := C.CString(kdf.Type)
	defer C.free(unsafe.Pointer(name))
	defaults := C.crypt_get_pbkdf_type_params(name)
	if defaults == nil {
		return fmt.Errorf("key derivation %q: %w", kdf.Type, syscall.ENOTSUP)
	}
	params := *defaults
	if kdf.Hash != "" {
		hash := C.CString(kdf.Hash)
		defer C.free(unsafe.Pointer(hash))
		params.hash = hash
	}
	if kdf.Iterations != 0 {
		params.iterations, params.flags, params.time_ms = C.uint32_t(kdf.Iterations), C.CRYPT_PBKDF_NO_BENCHMARK, 0
	}
	if kdf.Memory != 0 {
		params.max_memory_kb = C.uint32_t(kdf.Memory)
	}
	if kdf.Threads != 0 {
		params.parallel_threads = C.uint32_t(kdf.Threads)
	}
	return result("crypt_set_pbkdf_type", int(C.crypt_set_pbkdf_type(d.cd, &params)))
}

// checkSlot keeps CRYPT_ANY_SLOT (-1) out: with it a key would be tried on the slots of others, and which slot matched would depend on their costs.
func checkSlot(slot int) error {
	if slot < 0 || slot >= header.MaxKeyslots {
		return fmt.Errorf("key slot %d: %w", slot, syscall.ERANGE)
	}
	return nil
}

func checkKey(key []byte) error {
	if len(key) == 0 {
		return fmt.Errorf("empty key: %w", syscall.EINVAL)
	}
	return nil
}

// exactly is result for calls that return the slot they used.
func exactly(call string, r, slot int) error {
	if err := result(call, r); err != nil {
		return err
	}
	if r != slot {
		return fmt.Errorf("%s: slot %d instead of %d", call, r, slot)
	}
	return nil
}

// pointer is the memory of b itself. Keys lie outside the Go heap (package secret), so nothing moves them, and no copy is made.
func pointer(b []byte) *C.char { return (*C.char)(unsafe.Pointer(unsafe.SliceData(b))) }
