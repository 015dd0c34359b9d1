// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/internal/volume"
)

// defaultHolder is whom the command line mounts for unless it says.
const defaultHolder = "cli"

func holderFlag() *cli.StringFlag {
	return &cli.StringFlag{Name: "holder", Value: defaultHolder, Usage: "`ID` of the holder"}
}

func volumeMountCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:      "mount",
		Usage:     "open and mount a volume, and print the path of its data",
		ArgsUsage: "NAME",
		Description: `Unlocks and mounts the volume if it is not mounted, records a holder for
whom it stays mounted, and prints the directory that containers get too.
The path is printed only after proof that it lies on the volume's own
encrypted device.

With --recovery-identity it is opened by its recovery slot alone, and no key
of this node is asked for: for a node whose key is lost.

   cd "$(voluks volume mount db)"
   voluks volume umount db
   voluks volume mount --recovery-identity /run/identity db`,
		Flags: []cli.Flag{
			holderFlag(),
			recoveryIdentityFlag(),
			&cli.BoolFlag{Name: "accept-older-header", Usage: "open it with an older header, and rotate its keys", DisableDefaultText: true},
		},
		Action: func(c *cli.Context) error {
			args, err := arguments(c, "NAME")
			if err != nil {
				return err
			}
			return e.volumeMount(c.Context, args[0], c.String("holder"), c.String("recovery-identity"), c.Bool("accept-older-header"))
		},
	}
}

func (e *env) volumeMount(ctx context.Context, name, holder, identity string, older bool) error {
	id, err := e.borrowFile(ctx, identity)
	if err != nil {
		return err
	}
	defer id.text.Wipe()
	ctx, cancel, m, err := e.operator(ctx, volume.Defaults{}, id.identities...)
	if err != nil {
		return err
	}
	defer cancel()
	if older {
		receipt, err := m.AcceptOlderHeader(ctx, name)
		if err != nil {
			return err
		}
		for _, w := range receipt.Warnings {
			e.warn("%s: %s", name, w)
		}
	}
	path, err := m.Mount(ctx, name, caller(holder))
	if err != nil {
		return err
	}
	return e.print(map[string]string{"name": name, "path": path, "holder": holder}, func(w io.Writer) { fmt.Fprintln(w, path) })
}

// caller is the holder, with the process that called this one, for a person who wonders later.
func caller(id string) volume.Holder {
	h := volume.Holder{ID: id, Kind: volume.HolderCLI}
	pid := os.Getppid()
	start, err := sys.ProcessStart(pid)
	if err != nil {
		return h // it is gone already
	}
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return h
	}
	h.PID, h.Start, h.Comm = pid, start, strings.TrimSpace(string(comm))
	return h
}

func volumeUmountCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:      "umount",
		Usage:     "release a volume, and close it after the last holder",
		ArgsUsage: "NAME",
		Description: `Takes back one "volume mount". Docker's holders stay, so the volume stays
mounted as long as a container has it.

--force forgets all holders, Docker's too, in case one was left behind.
What is really in use stays open even then: the kernel says so, and the
error tells who it is.

   voluks volume umount db
   voluks volume umount --holder backup db`,
		Flags: []cli.Flag{
			holderFlag(),
			&cli.BoolFlag{Name: "force", Usage: "forget all holders", DisableDefaultText: true},
		},
		Action: func(c *cli.Context) error {
			args, err := arguments(c, "NAME")
			if err != nil {
				return err
			}
			if c.Bool("force") && c.IsSet("holder") {
				return &usageError{command: c.Command.HelpName, text: "--force forgets all holders; leave --holder out"}
			}
			return e.volumeUmount(c.Context, args[0], c.String("holder"), c.Bool("force"))
		},
	}
}

func (e *env) volumeUmount(ctx context.Context, name, holder string, force bool) error {
	ctx, cancel, m, err := e.operator(ctx, volume.Defaults{})
	if err != nil {
		return err
	}
	defer cancel()
	info, err := m.Inspect(ctx, name)
	if err != nil {
		return err
	}
	ids := []string{holder}
	if force {
		for _, h := range info.Holders {
			ids = append(ids, h.ID)
		}
	}
	for _, id := range ids {
		var held *volume.HeldError
		err = m.Unmount(ctx, name, id)
		if err != nil && !(errors.As(err, &held) && held.Closing) {
			return err
		}
	}
	if err != nil {
		return err
	}
	info, err = m.Inspect(ctx, name)
	if err != nil {
		return err
	}
	return e.print(info, func(w io.Writer) {
		if info.State != volume.StateMounted {
			fmt.Fprintf(w, "unmounted %s\n", name)
			return
		}
		fmt.Fprintf(w, "released %s; it stays mounted for:\n", name)
		for _, h := range info.Holders {
			fmt.Fprintf(w, "  %s\n", h)
		}
	})
}
