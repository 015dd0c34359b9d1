// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"syscall"
	"time"

	"github.com/voluks/voluks/internal/copytree"
	"github.com/voluks/voluks/internal/volume"
)

// volumeMigrate is one pass, or the end of an earlier one. A crash amid it leaves the source as it was and a volume with some of the data, whose record says
// so, and into which the next pass goes on. Steps, and what a crash after each leaves:
//
//  1. the volume is made, if it is not there: an empty volume
//  2. it is mounted for this process alone: a holder that has ended
//  3. the record says that its data is not whole: nobody else gets it until 6
//  4. the note in it says where the data comes from, and that nothing is verified: the next pass from there goes on
//  5. all is copied, durable, verified; the manifest and then the note say so: the next pass finds nothing to do
//  6. the record says that it is whole
//
// What the end of the last pass leaves is said at retire.
func (e *env) volumeMigrate(ctx context.Context, o migration) (err error) {
	if o.retire {
		question := fmt.Sprintf("Remove the plain data of %s once the copy is verified?", o.source)
		if err := e.confirm(ctx, o.force, question, "voluks volume migrate --retire-source --force "+o.again()); err != nil {
			return err
		}
	}
	given, err := o.given() // before the working directory is left
	if err != nil {
		return err
	}
	short, cancel, m, err := e.operator(ctx, volume.Defaults{})
	if err != nil {
		return err
	}
	defer cancel()
	info, err := m.Inspect(short, o.name)
	there := err == nil && info.Finished()
	if err != nil && !errors.Is(err, volume.ErrNotFound) {
		return err
	}
	var t *migrationTarget
	defer func() {
		if t != nil {
			err = errors.Join(err, t.close(ctx))
		}
	}()
	if there {
		if o.retire && info.Migrating == nil {
			done, err := e.retireLate(ctx, m, o, info.UUID, given)
			if done || err != nil {
				return err
			}
		}
		if t, err = e.openTarget(ctx, m, o.name, true); err != nil {
			return err
		}
		if t.Removing {
			return o.fails(volume.CodeInUse, fmt.Errorf("the plain data is being removed, and what is left of it at %s is no source: --retire-source removes the rest", t.removing()))
		}
	}
	note := &migrationNote{}
	if t != nil {
		note = &t.migrationNote
	}
	src, err := e.plainData(ctx, o, given, note)
	if errors.Is(err, errSwapped) {
		return e.swapped(ctx, o, info.UUID, t)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, src.tree.Close()) }()
	if src.size, err = src.tree.Measure(ctx); err != nil {
		return o.failed(err)
	}
	if !o.live {
		if err := o.unused(src.size, src.path); err != nil {
			return err
		}
	}
	if t == nil {
		if info, err = e.migrationVolume(ctx, o, src.size); err != nil {
			return err
		}
		e.crash("migrate.made")
		if t, err = e.openTarget(ctx, m, o.name, true); err != nil {
			return err
		}
	}
	if err := o.mayPass(ctx, t, src, info.Migrating != nil); err != nil {
		return err
	}
	e.crash("migrate.mounted")
	return e.pass(ctx, o, info.UUID, given, t, src)
}

// pass copies, and verifies unless the source may be in use; then it does with the source what was asked for.
func (e *env) pass(ctx context.Context, o migration, uuid, given string, t *migrationTarget, src *plainSource) error {
	result := migrateResult{Volume: o.name, Source: src.home, Pass: "live", Plain: src.path}
	began := time.Now()
	if err := t.short(ctx, func(ctx context.Context) error { return t.m.BeginMigration(ctx, t.name, o.source) }); err != nil {
		return err
	}
	e.crash("migrate.begun")
	err := t.write(func(n *migrationNote) {
		// Where the data was set aside stays: what is there now may be the source.
		*n = migrationNote{Given: given, Source: src.home, ID: src.id, Files: n.Files, Bytes: n.Bytes, Aside: n.Aside}
	})
	if err != nil {
		return o.failed(err)
	}
	e.crash("migrate.noted")
	copied, err := e.copy(ctx, o, src, t.data)
	if err != nil {
		return o.failed(err)
	}
	result.Copy = copied.Stats
	e.crash("migrate.copied")
	if !o.live {
		if err := t.keepManifest(copied); err != nil {
			return o.failed(fmt.Errorf("keep the manifest of the copy: %w", err))
		}
	}
	e.crash("migrate.manifest")
	err = t.write(func(n *migrationNote) {
		n.Files, n.Bytes, n.Verified, n.Ended = copied.Stats.Files, copied.Stats.Bytes, !o.live, time.Now().UTC()
	})
	if err != nil {
		return o.failed(err)
	}
	e.crash("migrate.verified")
	if !o.live {
		if err := t.short(ctx, func(ctx context.Context) error { return t.m.EndMigration(ctx, t.name) }); err != nil {
			return err
		}
		e.crash("migrate.ended")
		result.Pass, result.Verified = "final", true
		if err := e.retire(ctx, o, uuid, t, src, copied, &result); err != nil {
			return o.failed(err)
		}
	}
	result.Seconds = time.Since(began).Seconds()
	return e.print(result, func(w io.Writer) { migrateText(w, o, result) })
}

