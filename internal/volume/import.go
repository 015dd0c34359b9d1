// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/keyslot"
	"github.com/voluks/voluks/luks"
	"github.com/voluks/voluks/luks/header"
)

// What a crash leaves while a lost record is made again, and who repairs it. The header is only read, so the container is whatever happens.
//
//	after this write                    a crash leaves                                       repaired by
//	directory volumes/NAME              an empty directory: no volume                        Import, again; Settle removes it
//	record "ready"                      a volume whose image is not there yet; one that      Import, again
//	                                    was in its place is a volume
//	rename of the image to its place    everything                                           -

// OpImport is what errors of Import say was being done.
const OpImport = "import"

// Imported is what Import did.
type Imported struct {
	Volume Info   `json:"volume"`          // as it is now
	Made   bool   `json:"made"`            // false: the record was there, and is of what is at that path
	Moved  string `json:"moved,omitempty"` // where its image was
	Slot   int    `json:"slot"`            // that was shown to open
}

// Import makes the lost record of a volume again, from the header of the image or device at path. The header is not changed. An image that is not in its
// place is moved there, on one file system. name "" is the one that the header has, or that of the directory in which the image lies. Nothing is written
// before the header is what Mount would open, two implementations have opened it with the keys of this node or a lent identity, and nothing else has its
// name, its UUID (F47) or its device. It may be repeated after a crash, with the same arguments.
//
// Errors: ErrInvalid (no volume of voluks, or one that this node may not have), ErrExists, ErrLocked, ErrInUse, ErrDamaged, ErrNotFound and those of Mount.
func (m *Manager) Import(ctx context.Context, path, name string) (done Imported, err error) {
	what := name
	defer func() {
		if err != nil {
			err = fmt.Errorf("%s: %w", path, err)
		}
		finishError(&err, OpImport, what)
	}()
	f := &found{m: m, path: path}
	if err := f.read(ctx, name); err != nil {
		return done, err
	}
	what = f.r.Name
	l, err := m.lockVolume(ctx, f.r.Name, "import")
	if err != nil {
		return done, err
	}
	defer l.Release()
	if err := f.read(ctx, name); err != nil { // somebody may have been here first
		return done, err
	}
	known, err := f.free(ctx)
	if err != nil {
		return done, err
	}
	if done.Slot, err = f.prove(ctx); err != nil {
		return done, err
	}
	if done.Made = !known; done.Made {
		if err := f.settle(ctx); err != nil {
			return done, err
		}
	}
	if f.move {
		done.Moved = path
	}
	v, err := m.look()
	if err != nil {
		return done, err
	}
	done.Volume = m.describe(v, f.r.Name, l)
	return done, nil
}

// settle writes the record and moves the image.
func (f *found) settle(ctx context.Context) error {
	m := f.m
	if err := m.directories(); err != nil {
		return err
	}
	if err := f.record(ctx); err != nil {
		return err
	}
	m.o.Crash("import.recorded")
	if !f.move {
		return nil
	}
	if err := m.s.Files.Rename(f.path, filepath.Join(m.o.Paths.VolumeDir(f.r.Name), imageFile)); err != nil {
		return f.unmoved(err)
	}
	m.o.Crash("import.moved")
	return nil
}

// found is a container that somebody has found, and the record that it should have.
type found struct {
	m    *Manager
	path string
	r    *record
	b    Backing     // where it lies now
	c    Container   // by the one door of that
	id   sys.BlockID // of a device
	move bool        // it is an image that lies elsewhere
}

// unfit is what Import does not take.
func unfit(format string, args ...any) error {
	return &Error{Code: CodeInvalid, Err: fmt.Errorf(format, args...)}
}

// read makes the record out of the header.
func (f *found) read(ctx context.Context, name string) error {
	info, err := os.Lstat(f.path)
	image := err == nil && info.Mode().IsRegular()
	if image {
		dir, file := filepath.Split(f.path)
		f.b = f.m.s.Backings.At(Place{Kind: BackingImage, Dir: dir, File: file})
	} else {
		if f.id, err = f.m.s.Backings.Identify(f.path); errors.Is(err, fs.ErrNotExist) {
			return &Error{Code: CodeNotFound, Err: err}
		} else if err != nil {
			return unfit("it is neither an image nor a block device: %w", err)
		}
		f.b = f.m.s.Backings.At(Place{Kind: BackingDevice, Device: f.path, ID: f.id})
	}
	if err := f.enter(ctx); err != nil {
		return err
	}
	h, err := f.c.Header()
	if errors.Is(err, header.ErrNotLUKS) || errors.Is(err, header.ErrLUKS1) {
		return unfit("%w", err)
	}
	if err != nil {
		return err
	}
	slots, err := keyslot.State(h)
	if err != nil {
		return err
	}
	if slots.Volume == nil {
		return unfit("its header names no volume of voluks: copy what is in it with `voluks volume migrate`, or let this node open it at boot with " +
			"`voluks keyslot adopt`")
	}
	home, placed := f.home(image)
	if name == "" {
		if name = slots.Volume.Name; placed {
			name = home
		}
	}
	if placed && name != home {
		return unfit("it lies in the directory of a volume %q: leave out the other name", home)
	}
	f.move = image && !placed
	if f.r, err = f.m.remade(name, h, &slots); err != nil {
		return err
	}
	return f.locate(ctx, image)
}

