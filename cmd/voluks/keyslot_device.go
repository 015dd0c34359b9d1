// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/internal/volume"
	"github.com/voluks/voluks/keyslot"
)

// A slotUser works on the slots of a container, with the keys of this node as far as it has any.
type slotUser func(ctx context.Context, c keyslot.Container, k *keyslot.Keyring) error

// withSlots lets use work on the container that arg names. Of a volume that is done under its lock and by its one door. A change is followed by what
// belongs to one: a new backup of the header, and the end of older ones.
func (e *env) withSlots(ctx context.Context, arg, op string, change bool, use slotUser) error {
	if err := sys.Harden(); err != nil {
		return err
	}
	t, err := e.target(ctx, arg)
	switch {
	case err != nil:
		return err
	case t.volume != "":
		m := e.manager(e.quiet(), volume.Defaults{})
		f := func(c keyslot.Container, k *keyslot.Keyring) error {
			return deviceError(op, arg, use(ctx, c, k))
		}
		if !change {
			return m.UseSlots(ctx, t.volume, f)
		}
		warnings, err := m.ChangeSlots(ctx, t.volume, f)
		for _, w := range warnings {
			e.warn("%s: %s", arg, w)
		}
		return err
	case t.device == nil:
		return &usageError{"voluks keyslot " + op, arg + " is an adopted device: name its path, such as /dev/disk/by-uuid/" + t.uuid}
	case t.err != nil:
		return deviceError(op, arg, t.err)
	}
	slots, err := keyslot.State(t.header)
	if err != nil && change {
		return deviceError(op, arg, err)
	}
	_, k, err := e.backupStore()
	if err != nil {
		return err
	}
	if err := use(ctx, t.device, k); err != nil || !change {
		return deviceError(op, arg, err)
	}
	e.renewBackup(k, arg, t.uuid, slots.Managed())
	return nil
}

// progress tells a person what takes its seconds.
func (e *env) progress(format string, args ...any) {
	if out, ok := e.stderr.(*os.File); ok && !e.json && isTerminal(out) {
		fmt.Fprintf(e.stderr, format+" ...\n", args...)
	}
}

// changedResult is what became of a slot.
type changedResult struct {
	Device string `json:"device"`
	*keyslot.Changed
}

// replaceKey is "keyslot rotate" of a device: a key that somebody typed or keeps in a file gets a successor.
func (e *env) replaceKey(ctx context.Context, device string, present, next keyInput) error {
	var done *keyslot.Changed
	err := e.withSlots(ctx, device, "rotate", true, func(ctx context.Context, c keyslot.Container, _ *keyslot.Keyring) error {
		// Whose key shall go must be said: that of this node is no passphrase.
		auth, err := e.authorize(ctx, c, &keyslot.Keyring{}, present, device, -1)
		if err != nil {
			return err
		}
		defer auth.Key.Wipe()
		h, err := c.Header()
		if err != nil {
			return err
		}
		old := h.Keyslots[auth.Slot].KDF
		key, kdf, err := e.readNew(ctx, next, device, &old)
		if err != nil {
			return err
		}
		defer key.Wipe()
		e.progress("adding a slot, proving it twice, and destroying slot %d", auth.Slot)
		done, err = keyslot.ReplaceKey(ctx, c, auth, key, kdf)
		return err
	})
	if err != nil {
		return err
	}
	return e.print(changedResult{device, done}, func(w io.Writer) {
		fmt.Fprintf(w, "rotated the key of %s: slot %d -> %d, proven by %s (%s)\n", device, done.OldSlot, done.NewSlot, strings.Join(done.ProvedBy, " and "), done.NewKDF)
		if strings.HasPrefix(done.OldKDF, "pbkdf2") && !strings.HasPrefix(done.NewKDF, "pbkdf2") {
			e.warn("slot %d had %s; a boot loader such as GRUB may not be able to use %s", done.OldSlot, done.OldKDF, done.NewKDF)
		}
	})
}

