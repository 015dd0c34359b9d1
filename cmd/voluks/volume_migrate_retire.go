// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/voluks/voluks/dockerplugin"
	"github.com/voluks/voluks/internal/copytree"
	"github.com/voluks/voluks/internal/headerbackup"
	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/internal/volume"
)

// retire does with the source what was asked for. The copy is verified and durable. Steps, and what a crash after each leaves:
//
//  1. the note says where the plain data goes: nothing else has changed, and the next pass compares all anew
//  2. it is moved there, by its name alone: whoever starts now finds no plain data to write to. The next pass finds it there, and compares all anew
//  3. that nobody has it, and that nothing has changed it since it was copied, is looked at once more; else it is moved back, unless an earlier run had moved
//     it, whose request Docker may be working on still
//  4. Docker forgets its volume, and the note says so: --swap and --retire-source find by the note what is left to be done. Without an answer nothing is
//     moved back, since Docker may be removing what is there
//  5. the rest is removePlain
func (e *env) retire(ctx context.Context, o migration, uuid string, t *migrationTarget, src *plainSource, copied *copytree.Manifest, r *migrateResult) error {
	if !o.swap && !o.retire {
		return nil
	}
	if err := t.write(func(n *migrationNote) { n.Aside = src.aside }); err != nil {
		return err
	}
	e.crash("retire.noted")
	moved := src.path == src.home
	if moved {
		if err := move(src.tree, src.home, src.aside); err != nil {
			return fmt.Errorf("set the plain data aside: %w", err)
		}
	}
	e.crash("retire.aside")
	back := func(err error) error { return errors.Join(err, move(src.tree, src.aside, src.home)) }
	err := o.unused(src.size, src.aside)
	if err == nil {
		err = copied.Unchanged(ctx, src.tree, true)
	}
	if err != nil && moved {
		return back(err)
	}
	if err != nil {
		return fmt.Errorf("%w; the plain data stays at %s", err, src.aside)
	}
	if o.swap {
		err := e.engine().RemoveLocalVolume(context.WithoutCancel(ctx), o.source)
		var refused *dockerplugin.AnswerError
		if errors.As(err, &refused) {
			return back(err)
		}
		if err != nil {
			return fmt.Errorf("%w; whether Docker has forgotten it is not known, so the plain data stays at %s, and the same command goes on", err, src.aside)
		}
		e.crash("retire.forgotten")
		if err := t.write(func(n *migrationNote) { n.Swapped = true }); err != nil {
			return err
		}
		r.Swapped = true
	}
	r.Plain = src.aside
	if !o.retire {
		return nil
	}
	return e.removePlain(ctx, o, uuid, t, copied, r)
}

