// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"syscall"

	"github.com/voluks/voluks/internal/backing"
	"github.com/voluks/voluks/keyslot"
	"github.com/voluks/voluks/luks"
	"github.com/voluks/voluks/luks/header"
)

// What a crash leaves during a creation, and who repairs it. "Redo" is the next Create of that name; whatever the kernel still holds (loop device,
// mapping, private mount) is cleared by Redo and Settle alike. Until the record says ready nobody was ever given the volume.
//
//	after this write                    a crash leaves                              repaired by
//	directory volumes/NAME              an empty directory: no volume               Redo uses it, Settle removes it
//	record "prepared"                   a name, no backing                          Redo goes on
//	backing, not whole yet              image.new, half allocated                   Redo removes it and allocates again
//	backing (image: rename)             a blank backing                             Redo probes it and formats
//	format, first half                  no header or one without our tokens:        Redo formats again if the header has our UUID and no managed
//	                                    it cannot be opened, so was never used      token; else it is set aside as a tombstone, and a new one begun
//	format, agent token                 a container that opens                      Redo adds what is missing (keyslot.Complete), never formats
//	record "formatted"                  the same                                    Redo goes on
//	mapping open, mkfs                  a file system, perhaps half of one          Redo looks: with the data directory it is adopted, else made again
//	data directory                      a whole file system                         Redo adopts it
//	token "voluks-volume"               a complete volume, record one step behind   Redo and Settle write the record
//	record "ready"                      a complete volume, still open               Settle closes it, Mount uses the mapping
//	backup of the header                the same
//
// A creation that fails without a crash is undone as a whole: the directory becomes a tombstone first (one rename), which is then emptied. One on a
// device stays unfinished once it has written to the device: what it has written there, nobody could tell from somebody's data.

// Create makes the volume that s describes, or finishes one whose creation was interrupted. The bool tells whether it was made now: a volume that
// has the name and the options already is success and false; one with other options is ErrExists around a *DiffError. Whatever fails before the
// volume is complete leaves nothing behind; a crash leaves what the next Create, Settle or Remove can deal with. It never formats anything that
// was ever complete.
//
// Errors: ErrInvalid, ErrExists, ErrNoRecovery, ErrLocked (the key provider cannot wrap), ErrConfig, ErrNoSpace, ErrNoTool, ErrNoDM, ErrBusy,
// ErrStuck, ErrDamaged, ErrTimeout, ErrCanceled.
func (m *Manager) Create(ctx context.Context, s Spec) (info Info, made bool, err error) {
	return m.CreateOver(ctx, s, "")
}

// CreateOver is Create on a device whose content is destroyed if there is any: the caller has named it by its serial number, WWN or device-mapper UUID.
// A volume, finished or not, is never destroyed by it.
func (m *Manager) CreateOver(ctx context.Context, s Spec, serial string) (info Info, made bool, err error) {
	defer finishError(&err, "create", s.Name)
	defer func() { err = m.noteRemoved(err) }()
	if err := s.check(m.o.Defaults); err != nil {
		return Info{}, false, &Error{Code: CodeInvalid, Err: err}
	}
	if serial != "" && s.Backing != BackingDevice {
		return Info{}, false, &Error{Code: CodeInvalid, Err: fmt.Errorf("only a device can be wiped, and this volume has backing=%s", s.Backing)}
	}
	l, err := m.lockVolume(ctx, s.Name, "create")
	if err != nil {
		return Info{}, false, err
	}
	defer l.Release()
	if made, err = m.create(ctx, l, s, serial); err != nil {
		return Info{}, false, err
	}
	v, err := m.look()
	if err != nil {
		return Info{}, false, err
	}
	return m.describe(v, s.Name, l), made, nil
}

func (m *Manager) create(ctx context.Context, l *lock, s Spec, serial string) (bool, error) {
	r, err := m.load(s.Name)
	if errors.Is(err, fs.ErrNotExist) {
		// Without a record nobody can tell what else is there: it may be a volume that has lost it.
		if err := m.vacate(s.Name); err != nil {
			return false, err
		}
		return true, m.createNew(ctx, l, s, serial)
	}
	if err != nil {
		return false, err
	}
	if r.State != StateReady {
		if err := m.clear(ctx, r); err != nil {
			return false, err
		}
		if err := m.settleRecord(ctx, r); err != nil {
			return false, err
		}
	}
	diffs := r.Spec.differences(s)
	if r.State == StateReady {
		if len(diffs) > 0 {
			return false, &Error{Code: CodeExists, Err: &DiffError{diffs}}
		}
		return false, nil
	}
	if len(diffs) > 0 {
		// Nobody ever had the unfinished one, so its options bind nobody.
		return true, m.startOver(ctx, l, r, s, serial)
	}
	m.log.Info("finishing an interrupted creation", "volume", r.Name, "state", r.State)
	if err := m.stillUnclaimed(ctx, r, serial != ""); err != nil {
		return false, err
	}
	if err := r.mayWipe(serial); err != nil {
		return false, err
	}
	k, err := m.keyring(ctx)
	if err != nil {
		return false, err
	}
	err = m.build(ctx, l, k, r, false)
	if errors.Is(err, errUnusable) {
		m.log.Warn("what an interrupted creation left cannot be used; starting over", "volume", r.Name, "err", err)
		return true, m.startOver(ctx, l, r, s, serial)
	}
	return true, err
}

