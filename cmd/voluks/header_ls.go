// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/voluks/voluks/internal/headerbackup"
	"github.com/voluks/voluks/internal/volume"
)

func headerLsCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:      "ls",
		Usage:     "list the header backups of this node",
		ArgsUsage: "[NAME|DEVICE]",
		Description: `Lists the header backups that this node has or knows of: of one volume or
device, or of all, removed ones included. The generation counts rotations, the
epoch every change of the header.

   voluks header ls
   voluks header ls db`,
		Action: func(c *cli.Context) error {
			arg, err := optional(c)
			if err != nil {
				return err
			}
			return e.headerLs(c.Context, arg)
		},
	}
}

// optional is the one argument of a command that may have none.
func optional(c *cli.Context) (string, error) {
	if c.NArg() == 0 {
		return "", nil
	}
	args, err := arguments(c, "NAME")
	if err != nil {
		return "", err
	}
	return args[0], nil
}

type backupResult struct {
	Volume     string       `json:"volume,omitempty"`
	UUID       string       `json:"uuid"`
	Name       string       `json:"name"`
	Generation uint64       `json:"generation"`
	Epoch      uint64       `json:"epoch"`
	Taken      time.Time    `json:"taken"`
	Size       int64        `json:"size"`
	Copies     []copyResult `json:"copies"`
}

type copyResult struct {
	Path  string `json:"path"`
	Error string `json:"error,omitempty"` // why it cannot be reached, or what is wrong with it
}

func newBackupResult(name string, b headerbackup.Backup) backupResult {
	r := backupResult{Volume: name, UUID: b.UUID, Name: b.Name.String(), Generation: b.Name.Generation, Epoch: b.Name.Epoch, Taken: b.Name.Taken, Size: b.Size}
	for _, c := range b.Copies {
		copied := copyResult{Path: c.Path}
		if c.Err != nil {
			copied.Error = c.Err.Error()
		}
		r.Copies = append(r.Copies, copied)
	}
	return r
}

// backupOwners are the volumes and devices whose backups a command is about: that of arg, or all that have any.
func (e *env) backupOwners(ctx context.Context, s *headerbackup.Store, arg string) ([]target, error) {
	if arg != "" {
		t, err := e.target(ctx, arg)
		if err == nil && t.uuid == "" {
			err = deviceError("read", arg, t.err)
		}
		return []target{t}, err
	}
	names := map[string]string{}
	infos, err := e.manager(e.quiet(), volume.Defaults{}).List(ctx)
	if err != nil {
		return nil, err
	}
	for _, info := range infos {
		names[info.UUID] = info.Name
	}
	uuids, err := s.Volumes()
	if err != nil {
		return nil, err
	}
	var all []target
	for _, uuid := range uuids {
		all = append(all, target{arg: uuid, volume: names[uuid], uuid: uuid})
	}
	return all, nil
}

func (e *env) headerLs(ctx context.Context, arg string) error {
	s, _, err := e.backupStore()
	if err != nil {
		return err
	}
	owners, err := e.backupOwners(ctx, s, arg)
	if err != nil {
		return err
	}
	result := struct {
		Backups   []backupResult                 `json:"backups"`
		Destroyed map[string][]headerbackup.Gone `json:"destroyed,omitempty"` // the last ones, by UUID
	}{[]backupResult{}, map[string][]headerbackup.Gone{}}
	for _, t := range owners {
		list, err := s.List(t.uuid)
		if err != nil {
			return err
		}
		for _, b := range list {
			result.Backups = append(result.Backups, newBackupResult(t.volume, b))
		}
		gone, err := s.Destroyed(t.uuid)
		if err != nil {
			return err
		}
		if len(gone) > 0 {
			result.Destroyed[t.uuid] = gone
		}
	}
	return e.print(result, func(w io.Writer) {
		var rows [][]string
		for _, b := range result.Backups {
			reached := 0
			for _, c := range b.Copies {
				if c.Error == "" {
					reached++
				}
			}
			copies := fmt.Sprint(reached)
			if reached < len(b.Copies) {
				copies = fmt.Sprintf("%d of %d reached", reached, len(b.Copies))
			}
			rows = append(rows, []string{b.Volume, b.UUID, fmt.Sprint(b.Generation), fmt.Sprint(b.Epoch), b.Taken.Format(time.RFC3339), copies})
		}
		table(w, []string{"NAME", "UUID", "GENERATION", "EPOCH", "TAKEN", "COPIES"}, rows)
		if arg == "" {
			return
		}
		for _, b := range result.Backups {
			for _, c := range b.Copies {
				fmt.Fprintln(w, c.Path)
			}
		}
		for _, gone := range result.Destroyed {
			last := gone[len(gone)-1]
			fmt.Fprintf(w, "%d older destroyed, the last one on %s (%s)\n", len(gone), last.When.Format(time.RFC3339), last.How)
		}
	})
}
