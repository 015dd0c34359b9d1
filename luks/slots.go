// SPDX-License-Identifier: Apache-2.0

package luks

import (
	"fmt"
	"reflect"
	"runtime"
	"syscall"

	"github.com/voluks/voluks/internal/secret"
	"github.com/voluks/voluks/luks/header"
	"github.com/voluks/voluks/luks/internal/cryptsetup"
)

// Auth is a key and the one slot on which it is tried. There is no "any slot": trying a key on all of them would run the key derivations of others, and
// hide which slot matched.
type Auth struct {
	Slot int         // that Key opens
	Key  *secret.Key // borrowed
}

// AddSlot adds a slot for key. The volume key is taken from the slot of auth and is in locked memory meanwhile. The other slots are not changed, which is
// checked, as is the derivation of the new one. Nothing is synced.
//
// ErrSlotOccupied, ErrNoSlot (of auth), ErrWrongKey (of auth), ErrKeyLength (key too short for kdf): nothing was written then. *header.StrictError: not a
// header of ours.
func (c *Container) AddSlot(auth Auth, slot int, key *secret.Key, kdf KDF) error {
	op := fmt.Sprintf("add slot %d", slot)
	if err := kdf.check(key); err != nil {
		return fmt.Errorf("%s of %s: %w", op, c.path, err)
	}
	if err := c.addSlot(op, auth, slot, key, kdf.params()); err != nil {
		return err
	}
	return c.changed(op, func(h *header.Header) bool { s, ok := h.Keyslots[slot]; return ok && kdf.made(s) })
}

func (c *Container) addSlot(op string, auth Auth, slot int, key *secret.Key, kdf cryptsetup.PBKDF) error {
	before, err := c.withKey(op, auth)
	if err != nil {
		return err
	}
	if err := checkSlot(slot); err != nil {
		return fmt.Errorf("%s of %s: %w", op, c.path, err)
	}
	if _, ok := before.Keyslots[slot]; ok {
		return &Error{Op: op, Object: c.path, Errno: syscall.EEXIST, kind: ErrSlotOccupied}
	}
	volumeKey, err := secret.New(before.Keyslots[auth.Slot].KeySize)
	if err != nil {
		return err
	}
	defer volumeKey.Wipe()
	err = c.load(op, nil, func(d *cryptsetup.Device) error {
		defer runtime.KeepAlive(auth.Key)
		if err := d.VolumeKey(auth.Slot, auth.Key.Bytes(), volumeKey.Bytes()); err != nil {
			return failed(op, c.path, err, withKey)
		}
		if err := d.VerifyVolumeKey(volumeKey.Bytes()); err != nil {
			return err
		}
		return addSlot(d, slot, volumeKey, key, kdf)
	})
	if err != nil {
		return err
	}
	return c.changed(op, func(after *header.Header) bool {
		for id, s := range before.Keyslots {
			if !reflect.DeepEqual(after.Keyslots[id], s) {
				return false
			}
		}
		return len(after.Keyslots) == len(before.Keyslots)+1 && reflect.DeepEqual(after.Tokens, before.Tokens)
	})
}

// addSlot adds a slot on an open handle; a nil volume key is the one of a format on the same handle.
func addSlot(d *cryptsetup.Device, slot int, volumeKey, key *secret.Key, kdf cryptsetup.PBKDF) error {
	defer runtime.KeepAlive(key)
	defer runtime.KeepAlive(volumeKey)
	var vk []byte
	if volumeKey != nil {
		vk = volumeKey.Bytes()
	}
	return d.AddSlot(slot, vk, key.Bytes(), kdf)
}

// KillLastSlot is KillSlot for the only slot that there is: whatever the device holds is lost for good, but for backups of its header. ErrNoSlot, and
// ErrSlotOccupied if there are others.
func (c *Container) KillLastSlot(slot int) error {
	op := fmt.Sprintf("kill the last slot %d", slot)
	h, err := c.inspect(op)
	if err != nil {
		return err
	}
	if err := c.exists(op, h, slot); err != nil {
		return err
	}
	if len(h.Keyslots) != 1 {
		return &Error{Op: op, Object: c.path, Errno: syscall.EEXIST, kind: ErrSlotOccupied}
	}
	if err := c.load(op, nil, func(d *cryptsetup.Device) error { return d.DestroySlot(slot) }); err != nil {
		return err
	}
	return c.changed(op, func(after *header.Header) bool { return len(after.Keyslots) == 0 })
}

