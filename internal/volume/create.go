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
//	record "prepared"                   a name, no image                            Redo goes on
//	image.new                           a half allocated file                       Redo removes it and allocates again
//	image (rename)                      a blank image                               Redo probes it and formats
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
// A creation that fails without a crash is undone as a whole: the directory becomes a tombstone first (one rename), which is then emptied.

// Create makes the volume that s describes, or finishes one whose creation was interrupted. The bool tells whether it was made now: a volume that
// has the name and the options already is success and false; one with other options is ErrExists around a *DiffError. Whatever fails before the
// volume is complete leaves nothing behind; a crash leaves what the next Create, Settle or Remove can deal with. It never formats anything that
// was ever complete.
//
// Errors: ErrInvalid, ErrExists, ErrNoRecovery, ErrLocked (the key provider cannot wrap), ErrConfig, ErrNoSpace, ErrNoTool, ErrNoDM, ErrBusy,
// ErrStuck, ErrDamaged, ErrTimeout, ErrCanceled.
func (m *Manager) Create(ctx context.Context, s Spec) (info Info, made bool, err error) {
	defer finishError(&err, "create", s.Name)
	if err := s.check(m.o.Defaults); err != nil {
		return Info{}, false, &Error{Code: CodeInvalid, Err: err}
	}
	l, err := m.lockVolume(ctx, s.Name, "create")
	if err != nil {
		return Info{}, false, err
	}
	defer l.Release()
	if made, err = m.create(ctx, l, s); err != nil {
		return Info{}, false, err
	}
	v, err := m.look()
	if err != nil {
		return Info{}, false, err
	}
	return m.describe(v, s.Name, l), made, nil
}

func (m *Manager) create(ctx context.Context, l *lock, s Spec) (bool, error) {
	r, err := m.load(s.Name)
	if errors.Is(err, fs.ErrNotExist) {
		// Without a record nobody can tell what else is there: it may be a volume that has lost it.
		if err := m.vacate(s.Name); err != nil {
			return false, err
		}
		return true, m.createNew(ctx, l, s)
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
		return true, m.startOver(ctx, l, r, s)
	}
	m.log.Info("finishing an interrupted creation", "volume", r.Name, "state", r.State)
	k, err := m.keyring(ctx)
	if err != nil {
		return false, err
	}
	err = m.build(ctx, l, k, r, false)
	if errors.Is(err, errUnusable) {
		m.log.Warn("what an interrupted creation left cannot be used; starting over", "volume", r.Name, "err", err)
		return true, m.startOver(ctx, l, r, s)
	}
	return true, err
}

// errUnusable says that an unfinished volume cannot be finished and cannot be formatted again by the rules either.
var errUnusable = errors.New("it cannot be finished")

// startOver keeps an unfinished volume as a tombstone, since nothing but removal destroys anything, and makes a new one.
func (m *Manager) startOver(ctx context.Context, l *lock, r *record, s Spec) error {
	if err := m.bury(r); err != nil {
		return err
	}
	return m.createNew(ctx, l, s)
}

