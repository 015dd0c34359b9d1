// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"github.com/voluks/voluks/internal/headerbackup"
	"github.com/voluks/voluks/internal/recovery"
	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/internal/volume"
	"github.com/voluks/voluks/luks/header"
)

func headerRestoreCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:      "restore",
		Usage:     "put a backup of the LUKS header back",
		ArgsUsage: "NAME|DEVICE",
		Description: `Writes the newest whole backup, or the one that --from names, over the header
of a volume that is closed, and reads it back. The backup is encrypted to the
recovery identity, so that is needed: from a file, from standard input, or
typed. What is there is backed up first. A restore that was interrupted is
repeated.

A backup of another volume is refused. One that is older than the volume had
reached would revive keys that were retired since: it is restored only when
that is agreed to, or with --accept-older, and the volume is then refused by
everything but "voluks volume mount --accept-older-header", which rotates its
keys at once.

A device whose header is gone does not tell which one it is: --uuid says so,
and it asks before it overwrites what is there.

   voluks header restore --recovery-identity /run/identity db
   voluks header restore --uuid 0f6bd0a6-1a5c-4a49-9d15-6f8a3c5b2e11 /dev/sdb1`,
		Flags: []cli.Flag{
			recoveryIdentityFlag(),
			&cli.StringFlag{Name: "from", Usage: "this backup `FILE`, otherwise the newest one"},
			&cli.StringFlag{Name: "uuid", Usage: "`UUID` of the container on a device whose header is gone"},
			&cli.BoolFlag{Name: "accept-older", Usage: "restore a backup that revives retired keys", DisableDefaultText: true},
			&cli.BoolFlag{Name: "discard-present", Usage: "restore although what is there cannot be backed up", DisableDefaultText: true},
			&cli.BoolFlag{Name: "force", Usage: "do not ask", DisableDefaultText: true},
		},
		Action: func(c *cli.Context) error {
			args, err := arguments(c, "NAME|DEVICE")
			if err != nil {
				return err
			}
			return e.headerRestore(c.Context, restoreRequest{
				arg: args[0], identity: c.String("recovery-identity"), from: c.String("from"), uuid: c.String("uuid"),
				older: c.Bool("accept-older"), discard: c.Bool("discard-present"), force: c.Bool("force"),
			})
		},
	}
}

type restoreRequest struct {
	arg, identity, from, uuid string
	older, discard, force     bool
}

func (r restoreRequest) again(flag string) string {
	line := "voluks header restore " + flag
	if r.from != "" {
		line += " --from " + shellQuote(r.from)
	}
	if r.uuid != "" {
		line += " --uuid " + shellQuote(r.uuid)
	}
	file := r.identity
	if file == "" {
		file = "FILE"
	}
	return line + " --recovery-identity " + file + " " + shellQuote(r.arg)
}

func (e *env) headerRestore(ctx context.Context, r restoreRequest) error {
	ctx, cancel, m, err := e.operatorAt(ctx, &r)
	if err != nil {
		return err
	}
	defer cancel()
	t, err := e.target(ctx, r.arg)
	if err != nil {
		return err
	}
	switch {
	case t.volume != "" && r.uuid != "" && r.uuid != t.uuid:
		return &usageError{"voluks header restore", "the volume " + t.volume + " is " + t.uuid + ", not " + r.uuid}
	case t.volume == "" && t.device == nil:
		return &usageError{"voluks header restore", r.arg + " is an adopted device: name its path, and --uuid " + t.uuid}
	case t.uuid == "" && r.uuid == "":
		return &usageError{"voluks header restore", fmt.Sprintf("%s does not tell which container it is (%v): say so with --uuid", r.arg, t.err)}
	case t.uuid != "" && r.uuid != "" && t.uuid != r.uuid:
		return deviceError("restore the header of", r.arg, &headerbackup.OtherVolumeError{Backup: r.uuid, Volume: t.uuid})
	case t.uuid == "":
		t.uuid = r.uuid
	}
	identities, err := e.identities(ctx, r.identity)
	if err != nil {
		return err
	}
	image, err := e.openBackup(&r, t.uuid, identities)
	if err != nil {
		return deviceError("restore the header of", r.arg, err)
	}
	// Everything else is backed up before it is overwritten, and the path of a device is easily mistaken.
	if t.device != nil && t.header == nil {
		question := fmt.Sprintf("%s has no LUKS header that could be kept. Overwrite its first 16 MiB?", r.arg)
		if err := e.confirm(ctx, r.force, question, r.again("--force")); err != nil {
			return err
		}
	}
	restore := func() (volume.HeaderReceipt, error) {
		if t.volume != "" {
			return m.RestoreHeader(ctx, t.volume, volume.RestoreParams{Image: image, Identities: identities, AcceptOlder: r.older, DiscardPresent: r.discard})
		}
		return e.restoreDevice(t, image, identities, r)
	}
	receipt, err := restore()
	var older *headerbackup.OlderError
	if errors.As(err, &older) {
		fmt.Fprintf(e.stderr, "\nWARNING: %v.\nWhoever has such a key, and what else it takes, opens the volume again.\n", older)
		if err := e.confirm(ctx, false, "Restore it all the same?", r.again("--accept-older")); err != nil {
			return err
		}
		r.older = true
		receipt, err = restore()
	}
	if err != nil {
		return err
	}
	return e.print(receipt, func(w io.Writer) { r.text(w, &receipt) })
}

