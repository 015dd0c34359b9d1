// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/voluks/voluks/internal/volume"
)

func keyslotCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:  "keyslot",
		Usage: "the keys that open a volume",
		Description: `Each volume has two key slots of voluks: agent, which this node opens
through its key provider, and recovery, which only the offline recovery
identity opens. Slots of others (a passphrase, systemd, clevis) are shown,
and touched only when one is named.

A device or an image is named by a path with a slash in it, ./image for
example; any other word is the name of a volume.`,
		Subcommands: []*cli.Command{keyslotLsCommand(e), keyslotRotateCommand(e), keyslotAddCommand(e), keyslotRmCommand(e), keyslotTestCommand(e), keyslotAdoptCommand(e)},
	}
}

func keyslotLsCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:      "ls",
		Usage:     "list the key slots of a volume or LUKS2 device",
		ArgsUsage: "NAME|DEVICE",
		Description: `Lists the key slots of a volume as of the last operation that read its
header: whom they are for, which key wraps them, and how old they are. Of a
device or image it reads the header now.

   voluks keyslot ls db
   voluks keyslot ls /dev/sdb1`,
		Action: func(c *cli.Context) error {
			args, err := arguments(c, "NAME|DEVICE")
			if err != nil {
				return err
			}
			if isPath(args[0]) {
				return e.deviceSlots(c.Context, args[0])
			}
			return e.keyslotLs(c.Context, args[0])
		},
	}
}

type slotsResult struct {
	Name  string            `json:"name"`
	UUID  string            `json:"uuid"`
	Slots []volume.SlotInfo `json:"slots"`
}

func (e *env) keyslotLs(ctx context.Context, name string) error {
	info, err := e.manager(e.quiet(), volume.Defaults{}).Inspect(ctx, name)
	if err != nil {
		return err
	}
	result := slotsResult{info.Name, info.UUID, append([]volume.SlotInfo{}, info.Slots...)}
	return e.print(result, func(w io.Writer) {
		now := time.Now()
		var rows [][]string
		for _, s := range info.Slots {
			generation, old := "", ""
			if s.Generation > 0 {
				generation = fmt.Sprint(s.Generation)
			}
			if !s.Created.IsZero() {
				old = age(now.Sub(s.Created))
			}
			by := s.KEK
			if len(s.Recipients) > 0 {
				by = "age:" + strings.Join(s.Recipients, ",")
			}
			rows = append(rows, []string{fmt.Sprint(s.Number), s.Role, generation, by, old})
		}
		table(w, []string{"SLOT", "ROLE", "GENERATION", "WRAPPED BY", "KEY AGE"}, rows)
	})
}
