// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/voluks/voluks/dockerplugin"
	"github.com/voluks/voluks/internal/copytree"
	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/internal/volume"
)

// errSwapped is a volume that Docker has no plain one of any more, since a migration has swapped it.
var errSwapped = errors.New("its plain volume was swapped")

// plainSource is where plain data is. The caller closes the tree.
type plainSource struct {
	path  string // without symbolic links
	home  string // where it was at first, and Docker looks for it: the path, unless what was interrupted has set it aside
	aside string // where --swap and --retire-source put it first
	tree  *copytree.Tree
	id    sourceID
	size  *copytree.Size
}

const asideName = ".voluks-plain"

// given is how the source was called, absolute.
func (o migration) given() (string, error) {
	if o.docker {
		return o.source, nil
	}
	return filepath.Abs(o.source)
}

// plainData finds the plain data. What was set aside is only looked for where the note of an earlier pass says.
func (e *env) plainData(ctx context.Context, o migration, given string, note *migrationNote) (*plainSource, error) {
	p := &plainSource{}
	var err error
	if o.docker {
		err = e.dockerData(ctx, o, note, p)
	} else {
		err = o.directoryData(given, note, p)
	}
	if err != nil {
		return nil, err
	}
	home, err1 := exists(p.home)
	aside, err2 := exists(p.aside)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	ours := note.Aside != "" && note.Aside == p.aside
	switch {
	case home && aside && (ours || o.swap || o.retire):
		return nil, o.fails(volume.CodeInUse, fmt.Errorf("there is %s, and plain data of an earlier migration at %s too: look which one is wanted, and move the other one away", p.home, p.aside))
	case home:
		p.path = p.home
	case aside && ours:
		p.path = p.aside // what was interrupted had set it aside
	default:
		return nil, &fs.PathError{Op: "find", Path: p.home, Err: fs.ErrNotExist}
	}
	if p.tree, err = copytree.Open(p.path); err != nil {
		return nil, err
	}
	if p.id, err = identify(p.tree); err == nil {
		err = e.mayRetire(o, p)
	}
	if err != nil {
		return nil, errors.Join(err, p.tree.Close())
	}
	return p, nil
}

// mayRetire refuses, before anything is copied, what could not be set aside in the end.
func (e *env) mayRetire(o migration, p *plainSource) error {
	if !o.swap && !o.retire {
		return nil
	}
	if mounts, err := filepath.EvalSymlinks(e.paths().MountsDir()); err == nil && strings.HasPrefix(p.home, mounts+"/") {
		return o.fails(volume.CodeInvalid, fmt.Errorf("%s is the data of a volume of voluks, which is removed with `voluks volume rm`", p.home))
	}
	if p.tree.Root.Inode.MountRoot {
		return o.fails(volume.CodeInvalid, fmt.Errorf("%s is a file system of its own: migrate it without --retire-source, and clear its disk afterwards", p.path))
	}
	above, err := sys.OpenEntry(filepath.Dir(p.home))
	if err != nil {
		return err
	}
	defer above.Close()
	beside, err := sys.OpenEntry(existing(filepath.Dir(p.aside)))
	if err != nil {
		return err
	}
	defer beside.Close()
	if above.Inode.Mount != beside.Inode.Mount {
		return o.fails(volume.CodeInvalid, fmt.Errorf("the volumes of Docker are a file system of their own, so the plain data cannot be set aside: migrate %s as a directory", p.home))
	}
	return nil
}

// existing is the nearest directory that is there.
func existing(dir string) string {
	if ok, err := exists(dir); ok || err != nil || dir == "/" {
		return dir
	}
	return existing(filepath.Dir(dir))
}

func exists(path string) (bool, error) {
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// directoryData resolves the symbolic links of a path once. A directory that is set aside has none to resolve any more, and is known by what it was called.
func (o migration) directoryData(given string, note *migrationNote, p *plainSource) error {
	real, err := filepath.EvalSymlinks(given)
	if errors.Is(err, fs.ErrNotExist) && note.Given == given && note.Aside != "" {
		p.home, p.aside = note.Source, note.Aside
		return nil
	}
	if err != nil {
		return err
	}
	st, err := os.Lstat(real)
	switch {
	case err != nil:
		return err
	case st.Mode().Type() == fs.ModeDevice:
		return o.fails(volume.CodeInvalid, fmt.Errorf("%s is a device: mount its file system read-only, and migrate the directory", real))
	case !st.IsDir():
		return o.fails(volume.CodeInvalid, fmt.Errorf("%s is no directory", real))
	case real == "/":
		return o.fails(volume.CodeInvalid, errors.New("the root directory is no data"))
	}
	p.home, p.aside = real, real+asideName
	return nil
}

func (e *env) dockerData(ctx context.Context, o migration, note *migrationNote, p *plainSource) error {
	v, err := e.engine().LocalVolume(ctx, o.source)
	var other *dockerplugin.OtherDriverError
	if errors.Is(err, dockerplugin.ErrNoVolume) || errors.As(err, &other) {
		// Docker was told to forget it, and perhaps did when nobody listened any more.
		if note.Given == o.source && note.Aside != "" && (note.Verified || note.Swapped) {
			return errSwapped
		}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", o.source, err)
	}
	busy := func(format string, args ...any) error { return o.fails(volume.CodeInUse, fmt.Errorf(format, args...)) }
	if len(v.Running) > 0 && !o.live {
		return busy("the plain volume is in use by the containers %s: stop them, or make a first pass with --live", strings.Join(v.Running, ", "))
	}
	if users := slices.Concat(v.Running, v.Stopped); len(users) > 0 && o.swap {
		return busy("the containers %s belong to the plain volume for good: remove them (docker compose down), since a container keeps the volume that it was made with", strings.Join(users, ", "))
	}
	if o.retire && !o.swap {
		return o.fails(volume.CodeInvalid, errors.New("its plain volume is in Docker still: --retire-source goes with --swap"))
	}
	// Docker's own directories may be reached by a link; the last two parts are Docker's.
	dir, err := filepath.EvalSymlinks(filepath.Dir(v.Mountpoint))
	if err != nil {
		return err
	}
	p.home = filepath.Join(dir, filepath.Base(v.Mountpoint))
	p.aside = setAside(p.home)
	return nil
}

// setAside is where the plain data of a Docker volume goes that is swapped: the same file system, and out of Docker's sight, which takes every directory
// among its volumes for one.
func setAside(mountpoint string) string {
	name := filepath.Base(filepath.Dir(mountpoint))
	return filepath.Join(filepath.Dir(filepath.Dir(filepath.Dir(mountpoint))), "voluks-plain", name)
}
