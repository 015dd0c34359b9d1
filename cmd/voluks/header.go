// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/voluks/voluks/internal/headerbackup"
	"github.com/voluks/voluks/internal/recovery"
	"github.com/voluks/voluks/internal/volume"
	"github.com/voluks/voluks/keyslot"
	"github.com/voluks/voluks/luks"
	"github.com/voluks/voluks/luks/header"
)

func headerCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:  "header",
		Usage: "LUKS headers and their backups",
		Description: `Without its header nothing opens a volume. A backup of it is taken by itself
whenever a header changes, under /var/lib/voluks/backups and in the second
directory that the configuration names, and older ones are destroyed when keys
are rotated: an old header and an old key open a volume again.

Backups are encrypted to the recovery recipients. This node cannot open them;
restoring one needs the recovery identity.`,
		Subcommands: []*cli.Command{headerBackupCommand(e), headerLsCommand(e), headerCheckCommand(e), headerRestoreCommand(e)},
	}
}

// target is what a command about headers was told: a volume of this node, or a device by its path.
type target struct {
	arg    string
	volume string // its name; "": it is none of this node's
	uuid   string // "": the device has no readable header
	device *luks.Container
	header *header.Header // of the device
	err    error          // why the device has none
}

// isPath tells a device or an image from the name of a volume, in which a slash cannot be.
func isPath(arg string) bool { return strings.Contains(arg, "/") }

// target finds out what a name, a path or a UUID stands for. A device without a readable header is no error here.
func (e *env) target(ctx context.Context, arg string) (target, error) {
	t := target{arg: arg}
	if isPath(arg) {
		t.device = luks.Foreign(arg)
		if t.header, t.err = t.device.Header(); t.err == nil {
			t.uuid = t.header.UUID
		}
		if errors.Is(t.err, header.ErrLUKS1) {
			return t, &luks1Error{arg}
		}
		if errors.Is(t.err, fs.ErrNotExist) {
			return t, deviceError("read", arg, t.err)
		}
		return t, e.notOurs(ctx, t)
	}
	info, err := e.manager(e.quiet(), volume.Defaults{}).Inspect(ctx, arg)
	if err == nil {
		t.volume, t.uuid = info.Name, info.UUID
		return t, nil
	}
	if adopted, err := e.adopted(arg); err == nil {
		t.uuid = adopted.UUID
		return t, nil
	}
	return t, err
}

// luks1Error is a device in the old format, which has no room for tokens, and whose slots cannot be changed without a moment in which none is good. F30
type luks1Error struct{ device string }

func (e *luks1Error) Error() string {
	return e.device + " is LUKS1; voluks handles LUKS2 alone"
}

// notOurs refuses the path of a volume of this node: whoever names the volume gets its lock, and its one door.
func (e *env) notOurs(ctx context.Context, t target) error {
	m := e.manager(e.quiet(), volume.Defaults{})
	infos, err := m.List(ctx)
	if err != nil {
		return err
	}
	path, err := filepath.EvalSymlinks(t.arg)
	if err != nil {
		return err
	}
	if path, err = filepath.Abs(path); err != nil {
		return err
	}
	for _, info := range infos {
		dir, err := filepath.EvalSymlinks(e.paths().VolumeDir(info.Name))
		inside := err == nil && strings.HasPrefix(path, dir+"/")
		if inside || t.uuid != "" && info.UUID == t.uuid {
			return &volume.Error{Code: volume.CodeInvalid, Op: "open " + t.arg, Err: fmt.Errorf("it is the volume %q of this node: name that instead of its path", info.Name)}
		}
	}
	return nil
}

// deviceError gives what went wrong on a device the form of the errors of volumes, which have hints and exit statuses.
func deviceError(op, device string, err error) error {
	var strict *header.StrictError
	code := volume.CodeOf(err)
	switch {
	case err == nil, code != volume.CodeInternal:
		return err
	case errors.Is(err, header.ErrNotLUKS), errors.Is(err, header.ErrLUKS1), errors.As(err, &strict), errors.Is(err, headerbackup.ErrOther), errors.Is(err, luks.ErrKeyLength),
		errors.Is(err, luks.ErrSlotOccupied), errors.Is(err, luks.ErrLastSlot), errors.Is(err, keyslot.ErrManaged):
		code = volume.CodeInvalid
	case errors.Is(err, luks.ErrWrongKey), errors.Is(err, recovery.ErrWrongIdentity):
		code = volume.CodeLocked
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, headerbackup.ErrNone), errors.Is(err, luks.ErrNoSlot):
		code = volume.CodeNotFound
	case errors.Is(err, luks.ErrBusy):
		code = volume.CodeBusy
	case errors.Is(err, header.ErrDamaged), errors.Is(err, headerbackup.ErrDamaged), errors.Is(err, headerbackup.ErrUnreadable), errors.Is(err, headerbackup.ErrUnusual):
		code = volume.CodeDamaged
	case exitCode(err) != exitFailure: // it says enough by itself
		return err
	default:
		return fmt.Errorf("%s %s: %w", op, device, err)
	}
	return &volume.Error{Code: code, Op: op + " " + device, Err: err}
}

// backupStore opens the backups of this node, with its keyring if there is one: looking at backups needs none.
func (e *env) backupStore() (*headerbackup.Store, *keyslot.Keyring, error) {
	k := &keyslot.Keyring{}
	cfg, err := e.loadConfig()
	var setup *setupError
	switch {
	case errors.As(err, &setup):
		s, err := volume.HeaderBackups{Dir: e.backups().Dir}.Store(k)
		return s, k, err
	case err != nil:
		return nil, nil, err
	}
	if k, err = keyslot.OpenKeyring(cfg); err != nil {
		return nil, nil, err
	}
	s, err := e.backups().Store(k)
	return s, k, err
}