// operatorAt is operator, for paths that the caller gave relative to where it stands.
func (e *env) operatorAt(ctx context.Context, r *restoreRequest) (context.Context, context.CancelFunc, *volume.Manager, error) {
	for _, path := range []*string{&r.identity, &r.from} {
		if *path == "" || *path == "-" {
			continue
		}
		if err := absolute(path); err != nil {
			return nil, nil, nil, err
		}
	}
	if isPath(r.arg) {
		if err := absolute(&r.arg); err != nil {
			return nil, nil, nil, err
		}
	}
	return e.operator(ctx, volume.Defaults{})
}

// openBackup opens the backup that was asked for, or the newest one of which a copy is whole, and notes in r which that was.
func (e *env) openBackup(r *restoreRequest, uuid string, identities []recovery.Identity) (*headerbackup.Image, error) {
	if r.from != "" {
		image, err := headerbackup.Open(r.from, identities)
		if err == nil && image.Header.UUID != uuid {
			err = &headerbackup.OtherVolumeError{Backup: image.Header.UUID, Volume: uuid}
		}
		return image, err
	}
	s, _, err := e.backupStore()
	if err != nil {
		return nil, err
	}
	list, err := s.List(uuid)
	if err != nil {
		return nil, err
	}
	err = headerbackup.ErrNone
	for i := len(list) - 1; i >= 0; i-- {
		for _, c := range list[i].Copies {
			if bad := c.Verify(); bad != nil {
				e.warn("%s: %v", c.Path, bad)
				err = bad
				continue
			}
			return headerbackup.Open(c.Path, identities)
		}
	}
	return nil, err
}

// restoreDevice is Manager.RestoreHeader for a device that is no volume of this node. The kernel refuses one that is open: it is held exclusively.
func (e *env) restoreDevice(t target, image *headerbackup.Image, identities []recovery.Identity, r restoreRequest) (receipt volume.HeaderReceipt, err error) {
	if err := sys.Harden(); err != nil {
		return receipt, err
	}
	s, k, err := e.backupStore()
	if err != nil {
		return receipt, err
	}
	if err := e.makeState(); err != nil {
		return receipt, err
	}
	expect := t.device.Expect(image.Header)
	expect.UUID = t.uuid
	done, err := s.Restore(headerbackup.Of(t.device), image, headerbackup.RestoreOptions{Expect: expect, AcceptOlder: r.older, DiscardPresent: r.discard})
	if err != nil {
		return receipt, deviceError("restore the header of", r.arg, err)
	}
	receipt = volume.HeaderReceipt{UUID: t.uuid, Generation: done.Generation, Epoch: done.Epoch}
	if done.Older != nil {
		receipt.Older = done.Older.Error()
	}
	if done.Saved != nil {
		receipt.Saved = done.Saved.Name.String()
	}
	var h *header.Header
	if h, err = t.device.Header(); err == nil && h.UUID != t.uuid {
		err = &headerbackup.OtherVolumeError{Backup: t.uuid, Volume: h.UUID}
	}
	if err != nil {
		return receipt, deviceError("read back the header of", r.arg, err)
	}
	receipt.Proven, receipt.NotProven = volume.ProveRestored(t.device, identities)
	if done.Older == nil {
		if err := e.backups().Ensure(k, r.arg, h); err != nil {
			e.warn("header backup of %s: %v", r.arg, err)
		}
	}
	return receipt, nil
}

func (r restoreRequest) text(w io.Writer, done *volume.HeaderReceipt) {
	fmt.Fprintf(w, "restored the header of %s: generation %d, read back", r.arg, done.Generation)
	for _, slot := range done.Proven {
		fmt.Fprintf(w, ", and the identity opens slot %d", slot)
	}
	fmt.Fprintln(w)
	if done.NotProven != "" {
		fmt.Fprintf(w, "not tried with the identity: %s\n", done.NotProven)
	}
	if done.Saved != "" {
		fmt.Fprintf(w, "what was there is kept as %s\n", done.Saved)
	}
	switch {
	case done.Older == "":
	case done.Volume != "":
		fmt.Fprintf(w, "%s\nit stays closed until its keys are rotated: voluks volume mount --accept-older-header %s\n", done.Older, done.Volume)
	default:
		fmt.Fprintf(w, "%s\nreplace its keys now: voluks keyslot rotate %s\n", done.Older, r.arg)
	}
}
