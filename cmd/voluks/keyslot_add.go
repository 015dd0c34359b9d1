// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/voluks/voluks/keyslot"
	"github.com/voluks/voluks/luks"
	"github.com/voluks/voluks/luks/header"
)

func keyslotAddCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:      "add",
		Usage:     "add a passphrase or a key file to a volume or LUKS2 device",
		ArgsUsage: "NAME|DEVICE",
		Description: `Adds a key slot to a volume, or to any LUKS2 device or image, and proves with
two independent implementations that it opens. No other slot is touched. The
device may be open.

What opens it now is the node's own key where there is a slot for it, and else
a passphrase, which is asked for, or --key-file or --key-fd. The new passphrase
is typed twice; it, and the content of --new-key-file, is refused if it is
easily guessed, and gets Argon2id. Files are taken as they are, line ends
included.

   voluks keyslot add /dev/sdb1
   voluks keyslot add --new-key-file /run/key db`,
		Flags: append(append(presentFlags(), newFlags()...), &cli.IntFlag{Name: "new-slot", Value: -1, Usage: "make slot `N`, otherwise the lowest free one"}),
		Action: func(c *cli.Context) error {
			args, err := arguments(c, "NAME|DEVICE")
			if err != nil {
				return err
			}
			present, err := presentInput(c)
			if err != nil {
				return err
			}
			next, err := newInput(c, c.Int("new-slot"))
			if err != nil {
				return err
			}
			return e.keyslotAdd(c.Context, args[0], present, next)
		},
	}
}

func (e *env) keyslotAdd(ctx context.Context, arg string, present, next keyInput) error {
	var done *keyslot.Changed
	err := e.withSlots(ctx, arg, "add", true, func(ctx context.Context, c keyslot.Container, k *keyslot.Keyring) error {
		auth, err := e.authorize(ctx, c, k, present, arg, -1)
		if err != nil {
			return err
		}
		defer auth.Key.Wipe()
		key, kdf, err := e.readNew(ctx, next, arg, nil)
		if err != nil {
			return err
		}
		defer key.Wipe()
		e.progress("adding a slot and proving it twice")
		done, err = keyslot.AddKey(ctx, c, auth, next.slot, key, kdf)
		return err
	})
	if err != nil {
		return err
	}
	return e.print(changedResult{arg, done}, func(w io.Writer) {
		verb := "added"
		if done.Resumed {
			verb = "found, since the key was there already:"
		}
		fmt.Fprintf(w, "%s slot %d of %s, proven by %s (%s)\n", verb, done.NewSlot, arg, strings.Join(done.ProvedBy, " and "), done.NewKDF)
	})
}

func keyslotRmCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:      "rm",
		Usage:     "destroy a key slot",
		ArgsUsage: "NAME|DEVICE SLOT",
		Description: `Destroys a slot that holds a passphrase or a key file, once another slot is
shown to open: with the node's own key where there is a slot for it, and else
with a passphrase, which is asked for, or --key-file or --key-fd. Slots of
voluks, and those that systemd, clevis and others manage by tokens, are
removed by who made them.

The last slot is different: without it the data is lost for ever. That needs
--last-slot, and to be agreed to.

   voluks keyslot rm /dev/sdb1 0
   voluks keyslot rm --key-file /run/key /dev/sdb1 3`,
		Flags: append(presentFlags(),
			&cli.BoolFlag{Name: "last-slot", Usage: "destroy the only slot, and with it all data", DisableDefaultText: true},
			&cli.BoolFlag{Name: "force", Usage: "do not ask", DisableDefaultText: true},
		),
		Action: func(c *cli.Context) error {
			args, err := arguments(c, "NAME|DEVICE", "SLOT")
			if err != nil {
				return err
			}
			slot, err := strconv.Atoi(args[1])
			if err != nil || slot < 0 || slot >= header.MaxKeyslots {
				return &usageError{c.Command.HelpName, fmt.Sprintf("SLOT is a number from 0 to %d, not %s", header.MaxKeyslots-1, quoted(args[1]))}
			}
			present, err := presentInput(c)
			if err != nil {
				return err
			}
			if present.slot == slot {
				return &usageError{c.Command.HelpName, "--slot is that of another key, which stays"}
			}
			return e.keyslotRm(c.Context, args[0], slot, present, c.Bool("last-slot"), c.Bool("force"))
		},
	}
}

func (e *env) keyslotRm(ctx context.Context, arg string, slot int, present keyInput, last, force bool) error {
	err := e.withSlots(ctx, arg, "rm", true, func(ctx context.Context, c keyslot.Container, k *keyslot.Keyring) error {
		h, err := c.Header()
		if err != nil {
			return err
		}
		if _, there := h.Keyslots[slot]; there && len(h.Keyslots) == 1 && last {
			question := fmt.Sprintf("Slot %d is the last one: nothing will ever open %s again, and all data on it is lost. Destroy it?", slot, arg)
			retry := fmt.Sprintf("voluks keyslot rm --last-slot --force %s %d", shellQuote(arg), slot)
			if err := e.confirm(ctx, force, question, retry); err != nil {
				return err
			}
			return keyslot.RemoveKey(ctx, c, slot, nil, true)
		}
		if !keyslot.Removable(h, slot) {
			return keyslot.RemoveKey(ctx, c, slot, nil, false) // it says why
		}
		auth, err := e.authorize(ctx, c, k, present, arg, slot)
		if err != nil {
			if errors.Is(err, luks.ErrWrongKey) {
				err = fmt.Errorf("%w: %w", keyslot.ErrUntested, err)
			}
			return err
		}
		defer auth.Key.Wipe()
		e.progress("proving slot %d twice, and destroying slot %d", auth.Slot, slot)
		return keyslot.RemoveKey(ctx, c, slot, &auth, false)
	})
	if err != nil {
		return err
	}
	return e.print(map[string]any{"device": arg, "removed": slot}, func(w io.Writer) { fmt.Fprintf(w, "destroyed slot %d of %s\n", slot, arg) })
}
