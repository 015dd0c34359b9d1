// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"fmt"

	"github.com/voluks/voluks/internal/backing"
	"github.com/voluks/voluks/internal/config"
	"github.com/voluks/voluks/internal/filesystem"
	"github.com/voluks/voluks/keyslot"
	"github.com/voluks/voluks/luks"
)

// What a crash leaves while a volume grows, and who repairs it. Each layer is made larger from below, and finds out by itself whether it is already; so
// whatever is left, the same Grow again completes it. Until then the volume works with the size that its file system has.
//
//	after this step              a crash leaves                                      repaired by
//	record "grow"                the volume as it was; its status says to repeat     Grow, again; a Grow that finds no space takes it back
//	backing larger               room that nobody uses                               Grow, again
//	its device larger            the same (it is of the backing's size anyway        Grow, again
//	                             when the volume is opened the next time)
//	mapping larger               the same                                            Grow, again
//	file system larger           a record and a token that show the old size         Grow, again
//	token "voluks-volume"        a record that shows the old size                    Grow, again
//	record without "grow"        everything
//
// What was opened for it is closed by Settle. A size below the one that was begun with is refused, since nothing ever gets smaller.

// Grow makes the file system of a volume size bytes large, while it is used or closed. Size 0 means all that the backing has room for, which a device
// alone has. It may be repeated, and completes what was interrupted. When there is no space nothing has changed.
//
// Errors: ErrInvalid (smaller than it is), ErrNoSpace, ErrNoTool, and those of Mount.
func (m *Manager) Grow(ctx context.Context, name string, size int64) (info Info, err error) {
	defer finishError(&err, "grow", name)
	l, r, err := m.lockReady(ctx, name, "grow")
	if err != nil {
		return Info{}, err
	}
	defer l.Release()
	if size, err = m.growTo(ctx, r, size); err != nil {
		return Info{}, err
	}
	var u undo
	defer u.onError(ctx, &err)
	if size > r.Spec.Size || r.Grow > 0 {
		if err := m.grow(ctx, l, r, size, &u); err != nil {
			return Info{}, err
		}
	}
	if err := u.run(ctx); err != nil {
		m.log.Warn("a volume that was opened to grow could not be closed yet", "volume", name, "err", err)
	}
	v, err := m.look()
	if err != nil {
		return Info{}, err
	}
	return m.describe(v, name, l), nil
}

// leastBtrfs is the smallest size, in bytes, to which the kernel resizes a btrfs.
const leastBtrfs = 256 << 20

// growTo checks the size that was asked for.
func (m *Manager) growTo(ctx context.Context, r *record, size int64) (int64, error) {
	if size == 0 {
		room, err := m.backing(r).Size(ctx)
		if err != nil {
			return 0, err
		}
		size = room &^ int64(r.SectorSize-1)
	}
	invalid := func(reason string, than int64) (int64, error) {
		return 0, &Error{Code: CodeInvalid, Err: fmt.Errorf("%s is less than %s: %s", config.SizeText(size), config.SizeText(than), reason)}
	}
	switch {
	case size < r.Spec.Size:
		return invalid("a volume never gets smaller; make another one, and copy the data", r.Spec.Size)
	case r.Spec.FS == string(filesystem.Btrfs) && size > r.Spec.Size && size < leastBtrfs:
		return 0, &Error{Code: CodeInvalid, Err: fmt.Errorf("a btrfs can grow to %s or more only", config.SizeText(leastBtrfs))}
	case size < r.Grow:
		return invalid("it was begun to grow to that size: repeat that first", r.Grow)
	}
	return size, nil
}

