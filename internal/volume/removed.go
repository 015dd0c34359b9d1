// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/voluks/voluks/internal/config"
)

// Removed describes a removed volume: a tombstone under the state directory.
type Removed struct {
	Name    string    `json:"name"`              // that it had; "" if the record cannot be read
	UUID    string    `json:"uuid"`              // of the LUKS header; the tombstone's own name
	Size    int64     `json:"size"`              // bytes of the file system's device
	FS      string    `json:"fs"`                // type of the file system
	Backing string    `json:"backing"`           // kind of the backing
	Removed time.Time `json:"removed"`           // zero if the disk was too full to write it down
	Erasing bool      `json:"erasing,omitempty"` // its erasure has begun and must be finished; nothing brings it back
	Reason  string    `json:"reason,omitempty"`  // why the record cannot be read
}

// Ref names the tombstone on a command line.
func (r Removed) Ref() string {
	if r.Name == "" || r.Removed.IsZero() {
		return r.UUID
	}
	return r.Name + "@" + r.Removed.UTC().Format(time.RFC3339)
}

// RemovedVolumes lists the removed volumes, the one removed last first. One whose record is damaged is listed as such. It reads no device.
func (m *Manager) RemovedVolumes(ctx context.Context) (all []Removed, err error) {
	defer finishError(&err, "list", "")
	ids, err := m.tombstones()
	if err != nil {
		return nil, err
	}
	all = []Removed{}
	for _, id := range ids {
		r, err := m.tombstone(id)
		if errors.Is(err, fs.ErrNotExist) {
			continue // erased a moment ago
		}
		t := Removed{UUID: id}
		if err != nil {
			t.Reason = err.Error()
		} else {
			t.Name, t.Size, t.FS, t.Backing, t.Removed, t.Erasing = r.Name, r.Spec.Size, r.Spec.FS, r.Spec.Backing, r.removal(), r.Erasing != nil
		}
		all = append(all, t)
	}
	slices.SortFunc(all, func(a, b Removed) int { return cmp.Or(b.Removed.Compare(a.Removed), strings.Compare(a.UUID, b.UUID)) })
	return all, ctx.Err()
}

// tombstones lists the directories of removed volumes, by UUID.
func (m *Manager) tombstones() ([]string, error) {
	ids, err := m.s.Files.List(m.o.Paths.RemovedDir())
	return slices.DeleteFunc(ids, func(id string) bool {
		u, err := uuid.Parse(id)
		return err != nil || u.String() != id // not ours
	}), err
}

// removal is when a volume was removed; zero if it does not know.
func (r *record) removal() time.Time {
	if r.Removed == nil {
		return time.Time{}
	}
	return *r.Removed
}

func (m *Manager) tombstoneDir(id string) string {
	return filepath.Join(m.o.Paths.RemovedDir(), id)
}

// tombstone reads the record of a removed volume.
func (m *Manager) tombstone(id string) (*record, error) {
	path := filepath.Join(m.tombstoneDir(id), recordFile)
	b, err := m.s.Files.Read(path, maxRecord)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var r *record
	if err == nil {
		r, err = decodeRecord(b)
	}
	if err == nil && r.UUID != id {
		err = fmt.Errorf("it is of %s", r.UUID)
	}
	if err != nil {
		return nil, &damagedError{path, err}
	}
	return r, nil
}

// FindRemoved finds a removed volume by NAME, NAME@TIME or UUID; TIME is what RemovedVolumes says, or the beginning of it in RFC 3339. A name that
// several removed volumes had is ErrInvalid, and the error names them.
func (m *Manager) FindRemoved(ctx context.Context, ref string) (found Removed, err error) {
	defer finishError(&err, "find", ref)
	all, err := m.RemovedVolumes(ctx)
	if err != nil {
		return found, err
	}
	name, when, _ := strings.Cut(ref, "@")
	var fit []Removed
	for _, r := range all {
		if r.UUID == ref || r.Name == name && r.Name != "" && strings.HasPrefix(r.Removed.UTC().Format(time.RFC3339), when) {
			fit = append(fit, r)
		}
	}
	switch len(fit) {
	case 0:
		return found, &Error{Code: CodeNotFound, Err: errors.New("there is no such removed volume")}
	case 1:
		return fit[0], nil
	}
	var refs []string
	for _, r := range fit {
		refs = append(refs, fmt.Sprintf("%s (%s)", r.Ref(), r.UUID))
	}
	return found, &Error{Code: CodeInvalid, Err: fmt.Errorf("several removed volumes had that name: %s", strings.Join(refs, ", "))}
}

// lockRemoved locks a removed volume. Its lock is none that a volume of any name has.
func (m *Manager) lockRemoved(ctx context.Context, id, op string) (*lock, error) {
	return m.lock(ctx, filepath.Join(filepath.Dir(m.o.Paths.Lock(id)), id+".removed"), op)
}

