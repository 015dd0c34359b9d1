// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/voluks/voluks/internal/backing"
	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/luks"
)

const (
	recordVersion = 1
	recordFile    = "record.json"
	sectorSize    = 4096 // of a new container; what an image's loop device has too
	maxRecord     = 64 << 10
)

// record is what the node remembers of a volume beside the volume itself. It is written before the thing that it announces, and never believed
// against the header or the kernel.
type record struct {
	V          int        `json:"v"`
	Name       string     `json:"name"`
	UUID       string     `json:"uuid"`    // chosen before format
	FSUUID     string     `json:"fs_uuid"` // chosen before mkfs
	State      State      `json:"state"`   // prepared, formatted, ready
	Spec       Spec       `json:"spec"`
	SectorSize int        `json:"sector_size"` // of the container
	Created    time.Time  `json:"created"`
	Slots      []SlotInfo `json:"slots,omitempty"`   // as the header had them when an operation last read it
	Weak       bool       `json:"weak,omitempty"`    // the bare mountpoint could not be made immutable
	Removed    *time.Time `json:"removed,omitempty"` // counts in a tombstone only
	Erasing    *time.Time `json:"erasing,omitempty"` // since when a tombstone is being erased: nothing brings it back
	Erased     *Erasure   `json:"erased,omitempty"`  // what became of its header, once it is gone
	Drill      *Drill     `json:"drill,omitempty"`   // when the recovery identity was last tried
	Past       []string   `json:"past_recipients,omitempty"`

	Migrating *Migrating `json:"migrating,omitempty"` // its data is not whole yet

	// NoQueues: dm-crypt works in the context of whoever asks, and not in queues of its own, which only help where a disk is slower than they are.
	NoQueues bool         `json:"no_queues,omitempty"`
	Grow     int64        `json:"grow,omitempty"`   // bytes that its file system is being made to have
	Device   *sys.BlockID `json:"device,omitempty"` // what its device was known by when the volume was made

	made  bool // this process made the backing
	wipe  bool // what is on its device may be destroyed: whoever asked for this volume has named it
	begun bool // this process has begun to format it
}

// damagedError is a record that cannot be used. The volume's data is not affected.
type damagedError struct {
	path string
	err  error
}

func (e *damagedError) Error() string {
	return fmt.Sprintf("the record %s cannot be used: %v; the encrypted data is not affected by that", e.path, e.err)
}
func (e *damagedError) Unwrap() error { return e.err }

func newRecord(s Spec, now time.Time) *record {
	return &record{
		V: recordVersion, Name: s.Name, UUID: uuid.NewString(), FSUUID: uuid.NewString(), State: StatePrepared, Spec: s,
		SectorSize: sectorSize, Created: now.UTC(),
	}
}

// load reads the record of a volume: fs.ErrNotExist if there is no such volume, *damagedError if what is there is no record of it. A directory
// without a record is no volume: creation ends with one, and so does removal begin.
func (m *Manager) load(name string) (*record, error) {
	return m.loadAt(m.o.Paths.VolumeDir(name), name)
}

func (m *Manager) loadAt(dir, name string) (*record, error) {
	path := filepath.Join(dir, recordFile)
	b, err := m.s.Files.Read(path, maxRecord)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err != nil {
		return nil, &damagedError{path, err}
	}
	r, err := decodeRecord(b)
	if err == nil && r.Name != name {
		err = fmt.Errorf("it is of volume %q", r.Name)
	}
	if err != nil {
		return nil, &damagedError{path, err}
	}
	return r, nil
}

// vacant returns nil if a name that has no record has nothing else either, and *damagedError if it has. What a crash left of the very first write of a
// record is nothing.
func (m *Manager) vacant(name string) error {
	dir := m.o.Paths.VolumeDir(name)
	left, err := m.s.Files.List(dir)
	if err != nil {
		return err
	}
	if slices.Contains(left, recordFile) {
		return nil // it appeared since the caller looked, so what is beside it is its own
	}
	for _, file := range left {
		if !strings.HasPrefix(file, "."+recordFile) {
			return &damagedError{filepath.Join(dir, recordFile), fmt.Errorf("it is gone, and there is %q beside it: make it again with `voluks volume import`, put it back, or move %s away", file, dir)}
		}
	}
	return nil
}

// vacate is vacant for one who holds the lock of the name: what is nothing is removed.
func (m *Manager) vacate(name string) error {
	if err := m.vacant(name); err != nil {
		return err
	}
	dir := m.o.Paths.VolumeDir(name)
	left, err := m.s.Files.List(dir)
	for _, file := range left {
		if err == nil && strings.HasPrefix(file, "."+recordFile) {
			err = m.s.Files.Remove(filepath.Join(dir, file))
		}
	}
	return err
}

