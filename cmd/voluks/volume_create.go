// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/voluks/voluks/internal/config"
	"github.com/voluks/voluks/internal/volume"
)

func volumeCreateCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:      "create",
		Usage:     "make a volume",
		ArgsUsage: "NAME",
		Description: `Makes a LUKS2 container with a file system in it. If the volume is there
already with the same options this is success too; with other options it is
an error that names the difference.

Options:
   size            of the file system; the disk needs 16 MiB more
   fs              ext4, xfs, btrfs
   uid, gid, mode  of the directory that containers get
   mkfs, mount     options of the file system, as mkfs and mount take them
   alloc           full: the disk's space is taken now; sparse: as it fills
   discard         give freed space back to what is below (an image: with
                   alloc=sparse)
   ephemeral       for caches and scratch: the key exists in the kernel alone,
                   and key and content end when nobody holds the volume
   backing         image: a file under /var/lib/voluks; device: a block
                   device; lvm: a logical volume
   device          for backing=device: its stable name, under /dev/disk/by-id
   vg, pool        for backing=lvm: the volume group, and a thin pool in it

Devices and volume groups are only those that the configuration lists under
[backing]. A device that holds anything is refused, unless it is named by its
serial number (or WWN) with --wipe-serial, which destroys what is on it.

   voluks volume create --size 10G db
   voluks volume create --size 50G --fs xfs --opt uid=999 pgdata
   voluks volume create --backing lvm --opt vg=vg0 --size 100G wal
   voluks volume create --backing device --opt device=/dev/disk/by-id/ata-X db
   docker volume create -d voluks -o size=50G -o fs=xfs -o uid=999 pgdata`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "size", Usage: "`SIZE` of the file system, such as 512M or 10G"},
			&cli.StringFlag{Name: "fs", Usage: "`TYPE` of the file system: ext4, xfs or btrfs"},
			&cli.StringFlag{Name: "backing", Usage: "`KIND` of place for the encrypted data: image, device or lvm"},
			&cli.StringFlag{Name: "wipe-serial", Usage: "destroy what is on the device, which has this `SERIAL` number"},
			&cli.StringSliceFlag{Name: "opt", Aliases: []string{"o"}, Usage: "`NAME=VALUE` of any option, as for Docker; repeatable"},
		},
		Action: func(c *cli.Context) error {
			args, err := arguments(c, "NAME")
			if err != nil {
				return err
			}
			options, err := optionMap(c)
			if err != nil {
				return err
			}
			return e.volumeCreate(c.Context, args[0], options, c.String("wipe-serial"))
		},
	}
}

// optionMap collects the options of a volume, each of which may be given once.
func optionMap(c *cli.Context) (map[string]string, error) {
	usage := func(format string, args ...any) error {
		return &usageError{command: c.Command.HelpName, text: fmt.Sprintf(format, args...)}
	}
	options := map[string]string{}
	for _, name := range []string{"size", "fs", "backing"} {
		if c.IsSet(name) {
			options[name] = c.String(name)
		}
	}
	for _, opt := range c.StringSlice("opt") {
		name, value, _ := strings.Cut(opt, "=")
		if _, twice := options[name]; twice {
			return nil, usage("option %q is there twice", name)
		}
		options[name] = value
	}
	return options, nil
}

type createResult struct {
	Created bool        `json:"created"` // false: it was there with the same options
	Volume  volume.Info `json:"volume"`
}

func (e *env) volumeCreate(ctx context.Context, name string, options map[string]string, wipe string) error {
	cfg, err := e.loadConfig()
	if err != nil {
		return err
	}
	spec, err := volume.ParseOptions(name, options, defaults(cfg))
	if err != nil {
		return err
	}
	ctx, cancel, m, err := e.operator(ctx, defaults(cfg))
	if err != nil {
		return err
	}
	defer cancel()
	info, created, err := m.CreateOver(ctx, spec, wipe)
	if err != nil {
		return err
	}
	return e.print(createResult{created, info}, func(w io.Writer) {
		if !created {
			fmt.Fprintf(w, "%s is there already, with these options\n", name)
			return
		}
		fmt.Fprintf(w, "created %s: %s, %s, %s\n", name, config.FormatSize(info.Size), info.FS, info.Cipher)
	})
}
