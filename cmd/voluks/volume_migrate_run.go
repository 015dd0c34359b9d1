// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/voluks/voluks/internal/copytree"
	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/internal/volume"
)

const (
	// holderMigrate keeps the volume mounted during a pass.
	holderMigrate = "migrate"
	// migrateOp is what its errors say was being done.
	migrateOp = "migrate"
)

// volumeMigrate is one pass. A crash amid it leaves the source as it was and a volume with some of the data, into which the next pass goes on: the note of
// where it came from is durable before anything is copied. What the end of the last pass leaves is said at retire.
func (e *env) volumeMigrate(ctx context.Context, o migration) (err error) {
	began := time.Now()
	if o.retire {
		question := fmt.Sprintf("Remove the plain data of %s once the copy is verified?", o.source)
		if err := e.confirm(ctx, o.force, question, "voluks volume migrate --retire-source --force "+o.source); err != nil {
			return err
		}
	}
	src, err := e.plainData(ctx, o)
	if errors.Is(err, errNoSource) {
		return e.retireSwapped(ctx, o, err)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, src.close()) }()
	size, err := copytree.Measure(ctx, src.path)
	if err != nil {
		return fmt.Errorf("look at the source: %w", err)
	}
	if !o.live {
		if err := o.unused(size, src.path); err != nil {
			return err
		}
	}
	short, cancel, m, err := e.operator(ctx, volume.Defaults{})
	if err != nil {
		return err
	}
	defer cancel()
	info, err := e.migrationVolume(short, m, o, size)
	if err != nil {
		return err
	}
	note, err := e.lockMigrations(info.UUID)
	if errors.Is(err, sys.ErrLocked) {
		return o.fails(volume.CodeBusy, errors.New("another migration into it is underway"))
	}
	if err != nil {
		return err
	}
	defer note.close()
	result := migrateResult{Volume: o.name, Source: src.home, Pass: "live", Plain: src.path}
	if src.disk {
		result.Plain = src.home
	}
	if note.Removing && src.path == src.aside {
		return e.retireRest(o, note, &result)
	}
	start, err := sys.ProcessStart(os.Getpid())
	if err != nil {
		return err
	}
	data, err := m.Mount(short, o.name, volume.Holder{ID: holderMigrate, Kind: volume.HolderCLI, PID: os.Getpid(), Start: start, Comm: "voluks"})
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commandTime)
		defer cancel()
		err = errors.Join(err, m.Unmount(ctx, o.name, holderMigrate))
	}()
	if err := o.mayOverwrite(ctx, note, src.home, data); err != nil {
		return err
	}
	if err := note.write(func(n *migrationNote) { *n = migrationNote{Source: src.home} }); err != nil {
		return err
	}
	copied, err := e.pass(ctx, o, src, data, size)
	if err != nil {
		return o.failed(err)
	}
	result.Copy = copied.Stats
	if err := o.alone(ctx, m); err != nil {
		return err
	}
	if err := note.write(func(n *migrationNote) { n.Ended = time.Now() }); err != nil {
		return err
	}
	if !o.live {
		result.Pass, result.Verified = "final", true
		if err := e.retire(ctx, o, src, size, copied, note, &result); err != nil {
			return o.failed(err)
		}
	}
	result.Seconds = time.Since(began).Seconds()
	return e.print(result, func(w io.Writer) { migrateText(w, o, result) })
}

// pass copies, and verifies unless the source may be in use.
func (e *env) pass(ctx context.Context, o migration, src plainSource, data string, size copytree.Size) (*copytree.Manifest, error) {
	show := func(what string) (func(int64), func()) {
		line := &progressLine{e: e, what: what, every: tellEvery}
		return func(done int64) { line.show(min(done, size.Bytes), size.Bytes) }, line.end
	}
	copying, end := show("copy")
	defer end()
	verifying, end := show("verify")
	defer end()
	options := copytree.Options{Live: o.live, Progress: copying, Verified: verifying, FileSystem: src.disk}
	if o.live {
		return copytree.Copy(ctx, src.path, data, options)
	}
	copied, _, err := copytree.CopyVerified(ctx, src.path, data, options)
	return copied, err
}

