// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/voluks/voluks/internal/config"
	"github.com/voluks/voluks/internal/volume"
	"github.com/voluks/voluks/internal/worker"
	"github.com/voluks/voluks/keyslot"
)

func keyslotRotateCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:      "rotate",
		Usage:     "give volumes new slot keys",
		ArgsUsage: "NAME|DEVICE...",
		Description: `Makes a new random key in a new key slot, proves with two independent
implementations that it opens the volume, and only then destroys the old
slot. Mounted volumes stay mounted. Nothing of the data is rewritten: against a
leaked volume key only a new volume helps, into which the data is copied.

A rotation that was interrupted is continued by the next one. One volume that
fails keeps no other. Receipts are kept below /var/lib/voluks/receipts.

When the master key of this node is lost, put a new one into the
configuration and lend the recovery identity: what the node cannot open is
opened with it, and gets a slot for the new key.

Of another LUKS2 device or image, named by its path, it is the passphrase or
key file of one slot that gets a successor, in the same order and with the
same proof. Both are asked for, unless they come from files or descriptors.
The slot that "keyslot adopt" has made there for this node is a key of voluks:
--all and the name of the device mean that one, and so does --role agent with
the path.

   voluks keyslot rotate db
   voluks keyslot rotate --all --older-than 90d --parallel 4
   voluks keyslot rotate --all --recovery-identity /run/identity
   voluks keyslot rotate /dev/sdb1
   voluks keyslot rotate --role agent /dev/sdb1`,
		Flags: append(append(append(bulkFlags(), presentFlags()...), newFlags()...),
			&cli.StringFlag{Name: "older-than", Usage: "only keys that are older than `AGE`, such as 90d"},
			&cli.StringFlag{Name: "role", Value: keyslot.RoleAgent, Usage: "`ROLE` of the slot: agent, recovery or all"},
			recoveryIdentityFlag(),
			&cli.BoolFlag{Name: "dry-run", Usage: "only tell which volumes it would be", DisableDefaultText: true},
		),
		Action: func(c *cli.Context) error {
			if device, err := devices(c); err != nil {
				return err
			} else if device != nil {
				present, err := presentInput(c)
				if err != nil {
					return err
				}
				next, err := newInput(c, -1)
				if err != nil {
					return err
				}
				return e.replaceKey(c.Context, device[0], present, next)
			}
			names, err := e.bulkNames(c)
			if err != nil {
				return err
			}
			roles := []string{c.String("role")}
			switch roles[0] {
			case keyslot.RoleAgent, keyslot.RoleRecovery:
			case "all":
				roles = []string{keyslot.RoleAgent, keyslot.RoleRecovery}
			default:
				return &usageError{command: c.Command.HelpName, text: "--role is agent, recovery or all, not " + quoted(roles[0])}
			}
			var older time.Duration
			if c.IsSet("older-than") {
				if older, err = config.ParseDuration(c.String("older-than")); err != nil {
					return &usageError{command: c.Command.HelpName, text: "--older-than: " + err.Error()}
				}
			}
			id, err := e.borrowFile(c.Context, c.String("recovery-identity"))
			if err != nil {
				return err
			}
			defer id.text.Wipe()
			return e.keyslotRotate(c.Context, names, roles, older, c.Int("parallel"), c.Bool("dry-run"), id)
		},
	}
}

func (e *env) keyslotRotate(ctx context.Context, names, roles []string, older time.Duration, parallel int, dry bool, id *lent) error {
	jobs, err := e.agentJobs(ctx, names)
	if err != nil {
		return err
	}
	now := time.Now()
	for i := range jobs {
		if jobs[i].Adopted && !slices.Contains(roles, keyslot.RoleAgent) {
			jobs[i].Skipped = "an adopted device has no recovery slot"
		}
		if jobs[i].Skipped == "" && older > 0 && !aged(jobs[i].info, roles, now.Add(-older)) {
			jobs[i].Skipped = "its keys are younger"
		}
		if jobs[i].Skipped == "" && dry {
			jobs[i].Skipped = "would be rotated"
		}
	}
	again := "voluks keyslot rotate --older-than 1h --all"
	if len(names) > 0 {
		again = "voluks keyslot rotate --older-than 1h " + strings.Join(names, " ")
	}
	if id.text != nil {
		again += " --recovery-identity FILE"
	}
	b := &bulk{e: e, jobs: jobs, parallel: parallel, verb: "rotated", again: again, identity: id.text, adopted: volume.AdoptedRequest{Action: volume.ActionRotate}}
	b.run(ctx, func(ctx context.Context, c *worker.Client, name string) (volume.KeyReceipt, error) {
		return c.Rotate(ctx, name, roles...)
	})
	if err := e.print(b.result(), func(w io.Writer) { b.table(w) }); err != nil {
		return err
	}
	return b.err(ctx)
}

// aged says whether a key of these roles was made before a time.
func aged(info volume.Info, roles []string, before time.Time) bool {
	for _, s := range info.Slots {
		for _, role := range roles {
			if s.Role == role && s.Created.Before(before) {
				return true
			}
		}
	}
	return false
}

// changes tells in a few words what a receipt says.
func changes(r *volume.KeyReceipt) string {
	text := ""
	for i, done := range r.Rotated {
		if i > 0 {
			text += ", "
		}
		text += fmt.Sprintf("%s slot %d -> %d, generation %d -> %d", done.Role, done.OldSlot, done.NewSlot, done.OldGeneration, done.NewGeneration)
		if done.Resumed {
			text += " (continued)"
		}
		if done.Rescued {
			text += " (with the recovery identity)"
		}
	}
	if v := r.Verified; v != nil {
		text = fmt.Sprintf("the recovery slot %d", v.Slot)
	}
	if w := r.Rewrapped; w != nil && w.Changed {
		text += fmt.Sprintf("%v -> %v", w.From, w.To)
	}
	if text == "" {
		text = "nothing to do"
	}
	return text
}
