// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"github.com/voluks/voluks/internal/qr"
	"github.com/voluks/voluks/internal/recovery/typable"
	"github.com/voluks/voluks/internal/secret"
	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/internal/volume"
)

func recoveryKeyCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:  "key",
		Usage: "recovery keys that are typed, each for one volume",
		Description: `A recovery key of systemd's form: 64 letters that lie alike on most
keyboards. It opens one volume, with cryptsetup and systemd-cryptsetup too,
and systemd-cryptenroll lists its slot as "recovery".`,
		Subcommands: []*cli.Command{recoveryKeyAddCommand(e), recoveryKeyRmCommand(e)},
	}
}

func recoveryKeyAddCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:      "add",
		Usage:     "make a recovery key to type for a volume",
		ArgsUsage: "NAME",
		Description: `Makes a recovery key, shows it once with a QR code, and, when somebody has
confirmed to have it, adds a key slot for it to the volume, which may be
mounted. Until then it opens nothing. It is not kept here.

Without a terminal it goes into a new file or, if that is asked for, to
standard output.

   voluks recovery key add db
   voluks recovery key add --out /run/db.key db`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "out", Usage: "put the key into a new `FILE` instead"},
			&cli.BoolFlag{Name: "print", Usage: "print the key, also in JSON, to whoever reads standard output", DisableDefaultText: true},
			recoveryIdentityFlag(),
		},
		Action: func(c *cli.Context) error {
			args, err := arguments(c, "NAME")
			if err != nil {
				return err
			}
			if c.String("out") != "" && c.Bool("print") {
				return &usageError{command: c.Command.HelpName, text: "choose one of --out and --print"}
			}
			return e.recoveryKeyAdd(c.Context, args[0], c.String("out"), c.Bool("print"), c.String("recovery-identity"))
		},
	}
}

func recoveryKeyRmCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:      "rm",
		Usage:     "destroy the slot of a recovery key",
		ArgsUsage: "NAME",
		Description: `Destroys the key slot of a recovery key that is typed, so that the key opens
nothing any more. That the volume opens otherwise is proven first. A copy of
its header from before still opens with the key.

   voluks keyslot ls db               shows the slots
   voluks recovery key rm --slot 29 db`,
		Flags: []cli.Flag{
			&cli.IntFlag{Name: "slot", Value: -1, Usage: "slot `N`, if there are several"},
			&cli.BoolFlag{Name: "force", Usage: "do not ask", DisableDefaultText: true},
			recoveryIdentityFlag(),
		},
		Action: func(c *cli.Context) error {
			args, err := arguments(c, "NAME")
			if err != nil {
				return err
			}
			return e.recoveryKeyRm(c.Context, args[0], c.Int("slot"), c.Bool("force"), c.String("recovery-identity"))
		},
	}
}

type recoveryKeyResult struct {
	Volume  string            `json:"volume"`
	Slot    int               `json:"slot"`
	Key     string            `json:"key,omitempty"` // only with --print
	File    string            `json:"file,omitempty"`
	Receipt volume.KeyReceipt `json:"receipt"`
}

func (e *env) recoveryKeyAdd(ctx context.Context, name, out string, show bool, identity string) (err error) {
	if out == "" && !show && !e.interactive() {
		return &refusedError{text: "there is no terminal to show the recovery key on", retry: "voluks recovery key add --out FILE " + shellQuote(name)}
	}
	if out != "" {
		if out, err = filepath.Abs(out); err != nil {
			return err
		}
	}
	id, err := e.borrowFile(ctx, identity)
	if err != nil {
		return err
	}
	defer id.text.Wipe()
	ctx, cancel, m, err := e.operator(ctx, volume.Defaults{}, id.identities...)
	if err != nil {
		return err
	}
	defer cancel()
	if _, err := m.Inspect(ctx, name); err != nil { // before anybody writes down a key
		return err
	}
	key, err := typable.Generate()
	if err != nil {
		return err
	}
	defer key.Wipe()
	switch {
	case out != "":
		if err := newFile(out, key); err != nil {
			return fmt.Errorf("write the recovery key: %w", err)
		}
		defer func() {
			if err != nil { // it opens nothing
				err = errors.Join(err, os.Remove(out))
			}
		}()
		if err := sys.SyncDir(filepath.Dir(out)); err != nil {
			return err
		}
	case !show:
		if err := e.showKey(ctx, name, key); err != nil {
			return err
		}
	}
	receipt, err := m.AddRecoveryKey(ctx, name, key)
	if err != nil {
		return err
	}
	for _, w := range receipt.Warnings {
		e.warn("%s: %s", name, w)
	}
	result := recoveryKeyResult{Volume: name, Slot: receipt.Rotated[0].NewSlot, File: out, Receipt: receipt}
	if show {
		result.Key = string(key.Bytes())
	}
	return e.print(result, func(w io.Writer) {
		if show {
			fmt.Fprintln(w, result.Key)
			return
		}
		if out != "" {
			fmt.Fprintf(w, "made %s: the recovery key of %s. Whoever has it opens the volume: move it off this node now.\n", out, name)
		}
		fmt.Fprintf(w, "the recovery key opens %s, by slot %d\n", name, result.Slot)
	})
}

// showKey shows the key until a person has typed its end.
func (e *env) showKey(ctx context.Context, name string, key *secret.Key) error {
	defer fmt.Fprint(e.stdout, cleared)
	fmt.Fprintf(e.stdout, "%sThis is the recovery key of %s. It is shown now and never again, and is not kept here:\n\n    ", cleared, name)
	if _, err := e.stdout.Write(key.Bytes()); err != nil {
		return fmt.Errorf("show the recovery key: %w", err)
	}
	fmt.Fprint(e.stdout, "\n\n")
	if err := qr.Write(e.stdout, key, qr.Colored); err != nil {
		return err
	}
	fmt.Fprint(e.stdout, "\nIt opens the volume when this command has said so.\n")
	const group = 8
	if kept, err := e.confirmKept(ctx, key, group); err != nil || kept {
		return err
	}
	return &refusedError{text: "not confirmed that the recovery key is kept; nothing was changed, and the key is void"}
}

func (e *env) recoveryKeyRm(ctx context.Context, name string, slot int, force bool, identity string) error {
	info, err := e.manager(e.quiet(), volume.Defaults{}).Inspect(ctx, name)
	if err != nil {
		return err
	}
	retry := "voluks recovery key rm --force " + shellQuote(name)
	if slot >= 0 {
		retry += fmt.Sprintf(" --slot %d", slot)
	}
	if err := e.confirm(ctx, force, fmt.Sprintf("Destroy the slot of a recovery key of %s (%s)?", name, info.UUID), retry); err != nil {
		return err
	}
	id, err := e.borrowFile(ctx, identity)
	if err != nil {
		return err
	}
	defer id.text.Wipe()
	ctx, cancel, m, err := e.operator(ctx, volume.Defaults{}, id.identities...)
	if err != nil {
		return err
	}
	defer cancel()
	receipt, err := m.RemoveRecoveryKey(ctx, name, slot)
	if err != nil {
		return err
	}
	for _, w := range receipt.Warnings {
		e.warn("%s: %s", name, w)
	}
	return e.print(receipt, func(w io.Writer) {
		fmt.Fprintf(w, "the recovery key of slot %d opens %s no more; a copy of its header from before still does with it\n", receipt.Removed[0], name)
	})
}
