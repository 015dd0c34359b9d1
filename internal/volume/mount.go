// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"reflect"
	"syscall"
	"time"

	"github.com/voluks/voluks/keyslot"
	"github.com/voluks/voluks/luks/header"
)

// What a crash leaves during a mount, and who repairs it. Nothing is written to the volume but what the kernel writes when it mounts a file system.
//
//	after this step         a crash leaves                              repaired by
//	loop device attached    nothing: it goes with its last user         -
//	mapping open            a mapping that nobody holds                 Settle closes it; Mount proves and uses it
//	mounted                 a mount that nobody holds                   Settle closes it; Mount proves and uses it
//	holder recorded         a holder whose user got no answer           the agent takes it back (package worker); else the sweeps of Settle
//
// The holder comes last, so that no crash leaves one without a mount: Docker never takes back what it was never given.

// Mount opens the volume if need be, records the holder and returns the directory for it, proven to lie on the volume's own mapping. It may be
// repeated with the same holder. It never formats. On an error the holder is not recorded and what was opened is closed again.
//
// Errors: ErrNotFound, ErrInvalid, ErrUnfinished, ErrLocked, ErrConfig, ErrDamaged, ErrPlaintext, ErrInUse (the image is in other hands), ErrNoDM,
// ErrBusy, ErrStuck, ErrTimeout, ErrCanceled; ErrInUse around a *HeldError while a migration goes on in it, and ErrUnfinished around a *MigratingError until
// its data is whole.
func (m *Manager) Mount(ctx context.Context, name string, h Holder) (path string, err error) {
	defer finishError(&err, "mount", name)
	if err := checkHolder(h); err != nil {
		return "", &Error{Code: CodeInvalid, Err: err}
	}
	if err := CheckName(name); err != nil {
		return "", &Error{Code: CodeInvalid, Err: err}
	}
	l, err := m.lockVolume(ctx, name, "mount")
	if err != nil {
		return "", err
	}
	defer l.Release()
	r, err := m.find(name)
	if err != nil {
		return "", err
	}
	if r.State != StateReady {
		return "", &Error{Code: CodeUnfinished, Err: errors.New("its creation was interrupted: create it again with the same options to finish it, or remove it")}
	}
	if err := m.mayShare(r, h); err != nil {
		return "", err
	}
	return m.mountFor(ctx, l, r, h)
}

func (m *Manager) mountFor(ctx context.Context, l *lock, r *record, h Holder) (path string, err error) {
	var u undo
	defer u.onError(ctx, &err)
	p, err := m.mounted(ctx, l, r, &u)
	if err != nil {
		return "", err
	}
	m.o.Crash("mount.proven")
	if err := ctx.Err(); err != nil {
		return "", err
	}
	if err := m.addHolder(r.Name, h); err != nil {
		return "", err
	}
	m.o.Crash("mount.held")
	return p.path, nil
}

// mounted makes sure that the volume is mounted, and proves it.
func (m *Manager) mounted(ctx context.Context, l *lock, r *record, u *undo) (*proven, error) {
	v, err := m.look()
	if err != nil {
		return nil, err
	}
	p, err := m.prove(v, r)
	if err == nil || !errors.Is(err, ErrNotMounted) {
		return p, err
	}
	d, err := m.mapping(v, r)
	if err != nil {
		return nil, err
	}
	if d != nil && d.Suspended {
		return nil, &Error{Code: CodeStuck, Err: fmt.Errorf("its mapping %s is suspended: resume it with `dmsetup resume %s`", d.Name, d.Name)}
	}
	switch {
	case r.Spec.Ephemeral: // what is left of an earlier one is not it
		if err = m.clear(ctx, r); err == nil {
			err = m.conjure(ctx, l, r, u)
		}
	case d == nil:
		err = m.unlock(ctx, r, u)
	}
	if err != nil {
		return nil, err
	}
	m.o.Crash("mount.opened")
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := m.mountFilesystem(ctx, r, u); err != nil {
		return nil, err
	}
	m.o.Crash("mount.mounted")
	if v, err = m.look(); err != nil {
		return nil, err
	}
	if p, err = m.prove(v, r); errors.Is(err, ErrNotMounted) {
		return nil, broken("mount", "the mount is not in the host's mount table: voluks runs in a mount namespace from which mounts do not reach the host")
	}
	return p, err
}