// stillUnclaimed is unclaimed for a volume whose record was not there all the time: it was unfinished, or removed.
func (m *Manager) stillUnclaimed(ctx context.Context, r *record, wipe bool) error {
	if r.Device == nil {
		return nil
	}
	node, err := m.lock(ctx, m.o.Paths.NodeLock(), "look who has the device of "+r.Name)
	if err != nil {
		return err
	}
	defer node.Release()
	return m.unclaimed(r, wipe)
}

// errUnusable says that an unfinished volume cannot be finished and cannot be formatted again by the rules either.
var errUnusable = errors.New("it cannot be finished")

// startOver keeps an unfinished volume as a tombstone, since nothing but removal destroys anything, and makes a new one.
func (m *Manager) startOver(ctx context.Context, l *lock, r *record, s Spec, serial string) error {
	if err := m.bury(r); err != nil {
		return err
	}
	return m.createNew(ctx, l, s, serial)
}

// createNew makes a volume where there is none. What fails is undone as a whole.
func (m *Manager) createNew(ctx context.Context, l *lock, s Spec, serial string) (err error) {
	var k *keyslot.Keyring
	if !s.Ephemeral {
		if k, err = m.keyring(ctx); err != nil {
			return err
		}
	}
	if err := m.directories(); err != nil {
		return err
	}
	r := newRecord(s, m.now())
	if s.Ephemeral {
		r.State = StateReady // there is nothing more to it while nobody holds it
	}
	var u undo
	defer u.onError(ctx, &err)
	if err := m.prepare(ctx, r, serial, &u); err != nil {
		return err
	}
	m.o.Crash("create.prepared")
	if s.Ephemeral {
		return nil
	}
	return m.build(ctx, l, k, r, true)
}

// prepare writes the record of a new volume. Of a device it first makes sure, with the node's lock until the record says so, that it is no other volume's.
func (m *Manager) prepare(ctx context.Context, r *record, serial string, u *undo) error {
	if r.Spec.Backing == BackingDevice {
		node, err := m.lock(ctx, m.o.Paths.NodeLock(), "create "+r.Name)
		if err != nil {
			return err
		}
		defer node.Release()
		if err := m.claim(r, serial != ""); err != nil {
			return err
		}
	}
	if err := r.mayWipe(serial); err != nil {
		return err
	}
	if err := m.s.Files.Mkdir(m.o.Paths.VolumeDir(r.Name), 0o700); err != nil {
		return err
	}
	// From here on there is one thing to undo: a build takes back what the kernel holds by itself.
	u.add("remove what was made", func(ctx context.Context) error { return m.discard(ctx, r) })
	return m.save(r)
}

