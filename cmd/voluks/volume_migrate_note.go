// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/voluks/voluks/internal/atomicfile"
	"github.com/voluks/voluks/internal/copytree"
	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/internal/volume"
)

const (
	// migrationDir is beside the directory that users of the volume get. What is noted there tells what the files are called and what is in them, so it lies in
	// the volume itself, and goes with it.
	migrationDir = ".voluks-migration"

	migrationNoteFile = "note.json"
	manifestFile      = "manifest"
	holderMigrate     = "migrate" // keeps the volume mounted, for a migration alone
	holderRetire      = "retire"  // keeps it mounted beside its users, while plain data is removed
	migrateOp         = "migrate" // what errors say was being done
)

// sourceID is what a source is known by: a directory that is made anew, or that another disk is mounted on, or none, has another one.
type sourceID struct {
	Filesystem string    `json:"filesystem"`
	Ino        uint64    `json:"ino"`
	Born       time.Time `json:"born,omitzero"`
}

func identify(t *copytree.Tree) (sourceID, error) {
	id, err := t.Root.Filesystem()
	return sourceID{id, t.Root.Inode.Ino, t.Root.Inode.Btime}, err
}

func (id sourceID) is(other sourceID) bool {
	return id.Filesystem == other.Filesystem && id.Ino == other.Ino && id.Born.Equal(other.Born)
}

// migrationNote is what is known of the passes into a volume. Without it a pass only goes into an empty volume; losing it loses no data.
type migrationNote struct {
	Given    string    `json:"given"`              // the source as it was called
	Source   string    `json:"source"`             // where the plain data was at first, without symbolic links
	ID       sourceID  `json:"id"`                 // what that is
	Files    int       `json:"files,omitempty"`    // that the source had after the last pass that came to its end
	Bytes    int64     `json:"bytes,omitempty"`    // and how much
	Verified bool      `json:"verified,omitempty"` // the last pass was, and the manifest is of it
	Ended    time.Time `json:"ended,omitzero"`     // when
	Aside    string    `json:"aside,omitempty"`    // where the plain data goes, once a verified copy is there
	Swapped  bool      `json:"swapped,omitempty"`  // Docker has forgotten its volume
	Removing bool      `json:"removing,omitempty"` // what is there is no source any more
}

// removing is where plain data is that is being removed.
func (n *migrationNote) removing() string { return n.Aside + ".removing" }

// migrationTarget is a mounted volume, with what is known of the migrations into it.
type migrationTarget struct {
	m    *volume.Manager
	name string
	id   string // who holds it
	dir  string // of the note
	lock *os.File
	data *copytree.Tree
	migrationNote
	noted bool // there is a note
}

// openTarget mounts a volume: for a migration alone, or beside its users. The caller closes it.
func (e *env) openTarget(ctx context.Context, m *volume.Manager, name string, alone bool) (*migrationTarget, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	start, err := sys.ProcessStart(os.Getpid())
	if err != nil {
		return nil, err
	}
	h := volume.Holder{ID: holderMigrate, Kind: volume.HolderMigrate, PID: os.Getpid(), Start: start, Comm: "voluks"}
	mount := m.MountForMigration
	if !alone {
		h.ID, h.Kind, mount = holderRetire, volume.HolderCLI, m.Mount
	}
	path, err := mount(ctx, name, h)
	if err != nil {
		return nil, err
	}
	t := &migrationTarget{m: m, name: name, id: h.ID, dir: filepath.Join(filepath.Dir(path), migrationDir)}
	if t.data, err = copytree.Open(path); err == nil {
		err = t.read()
	}
	if err != nil {
		return nil, errors.Join(err, t.close(ctx))
	}
	return t, nil
}

func (t *migrationTarget) read() error {
	// Only root gets this far up in the volume.
	if err := os.Mkdir(t.dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	var err error
	if t.lock, err = os.OpenFile(filepath.Join(t.dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return err
	}
	if err := sys.TryLock(t.lock); errors.Is(err, sys.ErrLocked) {
		return &volume.Error{Code: volume.CodeBusy, Op: migrateOp, Volume: t.name, Err: errors.New("another migration is at work on it")}
	} else if err != nil {
		return err
	}
	const largest = 64 << 10
	b, err := atomicfile.Read(filepath.Join(t.dir, migrationNoteFile), largest)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = json.Unmarshal(b, &t.migrationNote)
	}
	if err != nil {
		return fmt.Errorf("read the note of earlier migrations: %w", err)
	}
	t.noted = true
	return nil
}

// close lets go of the volume, which is closed unless somebody else has it.
func (t *migrationTarget) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commandTime)
	defer cancel()
	var err error
	if t.data != nil {
		err = t.data.Close()
	}
	if t.lock != nil {
		err = errors.Join(err, t.lock.Close())
	}
	return errors.Join(err, t.m.Unmount(ctx, t.name, t.id))
}

// write makes a change of the note durable.
func (t *migrationTarget) write(change func(*migrationNote)) error {
	change(&t.migrationNote)
	b, err := json.Marshal(t.migrationNote)
	if err != nil {
		return err
	}
	t.noted = true
	return atomicfile.Write(filepath.Join(t.dir, migrationNoteFile), append(b, '\n'), 0o600)
}

// forget removes what is known of migrations: what is in the volume has no other home any more.
func (t *migrationTarget) forget() error {
	t.migrationNote, t.noted = migrationNote{}, false
	for _, name := range []string{migrationNoteFile, manifestFile} {
		if err := os.Remove(filepath.Join(t.dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return sys.SyncDir(t.dir)
}

// keepManifest makes the manifest of a verified copy durable.
func (t *migrationTarget) keepManifest(m *copytree.Manifest) error {
	path := filepath.Join(t.dir, manifestFile)
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(m.Write(f), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	return sys.SyncDir(t.dir)
}

func (t *migrationTarget) manifest() (*copytree.Manifest, error) {
	f, err := sys.OpenRegular(filepath.Join(t.dir, manifestFile), false)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return copytree.ReadManifest(f)
}
