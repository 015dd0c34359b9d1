// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/voluks/voluks/dockerplugin"
	"github.com/voluks/voluks/internal/copytree"
	"github.com/voluks/voluks/internal/filesystem"
	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/internal/volume"
)

// errNoSource is a source that is not there.
var errNoSource = errors.New("there is no such source")

// plainSource is where plain data is.
type plainSource struct {
	path  string
	home  string // where it was at first, and Docker looks for it: the path, unless what was interrupted has set it aside
	aside string // where --swap and --retire-source put it first
	disk  bool   // it is a device's, mounted here read-only
}

// close unmounts a device.
func (p plainSource) close() error {
	if !p.disk {
		return nil
	}
	return errors.Join(sys.Unmount(p.path), os.Remove(p.path))
}

// plainData finds the plain data, and refuses what is in use unless that is meant.
func (e *env) plainData(ctx context.Context, o migration) (plainSource, error) {
	if o.docker {
		return e.dockerData(ctx, o)
	}
	dir, err := filepath.Abs(o.source)
	if err != nil {
		return plainSource{}, err
	}
	const asideName = ".voluks-plain"
	real, err := filepath.EvalSymlinks(dir)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Lstat(dir + asideName); err == nil {
			return plainSource{path: dir + asideName, home: dir, aside: dir + asideName}, nil // a --retire-source that was interrupted
		}
	}
	if err != nil {
		return plainSource{}, err
	}
	st, err := os.Lstat(real)
	switch {
	case err != nil:
		return plainSource{}, err
	case st.Mode().Type() == fs.ModeDevice:
		return e.deviceData(ctx, o, real)
	case !st.IsDir():
		return plainSource{}, o.fails(volume.CodeInvalid, fmt.Errorf("%s is no directory and no block device", real))
	}
	if o.retire {
		table, err := sys.MountInfoOf("self")
		if err != nil {
			return plainSource{}, err
		}
		if slices.ContainsFunc(table, func(m sys.MountInfo) bool { return m.Mountpoint == real }) {
			return plainSource{}, o.fails(volume.CodeInvalid, fmt.Errorf("%s is a file system of its own: migrate it without --retire-source, and clear its disk afterwards", real))
		}
	}
	return plainSource{path: real, home: real, aside: real + asideName}, nil
}

// deviceData mounts the file system of a device that nobody has mounted, read-only, where nobody looks.
func (e *env) deviceData(ctx context.Context, o migration, device string) (plainSource, error) {
	if o.live || o.retire {
		return plainSource{}, o.fails(volume.CodeInvalid, fmt.Errorf("%s is a device: it is migrated in one pass, while nothing has it mounted, and cleared by its owner", device))
	}
	found, err := filesystem.Probe(ctx, device)
	if err != nil {
		return plainSource{}, err
	}
	if found == nil {
		return plainSource{}, o.fails(volume.CodeInvalid, fmt.Errorf("%s has no file system", device))
	}
	p := plainSource{path: filepath.Join(e.paths().Run, "migrate"+strings.ReplaceAll(device, "/", "-")), home: device, disk: true}
	if err := sys.Unmount(p.path); err != nil && !errors.Is(err, sys.ErrNotExist) { // of one that was killed
		return plainSource{}, err
	}
	if err := os.MkdirAll(p.path, 0o700); err != nil {
		return plainSource{}, err
	}
	if err := sys.Mount(device, p.path, found.Type, sys.MountReadOnly|sys.MountNoDev|sys.MountNoSUID|sys.MountNoExec, ""); err != nil {
		err = errors.Join(err, os.Remove(p.path))
		if errors.Is(err, syscall.EBUSY) {
			err = o.fails(volume.CodeInUse, fmt.Errorf("%s is in use: unmount it, or migrate the directory that it is mounted on: %w", device, err))
		}
		return plainSource{}, err
	}
	return p, nil
}

func (e *env) dockerData(ctx context.Context, o migration) (plainSource, error) {
	v, err := e.engine().LocalVolume(ctx, o.source)
	if errors.Is(err, dockerplugin.ErrNoVolume) {
		return plainSource{}, fmt.Errorf("%s: %w: %w", o.source, err, errNoSource)
	}
	if err != nil {
		return plainSource{}, fmt.Errorf("%s: %w", o.source, err)
	}
	busy := func(format string, args ...any) (plainSource, error) {
		return plainSource{}, o.fails(volume.CodeInUse, fmt.Errorf(format, args...))
	}
	if len(v.Running) > 0 && !o.live {
		return busy("the plain volume is in use by the containers %s: stop them, or make a first pass with --live", strings.Join(v.Running, ", "))
	}
	if users := slices.Concat(v.Running, v.Stopped); len(users) > 0 && o.swap {
		return busy("the containers %s belong to the plain volume for good: remove them (docker compose down), since a container keeps the volume that it was made with", strings.Join(users, ", "))
	}
	p := plainSource{path: v.Mountpoint, home: v.Mountpoint, aside: setAside(v.Mountpoint)}
	_, err = os.Lstat(p.home)
	_, asideErr := os.Lstat(p.aside)
	switch {
	case errors.Is(err, fs.ErrNotExist) && asideErr == nil:
		p.path = p.aside // a swap that was interrupted
		return p, nil
	case err != nil:
		return p, err
	case !o.swap:
		return p, nil
	case asideErr == nil:
		return busy("there is plain data of an earlier migration of that name at %s: remove it, or move it away", p.aside)
	}
	// The data must not be found to be on another file system when all is copied.
	volumes, err := sys.Lstat(filepath.Dir(p.home))
	if err != nil {
		return p, err
	}
	above, err := sys.Lstat(filepath.Dir(filepath.Dir(filepath.Dir(p.home))))
	if err == nil && volumes.Dev != above.Dev {
		err = o.fails(volume.CodeInvalid, fmt.Errorf("the volumes of Docker are a file system of their own, so the plain data cannot be set aside: migrate %s as a directory", p.home))
	}
	return p, err
}