// enter names the container by the one door of where it lies.
func (f *found) enter(ctx context.Context) error {
	door, err := f.b.Door(ctx)
	if err == nil {
		f.c = f.m.s.Containers.At(door)
	}
	return err
}

// home is the name of the volume in whose directory an image lies.
func (f *found) home(image bool) (name string, ok bool) {
	dir, err := filepath.EvalSymlinks(filepath.Dir(f.path))
	volumes, err2 := filepath.EvalSymlinks(f.m.o.Paths.VolumesDir())
	ok = image && err == nil && err2 == nil && filepath.Dir(dir) == volumes && filepath.Base(f.path) == imageFile
	return filepath.Base(dir), ok
}

// remade is the record that a header tells. The header is not authenticated, so it may say only what a creation could have asked for.
func (m *Manager) remade(name string, h *header.Header, slots *keyslot.Slots) (*record, error) {
	r := newRecord(Spec{Name: name, Mode: defaultMode, Alloc: AllocFull, Backing: BackingImage}, m.now())
	t := slots.Volume
	for _, option := range slices.Sorted(maps.Keys(t.Options)) {
		if err := r.Spec.set(option, t.Options[option]); err != nil {
			return nil, unfit("its header: %w", err)
		}
	}
	r.UUID, r.FSUUID, r.State, r.Spec.FS = h.UUID, t.FSUUID, StateReady, t.FS
	for _, s := range slots.Slots {
		if s.Managed && s.Created.Before(r.Created) {
			r.Created = s.Created.UTC()
		}
	}
	r.Slots = slotInfos(*slots)
	if s, ok := h.Segments[0]; ok {
		r.SectorSize = s.SectorSize
	}
	r.NoQueues = slices.Contains(h.Config.Flags, "no-read-workqueue")
	if r.Spec.Ephemeral {
		return nil, unfit("it was ephemeral: its key is gone")
	}
	return r, nil
}

// locate finds out what the record says of the backing, and checks the whole.
func (f *found) locate(ctx context.Context, image bool) error {
	s, size := &f.r.Spec, f.r.Spec.Size
	d := f.m.o.Defaults
	d.Overcommit = true // what is there already needs no permission
	switch {
	case image:
		s.Backing, s.Device, s.VG, s.Pool = BackingImage, "", "", ""
		s.Discard = s.Discard && s.Alloc == AllocSparse
	case s.Backing == BackingLVM:
		s.Device = ""
	default:
		s.Backing, s.Device, s.VG, s.Pool, s.Alloc, s.Size = BackingDevice, f.path, "", "", AllocFull, 0
	}
	if err := s.check(d); err != nil {
		return &Error{Code: CodeInvalid, Err: err}
	}
	s.Size = size
	if err := s.checkSize(); err != nil {
		return &Error{Code: CodeInvalid, Err: err}
	}
	if s.Backing == BackingDevice {
		f.r.Device = &f.id
	}
	if err := f.r.check(); err != nil {
		return unfit("its header: %w", err)
	}
	if !image {
		if f.b = f.m.backing(f.r); s.Backing == BackingLVM {
			if err := f.enter(ctx); err != nil {
				return err
			}
			if h, err := f.c.Header(); err != nil || h.UUID != f.r.UUID {
				return errors.Join(err, unfit("its header names the logical volume of that UUID in %s, which is another one", s.VG))
			}
		}
	}
	room, err := f.b.Size(ctx)
	if err == nil && room < size {
		err = &Error{Code: CodeDamaged, Err: fmt.Errorf("it was cut: it has room for %d bytes, the volume has %d", max(room, 0), size)}
	}
	return err
}

// free makes sure that nothing else has the name, and that an image which is to be moved is nobody's. known says that nothing is to be done.
func (f *found) free(ctx context.Context) (known bool, err error) {
	m, name := f.m, f.r.Name
	switch r, err := m.load(name); {
	case err == nil && r.UUID == f.r.UUID:
		_, err := m.backing(r).Size(ctx)
		if err == nil && !f.move && r.Spec.Backing == f.r.Spec.Backing && (r.Device == nil || sameDisk(r, f.r)) {
			return true, nil
		}
		if err == nil {
			err = &Error{Code: CodeExists, Err: errors.New("that volume is there, and this is a copy of it")}
		}
		if !errors.Is(err, fs.ErrNotExist) || !f.move || r.Spec.Backing != BackingImage {
			return false, err
		}
	case err == nil:
		return false, &Error{Code: CodeExists, Err: fmt.Errorf("there is a volume %q: choose another name with --name", name)}
	case !errors.Is(err, fs.ErrNotExist):
		return false, err
	case f.move || f.r.Spec.Backing != BackingImage:
		if err := m.vacate(name); err != nil {
			return false, err
		}
	}
	if !f.move {
		return false, nil
	}
	users, err := f.b.Users()
	if err == nil && len(users) > 0 {
		err = &Error{Code: CodeInUse, Err: &HeldError{Others: users}}
	}
	if err != nil {
		return false, err
	}
	return false, m.movable(f.path)
}

