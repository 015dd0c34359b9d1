// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/voluks/voluks/internal/filesystem"
	"github.com/voluks/voluks/internal/secret"
	"github.com/voluks/voluks/keyslot"
	"github.com/voluks/voluks/luks"
	"github.com/voluks/voluks/luks/header"
)

const (
	subsystem = "voluks" // of the LUKS2 header: tells other tools whose it is
	maxLabel  = 47       // bytes that a LUKS2 header has for it
)

// label is what blkid and lsblk show. Names may be longer.
func label(name string) string {
	return name[:min(len(name), maxLabel)]
}

// fill makes the file system in a formatted container and marks the volume complete: token first, record second. What it opens is closed by u.
//
// mkfs runs under two conditions, which only a volume that nobody was ever given meets: the record says formatted, and the header has no volume
// token. It is never repeated by itself (F4).
func (m *Manager) fill(ctx context.Context, l *lock, k *keyslot.Keyring, c Container, a Attachment, r *record, u *undo, fresh bool) error {
	h, err := c.Header()
	if err != nil {
		return err
	}
	if h.UUID != r.UUID {
		return fmt.Errorf("%w: the container in it is %s, not %s", errUnusable, h.UUID, r.UUID)
	}
	slots, err := keyslot.State(h)
	if err != nil {
		return err
	}
	if r.State != StateFormatted || slots.Volume != nil {
		return errors.New("internal error: a complete volume would have been formatted")
	}
	if f := r.flags(); f != (luks.Flags{}) { // for those who open it with cryptsetup
		if err := c.SetFlags(f); err != nil {
			return err
		}
	}
	if err := m.open(ctx, k, c, r, u); err != nil {
		return err
	}
	if err := a.Close(); err != nil { // the mapping has the device now
		return err
	}
	m.o.Crash("create.opened")
	if err := m.makeFilesystem(ctx, l, r, u, fresh); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := keyslot.SetVolume(c, volumeToken(r)); err != nil {
		return err
	}
	m.o.Crash("create.token")
	if h, err = c.Header(); err != nil {
		return err
	}
	if slots, err = keyslot.State(h); err != nil {
		return err
	}
	r.Slots = slotInfos(slots)
	r.State = StateReady
	if err := m.save(r); err != nil {
		return err
	}
	m.o.Crash("create.ready")
	return nil
}

// makeFilesystem makes or, after a crash, finds the file system with the directory for users, and leaves it unmounted and written out.
func (m *Manager) makeFilesystem(ctx context.Context, l *lock, r *record, u *undo, fresh bool) error {
	dev := mappingPath(r.UUID)
	spec, err := r.filesystem()
	if err != nil {
		return err
	}
	if !fresh {
		sig, err := m.s.Filesystems.Probe(ctx, dev)
		if err != nil {
			return err
		}
		if sig != nil && sig.UUID != "" {
			if sig.UUID != r.FSUUID || sig.Type != r.Spec.FS {
				return fmt.Errorf("%w: there is an %s with UUID %s in it, which voluks did not make", errUnusable, sig.Type, sig.UUID)
			}
			whole, err := m.visit(ctx, r, spec, u, false)
			if err != nil {
				m.log.Info("a file system that was not finished is made again", "volume", r.Name, "err", err)
			}
			if whole {
				return nil
			}
		}
	}
	if err := m.s.Filesystems.Make(ctx, dev, spec, l.File); err != nil {
		return err
	}
	m.o.Crash("create.mkfs")
	_, err = m.visit(ctx, r, spec, u, true)
	return err
}

// visit mounts the new file system where nobody looks, makes the data directory or only asks for it, and unmounts again.
func (m *Manager) visit(ctx context.Context, r *record, spec filesystem.Spec, u *undo, make bool) (has bool, err error) {
	target, leave, err := m.mountPrivately(ctx, r, spec, u)
	if err != nil {
		return false, err
	}
	if make {
		if err := m.s.Filesystems.MakeData(target, r.Spec.UID, r.Spec.GID, fileMode(r.Spec.Mode)); err != nil {
			return false, err
		}
		m.o.Crash("create.data")
	}
	if has, err = m.s.Filesystems.HasData(target); err != nil {
		return false, err
	}
	return has, leave(ctx)
}