func (m *Manager) grow(ctx context.Context, l *lock, r *record, size int64, u *undo) error {
	// What can be missing is asked for before anything changes: the key, and a header that is ours.
	k, err := m.keyring(ctx)
	if err != nil {
		return err
	}
	p, err := m.readyToGrow(ctx, r)
	if err != nil {
		return err
	}
	c, _, err := m.door(ctx, r) // not before: closing what was left takes the loop device away
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
	params, err := m.openParams(ctx, k, c, r)
	if err != nil {
		return err
	}
	defer params.Key.Wipe()
	if err := m.growBacking(ctx, r, size); err != nil {
		return err
	}
	target := ""
	if p != nil {
		target = p.mount.Mountpoint
		if err := c.Resize(params); err != nil {
			return err
		}
	} else if target, err = m.openToGrow(ctx, r, params, u); err != nil {
		return err
	}
	m.o.Crash("grow.mapping")
	if err := m.s.Filesystems.Grow(ctx, mappingPath(r.UUID), target, filesystem.Type(r.Spec.FS), l.File); err != nil {
		return err
	}
	m.o.Crash("grow.filesystem")
	if r.Spec.GrownFrom == 0 {
		r.Spec.GrownFrom = r.Spec.Size
	}
	r.Spec.Size, r.Grow = size, 0
	if r.Device != nil {
		room, err := m.backing(r).Size(ctx)
		if err != nil {
			return err
		}
		r.Device.Size = room + backing.HeaderSize
	}
	c, path, err := m.door(ctx, r) // by now there may be a device
	if err != nil {
		return err
	}
	if err := keyslot.SetVolume(c, volumeToken(r)); err != nil {
		return err
	}
	m.o.Crash("grow.token")
	if err := m.save(r); err != nil {
		return err
	}
	m.o.Crash("grow.recorded")
	if h, err = c.Header(); err != nil {
		return err
	}
	m.ensureBackup(k, path, r.Name, h)
	return nil
}

// readyToGrow finds the volume mounted and proven, or closes what is left open of it and gives nil.
func (m *Manager) readyToGrow(ctx context.Context, r *record) (*proven, error) {
	v, err := m.look()
	if err != nil {
		return nil, err
	}
	p, err := m.prove(v, r)
	if errors.Is(err, ErrNotMounted) {
		return nil, m.clear(ctx, r)
	}
	if err == nil && p.mapping.Suspended {
		err = &Error{Code: CodeStuck, Err: fmt.Errorf("its mapping %s is suspended: resume it with `dmsetup resume %s`", p.mapping.Name, p.mapping.Name)}
	}
	return p, err
}

// growBacking writes down what is begun, and makes the backing larger. The node-wide lock makes the space that was found free still free when it is taken.
func (m *Manager) growBacking(ctx context.Context, r *record, size int64) error {
	b := m.backing(r)
	before, err := b.Size(ctx)
	if err != nil {
		return err
	}
	node, err := m.lock(ctx, m.o.Paths.NodeLock(), "grow "+r.Name)
	if err != nil {
		return err
	}
	defer node.Release()
	begun := r.Grow
	r.Grow = size
	if err := m.save(r); err != nil {
		return err
	}
	m.o.Crash("grow.noted")
	if err := b.Grow(ctx, size, r.Spec.Alloc); err != nil {
		if now, err2 := b.Size(ctx); err2 == nil && now == before {
			if r.Grow = begun; begun > before {
				r.Grow = 0 // there is no room for what was begun earlier either
			}
			err = errors.Join(err, m.save(r))
		}
		return err
	}
	m.o.Crash("grow.backing")
	return nil
}

// openToGrow opens a closed volume and mounts it where nobody looks.
func (m *Manager) openToGrow(ctx context.Context, r *record, p luks.OpenParams, u *undo) (target string, err error) {
	a, err := m.attach(ctx, r, u)
	if err != nil {
		return "", err
	}
	defer a.Close()
	if err := m.openWith(m.s.Containers.At(a.Dev()), p, u); err != nil {
		return "", err
	}
	if err := a.Close(); err != nil { // the mapping has the device now
		return "", err
	}
	m.o.Crash("grow.opened")
	spec, err := r.filesystem()
	if err != nil {
		return "", err
	}
	target, _, err = m.mountPrivately(ctx, r, spec, u)
	return target, err
}
