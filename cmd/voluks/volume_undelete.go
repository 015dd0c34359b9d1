// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/voluks/voluks/internal/config"
	"github.com/voluks/voluks/internal/volume"
)

func volumeUndeleteCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:      "undelete",
		Usage:     "bring a removed volume back",
		ArgsUsage: "NAME[@TIME]|UUID",
		Description: `Brings back a volume that was removed, by Docker, podman or here, under the
name that it had. That works until the time of "[remove] keep" is over.

Where several volumes of a name were removed, TIME says which, as
"voluks volume ls --removed" shows it. If there is another volume of that
name by now ("docker compose down --volumes", then "up"), remove it first.

   voluks volume ls --removed
   voluks volume undelete db
   voluks volume undelete db@2027-01-31T08:15:00Z`,
		Action: func(c *cli.Context) error {
			args, err := arguments(c, "NAME[@TIME]")
			if err != nil {
				return err
			}
			return e.volumeUndelete(c.Context, args[0])
		},
	}
}

func (e *env) volumeUndelete(ctx context.Context, ref string) error {
	ctx, cancel, m, err := e.operator(ctx, volume.Defaults{})
	if err != nil {
		return err
	}
	defer cancel()
	found, err := m.FindRemoved(ctx, ref)
	if err != nil {
		return err
	}
	name, err := m.Undelete(ctx, found.UUID)
	if err != nil {
		return err
	}
	return e.print(map[string]string{"name": name, "uuid": found.UUID}, func(w io.Writer) {
		fmt.Fprintf(w, "brought back %s (%s)\n", name, found.UUID)
	})
}

type removedResult struct {
	Removed []removedRow `json:"removed"`
}

type removedRow struct {
	volume.Removed
	Until *time.Time `json:"until,omitempty"` // when it is erased; not known without a configuration
}

// removedLs is volume ls --removed.
func (e *env) removedLs(ctx context.Context) error {
	all, err := e.manager(e.quiet(), volume.Defaults{}).RemovedVolumes(ctx)
	if err != nil {
		return err
	}
	cfg, cfgErr := e.loadConfig()
	result := removedResult{Removed: []removedRow{}}
	for _, r := range all {
		row := removedRow{Removed: r}
		if cfgErr == nil && !r.Removed.IsZero() {
			until := r.Removed.Add(cfg.Remove.Keep)
			row.Until = &until
		}
		result.Removed = append(result.Removed, row)
	}
	if err := e.print(result, func(w io.Writer) {
		if len(result.Removed) > 0 {
			removedText(w, result.Removed)
		}
	}); err != nil {
		return err
	}
	if len(all) == 0 && !e.json {
		fmt.Fprintln(e.stderr, "no removed volumes")
	}
	for _, r := range all {
		if r.Reason != "" {
			e.warn("%s: %s", r.UUID, r.Reason)
		}
	}
	return nil
}

func removedText(w io.Writer, all []removedRow) {
	const minute = "2006-01-02 15:04"
	var rows [][]string
	for _, r := range all {
		until := ""
		switch {
		case r.Erasing:
			until = "being erased"
		case r.Until != nil:
			until = r.Until.Local().Format(minute)
		}
		rows = append(rows, []string{r.Ref(), config.FormatSize(r.Size), r.FS, r.Backing, until, r.UUID})
	}
	table(w, []string{"NAME@TIME", "SIZE", "FS", "BACKING", "ERASED AT", "UUID"}, rows)
}
