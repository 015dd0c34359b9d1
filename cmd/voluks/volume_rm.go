// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/voluks/voluks/internal/config"
	"github.com/voluks/voluks/internal/volume"
)

func volumeRmCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:      "rm",
		Usage:     "remove volumes that nobody uses",
		ArgsUsage: "NAME...",
		Description: `Removes volumes. The name is free at once; the encrypted data is kept under
/var/lib/voluks/removed/UUID, where it can be brought back from. A volume
that anything uses is not removed, with --force neither.

It asks first. Where it cannot ask, --force is needed.

   voluks volume rm db
   voluks volume rm --force scratch1 scratch2`,
		Flags: []cli.Flag{&cli.BoolFlag{Name: "force", Usage: "do not ask", DisableDefaultText: true}},
		Action: func(c *cli.Context) error {
			args, err := arguments(c, "NAME...")
			if err != nil {
				return err
			}
			return e.volumeRm(c.Context, args, c.Bool("force"))
		},
	}
}

type removedVolume struct {
	Name string `json:"name"`
	UUID string `json:"uuid"`
	Kept string `json:"kept"` // the directory where its data is kept
}

func (e *env) volumeRm(ctx context.Context, names []string, force bool) error {
	ctx, cancel, m, err := e.operator(ctx, volume.Defaults{})
	if err != nil {
		return err
	}
	defer cancel()
	var lines []string
	uuids := map[string]string{}
	for _, name := range names {
		info, err := m.Inspect(ctx, name)
		if err != nil {
			return err
		}
		uuids[name] = info.UUID
		lines = append(lines, fmt.Sprintf("%s (%s, %s, made %s)", name, config.FormatSize(info.Size), info.FS, info.Created.Local().Format("2006-01-02 15:04")))
	}
	retry := "voluks volume rm --force " + strings.Join(names, " ")
	if err := e.confirm(ctx, force, "Remove "+strings.Join(lines, ", ")+"?", retry); err != nil {
		return err
	}
	var errs []error
	removed := []removedVolume{}
	for _, name := range names {
		if err := m.Remove(ctx, name); err != nil {
			errs = append(errs, err)
			continue
		}
		removed = append(removed, removedVolume{name, uuids[name], filepath.Join(e.paths().RemovedDir(), uuids[name])})
	}
	err = e.print(map[string][]removedVolume{"removed": removed}, func(w io.Writer) {
		for _, r := range removed {
			fmt.Fprintf(w, "removed %s; its encrypted data is kept in %s\n", r.Name, r.Kept)
		}
	})
	if len(errs) == 1 && err == nil {
		return errs[0]
	}
	return errors.Join(append(errs, err)...)
}
