// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/voluks/voluks/internal/volume"
)

func bootCrypttabCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:      "crypttab",
		Usage:     "print the line with which systemd opens an adopted device at boot",
		ArgsUsage: "NAME",
		Description: `Prints a line for /etc/crypttab. systemd-cryptsetup opens the device with it and asks the key
socket of voluks for the key, at each boot. The device is then /dev/mapper/NAME; what is to be
mounted from it goes into /etc/fstab as ever.

The line says "headless": when no key comes the device stays closed, and nobody is asked.

   voluks keyslot adopt --name data /dev/sdb1
   voluks boot crypttab data >>/etc/crypttab`,
		Flags: []cli.Flag{&cli.BoolFlag{Name: "nofail", Usage: "let the boot go on without it", DisableDefaultText: true}},
		Action: func(c *cli.Context) error {
			args, err := arguments(c, "NAME")
			if err != nil {
				return err
			}
			return e.bootCrypttab(args[0], c.Bool("nofail"))
		},
	}
}

func (e *env) bootCrypttab(name string, nofail bool) error {
	if err := volume.CheckName(name); err != nil {
		return &usageError{"voluks boot crypttab", err.Error()}
	}
	cfg, err := e.loadConfig()
	if err != nil {
		return err
	}
	d, err := e.adopted(name)
	if errors.Is(err, fs.ErrNotExist) {
		return &volume.Error{Code: volume.CodeNotFound, Op: "crypttab", Volume: name,
			Err: errors.New("no device was adopted by this name: voluks keyslot adopt --name " + name + " DEVICE")}
	}
	if err != nil {
		return err
	}
	options := []string{"luks", "headless"}
	if overNetwork(cfg) {
		options = append(options, "_netdev")
	}
	if nofail {
		options = append(options, "nofail")
	}
	line := fmt.Sprintf("%s UUID=%s %s %s", d.Name, d.UUID, e.keySocket(), strings.Join(options, ","))
	return e.print(map[string]string{"line": line}, func(w io.Writer) { fmt.Fprintln(w, line) })
}
