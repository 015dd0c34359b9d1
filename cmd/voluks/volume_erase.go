// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"github.com/voluks/voluks/internal/config"
	"github.com/voluks/voluks/internal/volume"
)

func volumeEraseCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:      "erase",
		Usage:     "destroy a removed volume now",
		ArgsUsage: "NAME[@TIME]|UUID",
		Description: `Erases a removed volume without waiting for its time to be over: key slots
and both copies of the header are overwritten and read back, the backups of
the header are destroyed, and the space is released. Nobody can read the
data then, with any key. Nothing brings it back.

The receipt says what can be said of the medium: "overwritten in place", or
"logical only" where old bytes may be left below (copy-on-write file systems,
shared blocks, journals of data, thin volumes, SSDs), with the reasons. It is
kept under /var/lib/voluks/receipts. A volume that was not removed is not
erased: remove it first.

It asks first. Where it cannot ask, --force is needed.

   voluks volume erase db
   voluks volume erase --force db@2027-01-31T08:15:00Z`,
		Flags: []cli.Flag{&cli.BoolFlag{Name: "force", Usage: "do not ask", DisableDefaultText: true}},
		Action: func(c *cli.Context) error {
			args, err := arguments(c, "NAME[@TIME]")
			if err != nil {
				return err
			}
			return e.volumeErase(c.Context, args[0], c.Bool("force"))
		},
	}
}

func (e *env) volumeErase(ctx context.Context, ref string, force bool) error {
	ctx, cancel, m, err := e.operator(ctx, volume.Defaults{})
	if err != nil {
		return err
	}
	defer cancel()
	found, err := m.FindRemoved(ctx, ref)
	if err != nil {
		return err
	}
	question := fmt.Sprintf("Destroy the removed volume %s (%s, %s) for good?", found.Ref(), config.FormatSize(found.Size), found.UUID)
	if err := e.confirm(ctx, force, question, "voluks volume erase --force "+found.UUID); err != nil {
		return err
	}
	receipt, err := m.Erase(ctx, found)
	if err != nil {
		return err
	}
	if err := e.print(receipt, func(w io.Writer) { eraseText(w, receipt) }); err != nil {
		return err
	}
	if len(receipt.Incomplete) > 0 {
		return fmt.Errorf("the key of %s is destroyed, but not every copy of its header: run it again when they can be reached", found.Ref())
	}
	return nil
}

// eraseText is the receipt for a person.
func eraseText(w io.Writer, r volume.EraseReceipt) {
	fmt.Fprintf(w, "erased %s (%s)\n", r.Volume, r.UUID)
	if r.Header.Bytes > 0 {
		fmt.Fprintf(w, "  header and key slots: %s; %s overwritten and read back\n", r.Header.How, config.FormatSize(r.Header.Bytes))
	} else {
		fmt.Fprintf(w, "  header and key slots: %s\n", r.Header.How)
	}
	for _, reason := range r.Header.Reasons {
		fmt.Fprintf(w, "    %s\n", reason)
	}
	if r.Backups != nil {
		fmt.Fprintf(w, "  header backups: %d destroyed\n", len(r.Backups.Destroyed))
	}
	for _, left := range r.Incomplete {
		fmt.Fprintf(w, "  not done: %s\n", left)
	}
	for _, advice := range r.Advice {
		fmt.Fprintf(w, "  advice: %s\n", advice)
	}
}