// What a crash leaves while a removed volume is brought back, and who repairs it:
//
//	after this write                             a crash leaves                                    repaired by
//	rename of removed/UUID to volumes/NAME       a volume with a time of removal, which is ignored -
//	record without that time                     everything
//
// The record is written where it then lies, so that no tombstone ever lacks the time that keeps it from being erased early.

// Undelete brings a removed volume back under the name that it had. Errors: ErrNotFound, ErrExists if a volume has that name by now, ErrInvalid if its
// erasure has begun, ErrDamaged, ErrBusy, ErrStuck.
func (m *Manager) Undelete(ctx context.Context, id string) (name string, err error) {
	defer finishError(&err, "undelete", id)
	mine, err := m.lockRemoved(ctx, id, "undelete")
	if err != nil {
		return "", err
	}
	defer mine.Release()
	r, err := m.tombstone(id)
	if errors.Is(err, fs.ErrNotExist) {
		return "", &Error{Code: CodeNotFound, Err: errors.New("there is no such removed volume")}
	}
	if err != nil {
		return "", err
	}
	if r.Erasing != nil {
		return "", &Error{Code: CodeInvalid, Err: fmt.Errorf("its erasure began at %s: its key is gone", r.Erasing.Format(time.RFC3339))}
	}
	if _, err := m.backingIn(m.tombstoneDir(id), r).Size(ctx); r.State == StateReady && err != nil {
		return "", &Error{Code: CodeDamaged, Err: fmt.Errorf("its %s cannot be found: %w", r.Spec.Backing, err)}
	}
	l, err := m.lockVolume(ctx, r.Name, "undelete")
	if err != nil {
		return "", err
	}
	defer l.Release()
	if _, err := m.load(r.Name); err == nil {
		return "", &Error{Code: CodeExists, Err: fmt.Errorf("there is a volume %q by now: remove that one first, if this one shall have its place", r.Name)}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if err := m.vacate(r.Name); err != nil {
		return "", err
	}
	if err := m.stillUnclaimed(ctx, r, false); err != nil {
		return "", err
	}
	if err := m.directories(); err != nil {
		return "", err
	}
	if err := m.s.Files.Remove(m.o.Paths.VolumeDir(r.Name)); err != nil { // an empty one
		return "", err
	}
	if err := m.s.Files.Rename(m.tombstoneDir(id), m.o.Paths.VolumeDir(r.Name)); err != nil {
		return "", err
	}
	m.o.Crash("undelete.renamed")
	r.Removed = nil
	m.refresh(r)
	m.o.Crash("undelete.recorded")
	return r.Name, nil
}

// Expired lists the removed volumes whose time is over, and those whose erasure must be finished. The time of one that does not know when it was removed
// begins now.
func (m *Manager) Expired(ctx context.Context, keep time.Duration) (due []Removed, err error) {
	defer finishError(&err, "list", "")
	all, err := m.RemovedVolumes(ctx)
	if err != nil {
		return nil, err
	}
	dirs, err := m.tombstones()
	if err != nil {
		return nil, err
	}
	for _, id := range dirs {
		if left, err := m.s.Files.List(m.tombstoneDir(id)); err == nil && len(left) == 0 {
			due = append(due, Removed{UUID: id}) // an erasure got this far
		}
	}
	for _, t := range all {
		switch {
		case t.Reason != "":
		case t.Removed.IsZero() && !t.Erasing:
			if err := m.date(ctx, t.UUID); err != nil {
				m.log.Warn("the time of a removal could not be written down", "volume", t.Name, "err", err)
			}
		case t.Erasing || !m.now().Before(t.Removed.Add(keep)):
			due = append(due, t)
		}
	}
	return due, nil
}

// date gives a tombstone the time of its removal.
func (m *Manager) date(ctx context.Context, id string) error {
	l, err := m.lockRemoved(ctx, id, "date")
	if err != nil {
		return err
	}
	defer l.Release()
	r, err := m.tombstone(id)
	if err != nil || r.Removed != nil {
		return err
	}
	now := m.now().UTC()
	r.Removed = &now
	return m.saveIn(m.tombstoneDir(id), r)
}

// noteRemoved adds to an error of a full disk what removed volumes still keep of it: nothing is erased early to make room.
func (m *Manager) noteRemoved(err error) error {
	if err == nil || classify(err) != CodeNoSpace {
		return err
	}
	all, err2 := m.RemovedVolumes(context.Background())
	if err2 != nil || len(all) == 0 {
		return err
	}
	var size int64
	var refs []string
	for _, r := range all {
		size += r.Size
		refs = append(refs, r.Ref())
	}
	const few = 5
	if len(refs) > few {
		refs = append(refs[:few:few], "...")
	}
	return fmt.Errorf("%w; removed volumes keep up to %s until they are erased: %s", err, config.FormatSize(size), strings.Join(refs, ", "))
}
