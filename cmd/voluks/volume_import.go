// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"github.com/voluks/voluks/internal/config"
)

func volumeImportCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:      "import",
		Usage:     "make a lost volume known again, from its image or device",
		ArgsUsage: "IMAGE|DEVICE",
		Description: `The header of each volume says what it is, so a volume whose record under
/var/lib/voluks was lost, or that comes from another installation, is known
again by its image or device alone. Its data and its header are not changed.

An image that lies elsewhere is moved to its place under /var/lib/voluks,
which must be on the same file system; to keep the original, import a copy.
A device must be listed under [backing] in the configuration.

Before anything is written the volume is shown to open: with a key of this
node or, where that is lost, with the recovery identity. A copy of a volume
that is known already is refused, since the two could not be told apart.

It is for volumes of voluks. What is in another LUKS device comes into one
with "voluks volume migrate", from where it is mounted.

   voluks volume import /var/lib/voluks/volumes/db/image
   voluks volume import --name db-old /var/lib/voluks/found.img
   voluks volume import --recovery-identity /run/identity /dev/disk/by-id/X`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "name", Usage: "call it `NAME`, otherwise what its header says"},
			recoveryIdentityFlag(),
		},
		Action: func(c *cli.Context) error {
			args, err := arguments(c, "IMAGE|DEVICE")
			if err != nil {
				return err
			}
			return e.volumeImport(c.Context, args[0], c.String("name"), c.String("recovery-identity"))
		},
	}
}

func (e *env) volumeImport(ctx context.Context, path, name, identity string) error {
	if err := absolute(&path); err != nil {
		return err
	}
	cfg, err := e.loadConfig()
	if err != nil {
		return err
	}
	id, err := e.borrowFile(ctx, identity)
	if err != nil {
		return err
	}
	defer id.text.Wipe()
	ctx, cancel, m, err := e.operator(ctx, defaults(cfg), id.identities...)
	if err != nil {
		return err
	}
	defer cancel()
	done, err := m.Import(ctx, path, name)
	if err != nil {
		return err
	}
	v := done.Volume
	return e.print(done, func(w io.Writer) {
		if !done.Made {
			fmt.Fprintf(w, "%s is known already: nothing was changed\n", v.Name)
			return
		}
		fmt.Fprintf(w, "imported %s (%s): %s, %s; slot %d opens it\n", v.Name, v.UUID, config.FormatSize(v.Size), v.FS, done.Slot)
		if done.Moved != "" {
			fmt.Fprintf(w, "its image was moved here from %s\n", done.Moved)
		}
	})
}
