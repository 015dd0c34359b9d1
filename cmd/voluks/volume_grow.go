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

func volumeGrowCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:      "grow",
		Usage:     "make a volume larger, while it is used or closed",
		ArgsUsage: "NAME SIZE",
		Description: `Makes the file system of a volume SIZE large, and everything below it: the
image or logical volume, its device, the encrypted mapping. It takes the key,
like opening. Containers that use the volume notice nothing.

A device cannot be made larger from here: enlarge it first, and then give the
size "max". Nothing is ever made smaller.

If it is interrupted, repeat the command. The volume works until then, with
the size that it has. The size in a Compose file may stay what it was: do not
change it, since Compose then offers to make the volume anew.

   voluks volume grow db 20G
   voluks volume grow bigdisk max`,
		Action: func(c *cli.Context) error {
			args, err := arguments(c, "NAME", "SIZE")
			if err != nil {
				return err
			}
			return e.volumeGrow(c.Context, args[0], args[1])
		},
	}
}

func (e *env) volumeGrow(ctx context.Context, name, text string) error {
	size := int64(0)
	if text != "max" {
		var err error
		if size, err = config.ParseSize(text); err != nil {
			return &volume.Error{Code: volume.CodeInvalid, Op: "grow", Volume: name, Err: err}
		}
	}
	ctx, cancel, m, err := e.operator(ctx, volume.Defaults{})
	if err != nil {
		return err
	}
	defer cancel()
	before, err := m.Inspect(ctx, name)
	if err != nil {
		return err
	}
	info, err := m.Grow(ctx, name, size)
	if err != nil {
		return err
	}
	return e.print(info, func(w io.Writer) {
		if info.Size == before.Size {
			fmt.Fprintf(w, "%s has %s already\n", name, config.FormatSize(info.Size))
			return
		}
		fmt.Fprintf(w, "%s grew from %s to %s\n", name, config.FormatSize(before.Size), config.FormatSize(info.Size))
	})
}