// short runs an operation on the volume, which has a deadline, unlike a pass.
func (t *migrationTarget) short(ctx context.Context, op func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	return op(ctx)
}

func (e *env) copy(ctx context.Context, o migration, src *plainSource, data *copytree.Tree) (*copytree.Manifest, error) {
	show := func(what string) (func(int64), func()) {
		line := &progressLine{e: e, what: what, every: tellEvery}
		return func(done int64) {
			e.crash("migrate." + what)
			line.show(min(done, src.size.Bytes), src.size.Bytes)
		}, line.end
	}
	copying, end := show("copy")
	defer end()
	verifying, end := show("verify")
	defer end()
	options := copytree.Options{Live: o.live, Since: src.size.At, Progress: copying, Verified: verifying}
	if o.live {
		return copytree.Copy(ctx, src.tree, data, options)
	}
	copied, _, err := copytree.CopyVerified(ctx, src.tree, data, options)
	return copied, err
}

// migrationVolume makes the volume. No option of it counts as given, so that a Compose file that says no more than "driver: voluks" finds it as it is.
func (e *env) migrationVolume(ctx context.Context, o migration, size *copytree.Size) (volume.Info, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	cfg, err := e.loadConfig()
	if err != nil {
		return volume.Info{}, err
	}
	d := defaults(cfg)
	spec, err := volume.ParseOptions(o.name, o.options, d)
	if err != nil {
		return volume.Info{}, err
	}
	if spec.Ephemeral {
		return volume.Info{}, o.fails(volume.CodeInvalid, errors.New("an ephemeral volume forgets its data at the next reboot"))
	}
	if !slices.Contains(spec.Given, "size") {
		const grain, least = 64 << 20, 384 << 20 // the least that xfs takes, and some
		const perFile = 20 << 10                 // ext4 makes an inode for each 16 KiB
		need := max(2*size.Allocated, perFile*int64(size.Files))
		spec.Size = max(least, (need+grain)/grain*grain)
	}
	spec.Given = nil
	info, _, err := e.manager(e.quiet(), d).Create(ctx, spec)
	return info, err
}

// mayPass lets a pass work on a volume that is empty, or was filled by passes from the same source, and by nobody since: a pass removes what the source does
// not have. unfinished says that the record does not let anybody else have it.
func (o migration) mayPass(ctx context.Context, t *migrationTarget, src *plainSource, unfinished bool) error {
	refuse := func(format string, args ...any) error {
		return o.fails(volume.CodeInUse, fmt.Errorf(format, args...))
	}
	if src.tree.Root.Inode.Dev == t.data.Root.Inode.Dev {
		return o.fails(volume.CodeInvalid, fmt.Errorf("%s lies in the volume itself", src.path))
	}
	if !t.noted {
		names, err := t.data.Root.Names()
		if err == nil && len(names) > 0 {
			err = refuse("the volume has data that no migration has put into it: choose another name")
		}
		return err
	}
	if o.overwrite {
		return nil
	}
	if !t.ID.is(src.id) {
		return refuse("%s is not the source of the earlier passes, which came from another directory or disk (%s): is a disk not mounted, or was it made anew? "+
			"A pass from here loses what the volume has (--overwrite)", src.path, t.Source)
	}
	if src.size.Files < t.Files/2 || src.size.Bytes < t.Bytes/2 {
		return refuse("%s has %d files and %d bytes, and had %d and %d at the last pass: a pass now loses what is missing there (--overwrite)",
			src.path, src.size.Files, src.size.Bytes, t.Files, t.Bytes)
	}
	if !t.Verified {
		if !unfinished {
			return refuse("the record of the volume does not know that its migration was unfinished, so others may have written into it: a pass loses that (--overwrite)")
		}
		return nil
	}
	touched, err := t.touched(ctx)
	if err == nil && touched != "" {
		err = refuse("%s has been written since the copy was verified: another pass loses that (--overwrite)", touched)
	}
	return err
}

// touched finds something of the verified copy that is not as it was left; "" if there is nothing.
func (t *migrationTarget) touched(ctx context.Context) (string, error) {
	copied, err := t.manifest()
	if err != nil {
		return "", fmt.Errorf("read the manifest of the copy: %w", err)
	}
	return copied.Touched(ctx, t.data)
}

// unused refuses a source that something uses.
func (o migration) unused(size *copytree.Size, src string) error {
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
	var is *volume.Error
	var changed *copytree.ChangedError
	var mounted *copytree.MountedError
	var differs *copytree.DiffersError
	var stale *copytree.StaleError
	switch {
	case errors.As(err, &is):
		return err
	case errors.As(err, &changed), errors.As(err, &mounted), errors.Is(err, fs.ErrNotExist):
		return o.fails(volume.CodeInUse, err)
	case errors.As(err, &differs), errors.As(err, &stale), errors.Is(err, syscall.EIO):
		return o.fails(volume.CodeDamaged, err)
	case errors.Is(err, syscall.ENOSPC):
		return o.fails(volume.CodeNoSpace, err)
	}
	return err
}