// createNew makes a volume where there is none. What fails is undone as a whole.
func (m *Manager) createNew(ctx context.Context, l *lock, s Spec) (err error) {
	k, err := m.keyring(ctx)
	if err != nil {
		return err
	}
	if err := m.directories(); err != nil {
		return err
	}
	r := newRecord(s, m.now())
	var u undo
	defer u.onError(ctx, &err)
	dir := m.o.Paths.VolumeDir(r.Name)
	if err := m.s.Files.Mkdir(dir, 0o700); err != nil {
		return err
	}
	// From here on there is one thing to undo: a build takes back what the kernel holds by itself.
	u.add("remove what was made", func(ctx context.Context) error { return m.discard(ctx, r) })
	if err := m.save(r); err != nil {
		return err
	}
	m.o.Crash("create.prepared")
	return m.build(ctx, l, k, r, true)
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

// allocate makes the image, or finds it. It appears under its name only when it is whole, so that no half allocated one is ever used. The node-wide
// lock makes the space that was found free still free when it is taken.
func (m *Manager) allocate(ctx context.Context, r *record) error {
	image := m.image(r.Name)
	_, _, err := m.s.Kernel.FileID(image)
	if err == nil {
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if r.State != StatePrepared {
		return fmt.Errorf("%w: its image is gone", errUnusable)
	}
	node, err := m.lock(ctx, m.o.Paths.NodeLock(), "create "+r.Name)
	if err != nil {
		return err
	}
	defer node.Release()
	temp := filepath.Join(m.o.Paths.VolumeDir(r.Name), newImageFile)
	if err := m.s.Images.Remove(ctx, temp); err != nil {
		return err
	}
	if err := m.s.Images.Create(ctx, temp, r.Spec.Size, r.Spec.Alloc); err != nil {
		return err
	}
	r.made = true
	m.o.Crash("create.allocated")
	if err := m.s.Files.Rename(temp, image); err != nil {
		return err
	}
	m.o.Crash("create.image")
	return nil
}

// blameFullDisk finds the reason of an I/O error in a sparse image: the disk below has no block left for what was written.
func (m *Manager) blameFullDisk(r *record, err error) error {
	if !errors.Is(err, syscall.EIO) || r.Spec.Alloc != AllocSparse {
		return err
	}
	missing, left, err2 := m.s.Images.Room(m.image(r.Name))
	if err2 != nil || left >= missing || left > fullDisk {
		return err
	}
	return &Error{Code: CodeNoSpace, Err: fmt.Errorf("the disk below its sparse image is full: %w", err)}
}

// fullDisk is how many bytes may be left on a disk that is called full.
const fullDisk = 1 << 20

// attach puts the image on a loop device. The caller closes the attachment as soon as a mapping has the device, and in any case before u runs, which
// then makes sure that the device is gone.
func (m *Manager) attach(ctx context.Context, r *record, u *undo) (Attachment, error) {
	image := m.image(r.Name)
	a, err := m.s.Images.Attach(ctx, image)
	if err == nil {
		u.add("detach the image", func(ctx context.Context) error { return m.s.Images.Detach(ctx, image) })
	}
	return a, err
}

// format makes the container with both managed slots, once. On an image that is not blank it follows safety rule 1: what has our UUID and no managed
// token could never have been opened and is formatted again; what has managed tokens is completed; everything else is left as it is.
func (m *Manager) format(ctx context.Context, k *keyslot.Keyring, c Container, dev string, r *record) error {
	h, err := c.Header()
	var notBlank *backing.NotBlankError
	switch {
	case errors.Is(err, header.ErrNotLUKS):
		if err := m.s.Images.ProbeBlank(ctx, dev); errors.As(err, &notBlank) {
			return fmt.Errorf("%w: %w", errUnusable, err)
		} else if err != nil {
			return err
		}
	case errors.Is(err, header.ErrDamaged):
		return fmt.Errorf("%w: %w", errUnusable, err)
	case err != nil:
		return err
	case h.UUID != r.UUID:
		return fmt.Errorf("%w: the container in it is %s, not %s", errUnusable, h.UUID, r.UUID)
	case keyslot.Managed(h):
		return keyslot.Complete(ctx, c, k)
	}
	return keyslot.Format(ctx, c, k, luks.FormatParams{
		UUID: r.UUID, Label: label(r.Name), Subsystem: subsystem, SectorSize: r.SectorSize,
	})
}

// discard removes a volume that never was one, so that its name and its space are free. It becomes a tombstone first: a crash amid the removal leaves
// something that nothing else looks at.
func (m *Manager) discard(ctx context.Context, r *record) error {
	// What the kernel still holds stays under its name, where Settle closes it, and Create or Remove end it.
	if err := m.clear(ctx, r); err != nil {
		return err
	}
	if err := m.nothingThere(r); err != nil {
		return err
	}
	dir := filepath.Join(m.o.Paths.RemovedDir(), r.UUID)
	if err := m.s.Files.Rename(m.o.Paths.VolumeDir(r.Name), dir); err != nil {
		return err
	}
	if r.made { // by this very creation; anything else stays in the tombstone
		for _, file := range []string{imageFile, newImageFile} {
			if err := m.s.Images.Remove(ctx, filepath.Join(dir, file)); err != nil {
				return err
			}
		}
	}
	if err := m.s.Files.Remove(filepath.Join(dir, recordFile)); err != nil {
		return err
	}
	return m.s.Files.Remove(dir)
}