// setAside is where the plain data of a Docker volume goes that is swapped: the same file system, and out of Docker's sight, which takes every directory
// among its volumes for one.
func setAside(mountpoint string) string {
	name := filepath.Base(filepath.Dir(mountpoint))
	return filepath.Join(filepath.Dir(filepath.Dir(filepath.Dir(mountpoint))), "voluks-plain", name)
}

// retire does with the source what was asked for. The copy is verified and durable. Steps, and what a crash after each leaves:
//
//  1. the note says where the plain data goes: nothing else has changed, and the next pass compares all anew
//  2. it is moved there, by its name alone: whoever starts now finds no plain data to write to. The next pass finds it there, and compares all anew
//  3. that nothing has changed it since it was copied is looked at once more; else it is moved back
//  4. Docker forgets its volume: --retire-source finds by the note what is left to be done
//  5. the note says that it is being removed: no pass takes what is left of it for a source, and the same command goes on removing
//  6. it is removed
func (e *env) retire(ctx context.Context, o migration, src plainSource, size copytree.Size, copied *copytree.Manifest, note *migrations, r *migrateResult) error {
	if !o.swap && !o.retire {
		return nil
	}
	if err := note.write(func(n *migrationNote) { n.Aside = src.aside }); err != nil {
		return err
	}
	back := func(err error) error { return errors.Join(err, os.Rename(src.aside, src.home)) }
	if src.path != src.aside {
		if err := os.MkdirAll(filepath.Dir(src.aside), 0o700); err != nil {
			return err
		}
		if err := os.Rename(src.path, src.aside); err != nil {
			return fmt.Errorf("set the plain data aside: %w", err)
		}
		if err := errors.Join(sys.SyncDir(filepath.Dir(src.aside)), sys.SyncDir(filepath.Dir(src.path))); err != nil {
			return back(err)
		}
	}
	if err := o.unused(size, src.aside); err != nil {
		return back(err)
	}
	if err := copytree.Unchanged(ctx, copied, src.aside); err != nil {
		return back(err)
	}
	if o.swap {
		if err := e.engine().RemoveLocalVolume(ctx, o.source); err != nil {
			return back(err)
		}
		r.Swapped = true
	}
	r.Plain = src.aside
	if !o.retire {
		return nil
	}
	return o.removePlain(note, r)
}

func (o migration) removePlain(note *migrations, r *migrateResult) error {
	if err := note.write(func(n *migrationNote) { n.Removing = true }); err != nil {
		return err
	}
	if err := os.RemoveAll(note.Aside); err != nil {
		return fmt.Errorf("remove the plain data: %w", err)
	}
	r.Plain = ""
	return nil
}

// retireRest removes what an interrupted --retire-source has left of the plain data.
func (e *env) retireRest(o migration, note *migrations, r *migrateResult) error {
	if !o.retire {
		return o.fails(volume.CodeInvalid, fmt.Errorf("%s is what is left of plain data that was being removed: all of it is in the volume (--retire-source removes the rest)", note.Aside))
	}
	r.Pass, r.Verified = "", true
	if err := o.removePlain(note, r); err != nil {
		return err
	}
	return e.print(*r, func(w io.Writer) { migrateText(w, o, *r) })
}

// retireSwapped removes the plain data of a volume that Docker has forgotten already. missing is the error if there is none such.
func (e *env) retireSwapped(ctx context.Context, o migration, missing error) error {
	if !o.retire {
		return missing
	}
	ctx, cancel, m, err := e.operator(ctx, volume.Defaults{})
	if err != nil {
		return err
	}
	defer cancel()
	info, err := m.Inspect(ctx, o.name)
	if errors.Is(err, volume.ErrNotFound) {
		return missing
	}
	if err != nil {
		return err
	}
	note, err := e.lockMigrations(info.UUID)
	if err != nil {
		return err
	}
	defer note.close()
	if _, err := os.Lstat(note.Aside); err != nil || setAside(note.Source) != note.Aside || filepath.Base(note.Aside) != o.source {
		return missing
	}
	return e.retireRest(o, note, &migrateResult{Volume: o.name, Source: note.Source, Swapped: true})
}
