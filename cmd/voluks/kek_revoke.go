// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/volume"
	"github.com/voluks/voluks/internal/worker"
)

func kekRevokeCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:      "revoke",
		Usage:     "replace every slot key that a leaked key has ever wrapped",
		ArgsUsage: "ID",
		Description: `For a key-encryption key that is in wrong hands. A new one must be active
already, and the leaked one stand under [[previous]], so that the volumes
open. Every volume whose slot key the leaked key has ever wrapped gets a new
slot key, proven, and older header backups are destroyed; so does the slot of
this node on each device that it has adopted. It can be repeated until nothing
is left.

A copy of an old header and the leaked key still open a volume: all those that
deserve another volume key are named at the end, also by later runs. This
version does not change the volume key; copy the data into a new volume.

   voluks keyslot ls db            shows the ID
   voluks kek revoke 5f0c2e9a11d7b346`,
		Flags: bulkFlags()[1:],
		Action: func(c *cli.Context) error {
			args, err := arguments(c, "ID")
			if err != nil {
				return err
			}
			if n := c.Int("parallel"); n < 1 || n > 64 {
				return &usageError{command: c.Command.HelpName, text: "--parallel is 1 to 64"}
			}
			return e.kekRevoke(c.Context, c.Command.HelpName, args[0], c.Int("parallel"))
		},
	}
}

type revokeResult struct {
	bulkResult
	ID string `json:"id"`
	// NotDone are volumes that the key may still open, or whose old header backups may be left.
	NotDone []string `json:"not_done"`
	// Reencrypt are volumes that the key could open at any time, whichever run of this command has put an end to that: with a copy of the header
	// from then it still does.
	Reencrypt []string `json:"reencrypt"`
}

func (e *env) kekRevoke(ctx context.Context, command, id string, parallel int) error {
	k, err := e.newKeys()
	if err != nil {
		return err
	}
	before, err := e.keyUses(ctx)
	if err != nil {
		return err
	}
	if id, err = revocable(id, k.KEK, before); err != nil {
		return &usageError{command: command, text: err.Error()}
	}
	jobs, err := e.agentJobs(ctx, nil)
	if err != nil {
		return err
	}
	b := &bulk{e: e, jobs: jobs, parallel: parallel, verb: "rotated", again: "voluks kek revoke " + shellQuote(id),
		adopted: volume.AdoptedRequest{Action: volume.ActionRevoke, KeyID: id}}
	b.run(ctx, func(ctx context.Context, c *worker.Client, name string) (volume.KeyReceipt, error) {
		return c.Revoke(ctx, name, id)
	})
	after, err := e.keyUses(ctx)
	if err != nil {
		return err
	}
	result := revokeResult{bulkResult: b.result(), ID: id, NotDone: b.notRevoked(after, id), Reencrypt: []string{}}
	for _, u := range slices.Concat(after, before) {
		if (wrappedBy(u.History, id) || wrappedBy(u.Former, id)) && !slices.Contains(result.Reencrypt, nameOf(u)) {
			result.Reencrypt = append(result.Reencrypt, nameOf(u))
		}
	}
	if err := e.print(result, func(w io.Writer) {
		b.table(w)
		if len(result.NotDone) == 0 {
			fmt.Fprintf(w, "the key %s opens no volume of this node any more: take it out of [[previous]]\n", id)
		}
		for _, name := range result.NotDone {
			fmt.Fprintf(w, "not done: %s\n", name)
		}
		for _, name := range result.Reencrypt {
			fmt.Fprintf(w, "where copies of its old header may exist, copy the data into a new volume to reencrypt: %s\n", name)
		}
	}); err != nil {
		return err
	}
	if err := b.err(ctx); err != nil {
		return err
	}
	if len(result.NotDone) > 0 {
		return fmt.Errorf("the key %s is not revoked everywhere: see what is not done, and run it again", id)
	}
	return nil
}

// notRevoked are the volumes that the key opens still, may open, or whose old headers may be left.
func (b *bulk) notRevoked(after []volume.KeyUse, id string) []string {
	left := []string{}
	for _, u := range after {
		switch {
		case u.Err != nil:
			left = append(left, nameOf(u)+": "+u.Error)
		case wrappedBy(u.History, id) && u.Removed:
			left = append(left, fmt.Sprintf("%s: it was removed; what is left of it lies in removed/%s", u.Volume, u.UUID))
		case wrappedBy(u.History, id):
			left = append(left, nameOf(u))
		}
	}
	for _, j := range b.jobs {
		if j.Receipt != nil && (j.Receipt.Backups == nil || !j.Receipt.Backups.Complete()) {
			left = append(left, j.Volume+": an older header backup could not be destroyed")
		}
	}
	return left
}

// revocable is the ID that is meant, with or without its provider: of a key that is not the active one and has something to do with this node. A
// mistyped one must not end with the good news that it opens nothing.
func revocable(id string, keys *kek.Set, uses []volume.KeyUse) (string, error) {
	known := []kek.Ref{keys.Active.Ref()}
	for _, p := range keys.Previous {
		known = append(known, p.Ref())
	}
	for _, u := range uses {
		known = slices.Concat(known, u.Keys, u.History, u.Former)
	}
	var others []string
	for _, ref := range known {
		switch name := ref.Provider + ":" + ref.ID; {
		case ref.ID == "":
		case ref.ID != id && name != id:
			if !ref.SameKey(known[0]) && !slices.Contains(others, name) {
				others = append(others, name)
			}
		case ref.ID == known[0].ID:
			return "", fmt.Errorf("%v is the active key: put a new one under [kek], and this one under [[previous]]", known[0])
		default:
			return ref.ID, nil
		}
	}
	text := "no volume of this node was ever wrapped by a key " + quoted(id)
	if len(others) > 0 {
		text += "; keys that were: " + strings.Join(others, ", ")
	}
	return "", errors.New(text)
}

func wrappedBy(history []kek.Ref, id string) bool {
	return slices.ContainsFunc(history, func(ref kek.Ref) bool { return ref.ID == id })
}
