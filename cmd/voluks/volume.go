// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/urfave/cli/v2"
)

func volumeCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:  "volume",
		Usage: "make, list, mount, grow and remove encrypted volumes",
		Description: `The same volumes that Docker sees. All of this works without the agent.

The options of a volume are fixed when it is made, here or by Docker
(docker volume create -d voluks -o NAME=VALUE, or driver_opts in a Compose
file). To change one, make another volume and copy the data.
"voluks volume create --help" lists them.`,
		Subcommands: []*cli.Command{
			volumeCreateCommand(e),
			volumeLsCommand(e),
			volumeInspectCommand(e),
			volumeMountCommand(e),
			volumeUmountCommand(e),
			volumeGrowCommand(e),
			volumeTrimCommand(e),
			volumeMigrateCommand(e),
			volumeImportCommand(e),
			volumeRmCommand(e),
			volumeUndeleteCommand(e),
			volumeEraseCommand(e),
		},
	}
}
