// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"github.com/voluks/voluks/internal/config"
	"github.com/voluks/voluks/internal/volume"
)

func volumeTrimCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:      "trim",
		Usage:     "give unused space of mounted volumes back to the disk",
		ArgsUsage: "NAME... | --all",
		Description: `Tells the disk, thin pool or sparse image below a volume which blocks its
file system does not use. This works for volumes that were made with
discard=true: it is off by default, since it shows to whoever has the disk
how much of the volume is used, and where.

   voluks volume trim cache
   voluks volume trim --all`,
		Flags: []cli.Flag{&cli.BoolFlag{Name: "all", Usage: "all mounted volumes with discard=true", DisableDefaultText: true}},
		Action: func(c *cli.Context) error {
			if c.Bool("all") {
				if c.Args().Present() {
					return &usageError{command: c.Command.HelpName, text: "--all are all volumes; leave the names out"}
				}
				return e.volumeTrim(c.Context, nil)
			}
			args, err := arguments(c, "NAME...")
			if err != nil {
				return err
			}
			return e.volumeTrim(c.Context, args)
		},
	}
}

type trimmed struct {
	Name  string `json:"name"`
	Bytes int64  `json:"bytes"` // that the file system does not use
}

// volumeTrim trims the volumes of these names; nil stands for all that can be.
func (e *env) volumeTrim(ctx context.Context, names []string) error {
	ctx, cancel, m, err := e.operator(ctx, volume.Defaults{})
	if err != nil {
		return err
	}
	defer cancel()
	if names == nil {
		infos, err := m.List(ctx)
		if err != nil {
			return err
		}
		for _, i := range infos {
			if i.State == volume.StateMounted && i.Options["discard"] == "true" && i.Options["ephemeral"] != "true" {
				names = append(names, i.Name)
			}
		}
	}
	var errs []error
	done := []trimmed{}
	for _, name := range names {
		bytes, err := m.Trim(ctx, name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		done = append(done, trimmed{name, bytes})
	}
	err = e.print(map[string][]trimmed{"trimmed": done}, func(w io.Writer) {
		for _, t := range done {
			fmt.Fprintf(w, "trimmed %s: %s unused\n", t.Name, config.FormatSize(t.Bytes))
		}
	})
	if len(errs) == 1 && err == nil {
		return errs[0]
	}
	return errors.Join(append(errs, err)...)
}
