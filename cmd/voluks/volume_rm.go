// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/voluks/voluks/internal/config"
	"github.com/voluks/voluks/internal/volume"
)

func volumeRmCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:      "rm",
		Usage:     "remove volumes that nobody uses",
		ArgsUsage: "NAME...",
		Description: `Removes volumes. The name is free at once; the encrypted data is kept for
the time that the configuration says ("[remove] keep", 24h unless it says
otherwise; 0 erases at once), in which "voluks volume undelete" brings it
back. After that the agent erases it. A volume that anything uses is not
removed, with --force neither.

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
	Name   string               `json:"name"`
	UUID   string               `json:"uuid"`
	Kept   string               `json:"kept,omitempty"`   // the directory where its data is kept
	Until  *time.Time           `json:"until,omitempty"`  // when that ends
	Erased *volume.EraseReceipt `json:"erased,omitempty"` // it was erased at once
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
		if info, err := m.Inspect(ctx, name); err == nil && info.UUID != uuids[name] {
			errs = append(errs, fmt.Errorf("%s is another volume by now, made while this one waited for an answer", name))
			continue
		}
		if err := m.Remove(ctx, name); err != nil {
			errs = append(errs, err)
			continue
		}
		r, err := e.afterRemoval(ctx, m, name, uuids[name])
		removed, errs = append(removed, r), append(errs, err)
	}
	errs = slices.DeleteFunc(errs, func(err error) bool { return err == nil })
	err = e.print(map[string][]removedVolume{"removed": removed}, func(w io.Writer) {
		for _, r := range removed {
			switch {
			case r.Erased != nil:
				eraseText(w, *r.Erased)
			case r.Until != nil:
				fmt.Fprintf(w, "removed %s; until %s `voluks volume undelete %s` brings it back\n", r.Name, r.Until.Local().Format("2006-01-02 15:04"), r.Name)
			default:
				fmt.Fprintf(w, "removed %s; its encrypted data is kept in %s\n", r.Name, r.Kept)
			}
		}
	})
	if len(errs) == 1 && err == nil {
		return errs[0]
	}
	return errors.Join(append(errs, err)...)
}

// afterRemoval erases a removed volume at once if none are to be kept. Without a configuration that can be read nothing is erased.
func (e *env) afterRemoval(ctx context.Context, m *volume.Manager, name, id string) (removedVolume, error) {
	r := removedVolume{Name: name, UUID: id}
	cfg, err := e.loadConfig()
	if err == nil && cfg.Remove.Keep == 0 {
		seen, err := m.FindRemoved(ctx, id)
		if err != nil {
			return r, err
		}
		receipt, err := m.Erase(ctx, seen)
		r.Erased = &receipt
		return r, err
	}
	r.Kept = filepath.Join(e.paths().RemovedDir(), id)
	if err == nil {
		until := time.Now().Add(cfg.Remove.Keep)
		r.Until = &until
	}
	return r, nil
}