// build takes a volume from wherever its record stands to ready, and leaves it closed. fresh says that it was begun by this very call, so that what
// is in it can only be from this call. The caller has cleared what the kernel held.
func (m *Manager) build(ctx context.Context, l *lock, k *keyslot.Keyring, r *record, fresh bool) (err error) {
	var u undo
	defer u.onError(ctx, &err)
	defer func() { err = m.blameFullDisk(r, err) }()
	if err := m.allocate(ctx, r); err != nil {
		return err
	}
	a, err := m.attach(ctx, r, &u)
	if err != nil {
		return err
	}
	defer a.Close()
	m.o.Crash("create.attached")
	c := m.s.Containers.At(a.Dev())
	if r.State == StatePrepared {
		r.NoQueues = m.noQueues(r)
		if err := m.format(ctx, k, c, a.Dev(), r); err != nil {
			return err
		}
		m.o.Crash("create.slots")
		r.State = StateFormatted
		if err := m.save(r); err != nil {
			return err
		}
		m.o.Crash("create.formatted")
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := m.fill(ctx, l, k, c, a, r, &u, fresh); err != nil {
		return err
	}
	// The volume is complete. What is left is no reason to fail: the next mount takes the backup, and that it is still open is a matter of tidiness.
	if h, err := c.Header(); err != nil {
		m.log.Warn("no backup of the header could be taken", "volume", r.Name, "err", err)
	} else {
		m.ensureBackup(k, a.Dev(), r.Name, h)
	}
	m.o.Crash("create.backup")
	if err := u.run(ctx); err != nil {
		m.log.Warn("a new volume could not be closed yet", "volume", r.Name, "err", err)
	}
	m.o.Crash("create.closed")
	return nil
}

// allocate makes the backing, or finds it. The node-wide lock makes the space that was found free still free when it is taken.
func (m *Manager) allocate(ctx context.Context, r *record) error {
	b := m.backing(r)
	_, err := b.Size(ctx)
	if err == nil {
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if r.State != StatePrepared {
		return fmt.Errorf("%w: its %s is gone", errUnusable, r.Spec.Backing)
	}
	node, err := m.lock(ctx, m.o.Paths.NodeLock(), "create "+r.Name)
	if err != nil {
		return err
	}
	defer node.Release()
	if err := b.Create(ctx, r.Spec.Size, r.Spec.Alloc); err != nil {
		return err
	}
	r.made = true
	m.o.Crash("create.allocated")
	return nil
}

// noQueues decides how dm-crypt works on the volume: as the configuration says, else by the kind of disk. What cannot be told counts as a rotating one,
// for which the kernel's default was made.
func (m *Manager) noQueues(r *record) bool {
	if m.o.Defaults.Workqueue != "" {
		return m.o.Defaults.Workqueue == WorkqueueOff
	}
	rotating, err := m.backing(r).Rotational()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		m.log.Warn("the kind of disk cannot be told", "volume", r.Name, "err", err)
	}
	return err == nil && !rotating
}

// blameFullDisk finds the reason of an I/O error in a sparse image: the disk below has no block left for what was written.
func (m *Manager) blameFullDisk(r *record, err error) error {
	if !errors.Is(err, syscall.EIO) || r.Spec.Alloc != AllocSparse {
		return err
	}
	missing, left, err2 := m.backing(r).Room()
	if err2 != nil || left >= missing || left > fullDisk {
		return err
	}
	return &Error{Code: CodeNoSpace, Err: fmt.Errorf("the disk below its sparse image is full: %w", err)}
}

// fullDisk is how many bytes may be left on a disk that is called full.
const fullDisk = 1 << 20

// attach makes a block device of the backing. The caller closes the attachment as soon as a mapping has the device, and in any case before u runs,
// which then makes sure that nothing of it is left.
func (m *Manager) attach(ctx context.Context, r *record, u *undo) (Attachment, error) {
	b := m.backing(r)
	a, err := b.Attach(ctx)
	if err == nil {
		u.add("detach its "+r.Spec.Backing, b.Detach)
	}
	return a, err
}

// format makes the container with both managed slots, once. On a backing that is not blank it follows safety rule 1: what has our UUID and no managed
// token could never have been opened and is formatted again; what has managed tokens is completed; everything else is left as it is.
func (m *Manager) format(ctx context.Context, k *keyslot.Keyring, c Container, dev string, r *record) error {
	occupied, err := m.occupied(ctx, k, c, dev, r)
	if err != nil || occupied == errComplete {
		return err
	}
	if occupied != nil {
		if err := m.wipe(ctx, dev, r, occupied); err != nil {
			return err
		}
	}
	r.begun = true
	return keyslot.Format(ctx, c, k, luks.FormatParams{
		UUID: r.UUID, Label: label(r.Name), Subsystem: subsystem, SectorSize: r.SectorSize,
	})
}

// errComplete says that a container has all that format would give it.
var errComplete = errors.New("it is formatted")

// occupied looks what is on the device: nil if it may be formatted, errComplete if that is done, else what is there.
func (m *Manager) occupied(ctx context.Context, k *keyslot.Keyring, c Container, dev string, r *record) (what, err error) {
	h, err := c.Header()
	var notBlank *backing.NotBlankError
	switch {
	case errors.Is(err, header.ErrNotLUKS):
		if err = m.backing(r).ProbeBlank(ctx, dev); errors.As(err, &notBlank) {
			return err, nil
		}
		return nil, err
	case errors.Is(err, header.ErrDamaged), errors.Is(err, header.ErrLUKS1):
		return err, nil
	case err != nil:
		return nil, err
	case h.UUID != r.UUID:
		return fmt.Errorf("the container in it is %s, not %s", h.UUID, r.UUID), nil
	case keyslot.Managed(h):
		return errComplete, keyslot.Complete(ctx, c, k)
	}
	return nil, nil
}

// discard removes a volume that never was one, so that its name and its space are free. It becomes a tombstone first: a crash amid the removal leaves
// something that nothing else looks at.
func (m *Manager) discard(ctx context.Context, r *record) error {
	// What the kernel still holds stays under its name, where Settle closes it, and Create or Remove end it.
	if err := m.clear(ctx, r); err != nil {
		return err
	}
	if r.Spec.Backing == BackingDevice && r.begun {
		// Who tries again would find it occupied, by us. So the creation stays one that can be finished.
		m.log.Warn("a creation on a device has failed amid; create it again with the same options to finish it, or remove it", "volume", r.Name)
		return nil
	}
	if err := m.nothingThere(r); err != nil {
		return err
	}
	dir := filepath.Join(m.o.Paths.RemovedDir(), r.UUID)
	if err := m.s.Files.Rename(m.o.Paths.VolumeDir(r.Name), dir); err != nil {
		return err
	}
	if r.made { // by this very creation; anything else stays in the tombstone
		if err := m.backingIn(dir, r).Remove(ctx); err != nil {
			return err
		}
	}
	if err := m.s.Files.Remove(filepath.Join(dir, recordFile)); err != nil {
		return err
	}
	return m.s.Files.Remove(dir)
}