// movable refuses what could not be moved to the volumes.
func (m *Manager) movable(path string) error {
	dir := m.o.Paths.VolumesDir()
	for {
		there, err := os.Stat(dir)
		if errors.Is(err, fs.ErrNotExist) && filepath.Dir(dir) != dir {
			dir = filepath.Dir(dir) // it will be made there
			continue
		}
		if err != nil {
			return err
		}
		here, err := os.Stat(path)
		if err == nil && here.Sys().(*syscall.Stat_t).Dev != there.Sys().(*syscall.Stat_t).Dev {
			err = unfit("it is on another file system than %s: copy it to that one first, and import the copy", dir)
		}
		return err
	}
}

// prove shows that this node, or the lent identity, opens the container, as strictly as a mount would.
func (f *found) prove(ctx context.Context) (slot int, err error) {
	k, err := f.m.opener(ctx)
	if err != nil {
		return 0, err
	}
	slot, key, err := keyslot.Unlock(ctx, f.c, k)
	if err != nil {
		return 0, err
	}
	defer key.Wipe()
	if err = keyslot.Prove(f.c, slot, key); as[*header.StrictError](err) {
		err = unfit("it is none that voluks could serve: %w", err)
	}
	return slot, err
}

// record writes the record, once nothing else can have the container. The node's lock makes that still true when it is written.
func (f *found) record(ctx context.Context) error {
	m := f.m
	node, err := m.lock(ctx, m.o.Paths.NodeLock(), "import "+f.r.Name)
	if err != nil {
		return err
	}
	defer node.Release()
	if err := f.unknown(); err != nil {
		return err
	}
	if f.r.Device != nil {
		if err := m.unclaimed(f.r, false); err != nil {
			return err
		}
	}
	if err := m.s.Files.Mkdir(m.o.Paths.VolumeDir(f.r.Name), 0o700); err != nil {
		return err
	}
	return m.save(f.r)
}

// unknown makes sure that no other volume, removed or not, and no mapping is of this container: it would be a copy, and the two could not be told apart (F47).
func (f *found) unknown() error {
	m := f.m
	for _, dir := range []string{m.o.Paths.VolumesDir(), m.o.Paths.RemovedDir()} {
		all, err := m.s.Files.List(dir)
		if err != nil {
			return err
		}
		for _, name := range all {
			if dir == m.o.Paths.VolumesDir() && name == f.r.Name {
				continue
			}
			b, err := m.s.Files.Read(filepath.Join(dir, name, recordFile), maxRecord)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			var r *record
			if err == nil {
				r, err = decodeRecord(b)
			}
			if err != nil {
				m.log.Warn("a record cannot be read", "dir", filepath.Join(dir, name), "err", err)
				continue
			}
			if r.UUID != f.r.UUID {
				continue
			}
			if dir == m.o.Paths.RemovedDir() {
				return &Error{Code: CodeExists, Err: fmt.Errorf("it has the UUID of the removed volume %q, or is that one: bring that back with `voluks volume undelete %s`", r.Name, r.UUID)}
			}
			return &Error{Code: CodeExists, Err: fmt.Errorf("it has the UUID of the volume %q, or is that one: of a volume and its copy only one can be known", r.Name)}
		}
	}
	if !f.move {
		return nil
	}
	v, err := m.look()
	if err != nil {
		return err
	}
	d, err := own(v, f.r)
	if err == nil && d != nil {
		err = &Error{Code: CodeInUse, Err: fmt.Errorf("the mapping %s of a container with its UUID is open", luks.MappingName(f.r.UUID))}
	}
	return err
}

// unmoved takes back the record of an image that could not be moved.
func (f *found) unmoved(err error) error {
	if errors.Is(err, syscall.EXDEV) {
		err = unfit("it cannot be moved to %s: copy it there, and import the copy: %w", f.m.o.Paths.VolumesDir(), err)
	}
	dir := f.m.o.Paths.VolumeDir(f.r.Name)
	if _, err2 := f.m.backing(f.r).Size(context.Background()); !errors.Is(err2, fs.ErrNotExist) {
		return err // it was, only not durably
	}
	return errors.Join(err, f.m.s.Files.Remove(filepath.Join(dir, recordFile)), f.m.s.Files.Remove(dir))
}