// unlock attaches the backing, checks its header and opens the mapping. A complete volume's header has a volume token: without one it is another, older
// header, and opening it would be guesswork.
func (m *Manager) unlock(ctx context.Context, r *record, u *undo) error {
	k, err := m.opener(ctx)
	if err != nil {
		return err
	}
	if err := m.checkBacking(ctx, r); err != nil {
		return err
	}
	a, err := m.attach(ctx, r, u)
	if err != nil {
		return err
	}
	defer a.Close()
	m.o.Crash("mount.attached")
	c := m.s.Containers.At(a.Dev())
	h, err := c.Header()
	if err != nil {
		return fmt.Errorf("read its LUKS header: %w", err)
	}
	slots, err := m.checkHeader(h, r)
	if err != nil {
		return err
	}
	err = m.open(ctx, k, c, r, u)
	m.remember(r, slotInfos(slots), err)
	if err == nil {
		m.ensureBackup(k, a.Dev(), r.Name, h)
	}
	return err
}

// checkBacking refuses a backing that is gone or was cut: what is missing of its end would be missing of the file system.
func (m *Manager) checkBacking(ctx context.Context, r *record) error {
	size, err := m.backing(r).Size(ctx)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = fmt.Errorf("its %s is gone: %w", r.Spec.Backing, err)
	case err == nil && size < r.Spec.Size:
		err = fmt.Errorf("its %s was cut: it has room for %d bytes, the volume has %d", r.Spec.Backing, max(size, 0), r.Spec.Size)
	default:
		return err
	}
	return &Error{Code: CodeDamaged, Err: err}
}

// checkHeader refuses a header that is not the one this volume was completed with.
func (m *Manager) checkHeader(h *header.Header, r *record) (keyslot.Slots, error) {
	damaged := func(format string, args ...any) (keyslot.Slots, error) {
		return keyslot.Slots{}, &Error{Code: CodeDamaged, Err: fmt.Errorf(format, args...)}
	}
	if h.UUID != r.UUID {
		return damaged("the container in its backing is %s, not %s: the backing is another one", h.UUID, r.UUID)
	}
	slots, err := keyslot.State(h)
	if slots.Volume == nil {
		if err != nil {
			return slots, err
		}
		return damaged("its header says nothing of a volume: it is older than the volume, or was replaced")
	}
	if err != nil {
		m.log.Warn("the header has tokens that cannot be understood; the volume opens without them", "volume", r.Name, "err", err)
	}
	if slots.Volume.FSUUID != r.FSUUID {
		return damaged("its header is of file system %s, its record of %s", slots.Volume.FSUUID, r.FSUUID)
	}
	return slots, olderHeader(slots, r)
}

// mountFilesystem mounts the open mapping where users find it.
func (m *Manager) mountFilesystem(ctx context.Context, r *record, u *undo) error {
	spec, err := r.filesystem()
	if err != nil {
		return err
	}
	if err := m.directories(); err != nil {
		return err
	}
	target := m.o.Paths.Mount(r.Name)
	immutable, err := m.s.Filesystems.MakeBare(target)
	if err != nil {
		return err
	}
	m.rememberMountpoint(r, !immutable)
	if err := m.s.Filesystems.Mount(ctx, mappingPath(r.UUID), target, spec); err != nil {
		for _, bad := range []error{syscall.EINVAL, syscall.EUCLEAN, syscall.EIO} {
			if errors.Is(err, bad) {
				return &Error{Code: CodeDamaged, Err: fmt.Errorf("its file system does not mount; see the kernel's log, and check it with fsck: %w", err)}
			}
		}
		return err
	}
	u.add("unmount it", func(ctx context.Context) error { return m.unmount(ctx, target) })
	has, err := m.s.Filesystems.HasData(target)
	if err == nil && !has {
		err = &Error{Code: CodeDamaged, Err: fmt.Errorf("its file system has no directory for users; mount /dev/mapper of it by hand to look")}
	}
	return err
}

// remember keeps what was seen of the header, in the record, and whether there was a key, so that the status shows both without reading the device.
// They are written only when they change, and failing to write them fails nothing.
func (m *Manager) remember(r *record, slots []SlotInfo, opened error) {
	m.noteLocked(r, opened, time.Time{})
	if reflect.DeepEqual(slots, r.Slots) {
		return
	}
	r.observe(slots)
	m.refresh(r)
}

// rememberMountpoint keeps whether root could write plaintext into the mountpoint while the volume is closed, which shows only then, and is to be said
// always.
func (m *Manager) rememberMountpoint(r *record, weak bool) {
	if weak {
		m.log.Warn(weakMountpoint, "volume", r.Name)
	}
	if r.Weak != weak {
		r.Weak = weak
		m.refresh(r)
	}
}

const weakMountpoint = "the file system below the mountpoint has no immutable attribute: while the volume is closed, root can write plaintext there"

func (m *Manager) refresh(r *record) {
	if err := m.save(r); err != nil {
		m.log.Warn("the record could not be brought up to date", "volume", r.Name, "err", err)
	}
}
