// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"github.com/voluks/voluks/internal/headerbackup"
	"github.com/voluks/voluks/internal/recovery"
	"github.com/voluks/voluks/internal/volume"
	"github.com/voluks/voluks/keyslot"
)

func headerBackupCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:      "backup",
		Usage:     "back up a LUKS header now",
		ArgsUsage: "NAME|DEVICE",
		Description: `Takes a backup of the header and destroys older ones. For a volume of this
node that happens by itself whenever its header changes; by hand it is for
another LUKS2 device, or after a second directory was configured. The volume
may be open.

   voluks header backup db
   voluks header backup /dev/sdb1`,
		Action: func(c *cli.Context) error {
			args, err := arguments(c, "NAME|DEVICE")
			if err != nil {
				return err
			}
			return e.headerBackup(c.Context, args[0])
		},
	}
}

func (e *env) headerBackup(ctx context.Context, arg string) error {
	t, err := e.target(ctx, arg)
	if err != nil {
		return err
	}
	var report *headerbackup.Report
	switch {
	case t.volume != "":
		ctx, cancel, m, err := e.operator(ctx, volume.Defaults{})
		if err != nil {
			return err
		}
		defer cancel()
		report, err = m.BackUpHeader(ctx, t.volume)
		if report == nil || err != nil && report.Kept == "" {
			return err
		}
		if err != nil {
			e.warn("%v", err)
		}
	case t.device == nil:
		return &usageError{"voluks header backup", arg + " is an adopted device: name its path, such as /dev/disk/by-uuid/" + t.uuid}
	case t.err != nil:
		return deviceError("back up the header of", arg, t.err)
	default:
		_, k, err := e.backupStore()
		if err != nil {
			return err
		}
		if len(k.Recipients) == 0 {
			return deviceError("back up the header of", arg, recoveryMissing)
		}
		if err := e.makeState(); err != nil {
			return err
		}
		if report, err = e.backups().Renew(k, arg, t.uuid); report == nil {
			return deviceError("back up the header of", arg, err)
		}
		if err != nil {
			e.warn("%v", err)
		}
	}
	e.warnUnreached(report)
	return e.print(report, func(w io.Writer) {
		fmt.Fprintf(w, "backed up the header of %s as %s\n", arg, report.Kept)
		if n := len(report.Destroyed); n > 0 {
			fmt.Fprintf(w, "%d older destroyed\n", n)
		}
	})
}

var recoveryMissing = &volume.Error{Code: volume.CodeNoRecovery, Op: "back up", Err: recovery.ErrNoRecipient}

func (e *env) warnUnreached(report *headerbackup.Report) {
	if report == nil {
		return
	}
	for _, gone := range report.Unreached {
		e.warn("an older header backup could not be destroyed: %s in %s: %s", gone.Name, gone.Dir, gone.Why)
	}
}

// renewBackup follows a change of the header of a device: a device that this node has backups of, or whose key it has, gets a new one, and the older ones
// are destroyed. A device of which the node has nothing is left at that.
func (e *env) renewBackup(k *keyslot.Keyring, device, uuid string, ours bool) {
	s, err := e.backups().Store(k)
	if err == nil {
		err = e.makeState()
	}
	if err == nil && !ours {
		var list []headerbackup.Backup
		if list, err = s.List(uuid); err == nil && len(list) == 0 {
			return
		}
	}
	var report *headerbackup.Report
	if err == nil {
		report, err = e.backups().Renew(k, device, uuid)
	}
	if err != nil {
		e.warn("header backup of %s: %v", device, err)
	}
	e.warnUnreached(report)
}