// find loads the record of a volume that the caller named.
func (m *Manager) find(name string) (*record, error) {
	if err := CheckName(name); err != nil {
		return nil, &Error{Code: CodeInvalid, Err: err}
	}
	r, err := m.load(name)
	if !errors.Is(err, fs.ErrNotExist) {
		return r, err
	}
	if err := m.vacant(name); err != nil {
		return nil, err
	}
	return nil, &Error{Code: CodeNotFound, Err: errors.New("there is no such volume")}
}

// decodeRecord is strict: what this version does not understand it must not act upon.
func decodeRecord(b []byte) (*record, error) {
	var version struct{ V int }
	if err := json.Unmarshal(b, &version); err != nil {
		return nil, err
	}
	if version.V != recordVersion {
		return nil, fmt.Errorf("version %d, this program knows %d", version.V, recordVersion)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	r := &record{}
	if err := d.Decode(r); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows it")
	}
	return r, r.check()
}

func (r *record) check() error {
	for field, id := range map[string]string{"uuid": r.UUID, "fs_uuid": r.FSUUID} {
		if u, err := uuid.Parse(id); err != nil || u.String() != id {
			return fmt.Errorf("%s %q is no UUID", field, id)
		}
	}
	switch r.State {
	case StatePrepared, StateFormatted, StateReady:
	default:
		return fmt.Errorf("unknown state %q", r.State)
	}
	if r.Name != r.Spec.Name {
		return fmt.Errorf("it names two volumes, %q and %q", r.Name, r.Spec.Name)
	}
	if err := CheckName(r.Name); err != nil {
		return err
	}
	if r.SectorSize != 512 && r.SectorSize != 4096 {
		return fmt.Errorf("sector size %d", r.SectorSize)
	}
	if r.Spec.Size <= 0 {
		return fmt.Errorf("size %d", r.Spec.Size)
	}
	switch kind := r.Spec.Backing; {
	case !slices.Contains([]string{BackingImage, BackingDevice, BackingLVM}, kind):
		return fmt.Errorf("unknown backing %q", kind)
	case (kind == BackingDevice) != (r.Device != nil):
		return fmt.Errorf("backing %q, and what a device is known by: %t", kind, r.Device != nil)
	case kind == BackingLVM && backing.CheckLVMName(r.Spec.VG) != nil:
		return fmt.Errorf("volume group %q", r.Spec.VG)
	}
	return nil
}

func (m *Manager) save(r *record) error { return m.saveIn(m.o.Paths.VolumeDir(r.Name), r) }

// saveIn writes the record of a volume or tombstone into its directory.
func (m *Manager) saveIn(dir string, r *record) error {
	b, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return fmt.Errorf("encode record: %w", err)
	}
	b = append(b, '\n')
	if len(b) > maxRecord {
		return fmt.Errorf("record of %d bytes, at most %d", len(b), maxRecord)
	}
	if err := m.s.Files.Write(filepath.Join(dir, recordFile), b); err != nil {
		return fmt.Errorf("write record: %w", err)
	}
	return nil
}

// backing is where the ciphertext of a volume lies.
func (m *Manager) backing(r *record) Backing { return m.backingIn(m.o.Paths.VolumeDir(r.Name), r) }

// backingIn is the backing of a volume or tombstone that has its record in dir.
func (m *Manager) backingIn(dir string, r *record) Backing {
	p := Place{Kind: r.Spec.Backing, Dir: dir, UUID: r.UUID, Device: r.Spec.Device, VG: r.Spec.VG, Pool: r.Spec.Pool}
	if r.Device != nil {
		p.ID = *r.Device
	}
	return m.s.Backings.At(p)
}

// flags are how the mapping of the volume treats requests (F45).
func (r *record) flags() luks.Flags {
	return luks.Flags{Discards: r.Spec.Discard, NoReadWorkqueue: r.NoQueues, NoWriteWorkqueue: r.NoQueues}
}

// door names the volume's container by its one door. A backing that is gone is ErrDamaged around fs.ErrNotExist.
func (m *Manager) door(ctx context.Context, r *record) (Container, string, error) {
	path, err := m.backing(r).Door(ctx)
	if errors.Is(err, fs.ErrNotExist) {
		err = &Error{Code: CodeDamaged, Err: fmt.Errorf("its %s is gone: %w", r.Spec.Backing, err)}
	}
	if err != nil {
		return nil, "", err
	}
	return m.s.Containers.At(path), path, nil
}

// private is where a volume is mounted while it is made: nobody is ever given this path.
func (m *Manager) private(uuid string) string {
	return filepath.Join(m.o.Paths.Run, "private", uuid)
}