// move gives a tree another path on its file system, durably, and shows that it was this tree that went there. Nothing is ever replaced.
func move(tree *copytree.Tree, from, to string) error {
	if err := os.Mkdir(filepath.Dir(to), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	source, err := sys.OpenEntry(filepath.Dir(from))
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := sys.OpenEntry(filepath.Dir(to))
	if err != nil {
		return err
	}
	defer target.Close()
	if err := isTree(source, filepath.Base(from), tree); err != nil {
		return err
	}
	if err := source.RenameTo(filepath.Base(from), target, filepath.Base(to)); err != nil {
		return err
	}
	if err := isTree(target, filepath.Base(to), tree); err != nil { // it was replaced at that moment
		return errors.Join(err, target.RenameTo(filepath.Base(to), source, filepath.Base(from)))
	}
	return errors.Join(target.Sync(), source.Sync())
}

// isTree shows that a name in a directory is a tree's root.
func isTree(dir *sys.Entry, name string, tree *copytree.Tree) error {
	e, err := dir.Child(name)
	if err != nil {
		return err
	}
	defer e.Close()
	if e.Inode.Dev != tree.Root.Inode.Dev || !e.Inode.Same(tree.Root.Inode) {
		return fmt.Errorf("%s is another directory by now", e.Name())
	}
	return nil
}

// removePlain removes plain data that was set aside. Steps, and what a crash after each leaves:
//
//  1. the note says that it is being removed: no pass takes what is left of it for a source, and the same command goes on
//  2. it gets a name that says so, and becomes root's alone
//  3. that nobody has it is looked at once more
//  4. what is in the manifest is removed, by what it is, and then the empty directory: the same command goes on with the rest
//  5. the receipt is kept, and what was known of the migration forgotten
func (e *env) removePlain(ctx context.Context, o migration, uuid string, t *migrationTarget, copied *copytree.Manifest, r *migrateResult) error {
	began := time.Now()
	path := t.removing()
	if !t.Removing {
		if err := t.write(func(n *migrationNote) { n.Removing = true }); err != nil {
			return err
		}
	}
	e.crash("retire.removing")
	receipt := &plainReceipt{
		How:     headerbackup.LogicalOnly,
		Reasons: []string{"files were removed, not overwritten: what was in them stays on the disk until something else is written there, and longer in journals, snapshots and SSDs"},
		Advice:  []string{"if that matters, encrypt or destroy the disk that had " + t.Source},
	}
	tree, err := t.locked(path)
	if err != nil {
		return err
	}
	e.crash("retire.locked")
	if tree == nil {
		if err := t.notHome(); err != nil {
			return err
		}
	}
	if tree != nil {
		defer tree.Close()
		size, err := tree.Measure(ctx)
		if err != nil {
			return err
		}
		if err := o.unused(size, path); err != nil {
			return err
		}
		if receipt.Removal, err = copied.Remove(ctx, tree); err != nil {
			return err
		}
		if kept := receipt.Kept; len(kept) > 0 {
			return o.fails(volume.CodeInUse, fmt.Errorf("%d names of the plain data are not what was copied and verified, and stay: %s", len(kept), kept[:min(len(kept), shownPaths)]))
		}
		e.crash("retire.emptied")
		if err := unlinkDir(path); err != nil {
			return err
		}
		e.crash("retire.gone")
	}
	text, err := json.MarshalIndent(map[string]any{"volume": t.name, "uuid": uuid, "source": t.Source, "began": began.UTC(), "receipt": receipt}, "", "\t")
	if err == nil {
		err = t.m.KeepReceipt(uuid, "retire-source", time.Now().UTC(), text)
	}
	if err != nil {
		e.warn("the receipt could not be kept: %v", err)
	}
	e.crash("retire.receipt")
	r.Plain, r.Receipt = "", receipt
	return t.forget()
}

// locked holds the plain data that is to be removed, under its last name, and lets nobody but root in any more; nil if it is gone.
func (t *migrationTarget) locked(path string) (*copytree.Tree, error) {
	at := path
	if ok, err := exists(path); err != nil {
		return nil, err
	} else if !ok {
		at = t.Aside
		if ok, err := exists(at); err != nil || !ok {
			return nil, err
		}
	}
	tree, err := copytree.Open(at)
	if err != nil {
		return nil, err
	}
	fail := func(err error) (*copytree.Tree, error) { return nil, errors.Join(err, tree.Close()) }
	id, err := identify(tree)
	if err != nil {
		return fail(err)
	}
	if !t.ID.is(id) || tree.Root.Inode.MountRoot {
		return fail(fmt.Errorf("%s is not the directory that was copied: it stays", at))
	}
	if at != path {
		if err := move(tree, at, path); err != nil {
			return fail(err)
		}
		if err := tree.Close(); err != nil {
			return nil, err
		}
		return t.locked(path) // with its new name in messages
	}
	if err := errors.Join(tree.Root.SetOwner(0, 0), tree.Root.SetMode(0o700)); err != nil {
		return fail(err)
	}
	return tree, nil
}

// notHome shows that nobody has moved the plain data back: what is not where it was set aside is not gone for that.
func (t *migrationTarget) notHome() error {
	if ok, err := exists(t.Source); err != nil || !ok {
		return err
	}
	tree, err := copytree.Open(t.Source)
	if err != nil {
		return err
	}
	id, err := identify(tree)
	if err = errors.Join(err, tree.Close()); err != nil {
		return err
	}
	if t.ID.is(id) {
		return fmt.Errorf("what is left of the plain data is at %s again: move it to %s, or remove it yourself", t.Source, t.Aside)
	}
	return nil
}

// unlinkDir removes an empty directory, durably.
func unlinkDir(path string) error {
	dir, err := sys.OpenEntry(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := dir.Unlink(filepath.Base(path), true); err != nil {
		return err
	}
	return dir.Sync()
}

// swapped is the end of a --swap whose answer from Docker nobody heard.
func (e *env) swapped(ctx context.Context, o migration, uuid string, t *migrationTarget) error {
	if !o.swap {
		return fmt.Errorf("%s: %w: it is the encrypted volume now, and the plain data was set aside at %s", o.source, dockerplugin.ErrNoVolume, t.Aside)
	}
	if err := t.write(func(n *migrationNote) { n.Swapped = true }); err != nil {
		return err
	}
	r := migrateResult{Volume: o.name, Source: t.Source, Verified: t.Verified, Swapped: true}
	if ok, err := exists(t.Aside); err != nil {
		return err
	} else if ok {
		r.Plain = t.Aside
	}
	if o.retire && r.Plain != "" {
		copied, err := t.manifest()
		if err != nil {
			return fmt.Errorf("read the manifest of the copy: %w", err)
		}
		if err := e.retireChecked(ctx, o, uuid, t, t.Aside, copied, &r); err != nil {
			return o.failed(err)
		}
	}
	return e.print(r, func(w io.Writer) { migrateText(w, o, r) })
}
