// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/voluks/voluks/internal/headerbackup"
	"github.com/voluks/voluks/internal/recovery"
	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/internal/volume"
	"github.com/voluks/voluks/luks/header"
)

func headerCheckCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:      "check",
		Usage:     "see whether header backups are whole and up to date",
		ArgsUsage: "[NAME|DEVICE]",
		Description: `Reads every copy of every header backup, and compares the newest with the
header that is on the volume now. That shows damage and what is missing. With
the recovery identity the backups are also opened, which shows that they can
be restored. Nothing is changed.

   voluks header check
   voluks header check --recovery-identity /run/identity db`,
		Flags: []cli.Flag{recoveryIdentityFlag()},
		Action: func(c *cli.Context) error {
			arg, err := optional(c)
			if err != nil {
				return err
			}
			return e.headerCheck(c.Context, arg, c.IsSet("recovery-identity"), c.String("recovery-identity"))
		},
	}
}

type checkResult struct {
	Volume   string         `json:"volume,omitempty"`
	UUID     string         `json:"uuid"`
	Backups  []backupResult `json:"backups"`
	Opened   bool           `json:"opened,omitempty"` // with the identity, all of them
	Problems []string       `json:"problems,omitempty"`
}

// backupsError is what header check ends with if something is wrong; each problem was printed.
type backupsError struct{ bad int }

func (e *backupsError) Error() string {
	if e.bad == 1 {
		return "the header backups of one volume are not in order"
	}
	return fmt.Sprintf("the header backups of %d volumes are not in order", e.bad)
}

func (e *env) headerCheck(ctx context.Context, arg string, open bool, identity string) error {
	var identities []recovery.Identity
	if open {
		if err := sys.Harden(); err != nil {
			return err
		}
		var err error
		if identities, err = e.identities(ctx, identity); err != nil {
			return err
		}
	}
	s, _, err := e.backupStore()
	if err != nil {
		return err
	}
	owners, err := e.backupOwners(ctx, s, arg)
	if err != nil {
		return err
	}
	if arg == "" {
		if owners, err = e.withoutBackups(ctx, owners); err != nil {
			return err
		}
	}
	results, bad := []checkResult{}, 0
	for _, t := range owners {
		r, err := e.checkBackups(ctx, s, t, identities)
		if err != nil {
			return err
		}
		if len(r.Problems) > 0 {
			bad++
		}
		results = append(results, r)
	}
	err = e.print(map[string][]checkResult{"volumes": results}, func(w io.Writer) {
		for _, r := range results {
			name := r.Volume
			if name == "" {
				name = r.UUID
			}
			for _, p := range r.Problems {
				fmt.Fprintf(w, "%s: %s\n", name, p)
			}
			if len(r.Problems) == 0 {
				how := "whole and up to date"
				if r.Opened {
					how += ", and the identity opens it"
				}
				fmt.Fprintf(w, "%s: %s\n", name, how)
			}
		}
	})
	if err == nil && bad > 0 {
		err = &backupsError{bad}
	}
	return err
}

// withoutBackups adds the volumes that have none: those matter most.
func (e *env) withoutBackups(ctx context.Context, owners []target) ([]target, error) {
	infos, err := e.manager(e.quiet(), volume.Defaults{}).List(ctx)
	if err != nil {
		return nil, err
	}
	has := map[string]bool{}
	for _, t := range owners {
		has[t.uuid] = true
	}
	for _, info := range infos {
		if info.Finished() && !has[info.UUID] {
			owners = append(owners, target{arg: info.Name, volume: info.Name, uuid: info.UUID})
		}
	}
	return owners, nil
}

func (e *env) checkBackups(ctx context.Context, s *headerbackup.Store, t target, identities []recovery.Identity) (checkResult, error) {
	r := checkResult{Volume: t.volume, UUID: t.uuid, Backups: []backupResult{}, Opened: len(identities) > 0}
	problem := func(format string, args ...any) {
		r.Problems = append(r.Problems, strings.ReplaceAll(fmt.Sprintf(format, args...), "\n", "; "))
	}
	list, err := s.List(t.uuid)
	if err != nil {
		return r, err
	}
	for _, b := range list {
		result := newBackupResult(t.volume, b)
		for i, c := range b.Copies {
			err := c.Verify()
			if err == nil && len(identities) > 0 {
				_, err = headerbackup.Open(c.Path, identities)
			}
			if err != nil {
				result.Copies[i].Error = err.Error()
				problem("%s: %v", c.Path, err)
			}
		}
		r.Backups = append(r.Backups, result)
	}
	if len(list) == 0 {
		problem("there is no backup of its header")
		return r, nil
	}
	h := t.header
	if t.volume != "" {
		h, err = e.manager(e.quiet(), volume.Defaults{}).Header(ctx, t.volume)
		if errors.Is(err, header.ErrNotLUKS) || errors.Is(err, header.ErrDamaged) {
			problem("its header is gone or damaged; its backups: voluks header ls %s", t.volume)
			return r, nil
		}
		if err != nil {
			problem("its header cannot be read: %v", err)
			return r, nil
		}
	}
	newest := list[len(list)-1].Name
	if h != nil && newest.Epoch != h.Epoch {
		problem("the newest backup is of epoch %d, and its header of epoch %d", newest.Epoch, h.Epoch)
	}
	return r, nil
}