// KillSlot overwrites the key material of a slot and takes the slot out of the metadata, and out of tokens that name it. Whether another slot opens, and who
// needs this one, is for the caller to know. Nothing is synced. ErrNoSlot, ErrLastSlot: nothing was written.
func (c *Container) KillSlot(slot int) error {
	op := fmt.Sprintf("kill slot %d", slot)
	h, err := c.inspect(op)
	if err != nil {
		return err
	}
	if _, ok := h.Keyslots[slot]; !ok {
		return &Error{Op: op, Object: c.path, Errno: syscall.ENOENT, kind: ErrNoSlot}
	}
	if len(h.Keyslots) == 1 {
		return &Error{Op: op, Object: c.path, Errno: syscall.EPERM, kind: ErrLastSlot}
	}
	if err := c.load(op, nil, func(d *cryptsetup.Device) error { return d.DestroySlot(slot) }); err != nil {
		return err
	}
	return c.changed(op, func(after *header.Header) bool {
		_, ok := after.Keyslots[slot]
		return !ok && len(after.Keyslots) == len(h.Keyslots)-1
	})
}

// Forget destroys a slot, though it be the last. After the last nothing opens the container again; a mapping that is open stays as it is. ErrNoSlot.
func (c *Container) Forget(slot int) error {
	op := fmt.Sprintf("forget slot %d", slot)
	h, err := c.inspect(op)
	if err != nil {
		return err
	}
	if _, ok := h.Keyslots[slot]; !ok {
		return &Error{Op: op, Object: c.path, Errno: syscall.ENOENT, kind: ErrNoSlot}
	}
	if err := c.load(op, nil, func(d *cryptsetup.Device) error { return d.DestroySlot(slot) }); err != nil {
		return err
	}
	return c.changed(op, func(after *header.Header) bool {
		_, ok := after.Keyslots[slot]
		return !ok
	})
}

// TestSlot returns nil if the key opens the slot, as libcryptsetup sees it: derived, decrypted and compared with the digest. ErrWrongKey, ErrNoSlot,
// ErrKeyLength (empty key), *header.StrictError.
func (c *Container) TestSlot(slot int, key *secret.Key) error {
	op := fmt.Sprintf("test slot %d", slot)
	if _, err := c.withKey(op, Auth{slot, key}); err != nil {
		return err
	}
	return c.load(op, withKey, func(d *cryptsetup.Device) error {
		defer runtime.KeepAlive(key)
		return d.Test(slot, key.Bytes())
	})
}

// withKey checks the header, and what can be told of a key and its slot, before the key is used.
func (c *Container) withKey(op string, auth Auth) (*header.Header, error) {
	if length(auth.Key) == 0 {
		return nil, fmt.Errorf("%s of %s: %w: it is empty", op, c.path, ErrKeyLength)
	}
	h, err := c.ours(op, header.Expect{})
	if err != nil {
		return nil, err
	}
	return h, c.exists(op, h, auth.Slot)
}

func (c *Container) exists(op string, h *header.Header, slot int) error {
	if _, ok := h.Keyslots[slot]; !ok {
		return &Error{Op: op, Object: c.path, Errno: syscall.ENOENT, kind: ErrNoSlot}
	}
	return nil
}

// changed reads the header back and checks what was written.
func (c *Container) changed(op string, good func(*header.Header) bool) error {
	h, err := c.Header()
	if err != nil {
		return fmt.Errorf("%s of %s: read back: %w", op, c.path, err)
	}
	if err := h.Damage(); err != nil {
		return fmt.Errorf("%s of %s: read back: %w", op, c.path, err)
	}
	if !good(h) {
		return fmt.Errorf("%s of %s: read back another header than was written", op, c.path)
	}
	return nil
}

func checkSlot(slot int) error {
	if slot < 0 || slot >= header.MaxKeyslots {
		return fmt.Errorf("key slot %d is not between 0 and %d: %w", slot, header.MaxKeyslots-1, syscall.ERANGE)
	}
	return nil
}