// migrationVolume makes the volume, or finds it. No option of it counts as given, so that a Compose file that says no more than "driver: voluks" finds the
// volume as it is.
func (e *env) migrationVolume(ctx context.Context, m *volume.Manager, o migration, size copytree.Size) (volume.Info, error) {
	info, err := m.Inspect(ctx, o.name)
	if err == nil && info.Finished() {
		return info, o.alone(ctx, m)
	}
	if err != nil && !errors.Is(err, volume.ErrNotFound) {
		return info, err
	}
	cfg, err := e.loadConfig()
	if err != nil {
		return info, err
	}
	d := defaults(cfg)
	spec, err := volume.ParseOptions(o.name, o.options, d)
	if err != nil {
		return info, err
	}
	if !slices.Contains(spec.Given, "size") {
		const grain, least = 64 << 20, 384 << 20 // the least that xfs takes, and some
		const perFile = 20 << 10                 // ext4 makes an inode for each 16 KiB
		need := max(2*size.Allocated, perFile*int64(size.Files))
		spec.Size = max(least, (need+grain)/grain*grain)
	}
	spec.Given = nil
	info, _, err = e.manager(e.quiet(), d).Create(ctx, spec)
	return info, err
}

// alone refuses a volume that somebody else has mounted.
func (o migration) alone(ctx context.Context, m *volume.Manager) error {
	info, err := m.Inspect(ctx, o.name)
	if err != nil {
		return err
	}
	others := slices.DeleteFunc(info.Holders, func(h volume.Holder) bool { return h.ID == holderMigrate })
	if len(others) > 0 {
		return o.fails(volume.CodeInUse, &volume.HeldError{Holders: others})
	}
	return nil
}

// mayOverwrite lets a pass work on a volume that is empty or was filled by an earlier pass from the same source, and by nobody since: a pass removes what the
// source does not have.
func (o migration) mayOverwrite(ctx context.Context, note *migrations, src, data string) error {
	if src != note.Source {
		names, err := os.ReadDir(data)
		if err == nil && len(names) > 0 {
			err = o.fails(volume.CodeInUse, errors.New("the volume has data that no migration from there has put into it: choose another name"))
		}
		return err
	}
	if note.Ended.IsZero() || o.overwrite {
		return nil
	}
	path, err := copytree.ChangedAfter(ctx, data, note.Ended)
	if err == nil && path != "" {
		err = o.fails(volume.CodeInUse, fmt.Errorf("%s has been written since the last pass ended: another pass loses that (--overwrite)", path))
	}
	return err
}

// unused refuses a source that something uses.
func (o migration) unused(size copytree.Size, src string) error {
	users, err := size.Users(src)
	if err == nil && len(users) > 0 {
		err = o.fails(volume.CodeInUse, fmt.Errorf("%s is in use by %s: stop it, or make a first pass with --live", src, users[0]))
	}
	return err
}

func (o migration) fails(code volume.Code, err error) error {
	return &volume.Error{Code: code, Op: migrateOp, Volume: o.name, Err: err}
}

// failed says what kind of failure an error of copying is.
func (o migration) failed(err error) error {
	var changed *copytree.ChangedError
	var differs *copytree.DiffersError
	var stale *copytree.StaleError
	switch {
	case errors.As(err, &changed):
		return o.fails(volume.CodeInUse, err)
	case errors.As(err, &differs), errors.As(err, &stale), errors.Is(err, syscall.EIO):
		return o.fails(volume.CodeDamaged, err)
	case errors.Is(err, syscall.ENOSPC):
		return o.fails(volume.CodeNoSpace, err)
	case errors.Is(err, fs.ErrNotExist) && !o.live:
		return o.fails(volume.CodeInUse, err)
	}
	return err
}