// mountPrivately mounts the open mapping where nobody looks. leave takes it off again, and so does u.
func (m *Manager) mountPrivately(ctx context.Context, r *record, spec filesystem.Spec, u *undo) (target string, leave func(context.Context) error, err error) {
	target = m.private(r.UUID)
	for _, dir := range []string{filepath.Dir(target), target} {
		if err := m.s.Files.Mkdir(dir, 0o700); err != nil {
			return "", nil, err
		}
	}
	if err := m.s.Filesystems.Mount(ctx, mappingPath(r.UUID), target, spec); err != nil {
		return "", nil, errors.Join(err, m.s.Files.Remove(target))
	}
	// Unmounting is what writes everything out, so that it works is part of success; what fails here is tried again by u.
	mounted := true
	leave = func(ctx context.Context) error {
		if mounted {
			if err := m.unmount(ctx, target); err != nil {
				return err
			}
			mounted = false
		}
		return m.s.Files.Remove(target)
	}
	u.add("unmount its file system", leave)
	return target, leave, nil
}

// fileMode turns permission bits as chmod has them into Go's.
func fileMode(bits uint32) fs.FileMode {
	mode := fs.FileMode(bits & 0o777)
	for bit, flag := range map[uint32]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if bits&bit != 0 {
			mode |= flag
		}
	}
	return mode
}

// open unlocks and activates the container; u closes it.
func (m *Manager) open(ctx context.Context, k *keyslot.Keyring, c Container, r *record, u *undo) error {
	p, err := m.openParams(ctx, k, c, r)
	if err != nil {
		return err
	}
	defer p.Key.Wipe()
	if err := ctx.Err(); err != nil {
		return err
	}
	return m.openWith(c, p, u)
}

// openParams are what the volume is opened with. The caller wipes the key in it.
func (m *Manager) openParams(ctx context.Context, k *keyslot.Keyring, c Container, r *record) (luks.OpenParams, error) {
	slot, key, err := keyslot.Unlock(ctx, c, k)
	if err != nil {
		return luks.OpenParams{}, err
	}
	return r.openParams(slot, key), nil
}

// openParams are those of a slot; the key stays the caller's.
func (r *record) openParams(slot int, key *secret.Key) luks.OpenParams {
	f := r.flags()
	return luks.OpenParams{
		Name: luks.MappingName(r.UUID), Slot: slot, Key: key, Expect: r.expect(),
		Discard: f.Discards, NoReadWorkqueue: f.NoReadWorkqueue, NoWriteWorkqueue: f.NoWriteWorkqueue,
	}
}

func (m *Manager) openWith(c Container, p luks.OpenParams, u *undo) error {
	if err := c.Open(p); err != nil {
		return err
	}
	u.add("close the mapping", func(ctx context.Context) error { return m.closeMapping(ctx, p.Name) })
	return nil
}

// expect is what the header of the volume must be.
func (r *record) expect() header.Expect {
	return header.Expect{UUID: r.UUID, SectorSize: r.SectorSize}
}

// filesystem is what is made in the volume and how it is mounted.
func (r *record) filesystem() (filesystem.Spec, error) {
	t := filesystem.Type(r.Spec.FS)
	mkfs, err := filesystem.ParseMkfs(t, r.Spec.Mkfs)
	if err != nil {
		return filesystem.Spec{}, err
	}
	mount, err := filesystem.ParseMount(t, r.Spec.Mount)
	if err != nil {
		return filesystem.Spec{}, err
	}
	return filesystem.Spec{Type: t, UUID: r.FSUUID, Mkfs: mkfs, Mount: mount, Discard: r.Spec.Discard}, nil
}