// devices are the arguments of "keyslot rotate" that are paths; the command is about these or about volumes.
func devices(c *cli.Context) ([]string, error) {
	args := c.Args().Slice()
	n := 0
	for _, arg := range args {
		if isPath(arg) {
			n++
		}
	}
	present := slices.ContainsFunc(append(presentFlags(), newFlags()...), func(f cli.Flag) bool { return c.IsSet(f.Names()[0]) })
	bulk := slices.ContainsFunc(c.LocalFlagNames(), func(name string) bool {
		return slices.Contains([]string{"all", "parallel", "older-than", "role", "dry-run"}, name)
	})
	switch {
	case n == 0 && !present:
		return nil, nil
	case !present && c.IsSet("role") && c.String("role") == keyslot.RoleAgent:
		return nil, nil // the node's own slot there
	case n == 0:
		return nil, &usageError{c.Command.HelpName, "a key is given for the rotation of one device, named by its path; the keys of volumes are voluks's own"}
	case len(args) > 1:
		return nil, &usageError{c.Command.HelpName, "name one device, or volumes: each device has passphrases of its own"}
	case bulk:
		return nil, &usageError{c.Command.HelpName, "--all, --parallel, --older-than, --role and --dry-run are for keys of voluks: --role agent means its slot on that device"}
	}
	return args, nil
}

// unlockSlot says which slot a key opens, by both implementations.
func (e *env) unlockSlot(ctx context.Context, arg string, present keyInput) error {
	slot := -1
	err := e.withSlots(ctx, arg, "test", false, func(ctx context.Context, c keyslot.Container, k *keyslot.Keyring) error {
		auth, err := e.authorize(ctx, c, k, present, arg, -1)
		if err != nil {
			return err
		}
		defer auth.Key.Wipe()
		slot = auth.Slot
		return keyslot.Prove(c, auth.Slot, auth.Key)
	})
	if err != nil {
		return err
	}
	return e.print(map[string]any{"device": arg, "slot": slot}, func(w io.Writer) {
		fmt.Fprintf(w, "opens slot %d of %s, by libcryptsetup and by luks.go\n", slot, arg)
	})
}

func keyslotTestCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:      "test",
		Usage:     "see whether a key opens a slot",
		ArgsUsage: "NAME|DEVICE",
		Description: `Tries a key on the slots of a volume or of any LUKS2 device, with two
independent implementations. Without a key it asks the key provider for the
one of this node, if the device has a slot for it, and else for a passphrase.
Nothing is changed, and nothing is opened.

   voluks keyslot test db
   voluks keyslot test --slot 0 /dev/sdb1`,
		Flags: presentFlags(),
		Action: func(c *cli.Context) error {
			args, err := arguments(c, "NAME|DEVICE")
			if err != nil {
				return err
			}
			present, err := presentInput(c)
			if err != nil {
				return err
			}
			return e.unlockSlot(c.Context, args[0], present)
		},
	}
}

// deviceSlot is one slot of any device, for a list.
type deviceSlot struct {
	Slot       int    `json:"slot"`
	Kind       string `json:"kind"` // role of ours, or what made it
	Managed    bool   `json:"managed"`
	Generation uint64 `json:"generation,omitempty"`
	KDF        string `json:"kdf"`
	Priority   string `json:"priority,omitempty"`
}

func (e *env) deviceSlots(ctx context.Context, device string) error {
	t, err := e.target(ctx, device)
	if err == nil {
		err = deviceError("read", device, t.err)
	}
	if err != nil {
		return err
	}
	slots, err := keyslot.State(t.header)
	if err != nil {
		e.warn("%s: %v", device, err)
	}
	list := []deviceSlot{}
	for _, s := range slots.Slots {
		slot := t.header.Keyslots[s.Number]
		d := deviceSlot{Slot: s.Number, Kind: s.Kind, Managed: s.Managed, Generation: s.Generation, KDF: keyslot.Cost(slot.KDF)}
		if s.Managed {
			d.Kind = s.Role
		}
		if slot.Priority != nil {
			d.Priority = map[int]string{0: "ignored", 1: "normal", 2: "tried first"}[*slot.Priority]
		}
		list = append(list, d)
	}
	slices.SortFunc(list, func(a, b deviceSlot) int { return a.Slot - b.Slot })
	return e.print(map[string]any{"device": device, "uuid": t.uuid, "slots": list}, func(w io.Writer) {
		var rows [][]string
		for _, d := range list {
			rows = append(rows, []string{fmt.Sprint(d.Slot), d.Kind, d.KDF, d.Priority})
		}
		table(w, []string{"SLOT", "FOR", "KEY DERIVATION", "PRIORITY"}, rows)
	})
}
