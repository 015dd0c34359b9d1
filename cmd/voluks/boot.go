// SPDX-License-Identifier: Apache-2.0

package main

import (
	"path/filepath"

	"github.com/urfave/cli/v2"

	"github.com/voluks/voluks/internal/config"
	"github.com/voluks/voluks/internal/volume"
	"github.com/voluks/voluks/systemd"
)

func bootCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:  "boot",
		Usage: "volumes that are opened at boot, for services of the host",
		Description: `A service of the host that keeps its data on an encrypted volume waits for it at boot with one
line in its unit, RequiresMountsFor=PATH. Volumes of containers need none of this: Docker asks
for them.`,
		Subcommands: []*cli.Command{
			bootEnableCommand(e), bootDisableCommand(e), bootLsCommand(e), bootCrypttabCommand(e),
			// What the units run.
			bootOpenCommand(e), bootReleaseCommand(e), bootMountCommand(e), bootWaitCommand(e), bootCloseCommand(e), bootKeyCommand(e),
		},
	}
}

// bootDir is where units of boot mounts are written.
func (e *env) bootDir() string { return filepath.Join("/", e.root, unitDir) }

// bootHolder is for whom a volume is open that a unit of the host opened.
func bootHolder(name string) volume.Holder {
	return volume.Holder{ID: systemd.VolumeUnit(name), Kind: volume.HolderSystemd}
}

// overNetwork tells whether a provider's key comes from elsewhere, so that it cannot be had before there is a network. One that voluks
// does not know is taken to be such.
func overNetwork(cfg config.Config) bool {
	switch cfg.KEK.Provider {
	case "file", "keydir", "credential":
		return false
	}
	return true
}
