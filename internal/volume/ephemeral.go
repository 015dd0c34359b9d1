// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"

	"github.com/voluks/voluks/internal/secret"
	"github.com/voluks/voluks/luks"
)

// An ephemeral volume has a record, and nothing else while nobody holds it: each first Mount makes an image, a container and a file system, and the last
// Unmount ends them. Its slot key is random, is in no token, and is wiped when the mapping is open; then the slot is destroyed too, so that the volume key
// is in the kernel alone. Whoever has the disk afterwards, or every key of the node, has nothing.
//
//	after this step           a crash leaves                                    repaired by
//	image, half or whole      an image that nothing opens                       Settle removes it; Mount too, and begins anew
//	container formatted       the same: its only key was in the dead process    Settle, Mount
//	mapping open              a mapping that nobody holds                       Settle closes it and removes the image; Mount too
//	slot destroyed, mkfs      the same                                          Settle, Mount
//	mounted                   a mount that nobody holds                         Settle; Mount proves and uses it
//	power cut, at any step    an image that nothing opens                       Settle, Mount
//
// An image that is there already is never used.

// ephemeralSlot is the number of the one slot, for as long as it lives.
const ephemeralSlot = 31

// conjure makes an ephemeral volume's data, from nothing to a file system on an open mapping. Nothing of it is left from before: the caller has cleared it.
func (m *Manager) conjure(ctx context.Context, l *lock, r *record, u *undo) error {
	b := m.backing(r)
	node, err := m.lock(ctx, m.o.Paths.NodeLock(), "mount "+r.Name)
	if err != nil {
		return err
	}
	err = b.Create(ctx, r.Spec.Size, r.Spec.Alloc)
	node.Release()
	if err != nil {
		return err
	}
	u.add("remove its image", b.Remove)
	m.o.Crash("ephemeral.allocated")
	if off := m.noQueues(r); off != r.NoQueues {
		r.NoQueues = off
		if err := m.save(r); err != nil { // the proof of others reads it
			return err
		}
	}
	a, err := m.attach(ctx, r, u)
	if err != nil {
		return err
	}
	defer a.Close()
	c := m.s.Containers.At(a.Dev())
	if err := m.openOnce(c, r, u); err != nil {
		return err
	}
	if err := a.Close(); err != nil { // the mapping has the device now
		return err
	}
	m.o.Crash("ephemeral.opened")
	spec, err := r.filesystem()
	if err != nil {
		return err
	}
	if err := m.s.Filesystems.Make(ctx, mappingPath(r.UUID), spec, l.File); err != nil {
		return err
	}
	_, err = m.visit(ctx, r, spec, u, true)
	return err
}

// openOnce formats and opens a container whose key nobody has when it returns.
func (m *Manager) openOnce(c Container, r *record, u *undo) error {
	key, err := secret.Random(32)
	if err != nil {
		return err
	}
	defer key.Wipe()
	err = c.Format(luks.FormatParams{
		UUID: r.UUID, Label: label(r.Name), Subsystem: subsystem, SectorSize: r.SectorSize, Slot: ephemeralSlot, Key: key,
	})
	if err != nil {
		return err
	}
	if err := m.openWith(c, r.openParams(ephemeralSlot, key), u); err != nil {
		return err
	}
	return c.Forget(ephemeralSlot)
}
