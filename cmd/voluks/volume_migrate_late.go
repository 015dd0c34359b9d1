// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/voluks/voluks/internal/copytree"
	"github.com/voluks/voluks/internal/volume"
)

// retireLate removes the plain data of a volume that was verified by an earlier pass, and may be in use since; so it shares the volume with its users. false
// says that this is not such a case, and that a pass is wanted: the volume is as that pass has left it, or there was none.
//
// The plain data goes only if it is the directory that was copied, nobody has it, nothing is mounted in it, nothing has changed it since, the volume opens and
// is proven, and all that nobody has written in the volume since reads back as what was copied.
func (e *env) retireLate(ctx context.Context, m *volume.Manager, o migration, uuid, given string) (done bool, err error) {
	t, err := e.openTarget(ctx, m, o.name, false)
	if err != nil {
		return false, err
	}
	defer func() {
		if closed := t.close(ctx); done { // else the pass finds out that somebody has it
			err = errors.Join(err, closed)
		}
	}()
	path, err := t.plainPath(ctx, o, given)
	if err != nil || path == "" && !t.Removing {
		return err != nil, err
	}
	copied, err := t.manifest()
	if err != nil {
		return true, fmt.Errorf("read the manifest of the copy: %w", err)
	}
	r := migrateResult{Volume: o.name, Source: t.Source, Verified: true, Swapped: t.Swapped}
	if err := e.retireChecked(ctx, o, uuid, t, path, copied, &r); err != nil {
		return true, o.failed(err)
	}
	return true, e.print(r, func(w io.Writer) { migrateText(w, o, r) })
}

// plainPath is where the plain data of a verified copy is that can be removed without another pass; "" if there is none.
func (t *migrationTarget) plainPath(ctx context.Context, o migration, given string) (string, error) {
	if !t.noted || !t.Verified || given != t.Given {
		return "", nil
	}
	if t.Removing {
		ok, err := exists(t.removing())
		if err != nil || ok {
			return t.removing(), err
		}
		ok, err = exists(t.Aside)
		if err != nil || !ok {
			return "", err
		}
		return t.Aside, nil
	}
	home, err := exists(t.Source)
	if err != nil {
		return "", err
	}
	aside := false
	if t.Aside != "" {
		if aside, err = exists(t.Aside); err != nil {
			return "", err
		}
	}
	switch {
	case aside && (t.Swapped || !home && !o.docker):
		return t.Aside, nil
	case o.docker, aside, !home:
		return "", nil // the pass says what is wrong
	}
	touched, err := t.touched(ctx)
	if err != nil || touched == "" {
		return "", err
	}
	return t.Source, nil
}

func (e *env) retireChecked(ctx context.Context, o migration, uuid string, t *migrationTarget, path string, copied *copytree.Manifest, r *migrateResult) error {
	recheck, err := copied.Recheck(ctx, t.data)
	if err != nil {
		return err
	}
	// Somebody may have emptied the volume, and one file that nobody has touched says nothing of the others.
	if r.Recheck = &recheck; recheck.Verified == 0 && recheck.Changed > 0 || recheck.Gone > recheck.Verified+recheck.Changed {
		return o.fails(volume.CodeInUse, fmt.Errorf("little in the volume is as it was copied (%d files are, %d were written since, %d are gone): whether the plain data is needed is for you to say; it is at %s",
			recheck.Verified, recheck.Changed, recheck.Gone, path))
	}
	if path == "" || t.Removing {
		return e.removePlain(ctx, o, uuid, t, copied, r)
	}
	tree, err := copytree.Open(path)
	if err != nil {
		return err
	}
	defer tree.Close()
	id, err := identify(tree)
	if err != nil {
		return err
	}
	if !t.ID.is(id) {
		return o.fails(volume.CodeInUse, fmt.Errorf("%s is not the directory that was copied: it stays", path))
	}
	src := &plainSource{path: path, home: t.Source, aside: t.Aside, tree: tree, id: id}
	if t.Aside == "" {
		src.aside = t.Source + asideName
	}
	if path == t.Source {
		if err := e.mayRetire(o, src); err != nil {
			return err
		}
	}
	if src.size, err = tree.Measure(ctx); err != nil {
		return err
	}
	if err := o.unused(src.size, path); err != nil {
		return err
	}
	// At its first place the root is what it was too; where it was set aside it has another name, which some file systems note as a change.
	if err := copied.Unchanged(ctx, tree, path != t.Source); err != nil {
		return err
	}
	if path == t.Source {
		if err := t.write(func(n *migrationNote) { n.Aside = src.aside }); err != nil {
			return err
		}
		if err := move(tree, path, src.aside); err != nil {
			return fmt.Errorf("set the plain data aside: %w", err)
		}
		if err := errors.Join(o.unused(src.size, src.aside), copied.Unchanged(ctx, tree, true)); err != nil {
			return errors.Join(err, move(tree, src.aside, path))
		}
	}
	return e.removePlain(ctx, o, uuid, t, copied, r)
}
